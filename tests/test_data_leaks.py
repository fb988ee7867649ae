"""Columns that tell the target by themselves, and classes that are rare."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from checks_example import examined
from data_example import mixed
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.metrics import balanced_accuracy_score, r2_score

from nnopt_ray.data.imbalance import Imbalance
from nnopt_ray.data.leaks import Leaks, Scored
from nnopt_ray.data.quality import Examined, Finding


def table(rows: int = 600, classes: int = 3, seed: int = 0) -> tuple[dict[str, Any], np.ndarray]:
    """Columns that say a little of the target, and the target."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    columns = {
        "x": labels + random.normal(0, 1.5, rows),
        "city": np.where(random.random(rows) < 0.3, labels, random.integers(0, classes, rows)).astype(str),
        "noise": random.normal(size=rows),
    }
    return columns, labels


def planted(kind: str, labels: np.ndarray, seed: int = 1) -> Any:
    random = np.random.default_rng(seed)
    names = np.array(["low", "mid", "high"])
    match kind:
        case "copy":
            return labels * 7 - 3
        case "renamed":
            return names[labels]
        case "noisy":
            return np.where(random.random(len(labels)) < 0.01, (labels + 1) % 3, labels)
        case "close":
            return labels + random.normal(0, 0.1, len(labels))
        case "fine":  # a category each for a few rows of one class
            return [f"{names[label]}-{random.integers(0, 20)}" for label in labels]
    gone = labels == 2
    return pa.array(random.normal(size=len(labels)), mask=gone & (random.random(len(labels)) < 0.8))


@pytest.mark.parametrize("kind", ["copy", "renamed", "noisy", "close", "fine", "missing"])
def test_a_planted_leak_is_found_and_nothing_else(kind: str) -> None:
    columns, labels = table()
    data = examined({**columns, "leak": planted(kind, labels), "y": labels})
    (finding,) = Leaks(action="drop").examine(data)
    assert finding.columns == ("leak",)
    (repair,) = finding.repairs
    assert (repair.row, repair.what, repair.column) == (-1, "column dropped", "leak")
    assert ("copy" in finding.measured) == (kind in ("copy", "renamed"))
    assert ("missing" in finding.measured) == (kind == "missing")
    (reported,) = Leaks().examine(data)
    assert not reported.repairs
    assert reported.cure.startswith("data.ignore: [leak]")


@pytest.mark.parametrize("kind", ["units", "close", "category", "missing"])
def test_a_planted_leak_of_amounts_is_found(kind: str) -> None:
    source = load_diabetes()
    random = np.random.default_rng(0)
    amounts = source.target + 0.25
    leak: Any = {
        "units": amounts * 1.8 + 32,
        "close": amounts + random.normal(0, 5, len(amounts)),
        "category": [f"band {int(value // 10)}" for value in amounts],
        "missing": pa.array(random.normal(size=len(amounts)), mask=amounts > np.quantile(amounts, 0.7)),
    }[kind]
    columns = {f"x{place}": source.data[:, place] for place in range(10)}
    (finding,) = Leaks().examine(examined({**columns, "leak": leak, "y": amounts}))
    assert finding.columns == ("leak",)
    assert finding.severity == "high"


def test_columns_that_tell_a_lot_rightly_are_let_be() -> None:
    found: list[tuple[str, Finding]] = []
    looked = 0
    for load in (load_iris, load_wine, load_breast_cancer, load_diabetes):
        source = load()
        target = source.target + (0.25 if load is load_diabetes else 0)
        columns = {f"x{place}": source.data[:, place] for place in range(source.data.shape[1])}
        found += [(load.__name__, finding) for finding in Leaks().examine(examined({**columns, "y": target}))]
        looked += source.data.shape[1]
    print(f"{len(found)} of {looked} columns of iris, wine, breast_cancer and diabetes are taken for leaks")
    assert not found


def test_of_columns_without_any_relation_none_is_taken_for_a_leak() -> None:
    alarms = 0
    for seed in range(5):
        random = np.random.default_rng(seed)
        columns: dict[str, Any] = {f"x{place}": random.normal(size=80) for place in range(20)}
        columns |= {f"m{place}": pa.array(random.normal(size=80), mask=random.random(80) < 0.3) for place in range(20)}
        labels = np.where(random.random(80) < 0.1, 1, 0)
        alarms += len(Leaks().examine(examined({**columns, "y": labels}, seed=seed)))
    assert alarms == 0


def test_every_kind_of_column_is_read() -> None:
    rows = mixed(1500)
    columns = {name: rows.column(name) for name in rows.column_names if name not in ("empty", "country")}
    data = examined(columns, "churn")
    assert not Leaks().examine(data)


def test_the_score_is_that_of_the_metric() -> None:
    """Of predictions out of fold, with guessing at 0, whatever the order of the classes."""
    columns, labels = table()
    data = examined({**columns, "y": labels})
    scored = Scored(data, data.train, data.target.values[data.train], 3, False)
    said: list[tuple[np.ndarray, np.ndarray]] = []

    class Spy(Scored):
        def _of_numbers(self, made: Any, held: np.ndarray) -> np.ndarray:
            found = super()._of_numbers(made, held)
            said.append((self.target[held], found))
            return found

    def spied(of: Examined) -> float:
        said.clear()
        feature = replace(of.features["x"], values=of.features["x"].values[of.train])  # type: ignore[union-attr]
        return Spy(of, of.train, of.target.values[of.train], 3, False).score([feature])

    score = spied(data)
    true, told = (np.concatenate([pair[side] for pair in said]) for side in (0, 1))
    assert score == pytest.approx(balanced_accuracy_score(true, told, adjusted=True))
    assert scored.told(score).startswith(f"balanced accuracy {balanced_accuracy_score(true, told):.3f}")
    amounts = labels + np.random.default_rng(0).normal(0, 0.5, len(labels))
    score = spied(examined({**columns, "y": amounts}))
    true, told = (np.concatenate([pair[side] for pair in said]) for side in (0, 1))
    assert score == pytest.approx(r2_score(true, told))


def test_labels_outside_the_training_part_change_nothing() -> None:
    columns, labels = table()
    data = examined({**columns, "leak": planted("noisy", labels), "y": labels})
    values = data.target.values.copy()
    outside = np.concatenate([data.parts["validation"], data.parts["test"]])
    values[outside] = np.random.default_rng(5).permutation(values[outside])
    poisoned = replace(data, target=replace(data.target, values=values))
    assert Leaks().examine(data)[0].measured == Leaks().examine(poisoned)[0].measured


def test_rare_classes_are_told_with_what_accuracy_hides() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(["usual", "rare", "some"], [880, 40, 300])
    data = examined({"x": random.normal(size=len(labels)), "y": labels})
    (finding,) = Imbalance().examine(data)
    counts = {name: int((labels[data.train] == name).sum()) for name in np.unique(labels)}
    assert finding.measured["ratio"] == counts["usual"] / counts["rare"]
    guess = counts["usual"] / len(data.train)
    assert finding.measured["accuracy_of_the_largest"] == guess
    assert f"an accuracy of {guess:.3g} and a balanced accuracy of 0.333" in finding.sentence
    assert "'rare'" in finding.sentence
    assert "'some'" not in finding.sentence
    assert not Imbalance(ratio=30).examine(data)
    assert not Imbalance().examine(examined({"x": np.arange(60.0), "y": np.repeat([0, 1], 30)}))
    assert not Imbalance().examine(examined({"x": np.arange(60.0), "y": np.arange(60.0) / 7}))
