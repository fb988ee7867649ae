"""The space that a page opens: its values by name, its grid, its random points.

Everything here goes through `experiment.walk`, which closes a tree by asking for each range it meets;
only how the answers are found differs. Parameters are a flat mapping, dotted path → value; where a
choice holds sub-pages its value is the option's label (`adam`), and what the sub-page itself opens
follows under longer paths (`train.optimizer.lr`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from nnopt_ray.experiment import Experiment, Range, count, walk
from nnopt_ray.machine import derived_seed
from nnopt_ray.reading.closing import answered

Params = dict[str, Any]
Choose = Callable[[str, str, Range], Any]  # (path, branch, range) -> value, or index of a choice


def params(tree: Mapping[str, Any], choose: Choose) -> Params:
    """The parameters that `choose` leads to."""
    found: Params = {}

    def noting(path: str, branch: str, range_: Range) -> Any:
        chosen = choose(path, branch, range_)
        found[path] = range_.labels()[chosen] if range_.kind == "choice" else chosen
        return chosen

    walk(tree, noting)
    return found


def points(range_: Range) -> int | None:
    """How many values a range holds without what its sub-pages open; None when it is continuous."""
    return range_.points()


def value(range_: Range, index: int) -> Any:
    """The index-th value of a countable range, in the order of the page; a choice stays an index."""
    match range_.kind:
        case "choice":
            return index
        case "step":
            low, _, step = range_.values
            return (
                low + index * step if all(isinstance(v, int) for v in range_.values) else round(low + index * step, 12)
            )
    return int(range_.values[0]) + index


def grid(tree: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> Iterator[Params]:
    """All combinations that have the values of `given`; the last range of the page moves fastest. Continuous
    ranges are not allowed.

    Conditional sub-pages are counted where they apply: a choice of two optimizers, one of which opens
    three rates, is four points.
    """
    prefix: list[int] = []
    while True:
        taken: list[tuple[int, int]] = []  # (index, how many there are) on this way through the page

        yield params(tree, steered(given or {}, partial(_count, prefix, taken)))
        while taken and taken[-1][0] + 1 >= taken[-1][1]:
            taken.pop()
        if not taken:
            return
        prefix = [index for index, _ in taken]
        prefix[-1] += 1


def _count(prefix: list[int], taken: list[tuple[int, int]], _path: str, _branch: str, range_: Range) -> Any:
    """Follow `prefix` through the page, then take the first of everything; note the way in `taken`."""
    total = points(range_)
    assert total is not None, "reading refuses a grid over a continuous range"
    index = prefix[len(taken)] if len(taken) < len(prefix) else 0
    taken.append((index, total))
    return value(range_, index)


def distinct_grid(tree: Mapping[str, Any]) -> list[Params]:
    """The grid without repetitions."""
    seen: dict[str, Params] = {}
    for point in grid(tree):
        seen.setdefault(identity(point), point)
    return list(seen.values())


def size(tree: Mapping[str, Any]) -> int | None:
    """How many points a tree opens; None when it opens a continuous range."""
    return count(tree)


def branches(node: Any, branch: str = "", path: str = "") -> Iterator[tuple[str, str, Range]]:
    """(branch name, path, range) of every range of the whole space (see `experiment.walk`), in page order."""
    if isinstance(node, Range):
        yield branch, path, node
        if node.kind == "choice":
            for option, label in zip(node.values, node.labels(), strict=True):
                yield from branches(option, f"{branch}={label}", path)
        return
    inside = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, child in inside:
        yield from branches(child, f"{branch}.{key}" if branch else str(key), f"{path}.{key}" if path else str(key))


def narrowed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree without what holds no range: the same space under the same names, and no longer a page.

    A walk through it meets a handful of values where a whole page has a hundred, and takes 20 µs, not 300.
    """
    kept: dict[str, Any] = _narrowed(tree) or {}
    return kept


def _narrowed(node: Any) -> Any:
    if isinstance(node, Range):
        return Range(node.kind, tuple(_option(value) for value in node.values)) if node.kind == "choice" else node
    inside = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    kept = ((str(key), _narrowed(child)) for key, child in inside)
    return {key: child for key, child in kept if child is not None} or None


def _option(value: Any) -> Any:
    """An option of a choice keeps what its label is made of."""
    if not isinstance(value, Mapping):
        return value
    return {**({"type": value["type"]} if "type" in value else {}), **(_narrowed(value) or {})}


def identity(point: Mapping[str, Any]) -> str:
    """Equal for points that are the same training: 1, 1.0 and true are three values."""
    return json.dumps(point, sort_keys=True, default=str)


def fitted(tree: Mapping[str, Any], point: Mapping[str, Any]) -> Params | None:
    """A whole point as this space would have given it; None when it is none of its points."""
    outside = False

    def choose(path: str, _branch: str, range_: Range) -> Any:
        nonlocal outside
        answer = answered(range_, point[path]) if path in point else None
        outside = outside or answer is None
        return (0 if range_.kind == "choice" else range_.first()) if answer is None else answer

    found = params(tree, choose)
    return None if outside or found.keys() != point.keys() else found


def steered(given: Mapping[str, Any], choose: Choose) -> Choose:
    """`choose`, but for the paths of `given`, whose values are taken as they are."""

    def steer(path: str, branch: str, range_: Range) -> Any:
        if path not in given:
            return choose(path, branch, range_)
        answer = answered(range_, given[path])
        assert answer is not None, "reading refuses start points outside of their ranges"
        return answer

    return steer if given else choose


def at(range_: Range, share: float) -> Any:
    """The value below which `share` (from 0, below 1) of a range lies: what a uniform draw becomes.

    log_int draws on [low - 1/2, high + 1/2), so that a whole number's share is that of the interval around it.
    """
    low, high = range_.values[0], range_.values[-1]
    match range_.kind:
        case "uniform":
            return min(float(low + (high - low) * share), float(high))
        case "log":
            return _between(math.exp(_mix(math.log(low), math.log(high), share)), low, high)
        case "log_int":
            return int(_between(round(math.exp(_mix(math.log(low - 0.5), math.log(high + 0.5), share))), low, high))
    count = points(range_)
    assert count is not None
    return value(range_, min(int(share * count), count - 1))


def _mix(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def _between(number: float, low: float, high: float) -> float:
    """exp(log(x)) may leave a range by one unit in the last place."""
    return min(max(number, low), high)


def random_point(tree: Mapping[str, Any], seed: int, number: int, given: Mapping[str, Any] | None = None) -> Params:
    """The number-th random point of a seed: the same whatever was drawn before it. What `given` says is kept."""
    generator = np.random.default_rng(derived_seed(seed, "random search", number))
    return params(tree, steered(given or {}, lambda _path, _branch, range_: at(range_, generator.random())))


def most_epochs(experiment: Experiment) -> int:
    """The longest training that a trial of this page may have; epochs can be searched too."""
    listed = experiment.search.trials if isinstance(experiment.search.trials, tuple) else ()
    by_hand = [int(trial["train.epochs"]) for trial in listed if "train.epochs" in trial]
    opened = [
        int(max(range_.values[:2] if range_.kind == "step" else range_.values))
        for path, range_ in experiment.space
        if path == "train.epochs"
    ]
    return max([experiment.train.epochs, *by_hand, *opened])
