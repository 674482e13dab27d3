"""Test the set-up: lock, version ranges, conda file, Makefile, and the structure of the package."""

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

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
NAMED = {"torch", "jupyterlab", "nbmake", "ipywidgets", "matplotlib", "d4rl", "gym"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def lock() -> dict[str, str]:
    pins = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            pin = re.fullmatch(r"([\w.-]+)==([\w.]+)", line)
            assert pin, line
            pins[canonicalize_name(pin[1])] = pin[2]
    return pins


def ranges() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    texts = PROJECT["dependencies"] + extras["test"] + extras["book"] + extras["cluster"]
    return [Requirement(text) for text in texts]


def test_the_lock_pins_versions_within_the_ranges() -> None:
    pins = lock()
    assert pins["torch"] == "2.13.0" and "torch==2.13.0" in PROJECT["dependencies"]
    for requirement in ranges():
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement
    assert NAMED <= set(pins)


def test_the_locked_versions_are_installed() -> None:
    # Search this environment only: setuptools, once imported, adds vendored packages to the path.
    packages = distributions(path=[sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    found = {canonicalize_name(d.metadata["Name"]): Version(d.version).public for d in packages}
    wrong = {name: (found.get(name), pin) for name, pin in lock().items() if found.get(name) != pin}
    assert not wrong, wrong


def test_the_conda_file_pins_the_same_versions() -> None:
    file = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert file["name"] == "cepnb"
    plain = [entry for entry in file["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in file["dependencies"] if isinstance(entry, dict)]
    (python,) = [entry for entry in plain if entry.startswith("python")]
    version = re.fullmatch(r"python=(\d+\.\d+)", python)[1]
    assert Version(version) >= Version("3.11") and "pip" in plain
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
        ["make", *arguments], cwd=ROOT, capture_output=True, encoding="utf-8", env=environment
    )


def test_make_alone_lists_the_targets() -> None:
    listed = make()
    assert listed.returncode == 0 and not listed.stderr
    assert {line.split()[1] for line in listed.stdout.splitlines()} >= {"lab", "test", ".venv"}


def test_an_old_python_gives_one_line(tmp_path: Path) -> None:
    """The interpreter is this Python with its version set to 3.9 before the check runs."""
    old = tmp_path / "python3.9"
    old.write_text(
        '#!/bin/sh\nshift\nexec python3 -c "import sys; sys.version_info = (3, 9, 1); $1"\n',
        encoding="utf-8",
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
    assert "make test" in (ROOT / ".ci/run").read_text(encoding="utf-8") and os.access(
        ROOT / ".ci/run", os.X_OK
    )
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make lab" in readme and "make test" in readme


def test_imports_between_sub_packages_run_one_way() -> None:
    """Run the contract of pyproject.toml over the imports of every module."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and "1 kept, 0 broken" in done.stdout, done.stdout


def test_sub_packages_are_few_and_describe_their_contents() -> None:
    packages = sorted(path.parent for path in (ROOT / "cepnb").glob("*/__init__.py"))
    folders = [path for path in (ROOT / "cepnb").iterdir() if path.is_dir()]
    assert len([path for path in folders if path.name != "__pycache__"]) <= 11
    for package in packages:
        modules = list(package.glob("*.py"))
        assert len(modules) <= 15, f"{package.name}: {len(modules)} modules are too many"
        docstring = ast.get_docstring(
            ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
        )
        assert docstring and len(docstring.splitlines()) >= 3, f"{package.name}: list its modules"
