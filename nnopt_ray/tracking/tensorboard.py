"""TensorBoard: a folder of event files a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnopt_ray.tracking.tracker import Course, Told, Tracker

SCALARS = (bool, int, float, str)


class TensorBoard(Tracker):
    """Event files for TensorBoard: `tensorboard --logdir FOLDER` shows runs and trials together, values under HPARAMS.

    Keys:
        folder: where the event files go, below it a folder a run; `tensorboard` in the run folder if left out.
    """

    needs = ("tensorboard", "tensorboard")

    def __init__(self, *, folder: str | None = None) -> None:
        self._folder = folder
        self._writers: dict[str, Any] = {}
        self._params: dict[str, Mapping[str, Any]] = {}

    def open(self, course: Course, known: str) -> str:
        below = Path(self._folder).expanduser() / course.name if self._folder else course.root / "tensorboard"
        self._root = Path(known) if known and self._folder else below
        return str(self._root)

    def begin(self, trial: str, params: Mapping[str, Any], known: str) -> str:
        self._params[trial] = params
        return trial

    def _writer(self, trial: str) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if trial not in self._writers:
            self._writers[trial] = SummaryWriter(str(self._root / trial))
        return self._writers[trial]

    def epochs(self, trial: str, epochs: Sequence[Mapping[str, float]]) -> None:
        writer = self._writer(trial)
        for epoch in epochs:
            for name, value in epoch.items():
                if name != "epoch":
                    writer.add_scalar(name, value, int(epoch["epoch"]))

    def end(self, trial: str, status: str, reason: str, metrics: Mapping[str, float]) -> None:
        from torch.utils.tensorboard.summary import hparams

        writer, params = self._writer(trial), self._params.get(trial, {})
        shown = {path: value if isinstance(value, SCALARS) else str(value) for path, value in params.items()}
        best = {f"best/{name}": value for name, value in metrics.items()}
        if shown:
            # SummaryWriter.add_hparams would open one more folder for each trial.
            for summary in hparams(shown, best):  # type: ignore[no-untyped-call]
                writer.file_writer.add_summary(summary)
            for name, value in best.items():
                writer.add_scalar(name, value)
        writer.add_text("status", f"{status}: {reason}")
        self._writers.pop(trial).close()

    def settle(self) -> None:
        for writer in self._writers.values():
            writer.flush()

    def close(self, told: Told) -> None:
        if told.scores:
            writer = self._writer("result")
            for name, value in told.scores.items():
                writer.add_scalar(f"result/{name}", value)
        for writer in self._writers.values():
            writer.close()
        self._writers = {}
