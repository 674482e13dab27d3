"""Files are complete or absent, and files that are read are checked."""

import ast
import errno
import json
import multiprocessing
import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cepnb.densities.settings import toy_settings
from cepnb.errors import CepnbError
from cepnb.profiles import PROFILE_NAMES, profile_name
from cepnb.qgpo.settings import PROFILES, qgpo_settings
from cepnb.storage import files
from cepnb.storage.arrays import open_array
from cepnb.storage.runs import Run
from cepnb.storage.tensors import load_module, load_tensors, save_tensors
from cepnb.storage.validation import check_seed, check_shape


def test_an_exception_keeps_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert files.read_json(path) == {"a": 1} and list(path.parent.iterdir()) == [path]
    with pytest.raises(ValueError):
        files.write_json(path, float("nan"))
    assert files.read_json(path) == {"a": 1} and list(path.parent.iterdir()) == [path]


def test_every_text_file_of_the_package_names_its_encoding() -> None:
    """Otherwise the locale decides. `ruff` finds this only where it knows the type of the path."""
    found = []
    for path in sorted(Path(files.__file__).parents[1].rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                options = {keyword.arg for keyword in node.keywords}
                opens = node.func.attr in ("read_text", "write_text") or "text" in options
                if opens and "encoding" not in options:
                    found.append(f"{path.name}:{node.lineno}")
    assert found == []


def _die_while_writing(path: Path) -> None:
    with files.atomic_path(path) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_temporary_files_of_killed_writes_are_deleted_a_day_later(tmp_path: Path) -> None:
    """Temporary files that another process may be writing stay, and so do those of other files."""
    path = tmp_path / "a[1].json"
    others = [
        tmp_path / name
        for name in (".a[1].json.part", ".a1.json.12345678.part", ".b.json.12345678.part")
    ]
    process = multiprocessing.get_context("fork").Process(target=_die_while_writing, args=(path,))
    process.start()
    process.join()
    (part,) = tmp_path.iterdir()
    assert part.name.startswith(".a[1].json.") and not path.exists()
    for other in others:
        other.touch()
        os.utime(other, (0, 0))
    os.utime(part, (0, time.time() - files.STALE + 600))
    files.write_json(path, 1)
    assert part.exists()
    os.utime(part, (0, time.time() - files.STALE - 1))
    with files.atomic_path(path) as temporary:
        temporary.write_text("2")
        files.write_json(path, 1)  # another process writes the same file
    assert set(tmp_path.iterdir()) == {path, *others} and files.read_json(path) == 2


def test_results_are_ordinary_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_json(tmp_path / "a", 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_failed_reads_and_writes_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("{")
    for work, reason in [
        (lambda: files.write_json(tmp_path / "file" / "a", 1), "file/a: could not be written"),
        (lambda: files.write_json(tmp_path, 1), "could not be written"),
        (
            lambda: files.write_json(tmp_path / "a", {"q": float("nan")}),
            "a: not written .*; use plain finite numbers",
        ),
        (lambda: files.read_json(tmp_path / "file"), "file: not a complete JSON file .*; restore"),
        (lambda: files.read_json(tmp_path / "none"), "none: not found; check the path"),
        (
            lambda: load_tensors(tmp_path / "file"),
            "file: not a complete safetensors file .*; restore",
        ),
        (
            lambda: load_tensors(tmp_path / "none"),
            "none: not found; check the path",
        ),
    ]:
        with pytest.raises(CepnbError, match=reason) as caught:
            work()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "number, fix",
    [
        (errno.ENOSPC, "free space or use another folder"),
        (errno.EACCES, "allow writing or use another folder"),
        (errno.EROFS, "use a folder on a disk that is not read-only"),
        (errno.ENAMETOOLONG, "use a shorter name"),
    ],
)
def test_each_refused_write_has_its_own_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fix: str
) -> None:
    """Also where a library's exception has the system's number in its text only."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    def library_refuses(*_: object, **__: object) -> None:
        raise files.SafetensorError(f"I/O error: {os.strerror(number)} (os error {number})")

    for place, fails in (
        ("files.tempfile.mkstemp", refuse),
        ("tensors.save_file", library_refuses),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"cepnb.storage.{place}", fails)
            with pytest.raises(CepnbError, match=f"a: could not be written .*; {fix}$"):
                save_tensors(tmp_path / "a", {"x": torch.zeros(1)})


def test_names_in_the_way_of_a_write_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    in_the_way = "a file has the name of a folder; rename it or use another folder"
    for path, fix in (
        (tmp_path / "file" / "a", in_the_way),
        (tmp_path, "a folder has this name; use another name"),
        (tmp_path / ("a" * 300), "use a shorter name"),
    ):
        for work in (lambda: files.write_json(path, 1), lambda: files.check_writable(path)):
            with pytest.raises(CepnbError, match=rf"could not be written \(.*\); {fix}$"):
                work()
    run = Run(tmp_path / "file" / "run")
    with pytest.raises(CepnbError, match=f"step: could not be written .*; {in_the_way}$"):
        run.ensure(run.folder / "step", lambda: None)


def test_space_and_rights_are_checked_without_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "folder" / "a"
    files.check_writable(path, 1000)
    with pytest.raises(CepnbError, match=r"a: needs 1e\+09 GB, but .* GB are free; free space"):
        files.check_writable(path, 10**18)
    assert not list(tmp_path.iterdir())

    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("cepnb.storage.files.tempfile.TemporaryFile", refuse)
    with pytest.raises(CepnbError, match="written .Permission denied.; allow writing or use"):
        files.check_writable(path)


def test_the_cache_needs_a_home_or_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a home folder, the library that finds it returns a path that begins with "~"."""
    monkeypatch.delenv("CEPNB_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: f"~/.cache/{name}")
    with pytest.raises(CepnbError, match="no home folder is known; set CEPNB_CACHE to a folder"):
        files.cache_dir()


def test_json_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"a": 1}', encoding="utf-8-sig")
    assert files.read_json(tmp_path / "a") == {"a": 1}


