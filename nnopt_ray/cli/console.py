"""What a run prints: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nnopt_ray import log
from nnopt_ray.experiment import Experiment
from nnopt_ray.log import number, said
from nnopt_ray.pipeline import Watch
from nnopt_ray.results import Epoch, Progress, TrialRow

WIDTH_LIMIT = 160  # plain lines in a log are not cut at a terminal's 80 columns
PROGRESS_EVERY_S = 30.0  # between two lines that tell how far a search is, where no table can stand
LINES_PER_S = 2.0  # trials that are shown one by one; beyond it only those that say something new
BURST = 20  # so many lines may come at once


class Readable:
    """Lets lines through as fast as they can be read: `burst` at once, `per_s` a second over time."""

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float]) -> None:
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._left, self._asked = float(burst), clock()

    def one(self) -> bool:
        """Whether one more line may be shown now."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._asked) * self._per_s)
        self._asked = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Screen(Watch):
    """Prints a run. `out` is standard error when standard output is kept for JSON.

    A search of thousands of short trials would flood a terminal: where trials end faster than lines can be
    read, only a new best is always shown. The run folder's log has them all.
    """

    def __init__(
        self, experiment: Experiment, to_stderr: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        stream = sys.stderr if to_stderr else sys.stdout
        self._live_here = stream.isatty()
        self._console = Console(file=stream, highlight=False)
        self._metric = experiment.metric
        self._search = experiment.is_search
        self._epochs_planned = experiment.train.epochs
        self._live: Live | None = None
        self._state = Progress(total=0)
        self._clock = clock
        self._told = clock()  # when the last line of progress was printed
        # Failures have room of their own: a crowd of good trials does not hide the first of them.
        self._room = {failed: Readable(LINES_PER_S, BURST, clock) for failed in (False, True)}
        self._left_out = 0

    def note(self, sentence: str) -> None:
        # A log's lines are left whole; a terminal wraps them as it likes.
        self._console.print(Text(sentence), soft_wrap=True)

    def begin(self, total: int, workers: int, over: Mapping[str, int]) -> None:
        self._state = Progress(
            total=total,
            workers=workers,
            finished=over.get("finished", 0),
            stopped=over.get("stopped", 0),
            failed=over.get("failed", 0),
        )
        self._told = self._clock()
        if self._search:
            self.note(log.begin_line(total, workers))
            if self._live_here:
                # The table is made when it is drawn, not each time the search moves on.
                self._live = Live(
                    get_renderable=self._table, console=self._console, refresh_per_second=4, transient=True
                )
                self._live.start()
        else:
            self.note(f"at most {self._epochs_planned} epochs, counted from 0")

    def epoch(self, epoch: Epoch) -> None:
        self.note(log.epoch_line(epoch, self._epochs_planned))

    def progress(self, state: Progress) -> None:
        self._state = state if state.best is not None else replace(state, best=self._state.best)
        if not self._live_here and self._clock() - self._told >= PROGRESS_EVERY_S:
            self._told = self._clock()
            self.note("; ".join(f"{name} {text}" for name, text in _standing(self._state, self._metric)))

    def trial(self, row: TrialRow, best: TrialRow | None) -> None:
        self._state = replace(self._state, best=best)
        first = log.is_best(row, best)
        if self._room[row.status == "failed"].one() or first:
            self.note(log.trial_line(row, self._metric, first))
            return
        if not self._left_out:
            self.note(
                "Trials end faster than lines can be read: some are left out from here on. All are in the run "
                "folder's log.txt."
            )
        self._left_out += 1

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._left_out:
            self.note(f"{log.plural(self._left_out, 'trial')} not shown here; log.txt has a line for each.")
            self._left_out = 0

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        for name, text in _standing(self._state, self._metric):
            table.add_row(name, text)
        return table


def _standing(state: Progress, metric: str) -> list[tuple[str, str]]:
    """(name, text) of each line of the table that tells how far a search is."""
    over = state.finished + state.stopped + state.failed
    paused = f"{state.paused} paused, " if state.paused else ""
    trials = (
        f"{over} of {state.total} done, {state.running} running, {paused}"
        f"{state.stopped} stopped early, {state.failed} failed"
    )
    speed = [log.plural(state.workers, "worker")]
    if state.lanes:
        speed.append(f"{state.lanes_filled} of {log.plural(state.lanes, 'lane')} filled")
    if state.epochs_per_s:
        speed.append(f"{_rate(state.epochs_per_s)} epochs/s")
    if state.left_s is not None:
        speed.append(f"about {duration(state.left_s)} left")
    lines = [("trials", trials), ("speed", ", ".join(speed))]
    if state.best is not None:
        best = f"{metric} {number(state.best.value)} in trial {state.best.trial}"
        lines.append(("best", f"{best}: {said(state.best.params)}" if state.best.params else best))
    return lines


def _rate(per_s: float) -> str:
    return f"{per_s:.3g}" if per_s < 1000 else f"{per_s:,.0f}"


def duration(seconds: float) -> str:
    """45 s, 12 min, 3 h 20 min, 2 d 4 h: as exact as an estimate deserves."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 36:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"


@contextmanager
def stoppable() -> Iterator[Any]:
    """Ctrl-C (and SIGTERM) once: `stopped()` becomes true and the run ends cleanly. Twice: at once.

    Both ways the run can be resumed.
    """
    asked = 0

    def on_signal(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
        signal.alarm(0)  # Ray's own handler, in front of this one, would abort the process 3 s after a SIGTERM
        asked += 1
        if asked > 1:
            raise KeyboardInterrupt
        print("\nStopping after the epoch under way; what was done is kept. Again to stop at once.", file=sys.stderr)

    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked > 0
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def carried_out(experiment: Experiment, json_: bool, go: Callable[[Any, Any], Any]) -> tuple[Any, Screen]:
    """What `go(screen, stopped)` gives, shown as it goes on and stopped by Ctrl-C; and the screen for what follows."""
    # Libraries warn about their own future; a user of the program can act on none of it.
    warnings.simplefilter("ignore")
    screen = Screen(experiment, to_stderr=json_)
    with stoppable() as stopped:
        try:
            return go(screen, stopped), screen
        finally:
            screen.close()
