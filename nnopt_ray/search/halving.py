"""Asynchronous successive halving: the stopping form as in Ray Tune, the promoting form as in the paper."""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from nnopt_ray.search.schedulers import (
    EPOCH,
    GO,
    METRIC,
    PAUSE,
    STOP,
    Judge,
    Scheduler,
    Space,
    TrialCard,
    Verdict,
    score,
)

FAR = 1e300  # stands for infinity where numbers are interpolated; twice it is still finite


class Asha(Scheduler):
    """Asynchronous successive halving: at each rung only the best 1/reduction_factor go on.

    Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020. `stop` decides as Ray
    Tune's ASHAScheduler with one bracket: a trial is compared when it comes to a rung, with those that
    came before it, and stops or goes on for good. `promote` is the paper's own Algorithm 2: a trial waits
    at the rung, and whenever there is room the best of a rung's top 1/reduction_factor goes on, also when
    it came early and its rivals late. When no new trials are left, rungs are rounded up instead of
    down, from the lowest to the highest, so that at least one trial trains to its end.

    Keys:
        grace_period: epochs that every trial gets before it may be stopped.
        reduction_factor: of the trials at a rung, one in this many goes on; also the spacing of rungs.
        form: stop ends the losers of a rung at once; promote lets them wait, and fetches the best.
    """

    def __init__(
        self,
        *,
        grace_period: Annotated[int, Field(ge=1)] = 1,
        reduction_factor: Annotated[float, Field(gt=1, le=100)] = 3,
        form: Literal["stop", "promote"] = "stop",
    ) -> None:
        self.grace_period = grace_period
        self.reduction_factor = reduction_factor
        self.form = form

    def start(self, mode: str, epochs: int, seed: int, space: Space = ()) -> Judge:
        return _Promoting(self, mode, epochs) if self.form == "promote" else _Stopping(self, mode, epochs)

    def rungs(self, epochs: int) -> list[int]:
        """After how many epochs a trial is compared, ascending; all before its last epoch.

        Where the factor is no whole number, the first whole epoch at or after grace_period * factor^k.
        """
        found: list[int] = []
        for power in itertools.count():
            milestone = math.ceil(self.grace_period * self.reduction_factor**power)
            if milestone >= epochs:
                return found
            if milestone not in found:
                found.append(milestone)
        raise AssertionError("the factor is above 1, so the milestones grow")

    def budget(self, trials: int, epochs: int) -> tuple[int, int]:
        """The first trial to come to a rung is never stopped there, so one at least trains to its end. The
        promoting form stops the others as the paper would, rungs rounded up at the end; it promotes most
        when every trial is better than those before it."""
        rungs = [*self.rungs(epochs), epochs]
        if trials == 0 or len(rungs) == 1:
            return trials * epochs, trials * epochs
        if self.form == "stop":
            return epochs + (trials - 1) * rungs[0], trials * epochs
        least = most = trials * rungs[0]
        few = many = trials
        for low, high in itertools.pairwise(rungs):
            few, up = _quota(few, self.reduction_factor, up=True), _quota(many, self.reduction_factor, up=True)
            # From the ceil(factor)-th trial on, each that comes as the best so far is promoted at once.
            many = max(up, many - math.ceil(self.reduction_factor - 1e-9) + 1)
            least, most = least + few * (high - low), most + many * (high - low)
        return least, most


class _Recorded(dict[str, float]):
    """Scores at a rung, kept sorted beside: a percentile of 10,000 of them costs numpy 0.9 ms each time."""

    def __init__(self) -> None:
        super().__init__()
        self._sorted: list[float] = []

    def __setitem__(self, trial: str, value: float) -> None:
        assert trial not in self, "a trial is recorded once at a rung"
        insort(self._sorted, value)
        super().__setitem__(trial, value)

    def percentile(self, q: float) -> float | None:
        """numpy.percentile(values, q) to the last bit (method "linear"); None of nothing."""
        if not self._sorted:
            return None
        virtual = (len(self._sorted) - 1) * (q / 100)
        index = math.floor(virtual)
        if index + 1 >= len(self._sorted):
            return self._sorted[-1]
        low, high, part = self._sorted[index], self._sorted[index + 1], virtual - index
        return high - (high - low) * (1 - part) if part >= 0.5 else low + (high - low) * part


