"""What the keys of a page must be to each other: objective and metrics, method and trials."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nnopt_ray import tables
from nnopt_ray.experiment import Range
from nnopt_ray.reading.closing import close_tree
from nnopt_ray.reading.places import Places, Way, dotted, shown

Close = Callable[[dict[str, Any], Places], None]  # checks a closed page, noting its faults


def check(tree: Mapping[str, Any], places: Places, closed: Close) -> None:
    """Note a fault for every rule that the resolved tree breaks. The tree may hold values already at fault."""
    _objective(tree, places)
    _monitors(tree, places)
    _evaluated(tree, places)
    _loss(tree, places)
    method = _at(tree, "search", "method", "type")
    trials = _at(tree, "search", "trials")
    opened = list(_opened(tree))
    if method == "manual":
        if not isinstance(trials, list) or not trials:
            message = "the manual method needs its trials in a list: [{model.dropout: 0.1, train.batch_size: 32}, ...]."
            places.add(("search", "trials"), "search.trials", message)
        else:
            _manual(tree, trials, places, closed)
    elif isinstance(trials, list):
        message = f"a list of trials is for the manual method, and the method is {method}. Write a number of trials."
        places.add(("search", "trials"), "search.trials", message)
    if method == "grid":
        _grid(opened, places)
    if opened:
        _grace_period(tree, places)


def _at(node: Any, *keys: str) -> Any:
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _opened(node: Any, way: Way = (), path: str = "") -> Iterator[tuple[Way, str, Range]]:
    """Every range with its way in the page as written."""
    for here, name, value in _nodes(node, way, path):
        if isinstance(value, Range):
            yield here, name, value


def _nodes(node: Any, way: Way, path: str) -> Iterator[tuple[Way, str, Any]]:
    """Every node of a resolved tree, options of choices included."""
    yield way, path, node
    if isinstance(node, Range):
        if node.kind == "choice":
            for index, option in enumerate(node.values):
                yield from _nodes(option, (*way, "choice", index), path)
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _nodes(value, (*way, key), dotted(path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _nodes(value, (*way, index), dotted(path, index))


# --- metrics ------------------------------------------------------------------------------------


def _objective(tree: Mapping[str, Any], places: Places) -> None:
    said = tree.get("objective")
    if not isinstance(said, str):
        return

    def fault(message: str) -> None:
        places.add(("objective",), "objective", message)

    words = said.split()
    metrics = list(tables.table("metric"))
    if len(words) == 1 and words[0].removeprefix("val_") in metrics:
        fault(f"must say the direction: '{_better(words[0])}'.")
        return
    if len(words) != 2 or words[0] not in ("minimize", "maximize"):
        fault(f"must be 'minimize METRIC' or 'maximize METRIC'; it is {shown(said)}. An example: minimize val_loss.")
        return
    metric = words[1]
    if metric.startswith("train_"):
        fault(
            f"{metric} is measured on rows that were learned from, and says nothing about others. "
            f"Use the validation part: '{_better(metric) or 'minimize val_loss'}'."
        )
    elif metric in metrics:
        fault(f"a metric of the validation part begins with val_: '{_better(metric)}'.")
    elif metric.removeprefix("val_") not in metrics or not metric.startswith("val_"):
        fault(f"no metric gives {shown(metric)}.{tables.suggestion(metric, [f'val_{name}' for name in metrics])}")
    elif said.split() != _better(metric).split():
        better = "smaller" if _better(metric).startswith("minimize") else "larger"
        fault(f"{metric} is better when it is {better}: write '{_better(metric)}'.")
    else:
        wrong = _not_for_task(tree, metric.removeprefix("val_"))
        if wrong:
            fault(wrong)


def _better(metric: str) -> str:
    """ "minimize val_loss": a metric of either part as an objective; "" for none."""
    name = metric.removeprefix("val_").removeprefix("train_")
    if name not in tables.table("metric"):
        return ""
    verb = "minimize" if tables.find("metric", name).mode == "min" else "maximize"
    return f"{verb} val_{name}"


def _not_for_task(tree: Mapping[str, Any], name: str) -> str | None:
    """Why a metric does not measure the page's task, where the page says it in so many words."""
    task = _at(tree, "data", "task")
    if task not in ("classification", "regression") or task in tables.find("metric", name).tasks:
        return None
    fitting = [other for other in tables.table("metric") if task in tables.find("metric", other).tasks]
    return f"'{name}' does not measure {task} (data.task). Metrics that do: {', '.join(fitting)}."


