"""A warm worker: one Ray actor that trains one trial after another.

The process, torch and the prepared data are there once; a trial costs what its training costs. The
worker is told how far to go (`until`), so that the driver is asked only where a decision can fall.
"""

from __future__ import annotations

import shutil
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnopt_ray import tables
from nnopt_ray.errors import NnoptError, NotANumber, RunFailed
from nnopt_ray.experiment import plain
from nnopt_ray.results import Epoch
from nnopt_ray.rundir import RunDir, write_text

if TYPE_CHECKING:
    from nnopt_ray.data.types import Dataset
    from nnopt_ray.experiment import Experiment
    from nnopt_ray.train.fit import TrialRun

# A slice of work ends after this many seconds at the next epoch, so that the table on screen moves
# and Ctrl-C is answered; a round trip to the driver takes about a millisecond.
SLICE_S = 0.5


@dataclass(frozen=True)
class Failure:
    """Why a trial failed. `kind`: not-a-number, memory, storage, part (the user's or ours)."""

    kind: str
    message: str  # one sentence


@dataclass(frozen=True)
class Slice:
    """What came of one order: epochs done, and whether the trial is over."""

    trial: str
    epochs: tuple[Epoch, ...] = ()
    done: bool = False
    reason: str = ""
    failure: Failure | None = None
    resumed_at: int = 0  # epochs taken over from a checkpoint
    notes: tuple[str, ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)  # parameters, decided, ...


class Worker:
    """Trains the trials of one study. Made into an actor by `study`; plain Python otherwise."""

    def __init__(self, import_paths: list[str]) -> None:
        sys.path.extend(path for path in import_paths if path not in sys.path)
        # What takes seconds is imported while the driver still prepares the data.
        import nnopt_ray.data.prepare
        import nnopt_ray.pipeline
        import nnopt_ray.train.fit  # noqa: F401

        self._trial: TrialRun | None = None
        self._trial_id = ""

    def setup(self, tree: Mapping[str, Any], file: str | None, root: str) -> dict[str, str]:
        """Take the page and the data of a run folder; answers with what was decided here."""
        from nnopt_ray import machine, reading
        from nnopt_ray.data.prepare import open_dataset
        from nnopt_ray.train.batches import place

        self._run = RunDir(Path(root))
        self._experiment = reading.from_tree(tree, Path(file) if file else None)
        resources = self._experiment.resources
        self._machine = machine.choose(
            resources.cpus_per_worker, resources.gpus_per_worker, self._experiment.train.precision
        )
        self._dataset = open_dataset(self._run.data)
        self._placed = place(self._dataset, self._machine)
        return dict(self._machine.decided)

    def work(self, trial: str, params: Mapping[str, Any], until: int | None) -> Slice:
        """Train `trial` until it has done `until` epochs (None: to its end), at most about SLICE_S."""
        try:
            return self._work(trial, params, until)
        # The one door where anything may come: a trial's fault is a row of the study, not its end.
        except (Exception, SystemExit) as error:
            return Slice(trial, failure=self._failed(trial, error))

    def _failed(self, trial: str, error: BaseException) -> Failure:
        try:
            write_text(self._run.trial(trial).error, traceback.format_exc())
            self._abandon()
        except RunFailed as full:
            return Failure("storage", str(full))
        return _failure(error, tables.own_place(plain(self._experiment.tree), error))

    def _work(self, trial: str, params: Mapping[str, Any], until: int | None) -> Slice:
        notes: list[str] = []
        if self._trial_id != trial or self._trial is None:
            self._abandon()
            self._trial = self._begin(trial, params, notes)
            self._trial_id = trial
            resumed = tuple(self._trial.history)
        else:
            resumed = ()
        run = self._trial
        began = time.monotonic()
        epochs: list[Epoch] = list(resumed)
        while not run.done and (until is None or run.epoch < until):
            epochs.extend(run.epochs(until=run.epoch + 1))
            if time.monotonic() - began > SLICE_S:
                break
        done, reason, summary = run.done, run.reason, {}
        if done:
            summary = {"parameters": run.parameters}
            self._trial = None
            run.close()
        return Slice(trial, tuple(epochs), done, reason, None, len(resumed), tuple(notes), summary)

    def stop(self, trial: str, reason: str) -> None:
        """The scheduler ends a trial here: its state is written and its place is free."""
        if self._trial is not None and self._trial_id == trial:
            run, self._trial = self._trial, None
            run.close(reason)

    def pause(self) -> None:
        """Write the state of the trial in work, so that a resumed study goes on from here."""
        if self._trial is not None:
            run, self._trial = self._trial, None
            run.close()

    def _begin(self, trial: str, params: Mapping[str, Any], notes: list[str]) -> TrialRun:
        from nnopt_ray import reading
        from nnopt_ray.pipeline import metrics_for
        from nnopt_ray.train.fit import TrialRun

        experiment = reading.close(self._experiment, params)
        folder = self._run.trial(trial)
        page = reading.dump(experiment)
        if folder.page.is_file() and folder.page.read_text(encoding="utf-8") != page:
            # The journal lost its end, in a power cut, and another point bears this number now.
            notes.append(f"{folder.root} held another trial's training; this one starts anew.")
            shutil.rmtree(folder.root)
        if not folder.page.is_file():
            write_text(folder.page, page)
        dataset = self._data(experiment)
        return TrialRun(
            experiment,
            dataset,
            self._machine,
            metrics_for(experiment, dataset),
            folder,
            on_note=notes.append,
            placed=self._placed if dataset is self._dataset else None,
        )

    def _data(self, experiment: Experiment) -> Dataset:
        """The study's data; prepared anew (or taken from the cache) when the trial varies its preparation."""
        if experiment.data == self._experiment.data:
            return self._dataset
        from nnopt_ray.data.prepare import prepare

        return prepare(experiment)

    def _abandon(self) -> None:
        if self._trial is not None:
            run, self._trial = self._trial, None
            run.close()


def _failure(error: BaseException, own_place: str) -> Failure:
    """The cause, told apart: what is evidence about the point, what is not.

    `own_place`: where a part of the page's own stood, empty when there was none.
    """
    if isinstance(error, NotANumber):
        return Failure("not-a-number", str(error))
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Failure("memory", f"out of memory: {error}")
    if isinstance(error, RunFailed):
        return Failure("storage", str(error))
    if isinstance(error, NnoptError):
        return Failure("part", str(error))
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = own_place or f"{Path(where.filename).name}:{where.lineno}"
    return Failure("part", f"{type(error).__name__}: {error} ({place})")
