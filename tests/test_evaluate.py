"""The door of the evaluate room: predicted once, scored as scikit-learn scores, written in open formats."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
import torch
from scipy.special import softmax
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn

from nnopt_ray import reading, tables
from nnopt_ray.data.types import Dataset, DataSummary, Input, Rows, Shapes
from nnopt_ray.errors import PartError, UserError
from nnopt_ray.evaluate import evaluate as door
from nnopt_ray.evaluate.evaluate import evaluate, predict, score, write
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import Machine
from nnopt_ray.models.baseline import Baseline
from nnopt_ray.models.mlp import MLP
from nnopt_ray.rundir import RunDir

CPU = Machine(device="cpu", precision="float32", threads=1, decided={})


class Counting(nn.Module):
    """A model that counts how often each row is asked for, by the row's own content."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen: list[bytes] = []
        self.modes: set[bool] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.extend(row.numpy().tobytes() for row in x)
        self.modes.add(self.training)
        said: Tensor = self.model(x)
        return said


def page(**sections: Any) -> Experiment:
    return reading.from_tree(
        {"data": {"source": {"type": "sklearn", "name": "digits"}}, "model": "mlp", "seed": 3, **sections}
    )


def dataset_of(x: np.ndarray, target: np.ndarray, classes: tuple[str, ...], scaled: bool = False) -> Dataset:
    """Rows in a random order: 60 % training, 20 % validation, 20 % test."""
    order = np.random.default_rng(0).permutation(len(x))
    ends = int(0.6 * len(x)), int(0.8 * len(x))
    mean, scale = np.zeros(1), np.ones(1)
    if not classes:
        target = target.reshape(len(x), -1)
        if scaled:
            mean, scale = target.mean(axis=0), target.std(axis=0)
        target = ((target - mean) / scale).astype(np.float32)
    parts = [
        Rows((np.ascontiguousarray(x[rows], dtype=np.float32),), target[rows], rows) for rows in np.split(order, ends)
    ]
    task = "classification" if classes else "regression"
    outputs = len(classes) or target.shape[1]
    shapes = Shapes(task, (Input("table", (x.shape[1],)),), outputs)
    summary = DataSummary("by hand", len(x), task, "y", (), {})
    for part in parts:
        for array in (*part.inputs, part.target):
            array.setflags(write=False)  # as a memory map gives them
    return Dataset(Path(), "", shapes, *parts, classes, mean, scale, (), summary)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    x, y = load_digits(return_X_y=True)
    return dataset_of(x / 16, y, tuple("0123456789"))


@pytest.fixture(scope="module")
def diabetes() -> Dataset:
    x, y = load_diabetes(return_X_y=True)
    return dataset_of(x * 20, y, (), scaled=True)


def baseline_of(dataset: Dataset, kind: str = "linear") -> Baseline:
    model = Baseline(dataset.shapes, kind=kind)
    assert model.fit_directly(list(dataset.train.inputs), dataset.train.target, dataset.shapes, 0)
    return model


def network_of(dataset: Dataset, steps: int = 150) -> nn.Module:
    torch.manual_seed(0)
    model = MLP(dataset.shapes, widths=(48,), dropout=0.3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x, y = (torch.from_numpy(np.array(a)) for a in (dataset.train.inputs[0], dataset.train.target))
    loss = nn.functional.cross_entropy if dataset.classes else nn.functional.mse_loss
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    return model


# --- predict ------------------------------------------------------------------------------------


def test_predict_is_the_model_in_evaluation_mode_whatever_the_batch(digits: Dataset) -> None:
    model = network_of(digits, steps=2)
    model.train()
    x = torch.from_numpy(np.array(digits.test.inputs[0]))
    with torch.no_grad():
        expected = model.eval()(x).numpy()
    model.train()
    for batch in (1, 7, 100_000):
        said = predict(model, digits.test, digits, CPU, batch=batch)
        assert said.dtype == np.float32
        np.testing.assert_allclose(said, expected, rtol=1e-4, atol=1e-5)
        assert model.training
    assert all(weight.grad is None or not weight.grad.is_inference() for weight in model.parameters())


def test_predict_gives_the_users_units(diabetes: Dataset) -> None:
    model = baseline_of(diabetes, "majority")
    said = predict(model, diabetes.test, diabetes, CPU)
    assert said.shape == (len(diabetes.test), 1)
    mean_of_training = diabetes.user_units(diabetes.train.target.astype(np.float64)).mean()
    np.testing.assert_allclose(said, mean_of_training, rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "shape"),
    [(nn.Linear(64, 3), r"\(360, 3\)"), (nn.Sequential(nn.Linear(64, 1), nn.Flatten(0)), r"\(360,\)")],
)
def test_predict_refuses_another_shape(digits: Dataset, model: nn.Module, shape: str) -> None:
    with pytest.raises(
        PartError, match=rf"returned a tensor of shape {shape} for 360 rows, and must return \(360, 10\)"
    ):
        predict(model, digits.test, digits, CPU)


