"""Lanes of a reproducible search: no clock decides who is one, and only its width and row decide a lane's bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from pack_example import differences, trainer
from test_lanes import FAMILIES, pages
from train_example import MACHINE, dataset, page, part

from nnopt_ray.data.types import Dataset
from nnopt_ray.experiment import Experiment
from nnopt_ray.train.block import Static
from nnopt_ray.train.choice import Choice
from nnopt_ray.train.exact import ALONE, choose_exactly
from nnopt_ray.train.lanes import Pack, Shape
from nnopt_ray.train.loop import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


# Families that must be lanes here; of the others only that they are or say why not.
EXACT = {"mlp", "mlp dropout", "mlp gelu residual", "mlp batch", "mlp layer", "transformer", "gru"}


def at_rows(seats: Mapping[int, Experiment], data: Dataset, width: int) -> dict[int, Trainer]:
    """Trainings at these rows of one pack, each to its end."""
    trainers = {row: trainer(experiment, data) for row, experiment in seats.items()}
    first = next(iter(trainers.values()))
    pack = Pack(Shape(first), width, first)
    for row, each in trainers.items():
        pack.put(each, row)
    while pack.filled:
        for lane, _ in pack.run_epoch():
            if lane.done:
                pack.take(lane)
    return trainers


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lane_at_its_row_has_the_same_bits_whoever_is_beside_it(family: str) -> None:
    data, model, varied, both, _ = FAMILIES[family]
    experiments = pages(model, varied, **both)
    width = len(experiments)
    found = choose_exactly(lambda: trainer(experiments[0], data), "always", "auto", width, 1e9)
    assert found.lanes == width or (found.lanes == 1 and found.sentence.startswith(ALONE))
    assert found.lanes == width or family not in EXACT, found.sentence
    if found.lanes == 1:
        return
    everyone = at_rows(dict(enumerate(experiments)), data, width)
    for some in ([1], [0, 3, 6], [2, 4, 5]):
        few = at_rows({row: experiments[row] for row in some}, data, width)
        for row in some:
            assert max(differences(few[row], everyone[row]).values()) == 0.0


def small(**keys: Any) -> Trainer:
    data = dataset(rows=640)
    return Trainer(page(epochs=10, batch_size=64, **{"model": part("mlp"), **keys}), data, MACHINE, {})


def test_a_small_step_and_much_to_do_is_fused_and_the_answer_is_always_the_same() -> None:
    for _ in range(3):
        found = choose_exactly(small, "auto", "auto", 8, 400)
        assert found.lanes == 8
        assert [found.cheapest(count) for count in (1, 4, 8)] == [8, 8, 8], "a single trial is a lane of it too"


@pytest.mark.parametrize(
    ("chosen", "why"),
    [
        (lambda: choose_exactly(small, "never", "auto", 8, 400), "resources.fuse is never"),
        (lambda: choose_exactly(small, "auto", "auto", 1, 400), "search.concurrency is 1"),
        (lambda: choose_exactly(small, "auto", 1, 1, 400), "resources.lanes is 1"),
        (lambda: choose_exactly(small, "auto", "auto", 8, 1), "recording them would take longer"),
        (lambda: choose_exactly(lambda: small(model=part("test_choice:Heavy")), "auto", "auto", 4, 1e4), "million"),
        (lambda: choose_exactly(lambda: small(model=part("baseline")), "always", "auto", 4, 1e4), "way of its own"),
    ],
)
def test_the_others_are_alone_and_the_sentence_says_why(chosen: Any, why: str) -> None:
    found: Choice = chosen()
    assert found.lanes == 1
    assert why in found.sentence


def test_a_kernel_that_lets_one_lane_change_anothers_bits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Static.run

    def neighbourly(static: Static) -> torch.Tensor:
        losses = run(static)
        return losses + 1e-5 * losses.mean()

    monkeypatch.setattr(Static, "run", neighbourly)
    found = choose_exactly(small, "always", "auto", 4, 400)
    assert found.lanes == 1
    assert "the loss of a lane has other last bits" in found.sentence


def test_trying_leaves_the_pack_as_it_was() -> None:
    found = choose_exactly(small, "always", "auto", 4, 400)
    example = small()
    block = found.packs[4].block
    assert all(torch.equal(row, example.weights.flat) for row in block.flat)
