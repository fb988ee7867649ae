"""What the keys of a page must be to each other: objective and metrics, method and trials."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nnopt_ray import tables
from nnopt_ray.errors import PartError
from nnopt_ray.experiment import CV, SCALARS, TRIAL_FACTS, Range, count, plain, ranges
from nnopt_ray.reading.closing import close_tree
from nnopt_ray.reading.explaining import check_explainers
from nnopt_ray.reading.folds import check_folds, folds_of_a_trial
from nnopt_ray.reading.methods import check_method, check_starts
from nnopt_ray.reading.places import Places, Way, dotted, shown
from nnopt_ray.reading.together import check_together
from nnopt_ray.reading.training import check_training

NOT_TOLD = ("random", "quasi_random")  # methods that ask for points whatever came of the last ones

Close = Callable[[dict[str, Any], Places], None]  # checks a closed page, noting its faults


def check(tree: Mapping[str, Any], places: Places, closed: Close) -> None:
    """Note a fault for every rule that the resolved tree breaks. The tree may hold values already at fault."""
    _objective(tree, places)
    _monitors(tree, places)
    _evaluated(tree, places)
    check_folds(tree, places)
    check_explainers(tree, places)
    _loss(tree, places)
    _language(tree, places)
    _window(tree, places)
    _quality(tree, places)
    _balance(tree, places)
    check_training(tree, _longest(tree), places)
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
    if isinstance(method, str) and opened:
        check_method(tree, opened, places)
    if isinstance(method, str):
        check_starts(tree, places, lambda points: _manual(tree, points, places, closed, "start"))
    if opened and method != "manual" and not places.faults and count(tree) == 1:
        _one_point(opened, places)
    if opened or method == "manual":
        _scheduler(tree, opened, places)
    _confirm(tree, bool(opened), places)
    _bit_for_bit(tree, places)
    _lanes(tree, places)
    check_together(tree, bool(opened) or method == "manual", places)


def _at(node: Any, *keys: str) -> Any:
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _opened(node: Any, way: Way = (), path: str = "") -> Iterator[tuple[Way, str, Range]]:
    """Every range with its way in the page as written."""
    if next(ranges(node), None) is None:  # a trial's page; found without writing down the way to every node
        return
    for here, name, value in _nodes(node, way, path):
        if isinstance(value, Range):
            yield here, name, value


def _nodes(node: Any, way: Way, path: str) -> Iterator[tuple[Way, str, Any]]:
    """Every node of a resolved tree, options of choices included."""
    yield way, path, node
    if type(node) in SCALARS:
        return
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
    if isinstance(said, str):
        _one_objective(tree, said, ("objective",), "objective", places, first=True)
    if not isinstance(said, list):
        return
    if not said:
        places.add(("objective",), "objective", "names nothing. An example: [minimize val_loss, minimize parameters].")
    for index, one in enumerate(said):
        way, path = ("objective", index), f"objective.{index}"
        if isinstance(one, str) and one in said[:index]:
            places.add(way, path, f"'{one}' stands there twice. Remove one.")
        elif isinstance(one, str):
            _one_objective(tree, one, way, path, places, first=index == 0)
    if "minimize seconds" in said and _at(tree, "search", "reproducible") is True:
        rule = "seconds differ from run to run, and search.reproducible promises the same search every time."
        places.add(("objective",), "objective", f"{rule} Leave one of the two out.")


def _one_objective(tree: Mapping[str, Any], said: str, way: Way, path: str, places: Places, first: bool) -> None:
    def fault(message: str) -> None:
        places.add(way, path, message)

    words = said.split()
    metrics = list(tables.table("metric"))
    own = words[-1].removeprefix(CV).removeprefix("val_") if words and ":" in words[-1] else ""
    if own and (own_fault := _own_fault(own)):
        fault(own_fault)
        return
    metrics += [own] if own else []
    if len(words) == 1 and words[0].removeprefix("val_") in metrics:
        fault(f"must say the direction: '{_better(words[0])}'.")
        return
    if len(words) != 2 or words[0] not in ("minimize", "maximize"):
        fault(f"must be 'minimize METRIC' or 'maximize METRIC'; it is {shown(said)}. An example: minimize val_loss.")
        return
    metric = words[1]
    if metric.startswith(CV):
        _one_objective(tree, f"{words[0]} {metric.removeprefix(CV)}", way, path, places, first)
    elif metric in TRIAL_FACTS:
        if words[0] != "minimize":
            fault(f"{metric} are a cost: write 'minimize {metric}'.")
        elif first:
            rule = f"early stopping and the best epoch follow the first objective, and no epoch measures {metric}."
            fault(f"{rule} Put a metric first: [minimize val_loss, minimize {metric}].")
    elif metric.startswith("train_"):
        fault(
            f"{metric} is measured on rows that were learned from, and says nothing about others. "
            f"Use the validation part: '{_better(metric) or 'minimize val_loss'}'."
        )
    elif metric in metrics:
        fault(f"a metric of the validation part begins with val_: '{_better(metric)}'.")
    elif metric.removeprefix("val_") not in metrics or not metric.startswith("val_"):
        known = [*(f"val_{name}" for name in metrics), *(() if first else TRIAL_FACTS)]
        fault(f"no metric gives {shown(metric)}.{tables.suggestion(metric, known)}")
    elif words != _better(metric).split():
        better = "smaller" if _better(metric).startswith("minimize") else "larger"
        fault(f"{metric} is better when it is {better}: write '{_better(metric)}'.")
    else:
        wrong = _not_for_task(tree, metric.removeprefix("val_"))
        if wrong:
            fault(wrong)


def _better(metric: str) -> str:
    """ "minimize val_loss": a metric of either part as an objective; "" for none."""
    name = metric.removeprefix("val_").removeprefix("train_")
    if name not in tables.table("metric") and (":" not in name or _own_fault(name)):
        return ""
    verb = "minimize" if tables.find("metric", name).mode == "min" else "maximize"
    return f"{verb} val_{name}"


def _own_fault(name: str) -> str:
    """What is wrong with a metric that the page brings itself; empty where nothing is."""
    try:
        tables.find("metric", name)
    except PartError as error:
        return str(error)
    return ""


def _not_for_task(tree: Mapping[str, Any], name: str) -> str | None:
    """Why a metric does not measure the page's task, where the page says it in so many words."""
    task = _at(tree, "data", "task")
    if task in (None, "auto") or task in tables.find("metric", name).tasks:
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
        own = _own_fault(value.removeprefix("val_")) if ":" in value else None
        if own:
            places.add(way, path, own)
        elif value in names or (own == "" and not value.startswith("val_")):
            places.add(way, path, f"a metric of the validation part begins with val_: 'val_{value}'.")
        elif value not in recorded and own is None:
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
        if task in (None, "auto") or name not in tables.table("loss"):
            continue
        if task not in tables.find("loss", name).tasks:
            fitting = [n for n in tables.table("loss") if task in tables.find("loss", n).tasks]
            places.add(way, path, f"'{name}' is no loss for {task} (data.task). Losses that are: {', '.join(fitting)}.")


