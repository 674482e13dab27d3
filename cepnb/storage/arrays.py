"""Tensors larger than memory: .npy files that are written chunk by chunk and read by memory map."""

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from cepnb.errors import CepnbError
from cepnb.storage.files import read_json, write_json

DTYPES = {torch.float32: np.dtype("float32"), torch.float16: np.dtype("float16")}


def write_array(
    path: Path,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    chunk_rows: int,
    chunks: Callable[[int], Iterator[Tensor]],
) -> None:
    """Write a tensor of float32 or float16 to a .npy file, chunk by chunk and atomically.

    `chunks(first)` yields the chunks from number `first` on: tensors of `chunk_rows` rows (the last
    may be shorter). They are written to NAME.partial, and NAME.progress counts those on the disk.
    A later call with the same arguments resumes after the last counted chunk, bit for bit.
    Raises `CepnbError` if the partial file holds another array, the chunks do not fill the shape
    or the disk is full.
    """
    partial = path.with_name(f"{path.name}.partial")
    counter = path.with_name(f"{path.name}.progress")
    layout = {"shape": list(shape), "dtype": DTYPES[dtype].name, "chunk_rows": chunk_rows}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (partial.exists() and counter.exists()):
            open_memmap(partial, "w+", DTYPES[dtype], shape).flush()
            _reserve(partial)
            write_json(counter, {"layout": layout, "chunks": 0})
        progress = read_json(counter)
        if progress["layout"] != layout:
            raise CepnbError(f"{partial}: holds a part of another array; delete it")
        try:
            array, done = open_memmap(partial, "r+"), progress["chunks"]
        except ValueError as error:
            raise CepnbError(f"{partial}: is damaged ({error}); delete it") from error
        for chunk in chunks(done):
            rows = array[done * chunk_rows : (done + 1) * chunk_rows]
            if chunk.shape != rows.shape:
                found = tuple(chunk.shape)
                raise CepnbError(f"{path}: chunk {done} has shape {found}, expected {rows.shape}")
            rows[:] = chunk.detach().to("cpu", dtype).numpy()
            array.flush()  # before the counter: a power cut damages only rows that are not counted
            done += 1
            write_json(counter, {"layout": layout, "chunks": done})
        if done * chunk_rows < len(array):
            raise CepnbError(
                f"{path}: {done} chunks of {chunk_rows} rows, expected {len(array)} rows"
            )
        partial.replace(path)
        counter.unlink()
    except OSError as error:
        raise CepnbError(
            f"{path}: could not be written ({error.strerror}); finished chunks are kept"
        ) from error


def open_array(path: Path) -> Tensor:
    """Open a .npy file of float32 or float16 as a read-only, memory-mapped tensor.

    Rows are read from the disk when they are indexed, so the array may exceed the memory. Writing
    into the tensor crashes the process. Raises `CepnbError` on a missing or damaged file.
    """
    try:
        array = open_memmap(path, "r")
    except (OSError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise CepnbError(f"{path}: expected a complete .npy file ({reason})") from error
    if array.dtype not in DTYPES.values():
        raise CepnbError(f"{path}: holds {array.dtype}, expected float32 or float16")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _reserve(path: Path) -> None:
    """Allocate the file's disk space, because a mapped write to a full disk kills the process."""
    if hasattr(os, "posix_fallocate"):  # macOS lacks it
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
