"""Losses and gradient norms of an epoch, added up without a wait for the device at every step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Broken = tuple[int, str, float]  # step of the epoch, what it is, its value


class Tally:
    """Losses and gradient norms of an epoch: kept on the device, looked at seldom."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Tensor, float | Tensor, Tensor]] = []
        self._loss_sum = self._weight_sum = self._norm_sum = 0.0
        self._steps = 0

    def add(self, loss: Tensor, weight: float | Tensor, norm: Tensor) -> None:
        self._waiting.append((loss, weight, norm))

    def settle(self) -> Broken | None:
        """Add up what waits → the first value that is no number, if there is one."""
        if not self._waiting:
            return None
        losses, weights, norms = zip(*self._waiting, strict=True)
        numbers = torch.stack([*losses, *norms]).tolist()
        self._waiting.clear()
        return self.take(numbers[: len(losses)], weights, numbers[len(losses) :])

    def take(self, losses: Sequence[float], weights: Sequence[float | Tensor], norms: Sequence[float]) -> Broken | None:
        """Add up the steps of which the numbers are known → the first that is no number, if there is one."""
        for index, (loss, weight, norm) in enumerate(zip(losses, weights, norms, strict=True)):
            for name, value in (("training loss", loss), ("gradient", norm)):
                if not math.isfinite(value):
                    return self._steps + index, name, value
            self._loss_sum += loss * float(weight)
            self._weight_sum += float(weight)
            self._norm_sum += norm
        self._steps += len(losses)
        return None

    @property
    def loss(self) -> float:
        return self._loss_sum / self._weight_sum

    @property
    def norm(self) -> float:
        return self._norm_sum / self._steps
