"""What values that were read have to be, and which is the first that is something else."""

import reprlib
import sys
from collections.abc import Callable

Kind = Callable[[object], bool]  # says whether a value is of it
_SHORT = reprlib.Repr()
_SHORT.maxdict = 7  # entries of a record of scores


def number(value: object) -> bool:
    """Whether it is a finite number, which True is not."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def whole(value: object) -> bool:
    return type(value) is int


def text(value: object) -> bool:
    return type(value) is str


def anything(value: object) -> bool:
    return True


def maybe(kind: Kind) -> Kind:
    return lambda value: value is None or kind(value)


def listed(kind: Kind) -> Kind:
    return lambda value: type(value) is list and all(map(kind, value))


def tabled(kind: Kind) -> Kind:
    return lambda value: type(value) is dict and all(map(kind, value.values()))


def wrong_in(found: object, needed: dict[str, Kind], known: dict[str, Kind]) -> str:
    """The first entry that is missing, or of another kind than its own, in words; nothing if all is well."""
    if type(found) is not dict:
        found = {}
    for key, kind in (needed | known).items():
        if key not in found and key in needed:
            return f"'{key}' is missing"
        if key in found and not kind(found[key]):
            return f"'{key}' is {shown(found[key])}"
    return ""


def shown(value: object) -> str:
    """A value that may be anything, and of any length, for a line."""
    return value[:80] if text(value) else _SHORT.repr(value)
