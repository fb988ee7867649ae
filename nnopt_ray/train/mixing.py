"""Mixtures of two rows to train on: mixup and CutMix.

Each row of a batch is mixed with another row of it, both by one share a batch, drawn from Beta(alpha, alpha). The
loss is mixed in place of the targets: share * loss(outputs, own target) + (1 - share) * loss(outputs, the other's),
which for cross entropy is the loss of the mixed target and for squared error has its gradient (Zhang et al. 2018,
section 3). Validation sees rows as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nnopt_ray.data.types import Shapes
from nnopt_ray.errors import UserError
from nnopt_ray.recipe import Mix

ALPHA = {"mixup": 0.2, "cutmix": 1.0}  # the papers': Zhang et al. 2018 (ImageNet: 0.1 to 0.4), Yun et al. 2019

NUMBERS = ("table", "image", "sequence")  # kinds of input of which half of two makes sense

Mixed = tuple[Tensor, ...]  # the other rows' target, and the share of the rows' own, float32 []; () where none is mixed


def loss_of(loss: Callable[[Tensor], Tensor], target: Tensor, mixed: Mixed) -> Tensor:
    """The loss of a batch, by the loss of its outputs against a target."""
    own = loss(target)
    if not mixed:
        return own
    other, share = mixed
    return share * own + (1 - share) * loss(other)


class Mixer:
    """Mixes batches. Raises UserError for data that cannot be mixed so."""

    def __init__(self, mix: Mix, shapes: Shapes) -> None:
        self.type = mix.type
        self.alpha = mix.alpha if mix.alpha is not None else ALPHA[mix.type]
        others = [each.kind for each in shapes.inputs if each.kind not in NUMBERS]
        if others or shapes.is_language:
            raise UserError(
                f"train.mix: {mix.type} needs rows that are numbers, and this data has "
                f"{others[0] if others else 'text'}: leave train.mix out."
            )
        if mix.type == "cutmix" and [each.kind for each in shapes.inputs] != ["image"]:
            raise UserError("train.mix: cutmix puts a piece of one image into another, and this data has no images.")

    @staticmethod
    def draws(seed: int) -> np.random.Generator:
        """What an epoch is drawn from."""
        return np.random.default_rng(seed)

    def mix(
        self, inputs: tuple[Tensor, ...], target: Tensor, draws: np.random.Generator
    ) -> tuple[tuple[Tensor, ...], Mixed]:
        """A batch mixed with itself in another order; what is given stays as it is."""
        share = float(draws.beta(self.alpha, self.alpha))
        order = torch.from_numpy(draws.permutation(len(target))).to(target.device)
        if self.type == "mixup":
            inputs = tuple(torch.lerp(x.index_select(0, order), x, share) for x in inputs)
        else:
            (x,) = inputs
            top, bottom, left, right = box(x.shape[-2], x.shape[-1], share, draws)
            x = x.clone()
            x[:, :, top:bottom, left:right] = inputs[0].index_select(0, order)[:, :, top:bottom, left:right]
            inputs = (x,)
            share = 1 - (bottom - top) * (right - left) / (x.shape[-2] * x.shape[-1])
        return inputs, (target.index_select(0, order), torch.tensor(share, device=target.device))


def box(height: int, width: int, share: float, draws: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the piece that is replaced: of 1 - share of the area, around any pixel.

    What lies beyond the image is cut off, so the piece may be smaller (Yun et al. 2019, equation 2 and their code).
    """
    side = (1 - share) ** 0.5
    middle = draws.integers(height), draws.integers(width)
    ends = []
    for at, length in zip(middle, (height, width), strict=True):
        half = int(length * side) // 2
        ends += [max(0, int(at) - half), min(length, int(at) + half)]
    return ends[0], ends[1], ends[2], ends[3]
