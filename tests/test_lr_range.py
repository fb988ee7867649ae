"""The learning-rate range test: a parabola whose rates are known, torch.optim as reference, what it must not do."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from train_example import MACHINE, dataset, page, part

import nnopt_ray
from nnopt_ray import reading
from nnopt_ray.cli import main
from nnopt_ray.data.types import Dataset, Input, Rows, Shapes
from nnopt_ray.errors import PartError, RunFailed, UserError
from nnopt_ray.machine import derived_seed
from nnopt_ray.train import lr_range
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.lr_range import LrRange


class Scalar(nn.Module):
    """One weight, from 0: outputs are weight * x."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Raises(Scalar):
    def forward(self, x: Tensor) -> Tensor:
        raise ArithmeticError("no forward today")


class Constant(nn.Module):
    """Its loss does not hang on the rate: the weight is multiplied by 0."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shapes.outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :1] * 0 + 0 * self.weight


SCALAR, CONSTANT = part(f"{__name__}:Scalar"), part(f"{__name__}:Constant")


def parabola(curvature: float) -> Dataset:
    """Rows that are all alike; the loss of a weight w is (c*w - 1)^2 with 2*c^2 = curvature."""
    made = dataset("regression")
    x = np.full((150, 1), (curvature / 2) ** 0.5, np.float32)
    train = Rows((x,), np.ones((150, 1), np.float32), np.arange(150))
    return replace(made, shapes=Shapes("regression", (Input("table", (1,)),), 1), train=train, validation=train)


def swept(data: Dataset, low: float = 1e-6, high: float = 1e2, steps: int = 81, **said: Any) -> LrRange:
    return lr_range.sweep(page(**said), data, MACHINE, {}, low, high, steps)


@pytest.mark.parametrize("curvature", [0.2, 2.0, 20.0])
def test_a_parabola_is_given_a_rate_at_which_gradient_descent_converges_quickly(curvature: float) -> None:
    """Gradient descent on a curvature k converges below 2/k, and lands at once at 1/k."""
    found = swept(parabola(curvature), model=SCALAR, optimizer=part("sgd", lr=1.0))
    assert found.suggested is not None
    assert found.minimum is not None
    assert 1 / (50 * curvature) < found.suggested < 1 / curvature
    # A step of the test is a factor of 1.26: one as a loss is taken before its step, one as it is smoothed.
    assert 1 / (2 * curvature) < found.minimum < 2 * 1.26**2.5 / curvature
    assert 2 / curvature < found.lr[-1] < 50 / curvature  # and it goes on until that is seen
    assert "times its least" in found.stopped


def test_a_steeper_parabola_is_the_same_curve_at_lower_rates() -> None:
    said = {"model": SCALAR, "optimizer": part("sgd", lr=1.0)}
    flat = swept(parabola(2.0), low=1e-5, high=1e3, **said)
    steep = swept(parabola(20.0), low=1e-6, high=1e2, **said)
    assert np.allclose(flat.loss[:50], steep.loss[:50], rtol=1e-3)  # then rounding is all there is
    assert flat.suggested == pytest.approx(10 * (steep.suggested or 0))


def test_the_curve_is_that_of_torch_optim() -> None:
    data, said = dataset(), page(optimizer=part("adam", lr=0.5), clip_norm=1.0)
    found = lr_range.sweep(said, data, MACHINE, {}, 1e-4, 1e-1, 20)
    model = Trainer(said, data, MACHINE, {}).model  # same seed, same first weights
    optimizer = torch.optim.Adam(model.parameters())
    losses: list[float] = []
    for epoch in range(5):
        order = torch.randperm(150, generator=torch.Generator().manual_seed(derived_seed(7, "order", epoch)))
        torch.manual_seed(derived_seed(7, "noise", epoch))
        for chosen in order.split(32):
            optimizer.param_groups[0]["lr"] = found.lr[min(len(losses), 19)]
            optimizer.zero_grad()
            rows, target = torch.from_numpy(data.train.inputs[0])[chosen], torch.from_numpy(data.train.target)[chosen]
            loss = nn.functional.cross_entropy(model.train()(rows), target)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
    assert np.allclose(found.loss, losses[:20], rtol=1e-4)
    assert np.allclose(found.lr, np.geomspace(1e-4, 1e-1, 20))


def test_it_is_the_same_every_time_and_sees_training_rows_only() -> None:
    data = dataset()
    torch.manual_seed(1)
    first = swept(data)
    torch.manual_seed(2)
    blind = replace(
        data, validation=replace(data.validation, inputs=(np.full_like(data.validation.inputs[0], np.nan),))
    )
    assert swept(blind) == first
    assert swept(data, seed=8) != first


def test_a_network_that_learns_nothing_is_given_no_rate() -> None:
    for seed in range(8):  # the batches differ, and one of them is the lowest
        found = swept(dataset("regression"), model=CONSTANT, seed=seed)
        assert found.suggested is None
        assert "never fell" in found.why


def test_a_loss_that_is_no_number_ends_it() -> None:
    found = swept(dataset("regression"), low=1e30, high=1e36, optimizer=part("sgd", lr=1.0))
    assert found.suggested is None
    assert found.stopped
    assert all(np.isfinite(found.loss))


def test_the_smoothed_curve_does_not_lag() -> None:
    """A loss that is a straight line of the step stays that line."""
    line = [1.0 - 0.01 * step for step in range(30)]
    assert np.allclose(lr_range._smoothed(line), line)


def test_a_model_without_steps_has_no_rate() -> None:
    with pytest.raises(PartError, match="not trained step by step"):
        swept(dataset(), model=part("baseline"))


DIGITS = {"data": {"source": {"type": "sklearn", "name": "digits"}, "steps": ["scale"]}, "model": "mlp"}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_on_digits_the_suggested_rate_learns_where_far_ones_do_not(optimizer: str) -> None:
    def loss(rate: float) -> float:
        from nnopt_ray.assembly import machine_for
        from nnopt_ray.pipeline import prepared

        tree = {**DIGITS, "train": {"epochs": 10, "optimizer": {"type": optimizer, "lr": rate}}}
        experiment = reading.from_tree(tree)
        trainer = Trainer(experiment, prepared(experiment), machine_for(experiment), {})
        while not trainer.done:
            trainer.run_epoch()
        return trainer.best_value

    found = nnopt_ray.lr_range_test(reading.from_tree({**DIGITS, "train": {"optimizer": optimizer}}))
    assert found.suggested is not None
    assert loss(found.suggested) < 0.6 < loss(found.suggested / 100)
    assert found.minimum is not None
    assert found.lr[-1] > found.minimum


# As a verb


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NNOPT_RUNS", raising=False)
    file = tmp_path / "page.yaml"
    file.write_text("data: {source: {type: sklearn, name: wine}, steps: [scale]}\nmodel: {type: mlp, widths: [8]}\n")
    return file


def test_the_verb_says_what_to_write_and_leaves_no_file(text: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.code(["lr", str(text)]) == 0
    said = capfd.readouterr().out
    assert list(text.parent.iterdir()) == [text]
    setting = said.rpartition("--set '")[2].partition("'")[0]
    assert f"lr: {reading.load(text, set=[setting]).train.optimizer['lr']:g}}}}}" in said


def test_the_verb_gives_one_object_and_a_table(text: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.code(["lr", str(text), "--steps", "30", "--json", "-o", "curve.csv"]) == 0
    told = json.loads(capfd.readouterr().out)
    with open("curve.csv", encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert rows == told["curve"]
    assert told["ok"] is True
    assert len(rows) <= 30
    assert told["suggested"] == reading.load(text, set=[told["set"]]).train.optimizer["lr"]


def test_a_choice_of_optimizers_is_closed_to_its_first(text: Path, capfd: pytest.CaptureFixture[str]) -> None:
    optimizers = "train.optimizer={choice: [{type: sgd, momentum: 0.9}, adam]}"
    assert main.code(["lr", str(text), "--json", "--set", optimizers]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["optimizer"] == "sgd"
    loaded = reading.load(text, set=[optimizers, told["set"]])
    assert (loaded.train.optimizer.type, loaded.train.optimizer["lr"]) == ("sgd", told["suggested"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--from", "1", "--to", "0.1"], "must grow from above 0"),
        (["--from", "0"], "must grow from above 0"),
        (["--steps", "3"], "at least 20 steps"),
        (["-o", "curve.html"], "a .csv file"),
        (["-o", "nowhere/curve.csv"], "a folder that is there"),
    ],
)
def test_what_makes_no_test_is_refused(
    words: list[str], sentence: str, text: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main.code(["lr", str(text), *words]) == 2
    assert sentence in capfd.readouterr().err


def test_a_fault_in_a_model_of_ones_own_is_named_with_its_line() -> None:
    own = reading.from_tree({**DIGITS, "model": f"{__name__}:Raises"})
    with pytest.raises(RunFailed, match=r"no forward today \(test_lr_range\.py:\d+\)"):
        nnopt_ray.lr_range_test(own)
    with pytest.raises(UserError, match="must grow"):
        nnopt_ray.lr_range_test(own, low=1.0, high=float("inf"))