def test_trained_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    """The last step can break weights after its loss was recorded."""
    net = torch.nn.Linear(2, 1)
    with torch.no_grad():
        net.weight[0, 1] = torch.nan
    run = Run(tmp_path)
    expected = "critic.safetensors: trained weights 'weight': 1 of 2 values are not finite; use a"
    with pytest.raises(CepnbError, match=expected):
        run.module("critic", lambda: net, lambda checkpoint: net)
    assert not (tmp_path / "critic.safetensors").exists()


def test_shapes_and_seeds_are_checked(as_users_call_it: None) -> None:
    check_shape("x", torch.zeros(3, 2), "n", 2)
    for array, shape in ((torch.zeros(3), ("n", 2)), (torch.zeros(3, 1), ("n", 2))):
        with pytest.raises(CepnbError, match=r"^x: shape is \(3,( 1)?\); use \(n, 2\)$"):
            check_shape("x", array, *shape)
    assert type(check_seed(np.int64(3))) is int and check_seed(2**31 - 1) == 2**31 - 1
    for seed in (-1, 2**31, 1.0, True, "1", None, np.arange(2)):
        with pytest.raises(CepnbError, match="^seed .*: use an integer from 0 to 2147483647$"):
            check_seed(seed)


def test_tensors_are_saved_and_loaded(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor([True, False])}
    save_tensors(tmp_path / "t", tensors, {"note": "x"})
    again, metadata = load_tensors(tmp_path / "t")
    assert metadata == {"note": "x"} and all(
        torch.equal(again[name], tensor) for name, tensor in tensors.items()
    )


def test_misshapen_weights_are_refused(tmp_path: Path) -> None:
    net = torch.nn.Linear(2, 3)
    with pytest.raises(CepnbError, match="x: tensor 'bias' is missing; use weights of shape"):
        load_module(net, {"weight": net.weight}, "x")
    with pytest.raises(
        CepnbError, match=r"x: tensor 'weight' has shape \(2, 3\); use weights of shape \(3, 2\)"
    ):
        load_module(net, {"weight": net.weight.T, "bias": net.bias}, "x")


def test_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CEPNB_PROFILE", raising=False)
    assert profile_name() == "laptop" and profile_name("ci") == "ci"
    monkeypatch.setenv("CEPNB_PROFILE", "paper")
    assert qgpo_settings() == PROFILES["paper"] and toy_settings().width == 256
    assert qgpo_settings("ci", beta=3.0).beta == 3.0
    monkeypatch.setenv("CEPNB_PROFILE", "phone")
    with pytest.raises(
        CepnbError, match="profile 'phone' is unknown; use one of ci, laptop, desktop, paper"
    ):
        qgpo_settings()
    laptop = qgpo_settings("laptop", "locomotion")
    assert (laptop.beta, laptop.beta_q, laptop.target_actions) == (10.0, 1.0, 0)
    assert (laptop.discount, qgpo_settings("laptop").discount) == (0.997, 0.99)
    for name, settings in PROFILES.items():
        hopper, most = qgpo_settings(name, "hopper"), 2 if name == "paper" else 5
        assert (settings.q_networks, settings.target_networks) == (most, 2)
        assert hopper.q_networks == hopper.target_networks == most
    assert qgpo_settings("laptop", "hopper").behaviour_steps > PROFILES["laptop"].behaviour_steps
    assert qgpo_settings("laptop", "locomotion", beta=2.0).beta == 2.0
    small = {name: qgpo_settings(name, "maze2d") for name in PROFILES}
    copies = {name: (chosen.state_jitter, chosen.reward_reach) for name, chosen in small.items()}
    assert copies == {**dict.fromkeys(PROFILE_NAMES[:3], (1.0, 0.5)), "paper": (0.0, 0.0)}
    large = {name: qgpo_settings(name, "maze2d-large") for name in PROFILES}
    frequencies = {name: settings.place_frequencies for name, settings in large.items()}
    assert frequencies == {"ci": 32, "laptop": 32, "desktop": 32, "paper": 0}
    assert large["paper"] == PROFILES["paper"] and tuple(PROFILES) == PROFILE_NAMES
    sizes = [PROFILES[name].q_steps for name in PROFILE_NAMES]
    assert sizes == sorted(sizes)
    json.dumps({name: vars(settings) for name, settings in PROFILES.items()})  # as a run does


