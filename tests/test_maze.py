"""Tests of the maze against D4RL's own model file and reference scores."""

import copy
import importlib.util
import pickle
from collections.abc import Callable
from pathlib import Path

import mujoco
import numpy as np
import pytest
from jaxtyping import config

from cepnb.envs.antmaze import AntMazeEnv
from cepnb.envs.d4rl_package import d4rl, reference_scores
from cepnb.envs.locomotion import LocomotionEnv
from cepnb.envs.maze import LAYOUTS, MazeEnv, PointMass, goal_reward
from cepnb.envs.registry import episodes_of
from cepnb.errors import CepnbError


def d4rl_source(name: str):
    """Locate a module of d4rl, whose package `pointmaze` does not import without MuJoCo 2.1."""
    path = Path(d4rl().__file__).parent / "pointmaze" / name
    spec = importlib.util.spec_from_file_location("d4rl_part", path)
    return path, spec


def d4rl_model(layout: str) -> mujoco.MjModel:
    """Compile the maze that d4rl's own source writes with the modern MuJoCo."""
    _, spec = d4rl_source("dynamic_mjc.py")
    dynamic_mjc = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dynamic_mjc)
    text = d4rl_source("maze_model.py")[0].read_text()
    start = text.index("WALL = 10")
    end = text.index("class MazeEnv")
    names = {"MJCModel": dynamic_mjc.MJCModel, "np": np}
    exec(compile(text[start:end], "maze_model", "exec"), names)
    spec_text = names[{"umaze": "U_MAZE", "medium": "MEDIUM_MAZE", "large": "LARGE_MAZE"}[layout]]
    with names["point_maze"](spec_text).asfile() as file:
        xml = Path(file.name).read_text(encoding="utf-8")
    xml = xml.replace('coordinate="local"', "")  # MuJoCo no longer reads this attribute
    return mujoco.MjModel.from_xml_string(xml)


@pytest.mark.parametrize("name", LAYOUTS)
def test_trajectories_equal_those_of_d4rls_model(name: str) -> None:
    """Follow 300 random actions into walls by d4rl's step: clip the velocity, then simulate."""
    model, random = d4rl_model(name), np.random.default_rng(0)
    data, mass = mujoco.MjData(model), PointMass(name)
    i, j = LAYOUTS[name].cells[0]
    data.qpos[:] = (i, j)
    mass.set_state(float(i), float(j), 0.0, 0.0)
    push, worst = np.zeros(2), 0.0
    for step in range(300):
        if step % 20 == 0:
            push = random.uniform(-1, 1, size=2)
        data.qvel[:] = np.clip(data.qvel, -5, 5)
        data.ctrl[:] = push
        mujoco.mj_step(model, data)
        state = mass.step(*push)
        worst = max(worst, np.abs(np.array(state) - np.concatenate([data.qpos, data.qvel])).max())
    assert worst < 1e-9  # the compiler, solver and constants are equal, so only rounding differs


@pytest.mark.parametrize("name, episodes", [("umaze", 400), ("medium", 300)])
def test_random_policy_has_d4rls_reference_score(name: str, episodes: int) -> None:
    random, env = np.random.default_rng(1), MazeEnv(name, episodes, seed=1)
    env.reset()
    returns, over = np.zeros(episodes), np.zeros(episodes, dtype=bool)
    while not over.all():
        _, reward, _, over = env.step(random.uniform(-1, 1, size=(episodes, 2)))
        returns += reward
    error = returns.std() / np.sqrt(episodes)
    reference = reference_scores(f"local/maze2d-{name}")[0]
    assert abs(returns.mean() - reference) < 3 * error, (returns.mean(), error)


def test_episodes_do_not_depend_on_each_other_and_seeds_repeat() -> None:
    many, one = MazeEnv("umaze", 3, seed=5), MazeEnv("umaze", 1, seed=9)
    start = many.reset()
    assert np.array_equal(start, MazeEnv("umaze", 3, seed=5).reset())
    actions = np.random.default_rng(0).uniform(-1, 1, size=(50, 3, 2))
    paths = [many.step(a)[0] for a in actions]
    one.set_state(start[1:2])
    for path, action in zip(paths, actions):
        assert np.array_equal(one.step(action[1:2])[0][0], path[1])


def test_rules() -> None:
    env = MazeEnv("umaze", 2, seed=0)
    env.set_state(np.array([[1.0, 1.0, 0, 0], [3.0, 3.0, 9.0, 0]]))
    observation, reward, terminated, truncated = env.step(np.array([[0.0, 0.0], [50.0, 0.0]]))
    assert reward.tolist() == [1, 0] and not terminated.any() and not truncated.any()
    assert abs(observation[1, 2]) <= 5.5  # clipped to 5 before the step, which then accelerates
    for _ in range(299):
        truncated = env.step(np.zeros((2, 2)))[3]
    assert truncated.all()


