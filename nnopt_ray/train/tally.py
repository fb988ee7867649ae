"""Losses and gradient norms of an epoch, added up without a wait for the device at every step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nnopt_ray.errors import NotANumber

Broken = tuple[int, str, float]  # step of the epoch, what it is, its value


class Tally:
    """Losses and gradient norms of an epoch: kept on the device, looked at seldom.

    every: batches that an optimizer step takes; each has a loss, the last of them a gradient norm too.
    """

    def __init__(self, every: int = 1) -> None:
        self._every = every
        self._waiting: list[tuple[Tensor, float | Tensor]] = []
        self._waiting_norms: list[Tensor] = []
        self._loss_sum = self._weight_sum = self._norm_sum = 0.0
        self._batches = self._steps = 0

    def add(self, loss: Tensor, weight: float | Tensor, norm: Tensor | None) -> None:
        self._waiting.append((loss, weight))
        if norm is not None:
            self._waiting_norms.append(norm)

    def settle(self) -> Broken | None:
        """Add up what waits → the first value that is no number, if there is one."""
        if not self._waiting:
            return None
        losses, weights = zip(*self._waiting, strict=True)
        told = [weight for weight in weights if isinstance(weight, Tensor)]
        counts = iter(torch.stack(told).tolist() if told else ())  # one wait, not one for each
        numbers = torch.stack([*losses, *self._waiting_norms]).tolist()
        self._waiting.clear()
        self._waiting_norms.clear()
        known = [next(counts) if isinstance(weight, Tensor) else weight for weight in weights]
        return self.take(numbers[: len(losses)], known, numbers[len(losses) :])

    def take(self, losses: Sequence[float], weights: Sequence[float | Tensor], norms: Sequence[float]) -> Broken | None:
        """Add up batches and steps of which the numbers are known → the first that is no number, if there is one."""
        broken: list[Broken] = []
        for index, (loss, weight) in enumerate(zip(losses, weights, strict=True)):
            if not math.isfinite(loss):
                broken.append(((self._batches + index) // self._every, "training loss", loss))
                break
            self._loss_sum += loss * float(weight)
            self._weight_sum += float(weight)
        for index, norm in enumerate(norms):
            if not math.isfinite(norm):
                broken.append((self._steps + index, "gradient", norm))
                break
            self._norm_sum += norm
        self._batches += len(losses)
        self._steps += len(norms)
        return min(broken, key=lambda each: each[0], default=None)  # of one step, the loss

    @property
    def loss(self) -> float:
        """NaN where no batch counts: float16 may skip all steps of a short epoch."""
        return self._loss_sum / self._weight_sum if self._weight_sum else math.nan

    @property
    def norm(self) -> float:
        return self._norm_sum / self._steps if self._steps else math.nan


def no_number(broken: Broken, epoch: int, lr: float, first: bool, clipped: bool) -> NotANumber:
    """The error for it. lr: of its step; first: it is the first step of all; clipped: by train.clip_norm."""
    step, what, value = broken
    cure = "Lower train.optimizer.lr" + ("." if clipped else ", or set train.clip_norm (1.0, say).")
    if first:
        cure = "It is the first step: look for values in the data that are not finite or very large. Or: " + cure
    return NotANumber(f"the {what} became {value:g} in epoch {epoch}, step {step} (learning rate {lr:g}). {cure}")
