"""What is watched at the end of every epoch: the objective's best, a plateau, early stopping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from nnopt_ray import tables
from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Experiment
from nnopt_ray.train.callbacks import EarlyStopping, Mode, ReduceLROnPlateau
from nnopt_ray.train.schedules import Schedule

Direction = Literal["min", "max"]


class Watch:
    """The decisions of one training.

    modes: name of each validation metric → its direction; beside them train_loss and val_loss are recorded.

    Attributes:
        best_epoch, best_value: where the objective was best; -1 and NaN before the first epoch. Of equal
            values the first counts; NaN is worse than any number.
        plateau, stopper: the page's, None without.

    Raises UserError when the objective or a monitor is not recorded.
    """

    def __init__(self, experiment: Experiment, schedule: Schedule, modes: Mapping[str, Direction]) -> None:
        self._experiment = experiment
        self._modes: dict[str, Direction] = {"train_loss": "min", "val_loss": "min"}
        self._modes |= {f"val_{name}": mode for name, mode in modes.items()}
        self._direction("objective", "auto", "the objective")
        self.best_epoch = -1
        self.best_value = math.nan
        self.plateau: ReduceLROnPlateau | None = None
        if schedule.monitor is not None:
            mode = self._direction(schedule.monitor, schedule.mode, "train.schedule.monitor")
            self.plateau = schedule.plateau(self._metric(schedule.monitor), mode)
        self.stopper: EarlyStopping | None = None
        early = experiment.train.early_stopping
        if early is not None:
            self.stopper = EarlyStopping(
                self._metric(early.monitor),
                patience=early.patience,
                min_delta=early.min_delta,
                mode=self._direction(early.monitor, early.mode, "train.early_stopping.monitor"),
                baseline=early.baseline,
                start_from_epoch=early.start_from_epoch,
                restore_best_weights=early.restore_best_weights,
                verbose=early.verbose,
            )

    def _metric(self, monitor: str) -> str:
        return self._experiment.metric if monitor == "objective" else monitor

    def _direction(self, monitor: str, mode: Mode, place: str) -> Direction:
        metric = self._metric(monitor)
        if metric not in self._modes:
            known = tables.suggestion(metric, list(self._modes))
            raise UserError(f"{place} is '{metric}', which is not recorded.{known}")
        if mode != "auto":
            return mode
        return self._experiment.mode if monitor == "objective" else self._modes[metric]

    @property
    def keep_epoch(self) -> int | None:
        """The epoch whose weights training ends with; None: the last one's."""
        return self.stopper.keep_epoch if self.stopper is not None else None

    def end_of_epoch(self, epoch: int, metrics: Mapping[str, float], lr: float) -> tuple[float, str, list[str]]:
        """→ base learning rate from now on, why to stop (empty: go on), and what happened, in words."""
        events, reason = [], ""
        value = metrics[self._experiment.metric]
        if self._better(value):
            self.best_epoch, self.best_value = epoch, value
        if self.plateau is not None:
            lowered = self.plateau.update(epoch, metrics[self.plateau.monitor], lr)
            if lowered != lr:
                events.append(f"learning rate {lr:g} → {lowered:g}")
                lr = lowered
        if self.stopper is not None:
            decision = self.stopper.update(epoch, metrics[self.stopper.monitor])
            if decision.stop:
                reason = f"early stop after epoch {epoch}"
                events.append("early stop")
            if decision.message:
                events.append(decision.message)
        return lr, reason, events

    def _better(self, value: float) -> bool:
        if self.best_epoch < 0 or math.isnan(self.best_value):
            return self.best_epoch < 0 or not math.isnan(value)
        return value < self.best_value if self._experiment.mode == "min" else value > self.best_value

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_epoch": self.best_epoch,
            "best_value": self.best_value,
            "stopper": self.stopper.state_dict() if self.stopper is not None else None,
            "plateau": self.plateau.state_dict() if self.plateau is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best_epoch, self.best_value = state["best_epoch"], state["best_value"]
        if self.stopper is not None and state["stopper"] is not None:
            self.stopper.load_state_dict(state["stopper"])
        if self.plateau is not None and state["plateau"] is not None:
            self.plateau.load_state_dict(state["plateau"])