def test_walls_hold() -> None:
    env = MazeEnv("umaze", 1, seed=0)
    env.set_state(np.array([[2.0, 1.0, 0.0, 0.0]]))
    for _ in range(200):
        observation = env.step(np.array([[0.0, 1.0]]))[0]
    assert observation[0, 1] == pytest.approx(1.3, abs=0.01)  # the wall, with a soft contact


def test_bad_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CepnbError, match="maze 'tiny': use one of umaze, medium, large"):
        MazeEnv("tiny", 1, 0)
    with pytest.raises(CepnbError, match="episodes 0"):
        MazeEnv("umaze", 0, 0)
    env = MazeEnv("umaze", 2, 0)
    env.reset()
    with pytest.raises(CepnbError, match="maze2d-umaze: actions are not finite; check the policy"):
        env.step(np.full((2, 2), np.nan))
    with pytest.raises(
        CepnbError, match=r"actions have shape \(3, 2\); the environment takes \(2, 2\)"
    ):
        env.step(np.zeros((3, 2)))
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # else the tests' own checks raise first
    for states, message in (
        (np.zeros((2, 3)), r"states: shape is \(2, 3\); use \(2, 4\)"),
        (np.full((2, 4), np.nan), "states: 8 of 8 values are not finite; use finite states"),
    ):
        with pytest.raises(CepnbError, match=f"^maze2d-umaze: {message}"):
            env.set_state(states)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("environment", ["maze2d-umaze", "hopper", "antmaze-umaze"])
def test_constructors_name_bad_arguments(environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # else the tests' own checks raise first
    for arguments, message in (
        ((2.5, 0), "episodes 2.5: use an integer"),
        ((True, 0), "episodes True: use an integer"),
        ((1, -1), "seed -1: use at least 0"),
        ((1, None), "seed None: use an integer"),
        ((1, 0, 0), "copies 0: use at least 1"),
    ):
        with pytest.raises(CepnbError, match=f"^{message}$"):
            episodes_of(environment, *arguments)
    kind = {"maze2d-umaze": MazeEnv, "hopper": LocomotionEnv, "antmaze-umaze": AntMazeEnv}
    for name in ("", None, ["umaze"]):
        with pytest.raises(CepnbError, match="use one of"):
            kind[environment](name, 1, 0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("environment", ["maze2d-umaze", "halfcheetah", "antmaze-umaze"])
def test_unstable_simulations_raise_and_give_no_reward(
    environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MuJoCo resets such a state, warns and continues: an episode would go on from another state."""
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log there
    env = episodes_of(environment, 2, 0)
    env.reset()
    part = env._masses[1] if environment == "maze2d-umaze" else env._simulators[1]
    data = getattr(part.data, "raw", part.data)
    for array, value, kind in ((data.qpos, 1e30, "BADQPOS"), (data.qvel, np.nan, "BADQVEL")):
        env.reset()
        array[:] = value
        with pytest.raises(CepnbError, match=rf"^{environment}: step 1 failed \(.*mjWARN_{kind}"):
            env.step(np.zeros((2, env.action_dim)))
    env.reset()
    env.step(np.zeros((2, env.action_dim)))  # a reset repairs it


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("environment", ["maze2d-umaze", "hopper", "antmaze-umaze"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_continue_as_the_original_does(environment: str, copied: Callable) -> None:
    env, random = episodes_of(environment, 2, 0), np.random.default_rng(0)
    env.reset()
    before, after = random.uniform(-1, 1, (2, 8, 2, env.action_dim))
    for actions in before:
        env.step(actions)
    other = copied(env)
    found, expected = ([one.step(actions) for actions in after] for one in (other, env))
    for ours, theirs in zip(found, expected, strict=True):
        assert all(map(np.array_equal, ours, theirs))
    assert np.array_equal(other.reset(), env.reset())


def test_a_position_that_is_not_finite_has_no_reward() -> None:
    maze = LAYOUTS["umaze"]
    observations = np.zeros((2, 4))
    observations[0, :2] = maze.target
    assert goal_reward(maze, observations).tolist() == [1, 0]
    observations[1, 0] = np.nan
    with pytest.raises(CepnbError, match="positions in the maze: 1 of 2 values are not finite"):
        goal_reward(maze, observations)
