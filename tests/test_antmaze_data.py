"""Tests of the local AntMaze data: the goal-reaching ant, its training floor, and the walks."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cepnb.datasets import ant, ant_training, antmaze
from cepnb.datasets.ant import (
    arrival_steps,
    heading_features,
    heading_frame,
    read_walker,
    shipped_walker,
    upright,
)
from cepnb.datasets.ant_training import TURN, make_walker, training_floor
from cepnb.datasets.antmaze import FALLEN, Maze, Planner, collect_antmaze
from cepnb.datasets.local import local_dataset
from cepnb.datasets.registry import load_task
from cepnb.envs.antmaze import AntMazeEnv
from cepnb.envs.registry import ANTMAZES
from cepnb.errors import CepnbError
from cepnb.storage.files import write_json
from cepnb.storage.tensors import save_tensors

pytestmark = pytest.mark.filterwarnings("ignore")  # gym's


def turned(states: np.ndarray, goals: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Turn ants and goals about the vertical axis; MuJoCo's angular velocity turns with the body."""
    c, s = np.cos(angle), np.sin(angle)
    plane = np.array([[c, -s], [s, c]])
    half = np.array([np.cos(angle / 2), 0, 0, np.sin(angle / 2)])
    w, x, y, z = states[:, 3:7].T
    product = [
        half[0] * w - half[3] * z,
        half[0] * x - half[3] * y,
        half[0] * y + half[3] * x,
        half[0] * z + half[3] * w,
    ]
    moved = states.copy()
    moved[:, :2] = states[:, :2] @ plane.T + 7.0
    moved[:, 3:7] = np.stack(product, axis=1)
    moved[:, 15:17] = states[:, 15:17] @ plane.T
    return moved, goals @ plane.T