def _monitors(tree: Mapping[str, Any], places: Places) -> None:
    """`monitor`, in early_stopping and in whatever part has one, must name what an epoch records."""
    names = list(tables.table("metric"))
    recorded = ["objective", "train_loss", *(f"val_{name}" for name in names)]
    for way, path, value in _nodes(tree.get("train"), ("train",), "train"):
        if "monitor" not in path.rpartition(".")[2] or not isinstance(value, str):
            continue
        if value in names:
            places.add(way, path, f"a metric of the validation part begins with val_: 'val_{value}'.")
        elif value not in recorded:
            places.add(way, path, f"no epoch records {shown(value)}.{tables.suggestion(value, recorded)}")
        elif value.startswith("val_"):
            wrong = _not_for_task(tree, value.removeprefix("val_"))
            if wrong:
                places.add(way, path, wrong)


def _loss(tree: Mapping[str, Any], places: Places) -> None:
    """Every loss that the page may choose must be one of its task, where the page says the task."""
    task = _at(tree, "data", "task")
    for way, path, value in _nodes(_at(tree, "train", "loss"), ("train", "loss"), "train.loss"):
        name = value.get("type") if isinstance(value, Mapping) else None
        if task not in ("classification", "regression") or name not in tables.table("loss"):
            continue
        if task not in tables.find("loss", name).tasks:
            fitting = [n for n in tables.table("loss") if task in tables.find("loss", n).tasks]
            places.add(way, path, f"'{name}' is no loss for {task} (data.task). Losses that are: {', '.join(fitting)}.")


def _evaluated(tree: Mapping[str, Any], places: Places) -> None:
    listed = _at(tree, "evaluate", "metrics")
    names = list(tables.table("metric"))
    for index, name in enumerate(listed if isinstance(listed, list) else []):
        if not isinstance(name, str):
            continue
        way, path = ("evaluate", "metrics", index), f"evaluate.metrics.{index}"
        bare = name.removeprefix("val_").removeprefix("test_")
        if name not in names and bare in names:
            places.add(way, path, f"metrics are named here without their part: '{bare}'.")
        elif name not in names:
            places.add(way, path, f"unknown metric {shown(name)}.{tables.suggestion(name, names)}")
        elif name in listed[:index]:
            places.add(way, path, f"'{name}' is listed twice. Remove one.")
        elif wrong := _not_for_task(tree, name):
            places.add(way, path, wrong)


# --- search -------------------------------------------------------------------------------------


def _grid(opened: list[tuple[Way, str, Range]], places: Places) -> None:
    for way, path, range_ in opened:
        if range_.kind in ("uniform", "log"):
            low, high = range_.values
            cure = f"{{choice: [{low:g}, {high:g}]}}"
            if range_.kind == "uniform":
                cure = f"{{step: [{low:g}, {high:g}, {(high - low) / 4:g}]}} or {cure}"
            rule = f"a grid needs values that can be counted, and {range_.kind} is continuous."
            places.add(way, path, f"{rule} Write {cure}, or choose another method.")


def _grace_period(tree: Mapping[str, Any], places: Places) -> None:
    grace, epochs = _at(tree, "search", "scheduler", "grace_period"), _at(tree, "train", "epochs")
    if isinstance(epochs, Range):
        counts = epochs.values[:2] if epochs.kind != "choice" else epochs.values
        epochs = max((count for count in counts if isinstance(count, int)), default=None)
    if isinstance(grace, int) and isinstance(epochs, int) and grace > epochs:
        message = f"no trial may stop before {grace} epochs, and train.epochs is {epochs}: none ever would. Lower it."
        places.add(("search", "scheduler", "grace_period"), "search.scheduler.grace_period", message)


def _manual(tree: Mapping[str, Any], trials: list[Any], places: Places, closed: Close) -> None:
    """Every listed trial is checked as the page it makes; what is wrong with the page itself is not said again."""
    known = {(fault.path, fault.message) for fault in places.faults}
    for index, params in enumerate(trials):
        if not isinstance(params, dict):
            continue
        page, wrong = close_tree(tree, params)
        page.pop("search", None)
        own = Places(places.file)
        closed(page, own)
        found = wrong + [(f.path, f.message) for f in own.faults if (f.path, f.message) not in known]
        for path, message in found:
            at = next((key for key in params if path == key or path.startswith(f"{key}.")), None)
            way: Way = ("search", "trials", index) if at is None else ("search", "trials", index, at)
            places.add(way, f"search.trials.{index}", f"{path}: {message}" if path else message)
