"""From a gradient to new weights: L1, clipping, weight decay, the optimizer's step.

Weight decay pulls weights to 0, which a bias or the scale of a norm has no reason to go to; recipes of the field
leave those out (timm's `filter_bias_and_bn`, transformers' Trainer, nanoGPT), torch.optim does not by itself.
`train.weight_decay_on` chooses. The weights that decay lie in front of all others (`weights.trainable`), so leaving
the others out is the optimizer's kernel called for two pieces instead of one.

A subgradient of the L1 penalty makes weights small and, as steps are finite, hardly one of them 0. The proximal form
does: a soft threshold after the step, which with plain gradient descent is ISTA (Beck & Teboulle 2009, section 1.3).
With an optimizer that scales each weight's gradient (Adam, RMSprop) the threshold is lr * l1 for all weights alike,
apart from that scale, as AdamW's weight decay is. Nor does momentum, which makes a gradient's steps
1 / (1 - momentum) times as long, lengthen it: with momentum the same l1 is a weaker penalty than without.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Train
from nnopt_ray.train import layer_rates
from nnopt_ray.train.optimizers import Optimizer
from nnopt_ray.train.weights import FlatWeights

_Piece = tuple[Optimizer, slice, float]  # who updates which of the weights, and at which share of the rate
_Part = tuple[Optimizer, Tensor, Tensor, dict[str, Tensor], float]


class Accumulation:
    """The gradient of a step that takes several batches: that of the mean over all their rows.

    every: batches a step; the last step of an epoch takes those that are left, of `batches` in all.
    """

    def __init__(self, every: int, gradient: Tensor) -> None:
        self._every = every
        self._sum = torch.zeros_like(gradient)
        self._weight: float | Tensor = 0.0

    def add(self, number: int, batches: int, gradient: Tensor, weight: float | Tensor) -> bool:
        """Take in the gradient of batch `number` of an epoch, the mean over its rows, which counts `weight`.

        → whether a step is due; its gradient lies in `gradient` then.
        """
        if number % self._every == 0:
            self._sum.zero_()
            self._weight = 0.0
        if isinstance(weight, Tensor):
            self._sum.addcmul_(gradient, weight)
        else:
            self._sum.add_(gradient, alpha=weight)
        self._weight = self._weight + weight
        if (number + 1) % self._every and number + 1 < batches:
            return False
        torch.div(self._sum, self._weight, out=gradient)
        return True


class Descent:
    """What a step does with its gradient. It keeps nothing: state is in the weights and in the optimizer's slots.

    decaying: weight decay acts on the first so many numbers of the weights.
    even: all weights have the same learning rate (`train.layer_decay` is 1).

    Raises UserError when the optimizer does not update each weight by itself and layers have their own rates.
    """

    def __init__(self, train: Train, optimizer: Optimizer, weights: FlatWeights) -> None:
        self._l1 = train.l1 if train.l1_form == "subgradient" else 0.0
        self._threshold = train.l1 if train.l1_form == "proximal" else 0.0
        self._norm, self._value = train.clip_norm, train.clip_value
        self._optimizer, self._norm_of = optimizer, weights.norm
        size = weights.flat.numel()
        self.decaying = size
        if train.weight_decay_on == "weights" and getattr(optimizer, "elementwise", False) and optimizer.weight_decay:
            self.decaying = weights.decaying
        self.even = train.layer_decay == 1.0
        self._pieces = self._cut(weights, train.layer_decay)
        self._whole = self.decaying == size and self.even
        self._parts: tuple[tuple[int, ...], tuple[Tensor, ...], list[_Part]] = ((), (), [])

    def _cut(self, weights: FlatWeights, layer_decay: float) -> list[_Piece]:
        """The weights in pieces that are updated alike."""
        size, optimizer = weights.flat.numel(), self._optimizer
        runs = [(0, size, 1.0)]
        if not self.even:
            if not getattr(optimizer, "elementwise", False):
                raise UserError(
                    "train.layer_decay gives each layer a rate of its own, and the optimizer "
                    f"{type(optimizer).__name__} takes one for all weights. Remove layer_decay, or choose adamw, adam, "
                    "sgd or rmsprop."
                )
            runs = layer_rates.runs(weights.model, weights.lying, layer_decay)
        free = copy.copy(optimizer)
        if self.decaying < size:
            free.weight_decay = 0.0
        return [
            (optimizer if start < self.decaying else free, slice(start, end), share)
            for first, last, share in runs
            for start, end in ((first, min(last, self.decaying)), (max(first, self.decaying), last))
            if start < end
        ]

    def limit(self, weights: Tensor, gradient: Tensor) -> Tensor:
        """The L1 penalty and clipping, in place → the norm of the gradient in between, float32 []."""
        if self._l1:
            gradient.add_(weights.detach().sign(), alpha=self._l1)
        norm = self._norm_of(gradient)
        if self._norm is not None:  # the meaning of torch.nn.utils.clip_grad_norm_
            gradient.mul_((self._norm / (norm + 1e-6)).clamp_(max=1.0))
        if self._value is not None:
            gradient.clamp_(-self._value, self._value)
        return norm

    def update(self, weights: Tensor, gradient: Tensor, slots: Mapping[str, Tensor], step: int, lr: float) -> None:
        """Weight decay, the optimizer's step and the soft threshold, in place; arguments as of `Optimizer.update`."""
        if self._whole:
            self._optimizer.update(weights, gradient, slots, step, lr)
            if self._threshold:
                torch.ops.aten.softshrink.out(weights, lr * self._threshold, out=weights)
            return
        for optimizer, w, g, s, share in self._split(weights, gradient, slots):
            optimizer.update(w, g, s, step, lr * share)
            if self._threshold:
                torch.ops.aten.softshrink.out(w, lr * share * self._threshold, out=w)

    def _split(self, weights: Tensor, gradient: Tensor, slots: Mapping[str, Tensor]) -> list[_Part]:
        """The pieces of these tensors; made anew only when the tensors are others than at the last step."""
        known, _held, parts = self._parts
        # Held, no other tensor can come to have its id. Slots change places in a pack, so the dict tells nothing.
        ids = (id(weights), id(gradient), *map(id, slots.values()))
        if ids != known:
            parts = [
                (
                    optimizer,
                    weights[piece],
                    gradient[piece],
                    {name: slot[piece] if slot.shape == weights.shape else slot for name, slot in slots.items()},
                    share,
                )
                for optimizer, piece, share in self._pieces
            ]
            self._parts = ids, (weights, gradient, *slots.values()), parts
        return parts
