"""Reading a page: YAML text → Experiment, with every fault at once; closing it for a trial; writing it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nnopt_ray import tables
from nnopt_ray.errors import MissingExtra, PageError, PartError, RunFolderError
from nnopt_ray.experiment import CV, Experiment, Range, plain
from nnopt_ray.experiment import ranges as all_ranges
from nnopt_ray.reading import rules, yaml_text
from nnopt_ray.reading.closing import CannotPut, close_tree, put
from nnopt_ray.reading.places import BROKEN, Places, dotted, shown
from nnopt_ray.reading.resolve import Known, resolve
from nnopt_ray.rundir import RunDir, read_json
from nnopt_ray.tables import Part

DEFAULT_TRIALS = 20  # of a search that does not say how many

Settings = Mapping[str, Any] | Sequence[str]


def load(path: str | Path, set: Settings | None = None) -> Experiment:
    """Read a page from its file.

    `set` closes, opens or changes values by their dotted path: a mapping path → value, or texts
    "path=YAML value". A value may be a range as on a page, `{"log": [1e-4, 1e-1]}`.
    Raises PageError with every fault of the page.
    """
    places = Places(str(path))
    raw = _read(Path(path), places)
    if raw is BROKEN:
        raise PageError(places.faults)
    _apply(raw, set, places)
    return _experiment(raw, Path(path).absolute(), places)


def from_tree(tree: Mapping[str, Any], file: Path | None = None) -> Experiment:
    """The same from plain data, as `experiment.plain` gives it. Raises PageError.

    `file` is the page's file: relative paths of the page are looked up beside it.
    """
    places = Places(str(file) if file else "page")
    raw = _as_page(tree, places, "", 0)
    if places.faults:
        raise PageError(places.faults)
    return _experiment(raw, file, places)


def close(experiment: Experiment, params: Mapping[str, Any]) -> Experiment:
    """The page of one trial: every range closed by `params`, dotted path → value.

    For a choice of sub-pages the value is the option's label (see Range.labels). A parameter that
    answers no range changes the page at its path, as `--set` does. What searches is left out.
    Raises PageError when a range is left open, or the page that results is at fault.
    Closing one page many times is fast; what the pages that result have in common they share.
    """
    places = Places(str(experiment.file) if experiment.file else "page")
    given = _as_page(params, places, "", 0)
    if places.faults:
        raise PageError(places.faults)
    closed, wrong = close_tree(experiment.tree, given)
    for path, message in wrong:
        places.add((), path, message)
    if wrong:
        raise PageError(places.faults)
    closed.pop("search", None)
    closed.get("evaluate", {}).pop("nested", None)
    closed["objective"] = _of_an_epoch(closed["objective"])
    return _experiment(closed, experiment.file, places, _known(experiment))


def _of_an_epoch(objective: Any) -> Any:
    """What a single training goes by, where a search goes by means over folds."""
    if isinstance(objective, list):
        return list(dict.fromkeys(_of_an_epoch(one) for one in objective))
    return objective.replace(f" {CV}", " ") if isinstance(objective, str) else objective


_last_closed: list[tuple[Experiment, Known]] = []  # the page that was closed last, and what its walks came to


def _known(experiment: Experiment) -> Known:
    if not _last_closed or _last_closed[0][0] is not experiment:
        make_importable(experiment.file)
        _last_closed[:] = [(experiment, {})]
    return _last_closed[0][1]


def dump(experiment: Experiment) -> str:
    """The resolved page as YAML text; `load` reads it back to an equal Experiment."""
    return yaml_text.write(plain(experiment.tree))


# --- text and settings --------------------------------------------------------------------------


def _read(path: Path, places: Places) -> Any:
    """The plain data of a file, a mapping; BROKEN after noting why it is none."""
    try:
        with path.open("rb") as stream:
            content = stream.read(yaml_text.MAX_BYTES + 1)
    except FileNotFoundError:
        places.add((), "", "there is no such file.")
        return BROKEN
    except IsADirectoryError:
        pages = sorted(str(path / found.name) for found in path.glob("*.y*ml"))[:3]
        hint = f" Pages in it: {', '.join(pages)}." if pages else ""
        places.add((), "", f"this is a folder, and a page is a YAML file.{hint}")
        return BROKEN
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        places.add((), "", f"the file cannot be read: {reason}.")
        return BROKEN
    text = yaml_text.decode(content, places)
    raw = BROKEN if text is None else yaml_text.read(text, places)
    if raw is None:
        places.values[()] = (1, 1)
        places.add((), "", "the page is empty. It needs at least 'data' and 'model'.")
        return BROKEN
    if raw is not BROKEN and not isinstance(raw, dict):
        places.add((), "", f"a page is a mapping with keys such as data, model, train; this is {shown(raw)}.")
        return BROKEN
    return raw


def _apply(raw: dict[str, Any], settings: Settings | None, places: Places) -> None:
    """Change a page by `--set`, noting a fault for what cannot be set."""
    for path, value, words in _settings(settings, places):
        try:
            for way in put(raw, path, value):
                places.replaced(way, words)
        except CannotPut as error:
            places.given.setdefault((words,), words)
            places.add((words,), path, str(error))


def _settings(settings: Settings | None, places: Places) -> list[tuple[str, Any, str]]:
    """(path, value, the words it was given in) of every setting that can be read."""
    found: list[tuple[str, Any, str]] = []
    if isinstance(settings, Mapping):
        listed: list[tuple[str, Any, str]] = [(str(k), v, f"--set {k}={_brief(v)}") for k, v in settings.items()]
    else:
        listed = []
        for text in [settings] if isinstance(settings, str) else settings or ():
            path, equals, value = text.partition("=")
            words = f"--set {text}"
            if not equals:
                _setting_fault(places, path.strip(), words, "a value is set by PATH=VALUE, such as train.epochs=5.")
                continue
            own = Places(places.file)
            read = yaml_text.read(value, own)
            for fault in own.faults:
                _setting_fault(places, path.strip(), words, fault.message)
            if read is not BROKEN and not own.faults:
                found.append((path.strip(), read, words))
    for path, value, words in listed:
        own = Places(places.file)
        checked = _as_page(value, own, path, 0)
        for fault in own.faults:
            _setting_fault(places, path, words, fault.message)
        if not own.faults:
            found.append((path, checked, words))
    return found


def _setting_fault(places: Places, path: str, words: str, message: str) -> None:
    places.given.setdefault((words,), words)
    places.add((words,), path, message)


def _brief(value: Any) -> str:
    text = str(plain(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


def _as_page(value: Any, places: Places, path: str, depth: int) -> Any:
    """Plain data of its own, with Range objects written as on a page; notes what no page can hold."""
    if isinstance(value, Range):
        value = value.page()
    if depth > yaml_text.MAX_DEPTH:
        places.add((), path, f"values are nested more than {yaml_text.MAX_DEPTH} deep; no page needs that.")
        return BROKEN
    if isinstance(value, Mapping):
        return {str(key): _as_page(item, places, dotted(path, str(key)), depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_page(item, places, dotted(path, index), depth + 1) for index, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a number of numpy
        value = value.item()
    if value is None or isinstance(value, (bool, int, float)) or (isinstance(value, str) and yaml_text.whole(value)):
        return value
    places.add((), path, f"a page holds words, numbers, true, false, null, lists and mappings; this is {shown(value)}.")
    return BROKEN


# --- from data to Experiment --------------------------------------------------------------------


def _experiment(raw: dict[str, Any], file: Path | None, places: Places, known: Known | None = None) -> Experiment:
    if known is None:
        make_importable(file)
    tree, experiment = resolve(_with_own_split(raw, file), places, file, known)
    rules.check(tree, places, _check_closed)
    if places.faults or experiment is None:
        raise PageError(places.faults)
    tree, experiment = _completed(tree, experiment)
    experiment._tree = tree
    experiment._file = file
    return experiment


def _with_own_split(raw: dict[str, Any], file: Path | None) -> dict[str, Any]:
    """The page with the split that its data ask for, where it names none: by time for forecasts, `given` where the
    source has a test set of its own."""
    data = raw.get("data")
    if not isinstance(data, dict) or "split" in data:
        return raw
    window, source = data.get("window"), data.get("source")
    if isinstance(window, dict) and isinstance(window.get("order"), str):
        return {**raw, "data": {**data, "split": {"type": "time", "column": window["order"]}}}
    named = source.get("type") if isinstance(source, dict) else source
    try:
        base = file.absolute().parent if file else Path.cwd()
        keys = source if isinstance(source, dict) else {}
        divided = isinstance(named, str) and tables.find("source", named).divides(keys, base)
    except (PartError, MissingExtra):  # said with its place by resolve
        return raw
    return {**raw, "data": {**data, "split": "given"}} if divided else raw


def _check_closed(raw: dict[str, Any], places: Places) -> None:
    tree, _ = resolve(raw, places)
    rules.check(tree, places, _check_closed)


def _completed(tree: dict[str, Any], experiment: Experiment) -> tuple[dict[str, Any], Experiment]:
    """Fill in, in the tree and in the sections, the defaults that hang on other values.

    A search has a number of trials; the split has a seed of its own, so that opening `seed` never
    changes which rows are compared.
    """
    search, data = experiment.search, experiment.data
    method = search.method.type
    if search.trials is None and method not in ("manual", "grid") and next(all_ranges(tree), None) is not None:
        tree = {**tree, "search": {**tree["search"], "trials": DEFAULT_TRIALS}}
        search = search.model_copy(update={"trials": DEFAULT_TRIALS})
    if data.split.keys.get("seed", 0) is None:
        split = {**tree["data"]["split"], "seed": experiment.seed}
        tree = {**tree, "data": {**tree["data"], "split": split}}
        keys = MappingProxyType({**data.split.keys, "seed": experiment.seed})
        data = data.model_copy(update={"split": Part(data.split.type, keys)})
    if search is experiment.search and data is experiment.data:
        return tree, experiment
    return tree, experiment.model_copy(update={"search": search, "data": data})


def import_paths(file: Path | None) -> list[str]:
    """Where a page's own parts (`package.module:Class`) are looked for: beside the page, where the run
    looked whose folder the page lies in, and in the current directory."""
    folders = [str(file.absolute().parent), *_of_its_run(file.absolute())] if file else []
    return list(dict.fromkeys([*folders, os.getcwd()]))


def _of_its_run(file: Path) -> list[str]:
    """The import paths of the run folder that holds this page: at its top, in best/ or in trials/ID/."""
    for folder in file.parents[:3]:
        run = RunDir(folder)
        if not (run.resolved.is_file() and run.environment.is_file()):
            continue
        try:
            found = read_json(run.environment).get("import_paths", [])
        except (RunFolderError, AttributeError):  # damaged: what is missing will be named by its import
            return []
        return [path for path in found if isinstance(path, str)] if isinstance(found, list) else []
    return []


def make_importable(file: Path | None) -> None:
    """Put a page's `import_paths` on Python's, behind what is installed.

    Behind, so that a `random.py` beside a page does not stand in for Python's own.
    """
    for folder in import_paths(file):
        if folder not in sys.path:
            sys.path.append(folder)


__all__ = ["DEFAULT_TRIALS", "close", "dump", "from_tree", "import_paths", "load", "make_importable"]
