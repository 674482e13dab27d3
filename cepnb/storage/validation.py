"""Validation of plain data (JSON, TOML, CSV) by declared msgspec types."""

import sys
from types import GenericAlias
from typing import Annotated, TypeVar

import msgspec

from cepnb.errors import CepnbError

T = TypeVar("T")
Number = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]  # finite


def convert(value: object, kind: type[T] | GenericAlias, source: object, fix: str) -> T:
    """Convert plain data to `kind`; raise `CepnbError` "SOURCE: KEY: PROBLEM; FIX" on a mismatch."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        key = place.strip(".`")
        where = f"{source}: {key}" if key else f"{source}"
        raise CepnbError(f"{where}: {problem[0].lower()}{problem[1:]}; {fix}") from error
