"""A sweep as a TOML file: datasets, seeds, a profile, and named options that change settings."""

import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from cepnb.datasets.registry import evaluated_in
from cepnb.errors import CepnbError
from cepnb.profiles import profile_name
from cepnb.qgpo.settings import Settings, coerce, qgpo_settings
from cepnb.storage.files import not_read
from cepnb.storage.validation import convert

Name = Annotated[str, Meta(min_length=1)]
Seed = Annotated[int, Meta(ge=0, lt=2**31)]
EXAMPLE = "see the example in docs/options.md"


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


def read_sweep(path: str | Path) -> Sweep:
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
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: of TOML or of UTF-8
        if refusal := not_read(path, error):
            raise refusal from error
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise CepnbError(f"{path}: cannot be read as TOML ({reason}); {EXAMPLE}") from error
    file = convert(content, _File, path, EXAMPLE)
    with _naming(path):
        profile = profile_name(file.profile)
    with _naming(f"{path}: set"):
        common = coerce(file.set)
    changes = {}
    for option, own in (file.options or {"base": {}}).items():
        with _naming(f"{path}: options.{option}"):
            if not re.fullmatch(r"\w[\w.-]*", option):
                raise CepnbError("cannot name a folder; use letters, digits, '_', '.' and '-'")
            changes[option] = common | coerce(own)
    tasks = tuple(_task(path, entry, changes, profile) for entry in file.datasets)
    cases = [f"{_real(task.dataset)} in {task.environment}" for task in tasks]
    for key, values in (("datasets", cases), ("seeds", file.seeds)):
        value, count = Counter(values).most_common(1)[0]
        if count > 1:
            raise CepnbError(f"{path}: {key}: {value!r} occurs {count} times; list it once")
    first: dict[str, str] = {}  # the dataset of each folder
    for task in tasks:
        if task.folder in first:
            both = f"'{first[task.folder]}' and '{task.dataset}'"
            problem = f"both would use the folder {task.folder}; rename one of the files"
            raise CepnbError(f"{path}: datasets: {both}: {problem}")
        first[task.folder] = task.dataset
    return Sweep(path, tasks, tuple(file.seeds), profile)


def _real(dataset: str) -> str:
    """Return the absolute path of a file without links, or the name of another dataset."""
    return os.path.realpath(dataset) if os.path.isfile(dataset) else dataset


def _task(path: Path, entry: str | _Dataset, changes: dict[str, dict], profile: str) -> Task:
    """Combine a dataset with all options, whose settings must be valid and differ from each other."""
    if isinstance(entry, str):
        entry = _Dataset(entry)
    with _naming(f"{path}: datasets"):
        environment = evaluated_in(entry.dataset, entry.environment)
    options: dict[str, Settings] = {}
    for option in changes:
        with _naming(f"{path}: options.{option}"):
            settings = qgpo_settings(profile, environment, **changes[option])
            for other in options:
                if options[other] == settings:
                    same = f"same settings as options.{other} for {environment}"
                    raise CepnbError(f"{same}; remove one of the two")
        options[option] = settings
    name = f"{entry.dataset}-in-{entry.environment}" if entry.environment else entry.dataset
    return Task(entry.dataset, environment, re.sub(r"[^\w.-]+", "-", name).strip("-."), options)


@contextmanager
def _naming(place: object) -> Iterator[None]:
    """Prefix the `CepnbError` of a block with the place in the file."""
    try:
        yield
    except CepnbError as error:
        raise CepnbError(f"{place}: {error}") from None
