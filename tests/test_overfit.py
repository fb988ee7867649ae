"""The check of `nnopt plan` that a network can learn a few rows by heart: who can, who cannot, and why it says so."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from train_example import MACHINE, dataset, page, part

from nnopt_ray import reading
from nnopt_ray.cli import main
from nnopt_ray.data.types import Dataset, Input, Rows, Shapes
from nnopt_ray.search import overfit as checking
from nnopt_ray.search.overfit import Overfit


class Blind(nn.Module):
    """Its outputs hang on its weights and not on its inputs."""

    def __init__(self, shapes: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(shapes.features, shapes.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1) * 0)


class Narrow(nn.Module):
    """One number between the inputs and the outputs, cut to its sign: two answers at most."""

    def __init__(self, shapes: Any) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(shapes.features, 1), nn.Linear(1, shapes.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x.flatten(1)).sign())


class Frozen(Narrow):
    def __init__(self, shapes: Any) -> None:
        super().__init__(shapes)
        self.first.requires_grad_(False)


class Raises(Blind):
    def forward(self, x: Tensor) -> Tensor:
        raise ArithmeticError("no forward today")


class Noisy(nn.Module):
    """Most of it is dropout, which this check turns off, also within the recurrent layer."""

    def __init__(self, shapes: Any) -> None:
        super().__init__()
        self.layer = nn.LSTM(1, 16, 2, batch_first=True, dropout=0.9)
        self.dropout = nn.Dropout(0.9)
        self.head = nn.Linear(16, shapes.outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.dropout(self.layer(x.flatten(1)[:, :, None])[0][:, -1]))
        return out


def checked(model: str = "mlp", data: Dataset | None = None, lr_is_open: bool = False, **said: Any) -> Overfit:
    """The verdict after so many steps as a clock allows that shows a millisecond more each time it is asked."""
    torch.set_num_threads(1)
    made = part(f"{__name__}:{model}") if model[0].isupper() else part(model)
    clock = SimpleNamespace(
        thread_time=(1e-3 * number for number in itertools.count()).__next__, perf_counter=lambda: 0
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checking, "time", clock)
        patch.setattr(checking, "TRY_S", 0.5)
        found = checking.overfit(page(model=made, **said), data or dataset(), MACHINE, lr_is_open=lr_is_open)
    assert found is not None
    return found


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_good_page_can(task: str, optimizer: str) -> None:
    found = checked(data=dataset(task), optimizer=part(optimizer, lr=0.02))
    assert found.reached is True
    assert found.told.startswith("yes")
    assert found.loss < found.floor


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_network_that_ignores_its_inputs_is_found_out(task: str) -> None:
    found = checked("Blind", data=dataset(task))
    assert found.reached is False
    assert "every row the same answer" in found.told
    # What it ends with is what the check says needs no network: the entropy of the classes, the variance.
    assert found.loss == pytest.approx(found.floor, rel=0.02)


def test_a_rate_that_does_not_fit_is_told_from_a_network_that_cannot() -> None:
    for lr in (1e-9, 1e4):
        found = checked(optimizer=part("sgd", lr=lr))
        assert found.reached is False
        assert "train.optimizer" in found.told
    assert "train.optimizer" not in checked("Narrow").told


def test_a_network_that_is_too_small_or_frozen_is_told() -> None:
    assert "too small" in checked("Narrow").told
    assert "too few of its weights are free" in checked("Frozen").told


def test_a_rate_that_is_searched_is_not_judged() -> None:
    found = checked(optimizer=part("sgd", lr=1e-9), lr_is_open=True)
    assert found.reached is True
    assert "Adam" in found.told


def test_dropout_warm_up_and_averages_are_left_out() -> None:
    assert checked("Noisy", optimizer=part("adam", lr=0.02), warmup_epochs=100.0).reached is True


def test_a_rate_that_is_only_slow_is_not_judged() -> None:
    found = checked(data=dataset("regression"), optimizer=part("sgd", lr=3e-4))
    assert found.reached is None
    assert "still falling" in found.told


def test_rows_that_ask_for_the_same_or_models_without_steps_are_no_matter() -> None:
    data = dataset()
    same = replace(data, train=replace(data.train, target=np.zeros_like(data.train.target)))
    assert checking.overfit(page(model=part("mlp")), same, MACHINE, lr_is_open=False) is None
    assert checking.overfit(page(model=part("baseline")), data, MACHINE, lr_is_open=False) is None
    raises = reading.from_tree({"data": {"source": {"type": "sklearn", "name": "wine"}}, "model": f"{__name__}:Raises"})
    assert checking.overfit(raises, data, MACHINE, lr_is_open=False) is None


def test_the_rows_differ_and_ask_for_all_they_can() -> None:
    """A part sorted by its classes, with every row twice."""
    target = np.repeat(np.arange(4), 16)
    x = np.repeat(np.arange(32, dtype=np.float32), 2)[:, None]
    rows = checking._rows(Rows((x,), target, np.arange(64)))
    assert len(rows) == checking.ROWS
    assert len(set(x[rows, 0])) == checking.ROWS
    assert np.bincount(target[rows]).tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("model", ["bert", "gpt"])
def test_texts_too(model: str) -> None:
    draw = np.random.default_rng(0)
    tokens = draw.integers(1, 20, (40, 9))
    language = model == "gpt"
    shapes = Shapes(
        "language_modelling" if language else "classification", (Input("tokens", (8,), (20,)),), 20 if language else 2
    )
    target = tokens[:, 1:] if language else draw.integers(0, 2, 40)
    rows = Rows((tokens[:, :8],), target, np.arange(40))
    data = replace(dataset(), shapes=shapes, train=rows, validation=rows)
    assert checked(model, data=data, optimizer=part("adam", lr=3e-3)).reached is True


# As part of a plan

PAGE = "data: {source: {type: sklearn, name: wine}, steps: [scale]}\nmodel: {type: mlp, widths: [8]}\n"


def test_the_plan_says_it_and_leaves_it_out_when_asked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "page.yaml"
    file.write_text(PAGE)
    assert main.code(["plan", str(file), "--set", "model.dropout={uniform: [0, 0.5]}", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["overfit"]["reached"] is True
    assert main.code(["plan", str(file), "--no-overfit", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["overfit"] is None
    assert main.code(["plan", str(file)]) == 0
    assert "overfits    yes" in capfd.readouterr().out


def test_a_plan_stays_quick_where_a_network_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "TRY_S", 0.3)
    from nnopt_ray.search.plan import plan

    experiment = reading.from_tree(
        {"data": {"source": {"type": "sklearn", "name": "wine"}, "steps": ["scale"]}, "model": f"{__name__}:Blind"}
    )
    began = time.perf_counter()
    plan(experiment, overfit=False)
    without = time.perf_counter() - began
    found = plan(experiment)
    assert found.overfit is not None
    assert found.overfit.reached is False
    assert found.exit_code == 0
    assert time.perf_counter() - began < 2 * without + 2 * 0.3 + 2
    assert torch.is_grad_enabled()
