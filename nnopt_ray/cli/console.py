"""What a run prints: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nnopt_ray.experiment import Experiment
from nnopt_ray.pipeline import Watch
from nnopt_ray.results import Epoch, TrialRow

WIDTH_LIMIT = 160  # plain lines in a log are not cut at a terminal's 80 columns


def number(value: float | None) -> str:
    """Four significant digits, as people read scores."""
    return "-" if value is None else f"{value:.4g}"


def short_names(params: Mapping[str, Any]) -> dict[str, str]:
    """The shortest tail of each dotted path that is unique among them."""
    names = {}
    for path in params:
        words = path.split(".")
        for size in range(1, len(words) + 1):
            tail = ".".join(words[-size:])
            if words[-size].isdigit():  # a place in a list says nothing by itself
                continue
            if sum(other == tail or other.endswith(f".{tail}") for other in params) == 1:
                break
        names[path] = tail
    return names


def said(params: Mapping[str, Any]) -> str:
    """`lr=0.003 batch_size=64`."""
    names = short_names(params)
    return " ".join(f"{names[path]}={_value(value)}" for path, value in params.items())


def _value(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)


class Screen(Watch):
    """Prints a run. `out` is standard error when standard output is kept for JSON."""

    def __init__(self, experiment: Experiment, to_stderr: bool = False) -> None:
        stream = sys.stderr if to_stderr else sys.stdout
        self._live_here = stream.isatty()
        self._console = Console(file=stream, highlight=False)
        self._metric = experiment.metric
        self._search = experiment.is_search
        self._epochs_planned = experiment.train.epochs
        self._live: Live | None = None
        self._total = self._workers = self._running = self._epochs = 0
        self._done = {"finished": 0, "stopped": 0, "failed": 0}
        self._done_before = 0  # by an earlier process, of a search that is resumed
        self._best: TrialRow | None = None
        self._began = time.monotonic()
        self._first_epochs: int | None = None

    def note(self, sentence: str) -> None:
        # A log's lines are left whole; a terminal wraps them as it likes.
        self._console.print(Text(sentence), soft_wrap=True)

    def begin(self, total: int, workers: int, over: Mapping[str, int]) -> None:
        self._total, self._workers, self._began = total, workers, time.monotonic()
        self._done |= over
        self._done_before = sum(self._done.values())
        if self._search:
            self.note(f"{total} trials on {workers} worker{'s' * (workers != 1)}")
            if self._live_here:
                self._live = Live(self._table(), console=self._console, refresh_per_second=4, transient=True)
                self._live.start()
        else:
            self.note(f"at most {self._epochs_planned} epochs, counted from 0")

    def epoch(self, epoch: Epoch) -> None:
        shown = "  ".join(f"{name} {number(value)}" for name, value in epoch.metrics.items())
        events = f"  ({'; '.join(epoch.events)})" if epoch.events else ""
        width = len(str(self._epochs_planned - 1))
        self.note(f"epoch {epoch.epoch:>{width}}  {shown}  lr {number(epoch.lr)}{events}")

    def progress(self, running: int, epochs: int) -> None:
        if self._first_epochs is None:
            self._first_epochs = epochs
        self._running, self._epochs = running, epochs - self._first_epochs
        if self._live is not None:
            self._live.update(self._table())

    def trial(self, row: TrialRow, best: TrialRow | None) -> None:
        self._done[row.status] += 1
        is_best = best is not None and best.trial == row.trial
        self._best = best
        if row.status == "failed":
            self.note(f"trial {row.trial}  failed after {row.epochs} epochs: {row.reason}  {said(row.params)}")
            return
        mark = "  best so far" if is_best else ""
        self.note(
            f"trial {row.trial}  {self._metric} {number(row.value)}  {row.epochs} epochs"
            f"{' (stopped)' if row.status == 'stopped' else ''}  {row.seconds:.1f} s  {said(row.params)}{mark}"
        )

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self) -> Table:
        over = sum(self._done.values())
        seconds = time.monotonic() - self._began
        rate = self._epochs / seconds if seconds > 0 else 0.0
        here = over - self._done_before
        left = (self._total - over) * seconds / here if here else None
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_row("trials", f"{over} of {self._total} done  {self._running} running  "
                                f"{self._done['stopped']} stopped early  {self._done['failed']} failed")  # fmt: skip
        if self._best is not None:
            table.add_row(
                "best",
                f"{self._metric} {number(self._best.value)}  trial {self._best.trial}  {said(self._best.params)}",
            )
        table.add_row(
            "speed",
            f"{rate:.1f} epochs/s on {self._workers} workers" + ("" if left is None else f"  about {left:.0f} s left"),
        )
        return table


@contextmanager
def stoppable() -> Iterator[Any]:
    """Ctrl-C (and SIGTERM) once: `stopped()` becomes true and the run ends cleanly. Twice: at once.

    Both ways the run can be resumed.
    """
    asked = 0

    def on_signal(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
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
