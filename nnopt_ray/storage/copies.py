"""Copies on this machine of runs that are kept at a URL: one to work on, and files that were fetched to look at."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from nnopt_ray import rundir
from nnopt_ray.data.cache import default_cache
from nnopt_ray.errors import RunFolderError
from nnopt_ray.log import plural
from nnopt_ray.rundir import RunDir
from nnopt_ray.storage import owner as owners
from nnopt_ray.storage.mirror import Mirror
from nnopt_ray.storage.owner import Owner
from nnopt_ray.storage.store import NotThere, Store
from nnopt_ray.storage.urls import path_of, seen, url_of, working

SEEN = ".seen.json"
AT_A_GLANCE = ("resolved.yaml", "environment.json", "result.json", owners.FILE)


def at(place: str | Path) -> str:
    """The URL of a run, named by it or by its folder on this machine; empty for any other."""
    url = url_of(place)
    if not url and "://" in (named := RunDir(Path(os.path.abspath(path_of(place)))).place):
        url = named
    return url


def view(place: str | Path, whole: bool = False) -> Path:
    """The folder of a run to read from: a path is itself. Of a URL the files are fetched that are not here yet.

    whole: with the prepared data and the network; checkpoints of trials are never fetched. Raises UserError for a URL
    that cannot be reached, RunFolderError where no run is.
    """
    url = at(place)
    if not url:
        return path_of(place)
    store = Store(url)
    if _is_newest(RunDir(working(url)), owners.there(store)):
        return working(url)
    there = store.files()
    _refuse_none(store, there)
    folder = seen(url)
    names = [name for name in there if _wanted(name, whole)]
    known = _known(folder)
    marks = {name: [there[name].bytes, there[name].mark] for name in names}
    fresh = {name for name in names if there[name].mark and known.get(name) == marks[name]}
    _fetch(store, [name for name in names if name not in fresh or not (folder / name).is_file()], folder)
    for name in known.keys() - there.keys():
        (folder / name).unlink(missing_ok=True)
    kept = {name: mark for name, mark in known.items() if name in there} | marks
    rundir.write_text(folder / SEEN, json.dumps(kept))
    return folder


def glances(url: str) -> list[RunDir]:
    """The runs below a URL, as far as a list of them needs them: pages, results, owners, which trials were begun."""
    store = Store(url)
    with ThreadPoolExecutor(store.together) as pool:
        found = list(pool.map(lambda name: _glance(f"{url}/{name}"), store.folders()))
    return [run for run in found if run is not None]


def _glance(url: str) -> RunDir | None:
    store, run = Store(url), RunDir(seen(url))
    for name in AT_A_GLANCE:
        try:
            rundir.write_bytes(run.root / name, store.read(name))
        except NotThere:
            (run.root / name).unlink(missing_ok=True)
            if name == AT_A_GLANCE[0]:
                return None
    if not run.result.is_file():
        for trial in Store(f"{url}/{run.trials.name}").folders():
            rundir.make_folder(run.trials / trial)
    return run


def bring(store: Store, owner: Owner, note: Callable[[str], None], before: Owner | None) -> RunDir:
    """The folder to go on in: the one that is here where it is the newest, else all that the store has.

    owner: who goes on. before: whose the run was at the store. An older folder that holds what was never sent is put
    aside. Raises RunFolderError where no run is, StoreFailed.
    """
    run = RunDir(working(store.url))
    if _is_newest(run, before):
        owners.keep(run, owner)
        return run
    there = store.files()
    _refuse_none(store, there)
    _clear(run, note)
    part = run.root.with_name(f".{run.root.name}.{os.urandom(4).hex()}.part")
    try:
        names = [name for name in there if name != owners.FILE and not name.rpartition("/")[2].startswith(".")]
        note(f"{plural(len(names), 'file')} of {store.url} {'are' if len(names) > 1 else 'is'} fetched to {run.root}.")
        linked = _linked(store, [name for name in names if name.startswith("data/")], part)
        _fetch(store, [name for name in names if name not in linked], part)
        for array in part.rglob("data/*.npy"):
            array.chmod(0o444)  # as in any store of prepared data
        os.rename(part, run.root)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    Mirror(run.root, store).as_there(names)
    owners.keep(run, owner)
    return run


def _is_newest(run: RunDir, there: Owner | None) -> bool:
    """Whether the last who worked on the run did so in this folder: it holds all that was sent, and perhaps more."""
    here = owners.kept(run)
    return here is not None and there is not None and here.id == there.id and run.resolved.is_file()


def _refuse_none(store: Store, there: Iterable[str]) -> None:
    names = set(there)
    if not names:
        raise RunFolderError(
            f"there is no run folder {store.url}. `nnopt ls {store.url.rpartition('/')[0]}` shows those there are."
        )
    if "resolved.yaml" not in names:
        raise RunFolderError(
            f"{store.url} is no run folder, or was cut short before it began: resolved.yaml is missing. "
            "Start again with `nnopt run PAGE`."
        )


def _clear(run: RunDir, note: Callable[[str], None]) -> None:
    if not run.root.exists():
        return
    here = owners.kept(run)
    if here is None or not here.held:  # all of it was sent
        shutil.rmtree(run.root)
        return
    aside = run.root.with_name(f".{run.root.name}.aside-{os.urandom(4).hex()}")
    os.rename(run.root, aside)
    note(f"Another machine has gone on with {run.place}; what was never sent from here lies in {aside}.")


def _wanted(name: str, whole: bool) -> bool:
    parts = name.split("/")
    if "checkpoints" in parts or parts[-1].startswith("."):
        return False
    heavy = name.endswith((".npy", ".safetensors"))
    return not heavy or (whole and parts[0] in ("data", "best"))


def _known(folder: Path) -> dict[str, list[object]]:
    try:
        found: dict[str, list[object]] = rundir.read_json(folder / SEEN)
        return found
    except RunFolderError:
        return {}


def _fetch(store: Store, names: Iterable[str], folder: Path) -> None:
    with ThreadPoolExecutor(store.together) as pool:
        list(pool.map(lambda name: _one(store, name, folder), names))


def _one(store: Store, name: str, folder: Path) -> None:
    with suppress(NotThere):  # removed since it was listed, by the process that works on the run
        store.fetch(name, folder / name)


def _linked(store: Store, names: list[str], folder: Path) -> set[str]:
    """Prepared data that this machine's cache has already, byte for byte, is not fetched."""
    if "data/manifest.json" not in names:
        return set()
    said = json.loads(store.read("data/manifest.json"))
    cached = default_cache() / str(said.get("key", ""))
    try:
        files = rundir.read_json(cached / "manifest.json")["files"]
    except (RunFolderError, KeyError, TypeError):
        return set()
    done = set()
    for name in names:
        file = name.removeprefix("data/")
        if not file.endswith(".npy") or files.get(file) != said["files"].get(file):
            continue
        with suppress(OSError):
            (folder / "data").mkdir(parents=True, exist_ok=True)
            os.link(cached / file, folder / name)
            done.add(name)
    return done


__all__ = ["at", "bring", "glances", "view"]
