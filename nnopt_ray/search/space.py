"""The space that a page opens: its values by name, its grid, its random points.

Everything here goes through `experiment.walk`, which closes a tree by asking for each range it meets;
only how the answers are found differs. Parameters are a flat mapping, dotted path → value; where a
choice holds sub-pages its value is the option's label (`adam`), and what the sub-page itself opens
follows under longer paths (`train.optimizer.lr`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from nnopt_ray.experiment import Range, walk
from nnopt_ray.machine import derived_seed

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
    match range_.kind:
        case "choice":
            return len(range_.values)
        case "int" | "log_int":
            return int(range_.values[1]) - int(range_.values[0]) + 1
        case "step":
            low, high, step = (float(end) for end in range_.values)
            # Half a billionth of a step forgives decimal steps such as 0.1 that binary cannot hold.
            return math.floor((high - low) / step + 1e-9) + 1
    return None


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


def grid(tree: Mapping[str, Any]) -> Iterator[Params]:
    """All combinations; the last range of the page moves fastest. Continuous ranges are not allowed.

    Conditional sub-pages are counted where they apply: a choice of two optimizers, one of which opens
    three rates, is four points.
    """
    prefix: list[int] = []
    while True:
        taken: list[tuple[int, int]] = []  # (index, how many there are) on this way through the page

        yield params(tree, partial(_count, prefix, taken))
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
        seen.setdefault(repr(sorted(point.items(), key=lambda item: item[0])), point)
    return list(seen.values())


def random_point(tree: Mapping[str, Any], seed: int, number: int) -> Params:
    """The number-th random point of a seed: the same whatever was drawn before it."""
    generator = np.random.default_rng(derived_seed(seed, "random search", number))

    def draw(_path: str, _branch: str, range_: Range) -> Any:
        low, high = range_.values[0], range_.values[-1]
        match range_.kind:
            case "uniform":
                return float(generator.uniform(low, high))
            case "log":
                # exp(log(x)) may leave the range by one unit in the last place.
                return min(max(float(math.exp(generator.uniform(math.log(low), math.log(high)))), low), high)
            case "log_int":
                return min(
                    max(round(math.exp(generator.uniform(math.log(low - 0.5), math.log(high + 0.5)))), low), high
                )
        count = points(range_)
        assert count is not None
        return value(range_, int(generator.integers(count)))

    return params(tree, draw)