def _language(tree: Mapping[str, Any], places: Places) -> None:
    """A language task needs a text, and one vocabulary: losses by token say nothing to each other across two."""
    task, steps = _at(tree, "data", "task"), _at(tree, "data", "steps")
    if not str(task).endswith("language_modelling") or not isinstance(steps, list):
        return
    readers = [index for index, step in enumerate(steps) if _reads_text(step)]
    if not readers:
        message = f"{task} (data.task) reads text, and no step makes tokens of it. Add - {{type: tokenize}}."
        places.add(("data", "steps"), "data.steps", message)
    for index in readers:
        for way, path, _ in _opened(steps[index], ("data", "steps", index), f"data.steps.{index}"):
            rule = f"{task} counts its loss by token, so trials can only be compared with one tokenizer."
            places.add(way, path, f"{rule} Write a value.")


def _reads_text(step: Any) -> bool:
    if isinstance(step, Range):
        return any(_reads_text(option) for option in step.values)
    name = str(_at(step, "type"))
    if name in tables.table("step"):
        return bool(tables.find("step", name).reads_text)
    return ":" in name  # a user's own may; it is asked when there are data


def _window(tree: Mapping[str, Any], places: Places) -> None:
    """Windows of one series overlap: rows drawn at random would be in several parts."""
    order = _at(tree, "data", "window", "order")
    if isinstance(order, str) and _at(tree, "data", "split", "type") == "random":
        message = "windows overlap, so rows drawn at random would stand in several parts."
        places.add(("data", "split"), "data.split", f"{message} Write {{type: time, column: {order}}}.")


