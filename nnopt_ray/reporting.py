"""report.html while a run goes on, and of a run that ended before it was done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType

from nnopt_ray import rundir
from nnopt_ray.errors import Interrupted, NnoptError
from nnopt_ray.pipeline import Watch
from nnopt_ray.results import Epoch, Progress, TrialRow
from nnopt_ray.rundir import RunDir

EVERY_S = 30.0  # the report is rewritten this often at most while the run goes on
SHARE = 0.02  # ... and seldom enough to take no more than this share of the time


class Reported(Watch):
    """Rewrites the report now and then, in this process between two epochs or answers, and passes on all it is told.

    A report takes 0.1 s, of a search of 1,000 trials a second; what the last one took decides when the next is due.
    One that cannot be written is told once, and the run goes on without. A finished run writes its own at the end.
    """

    def __init__(self, watch: Watch, run: RunDir, clock: Callable[[], float] = time.monotonic) -> None:
        self._watch, self._run, self._clock = watch, run, clock
        self._due = clock() + EVERY_S
        self.written = 0

    def __enter__(self) -> Reported:
        self._run.ended.unlink(missing_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            return
        stopped = isinstance(error, (KeyboardInterrupt, Interrupted))
        reason = "" if stopped else str(error) if isinstance(error, NnoptError) else repr(error)
        with suppress(NnoptError):  # no room for it either
            told = {"status": "interrupted" if stopped else "failed", "reason": reason}
            rundir.write_json(self._run.ended, told)
            self._write()

    def _write(self) -> None:
        from nnopt_ray.report import write as report

        try:
            report.write(self._run, report.facts_from_folder(self._run))
            self.written += 1
        except Exception as error:
            self._due = float("inf")
            reason = str(error) if isinstance(error, NnoptError) else repr(error)
            self._watch.note(f"report.html cannot be kept fresh: {reason.rstrip('.')}. The run is not touched by it.")

    def _fresh(self) -> None:
        began = self._clock()
        if began < self._due:
            return
        self._write()
        ended = self._clock()
        self._due = max(self._due, ended + max(EVERY_S, (ended - began) / SHARE))

    def note(self, sentence: str) -> None:
        self._watch.note(sentence)

    def begin(self, total: int, workers: int, over: Mapping[str, int]) -> None:
        self._watch.begin(total, workers, over)

    def epoch(self, epoch: Epoch) -> None:
        self._watch.epoch(epoch)
        self._fresh()

    def progress(self, state: Progress) -> None:
        self._watch.progress(state)
        self._fresh()

    def trial(self, row: TrialRow, best: TrialRow | None) -> None:
        self._watch.trial(row, best)
