"""Sends what changed in a folder of this machine to a store, so that what lies there can always be gone on from.

Files are sent whole, in an order in which no file speaks of another that is not there yet: a trial's best weights, its
state, its history; then the journal, as it was before those; at last the result. What is gone here is removed there.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from nnopt_ray import rundir
from nnopt_ray.errors import RunFolderError
from nnopt_ray.storage.store import Store, StoreFailed

EVERY_S = 10.0  # between two looks for what changed
SHARE = 0.05  # ... and no more than this share of the time is spent looking
SENT = ".sent.json"
OURS = ("lock", "owner.json")  # of this machine, or sent by others
FLEETING = ("ray_train",)  # folders of Ray's own
STATE = re.compile(r"(epoch|decision)-\d+\.safetensors")

Stamp = tuple[int, int, int]  # inode, bytes, time of the last change in ns


class Mirror:
    """One folder and its store."""

    def __init__(self, folder: Path, store: Store, only: Callable[[str], bool] = lambda name: True) -> None:
        """only: which names are sent, and removed there, by this one."""
        self.folder, self.store, self.only = folder, store, only
        self._sent: dict[str, Stamp] = {}
        self._lock = threading.Lock()
        self._look_s = 0.0
        self.lost = False  # another process has taken the run over: nothing is sent any more
        with suppress(RunFolderError, ValueError, TypeError, AttributeError):
            self._sent = {name: tuple(stamp) for name, stamp in rundir.read_json(folder / SENT).items()}

    def as_there(self, names: Iterable[str]) -> None:
        """These files are the same here and there."""
        for name in names:
            with suppress(OSError):
                self._sent[name] = _stamp(os.stat(self.folder / name))
        self._remember()

    def forget(self, below: str) -> None:
        """What lies below is no longer this one's: it is neither sent nor removed there."""
        with self._lock:
            self._sent = {name: stamp for name, stamp in self._sent.items() if not name.startswith(below)}

    @property
    def every_s(self) -> float:
        return max(EVERY_S, self._look_s / SHARE)

    def pending(self) -> dict[str, int]:
        """name → bytes of what is not there as it is here."""
        return {name: stamp[1] for name, stamp in self._here().items() if self._sent.get(name) != stamp}

    def sync(self, below: str = "") -> bool:
        """Send what changed, of all or below a folder → whether there was no more of it than could be sent in one go.

        Prepared data that takes long is sent file by file, with looks for what else changed between. Raises StoreFailed
        at the first file that is not taken.
        """
        with self._lock:
            try:
                return self._sync(below)
            finally:
                self._remember()

    def _sync(self, below: str) -> bool:
        began = time.monotonic()
        journals = {name: _whole_lines(self.folder / name) for name in self._names(below, "journal.jsonl")}
        here = {name: stamp for name, stamp in self._here().items() if name.startswith(below)}
        self._look_s = time.monotonic() - began
        changed = {name for name, stamp in here.items() if self._sent.get(name) != stamp}
        groups: dict[tuple[int, str], list[str]] = {}
        for name in changed:
            turn = _turn(name)
            groups.setdefault((turn, _together(name)), []).append(name)
        with ThreadPoolExecutor(self.store.together) as pool:
            for turn in sorted({turn for turn, _ in groups}):
                of_turn = [names for (each, _), names in sorted(groups.items()) if each == turn]
                if turn == JOURNAL:
                    for name in (name for names in of_turn for name in names):
                        self._send_bytes(name, journals.get(name, b""), here[name])
                    self._remove_gone(here, below)
                elif turn == DATA:
                    for names in of_turn:
                        self._send_group(names)
                        if time.monotonic() - began > EVERY_S:
                            return False
                else:
                    list(pool.map(self._send_group, of_turn))
        if not any(turn == JOURNAL for turn, _ in groups):
            self._remove_gone(here, below)
        return True

    def _send_group(self, names: list[str]) -> None:
        """Files of one folder: the states are opened first and sent after the best weights, which may then be newer
        than they say, never older."""
        opened: list[tuple[str, int]] = []
        try:
            for name in sorted(names, key=_opened_at):
                with suppress(FileNotFoundError):
                    opened.append((name, os.open(self.folder / name, os.O_RDONLY)))
            for name, handle in sorted(opened, key=lambda one: _sent_at(one[0])):
                if self.lost:
                    return
                stamp = _stamp(os.fstat(handle))
                self.store.send(name, handle)
                self._sent[name] = stamp
        finally:
            for _, handle in opened:
                os.close(handle)

    def _send_bytes(self, name: str, content: bytes, stamp: Stamp) -> None:
        if self.lost:
            return
        self.store.write(name, content)
        # What was appended since is of another size, and sent the next time.
        self._sent[name] = (stamp[0], len(content), stamp[2])

    def _remove_gone(self, here: dict[str, Stamp], below: str) -> None:
        for name in [name for name in self._sent if name.startswith(below) and name not in here]:
            if self.only(name) and not self.lost and not (self.folder / name).exists():
                self.store.remove(name)
                self._sent.pop(name, None)

    def _names(self, below: str, file: str) -> list[str]:
        return [name for name in self._here() if name.startswith(below) and name.rpartition("/")[2] == file]

    def _here(self) -> dict[str, Stamp]:
        return {name: stamp for name, stamp in _walked(str(self.folder), "") if self.only(name)}

    def _remember(self) -> None:
        with suppress(OSError):
            part = self.folder / f"{SENT}.part"
            part.write_text(json.dumps(self._sent), encoding="utf-8")
            os.replace(part, self.folder / SENT)


# ── in which order ──────────────────────────────────────────────────────────────────────────────────────

FIRST, TRIALS, OTHERS, JOURNAL, PAGE, DATA, MANIFEST, RESULT = range(8)


def _turn(name: str) -> int:
    file = name.rpartition("/")[2]
    parts = name.split("/")
    if "data" in parts[:-1]:
        return MANIFEST if file == "manifest.json" else DATA
    if "trials" in parts[:-1]:
        return TRIALS
    if file in ("page.yaml", "environment.json") and len(parts) == 1:
        return FIRST
    if file == "journal.jsonl":
        return JOURNAL
    if file == "resolved.yaml":
        return PAGE
    return RESULT if file == "result.json" else OTHERS


def _together(name: str) -> str:
    """Files of a trial go one after the other; others each by itself."""
    parts = name.split("/")
    if "trials" in parts[:-1]:
        return "/".join(parts[: parts.index("trials") + 2])
    return name


def _opened_at(name: str) -> int:
    file = name.rpartition("/")[2]
    return 0 if STATE.fullmatch(file) else 1 if file == "best.safetensors" else 2


def _sent_at(name: str) -> int:
    file = name.rpartition("/")[2]
    return 0 if file == "best.safetensors" else 1 if STATE.fullmatch(file) else 2


# ── what is here ────────────────────────────────────────────────────────────────────────────────────────


def _walked(folder: str, prefix: str) -> Iterator[tuple[str, Stamp]]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        name = entry.name
        if name.startswith(".") or name in FLEETING or (not prefix and name in OURS):
            continue
        with suppress(FileNotFoundError):
            if entry.is_dir(follow_symlinks=False):
                yield from _walked(entry.path, f"{prefix}{name}/")
            elif not (name == "stop" or name.endswith(".part")):
                yield f"{prefix}{name}", _stamp(entry.stat())


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _whole_lines(file: Path) -> bytes:
    with suppress(FileNotFoundError):
        content = file.read_bytes()
        return content[: content.rfind(b"\n") + 1]
    return b""


__all__ = ["Mirror", "StoreFailed"]