# --- score --------------------------------------------------------------------------------------


def test_scores_of_classes_are_scikit_learns(digits: Dataset) -> None:
    outputs = predict(baseline_of(digits), digits.test, digits, CPU)
    found = score(outputs, digits.test, digits, page(), "test")
    true, said, p = digits.test.target, outputs.argmax(1), softmax(outputs.astype(np.float64), axis=1)
    assert found.rows == len(true)
    assert found.classes == digits.classes
    assert list(found.metrics) == [
        "loss", "accuracy", "balanced_accuracy", "precision", "recall", "f1", "weighted_f1", "mcc",
        "roc_auc", "pr_auc", "log_loss", "brier", "ece",
    ]  # fmt: skip
    assert found.metrics["accuracy"] == sk.accuracy_score(true, said)
    assert found.metrics["log_loss"] == pytest.approx(sk.log_loss(true, p))
    assert found.metrics["loss"] == pytest.approx(found.metrics["log_loss"], rel=1e-6)
    assert found.metrics["roc_auc"] == pytest.approx(sk.roc_auc_score(true, p, multi_class="ovr"))
    np.testing.assert_array_equal(found.confusion, sk.confusion_matrix(true, said))
    report = sk.classification_report(true, said, output_dict=True)
    for row in found.per_class:
        theirs = report[row["class"]]
        assert (row["precision"], row["recall"], row["f1"], row["rows"]) == pytest.approx(
            (theirs["precision"], theirs["recall"], theirs["f1-score"], theirs["support"])
        )
    assert set(found.intervals) == set(found.metrics)
    for name, (low, high) in found.intervals.items():
        assert low <= found.metrics[name] <= high, name
        assert low < high, name


def test_scores_of_numbers_are_in_the_users_units_and_the_loss_in_trainings(diabetes: Dataset) -> None:
    outputs = predict(baseline_of(diabetes), diabetes.test, diabetes, CPU)
    found = score(outputs, diabetes.test, diabetes, page(), "test")
    true = load_diabetes(return_X_y=True)[1][diabetes.test.source_rows]
    assert list(found.metrics) == ["loss", "mae", "rmse", "r2", "mape", "smape"]
    assert found.metrics["rmse"] == pytest.approx(sk.root_mean_squared_error(true, outputs[:, 0]), rel=1e-6)
    assert found.metrics["r2"] == pytest.approx(sk.r2_score(true, outputs[:, 0]), rel=1e-6)
    assert found.metrics["loss"] == pytest.approx((found.metrics["rmse"] / diabetes.target_scale[0]) ** 2, rel=1e-5)
    low, high = found.intervals["loss"]
    assert np.sqrt((low, high)) * diabetes.target_scale == pytest.approx(found.intervals["rmse"], rel=1e-5)
    assert (found.classes, found.per_class, found.confusion) == ((), (), ())


@pytest.mark.parametrize(
    "loss",
    [
        "auto",
        {"type": "cross_entropy", "label_smoothing": 0.2, "class_weights": "balanced"},
        {"type": "cross_entropy", "class_weights": [1.0, 5.0, 0.5, 1, 1, 1, 1, 1, 1, 3.0]},
    ],
)
def test_the_losss_interval_is_that_of_the_loss_on_drawn_rows(digits: Dataset, loss: Any) -> None:
    """Row by row with what each row counts equals the page's loss on the rows as drawn."""
    experiment = page(train={"loss": loss})
    metric = door.page_loss(experiment, digits)
    outputs, target = predict(baseline_of(digits), digits.test, digits, CPU), digits.test.target
    own = tables.build("loss", experiment.train.loss, digits.shapes, np.bincount(digits.train.target))
    drawn = np.random.default_rng(0).integers(0, len(target), size=(5, len(target)))
    counts = np.stack([np.bincount(d, minlength=len(target)) for d in drawn], axis=1).astype(np.float64)
    expected = [float(own(torch.from_numpy(outputs[d]), torch.from_numpy(target[d]))) for d in drawn]
    assert metric.resampler(outputs, target)(counts) == pytest.approx(expected, rel=1e-5)


