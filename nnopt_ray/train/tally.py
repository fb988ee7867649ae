"""Losses and gradient norms of an epoch, added up without a wait for the device at every step."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Tally:
    """Losses and gradient norms of an epoch: kept on the device, looked at seldom."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Tensor, float | Tensor, Tensor]] = []
        self._loss_sum = self._weight_sum = self._norm_sum = 0.0
        self._steps = 0

    def add(self, loss: Tensor, weight: float | Tensor, norm: Tensor) -> None:
        self._waiting.append((loss, weight, norm))

    def settle(self) -> tuple[int, str, float] | None:
        """Add up what waits → the first (step, name, value) that is no number, if there is one."""
        if not self._waiting:
            return None
        losses, weights, norms = zip(*self._waiting, strict=True)
        numbers = torch.stack([*losses, *norms]).tolist()
        for index, (loss, weight) in enumerate(zip(numbers, weights, strict=False)):
            norm = numbers[len(losses) + index]
            for name, value in (("training loss", loss), ("gradient", norm)):
                if not math.isfinite(value):
                    return self._steps + index, name, value
            self._loss_sum += loss * float(weight)
            self._weight_sum += float(weight)
            self._norm_sum += norm
        self._steps += len(losses)
        self._waiting.clear()
        return None

    @property
    def loss(self) -> float:
        return self._loss_sum / self._weight_sum

    @property
    def norm(self) -> float:
        return self._norm_sum / self._steps
