"""A sweep as a TOML file: datasets, seeds, a profile, and named options that change settings."""

import re
import tomllib
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from cepnb.datasets.registry import evaluated_in
from cepnb.errors import CepnbError
from cepnb.profiles import profile_name
from cepnb.qgpo.settings import Settings, coerce, qgpo_settings
from cepnb.storage.validation import convert

Name = Annotated[str, Meta(min_length=1)]
Seed = Annotated[int, Meta(ge=0, lt=2**31)]


@dataclass(frozen=True)
class Task:
    """A dataset, the environment that evaluates its policies, and the settings of each option there."""

    dataset: str
    environment: str
    folder: str  # name of the folder of its runs
    options: dict[str, Settings]


@dataclass(frozen=True)
class Sweep:
    """The product tasks × seeds × options under one profile."""

    path: Path
    tasks: tuple[Task, ...]
    seeds: tuple[int, ...]
    profile: str


class _Dataset(Struct, forbid_unknown_fields=True):
    dataset: Name
    environment: Name | None = None


class _File(Struct, forbid_unknown_fields=True):
    datasets: Annotated[list[str | _Dataset], Meta(min_length=1)]
    seeds: Annotated[list[Seed], Meta(min_length=1)]
    profile: str | None = None
    set: dict[str, Any] = {}
    options: dict[str, dict[str, Any]] = {}


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file, for example

        datasets = ["local/maze2d-umaze", {dataset = "my.hdf5", environment = "maze2d-large"}]
        seeds = [0, 1, 2]
        profile = "laptop"              # default: $CEPNB_PROFILE, else laptop
        set = {episodes = 50}           # changes in all options
        [options.base]                  # default: one option "base" without changes
        [options.sharper]
        beta = 40.0

    Raises `CepnbError` naming the file, the key, the problem and the fix.
    """
    file = convert(_toml(path), _File, path, "see the example in docs/options.md")
    with _naming(f"{path}"):
        profile = profile_name(file.profile)
    with _naming(f"{path}: set"):
        common = coerce(file.set)
    options = {}
    for name, changes in (file.options or {"base": {}}).items():
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise CepnbError(
                f"{path}: options: {name!r} cannot name a folder; use letters, digits, '_', '.' and '-'"
            )
        with _naming(f"{path}: options.{name}"):
            options[name] = common | coerce(changes)
    tasks = tuple(_task(path, entry, options, profile) for entry in file.datasets)
    _refuse_repeated(path, "datasets", (task.folder for task in tasks))
    _refuse_repeated(path, "seeds", file.seeds)
    return Sweep(path, tasks, tuple(file.seeds), profile)


def _toml(path: Path) -> dict:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CepnbError(
            f"{path}: cannot be read ({error.strerror}); name a sweep file in TOML"
        ) from error
    except (ValueError, RecursionError) as error:  # of TOML or of UTF-8
        raise CepnbError(f"{path}: invalid TOML ({str(error).splitlines()[0]})") from error


def _task(path: Path, entry: str | _Dataset, options: dict[str, dict], profile: str) -> Task:
    if isinstance(entry, str):
        entry = _Dataset(entry)
    with _naming(f"{path}: datasets"):
        environment = evaluated_in(entry.dataset, entry.environment)
    settings: dict[str, Settings] = {}
    for name, changes in options.items():
        with _naming(f"{path}: options.{name}"):
            settings[name] = qgpo_settings(profile, environment, **changes)
    for one, other in combinations(settings, 2):
        if settings[one] == settings[other]:
            raise CepnbError(
                f"{path}: options.{other}: same settings as options.{one} for {environment}; remove one"
            )
    name = f"{entry.dataset}-in-{entry.environment}" if entry.environment else entry.dataset
    folder = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    return Task(entry.dataset, environment, folder, settings)


def _refuse_repeated(path: Path, key: str, values: Iterable[Hashable]) -> None:
    value, count = Counter(values).most_common(1)[0]
    if count > 1:
        raise CepnbError(f"{path}: {key}: {value!r} occurs {count} times; list it once")


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Prefix the `CepnbError` of a block with the place in the file."""
    try:
        yield
    except CepnbError as error:
        raise CepnbError(f"{place}: {error}") from None
