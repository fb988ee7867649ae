"""Changing a page as plain data: a value put at a dotted path, the ranges closed for one trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnopt_ray.experiment import Range, plain, walk
from nnopt_ray.reading import ranges
from nnopt_ray.reading.places import Way, shown


class CannotPut(Exception):
    """A path that leads nowhere in a page; the message says why."""


def put(tree: dict[str, Any], path: str, value: Any, *, fresh: bool = False) -> list[Way]:
    """Put a value at a dotted path, making missing sections; returns the ways that were changed.

    Below a choice of sub-pages it goes into every option that has the key. `fresh`: another `type`
    begins its part anew, without the other type's keys. Raises CannotPut.
    """
    steps = path.split(".")
    if not all(step.strip() for step in steps):
        raise CannotPut("a path is written as words with dots between them, such as train.optimizer.lr.")
    return _put(tree, steps, value, (), fresh)


def _put(node: Any, steps: list[str], value: Any, way: Way, fresh: bool) -> list[Way]:
    head, rest = steps[0], steps[1:]
    at = ".".join(map(str, way))
    if isinstance(node, list):
        return _put_in_list(node, steps, value, way, fresh)
    if not isinstance(node, dict):
        raise CannotPut(f"'{at}' is {shown(node)} and has no key '{head}'.")
    if ranges.is_range(node) and head not in ranges.KINDS:
        return _put_in_options(node, steps, value, way, fresh)
    if not rest:
        if fresh and head == "type" and node.get("type") != value:
            node.clear()
        node[head] = value
        return [(*way, head)]
    child = node.get(head)
    if child is None:
        child = node[head] = {}
    elif isinstance(child, str):
        child = node[head] = {"type": child}
    return _put(child, rest, value, (*way, head), fresh)


def _put_in_list(node: list[Any], steps: list[str], value: Any, way: Way, fresh: bool) -> list[Way]:
    head, rest = steps[0], steps[1:]
    at = ".".join(map(str, way))
    if not (head.isascii() and head.isdigit() and len(head) < 7):
        raise CannotPut(f"'{at}' is a list; its items are reached by number, {at}.0 being the first, not by '{head}'.")
    index = int(head)
    if index > len(node) or (rest and index == len(node)):
        raise CannotPut(f"'{at}' has {len(node)} items, counted from 0; there is no {index}.")
    if not rest:
        node[index : index + 1] = [value]
        return [(*way, index)]
    if isinstance(node[index], str):
        node[index] = {"type": node[index]}
    return _put(node[index], rest, value, (*way, index), fresh)


def _put_in_options(node: dict[str, Any], steps: list[str], value: Any, way: Way, fresh: bool) -> list[Way]:
    kind, options = next(iter(node.items()))
    at = ".".join(map(str, way))
    found: list[Way] = []
    for index, option in enumerate(options):
        if kind == "choice" and isinstance(option, dict) and steps[0] in option:
            found += _put(option, steps, value, (*way, kind, index), fresh)
    if not found:
        raise CannotPut(
            f"'{at}' is opened ({kind}), and no option has '{steps[0]}'. "
            f"Set '{at}' as a whole, or one option, such as {at}.{kind}.0.{steps[0]}."
        )
    return found


def close_tree(tree: Mapping[str, Any], params: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """A page with every range closed by `params`, and (path, what is wrong) for what could not be.

    A parameter that answers no range is put at its path, as `--set` would.
    """
    answered: set[str] = set()
    wrong: list[tuple[str, str]] = []

    def choose(path: str, branch: str, range_: Range) -> Any:
        if path in params:
            if range_.kind != "choice" and not isinstance(params[path], (dict, list)):
                answered.add(path)
                return params[path]
            index = option(range_, params[path]) if range_.kind == "choice" else None
            if index is not None:
                answered.add(path)
                return index
        elif not any(path.startswith(f"{other}.") and other not in answered for other in params):
            wrong.append((path, f"is opened ({range_.kind}) and is given no value."))
        return 0 if range_.kind == "choice" else range_.first()

    closed: dict[str, Any] = plain(walk(tree, choose))
    for path in sorted((path for path in params if path not in answered), key=lambda path: path.count(".")):
        try:
            put(closed, path, params[path], fresh=True)
        except CannotPut as error:
            wrong.append((path, str(error)))
    return closed, wrong


def option(range_: Range, value: Any) -> int | None:
    """The position of the option that a value names: by its label, or by being equal to it."""
    candidates = (list(range_.labels()), [plain(item) for item in range_.values])
    for same in (lambda a, b: type(a) is type(b) and a == b, _equal_numbers):
        for listed in candidates:
            for index, candidate in enumerate(listed):
                if same(candidate, value):
                    return index
    return None


def answered(range_: Range, value: Any) -> Any:
    """A value as a range itself would give it: a choice its option's index, a number in its type; None when
    the range does not hold it."""
    if range_.kind == "choice":
        return option(range_, value)
    low, high = range_.values[0], range_.values[1]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        return None
    if range_.kind in ("uniform", "log"):
        return float(value)
    if range_.kind != "step":
        return int(value) if value == int(value) else None
    step = range_.values[2]
    index = round((value - low) / step)
    if all(isinstance(end, int) for end in range_.values):
        return low + index * step if low + index * step == value else None
    nearest = round(low + index * step, 12)
    return nearest if abs(nearest - value) <= 1e-9 * step else None


def _equal_numbers(a: Any, b: Any) -> bool:
    return {type(a), type(b)} == {int, float} and bool(a == b)
