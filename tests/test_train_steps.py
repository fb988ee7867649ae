"""What an optimizer step takes and leaves: batches together, weight decay not on all weights."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from train_example import ACCURACY, MACHINE, Net, dataset, page, part

from nnopt_ray.data.types import Shapes
from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Train
from nnopt_ray.machine import derived_seed
from nnopt_ray.tables import build
from nnopt_ray.train.descent import Descent
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.weights import FlatWeights

QUIET = part("train_example:Net", dropout=0.0, norm=False)  # neither noise nor statistics of a batch


def trained(**keys: Any) -> Trainer:
    trainer = Trainer(page(**keys), dataset(), MACHINE, ACCURACY)
    while not trainer.done:
        trainer.run_epoch()
    return trainer


@pytest.mark.parametrize(
    "loss", [part("auto"), part("cross_entropy", class_weights=(1.0, 0.2, 5.0), label_smoothing=0.1)], ids=str
)
@pytest.mark.parametrize("optimizer", [part("sgd", lr=0.1, momentum=0.9), part("adam", lr=0.01)], ids=str)
def test_accumulated_batches_are_one_batch_of_all_their_rows(loss: Any, optimizer: Any) -> None:
    keys = {"model": QUIET, "loss": loss, "optimizer": optimizer, "clip_norm": 0.3, "schedule": part("cosine")}
    whole = trained(batch_size=60, **keys)  # 150 rows: 60, 60, 30
    parts = trained(batch_size=20, accumulate=3, **keys)  # 8 batches, the last of 10 rows; 3, 3 and 2 of them
    assert parts.sizes == [20] * 7 + [10]
    assert (parts.steps_per_epoch, parts.step) == (whole.steps_per_epoch, whole.step) == (3, 12)
    torch.testing.assert_close(parts.weights.flat, whole.weights.flat, rtol=1e-4, atol=1e-5)
    for one, two in zip(parts.history, whole.history, strict=True):
        assert one.lr == two.lr
        assert one.grad_norm == pytest.approx(two.grad_norm, rel=1e-4)
        assert one.metrics["train_loss"] == pytest.approx(two.metrics["train_loss"], rel=1e-4)
    assert parts.decided["batches"] == "3 steps an epoch of 3 batches each, 8 batches in all, the last of 10 rows"


def test_an_accumulated_step_by_hand() -> None:
    """Two batches of unequal size, one step of gradient descent: the gradient of the mean over all rows."""
    data = dataset(rows=50)
    trainer = trained_on(data, batch_size=30, accumulate=2, epochs=1, model=QUIET, optimizer=part("sgd", lr=0.5))
    torch.manual_seed(derived_seed(7, "weights"))
    model = Net(data.shapes, dropout=0.0, norm=False)
    cross_entropy(model(torch.tensor(data.train.inputs[0])), torch.tensor(data.train.target)).backward()  # type: ignore[no-untyped-call]
    for name, weight in trainer.weights.trainable:
        before = model.get_parameter(name)
        assert before.grad is not None
        torch.testing.assert_close(weight, before - 0.5 * before.grad, rtol=1e-5, atol=1e-6)


def trained_on(data: Any, **keys: Any) -> Trainer:
    trainer = Trainer(page(**keys), data, MACHINE, ACCURACY)
    trainer.run_epoch()
    return trainer


def test_warm_up_counts_optimizer_steps() -> None:
    trainer = Trainer(page(batch_size=10, accumulate=5, warmup_epochs=2), dataset(), MACHINE, ACCURACY)
    assert trainer.steps_per_epoch == 3
    assert [trainer.rates.at(step, trainer.steps_per_epoch, trainer.base_lr) for step in range(7)] == pytest.approx(
        [0.01 * n / 6 for n in range(1, 7)] + [0.01]
    )


def test_more_batches_a_step_than_an_epoch_has_are_refused() -> None:
    with pytest.raises(UserError, match=r"train\.accumulate is 6, and an epoch has 5 batches of 32 rows"):
        Trainer(page(accumulate=6), dataset(), MACHINE, ACCURACY)


# ── weight decay ─────────────────────────────────────────────────────────────────────────────────────


class Everything(nn.Module):
    """A weight of each kind, in an order that mixes those that decay with those that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.LayerNorm((2, 4))
        self.conv = nn.Conv2d(2, 3, 2)
        self.batch = nn.BatchNorm2d(3)
        self.attention = nn.MultiheadAttention(4, 2)
        self.scale = nn.Parameter(torch.ones(5))
        self.code = nn.Embedding(6, 2)
        self.lstm = nn.LSTM(2, 3)


LEFT_OUT = {
    "scale", "first.bias", "norm.weight", "norm.bias", "conv.bias", "batch.weight", "batch.bias",
    "attention.in_proj_bias", "attention.out_proj.bias", "lstm.bias_ih_l0", "lstm.bias_hh_l0",
}  # fmt: skip