def _quality(tree: Mapping[str, Any], places: Places) -> None:
    """A check must make sense of the rows, and no trial may change the validation part that it is compared on."""
    said = _at(tree, "data", "quality")
    kind = "language" if str(_at(tree, "data", "task")).endswith("language_modelling") else ""
    kind = "windows" if isinstance(_at(tree, "data", "window"), Mapping) else kind
    what = {"windows": "the time points that data.window makes windows of", "language": "texts of a language task"}
    for way, path, value in _nodes(said, ("data", "quality"), "data.quality"):
        name = value.get("type") if isinstance(value, Mapping) else None
        if kind and name in tables.table("check") and not getattr(tables.find("check", name), kind):
            places.add(way, path, f"{name} makes no sense of {what[kind]}. Take it away.")
        parts = _at(value, "parts")
        changing = _at(value, "action") != "report" and isinstance(parts, list) and "validation" in parts
        if changing and next(ranges(said), None) is not None:
            rule = "trials are compared on the validation part, so it must be the same for all."
            places.add(way, path, f"{rule} Leave validation out of its parts, or write data.quality without a range.")


def _balance(tree: Mapping[str, Any], places: Places) -> None:
    """Only classes can be evened out."""
    if _at(tree, "data", "balance") is None:
        return
    task = _at(tree, "data", "task")
    other = "a window foretells amounts" if isinstance(_at(tree, "data", "window"), Mapping) else ""
    if not other and task in ("regression", "language_modelling", "masked_language_modelling"):
        other = f"data.task is {task}"
    if other:
        places.add(("data", "balance"), "data.balance", f"it evens out classes, and {other}. Take it away.")


def _evaluated(tree: Mapping[str, Any], places: Places) -> None:
    listed = _at(tree, "evaluate", "metrics")
    names = list(tables.table("metric"))
    for index, name in enumerate(listed if isinstance(listed, list) else []):
        if not isinstance(name, str):
            continue
        way, path = ("evaluate", "metrics", index), f"evaluate.metrics.{index}"
        if name == "auto" or ":" in name:
            fault = "" if name == "auto" else _own_fault(name) or _not_for_task(tree, name)
            if fault or name in listed[:index]:
                places.add(way, path, fault or f"'{name}' is listed twice. Remove one.")
            continue
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


def _one_point(opened: list[tuple[Way, str, Range]], places: Places) -> None:
    """Every range holds one value: the search would be one training, done as many times as it has trials."""
    for way, path, range_ in opened:
        only = plain(range_.first())
        cure = "Write the sub-page itself" if isinstance(only, (dict, list)) else f"Write {_as_written(only)}"
        rule = "there is nothing to search: a choice of one, and nothing else on the page is open."
        places.add(way, path, f"{rule} {cure}, or give it more options.")


def _as_written(value: Any) -> str:
    return "null" if value is None else value if isinstance(value, str) else shown(value)


def _longest(tree: Mapping[str, Any]) -> int | None:
    """The most epochs that a trial of the page may train; None where the page is at fault there."""
    epochs = _at(tree, "train", "epochs")
    counts = [epochs]
    if isinstance(epochs, Range):
        counts = list(epochs.values if epochs.kind == "choice" else epochs.values[:2])
    for key in ("trials", "start"):
        listed = _at(tree, "search", key)
        for point in listed if isinstance(listed, list) else ():
            counts.append(point.get("train.epochs") if isinstance(point, dict) else None)
    return max((found for found in counts if isinstance(found, int)), default=None)


