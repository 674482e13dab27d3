"""Test that heavy libraries are imported only by the functions that use them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = set(
    "mujoco gymnasium gym h5py scipy matplotlib sklearn ot pandas d4rl minari anywidget ipywidgets "
    "IPython dask distributed jax sbx stable_baselines3 diffusers requests nbformat nbclient sphinx".split()
)
FIGURES = {"matplotlib", "IPython", "ipywidgets", "anywidget"}
# Modules and sub-packages that are about a library: figures, the book, and D4RL's own code.
ALLOWED = {
    "notebook": FIGURES,
    "tools.book": HEAVY,
    "d4rl_compat": HEAVY,
    "envs.mujoco_py_standin": HEAVY,
}
# Import the modules one after the other in a process that has torch, and print what each one adds.
SCRIPT = """
import importlib, json, sys
import torch
added, known = {}, set(sys.modules)
for name in sys.argv[1:]:
    importlib.import_module(name)
    added[name] = sorted(set(sys.modules) - known)
    known |= set(sys.modules)
print(json.dumps(added))
"""


def allowed(name: str) -> set[str]:
    """Return the heavy libraries that a module of the package may import."""
    found = set()
    for prefix, libraries in ALLOWED.items():
        if f"{name}.".startswith(f"{prefix}."):
            found |= libraries
    return found


def heavy(modules: list[str]) -> set[str]:
    return {module.split(".")[0] for module in modules} & HEAVY


@pytest.fixture(scope="module")
def modules() -> list[str]:
    """All modules but those that may import anything, the lightest first."""
    names = []
    for path in sorted((ROOT / "cepnb").rglob("*.py")):
        parts = path.relative_to(ROOT / "cepnb").with_suffix("").parts
        names.append(".".join(part for part in parts if part != "__init__"))
    tested = [name for name in names if name and "__main__" not in name and allowed(name) != HEAVY]
    return sorted(tested, key=lambda name: (len(allowed(name)), name))


@pytest.fixture(scope="module")
def added(modules: list[str]) -> dict[str, list[str]]:
    """The modules that each import adds: first the package, then the pipeline, then all others."""
    first = ["cepnb", "cepnb.qgpo.pipeline"]
    others = [f"cepnb.{name}" for name in modules if f"cepnb.{name}" not in first]
    command = [sys.executable, "-c", SCRIPT, *first, *others]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, cwd=ROOT)
    return json.loads(done.stdout)


def test_no_module_imports_a_heavy_library(modules: list[str], added: dict[str, list[str]]) -> None:
    wrong = {name: sorted(heavy(added[f"cepnb.{name}"]) - allowed(name)) for name in modules}
    wrong = {name: libraries for name, libraries in wrong.items() if libraries}
    assert not wrong, f"import these libraries in the functions that use them: {wrong}"
    imported = set().union(*map(heavy, added.values()))
    assert len(modules) > 60 and imported >= FIGURES  # the test detects imports


def test_the_package_alone_is_one_module_and_the_pipeline_is_light(
    added: dict[str, list[str]],
) -> None:
    assert added["cepnb"] == ["cepnb"]
    outside = [name for name in added["cepnb.qgpo.pipeline"] if not name.startswith("cepnb")]
    assert len(outside) < 100, outside


def test_help_needs_no_torch() -> None:
    script = (
        "import sys\nfrom cepnb.cli import main\n"
        "try: main(['--help'])\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, encoding="utf-8", cwd=ROOT
    )
    loaded = done.stderr.split()
    assert done.returncode == 0 and done.stdout.startswith("usage: cepnb")
    assert not heavy(loaded) and not {"torch", "numpy"} & set(loaded)
    ours = {name for name in loaded if name.startswith("cepnb")}
    assert ours == {"cepnb", "cepnb.cli", "cepnb.errors", "cepnb.profiles"}
