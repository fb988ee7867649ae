"""A run at a URL is worked on by one process at a time: who it is stands in `owner.json` there.

A store has no locks that end with their process. The owner writes a beat every BEAT_S; one who wants the run and finds
it held watches the beat for WATCH_S, by a clock of its own, and takes the run over when there is none. The owner that
finds another's name there, say after its machine slept, stops and sends nothing more.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nnopt_ray import rundir
from nnopt_ray.errors import RunFolderError
from nnopt_ray.rundir import RunDir
from nnopt_ray.storage.store import NotThere, Store

BEAT_S = 10.0
WATCH_S = 45.0  # without a beat for so long an owner counts as gone
LOOK_EVERY_S = 3.0
SETTLE_S = 0.5  # of two that take a run over at once, the later one stays: each looks again after so long
FILE = "owner.json"


@dataclass(frozen=True)
class Owner:
    """Which process holds a run. id: drawn anew at each start. renewed: seconds since 1970, for people to read."""

    id: str
    process: int
    node: str
    machine: str
    held: bool
    beat: int
    renewed: float

    @classmethod
    def new(cls) -> Owner:
        return cls(os.urandom(8).hex(), os.getpid(), platform.node(), machine(), True, 0, round(time.time(), 1))

    @classmethod
    def of(cls, content: bytes) -> Owner | None:
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError):
            return None

    def bytes(self) -> bytes:
        return (json.dumps(asdict(self), indent=2) + "\n").encode()

    def next(self, held: bool = True) -> Owner:
        return replace(self, held=held, beat=self.beat + 1, renewed=round(time.time(), 1))

    @property
    def gone(self) -> bool:
        """Whether it is known at once that its process lives no more."""
        if not self.held:
            return True
        if self.machine != machine():
            return False
        if self.process == os.getpid():
            return True
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


def machine() -> str:
    """Where a process number means the same process: one boot of one system, one space of process numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"{platform.node()} {os.getppid() if os.getpid() == 1 else ''}".strip()


def there(store: Store) -> Owner | None:
    """Whose the run is. Raises StoreFailed."""
    try:
        return Owner.of(store.read(FILE))
    except NotThere:
        return None


def kept(run: RunDir) -> Owner | None:
    """Whose the folder on this machine is."""
    return Owner.of(run.owner.read_bytes()) if run.owner.is_file() else None


def keep(run: RunDir, owner: Owner) -> None:
    rundir.write_bytes(run.owner, owner.bytes())


def begin(store: Store) -> Owner:
    """Own a run that is new. Raises RunFolderError when another process has begun one of this name, StoreFailed."""
    mine = Owner.new()
    if not store.create(FILE, mine.bytes()):
        raise RunFolderError(f"another process began {store.url} at the same moment. Start again.")
    return mine


def take(store: Store, note: Callable[[str], None]) -> Owner:
    """Own a run that is there. Raises RunFolderError, naming its owner, while that lives; StoreFailed."""
    holder = there(store)
    if holder is not None and not holder.gone:
        _watched(store, holder, note)
    mine = Owner.new()
    store.write(FILE, mine.bytes())
    time.sleep(SETTLE_S)
    later = there(store)
    if later is None or later.id != mine.id:
        raise _in_use(store, later)
    return mine


def _watched(store: Store, holder: Owner, note: Callable[[str], None]) -> None:
    """Look for a beat. Raises RunFolderError when there is one."""
    note(
        f"{store.url} was last worked on by process {holder.process} on {holder.node}; looking for {WATCH_S:.0f} s "
        "whether it still is."
    )
    until = time.monotonic() + WATCH_S
    while time.monotonic() < until:
        time.sleep(LOOK_EVERY_S)
        now = there(store)
        if now is not None and now.held and (now.id, now.beat) != (holder.id, holder.beat):
            raise _in_use(store, now)
        if now is None or not now.held:
            return


def _in_use(store: Store, holder: Owner | None) -> RunFolderError:
    who = f"process {holder.process} on {holder.node}" if holder is not None else "another process"
    return RunFolderError(f"{store.url} is in use by {who}. Wait for it, or stop it first.")


__all__ = ["BEAT_S", "FILE", "Owner", "begin", "keep", "kept", "take", "there"]
