"""A sweep as a small TOML file: datasets, seeds, a profile, and named options, each a set of changed settings."""

import re
import tomllib
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import get_args

from cepnb.datasets.registry import evaluated_in
from cepnb.errors import CepnbError
from cepnb.qgpo.pipeline import check_plans
from cepnb.qgpo.settings import Settings, coerce, profile_name, qgpo_settings, tuning_of

KEYS = ("datasets", "seeds", "profile", "set", "options")
KINDS = {
    field.name: f"a list of {get_args(field.type)[0].__name__}"
    if get_args(field.type)
    else field.type.__name__
    for field in fields(Settings)
}


@dataclass(frozen=True)
class Task:
    """A dataset, the environment in which its policies are evaluated, and the settings of each option there."""

    dataset: str
    environment: str
    folder: str  # name of the folder of its runs
    options: dict[str, Settings]


@dataclass(frozen=True)
class Sweep:
    """All of tasks × seeds × options, under one profile."""

    path: Path
    tasks: tuple[Task, ...]
    seeds: tuple[int, ...]
    profile: str


def read_sweep(path: Path) -> Sweep:
    """The sweep of a file such as

        datasets = ["local/maze2d-umaze", {dataset = "my.hdf5", environment = "maze2d-large"}]
        seeds = [0, 1, 2]
        profile = "laptop"              # else $CEPNB_PROFILE, else laptop
        set = {episodes = 50}           # in all options
        [options.as_it_is]
        [options.sharper]
        beta = 40.0

    Raises `CepnbError` naming file, key, what was found and what was expected.
    """
    table = _toml(path)
    for key in table:
        if key not in KEYS:
            raise CepnbError(f"{path}: unknown key '{key}', expected some of {', '.join(KEYS)}")
    given = _typed(path, "profile", table.get("profile", ""), str)
    try:
        profile = profile_name(given)
    except CepnbError as error:
        raise _at(path, error) from None
    seeds = tuple(_filled_list(path, table, "seeds", 0))
    for seed in seeds:
        if type(seed) is not int or not 0 <= seed < 2**31:
            raise CepnbError(
                f"{path}: seeds: found {seed!r}, expected integers from 0 to 2147483647"
            )
    common = _changes(path, "set", table.get("set", {}))
    named = _typed(path, "options", table.get("options", {}), dict) or {"base": {}}
    options = {
        name: common | _changes(path, f"options.{name}", changes) for name, changes in named.items()
    }
    tasks = tuple(
        _task(path, entry, options, profile)
        for entry in _filled_list(path, table, "datasets", "local/maze2d-umaze")
    )
    _refuse_repeated(path, "datasets", (task.folder for task in tasks))
    _refuse_repeated(path, "seeds", seeds)
    return Sweep(path, tasks, seeds, profile)


def _toml(path: Path) -> dict:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CepnbError(
            f"{path}: could not be read ({error.strerror}), expected a sweep as a TOML file"
        ) from error
    except (ValueError, RecursionError) as error:  # of TOML or of UTF-8
        raise CepnbError(f"{path}: expected a TOML file ({str(error).splitlines()[0]})") from error


def _task(path: Path, entry: object, options: dict[str, dict], profile: str) -> Task:
    given = {"dataset": entry} if isinstance(entry, str) else entry
    if (
        not isinstance(given, dict)
        or not {"dataset"} <= set(given) <= {"dataset", "environment"}
        or not all(isinstance(value, str) and value for value in given.values())
    ):
        raise CepnbError(
            f"{path}: datasets: found {entry!r}, expected a name, or {{dataset = ..., environment = ...}} of names"
        )
    name, environment = given["dataset"], given.get("environment")
    try:
        place = evaluated_in(name, environment)
    except CepnbError as error:
        raise _at(path, error, "datasets") from None
    folder = re.sub(r"[^\w.-]+", "-", f"{name}-in-{environment}" if environment else name).strip(
        "-."
    )
    return Task(name, place, folder, _options(path, options, profile, place))


def _options(
    path: Path, options: dict[str, dict], profile: str, environment: str
) -> dict[str, Settings]:
    """The settings of all options where policies are evaluated in this environment, whose family has a say in them."""
    chosen: dict[str, Settings] = {}
    for name, changes in options.items():
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise CepnbError(
                f"{path}: options: found {name!r}, expected names of letters, digits, '_', '.' and '-'"
            )
        try:
            chosen[name] = qgpo_settings(profile, tuning_of(environment), **changes)
            check_plans(chosen[name])
        except CepnbError as error:
            raise _at(path, error, f"options.{name}") from None
    for one, other in combinations(chosen, 2):
        if chosen[one] == chosen[other]:
            raise CepnbError(
                f"{path}: options.{other}: the same settings as options.{one} for {environment}, expected others"
            )
    return chosen


def _changes(path: Path, key: str, table: object) -> dict[str, object]:
    """A table of settings, each in the type of its field."""
    fitted = {}
    for name, value in _typed(path, key, table, dict).items():
        if name not in KINDS:
            raise CepnbError(
                f"{path}: {key}.{name}: unknown setting, expected one of {', '.join(KINDS)}"
            )
        fitted[name] = coerce(name, value)
        if fitted[name] is None:
            raise CepnbError(f"{path}: {key}.{name}: found {value!r}, expected {KINDS[name]}")
    return fitted


def _typed(path: Path, key: str, value: object, kind: type) -> object:
    if not isinstance(value, kind):
        wanted = {dict: "a table", list: "a list", str: "a name"}[kind]
        raise CepnbError(f"{path}: {key}: found {value!r}, expected {wanted}")
    return value


def _filled_list(path: Path, table: dict, key: str, example: object) -> list:
    if not table.get(key) or not isinstance(table[key], list):
        found = repr(table[key]) if key in table else "nothing"
        raise CepnbError(f"{path}: {key}: found {found}, expected a list such as [{example!r}]")
    return table[key]


def _refuse_repeated(path: Path, key: str, values: Iterable[Hashable]) -> None:
    value, count = Counter(values).most_common(1)[0]
    if count > 1:
        raise CepnbError(f"{path}: {key}: found {value!r} {count} times, expected each once")


def _at(path: Path, error: CepnbError, key: str = "") -> CepnbError:
    return CepnbError(f"{path}: {key}: {error}" if key else f"{path}: {error}")
