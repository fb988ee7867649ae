"""A recorded function does its work again on the same memory, as the function itself would."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nnopt_ray.train.recording import Unrecordable, record

Function = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def by_branches(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    left, right = (x @ y).split(2, dim=1)
    return left.sum(), torch.stack([right, right]).unbind(0)[1]


def in_place(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    x.mul_(0.5)
    z = x.detach()
    x.add_(1)
    return (z + y,)


def by_out(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    made = torch.zeros(4, 4)
    before = made + 1
    torch.add(x, y, out=made)
    made[0].add_(made[1])
    return made * 1.0, before


def through_views(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    z = x + y
    z.view(-1)[::3].zero_()
    z.t()[1] = 7
    return (z,)


def once_times(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    z = torch.ops.aten.mul.Scalar(x, 1)
    x.add_(y)
    whole = torch.ops.aten.mul.Scalar(torch.arange(4), 1.0)
    return z + x, whole / 2


def by_constants(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    counted = torch.arange(4) * torch.ones(4)
    counted += 1
    return x * counted + y.std(), torch.full((2,), 3.0)


def with_gradients(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(torch.relu(leaf @ y), torch.tensor([0, 1, 2, 3]))
        (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient


def what_came_in(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return x, x.t()[1:], y.detach()


def in_other_shapes(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    z = x + y
    same = z.view(4, 4)
    same.unsqueeze_(0)
    whole = (z * 2).expand(4, 4).reshape(4, 4)
    whole.add_(1)
    return same * y, z.view(4, 4), whole


def by_whole_views(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    z = (x + y).view(4, 4)
    other = z.expand(4, 4)
    z.mul_(2)
    return other.reshape(4, 4) + x.view(4, 4), other.t()


FUNCTIONS = [
    in_other_shapes,
    by_whole_views,
    by_branches,
    in_place,
    by_out,
    through_views,
    once_times,
    by_constants,
    with_gradients,
    what_came_in,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
@settings(max_examples=10, deadline=None)
@given(seeds=st.lists(st.integers(0, 2**31), min_size=3, max_size=3))
def test_a_replay_gives_the_bits_of_the_function(function: Function, seeds: list[int]) -> None:
    def draw(seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(4, 4, generator=generator), torch.randn(4, 4, generator=generator)

    x, y = draw(seeds[0])
    program = record(lambda: function(x, y), [x, y])
    kept = []
    for seed in seeds[1:]:
        mine, theirs = (x, y), draw(seed)
        for place, value in zip(mine, theirs, strict=True):
            place.copy_(value)
        found, expected = program(), function(*theirs)
        for one, two in zip((*found, *mine), (*expected, *theirs), strict=True):
            assert torch.equal(one, two)
            assert one.dtype == two.dtype
        kept.append((found, [each.clone() for each in expected]))
    for found, expected in kept:  # a later replay leaves what an earlier one gave
        for one, two in zip(found, expected, strict=True):
            assert torch.equal(one, two)


def test_what_nobody_needs_and_views_are_not_done_again() -> None:
    x = torch.ones(4, 4)

    def function() -> tuple[Tensor]:
        (x.t().reshape(-1) * 5).exp()
        return (x.view(-1)[1:].t() + 1,)

    assert record(function, [x]).kernels == 1
    assert record(lambda: ((x + 1).expand(4, 4).view(4, 4).detach(),), [x]).kernels == 1


def test_the_number_in_a_tensor_cannot_be_recorded() -> None:
    x = torch.ones(3)
    for function in (lambda: (x * x.sum().item(),), lambda: (x if x.sum() > 0 else -x,)):
        with pytest.raises(Unrecordable, match="asks for the number in a tensor"):
            record(function, [x])
