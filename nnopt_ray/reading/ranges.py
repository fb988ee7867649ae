"""Ranges on a page: `{log: [1e-4, 1e-1]}` and its kin, their own rules, and their values to be tried."""

from __future__ import annotations

import json
import math
from typing import Any

from nnopt_ray.reading.places import BROKEN, shown

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
    return isinstance(raw, dict) and len(raw) == 1 and next(iter(raw)) in KINDS and isinstance(next(iter(raw.values())), list)


def is_torn(raw: Any) -> bool:
    """Whether a mapping was meant as a range but holds no list."""
    return isinstance(raw, dict) and len(raw) == 1 and next(iter(raw)) in KINDS and not isinstance(next(iter(raw.values())), list)


def fault(kind: str, values: list[Any]) -> str | None:
    """What is wrong with a range by itself, or None."""
    if any(value is BROKEN for value in values):
        return ""
    if kind == "choice":
        if not values:
            return "a choice needs at least one option: {choice: [one, another]}."
        if any(is_range(value) for value in values):
            return "an option of a choice cannot itself be a range. Widen one range, or make the options sub-pages."
        return None
    size = 3 if kind == "step" else 2
    if len(values) != size:
        return f"{kind} takes {size} numbers, {FORMS[kind]}, and is given {len(values)}."
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"{kind} takes numbers, {FORMS[kind]}; {shown(value)} is none. Options that are not numbers go into {FORMS['choice']}."
        if kind in ("int", "log_int") and not isinstance(value, int):
            return f"{kind} takes whole numbers, and {value} is none. For numbers in between write {FORMS['uniform']}."
        # An int beyond a float's reach is as useless as an infinite one.
        if not (isinstance(value, int) and abs(value) < 2**63) and not math.isfinite(value if isinstance(value, float) else math.inf):
            return f"the ends of a range must be finite, and {shown(value)} is not."
    low, high = values[0], values[1]
    if kind in ("log", "log_int") and low <= 0:
        hint = " These look like exponents; write the values themselves, such as {log: [1e-4, 1e-1]}." if high <= 0 else ""
        return f"the ends of a {kind} range must be above 0, and the lower one is {low}.{hint}"
    if low >= high:
        return f"the lower end comes first and must be smaller: {low} is not below {high}."
    if kind == "step" and values[2] <= 0:
        return f"the step must be above 0, and is {values[2]}."
    if kind == "step" and low + values[2] > high:
        return f"not one step of {values[2]} fits between {low} and {high}."
    return None


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
