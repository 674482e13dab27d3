"""Nothing large is imported before it is needed: what each module brings along, which no machine changes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {
    "mujoco",
    "gymnasium",
    "gym",
    "h5py",
    "scipy",
    "matplotlib",
    "sklearn",
    "ot",
    "pandas",
    "d4rl",
    "minari",
    "anywidget",
    "ipywidgets",
    "IPython",
    "dask",
    "distributed",
    "jax",
    "sbx",
    "stable_baselines3",
    "diffusers",
    "requests",
    "nbformat",
    "nbclient",
    "sphinx",
}
# Where a library is the matter itself: figures and what is built of them, the book, D4RL's own code, downloads.
FIGURES = {"matplotlib", "IPython", "ipywidgets", "anywidget"}
ALLOWED = {
    "notebook": FIGURES,
    "tools.bench": FIGURES,
    "tools.book": HEAVY,
    "d4rl_compat": HEAVY,
    "envs.mujoco_py_standin": HEAVY,
}
# Imports the modules one after the other into one process that has torch, and says what is new with each.
SCRIPT = """
import importlib, json, sys
import torch
found, known = {}, set(sys.modules)
for name in sys.argv[1:]:
    importlib.import_module(name)
    found[name] = sorted(set(sys.modules) - known)
    known |= set(sys.modules)
print(json.dumps(found))
"""


def brought(names: list[str]) -> dict[str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *names], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return json.loads(done.stdout)


def allowed(name: str) -> set[str]:
    return set().union(
        *(
            heavy
            for prefix, heavy in ALLOWED.items()
            if name == prefix or name.startswith(f"{prefix}.")
        )
    )


def heavy(modules: list[str]) -> set[str]:
    return {module.split(".")[0] for module in modules} & HEAVY


@pytest.fixture(scope="module")
def modules() -> list[str]:
    """All modules that can be imported in any order, the lightest first: what an earlier one brings, a later one does not."""
    paths = (
        path.relative_to(ROOT / "cepnb").with_suffix("").parts
        for path in sorted((ROOT / "cepnb").rglob("*.py"))
    )
    names = {".".join(part for part in parts if part != "__init__") for parts in paths} - {
        "",
        "__main__",
        "tools.book.__main__",
    }
    return sorted(
        (name for name in names if allowed(name) != HEAVY),
        key=lambda name: (len(allowed(name)), name),
    )


def test_no_module_brings_what_it_may_not(modules: list[str]) -> None:
    found = brought([f"cepnb.{name}" for name in modules])
    wrong = {
        name: more for name in modules if (more := heavy(found[f"cepnb.{name}"]) - allowed(name))
    }
    assert not wrong, f"import them in the functions that use them: {wrong}"
    assert len(modules) > 60 and heavy(sum(found.values(), [])) >= FIGURES  # it would see them


def test_the_package_alone_is_one_module_and_the_pipeline_few() -> None:
    found = brought(["cepnb", "cepnb.qgpo.pipeline"])
    assert found["cepnb"] == ["cepnb"]
    outside = [name for name in found["cepnb.qgpo.pipeline"] if not name.startswith("cepnb")]
    assert len(outside) < 100, outside


def test_help_needs_no_torch() -> None:
    script = "import sys; from cepnb.cli import main\ntry: main(['--help'])\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    loaded = done.stderr.split()
    assert done.returncode == 0 and done.stdout.startswith("usage: cepnb")
    assert not heavy(loaded) and not {"torch", "numpy"} & set(loaded)
    assert {name for name in loaded if name.startswith("cepnb")} == {
        "cepnb",
        "cepnb.cli",
        "cepnb.errors",
        "cepnb.qgpo.settings",
    }
