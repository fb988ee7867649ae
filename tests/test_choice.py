"""How many trainings a worker takes at a time: what is measured, what is taken, and what is said."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from train_example import MACHINE, dataset, page, part

from nnopt_ray.data.types import Shapes
from nnopt_ray.train import choice
from nnopt_ray.train.choice import Choice, choose
from nnopt_ray.train.loop import Trainer


class Heavy(nn.Module):
    """One product of large matrices keeps a core busy: nothing is won by a step of several."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.first = nn.Linear(shapes.features, 1200)
        self.second = nn.Linear(1200, 1200)
        self.last = nn.Linear(1200, shapes.outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.relu(self.second(torch.relu(self.first(x.flatten(1))))))
        return out


class Asking(nn.Module):
    """Looks at a number in the middle of its forward pass."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.layer = nn.Linear(shapes.features, shapes.outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.flatten(1))
        return out if float(out.detach().sum()) > 1e9 else out * 2


def example(model: str = "mlp") -> Callable[[], Trainer]:
    data = dataset(rows=1000)
    return lambda: Trainer(page(model=part(model)), data, MACHINE, {})


def test_never_and_one_are_taken_at_their_word() -> None:
    assert choose(example(), "never", "auto", 64, lambda s: 1e3).lanes == 1
    assert choose(example(), "auto", 1, 64, lambda s: 1e3).lanes == 1
    assert choose(example(), "auto", "auto", 1, lambda s: 1e3).lanes == 1


def test_a_small_network_gains_and_the_sentence_says_by_how_much() -> None:
    found = choose(example(), "auto", "auto", 16, lambda s: 1e3)
    assert found.lanes == 16
    assert found.step_s[16] / 16 < found.step_s[1]
    assert "16 trials at a time as lanes of one step" in found.sentence
    assert "µs alone" in found.sentence


def test_a_given_number_of_lanes_is_kept() -> None:
    found = choose(example(), "auto", 5, 64, lambda s: 1e3)
    assert found.lanes == 5
    assert list(found.packs) == [5]


def test_always_fuses_what_can_be_fused() -> None:
    found = choose(example("test_choice:Heavy"), "always", "auto", 4, lambda s: 1e3)
    assert found.lanes == 4


def test_what_cannot_be_fused_is_one_at_a_time_with_the_reason() -> None:
    for fuse in ("auto", "always"):
        found = choose(example("test_choice:Asking"), fuse, "auto", 8, lambda s: 1e3)  # type: ignore[arg-type]
        assert found.lanes == 1
        assert found.shape is None
        assert found.sentence.startswith("one trial at a time: ")
    found = choose(example("baseline"), "auto", "auto", 8, lambda s: 1e3)
    assert found.lanes == 1
    assert "weights in a way of its own" in found.sentence


def test_little_work_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise AssertionError("no pack should be made")

    monkeypatch.setattr(choice, "Pack", refuse)
    found = choose(example(), "auto", "auto", 64, lambda s: 0.1)
    assert found.lanes == 1
    assert "would cost more" in found.sentence


def test_memory_limits_the_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = example()()
    lane = 4 * trainer.weights.flat.numel()
    monkeypatch.setattr(choice, "_free_bytes", lambda device: 60 * lane)
    found = choose(example(), "auto", "auto", 64, lambda s: 1e3)
    assert found.lanes < 16


def test_the_cheapest_way_for_the_trainings_that_are_left() -> None:
    """By hand: alone 100 a step; a pack of 4 takes 200, one of 16 takes 480."""
    taken = Choice(16, "", {1: 100.0, 4: 200.0, 16: 480.0})
    assert [taken.cheapest(count) for count in (1, 2, 3, 4, 5, 16)] == [1, 1, 4, 4, 16, 16]
    assert Choice(1, "", {1: 100.0}).cheapest(3) == 1
