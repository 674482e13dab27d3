"""Tests of the HDF5 reader against d4rl's own in every published layout, and on bad files."""

import fcntl
import warnings
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import config

from cepnb.datasets.d4rl import is_whole_hdf5
from cepnb.datasets.dataset import OfflineDataset, check_rewards_vary, digest, distinct_states
from cepnb.datasets.hdf5 import load_hdf5
from cepnb.datasets.local import local_dataset, verify
from cepnb.datasets.registry import load_dataset, load_task
from cepnb.envs.d4rl_package import d4rl
from cepnb.errors import CepnbError
from cepnb.qgpo.transitions import prepare


def example(rows: int = 60, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "observations": random.normal(size=(rows, 3)).astype(np.float32),
        "actions": random.uniform(-1, 1, size=(rows, 2)).astype(np.float32),
        "rewards": random.normal(size=rows).astype(np.float32),
        "terminals": random.random(rows) < 0.1,
        "timeouts": random.random(rows) < 0.1,
    }


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file[key] = value
    return path


def assert_as_d4rl(path: Path, limit: int = 1000) -> None:
    """Compare transitions with those that d4rl's own environment reads from the file."""
    qlearning_dataset = d4rl().qlearning_dataset
    import gym
    from d4rl.offline_env import OfflineEnv

    environment = OfflineEnv()
    environment.observation_space, environment.action_space = (
        gym.spaces.Box(-9, 9, (size,)) for size in (3, 2)
    )
    environment._max_episode_steps = limit
    expected = qlearning_dataset(environment, dataset=environment.get_dataset(str(path)))
    found = load_hdf5(path, episode_limit=limit)
    for key, value in expected.items():
        assert np.array_equal(getattr(found, key).numpy(), value), key


@given(st.integers(2, 80), st.integers(0, 1000))
def test_equal_to_d4rl_with_timeouts(
    tmp_path_factory: pytest.TempPathFactory, rows: int, seed: int
) -> None:
    arrays = example(rows, seed)
    arrays["timeouts"][0] = False  # keeps at least one transition
    assert_as_d4rl(write(tmp_path_factory.mktemp("d4rl") / "f.hdf5", arrays))


@given(st.integers(2, 80), st.integers(0, 1000), st.integers(2, 15))
def test_equal_to_d4rl_without_timeouts(
    tmp_path_factory: pytest.TempPathFactory, rows: int, seed: int, limit: int
) -> None:
    arrays = example(rows, seed)
    del arrays["timeouts"]
    assert_as_d4rl(write(tmp_path_factory.mktemp("d4rl") / "f.hdf5", arrays), limit)


def test_columns_metadata_and_float64_are_read_as_d4rl_reads_them(tmp_path: Path) -> None:
    arrays = example()
    for key in ("rewards", "terminals", "timeouts"):
        arrays[key] = arrays[key][:, None]
    arrays["observations"] = arrays["observations"].astype(np.float64)
    path = write(
        tmp_path / "f.hdf5",
        arrays | {"metadata/algorithm": np.bytes_(b"SAC"), "infos/qpos": np.zeros((60, 2))},
    )
    assert_as_d4rl(path)


@pytest.mark.parametrize(
    "terminals, timeouts, limit, returns",
    [
        ([1], [4], None, [3, 28]),  # the last piece is incomplete
        ([1, 6], [4], None, [3, 28, 96]),
        ([1], [4, 6], None, [3, 28, 96]),  # without a limit every timeout counts
        ([1], [4, 6], 3, [3, 28, 96]),  # an end by time may be one row early
        ([1], [4, 6], 4, [3, 28]),  # two rows are too few: the end of the file cut the episode
        ([1], None, 3, [3, 28]),  # without timeouts, every three rows after the terminal
        ([], [], None, [127]),  # no episode is complete, so all pieces count
        ([], [3], 20, [15, 112]),
    ],
)
def test_episode_returns_count_complete_episodes(
    tmp_path: Path,
    terminals: list[int],
    timeouts: list[int] | None,
    limit: int | None,
    returns: list[float],
) -> None:
    arrays = example(7) | {
        "rewards": 2.0 ** np.arange(7),
        "terminals": np.isin(np.arange(7), terminals),
    }
    arrays["timeouts"] = np.isin(np.arange(7), timeouts if timeouts is not None else [])
    if timeouts is None:
        del arrays["timeouts"]
    assert (
        load_hdf5(write(tmp_path / "f.hdf5", arrays), episode_limit=limit).episode_returns.tolist()
        == returns
    )


