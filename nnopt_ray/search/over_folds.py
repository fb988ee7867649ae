"""A search by `cv_val_METRIC`: a trial is its folds, each trained as a fold of its own, and its value is their mean.

In each fold the training part is all that is not held out, and what is held out is its validation part, as in a search
by val_METRIC. The folds of a trial are counted as its resource: a scheduler judges the mean over the first of them, and
of two trials always over the same. Without a scheduler a trial is dropped when, over two folds or more, its mean is
worse than that of the best trial over the same folds by more than the deviation between that trial's folds. Comparing a
challenger with the incumbent on the folds that both have is the intensification of SMAC (Hutter, Hoos & Leyton-Brown
2011, "Sequential Model-Based Optimization for General Algorithm Configuration", section 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from nnopt_ray import folding
from nnopt_ray.experiment import Experiment
from nnopt_ray.results import Epoch
from nnopt_ray.search.messages import Demand, Failure

if TYPE_CHECKING:
    from nnopt_ray.data.types import Task
    from nnopt_ray.search.ledger import Ledger, Trial
    from nnopt_ray.tables import Part

LEAST = 2  # folds before a trial may be dropped


@dataclass(frozen=True, eq=False)
class Taken:
    """more: folds of the trial to train next. gone: those that are not trained any more, as the trial is over."""

    trial: Trial
    more: list[Trial]
    gone: list[Trial]


class OverFolds:
    """Plans the folds of each trial and sums them up; the study has them trained.

    count: folds of a trial, repeats included. None of this moves before `begin` was told the task.
    """

    def __init__(self, experiment: Experiment, ledger: Ledger) -> None:
        self.experiment, self.ledger = experiment, ledger
        self.count = folding.objective_folds(experiment)
        self._kind: Part | None = None
        self._sign = 1.0 if experiment.mode == "min" else -1.0
        self._drops = experiment.search.scheduler.type == "none"

    def begin(self, task: Task) -> list[Trial]:
        """The folds to train of trials that an earlier process began."""
        self._kind = folding.kind_of(self.experiment, task)
        known = [trial for trial in self.ledger.trials.values() if not trial.over and trial.status != "paused"]
        return [fold for trial in known for fold in self.begun(trial)]

    def begun(self, trial: Trial) -> list[Trial]:
        """The first folds of a new trial, or the next ones of one that was promoted."""
        self.ledger.under_way(trial)
        return self.next(trial)

    def next(self, trial: Trial) -> list[Trial]:
        """Those to train now: up to where the trial is judged next, or all."""
        until = self.ledger.judge.next_decision(trial.id, len(trial.values))
        if until is None:
            until = LEAST if self._drops and len(trial.values) < LEAST else self.count
        return [fold for number in range(1, min(until, self.count) + 1) if not (fold := self._fold(trial, number)).over]

    def _fold(self, trial: Trial, number: int) -> Trial:
        assert self._kind is not None
        params = {**trial.params, **folding.changes(self._kind, number, held_out="validation")}
        return self.ledger.confirm(f"{trial.id}-f{number}", trial.id, params)

    def take(self, fold: Trial, failure: Failure | None) -> Taken | None:
        """A fold is over: what that says of its trial; None when that is over already."""
        trial, ledger = self.ledger.trials[fold.confirms], self.ledger
        if trial.over:
            return None
        if failure is not None:
            ledger.end(trial, "failed", failure.message, failure.kind)
        elif why := self.summed(trial):
            ledger.end(trial, "stopped", why)
        elif trial.verdict is not None and trial.verdict.kind == "stop":
            ledger.end(trial, "stopped", f"stopped by the scheduler after {len(trial.values)} of {self.count} folds")
        elif trial.verdict is not None:
            ledger.paused(trial)
        elif len(trial.values) == self.count:
            ledger.end(trial, "finished", f"all {self.count} folds done")
        siblings = [each for each in ledger.confirming.values() if each.confirms == trial.id and not each.over]
        if not trial.over:
            return Taken(trial, [] if siblings or trial.status == "paused" else self.next(trial), [])
        for each in siblings:  # those in training leave with their next report
            ledger.end(each, "stopped", "its trial is over")
        return Taken(trial, [], siblings)

    def summed(self, trial: Trial) -> str:
        """Take in the folds that are over, in their order → why the trial is dropped; empty where it is not.

        `trial.verdict` is set where the scheduler decides about it.
        """
        while len(trial.values) < self.count and trial.verdict is None:
            folds = self._values(trial, len(trial.values) + 1)
            if folds is None:
                break
            names = [name for name in folds[0].metrics if name.startswith("val_")]
            metrics = {f"cv_{name}": fmean(fold.metrics[name] for fold in folds) for name in names}
            trial.parameters = folds[-1].parameters
            epoch = Epoch(len(folds) - 1, metrics, math.nan, math.nan, folds[-1].seconds)
            self.ledger.result(trial, epoch, last=len(folds) == self.count)
            if self._drops and (why := self._worse(trial)):
                return why
        return ""

    def _values(self, trial: Trial, count: int) -> list[Trial] | None:
        """The first so many folds, when all of them have a value."""
        folds = [self.ledger.confirming.get(f"{trial.id}-f{number}") for number in range(1, count + 1)]
        found = [fold for fold in folds if fold is not None and fold.status == "finished" and fold.value is not None]
        return found if len(found) == count else None

    def _worse(self, trial: Trial) -> str:
        done, best = len(trial.values), self.ledger.best
        if best is None or not LEAST <= done < self.count:
            return ""
        known = self._values(best, self.count)
        mine = self._values(trial, done)
        if known is None or mine is None:
            return ""
        values = [float(fold.value or 0.0) for fold in known]
        deviation = stdev(values)
        behind = self._sign * (fmean(float(fold.value or 0.0) for fold in mine) - fmean(values[:done]))
        if behind <= deviation:
            return ""
        return (
            f"dropped after {done} of {self.count} folds: worse than trial {best.id} on the same by {behind:.4g}, and "
            f"between its folds the deviation is {deviation:.4g}"
        )

    def demand(self, plain: Callable[[int], Demand]) -> Callable[[int], Demand]:
        """So many workers → what each has to do, where `plain` counts trials of one training each."""

        def demand(workers: int) -> Demand:
            found = plain(workers)
            return Demand(found.most * self.count, found.epochs * self.count, found.total * self.count, found.width)

        return demand


__all__ = ["LEAST", "OverFolds"]
