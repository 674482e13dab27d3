"""Tensors larger than memory: .npy files that are written chunk by chunk and read by memory map."""

import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from cepnb.errors import CepnbError
from cepnb.storage.files import check_writable, read_json, unreadable, unwritable, write_json

DTYPES = {torch.float32: np.dtype("float32"), torch.float16: np.dtype("float16")}


class Progress(msgspec.Struct):
    """Contents of NAME.progress."""

    layout: dict
    chunks: Annotated[int, msgspec.Meta(ge=0)]


def reserve_array(
    file: Path, dtype: np.dtype, shape: tuple[int, ...], name: Path | None = None
) -> np.memmap:
    """Create a .npy file with all its space: a mapped write to a full disk kills the process.

    Raises `CepnbError` on `name`, else `file`, if the disk lacks space or refuses the file.
    """
    name = name or file
    check_writable(name, math.prod(shape) * dtype.itemsize)
    try:
        array = open_memmap(file, "w+", dtype, shape)
        array.flush()
        if hasattr(os, "posix_fallocate"):
            with file.open("r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
    except OSError as error:
        file.unlink(missing_ok=True)  # it would fill the disk
        raise unwritable(name, error) from error
    return array


def write_array(
    path: str | Path,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    chunk_rows: int,
    chunks: Callable[[int], Iterator[Tensor]],
) -> None:
    """Write a tensor of float32 or float16 to a .npy file, chunk by chunk and atomically.

    `chunks(first)` yields the chunks from number `first` on: tensors of `chunk_rows` rows (the last
    may be shorter). NAME.progress counts the chunks in NAME.partial. A later call with the same
    arguments resumes after the last counted chunk, bit for bit. Raises `CepnbError` if the partial
    file holds another array, the chunks do not fill the shape or the disk lacks space.
    """
    path = Path(path)
    partial, counter = (path.with_name(f"{path.name}.{end}") for end in ("partial", "progress"))
    layout = {"shape": list(shape), "dtype": DTYPES[dtype].name, "chunk_rows": chunk_rows}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (partial.exists() and counter.exists()):
            partial.unlink(missing_ok=True)
            reserve_array(partial, DTYPES[dtype], shape, path)
            try:
                write_json(counter, {"layout": layout, "chunks": 0})
            except CepnbError:
                partial.unlink(missing_ok=True)  # it would fill the disk
                raise
        progress = read_json(counter, Progress, "delete it")
        if progress["layout"] != layout:
            raise CepnbError(f"{partial}: holds a part of another array; delete it")
        done, most = progress["chunks"], math.ceil(shape[0] / chunk_rows)
        if done > most:
            raise CepnbError(f"{counter}: counts {done} of {most} chunks; delete it")
        try:
            array = open_memmap(partial, "r+")
        except ValueError as error:
            raise CepnbError(f"{partial}: is damaged ({error}); delete it") from error
        for chunk in chunks(done):
            rows = array[done * chunk_rows : (done + 1) * chunk_rows]
            if chunk.shape != rows.shape:
                found = tuple(chunk.shape)
                raise CepnbError(f"{path}: chunk {done} has shape {found}; yield {rows.shape}")
            rows[:] = chunk.detach().to("cpu", dtype).numpy()
            array.flush()  # before the counter: a power cut damages only rows that are not counted
            done += 1
            write_json(counter, {"layout": layout, "chunks": done})
        if done * chunk_rows < len(array):
            found = f"{done} chunks of {chunk_rows} rows"
            raise CepnbError(f"{path}: {found} do not fill {len(array)} rows; yield more chunks")
        partial.replace(path)
        counter.unlink()
    except OSError as error:
        raise unwritable(path, error) from error


def open_array(path: str | Path) -> Tensor:
    """Open a .npy file of float32 or float16 as a read-only, memory-mapped tensor.

    Indexing reads rows from the disk, so the array may exceed the memory. Writing into the tensor
    crashes the process. Raises `CepnbError` on a missing or damaged file.
    """
    try:
        array = open_memmap(path, "r")
    except (OSError, ValueError, OverflowError) as error:
        raise unreadable(path, ".npy", error) from error
    if array.dtype not in DTYPES.values():
        raise CepnbError(f"{path}: holds {array.dtype}; convert it to float32 or float16")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
