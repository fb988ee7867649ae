"""A line of the page that a diagnosis proposes: where it stands, what it says, whether the page is valid with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from nnopt_ray import reading, tables
from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Experiment, Range, plain

EDGE = 0.05  # of a range's length: nearer to an end than this is "at the edge"


def place(opened: Range, value: Any) -> float | None:
    """Where a value lies in its range, 0 to 1; None where the question has no meaning."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if opened.kind == "choice":
        options = opened.values
        if len(options) < 3 or any(isinstance(o, bool) or not isinstance(o, (int, float)) for o in options):
            return None
        ordered = sorted(options)
        return ordered.index(value) / (len(ordered) - 1) if value in ordered else None
    low, high = float(opened.values[0]), float(opened.values[1])
    if opened.kind in ("log", "log_int"):
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low)) if value > 0 else None
    return (value - low) / (high - low)


def edge(opened: Range, value: Any) -> int:
    """1 at the upper end, -1 at the lower, 0 inside."""
    at = place(opened, value)
    if at is None:
        return 0
    return 1 if at >= 1 - EDGE else -1 if at <= EDGE else 0


def wider(opened: Range, end: int, share: float) -> Range | None:
    """The range made longer beyond one end: by its own length (a factor of at most 10 for log) times `share`."""
    low, high = opened.values[0], opened.values[1]
    if opened.kind == "choice":
        ordered = sorted(opened.values)
        a, b = (ordered[-2], ordered[-1]) if end > 0 else (ordered[1], ordered[0])
        new = b * b / a if a > 0 and b > 0 and share == 1 else b + (b - a) * share
        if all(isinstance(value, int) for value in ordered):
            new = round(new)
        new = _tidy(new)
        return None if new in ordered else Range("choice", (*opened.values, new) if end > 0 else (new, *opened.values))
    if opened.kind in ("log", "log_int"):
        factor = min(10.0, high / low) ** share
        new = high * factor if end > 0 else low / factor
    elif opened.kind == "step":
        step = opened.values[2]
        steps = max(1, round((high - low) / step * share))
        new = high + steps * step if end > 0 else low - steps * step
    else:
        new = high + (high - low) * share if end > 0 else low - (high - low) * share
    if opened.kind in ("int", "log_int") or (opened.kind == "step" and all(isinstance(v, int) for v in opened.values)):
        new = round(new)
    new = _tidy(new)
    if new in (low, high):
        return None
    ends = (low, new) if end > 0 else (new, high)
    return Range(opened.kind, (*ends, *opened.values[2:]))


def _tidy(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.3g}")


@dataclass(frozen=True)
class Line:
    """A change of the page: what shall stand at `branch` (as experiment.walk names it, options taken included).

    path: the same without the options, such as train.optimizer.lr.
    """

    path: str
    branch: str
    value: Any

    @property
    def text(self) -> str:
        """`lr: {log: [0.0001, 1.0]}   # in train.optimizer`: the line, and where it stands."""
        key = self.path.rpartition(".")[2]
        value = _short(self.path, plain(self.value))
        line: str = yaml.safe_dump({key: value}, default_flow_style=True, sort_keys=False, width=1000)
        inside = self.branch.rpartition(".")[0].replace("=", ", choice ")
        return f"{line.strip()[1:-1]}   # in {inside}" if inside else line.strip()[1:-1]


ROOMS = {"data.steps": "step", "data.quality": "check"}  # lists of parts


def _short(path: str, value: Any) -> Any:
    """A list of parts as people write it: without the keys that have their defaults, a part without keys as a word."""
    if path not in ROOMS or not isinstance(value, list):
        return value
    return [_short_part(ROOMS[path], part) if isinstance(part, Mapping) and "type" in part else part for part in value]


def _short_part(room: str, part: Mapping[str, Any]) -> Any:
    try:
        fields = tables.keys(room, part["type"]).model_fields
    except UserError:  # a part of the user's own that is no longer there
        return part
    kept = {
        key: value
        for key, value in part.items()
        if key != "type" and not (key in fields and plain(fields[key].default) == value)
    }
    return {"type": part["type"], **kept} if kept else part["type"]


