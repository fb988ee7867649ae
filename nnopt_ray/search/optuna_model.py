"""Our space in Optuna's words, and an Optuna study that proposes points and is told results.

Optuna names a value by its branch (`train.optimizer=adam.lr`), which is unique in a conditional space. A
choice is searched by the position of its option and a step range by that of its step, so that what comes
back is exactly what the page says.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nnopt_ray.experiment import Range
from nnopt_ray.reading.closing import answered
from nnopt_ray.search.space import Params, branches, params, points, value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler


def distribution(range_: Range) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    low, high = range_.values[0], range_.values[-1]
    match range_.kind:
        case "uniform" | "log":
            return FloatDistribution(float(low), float(high), log=range_.kind == "log")
        case "int" | "log_int":
            return IntDistribution(low, high, log=range_.kind == "log_int")
        case "choice":
            return CategoricalDistribution(list(range(len(range_.values))))
    return IntDistribution(0, (points(range_) or 1) - 1)


def told(range_: Range, answer: Any) -> Any:
    """What a walk through the page answers, as Optuna knows it."""
    if range_.kind != "step":
        return answer
    return round((answer - range_.values[0]) / range_.values[2])


def answer_of(range_: Range, said: Any) -> Any:
    """The reverse of `told`."""
    return value(range_, said) if range_.kind == "step" else said


def neutral(range_: Range) -> Any:
    """What stands for a value that a point does not have: the middle, or the first option."""
    low, high = range_.values[0], range_.values[-1]
    match range_.kind:
        case "uniform":
            return low + (high - low) / 2
        case "log":
            return math.sqrt(low) * math.sqrt(high)
        case "int":
            return (low + high) // 2
        case "log_int":
            return round(math.sqrt(low * high))
        case "choice":
            return 0
    return ((points(range_) or 1) - 1) // 2


class OptunaModel:
    """An Optuna study in memory. A proposal is a scratch trial that Optuna forgets at once; what is really
    run is added as a running trial, so that a sampler sees what is in flight, whoever proposed it.

    whole: every point is modelled with all values of the space, those of options not taken too, for samplers
        that cannot model a space which differs from point to point. A point that was proposed keeps the values
        that it was proposed with, so that the model finds out that they do not matter there (kept at one
        value instead, a Gaussian process goes on to expect gains from them that never come: on a function with
        two branches it stayed 50 times further from the optimum); any other gets neutral ones.
    """

    def __init__(self, tree: Mapping[str, Any], sampler: BaseSampler, modes: Sequence[str], whole: bool) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._tree, self._whole = tree, whole
        self._ranges = {branch: (path, range_) for branch, path, range_ in branches(tree)}
        self._distributions = {branch: distribution(range_) for branch, (_, range_) in self._ranges.items()}
        directions = ["minimize" if mode == "min" else "maximize" for mode in modes]
        self._study = optuna.create_study(sampler=sampler, directions=directions)
        self._proposed: tuple[Params, dict[str, Any]] = ({}, {})  # the last point, and all values it came with
        self._made = 0  # trials in Optuna's study, which numbers them in this order

    def propose(self, given: Params) -> Params:
        from optuna.trial import TrialState

        if given:
            self._study.enqueue_trial(self._fixed(given))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of experimental arguments, and numerical ones inside the models
            trial = self._study.ask(self._distributions if self._whole else None)
            point = params(self._tree, lambda _path, branch, range_: self._suggest(trial, branch, range_))
        self._proposed = (point, dict(trial.params))
        self._study.tell(trial.number, state=TrialState.FAIL)
        self._made += 1
        return point

    def _fixed(self, given: Params) -> dict[str, Any]:
        found = {}
        for branch, (path, range_) in self._ranges.items():
            answer = answered(range_, given[path]) if path in given else None
            if answer is not None:
                found[branch] = told(range_, answer)
        return found

    def _suggest(self, trial: Any, branch: str, range_: Range) -> Any:
        if self._whole:
            return answer_of(range_, trial.params[branch])
        low, high = range_.values[0], range_.values[-1]
        match range_.kind:
            case "uniform" | "log":
                return trial.suggest_float(branch, low, high, log=range_.kind == "log")
            case "int" | "log_int":
                return trial.suggest_int(branch, low, high, log=range_.kind == "log_int")
            case "choice":
                return trial.suggest_categorical(branch, list(range(len(range_.values))))
        return answer_of(range_, trial.suggest_int(branch, 0, (points(range_) or 1) - 1))

    def add(self, point: Params) -> int:
        """A point that is being run. → its number, for `finish`."""
        from optuna.trial import TrialState, create_trial

        values = dict(self._proposed[1]) if point == self._proposed[0] else self._values(point)
        known = {branch: self._distributions[branch] for branch in values}
        self._study.add_trial(create_trial(state=TrialState.RUNNING, params=values, distributions=known))
        self._made += 1
        return self._made - 1

    def _values(self, point: Params) -> dict[str, Any]:
        found = {branch: neutral(range_) for branch, (_, range_) in self._ranges.items()} if self._whole else {}

        def note(path: str, branch: str, range_: Range) -> Any:
            answer = answered(range_, point[path])
            found[branch] = told(range_, answer)
            return answer

        params(self._tree, note)
        return found

    def finish(self, number: int, values: Sequence[float] | None, bad: bool = False) -> None:
        """The result of a point. Without values it is forgotten, or with `bad` counts as worse than any."""
        from optuna.trial import TrialState

        if values is not None:
            self._study.tell(number, list(values))
        else:
            self._study.tell(number, state=TrialState.PRUNED if bad else TrialState.FAIL)
