"""Workers on a cluster that train for a run at a URL: each in a folder of its own, trials ferried to and from it.

A trial's folder is fetched when it is taken up, sent as it goes, and sent whole before the driver hears that it is laid
down; so whoever takes it up next, on whichever node, finds it at the store. The prepared data is fetched once a node.
The driver keeps the journal and all else, and fetches of the trials what it reads when they are over.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from nnopt_ray.data import store as stores
from nnopt_ray.data.cache import default_cache
from nnopt_ray.errors import RunFolderError, Superseded
from nnopt_ray.pipeline import best_of
from nnopt_ray.rundir import AT_URL, RunDir
from nnopt_ray.search.node_store import Mapped, alone, whole
from nnopt_ray.storage.keeping import apart_from
from nnopt_ray.storage.mirror import Mirror
from nnopt_ray.storage.store import NotThere, Store, StoreFailed

if TYPE_CHECKING:
    from nnopt_ray.data.types import Dataset
    from nnopt_ray.results import TrialRow
    from nnopt_ray.search.ledger import Ledger

DATA_S = 1800.0  # the driver may take so long to send the prepared data
TRY_S = 120.0  # a store that does not answer is asked so long before a trial is given up
AGAIN_S = 2.0
STATES = re.compile(r"(epoch|decision)-\d+\.safetensors")
WORKED = "workers-at-url"  # folder of the cache
HELD = ".held"  # beside a trial's files at the store: which worker took it up last


class Ferry:
    """For a run folder that this process sees: there is nothing to do."""

    def bring(self, trial: str) -> None:
        """The folder of a trial that is taken up now."""

    def lend(self, donor: str) -> None:
        """The folder of another trial, to copy from."""

    def show(self, trial: str) -> None:
        """Others may copy from this trial, as it is now."""

    def give(self, trial: str) -> None:
        """The trial is laid down."""


class UrlFerry(Ferry):
    """Between a folder of this process and the store."""

    def __init__(self, run: RunDir, store: Store) -> None:
        self._run, self._store = run, store
        self._mine: set[str] = set()
        self._name = os.urandom(8).hex().encode()
        self._mirror = Mirror(run.root, store, only=lambda name: _trial_of(name) in self._mine)
        threading.Thread(target=self._send_on, name=f"send {store.url}", daemon=True).start()

    def _send_on(self) -> None:
        while True:
            time.sleep(self._mirror.every_s)
            for trial in list(self._mine):
                with suppress(StoreFailed, Superseded):  # tried again, and told when the trial is laid down
                    self._send(trial)

    def bring(self, trial: str) -> None:
        if trial not in self._mine:
            _insist(lambda: self._store.write(_below(trial) + HELD, self._name))
            self._fetched(trial)
            self._mine.add(trial)

    def lend(self, donor: str) -> None:
        if donor not in self._mine:
            self._fetched(donor)

    def show(self, trial: str) -> None:
        _insist(lambda: self._send(trial))

    def _send(self, trial: str) -> None:
        """Raises Superseded where the study thought this worker dead, and another has the trial; StoreFailed."""
        with suppress(NotThere):
            if self._store.read(_below(trial) + HELD) != self._name:
                self._mine.discard(trial)
                self._mirror.forget(_below(trial))
                raise Superseded(f"trial {trial} is trained by another worker by now.")
        self._mirror.sync(_below(trial))

    def give(self, trial: str) -> None:
        if trial not in self._mine:
            return
        self.show(trial)
        self._mine.discard(trial)
        self._mirror.forget(_below(trial))
        shutil.rmtree(self._run.trial(trial).root, ignore_errors=True)

    def _fetched(self, trial: str) -> None:
        folder = self._run.trial(trial).root
        self._mirror.forget(_below(trial))
        shutil.rmtree(folder, ignore_errors=True)
        names: list[str] = []

        def fetch() -> None:
            names[:] = sorted(self._store.files(_below(trial).rstrip("/")).keys() - {_below(trial) + HELD})
            for name in names:
                with suppress(NotThere):  # a state that was replaced since
                    self._store.fetch(name, self._run.root / name)

        _insist(fetch)
        self._mirror.as_there(names)


def _trial_of(name: str) -> str:
    parts = name.split("/")
    return parts[1] if len(parts) > 2 and parts[0] == "trials" else ""


def _below(trial: str) -> str:
    return f"trials/{trial}/"


def _insist(act: Any) -> None:
    """Raises StoreFailed, which is a RunFailed, when the store has not answered for TRY_S."""
    until = time.monotonic() + TRY_S
    while True:
        try:
            act()
            return
        except StoreFailed:
            if time.monotonic() > until:
                raise
            time.sleep(AGAIN_S)


def here(url: str) -> tuple[RunDir, Ferry, Dataset, Mapped]:
    """What a worker on a node needs of a run at a URL: a folder of its own, its ferry, the data.

    Raises RunFolderError when the prepared data does not come, UserError when the URL cannot be reached from here.
    """
    store, node = Store(url), platform.node()
    kind, _, inside = url.partition("://")
    _swept(node)
    root = default_cache() / WORKED / f"{os.getpid()}-{os.urandom(6).hex()}@{node}" / AT_URL / kind / inside
    root.mkdir(parents=True)
    dataset, copied = _data(store, node)
    run = RunDir(root)
    return run, UrlFerry(run, store), dataset, Mapped(node, str(dataset.folder), kind, copied, own=True)


def _swept(node: str) -> None:
    """Remove what workers of this node have left that live no more."""
    for folder in (default_cache() / WORKED).glob(f"*@{node}"):
        try:
            os.kill(int(folder.name.partition("-")[0]), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (PermissionError, ValueError):
            continue


def _data(store: Store, node: str) -> tuple[Dataset, int]:
    """The prepared data from this node's cache, fetched there first where it is not."""
    said, until = _manifest(store), time.monotonic() + DATA_S
    while said is None:
        if time.monotonic() > until:
            raise RunFolderError(f"node {node} found no prepared data at {store.url} in {DATA_S / 60:.0f} minutes.")
        time.sleep(AGAIN_S)
        said = _manifest(store)
    cache = default_cache()
    folder = cache / str(said["key"])
    cache.mkdir(parents=True, exist_ok=True)
    with alone(cache / f".{said['key']}.lock"):
        if whole(folder):
            return stores.open_dataset(folder), 0
        with stores.beside(folder) as building:
            names = [*said["files"], stores.MANIFEST]
            with ThreadPoolExecutor(store.together) as pool:
                list(pool.map(lambda name: store.fetch(f"data/{name}", building / name), names))
            for name in names:
                (building / name).chmod(0o444 if name.endswith(".npy") else 0o644)
            stores.open_dataset(building)
            stores.take_name(building, folder, str(said["key"]))
    return stores.open_dataset(folder), sum(int(each["bytes"]) for each in said["files"].values())


