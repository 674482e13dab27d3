"""Trained policies: exported, loaded, called, and better than their behaviour."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cepnb.datasets.registry import load_dataset
from cepnb.diffusion.training import seeded
from cepnb.envs.antmaze import AntMazeEnv
from cepnb.envs.locomotion import LocomotionEnv
from cepnb.errors import CepnbError
from cepnb.qgpo.behaviour import SCHEDULE
from cepnb.qgpo.evaluation import rollout
from cepnb.qgpo.pipeline import Steps, configuration_of
from cepnb.qgpo.policy import behaviour_policy, guided_policy
from cepnb.qgpo.pretrained import TrainedPolicy, export_policy, load_networks, load_policy
from cepnb.qgpo.record import open_run
from cepnb.qgpo.settings import Settings, qgpo_settings
from cepnb.qgpo.transitions import Scaling, prepare
from cepnb.storage.files import read_json, write_json
from cepnb.storage.tensors import load_tensors, save_tensors

TINY = dict(transitions=2_000, behaviour_steps=10, q_steps=10, energy_steps=10, energy_states=50)
GUIDANCE = ("cep", "mse", "dps")


def trained(folder: Path, chosen: Settings, task: str = "maze2d-umaze") -> Steps:
    dataset = load_dataset(f"local/{task}", chosen.transitions, chosen.data_seed)
    run = open_run(folder, configuration_of(dataset, task, chosen, "ci", 3))
    steps = Steps(dataset, chosen, 3, run, progress=False)
    assert steps.networks
    return steps


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Steps:
    chosen = qgpo_settings("ci", guidance=GUIDANCE, **TINY)
    return trained(tmp_path_factory.mktemp("run"), chosen)


@pytest.fixture(scope="module")
def exported(steps: Steps, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "policy.safetensors"
    export_policy(steps.run.folder, path)
    return path


@pytest.mark.parametrize("q_in_energy", [False, True])
@pytest.mark.parametrize("training", ["staged", "joint"])
def test_a_folder_and_its_export_hold_the_networks_of_the_run(
    steps: Steps, tmp_path: Path, training: str, q_in_energy: bool
) -> None:
    if training == "joint" or q_in_energy:
        changes = dict(training=training, q_in_energy=q_in_energy, guidance=GUIDANCE)
        steps = trained(tmp_path / "another", qgpo_settings("ci", **changes, **TINY))
    export_policy(steps.run.folder, tmp_path / "policy.safetensors")
    generator = torch.Generator().manual_seed(0)
    a, s = torch.randn(5, 2, generator=generator), torch.randn(5, 4, generator=generator)
    t = torch.full((5,), 0.3)
    for path in (steps.run.folder, tmp_path / "policy.safetensors"):
        found = load_networks(path)
        assert found.settings == steps.settings and found.seed == 3
        assert torch.equal(found.scaling.mean, steps.scaling.mean)
        assert torch.equal(found.scaling.deviation, steps.scaling.deviation)
        assert tuple(found.energies) == GUIDANCE
        assert torch.equal(found.eps(a, t, s), steps.eps(a, t, s))
        assert torch.equal(found.q(s, a), steps.q(s, a))
        for method in GUIDANCE:
            assert torch.equal(found.energies[method](a, t, s), steps.energy(method)(a, t, s))
        for net in (found.eps, found.q, found.energies["cep"]):
            assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("method", ["behaviour", *GUIDANCE, "best_of_k"])
def test_a_policy_returns_actions_of_the_kind_and_shape_of_its_observations(
    exported: Path, method: str
) -> None:
    observations = np.random.default_rng(0).normal(size=(6, 4))
    actions = load_policy(exported, method)(observations)
    assert actions.shape == (6, 2) and actions.dtype == np.float32
    assert np.isfinite(actions).all() and np.abs(actions).max() <= 1
    assert np.array_equal(actions, load_policy(exported, method)(observations))
    assert not np.array_equal(actions, load_policy(exported, method, seed=1)(observations))
    tensor = load_policy(exported, method)(torch.tensor(observations).reshape(2, 3, 4))
    assert isinstance(tensor, torch.Tensor) and tensor.shape == (2, 3, 2)
    assert torch.equal(tensor.reshape(6, 2), torch.tensor(actions))
    policy = load_policy(exported, method)
    first, second = policy(observations[0]), policy(observations[0])
    assert first.shape == (2,)
    if method != "best_of_k":  # the best action of an untrained model is a corner
        assert not np.array_equal(first, second)


def test_a_policy_takes_every_kind_of_array(exported: Path) -> None:
    observations = np.random.default_rng(0).normal(size=(6, 4))
    expected = load_policy(exported)(observations)
    read_only = observations.copy()
    read_only.setflags(write=False)
    for same in (
        observations.tolist(),
        list(observations),
        read_only,
        observations[::-1][::-1],
        observations.astype(">f8"),
        observations.astype(np.longdouble),
    ):
        assert np.array_equal(load_policy(exported)(same), expected)
    assert load_policy(exported)(np.zeros((0, 4))).shape == (0, 2)
    assert load_policy(exported)(torch.zeros(3, 0, 4)).shape == (3, 0, 2)


def test_a_policy_is_the_policy_of_the_evaluation(steps: Steps, exported: Path) -> None:
    """Observations are scaled inside; the scale defaults to the headline scale."""
    observations = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    networks = load_networks(exported)
    for scale, expected_scale in ((None, steps.settings.headline_scale), (0.0, 0.0), (2.5, 2.5)):
        policy = load_policy(steps.run.folder, scale=scale)
        expected = networks.policy("cep", expected_scale)
        actions = expected(steps.scaling(observations), load_policy(exported)._generator)
        assert torch.equal(policy(observations), actions)


def test_bad_observations_and_arguments_are_refused(exported: Path) -> None:
    policy = load_policy(exported)
    for observations, reason in (
        (np.zeros(5), r"^observations have shape \(5,\); use \(..., 4\)$"),
        (np.zeros(()), r"^observations have shape \(\); use \(..., 4\)$"),
        (np.full((2, 4), np.nan), "^observations are not finite; check the environment$"),
        (np.full((2, 4), 3e38), "^actions are not finite; use a smaller scale"),
        (None, "^observations are no array of numbers|^observations have shape"),
        ("four", "^observations are no array of numbers"),
        ([[1.0, 2.0], [3.0]], "^observations are no array of numbers"),
    ):
        with pytest.raises(CepnbError, match=reason):
            policy(observations)
    methods = "behaviour, cep, mse, dps, best_of_k"
    with pytest.raises(CepnbError, match=f"has no 'exp_mse'; use one of {methods}$"):
        load_policy(exported, "exp_mse")
    with pytest.raises(
        CepnbError, match="^scale -1.0 is no guidance scale; use a finite number, 0 or more$"
    ):
        load_policy(exported, scale=-1.0)


def test_a_damaged_or_unfinished_run_is_named(steps: Steps, tmp_path: Path) -> None:
    run, path = tmp_path / "run", tmp_path / "policy.safetensors"
    shutil.copytree(steps.run.folder, run)
    stored = read_json(run / "settings.json")
    write_json(run / "settings.json", stored | {"settings": {"K": "many"}})
    with pytest.raises(
        CepnbError, match="settings.json: .*K: expected `int`, got `str`; write True or False"
    ):
        export_policy(run, path)
    write_json(run / "settings.json", stored)
    (run / "energy_cep.safetensors").unlink()
    with pytest.raises(CepnbError, match="energy_cep.safetensors: not found"):
        export_policy(run, path)
    assert not path.exists()


def test_another_file_or_name_is_named(steps: Steps, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(CepnbError, match="not an exported policy; use a file of"):
        load_policy(steps.run.folder / "behaviour.safetensors")
    tensors, metadata = load_tensors(exported)
    path = tmp_path / "damaged.safetensors"
    tensors.pop("energy_cep.out.bias")
    save_tensors(path, tensors, metadata)
    with pytest.raises(CepnbError, match="tensor 'out.bias' is missing"):
        load_policy(path)
    tensors.pop("scaling.mean")
    save_tensors(path, tensors, metadata)
    with pytest.raises(
        CepnbError, match="policy is incomplete .KeyError: 'scaling.mean'.; export it again$"
    ):
        load_policy(path)
    with pytest.raises(CepnbError, match="policy 'ant' was not found; .* hopper-medium-expert$"):
        load_policy("ant")


def test_an_energy_that_starts_from_q_needs_the_critic_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    export_policy(
        trained(tmp_path / "run", qgpo_settings("ci", q_in_energy=True, **TINY)).run.folder, path
    )
    tensors, metadata = load_tensors(path)
    without = {name: tensor for name, tensor in tensors.items() if not name.startswith("critic.")}
    save_tensors(path, without, metadata)
    with pytest.raises(CepnbError, match="the critic is missing"):
        load_policy(path)


@pytest.mark.parametrize(
    "name, env",
    [
        ("hopper-medium-expert", lambda: LocomotionEnv("hopper", 8, seed=5)),
        ("antmaze-umaze-diverse", lambda: AntMazeEnv("antmaze-umaze-diverse", 8, seed=3)),
    ],
)
def test_the_shipped_policies_are_better_than_their_behaviour(name: str, env: Callable) -> None:
    networks, returns = load_networks(name), {}
    assert networks.methods == ["behaviour", "cep", "mse", "best_of_k"]
    for method in ("behaviour", "cep"):
        policy, generator = networks.policy(method, 1.0), torch.Generator().manual_seed(0)
        task = env(), networks.scaling, generator
        returns[method], _ = rollout(lambda rows: policy, *task, progress=False)
    assert returns["cep"].mean() > 1.8 * returns["behaviour"].mean()


def test_a_shipped_policy_takes_one_observation() -> None:
    assert load_policy("hopper-medium-expert")(np.zeros(11)).shape == (3,)


def test_plain_paths_devices_and_seeds(
    steps: Steps, exported: Path, tmp_path: Path, as_users_call_it: None
) -> None:
    path, observations = tmp_path / "again.safetensors", np.zeros(4)
    export_policy(str(steps.run.folder), str(path))
    assert path.read_bytes() == exported.read_bytes()
    actions = load_policy(str(path), seed=np.int64(3))(observations)
    assert np.array_equal(actions, load_policy(path, seed=3)(observations))
    assert load_networks(str(path), "cpu").seed == 3
    with pytest.raises(CepnbError, match="^seed -1: use an integer from 0 to 2147483647$"):
        load_policy(path, seed=-1)
    with pytest.raises(CepnbError, match="^--device tpu: use cpu or cuda$"):
        load_networks(path, "tpu")
    with pytest.raises(CepnbError, match="written .*; a folder has this name; use another name"):
        export_policy(steps.run.folder, tmp_path)


@pytest.mark.parametrize("clip", [True, False])
def test_infinite_actions_are_not_clipped_to_the_bounds(clip: bool) -> None:
    """Every noise prediction is infinite at the last evaluation only, where nothing follows it."""
    settings = replace(qgpo_settings("ci"), clip_actions=clip)
    late = SCHEDULE.times(settings.sampler_steps)[-2].float()
    infinite = lambda x, t: torch.where(t <= late * 1.001, torch.full_like(x, torch.inf), 0 * x)
    eps = lambda x, t, s=None: infinite(x, t)
    energy = lambda x, t, s=None: (infinite(x.detach(), t) * x).sum(-1)
    plain = lambda x, t, s=None: 0 * x
    trained = TrainedPolicy.__new__(TrainedPolicy)  # of no networks
    trained._scaling = Scaling(torch.zeros(3), torch.ones(3))
    for policy in (
        behaviour_policy(eps, 2, settings),
        guided_policy(plain, energy, 1.0, 2, settings),
    ):
        assert not policy(torch.zeros(4, 3), seeded(0, "clip")).isfinite().any()
        trained._policy, trained._generator = policy, seeded(0, "clip")
        with pytest.raises(CepnbError, match="actions are not finite"):
            trained(np.zeros((4, 3)))


@pytest.mark.usefixtures("as_users_call_it")
def test_what_is_no_path_or_device_is_refused(exported: Path, tmp_path: Path) -> None:
    for path in (None, "", 3):
        with pytest.raises(CepnbError, match=f"^policy {path!r}: use a path$"):
            load_policy(path)
        with pytest.raises(CepnbError, match=f"^run {path!r}: use a path$"):
            export_policy(path, tmp_path / "policy")
        with pytest.raises(CepnbError, match=f"^file {path!r}: use a path$"):
            export_policy(tmp_path, path)
    with pytest.raises(CepnbError, match="^--device meta: use cpu or cuda$"):
        load_networks(exported, torch.device("meta"))


def test_a_policy_of_turned_ants_takes_plain_observations(tmp_path: Path) -> None:
    chosen = qgpo_settings("ci", "antmaze", heading_frame=True, **TINY)
    steps = trained(tmp_path / "run", chosen, "antmaze-umaze")
    export_policy(steps.run.folder, tmp_path / "policy.safetensors")
    observations = AntMazeEnv("antmaze-umaze", 3, 0).reset()
    states = steps.scaling(torch.tensor(observations).float())
    assert states.shape == (3, 31) and steps.data.states.shape == (len(steps.data.rewards), 31)
    mean, deviation = steps.data.states.mean(dim=0), steps.data.states.std(dim=0)
    torch.testing.assert_close(mean, torch.zeros(31), atol=1e-3, rtol=0)
    torch.testing.assert_close(deviation, torch.ones(31), atol=1e-3, rtol=0)
    for path in (steps.run.folder, tmp_path / "policy.safetensors"):
        policy = load_policy(path)
        expected = steps.networks.policy("cep", 1.0)(states, policy._generator)
        np.testing.assert_array_equal(load_policy(path)(observations), expected.clamp(-1, 1))
        with pytest.raises(
            CepnbError, match=r"observations have shape \(3, 31\); use \(\.\.\., 29\)"
        ):
            policy(states)


def test_only_ants_are_turned() -> None:
    with pytest.raises(CepnbError, match="width 4, an ant's 29; use heading_frame False"):
        prepare(load_dataset("local/maze2d-umaze", 2_000, 0), "none", True)


def test_turned_ants_of_no_rows_and_with_gradients() -> None:
    scaling = Scaling(torch.zeros(31), torch.ones(31), True)
    observations = torch.tensor(AntMazeEnv("antmaze-umaze", 3, 0).reset())
    expected = scaling(observations)
    assert scaling(observations[:0]).shape == (0, 31)
    assert scaling(observations.reshape(1, 3, 29)).shape == (1, 3, 31)
    torch.testing.assert_close(scaling(observations.requires_grad_()), expected)
    torch.testing.assert_close(scaling(observations.detach().float()), expected.float())


@pytest.mark.parametrize("environment", ["hopper", "maze2d-umaze", "locomotion"])
def test_no_other_environment_has_a_heading(environment: str) -> None:
    with pytest.raises(CepnbError, match="heading_frame True: use False except in AntMaze$"):
        qgpo_settings("ci", environment, heading_frame=True)
    for own_file_or_ant in (None, "antmaze", "antmaze-large-play"):
        assert qgpo_settings("ci", own_file_or_ant, heading_frame=True).heading_frame
