"""The set-up holds together: lock, ranges, conda file, Makefile, and the order of the modules."""

import ast
import os
import re
import stat
import subprocess
import sysconfig
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
NAMED = ("torch", "jupyterlab", "nbmake", "ipywidgets", "matplotlib", "d4rl", "gym")  # by the people who use it
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lock() -> dict[str, str]:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    pins = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines]
    assert all(pins), [line for line, pin in zip(lines, pins) if not pin]
    return {canonicalize_name(pin[1]): pin[2] for pin in pins}


def ranges() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    return [Requirement(text) for text in PROJECT["dependencies"] + extras["test"] + extras["book"] + extras["cluster"]]


def test_the_lock_holds_exact_versions_that_the_ranges_admit() -> None:
    pins = lock()
    assert pins["torch"] == "2.13.0" and "torch==2.13.0" in PROJECT["dependencies"]
    for requirement in ranges():
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement
    assert set(NAMED) <= set(pins)


def test_what_is_installed_is_what_the_lock_says() -> None:
    # Only the environment itself: setuptools, once imported, adds packages of its own to the path.
    packages = distributions(path=[sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    found = {canonicalize_name(d.metadata["Name"]): Version(d.version).public for d in packages}
    wrong = {name: (found.get(name), pin) for name, pin in lock().items() if found.get(name) != pin}
    assert not wrong, wrong


def test_the_conda_file_gives_the_same_versions() -> None:
    file = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert file["name"] == "cepnb"
    plain = [entry for entry in file["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in file["dependencies"] if isinstance(entry, dict)]
    (python,) = [entry for entry in plain if entry.startswith("python")]
    assert Version(re.fullmatch(r"python=(\d+\.\d+)", python)[1]) >= Version("3.11") and "pip" in plain
    assert PROJECT["requires-python"] == ">=3.11"
    assert "-r requirements.lock" not in pip and "-e ." in pip
    pins, found = lock(), {}
    for line in pip:
        if line != "-e .":
            name, version = re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups()
            found[canonicalize_name(name)] = version
    assert found == {name: pins[name] for name in found}
    assert {canonicalize_name(r.name) for r in ranges()} <= set(found)


def make(*arguments: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, env=environment)


def test_make_alone_lists_the_targets() -> None:
    listed = make()
    assert listed.returncode == 0 and not listed.stderr
    assert {line.split()[1] for line in listed.stdout.splitlines()} >= {"lab", "test", ".venv"}


def test_too_old_a_python_is_one_clear_line(tmp_path: Path) -> None:
    """An interpreter that calls itself 3.9: this Python with its version changed before the check runs."""
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\nshift\nexec python3 -c "import sys; sys.version_info = (3, 9, 1); $1"\n')
    old.chmod(old.stat().st_mode | stat.S_IXUSR)
    result = make("--no-print-directory", "-B", ".venv", f"PYTHON={old}")
    first, *rest = result.stderr.splitlines()
    assert result.returncode != 0 and not result.stdout
    assert re.match(r"cepnb needs Python 3.11 or newer, but .* is 3.9; name another: make PYTHON=", first)
    assert all(line.startswith("make: ***") for line in rest)


def test_ci_and_readme_call_the_two_commands() -> None:
    assert "make test" in (ROOT / ".ci/run").read_text() and os.access(ROOT / ".ci/run", os.X_OK)
    readme = (ROOT / "README.md").read_text()
    assert "make lab" in readme and "make test" in readme


# Imports run one way. A later group may import an earlier one; modules of one group may not import each other.
ORDER = [
    {"cepnb"}, {"errors", "kinds"}, {"files", "mapped", "profiles", "devices"}, {"schedule"}, {"exact"}, {"toys"}, {"metrics"}, {"sampled"}, {"features"}, {"networks"},
    {"losses"}, {"guidance"}, {"samplers"}, {"streams", "capture"}, {"training"}, {"batched", "runs"}, {"methods"}, {"benchmark"},
    {"offline"}, {"offline.episodes", "offline.download"}, {"offline.maze", "offline.locomotion"},
    {"offline.mdp", "offline.waypoint"}, {"offline.d4rl_bridge"}, {"offline.mujoco_py_standin"},
    {"offline.agents"}, {"offline.collect", "offline.data", "offline.sac"}, {"d4rl_compat"}, {"offline.antmaze"}, {"offline.environments"},
    {"offline.hdf5", "offline.minari_bridge"}, {"offline.sources"}, {"offline.scaling"},
    {"offline.policy"}, {"offline.behaviour", "offline.support", "offline.critic", "offline.energy"},
    {"offline.joint", "offline.sharing", "offline.seeds"}, {"offline.evaluation", "offline.gain"}, {"offline.pipeline", "offline.published"}, {"offline.learned"},
    {"jobs"}, {"cluster"}, {"offline.scores"}, {"offline.report", "offline.sweep_file"}, {"offline.sweep"}, {"plots", "film"}, {"layers", "score_plots"}, {"frames"}, {"comparison", "widgets"}, {"speed"}, {"speed.turns", "speed.rows"}, {"speed.growth", "speed.peer"}, {"speed.table", "speed.whole", "speed.quality"}, {"exercises.answers"}, {"exercises.densities", "exercises.policies"}, {"exercises"}, {"cli"}, {"__main__"},
    {"book"}, {"book.conf", "book.hidden_errors", "book.kernels"}, {"book.outputs"}, {"book.execution"}, {"book.site"}, {"book.__main__"},
]
MODULES = sorted((ROOT / "cepnb").rglob("*.py"))


def place(module: str) -> int:
    found = [i for i, group in enumerate(ORDER) if module in group]
    assert found, f"module '{module}' has no place in ORDER: add it where its imports allow"
    return found[0]


@pytest.mark.parametrize("path", MODULES, ids=[str(p.relative_to(ROOT)) for p in MODULES])
def test_imports_run_one_way_and_modules_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 250, "split it: one idea a module"
    parts = path.relative_to(ROOT / "cepnb").with_suffix("").parts
    name = ".".join(part for part in parts if part != "__init__") or "cepnb"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names) and node.level == 0
        targets = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in getattr(node, "names", [])] \
            if isinstance(node, ast.Import) else []
        for target in targets:
            if target.split(".")[0] == "cepnb":
                inner = target.removeprefix("cepnb").removeprefix(".") or "cepnb"
                assert place(inner) < place(name), f"{name} imports {inner}, which does not come before it"
