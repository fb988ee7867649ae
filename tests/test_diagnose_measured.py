"""What is measured for the diagnosis, against plain torch, scikit-learn, pandas and networks known by heart."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import diagnose_example as example
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier
from sklearn.metrics import log_loss, r2_score
from torch import Tensor, nn
from torch.nn import functional

from nnopt_ray import assembly, machine, reading, tables
from nnopt_ray.data import prepare
from nnopt_ray.data.types import Dataset, DataSummary, Input, Rows, Shapes
from nnopt_ray.evaluate import measured, probe, same_rows
from nnopt_ray.evaluate.page_line import branch_of, proposed

CLASSES = Shapes("classification", (Input("table", (6,)),), 3)


class Known(nn.Module):
    """A function of relu and a module of it; the third unit of the first layer never speaks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.act, self.dropout = nn.ReLU(), nn.Dropout(0.5)
        with torch.no_grad():
            self.first.bias[2] = -1e3
            self.second.weight.zero_()
            self.second.bias.fill_(-1.0)

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self.head(self.dropout(self.act(self.second(functional.relu(self.first(x))))))
        return said


def rows(count: int, seed: int = 0, inputs: np.ndarray | None = None) -> Rows:
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 6)).astype(np.float32) if inputs is None else inputs
    return Rows((x,), random.integers(0, 3, count), np.arange(count))


def dataset(train: Rows, validation: Rows, test: Rows, shapes: Shapes = CLASSES) -> Dataset:
    sizes = {"train": len(train), "validation": len(validation), "test": len(test)}
    summary = DataSummary("rows", sum(sizes.values()), shapes.task, "target", (), sizes)
    names = tuple(f"x{i}" for i in range(6))
    return Dataset(
        Path(), "made", shapes, train, validation, test, ("a", "b", "c"), np.zeros(1), np.ones(1), names, summary
    )


def loss(shapes: Shapes = CLASSES) -> Any:
    return tables.build("loss", reading.from_tree(PAGE).train.loss, shapes, np.ones(3))


PAGE = {"data": {"source": {"type": "sklearn", "name": "wine"}}, "model": "mlp"}


def test_layers_are_measured_as_torch_does_it_by_hand() -> None:
    model = Known().train()
    data = dataset(rows(40), rows(5), rows(5))
    batches = probe.batches_of(data, data.train, "cpu", batch_size=16)
    assert [len(target) for _, target in batches] == [14, 13, 13]
    before = {name: each.clone() for name, each in model.state_dict().items()}
    found = probe.look_inside(model, loss(), batches)

    assert model.training
    assert all(each.grad is None for each in model.parameters())
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())

    x, y = torch.from_numpy(data.train.inputs[0]), torch.from_numpy(data.train.target)
    twin = Known().eval()
    twin.load_state_dict(before)
    value = functional.cross_entropy(twin(x), y)
    value.backward()
    assert found.rows == 40
    assert found.loss == pytest.approx(value.item(), rel=1e-5)
    assert [layer.name for layer in found.layers] == ["first", "second", "head"]
    for layer in found.layers:
        own = getattr(twin, layer.name)
        assert layer.weight == pytest.approx(own.weight.norm().item(), rel=1e-5)
        assert layer.gradient == pytest.approx(own.weight.grad.norm().item(), rel=1e-4, abs=1e-9)
    assert found.layers[0].rms == pytest.approx(twin.first(x).square().mean().sqrt().item(), rel=1e-4)
    # The second layer's units are all silent, whatever comes in.
    told = {each.after: (each.function, each.units, each.dead) for each in found.activations}
    silent = int((torch.relu(twin.first(x)) == 0).all(dim=0).sum())
    assert silent >= 1
    assert told == {"first": ("relu", 8, silent), "second": ("relu", 8, 8)}


@pytest.mark.parametrize(
    ("body", "after", "function", "units", "dead", "saturated"),
    [
        (nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU()), "0", "relu", 5, 5, 0),
        (nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU6()), "0", "relu", 4, 4, 0),
        (nn.Sequential(nn.Linear(7, 3), nn.Tanh()), "0", "tanh", 3, 0, 3),
        (nn.Sequential(nn.Linear(7, 3), nn.Sigmoid()), "0", "sigmoid", 3, 0, 3),
    ],
)
def test_a_unit_is_a_channel_or_a_number_of_the_last_dimension(
    body: nn.Sequential, after: str, function: str, units: int, dead: int, saturated: int
) -> None:
    with torch.no_grad():
        body[0].bias.fill_(-100.0)  # type: ignore[union-attr, operator]
    shape = (9, 1, 8, 8) if isinstance(body[0], nn.Conv2d) else (9, 1, 7) if isinstance(body[0], nn.Conv1d) else (9, 7)
    if isinstance(body[1], nn.BatchNorm2d):
        with torch.no_grad():
            body[1].bias.fill_(-100.0)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = body, nn.LazyLinear(3)

        def forward(self, x: Tensor) -> Tensor:
            said: Tensor = self.head(self.body(x).flatten(1))
            return said

    model, x = Model(), torch.randn(shape)
    model(x)
    found = probe.look_inside(model, loss(), [(((x),), torch.zeros(9, dtype=torch.int64))])
    (each,) = found.activations
    assert (each.after, each.function) == (f"body.{after}", function)
    assert (each.units, each.dead, each.saturated) == (units, dead, saturated)


