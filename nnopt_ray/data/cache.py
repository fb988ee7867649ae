"""The cache on this machine: prepared data, and beside it what sources decoded or fetched."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

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


__all__ = ["default_cache", "kept"]
