"""Tests of d4rl's tables and of its import without MuJoCo 2.1."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import mujoco
import numpy as np
import pytest

from cepnb.datasets.d4rl import dataset_urls
from cepnb.envs.d4rl_package import normalised_score, reference_scores
from cepnb.envs.quiet import quiet
from cepnb.errors import CepnbError


def test_tables() -> None:
    assert dataset_urls()["maze2d-umaze-v1"].endswith(".hdf5") and len(dataset_urls()) > 50
    assert (
        reference_scores("local/maze2d-umaze")
        == reference_scores("maze2d-umaze-v1")
        == (23.85, 161.86)
    )
    assert reference_scores("local/maze2d-large-noisy") == reference_scores("maze2d-large-v1")
    assert (
        normalised_score("local/maze2d-umaze", 23.85) == 0
        and normalised_score("maze2d-umaze-v1", 161.86) == 100
    )
    with pytest.raises(
        CepnbError, match="dataset 'local/nothing': d4rl has no reference scores for 'nothing-v1'"
    ):
        reference_scores("local/nothing")


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment
    )


def test_import_prints_nothing_and_hides_mujoco_py_only_without_mujoco_21(
    tmp_path,
) -> None:
    code = "from cepnb.envs.d4rl_package import d4rl; import sys; d4rl(); print(sys.modules['mujoco_py'])"
    absent = run(code, MUJOCO_PY_MUJOCO_PATH=str(tmp_path / "none"))
    assert (absent.stdout, absent.stderr, absent.returncode) == ("None\n", "", 0)
    (tmp_path / "mujoco_py.py").touch()  # a mujoco_py that imports
    hidden = run(
        "from cepnb.envs.d4rl_package import mujoco_21_present as f; print(f())",
        MUJOCO_PY_MUJOCO_PATH=str(tmp_path),
        PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    )
    assert hidden.stdout == "True\n"
    lazy = run(
        "import cepnb.envs.d4rl_package, sys; print('d4rl' in sys.modules, 'mujoco_py' in sys.modules)"
    )
    assert lazy.stdout == "False False\n"


@pytest.mark.parametrize(
    "uses, prints",
    [
        (
            "from cepnb.envs.d4rl_package import reference_scores; print(reference_scores('local/hopper'))",
            "(-20.272305, 3234.3)",
        ),
        (
            "import cepnb.d4rl_compat; print(sys.modules['mujoco_py'].__name__)",
            "cepnb.envs.mujoco_py_standin",
        ),
    ],
)
def test_unusable_mujoco_21_folder_is_ignored_with_a_reason(
    tmp_path, uses: str, prints: str
) -> None:
    left = run(
        f"import sys; {uses}; print([name for name in sys.modules if name.startswith('mujoco_py.')])",
        MUJOCO_PY_MUJOCO_PATH=str(tmp_path),
        PYTHONWARNINGS="ignore",
    )
    assert left.stdout == f"{prints}\n[]\n", left.stderr
    assert left.stderr.startswith(f"cepnb: {tmp_path} is not used: mujoco_py cannot be imported (")
    assert left.stderr.count("\n") == 1


def test_quiet_restores_everything(capfd: pytest.CaptureFixture) -> None:
    """Print, warn, log, add a handler and draw inside `quiet`; nothing shows and nothing stays."""
    root, filters = logging.getLogger(), warnings.filters[:]
    handlers, level, streams = root.handlers[:], root.level, (sys.stdout, sys.stderr)
    mujoco_warning, random_state = mujoco.get_mju_user_warning(), np.random.get_state()[1].copy()
    with pytest.raises(ZeroDivisionError), quiet():
        print("from Python")
        os.write(2, b"from C")
        warnings.warn("a warning", stacklevel=1)
        logging.basicConfig(level=logging.DEBUG, force=True)
        logging.getLogger("absl").error("from absl")
        np.random.seed(0)
        1 / 0  # noqa: B018
    assert capfd.readouterr() == ("", "")
    assert (root.handlers, root.level, (sys.stdout, sys.stderr)) == (handlers, level, streams)
    assert warnings.filters == filters and not logging.getLogger("absl").disabled
    assert mujoco.get_mju_user_warning() is mujoco_warning
    assert np.array_equal(np.random.get_state()[1], random_state)
    print("visible")
    os.write(2, b"visible too")
    assert capfd.readouterr() == ("visible\n", "visible too")


# Everything of the process that others may use, before and after an import and a score.
GLOBALS = """
import logging, os, random, sys, warnings
import mujoco, numpy, torch
from cepnb.envs.d4rl_package import normalised_score
def state():
    root = logging.getLogger()
    streams = sys.stdin, sys.stdout, sys.stderr
    return (dict(os.environ), sys.path[:], os.getcwd(), sorted(os.listdir(os.environ["HOME"])), root.handlers[:],
            root.level, streams, random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist(),
            numpy.geterr(), torch.get_num_threads(), warnings.filters[:])
before = state()
if sys.argv[1] == "compat":
    import cepnb.d4rl_compat
else:
    normalised_score("local/hopper", 1.0)
changed = [(old, new) for old, new in zip(before, state()) if old != new]
assert not changed, changed
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
logging.info("a")
logging.warning("b")
"""


@pytest.mark.parametrize("use", ["compat", "score"])
def test_import_and_score_change_nothing_that_others_use(tmp_path, use: str) -> None:
    """Also check that d4rl makes no folder at home, and that a program can log afterwards."""
    ran = subprocess.run(
        [sys.executable, "-c", GLOBALS, use],
        capture_output=True,
        text=True,
        env=os.environ | {"HOME": str(tmp_path), "MUJOCO_PY_MUJOCO_PATH": "/nowhere"},
    )
    assert (ran.returncode, ran.stdout) == (0, "INFO:root:a\nWARNING:root:b\n"), ran.stderr
    assert "Logging error" not in ran.stderr


# A user without HOME and without an entry in the system's list of users.
NO_HOME = """
import pwd
def missing(number):
    raise KeyError(number)
pwd.getpwuid = missing
from cepnb.envs.d4rl_package import reference_scores
print(reference_scores("local/hopper"))
"""


def test_scores_need_no_home(tmp_path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    ran = subprocess.run(
        [sys.executable, "-c", NO_HOME],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert (ran.stdout, list(tmp_path.iterdir())) == ("(-20.272305, 3234.3)\n", []), ran.stderr


# Closed streams are None, and their descriptors cannot be duplicated.
CLOSED = """
import os, sys
from cepnb.envs.quiet import quiet
from cepnb.errors import exit_status
before = sorted(os.listdir("/proc/self/fd"))
with quiet():
    os.write(1, b"from C")
after = sorted(os.listdir("/proc/self/fd"))
def work():
    print("a", file=sys.stdout)
    print("b", file=sys.stderr)
    sys.stdout.flush()
done = before == after and exit_status("p", work) == 0
os.write(0, b"done" if done else f"{before} {after}".encode())
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="lists descriptors as on Linux")
@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-"])
def test_closed_streams_are_skipped(closed: str, tmp_path: Path) -> None:
    report = tmp_path / "report"
    command = f"exec {sys.executable} -c '{CLOSED}' 0<>{report} {closed}"
    subprocess.run(command, shell=True, check=False)
    assert report.read_text() == "done"
