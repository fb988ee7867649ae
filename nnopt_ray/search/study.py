"""The study: a loop that asks the searcher, keeps warm workers busy, and writes the journal.

A process is started per worker, never per trial. Ray places the workers; the searcher suggests; the
scheduler decides; the journal remembers. Open `Study.run` first.
"""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nnopt_ray import rundir, tables
from nnopt_ray.errors import RunFailed, UserError
from nnopt_ray.experiment import Experiment, plain
from nnopt_ray.results import TrialRow
from nnopt_ray.rundir import RunDir
from nnopt_ray.search import journal as journals
from nnopt_ray.search.cluster import RaySession
from nnopt_ray.search.ledger import Ledger, Trial, page_digest
from nnopt_ray.search.worker import Failure, Slice
from nnopt_ray.trials import write_table

if TYPE_CHECKING:
    from nnopt_ray.pipeline import Watch

TABLE_EVERY_S = 5.0  # trials.parquet is rewritten this often while the search runs
LOST_WORKER_TRIES = 3  # a trial whose worker died this often is given up
SAME_FAULT = 3  # trials in a row that fail with the same sentence, and no success yet, stop the study


@dataclass
class Seat:
    """One worker and what it is doing."""

    number: int
    actor: Any = None
    preparing: bool = False
    trial: Trial | None = None
    stopping: bool = False