def _scheduler(tree: Mapping[str, Any], opened: list[tuple[Way, str, Range]], places: Places) -> None:
    """What a scheduler waits for must come to pass; one that changes values needs a method that lets it."""
    path, way = "search.scheduler", ("search", "scheduler")
    keys, longest = _at(tree, *way), folds_of_a_trial(tree) or _longest(tree)
    if longest is None or not isinstance(keys, Mapping) or any(f.path.startswith(path) for f in places.faults):
        return
    name, method, grace = keys.get("type"), _at(tree, "search", "method", "type"), keys.get("grace_period")
    if isinstance(grace, int) and grace > longest:
        message = f"no trial may stop before {grace} epochs, and train.epochs is {longest}: none ever would. Lower it."
        places.add((*way, "grace_period"), f"{path}.grace_period", message)
    if "perturbation_interval" in keys and method in tables.table("method") and method not in NOT_TOLD:
        message = (
            f"{name} changes the values of a trial while it trains, so its result says nothing about the point that "
            f"{method} asked for. Write search.method: random, or choose another scheduler."
        )
        places.add(("search", "method"), "search.method", message)
    elif name in tables.table("scheduler"):
        chosen = tables.find("scheduler", name)(**{key: value for key, value in keys.items() if key != "type"})
        for key, sentence in chosen.unfit(longest, tuple((inside, range_) for _, inside, range_ in opened)):
            places.add((*way, key), f"{path}.{key}", sentence)


def _confirm(tree: Mapping[str, Any], opened: bool, places: Places) -> None:
    confirm, trials = _at(tree, "search", "confirm"), _at(tree, "search", "trials")
    if not isinstance(confirm, Mapping):
        return
    if not opened and not isinstance(trials, list):
        message = (
            "it runs the best trials of a search again, and this page searches nothing. Open a value, such as "
            "train.optimizer.lr: {log: [1e-4, 1e-1]}, or write null."
        )
        places.add(("search", "confirm"), "search.confirm", message)
        return
    if isinstance(trials, list):
        most: int | None = len(trials)
    else:
        points = count(tree) if opened and not places.faults else None
        most = min((found for found in (trials, points) if isinstance(found, int)), default=None)
    top = confirm.get("top")
    if isinstance(top, int) and most is not None and top > most:
        message = f"the best {top} cannot be taken from a search of {most} trial{'s' * (most != 1)}. Lower it."
        places.add(("search", "confirm", "top"), "search.confirm.top", message)


def _bit_for_bit(tree: Mapping[str, Any], places: Places) -> None:
    """What `search.reproducible` promises must not hang on a clock."""
    if _at(tree, "search", "reproducible") is not True:
        return
    if _at(tree, "search", "timeout_s") is not None:
        message = (
            "where the time runs out differs from run to run, and search.reproducible promises the same search. "
            "Limit search.trials instead, or write search.reproducible: false."
        )
        places.add(("search", "timeout_s"), "search.timeout_s", message)


def _lanes(tree: Mapping[str, Any], places: Places) -> None:
    lanes = _at(tree, "resources", "lanes")
    if isinstance(lanes, int) and lanes > 1 and _at(tree, "resources", "fuse") == "never":
        message = f"resources.fuse is never, so a worker trains one trial at a time, and {lanes} lanes are asked for."
        places.add(("resources", "lanes"), "resources.lanes", f"{message} Write 1, or resources.fuse: auto.")


def _manual(tree: Mapping[str, Any], trials: list[Any], places: Places, closed: Close, key: str = "trials") -> None:
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
            way: Way = ("search", key, index) if at is None else ("search", key, index, at)
            places.add(way, f"search.{key}.{index}", f"{path}: {message}" if path else message)