def _manifest(store: Store) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = json.loads(store.read(f"data/{stores.MANIFEST}"))
        return found
    except StoreFailed:
        return None


def collected(run: RunDir, rows: tuple[TrialRow, ...], ledger: Ledger) -> tuple[TrialRow, ...]:
    """The rows of a study that is over, after what its driver reads of the trials was fetched, where workers elsewhere
    have trained them: pages and histories, and the best weights of the winner and of all that was trained beside it.

    Raises RunFailed when they cannot be fetched.
    """
    url = apart_from(run)
    if not url:
        return rows
    beside = ledger.confirming.values()
    wanted = {trial.id for trial in beside} | {trial.confirms for trial in beside}
    if (best := best_of(rows, ledger.experiment.mode)) is not None:
        wanted.add(best.trial)
    store = Store(url)
    names = [
        name
        for name in store.files("trials")
        if not STATES.fullmatch(file := name.rpartition("/")[2])
        and not file.startswith(".")
        and (file != "best.safetensors" or _trial_of(name) in wanted)
    ]
    with ThreadPoolExecutor(store.together) as pool:
        list(pool.map(lambda name: _insist(lambda: store.fetch(name, run.root / name)), names))
    return rows


__all__ = ["Ferry", "UrlFerry", "collected", "here"]
