"""Augmentations of sequences, float32 [rows, length, channels]; `noise` is their jitter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from nnopt_ray.section import Count, NonNegative
from nnopt_ray.train.augmentations import Augmentation, Share

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SLOWEST = 0.1  # of a pace: time never stands still


class OfSequences(Augmentation):
    """What changes sequences, within the steps that each has: `lengths` int64 [rows], None where all have all."""

    kinds = ("sequence",)
    forecasts = False

    def __call__(self, x: Tensor, draws: torch.Generator, lengths: Tensor | None = None) -> Tensor:
        raise NotImplementedError


class Scaling(OfSequences):
    """Multiply each channel of a sequence by a factor of its own (Um et al. 2017).

    Keys:
        std: standard deviation of the factors, which are normal around 1.
    """

    def __init__(self, *, std: NonNegative = 0.1) -> None:
        self.std = std

    def __call__(self, x: Tensor, draws: torch.Generator, lengths: Tensor | None = None) -> Tensor:
        return x * x.new_empty(len(x), 1, x.shape[2]).normal_(1, self.std, generator=draws)


class TimeShift(OfSequences):
    """Move the sequence to earlier or later, by whole steps that are drawn evenly.

    Keys:
        share: the farthest move, as a share of the sequence's own length, to either side.
        outside: what comes in at the end: edge repeats the first or last step, zero is 0 after the steps of the data.
    """

    def __init__(self, *, share: Share = 0.1, outside: Literal["edge", "zero"] = "edge") -> None:
        self.share, self.outside = share, outside

    def __call__(self, x: Tensor, draws: torch.Generator, lengths: Tensor | None = None) -> Tensor:
        from nnopt_ray.train.warping import resampled, steps

        step, length = steps(x, lengths)
        by = (x.new_empty(len(x), 1).uniform_(-1, 1, generator=draws) * self.share * length).round()
        moved = resampled(x, step - by, length)
        if self.outside == "edge":
            return moved
        return moved * ((step >= by) & (step - by < length))[:, :, None]


class WindowSlice(OfSequences):
    """Cut a window out of the sequence and stretch it to the whole length (Le Guennec et al. 2016), linearly.

    Keys:
        min_share: the shortest window, as a share of the sequence's own length; its length and place are drawn evenly.
    """

    def __init__(self, *, min_share: Annotated[float, Field(gt=0, le=1)] = 0.9) -> None:
        self.min_share = min_share

    def __call__(self, x: Tensor, draws: torch.Generator, lengths: Tensor | None = None) -> Tensor:
        from nnopt_ray.train.warping import resampled, steps

        step, length = steps(x, lengths)
        share = x.new_empty(len(x), 1).uniform_(self.min_share, 1, generator=draws)
        start = x.new_empty(len(x), 1).uniform_(0, 1, generator=draws) * (1 - share) * (length - 1)
        return resampled(x, start + step * share, length)


class TimeWarp(OfSequences):
    """Let the sequence run faster here and slower there, smoothly, from its first to its last step (Um et al. 2017).

    Its pace is a cubic spline through values that are drawn at even distances; values between steps are linear.

    Keys:
        std: standard deviation of the pace, which is normal around 1; it never falls below a tenth.
        knots: places at which the pace is drawn, between the two ends, where it is too.
    """

    def __init__(self, *, std: NonNegative = 0.2, knots: Count = 4) -> None:
        self.std, self.knots = std, knots

    def __call__(self, x: Tensor, draws: torch.Generator, lengths: Tensor | None = None) -> Tensor:
        from nnopt_ray.train.warping import resampled, spline, steps

        step, length = steps(x, lengths)
        drawn = x.new_empty(len(x), self.knots + 2).normal_(1, self.std, generator=draws)
        last = (length - 1).clamp(min=1)
        pace = spline(drawn, (step / last).clamp(max=1)).clamp(min=SLOWEST) * (step < length - 1)
        when = pace.cumsum(1) - pace  # of the steps before
        whole = pace.sum(1, keepdim=True).clamp(min=SLOWEST)
        return resampled(x, when / whole * (length - 1), length)