@given(st.integers(2, 60), st.integers(0, 1000))
def test_distinct_states_cover_all_and_point_right(
    tmp_path_factory: pytest.TempPathFactory, rows: int, seed: int
) -> None:
    arrays = example(rows, seed)
    arrays["timeouts"][0] = False
    dataset = load_hdf5(write(tmp_path_factory.mktemp("d4rl") / "f.hdf5", arrays))
    distinct, next_row = distinct_states(dataset)
    n = len(dataset.rewards)
    assert torch.equal(distinct[:n], dataset.observations)
    assert torch.equal(distinct[next_row], dataset.next_observations)
    dropped = int(arrays["timeouts"][:-1].sum())
    assert len(distinct) <= n + dropped + 1  # one more state per cut and at the end of the file


def changed(key: str, change) -> dict[str, np.ndarray]:
    arrays = example()
    arrays[key] = change(arrays[key])
    return arrays


def poison(value: float):
    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.flat[7] = value
        return array

    return change


@pytest.mark.parametrize(
    "arrays, message",
    [
        (
            changed("rewards", lambda a: a[:-1]),
            "'rewards' has 59 rows but 'observations' has 60; re-export the file",
        ),
        (
            changed("actions", lambda a: a[:-3]),
            "'actions' has 57 rows but 'observations' has 60; re-export the file",
        ),
        (changed("rewards", poison(np.nan)), "'rewards' has values that are not finite"),
        (changed("rewards", poison(np.inf)), "'rewards' has values that are not finite"),
        (changed("observations", poison(np.nan)), "'observations' has values that are not finite"),
        (
            changed("actions", lambda a: a[:, 0]),
            "'actions' has shape \\(60,\\); store \\(rows, size\\)",
        ),
        (changed("rewards", lambda a: np.full(60, b"x")), "'rewards' has type"),
        ({k: v for k, v in example().items() if k != "actions"}, "'actions' is missing"),
        ({k: v for k, v in example().items() if k != "timeouts"}, "'timeouts' is missing; add it"),
        ({k: v[:1] for k, v in example().items()}, "has 1 rows; store at least 2"),
        (changed("timeouts", np.ones_like), "no transition is left"),
        (changed("timeouts", lambda a: a * 0.3), "'timeouts' has values other than 0 and 1; store"),
        (changed("terminals", lambda a: a * -1), "'terminals' has values other than 0 and 1;"),
        (changed("terminals", lambda a: np.arange(60)), "'terminals' has values other than 0 and"),
        (
            changed("rewards", lambda a: a.astype(np.complex64)),
            "'rewards' has type complex64; store numbers",
        ),
        (
            changed("rewards", lambda a: np.full(60, 1e300)),
            "'rewards' has values that are not finite",
        ),
        (changed("rewards", lambda a: "abc"), "'rewards' has shape \\(\\); store \\(rows,\\)"),
        (changed("timeouts", lambda a: 3.0), "'timeouts' has shape \\(\\); store \\(rows,\\)"),
        (
            changed("observations", lambda a: "abc"),
            "'observations' has shape \\(\\); store \\(rows, size\\)",
        ),
        (
            changed("rewards", lambda a: h5py.Reference()),
            "'rewards' has shape \\(\\); store \\(rows,\\)",
        ),
        (
            changed("observations", lambda a: a[:, :0]),
            "'observations' has shape \\(60, 0\\); store \\(rows, size\\)",
        ),
        (
            changed("actions", lambda a: a[:, :0]),
            "'actions' has shape \\(60, 0\\); store \\(rows, size\\)",
        ),
    ],
)
def test_bad_files_are_named(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(CepnbError, match=f"f.hdf5: .*{message}") as caught:
        load_hdf5(write(tmp_path / "f.hdf5", arrays))
    assert "\n" not in str(caught.value)


def test_missing_truncated_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(CepnbError, match="no such file"):
        load_hdf5(tmp_path / "nothing.hdf5")
    whole = write(tmp_path / "f.hdf5", example(2000)).read_bytes()
    (tmp_path / "cut.hdf5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.hdf5").write_text("not HDF5")
    for name in ("cut.hdf5", "text.hdf5"):
        with pytest.raises(CepnbError, match=f"{name}: not a whole HDF5 file"):
            load_hdf5(tmp_path / name)
    with h5py.File(
        write(tmp_path / "odd.hdf5", {k: v for k, v in example().items() if k != "rewards"}), "a"
    ) as file:
        file["rewards"] = h5py.SoftLink("/elsewhere")
    with pytest.raises(
        CepnbError, match="odd.hdf5: 'rewards' is missing|odd.hdf5: not a whole HDF5 file"
    ):
        load_hdf5(tmp_path / "odd.hdf5")
    with h5py.File(tmp_path / "odd.hdf5", "a") as file:
        del file["rewards"]
        file.create_group("rewards")
    with pytest.raises(CepnbError, match="odd.hdf5: 'rewards' is not an array; store numbers"):
        load_hdf5(tmp_path / "odd.hdf5")
    with h5py.File(tmp_path / "odd.hdf5", "a") as file:
        del file["rewards"]
        file.create_dataset("rewards", (10**13,), np.float32, chunks=(1000,))
    with pytest.raises(CepnbError, match="odd.hdf5: not a whole HDF5 file .MemoryError"):
        load_hdf5(tmp_path / "odd.hdf5")


def test_any_damage_is_one_line(tmp_path: Path) -> None:
    whole, random = write(tmp_path / "f.hdf5", example()).read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        spoilt = bytearray(whole)
        for place in random.integers(len(whole), size=3):
            spoilt[place] = random.integers(256)
        (tmp_path / "f.hdf5").write_bytes(spoilt)
        try:
            load_hdf5(tmp_path / "f.hdf5")
        except CepnbError as error:
            assert str(error).startswith(str(tmp_path)) and "\n" not in str(error)


def test_unknown_dataset_names(tmp_path: Path) -> None:
    with pytest.raises(CepnbError, match="dataset 'hopper': not found"):
        load_dataset("hopper", 100, 0)
    with pytest.raises(
        CepnbError,
        match="^dataset name is empty; use local/…, d4rl/…, minari/… or the path of an HDF5 file",
    ):
        load_dataset("", 100, 0)
    with pytest.raises(
        CepnbError, match=f"^{tmp_path}: is a folder; give the path of a D4RL HDF5 file"
    ):
        load_dataset(str(tmp_path), 100, 0)
    with pytest.raises(CepnbError, match="use one of local/maze2d-umaze, "):
        load_dataset("local/maze2d-tiny", 100, 0)


@pytest.mark.parametrize("source", ["local", "d4rl", "minari"])
def test_file_in_a_folder_named_like_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / source).mkdir()
    write(tmp_path / source / "own.hdf5", example())
    assert load_dataset(f"{source}/own.hdf5", 100, 0).name == f"{source}/own.hdf5"


