"""Ranges on a page: `{log: [1e-4, 1e-1]}` and its kin, their own rules, and their values to be tried."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from nnopt_ray.experiment import Range
from nnopt_ray.reading.places import BROKEN, Way, dotted, shown

FORMS = {
    "uniform": "{uniform: [low, high]}",
    "log": "{log: [low, high]}",
    "int": "{int: [low, high]}",
    "log_int": "{log_int: [low, high]}",
    "step": "{step: [low, high, step]}",
    "choice": "{choice: [one, another]}",
}
KINDS: tuple[str, ...] = tuple(FORMS)
EXHAUSTIVE = 64  # a countable range of up to so many values is tried at each of them


def is_range(raw: Any) -> bool:
    """Whether a mapping has the form of a range: one key that names a kind, and a list."""
    return _one_kind(raw) and isinstance(next(iter(raw.values())), list)


def is_torn(raw: Any) -> bool:
    """Whether a mapping was meant as a range but holds no list."""
    return _one_kind(raw) and not is_range(raw)


def _one_kind(raw: Any) -> bool:
    return isinstance(raw, dict) and len(raw) == 1 and next(iter(raw)) in KINDS


def fault(kind: str, values: list[Any]) -> str | None:
    """What is wrong with a range by itself, or None."""
    if any(value is BROKEN for value in values):
        return ""
    if kind == "choice":
        if not values:
            return "a choice needs at least one option: {choice: [one, another]}."
        return None
    size = 3 if kind == "step" else 2
    if len(values) != size:
        return f"{kind} takes {size} numbers, {FORMS[kind]}, and is given {len(values)}."
    for value in values:
        wrong = _not_an_end(kind, value)
        if wrong:
            return wrong
    low, high = values[0], values[1]
    if kind in ("log", "log_int") and low <= 0:
        exponents = " These look like exponents; write the values themselves, such as {log: [1e-4, 1e-1]}."
        return f"the ends of a {kind} range must be above 0; the lower one is {low}.{exponents if high <= 0 else ''}"
    if low == high:
        return f"both ends are {shown(low)}, so there is nothing to search. Write {shown(low)}."
    if low >= high:
        return f"the lower end comes first and must be smaller: {low} is not below {high}."
    if kind == "step" and values[2] <= 0:
        return f"the step must be above 0, and is {values[2]}."
    if kind == "step" and low + values[2] > high:
        return f"not one step of {values[2]} fits between {low} and {high}."
    return None


def _not_an_end(kind: str, value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"{kind} takes numbers, {FORMS[kind]}; {shown(value)} is none. What is no number goes into a choice."
    if kind in ("int", "log_int") and not isinstance(value, int):
        return f"{kind} takes whole numbers, and {value} is none. For numbers in between write {FORMS['uniform']}."
    # An int beyond 64 bits is as useless as an infinite number: samplers draw 64-bit ones.
    if not (abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value)):
        return f"the ends of a range must be finite and below 2^63; {shown(value)} is not."
    return None


def variants(node: Any, way: Way) -> list[tuple[Way, Any]]:
    """(way, closed value): first with every range at its first, then with one range moved at a time."""
    if isinstance(node, Range):
        if node.kind == "choice":
            return [found for i, option in enumerate(node.values) for found in variants(option, (*way, "choice", i))]
        return [((*way, node.kind, end), value) for end, value in probes(node.kind, list(node.values))]
    if isinstance(node, dict):
        inside = {name: variants(item, (*way, name)) for name, item in node.items()}
        base: Any = {name: found[0][1] for name, found in inside.items()}
        return [(way, base), *((w, {**base, name: v}) for name, found in inside.items() for w, v in found[1:])]
    if isinstance(node, list):
        items = [variants(item, (*way, i)) for i, item in enumerate(node)]
        first = [found[0][1] for found in items]
        moved = ((w, [*first[:i], v, *first[i + 1 :]]) for i, found in enumerate(items) for w, v in found[1:])
        return [(way, first), *moved]
    return [(way, node)]


def range_of(way: Way) -> tuple[Way, str]:
    """The way of the range that an end or option of it stands in, and its kind; "" for other values."""
    kind = way[-2] if len(way) > 1 else ""
    return (way[:-1], str(kind)) if kind in KINDS else (way, "")


def locate(node: Any, inside: Way, way: Way) -> Way:
    """The way of a place inside a closed value, in the tree whose first values it holds."""
    rest = list(inside)
    while True:
        if isinstance(node, Range):
            way = (*way, node.kind, 0)
            node = node.values[0]
        elif rest and isinstance(node, (dict, list)):
            step: Any = rest.pop(0)
            node, way = node[step], (*way, step)
        else:
            return way


def path_of(way: Way, path: str, below: Way) -> str:
    """The dotted path of `below`, which stands somewhere below `way`, whose path is `path`."""
    steps = list(below[len(way) :])
    while steps:
        step = steps.pop(0)
        if step in KINDS and steps and isinstance(steps[0], int):
            steps.pop(0)
        else:
            path = dotted(path, step)
    return path


def any_node(node: Any, wanted: Callable[[Any], bool]) -> bool:
    """Whether `wanted` holds for a value or anything inside it."""
    if wanted(node):
        return True
    if isinstance(node, dict):
        return any(any_node(item, wanted) for item in node.values())
    return isinstance(node, list) and any(any_node(item, wanted) for item in node)


def probes(kind: str, values: list[Any]) -> list[tuple[int, Any]]:
    """(position in the list of the page, value) of values that a range may take, the first one first.

    Ends, and the middle where a whole number or a set of values could be wanted; a short countable
    range at each of its values.
    """
    low, high = values[0], values[1]
    match kind:
        case "uniform":
            return [(0, float(low)), (1, float(high)), (0, low / 2 + high / 2)]
        case "log":
            return [(0, float(low)), (1, float(high)), (0, math.sqrt(low) * math.sqrt(high))]
        case "step":
            whole = all(isinstance(value, int) for value in values)
            step = values[2] if whole else float(values[2])
            start = low if whole else float(low)
            count = math.floor((high - low) / step + 1e-9) + 1
            taken = range(count) if count <= EXHAUSTIVE else (0, 1, count // 2, count - 1)
            points = [start + i * step if whole else round(start + i * step, 12) for i in taken]
        case _:
            points = list(range(low, high + 1)) if high - low < EXHAUSTIVE else [low, low + 1, (low + high) // 2, high]
    return [(1 if point == points[-1] else 0, point) for point in points]


def twin(options: list[Any]) -> tuple[int, int] | None:
    """The positions of the first two equal options of a choice; 1, 1.0 and true are three things."""
    seen: dict[str, int] = {}
    for position, option in enumerate(options):
        text = json.dumps(option, default=repr, sort_keys=True)
        if text in seen:
            return seen[text], position
        seen[text] = position
    return None