def test_the_validation_part_has_no_intervals_and_bootstrap_0_turns_them_off(digits: Dataset) -> None:
    outputs = predict(baseline_of(digits), digits.validation, digits, CPU)
    found = score(outputs, digits.validation, digits, page(), "validation")
    assert found.part == "validation"
    assert not found.intervals
    test = predict(baseline_of(digits), digits.test, digits, CPU)
    assert not score(test, digits.test, digits, page(evaluate={"bootstrap": 0}), "test").intervals


def test_only_the_metrics_that_were_asked_for_and_the_objectives(digits: Dataset) -> None:
    experiment = page(objective="maximize val_f1", evaluate={"metrics": ["accuracy"]})
    found = score(predict(baseline_of(digits), digits.test, digits, CPU), digits.test, digits, experiment, "test")
    assert list(found.metrics) == ["loss", "accuracy", "f1"]
    with pytest.raises(UserError, match="'mae' measures regression"):
        door.measures(page(evaluate={"metrics": ["mae"]}), digits)


def test_an_absent_class_is_said(digits: Dataset) -> None:
    keep = digits.test.target != 4
    rows = Rows((digits.test.inputs[0][keep],), digits.test.target[keep], digits.test.source_rows[keep])
    outputs = predict(baseline_of(digits), rows, digits, CPU)
    found = score(outputs, rows, digits, page(evaluate={"bootstrap": 50}), "test")
    assert math.isnan(found.metrics["roc_auc"])
    assert "roc_auc" not in found.intervals
    assert found.notes == ("roc_auc and pr_auc are not defined on the test part: class '4' has no row here.",)


def test_resamples_without_a_rare_class_are_said(digits: Dataset) -> None:
    keep = (digits.test.target != 4) | (np.cumsum(digits.test.target == 4) == 1)
    rows = Rows((digits.test.inputs[0][keep],), digits.test.target[keep], digits.test.source_rows[keep])
    found = score(predict(baseline_of(digits), rows, digits, CPU), rows, digits, page(), "test")
    assert len(found.notes) == 1
    assert found.notes[0].startswith("roc_auc and pr_auc are not defined in ")
    assert found.notes[0].endswith(" of 1000 resamples of the test rows; such resamples are left out of the interval.")


def test_all_right_is_not_certainty(digits: Dataset) -> None:
    outputs = np.eye(10, dtype=np.float32)[digits.test.target] * 5
    found = score(outputs, digits.test, digits, page(evaluate={"bootstrap": 100}), "test")
    assert found.intervals["accuracy"] == (1.0, 1.0)
    assert "All 360 rows of the test part are recognised" in found.notes[0]
    assert "a true error rate of 0.83 % would still give this with a chance of 5 %" in found.notes[0]  # 3 / 360


def test_outputs_that_are_not_finite_measure_nothing(digits: Dataset) -> None:
    outputs = predict(baseline_of(digits), digits.test, digits, CPU)
    outputs[:3, 1] = math.nan
    found = score(outputs, digits.test, digits, page(), "test")
    assert all(math.isnan(value) for value in found.metrics.values())
    assert not found.confusion
    assert "not finite in 3 of its rows" in found.notes[0]


# --- evaluate and write -------------------------------------------------------------------------


def test_test_rows_are_predicted_exactly_once_by_each(digits: Dataset) -> None:
    winner, baseline = Counting(network_of(digits)), Counting(baseline_of(digits))
    evaluate(page(evaluate={"bootstrap": 20}), digits, CPU, winner, baseline)
    rows = [row.tobytes() for part in (digits.validation, digits.test) for row in part.inputs[0]]
    for model in (winner, baseline):
        assert sorted(model.seen) == sorted(rows)
        assert model.modes == {False}


def test_the_gain_over_the_baseline(digits: Dataset) -> None:
    experiment = page(objective="maximize val_accuracy")
    found = evaluate(experiment, digits, CPU, network_of(digits), baseline_of(digits, "majority"))
    assert found.baseline_type == "baseline (majority)"
    assert (found.metric, found.mode) == ("accuracy", "max")
    assert found.gain.value == found.winner_test.metrics["accuracy"] - found.baseline_test.metrics["accuracy"]
    assert 0.5 < found.gain.low < found.gain.value < found.gain.high < 1
    assert found.gains["loss"].value == found.baseline_test.metrics["loss"] - found.winner_test.metrics["loss"]
    assert set(found.gains) == set(found.winner_test.metrics)
    same = evaluate(experiment, digits, CPU, network_of(digits), baseline_of(digits, "majority"))
    assert same.gains == found.gains
    assert same.winner == found.winner


