"""What a page asks of its search method: ranges it can search, objectives it can follow, points to try first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from nnopt_ray import tables
from nnopt_ray.errors import PartError
from nnopt_ray.experiment import Range, ranges
from nnopt_ray.reading.closing import answered
from nnopt_ray.reading.places import Places, Way, dotted, shown

Taken = tuple[tuple[str, Any], ...]  # (path of a choice that the point leaves open, option) on the way to a range
ByHand = Callable[[list[Any]], None]  # checks start points as trials listed by hand


def check_method(tree: Mapping[str, Any], opened: Sequence[tuple[Way, str, Range]], places: Places) -> None:
    """What the chosen method cannot search: a range, the whole space, or several objectives."""
    way = ("search", "method")
    method = tree["search"]["method"]["type"]
    try:
        chosen = tables.find("method", method)
    except PartError:  # noted where the method is named
        return
    ways = {path: way for way, path, _ in reversed(opened)}
    for path, sentence in chosen.refuses([(path, range_) for _, path, range_ in opened]):
        places.add(ways.get(path, way), path or "search.method", sentence)
    objectives = tree.get("objective")
    if isinstance(objectives, list) and len(objectives) > 1 and not chosen.several:
        able = ", ".join(name for name in tables.table("method") if tables.find("method", name).several)
        rule = f"'{method}' searches for one objective, and the page names {len(objectives)}."
        places.add(way, "search.method", f"{rule} Name one, or choose a method that takes several: {able}.")


def check_starts(tree: Mapping[str, Any], places: Places, by_hand: ByHand) -> None:
    """`search.start`: every value given must be one that the page opens there. With the manual method the
    points are trials by hand like the others."""
    search = tree["search"]
    listed = search.get("start")
    points = [point for point in listed if isinstance(point, dict)] if isinstance(listed, list) else []
    if search["method"]["type"] == "manual":
        by_hand(points)
        return
    trials = search.get("trials")
    if isinstance(trials, int) and trials < len(points):
        rule = f"{len(points)} points are to be tried first, and search.trials is {trials}."
        places.add(("search", "start"), "search.start", f"{rule} Raise search.trials, or leave some out.")
    for index, point in enumerate(points):
        for path, sentence in start_faults(tree, point):
            places.add(("search", "start", index, path), f"search.start.{index}", f"{path}: {sentence}")


def start_faults(tree: Mapping[str, Any], point: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(path, sentence) for every value of a start point that the space does not hold.

    A choice that the point leaves out may become any of its options, so what the point says below it must
    be open in all of them.
    """
    found: dict[str, list[tuple[Range, Taken]]] = {}
    free: dict[str, Range] = {}
    _visit(tree, "", (), point, found, free)
    for path, value in point.items():
        if path not in found:
            yield path, _not_open(tree, path, found, point)
            continue
        wrong = next((range_ for range_, _ in found[path] if answered(range_, value) is None), None)
        if wrong is not None:
            yield path, f"{shown(value)} is not in {_words(wrong)}, which the page opens here. Give a value of it."
            continue
        for choice, range_ in free.items():
            options = {dict(taken)[choice] for _, taken in found[path] if choice in dict(taken)}
            if options and len(options) < len(range_.values):
                only = " and ".join(sorted(str(option) for option in options))
                yield path, f"is open where {choice} is {only} and not elsewhere. Give {choice} beside it."
                break


def _visit(
    node: Any,
    path: str,
    taken: Taken,
    point: Mapping[str, Any],
    found: dict[str, list[tuple[Range, Taken]]],
    free: dict[str, Range],
) -> None:
    """Note every range that the point may meet, with the options that lead there where it leaves them open."""
    if isinstance(node, Range):
        found.setdefault(path, []).append((node, taken))
        if node.kind != "choice":
            return
        index = answered(node, point[path]) if path in point else None
        if path in point:
            if index is not None:
                _visit(node.values[index], path, taken, point, found, free)
            return
        free[path] = node
        for option, label in zip(node.values, node.labels(), strict=True):
            _visit(option, path, (*taken, (path, label)), point, found, free)
        return
    inside = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, child in inside:
        _visit(child, dotted(path, key), taken, point, found, free)


def _not_open(tree: Mapping[str, Any], path: str, found: Mapping[str, Any], point: Mapping[str, Any]) -> str:
    opened = [known for known, _ in ranges(tree)]
    if path in opened:
        above = max((choice for choice in found if choice in point and path.startswith(f"{choice}.")), key=len)
        return f"is not open where {above} is {shown(point[above])}. Leave it out, or take another option."
    if not opened:
        return "the page opens no value, so there is nothing to start from. Open one with a range."
    if _stands(tree, path):
        return f"is not opened on the page. Open it with a range, or leave it out.{_opened(opened)}"
    return f"is no value of the page.{tables.suggestion(path, list(dict.fromkeys(opened)))}"


def _opened(opened: list[str]) -> str:
    return f" Opened: {', '.join(dict.fromkeys(opened))}."


def _stands(node: Any, path: str) -> bool:
    for step in path.split("."):
        if isinstance(node, Range):
            return True
        if isinstance(node, (list, tuple)) and step.isdigit() and int(step) < len(node):
            node = node[int(step)]
        elif isinstance(node, Mapping) and step in node:
            node = node[step]
        else:
            return False
    return True


def _words(range_: Range) -> str:
    values = range_.labels() if range_.kind == "choice" else range_.values
    return f"{range_.kind} [{', '.join(str(value) for value in values)}]"