def test_frozen_layers_have_no_gradient_and_recurrent_ones_join_their_steps() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
            self.step.weight.requires_grad_(False)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            for turn in range(3):  # each unit speaks in one turn only
                x = functional.relu(self.step(x) * 0 + torch.eye(6)[turn])
            said: Tensor = self.head(x)
            return said

    found = probe.look_inside(Recurrent(), loss(), [((torch.randn(5, 6),), torch.zeros(5, dtype=torch.int64))])
    assert np.isnan(found.layers[0].gradient)
    assert found.activations[0].dead == 3


def test_fewer_rows_of_large_images_and_long_texts_are_looked_at() -> None:
    def count(shapes: Shapes) -> int:
        return probe.rows_of(replace(dataset(rows(9), rows(9), rows(9)), shapes=shapes), rows(5000))

    assert count(CLASSES) == 256
    assert count(Shapes("classification", (Input("image", (3, 224, 224)),), 3)) == probe.FEWEST_ROWS
    text = Input("tokens", (512,), (30_000,))
    assert count(Shapes("classification", (text,), 3)) == 32
    assert count(Shapes("language_modelling", (text,), 30_000)) == probe.FEWEST_ROWS


def test_the_way_of_the_weights_is_a_share_of_their_norm() -> None:
    one, other = nn.Linear(4, 3), nn.Linear(4, 3)
    way = (one.weight - other.weight).norm() / other.weight.norm()
    assert probe.moved(one, other) == pytest.approx(way.item(), rel=1e-5)
    assert np.isnan(probe.moved(nn.ReLU(), nn.ReLU()))


# --- a guess, and how well rows are predicted --------------------------------------------------------


def test_the_loss_of_a_guess_is_that_of_scikit_learns_dummy() -> None:
    target = np.random.default_rng(0).choice(3, 900, p=[0.7, 0.2, 0.1])
    train = replace(rows(900), target=target)
    prior = DummyClassifier(strategy="prior").fit(np.zeros((900, 1)), target).predict_proba(np.zeros((900, 1)))
    assert measured.guess_loss(loss(), dataset(train, rows(5), rows(5))) == pytest.approx(
        log_loss(target, prior), rel=1e-4
    )


def test_a_guess_of_amounts_is_the_mean_and_skill_is_r2() -> None:
    shapes = Shapes("regression", (Input("table", (6,)),), 1)
    target = np.random.default_rng(0).normal(size=(300, 1)).astype(np.float32)
    train = replace(rows(300), target=target)
    data = dataset(train, rows(5), rows(5), shapes)
    assert measured.guess_loss(loss(shapes), data) == pytest.approx(float(target.var()), rel=1e-4)
    said = target + 0.3
    found = measured.fitted(said, target, 0.09, 1.0, data)
    assert found.score == found.skill == pytest.approx(r2_score(target, said), rel=1e-5)


def test_skill_is_nothing_for_the_most_frequent_class_and_one_for_everything_right() -> None:
    target = np.array([0, 0, 0, 1, 2])
    data = dataset(replace(rows(5), target=target), rows(5), rows(5))

    def skill(said: list[int]) -> float:
        return measured.fitted(np.eye(3)[said], target, 1.0, 1.0, data).skill

    assert skill([0] * 5) == pytest.approx(0.0)
    assert skill([0, 0, 0, 1, 2]) == pytest.approx(1.0)
    assert skill([0, 0, 0, 1, 1]) == pytest.approx(0.5)


# --- rows in two parts ------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**16), st.integers(2, 60), st.integers(1, 30), st.sampled_from([2, 5, 1000]))
def test_rows_in_two_parts_are_those_that_pandas_finds(seed: int, train: int, test: int, values: int) -> None:
    random = np.random.default_rng(seed)

    def part(count: int) -> Rows:
        return rows(count, seed, random.integers(0, values, (count, 3)).astype(np.float32))

    learned, asked = part(train), part(test)
    asked = replace(
        asked, inputs=(np.concatenate([asked.inputs[0], learned.inputs[0][:2]]),), target=np.zeros(test + 2)
    )
    asked = replace(asked, source_rows=np.arange(1000, 1002 + test))
    found = same_rows.copies(dataset(learned, asked, learned))
    assert found is not None
    known = pd.DataFrame(learned.inputs[0]).drop_duplicates()
    both = pd.DataFrame(asked.inputs[0]).merge(known, how="inner")
    assert found.rows == {"validation": len(both), "test": train}
    for one, other, where in found.first:
        if where == "validation":
            assert np.array_equal(asked.inputs[0][one - 1000], learned.inputs[0][other])


