"""By whom the epochs of a study were trained, and whether a worker is much slower than the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from statistics import median

from nnopt_ray.experiment import Experiment
from nnopt_ray.results import Epoch
from nnopt_ray.search.messages import Answer
from nnopt_ray.search.seat import Seat
from nnopt_ray.search.shapes import alike
from nnopt_ray.search.trial import Trial

# Two workers of one machine differ by less than 2, and a pause of the system makes one epoch slow, not most of five.
SLOW = 4.0  # times as long as the others
LATELY, ENOUGH = 5, 3  # epochs that are looked at, and that there must be
WORTH_S = 0.02  # below this the overhead of a call is most of an epoch


class Tally:
    """Epochs by trial, of this process and of its workers; and the pace of each worker."""

    def __init__(self, experiment: Experiment, note: Callable[[str], None]) -> None:
        self._experiment, self._note = experiment, note
        self._trained: dict[bool, dict[str, int]] = {True: {}, False: {}}  # here or by a worker → trial → epochs
        self._lately: dict[tuple[str, int], dict[int, deque[float]]] = {}  # shape and lanes → worker → seconds
        self._slow: set[int] = set()
        self._been: set[tuple[int, str]] = set()  # worker and trial of which it has told before

    def count(self, came: Iterable[tuple[Seat, Answer | Exception]]) -> None:
        for seat, answer in came:
            new: list[tuple[Trial, Epoch]] = []
            for report in answer.reports if isinstance(answer, Answer) else ():
                trial, trained = seat.trials.get(report.trial), self._trained[seat.crew is not None]
                known = len(trial.values) if trial is not None else 0  # a first report has those of before too
                epochs = [epoch for epoch in report.epochs if epoch.epoch >= known]
                trained[report.trial] = trained.get(report.trial, 0) + len(epochs)
                new += [(trial, epoch) for epoch in epochs if trial is not None]
            here = {(seat.number, trial.id) for trial, _ in new}
            if seat.crew is None and here <= self._been:  # a trial may have been begun elsewhere, and slowly
                self._time(seat, new)
            self._been |= here

    def begins(self, seat: Seat) -> None:
        """Another process has the seat now, perhaps on another machine."""
        self._been = {(at, trial) for at, trial in self._been if at != seat.number}
        for workers in self._lately.values():
            workers.pop(seat.number, None)

    def _time(self, seat: Seat, epochs: list[tuple[Trial, Epoch]]) -> None:
        """Compare the rounds of this worker with those of the others that had as many trials of the same shape."""
        # The seconds of a round are shared out evenly: trials whose epochs took the same were lanes of one step.
        rounds: dict[tuple[str, float], int] = {}
        for trial, epoch in epochs:
            shape = trial.alike or alike(self._experiment, trial.params)
            rounds[shape, epoch.seconds] = rounds.get((shape, epoch.seconds), 0) + 1
        for (shape, seconds), lanes in rounds.items():
            workers = self._lately.setdefault((shape, lanes), {})
            own = workers.setdefault(seat.number, deque(maxlen=LATELY))
            own.append(seconds * lanes)
            others = [median(each) for at, each in workers.items() if at != seat.number and len(each) >= ENOUGH]
            if len(own) < ENOUGH or not others or seat.number in self._slow:
                continue
            took_s, usual_s = median(own), median(others)
            if took_s > SLOW * max(usual_s, WORTH_S):
                self._slow.add(seat.number)
                where = f" on {seat.node}" if seat.node else ""
                self._note(
                    f"Worker {seat.number}{where} takes {took_s / usual_s:.0f} times as long for an epoch as the "
                    f"others ({took_s:.2g} s, they {usual_s:.2g} s): other programs may use its cores, or its machine "
                    "is weaker. The search goes on with it; workers that are free sooner take more of the trials."
                )

    def told(self) -> str:
        """What this process trained of what workers trained too; empty where it trained nothing."""
        here, there = (self._trained[which] for which in (True, False))
        if not here:
            return ""
        if not there:
            return "1: this process, as the search ended before Ray's workers were there"
        epochs, all_epochs = sum(here.values()), sum(here.values()) + sum(there.values())
        alone, trials = len(here.keys() - there.keys()), len(here.keys() | there.keys())
        return f"this process trained {epochs:,} of {all_epochs:,} epochs, and {alone} of {trials} trials to their end"
