"""How a search chooses its trials.

A method on the page becomes an asker for one study: `ask` gives the parameters of the next trial,
`tell` takes what came of it. Asked and told the same things in the same order, a fresh asker of the
same seed gives the same answers; that is what makes a study resumable from its journal alone.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from nnopt_ray.experiment import Experiment, Range
from nnopt_ray.search.space import Params, distinct_grid, params, points, random_point, value


class Asker(ABC):
    """One study's source of trials.

    total: how many it will give, or how many at most.
    adaptive: whether what is told changes what is asked; if not, the study may ask far ahead.
    """

    total: int
    adaptive: bool = True

    @abstractmethod
    def ask(self, trial: str) -> Params | None:
        """Parameters of the next trial, named `trial` from now on; None when there are no more."""

    def tell(self, trial: str, value: float | None, failed: bool) -> None:  # noqa: B027 (an optional hook)
        """What came of a trial: its value, or None when it gave none.

        `failed` without a value means that nothing was learned (a lost machine, a fault in a part);
        no value without `failed` means that the point itself is bad (the loss became NaN).
        """

    def evidence(self, point: Params, value: float) -> None:  # noqa: B027 (an optional hook)
        """A result found elsewhere, for a point of this space that was never asked here."""


class Method(ABC):
    """Base of search methods: their keys, and how they start."""

    @abstractmethod
    def start(self, experiment: Experiment) -> Asker:
        """An asker for a fresh study of this page."""


class _Listed(Asker):
    """Trials that are known beforehand."""

    adaptive = False

    def __init__(self, listed: list[Params]) -> None:
        self._listed = iter(listed)
        self.total = len(listed)

    def ask(self, trial: str) -> Params | None:
        return next(self._listed, None)


class Manual(Method):
    """The trials listed by hand under `search.trials`, in that order."""

    def start(self, experiment: Experiment) -> Asker:
        listed = experiment.search.trials
        assert isinstance(listed, tuple), "reading demands a list of trials for the manual method"
        return _Listed([dict(trial) for trial in listed])


class Grid(Method):
    """Every combination of the opened values, in the order of the page, the last one moving fastest.

    Combinations that are equal are run once. `search.trials` limits how many are run.
    """

    def start(self, experiment: Experiment) -> Asker:
        listed = distinct_grid(experiment.tree)
        limit = experiment.search.trials
        return _Listed(listed[:limit] if isinstance(limit, int) else listed)


class _RandomAsker(Asker):
    adaptive = False

    def __init__(self, tree: Mapping[str, Any], seed: int, total: int) -> None:
        self._tree, self._seed, self.total = tree, seed, total
        self._asked = 0

    def ask(self, trial: str) -> Params | None:
        if self._asked >= self.total:
            return None
        self._asked += 1
        return random_point(self._tree, self._seed, self._asked)


class Random(Method):
    """Independent random points (Bergstra and Bengio, JMLR 13, 2012).

    The n-th point depends on the seed and n alone, so a search may run on any number of workers.
    """

    def start(self, experiment: Experiment) -> Asker:
        return _RandomAsker(experiment.tree, experiment.seed, trial_count(experiment))


def trial_count(experiment: Experiment) -> int:
    trials = experiment.search.trials
    assert isinstance(trials, int), "reading fills in how many trials a search has"
    return trials


class Bayesian(Method):
    """Points near the good ones of the past: the tree-structured Parzen estimator of Optuna.

    Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011, in its multivariate
    form (Falkner et al., "BOHB", ICML 2018), driven through Ray Tune's OptunaSearch. Choices of
    sub-pages are conditional: what a branch opens is modelled within that branch.

    Keys:
        startup_trials: random trials before the model of past trials is used.
        multivariate: model values jointly rather than one by one.
    """

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

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            # `multivariate`, `group` and `constant_liar` carry Optuna's mark "experimental".
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=experiment.seed % 2**32,
                n_startup_trials=self.startup_trials,
                multivariate=self.multivariate,
                # Conditional branches have other names: group models each set of names by itself.
                group=self.multivariate,
                # Trials in flight count as poor ones, so that parallel workers do not all ask for one point.
                constant_liar=True,
            )
        return _OptunaAsker(experiment, sampler)


class _OptunaAsker(Asker):
    """Ray Tune's OptunaSearch over a define-by-run space, which is our walk through the page."""

    def __init__(self, experiment: Experiment, sampler: Any) -> None:
        from ray.tune.search.optuna import OptunaSearch

        self.total = trial_count(experiment)
        self._asked = 0
        self._tree = experiment.tree
        self._metric = experiment.metric
        self._point: Params = {}
        with warnings.catch_warnings():
            # Ray calls Optuna's storage and study in ways that newer Optunas mark as deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            self._search = OptunaSearch(
                space=self._define, metric=experiment.metric, mode=experiment.mode, sampler=sampler
            )

    def _define(self, trial: Any) -> None:
        self._point = params(self._tree, lambda _path, branch, range_: _suggest(trial, branch, range_))

    def ask(self, trial: str) -> Params | None:
        if self._asked >= self.total:
            return None
        self._asked += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            self._search.suggest(trial)
        return dict(self._point)

    def tell(self, trial: str, value: float | None, failed: bool) -> None:
        result = None if value is None else {self._metric: value}
        self._search.on_trial_complete(trial, result=result, error=failed)

    def evidence(self, point: Params, value: float) -> None:
        import optuna

        recorder = _Recorder(point)
        params(self._tree, recorder.choose)
        self._search._ot_study.add_trial(
            optuna.trial.create_trial(params=recorder.values, distributions=recorder.distributions, value=value)
        )


def _suggest(trial: Any, name: str, range_: Range) -> Any:
    low, high = range_.values[0], range_.values[-1]
    match range_.kind:
        case "uniform":
            return trial.suggest_float(name, low, high)
        case "log":
            return trial.suggest_float(name, low, high, log=True)
        case "int":
            return trial.suggest_int(name, low, high)
        case "log_int":
            return trial.suggest_int(name, low, high, log=True)
    count = points(range_)
    assert count is not None
    if range_.kind == "choice":
        return trial.suggest_categorical(name, list(range(count)))
    # A step range is searched by its index, so that its values are exactly those of the grid.
    return value(range_, trial.suggest_int(name, 0, count - 1))


class _Recorder:
    """Answers a walk from known parameters and notes them as Optuna would have."""

    def __init__(self, point: Params) -> None:
        self._point = point
        self.values: dict[str, Any] = {}
        self.distributions: dict[str, Any] = {}

    def choose(self, path: str, branch: str, range_: Range) -> Any:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        given = self._point[path]
        low, high = range_.values[0], range_.values[-1]
        distribution: Any
        match range_.kind:
            case "uniform" | "log":
                told, distribution = given, FloatDistribution(low, high, log=range_.kind == "log")
            case "int" | "log_int":
                told, distribution = given, IntDistribution(low, high, log=range_.kind == "log_int")
            case "choice":
                told = range_.labels().index(given)
                distribution = CategoricalDistribution(list(range(len(range_.values))))
            case "step":
                told = round((given - low) / range_.values[2])
                distribution = IntDistribution(0, (points(range_) or 1) - 1)
        self.values[branch], self.distributions[branch] = told, distribution
        return told if range_.kind == "choice" else given
