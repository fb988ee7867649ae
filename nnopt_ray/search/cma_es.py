"""CMA-ES over the opened numbers, driven through the package `cmaes`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from nnopt_ray.experiment import Experiment, Range
from nnopt_ray.machine import derived_seed
from nnopt_ray.search.searchers import Asker, Method, Values
from nnopt_ray.search.space import Params, branches, params, points, steered, value

if TYPE_CHECKING:
    from cmaes import CMA, CMAwM

MAY_BE_LATE = 1  # generations that a result may be older than the one it is counted in


def _sorted_numbers(range_: Range) -> list[int]:
    """The options of a choice of numbers by their size: positions in the page's order."""
    return sorted(range(len(range_.values)), key=lambda index: float(range_.values[index]))


def _numeric(range_: Range) -> bool:
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in range_.values)


def _varies(range_: Range) -> bool:
    return points(range_) != 1


class _Axis:
    """One opened number as a coordinate from 0 to 1. Whole numbers, steps and choices of numbers lie on
    equally spaced marks, `step` apart; it is 0 where the axis is continuous."""

    def __init__(self, range_: Range) -> None:
        self.range = range_
        count = points(range_)
        self._marks = None if count is None or range_.kind == "log_int" else count
        self.step = 0.0 if self._marks is None else 1.0 / (self._marks - 1)
        self._order = _sorted_numbers(range_) if range_.kind == "choice" else []

    def value(self, coordinate: float) -> Any:
        """What a walk through the page answers there."""
        share = min(max(coordinate, 0.0), 1.0)
        low, high = self.range.values[0], self.range.values[-1]
        if self._marks is not None:
            mark = round(share * (self._marks - 1))
            return self._order[mark] if self._order else value(self.range, mark)
        if self.range.kind == "uniform":
            return min(float(low + (high - low) * share), float(high))
        found = min(max(math.exp(math.log(low) + (math.log(high) - math.log(low)) * share), low), high)
        return round(found) if self.range.kind == "log_int" else float(found)

    def coordinate(self, found: Any) -> float:
        """Where a parameter lies."""
        low, high = self.range.values[0], self.range.values[-1]
        match self.range.kind:
            case "choice":
                return float(self._order.index(self.range.labels().index(found)) * self.step)
            case "uniform":
                return float((found - low) / (high - low))
            case "log" | "log_int":
                return float((math.log(found) - math.log(low)) / (math.log(high) - math.log(low)))
            case "int":
                return float((found - low) * self.step)
        return float(round((found - low) / self.range.values[2]) * self.step)


@dataclass
class _Sample:
    """A point on its way through a generation: where it lies, and when it was drawn."""

    position: np.ndarray[Any, Any]
    generation: int
    cost: float = math.nan
    trials: list[str] = field(default_factory=list)


