"""One large tensor in a safetensors file: written piece by piece, read by memory map, and never in memory as a whole."""

import json
import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cepnb.errors import CepnbError

TYPES = {torch.float32: "F32", torch.float16: "F16"}  # as the format names them
_ARRAYS = {"F32": np.float32, "F16": np.float16}


def write_pieces(
    path: Path,
    name: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    rows: int,
    pieces: Callable[[int], Iterator[Tensor]],
) -> None:
    """Write the tensor `name` into `path`, atomically; `pieces(first)` are its pieces of `rows` rows from number `first` on.

    They are appended to a file beside it, NAME.begun, which takes its place once all are there. One that is begun is gone on
    with. Each piece is on the disk before the next is made, so that a kill or a power cut can damage only the last one, which
    is then made again. Raises `CepnbError` if another tensor was begun, if the pieces do not fill the shape, and where the
    system refuses the write.
    """
    begun, header = path.with_suffix(".begun"), _header(name, shape, dtype)
    row = math.prod(shape[1:]) * dtype.itemsize
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with begun.open("a+b") as file:
            file.seek(0)
            if (found := file.read(len(header))) != header[: len(found)]:
                raise CepnbError(
                    f"{begun}: another tensor was begun here, expected {name} of shape {shape}; remove it"
                )
            whole = (begun.stat().st_size - len(header)) // (rows * row)
            done = max(0, whole - 1)
            file.truncate(len(header) + done * rows * row if whole >= 0 else 0)
            if whole < 0:
                file.write(header)
            for piece in pieces(done):
                file.write(piece.detach().to("cpu", dtype).contiguous().numpy())
                file.flush()
                os.fsync(file.fileno())
        size, wanted = begun.stat().st_size, len(header) + shape[0] * row
        if size != wanted:
            raise CepnbError(
                f"{begun}: has {size} bytes, expected {wanted} for {name} of shape {shape}; remove it"
            )
        begun.replace(path)
    except OSError as error:
        raise CepnbError(
            f"{path}: could not be written ({error.strerror}); the pieces before are kept"
        ) from error


def mapped_tensor(path: Path, name: str) -> Tensor:
    """The tensor `name` of a safetensors file by memory map: what rows are asked for is read, and given up when memory is short.

    It may be larger than memory: the map is read-only, and the system sets nothing aside for it. (That of safetensors itself
    can be written into, and is refused where it is larger.) Never write into the tensor: this ends the process. Raises
    `CepnbError` on a missing or damaged file, or one without such a tensor of real numbers.
    """
    try:
        with safe_open(
            str(path), framework="numpy"
        ) as stored:  # the file is whole; nothing of the tensors is read
            known = list(stored.keys())
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(length)).get(name)
    except (OSError, SafetensorError) as error:
        raise CepnbError(
            f"{path}: expected a whole safetensors file ({str(error).splitlines()[0]})"
        ) from error
    if entry is None:
        raise CepnbError(f"{path}: has {', '.join(known) or 'no tensor'}, expected '{name}'")
    if entry["dtype"] not in _ARRAYS:
        raise CepnbError(
            f"{path}: '{name}' is of type {entry['dtype']}, expected one of {', '.join(_ARRAYS)}"
        )
    array = np.memmap(
        path,
        _ARRAYS[entry["dtype"]],
        "r",
        8 + length + entry["data_offsets"][0],
        tuple(entry["shape"]),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="The given NumPy array is not writable"
        )  # which is what is wanted
        return torch.from_numpy(array)


def _header(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> bytes:
    """The beginning of a safetensors file of one tensor: the length of a JSON text, and that text, padded to eight bytes."""
    size = math.prod(shape) * dtype.itemsize
    text = json.dumps(
        {name: {"dtype": TYPES[dtype], "shape": shape, "data_offsets": [0, size]}}
    ).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