def test_columns_of_few_values_are_the_same_by_chance_and_others_are_not() -> None:
    random = np.random.default_rng(1)
    coarse = random.integers(0, 3, (500, 3)).astype(np.float32)
    found = same_rows.copies(
        dataset(rows(500, 0, coarse[:400]), rows(50, 0, coarse[400:450]), rows(50, 0, coarse[450:]))
    )
    assert found is not None
    assert found.rows["test"] > 40
    assert found.chance == 1.0
    fine = random.normal(size=(400, 3)).astype(np.float32)
    other = same_rows.copies(dataset(rows(400, 0, fine), rows(50, 0, fine[:50]), rows(9, 3, fine[:9] + 1)))
    assert other is not None
    assert (other.rows, other.chance) == ({"validation": 50, "test": 0}, 0.0)


def test_of_more_than_is_read_rows_are_drawn_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(same_rows, "READ_BYTES", 100 * 6 * 4)
    fine = np.random.default_rng(1).normal(size=(1000, 6)).astype(np.float32)
    found = same_rows.copies(dataset(rows(1000, 0, fine), rows(80, 0, fine[:80]), rows(10, 1)))
    assert found is not None
    assert found.looked_at == {"train": 100, "validation": 80, "test": 10}
    assert found.learned == 0.1
    assert 4 <= found.rows["validation"] <= 12


def test_of_many_copies_some_are_compared_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(same_rows, "COMPARED", 20)
    fine = np.random.default_rng(1).normal(size=(500, 6)).astype(np.float32)
    found = same_rows.copies(dataset(rows(500, 0, fine), rows(300, 0, fine[:300]), rows(10, 2)))
    assert found is not None
    assert found.rows == {"validation": 300, "test": 0}


# --- columns ----------------------------------------------------------------------------------------


def test_a_column_that_became_several_numbers_is_named_as_one(tmp_path: Path) -> None:
    data = example.moons(400).assign(result=lambda d: np.where(d["target"] == "inner", "won", "lost"))
    data.to_csv(tmp_path / "rows.csv", index=False)
    page = example.tree(
        data={"source": {"type": "csv", "path": str(tmp_path / "rows.csv")}, "steps": ["scale", "encode"]}
    )
    found = measured.telling(prepare.prepare(reading.from_tree(page)))
    assert found is not None
    assert found == ("result", 1.0)


def test_a_network_that_cannot_be_looked_into_leaves_a_note(tmp_path: Path) -> None:
    made = example.Made(
        {**example.tree(train={"epochs": 2}), "model": {"type": example.own("Shy")}}, example.moons(300)
    )
    run, facts = example.run(made, tmp_path)
    told = facts.evaluated["diagnosis"]["measured"]
    assert told["inside"] is None
    assert told["notes"] == ["The layers could not be measured: ValueError: not while you look"]
    assert "dead_units" not in facts.evaluated["diagnosis"]["looked_for"]
    assert run.report.is_file()


def test_a_loss_that_bears_no_other_rows_costs_no_run(tmp_path: Path) -> None:
    page = example.tree(train={"epochs": 2, "loss": {"type": example.own("Touchy")}})
    page["evaluate"] = {"bootstrap": 0, "metrics": ["accuracy"]}
    run, facts = example.run(example.Made(page, example.moons(800)), tmp_path)
    told = facts.evaluated["diagnosis"]
    assert told["measured"]["notes"] == ["The winner could not be measured: ValueError: no two rows are alike"]
    assert "learning_rate_too_high" not in told["looked_for"]
    assert "The winner could not be measured" in run.report.read_text()


# --- lines of the page ------------------------------------------------------------------------------


def test_a_line_stands_in_the_option_that_the_winner_took() -> None:
    optimizer = {"choice": [{"type": "adam"}, {"type": "sgd", "lr": {"log": [1e-3, 1e-1]}, "momentum": 0.9}]}
    experiment = reading.from_tree({**PAGE, "train": {"optimizer": optimizer}, "search": {"trials": 4}})
    params = {"train.optimizer": "sgd", "train.optimizer.lr": 0.01}
    path = "train.optimizer.momentum"
    assert branch_of(experiment.tree, params, path) == "train.optimizer=sgd.momentum"
    assert branch_of(experiment.tree, {"train.optimizer": "adam"}, path) is None
    line = proposed(experiment, params, path, 7.0, 0.5)  # 7 is not allowed
    assert line is not None
    assert line.text == "momentum: 0.5   # in train.optimizer, choice sgd"
    assert proposed(experiment, params, path, 0.9) is None  # it is so already
    assert proposed(experiment, params, "model.nothing", 1) is None
    assert proposed(experiment, params, "train.epochs", -3) is None


def test_what_is_measured_costs_little(tmp_path: Path) -> None:
    """Beside the prediction of the parts, which it does once more for some training rows."""
    experiment = reading.from_tree(example.tree(data={"source": {"type": "sklearn", "name": "digits"}}))
    data, where = prepare.prepare(experiment), machine.choose(1, 0, "auto")
    model = assembly.build_model(experiment, data)
    batches = probe.batches_of(data, data.train, where.device, 32)
    probe.look_inside(model, loss(data.shapes), batches)
    began = time.process_time()
    probe.look_inside(model, loss(data.shapes), batches)
    same_rows.copies(data)
    assert time.process_time() - began < 0.5