class _Stopping(Judge):
    """Ray Tune's own ASHAScheduler. It is told nothing between rungs, where it would decide nothing."""

    def __init__(self, keys: Asha, mode: str, epochs: int) -> None:
        from ray.tune.schedulers import ASHAScheduler

        self._mode = mode
        self._rungs = keys.rungs(epochs)
        self._tune = ASHAScheduler(
            time_attr=EPOCH,
            metric=METRIC,
            mode="max",
            max_t=max(epochs, keys.grace_period),
            grace_period=keys.grace_period,
            reduction_factor=keys.reduction_factor,
        )
        bracket = self._tune._brackets[0]
        bracket._rungs = [(rung, _Recorded()) for rung in reversed(self._rungs)]
        percent = (1 - 1 / keys.reduction_factor) * 100
        bracket.cutoff = lambda recorded: recorded.percentile(percent)
        self._known: dict[str, TrialCard] = {}

    def next_decision(self, trial: str, epochs_done: int) -> int | None:
        return next((rung for rung in self._rungs if rung > epochs_done), None)

    def judge(self, trial: str, epochs_done: int, value: float, params: Mapping[str, Any]) -> Verdict:
        from ray.tune.schedulers import TrialScheduler

        decision = self._tune.on_trial_result(None, self._card(trial), self._result(epochs_done, value))
        return STOP if decision == TrialScheduler.STOP else GO

    def ended(self, trial: str, epochs_done: int, value: float | None) -> None:
        card = self._card(trial)
        del self._known[trial]
        if value is None:
            self._tune.on_trial_error(None, card)
        else:
            self._tune.on_trial_complete(None, card, self._result(epochs_done, value))

    def _card(self, trial: str) -> TrialCard:
        if trial not in self._known:
            self._known[trial] = TrialCard(trial)
            self._tune.on_trial_add(None, self._known[trial])
        return self._known[trial]

    def _result(self, epochs_done: int, value: float) -> dict[str, float]:
        return {EPOCH: epochs_done, METRIC: min(max(score(value, self._mode), -FAR), FAR)}


def _quota(trials: int, factor: float, up: bool = False) -> int:
    """trials / factor, rounded; a billionth forgives factors that binary cannot hold."""
    return math.ceil(trials / factor - 1e-9) if up else math.floor(trials / factor + 1e-9)


Entry = tuple[float, int, str]  # (-score, order of arrival, trial): the best is the smallest


class _Rung:
    """Who came to a rung, best first, and which of them wait there."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.here: set[str] = set()
        self._ranked: list[Entry] = []
        self._waiting: list[Entry] = []  # a heap; those that left it otherwise are dropped when they come up

    def add(self, entry: Entry, waits: bool) -> None:
        self.here.add(entry[2])
        insort(self._ranked, entry)
        if waits:
            heapq.heappush(self._waiting, entry)

    def best(self, paused: Mapping[str, _Rung], factor: float, up: bool = False) -> str | None:
        """The best trial that waits here, if it is among the top 1/factor of all that came."""
        while self._waiting and paused.get(self._waiting[0][2]) is not self:
            heapq.heappop(self._waiting)
        if not self._waiting:
            return None
        rank = bisect_left(self._ranked, self._waiting[0])
        return self._waiting[0][2] if rank < _quota(len(self._ranked), factor, up) else None


class _Promoting(Judge):
    """Algorithm 2 of the paper; `judge` is a worker that reports, and `promote` its get_job()."""

    def __init__(self, keys: Asha, mode: str, epochs: int) -> None:
        self._factor, self._mode = keys.reduction_factor, mode
        self._rungs = [_Rung(rung) for rung in keys.rungs(epochs)]
        self._paused: dict[str, _Rung] = {}
        self._granted: deque[str] = deque()
        self._arrivals = itertools.count()

    def next_decision(self, trial: str, epochs_done: int) -> int | None:
        return next((rung.epochs for rung in self._rungs if rung.epochs > epochs_done), None)

    def judge(self, trial: str, epochs_done: int, value: float, params: Mapping[str, Any]) -> Verdict:
        rung = next(rung for rung in self._rungs if rung.epochs == epochs_done)
        rung.add((-score(value, self._mode), next(self._arrivals), trial), waits=True)
        self._paused[trial] = rung
        if not self._granted and self._best() == trial:  # its own lane would fetch it again
            del self._paused[trial]
            return GO
        return PAUSE

    def ended(self, trial: str, epochs_done: int, value: float | None) -> None:
        """A trial that ends at a rung counts there, like every other; it waits for nothing."""
        self._paused.pop(trial, None)
        rung = next((rung for rung in reversed(self._rungs) if rung.epochs <= epochs_done), None)
        if value is not None and rung is not None and trial not in rung.here:
            rung.add((-score(value, self._mode), next(self._arrivals), trial), waits=False)

    def promote(self) -> str | None:
        while self._granted and self._granted[0] not in self._paused:
            self._granted.popleft()
        trial = self._granted.popleft() if self._granted else self._best()
        if trial is not None:
            del self._paused[trial]
        return trial

    def give_up(self) -> list[str]:
        for rung in self._rungs:
            while (trial := rung.best(self._paused, self._factor, up=True)) is not None:
                self._granted.append(trial)
                del self._paused[trial]
            if self._granted:
                self._paused.update(dict.fromkeys(self._granted, rung))
                return []
        lost = list(self._paused)
        self._paused.clear()
        return lost

    def _best(self) -> str | None:
        """From the highest rung down, as the paper has it."""
        found = (rung.best(self._paused, self._factor) for rung in reversed(self._rungs))
        return next((trial for trial in found if trial is not None), None)
