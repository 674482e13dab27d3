"""d4rl's tables, imported without MuJoCo 2.1."""

import os
import subprocess
import sys

import pytest

from cepnb.datasets.d4rl import dataset_urls
from cepnb.envs.d4rl_package import normalised_score, reference_scores
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


def test_importing_says_nothing_and_hides_mujoco_py_only_where_mujoco_21_is_missing(
    tmp_path,
) -> None:
    code = "from cepnb.envs.d4rl_package import d4rl; import sys; d4rl(); print(sys.modules['mujoco_py'])"
    absent = run(code, MUJOCO_PY_MUJOCO_PATH=str(tmp_path / "none"))
    assert (absent.stdout, absent.stderr, absent.returncode) == ("None\n", "", 0)
    (tmp_path / "mujoco_py.py").touch()  # one that works
    hidden = run(
        "from cepnb.offline import d4rl_bridge as b; print(b.mujoco_21_present())",
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
def test_a_folder_that_mujoco_py_cannot_use_counts_as_none_and_a_line_says_why(
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