def test_a_broken_baseline_leaves_the_winners_scores(digits: Dataset) -> None:
    broken = baseline_of(digits)
    with torch.no_grad():
        broken.bias[3] = math.inf
    found = evaluate(page(), digits, CPU, network_of(digits), broken)
    assert found.winner_test.metrics["accuracy"] > 0.9
    assert all(math.isnan(found.gains[name].value) for name in found.gains)
    assert math.isnan(found.gain.low)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, "evaluated")


def test_written_for_classes(digits: Dataset, run: RunDir) -> None:
    found = evaluate(page(), digits, CPU, network_of(digits), baseline_of(digits))
    write(found, run)
    scores = json.loads(run.scores.read_text())
    assert set(scores) == {"objective", "confidence", "resamples", "winner", "baseline_type", "baseline", "gains"}
    assert scores["objective"] == {"metric": "loss", "mode": "min"}
    assert scores["baseline_type"] == "baseline (linear)"
    assert scores["winner"]["test"]["metrics"] == pytest.approx(found.winner_test.metrics)
    assert scores["winner"]["test"]["intervals"]["f1"] == list(found.winner_test.intervals["f1"])
    assert scores["gains"]["loss"] == pytest.approx(
        {"value": found.gain.value, "low": found.gain.low, "high": found.gain.high}
    )

    table = pd.read_parquet(run.predictions)
    assert list(table.columns) == ["source_row", "part", "true", "predicted", *(f"p_{c}" for c in digits.classes)]
    assert table.groupby("part").size().to_dict() == {"test": 360, "validation": 359}
    labels = load_digits(return_X_y=True)[1]
    assert (table["true"] == labels[table["source_row"]].astype(str)).all()
    np.testing.assert_allclose(table.filter(like="p_").sum(axis=1), 1)
    assert (table.filter(like="p_").idxmax(axis=1).str[2:] == table["predicted"]).all()
    test = table[table["part"] == "test"]
    assert (test["true"] == test["predicted"]).mean() == found.winner_test.metrics["accuracy"]
    assert test["source_row"].is_monotonic_increasing

    confusion = pd.read_csv(run.confusion, index_col=0)
    np.testing.assert_array_equal(confusion.to_numpy(), found.winner_test.confusion)
    assert [str(name) for name in confusion.index] == list(confusion.columns) == list(digits.classes)


def test_written_for_numbers(diabetes: Dataset, run: RunDir) -> None:
    found = evaluate(page(), diabetes, CPU, network_of(diabetes, 30), baseline_of(diabetes))
    write(found, run)
    table = pd.read_parquet(run.predictions)
    assert list(table.columns) == ["source_row", "part", "true", "predicted"]
    source = load_diabetes(return_X_y=True)[1]
    # The target is stored scaled in float32; what is written is the source's number again.
    np.testing.assert_array_equal(table["true"], source[table["source_row"]])
    test = table[table["part"] == "test"]
    assert np.abs(test["true"] - test["predicted"]).mean() == pytest.approx(found.winner_test.metrics["mae"], rel=1e-6)
    assert not run.confusion.exists()
    assert json.loads(run.scores.read_text())["winner"]["test"]["confusion"] == []


def test_written_where_something_is_not_a_number(digits: Dataset, run: RunDir) -> None:
    broken = baseline_of(digits)
    with torch.no_grad():
        broken.bias[3] = math.inf
    write(evaluate(page(), digits, CPU, broken, baseline_of(digits)), run)
    scores = json.loads(run.scores.read_text())
    assert scores["winner"]["test"]["metrics"]["accuracy"] is None
    assert scores["gains"]["loss"] == {"value": None, "low": None, "high": None}
    assert not run.confusion.exists()


def test_class_names_of_any_kind(run: RunDir) -> None:
    names = ("a,b", 'say "x"', "<script>", "çé 漢", "p_0")
    x = np.random.default_rng(0).normal(size=(100, 4))
    dataset = dataset_of(x, np.arange(100) % 5, names)
    write(evaluate(page(), dataset, CPU, baseline_of(dataset), baseline_of(dataset, "majority")), run)
    assert tuple(pd.read_csv(run.confusion, index_col=0).columns) == names
    assert set(pd.read_parquet(run.predictions)["true"]) == set(names)


def test_bfloat16_predicts_as_training_did(digits: Dataset) -> None:
    half = Machine(device="cpu", precision="bfloat16", threads=1, decided={})
    model = network_of(digits)
    said, exact = (predict(model, digits.test, digits, m) for m in (half, CPU))
    assert said.dtype == np.float32
    assert 0 < np.abs(said - exact).max() < 0.05 * np.abs(exact).max()
