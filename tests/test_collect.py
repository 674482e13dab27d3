"""Tests of local data: properties of the recipe, repeatability, atomic files."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from cepnb.datasets import local as module
from cepnb.datasets.hdf5 import load_hdf5
from cepnb.datasets.local import local_dataset
from cepnb.datasets.waypoint import collect_maze
from cepnb.envs.maze import LAYOUTS
from cepnb.errors import CepnbError
from cepnb.storage import files


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEPNB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_controller_reaches_goals_in_the_whole_maze(name: str) -> None:
    data, maze = collect_maze(name, 20_000, seed=0, progress=False), LAYOUTS[name]
    visited = {tuple(cell) for cell in np.round(data["observations"][:, :2]).astype(int).tolist()}
    assert visited == set(maze.cells)  # every free cell and no wall
    ends = np.nonzero(data["timeouts"])[0]
    reached = (
        np.linalg.norm(data["observations"][ends, :2] - np.round(data["infos/goal"][ends]), axis=1)
        < 0.1
    )
    assert reached.mean() > 0.98  # before the time limit
    changed = np.nonzero(np.any(np.diff(data["infos/goal"], axis=0) != 0, axis=1))[0]
    assert set(changed) <= set(ends)  # a goal changes only at a timeout
    assert not data["terminals"].any() and np.abs(data["actions"]).max() <= 1
    near = np.linalg.norm(data["observations"][:, :2] - maze.target, axis=1) <= 0.5
    assert np.array_equal(data["rewards"], near.astype(np.float32))


def test_one_trajectory_without_gaps() -> None:
    """Check that positions move by their velocity, at most 5.5 · 0.01 a step."""
    data = collect_maze("umaze", 5_000, seed=1, progress=False)
    assert np.abs(np.diff(data["observations"][:, :2], axis=0)).max() < 0.055
    moved = (
        np.diff(data["observations"][:, :2], axis=0) / 0.01
    )  # semi-implicit Euler: x' = x + 0.01 v'
    np.testing.assert_allclose(
        moved, data["observations"][1:, 2:], atol=2e-4
    )  # float32 positions divided by 0.01


def test_noise_and_seeds() -> None:
    clean, same, other = (collect_maze("umaze", 500, seed=s, progress=False) for s in (0, 0, 1))
    assert all(np.array_equal(clean[key], same[key]) for key in clean)
    assert not np.array_equal(clean["actions"], other["actions"])
    noisy = collect_maze("umaze", 5_000, seed=0, noisy=True, progress=False)
    free = np.abs(noisy["actions"]) < 1
    assert 0.1 < free.mean() < 0.9 and np.abs(noisy["actions"]).max() <= 1


def test_only_noise_allows_a_stop_in_the_disc() -> None:
    """Check what docs/data.md says of noise."""
    rows = {
        noisy: collect_maze("umaze", 20_000, seed=0, noisy=noisy, progress=False)
        for noisy in (False, True)
    }
    lowest = {noisy: data["observations"][:, :2].min() for noisy, data in rows.items()}
    assert lowest[True] < lowest[False] - 0.02
    for noisy, data in rows.items():
        below = (data["rewards"] == 1) & (data["observations"][:, 1] < 1.2)
        share = (data["actions"][below, 1] < 0).mean()
        assert (0.01 < share < 0.04) if noisy else (share == 0)  # P(1 + 0.5 z < 0) = 2.3 %
        x, y = data["observations"][:, :2].T
        low = (x < 2) & (y < 1)  # in the arm with the disc
        assert low.any() and (data["rewards"][low] == 1).all()  # so no row shows its end


def test_files_are_made_once_labelled_and_verified() -> None:
    path = local_dataset("local/maze2d-umaze", 1_000, 0)
    stamp = path.stat().st_mtime_ns
    assert (
        local_dataset("local/maze2d-umaze", 1_000, 0) == path and path.stat().st_mtime_ns == stamp
    )
    with h5py.File(path) as file:
        assert "not the published D4RL file" in file.attrs["origin"] and file.attrs["seed"] == 0
    assert len(load_hdf5(path).rewards) > 900
    assert local_dataset("local/maze2d-umaze-noisy", 1_000, 0) != path
    with h5py.File(path, "r+") as file:
        file["rewards"][5] = 7.0
    with pytest.raises(
        CepnbError, match="arrays do not match the checksum; delete it to make it again"
    ):
        local_dataset("local/maze2d-umaze", 1_000, 0)
    path.write_bytes(b"cut")
    with pytest.raises(CepnbError, match="not a whole HDF5 file; delete it to make it again"):
        local_dataset("local/maze2d-umaze", 1_000, 0)


@pytest.mark.parametrize(
    "name, changed",
    [
        ("local/maze2d-umaze-noisy", {"noise": 0.4}),
        ("local/maze2d-umaze", {"layout": "#####/#GOO#/###O#/#OOO#/####O"}),
        ("local/maze2d-umaze", {"steps": 200}),
        ("local/maze2d-umaze", {"recipe": 0}),
        ("local/halfcheetah-medium", {"agents": "{}"}),
        ("local/halfcheetah-medium", {"agents_sha256": "0"}),
    ],
)
def test_file_with_another_recipe_is_made_again(
    name: str, changed: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also check that the old file survives a failed write, and that missing entries count as current."""
    rows = {"observations": np.zeros((50, 17), np.float32)}
    monkeypatch.setattr(module, "collect_locomotion", lambda *_: rows)
    path = local_dataset(name, 50, 0)
    with h5py.File(path, "r+") as file:
        arrays, attributes = file.attrs["sha256"], dict(file.attrs)
        assert set(changed) <= set(attributes)
        for key in {"recipe", "layout", "steps", "agents_sha256"} & set(attributes):
            del file.attrs[key]  # early files lack these entries
    stamp = path.stat().st_mtime_ns
    assert local_dataset(name, 50, 0) == path and path.stat().st_mtime_ns == stamp
    with h5py.File(path, "r+") as file:
        file.attrs.update(changed)
    before = path.read_bytes()
    with monkeypatch.context() as failing:
        failing.setattr(h5py.Group, "create_dataset", full)
        with pytest.raises(CepnbError, match="could not be written"):
            local_dataset(name, 50, 0)
    assert path.read_bytes() == before
    assert local_dataset(name, 50, 0) == path
    with h5py.File(path) as file:
        assert file.attrs["sha256"] == arrays and dict(file.attrs) == attributes


