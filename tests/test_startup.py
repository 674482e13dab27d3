"""Test that heavy libraries are imported only by the functions that use them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cepnb.densities.names import DENSITY_NAMES
from cepnb.densities.toys import DENSITIES
from cepnb.envs.maze import LAYOUTS
from cepnb.envs.registry import MAZES
from cepnb.tools.bench.options import ROW_NAMES
from cepnb.tools.bench.rows import ROWS

ROOT = Path(__file__).parent.parent
HEAVY = set(
    "mujoco gymnasium gym h5py scipy matplotlib sklearn ot pandas d4rl minari anywidget ipywidgets "
    "IPython dask distributed jax sbx stable_baselines3 diffusers requests nbformat nbclient sphinx".split()
)
FIGURES = {"matplotlib", "IPython", "ipywidgets", "anywidget"}
# Modules and sub-packages that are about a library: figures, the book, stored outputs, and D4RL's own code.
ALLOWED = {
    "notebook": FIGURES,
    "tools.book": HEAVY,
    "tools.outputs": HEAVY,
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
    light = "cli errors profiles datasets.registry densities.names diffusion.devices envs.registry"
    names = [f"cepnb.{name}" for name in f"{light} tools.terminal".split()]
    assert ours == {"cepnb", *names, *(name.rpartition(".")[0] for name in names)}


# Commands with one fault each, and what the message names. @ is the folder of a run.
WRONG = """
toy: --density, --method, --beta: missing
toy --density moonz: density 'moonz' is unknown; use one of 8gaussians
toy --method cfg: method 'cfg' is unknown; use one of exact
toy --beta -1: beta -1.0: use a finite number
toy --density moons --method mse --beta 1 --scale -1: scale -1.0 is no guidance scale
toy --density moons --method cep_beta --beta 99: beta 99: cep_beta is trained up to 25
toy --seed -1: seed -1: use an integer
toy --profile big: profile 'big' is unknown
toy --table --scale 2: --scale cannot be combined with --table
toy --table --beta 99: beta 99: cep_beta is trained up to 25
toy --densty moons: unknown arguments --densty moons; use --density
qgpo: the following arguments are required: --dataset, --out
qgpo --out o --dataset local/maze2d-tiny: dataset 'local/maze2d-tiny': use one of
qgpo --out o --dataset d4rl/hopper-medum-v2: dataset 'd4rl/hopper-medum-v2': not in d4rl's table
qgpo --out o --dataset minari/mujoco/hopper: dataset 'minari/mujoco/hopper': the name has no version
qgpo --out o --dataset my.hdf5: dataset 'my.hdf5': not found
qgpo --out o --dataset local/maze2d-umaze --environment hoper: environment 'hoper': use one of
qgpo --out o --dataset local/maze2d-umaze --profile big: profile 'big' is unknown
qgpo --out o --dataset local/maze2d-umaze --seed -1: seed -1: use an integer
qgpo --out o --dataset local/maze2d-umaze --device tpu: --device tpu: use cpu or cuda
qgpo --out o --dataset local/maze2d-umaze --set betta=3: setting 'betta': use one of beta
qgpo --out o --dataset local/maze2d-umaze --set beta=x: beta: expected `float`, got `str`
qgpo --out @/settings.json --dataset local/maze2d-umaze: @/settings.json/settings.json: could not
settings --profile big: profile 'big' is unknown
settings --environment hoper: environment 'hoper': use one of
settings --dataset local/hoper-medium: dataset 'local/hoper-medium': use one of
evaluate: the following arguments are required: RUN, --environment
evaluate @/nowhere --environment hopper: @/nowhere: is no folder
evaluate @ --environment hoper: environment 'hoper': use one of
evaluate @ --environment hopper --device tpu: --device tpu: use cpu or cuda
export: the following arguments are required: RUN, FILE
export @/nowhere file: @/nowhere: is no folder
export @/.. file: @/..: has no settings.json
sweep: the following arguments are required: CONFIG
sweep @/nowhere.toml: @/nowhere.toml: not found; check the path
sweep @/wrong.toml: @/wrong.toml: datasets: dataset 'local/nope': use one of
sweep @/wrong.toml --workers 0: --workers 0: use at least 1
sweep @/wrong.toml --device tpu: --device tpu: use cpu or cuda
report: the following arguments are required: PATH
report @/nowhere: @/nowhere: not found
data: the following arguments are required: --dataset
data --dataset my.hdf5: dataset 'my.hdf5': use one of local/maze2d-umaze
data --dataset local/maze2d-umaze --profile big: profile 'big' is unknown
agent: the following arguments are required: --environment, --out
agent --out o --environment hoper: environment 'hoper': use one of hopper
agent --out o --environment hopper --seed -1: seed -1: use an integer
bench --rows toys: row 'toys' is unknown; choose from behaviour
bench --growth --rows toy: series 'toy' is unknown; choose from prepare
bench --toys --rows moonz: density 'moonz' is unknown; choose from 8gaussians
bench --repeats 0: --repeats 0 is too small
bench --full: --full needs --growth
bench --growth --toys: --toys cannot be combined with --growth
bench --peer @: @: Offline_RL_2D/diffusion_SDE/schedule.py is missing
bench-run --fraction 2: --fraction 2 is out of range
bench-run --device tpu: --device tpu: use cpu or cuda
bench-run --dataset local/nope: dataset 'local/nope': use one of
bench-run --set K=1: K 1: use at least 2
bench-run --peer @: @: Offline_RL_2D/diffusion_SDE/schedule.py is missing
"""


def test_wrong_arguments_are_refused_without_a_heavy_import(tmp_path: Path) -> None:
    """All commands run in one process: so each import of an earlier one would show, too."""
    (tmp_path / "settings.json").write_text("{}", encoding="utf-8")
    (tmp_path / "wrong.toml").write_text(
        'datasets = ["local/nope"]\nseeds = [0]\n', encoding="utf-8"
    )
    lines = WRONG.strip().replace("@", str(tmp_path)).splitlines()
    cases = [line.partition(": ") for line in lines]
    script = """
import contextlib, io, json, sys
from cepnb.cli import _parser, main
(commands,) = [action.choices for action in _parser()._actions if action.choices]
found = []
for line in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            status = main(line.split())
        except SystemExit as ended:
            status = ended.code
    found.append((line, status, errors.getvalue(), "torch" in sys.modules or "numpy" in sys.modules))
print(json.dumps([list(commands), found]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps([command for command, _, _ in cases]),
        capture_output=True,
        encoding="utf-8",
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    commands, found = json.loads(done.stdout)
    assert {line.split()[0] for line, *_ in found} == set(commands)
    for (line, status, errors, imported), (_, _, message) in zip(found, cases, strict=True):
        assert (status, imported, errors.count("\n")) == (2, False, 1), (line, status, errors)
        assert message in errors, (line, errors)


def test_names_without_imports_are_those_of_the_code() -> None:
    assert tuple(DENSITIES) == DENSITY_NAMES
    assert tuple(LAYOUTS) == MAZES
    assert tuple(ROWS) == ROW_NAMES
