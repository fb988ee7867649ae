"""What cross-validation must be to the rest of the page: to the split, the windows, the task, the search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnopt_ray.experiment import CV, ranges
from nnopt_ray.reading.places import Places

DEFAULT = 5  # folds of an objective where evaluate.folds says none, as data.folds has it
SCHEDULERS = ("none", "asha", "median")  # of a search over folds
OURS = ("auto", "k_fold", "stratified", "grouped", "time")


def check_folds(tree: Mapping[str, Any], places: Places) -> None:
    """Note a fault for every rule about folds that the resolved tree breaks."""
    data, evaluate = tree.get("data"), tree.get("evaluate")
    if not isinstance(data, Mapping) or not isinstance(evaluate, Mapping):
        return
    folds, fold = evaluate.get("folds"), data.get("fold")
    if isinstance(folds, Mapping):
        _fits(folds, data, places)
    if isinstance(folds, Mapping) and isinstance(fold, Mapping):
        message = "the page is one fold already (data.fold), and folds of a fold are none. Take one of the two away."
        places.add(("evaluate", "folds"), "evaluate.folds", message)
    if evaluate.get("sizes") is not None:
        _sizes(evaluate["sizes"], data, places)
    if evaluate.get("nested") is True:
        _nested(tree, folds, places)
    if folds_of_a_trial(tree):
        _objective(tree, places)


def _sizes(sizes: Any, data: Mapping[str, Any], places: Places) -> None:
    way, path = ("evaluate", "sizes"), "evaluate.sizes"
    if isinstance(sizes, list) and len(set(map(str, sizes))) < 2:
        places.add(
            way, path, "one share of the training rows shows nothing. Name two at least, such as [0.25, 0.5, 1]."
        )
    if str(data.get("task")).endswith("language_modelling"):
        rule = "a language task counts its loss by token of a vocabulary that each share would have of its own"
        places.add(way, path, f"{rule}. Take it away.")
    for key in ("fold", "train_share"):
        if data.get(key) is not None:
            message = f"the page learns from a part of its rows already (data.{key}). Take one of the two away."
            places.add(way, path, message)


def folds_of_a_trial(tree: Mapping[str, Any]) -> int:
    """How many folds each trial is trained on; 0 where the objective does not go by folds."""
    said = tree.get("objective")
    first = said[0] if isinstance(said, list) and said else said
    if not isinstance(first, str) or f" {CV}" not in first:
        return 0
    folds = tree["evaluate"].get("folds") if isinstance(tree.get("evaluate"), Mapping) else None
    keys = folds if isinstance(folds, Mapping) else {}
    count, repeats = keys.get("folds", DEFAULT), keys.get("repeats", 1)
    return count * repeats if isinstance(count, int) and isinstance(repeats, int) else 0


def _objective(tree: Mapping[str, Any], places: Places) -> None:
    search, said = tree.get("search"), tree.get("objective")
    search = search if isinstance(search, Mapping) else {}
    data, metric = tree["data"], str(said[0] if isinstance(said, list) else said).split()[-1]
    listed = isinstance(search.get("trials"), list)
    if not listed and next(ranges(tree), None) is None:
        rule = f"{metric} compares the trials of a search, and this page searches nothing"
        cure = f"Write {metric.removeprefix(CV)}, and evaluate.folds: 5 to cross-validate the result"
        places.add(("objective",), "objective", f"{rule}. {cure}.")
    for one in said if isinstance(said, list) else ():
        if isinstance(one, str) and one.split()[-1].startswith("val_"):
            message = f"'{one}' is of the page's own validation part, and {metric} of folds. Write cv_ before both."
            places.add(("objective",), "objective", message)
    if str(data.get("task")).endswith("language_modelling"):
        rule = "a language task counts its loss by token of a vocabulary that each fold would have of its own"
        places.add(("objective",), "objective", f"{rule}. Write {metric.removeprefix(CV)}.")
    if isinstance(data.get("fold"), Mapping):
        places.add(("data", "fold"), "data.fold", f"the page is one fold already, and {metric} is a mean over folds.")
    scheduler = search.get("scheduler")
    name = scheduler.get("type") if isinstance(scheduler, Mapping) else None
    if name not in (*SCHEDULERS, None):
        rule = f"{name} gives trials epochs, and by {metric} it is folds that they are given"
        places.add(("search", "scheduler"), "search.scheduler", f"{rule}. Use {', '.join(SCHEDULERS)}.")
    for key, other in (("reproducible", True), ("confirm", None)):
        if search.get(key) is True if other else search.get(key) is not None:
            why = {
                "reproducible": "which trials are dropped hangs on which folds are done first",
                "confirm": f"{metric} compares trials over folds already",
            }[key]
            places.add(("search", key), f"search.{key}", f"{why}. Take it away, or write {metric.removeprefix(CV)}.")
    if tree["evaluate"].get("nested") is True:
        message = f"folds of folds are not trained. Write {metric.removeprefix(CV)}, or take nested away."
        places.add(("evaluate", "nested"), "evaluate.nested", message)


def _nested(tree: Mapping[str, Any], folds: Any, places: Places) -> None:
    way, path = ("evaluate", "nested"), "evaluate.nested"
    search = tree.get("search")
    listed = isinstance(search, Mapping) and isinstance(search.get("trials"), list)
    if folds is None:
        places.add(way, path, "it searches inside each fold, and there are none. Add evaluate.folds: 5.")
    elif not listed and next(ranges(tree), None) is None:
        places.add(way, path, "it searches inside each fold, and this page searches nothing. Take it away.")


def _fits(folds: Mapping[str, Any], data: Mapping[str, Any], places: Places) -> None:
    way, path, kind = ("evaluate", "folds"), "evaluate.folds", folds.get("type")
    split, window = data.get("split"), data.get("window")
    split = split if isinstance(split, Mapping) else {}
    if str(data.get("task")).endswith("language_modelling"):
        rule = "a language task counts its loss by token of a vocabulary that each fold would have of its own"
        places.add(way, path, f"{rule}, so the folds would say nothing to each other. Take it away.")
    elif isinstance(window, Mapping) and kind in OURS and kind not in ("auto", "time"):
        message = f"windows follow each other in time, and {kind} learns from what comes later. Write type: time."
        places.add(way, path, message)
    elif split.get("type") == "time" and kind in OURS and kind not in ("auto", "time"):
        message = f"the split is by time (data.split), and {kind} learns from what comes later. Write type: time."
        places.add(way, path, message)
    elif split.get("type") == "grouped" and kind in OURS:
        if kind not in ("auto", "grouped"):
            rule = f"data.split keeps each '{split.get('group')}' whole, and {kind} tears them apart"
            places.add(way, path, f"{rule}. Write type: grouped.")
        elif kind == "grouped" and folds.get("group") != split.get("group"):
            rule = f"data.split keeps each '{split.get('group')}' whole, and the folds each '{folds.get('group')}'"
            places.add((*way, "group"), f"{path}.group", f"{rule}. Write the same column.")
    elif kind == "grouped" and folds.get("group") not in _listed(data.get("ignore")):
        rule = f"'{folds.get('group')}' tells which rows belong together, and the network would learn from it"
        places.add((*way, "group"), f"{path}.group", f"{rule}. Add it to data.ignore, or write split: grouped too.")
    by_time = isinstance(window, Mapping) or split.get("type") == "time"
    if kind == "auto" and by_time and isinstance(folds.get("repeats"), int) and folds["repeats"] > 1:
        message = "rows in time have one order, so there is nothing to repeat. Take it away."
        places.add((*way, "repeats"), f"{path}.repeats", message)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []
