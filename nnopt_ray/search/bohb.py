"""BOHB's model: a Parzen estimator over the results of the longest training that enough trials have had."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import derived_seed
from nnopt_ray.search.model_based import conditional
from nnopt_ray.search.optuna_model import OptunaModel
from nnopt_ray.search.searchers import Asker, Method, Values
from nnopt_ray.search.space import Params, branches, random_point

if TYPE_CHECKING:
    from optuna.samplers import TPESampler

FULL = 2**62  # the budget of a training that came to its own end


class _BohbAsker(Asker):
    def __init__(self, experiment: Experiment, keys: Bohb) -> None:
        super().__init__(experiment)
        self._keys = keys
        self._mode = experiment.mode
        dimensions = len(list(branches(self.tree)))
        self._conditional = conditional(experiment)
        self._least = keys.min_points or dimensions + 1
        self._models: dict[int, OptunaModel] = {}  # budget in epochs → model of the results after so many
        self._known: Counter[int] = Counter()
        self._points: dict[str, Params] = {}  # trials under way
        self._number = 0

    def propose(self, given: Params) -> Params | None:
        self._number += 1
        draw = np.random.default_rng(derived_seed(self.seed, "bohb", self._number))
        budget = max((known for known, count in self._known.items() if count >= self._least + 2), default=None)
        if budget is None or draw.random() < self._keys.random_fraction:
            return random_point(self.tree, derived_seed(self.seed, "bohb"), self._number, given)
        return self._models[budget].propose(given)

    def adopted(self) -> None:
        self._number += 1

    def taken(self, trial: str, point: Params) -> None:
        self._points[trial] = point

    def report(self, trial: str, epochs: int, value: float) -> None:
        if trial in self._points:
            self._add(self._points[trial], epochs, value)

    def learn(self, trial: str, values: Values | None, failed: bool, stopped: bool) -> None:
        point = self._points.pop(trial, None)
        if point is not None and not stopped and not failed:
            self._add(point, FULL, math.nan if values is None else values[0])

    def _add(self, point: Params, budget: int, value: float) -> None:
        if budget not in self._models:
            self._models[budget] = OptunaModel(self.tree, self._sampler(budget), [self._mode], whole=False)
        number = self._models[budget].add(point)
        self._models[budget].finish(number, (value,) if math.isfinite(value) else None, bad=True)
        self._known[budget] += 1

    def _sampler(self, budget: int) -> TPESampler:
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                seed=derived_seed(self.seed, "bohb", "model", budget) % 2**32,
                n_startup_trials=0,
                multivariate=True,
                group=self._conditional,
                constant_liar=False,
            )


class Bohb(Method):
    """Bayesian search that learns from trainings which are not over yet; made for the hyperband scheduler.

    Falkner, Klein and Hutter, "BOHB: Robust and Efficient Hyperparameter Optimization at Scale", ICML 2018:
    a multivariate Parzen estimator over the results after so many epochs as the most advanced trials have
    had, as soon as there are enough of them: first after the shortest rung, in the end of full trainings. A
    part of the trials stays random. The estimator is Optuna's with its own split (the best tenth count as
    good): with the paper's, which keeps more of them, it was no better than random search on four mixed
    values and 60 trials. Without a scheduler it learns from full trainings alone.

    Keys:
        random_fraction: part of the trials that is drawn at random, whatever the model says.
        min_points: results that the model needs of one length of training, plus two; without it the number of
            opened values plus one.
    """

    def __init__(
        self,
        *,
        random_fraction: Annotated[float, Field(ge=0, lt=1)] = 1 / 3,
        min_points: Annotated[int, Field(ge=2)] | None = None,
    ) -> None:
        self.random_fraction = random_fraction
        self.min_points = min_points

    def start(self, experiment: Experiment) -> Asker:
        return _BohbAsker(experiment, self)
