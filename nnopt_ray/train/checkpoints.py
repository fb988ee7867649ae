"""The checkpoints of a trial: their names, which are kept, how often they are written.

`checkpoints/epoch-12.safetensors` is the state after epoch 12 (epochs count from 0);
`checkpoints/decision-12.safetensors` is that state where other trials may copy it, whatever happens to this one;
`checkpoints/best.safetensors` holds weights and buffers of the best epoch, named as in state_dict().
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from nnopt_ray import rundir
from nnopt_ray.errors import RunFolderError
from nnopt_ray.rundir import TrialDir
from nnopt_ray.train import state
from nnopt_ray.train.state import State

# Of the time of training, with `every: auto`.
SHARE_OF_TIME = 0.03


def file(trial: TrialDir, epoch: int) -> Path:
    return trial.checkpoints / f"epoch-{epoch}.safetensors"


def decision_file(trial: TrialDir, epoch: int) -> Path:
    return trial.checkpoints / f"decision-{epoch}.safetensors"


def best_file(trial: TrialDir) -> Path:
    return trial.checkpoints / "best.safetensors"


def kept(trial: TrialDir) -> dict[int, Path]:
    """epoch → its checkpoint, of those that are there."""
    if not trial.checkpoints.is_dir():
        return {}
    found = ((re.fullmatch(r"epoch-(\d+)\.safetensors", path.name), path) for path in trial.checkpoints.iterdir())
    return {int(match[1]): path for match, path in found if match}


def newest(trial: TrialDir, on_note: Callable[[str], None]) -> State | None:
    """The newest checkpoint that is whole, None when there is none. Each damaged one is named, and removed."""
    there = sorted(kept(trial).items(), reverse=True)
    for position, (_, path) in enumerate(there):
        try:
            return state.load(path)
        except RunFolderError as error:
            before = [epoch for epoch, _ in there[position + 1 :]]
            instead = f"the one after epoch {before[0]} is used instead" if before else "training starts again"
            on_note(f"{error} As it cannot be resumed from, {instead}.")
            path.unlink(missing_ok=True)
    return None


class Writer:
    """Writes the checkpoints of one trial when they are due."""

    def __init__(
        self, trial: TrialDir, every: int | Literal["auto"], keep: int, still: Callable[[], None] | None = None
    ) -> None:
        """still: raises where this process may write here no more; asked before each file takes its name."""
        self.trial, self.every, self.keep, self._still = trial, every, keep, still
        self.cost_s = 0.005  # of the last write; before the first one, what a small network's takes
        self._trained_s = 0.0  # since the last write
        self._epochs = 0
        self._best_epoch: int | None = None  # of best.safetensors, None when not known

    def sweep(self) -> None:
        """Remove what a killed writer left half done: our own `.NAME.part`, safetensors' `.tmpXXXXXX`."""
        if self.trial.checkpoints.is_dir():
            for pattern in (".*.part", ".tmp*"):
                for path in self.trial.checkpoints.glob(pattern):
                    path.unlink(missing_ok=True)

    def due(self, epoch_s: float) -> bool:
        """Whether to write now, after one more epoch of that many seconds."""
        self._trained_s += epoch_s
        self._epochs += 1
        if self.every == "auto":
            return self.cost_s <= SHARE_OF_TIME * self._trained_s
        return self._epochs >= self.every

    @property
    def pending(self) -> bool:
        """Whether epochs were trained since the last write."""
        return self._epochs > 0

    def write(self, epoch: int, taken: State, best_epoch: int, best: Callable[[], State]) -> None:
        """The best weights if they are newer than those written, then the state after an epoch, then tidy up.

        In this order: a training that goes on from a state need not ask whether its best weights came after it.
        """
        started = time.perf_counter()
        if best_epoch != self._best_epoch:
            state.save(best(), best_file(self.trial), self._still)
            self._best_epoch = best_epoch
        state.save(taken, file(self.trial, epoch), self._still)
        there = kept(self.trial)
        for old in sorted(there)[: -self.keep]:
            if old != best_epoch:
                there[old].unlink(missing_ok=True)
        self.cost_s = time.perf_counter() - started
        self._trained_s, self._epochs = 0.0, 0

    def keep_decision(self, epoch: int) -> None:
        """Keep the checkpoint after an epoch under a name of its own, and of those kept so the last two.

        Raises RunFailed when it cannot be kept.
        """

        def fill(path: Path) -> None:
            _same(file(self.trial, epoch), path)
            if self._still is not None:
                self._still()

        rundir.write(decision_file(self.trial, epoch), fill)
        earlier = re.compile(r"decision-(\d+)\.safetensors")
        there = {int(m[1]): path for path in self.trial.checkpoints.iterdir() if (m := earlier.fullmatch(path.name))}
        for old in sorted(there)[:-2]:
            there[old].unlink(missing_ok=True)


def _same(source: Path, target: Path) -> None:
    """A second name for a file, which is never written to; a copy where the file system has no second names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
