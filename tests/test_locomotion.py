"""Tests of locomotion: batches against single gymnasium environments, agents, local datasets."""

from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
import torch

from cepnb.datasets.agents import (
    Agent,
    collect_locomotion,
    episode_returns,
    read_history,
    roll,
    shipped_agents,
)
from cepnb.datasets.hdf5 import load_hdf5
from cepnb.datasets.local import local_dataset
from cepnb.datasets.registry import QUALITIES
from cepnb.datasets.sac import SETTINGS, agent_of, make_history
from cepnb.envs.d4rl_package import normalised_score, reference_scores
from cepnb.envs.locomotion import LocomotionEnv
from cepnb.envs.maze import MazeEnv, PointMass
from cepnb.envs.registry import ENVIRONMENTS, TASKS, episodes_of, family_of
from cepnb.errors import CepnbError
from cepnb.qgpo.evaluation import PolicyBatch, evaluate, rollout
from cepnb.qgpo.settings import qgpo_settings
from cepnb.qgpo.transitions import Scaling, prepare
from cepnb.storage.files import write_json
from cepnb.storage.tensors import save_tensors

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", TASKS)
def test_batch_equals_single_environments(name: str) -> None:
    env, random = LocomotionEnv(name, 2, seed=3, copies=2), np.random.default_rng(0)
    start = env.reset()
    assert np.array_equal(start[:2], start[2:]) and not np.array_equal(start[0], start[1])
    assert np.array_equal(start, LocomotionEnv(name, 2, seed=3, copies=2).reset())
    singles = [gymnasium.make(TASKS[name]).unwrapped for _ in range(4)]
    for single, seed in zip(
        singles, np.random.SeedSequence(3).generate_state(2).tolist() * 2, strict=True
    ):
        single.reset(seed=seed)
    ended = np.zeros(4, dtype=bool)
    for _ in range(60):
        actions = random.uniform(-1.2, 1.2, (4, env.action_dim))  # some are clipped
        observations, rewards, terminated, truncated = env.step(actions)
        for row, single in enumerate(singles):
            if ended[row]:
                assert rewards[row] == 0 and terminated[row]
                continue
            expected = single.step(np.clip(actions[row], -1, 1))
            assert np.array_equal(observations[row], expected[0]) and rewards[row] == expected[1]
            assert terminated[row] == expected[2] and not truncated[row]
        ended |= terminated
    assert ended.any() == (name != "halfcheetah")  # random actions make the other two fall


