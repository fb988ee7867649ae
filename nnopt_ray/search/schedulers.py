"""What a study asks of a scheduler: which trials stop, wait, go on, or take over another's weights.

Ray Tune's schedulers were written for its controller, but ask little of it: a trial is shown to them as
a light record, the study as the `tune_controller`. The parts are in halving.py (asha), hyperband.py,
median.py and population.py (pbt).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from nnopt_ray.experiment import Range

EPOCH = "training_iteration"  # Tune's name; counts from 1
METRIC = "objective"

Space = tuple[tuple[str, Range], ...]  # (dotted path, Range) of every opened value, as Experiment.space


class TrialCard:
    """What Tune's schedulers read of a trial."""

    is_saving = False

    def __init__(self, trial_id: str, status: str = "RUNNING") -> None:
        self.trial_id = trial_id
        self.status = status


@dataclass(frozen=True)
class Verdict:
    """What happens to a trial at a decision.

    go     it trains on
    stop   it is over
    pause  its state is written and its lane given away; it goes on when `Judge.promote` names it
    copy   it takes over weights and optimizer of `donor` as they were after `donor_epochs` epochs, and
           trains on with `params` (all of its parameters; only values that change no shape may differ).
           The epochs it has done stay its own.
    """

    kind: Literal["go", "stop", "pause", "copy"]
    donor: str = ""
    donor_epochs: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)


GO, STOP, PAUSE = Verdict("go"), Verdict("stop"), Verdict("pause")


class Judge(ABC):
    """One study's scheduler. Epochs are counted from 1 here: how many a trial has done.

    Everything it answers follows from the order of the calls, so that a journal of them replays it. The
    calls that move it, and belong into a journal: `asked`, `judge`, `ended`, `promote` when it names a
    trial, `give_up`. `next_decision` moves nothing.
    """

    keeps_decisions: ClassVar[bool] = False  # True: the state at each decision stays on disk, for `copy`

    def asked(self, trial: str) -> None:  # noqa: B027  most judges need not know
        """A new trial: told once for each, in the order of asking, before anything else about it."""

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

    def dropped(self) -> list[str]:
        """Paused trials that stop here, because of what was judged or ended last; each is named once.

        To be asked after every `judge` and `ended`, so that the searcher soon learns what became of them.
        """
        return []

    def give_up(self) -> list[str]:
        """Asked when nothing runs and nothing new is to come, and `promote` names none: the paused trials
        that stop here. If it leaves any, `promote` names at least one of them next."""
        return []


class Scheduler(ABC):
    """Base of schedulers: their keys, and how they start."""

    @abstractmethod
    def start(self, mode: str, epochs: int, seed: int, space: Space = ()) -> Judge:
        """A judge for a fresh study whose trials train for `epochs` at most. `space` is what the page opens."""

    @abstractmethod
    def budget(self, trials: int, epochs: int) -> tuple[int, int]:
        """The least and the most epochs that a study of so many trials trains in all, if none fails or
        ends by itself before its last epoch."""

    def unfit(self, epochs: int, space: Space) -> Iterable[tuple[str, str]]:
        """(key, sentence) for each key that does not fit a page with so many epochs and this space."""
        return ()


def score(value: float, mode: str) -> float:
    """The value as a number that is better when it is larger; NaN is -inf."""
    if math.isnan(value):
        return -math.inf
    return value if mode == "max" else -value


class _NeverStop(Judge):
    def next_decision(self, trial: str, epochs_done: int) -> int | None:
        return None

    def judge(self, trial: str, epochs_done: int, value: float, params: Mapping[str, Any]) -> Verdict:
        return GO

    def ended(self, trial: str, epochs_done: int, value: float | None) -> None:
        return None


class NoScheduler(Scheduler):
    """Every trial trains to its end."""

    def start(self, mode: str, epochs: int, seed: int, space: Space = ()) -> Judge:
        return _NeverStop()

    def budget(self, trials: int, epochs: int) -> tuple[int, int]:
        return trials * epochs, trials * epochs
