"""Early stopping and learning-rate reduction on a plateau: two state machines with Keras 3's decisions.

They need nothing but numbers: call `update` once at the end of every epoch. Epochs count from 0.
What is surprising in Keras' meaning, and is kept because decisions are to be the same:

- Values are compared in float32 (Keras' `floatx`): a change below float32's resolution is a tie, and a
  tie is no improvement. `min_delta` is taken without its sign.
- The first watched value is always an improvement, even NaN; after a first NaN nothing ever improves,
  because no comparison with NaN holds. A later NaN is just no improvement.
- `baseline` does not judge what is best. It only keeps the count of waiting epochs from starting anew
  while the best value has not passed it; an improving epoch never stops training by itself.
- Early stopping with patience 0 and with patience 1 decide alike: stop at the first epoch that does
  not improve. Training is never stopped in epoch 0.
- The weights of the best epoch are restored whenever training ends, stopped early or not.
- A plateau in cooldown counts no waiting epochs; a reduction that `min_lr` forbids leaves the count
  standing, so that it is tried again in the next epoch that does not improve.

Source: keras.callbacks.EarlyStopping, ReduceLROnPlateau and MonitorCallback of Keras 3.15.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Literal

Mode = Literal["auto", "min", "max"]
Direction = Literal["min", "max"]

# Last words of metric names. Keras reads "loss" by its name and asks the metric object for the rest;
# these endings give the directions of Keras' own metrics.
SMALLER_IS_BETTER = ("loss", "error", "mae", "mse", "rmse", "perplexity")
LARGER_IS_BETTER = ("accuracy", "precision", "recall", "f1", "auc", "r2")


def direction(monitor: str) -> Direction:
    """The direction that a metric's name tells: val_log_loss → min, val_balanced_accuracy → max.

    Raises ValueError when the name tells none; pass mode="min" or mode="max" then.
    """
    name = f"_{monitor}"
    if any(name.endswith(f"_{ending}") for ending in SMALLER_IS_BETTER):
        return "min"
    if any(name.endswith(f"_{ending}") for ending in LARGER_IS_BETTER):
        return "max"
    raise ValueError(
        f"whether '{monitor}' is to be minimized or maximized cannot be told from its name: set mode to 'min' or 'max'."
    )


def _float32(value: float) -> float:
    return ctypes.c_float(value).value


class _Monitor:
    """What both watch: a named value, its direction, and what counts as an improvement."""

    def __init__(self, monitor: str, mode: Mode, min_delta: float, patience: int) -> None:
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode must be 'auto', 'min' or 'max', not {mode!r}.")
        if patience < 0:
            raise ValueError(f"patience must be 0 or more epochs, not {patience}.")
        self.monitor = monitor
        self.mode: Direction = direction(monitor) if mode == "auto" else mode
        self.min_delta = abs(min_delta)
        self.patience = patience
        self.best: float | None = None
        self.wait = 0

    def improves(self, value: float, reference: float | None) -> bool:
        """Whether `value` is better than `reference` by more than `min_delta`; None is beaten by all."""
        if reference is None:
            return True
        if self.mode == "min":
            return _float32(value + self.min_delta) < _float32(reference)
        return _float32(value - self.min_delta) > _float32(reference)


@dataclass(frozen=True)
class Decision:
    """What early stopping says at the end of an epoch; `message` is empty unless verbose."""

    stop: bool
    improved: bool
    message: str = ""


class EarlyStopping(_Monitor):
    """Stop when the monitored value has not improved for `patience` epochs.

    Args:
        monitor: name of the value; only read for mode "auto" and for messages.
        patience: epochs without improvement before training stops.
        min_delta: smallest change that counts as improvement.
        mode: "min", "max", or "auto": told by the name, see `direction`.
        baseline: value to beat; while the best has not passed it, epochs count as waiting.
        start_from_epoch: epochs before this one are not watched.
        restore_best_weights: training should end with the weights of `best_epoch`; see `keep_epoch`.
        verbose: fill `Decision.message`.

    Attributes:
        best: best value so far, None before the first watched epoch.
        best_epoch: its epoch, 0 before the first watched epoch (as in Keras).
        stopped_epoch: epoch of the last decision to stop, 0 before any.

    Raises ValueError for a mode that cannot be told, or a negative patience.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 0,
        min_delta: float = 0.0,
        mode: Mode = "auto",
        baseline: float | None = None,
        start_from_epoch: int = 0,
        restore_best_weights: bool = False,
        verbose: bool = False,
    ) -> None:
        super().__init__(monitor, mode, min_delta, patience)
        self.baseline = baseline
        self.start_from_epoch = start_from_epoch
        self.restore_best_weights = restore_best_weights
        self.verbose = verbose
        self.best_epoch = 0
        self.stopped_epoch = 0

    @property
    def keep_epoch(self) -> int | None:
        """The epoch whose weights training should end with; None: those of the last epoch."""
        return self.best_epoch if self.restore_best_weights and self.best is not None else None

    def update(self, epoch: int, value: float | None) -> Decision:
        """Take the value of a finished epoch; None (not measured in this epoch) changes nothing."""
        if value is None or epoch < self.start_from_epoch:
            return Decision(stop=False, improved=False)
        self.wait += 1
        if self.improves(value, self.best):
            before, self.best, self.best_epoch = self.best, value, epoch
            if self.baseline is None or self.improves(value, self.baseline):
                self.wait = 0
            return Decision(False, True, self._say(f"{self.monitor} {_shown(before)} → {value:g}"))
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            return Decision(True, False, self._say(f"early stop: best {self.monitor} was in epoch {self.best_epoch}"))
        return Decision(False, False, self._say(f"{self.monitor} no better for {self.wait} of {self.patience} epochs"))

    def _say(self, message: str) -> str:
        return message if self.verbose else ""

    def state_dict(self) -> dict[str, Any]:
        """What changes while it watches, as plain numbers; `best` may be NaN or infinite."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "wait": self.wait,
            "stopped_epoch": self.stopped_epoch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`. Raises KeyError when one of its entries is missing."""
        self.best = state["best"]
        self.best_epoch = state["best_epoch"]
        self.wait = state["wait"]
        self.stopped_epoch = state["stopped_epoch"]