def test_creation_prints_and_writes_nothing(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """MuJoCo would warn of halfcheetah's model on standard error and in a file."""
    monkeypatch.chdir(tmp_path)
    LocomotionEnv("halfcheetah", 2, 0)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_names_and_dimensions() -> None:
    families = ["maze2d"] * 3 + ["locomotion"] * 3 + ["antmaze"] * 6
    assert [family_of(name) for name in ENVIRONMENTS] == families
    for name, family in zip(ENVIRONMENTS, families, strict=True):
        own_settings = qgpo_settings("ci", name) != qgpo_settings("ci", family)
        assert own_settings == (name in ("maze2d-medium", "maze2d-large"))
    environments = [episodes_of(name, 1, 0) for name in ENVIRONMENTS]
    assert [(e.state_dim, e.action_dim, e.max_steps) for e in environments] == [
        (4, 2, 300),
        (4, 2, 600),
        (4, 2, 800),
        (11, 3, 1000),
        (17, 6, 1000),
        (17, 6, 1000),
        *[(29, 8, 700)] * 2,
        *[(29, 8, 1000)] * 4,
    ]
    with pytest.raises(
        CepnbError,
        match="environment 'ant': use one of maze2d-umaze, .*, walker2d, .*, antmaze-large-diverse",
    ):
        episodes_of("ant", 1, 0)
    with pytest.raises(CepnbError, match="^episodes 0: use at least 1"):
        LocomotionEnv("hopper", 0, 0)
    for name in ("local/hopper", "local/hopper-medium-replay"):
        assert reference_scores(name) == reference_scores("hopper-expert-v2")


def test_bad_actions_and_failing_engine_raise_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    env = LocomotionEnv("hopper", 2, 0)
    env.reset()
    with pytest.raises(CepnbError, match="^hopper: actions are not finite; check the policy$"):
        env.step(np.array([[0.0, np.nan, 0.0], [0.0, 0.0, 0.0]]))
    with pytest.raises(
        CepnbError, match=r"^hopper: actions have shape \(3, 3\); the environment takes \(2, 3\)$"
    ):
        env.step(np.zeros((3, 3)))

    def broken(action: np.ndarray) -> None:
        raise RuntimeError("unstable")

    monkeypatch.setattr(env._simulators[1], "step", broken)
    with pytest.raises(CepnbError, match=r"^hopper: step 1 failed \(RuntimeError: unstable\)"):
        env.step(np.zeros((2, 3)))


def test_rollout_samples_no_actions_for_ended_episodes_and_terminates() -> None:
    scaling, batches = Scaling(torch.zeros(11), torch.ones(11)), []

    def policy_of(rows: torch.Tensor):
        batches.append(len(rows))
        return lambda states, generator: torch.full((len(states), 3), 0.8)

    returns, path = rollout(
        policy_of, LocomotionEnv("hopper", 3, 0), scaling, torch.Generator(), progress=False
    )
    assert (
        batches[0] == 3
        and batches == sorted(batches, reverse=True)
        and len(path) == len(batches) < 200
    )  # the hopper falls soon
    single = gymnasium.make("Hopper-v4").unwrapped
    single.reset(seed=int(np.random.SeedSequence(0).generate_state(3)[1]))
    total, done = 0.0, False
    while not done:
        _, reward, done, *_ = single.step(np.full(3, np.float32(0.8), dtype=float))
        total += reward
    assert returns[1].item() == pytest.approx(total, rel=1e-5)  # float32 sum

    class Endless(LocomotionEnv):
        max_steps = 5

        def step(self, actions):
            observations, rewards, *_ = super().step(actions)
            return observations, rewards, np.zeros(3, dtype=bool), np.zeros(3, dtype=bool)

    with pytest.raises(
        CepnbError, match="^hopper: 3 episodes run after step 5; truncate them in its `step`"
    ):
        rollout(policy_of, Endless("hopper", 3, 0), scaling, torch.Generator(), progress=False)
    bad = lambda rows: lambda states, generator: torch.full((len(states), 3), torch.nan)
    with pytest.raises(CepnbError, match="^hopper: actions are not finite"):
        rollout(bad, LocomotionEnv("hopper", 2, 0), scaling, torch.Generator(), progress=False)


def test_policy_that_is_not_finite_is_named_and_others_are_scored() -> None:
    scaling = Scaling(torch.zeros(11), torch.ones(11))
    policies = [("behaviour", 0.0), ("cep", 1.0), ("cep", 3.0)]

    def policy_at(scales: torch.Tensor):
        return lambda states, generator: torch.where(
            scales[:, None] == 3, torch.nan, scales[:, None].expand(-1, 3) / 10
        )

    def scored(policies: list[tuple[str, float]]) -> tuple[list[dict], list[str]]:
        batches, generator = [PolicyBatch(policies, policy_at)], torch.Generator()
        return evaluate(batches, "hopper", 2, scaling, 0, generator, progress=False)

    records, faults = scored(policies)
    assert records == scored(policies[:2])[0]
    assert faults == ["cep at s = 3: actions that are not finite"]


@pytest.mark.parametrize("moment", ["reset", "step"])
def test_failing_engine_is_named(monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    for env, part in ((LocomotionEnv("hopper", 1, 0), None), (MazeEnv("umaze", 1, 0), PointMass)):

        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("broken\nthing")

        name = "set_state" if moment == "reset" and part else moment
        monkeypatch.setattr(part or type(env._simulators[0]), name, fail)
        with pytest.raises(
            CepnbError, match=f"^{env.name}: {moment}( 1)? failed .RuntimeError: broken thing.$"
        ):
            env.reset()
            env.step(np.zeros((1, env.action_dim)))


def test_agent_is_the_squashed_gaussian_of_its_weights() -> None:
    """Compare median and quantiles of arctanh of sampled actions with torch's forward pass."""
    g = torch.Generator().manual_seed(0)
    shapes = [(5, 8), (8,), (8, 8), (8,), (8, 2), (2,), (8, 2), (2,)]
    weights = [torch.randn(shape, generator=g, dtype=torch.float64) / 2 for shape in shapes]
    state = torch.randn(5, generator=g, dtype=torch.float64)
    h = torch.relu(torch.relu(state @ weights[0] + weights[1]) @ weights[2] + weights[3])
    mean, deviation = h @ weights[4] + weights[5], (h @ weights[6] + weights[7]).clamp(-20, 2).exp()
    actions = Agent(tuple(w.numpy() for w in weights))(
        np.repeat(state.numpy()[None], 20_000, 0), np.random.default_rng(0)
    )
    before = np.arctanh(np.clip(actions, -1 + 1e-12, 1 - 1e-12))
    inside = np.abs(before) < 10  # float64 tanh saturates beyond
    assert inside.mean() > 0.99
    np.testing.assert_allclose(
        np.median(before, 0), mean, atol=4 * deviation.max().item() / 20_000**0.5
    )
    low, high = np.quantile(before, [0.1587, 0.8413], axis=0)
    np.testing.assert_allclose((high - low) / 2, deviation, rtol=0.05)


@pytest.mark.parametrize("name", TASKS)
def test_shipped_agents_match_their_recipe(name: str) -> None:
    history = shipped_agents(name)
    expert = reference_scores(f"local/{name}")[1]
    before = [steps for steps in history.agents if steps <= history.medium]
    assert 5 <= len(before) <= 20 and max(history.agents) == history.expert > history.medium
    returns = history.recipe["returns"]
    assert (
        returns[str(history.medium)] >= expert / 3
        and returns[str(history.expert)] > 1.5 * returns[str(history.medium)]
    )
    found = episode_returns(name, history.agents[history.medium], 3, seed=1)
    spread = max(found.std(), 0.1 * found.mean())
    assert abs(found.mean() - returns[str(history.medium)]) < 4 * spread


def test_datasets_by_recipe() -> None:
    for quality in QUALITIES:
        path = local_dataset(f"local/halfcheetah-{quality}", 1_200, 0)
        with h5py.File(path) as file:
            assert (
                "not the published D4RL file" in file.attrs["origin"]
                and '"algorithm"' in file.attrs["agents"]
            )
            arrays = {key: file[key][()] for key in file}
        assert set(arrays) == {
            "observations",
            "actions",
            "rewards",
            "next_observations",
            "terminals",
            "timeouts",
        }
        assert (
            all(len(value) == 1_200 for value in arrays.values())
            and np.abs(arrays["actions"]).max() <= 1
        )
        ends = arrays["terminals"] | arrays["timeouts"]
        assert ends[-1] and not (arrays["terminals"] & arrays["timeouts"]).any()
        inner = ~ends[:-1]
        assert np.array_equal(
            arrays["next_observations"][:-1][inner], arrays["observations"][1:][inner]
        )
        data = load_hdf5(path)
        assert torch.equal(
            data.next_observations[~data.terminals],
            torch.from_numpy(arrays["next_observations"][:-1][inner]),
        )
        tuned, _ = prepare(data, "return_range")
        span = data.episode_returns.max() - data.episode_returns.min()
        torch.testing.assert_close(tuned.rewards, data.rewards * 1000 / span)
        assert torch.equal(prepare(data, "minus_one")[0].rewards, data.rewards - 1)
    again = collect_locomotion("halfcheetah", QUALITIES[-1], 1_200, 0)
    assert all(np.array_equal(again[key], arrays[key]) for key in arrays)
    other = roll("halfcheetah", shipped_agents("halfcheetah").of(QUALITIES[-1])[0], 100, 7)
    assert not np.array_equal(other["observations"], again["observations"][:100])


def test_training_folder_of_another_seed_or_length_is_rejected(tmp_path: Path) -> None:
    training = tmp_path / "hopper-training"
    write_json(
        training / "settings.json",
        {"environment": "hopper", "steps": 2_000, "seed": 0, "settings": SETTINGS},
    )
    write_json(training / "ended.json", {})
    for seed, steps, difference in (
        (7, 2_000, "seed 0, now 7"),
        (0, 9_000, "steps 2000, now 9000"),
    ):
        with pytest.raises(
            CepnbError,
            match=f"hopper-training/settings.json: made with {difference}; use another folder",
        ):
            make_history("hopper", steps, seed, tmp_path)
    with pytest.raises(
        CepnbError,
        match="hopper: no agent reaches a return of 1078 in 2000 steps; train for more steps",
    ):
        make_history("hopper", 2_000, 0, tmp_path)


def test_actor_with_normalised_inputs_is_folded_into_plain_layers(tmp_path: Path) -> None:
    """By hand: each linear layer of sbx's actor takes scale (x − mean)/√(var + 0.001) + bias."""
    draw, tensors = torch.Generator().manual_seed(0), {}
    for norm, width in (("BatchRenorm_0", 3), ("BatchRenorm_1", 5), ("BatchRenorm_2", 4)):
        for name in (f"params/{norm}/scale", f"params/{norm}/bias", f"stats/{norm}/mean"):
            tensors[name] = torch.randn(width, generator=draw)
        tensors[f"stats/{norm}/var"] = torch.rand(width, generator=draw)
    for layer, shape in (("0", (3, 5)), ("1", (5, 4)), ("2", (4, 2)), ("3", (4, 2))):
        tensors[f"params/Dense_{layer}/kernel"] = torch.randn(shape, generator=draw)
        tensors[f"params/Dense_{layer}/bias"] = torch.randn(shape[1], generator=draw)
    save_tensors(tmp_path / "actor.safetensors", tensors)

    def layer(x: torch.Tensor, dense: int, norm: int) -> torch.Tensor:
        stats, name = f"stats/BatchRenorm_{norm}", f"params/BatchRenorm_{norm}"
        unit = (x - tensors[f"{stats}/mean"]) / (tensors[f"{stats}/var"] + 0.001).sqrt()
        unit = tensors[f"{name}/scale"] * unit + tensors[f"{name}/bias"]
        return (
            unit @ tensors[f"params/Dense_{dense}/kernel"] + tensors[f"params/Dense_{dense}/bias"]
        )

    states = torch.randn(20, 3, generator=draw)
    h = layer(layer(states, 0, 0).relu(), 1, 1).relu()
    noise = np.random.default_rng(0).standard_normal((20, 2))
    expected = (
        layer(h, 2, 2) + layer(h, 3, 2).clamp(-20, 2).exp() * torch.from_numpy(noise)
    ).tanh()
    actions = agent_of(tmp_path / "actor.safetensors")(
        states.double().numpy(), np.random.default_rng(0)
    )
    np.testing.assert_allclose(actions, expected, rtol=1e-4, atol=1e-4)


def test_file_without_agents(tmp_path) -> None:
    save_tensors(tmp_path / "a.safetensors", {"w": torch.zeros(1)})
    with pytest.raises(
        CepnbError, match="a.safetensors: 'recipe' is missing; use a file of agents"
    ):
        read_history(tmp_path / "a.safetensors")
    with pytest.raises(
        CepnbError, match="environment 'ant': use one of hopper, halfcheetah, walker2d"
    ):
        shipped_agents("ant")


def test_normalised_scores_equal_d4rls() -> None:
    assert normalised_score("local/walker2d", 1.629008) == pytest.approx(0, abs=1e-6)
    assert normalised_score("local/hopper", 3234.3) == pytest.approx(100, abs=1e-3)
