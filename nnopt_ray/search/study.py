"""The study: a loop that asks the searcher, keeps processes busy with lanes, and writes the journal.

A process is started per worker, never per trial, and none at all where the driver is done sooner than Ray would
have started. The searcher suggests; the scheduler decides; the ledger remembers. Open `Study._drive` first.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

from nnopt_ray import tables
from nnopt_ray.errors import RunFailed
from nnopt_ray.experiment import Experiment
from nnopt_ray.results import TrialRow
from nnopt_ray.rundir import RunDir
from nnopt_ray.search import journal as journals
from nnopt_ray.search import shapes
from nnopt_ray.search.again import Again
from nnopt_ray.search.cluster import RaySession
from nnopt_ray.search.deaths import LOST_WORKER_TRIES, EarlyDeaths, death, guilty_of, told_of_death
from nnopt_ray.search.demand import demand_of, seconds_left
from nnopt_ray.search.display import Display
from nnopt_ray.search.folds import told
from nnopt_ray.search.hopeless import Hopeless
from nnopt_ray.search.ledger import Ledger, Trial, folds_of, page_digest
from nnopt_ray.search.logical import Turns, places_of, width_of
from nnopt_ray.search.messages import Answer, Copy, Demand, End, Failure, Order, Report
from nnopt_ray.search.over_folds import OverFolds
from nnopt_ray.search.seat import Seat
from nnopt_ray.search.seats import HandedOver, Seats
from nnopt_ray.search.space import most_epochs
from nnopt_ray.search.trial import written

if TYPE_CHECKING:
    from nnopt_ray.data.types import Dataset
    from nnopt_ray.pipeline import Watch

AHEAD = 4096  # trials that a searcher which learns nothing is asked for ahead, to find those of one shape


class Study:
    """One search over one run folder; fresh, or continued from its journal."""

    def __init__(self, experiment: Experiment, run: RunDir, watch: Watch) -> None:
        self.experiment, self.run_dir, self.watch = experiment, run, watch
        search = experiment.search
        self.asker = tables.build("method", search.method).start(experiment)
        judge = tables.build("scheduler", search.scheduler).start(
            experiment.mode, folds_of(experiment) or most_epochs(experiment), experiment.seed, experiment.space
        )
        self.journal = journals.Journal(run.journal)
        earlier = list(journals.read(run.journal))
        self.ledger = Ledger(experiment, self.asker, judge, self.journal, watch.note, partial(written, run))
        self.queue: deque[Trial] = deque()  # known trials that wait for a place
        self.turns: Turns | None = None
        self.asked_all = self.closing = False  # closing: nothing new is begun any more, stopped or out of time
        self.earlier_s = self.waited_s = 0.0  # processes before this one worked on the search; this one had no worker
        self.hopeless = Hopeless(self.ledger, run)
        self.early_deaths = EarlyDeaths()
        self.evicted: set[str] = set()  # trials that leave the only lane of a careful seat, to come back later
        self.decided: dict[str, str] = {}
        self.display = Display(experiment, run, self.ledger, watch)
        self.again = Again(experiment, self.ledger, watch, self.rows)
        self.over_folds = OverFolds(experiment, self.ledger) if experiment.over_folds else None
        self._holding: Callable[[Trial], Seat | None] = lambda trial: None
        with ExitStack() as unopened:
            unopened.callback(self.journal.close)
            self._open(earlier)
            unopened.pop_all()

    def _open(self, earlier: list[journals.Event]) -> None:
        digest = page_digest(self.experiment)
        if not earlier:
            self.journal.append(journals.first(digest))
        else:
            self._replay(earlier, digest)
        if self.experiment.search.reproducible:
            calls = (self._fill_place, self._finish, self._failed, self._carry_out, self._drop)
            self.turns = Turns(self.ledger, places_of(self.experiment, self.asker), *calls)

    def _replay(self, earlier: list[journals.Event], digest: str) -> None:
        self.ledger.replay(earlier, anew=journals.widened(earlier, digest, self.run_dir))
        self.earlier_s = journals.worked_s(earlier)
        self._drop()  # those whose end was decided, and not written down
        waiting = [trial for trial in self.ledger.trials.values() if not trial.over and trial.status != "paused"]
        self.queue.extend(waiting)
        done = sum(trial.over for trial in self.ledger.trials.values())
        self.journal.append({"event": "resumed", "finished": done, "going_on": len(waiting)})
        self.watch.note(f"Resuming: {done} trials are finished, {len(waiting)} under way go on.")

    def run(self, session: RaySession, should_stop: Callable[[], bool], dataset: Dataset) -> tuple[TrialRow, ...]:
        """Run to the end, or until `should_stop`. Returns a row per trial of the search asked so far."""
        limit = self.experiment.search.timeout_s
        deadline = None if limit is None else time.monotonic() + limit
        keeps = self.ledger.judge.keeps_decisions
        self.early_deaths.on_cluster = session.address is not None
        seats = Seats(self.experiment, self.run_dir, session, dataset, keeps, self.watch, self.journal.append)
        self._holding = seats.holding
        with ExitStack() as ending:
            ending.callback(self.journal.close)
            ending.callback(self.display.write, force=True)
            ending.callback(seats.close)
            if self.over_folds is not None:
                self.queue = deque(self.over_folds.begin(dataset.shapes.task))
            self._drive(seats, should_stop, deadline)
            self._train_again(seats, should_stop, dataset)
        self.decided, self.waited_s = self.decided | seats.told(), seats.waited_s
        return self.rows()

    def rows(self) -> tuple[TrialRow, ...]:
        return self.display.rows()

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────────

    def _drive(self, seats: Seats, should_stop: Callable[[], bool], deadline: float | None) -> None:
        if (left := self._left()) <= 0 and not self.queue and not self.ledger.counts["paused"]:
            return
        seats.begin(max(left, len(self.queue)), self._demand_of(left), self._begun)
        self._loop(seats, should_stop, deadline)

    def _loop(self, seats: Seats, should_stop: Callable[[], bool], deadline: float | None) -> None:
        """Fill the seats, take in what came, until nothing is left or the user stops it."""
        while True:
            if self.turns is not None:
                self.turns.advance()
            here_s = seconds_left(self.ledger, seats.worked_s, seats.epochs_trained)
            seats.hire(here_s, self.display.left_s, self._left())
            for seat in seats.ready():
                self._fill(seat)
            if not seats.busy() and not self._goes_on():
                break
            for seat, answer in seats.wait():
                self._came(seat, answer)
            if should_stop():
                self.closing = True
                self._rest(seats)
                break
            if deadline is not None and time.monotonic() > deadline:
                self.closing = True
            self.display.progress(seats)
        self.display.progress(seats, last=True)

    def _left(self) -> int:
        return int(self.asker.total) - sum(self.ledger.counts[over] for over in ("finished", "stopped", "failed"))

    def _begun(self, workers: int) -> None:
        over = {status: self.ledger.counts[status] for status in ("finished", "stopped", "failed")}
        self.watch.begin(total=self.asker.total, workers=workers, over=over)

    def _goes_on(self) -> bool:
        """Nothing is in work. True when there is more to come: a wait for a worker, or paused trials to settle."""
        if self.closing:
            return False
        if self.queue or (self.turns is None and not self.asked_all and not self.again.started):
            return True
        if self.again.started or not self.ledger.counts["paused"]:
            return False
        for trial in self.ledger.give_up():
            self._told(trial)
        if self.turns is not None:
            self.turns.advance()
        elif (promoted := self._promoted()) is not None:
            self.queue.append(promoted)
        return bool(self.queue)

    def _demand_of(self, left: int) -> Callable[[int], Demand]:
        found = demand_of(self.experiment, self.asker, left, in_turns=self.turns is not None)
        return self.over_folds.demand(found) if self.over_folds else found

    # ── work for a seat ──────────────────────────────────────────────────────────────────────────────

    def _fill(self, seat: Seat) -> None:
        """Give a seat trials for its free lanes, and tell it how far to go with those it has."""
        while seat.free > 0 and (trial := self._next(seat)) is not None:
            if not seat.measured and not seat.trials:
                seat.measure(trial.params)
            trial.here = 0
            self.ledger.started(trial, seat.number, len(trial.values))
            seat.put(trial, self._order(trial))
        self._evict(seat)
        for trial in seat.trials.values():
            if trial.id not in seat.ending:
                seat.orders.setdefault(trial.id, self._order(trial))

    def _evict(self, seat: Seat) -> None:
        """Where trials have one lane, one that has come to its decision waits for the turns of others elsewhere."""
        if self.turns is None or not seat.careful or seat.ending or not self.queue:
            return
        for trial in seat.trials.values():
            until = None if trial.confirms else self._order(trial).until
            if until is not None and self.turns.trained(trial) >= until and trial.verdict is None:
                self.evicted.add(trial.id)
                seat.end(trial, End(trial.id))
                return

    def _order(self, trial: Trial) -> Order:
        copy = None
        params = trial.params
        if trial.verdict is not None and trial.verdict.kind == "copy" and trial.here >= trial.decided_at:
            copy = Copy(trial.verdict.donor, trial.verdict.donor_epochs, trial.decided_at)
            params = dict(trial.verdict.params)
            until = self.ledger.judge.next_decision(trial.id, len(trial.values))
            return Order(trial.id, params, until, copy, place=trial.slot)
        copied = trial.verdict.params if trial.verdict is not None and trial.verdict.kind == "copy" else None
        return Order(trial.id, params, self.ledger.until(trial), None, copied, trial.slot)

    def _next(self, seat: Seat) -> Trial | None:
        """A trial for a free lane: one that waits, one that is promoted, or a new one."""
        if self.closing:
            return None
        if self.turns is not None or self.again.started:
            return self._pick(seat)
        in_flight = self.experiment.search.concurrency
        if in_flight is not None and self.ledger.counts["running"] >= in_flight:
            return self._pick(seat) if self.over_folds and self.queue else None  # folds of what is in flight
        return self._promoted() or self._pick(seat)

    def _pick(self, seat: Seat) -> Trial | None:
        """The first that has the shape of what is in work there, of those that wait and those to come; else the
        first that waits, or a new one."""
        if seat.lanes > 1 and seat.trials:
            here = {self._alike(trial) for trial in seat.trials.values()}
            for index, trial in enumerate(self.queue):
                if self._alike(trial) in here:
                    del self.queue[index]
                    return trial
            if (found := self._alike_to_come(here)) is not None:
                return found
        if self.queue:
            return self.queue.popleft()
        return None if self.turns is not None or self.again.started else self._ask()

    def _alike_to_come(self, here: set[str]) -> Trial | None:
        """The next new one of these shapes. Those asked before it wait from now on."""
        if self.turns is not None or self.again.started or self.asker.adaptive or self.asked_all or self.over_folds:
            return None
        for index, coming in enumerate(self.ledger.ahead(AHEAD)):
            if self._alike(coming) in here:
                self.queue.extend(new for _ in range(index + 1) if (new := self._ask()) is not None)
                return self.queue.pop()
        return None

    def _alike(self, trial: Trial) -> str:
        if not trial.alike:
            trial.alike = shapes.alike(self.experiment, trial.params)
        if not self.experiment.search.reproducible:
            return trial.alike
        # Trials whose places are rows of one pack share its steps.
        return f"{trial.alike} {trial.slot // width_of(self.experiment, self.asker)}"

    def _ask(self, slot: int = 0, round_: int = 0) -> Trial | None:
        if self.asked_all or self.closing:
            return None
        trial = self.ledger.ask(slot, round_)
        self.asked_all = trial is None
        return self._spread(trial)

    def _spread(self, trial: Trial | None) -> Trial | None:
        """Of a search over folds: the first fold of a trial; the others wait."""
        if trial is not None and self.over_folds is not None:
            self.queue.extend(self.over_folds.begun(trial))
            return self.queue.popleft()
        return trial

    def _promoted(self, slot: int = 0, round_: int = 0) -> Trial | None:
        """A paused trial that goes on. One whose pause was not carried out yet goes on in its lane as if there
        had been none, and the next one is asked for."""
        while (trial := self.ledger.promote(slot, round_)) is not None:
            seat = self._holding(trial)
            if seat is not None:
                seat.keep(trial)
            elif trial not in self.queue:
                return self._spread(trial)
        return None

    def _fill_place(self, slot: int, round_: int) -> Trial | None:
        """Of a reproducible search: a trial for an empty place."""
        if self.closing:
            return None
        trial = self._promoted(slot, round_) or self._ask(slot, round_)
        if trial is not None:
            self.queue.append(trial)
        return trial

    def _came(self, seat: Seat, answer: Answer | Exception) -> None:
        if isinstance(answer, Answer):
            self._take(seat, answer)
        elif isinstance(answer, HandedOver):
            trials = [trial for trial in seat.vacate() if not trial.over]
            for trial in trials:
                self.ledger.laid_down(trial, seat.number, "handed over to a worker")
            self.queue.extendleft(reversed(trials))
        else:
            self._lost(seat, death(answer))

    # ── what came ────────────────────────────────────────────────────────────────────────────────────

    def _take(self, seat: Seat, answer: Answer) -> None:
        self.early_deaths.worked()
        for note in answer.notes:
            self.watch.note(note)
        for report in answer.reports:
            trial = self.ledger.find(report.trial)
            if report.ended or report.done or report.failure is not None:
                seat.leave(trial)
            if report.ended and trial.id in self.evicted:
                self.evicted.remove(trial.id)
                report.ended = False
                if report.failure is None:
                    self.ledger.laid_down(trial, seat.number, "makes room for others")
                    self.queue.append(trial)
            if self.turns is not None and not trial.confirms:
                self.turns.take(report, trial)
            else:
                self._arrived(seat, trial, report)

    def _arrived(self, seat: Seat, trial: Trial, report: Report) -> None:
        trial.parameters = report.parameters or trial.parameters
        if trial.over:  # the scheduler ended it while its pause was on the way
            if not report.ended and trial.id not in seat.ending and trial.id in seat.trials:
                seat.end(trial, End(trial.id))
            return
        if trial.verdict is not None and trial.verdict.kind == "copy" and report.copied == trial.decided_at:
            self.ledger.copied(trial)
        for epoch in report.epochs:
            self.ledger.result(trial, epoch)
        if report.failure is not None:
            self._failed(trial, report.failure)
        elif report.ended and trial.verdict is None:  # promoted while its pause was on the way
            self.ledger.laid_down(trial, seat.number, "goes on at once")
            self.queue.append(trial)
        elif report.ended and trial.verdict is not None and trial.verdict.kind == "pause":
            self.ledger.paused(trial)
        elif report.ended:
            self._finish(trial, "")
        elif report.done:
            self._finish(trial, report.reason)
        elif trial.verdict is not None and trial.here >= trial.decided_at:
            self._carry_out(trial, seat)
        self._drop()

    def _drop(self) -> None:
        for trial in self.ledger.drop():
            self._told(trial)
            if trial in self.queue:
                self.queue.remove(trial)

    def _carry_out(self, trial: Trial, seat: Seat | None = None) -> None:
        """Have a worker do what the scheduler decided; a trial that nobody holds is taken up for it first."""
        seat = seat or self._holding(trial)
        if seat is None or trial.verdict is None or trial.id in seat.ending or trial.here < trial.decided_at:
            return
        if trial.verdict.kind == "copy":
            seat.orders[trial.id] = self._order(trial)
        else:
            word = "stopped by the scheduler" if trial.verdict.kind == "stop" else ""
            seat.end(trial, End(trial.id, word))

    def _finish(self, trial: Trial, reason: str, round_: int = 0) -> None:
        if trial.verdict is not None and trial.verdict.kind == "stop":
            reason = f"stopped by the scheduler after {len(trial.values)} epochs"
            self.ledger.end(trial, "stopped", reason, round_=round_)
        else:
            self.ledger.end(trial, "finished", reason, round_=round_)
        self._told(trial)
        self._of_fold(trial)

    def _of_fold(self, fold: Trial, failure: Failure | None = None) -> None:
        """A fold is over: what that says of its trial, where trials are compared over folds."""
        if self.over_folds is None or not fold.confirms or self.again.started:
            return
        if (taken := self.over_folds.take(fold, failure)) is not None:
            self.queue = deque(each for each in (*taken.more, *self.queue) if each not in taken.gone)
            if taken.trial.over:
                self._told(taken.trial)
            self._drop()

    def _told(self, trial: Trial) -> None:
        if not trial.confirms:
            self.watch.trial(trial.row(), self.display.best())
        elif self.again.started:
            self.watch.note(told(trial.row(), self.experiment.epoch_metric))

    def _failed(self, trial: Trial, failure: Failure, round_: int = 0) -> None:
        if failure.kind == "storage":
            raise RunFailed(failure.message)
        self.ledger.end(trial, "failed", failure.message, failure.kind, round_)
        self._told(trial)
        self._of_fold(trial, failure)
        self.hopeless.failed(failure)

    def _lost(self, seat: Seat, why: str) -> None:
        """A worker died: a new one takes its seat, and its trials go on from their checkpoints."""
        had = seat.vacate()
        if not had:
            self.watch.note(self.early_deaths.died(why))
            return
        trials = [trial for trial in had if not trial.over]
        self.evicted.difference_update(trial.id for trial in had)
        guilty = guilty_of(had, self.run_dir)
        if len(had) == 1 and guilty:
            seat.careful = False
            failure = Failure("worker", f"its worker died {trials[0].deaths} times without an epoch between: {why}")
            if self.turns is not None and not trials[0].confirms:
                self.turns.take(Report(trials[0].id, failure=failure), trials[0])
            else:
                self._failed(trials[0], failure)
            return
        for trial in trials:
            self.ledger.laid_down(trial, seat.number, "its worker died")
        self.queue.extendleft(reversed(trials))
        seat.careful |= any(trial.deaths >= LOST_WORKER_TRIES - 1 for trial in trials)
        if trials:
            self.watch.note(told_of_death([trial.id for trial in trials], why))

    def _rest(self, seats: Seats) -> None:
        """The user stops the study: what is under way is written down for a later resume."""
        for seat, answer in seats.settle():
            if isinstance(answer, Answer):
                with suppress(RunFailed):
                    self._take(seat, answer)
        seats.pause()

    # ── the best again ───────────────────────────────────────────────────────────────────────────────

    def _train_again(self, seats: Seats, should_stop: Callable[[], bool], dataset: Dataset) -> None:
        """The best few over seeds, then the winner over folds, on the same workers."""
        if not self.closing and (trials := self.again.to_confirm()):
            self._also(seats, should_stop, trials, self._demand_of(len(trials)))
        if not should_stop() and self.over_folds is not None and (trials := self.again.to_train_whole()):
            self.closing = False
            self._also(seats, should_stop, trials, self.again.demand(1))
        if not should_stop() and (trials := self.again.to_fold(dataset)):
            self.closing = False  # they are trained also where the time of the search has run out
            seats.measure_again()
            self._also(seats, should_stop, trials, self.again.demand(len(trials)))

    def _also(
        self, seats: Seats, should_stop: Callable[[], bool], trials: list[Trial], demand: Callable[[int], Demand]
    ) -> None:
        self.again.started = True
        self.queue = deque(trials)
        self.turns = None  # each of these is to be done whatever the others give: their order is no matter
        seats.begin(len(trials), demand, lambda workers: None)
        self._loop(seats, should_stop, None)