def test_constant_rewards_raise(tmp_path: Path) -> None:
    flat = load_hdf5(write(tmp_path / "f.hdf5", changed("rewards", np.zeros_like)))
    with pytest.raises(CepnbError, match="all rewards are 0; use data with rewards that differ"):
        check_rewards_vary(flat)
    check_rewards_vary(load_hdf5(write(tmp_path / "g.hdf5", example())))
    local = replace(flat, name="local/maze2d-umaze")
    with pytest.raises(CepnbError, match="all rewards are 0; raise the setting transitions"):
        check_rewards_vary(local)


def walk(rows: int = 200) -> dict[str, np.ndarray]:
    """A trajectory in the small maze with its next states."""
    states = np.cumsum(np.full((rows + 1, 4), 0.01), axis=0) + (1, 1, 0, 0)
    return example(rows) | {
        "observations": states[:-1],
        "next_observations": states[1:].astype(np.float32),
        "terminals": np.zeros(rows, bool),
        "timeouts": np.zeros(rows, bool),
    }


def test_timeouts_of_an_own_file_complete_episodes(tmp_path: Path) -> None:
    """Eight episodes end by timeouts at half of hopper's limit, and two by a fall."""
    lengths, falls = [500] * 4 + [78] + [500] * 4 + [112, 30], [4, 9]
    ends = np.cumsum(lengths) - 1
    arrays = example(sum(lengths)) | {"rewards": np.ones(sum(lengths), np.float32)}
    arrays["terminals"] = np.isin(np.arange(sum(lengths)), ends[falls])
    arrays["timeouts"] = np.isin(np.arange(sum(lengths)), np.delete(ends, falls)[:-1])
    path = write(tmp_path / "f.hdf5", arrays)
    found = load_dataset(str(path), 0, 0, episode_limit=1000).episode_returns
    assert found.tolist() == lengths[:-1]  # the end of the file cuts the last episode


