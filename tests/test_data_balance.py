"""Balancing on the page: the training part alone, every row accounted for, and what is said of data it cannot do."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from data_example import csv_page, mixed, page
from imblearn.over_sampling import SMOTE
from pyarrow import csv as arrow_csv

import nnopt_ray as nn
from nnopt_ray import reading
from nnopt_ray.data import BALANCERS
from nnopt_ray.data.balance import MADE, Balanced, Balancer, Training
from nnopt_ray.data.prepare import prepare
from nnopt_ray.data.store import open_dataset
from nnopt_ray.data.types import Dataset
from nnopt_ray.errors import DataError, PageError, PartError
from nnopt_ray.machine import derived_seed
from nnopt_ray.report.facts import facts_from_folder
from nnopt_ray.report.predictions import class_counts
from nnopt_ray.rundir import RunDir

CANCER = {"type": "sklearn", "name": "breast_cancer"}
STEPS: dict[str, list[Any]] = {
    "one_hot": [{"type": "impute", "strategy": "median", "indicator": True}, "scale", "encode"],
    "embedding": ["impute", "scale", {"type": "encode", "method": "embedding"}],
}


def churn(rows: pa.Table, folder: Path, name: str | None, seed: int = 0) -> Dataset:
    """The mixed table of 8 % positives, balanced so."""
    arrow_csv.write_csv(rows, folder / "t.csv")
    made = page(
        {"type": "csv", "path": str(folder / "t.csv")},
        target="churn",
        ignore=["customer_id"],
        split={"type": "random", "seed": seed},
        steps=STEPS["embedding" if name == "smotenc" else "one_hot"],
        balance=name,
    )
    return prepare(made, folder / "cache")


def audit(dataset: Dataset) -> list[dict[str, str]]:
    with (dataset.folder / "audit.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def same(one: Any, other: Any) -> None:
    for first, second in zip(
        (*one.inputs, one.target, one.source_rows), (*other.inputs, other.target, other.source_rows), strict=True
    ):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", BALANCERS)
def test_only_the_training_part_changes_and_its_audit_adds_up(name: str, tmp_path: Path) -> None:
    rows = mixed(700)
    churned = pa.array(rows.column("churn").to_pylist(), mask=np.arange(700) % 10 == 3)
    rows = rows.set_column(rows.column_names.index("churn"), "churn", churned)  # so that rows are no source rows
    plain_steps = "smotenc" if name == "smotenc" else None
    whole = churn(rows, tmp_path, name)
    made = page(
        {"type": "csv", "path": str(tmp_path / "t.csv")},
        target="churn",
        ignore=["customer_id"],
        split={"type": "random", "seed": 0},
        steps=STEPS["embedding" if plain_steps else "one_hot"],
    )
    plain = prepare(made, tmp_path / "cache")
    assert plain.key != whole.key
    same(plain.validation, whole.validation)
    same(plain.test, whole.test)
    assert (whole.folder / "preprocessing.json").read_bytes() == (plain.folder / "preprocessing.json").read_bytes()

    # Replaying the audit on the plain training part gives the classes and the source rows of the balanced one.
    expected = plain.train.source_rows.tolist()
    labels = dict(zip(plain.train.source_rows.tolist(), plain.train.target.tolist(), strict=True))
    for line in audit(whole):
        number = int(line["source_row"])
        if line["action"] == "left out":
            assert line["reason"] == "no target"
            continue
        if line["action"] == "removed":
            expected.remove(number)
        else:
            assert line["action"] == ("made" if number == MADE else "repeated")
            expected.append(number)
        if number != MADE:
            assert line["reason"] == f"balance {name}, class {labels[number]}"
    assert sorted(expected) == sorted(whole.train.source_rows.tolist())
    assert len(expected) != len(plain.train)
    counts = np.bincount(whole.train.target).tolist()
    assert list(whole.summary.class_counts["train"].values()) == counts
    assert whole.summary.parts["train"] == len(whole.train) == sum(counts)
    assert {part: whole.summary.class_counts[part] for part in ("validation", "test")} == {
        part: plain.summary.class_counts[part] for part in ("validation", "test")
    }
    # A row that has a number is the row of that number, inputs and class.
    place = {number: index for index, number in enumerate(plain.train.source_rows.tolist())}
    real = np.flatnonzero(whole.train.source_rows != MADE)
    there = [place[number] for number in whole.train.source_rows[real].tolist()]
    for one, other in zip(
        (*whole.train.inputs, whole.train.target), (*plain.train.inputs, plain.train.target), strict=True
    ):
        np.testing.assert_array_equal(one[real], other[there])


def test_the_made_rows_are_imbalanced_learns_on_the_prepared_arrays(tmp_path: Path) -> None:
    plain = prepare(page(CANCER, steps=["scale"]), tmp_path)
    found = prepare(page(CANCER, steps=["scale"], balance="smote"), tmp_path)
    sampler = SMOTE(random_state=derived_seed(0, "balance") % 2**32)
    x, y = sampler.fit_resample(np.array(plain.train.inputs[0]), np.array(plain.train.target))
    np.testing.assert_array_equal(found.train.inputs[0], x)
    np.testing.assert_array_equal(found.train.target, y)
    before = plain.summary.class_counts["train"]
    added = before["benign"] - before["malignant"]
    told = f"The training part was balanced by smote: {added} rows of the class 'malignant' added; {len(y)} rows now."
    assert told in found.summary.notes
    assert found.summary.balanced == "smote"
    assert plain.summary.balanced == ""


@pytest.mark.parametrize("name", BALANCERS)
def test_values_outside_the_training_part_change_nothing(name: str, tmp_path: Path) -> None:
    rows = mixed(500).drop_columns(["empty"])
    first = churn(rows, tmp_path, name)
    inside = np.zeros(500, dtype=bool)
    inside[np.concatenate([first.train.source_rows, [int(line["source_row"]) for line in audit(first)]])] = True
    outside = np.concatenate([first.validation.source_rows, first.test.source_rows])
    inside[outside] = False
    changed = {column: rows.column(column).to_pylist() for column in rows.column_names}
    for row in np.flatnonzero(~inside):
        changed["age"][row], changed["income"][row] = 1e4, -1.0
        changed["city"][row], changed["member"][row] = "Elsewhere", "yes"
    second = churn(pa.table(changed), tmp_path, name)
    assert second.key != first.key
    assert not np.array_equal(first.test.inputs[0], second.test.inputs[0])
    same(first.train, second.train)


def test_the_cache_tells_balancers_their_keys_and_the_seed_of_the_split_apart(tmp_path: Path) -> None:
    ways: list[dict[str, Any]] = [
        {},
        {"balance": "smote"},
        {"balance": {"type": "smote", "k_neighbors": 3}},
        {"balance": "over"},
        {"balance": {"type": "over", "ratio": 0.8}},
        {"balance": "over", "split": {"type": "random", "seed": 1}},
    ]
    keys = [prepare(page(CANCER, steps=["scale"], **way), tmp_path).key for way in ways]
    assert len(set(keys)) == len(ways)
    assert prepare(page(CANCER, steps=["scale"], balance="smote"), tmp_path).reused


def test_images_are_over_and_undersampled(tmp_path: Path) -> None:
    digits = {"type": "sklearn", "name": "digits"}
    found = prepare(page(digits, balance="over"), tmp_path)
    assert len(set(np.bincount(found.train.target).tolist())) == 1
    assert found.shapes.image == (1, 8, 8)
    with pytest.raises(DataError, match="a row is an image: write over or under"):
        prepare(page(digits, balance="smote"), tmp_path)


def test_columns_of_two_values_are_named_where_they_get_others(tmp_path: Path) -> None:
    told = [note for note in churn(mixed(500), tmp_path, "smote").summary.notes if "values in between" in note]
    assert len(told) == 1
    assert "columns of two values" in told[0]
    notes = churn(mixed(500), tmp_path, "over").summary.notes
    assert not any("values in between" in note for note in notes)


def test_what_cannot_be_balanced_is_one_sentence(tmp_path: Path) -> None:
    few = "x,z,label\n" + "".join(f"{n % 7}.5,{n % 11},{'rare' if n % 20 == 3 else 'usual'}\n" for n in range(60))
    with pytest.raises(DataError, match=r"'rare' has 2 training rows\. Set k_neighbors: 1, or write over\."):
        prepare(csv_page(tmp_path / "a.csv", few, target="label", balance="smote"), tmp_path / "cache")
    gaps = few.replace("0.5,", ",")
    with pytest.raises(DataError, match=r"values are missing in 'x' .*type: impute"):
        prepare(csv_page(tmp_path / "b.csv", gaps, target="label", balance="smote"), tmp_path / "cache")
    with pytest.raises(DataError, match="the target 'target' is read as amounts"):
        prepare(page({"type": "sklearn", "name": "diabetes"}, balance="over"), tmp_path / "cache")
    one = "x,label\n" + "".join(f"{n}.5,{'b' if n > 80 else 'a'}\n" for n in range(100))
    sorted_split = {"type": "time", "column": "x"}
    with pytest.raises(DataError, match="there is nothing to learn"):
        prepare(
            csv_page(tmp_path / "c.csv", one, target="label", split=sorted_split, balance="over"), tmp_path / "cache"
        )


@pytest.mark.parametrize("task", ["regression", "language_modelling"])
def test_the_page_is_refused_where_it_says_another_task(task: str) -> None:
    data = {"source": CANCER, "task": task, "steps": ["tokenize"], "balance": {"choice": [None, "over"]}}
    with pytest.raises(
        PageError, match=rf"data\.balance: it evens out classes, and data\.task is {task}\. Take it away"
    ):
        reading.from_tree({"data": data, "model": "baseline"})


def test_a_forecast_has_no_classes() -> None:
    data = {"source": CANCER, "window": {"length": 3, "order": "day"}, "balance": "over"}
    with pytest.raises(PageError, match=r"data\.balance: it evens out classes, and a window foretells amounts"):
        reading.from_tree({"data": data, "model": "baseline"})


def test_a_search_that_goes_on_keeps_the_data_of_its_winner(tmp_path: Path) -> None:
    """More training rows are more steps of the one epoch, so each trial here is better than the last."""
    balance = {"choice": ["under", None, {"type": "over", "ratio": 0.8}, "over"]}
    data = {"source": CANCER, "steps": ["scale"], "balance": balance}
    train = {"epochs": 1, "batch_size": 16, "optimizer": {"type": "sgd", "lr": 1e-3}}
    run = nn.run(
        nn.load(written({"data": data, "train": train, "search": {"method": "grid", "trials": 1}}, tmp_path)),
        tmp_path / "out",
    )
    for times, name in enumerate(("under", "", "over", "over"), start=1):
        if times > 1:
            run = nn.resume(run.path, trials=times)
        folder = RunDir(run.path)
        best = reading.load(folder.best_page)
        assert run.best["trial"] == f"{times:04d}"
        assert folder.best_data.is_dir() == (times > 1)  # under is the first choice, which data/ holds
        learned = open_dataset(folder.best_data if times > 1 else folder.data)
        assert learned.key == prepare(best).key
        summary = facts_from_folder(folder).summary
        assert summary is not None
        assert summary.balanced == learned.summary.balanced == name


def written(page: dict[str, Any], folder: Path) -> Path:
    place = folder / "page.yaml"
    place.write_text(yaml.safe_dump({**page, "model": {"type": "mlp", "widths": [8]}}), encoding="utf-8")
    return place


def test_the_report_says_shares_of_the_rows_that_are_measured() -> None:
    counts = {"train": {"a": 90, "b": 90}, "validation": {"a": 15, "b": 3}, "test": {"a": 15, "b": 3}}
    assert (
        "“a” has 5 times as many rows as “b” outside the balanced training part" in class_counts(counts, True).caption
    )
    assert "The classes are balanced:" in class_counts(counts).caption


class Doubled(Balancer):
    """Each row twice."""

    def balance(self, training: Training, seed: int) -> Balanced:
        rows = np.arange(len(training.target))
        return Balanced(rows, rows)


class Wild(Balancer):
    """Rows that there are not.

    Keys:
        how: what is wrong.
    """

    def __init__(self, *, how: str) -> None:
        self.how = how

    def balance(self, training: Training, seed: int) -> Balanced:
        rows, one = np.arange(len(training.target)), np.zeros(1, dtype=np.int64)
        wide = np.zeros((1, 99), dtype=np.float32)
        nan = np.full((1, *training.arrays[0].shape[1:]), np.nan, dtype=np.float32)
        return {
            "beyond": Balanced(rows, np.array([len(rows)])),
            "order": Balanced(rows[::-1]),
            "shape": Balanced(rows, made=(wide,), made_target=one),
            "class": Balanced(rows, made=(wide[:, : nan.shape[1]],), made_target=one + 2),
            "nan": Balanced(rows, made=(nan,), made_target=one),
            "gone": Balanced(np.flatnonzero(training.target == 0)),
        }[self.how]


def test_a_balancer_of_ones_own(tmp_path: Path) -> None:
    plain = prepare(page(CANCER), tmp_path)
    found = prepare(page(CANCER, balance=f"{__name__}:Doubled"), tmp_path)
    assert len(found.train) == 2 * len(plain.train)


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ("beyond", PartError, "must name rows as int64 from 0 to"),
        ("order", PartError, "in ascending order"),
        ("shape", PartError, "not like the training rows"),
        ("class", PartError, "not like the training rows"),
        ("nan", DataError, "too large"),
        ("gone", DataError, "leaves no row of the class 'malignant'"),
    ],
)
def test_a_balancer_of_ones_own_that_is_at_fault(how: str, error: type[Exception], said: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=said):
        prepare(page(CANCER, balance={"type": f"{__name__}:Wild", "how": how}), tmp_path)
