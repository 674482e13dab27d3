"""Tests of AntMaze: many ants in one D4RL environment against one each, and a complete QGPO run."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cepnb.cli import main
from cepnb.datasets.d4rl import dataset_urls
from cepnb.datasets.dataset import COLUMNS, digest
from cepnb.datasets.registry import evaluated_in, load_dataset, load_task
from cepnb.envs import antmaze, d4rl_package
from cepnb.envs.antmaze import AntMazeEnv
from cepnb.envs.registry import ANTMAZES, family_of
from cepnb.errors import CepnbError
from cepnb.qgpo.settings import qgpo_settings
from cepnb.storage.files import read_json

# A separate process creates D4RL's environments as a user does, one an episode.
CLIENT = """
import cepnb.d4rl_compat
import json, sys
import gym
import numpy as np
def started(name, seed, goal=None):
    env = gym.make(name)
    env.unwrapped.wrapped_env.seed(seed)  # D4RL's wrapper does not pass gym's seed on
    np.random.seed(seed)  # draws goals
    state = env.reset()
    if goal is not None:
        env.set_target(goal)
    return env, state
"""
EPISODES = (
    CLIENT
    + """
found = []
for name, seed, goal, actions in json.loads(sys.stdin.read()):
    env, state = started(name, seed, goal)
    path, rewards, dones = [state.tolist()], [], []
    for action in np.array(actions):
        state, reward, done, info = env.step(action)
        path.append(state.tolist()), rewards.append(float(reward)), dones.append(bool(done))
        if done:
            break
    found.append([list(env.target_goal), path, rewards, dones, info.get("TimeLimit.truncated", False)])
print(json.dumps(found))
"""
)
# A small file in D4RL's layout; every other goal is near the start, so that some rewards are 1.
FILE = (
    CLIENT
    + """
import d4rl, h5py
path, rows, random = sys.argv[1], [], np.random.default_rng(0)
for seed in range(6):
    env, state = started("antmaze-umaze-v2", seed, random.uniform(0.4, 0.7, 2) if seed % 2 else None)
    done = False
    while not done:
        action, data = random.uniform(-1, 1, 8), env.unwrapped.wrapped_env.sim.data
        qpos, qvel = data.qpos.copy(), data.qvel.copy()
        after, reward, done, info = env.step(action)
        timeout = info.get("TimeLimit.truncated", False)
        rows.append((state, action, reward, done and not timeout, timeout, env.target_goal, qpos, qvel))
        state = after
keys = ("observations", "actions", "rewards", "terminals", "timeouts", "infos/goal", "infos/qpos", "infos/qvel")
with h5py.File(path, "w") as file:
    for key, column in zip(keys, zip(*rows)):
        file[key] = np.array(column, dtype=bool if key in ("terminals", "timeouts") else np.float32)
data = d4rl.qlearning_dataset(env, env.get_dataset(path))
print(json.dumps({key: [list(value.shape), float(value.sum(dtype=np.float64))] for key, value in data.items()}))
"""
)


def client(script: str, *arguments: str, stdin: object = None) -> object:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *arguments],
        input=json.dumps(stdin),
        capture_output=True,
        text=True,
        env=os.environ | {"MUJOCO_PY_MUJOCO_PATH": "/nowhere"},
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_episodes_equal_d4rls_bit_for_bit() -> None:
    """Compare starts, goals, states, rewards and ends of four ants a maze; two have a near goal."""
    seeds, cases, jobs = np.random.SeedSequence(3).generate_state(2).tolist(), [], []
    for name, steps in (("antmaze-umaze", 720), ("antmaze-large-diverse", 60)):
        env = AntMazeEnv(name, 2, seed=3, copies=2)
        start, goals = env.reset(), [body.goal for body in env._simulators]
        assert np.array_equal(start[:2], start[2:]) and not np.array_equal(start[0], start[1])
        assert goals[:2] == goals[2:] and goals[0] != goals[1]
        for row, near in ((1, (-0.6, 0.0)), (2, (0.8, -0.2))):
            env._simulators[row].goal = goals[row] = near
        actions = np.random.default_rng(0).uniform(-1, 1, (steps, 4, 8))
        cases.append((env, start, goals, actions))
        for row, seed in enumerate(seeds * 2):
            near = goals[row] if row in (1, 2) else None
            jobs.append([f"{name}-v2", seed, near, actions[:, row].tolist()])
    found = client(EPISODES, stdin=jobs)
    for case, episodes in zip(cases, (found[:4], found[4:]), strict=True):
        assert_episodes(*case, episodes)


def assert_episodes(
    env: AntMazeEnv,
    start: np.ndarray,
    goals: list[tuple[float, float]],
    actions: np.ndarray,
    found: list,
) -> None:
    """Step four ants and compare them with D4RL's episodes."""
    steps = len(actions)
    alive = set(range(4))
    for row, (goal, path, *_) in enumerate(found):
        assert list(goals[row]) == goal and start[row].tolist() == path[0]
    for step in range(steps):
        states, rewards, terminated, truncated = env.step(actions[step])
        for row, (_, path, expected, dones, timed_out) in enumerate(found):
            if row not in alive:
                assert rewards[row] == 0 and terminated[row] and states[row].tolist() == path[-1]
                continue
            assert states[row].tolist() == path[step + 1] and rewards[row] == expected[step]
            assert (terminated[row] or truncated[row]) == dones[step] and terminated[row] == (
                dones[step] and not timed_out
            )
            assert terminated[row] == (rewards[row] == 1)
            if dones[step]:
                alive.remove(row)
        if not alive:
            break
    ended = [len(dones) for *_, dones, _ in found]
    assert 1 < ended[1] < 60 > ended[2] > 1  # both near goals are reached
    assert ended[0] == ended[3] == min(steps, env.max_steps) and alive == (
        set() if steps > env.max_steps else {0, 3}
    )