class Study:
    """One search over one run folder; fresh, or continued from its journal."""

    def __init__(self, experiment: Experiment, run: RunDir, watch: Watch) -> None:
        self.experiment, self.run_dir, self.watch = experiment, run, watch
        search = experiment.search
        self.asker = tables.build("method", search.method).start(experiment)
        judge = tables.build("scheduler", search.scheduler).start(
            experiment.mode, most_epochs(experiment), experiment.seed
        )
        self.journal = journals.Journal(run.journal)
        earlier = list(journals.read(run.journal))
        self.ledger = Ledger(experiment, self.asker, judge, self.journal, watch.note)
        self.queue: deque[Trial] = deque()
        self.asked_all = False
        self.closing = False  # nothing new is begun any more: stopped, or out of time
        self.earlier_s = 0.0  # worked on this search by processes before this one
        self.faults: list[str] = []
        self.deaths = 0  # of workers that had no trial yet
        self.decided: dict[str, str] = {}
        self._table_written = 0.0
        try:
            self._open(earlier)
        except UserError:
            self.journal.close()
            raise

    def _open(self, earlier: list[journals.Event]) -> None:
        digest = page_digest(self.experiment)
        if not earlier:
            versions = {k: v for k, v in _versions().items() if k in ("nnopt-ray", "ray", "optuna", "torch")}
            self.journal.append({"event": "study", "page": digest, "versions": versions})
            return
        if earlier[0].get("event") != "study" or earlier[0].get("page") != digest:
            raise UserError(
                f"{self.run_dir.journal} belongs to another page than {self.run_dir.resolved}. "
                "Put the page back as it was, or start a new run."
            )
        self.ledger.replay(earlier)
        self.earlier_s = journals.worked_s(earlier)
        self.queue.extend(trial for trial in self.ledger.trials.values() if not trial.over)
        done = sum(trial.over for trial in self.ledger.trials.values())
        self.journal.append({"event": "resumed", "finished": done, "going_on": len(self.queue)})
        self.watch.note(f"Resuming: {done} trials are finished, {len(self.queue)} were under way and go on.")

    def run(self, session: RaySession, should_stop: Callable[[], bool]) -> tuple[TrialRow, ...]:
        """Run to the end, or until `should_stop`. Returns a row per trial asked so far."""
        limit = self.experiment.search.timeout_s
        deadline = None if limit is None else time.monotonic() + limit
        try:
            self._drive(session, should_stop, deadline)
        finally:
            self._write_table(force=True)
            self.journal.close()
        return self.rows()

    def rows(self) -> tuple[TrialRow, ...]:
        return tuple(trial.row() for trial in self.ledger.trials.values())

    def _drive(self, session: RaySession, should_stop: Callable[[], bool], deadline: float | None) -> None:
        import ray

        left = self.asker.total - sum(trial.over for trial in self.ledger.trials.values())
        if left <= 0:
            return
        cluster = session.cluster()
        count = min(cluster.workers(self.experiment.resources), left)
        self.decided["workers"] = f"{count}, as many as {cluster.sentence()} hold"
        over = Counter(str(trial.status) for trial in self.ledger.trials.values() if trial.over)
        self.watch.begin(total=self.asker.total, workers=count, over=over)
        pending: dict[Any, Seat] = {}
        for number in range(count):
            self._hire(Seat(number), pending, session)
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=0.5)
            stopping = should_stop()
            if stopping or (deadline is not None and time.monotonic() > deadline):
                self.closing = True
            for future in ready:
                seat = pending.pop(future)
                try:
                    answer = told(future)
                except ray.exceptions.RayError as error:
                    self._lost(seat, death(error))
                    self._hire(seat, pending, session)
                    continue
                if seat.preparing:
                    seat.preparing, answer = False, None
                if stopping:
                    self._take(seat, answer)
                    self._rest(seat)
                elif self._take(seat, answer):
                    self._stop_trial(seat, pending)
                else:
                    self._next(seat, pending)
            self._progress()

    def _hire(self, seat: Seat, pending: dict[Any, Seat], session: RaySession) -> None:
        """Put a worker on the seat; it is given work when it has taken the page and the data."""
        seat.actor = session.actor()
        file = str(self.experiment.file) if self.experiment.file else None
        seat.preparing = True
        pending[seat.actor.setup.remote(plain(self.experiment.tree), file, str(self.run_dir.root))] = seat

    def _next(self, seat: Seat, pending: dict[Any, Seat]) -> None:
        """Give the seat work: its own trial while it is under way, else a waiting or a new one."""
        if seat.trial is None:
            seat.trial = self._waiting() or self._ask()
            if seat.trial is None:
                return
            self.ledger.started(seat.trial, seat.number, len(seat.trial.values))
        trial = seat.trial
        until = trial.stop_at or self.ledger.next_decision(trial)
        pending[seat.actor.work.remote(trial.id, trial.params, until)] = seat

    def _waiting(self) -> Trial | None:
        return self.queue.popleft() if self.queue and not self.closing else None

    def _ask(self) -> Trial | None:
        if self.asked_all or self.closing:
            return None
        trial = self.ledger.ask()
        self.asked_all = trial is None
        return trial

    def _take(self, seat: Seat, answer: Slice | None) -> bool:
        """Take in a worker's answer. True when the scheduler ends the seat's trial here."""
        trial = seat.trial
        if seat.stopping and trial is not None:
            seat.stopping = False
            self._over(seat, trial, "stopped", f"stopped by the scheduler after {len(trial.values)} epochs")
            return False
        if answer is None or trial is None:
            return False
        for note in answer.notes:
            self.watch.note(f"trial {trial.id}: {note}")
        for epoch in answer.epochs:
            if self.ledger.result(trial, epoch):
                return True
        if answer.failure is not None:
            self._failed(seat, trial, answer.failure)
        elif answer.done:
            self._over(seat, trial, "finished", answer.reason)
        return False

    def _stop_trial(self, seat: Seat, pending: dict[Any, Seat]) -> None:
        """The worker writes the trial's state first; only then the journal says that it is over."""
        assert seat.trial is not None
        seat.stopping = True
        pending[seat.actor.stop.remote(seat.trial.id, "stopped by the scheduler")] = seat

    def _over(self, seat: Seat, trial: Trial, status: Any, reason: str, lost: bool = False) -> None:
        self.ledger.end(trial, status, reason, lost)
        seat.trial = None
        self.watch.trial(trial.row(), self._best_row())

    def _failed(self, seat: Seat, trial: Trial, failure: Failure) -> None:
        if failure.kind == "storage":
            raise RunFailed(failure.message)
        self._over(seat, trial, "failed", failure.message, lost=failure.kind != "not-a-number")
        if failure.kind == "part":
            self._repeated(failure.message, f" The tracebacks are in {self.run_dir.trials}/*/error.txt.")

    def _repeated(self, fault: str, where: str = "") -> None:
        """Ends a study in which everything fails in one way: what is wrong is no matter of the searched values."""
        self.faults.append(fault)
        last = self.faults[-SAME_FAULT:]
        if len(last) == SAME_FAULT and len(set(last)) == 1 and self.ledger.best() is None:
            raise RunFailed(
                f"{SAME_FAULT} trials in a row failed in the same way, and none has finished: {fault}{where}"
            )

    def _lost(self, seat: Seat, why: str) -> None:
        """A worker died: a new one takes its seat, and its trial goes on from its checkpoint."""
        trial, seat.trial, seat.stopping = seat.trial, None, False
        if trial is None:
            self.deaths += 1
            if self.deaths >= LOST_WORKER_TRIES:
                raise RunFailed(f"workers die before they have taken up any trial ({why}). Nothing is lost.")
            return
        if trial.started >= LOST_WORKER_TRIES:
            seat.trial = trial
            reason = f"its worker died {trial.started} times: {why}"
            self._over(seat, trial, "failed", reason, lost=True)
            self._repeated(reason)
            return
        self.watch.note(f"The worker of trial {trial.id} died ({why}); the trial goes on from its checkpoint.")
        self.queue.appendleft(trial)

    def _rest(self, seat: Seat) -> None:
        """The user stops the study: the trial under way is written down for a later resume."""
        import ray

        if seat.trial is not None:
            with suppress(ray.exceptions.RayError):  # dead by now: what it has written so far is what goes on
                told(seat.actor.pause.remote())

    def _best_row(self) -> TrialRow | None:
        best = self.ledger.best()
        return None if best is None else best.row()

    def _progress(self) -> None:
        trials: Iterable[Trial] = self.ledger.trials.values()
        self.watch.progress(
            running=sum(trial.status == "running" for trial in trials),
            epochs=sum(len(trial.values) for trial in trials),
        )
        self._write_table()

    def _write_table(self, force: bool = False) -> None:
        if force or time.monotonic() - self._table_written > TABLE_EVERY_S:
            rundir.write(self.run_dir.trials_table, lambda path: write_table(path, self.rows()))
            self._table_written = time.monotonic()