def test_terminal_of_an_own_file_is_kept_with_a_timeout(tmp_path: Path) -> None:
    arrays = walk() | {"rewards": np.arange(200.0)}
    arrays["terminals"][50], arrays["timeouts"][[50, 120]] = True, True
    data = load_dataset(str(write(tmp_path / "f.hdf5", arrays)), 0, 0)
    assert data.rewards[data.terminals].tolist() == [50] and len(data.rewards) == 198


def test_next_observations_of_an_own_file_are_checked(tmp_path: Path) -> None:
    arrays = walk()
    arrays["terminals"][50], arrays["timeouts"][120] = True, True
    arrays["next_observations"][[50, 120, 199]] = 7  # ends of episodes
    load_dataset(str(write(tmp_path / "f.hdf5", arrays)), 0, 0)
    order = np.random.default_rng(0).permutation(200)
    shuffled = {key: value[order] for key, value in walk().items()}
    uncut = walk()
    uncut["next_observations"][99] = 7  # an episode ends here without a timeout
    for name, spoilt, wrong in (("shuffled", shuffled, 19), ("uncut", uncut, 1)):
        path = write(tmp_path / f"{name}.hdf5", spoilt)
        problem = f"'next_observations' is not the next row in {wrong}.* rows; store rows in order"
        with pytest.raises(CepnbError, match=f"^{path}: {problem}"):
            load_dataset(str(path), 0, 0)
    narrow = walk() | {"next_observations": np.zeros((200, 1))}
    with pytest.raises(CepnbError, match=r"'next_observations' has shape \(200, 1\); store"):
        load_dataset(str(write(tmp_path / "f.hdf5", narrow)), 0, 0)


def test_own_file_names_its_environment(tmp_path: Path) -> None:
    path = tmp_path / "f.hdf5"
    path.write_bytes(local_dataset("local/maze2d-umaze-noisy", 2_000, 0).read_bytes())
    load_task(str(path), "maze2d-umaze", 0, 0)
    with pytest.raises(CepnbError, match="was made in maze2d-umaze, not maze2d-medium; use --env"):
        load_task(str(path), "maze2d-medium", 0, 0)