def test_versions_of_a_maze_differ_only_in_when_goals_are_drawn() -> None:
    AntMazeEnv("antmaze-umaze", 1, 0)  # registers d4rl's environments
    import gym

    for name in ANTMAZES:
        specs = []
        for other in (
            name,
            name.replace("diverse", "play") if "umaze" not in name else "antmaze-umaze",
        ):
            for version in ("v0", "v1", "v2"):
                spec = gym.spec(f"{other}-{version}")
                data_keys = ("dataset_url", "deprecated", "v2_resets")
                specs.append(
                    (
                        spec.max_episode_steps,
                        {key: value for key, value in spec.kwargs.items() if key not in data_keys},
                    )
                )
                assert spec.kwargs.get("v2_resets", False) == (version == "v2")
        assert all(one == specs[0] for one in specs) and specs[0][0] == (
            700 if "umaze" in name else 1000
        )
        assert specs[0][1]["eval"] and specs[0][1]["reward_type"] == "sparse"


CREATE = """
import os
import numpy as np
from cepnb.envs.antmaze import AntMazeEnv
np.random.seed(7)
expected = np.random.get_state()[1].copy()
descriptors = [len(AntMazeEnv("antmaze-medium-play", 3, 0).reset()) and len(os.listdir("/dev/fd")) for _ in range(3)]
assert np.array_equal(np.random.get_state()[1], expected) and descriptors[1] == descriptors[2]
"""


