"""Tests of the sources of datasets: d4rl's table and limits, downloads, Minari's format."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer
from serving import serving

from cepnb.datasets.coordinates import check_coordinates, load_examples, save_examples
from cepnb.datasets.dataset import digest, distinct_states
from cepnb.datasets.local import local_dataset
from cepnb.datasets.minari import _has_goal
from cepnb.datasets.registry import (
    check_used,
    environment_of,
    evaluated_in,
    load_dataset,
    load_task,
)
from cepnb.envs import d4rl_package
from cepnb.errors import CepnbError
from cepnb.qgpo.settings import qgpo_settings

# d4rl registers its environments only if mujoco_py imports; for the limits, any module will do.
REGISTRY = """
import importlib, json, sys, warnings
from unittest.mock import MagicMock
warnings.simplefilter("ignore")
from cepnb.datasets.d4rl import dataset_urls
from cepnb.envs.d4rl_package import d4rl
d4rl()
for name in [name for name in sys.modules if name.startswith("gym.envs.mujoco")]:
    del sys.modules[name]
for name in ("mujoco_py", "dm_control", "dm_control.mujoco", "dm_control.mujoco.engine"):
    sys.modules[name] = MagicMock()
for name in ("pointmaze", "gym_mujoco", "locomotion", "kitchen"):
    importlib.import_module("d4rl." + name)
import gym
specs = {spec.id: spec.max_episode_steps for spec in gym.envs.registry.all()}
print(json.dumps({name: specs[name] for name in dataset_urls() if name in specs}))
"""


def test_episode_limits_equal_those_that_d4rl_registers() -> None:
    found = subprocess.run(
        [sys.executable, "-c", REGISTRY], capture_output=True, text=True, check=True
    )
    specs = json.loads(found.stdout.splitlines()[-1])
    assert len(specs) > 90
    assert {name: d4rl_package.episode_limit(name) for name in specs} == specs
    adroit = (
        Path(d4rl_package.d4rl().__file__).parent / "hand_manipulation_suite/__init__.py"
    ).read_text()
    limits = dict(re.findall(r"id='(\w+-human-v0)',.*?max_episode_steps=(\d+)", adroit, re.DOTALL))
    assert {name: d4rl_package.episode_limit(name) for name in limits} == {
        name: int(steps) for name, steps in limits.items()
    }
    assert d4rl_package.episode_limit("carla-lane-v0") is None


def test_environments_by_name() -> None:
    with pytest.raises(
        CepnbError,
        match="^dataset 'd4rl/maze2d-umaze-dense-v1': rewards are dense, but environments have sparse rewards",
    ):
        evaluated_in("d4rl/maze2d-umaze-dense-v1")
    assert evaluated_in("d4rl/maze2d-umaze-dense-v1", "maze2d-umaze") == "maze2d-umaze"
    assert (
        environment_of("local/maze2d-umaze-noisy")
        == environment_of("d4rl/maze2d-umaze-dense-v1")
        == "maze2d-umaze"
    )
    assert (
        environment_of("d4rl/hopper-medium-replay-v2") == "hopper"
        and environment_of("local/maze2d-large") == "maze2d-large"
    )
    assert (
        environment_of("some/file.hdf5") is None
        and environment_of("minari/D4RL/hopper/medium-v0") is None
    )


def test_a_published_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Download over a connection that breaks, then load from both folders without a request.

    Incomplete files in d4rl's folder raise.
    """
    source, rows, name = tmp_path / "served.hdf5", 25, "kitchen-complete-v0"
    with h5py.File(
        source, "w"
    ) as file:  # like old files: no timeouts, rewards as columns, bytes as metadata
        file["observations"], file["actions"] = np.random.rand(rows, 3), np.random.rand(rows, 2)
        file["rewards"], file["terminals"] = np.random.rand(rows, 1), np.zeros((rows, 1), bool)
        file["metadata/algorithm"], file["infos/qpos"] = np.bytes_(b"SAC"), np.random.rand(100_000)
    d4rl_package.d4rl()
    monkeypatch.setenv("CEPNB_CACHE", str(tmp_path / "cache"))
    with serving(source.read_bytes()) as server:
        monkeypatch.setitem(sys.modules["d4rl.infos"].DATASET_URLS, name, server.url)
        server.faults = ["cut"]
        data = load_dataset(f"d4rl/{name}", 0, 0)
        assert (
            len(data.rewards) == rows - 1
            and data.name == f"d4rl/{name}"
            and len(server.requests) == 2
        )
        assert (tmp_path / "cache/d4rl/data.hdf5").read_bytes() == server.content
        load_dataset(f"d4rl/{name}", 0, 0)
        own = tmp_path / "own/data.hdf5"
        own.parent.mkdir()
        own.write_bytes(source.read_bytes())
        monkeypatch.setattr(sys.modules["d4rl.offline_env"], "DATASET_PATH", str(own.parent))
        (tmp_path / "cache/d4rl/data.hdf5").unlink()
        load_dataset(f"d4rl/{name}", 0, 0)
        own.write_bytes(server.content[:-1000])
        with pytest.raises(
            CepnbError,
            match=f"^{own}: the file is incomplete; delete it to download it again",
        ):
            load_dataset(f"d4rl/{name}", 0, 0)
        with h5py.File(own, "w") as file:
            for key in ("observations", "actions", "rewards", "terminals"):
                file.create_dataset(key, (10**13,), np.float32, chunks=(1000,))
        with pytest.raises(
            CepnbError,
            match=rf"^{own}: not a whole HDF5 file \(MemoryError.*\); delete it, then download or export it again",
        ):
            load_dataset(f"d4rl/{name}", 0, 0)
        assert len(server.requests) == 2 and os.listdir(own.parent) == ["data.hdf5"]
    with pytest.raises(
        CepnbError,
        match="dataset 'd4rl/hopper-medium': not in d4rl's table; use a name such as hopper-medium-v",
    ):
        load_dataset("d4rl/hopper-medium", 0, 0)


