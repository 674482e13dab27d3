"""Tests of the maze against D4RL's own model file and reference scores."""

import importlib.util
from pathlib import Path

import mujoco
import numpy as np
import pytest

from cepnb.envs.d4rl_package import d4rl, reference_scores
from cepnb.envs.maze import LAYOUTS, MazeEnv, PointMass
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


def test_bad_input_is_named() -> None:
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