def test_file_that_cannot_be_opened_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lock a file as a writing process does, and refuse to open it; deletion is not advised."""
    path = write(tmp_path / "f.hdf5", example())
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CepnbError, match="another process has it open; wait for") as locked:
            load_hdf5(path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(h5py, "File", refuse)
    for read in (load_hdf5, verify, is_whole_hdf5):
        with pytest.raises(
            CepnbError, match=r"read \(Permission denied\); allow reading"
        ) as closed:
            read(path)
    assert not any("delete" in str(caught.value) for caught in (locked, closed))


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "terminals"])
def test_columns_of_other_shapes_are_refused_from_python(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column (n, 1) would broadcast to (n, n), although its digest is that of a vector."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # else the tests' own checks raise first
    columns = dict(observations=torch.zeros(5, 3), actions=torch.zeros(5, 2))
    columns |= dict(rewards=torch.arange(5.0), next_observations=torch.zeros(5, 3))
    columns |= dict(terminals=torch.zeros(5, dtype=torch.bool), episode_returns=torch.ones(1))
    OfflineDataset("mine", **columns)
    with pytest.raises(CepnbError, match=rf"^mine: '{key}' has shape \(5, .*1\); store \(rows"):
        OfflineDataset("mine", **columns | {key: columns[key][..., None]})
    with pytest.raises(CepnbError, match="^mine: '.*' has . rows but 'observations' has . *;"):
        OfflineDataset("mine", **columns | {key: columns[key][:4]})


def python_columns(**changes: object) -> dict[str, object]:
    """Make the fields of a dataset of five rows."""
    columns = dict(observations=torch.rand(5, 3), actions=torch.zeros(5, 2))
    columns |= dict(rewards=torch.arange(5.0), next_observations=torch.rand(5, 3))
    columns |= dict(terminals=torch.zeros(5), episode_returns=torch.arange(2.0))
    return columns | changes


def test_arrays_and_other_number_types_from_python_are_converted(as_users_call_it: None) -> None:
    columns = python_columns(terminals=torch.tensor([0, 1, 0, 0, 1]))
    expected = OfflineDataset("mine", **columns)
    assert expected.terminals.tolist() == [False, True, False, False, True]
    reversed_twice = {key: value.flip(0).numpy()[::-1] for key, value in columns.items()}
    big_endian = {key: value.numpy().astype(">f8") for key, value in columns.items()}
    read_only = {key: np.broadcast_to(v.numpy(), v.shape) for key, v in columns.items()}
    double = {key: value.double() for key, value in columns.items()}
    trained = {key: value.float().requires_grad_() for key, value in columns.items()}
    for changes in (reversed_twice, big_endian, read_only, double, trained):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = OfflineDataset("mine", **changes)
        for key in columns:
            assert torch.equal(getattr(found, key), getattr(expected, key)), key
    prepare(found, "return_range")
    rounded = python_columns(rewards=torch.arange(5).bfloat16())
    assert OfflineDataset("mine", **rounded).rewards.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"actions": torch.full((5, 2), np.nan)}, "'actions' has values that are not finite"),
        ({"next_observations": np.full((5, 3), -np.inf)}, "'next_observations' has values that"),
        ({"rewards": np.full(5, 1e300)}, "'rewards' has values that are not finite"),
        ({"rewards": np.full(5, "x")}, "'rewards' has type <U1; store numbers"),
        ({"rewards": torch.zeros(5, dtype=torch.cfloat)}, "'rewards' has type complex64; store"),
        ({"terminals": torch.full((5,), 0.5)}, "'terminals' has values other than 0 and 1"),
        ({"terminals": np.full(5, np.nan)}, "'terminals' has values other than 0 and 1"),
        ({"episode_returns": torch.tensor([1, np.inf])}, "'episode_returns' has values that"),
        ({"episode_returns": torch.tensor([1, np.nan])}, "'episode_returns' has values that"),
        ({"episode_returns": torch.zeros(0)}, "'episode_returns' has no rows; store at least one"),
        ({"episode_returns": torch.zeros(2, 1)}, r"'episode_returns' has shape \(2, 1\); store"),
        ({k: v[:0] for k, v in python_columns().items()}, "'observations' has no rows; store at"),
        ({"rewards": None}, r"'rewards' has shape \(\); store \(rows,\)"),
    ],
)
def test_bad_values_from_python_are_named(
    as_users_call_it: None, changes: dict[str, object], problem: str
) -> None:
    with pytest.raises(CepnbError, match=f"^mine: {problem}"):
        OfflineDataset("mine", **python_columns(**changes))


def test_actions_outside_the_policies_range_are_refused_from_python() -> None:
    data = OfflineDataset("mine", **python_columns(terminals=torch.zeros(5, dtype=torch.bool)))
    large = replace(data, actions=torch.full((5, 2), -1e6))
    with pytest.raises(
        CepnbError, match="^dataset 'mine': actions reach 1e.06, but environments take"
    ):
        prepare(large)


def test_digest_of_own_data_includes_its_episode_returns() -> None:
    """Tuned rewards depend on the returns, which rows that are no transitions can change."""
    data = OfflineDataset("mine", **python_columns(terminals=torch.zeros(5, dtype=torch.bool)))
    other = replace(data, episode_returns=torch.arange(3.0))
    assert digest(data) != digest(other)
    named = [replace(d, name="d4rl/hopper-medium-v2") for d in (data, other)]
    assert digest(named[0]) == digest(named[1])
    files = [replace(d, name="local/own.hdf5") for d in (data, other)]
    assert digest(files[0]) != digest(files[1])


def episodes(cut: str = "timeouts") -> dict[str, np.ndarray]:
    """Make four episodes of five rows from random starts, rewarded in their last rows."""
    random = np.random.default_rng(0)
    paths = random.normal(size=(4, 1, 3)) + np.arange(6)[:, None] * [0.1, 0.2, 0.3]
    last = np.arange(20) % 5 == 4
    return example(20) | {
        "observations": paths[:, :-1].reshape(20, 3),
        "next_observations": paths[:, 1:].reshape(20, 3),
        "rewards": last * 1.0,
        "terminals": np.zeros(20, bool),
        "timeouts": np.zeros(20, bool),
        cut: last,
    }


@pytest.mark.parametrize("cut", ["timeouts", "truncations", "truncated", "terminals"])
def test_last_rows_of_episodes_in_an_own_file_are_kept(tmp_path: Path, cut: str) -> None:
    """A sparse reward in the last row counts, where s' is stated or the row is terminal."""
    arrays = episodes(cut)
    if cut.startswith("trunc"):
        del arrays["timeouts"]
    data = load_dataset(str(write(tmp_path / "f.hdf5", arrays)), 0, 0)
    assert data.rewards.sum() == 4 and data.episode_returns.tolist() == [1] * 4
    going_on = ~data.terminals.numpy()
    np.testing.assert_allclose(
        data.next_observations[going_on], arrays["next_observations"][going_on], rtol=1e-6
    )