GOALS = spaces.Dict(
    {key: spaces.Box(-9, 9, (2,), np.float64) for key in ("desired_goal", "achieved_goal")}
    | {"observation": spaces.Box(-9, 9, (4,), np.float64)}
)
VECTOR, ACTIONS = spaces.Box(-9, 9, (3,), np.float32), spaces.Box(-1, 1, (2,), np.float32)


def store(
    name: str,
    observation_space: spaces.Space,
    action_space: spaces.Space = ACTIONS,
    spoil: float = 0.0,
    **more: object,
) -> list[EpisodeBuffer]:
    random, buffers = np.random.default_rng(0), []
    for index, steps in enumerate((5, 3, 7)):
        for space in (observation_space, action_space):
            space.seed(index)
        observations = [observation_space.sample() for _ in range(steps + 1)]
        stacked = (
            {key: np.stack([o[key] for o in observations]) for key in observations[0]}
            if isinstance(observation_space, spaces.Dict)
            else np.stack(observations)
        )
        last = np.arange(steps) == steps - 1
        buffers.append(
            EpisodeBuffer(
                id=index,
                observations=stacked,
                actions=np.stack([action_space.sample() for _ in range(steps)]),
                rewards=(random.normal(size=steps) + spoil).tolist(),
                terminations=(last & (index == 1)).tolist(),
                truncations=(last & (index != 1)).tolist(),
                infos={},
            )
        )
    minari.create_dataset_from_buffers(
        name, buffers, observation_space=observation_space, action_space=action_space, **more
    )
    return buffers


@pytest.fixture
def minari_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


@pytest.mark.filterwarnings("ignore")
def test_minari_vectors_and_goals(minari_folder: Path) -> None:
    for name, space in (("test/vector-v0", VECTOR), ("test/goal-v0", GOALS)):
        buffers, data = store(name, space), load_dataset(f"minari/{name}", 0, 0)
        whole = [
            np.concatenate([b.observations["observation"], b.observations["desired_goal"]], axis=1)
            if space is GOALS
            else b.observations
            for b in buffers
        ]
        expected = (
            np.concatenate([o[:-1] for o in whole]),
            np.concatenate([b.actions for b in buffers]),
            np.concatenate([b.rewards for b in buffers]),
            np.concatenate([o[1:] for o in whole]),
        )
        found = (data.observations, data.actions, data.rewards, data.next_observations)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours.numpy(), theirs.astype(np.float32))
        assert data.terminals.nonzero().flatten().tolist() == [
            7
        ]  # only the second episode terminates
        np.testing.assert_allclose(
            data.episode_returns.numpy(), [np.sum(b.rewards) for b in buffers], rtol=1e-5
        )
        distinct, rows = distinct_states(data)
        assert torch.equal(distinct[rows], data.next_observations) and len(distinct) == 15 + 3