def valid(experiment: Experiment, tree: Any) -> bool:
    try:
        reading.from_tree(plain(tree), experiment.file)
    except UserError:
        return False
    return True


def applied(experiment: Experiment, line: Line) -> Any:
    """The page's tree with the line on it."""
    return replaced(experiment.tree, line.branch, line.value)


def proposed(experiment: Experiment, params: Mapping[str, Any], path: str, *values: Any) -> Line | None:
    """The first of these values with which the page is valid, at a path of the page; None where none is.

    params: the values that the winner chose, which say what options a path goes through. None too where the path is
    no key of this page, or has the value already.
    """
    branch = branch_of(experiment.tree, params, path)
    if branch is None:
        return None
    now = standing(experiment.tree, branch)
    for value in values:
        line = Line(path, branch, value)
        if value is not None and plain(value) != plain(now) and valid(experiment, applied(experiment, line)):
            return line
    return None


def widened(experiment: Experiment, path: str, branch: str, opened: Range, end: int) -> Line | None:
    """The line with the range made longer beyond an end: the widest of three proposals with which the page is valid.

    Of a value in a list it is the line of the whole list.
    """
    for share in (1.0, 0.5, 0.25):
        proposal = wider(opened, end, share)
        if proposal is not None and valid(experiment, replaced(experiment.tree, branch, proposal)):
            return _of_the_list(experiment, path, branch, proposal)
    return None


def _of_the_list(experiment: Experiment, path: str, branch: str, new: Range) -> Line:
    tree, value = replaced(experiment.tree, branch, new), new
    while path.rpartition(".")[2].isdigit():
        path, branch = path.rpartition(".")[0], branch.rpartition(".")[0]
        value = standing(tree, branch)
    return Line(path, branch, value)


def branch_of(tree: Any, params: Mapping[str, Any], path: str) -> str | None:
    """A path of the page with the options that these values take on the way; None where the page has no such key."""
    node, branch, here = tree, "", ""
    for key in path.split("."):
        while isinstance(node, Range) and node.kind == "choice":
            labels = [str(label) for label in node.labels()]
            chosen = str(params.get(here, labels[0]))
            if chosen not in labels:
                return None
            branch, node = f"{branch}={chosen}", node.values[labels.index(chosen)]
        if isinstance(node, Mapping) and key in node:
            node = node[key]
        elif isinstance(node, (list, tuple)) and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        else:
            return None
        here, branch = (f"{here}.{key}", f"{branch}.{key}") if here else (key, key)
    return branch


def replaced(node: Any, branch: str, new: Any, here: str = "") -> Any:
    """The tree with what stands at `branch` (as experiment.walk names it) replaced."""
    if here == branch:
        return new
    if isinstance(node, Range):
        if node.kind != "choice":
            return node
        pairs = zip(node.labels(), node.values, strict=True)
        return Range("choice", tuple(replaced(value, branch, new, f"{here}={label}") for label, value in pairs))
    if isinstance(node, Mapping):
        return {key: replaced(value, branch, new, f"{here}.{key}" if here else str(key)) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [replaced(value, branch, new, f"{here}.{i}" if here else str(i)) for i, value in enumerate(node)]
    return node


def standing(node: Any, branch: str, here: str = "") -> Any:
    """What stands at `branch` (as experiment.walk names it); None where nothing does."""
    if here == branch:
        return node
    inner: list[tuple[str, Any]] = []
    if isinstance(node, Range) and node.kind == "choice":
        inner = [(f"{here}={label}", value) for label, value in zip(node.labels(), node.values, strict=True)]
    elif isinstance(node, Mapping):
        inner = [(f"{here}.{key}" if here else str(key), value) for key, value in node.items()]
    elif isinstance(node, (list, tuple)):
        inner = [(f"{here}.{index}" if here else str(index), value) for index, value in enumerate(node)]
    return next((found for at, value in inner if (found := standing(value, branch, at)) is not None), None)
