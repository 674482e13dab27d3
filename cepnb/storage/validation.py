"""Validation: plain data (JSON, TOML, CSV) by declared msgspec types; numbers, shapes, seeds, β and scales."""

import math
import operator
import os
import sys
from numbers import Real
from pathlib import Path
from types import GenericAlias
from typing import Annotated, TypeVar

import msgspec

from cepnb.errors import CepnbError

T = TypeVar("T")
Number = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]  # finite
FLOAT32_MAX = (2 - 2**-23) * 2.0**127


def convert(value: object, kind: type[T] | GenericAlias, source: object, fix: str) -> T:
    """Convert plain data to `kind`; raise `CepnbError` "SOURCE: KEY: PROBLEM; FIX" on a mismatch."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        key = place.strip(".`")
        where = f"{source}: {key}" if key else f"{source}"
        raise CepnbError(f"{where}: {problem[0].lower()}{problem[1:]}; {fix}") from error


def check_finite(what: str, values: object, fix: str) -> None:
    """Raise `CepnbError` "WHAT: n of m values are not finite; FIX" on NaN and infinities.

    `values` are numbers, arrays or tensors. Call it before a clamp, a comparison or a solver that
    would hide such values.
    """
    import numpy as np  # here: commands check their arguments without it

    if hasattr(values, "detach"):
        values = values.detach().cpu()
    finite = np.isfinite(np.asarray(values))
    if not finite.all():
        found = f"{finite.size - int(finite.sum())} of {finite.size} values"
        raise CepnbError(f"{what}: {found} are not finite; {fix}")


def check_same_shape(**arrays: object) -> None:
    """Raise `CepnbError` unless all arrays or tensors, given by name, have the first one's shape.

    Call it where arithmetic would broadcast them silently.
    """
    (first, reference), *others = arrays.items()
    for name, array in others:
        if tuple(array.shape) != tuple(reference.shape):
            found = f"{name} has shape {tuple(array.shape)}"
            raise CepnbError(f"{found}; use that of {first}, {tuple(reference.shape)}")


def check_shape(name: str, array: object, *shape: int | str) -> None:
    """Raise `CepnbError` unless an array or a tensor has this shape; a text allows any length."""
    found = tuple(array.shape)
    sizes = zip(found, shape)
    if len(found) != len(shape) or any(n != m for n, m in sizes if not isinstance(m, str)):
        expected = f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
        raise CepnbError(f"{name}: shape is {found}; use {expected}")


def check_type(name: str, value: object, kind: type, fix: str) -> None:
    """Raise `CepnbError` "NAME of type T: FIX" unless a value is of this kind."""
    if not isinstance(value, kind):
        raise CepnbError(f"{name} of type {type(value).__name__}: {fix}")


def check_path(name: str, path: object) -> Path:
    """Return a path; raise `CepnbError` if it is empty or another object."""
    if not isinstance(path, str | os.PathLike) or not str(path):
        raise CepnbError(f"{name} {path!r}: use a path")
    return Path(path)


def check_seed(seed: object) -> int:
    """Return a seed as an integer; raise `CepnbError` unless it is one from 0 to 2147483647."""
    try:
        number = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 2**31:
        raise CepnbError(f"seed {seed}: use an integer from 0 to 2147483647")
    return number


def check_beta(beta: object) -> float:
    """Return β as a Python float; raise `CepnbError` unless it is a number and 0 < β < ∞."""
    if not 0 < _as_float(beta) < math.inf:
        raise CepnbError(f"beta {_shown(beta)}: use a finite number above 0")
    return _as_float(beta)


def check_scale(scale: object) -> float:
    """Return a guidance scale as a Python float; raise `CepnbError` unless it is finite and ≥ 0."""
    if not 0 <= _as_float(scale) < math.inf:
        fix = "use a finite number, 0 or more"
        raise CepnbError(f"scale {_shown(scale)} is no guidance scale; {fix}")
    if _as_float(scale) > FLOAT32_MAX:
        raise CepnbError(f"samples at scale {scale:g} are not finite; use a smaller scale")
    return _as_float(scale)


def _as_float(value: object) -> float:
    """Return a number of Python or NumPy as a float; NaN for other types, which include bool."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _shown(value: object) -> str:
    number = isinstance(value, Real) and not isinstance(value, bool)
    return str(value) if number else f"of type {type(value).__name__}"