@pytest.mark.filterwarnings("ignore")
def test_unusable_minari_datasets_raise_one_line(minari_folder: Path) -> None:
    store("test/discrete-v0", VECTOR, spaces.Discrete(4))
    store("test/image-v0", spaces.Box(0, 255, (8, 8, 3), np.uint8))
    store("test/nan-v0", VECTOR, spoil=np.nan)
    store("test/uneven-v0", spaces.Box(np.zeros((2, 4)), np.arange(8.0).reshape(2, 4)))
    store("test/narrow-v0", spaces.Box(-9, 9, (0,), np.float32))
    store("test/cut-v0", VECTOR)
    path = minari_folder / "test/cut-v0/data/main_data.hdf5"
    path.write_bytes(path.read_bytes()[:3_000])
    store("test/half-v0", VECTOR)
    (minari_folder / "test/half-v0/data/main_data.hdf5").unlink()
    (minari_folder / "test/empty-v0").mkdir()
    for name, message in (
        ("discrete-v0", r"actions have the space Discrete\(4\); use vectors"),
        ("image-v0", "observations have the space Box.*; use vectors"),
        ("nan-v0", "'rewards' has values that are not finite; remove them"),
        ("none-v0", "not loaded .*; check the name and the connection$"),
        ("narrow-v0", r"'observations' has shape \(15, 0\); store \(rows, size\)"),
        ("uneven-v0", "observations have the space Box"),
        ("cut-v0", f"not loaded .*; delete {minari_folder}/test/cut-v0 to"),
        ("half-v0", f"not loaded .*; delete {minari_folder}/test/half-v0 to"),
        ("empty-v0", r"not loaded \([^;]*\); check the name and the connection$"),
        ("", "the name has no version"),
        ("..", "the name has no version"),
        ("../test", "the name has no version"),
        (
            "none",
            "the name has no version; use a name such as minari/mujoco/hopper/medium-v0",
        ),
    ):
        with pytest.raises(CepnbError, match=f"^dataset 'minari/test/{name}': {message}") as caught:
            load_dataset(f"minari/test/{name}", 0, 0)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_runs_reject_actions_outside_the_environments_range(minari_folder: Path) -> None:
    """Check files and Minari; rounding is accepted, and `load_dataset` accepts any range."""
    chosen = qgpo_settings("ci")
    for name, factor in (("rounded", 1 + 1e-6), ("other", 2.0)):
        copy_of("local/maze2d-umaze", minari_folder / f"{name}.hdf5", actions=lambda a: factor * a)
    load_task(f"{minari_folder}/rounded.hdf5", "maze2d-umaze", chosen.transitions, chosen.data_seed)
    store("test/pusher-v0", VECTOR, spaces.Box(-2, 2, (2,), np.float32))
    for name in (f"{minari_folder}/other.hdf5", "minari/test/pusher-v0"):
        with pytest.raises(
            CepnbError,
            match=rf"^dataset '{name}': actions reach [12]\S*, but environments take \[-1, 1\]; rescale them$",
        ):
            load_task(name, "maze2d-umaze", chosen.transitions, chosen.data_seed)
        load_dataset(name, 0, 0, episode_limit=300)


