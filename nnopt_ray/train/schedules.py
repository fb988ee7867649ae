"""Schedules: the learning rate over time, as a factor of the optimizer's `lr`.

A schedule is a pure function of progress, so a resumed run needs nothing restored. Warm-up stands in
front of any of them and is not theirs: the schedule begins when the warm-up is over.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from nnopt_ray.train import callbacks

Factor = Annotated[float, Field(gt=0, lt=1)]


class Schedule:
    """Base of all schedules; constant as it stands.

    `monitor`: the recorded metric, or "objective", that `plateau` watches; None where nothing is watched.
    """

    monitor: str | None = None
    mode: callbacks.Mode = "auto"

    def factor(self, step: int, steps_per_epoch: int, steps: int) -> float:
        """What the base learning rate is multiplied by in step `step` of `steps`, counted from 0."""
        return 1.0

    def plateau(self, metric: str, mode: callbacks.Direction) -> callbacks.ReduceLROnPlateau | None:
        """The state machine that lowers the base rate at the end of epochs, if this schedule has one.

        metric, mode: what the schedule's monitor resolves to.
        """
        return None


class Constant(Schedule):
    """The same learning rate throughout."""

    def __init__(self) -> None:
        pass


class Step(Schedule):
    """Multiply by gamma every few epochs (torch.optim.lr_scheduler.StepLR).

    Keys:
        every_epochs: epochs between two reductions.
        gamma: what the rate is multiplied by.
    """

    def __init__(self, *, every_epochs: Annotated[int, Field(ge=1)] = 10, gamma: Factor = 0.1) -> None:
        self.every_epochs, self.gamma = every_epochs, gamma

    def factor(self, step: int, steps_per_epoch: int, steps: int) -> float:
        return float(self.gamma ** (step // steps_per_epoch // self.every_epochs))


class Exponential(Schedule):
    """Multiply by gamma at the end of each epoch (torch.optim.lr_scheduler.ExponentialLR).

    Keys:
        gamma: what the rate is multiplied by.
    """

    def __init__(self, *, gamma: Annotated[float, Field(gt=0, le=1)] = 0.95) -> None:
        self.gamma = gamma

    def factor(self, step: int, steps_per_epoch: int, steps: int) -> float:
        return float(self.gamma ** (step // steps_per_epoch))


class MultiStep(Schedule):
    """Multiply by gamma at the start of each of these epochs (torch.optim.lr_scheduler.MultiStepLR).

    Keys:
        milestones: epochs, counted from 0.
        gamma: what the rate is multiplied by.
    """

    def __init__(self, *, milestones: tuple[Annotated[int, Field(ge=1)], ...] = (10, 15), gamma: Factor = 0.1) -> None:
        self.milestones, self.gamma = milestones, gamma

    def factor(self, step: int, steps_per_epoch: int, steps: int) -> float:
        return float(self.gamma ** sum(step // steps_per_epoch >= epoch for epoch in self.milestones))


class Polynomial(Schedule):
    """Down to 0 as a power of the share of steps that is left, step by step (PolynomialLR over all steps).

    Keys:
        power: 1 is a straight line; the larger, the sooner the rate falls.
    """

    def __init__(self, *, power: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0) -> None:
        self.power = power

    def factor(self, step: int, steps_per_epoch: int, steps: int) -> float:
        return float((1 - step / steps) ** self.power)


class Cosine(Schedule):
    """Half a cosine from the full rate down, step by step (Loshchilov & Hutter 2017; CosineAnnealingLR over all steps).

    Keys:
        min_factor: share of the rate that the end comes down to.
    """

    def __init__(self, *, min_factor: Annotated[float, Field(ge=0, lt=1)] = 0.0) -> None:
        self.min_factor = min_factor

    def factor(self, step: int, steps_per_epoch: int, steps: int) -> float:
        return self.min_factor + (1 - self.min_factor) * (1 + math.cos(math.pi * step / steps)) / 2


class CosineRestarts(Schedule):
    """Half a cosine from the full rate down, again and again (Loshchilov & Hutter 2017; CosineAnnealingWarmRestarts).

    Keys:
        epochs: length of the first cosine.
        factor: how many times as long each next one is.
        min_factor: share of the rate that each comes down to.
    """

    def __init__(
        self,
        *,
        epochs: Annotated[int, Field(ge=1)] = 5,
        factor: Annotated[int, Field(ge=1)] = 2,
        min_factor: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        self.epochs, self.longer, self.min_factor = epochs, factor, min_factor

    def factor(self, step: int, steps_per_epoch: int, steps: int) -> float:
        length = self.epochs * steps_per_epoch
        if self.longer == 1:
            step %= length
        while step >= length:
            step -= length
            length *= self.longer
        return self.min_factor + (1 - self.min_factor) * (1 + math.cos(math.pi * step / length)) / 2


class OneCycle(Schedule):
    """Up to the full rate and down again in cosines (Smith & Topin 2018; torch's OneCycleLR, whose max_lr is our lr).

    Keys:
        pct_start: share of all steps in which the rate rises.
        div_factor: the first rate is lr / div_factor.
        final_div_factor: the last rate is the first one / final_div_factor.
    """

    def __init__(
        self,
        *,
        pct_start: Annotated[float, Field(gt=0, lt=1)] = 0.3,
        div_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 25.0,
        final_div_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1e4,
    ) -> None:
        self.pct_start, self.div_factor, self.final_div_factor = pct_start, div_factor, final_div_factor

    def factor(self, step: int, steps_per_epoch: int, steps: int) -> float:
        first = 1 / self.div_factor
        # torch lets the phases end on fractional steps; the last step of all is steps - 1. In a run of so
        # few steps that the rise would end before step 0, the first step has the full rate.
        top, end = max(self.pct_start * steps - 1, 0.0), float(steps - 1)
        if step <= top and top > 0:
            return _cosine(first, 1.0, step / top)
        return _cosine(1.0, first / self.final_div_factor, (step - top) / (end - top)) if end > top else 1.0


class ReduceOnPlateau(Schedule):
    """Lower the rate when a metric stops improving (Keras' ReduceLROnPlateau, decision for decision).

    Keys:
        monitor: a recorded metric such as val_loss; objective is what the page optimizes.
        factor: what the rate is multiplied by.
        patience: epochs without improvement before the rate is lowered.
        min_lr: the rate is never lowered below this.
        cooldown: epochs after a reduction in which no waiting epochs are counted.
        min_delta: smallest change that counts as improvement.
        mode: auto, the metric knows its direction; else min or max.
    """

    def __init__(
        self,
        *,
        monitor: str = "objective",
        factor: Factor = 0.1,
        patience: Annotated[int, Field(ge=0)] = 10,
        min_lr: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0,
        cooldown: Annotated[int, Field(ge=0)] = 0,
        min_delta: Annotated[float, Field(allow_inf_nan=False)] = 1e-4,
        mode: Literal["auto", "min", "max"] = "auto",
    ) -> None:
        self.monitor, self.mode = monitor, mode
        self.keys = {
            "factor": factor,
            "patience": patience,
            "min_lr": min_lr,
            "cooldown": cooldown,
            "min_delta": min_delta,
        }

    def plateau(self, metric: str, mode: callbacks.Direction) -> callbacks.ReduceLROnPlateau:
        return callbacks.ReduceLROnPlateau(metric, mode=mode, **self.keys)  # type: ignore[arg-type]


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
