"""Dropout in a pack of lanes: each lane has its own rate and, on a CPU, the very mask it would have alone.

A network calls `torch.nn.functional.dropout` (as `nn.Dropout` does) at its sites, in the same order at every
step. Alone, a site draws Bernoulli(1 - p) from torch's generator, which is seeded from (seed, epoch), divides
by 1 - p and multiplies. A lane draws the same numbers in the same order from a generator of its own that is
seeded alike, so its masks are bitwise those of the trial alone, whatever lanes are beside it. On a GPU the
kernel alone draws its numbers in another order: there a lane's masks depend on nothing but (seed, epoch)
too, but they are others than alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Site:
    """One call of dropout in a step: the shape and memory order of what it drops from, and its rate."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    rate: float


class _Finder(TorchFunctionMode):
    """Notes the sites of a forward pass in training."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: list[Site] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.dropout:
            x, rate, training = _told(*args, **(kwargs or {}))
            if training and rate > 0:
                self.sites.append(Site(tuple(x.shape), tuple(x.stride()), rate))
                return x * 1.0
        return func(*args, **(kwargs or {}))


class _Feeder(TorchFunctionMode):
    """Gives each site its mask in turn."""

    def __init__(self, masks: Iterable[Tensor]) -> None:
        super().__init__()
        self.masks = iter(masks)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.dropout:
            x, rate, training = _told(*args, **(kwargs or {}))
            return x * next(self.masks) if training and rate > 0 else x
        return func(*args, **(kwargs or {}))


def _told(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> tuple[Tensor, float, bool]:
    return input, p, training


def sites(forward: Callable[[], Any]) -> list[Site]:
    """The dropout sites that `forward` comes to, in order."""
    finder = _Finder()
    with torch.no_grad(), finder:
        forward()
    return finder.sites


@contextmanager
def fed(masks: Iterable[Tensor]) -> Iterator[None]:
    """Within, dropout multiplies by these masks, one a site, which hold 0 and 1 / (1 - rate)."""
    with _Feeder(masks):
        yield


def draw(mask: Tensor, site: Site, rate: float, generator: torch.Generator) -> None:
    """Fill one lane's mask at one site, as dropout itself would."""
    if mask.is_contiguous() and mask.stride() == site.stride:
        mask.bernoulli_(1 - rate, generator=generator).div_(1 - rate)
        return
    noise = torch.empty_strided(site.shape, site.stride, dtype=mask.dtype, device=mask.device)
    mask.copy_(noise.bernoulli_(1 - rate, generator=generator).div_(1 - rate))
