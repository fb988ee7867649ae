"""The order of a reproducible search: results are taken in an order that does not depend on when they arrive.

There are `search.concurrency` places. Time is counted in rounds: each begins with filling the places that are empty,
one after the other, and then every place, in its turn, gives one epoch of the trial in it. Trials may have trained
ahead, as far as their next decision; their epochs wait until it is their turn. So what searcher and scheduler hear,
and in which order, follows from the page alone, on any number of workers, and is found again from the journal after
any interruption.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from nnopt_ray.experiment import Experiment
from nnopt_ray.results import Epoch
from nnopt_ray.search.ledger import Ledger, Trial
from nnopt_ray.search.messages import Failure, Report
from nnopt_ray.search.searchers import Asker

# Places where the page says none; the machine's number of CPUs would make another search of it. A searcher or a
# scheduler that learns from what it hears should hear of some before it decides about others.
CONCURRENCY, CONCURRENCY_LEARNING = 16, 4
WIDTH = 8  # of a pack, at most: wider ones gain little more, and several workers would each have rows without lanes


def places_of(experiment: Experiment, asker: Asker) -> int:
    """How many trials of a reproducible search are in flight."""
    learns = asker.adaptive or experiment.search.scheduler.type != "none"
    return experiment.search.concurrency or (CONCURRENCY_LEARNING if learns else CONCURRENCY)


def width_of(experiment: Experiment, asker: Asker) -> int:
    """Rows of the packs of a reproducible search; place p has row p % width of pack p // width."""
    lanes = experiment.resources.lanes
    return lanes if lanes != "auto" else min(places_of(experiment, asker), WIDTH)


@dataclass
class _Inbox:
    """What a worker has told of one trial and whose turn has not come."""

    epochs: deque[Epoch] = field(default_factory=deque)
    done: str | None = None  # why it ended by itself
    failure: Failure | None = None
    ended: bool = False
    copied: int = 0  # as Report has it


class Turns:
    """Moves a ledger in the logical order.

    fill: a trial for an empty place (place, round), None when there is none.
    finish, fail: a trial has ended, in this round. act: what the scheduler decided of a trial is to be carried out.
    drop: end the paused trials that the scheduler has ended meanwhile.
    """

    def __init__(
        self,
        ledger: Ledger,
        places: int,
        fill: Callable[[int, int], Trial | None],
        finish: Callable[[Trial, str, int], None],
        fail: Callable[[Trial, Failure, int], None],
        act: Callable[[Trial], None],
        drop: Callable[[], None],
    ) -> None:
        self._ledger, self._places = ledger, places
        self._fill, self._finish, self._fail, self._act, self._drop = fill, finish, fail, act, drop
        self._inboxes: dict[str, _Inbox] = {}
        self.trials: dict[int, Trial] = {
            trial.slot: trial for trial in ledger.trials.values() if not trial.over and trial.status != "paused"
        }
        self.round, self.visiting, self.place = self._next()

    def _next(self) -> tuple[int, bool, int]:
        """Whose turn it is, from the journal: the round, whether all places were filled in it, the place."""

        def at(place: int) -> tuple[int, bool, int]:
            trial = self.trials.get(place)
            if trial is None:
                return self._ledger.next_round.get(place, 0), False, place
            return trial.round + len(trial.values) - (trial.verdict is not None or trial.ran_out), True, place

        return min(at(place) for place in range(self._places))

    def take(self, report: Report, trial: Trial) -> None:
        """Keep what a worker told until it is the trial's turn."""
        inbox = self._inboxes.setdefault(trial.id, _Inbox())
        for epoch in report.epochs:
            if epoch.epoch == len(trial.values) + len(inbox.epochs):
                inbox.epochs.append(epoch)
            else:  # known already
                trial.here = max(trial.here, epoch.epoch + 1)
                if epoch.epoch < len(trial.values):
                    trial.history[epoch.epoch] = epoch
        trial.parameters = report.parameters or trial.parameters
        inbox.ended |= report.ended
        inbox.copied = max(inbox.copied, report.copied)
        inbox.failure = report.failure or inbox.failure
        if report.done:
            inbox.done = report.reason

    def trained(self, trial: Trial) -> int:
        """Epochs that the trial has done, those whose turn has not come among them."""
        inbox = self._inboxes.get(trial.id)
        return len(trial.values) + (len(inbox.epochs) if inbox is not None else 0)

    def advance(self) -> bool:
        """Go on as far as what is known leads. True when every place is empty and stays so.

        That is said after a whole round, so that what follows begins at the first place, killed or not.
        """
        while True:
            trial = self.trials.get(self.place)
            if self.visiting:
                if trial is not None and not self._visit(trial):
                    return False
            elif trial is None:
                if (trial := self._fill(self.place, self.round)) is None:
                    self._ledger.idle(self.place, self.round)
                else:
                    self.trials[self.place] = trial
            self.place += 1
            if self.place < self._places:
                continue
            self.place, self.visiting = 0, not self.visiting
            if not self.visiting:
                self.round += 1
            elif not self.trials:
                self.visiting, self.round = False, self.round + 1
                return True

    def _visit(self, trial: Trial) -> bool:
        """One epoch of a trial, and what follows from it. False: it has not come yet."""
        inbox = self._inboxes.setdefault(trial.id, _Inbox())
        if trial.verdict is None and not trial.ran_out:
            if inbox.epochs:
                epoch = inbox.epochs.popleft()
                # A training tells its end with its last epoch.
                self._ledger.result(trial, epoch, last=inbox.done is not None and not inbox.epochs)
                self._drop()
            elif inbox.failure is not None:  # it may come with the epochs before it, or later: it has a turn of its own
                self._leave(trial)
                self._fail(trial, inbox.failure, self.round)
                self._drop()
                return True
            else:
                return False
        if trial.verdict is not None:
            return self._carried_out(trial, inbox)
        if trial.ran_out:
            return self._ran_out(trial, inbox)
        return True

    def _ran_out(self, trial: Trial, inbox: _Inbox) -> bool:
        if inbox.failure is None and inbox.done is None:  # after a kill: its folder tells it once more
            return False
        self._leave(trial)
        if inbox.failure is not None:
            self._fail(trial, inbox.failure, self.round)
        else:
            self._finish(trial, inbox.done or "", self.round)
        self._drop()
        return True

    def _carried_out(self, trial: Trial, inbox: _Inbox) -> bool:
        assert trial.verdict is not None
        if inbox.failure is not None:
            self._leave(trial)
            self._fail(trial, inbox.failure, self.round)
            self._drop()
            return True
        if trial.verdict.kind == "copy" and inbox.copied == trial.decided_at:
            self._ledger.copied(trial)
            return True
        if not inbox.ended:
            self._act(trial)
            return False
        self._leave(trial)
        if trial.verdict.kind == "pause":
            self._ledger.paused(trial, self.round)
        else:
            self._finish(trial, "", self.round)
        self._drop()
        return True

    def _leave(self, trial: Trial) -> None:
        del self._inboxes[trial.id]
        del self.trials[self.place]