def test_file_without_a_recipe_version_has_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    path = local_dataset("local/maze2d-umaze", 50, 0)
    with h5py.File(path, "r+") as file:
        del file.attrs["recipe"]
    monkeypatch.setitem(module.RECIPES, "maze2d", 2)
    local_dataset("local/maze2d-umaze", 50, 0)
    with h5py.File(path) as file:
        assert file.attrs["recipe"] == 2


def _write_and_die() -> None:
    whole = h5py.Group.create_dataset

    def half(group: h5py.Group, name: str, **values: object) -> None:
        whole(group, name, **values)
        os.kill(os.getpid(), signal.SIGKILL)

    h5py.Group.create_dataset = half
    local_dataset("local/maze2d-umaze", 1_000, 3)


def test_killed_write_leaves_no_file() -> None:
    process = multiprocessing.get_context("spawn").Process(target=_write_and_die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not list(module.cache_dir().rglob("*.hdf5"))
    assert local_dataset("local/maze2d-umaze", 1_000, 3).exists()


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_failed_write_raises_one_line_and_leaves_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h5py.Group, "create_dataset", full)
    with pytest.raises(
        CepnbError, match="could not be written .No space left on device."
    ) as caught:
        local_dataset("local/maze2d-umaze", 1_000, 0)
    assert "\n" not in str(caught.value)
    assert not [p for p in module.cache_dir().rglob("*") if p.is_file()]


@pytest.mark.parametrize(
    "name", ["local/maze2d-tiny", "local/hopper", "local/ant-medium", "maze2d-umaze"]
)
def test_unknown_names(name: str) -> None:
    with pytest.raises(CepnbError, match=f"dataset '{name}': use one of local/maze2d-umaze"):
        local_dataset(name, 100, 0)


# Files may have 5,000 bytes; the system ignores the signal that a larger write sends.
SMALL_DISK = """
import resource
from cepnb.datasets.local import local_dataset
from cepnb.errors import CepnbError
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))
try:
    local_dataset("local/maze2d-umaze", 1_000, 0)
except CepnbError as error:
    print(error)
"""


def test_refused_write_ends_without_a_crash() -> None:
    ran = subprocess.run([sys.executable, "-c", SMALL_DISK], capture_output=True, text=True)
    assert ran.returncode == 0 and "Traceback" not in ran.stderr, ran.stderr
    assert "could not be written (File too large); " in ran.stdout and ran.stdout.count("\n") == 1
    assert not [path for path in module.cache_dir().rglob("*") if path.is_file()]


def test_missing_space_and_a_file_in_the_way_are_found_before_collecting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "collect_maze", lambda *_: pytest.fail("collected"))
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))
    with pytest.raises(
        CepnbError, match="hdf5: needs 0.0004 GB, but 1e-06 GB are free; free space"
    ):
        local_dataset("local/maze2d-umaze", 1_000, 0)
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(CepnbError, match="a file has the name of a folder; rename it or use"):
        local_dataset("local/maze2d-umaze", 1_000, 0)
