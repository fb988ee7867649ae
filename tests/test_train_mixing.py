"""Mixtures of rows: what is mixed, by how much, and what the loss makes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lane_example import made
from pack_example import alone, differences, together
from scipy import stats
from torch.nn.functional import cross_entropy, mse_loss, one_hot
from train_example import ACCURACY, MACHINE, Named, dataset, page, part

from nnopt_ray.data.types import Input
from nnopt_ray.errors import UserError
from nnopt_ray.recipe import Mix
from nnopt_ray.train.lanes import CannotFuse, Shape
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.mixing import Mixer, box

IMAGES = made("classification", (Input("image", (2, 6, 8)),))


def mixer(type_: str, alpha: float | None = None) -> Mixer:
    return Mixer(Mix(type=type_, alpha=alpha), IMAGES.shapes)  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**40), rows=st.integers(1, 9), alpha=st.sampled_from([0.1, 1.0, 5.0]))
def test_mixup_is_the_weighted_mean_of_two_rows_of_the_batch(seed: int, rows: int, alpha: float) -> None:
    x, y = torch.randn(rows, 2, 6, 8), torch.arange(rows)  # a target tells which row it is
    (found,), (other, share) = mixer("mixup", alpha).mix((x,), y, Mixer.draws(seed))
    assert sorted(other.tolist()) == list(range(rows))
    assert 0 <= share <= 1
    torch.testing.assert_close(found, share * x + (1 - share) * x[other])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**40), rows=st.integers(1, 9))
def test_cutmix_puts_one_box_of_another_image_there_and_counts_its_pixels(seed: int, rows: int) -> None:
    x = torch.arange(rows).float().view(-1, 1, 1, 1).expand(rows, 2, 6, 8).clone()
    before = x.clone()
    (found,), (other, share) = mixer("cutmix").mix((x,), torch.arange(rows), Mixer.draws(seed))
    assert torch.equal(x, before)
    for row in range(rows):
        foreign = found[row, 0] == other[row]
        assert torch.equal(found[row, 0], found[row, 1])
        assert set(found[row].unique().tolist()) <= {float(row), float(other[row])}
        if other[row] != row:
            assert float(share) == pytest.approx(1 - foreign.float().mean().item())
            whole = foreign.any(1, keepdim=True) & foreign.any(0, keepdim=True)
            assert torch.equal(whole, foreign)  # a rectangle


def test_shares_come_from_the_beta_distribution() -> None:
    draws, mix = Mixer.draws(3), mixer("mixup", 0.4)
    x, y = torch.zeros(2, 2, 6, 8), torch.zeros(2, dtype=torch.int64)
    shares = [float(mix.mix((x,), y, draws)[1][1]) for _ in range(800)]
    assert stats.kstest(shares, stats.beta(0.4, 0.4).cdf).pvalue > 0.01
    assert (mixer("mixup").alpha, mixer("cutmix").alpha) == (0.2, 1.0)


def test_a_box_has_the_area_that_it_should_where_it_lies_inside() -> None:
    """Of images so large that pixels do not matter: a share of 0.75 leaves a quarter, half of each side."""
    inside = [box(1000, 2000, 0.75, Mixer.draws(seed)) for seed in range(60)]
    whole = [(b - t, r - left) for t, b, left, r in inside if t > 0 and b < 1000 and left > 0 and r < 2000]
    assert whole
    assert set(whole) == {(500, 1000)}


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_mixed_loss_is_that_of_the_mixed_target(task: str) -> None:
    data = dataset(task)
    trainer = Trainer(page(mix=Mix(type="mixup", alpha=1.0)), data, MACHINE, {})
    assert trainer.feed.mixer is not None
    x, y = torch.tensor(data.train.inputs[0][:20]), torch.tensor(data.train.target[:20])
    inputs, (other, share) = trainer.feed.mixer.mix((x,), y, Mixer.draws(1))
    trainer.model.eval()
    loss = trainer._loss_of(inputs, y, (other, share))
    loss.backward()  # type: ignore[no-untyped-call]
    found = trainer.weights.gradient.clone()
    trainer.weights.gradient.zero_()
    if task == "classification":
        target = share * one_hot(y, 3) + (1 - share) * one_hot(other, 3)
        expected = cross_entropy(trainer.model(*inputs), target)  # torch takes probabilities too
        torch.testing.assert_close(loss, expected)
    else:
        expected = mse_loss(trainer.model(*inputs), share * y + (1 - share) * other)
    expected.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, trainer.weights.gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("how", [{"accumulate": 2}, {}], ids=str)
def test_training_on_mixtures_learns_and_follows_from_the_seed(task: str, how: dict[str, Any]) -> None:
    def trained(seed: int) -> Trainer:
        experiment = page(epochs=8, seed=seed, mix=Mix(type="mixup", alpha=1.0), **how)
        metrics: Any = (
            ACCURACY if task == "classification" else {"mae": Named("min", lambda o, t: np.abs(o - t).mean())}
        )
        trainer = Trainer(experiment, dataset(task), MACHINE, metrics)
        while not trainer.done:
            trainer.run_epoch()
        return trainer

    one, again, other = trained(7), trained(7), trained(8)
    assert torch.equal(one.weights.flat, again.weights.flat)
    assert not torch.equal(one.weights.flat, other.weights.flat)
    losses = [epoch.metrics["val_loss"] for epoch in one.history]
    assert losses[-1] < 0.9 * losses[0]
    assert one.history[-1].metrics["train_loss"] > one.history[-1].metrics["val_loss"]  # of mixtures, hard to tell


@pytest.mark.parametrize(
    ("inputs", "type_", "told"),
    [
        ((Input("table", (4,)), Input("categories", (2,), (5, 3))), "mixup", "needs rows that are numbers"),
        ((Input("table", (4,)),), "cutmix", "this data has no images"),
    ],
)
def test_what_cannot_be_mixed_is_refused(inputs: tuple[Input, ...], type_: str, told: str) -> None:
    data = made("classification", inputs)
    with pytest.raises(UserError, match=told):
        Trainer(page(model=part("mlp"), mix=Mix(type=type_)), data, MACHINE, {})  # type: ignore[arg-type]


IMAGES = made("classification", (Input("image", (2, 8, 8)),), rows=150)
NUMBERS = made("regression", (Input("table", (20,)),), rows=150)
MIXES: dict[str, tuple[Any, list[Mix]]] = {
    "both": (IMAGES, [Mix(type="mixup"), Mix(type="cutmix"), Mix(type="mixup", alpha=3.0)]),
    "regression": (NUMBERS, [Mix(type="mixup", alpha=alpha) for alpha in (0.1, 1.0, 4.0)]),
}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("data", MIXES)
@pytest.mark.parametrize("how", [{}, {"accumulate": 2}, {"loss": part("cross_entropy", label_smoothing=0.1)}], ids=str)
def test_each_lane_mixes_as_it_does_alone(data: str, how: dict[str, Any]) -> None:
    rows, mixes = MIXES[data]
    if "loss" in how and rows is NUMBERS:
        how = {"loss": part("huber", delta=0.7)}
    mlp = part("mlp", widths=(16,), dropout=0.1)
    pages = [page(model=mlp, mix=mix, seed=seed, **how) for seed, mix in enumerate(mixes)]
    for experiment, lane in zip(pages, together(pages, rows, 2), strict=True):
        found = differences(alone(experiment, rows), lane)
        assert found.pop("train_loss") < 1e-6
        assert max(found.values()) <= (0.0 if rows is IMAGES else 2e-5), found


def test_mixed_and_unmixed_trainings_do_not_share_a_pack() -> None:
    mixing, plain = (Trainer(page(model=part("mlp"), **how), dataset(), MACHINE, ACCURACY) for how in (MIXED, {}))
    for one, two in ((mixing, plain), (plain, mixing)):
        with pytest.raises(CannotFuse, match="it has another kind of rows"):
            Shape(one).refuse_other(two)


MIXED = {"mix": Mix(type="mixup")}