def test_the_paper_profile_has_the_reference_settings() -> None:
    """The settings of the paper's public code: its README and defaults."""
    paper = qgpo_settings("paper")
    expected = {
        "behaviour_batch": 4096,
        "behaviour_steps": 600_000,
        "behaviour_rate": 1e-4,
        "q_width": 256,
        "q_depth": 3,
        "q_rate": 3e-4,
        "q_batch": 256,
        "q_steps": 500_000,
        "discount": 0.99,
        "target_rate": 0.005,
        "K": 16,
        "sampler_steps": 15,
        "energy_width": 256,
        "energy_depth": 4,
        "energy_rate": 3e-4,
        "energy_steps": 1_000_000,
    }
    assert {name: getattr(paper, name) for name in expected} == expected
    locomotion = qgpo_settings("paper", "locomotion")
    assert (locomotion.beta, locomotion.beta_q) == (3.0, 1.0)
    assert (locomotion.reward_tuning, locomotion.headline_scale) == ("return_range", 1.0)


def test_cache_folder_in_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CEPNB_CACHE", "~/c")
    assert files.cache_dir() == tmp_path / "c"

    def missing(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", missing)
    for value in ("~/c", ""):
        monkeypatch.setenv("CEPNB_CACHE", value)
        with pytest.raises(
            CepnbError, match="no home folder is known; set CEPNB_CACHE to a folder"
        ):
            files.cache_dir()
    monkeypatch.setenv("CEPNB_CACHE", ".")
    assert files.cache_dir() == Path()


@pytest.mark.parametrize("read", [files.read_json, load_tensors, open_array])
def test_file_that_cannot_be_opened_is_not_called_damaged(
    read: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CepnbError, match=f"^{tmp_path}: (is a folder|could not be read|not found)"):
        read(tmp_path)
    with pytest.raises(CepnbError, match="none: not found; check the path"):
        read(tmp_path / "none")
    (tmp_path / "file").touch()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    for name in ("pathlib.Path.read_text", "cepnb.storage.tensors.safe_open", "builtins.open"):
        monkeypatch.setattr(name, refuse)
    with pytest.raises(CepnbError, match=r"file: could not be read \(Permission denied\); allow"):
        read(tmp_path / "file")


class OutOfMemory(MemoryError):
    """As NumPy's: it states the array for which memory was missing."""

    def __init__(self, *shape: int) -> None:
        super().__init__("Unable to allocate")
        self.shape, self.dtype = shape, np.dtype("float32")


@pytest.mark.parametrize(
    "error, message",
    [
        (OutOfMemory(1_000), "a: could not be read (Cannot allocate memory); free memory or use"),
        (OSError(errno.ENOMEM, ""), "a: could not be read (Cannot allocate memory); free memory"),
        (OSError(errno.ESTALE, ""), "a: could not be read (Stale file handle); check the disk"),
        (FileNotFoundError("No such file: a"), "a: could not be read (FileNotFoundError: "),
        (
            OSError("Can't read data (can't open directory (/usr/local/lib/plugin))"),
            "lib/plugin))); install its filter (package hdf5plugin)",
        ),
        (KeyError("Unable to open object (can't open file)"), "restore the other file to which"),
        (OutOfMemory(10**13), None),  # a damaged header asks for more than the file can hold
        (ValueError("damage"), None),
    ],
)
def test_a_file_whose_content_may_be_right_is_not_called_damaged(
    tmp_path: Path, error: Exception, message: str | None
) -> None:
    (tmp_path / "a").write_bytes(b"content")
    found = files.not_read(tmp_path / "a", error)
    assert (message is None) == (found is None) and (found is None or message in str(found))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files as on Linux")
def test_weights_that_cannot_be_opened_are_not_called_missing(tmp_path: Path) -> None:
    """safetensors reports any failed opening as a missing file, without the system's number."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "a"
    save_tensors(path, {"x": torch.zeros(1)})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(CepnbError) as caught:
            load_tensors(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (
        str(caught.value) == f"{path}: could not be read (Too many open files); close other files"
    )


def test_json_of_another_type_is_refused_before_the_work(tmp_path: Path) -> None:
    path, run = tmp_path / "seconds.json", Run(tmp_path)
    for text in ("[1]", "null", '{"critic": "long"}'):
        path.write_text(text)
        with pytest.raises(CepnbError, match="seconds.json: .*expected .*; delete it$"):
            run.timed("critic", lambda: pytest.fail("the work starts"))
    path.write_text('{"critic": 1.5}')
    run.timed("behaviour", lambda: None)
    assert run.seconds.keys() == {"critic", "behaviour"}


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes on POSIX only")
def test_a_name_that_is_not_utf_8_is_refused_before_the_work(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    for check in (files.check_writable, load_tensors):
        with pytest.raises(
            CepnbError, match=r"udce9/a': the name is not UTF-8; rename it$"
        ) as told:
            check(folder / "a")
        str(told.value).encode()