@pytest.mark.filterwarnings("ignore")
def test_minari_columns_are_read_as_vectors(minari_folder: Path) -> None:
    """Rewards and terminations of shape (T, 1) load as those of shape (T,)."""
    store("test/vector-v0", VECTOR)
    store("test/column-v0", VECTOR)
    with h5py.File(minari_folder / "test/column-v0/data/main_data.hdf5", "a") as file:
        for episode in file.values():
            for key in ("rewards", "terminations"):
                column = episode[key][()][:, None]
                del episode[key]
                episode[key] = column
    vector, column = (load_dataset(f"minari/test/{name}-v0", 0, 0) for name in ("vector", "column"))
    assert column.rewards.shape == (15,) and torch.equal(column.rewards, vector.rewards)
    assert torch.equal(column.terminals, vector.terminals) and digest(column) == digest(vector)
    assert torch.equal(column.episode_returns, vector.episode_returns)


ANT_GOALS = spaces.Dict(
    {key: spaces.Box(-9, 9, (2,), np.float64) for key in ("desired_goal", "achieved_goal")}
    | {"observation": spaces.Box(-9, 9, (27,), np.float64)}
)


@pytest.mark.filterwarnings("ignore")
def test_goals_in_observations_are_refused_for_environments_without(minari_folder: Path) -> None:
    """AntMaze's 27 coordinates and a goal are as many as D4RL's 29 with the position of the torso."""
    store("test/antmaze-v0", ANT_GOALS, spaces.Box(-1, 1, (8,), np.float32))
    store("test/pointmaze-v0", GOALS)
    for name, environment in (("antmaze", "antmaze-umaze"), ("pointmaze", "maze2d-umaze")):
        problem = f"observations include a goal, but those of {environment} do not; train with --no"
        with pytest.raises(CepnbError, match=f"^dataset 'minari/test/{name}-v0': {problem}"):
            load_task(f"minari/test/{name}-v0", environment, 0, 0)
    assert load_task("minari/test/antmaze-v0", None, 0, 0).observations.shape == (15, 29)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"obs": GOALS}),
        spaces.Dict({"observation": VECTOR, "goal": VECTOR}),
        spaces.Dict({"state": spaces.Dict({"position": VECTOR, "Goal": VECTOR})}),
    ],
)
def test_goals_are_found_at_every_level(space: spaces.Dict) -> None:
    assert _has_goal(space) and not _has_goal(spaces.Dict({"a": VECTOR})) and not _has_goal(VECTOR)


@pytest.mark.filterwarnings("ignore")
def test_minari_flags_must_be_0_or_1(minari_folder: Path) -> None:
    store("test/none-v0", VECTOR)
    with h5py.File(minari_folder / "test/none-v0/data/main_data.hdf5", "a") as file:
        del file["episode_1/terminations"]
        file["episode_1/terminations"] = np.full(3, 0.3)
    with pytest.raises(CepnbError, match="'terminals' has values other than 0 and 1; store 0 or 1"):
        load_dataset("minari/test/none-v0", 0, 0)


def own_file(path: Path, observations: np.ndarray, actions: int) -> str:
    rows = len(observations)
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = observations, np.zeros((rows, actions))
        file["rewards"], file["terminals"] = np.arange(rows), np.zeros(rows, bool)
        file["timeouts"] = np.zeros(rows, bool)
    return str(path)


def copy_of(
    name: str, path: Path, rows: slice = slice(None), **changes: Callable[[np.ndarray], np.ndarray]
) -> str:
    """Write rows of a local dataset as a reader's own file, with some columns changed."""
    with h5py.File(local_dataset(name, 2_000, 0)) as source, h5py.File(path, "w") as file:
        for key in ("observations", "actions", "rewards", "terminals", "timeouts"):
            file[key] = changes.get(key, lambda column: column)(source[key][rows])
    return str(path)


