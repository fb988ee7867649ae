"""Which trials stop early: Ray Tune's own schedulers behind a small facade.

Tune's schedulers were written for its controller, but ask little of it. A trial is shown to them as a
light record, the study as the `tune_controller`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

EPOCH = "training_iteration"  # Tune's name; counts from 1
METRIC = "objective"


class TrialCard:
    """What Tune's schedulers read of a trial."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


@dataclass(frozen=True)
class Verdict:
    """What happens to a trial at a decision.

    go     it trains on
    stop   it is over
    pause  its state is written and its lane given away; it goes on when `Judge.promote` names it
    copy   it takes over weights and optimizer of `donor` as they were after `donor_epochs` epochs, and
           trains on with `params` (all of its parameters; only values that change no shape may differ)
    """

    kind: Literal["go", "stop", "pause", "copy"]
    donor: str = ""
    donor_epochs: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)


GO, STOP, PAUSE = Verdict("go"), Verdict("stop"), Verdict("pause")


class Judge(ABC):
    """One study's scheduler. Epochs are counted from 1 here: how many a trial has done.

    Everything it answers follows from the order of the calls, so that a journal of them replays it.
    """

    keeps_decisions: ClassVar[bool] = False  # True: the state at each decision stays on disk, for `copy`

    @abstractmethod
    def next_decision(self, trial: str, epochs_done: int) -> int | None:
        """After how many epochs in all the trial is judged next; None: never before it ends."""

    @abstractmethod
    def judge(self, trial: str, epochs_done: int, value: float, params: Mapping[str, Any]) -> Verdict:
        """What happens to the trial, which has just done so many epochs. NaN is worse than any number."""

    @abstractmethod
    def ended(self, trial: str, epochs_done: int, value: float | None) -> None:
        """The trial ended by itself, failed (value None) or was stopped."""

    def promote(self) -> str | None:
        """A paused trial that goes on now, before any new one starts; it is no longer paused then."""
        return None

    def give_up(self) -> list[str]:
        """Asked when nothing runs and nothing new is to come, and `promote` names none: the paused trials
        that stop here. Trials left out are expected from `promote` next."""
        return []


class Scheduler(ABC):
    """Base of schedulers: their keys, and how they start."""

    @abstractmethod
    def start(self, mode: str, epochs: int, seed: int) -> Judge:
        """A judge for a fresh study whose trials train for `epochs` at most."""

    @abstractmethod
    def budget(self, trials: int, epochs: int) -> tuple[int, int]:
        """The least and the most epochs that a study of so many trials trains in all, if none fails."""


class _NeverStop(Judge):
    def next_decision(self, trial: str, epochs_done: int) -> int | None:
        return None

    def judge(self, trial: str, epochs_done: int, value: float, params: Mapping[str, Any]) -> Verdict:
        return GO

    def ended(self, trial: str, epochs_done: int, value: float | None) -> None:
        return None


class NoScheduler(Scheduler):
    """Every trial trains to its end."""

    def start(self, mode: str, epochs: int, seed: int) -> Judge:
        return _NeverStop()

    def budget(self, trials: int, epochs: int) -> tuple[int, int]:
        return trials * epochs, trials * epochs


class Asha(Scheduler):
    """Asynchronous successive halving: at each rung only the best 1/reduction_factor go on.

    Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020; the decisions are
    those of Ray Tune's ASHAScheduler with one bracket.

    Keys:
        grace_period: epochs that every trial gets before it may be stopped.
        reduction_factor: of the trials at a rung, one in this many goes on; also the spacing of rungs.
    """

    def __init__(
        self,
        *,
        grace_period: Annotated[int, Field(ge=1)] = 1,
        reduction_factor: Annotated[float, Field(gt=1, le=100)] = 3,
    ) -> None:
        self.grace_period = grace_period
        self.reduction_factor = reduction_factor

    def start(self, mode: str, epochs: int, seed: int) -> Judge:
        return _AshaJudge(self, mode, epochs)

    def budget(self, trials: int, epochs: int) -> tuple[int, int]:
        return trials * min(self.grace_period, epochs), trials * epochs


class _AshaJudge(Judge):
    def __init__(self, keys: Asha, mode: str, epochs: int) -> None:
        from ray.tune.schedulers import ASHAScheduler

        self._tune = ASHAScheduler(
            time_attr=EPOCH,
            metric=METRIC,
            mode=mode,
            max_t=epochs,
            grace_period=keys.grace_period,
            reduction_factor=keys.reduction_factor,
        )
        self._rungs = sorted(_ceil(milestone) for milestone, _ in self._tune._brackets[0]._rungs)
        self._known: dict[str, TrialCard] = {}

    def next_decision(self, trial: str, epochs_done: int) -> int | None:
        return next((rung for rung in self._rungs if rung > epochs_done), None)

    def judge(self, trial: str, epochs_done: int, value: float, params: Mapping[str, Any]) -> Verdict:
        from ray.tune.schedulers import TrialScheduler

        card = self._known.get(trial)
        if card is None:
            card = self._known[trial] = TrialCard(trial)
            self._tune.on_trial_add(None, card)
        decision = self._tune.on_trial_result(None, card, {EPOCH: epochs_done, METRIC: value})
        return STOP if decision == TrialScheduler.STOP else GO

    def ended(self, trial: str, epochs_done: int, value: float | None) -> None:
        card = self._known.pop(trial, None)
        if card is None:
            return
        if value is None:
            self._tune.on_trial_error(None, card)
        else:
            self._tune.on_trial_complete(None, card, {EPOCH: epochs_done, METRIC: value})


def _ceil(milestone: float) -> int:
    """The first whole epoch at or after a rung (rungs are fractional when the factor is)."""
    return int(milestone) if milestone == int(milestone) else int(milestone) + 1