class _CmaAsker(Asker):
    def __init__(self, experiment: Experiment, keys: CmaEs) -> None:
        super().__init__(experiment)
        self._keys = keys
        self._sign = 1.0 if experiment.mode == "min" else -1.0
        self._axes = {path: _Axis(range_) for _, path, range_ in branches(self.tree) if _varies(range_)}
        self._cma: CMA | CMAwM | None = None
        self._restarts = 0
        self._generation = 0
        self._proposed: _Sample | None = None
        self._flying: dict[str, list[_Sample]] = {}
        self._scored: list[_Sample] = []  # of the present generation
        self._elsewhere: list[tuple[np.ndarray[Any, Any], float]] = []  # told before the first was drawn

    def propose(self, given: Params) -> Params | None:
        cma = self._cma or self._begin()
        # CMAwM gives the point to run and the one to be told of; the former is rounded to the marks.
        drawn = cma.ask()
        position = np.asarray(drawn[1] if isinstance(drawn, tuple) else drawn)
        shown = np.asarray(drawn[0] if isinstance(drawn, tuple) else drawn)
        coordinates = dict(zip(self._axes, shown, strict=True))

        def choose(path: str, _branch: str, range_: Range) -> Any:
            axis = self._axes.get(path)  # None where a range holds one value
            return value(range_, 0) if axis is None else axis.value(coordinates[path])

        found = params(self.tree, steered(given, choose))
        self._proposed = _Sample(self._position(found) if given else position, self._generation)
        return found

    def _position(self, point: Params) -> np.ndarray[Any, Any]:
        return np.array([axis.coordinate(point[path]) for path, axis in self._axes.items()])

    def taken(self, trial: str, point: Params) -> None:
        sample, self._proposed = self._proposed or _Sample(self._position(point), self._generation), None
        self._flying[trial] = [sample]

    def repeated(self, point: Params, trial: str) -> None:
        sample, self._proposed = self._proposed, None
        assert sample is not None
        over, values = self.result_of(trial)
        if not over:
            self._flying[trial].append(sample)
        elif values is not None:
            self._score(sample, values[0])

    def learn(self, trial: str, values: Values | None, failed: bool, stopped: bool) -> None:
        for sample in self._flying.pop(trial, ()):
            if values is not None:
                self._score(sample, values[0])
            elif not failed:
                self._score(sample, math.inf * self._sign)

    def _score(self, sample: _Sample, found: float) -> None:
        sample.cost = self._sign * found
        if self._cma is None:
            self._elsewhere.append((sample.position, sample.cost))
            return
        if sample.generation < self._generation - MAY_BE_LATE:
            return
        self._scored.append(sample)
        if len(self._scored) < self._cma.population_size:
            return
        self._cma.tell([(sample.position, sample.cost) for sample in self._scored])
        self._scored = []
        self._generation += 1
        if self._cma.should_stop():
            self._restarts += 1
            self._begin()

    def _begin(self) -> CMA | CMAwM:
        """A first distribution, or a wider one of twice the population after it has settled (IPOP)."""
        from cmaes import CMA, CMAwM

        seed = derived_seed(self.seed, "cma-es", self._restarts) % 2**32
        size = len(self._axes)
        mean = np.full(size, 0.5)
        if self._restarts:
            mean = np.random.default_rng(seed).uniform(size=size)
        elif finite := [known for known in self._elsewhere if math.isfinite(known[1])]:
            mean = min(finite, key=lambda known: known[1])[0]
        population = self._keys.population or 4 + math.floor(3 * math.log(size))
        settings: dict[str, Any] = {
            "mean": np.clip(mean, 0.0, 1.0),
            "sigma": self._keys.sigma,
            "bounds": np.tile([0.0, 1.0], (size, 1)),
            "seed": seed,
            "population_size": population * 2**self._restarts,
        }
        steps = np.array([axis.step for axis in self._axes.values()])
        self._cma = CMAwM(steps=steps, **settings) if steps.any() else CMA(**settings)
        return self._cma


class CmaEs(Method):
    """Covariance matrix adaptation: each generation is drawn around the best of the one before.

    Hansen and Ostermeier, Evolutionary Computation 9, 2001, with margin for whole numbers and steps (Hamano
    et al., GECCO 2022) and a restart with twice the population once it has settled (Auger and Hansen, CEC
    2005). For smooth dependence on two to some twenty numbers and a few hundred trials. It searches numbers
    only, at least two: a choice must be one of numbers, which are taken by their size, and no sub-pages may
    be opened. Results found elsewhere set where it begins.

    Keys:
        population: points of a generation; without it 4 + 3 ln(number of opened values).
        sigma: how far the first generation spreads, as a part of each range.
    """

    def __init__(
        self,
        *,
        population: Annotated[int, Field(ge=4)] | None = None,
        sigma: Annotated[float, Field(gt=0, le=1)] = 0.25,
    ) -> None:
        self.population = population
        self.sigma = sigma

    def start(self, experiment: Experiment) -> Asker:
        return _CmaAsker(experiment, self)

    @classmethod
    def refuses(cls, opened: Sequence[tuple[str, Range]]) -> Iterator[tuple[str, str]]:
        cure = "Close it, or search with bayesian, gp or bohb."
        wrong = [(path, range_) for path, range_ in opened if range_.kind == "choice" and not _numeric(range_)]
        for path, _ in wrong:
            yield path, f"cma_es searches numbers, and this is a choice of what has no order. {cure}"
        if not wrong and sum(_varies(range_) for _, range_ in opened) < 2:
            yield "", "cma_es needs at least two opened numbers. Open another, or search with bayesian or gp."
