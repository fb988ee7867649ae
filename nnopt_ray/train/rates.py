"""The learning rate of every step: warm-up, then the schedule, then that of stochastic weight averaging."""

from __future__ import annotations

from nnopt_ray.recipe import Train
from nnopt_ray.train import averaging
from nnopt_ray.train.schedules import Schedule


class Rates:
    """The learning rates of a training. Steps are the optimizer's and count from 0 over all epochs."""

    def __init__(self, train: Train, schedule: Schedule, steps_per_epoch: int) -> None:
        self._train, self._schedule = train, schedule
        self._warm_up = round(train.warmup_epochs * steps_per_epoch)

    def at(self, step: int, steps_per_epoch: int, base: float) -> float:
        """The learning rate of a step, from the base rate of now, which a plateau may have lowered."""
        swa = self._train.swa
        if swa is not None and swa.lr is not None:
            first = averaging.first_averaged(swa, self._train.epochs) * steps_per_epoch
            if step >= first:
                before = self._scheduled(max(0, first - 1), steps_per_epoch, base)
                return averaging.annealed(before, swa, (step - first) // steps_per_epoch)
        return self._scheduled(step, steps_per_epoch, base)

    def _scheduled(self, step: int, steps_per_epoch: int, base: float) -> float:
        if step < self._warm_up:
            return base * (step + 1) / self._warm_up
        steps = self._train.epochs * steps_per_epoch
        return base * self._schedule.factor(step - self._warm_up, steps_per_epoch, steps - self._warm_up)