def test_creation_and_reset_print_leave_and_draw_nothing(tmp_path: Path) -> None:
    """D4RL prints goals, leaves an open file per environment and uses numpy's global generator."""
    ran = subprocess.run(
        [sys.executable, "-c", CREATE],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert (ran.stdout, ran.stderr, ran.returncode) == ("", "", 0)
    assert not list(tmp_path.iterdir())


def test_names_scores_and_settings() -> None:
    for name in ANTMAZES:
        assert family_of(name) == "antmaze"
        for version in ("v0", "v2"):
            assert evaluated_in(f"d4rl/{name}-{version}") == name
            assert (
                d4rl_package.reference_scores(f"local/{name}")
                == d4rl_package.reference_scores(f"{name}-{version}")
                == (0, 1)
            )
    with pytest.raises(
        CepnbError,
        match="^environment 'antmaze-eval-umaze': use one of .*, antmaze-large-diverse$",
    ):
        evaluated_in("d4rl/antmaze-eval-umaze-v0")
    with pytest.raises(
        CepnbError,
        match="^environment 'antmaze': use one of antmaze-umaze, antmaze-umaze-diverse, ",
    ):
        AntMazeEnv("antmaze", 1, 0)
    with pytest.raises(
        CepnbError,
        match="^dataset 'd4rl/antmaze-umaze-v1': not in d4rl's table; use .* antmaze-umaze-v",
    ):
        load_dataset("d4rl/antmaze-umaze-v1", 0, 0)
    paper = qgpo_settings("paper", "antmaze")
    found = paper.reward_tuning, paper.K, paper.energy_K, paper.beta, paper.beta_q, paper.discount
    assert found == ("minus_one", 32, 32, 3, 1, 0.99)
    assert paper.scales == (1, 1.5, 2, 2.5, 3, 4)
    for profile in ("ci", "laptop", "paper"):
        chosen = qgpo_settings(profile, "antmaze")
        assert (
            chosen.headline_scale == 1
            and chosen.reward_tuning == "minus_one"
            and chosen.state_jitter == 0
        )


def test_failing_engine_and_bad_actions_raise_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = AntMazeEnv("antmaze-umaze", 2, 0)
    env.reset()
    with pytest.raises(
        CepnbError,
        match="^antmaze-umaze: actions are not finite; check the policy$",
    ):
        env.step(np.full((2, 8), np.nan))
    env._simulators[1]._sim.data.qvel[0] = np.nan
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log there
    with pytest.raises(
        CepnbError,
        match="^antmaze-umaze: step 1 failed .MujocoException: Got MuJoCo Warning: mjWARN_BADQ",
    ):
        env.step(np.zeros((2, 8)))
    monkeypatch.setitem(sys.modules, "d4rl.locomotion", None)
    with pytest.raises(CepnbError, match="^antmaze-umaze: creation failed .ModuleNotFoundError: "):
        AntMazeEnv("antmaze-umaze", 1, 0)


def test_qgpo_on_a_file_in_d4rls_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Train on a file in d4rl's folder, score the policies, and report them next to published scores."""
    monkeypatch.setattr(antmaze, "episode_limit", lambda name: 50)  # short episodes
    file = dataset_urls()["antmaze-umaze-v2"].rpartition("/")[2]
    expected = client(FILE, str(tmp_path / file))
    monkeypatch.setattr(sys.modules["d4rl.offline_env"], "DATASET_PATH", str(tmp_path))
    data = load_task("d4rl/antmaze-umaze-v2", "antmaze-umaze", 4_000, 0)
    for key, (shape, total) in expected.items():
        ours = getattr(data, key)
        assert list(ours.shape) == shape and ours.double().sum().item() == pytest.approx(
            total, abs=1e-6
        ), key
    assert (
        data.terminals.any()
        and (data.rewards == data.terminals).all()
        and {0, 1} == set(data.episode_returns.tolist())
    )
    own = load_task(
        str(tmp_path / file), evaluated_in(str(tmp_path / file), "antmaze-umaze"), 4_000, 0
    )
    n = len(data.rewards)  # the reader's own file keeps its last row, which is terminal
    assert own.terminals[n:].tolist() == own.rewards[n:].tolist() == [True]
    shared = {key: getattr(own, key)[:n] for key in COLUMNS}
    assert digest(replace(data, **shared)) == digest(data)
    assert torch.equal(own.episode_returns, data.episode_returns)
    changes = [
        f"--set={name}={value}"
        for name, value in dict(
            behaviour_steps=20,
            q_steps=20,
            energy_steps=20,
            energy_states=50,
            sampler_steps=2,
            episodes=1,
            best_of=0,
            guidance=("cep",),
        ).items()
    ]
    assert (
        main(
            [
                "qgpo",
                "--dataset",
                "d4rl/antmaze-umaze-v2",
                "--profile",
                "ci",
                *changes,
                "--out",
                str(tmp_path / "run"),
            ]
        )
        == 0
    )
    metrics = read_json(tmp_path / "run/metrics.json")
    assert (metrics["environment"], metrics["rows"]) == ("antmaze-umaze", len(data.rewards))
    assert metrics["settings"]["reward_tuning"] == "minus_one"
    assert [(row["method"], row["scale"]) for row in metrics["scores"]] == [
        ("behaviour", 0),
        ("cep", 1),
        ("cep", 3),
    ]
    for row in metrics["scores"]:
        assert row["return_mean"] in (0, 1) and row["normalised"] == 100 * row["return_mean"]
    capsys.readouterr()
    assert main(["report", str(tmp_path / "run")]) == 0
    table = capsys.readouterr().out
    for cell in (
        "| d4rl/antmaze-umaze-v2 |",
        "| 96.4 on antmaze-umaze-v0 |",
        "| AntMaze-v0 | QGPO | 78.3 |",
    ):
        assert cell in table
    with h5py.File(tmp_path / file, "a") as changed:
        del changed["observations"]
        changed["observations"] = np.zeros((len(changed["actions"]), 27), np.float32)
    capsys.readouterr()
    assert (
        main(
            [
                "qgpo",
                "--dataset",
                "d4rl/antmaze-umaze-v2",
                "--profile",
                "ci",
                "--out",
                str(tmp_path / "narrow"),
            ]
        )
        == 2
    )
    assert (
        "states and actions have widths (27, 8), those of antmaze-umaze have (29, 8)"
        in capsys.readouterr().err
    )