class ReduceLROnPlateau(_Monitor):
    """Multiply the learning rate by `factor` when the monitored value has not improved for `patience` epochs.

    Args:
        monitor: name of the value; only read for mode "auto".
        factor: below 1.
        patience: epochs without improvement before the rate is reduced.
        min_delta: smallest change that counts as improvement.
        cooldown: epochs after a reduction in which no waiting epochs are counted.
        min_lr: the rate is never reduced below this.
        mode: "min", "max", or "auto": told by the name, see `direction`.

    Raises ValueError for a factor of 1 or more, a mode that cannot be told, or a negative patience.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
        mode: Mode = "auto",
    ) -> None:
        super().__init__(monitor, mode, min_delta, patience)
        if factor >= 1.0:
            raise ValueError(f"factor must be below 1, as the rate is to be reduced, not {factor}.")
        self.factor = factor
        self.cooldown = cooldown
        self.min_lr = min_lr
        self.cooldown_counter = 0

    def update(self, epoch: int, value: float | None, lr: float) -> float:
        """The learning rate after a finished epoch: `lr` itself, or reduced.

        `epoch` is not looked at; it is there so that both state machines are called alike. A value of
        None (not measured in this epoch) changes nothing.
        """
        if value is None:
            return lr
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.wait = 0
        if self.improves(value, self.best):
            self.best = value
            self.wait = 0
        elif self.cooldown_counter == 0:
            self.wait += 1
            # In float32, as Keras keeps the rate: one that stands at min_lr is not above it.
            if self.wait >= self.patience and _float32(lr) > _float32(self.min_lr):
                self.cooldown_counter = self.cooldown
                self.wait = 0
                return max(lr * self.factor, self.min_lr)
        return lr

    def state_dict(self) -> dict[str, Any]:
        """What changes while it watches, as plain numbers; `best` may be NaN or infinite."""
        return {"best": self.best, "wait": self.wait, "cooldown_counter": self.cooldown_counter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`. Raises KeyError when one of its entries is missing."""
        self.best = state["best"]
        self.wait = state["wait"]
        self.cooldown_counter = state["cooldown_counter"]


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
