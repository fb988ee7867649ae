"""The learning-rate range test: a few steps with a rate that grows, and what the loss says of each rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median

from nnopt_ray.data.types import Dataset
from nnopt_ray.errors import PartError
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import Machine, seed_all
from nnopt_ray.train.batches import Batch
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.validate import Metric

STOP = 4.0  # times the best smoothed loss, where the test ends (fastai's lr_find)
KEEP = 0.9  # of the running mean that the end is decided by
AROUND = 4  # steps to each side that the smoothed curve takes in, the nearest most
LEAST = 20  # steps of a curve that says anything
# Deviations of a batch's loss by which the smoothed loss must fall: its least of a hundred steps without learning
# was below its first by 0.8 of them, by 2.9 in one of a thousand tries (normal and exponential losses).
BEYOND_NOISE = 3.0


@dataclass(frozen=True)
class LrRange:
    """What a range test found. All rates are those of train.optimizer.lr.

    lr, loss, smoothed: one each a step: the rate of the step, the loss of its batch before it was taken, and that
    loss smoothed over the steps around it.
    steepest: the rate at which the smoothed loss falls fastest over the logarithm of the rate.
    minimum: the rate at which it is least. None both, where the loss never fell.
    stopped: why the test ended before its last rate; empty where it did not.
    """

    optimizer: str
    batch_size: int
    lr: tuple[float, ...]
    loss: tuple[float, ...]
    smoothed: tuple[float, ...]
    steepest: float | None
    minimum: float | None
    stopped: str

    @property
    def suggested(self) -> float | None:
        """The lower of two rules of thumb, to two digits: too low a rate costs epochs, too high a one the training.

        They are the rate of steepest descent, and a tenth of the minimum's (fastai's `steep` and `minimum`).
        """
        if self.steepest is None or self.minimum is None:
            return None
        return float(f"{min(self.steepest, self.minimum / 10):.2g}")

    @property
    def why(self) -> str:
        """What the suggestion is, or why there is none, as half a sentence."""
        if self.steepest is None or self.minimum is None:
            return (
                "the loss never fell by more than its batches differ: try other rates (--from, --to), larger batches, "
                "or look at the data and the model"
            )
        rule = "the loss falls fastest there" if self.steepest <= self.minimum / 10 else "a tenth of the minimum's rate"
        return f"{rule}, the lower of the two rules"


class _Sweep(Trainer):
    """A trainer whose learning rate is that of a range test."""

    growing: list[float]

    def lr_of(self, number: int) -> float:
        return self.growing[number]

    def batches(self) -> Iterator[Batch]:
        """As many as there are rates, epoch after epoch, each shuffled and with dropout drawn as in training."""
        taken = 0
        while taken < len(self.growing):
            seed_all(self.noise_seed())
            for batch in self.feed.batches(self.epoch):
                yield batch
                taken += 1
                if taken == len(self.growing):
                    return
            self.epoch += 1


def sweep(
    experiment: Experiment,
    dataset: Dataset,
    machine: Machine,
    metrics: Mapping[str, Metric],
    low: float,
    high: float,
    steps: int,
) -> LrRange:
    """Train a new network of a closed page for up to `steps` batches with rates from `low` to `high`, evenly in
    their logarithm (Smith 2017, arXiv:1506.01186, section 3.3; the exponential growth is fastai's lr_find).

    It trains as the page's training would begin: its optimizer, clipping, dropout, and batches in the order of its
    epochs; schedule and warm-up have no part in it. Ends when the running mean of the loss is STOP times its least,
    or a number is none. Reads training rows only. Raises PartError for a model that takes no steps.
    """
    trainer = _Sweep(experiment, dataset, machine, metrics)
    trainer.growing = [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]
    if getattr(trainer.model, "fit_directly", None) is not None or not trainer.weights.flat.numel():
        raise PartError(
            f"the model '{experiment.model.type}' is not trained step by step, so it has no learning rate to find."
        )
    trainer.open_epoch()
    losses: list[float] = []
    mean, least, stopped = 0.0, math.inf, ""
    for step, (inputs, target) in enumerate(trainer.batches()):
        loss = float(trainer.gradient_of(inputs, target))
        if not math.isfinite(loss):
            stopped = f"the loss became {loss:g} at {trainer.growing[step]:.2g}"
            break
        losses.append(loss)
        mean = KEEP * mean + (1 - KEEP) * loss
        settled = mean / (1 - KEEP ** (step + 1))  # a mean that begins at 0 is too small by this share
        # The first batches alone are too few to tell the least of the mean.
        least = min(least, settled) if step >= LEAST // 4 else least
        if settled > STOP * least:
            stopped = f"the loss was {STOP:g} times its least at {trainer.growing[step]:.2g}"
            break
        trainer.descend(step)
    return _judged(experiment, tuple(trainer.growing[: len(losses)]), losses, STOP * least, stopped)


def _judged(
    experiment: Experiment, rates: tuple[float, ...], losses: list[float], most: float, stopped: str
) -> LrRange:
    most = max(most, *losses[:LEAST], 0.0)  # where a loss explodes, the steps around it would show only that
    smoothed = _smoothed([min(loss, most) for loss in losses])
    steepest = minimum = None
    inside = range(AROUND, len(smoothed) - AROUND)  # at the ends it is smoothed over fewer steps
    if len(inside) > 2:
        lowest = min(inside, key=smoothed.__getitem__)
        noise = median(abs(losses[step] - smoothed[step]) for step in range(lowest + 1)) / 0.6745
        slopes = {
            step: (smoothed[step + 1] - smoothed[step - 1]) / math.log(rates[step + 1] / rates[step - 1])
            for step in inside
            if step < lowest  # behind the minimum, noise may fall faster
        }
        if slopes and smoothed[AROUND] - smoothed[lowest] > BEYOND_NOISE * noise:
            steepest, minimum = rates[min(slopes, key=slopes.__getitem__)], rates[lowest]
    return LrRange(
        optimizer=experiment.train.optimizer.type,
        batch_size=experiment.train.batch_size,
        lr=rates,
        loss=tuple(losses),
        smoothed=tuple(smoothed),
        steepest=steepest,
        minimum=minimum,
        stopped=stopped,
    )


def _smoothed(losses: list[float]) -> list[float]:
    """Mean over the steps around each, with weights that fall to 0 evenly: it does not lag behind, as a running
    mean does by 9 steps (a factor of 5 in the rate)."""
    found = []
    for step in range(len(losses)):
        reach = min(AROUND, step, len(losses) - 1 - step)
        weights = [reach + 1 - abs(off) for off in range(-reach, reach + 1)]
        around = losses[step - reach : step + reach + 1]
        found.append(sum(w * loss for w, loss in zip(weights, around, strict=True)) / sum(weights))
    return found
