"""A run at a URL while a process works on it: held there, sent there as it goes, and whole there at its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from nnopt_ray import holding, rundir
from nnopt_ray.errors import Interrupted, RunFailed, RunFolderError, UserError
from nnopt_ray.log import plural
from nnopt_ray.rundir import RunDir
from nnopt_ray.storage import copies
from nnopt_ray.storage import owner as owners
from nnopt_ray.storage.mirror import Mirror
from nnopt_ray.storage.owner import Owner
from nnopt_ray.storage.store import Store, StoreFailed, probe
from nnopt_ray.storage.urls import path_of, url_of, working

GIVE_UP_S = 120.0  # at the end of a run, without a file that could be sent
AGAIN_S, AGAIN_MOST_S = 5.0, 60.0  # between two tries while the store does not answer
TELL_BYTES = 32 << 20  # so much still to be sent at the end is told
MIB = 1 << 20

Note = Callable[[str], None]
Stop = Callable[[], bool]


def parent_of(out: str | Path) -> Path:
    """The folder on this machine that new runs are made in; of a URL, where they are worked on.

    Raises UserError when a URL cannot be written to: a file is written there, read and removed.
    """
    url = url_of(out)
    if not url:
        return path_of(out)
    probe(url)
    return working(url)


_live: dict[Path, Keeper] = {}  # run folder → who keeps it in this process


def apart(run: RunDir) -> str:
    """The URL of a run whose trials workers elsewhere train and send from now on; empty for a run in a folder.

    The driver sends all but trials then, and its folder is no copy that one could go on from.
    """
    keeper = _keeper_of(run)
    if keeper is None:
        return ""
    keeper.set_apart()
    return copies.at(run.root)


def apart_from(run: RunDir) -> str:
    """The URL of a run whose trials were trained and sent by workers elsewhere; empty for others."""
    keeper = _keeper_of(run)
    return copies.at(run.root) if keeper is not None and keeper.is_apart else ""


def _keeper_of(run: RunDir) -> Keeper | None:
    return next((keeper for root, keeper in _live.items() if run.root.is_relative_to(root)), None)


def refuse_other_nodes(run: RunDir, nodes: int) -> None:
    """Raises UserError for a network at a URL that workers on several nodes would train together."""
    if nodes > 1 and (url := copies.at(run.root)):
        raise UserError(
            f"{url}: the Ray cluster has {nodes} nodes, and workers that train one network write to one folder. "
            "Choose a folder that all nodes mount with --out, or one machine."
        )


@contextmanager
def kept(run: RunDir, note: Note, should_stop: Stop) -> Iterator[Stop]:
    """A run folder that was just made is kept at its URL, if it has one, while this is open.

    Gives what is to be asked whether to stop. Raises RunFolderError when the name is taken there, RunFailed when it is
    not whole there at the end.
    """
    url = copies.at(run.root)
    if not url:
        yield should_stop
        return
    store = Store(url)
    with _told_as_users(url):
        owner = owners.begin(store)
    owners.keep(run, owner)
    with _working(run, store, owner, note, should_stop) as stop:
        yield stop


@contextmanager
def taken_up(place: str | Path, note: Note, should_stop: Stop) -> Iterator[tuple[Path, Stop]]:
    """The folder of a run to go on in; one that is kept at a URL is held, and brought here, while this is open.

    Raises RunFolderError when there is none, or another live process works on it; RunFailed as `kept` does.
    """
    url = copies.at(place)
    if not url:
        yield path_of(place), should_stop
        return
    here = RunDir(working(url))
    if here.root.is_dir() and holding.in_use(here):
        raise RunFolderError(
            f"{url} is in use by {here.lock.read_text(encoding='utf-8').strip()}. Wait for it, or stop it first."
        )
    store = Store(url)
    with _told_as_users(url):
        before = owners.there(store)
        owner = owners.take(store, note)
        run = copies.bring(store, owner, note, before)
    with _working(run, store, owner, note, should_stop) as stop:
        yield run.root, stop


def unsent(folder: Path) -> bool:
    """Whether a folder of this machine holds what its URL lacks, as its last process could not send it."""
    last = owners.kept(RunDir(folder))
    return last is not None and last.held


@contextmanager
def _told_as_users(url: str) -> Iterator[None]:
    try:
        yield
    except StoreFailed as error:
        raise RunFolderError(f"{error}. Nothing was begun.") from error


@contextmanager
def _working(run: RunDir, store: Store, owner: Owner, note: Note, should_stop: Stop) -> Iterator[Stop]:
    keeper = Keeper(run, store, owner, note)
    keeper.start()
    _live[run.root] = keeper
    try:
        yield lambda: keeper.lost or should_stop()
    except BaseException as error:
        keeper.end(error)
        raise
    else:
        keeper.end(None)
    finally:
        del _live[run.root]


class Keeper:
    """Two threads: one shows the store that the owner lives, one sends what changed."""

    def __init__(self, run: RunDir, store: Store, owner: Owner, note: Note) -> None:
        self._run, self._store, self._owner, self._note_to = run, store, owner, note
        self.mirror = Mirror(run.root, store)
        self._ending, self._ended = threading.Event(), threading.Event()
        self._beating = threading.Lock()
        self._threads = [
            threading.Thread(target=work, name=f"{name} {store.url}", daemon=True)
            for name, work in (("beat", self._beat_on), ("send", self._send_on))
        ]
        self.is_apart = False
        self._next: Owner | None = None  # who has taken the run over

    @property
    def lost(self) -> bool:
        return self.mirror.lost

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def set_apart(self) -> None:
        """Trials are sent by others from now on."""
        if not self.is_apart:
            self.is_apart = True
            self.mirror.only = lambda name: "trials" not in name.split("/")[:-1]
            owners.keep(self._run, replace(self._owner, id="apart", held=False))

    def note(self, sentence: str) -> None:
        """On the screen and in the log, from any thread."""
        self._note_to(sentence)
        with suppress(OSError):
            rundir.append(self._run.log, f"{datetime.now():%Y-%m-%d %H:%M:%S}  {sentence}\n")

    def _beat_on(self) -> None:
        while not self._ended.wait(owners.BEAT_S) and not self.lost:
            with suppress(StoreFailed):
                self._beat()

    def _beat(self, held: bool = True) -> None:
        """Raises StoreFailed."""
        with self._beating:
            if not self._owner.held:  # let go of while the other thread waited
                return
            now = owners.there(self._store)
            if now is not None and now.id != self._owner.id:
                self._next, self.mirror.lost = now, True
                return
            following = self._owner.next(held)
            self._store.write(owners.FILE, following.bytes())
            self._owner = following

    def _send_on(self) -> None:
        wait, failing = 0.0, False
        while not self._ending.wait(wait) and not self.lost:
            try:
                self._beat()
                done = self.mirror.sync()
            except StoreFailed as error:
                if not failing:
                    self.note(
                        f"{error}. The run goes on; its files lie in {self._run.root} and are sent when they can be."
                    )
                failing, wait = True, min(AGAIN_MOST_S, max(AGAIN_S, 2 * wait if failing else 0))
                continue
            if failing:
                self.note(f"{self._store.url} takes files again; all that was done is there.")
            failing, wait = False, self.mirror.every_s if done else 0.0

    def end(self, error: BaseException | None) -> None:
        """Send the rest and let go of the run. Raises RunFailed when not all could be sent and nothing else failed."""
        self._ending.set()
        try:
            if not self.lost:
                self._finish(error)
        finally:
            self._ended.set()
        for thread in self._threads:
            thread.join(timeout=0.1 if self.lost else 1.0)
        if self.lost:
            who = f"process {self._next.process} on {self._next.node}" if self._next is not None else "another process"
            raise RunFailed(
                f"{who} has taken {self._store.url} over, as this one gave no sign of life. What it did "
                f"since lies in {self._run.root} and counts no more."
            ) from error

    def _finish(self, error: BaseException | None) -> None:
        try:
            self._announce()
            failed = self._all_sent()
            if not failed and not self.lost:
                self._beat(held=False)
                if not self.is_apart:
                    owners.keep(self._run, self._owner)
        except StoreFailed as reason:
            failed = str(reason)
        except KeyboardInterrupt:
            raise Interrupted(self._left("it was interrupted")) from error
        if not failed:
            return
        owners.keep(self._run, self._owner)
        if error is None:
            raise RunFailed(self._left(failed))
        self.note(self._left(failed))

    def _announce(self) -> None:
        left = self.mirror.pending()
        if (size := sum(left.values())) > TELL_BYTES:
            self.note(f"{plural(len(left), 'file')} ({size / MIB:,.0f} MiB) are sent to {self._store.url}.")

    def _all_sent(self) -> str:
        """Send until all is there → why not, empty where it is."""
        last, wait = time.monotonic(), 1.0
        left = len(self.mirror.pending())
        while True:
            try:
                self._beat()
                if self.lost or self.mirror.sync():
                    return ""
                last = time.monotonic()
            except StoreFailed as error:
                now = len(self.mirror.pending())
                if now < left:
                    last = time.monotonic()
                left = now
                if time.monotonic() - last > GIVE_UP_S:
                    return str(error)
                if wait == 1.0:
                    self.note(f"{error}. Trying again for {GIVE_UP_S:.0f} s.")
                time.sleep(wait)
                wait = min(10.0, 2 * wait)

    def _left(self, why: str) -> str:
        left = self.mirror.pending()
        size = sum(left.values()) / MIB
        return (
            f"{plural(len(left), 'file')} ({size:,.1f} MiB) of the run could not be sent: {why}. Nothing is lost, "
            f"all of it lies in {self._run.root}; `nnopt resume {self._store.url}` on this machine sends it."
        )


__all__ = ["Keeper", "apart", "apart_from", "kept", "parent_of", "refuse_other_nodes", "taken_up", "unsent"]
