"""Every loss of the table: the mean of a batch, exact means over batches, torch's numbers, clear refusals."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn

from nnopt_ray import tables
from nnopt_ray.data.types import Input, Shapes, Task
from nnopt_ray.errors import PartError
from nnopt_ray.tables import Part
from nnopt_ray.train import LOSSES
from nnopt_ray.train.losses import Loss

ROWS, CLASSES = 47, 4
TARGETS: dict[Task, int] = {"classification": CLASSES, "regression": 2}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in LOSSES),
    ("cross_entropy", {"label_smoothing": 0.2}),
    ("cross_entropy", {"class_weights": "balanced"}),
    ("cross_entropy", {"class_weights": (1.0, 2.0, 0.5, 3.0), "label_smoothing": 0.1}),
    ("huber", {"delta": 0.3}),
]


def shapes(task: Task) -> Shapes:
    return Shapes(task, (Input("table", (3,)),), TARGETS[task])


def batch(task: Task) -> tuple[Tensor, Tensor, np.ndarray | None]:
    draw = np.random.default_rng(0)
    outputs = torch.from_numpy(draw.normal(size=(ROWS, TARGETS[task])).astype(np.float32))
    if task == "regression":
        return outputs, torch.from_numpy(draw.normal(size=(ROWS, 2)).astype(np.float32)), None
    target = np.concatenate([np.arange(CLASSES), draw.choice(CLASSES, ROWS - CLASSES, p=[0.7, 0.1, 0.1, 0.1])])
    return outputs, torch.from_numpy(target), np.bincount(target, minlength=CLASSES)


def build(name: str, task: Task, counts: np.ndarray | None, **keys: Any) -> Loss:
    checked = {key: getattr(tables.keys("loss", name)(**keys), key) for key in keys}
    made: Loss = tables.build("loss", Part(name, MappingProxyType(checked)), shapes(task), counts)
    return made


CASES = [(name, keys, task) for name, keys in VARIANTS for task in TARGETS if task in tables.find("loss", name).tasks]


@pytest.mark.parametrize(("name", "keys", "task"), CASES, ids=str)
class TestContract:
    def test_scalar_with_a_gradient(self, name: str, keys: dict[str, Any], task: Task) -> None:
        outputs, target, counts = batch(task)
        outputs.requires_grad_()
        loss = build(name, task, counts, **keys)(outputs, target)
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        loss.backward()  # type: ignore[no-untyped-call]
        assert outputs.grad is not None
        assert outputs.grad.abs().sum() > 0

    @pytest.mark.parametrize("size", [1, 7, 46])
    def test_the_mean_over_batches_is_the_mean_over_all(
        self, name: str, keys: dict[str, Any], task: Task, size: int
    ) -> None:
        outputs, target, counts = batch(task)
        loss = build(name, task, counts, **keys)
        total = weights = 0.0
        for out, true in zip(outputs.split(size), target.split(size), strict=True):
            total += float(loss(out, true)) * float(loss.weight(true))
            weights += float(loss.weight(true))
        assert total / weights == pytest.approx(float(loss(outputs, target)), rel=1e-5)

    def test_good_outputs_cost_less(self, name: str, keys: dict[str, Any], task: Task) -> None:
        _, target, counts = batch(task)
        right = nn.functional.one_hot(target, CLASSES) * 4.0 if task == "classification" else target
        wrong = right.roll(1, dims=1) + 1.0
        loss = build(name, task, counts, **keys)
        assert float(loss(right, target)) < float(loss(wrong, target))


@pytest.mark.parametrize(
    ("name", "keys", "reference"),
    [
        ("auto", {}, nn.CrossEntropyLoss()),
        ("cross_entropy", {"label_smoothing": 0.2}, nn.CrossEntropyLoss(label_smoothing=0.2)),
        (
            "cross_entropy",
            {"class_weights": (1.0, 2.0, 0.5, 3.0), "label_smoothing": 0.1},
            nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.5, 3.0]), label_smoothing=0.1),
        ),
        ("auto", {}, nn.MSELoss()),
        ("mse", {}, nn.MSELoss()),
        ("mae", {}, nn.L1Loss()),
        ("huber", {"delta": 0.3}, nn.HuberLoss(delta=0.3)),
    ],
    ids=str,
)
def test_numbers_are_those_of_torch(name: str, keys: dict[str, Any], reference: nn.Module) -> None:
    task: Task = "classification" if isinstance(reference, nn.CrossEntropyLoss) else "regression"
    outputs, target, counts = batch(task)
    assert torch.equal(build(name, task, counts, **keys)(outputs, target), reference(outputs, target))


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    outputs, target, counts = batch("classification")
    weights = compute_class_weight("balanced", classes=np.arange(CLASSES), y=target.numpy())
    reference = nn.CrossEntropyLoss(torch.tensor(weights, dtype=torch.float32))
    found = build("cross_entropy", "classification", counts, class_weights="balanced")(outputs, target)
    assert float(found) == pytest.approx(float(reference(outputs, target)), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_each_key_is_explained(name: str) -> None:
    model = tables.keys("loss", name)
    for key in model.model_fields:
        assert f"\n    {key}: " in (model.__doc__ or ""), f"{key} is not explained"


def test_a_loss_of_another_task_is_refused() -> None:
    with pytest.raises(PartError, match=r"CrossEntropy is for classification, .*, and the task is regression"):
        build("cross_entropy", "regression", None)
    with pytest.raises(PartError, match=r"set train\.loss to auto"):
        build("mse", "classification", np.ones(CLASSES))


def test_class_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PartError, match="has 2 numbers, and the target has 4 classes"):
        build("cross_entropy", "classification", np.ones(CLASSES), class_weights=(1.0, 2.0))
    with pytest.raises(PartError, match="class number 2 has none"):
        build("cross_entropy", "classification", np.array([3, 1, 0, 2]), class_weights="balanced")
    with pytest.raises(ValueError, match="greater than 0"):
        build("cross_entropy", "classification", np.ones(CLASSES), class_weights=(1.0, 0.0, 1.0, 1.0))
