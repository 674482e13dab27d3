"""The set-up holds together: lock, ranges, conda file, Makefile, and the order of the modules."""

import ast
import os
import re
import stat
import subprocess
import sys
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
NAMED = (
    "torch",
    "jupyterlab",
    "nbmake",
    "ipywidgets",
    "matplotlib",
    "d4rl",
    "gym",
)  # by the people who use it
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lock() -> dict[str, str]:
    lines = [
        line
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if not line.startswith("#")
    ]
    pins = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines]
    assert all(pins), [line for line, pin in zip(lines, pins) if not pin]
    return {canonicalize_name(pin[1]): pin[2] for pin in pins}


def ranges() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    return [
        Requirement(text)
        for text in PROJECT["dependencies"] + extras["test"] + extras["book"] + extras["cluster"]
    ]


def test_the_lock_holds_exact_versions_that_the_ranges_admit() -> None:
    pins = lock()
    assert pins["torch"] == "2.13.0" and "torch==2.13.0" in PROJECT["dependencies"]
    for requirement in ranges():
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), (
            requirement
        )
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
    assert (
        Version(re.fullmatch(r"python=(\d+\.\d+)", python)[1]) >= Version("3.11") and "pip" in plain
    )
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
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, capture_output=True, text=True, env=environment
    )


def test_make_alone_lists_the_targets() -> None:
    listed = make()
    assert listed.returncode == 0 and not listed.stderr
    assert {line.split()[1] for line in listed.stdout.splitlines()} >= {"lab", "test", ".venv"}


def test_too_old_a_python_is_one_clear_line(tmp_path: Path) -> None:
    """An interpreter that calls itself 3.9: this Python with its version changed before the check runs."""
    old = tmp_path / "python3.9"
    old.write_text(
        '#!/bin/sh\nshift\nexec python3 -c "import sys; sys.version_info = (3, 9, 1); $1"\n'
    )
    old.chmod(old.stat().st_mode | stat.S_IXUSR)
    result = make("--no-print-directory", "-B", ".venv", f"PYTHON={old}")
    first, *rest = result.stderr.splitlines()
    assert result.returncode != 0 and not result.stdout
    assert re.match(
        r"cepnb needs Python 3.11 or newer, but .* is 3.9; name another: make PYTHON=", first
    )
    assert all(line.startswith("make: ***") for line in rest)


def test_ci_and_readme_call_the_two_commands() -> None:
    assert "make test" in (ROOT / ".ci/run").read_text() and os.access(ROOT / ".ci/run", os.X_OK)
    readme = (ROOT / "README.md").read_text()
    assert "make lab" in readme and "make test" in readme


def test_imports_between_sub_packages_run_one_way() -> None:
    """The contract of pyproject.toml, read from the imports of every module."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "1 kept, 0 broken" in done.stdout, done.stdout


def test_sub_packages_are_few_and_say_what_they_hold() -> None:
    packages = sorted(path.parent for path in (ROOT / "cepnb").glob("*/__init__.py"))
    assert len([path for path in (ROOT / "cepnb").iterdir() if path.is_dir()]) <= 11
    for package in packages:
        assert len(list(package.glob("*.py"))) <= 15, (
            f"{package.name}: too many modules to find one"
        )
        docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text()))
        assert docstring and len(docstring.splitlines()) >= 3, f"{package.name}: say what is here"
