"""float16: torch.amp.GradScaler's rules, decision for decision, and trainings that compute in it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from train_example import ACCURACY, MACHINE, Net, dataset, page, part

from nnopt_ray.errors import NotANumber, PartError
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.precision import LossScale

HALF = dataclasses.replace(MACHINE, precision="float16")


@pytest.mark.parametrize("seed", range(5))
def test_steps_and_scales_are_those_of_torchs_grad_scaler(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LossScale, "INTERVAL", 3)
    ours, theirs = LossScale(), torch.amp.GradScaler("cpu", growth_interval=3)
    weight = nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    draw = torch.Generator().manual_seed(seed)
    mine = torch.zeros(4)
    for _ in range(60):
        gradient = torch.randn(4, generator=draw)
        if torch.rand((), generator=draw) < 0.2:
            gradient[1] = float("inf") if torch.rand((), generator=draw) < 0.5 else float("nan")
        assert ours.value == float(theirs.scale(torch.ones(1)))
        weight.grad = gradient * ours.value
        theirs.step(optimizer)
        theirs.update()
        scaled = gradient * ours.value
        if ours.unscale(scaled):
            mine -= scaled
        assert torch.equal(mine, weight.detach())
    assert ours.value == theirs.get_scale()


class Large(Net):
    """Gradients that float16 does not hold when the loss is made 2^16 times as large."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 30


def trained(**keys: Any) -> Trainer:
    trainer = Trainer(page(**keys), dataset(), HALF, ACCURACY)
    while not trainer.done:
        trainer.run_epoch()
    return trainer


def test_training_in_float16_is_near_that_in_float32() -> None:
    half = trained(epochs=3)
    exact = Trainer(page(epochs=3), dataset(), MACHINE, ACCURACY)
    while not exact.done:
        exact.run_epoch()
    assert half.weights.flat.dtype == torch.float32
    assert half.history[-1].metrics["val_loss"] == pytest.approx(exact.history[-1].metrics["val_loss"], rel=0.01)
    assert not torch.equal(half.weights.flat, exact.weights.flat)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_that_overflow_are_skipped_and_said(accumulate: int) -> None:
    trainer = trained(model=part("test_train_precision:Large"), epochs=2, accumulate=accumulate, batch_size=8)
    assert trainer.scale is not None
    events = [event for epoch in trainer.history for event in epoch.events]
    skipped = sum(int(event.rpartition(" ")[2]) for event in events)
    first = int(events[0].rpartition(" ")[2])
    assert events[0] == f"loss scale 65536 → {2.0 ** (16 - first):g}, steps skipped: {first}"
    assert trainer.scale.value == 2.0 ** (16 - skipped)
    assert trainer.step == 2 * trainer.steps_per_epoch - skipped > 0  # what was skipped is no step of the optimizer
    assert trainer.weights.flat.isfinite().all()


class Infinite(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float("inf")


def test_what_no_scale_cures_is_said() -> None:
    with pytest.raises(NotANumber, match=r"the gradient became nan in epoch 3, step 1 .* Lower train\.optimizer\.lr"):
        trained(model=part("test_train_precision:Infinite"), epochs=9, batch_size=32)


class Missing(Net):
    """As an LSTM on a CPU whose oneDNN has none in float16."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("could not create a primitive descriptor for the LSTM forward propagation primitive.")


def test_a_layer_that_has_no_float16_is_named_in_words() -> None:
    with pytest.raises(PartError, match="has a layer that torch cannot compute in float16 on this cpu: set train"):
        trained(model=part("test_train_precision:Missing"), epochs=1)