def random_states(count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    states, goals = random.normal(size=(count, 29)), random.normal(size=(count, 2))
    states[:, 3:7] /= np.linalg.norm(states[:, 3:7], axis=1, keepdims=True)
    return states, goals


@pytest.mark.parametrize("angle", [0.3, -2.0, 3.1, 6.0])
def test_the_ant_acts_the_same_way_in_all_places_and_headings(angle: float) -> None:
    states, goals = random_states(200)
    features = heading_features(states, goals)
    np.testing.assert_allclose(heading_features(*turned(states, goals, angle)), features, atol=1e-9)
    np.testing.assert_allclose(heading_features(states, 5 * goals), features, atol=1e-12)
    negated = states.copy()
    negated[:, 3:7] *= -1  # the same orientation
    np.testing.assert_allclose(heading_features(negated, goals), features, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(features[:, -2:], axis=1), 1)


@pytest.mark.parametrize("angle", [0.3, -2.0, 3.1])
def test_turned_ants_differ_in_place_and_heading_alone(angle: float) -> None:
    states, goals = random_states(200)
    frame, moved = heading_frame(states), heading_frame(turned(states, goals, angle)[0])
    np.testing.assert_allclose(moved[:, 2:-2], frame[:, 2:-2], atol=1e-9)
    headings = (rows[:, -2] + 1j * rows[:, -1] for rows in (moved, frame))
    np.testing.assert_allclose(next(headings) / next(headings), np.exp(1j * angle), atol=1e-9)
    c, s = frame[:, -2:].T  # nothing is lost: the velocity turns back
    back = c * frame[:, 15] - s * frame[:, 16], s * frame[:, 15] + c * frame[:, 16]
    np.testing.assert_allclose(np.stack(back, 1), states[:, 15:17], atol=1e-9)


def test_the_physics_is_the_same_in_all_headings() -> None:
    """So the features lose nothing: a turned ant steps to the turned next state."""
    env = ant.open_floor()
    env.wrapped_env.seed(0)
    random = np.random.default_rng(0)
    for angle in (0.7, 2.5):
        state = env.reset()
        action = random.uniform(-1, 1, 8)
        after = env.step(action)[0]
        inner = env.wrapped_env
        moved, _ = turned(state[None], np.ones((1, 2)), angle)
        inner.set_state(moved[0, :15], moved[0, 15:])
        expected, _ = turned(after[None], np.ones((1, 2)), angle)
        np.testing.assert_allclose(env.step(action)[0], expected[0], atol=1e-6)


def test_upright_by_hand() -> None:
    states = np.zeros((3, 29))
    states[0, 3] = 1  # level
    states[1, 3:5] = np.cos(0.6), np.sin(0.6)  # tilted by 1.2 rad about x
    states[2, 5] = 1  # on its back
    assert upright(states).tolist() == [True, True, False]


def test_rewards_and_ends_of_the_training_floor_by_hand() -> None:
    env = training_floor()
    features, _ = env.reset(seed=3)
    floor = env.unwrapped
    assert features.shape == (29,) and features.dtype == np.float32
    random, directions = np.random.default_rng(0), []
    for _ in range(2 * TURN):
        action = random.uniform(-0.3, 0.3, 8)
        before, direction = floor._state.copy(), floor._direction.copy()
        features, reward, ended, cut, _ = env.step(action)
        speed = (floor._state[:2] - before[:2]) @ direction / 0.1
        assert reward == pytest.approx(min(speed, 2) + 0.5 - 0.05 * np.square(action).sum())
        directions.append(tuple(direction))
        assert ended == (not upright(floor._state[None])[0]) and not cut
        if ended:
            break
    assert len(set(directions)) == 1 + (len(directions) - 1) // TURN
    inner = floor._ant.wrapped_env
    inner.set_state(np.r_[0, 0, 0.5, 0, 1, 0, 0, inner.init_qpos[7:]], np.zeros(14))  # on its back
    floor._state = inner._get_obs()
    assert env.step(np.zeros(8))[2]


def test_the_shipped_ant_reaches_near_and_far_goals() -> None:
    walker = shipped_walker()
    for distance, least in ((2.0, 8), (6.0, 8)):
        steps = arrival_steps(walker, distance, 8, seed=5)
        assert (steps >= 0).sum() >= least, f"{distance} m: {steps}"
    assert {"steps", "seed", "at", "goals_reached", "versions"} <= walker.recipe.keys()


def test_files_that_are_no_ants(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a.safetensors", {"w": torch.zeros(1)})
    with pytest.raises(CepnbError, match="a.safetensors: '0' is missing; use a file of the ant"):
        read_walker(tmp_path / "a.safetensors")


def test_training_that_is_too_short_or_was_begun_otherwise(tmp_path: Path) -> None:
    with pytest.raises(CepnbError, match="steps 5: use at least 10000"):
        make_walker(5, 0, tmp_path)
    write_json(tmp_path / "ant-training/settings.json", {"environment": "ant", "seed": 1})
    with pytest.raises(CepnbError, match="use another folder"):
        make_walker(None, 0, tmp_path)


def test_the_best_actor_reaches_the_most_goals_in_the_fewest_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = tmp_path / "ant-training"

    def train(make: object, steps: int, every: int, settings: dict, seed: int, out: Path) -> None:
        for i in range(1, 11):
            save_tensors(out / f"{i * every:07d}.safetensors", {"w": torch.tensor(float(i))})
        write_json(out / "ended.json", {"sbx-rl": "0"})

    def arrivals(walker: ant.Walker, distance: float, count: int, seed: int) -> np.ndarray:
        which = walker.agent.weights[0].item()
        return np.full(count, {9: 30, 10: 20}[which]) if distance < 9 else np.full(count, 50)

    monkeypatch.setattr(ant_training, "train_actors", train)
    monkeypatch.setattr(ant_training, "arrival_steps", arrivals)
    weights = lambda path: tuple(np.full(1, float(int(path.stem) // 10_000)) for _ in range(8))
    monkeypatch.setattr(ant_training, "agent_of", lambda path: ant.Agent(weights(path)))
    walker = read_walker(make_walker(None, 0, tmp_path))
    assert walker.recipe["at"] == 100_000 and walker.recipe["goals_reached"] == 60
    assert training.is_dir() and walker.agent.weights[0].item() == 10


TILES = [[1, 1, 1, 1], [1, "r", 0, 1], [1, 1, 0, 1], [1, "g", 0, 1], [1, 1, 1, 1]]


def test_the_planner_leads_around_walls_to_the_goal() -> None:
    maze, target = Maze("antmaze-umaze", TILES, 4.0), np.array([0.4, 8.3])
    planner = Planner(maze, target, np.random.default_rng(0))
    position, passed = np.array([0.1, -0.05]), []
    while np.linalg.norm(position - target) > 0.5:
        goal = planner.towards(position)
        position = position + 0.3 * goal / np.linalg.norm(goal)
        passed.append(maze.cell(position))
    cells = [passed[0], *[b for a, b in zip(passed, passed[1:]) if a != b]]
    assert cells == [(1, 1), (1, 2), (2, 2), (3, 2), (3, 1)]
    assert planner.towards(position) == pytest.approx(target - position)


def test_an_ant_at_its_goal_gets_another_one() -> None:
    maze = Maze("antmaze-medium-diverse", TILES, 4.0)
    assert len(maze.goals) == len(maze.starts) == 5
    planner = Planner(maze, np.array([0.4, 8.3]), np.random.default_rng(1))
    position, visited = np.array([4.0, 4.0]), set()
    for _ in range(600):
        goal = planner.towards(position)
        step = min(0.3, np.linalg.norm(goal))
        position = position + step * goal / np.linalg.norm(goal)
        visited.add(maze.cell(position))
    assert visited == set(maze.goals)


def test_starts_and_goals_of_each_dataset() -> None:
    for name in ANTMAZES:
        tiles, size = AntMazeEnv(name, 1, 0).tiles()
        maze = Maze(name, tiles, size)
        free = {(i, j) for i, row in enumerate(tiles) for j, tile in enumerate(row) if tile != 1}
        assert set(maze.starts) | set(maze.goals) <= free and maze.target_cell in maze.goals
        if name == "antmaze-umaze":
            assert (maze.starts, maze.goals) == ([(1, 1)], [(3, 1)])
        elif name.endswith("diverse"):
            assert set(maze.starts) == set(maze.goals) == free
        else:
            assert set(maze.starts) == free - set(maze.goals)
            assert len(maze.goals) == (3 if "medium" in name else 7)


def test_the_episode_of_a_fallen_ant_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(antmaze, "BATCH", 2)
    monkeypatch.setattr(antmaze, "upright", lambda states: np.array([False, True]))
    rows = collect_antmaze("antmaze-umaze", 60, 0, tmp_path)
    assert np.flatnonzero(rows["timeouts"]).tolist() == [FALLEN - 1, 59]


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    names = ("antmaze-umaze", "antmaze-large-play")
    folder = tmp_path_factory.mktemp("walks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(antmaze, "BATCH", 4)
        return {name: collect_antmaze(name, 3_000, 0, folder / name) for name in names}


def test_rows_are_d4rls_and_follow_the_environments_rules(walks) -> None:
    for name, rows in walks.items():
        shapes = {key: value.shape[1:] for key, value in rows.items()}
        assert shapes == {
            "observations": (29,),
            "actions": (8,),
            "rewards": (),
            "terminals": (),
            "timeouts": (),
            "infos/goal": (2,),
            "infos/qpos": (15,),
            "infos/qvel": (14,),
        }
        assert {len(value) for value in rows.values()} == {3_000}
        states, goals = rows["observations"], rows["infos/goal"]
        np.testing.assert_array_equal(rows["rewards"], rows["terminals"].astype(np.float32))
        assert np.abs(rows["actions"]).max() <= 1
        away = np.linalg.norm(states[:, :2] - goals, axis=1)
        assert away.min() > 0.5  # the episode ends at the step that comes within
        ends = np.flatnonzero(rows["terminals"])
        assert (away[ends] < 1.5).all()
        assert rows["timeouts"][-1] or rows["terminals"][-1]
        tiles, size = AntMazeEnv(name, 1, 0).tiles()
        cells = np.rint(states[:, :2] / size).astype(int) + 1
        assert all(tiles[j][i] != 1 for i, j in cells)  # no ant is inside a wall
        ended = np.flatnonzero((rows["terminals"] | rows["timeouts"])[:-1])
        jumps = np.linalg.norm(np.diff(states[:, :2], axis=0), axis=1)
        assert np.delete(jumps, ended).max() < 1.0
    assert walks["antmaze-umaze"]["terminals"].sum() >= 10
    speed = np.linalg.norm(walks["antmaze-umaze"]["observations"][:, 15:17], axis=1)
    assert (speed > 0.3).mean() > 0.8  # the ant walks, it does not stand at its goal


def test_a_killed_collection_resumes_bit_for_bit(
    walks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, episodes, calls = "antmaze-umaze", antmaze._episodes, []

    def dies(*arguments: object) -> list:
        if calls:
            raise KeyboardInterrupt
        calls.append(arguments)
        return episodes(*arguments)

    monkeypatch.setattr(antmaze, "BATCH", 4)
    whole = collect_antmaze(name, 2_000, 0, tmp_path / "whole")
    monkeypatch.setattr(antmaze, "_episodes", dies)
    with pytest.raises(KeyboardInterrupt):
        collect_antmaze(name, 2_000, 0, tmp_path / "parts")
    monkeypatch.setattr(antmaze, "_episodes", episodes)
    resumed = collect_antmaze(name, 2_000, 0, tmp_path / "parts")
    for key, value in whole.items():
        np.testing.assert_array_equal(resumed[key], value)


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(CepnbError, match="transitions 1: use at least 2"):
        collect_antmaze("antmaze-umaze", 1, 0, tmp_path)
    with pytest.raises(CepnbError, match="environment 'antmaze-huge': use one of"):
        collect_antmaze("antmaze-huge", 100, 0, tmp_path)


def test_local_files_state_their_origin() -> None:
    path = local_dataset("local/antmaze-umaze", 1_000, 0)
    with h5py.File(path) as file:
        assert "not the published D4RL file" in file.attrs["origin"]
        assert file.attrs["name"] == "local/antmaze-umaze" and file.attrs["noise"] == 0.2
        assert json.loads(file.attrs["ant"]) == shipped_walker().recipe
        speed = np.linalg.norm(file["infos/qvel"][:, :2], axis=1)
        assert file.attrs["moving"] == (speed > 0.3).mean() > 0.5
        assert file.attrs["reached"] == file["terminals"][:].sum() <= file.attrs["episodes"]
        assert 0 <= file.attrs["fallen"] < 0.3
    assert [found.name for found in path.parent.iterdir() if "antmaze" in found.name] == [path.name]
    dataset = load_task("local/antmaze-umaze", "antmaze-umaze", 1_000, 0)
    assert dataset.observations.shape[1] == 29 and dataset.terminals.sum() > 0