def test_starts_of_episodes_are_not_taken_as_next_states(tmp_path: Path) -> None:
    """Drop a timeout whose stated s' is the next row, the start of another episode, or unknown."""
    for last in (np.roll(episodes()["observations"], -1, axis=0), np.full((20, 3), np.nan)):
        arrays = episodes() | {"rewards": np.arange(20.0)}
        ends = arrays["timeouts"]
        arrays["next_observations"][ends] = last[ends]
        data = load_dataset(str(write(tmp_path / "f.hdf5", arrays)), 0, 0)
        assert data.rewards.tolist() == [i for i in range(20) if not ends[i]]


def test_rewards_without_a_next_state_are_named(tmp_path: Path) -> None:
    arrays = episodes()
    del arrays["next_observations"]
    with pytest.raises(CepnbError, match="rewards differ only in the last rows.*; store 'next_obs"):
        load_dataset(str(write(tmp_path / "f.hdf5", arrays)), 0, 0)


@pytest.mark.parametrize("key", ["dones", "episode_ends", "steps"])
def test_unread_ends_of_episodes_are_named(tmp_path: Path, key: str) -> None:
    arrays = example() | {"qpos": np.zeros((60, 5)), "note": np.zeros(1)}
    path = write(tmp_path / "f.hdf5", arrays | {key: np.arange(7)})
    load_dataset(str(path), 0, 0)
    del arrays["timeouts"]
    load_dataset(str(write(path, arrays)), 0, 0, episode_limit=20)
    problem = f"'timeouts' is missing, and '{key}' is not read; store 'timeouts', 1 where"
    with pytest.raises(CepnbError, match=f"^{path}: {problem}"):
        load_dataset(str(write(path, arrays | {key: np.arange(60)[:, None]})), 0, 0, 20)