def told(future: Any) -> Any:
    """What a worker answers. Raises what it raised; RayError when it is dead."""
    import ray

    try:
        return ray.get(future)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else RuntimeError(str(error))) from None


def death(error: Exception) -> str:
    """Why a worker is gone, in words; Ray's own account fills a screen."""
    if type(error).__name__ == "OutOfMemoryError":
        return "the machine ran low on memory, and Ray ended the process that took the most"
    if told := re.search(r"exit code (\d+)", str(error)):
        return f"its process ended with exit code {told[1]}"
    if "connection error" in str(error):
        return "its process was killed, perhaps for lack of memory, or crashed"
    return str(error).splitlines()[0].rstrip(".")


def most_epochs(experiment: Experiment) -> int:
    """The longest training that a trial of this page may have; epochs can be searched too."""
    listed = experiment.search.trials if isinstance(experiment.search.trials, tuple) else ()
    by_hand = [int(trial["train.epochs"]) for trial in listed if "train.epochs" in trial]
    opened = [
        int(max(range_.values[:2] if range_.kind == "step" else range_.values))
        for path, range_ in experiment.space
        if path == "train.epochs"
    ]
    return max([experiment.train.epochs, *by_hand, *opened])


def _versions() -> dict[str, str]:
    from nnopt_ray.machine import environment

    versions: dict[str, str] = environment()["packages"]
    return versions
