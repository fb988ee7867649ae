"""What a search opened, and what each trial chose of it: values by branch, and their place between the ends of a range.

A value inside an option of a choice exists for the trials that took the option. Two options may each have a value of
one path (a learning rate per optimizer): these are two values, told apart by their branch, as `experiment.walk` names
it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnopt_ray.experiment import Experiment, Range

Condition = tuple[tuple[str, str], ...]  # (path of a choice, label of the option taken), outer first


@dataclass(frozen=True)
class Value:
    """One opened value. `opened` is None where trials were listed by hand and the page opens no range."""

    branch: str
    path: str
    opened: Range | None
    under: Condition = ()


def opened(experiment: Experiment) -> tuple[Value, ...]:
    """Every range of the page, outer before inner, in the order of the page."""
    return tuple(_opened(experiment.tree, "", "", ()))


def _opened(node: Any, branch: str, path: str, under: Condition) -> Iterator[Value]:
    if isinstance(node, Range):
        yield Value(branch, path, node, under)
        if node.kind == "choice":
            for option, label in zip(node.values, node.labels(), strict=True):
                yield from _opened(option, f"{branch}={label}", path, (*under, (path, str(label))))
        return
    inside = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, child in inside:
        yield from _opened(
            child, f"{branch}.{key}" if branch else str(key), f"{path}.{key}" if path else str(key), under
        )


def values(experiment: Experiment, points: Iterable[Mapping[str, Any]]) -> tuple[Value, ...]:
    """What the page opens, and behind it what trials have that were listed by hand."""
    known = opened(experiment)
    paths = {value.path for value in known}
    by_hand = dict.fromkeys(path for point in points for path in point if path not in paths)
    return (*known, *(Value(path, path, None) for path in by_hand))


def met(condition: Condition, point: Mapping[str, Any]) -> bool:
    """Whether a trial took these options."""
    return all(_same(point.get(path), label) for path, label in condition)


def chosen(value: Value, point: Mapping[str, Any]) -> Any:
    """What a trial chose of a value: a number, or of a choice its label. None where it did not have the value.

    A table of trials does not tell a choice of null from no choice: where null is an option, it was taken.
    """
    if not met(value.under, point):
        return None
    said = point.get(value.path)
    if value.opened is None or value.opened.kind != "choice":
        return said
    return next((str(label) for label in value.opened.labels() if _same(said, label)), None)


def _same(said: Any, label: Any) -> bool:
    """Tables keep a choice among several types as text."""
    return said == label or str(said) == str(label) or (isinstance(said, str) and said == json.dumps(label))


# --- between the ends of a range --------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """The unit interval of a value: a range from its lower to its upper end, logarithmic where the range is;
    of whole numbers and of options each has a cell of its own.

    labels: of options, in the order of the page; empty for numbers. cell: of whole numbers half the width of one, in
    the value's own units.
    """

    low: float = 0.0
    high: float = 1.0
    log: bool = False
    cell: float = 0.0
    labels: tuple[str, ...] = ()

    def unit(self, said: Any) -> float:
        if self.labels:
            return (self.labels.index(str(said)) + 0.5) / len(self.labels)
        place = (self._on(float(said)) - self._ends[0]) / (self._ends[1] - self._ends[0])
        return min(max(place, 0.0), 1.0)

    def said(self, unit: float) -> float:
        """The number at a place of the unit interval."""
        first, last = self._ends
        on = first + unit * (last - first)
        return min(max(math.exp(on) if self.log else on, self.low), self.high)

    @property
    def _ends(self) -> tuple[float, float]:
        return self._on(self.low - self.cell), self._on(self.high + self.cell)

    def _on(self, number: float) -> float:
        return math.log(number) if self.log else number


def is_number(said: Any) -> bool:
    return isinstance(said, (int, float)) and not isinstance(said, bool)


def scale(value: Value, said: Sequence[Any]) -> Scale:
    """The scale of a value; `said`: what trials chose of it, which gives the ends where the page opens no range."""
    if value.opened is not None and value.opened.kind == "choice":
        return Scale(labels=tuple(str(label) for label in value.opened.labels()))
    if value.opened is not None:
        low, high = float(value.opened.values[0]), float(value.opened.values[1])
        cells = {"int": 0.5, "log_int": 0.5, "step": float(value.opened.values[-1]) / 2}
        return Scale(low, high, value.opened.kind in ("log", "log_int"), cells.get(value.opened.kind, 0.0))
    if not said or not all(is_number(each) for each in said):
        return Scale(labels=tuple(dict.fromkeys(str(each) for each in said)))
    low, high = float(min(said)), float(max(said))
    return Scale(low, high, low > 0 and high / low > 30)