@pytest.mark.parametrize("kinds", [("f8", "f4"), ("f4", "f8"), ("f2", "f8"), ("f8", "f2")])
@pytest.mark.parametrize("offset", [0, 100.1, -1e6])
def test_rounded_next_observations_are_accepted(
    tmp_path: Path, kinds: tuple[str, str], offset: float
) -> None:
    if "f2" in kinds:
        offset = offset / 100
    arrays = walk()
    for key, kind in zip(("observations", "next_observations"), kinds):
        arrays[key] = np.c_[arrays[key][:, :2] + offset, np.full((200, 1), 100.1)].astype(kind)
    load_dataset(str(write(tmp_path / "f.hdf5", arrays)), 0, 0)
    arrays["next_observations"][99] = 7
    with pytest.raises(CepnbError, match="not the next row in 1 of 199 rows"):
        load_dataset(str(write(tmp_path / "f.hdf5", arrays)), 0, 0)


def test_unused_next_observations_may_be_nan(tmp_path: Path) -> None:
    arrays = walk()
    arrays["terminals"][50] = True
    arrays["next_observations"][[50, 199]] = np.nan
    assert len(load_dataset(str(write(tmp_path / "f.hdf5", arrays)), 0, 0).rewards) == 199
    arrays["next_observations"][7] = np.nan
    with pytest.raises(CepnbError, match="not the next row in 1 of 198 rows"):
        load_dataset(str(write(tmp_path / "f.hdf5", arrays)), 0, 0)
    bandit = walk() | {"terminals": np.ones(200, bool), "rewards": np.arange(200.0)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_dataset(str(write(tmp_path / "f.hdf5", bandit)), 0, 0)
    assert len(data.rewards) == 200


def test_deletion_of_a_file_of_ones_own_is_never_advised(tmp_path: Path) -> None:
    """Damage it, give another kind of file, and link to a file that is missing."""
    path = write(tmp_path / "f.hdf5", example(2000))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "f.csv").write_text("observations,actions")
    with h5py.File(tmp_path / "linked.hdf5", "w") as file:
        for key in example():
            file[key] = h5py.ExternalLink("nothing.hdf5", key)
    for name, fix in (
        ("f.hdf5", "restore or export it again"),
        ("f.csv", "give an HDF5 file"),
        ("linked.hdf5", "restore the other file to which it links"),
    ):
        with pytest.raises(CepnbError, match=f"^{tmp_path / name}: .*; {fix}$") as caught:
            load_hdf5(tmp_path / name, own=True)
        assert "delete" not in str(caught.value)


def test_data_larger_than_the_memory_are_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "f.hdf5", example())

    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(h5py.Dataset, "__getitem__", no_memory)
    for read in (load_hdf5, verify):
        with pytest.raises(CepnbError, match="f.hdf5: could not be read .*; free memory or use a"):
            read(path)
