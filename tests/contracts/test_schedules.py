"""Every schedule of the table is a pure function of progress; the numbers are those of torch's schedulers."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from nnopt_ray import tables
from nnopt_ray.tables import Part
from nnopt_ray.train import SCHEDULES
from nnopt_ray.train.schedules import Schedule


def build(name: str, **keys: Any) -> Schedule:
    made: Schedule = tables.build("schedule", Part(name, MappingProxyType(keys)))
    return made


def rates(make: Any, steps: int) -> list[float]:
    """What a torch scheduler sets in each step, of a base rate of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def factors(schedule: Schedule, steps_per_epoch: int, epochs: int) -> list[float]:
    steps = steps_per_epoch * epochs
    return [schedule.factor(step, steps_per_epoch, steps) for step in range(steps)]


@pytest.mark.parametrize("epochs", [1, 2, 13])
@pytest.mark.parametrize("steps_per_epoch", [1, 5, 18])
class TestTorchsNumbers:
    def test_step(self, steps_per_epoch: int, epochs: int) -> None:
        expected = rates(lambda o: lr_scheduler.StepLR(o, 3, gamma=0.3), epochs)
        assert factors(build("step", every_epochs=3, gamma=0.3), steps_per_epoch, epochs) == pytest.approx(
            [rate for rate in expected for _ in range(steps_per_epoch)], rel=1e-12
        )

    def test_exponential(self, steps_per_epoch: int, epochs: int) -> None:
        expected = rates(lambda o: lr_scheduler.ExponentialLR(o, 0.9), epochs)
        assert factors(build("exponential", gamma=0.9), steps_per_epoch, epochs) == pytest.approx(
            [rate for rate in expected for _ in range(steps_per_epoch)], rel=1e-12
        )

    @pytest.mark.parametrize("low", [0.0, 0.1])
    def test_cosine(self, steps_per_epoch: int, epochs: int, low: float) -> None:
        steps = steps_per_epoch * epochs
        expected = rates(lambda o: lr_scheduler.CosineAnnealingLR(o, steps, eta_min=low), steps)
        assert factors(build("cosine", min_factor=low), steps_per_epoch, epochs) == pytest.approx(expected, abs=1e-12)

    def test_multi_step(self, steps_per_epoch: int, epochs: int) -> None:
        expected = rates(lambda o: lr_scheduler.MultiStepLR(o, [2, 5, 11], gamma=0.3), epochs)
        assert factors(build("multi_step", milestones=(2, 5, 11), gamma=0.3), steps_per_epoch, epochs) == pytest.approx(
            [rate for rate in expected for _ in range(steps_per_epoch)], rel=1e-12
        )

    @pytest.mark.parametrize("power", [1.0, 0.5, 3.0])
    def test_polynomial(self, steps_per_epoch: int, epochs: int, power: float) -> None:
        steps = steps_per_epoch * epochs
        expected = rates(lambda o: lr_scheduler.PolynomialLR(o, steps, power), steps)
        assert factors(build("polynomial", power=power), steps_per_epoch, epochs) == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("factor", [1, 2, 3])
    def test_cosine_restarts(self, steps_per_epoch: int, epochs: int, factor: int) -> None:
        steps = steps_per_epoch * epochs
        expected = rates(
            lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2 * steps_per_epoch, factor, eta_min=0.1), steps
        )
        schedule = build("cosine_restarts", epochs=2, factor=factor, min_factor=0.1)
        assert factors(schedule, steps_per_epoch, epochs) == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("keys", [{}, {"pct_start": 0.5, "div_factor": 10.0, "final_div_factor": 100.0}], ids=str)
    def test_one_cycle(self, steps_per_epoch: int, epochs: int, keys: dict[str, float]) -> None:
        steps = steps_per_epoch * epochs
        if keys.get("pct_start", 0.3) * steps <= 1:
            pytest.skip("torch divides by zero, or extrapolates, where the rise has no step")
        expected = rates(
            lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=steps, cycle_momentum=False, **keys), steps
        )
        assert factors(build("one_cycle", **keys), steps_per_epoch, epochs) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
@settings(max_examples=60, deadline=None)
@given(steps_per_epoch=st.integers(1, 40), epochs=st.integers(1, 30), data=st.data())
def test_a_factor_is_a_pure_function_between_0_and_1(
    name: str, steps_per_epoch: int, epochs: int, data: st.DataObject
) -> None:
    steps = steps_per_epoch * epochs
    step = data.draw(st.integers(0, steps - 1))
    found = build(name).factor(step, steps_per_epoch, steps)
    assert math.isfinite(found)
    assert 0 <= found <= 1
    schedule = build(name)
    schedule.factor(0, steps_per_epoch, steps)
    assert schedule.factor(step, steps_per_epoch, steps) == found


@pytest.mark.parametrize("name", SCHEDULES)
def test_each_key_is_explained_and_has_a_default(name: str) -> None:
    model = tables.keys("schedule", name)
    for key, field in model.model_fields.items():
        assert f"\n    {key}: " in (model.__doc__ or ""), f"{key} is not explained"
        assert not field.is_required()
    model()


@pytest.mark.parametrize("name", SCHEDULES)
def test_only_the_plateau_watches_a_metric(name: str) -> None:
    watcher = build(name).plateau("val_loss", "min")
    assert (watcher is not None) == (name == "reduce_on_plateau")


def test_the_plateau_takes_its_keys() -> None:
    keys = {"factor": 0.5, "patience": 3, "min_lr": 1e-6, "cooldown": 1, "min_delta": 0.01}
    watcher = build("reduce_on_plateau", **keys).plateau("val_accuracy", "max")
    assert watcher is not None
    assert {key: getattr(watcher, key) for key in keys} == keys
    assert (watcher.monitor, watcher.mode) == ("val_accuracy", "max")
