"""One copy of the prepared data a node: workers of a node map the same files, and over a network they are fetched once.

The run folder is shared by all nodes, as checkpoints are written into it. Where it lies on the node's own disks it is
mapped there. Over a network every pass over the data would be a pass over the network, once the data is larger than the
memory that the node has left for it; so the first worker of a node copies it to the node's cache, and all map that.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnopt_ray import rundir
from nnopt_ray.data import store
from nnopt_ray.data.cache import default_cache
from nnopt_ray.errors import RunFolderError

if TYPE_CHECKING:
    from nnopt_ray.data.types import Dataset

# Types as mountinfo names them (proc(5), the field behind the hyphen); of FUSE the part behind the dot is the program.
NETWORK = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "virtiofs", "fuse"),
        *("lustre", "ceph", "glusterfs", "beegfs", "gpfs", "orangefs", "pvfs2", "wekafs"),
    )
)
MOUNTINFO = Path("/proc/self/mountinfo")
MIB = 1 << 20


@dataclass(frozen=True)
class Mapped:
    """Where a worker maps its data from, as it tells the driver."""

    node: str  # host name
    folder: str
    file_system: str  # of the run folder
    copied_bytes: int  # by this worker; 0 where the files were there
    own: bool  # whether the files are the node's, and not behind a network
    note: str = ""  # why they are not


def open_on_node(folder: Path, cache: Path | None = None, mounts: str | None = None) -> tuple[Dataset, Mapped]:
    """The data set of a run folder's data/, from this node's own disk where that can be.

    cache: by default $NNOPT_CACHE, else ~/.cache/nnopt/data. mounts: text of a mountinfo, by default this process's.
    A cache that cannot take the copy is no fault: the run folder's files are mapped then, and `note` says why. Raises
    RunFolderError when the store is not to be seen from here, half written or damaged.
    """
    node, cache = platform.node(), cache or default_cache()
    mounts = _mounts() if mounts is None else mounts
    if not folder.is_dir():
        raise RunFolderError(
            f"node {node} does not see the run folder {folder.parent}: every node must mount it under this path, as "
            "workers write their checkpoints there. Say where with --out or NNOPT_RUNS."
        )
    kind = file_system(folder, mounts)
    shared = store.open_dataset(folder)
    if not over_network(kind):
        return shared, Mapped(node, str(folder), kind, 0, own=True)

    def stays(why: str) -> tuple[Dataset, Mapped]:
        note = f"Node {node} reads the prepared data over the network ({kind}) all the time: {why}."
        return shared, Mapped(node, str(folder), kind, 0, own=False, note=note)

    if over_network(there := file_system(cache, mounts)):
        return stays(f"its cache {cache} is on a network too ({there}); point NNOPT_CACHE to a disk of its own")
    try:
        copied = fetch(shared, cache)
        mapped = store.open_dataset(cache / shared.key)
    except (OSError, RunFolderError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return stays(f"no copy could be made in {cache} ({said.rstrip('.')})")
    if _described(mapped.folder) != _described(folder):
        return stays(f"{mapped.folder} was prepared on another machine with other results")
    return mapped, Mapped(node, str(mapped.folder), kind, copied, own=True)


def fetch(shared: Dataset, cache: Path, copy: Callable[[Path, Path], object] = shutil.copyfile) -> int:
    """See to it that the cache holds this store under its key → bytes copied, 0 where it was there.

    Of several processes one copies and the others wait. The store gets its name when it is whole and its manifest was
    checked; what a killed process left is cleared by the next. `copy`: how a file is copied. Raises OSError when the
    disk is full or cannot be written, RunFolderError when the copy is not what the manifest says.
    """
    folder = cache / shared.key
    cache.mkdir(parents=True, exist_ok=True)
    with alone(cache / f".{shared.key}.lock"):
        if whole(folder):
            return 0
        building = cache / f"{store.BUILDING}{shared.key}"  # nobody else writes to it while the lock is held
        shutil.rmtree(building, ignore_errors=True)
        names: list[str] = [*rundir.read_json(shared.folder / store.MANIFEST)["files"], store.MANIFEST]
        total = sum((shared.folder / name).stat().st_size for name in names)
        if total > shutil.disk_usage(cache).free:
            raise OSError(errno.ENOSPC, f"the disk is full: {total / MIB:,.0f} MiB are needed")
        try:
            building.mkdir()
            for name in names:
                copy(shared.folder / name, building / name)
                (building / name).chmod(0o444 if name.endswith(".npy") else 0o644)  # as in any store of the cache
            store.open_dataset(building)
            store.take_name(building, folder, shared.key)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return total


def whole(folder: Path) -> bool:
    try:
        store.open_dataset(folder)
    except RunFolderError:
        return False
    return True


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """One process at a time. The system frees the lock of a process that dies."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _described(folder: Path) -> dict[str, Any]:
    """What the manifest says of the numbers; summary and audit also name paths."""
    files: dict[str, Any] = rundir.read_json(folder / store.MANIFEST)["files"]
    return {name: said for name, said in files.items() if name.endswith(".npy") or name == store.DATASET}


# ── file systems ─────────────────────────────────────────────────────────────────────────────────────


def _mounts() -> str:
    try:
        return MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # no Linux: all counts as local
        return ""


def file_system(place: Path, mounts: str) -> str:
    """Type of the file system that a path lies on (it need not be there yet), by a text like /proc/self/mountinfo.

    That of the longest mount point above it, of several on one point the last, which hides the others. Empty when
    none is named.
    """
    path = os.path.realpath(place)
    best, found = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])  # blanks are \040
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, found = point, after.split(" ")[0]
    return found


def over_network(kind: str) -> bool:
    """Whether a type of file system is read over a network. fuseblk, of local disks, is not."""
    return kind.split(".")[0] in NETWORK


# ── what the driver says ─────────────────────────────────────────────────────────────────────────────


class Nodes:
    """What the workers of a study said of where they map their data, in a sentence for all of them."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._of: dict[tuple[str, str], Mapped] = {}  # node and folder: two caches on one host are two copies
        self._copied: dict[tuple[str, str], int] = {}

    def take(self, mapped: Mapped) -> dict[str, str]:
        """What is to stand among the things decided; empty where all is mapped in the run folder, on a local disk."""
        if mapped.note and not any(other.note for other in self._of.values()):
            self._note(mapped.note)
        place = mapped.node, mapped.folder
        if not mapped.own or over_network(mapped.file_system):
            self._of[place] = mapped
        if mapped.copied_bytes:
            self._copied[place] = max(mapped.copied_bytes, self._copied.get(place, 0))
        return {"data_on_nodes": self._sentence()} if self._of else {}

    def _sentence(self) -> str:
        kind = next(iter(self._of.values())).file_system
        size = max(self._copied.values(), default=0) / MIB
        fetched = len(self._copied)
        there = sum(mapped.own for mapped in self._of.values()) - fetched
        far = sum(not mapped.own for mapped in self._of.values())
        said = [
            f"fetched once to each of {fetched} nodes ({size:,.1f} MiB)" if fetched > 1 else "",
            f"fetched once to 1 node ({size:,.1f} MiB)" if fetched == 1 else "",
            f"in the cache of {there} node{'s' * (there != 1)} already" if there else "",
            f"read over the network all the time by {far} node{'s' * (far != 1)}" if far else "",
        ]
        return f"{', '.join(part for part in said if part)}, as the run folder is on {kind}"


__all__ = ["Mapped", "Nodes", "fetch", "file_system", "open_on_node", "over_network"]
