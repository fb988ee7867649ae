"""log.txt: a line for everything that a run said, with its time; and how those lines read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Any

from nnopt_ray.errors import NnoptError, RunFolderError
from nnopt_ray.pipeline import Watch
from nnopt_ray.results import Epoch, Progress, TrialRow
from nnopt_ray.rundir import RunDir


class Logged(Watch):
    """Writes what a run says to its log, and passes it on to the watch of the caller.

    The log only grows: a resumed run goes on in it. Each line reaches the operating system at once, so that
    a killed process loses none.
    """

    def __init__(self, watch: Watch, run: RunDir, metric: str, epochs_planned: int) -> None:
        self._watch, self._run = watch, run
        self._metric, self._epochs_planned = metric, epochs_planned
        self._file = -1

    def __enter__(self) -> Logged:
        """Raises RunFolderError when the log cannot be opened."""
        try:
            self._file = os.open(self._run.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunFolderError(f"{self._run.log} cannot be written: {error.strerror or error}.") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with suppress(OSError):  # how it ended is told to the caller too; the disk may be what is full
            self._write("done" if error is None else str(error) if isinstance(error, NnoptError) else repr(error))
        os.close(self._file)

    def _write(self, sentence: str) -> None:
        stamp = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
        text = sentence.replace("\n", f"\n{' ' * len(stamp)}  ").encode("utf-8", "backslashreplace")
        os.write(self._file, b"%b  %b\n" % (stamp.encode(), text))

    def note(self, sentence: str) -> None:
        self._write(sentence)
        self._watch.note(sentence)

    def begin(self, total: int, workers: int, over: Mapping[str, int]) -> None:
        done = sum(over.values())
        self._write(f"{begin_line(total, workers)}{f', {done} of them over already' if done else ''}")
        self._watch.begin(total, workers, over)

    def epoch(self, epoch: Epoch) -> None:
        self._write(epoch_line(epoch, self._epochs_planned))
        self._watch.epoch(epoch)

    def progress(self, state: Progress) -> None:
        self._watch.progress(state)

    def trial(self, row: TrialRow, best: TrialRow | None) -> None:
        self._write(trial_line(row, self._metric, is_best(row, best)))
        self._watch.trial(row, best)


# --- how things read ----------------------------------------------------------------------------


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


def plural(count: int, word: str) -> str:
    """1 trial, 2 trials."""
    return f"{count} {word}{'s' * (count != 1)}"


def is_best(row: TrialRow, best: TrialRow | None) -> bool:
    return best is not None and best.trial == row.trial


def begin_line(total: int, workers: int) -> str:
    return f"{plural(total, 'trial')} on {plural(workers, 'worker')}"


def epoch_line(epoch: Epoch, planned: int) -> str:
    """`planned`: how many epochs there will be at most; sets the width of the number."""
    shown = "  ".join(f"{name} {number(value)}" for name, value in epoch.metrics.items())
    events = f"  ({'; '.join(epoch.events)})" if epoch.events else ""
    return f"epoch {epoch.epoch:>{len(str(planned - 1))}}  {shown}  lr {number(epoch.lr)}{events}"


def trial_line(row: TrialRow, metric: str, best: bool) -> str:
    if row.status == "failed":
        return f"trial {row.trial}  failed after {plural(row.epochs, 'epoch')}: {row.reason}  {said(row.params)}"
    told = [
        f"trial {row.trial}",
        f"{metric} {number(row.metrics.get(metric) if row.value is None else row.value)}",
        f"{plural(row.epochs, 'epoch')}{' (stopped)' if row.status == 'stopped' else ''}",
        f"{row.seconds:.1f} s",
        said(row.params),
        "best so far" if best else "",
    ]
    return "  ".join(filter(None, told))