TORCH: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


def flat() -> FlatWeights:
    torch.manual_seed(0)
    model = Everything()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1, 1)
    return FlatWeights(model)


def test_biases_and_the_weights_of_norms_lie_behind_all_others() -> None:
    weights = flat()
    ends = list(accumulate(parameter.numel() for _, parameter in weights.trainable))
    behind = {name for (name, _), end in zip(weights.trainable, ends, strict=True) if end > weights.decaying}
    assert behind == LEFT_OUT
    assert weights.decaying in ends


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("adam", {"weight_decay": 0.1}),
        ("adamw", {"weight_decay": 0.1}),
        ("sgd", {"weight_decay": 0.1, "momentum": 0.9, "nesterov": True}),
        ("rmsprop", {"weight_decay": 0.1, "centered": True}),
    ],
)
@pytest.mark.parametrize("on", ["weights", "all"])
def test_the_steps_are_those_of_torchs_parameter_groups(name: str, keys: dict[str, Any], on: str) -> None:
    ours, theirs = flat(), flat()
    optimizer = build("optimizer", part(name, lr=0.01, **keys))
    descent, slots = Descent(Train(weight_decay_on=on), optimizer, ours), optimizer.slots(ours.flat)  # type: ignore[arg-type]
    named = theirs.model.named_parameters()
    groups: dict[bool, list[Tensor]] = {False: [], True: []}
    for parameter_name, parameter in named:
        groups[on == "weights" and parameter_name in LEFT_OUT].append(parameter)
    exempt = [{"params": groups[True], "weight_decay": 0.0}] if groups[True] else []
    reference = TORCH[name]([{"params": groups[False]}, *exempt], lr=0.01, **keys)
    for step in range(1, 31):
        noise = torch.randn(ours.flat.shape, generator=torch.Generator().manual_seed(step))
        theirs.gradient.copy_(noise)
        reference.step()
        descent.update(ours.flat, noise, slots, step, 0.01)
        if step == 15:  # in other memory, as a lane's are when it goes into a pack
            slots = {key: slot.clone() for key, slot in slots.items()}
    torch.testing.assert_close(ours.flat, theirs.flat, rtol=1e-5, atol=2e-6)


# ── L1 ───────────────────────────────────────────────────────────────────────────────────────────────


class Linear(nn.Module):
    """y = x w, no bias: with squared error and the L1 penalty the lasso."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.out = nn.Linear(shapes.features, shapes.outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(x)
        return out


def test_proximal_gradient_descent_finds_the_lasso() -> None:
    """scikit-learn minimizes |y - xw|² / (2 rows) + alpha |w|, half of mean squared error and of an L1 of 2 alpha."""
    from sklearn.linear_model import Lasso

    data = dataset("regression")
    alpha = 0.3
    lasso = Lasso(alpha=alpha, fit_intercept=False, tol=1e-10).fit(data.train.inputs[0], data.train.target[:, 0])
    keys = {"batch_size": 150, "epochs": 200, "optimizer": part("sgd", lr=0.1), "l1": 2 * alpha}
    found = {}
    for form in ("proximal", "subgradient"):
        experiment = page(model=part("test_train_steps:Linear"), l1_form=form, objective="minimize val_loss", **keys)
        trainer = Trainer(experiment, data, MACHINE, {})
        while not trainer.done:
            trainer.run_epoch()
        found[form] = trainer
    weights = found["proximal"].weights.flat
    np.testing.assert_allclose(weights.numpy(), lasso.coef_, atol=1e-5)
    assert list(weights.numpy() == 0) == list(lasso.coef_ == 0)
    assert 0 < float((weights == 0).float().mean()) < 1
    assert found["proximal"].history[-1].metrics["sparsity"] == float((weights == 0).double().mean())
    assert found["subgradient"].history[-1].metrics["sparsity"] == 0.0


def test_a_soft_threshold_by_hand() -> None:
    weights = flat()
    before = weights.flat.clone()
    optimizer = build("optimizer", part("sgd", lr=0.5))
    descent = Descent(Train(l1=0.4, l1_form="proximal"), optimizer, weights)
    assert descent.limit(weights.flat, torch.zeros_like(before)) == 0  # no part of the gradient, nor of its norm
    descent.update(weights.flat, torch.zeros_like(before), {}, 1, 0.5)
    expected = before.sign() * (before.abs() - 0.2).clamp(min=0)
    assert torch.equal(weights.flat, expected)
    assert weights.sparsity() == pytest.approx(float((before.abs() <= 0.2).double().mean()))
    weights.flat[:4] = torch.tensor([0.0, 1e-9, -1e-9, 1e-7])
    assert weights.sparsity() * len(before) - int((weights.flat[4:] == 0).sum()) == pytest.approx(3)


def test_sparsity_is_measured_only_where_the_page_asks_for_it() -> None:
    assert "sparsity" not in trained(epochs=1).history[0].metrics
