"""From a page to a prepared data set: real sets, a mixed table, no leak, new rows, and what is said of bad data."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data_example import csv_page, mixed, page
from pyarrow import csv as arrow_csv
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.preprocessing import StandardScaler

from nnopt_ray.data.csv_file import Csv
from nnopt_ray.data.prepare import apply, place, prepare
from nnopt_ray.data.split import PARTS
from nnopt_ray.data.store import read_summary
from nnopt_ray.data.table import Table
from nnopt_ray.data.types import Dataset
from nnopt_ray.errors import DataError

MIXED_STEPS: list[dict[str, Any]] = [
    {"type": "impute", "strategy": "median", "indicator": True},
    {"type": "scale"},
    {"type": "encode", "method": "embedding", "columns": ["city"]},
]


def parts_of(dataset: Dataset) -> dict[str, Any]:
    return {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}


def test_digits_are_images_of_ten_classes(tmp_path: Path) -> None:
    dataset = prepare(page({"type": "sklearn", "name": "digits"}, target="label"), tmp_path)
    bunch = load_digits()
    assert dataset.shapes.image == (1, 8, 8)
    assert dataset.shapes.outputs == 10
    assert dataset.classes == tuple("0123456789")
    assert dataset.feature_names == ()
    for rows in parts_of(dataset).values():
        (images,) = rows.inputs
        assert (images.dtype, rows.target.dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(images[:, 0], bunch.images[rows.source_rows])
        np.testing.assert_array_equal(rows.target, bunch.target[rows.source_rows])
    assert {part: len(rows) for part, rows in parts_of(dataset).items()} == {
        "train": 1168,
        "validation": 270,
        "test": 359,
    }
    assert dataset.summary.target == "label"
    counts = dataset.summary.class_counts
    assert sum(counts["train"].values()) == 1168


def test_breast_cancer_is_scaled_as_scikit_learn_would(tmp_path: Path) -> None:
    dataset = prepare(page({"type": "sklearn", "name": "breast_cancer"}, steps=["scale"]), tmp_path)
    bunch = load_breast_cancer()
    assert dataset.classes == ("benign", "malignant")
    assert dataset.feature_names == tuple(bunch.feature_names)
    scaler = StandardScaler().fit(bunch.data[dataset.train.source_rows])
    for rows in parts_of(dataset).values():
        expected = scaler.transform(bunch.data[rows.source_rows])
        np.testing.assert_allclose(rows.inputs[0], expected, rtol=1e-5, atol=1e-5)
        assert [dataset.classes[code] for code in rows.target] == [
            str(bunch.target_names[code]) for code in bunch.target[rows.source_rows]
        ]


@pytest.mark.parametrize("scaled", [True, False])
def test_diabetes_comes_back_in_the_users_units(scaled: bool, tmp_path: Path) -> None:
    dataset = prepare(page({"type": "sklearn", "name": "diabetes"}, scale_target=scaled), tmp_path)
    bunch = load_diabetes()
    assert (dataset.shapes.task, dataset.shapes.outputs) == ("regression", 1)
    for rows in parts_of(dataset).values():
        assert (rows.target.dtype, rows.target.shape) == (np.float32, (len(rows), 1))
        expected = bunch.target[rows.source_rows][:, None]
        np.testing.assert_allclose(dataset.user_units(rows.target), expected, rtol=1e-5)
    if scaled:
        assert abs(float(dataset.train.target.mean())) < 1e-6
        assert abs(float(dataset.train.target.std()) - 1) < 1e-6
    else:
        assert (dataset.target_mean.tolist(), dataset.target_scale.tolist()) == ([0.0], [1.0])


def mixed_page(folder: Path, **data: Any) -> Any:
    arrow_csv.write_csv(mixed(), folder / "customers.csv")
    return page({"type": "csv", "path": str(folder / "customers.csv")}, target="churn", **data)


def test_a_mixed_table_is_recognised_and_said(tmp_path: Path) -> None:
    dataset = prepare(mixed_page(tmp_path, steps=MIXED_STEPS), tmp_path / "cache")
    kinds = {column.name: column.kind for column in dataset.summary.columns}
    assert kinds == {
        "customer_id": "dropped",
        "age": "numeric",
        "income": "numeric",
        "city": "categorical",
        "member": "boolean",
        "since": "date",
        "country": "dropped",
        "empty": "dropped",
        "churn": "target",
    }
    assert dataset.feature_names == (
        "age", "income", "member", "since.days", "since.year", "since.month", "since.day_of_week",
        "age.missing",
    )  # fmt: skip
    assert dataset.shapes.categories == (6,)  # four cities, a missing one, one never met
    source = mixed()
    for part, rows in parts_of(dataset).items():
        assert rows.inputs[1].dtype == np.int64
        member = np.array(source.column("member"))[rows.source_rows] == "yes"
        np.testing.assert_array_equal(rows.inputs[0][:, 2], member)
        gaps = source.column("age").is_null().to_numpy()[rows.source_rows]
        np.testing.assert_array_equal(rows.inputs[0][:, 7], gaps)
        share = dataset.summary.class_counts[part]["1"] / len(rows)
        assert abs(share - 0.08) < 0.002
    assert dataset.summary.parts == {"train": 3250, "validation": 750, "test": 1000}
    for name in ("customer_id", "country", "empty"):
        assert any(f"'{name}' is not learned from" in note for note in dataset.summary.notes)


@pytest.mark.parametrize(
    "split",
    [{"type": "random", "seed": 3}, {"type": "grouped", "group": "city"}, {"type": "time", "column": "since"}],
)
def test_values_outside_the_training_part_change_nothing_that_was_learned(
    split: dict[str, Any], tmp_path: Path
) -> None:
    source = mixed(600).drop_columns(["empty"])
    filled = source.set_column(3, "city", source.column("city").fill_null("Bonn"))
    first = _prepared(filled, tmp_path, split)
    train = np.zeros(600, dtype=bool)
    train[first.train.source_rows] = True
    random = np.random.default_rng(0)
    changed = {name: filled.column(name).to_pylist() for name in filled.column_names}
    for row in np.flatnonzero(~train):
        changed["age"][row] = float(random.normal(1e4, 1e3))
        changed["income"][row] = None if random.random() < 0.5 else -1.0
        changed["member"][row] = "yes"
        changed["customer_id"][row] = 7
        changed["country"][row] = "FR"
        if split["type"] != "grouped":
            changed["city"][row] = "Elsewhere"
    second = _prepared(pa.table(changed), tmp_path, split)
    assert second.key != first.key
    np.testing.assert_array_equal(first.train.source_rows, second.train.source_rows)
    for one, other in zip(first.train.inputs, second.train.inputs, strict=True):
        np.testing.assert_array_equal(one, other)
    learned, again = (json.loads((d.folder / "preprocessing.json").read_text()) for d in (first, second))
    assert learned == again


def _prepared(rows: pa.Table, folder: Path, split: dict[str, Any]) -> Dataset:
    arrow_csv.write_csv(rows, folder / "t.csv")
    source = {"type": "csv", "path": str(folder / "t.csv")}
    return prepare(page(source, target="churn", split=split, steps=[*MIXED_STEPS[:2], "encode"]), folder / "cache")


def test_columns_that_divide_and_ignored_ones_are_not_learned_from(tmp_path: Path) -> None:
    rows = "".join(f"{n % 9},{n % 7},{n % 5},{('train', 'val', 'test')[n % 3]},{n % 2}\n" for n in range(90))
    text = f"g,x,z,part,label\n{rows}"
    for split in ({"type": "grouped", "group": "g"}, {"type": "given", "column": "part"}):
        ignored = ["z", "part"] if split["type"] == "grouped" else ["z", "g"]
        made = csv_page(tmp_path / "t.csv", text, target="label", split=split, ignore=ignored)
        dataset = prepare(made, tmp_path / "cache")
        assert dataset.feature_names == ("x",)
    assert dataset.summary.parts == {"train": 30, "validation": 30, "test": 30}


def test_rows_without_a_target_are_left_out_and_listed(tmp_path: Path) -> None:
    text = "x,label\n" + "".join(f"{n % 7}.5,{'' if n % 10 == 3 else n % 2}\n" for n in range(60))
    dataset = place(prepare(csv_page(tmp_path / "t.csv", text, target="label"), tmp_path / "cache"), tmp_path / "data")
    assert dataset.summary.rows == 60
    assert sum(dataset.summary.parts.values()) == 54
    assert "6 rows have no target and were left out." in dataset.summary.notes
    with (tmp_path / "data" / "audit.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [int(line["source_row"]) for line in lines] == [3, 13, 23, 33, 43, 53]
    assert {line["reason"] for line in lines} == {"no target"}
    left = np.concatenate([rows.source_rows for rows in parts_of(dataset).values()])
    assert sorted(left.tolist()) == [n for n in range(60) if n % 10 != 3]


def test_the_summary_reads_back_as_it_was(tmp_path: Path) -> None:
    dataset = prepare(mixed_page(tmp_path, steps=MIXED_STEPS), tmp_path / "cache")
    assert read_summary(dataset.folder / "summary.json") == dataset.summary


# New rows


def test_new_rows_are_prepared_as_the_old_ones_were(tmp_path: Path) -> None:
    dataset = prepare(mixed_page(tmp_path, steps=MIXED_STEPS), tmp_path / "cache")
    rows = dataset.test.source_rows
    source = mixed()
    without_target = source.drop_columns(["churn", "customer_id"]).take(rows)
    found = apply(dataset.folder, Table("new rows", without_target))
    for one, other in zip(found, dataset.test.inputs, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_new_rows_may_hold_new_categories_and_no_value_at_all(tmp_path: Path) -> None:
    dataset = prepare(mixed_page(tmp_path, steps=MIXED_STEPS), tmp_path / "cache")
    some = mixed().take([0, 1, 2]).drop_columns(["churn"])
    strange = some.set_column(3, "city", pa.array(["Zwickau"] * 3)).set_column(1, "age", pa.nulls(3))
    table, codes = apply(dataset.folder, Table("new rows", strange))
    assert codes.tolist() == [[0]] * 3
    assert np.isfinite(table).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.drop_columns(["age", "city"]), "lacks the columns 'age', 'city'"),
        (lambda rows: rows.append_column("extra", rows.column("age")), "has the column 'extra'"),
        (
            lambda rows: rows.set_column(1, "age", pa.array(["old"] * 5)),
            "'age' should be numeric and is string (such as 'old')",
        ),
        (lambda rows: rows.set_column(5, "since", pa.array(["soon"] * 5)), "'since' should be date"),
        (lambda rows: rows.set_column(4, "member", pa.array([7] * 5)), "'member' should be boolean"),
    ],
)
def test_new_rows_of_another_make_are_refused_in_a_sentence(change: Any, said: str, tmp_path: Path) -> None:
    dataset = prepare(mixed_page(tmp_path, steps=MIXED_STEPS), tmp_path / "cache")
    with pytest.raises(DataError) as caught:
        apply(dataset.folder, Table("new.csv", change(mixed().slice(0, 5))))
    assert said in str(caught.value)
    assert "new.csv" in str(caught.value)


def test_images_of_another_shape_are_refused(tmp_path: Path) -> None:
    dataset = prepare(page({"type": "sklearn", "name": "digits"}), tmp_path)
    with pytest.raises(DataError, match=r"images of shape \(1, 9, 9\) where \(1, 8, 8\)"):
        apply(dataset.folder, Table("new.npz", pa.table({}), images=np.zeros((4, 1, 9, 9))))
    with pytest.raises(DataError, match="has no images"):
        apply(dataset.folder, Table("new.csv", pa.table({"target": [1, 2]})))


# Bad data


@pytest.mark.parametrize(
    ("text", "data", "said"),
    [
        ("a,lable\n1,x\n2,y\n", {}, "no column 'label'. Did you mean 'lable'? The columns are: a, lable."),
        ("a;label\n1;x\n2;y\n", {}, "add to data.source: delimiter: ';'"),
        ("a,label\n1,x\n2,x\n", {}, "'label' is 'x' in every row"),
        ("a,label\n1,\n2,\n", {}, "'label' is missing in every row"),
        ("a,label\n1,x\n2,y\n3,x\n", {}, "3 rows are too few"),
        ("a,label\n" + "1,x\n2,y\n" * 20 + "3,z\n", {}, "the class 'z' has a single row"),
        ("a,label\n" + "1,x\n,y\n" * 20, {}, "values are missing in 'a' (20)"),
        ("a,label\n" + "u,x\nv,y\n" * 20, {}, "column 'a' is text"),
        ("a,label\n" + "1,x\ninf,y\n" * 20, {}, "infinite numbers, or numbers beyond 1e+150, in 'a' (20)"),
        ("a,label\n" + "1,x\n2,y\n" * 20, {"ignore": ["a"]}, "no column is left to learn from"),
        ("a,label\n" + "1,x\n2,y\n" * 20, {"ignore": ["aa"]}, "no column 'aa'. Did you mean 'a'?"),
        ("a,label\n" + "1,x\n2,y\n" * 20, {"ignore": ["label"]}, "names the target"),
        ("a,label\n" + "1,x\n2,y\n" * 20, {"task": "regression"}, "regression needs numbers"),
        ("a,label\n" + "1,x\n" * 30 + "2,y\n" * 10, {"split": {"type": "time", "column": "a"}}, "2 different times"),
        (
            "a,label\n" + "".join(f"{n},{'x' if n < 35 else 'y'}\n" for n in range(40)),
            {"split": {"type": "time", "column": "a"}},
            "is 'x' in all",
        ),
    ],
)
def test_bad_data_is_refused_in_a_sentence(text: str, data: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepare(csv_page(tmp_path / "t.csv", text, **{"target": "label", **data}), tmp_path / "cache")
    assert said in str(caught.value)
    assert not any((tmp_path / "cache").glob("*"))


VALUES = (
    "", "1", "-3", "2.5", "inf", "nan", "1e308", "x", "yes", "no", "2020-01-02", "31/12/2020", "2020-13-45", "TRUE",
    "0", "\x00", "é",
    "a,b", '"', "a\nb", "12:30", "99999999999999999999", "?", "1,5", "9999-12-31", "2020-01-01T00:00:00Z",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_any_table_is_prepared_or_refused_and_its_rows_come_back_the_same(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    file = tmp_path / "t.csv"
    outcomes: list[str] = []
    for _ in range(25):
        names = [
            *random.choice(["a", "b", "id", "when", "x y"], random.integers(1, 4), replace=False).tolist(),
            "label",
        ]
        palettes = [random.choice(VALUES, random.integers(1, 4)).tolist() for _ in names[1:]] + [["u", "v"]]
        with file.open("w", newline="", encoding="utf-8") as out:
            lines = csv.writer(out)
            lines.writerow(names)
            lines.writerows([random.choice(palette) for palette in palettes] for _ in range(random.choice([3, 30, 60])))
        made = page(
            {"type": "csv", "path": str(file)},
            target="label",
            split={"type": "random", "stratify": bool(random.random() < 0.5)},
            steps=[{"type": "impute", "indicator": True}, "encode", "scale"],
        )
        try:
            dataset = prepare(made, tmp_path / "cache")
        except DataError as error:
            outcomes.append(str(error))
            continue
        outcomes.append("prepared")
        again = apply(dataset.folder, Csv(path=str(file)).read(tmp_path))
        for rows in parts_of(dataset).values():
            for one, other in zip(rows.inputs, again, strict=True):
                assert np.isfinite(one).all()
                np.testing.assert_array_equal(one, other[rows.source_rows])
    assert "prepared" in outcomes
    assert not any("\n" in outcome for outcome in outcomes)


def test_a_class_with_a_single_row_is_allowed_when_nothing_is_stratified(tmp_path: Path) -> None:
    text = "a,label\n" + "1,x\n2,y\n" * 20 + "3,z\n"
    made = csv_page(tmp_path / "t.csv", text, target="label", split={"type": "random", "stratify": False})
    notes = prepare(made, tmp_path / "cache").summary.notes
    assert sum("has no row of the class 'z'" in note for note in notes) == 2


def test_a_column_without_values_is_left_out_with_a_note(tmp_path: Path) -> None:
    text = "a,b,label\n" + "1,,x\n2,,y\n" * 20
    dataset = prepare(csv_page(tmp_path / "t.csv", text, target="label"), tmp_path / "cache")
    assert dataset.feature_names == ("a",)
    assert "Column 'b' is not learned from: every value is missing." in dataset.summary.notes


def test_relative_paths_start_at_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.csv").write_text("a,label\n" + "1,x\n2,y\n" * 20)
    monkeypatch.chdir("/")
    made = page({"type": "csv", "path": "rows.csv"}, file=tmp_path / "page.yaml", target="label")
    summary = prepare(made, tmp_path / "cache").summary
    assert summary.source == "csv rows.csv"
    assert set(summary.parts) == set(PARTS)
