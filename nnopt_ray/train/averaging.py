"""Averages of the weights over training: what is validated, kept as best and ended with in their place.

Both are as torch.optim.swa_utils has them: the first weights that are averaged are taken as they are; an exponential
average moves towards the weights by 1 - decay a step (`get_ema_multi_avg_fn`, buffers of floating numbers too, as
with `use_buffers=True`; whole numbers are copied), stochastic weight averaging is the plain mean, whose batch norm
sees the training part again (`update_bn`). An average is off the way of the optimizer, which goes on from the
weights themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from nnopt_ray.errors import UserError
from nnopt_ray.recipe import Ema, Swa, Train
from nnopt_ray.train.weights import FlatWeights, Snapshot


class Average:
    """Weights and buffers averaged so far.

    count: how often weights were taken in. snapshot: what came of it, None before the first time.
    """

    def __init__(self) -> None:
        self.count = 0
        self.snapshot: Snapshot | None = None

    def after_step(self, weights: FlatWeights) -> None:
        """An optimizer step was taken."""

    def after_epoch(self, weights: FlatWeights, epoch: int, renew: Callable[[], None]) -> str:
        """The last step of an epoch was taken → what happened, in words.

        `renew` takes the statistics of batch norm anew, for the weights that are in the model then.
        """
        return ""

    def _take(self, weights: FlatWeights, share: float) -> None:
        """Move towards the weights by this share; take them as they are the first time."""
        if self.snapshot is None:
            self.snapshot = weights.snapshot()
        else:
            self.snapshot.flat.lerp_(weights.flat, share)
        self.count += 1

    @contextmanager
    def worn(self, weights: FlatWeights) -> Iterator[None]:
        """Within, the model has the averaged weights and buffers."""
        if self.snapshot is None:
            yield
            return
        own = weights.snapshot()
        weights.restore(self.snapshot)
        try:
            yield
        finally:
            weights.restore(own)


class Exponential(Average):
    def __init__(self, keys: Ema) -> None:
        super().__init__()
        self._keys = keys

    def after_step(self, weights: FlatWeights) -> None:
        decay = self._keys.decay
        if self._keys.warmup:
            decay = min(decay, (1 + self.count) / (10 + self.count))
        first = self.snapshot is None
        self._take(weights, 1 - decay)
        assert self.snapshot is not None
        if not first and self.snapshot.rest:  # `rest` looks through the whole model
            for name, tensor in weights.rest.items():
                kept = self.snapshot.rest[name]
                if tensor.is_floating_point():
                    kept.lerp_(tensor, 1 - decay)
                else:
                    kept.copy_(tensor)


class Stochastic(Average):
    def __init__(self, first: int) -> None:
        super().__init__()
        self._first = first

    def after_epoch(self, weights: FlatWeights, epoch: int, renew: Callable[[], None]) -> str:
        if epoch < self._first:
            return ""
        self._take(weights, 1 / (self.count + 1))
        assert self.snapshot is not None
        self.snapshot.rest = {name: tensor.clone() for name, tensor in weights.rest.items()}
        if has_batch_norm(weights.model):
            with self.worn(weights):
                renew()
                self.snapshot.rest = {name: tensor.clone() for name, tensor in weights.rest.items()}
        return "weights averaged from here on" if self.count == 1 else ""


def average_of(train: Train) -> Average | None:
    """The average that a page asks for. Raises UserError when it asks for two."""
    if train.ema is not None and train.swa is not None:
        raise UserError("train.ema and train.swa both average the weights, and only one average can be what counts.")
    if train.ema is not None:
        return Exponential(train.ema)
    if train.swa is not None:
        return Stochastic(first_averaged(train.swa, train.epochs))
    return None


def first_averaged(swa: Swa, epochs: int) -> int:
    """The first epoch of which stochastic weight averaging takes the weights."""
    return swa.start_epoch if swa.start_epoch is not None else min(int(0.75 * epochs), epochs - 1)


def annealed(before: float, swa: Swa, epochs: int) -> float:
    """The learning rate so many epochs after `start_epoch`, from `before` (torch.optim.swa_utils.SWALR, cosine)."""
    assert swa.lr is not None
    share = min(1.0, (epochs + 1) / max(1, swa.anneal_epochs))
    alpha = (1 - math.cos(math.pi * share)) / 2
    return swa.lr * alpha + before * (1 - alpha)


def has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None for m in model.modules())


def renew_batch_norm(model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], object]) -> None:
    """Take the running statistics of batch norm anew over these batches, as torch.optim.swa_utils.update_bn does.

    Leaves the model in training; what a forward draws comes from torch's generator.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    model.train()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        with torch.no_grad():
            for inputs in batches:
                forward(inputs)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
