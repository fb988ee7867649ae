"""Methods that learn from past trials: the next points are sought where a model of the results says."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import derived_seed
from nnopt_ray.search.optuna_model import OptunaModel
from nnopt_ray.search.searchers import Asker, Method, Values
from nnopt_ray.search.space import Params, branches

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class _ModelAsker(Asker):
    """One model, told every trial's result when it is over.

    worst: a point without a value (its loss became NaN) is told as bad as the worst so far, for models that
        know no other way to hear of it.
    """

    def __init__(self, experiment: Experiment, sampler: BaseSampler, whole: bool, worst: bool) -> None:
        super().__init__(experiment)
        self._modes = [mode for mode, _ in experiment.objectives]
        self._model = OptunaModel(self.tree, sampler, self._modes, whole)
        self._worst = worst
        self._numbers: dict[str, list[int]] = {}  # trial → its points in the model, repetitions included

    def propose(self, given: Params) -> Params | None:
        return self._model.propose(given)

    def taken(self, trial: str, point: Params) -> None:
        self._numbers[trial] = [self._model.add(point)]

    def repeated(self, point: Params, trial: str) -> None:
        number = self._model.add(point)
        over, values = self.result_of(trial)
        if over:
            self._model.finish(number, values)
        else:
            self._numbers[trial].append(number)

    def learn(self, trial: str, values: Values | None, failed: bool, stopped: bool) -> None:
        if values is None and not failed and self._worst:
            values = self._worst_so_far()
        for number in self._numbers.pop(trial, ()):
            self._model.finish(number, values, bad=not failed)

    def _worst_so_far(self) -> Values | None:
        found = [values for values in self._told.values() if values is not None]
        if not found:
            return None
        columns: Sequence[Sequence[float]] = list(zip(*found, strict=True))
        return tuple(
            max(column) if mode == "min" else min(column) for mode, column in zip(self._modes, columns, strict=True)
        )


def optuna_seed(experiment: Experiment, *purpose: Any) -> int:
    return derived_seed(experiment.seed, *purpose) % 2**32


def conditional(experiment: Experiment) -> bool:
    """Whether some values are open in one option of a choice only."""
    return any("=" in branch for branch, _, _ in branches(experiment.tree))


class Bayesian(Method):
    """Points near the good ones of the past: the tree-structured Parzen estimator of Optuna.

    Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011, in its multivariate
    form (Falkner et al., "BOHB", ICML 2018). Choices of sub-pages are conditional: what a branch opens is
    modelled within that branch. Several objectives: Ozaki et al., "Multiobjective Tree-Structured Parzen
    Estimator", JAIR 73, 2022.

    Keys:
        startup_trials: random trials before the model of past trials is used.
        multivariate: model values jointly rather than one by one.
    """

    several = True

    def __init__(
        self,
        *,
        startup_trials: Annotated[int, Field(ge=1)] = 10,
        multivariate: bool = True,
    ) -> None:
        self.startup_trials = startup_trials
        self.multivariate = multivariate

    def start(self, experiment: Experiment) -> Asker:
        import optuna

        with warnings.catch_warnings():
            # `group` carries Optuna's mark "experimental".
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=optuna_seed(experiment, "bayesian"),
                n_startup_trials=self.startup_trials,
                multivariate=self.multivariate,
                # Conditional branches have other names: group models each set of names by itself. It looks at all
                # trials every time (a quarter of the time at 1000), so it is used only where there are branches.
                group=self.multivariate and conditional(experiment),
                # Trials in flight count as poor ones, so that parallel workers do not all ask for one point.
                constant_liar=True,
            )
        return _ModelAsker(experiment, sampler, whole=False, worst=False)


class Gp(Method):
    """A Gaussian process over the whole space, asked where improvement is to be expected most.

    Optuna's GPSampler: Matérn 5/2 kernel with a length scale a value, log expected improvement (Ament et al.,
    NeurIPS 2023), trials in flight taken into account; several objectives by hypervolume improvement. It
    needs the fewest trials of all methods and the most time for each, about 0.3 s and more as they become
    many: for trainings that take minutes and up to some hundreds of trials. Where a choice opens values of its
    own, bayesian is the surer one.

    Keys:
        startup_trials: random trials before the model of past trials is used.
    """

    several = True

    def __init__(self, *, startup_trials: Annotated[int, Field(ge=1)] = 10) -> None:
        self.startup_trials = startup_trials

    def start(self, experiment: Experiment) -> Asker:
        import optuna

        sampler = optuna.samplers.GPSampler(
            seed=optuna_seed(experiment, "gp"),
            n_startup_trials=self.startup_trials,
            warn_independent_sampling=False,
        )
        asker = _ModelAsker(experiment, sampler, whole=conditional(experiment), worst=True)
        asker.tries = 3  # each costs as much as fitting the model
        return asker
