"""The cache on this machine: prepared data, and beside it what sources decoded or fetched."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nnopt_ray.data.store import beside


def default_cache() -> Path:
    """$NNOPT_CACHE, else ~/.cache/nnopt/data."""
    said = os.environ.get("NNOPT_CACHE")
    return Path(said).expanduser() if said else Path.home() / ".cache" / "nnopt" / "data"


def kept(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder of the cache with this key; `make` fills an empty one where there is none yet.

    kind: `images` or `fetched`. Two processes may make the same at once: the first to finish wins. Raises RunFailed
    when the disk is full or the cache cannot be written, and what `make` raises.
    """
    folder = default_cache() / kind / key
    if folder.is_dir():
        return folder
    with beside(folder) as building:
        make(building)
        try:
            os.rename(building, folder)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
    return folder


class ArrayFile:
    """A .npy file that is filled piece by piece, in any order and by several threads.

    It is written and not mapped: pages of a mapped file that were written count as the process's memory until the disk
    has them (1.4 GB of 1.4 GB were seen), and on a full disk they end it by a signal where this raises OSError.
    """

    def __init__(self, file: Path, dtype: Any, shape: tuple[int, ...]) -> None:
        self._row = np.dtype(dtype).itemsize * int(np.prod(shape[1:], dtype=np.int64))
        self._dtype, self._shape = np.dtype(dtype), shape
        self._file = file.open("wb")
        head = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, head)
        self._file.flush()
        self._start = self._file.tell()
        os.ftruncate(self._file.fileno(), self._start + shape[0] * self._row)

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, row: int, rows: np.ndarray) -> None:
        """Write [n, ...] rows from this row on. Raises OSError."""
        assert rows.shape[1:] == self._shape[1:]
        assert row + len(rows) <= self._shape[0]
        content = np.ascontiguousarray(rows, dtype=self._dtype).reshape(-1).view(np.uint8).data
        place = self._start + row * self._row
        while content:
            done = os.pwrite(self._file.fileno(), content, place)
            content, place = content[done:], place + done


__all__ = ["ArrayFile", "default_cache", "kept"]
