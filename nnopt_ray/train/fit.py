"""One training in its folder: checkpoints, a line an epoch, resumed from wherever it was cut off."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from types import TracebackType

from nnopt_ray import rundir
from nnopt_ray.data.types import Dataset
from nnopt_ray.errors import NotANumber, RunFailed, RunFolderError, Superseded
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import Machine
from nnopt_ray.results import Epoch, Fit
from nnopt_ray.rundir import TrialDir
from nnopt_ray.train import checkpoints, state
from nnopt_ray.train.batches import Placed
from nnopt_ray.train.clock import Clock
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.sharding import Shard
from nnopt_ray.train.state import State
from nnopt_ray.train.validate import Metric


class TrialRun:
    """A training that can be run a few epochs at a time, and goes on from its folder after any interruption.

        with TrialRun(experiment, dataset, machine, metrics, trial) as run:
            run.epochs(until=5)
            fit = run.finish()

    Making it resumes from the newest whole checkpoint in `trial.checkpoints`; a damaged one is named
    through `on_note`. `trial.history` has one line an epoch, never more than were resumed or trained.
    From then on it alone may write there: one that was made before raises Superseded instead (`holder`).
    Raises UserError when the checkpoints are of another page.
    """

    def __init__(
        self,
        experiment: Experiment,
        dataset: Dataset,
        machine: Machine,
        metrics: Mapping[str, Metric],
        trial: TrialDir,
        *,
        on_note: Callable[[str], None] | None = None,
        placed: Placed | None = None,
        shard: Shard | None = None,
    ) -> None:
        self.trial = trial
        self.trainer = Trainer(experiment, dataset, machine, metrics, placed, shard)
        self._name = os.urandom(8).hex()
        rundir.write_text(trial.holder, self._name)
        keeping = experiment.train.checkpoint
        self._writer = checkpoints.Writer(trial, keeping.every, keeping.keep, self.refuse_superseded)
        self._writer.sweep()
        found = checkpoints.newest(trial, on_note or (lambda note: None))
        if found is not None:
            self.trainer.load_state(found)
        self._stopped = ""
        if self.trainer.history or trial.history.is_file():
            rundir.write_text(trial.history, "".join(_line(epoch) for epoch in self.trainer.history))

    def __enter__(self) -> TrialRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def epoch(self) -> int:
        """Epochs completed, resumed ones included."""
        return self.trainer.epoch

    @property
    def history(self) -> list[Epoch]:
        return self.trainer.history

    @property
    def done(self) -> bool:
        return self.trainer.done

    @property
    def reason(self) -> str:
        """Why training ended, or was stopped from outside; empty while it goes on."""
        return self._stopped or self.trainer.reason

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.trainer.model.parameters())

    def epochs(
        self,
        until: int | None = None,
        on_epoch: Callable[[Epoch], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[Epoch]:
        """Train until so many epochs are completed (None: to the end) → the epochs trained now.

        `should_stop` is asked after each epoch. Raises what Trainer.run_epoch raises, RunFailed when a
        checkpoint cannot be written, and NotANumber at the end when the objective was no number in any epoch.
        """
        trained = []
        while not self.trainer.done and (until is None or self.trainer.epoch < until):
            epoch = self.take(self.trainer.run_epoch())
            trained.append(epoch)
            if on_epoch is not None:
                on_epoch(epoch)
            if should_stop is not None and should_stop():
                self._stopped = "" if self.trainer.done else f"stopped after epoch {self.trainer.epoch - 1}"
                break
        return trained

    def take(self, epoch: Epoch) -> Epoch:
        """Write down an epoch that the trainer has done, here or as a lane of a pack.

        Raises RunFailed when a checkpoint cannot be written, NotANumber when the training is over and the
        objective was no number in any epoch.
        """
        self._record(epoch)
        if self._writer.due(epoch.seconds):
            self.checkpoint()
        if self.trainer.done:
            self._refuse_nan()
        return epoch

    def checkpoint(self) -> None:
        """Write the state now. Raises RunFailed when it cannot be written."""
        trainer = self.trainer
        best = {"epoch": trainer.best_epoch, "value": trainer.best_value, "metric": trainer.experiment.metric}
        self._writer.write(trainer.epoch - 1, trainer.state(), trainer.best_epoch, lambda: State(trainer.best(), best))

    def keep_decision(self, again: bool = True) -> None:
        """Write the state now, and keep it until two more decisions have come: another trial may copy it.

        again: also where it is kept already.
        """
        if again or not checkpoints.decision_file(self.trial, self.trainer.epoch - 1).is_file():
            self.checkpoint()
            self._writer.keep_decision(self.trainer.epoch - 1)

    def adopt(self, donor: TrialDir, epoch: int) -> None:
        """Take over another trial's weights and optimizer as they were at the end of `epoch`, and write that down.

        Epochs, history and best weights stay this trial's own; the learning rate starts from its page's.
        Where that state is gone, the newest one serves.
        """
        try:
            found = state.load(checkpoints.decision_file(donor, epoch))
        except RunFolderError:
            newest = checkpoints.newest(donor, lambda note: None)
            if newest is None:
                raise RunFailed(f"{donor.root} has no checkpoint to copy.") from None
            found = newest
        self.trainer.adopt(found)
        self.checkpoint()

    def refuse_superseded(self) -> None:
        """Raises Superseded when another process has taken this training up since: it was thought dead, as its machine
        was cut off or stood still, and has come back. What it would write is older than what is there."""
        try:
            name = self.trial.holder.read_text(encoding="utf-8")
        except OSError:
            name = ""  # the folder is gone, or another's
        if name != self._name:
            raise Superseded(f"{self.trial.root} is trained by another process now; this one writes no more.")

    def close(self, reason: str = "") -> None:
        """Write what was trained since the last checkpoint. In the middle of an epoch, that epoch is lost.

        `reason`: why training is ended from outside, for `reason`.
        """
        self._stopped = reason or self._stopped
        if self._writer.pending and self.trainer.at_boundary:
            self.checkpoint()

    def finish(self) -> Fit:
        """The last checkpoint, then the weights to end with → what came out.

        The model is in evaluation with these weights; the folder keeps the state as it was before, so that
        more epochs can follow. Raises NotANumber when the objective was no number in any epoch.
        """
        trainer = self.trainer
        if not trainer.history:
            raise RunFailed("no epoch was trained, so there is nothing to finish.")
        if self._writer.pending or not checkpoints.best_file(self.trial).is_file():
            self.checkpoint()
        self._refuse_nan()
        trainer.finalize()
        return Fit(
            history=tuple(trainer.history),
            best_epoch=trainer.best_epoch,
            value=trainer.best_value,
            metrics=dict(trainer.history[trainer.best_epoch].metrics),
            reason=self.reason,
            seconds=sum(epoch.seconds for epoch in trainer.history),
            parameters=self.parameters,
        )

    def _refuse_nan(self) -> None:
        if math.isnan(self.trainer.best_value):
            raise NotANumber(
                f"{self.trainer.experiment.metric} was not a number in any of {self.epoch} epochs: "
                "lower train.optimizer.lr, or optimize another metric."
            )

    def _record(self, epoch: Epoch) -> None:
        self.refuse_superseded()
        try:
            rundir.append(self.trial.history, _line(epoch))
        except OSError as error:
            raise RunFailed(f"cannot write {self.trial.history}: {error.strerror or error}.") from error


def fit(
    experiment: Experiment,
    dataset: Dataset,
    machine: Machine,
    metrics: Mapping[str, Metric],
    trial: TrialDir,
    on_epoch: Callable[[Epoch], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_note: Callable[[str], None] | None = None,
    placed: Placed | None = None,
    timed: bool = False,
) -> Fit:
    """Train to the end, or until `should_stop`, which is asked after each epoch; resumes what was cut off.

    `on_note` hears what public weights it started from, which layers are frozen, how often the rows of a class come
    where they are balanced, of damaged checkpoints, and of augmentation that came to nothing.
    timed: measure where the time of each epoch goes.
    Raises NotANumber, RunFailed (no room for a checkpoint), UserError (the checkpoints are of another page).
    """
    with TrialRun(experiment, dataset, machine, metrics, trial, on_note=on_note, placed=placed) as run:
        if timed:
            Clock(run.trainer)
        if on_note is not None and (frozen := run.trainer.decided.get("frozen")):
            on_note(f"Frozen: {frozen}.")
        if on_note is not None and (sampling := run.trainer.decided.get("sampling")):
            on_note(f"Sampling: {sampling}.")

        def done(epoch: Epoch) -> None:
            said = run.trainer.decided.get("weights")
            if said and on_note is not None and epoch.epoch == 0:
                on_note(f"{said}.")
            if on_note is not None and run.trainer.feed.augmenter.parts and run.trainer.reason == "fitted directly":
                on_note("data.augment has no part in it: this model is fitted directly, from the rows as they are.")
            if on_epoch is not None:
                on_epoch(epoch)

        if run.epoch and not run.done:
            rundir.append(trial.resumed, json.dumps({"epoch": run.epoch}) + "\n")
        run.epochs(on_epoch=done, should_stop=should_stop)
        return run.finish()


def _line(epoch: Epoch) -> str:
    return json.dumps(rundir.finite(epoch.line()), ensure_ascii=False, allow_nan=False) + "\n"