SPOILT = {
    "other units": lambda x: 57.3 * x,
    "half the size": lambda x: x / 2,
    "another order": lambda x: x[:, ::-1],
    "velocities first": lambda x: np.roll(x, x.shape[1] // 2, axis=1),
    "an offset": lambda x: x + 1,
    "mirrored": lambda x: -x,
    "standardised": lambda x: (x - x.mean(axis=0)) / x.std(axis=0),
}


@pytest.mark.parametrize("rows", [slice(None), slice(700, 715)])
@pytest.mark.parametrize("name", ["maze2d-umaze", "hopper-medium-replay", "halfcheetah-medium"])
def test_coordinates_must_be_those_of_the_environment(
    tmp_path: Path, name: str, rows: slice
) -> None:
    """The rows are stepped again, so that order, units and origin matter, however few rows there are."""
    environment = name if name.startswith("maze2d") else name.partition("-")[0]
    path = tmp_path / "f.hdf5"
    load_task(copy_of(f"local/{name}", path, rows), environment, 0, 0)
    for how, change in SPOILT.items():
        copy_of(f"local/{name}", path, rows, observations=change)
        with pytest.raises(
            CepnbError, match=f"^dataset '{path}': in .* of the rows tried"
        ) as found:
            load_task(str(path), environment, 0, 0)
        assert "use the environment's coordinates, order and units" in str(found.value), how


def test_data_of_another_task_is_named(tmp_path: Path) -> None:
    for name, environment in (
        ("halfcheetah-medium", "walker2d"),
        ("maze2d-large", "maze2d-umaze"),
        ("maze2d-umaze", "maze2d-large"),
    ):
        path = copy_of(f"local/{name}", tmp_path / "f.hdf5")
        with pytest.raises(CepnbError, match=f"rows tried, {environment} steps to another state"):
            load_task(path, environment, 0, 0)
    random = np.random.default_rng(0)
    ant = np.c_[random.normal(size=(2_000, 27)), np.full((2_000, 2), (0.5, 8.5))]  # and its goal
    with pytest.raises(
        CepnbError, match="coordinates .*28 of observations do not fit antmaze-umaze"
    ):
        load_task(own_file(tmp_path / "d.hdf5", ant, 8), "antmaze-umaze", 0, 0)


def test_examples_of_a_run_tell_its_coordinates(tmp_path: Path) -> None:
    """A run may name its environment after training, when its data may be gone."""
    path, dataset = tmp_path / "e.safetensors", load_dataset("local/maze2d-large", 2_000, 0)
    save_examples(dataset, path)
    check_coordinates(load_examples(path, "mine"), "maze2d-large")
    with pytest.raises(
        CepnbError, match="^dataset 'mine': in 100% of the rows tried, maze2d-umaze"
    ):
        check_coordinates(load_examples(path, "mine"), "maze2d-umaze")
    save_examples(replace(dataset, has_goal=True), path)
    with pytest.raises(CepnbError, match="^dataset 'mine': observations include a goal"):
        check_coordinates(load_examples(path, "mine"), "maze2d-large")


def test_settings_of_local_data_are_refused_for_other_data(tmp_path: Path) -> None:
    path = own_file(tmp_path / "f.hdf5", np.ones((9, 4)), 2)
    check_used(path, {"beta": 3.0})
    check_used("local/maze2d-umaze", {"transitions": 100, "data_seed": 1})
    for name in (path, "d4rl/hopper-medium-v2", "minari/mujoco/hopper/medium-v0"):
        for setting in ("transitions", "data_seed"):
            with pytest.raises(CepnbError, match=f"^{setting} 7: dataset '{name}' does not use it"):
                check_used(name, {setting: 7})


def test_missing_dataset_is_named_before_its_environment() -> None:
    for name in ("missing.hdf5", "nothing"):
        with pytest.raises(CepnbError, match=f"^dataset '{name}': not found"):
            evaluated_in(name)
    with pytest.raises(CepnbError, match="^dataset 'local/nope': use one of local/maze2d-umaze, "):
        evaluated_in("local/nope")


def test_importing_the_sources_is_cheap() -> None:
    code = "import cepnb.datasets.registry, sys; print([m for m in ('minari', 'd4rl', 'gym', 'gymnasium') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


@pytest.mark.filterwarnings("ignore")
def test_deletion_of_an_intact_minari_dataset_is_not_advised(
    minari_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("test/whole-v0", VECTOR)
    for error, fix in (
        (ImportError("pyarrow is not installed"), "install what is missing"),
        (ValueError("Minari 0.5 does not support 99.0"), "upgrade minari or store the dataset"),
        (MemoryError(), "free memory or use a smaller file"),
    ):

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(minari, "load_dataset", fail)
        with pytest.raises(CepnbError, match=f"; {fix}") as caught:
            load_dataset("minari/test/whole-v0", 0, 0)
        assert "delete" not in str(caught.value)
