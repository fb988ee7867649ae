"""Sequences: arrays and tables in long form, steps that are there and padding, scaling, new rows, what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from data_example import page
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from nnopt_ray.data.long_form import LongForm
from nnopt_ray.data.prepare import apply, prepare
from nnopt_ray.data.table import Sequences, Table, tidy
from nnopt_ray.data.types import Dataset
from nnopt_ray.errors import DataError

ROWS, LENGTH = 80, 9


def arrays(seed: int = 0, gaps: bool = False) -> dict[str, np.ndarray]:
    """x with rubbish behind the ends, lengths, and a class that hangs on the mean of the first channel."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, LENGTH + 1, ROWS)
    x = random.normal([3.0, -50.0], [1.0, 20.0], (ROWS, LENGTH, 2))
    x[np.arange(LENGTH) >= lengths[:, None]] = 1e9
    if gaps:
        x[random.random(x.shape) < 0.1] = np.nan
    return {"x": x, "y": np.arange(ROWS) % 2, "steps": lengths}


def prepared(folder: Path, held: dict[str, np.ndarray], *steps: Any, **keys: Any) -> Dataset:
    np.savez(folder / "t.npz", **held)  # type: ignore[arg-type]
    source = {"type": "numpy", "path": str(folder / "t.npz"), "kind": "sequence", "lengths": "steps", **keys}
    return prepare(page(source, steps=list(steps)), folder / "cache")


def parts_of(dataset: Dataset) -> dict[str, Any]:
    return {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}


def real_steps(held: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """[steps, channels] of these rows, without padding."""
    return np.concatenate([held["x"][row, : held["steps"][row]] for row in rows])


def test_arrays_are_sequences_with_zeros_behind_their_ends(tmp_path: Path) -> None:
    held = arrays()
    dataset = prepared(tmp_path, held)
    assert dataset.shapes.sequence == (LENGTH, 2)
    assert [(i.kind, i.shape) for i in dataset.shapes.inputs] == [("sequence", (LENGTH, 2)), ("lengths", ())]
    for rows in parts_of(dataset).values():
        values, lengths = rows.inputs
        assert (values.dtype, lengths.dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(lengths, held["steps"][rows.source_rows])
        for row, steps, source_row in zip(values, lengths, rows.source_rows, strict=True):
            np.testing.assert_allclose(row[:steps], held["x"][source_row, :steps], rtol=1e-6)
            assert (row[steps:] == 0).all()
    (column, _) = dataset.summary.columns
    assert (column.name, column.kind, column.note) == ("sequence", "sequence", "1 to 9 steps of 'x0', 'x1'")


def test_sequences_of_one_length_and_of_one_channel(tmp_path: Path) -> None:
    held = arrays()
    np.save(tmp_path / "x.npy", held["x"][:, :, 0])
    np.save(tmp_path / "y.npy", held["y"])
    np.save(tmp_path / "n.npy", held["steps"])
    keys: dict[str, Any] = {"type": "numpy", "x": str(tmp_path / "x.npy"), "y": str(tmp_path / "y.npy")}
    whole = prepare(page({**keys, "kind": "sequence"}), tmp_path / "cache")
    assert [(i.kind, i.shape) for i in whole.shapes.inputs] == [("sequence", (LENGTH, 1))]
    ragged = prepare(page({**keys, "kind": "sequence", "lengths": str(tmp_path / "n.npy")}), tmp_path / "cache")
    assert [i.kind for i in ragged.shapes.inputs] == ["sequence", "lengths"]
    assert prepare(page(keys), tmp_path / "cache").feature_names[:2] == ("x0", "x1")
    np.save(tmp_path / "x.npy", held["x"])
    assert prepare(page(keys), tmp_path / "cache").shapes.image == (1, LENGTH, 2)


@pytest.mark.parametrize(
    ("method", "reference"), [("standard", StandardScaler), ("minmax", MinMaxScaler), ("robust", RobustScaler)]
)
def test_channels_are_scaled_by_the_real_steps_of_the_training_part(
    method: str, reference: Any, tmp_path: Path
) -> None:
    held = arrays()
    dataset = prepared(tmp_path, held, {"type": "scale", "method": method})
    fitted = reference().fit(real_steps(held, dataset.train.source_rows))
    for rows in parts_of(dataset).values():
        values, lengths = rows.inputs
        found = np.concatenate([row[:steps] for row, steps in zip(values, lengths, strict=True)])
        np.testing.assert_allclose(found, fitted.transform(real_steps(held, rows.source_rows)), rtol=1e-4, atol=1e-5)
        assert (values[np.arange(LENGTH) >= lengths[:, None]] == 0).all()


@pytest.mark.parametrize("strategy", ["mean", "median", "most_frequent", "constant"])
def test_gaps_are_filled_by_the_real_steps_of_the_training_part(strategy: str, tmp_path: Path) -> None:
    held = arrays(gaps=True)
    with pytest.raises(DataError, match=r"values are missing in the sequences, in 'x0' .* columns: \[sequence\]"):
        prepared(tmp_path, held)
    dataset = prepared(tmp_path, held, {"type": "impute", "strategy": strategy})
    fitted = SimpleImputer(strategy=strategy, fill_value=0.0).fit(real_steps(held, dataset.train.source_rows))
    for rows in parts_of(dataset).values():
        values, lengths = rows.inputs
        found = np.concatenate([row[:steps] for row, steps in zip(values, lengths, strict=True)])
        np.testing.assert_allclose(found, fitted.transform(real_steps(held, rows.source_rows)), rtol=1e-5)


def test_sequences_outside_the_training_part_change_nothing_in_it(tmp_path: Path) -> None:
    held = arrays(gaps=True)
    first = prepared(tmp_path, held, "impute", "scale")
    outside = np.concatenate([first.validation.source_rows, first.test.source_rows])
    changed = {name: array.copy() for name, array in held.items()}
    changed["x"][outside] *= 7
    changed["steps"][outside] = 3
    second = prepared(tmp_path, changed, "impute", "scale")
    assert second.key != first.key
    for one, other in zip(first.train.inputs, second.train.inputs, strict=True):
        np.testing.assert_array_equal(one, other)
    saved = [json.loads((d.folder / "preprocessing.json").read_text()) for d in (first, second)]
    assert saved[0] == saved[1]


def test_new_sequences_are_prepared_as_the_old_ones_were(tmp_path: Path) -> None:
    held = arrays(gaps=True)
    dataset = prepared(tmp_path, held, "impute", "scale")
    rows = dataset.test.source_rows[held["steps"][dataset.test.source_rows] <= 5]
    some = Sequences(held["x"][rows, :5], held["steps"][rows], ("x0", "x1"))
    found = apply(dataset.folder, Table("new", pa.table({}), sequences=some))
    where = np.isin(dataset.test.source_rows, rows)
    for one, other in zip(found, dataset.test.inputs, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other[where])
    longer = Sequences(np.zeros((2, 12, 2)), np.array([12, 3]), ("x0", "x1"))
    with pytest.raises(DataError, match="has a sequence of 12 steps; the model was trained with at most 9"):
        apply(dataset.folder, Table("new", pa.table({}), sequences=longer))
    with pytest.raises(DataError, match="has no sequences where 'x0', 'x1' was trained"):
        apply(dataset.folder, Table("new", pa.table({"x": [1.0]})))


# Long form


def long_form(seed: int = 0) -> pd.DataFrame:
    """Rows of 30 walks in random order; a person has several of them."""
    random = np.random.default_rng(seed)
    made = []
    for walk in range(30):
        steps = random.integers(2, 12)
        made.append(
            pd.DataFrame(
                {
                    "walk": f"w{walk}", "second": random.permutation(100)[:steps] / 4,
                    "speed": random.normal(5, 1, steps), "slope": random.normal(0, 1, steps),
                    "person": f"p{walk % 6}", "kind": ("run", "hike")[walk % 2],
                }
            )
        )  # fmt: skip
    return pd.concat(made).iloc[random.permutation(sum(map(len, made)))].reset_index(drop=True)


@pytest.mark.parametrize("file", ["t.csv", "t.parquet"])
def test_a_table_in_long_form_is_what_pandas_groups(file: str, tmp_path: Path) -> None:
    table = long_form()
    table.to_csv(tmp_path / file, index=False) if file == "t.csv" else table.to_parquet(tmp_path / file)
    keys = {"path": str(tmp_path / file), "id": "walk", "order": "second", "label": "kind", "whole": ["person"]}
    split = {"type": "grouped", "group": "person", "validation": 0.2, "test": 0.3}
    dataset = prepare(page({"type": "sequences", **keys}, split=split), tmp_path / "cache")
    expected = list(table.groupby("walk", sort=False))
    assert dataset.summary.rows == 30
    assert dataset.classes == ("hike", "run")
    people: list[set[str]] = []
    for rows in parts_of(dataset).values():
        for values, steps, target, number in zip(*rows.inputs, rows.target, rows.source_rows, strict=True):
            _, walk = expected[number]
            ordered = walk.sort_values("second")[["speed", "slope"]].to_numpy()
            assert steps == len(ordered)
            np.testing.assert_allclose(values[:steps], ordered, rtol=1e-6)
            assert dataset.classes[target] == walk["kind"].iloc[0]
        people.append({expected[number][1]["person"].iloc[0] for number in rows.source_rows})
    assert not people[0] & people[1] | people[0] & people[2] | people[1] & people[2]


def test_long_form_keeps_what_it_is_told(tmp_path: Path) -> None:
    table = long_form()
    table.loc[table["walk"] == "w3", "kind"] = np.where(np.arange((table["walk"] == "w3").sum()) == 1, "hike", None)
    table.loc[table["walk"] == "w4", "kind"] = None
    table.to_csv(tmp_path / "t.csv", index=False)
    source = LongForm(path="t.csv", id="walk", label="kind", channels=("slope",), length=4)
    read = tidy(source.read(tmp_path))
    assert read.sequences is not None
    assert read.sequences.values.shape == (30, 4, 1)
    names = table["walk"].unique().tolist()
    labels = dict(zip(names, read.columns.column("kind").to_pylist(), strict=True))
    assert (labels["w3"], labels["w4"], labels["w5"]) == ("hike", None, "hike")
    sizes = table["walk"].value_counts()
    assert read.sequences.lengths.tolist() == [min(4, int(sizes[name])) for name in names]
    in_order = table[table["walk"] == names[0]]["slope"].to_numpy()[:4]
    np.testing.assert_array_equal(read.sequences.values[0, : len(in_order), 0], in_order)
    assert f"{(sizes > 4).sum()} of 30 sequences are longer than 4 steps" in read.notes[0]
    before = source.fingerprint(tmp_path)
    table.iloc[::-1].to_csv(tmp_path / "t.csv", index=False)
    assert source.fingerprint(tmp_path) != before


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"id": "wolk"}, "data.source.id: .* has no column 'wolk'. Did you mean 'walk'"),
        ({"id": "hole"}, "'hole' is missing in 1 rows, so their sequence is unknown"),
        ({"order": "kind"}, "data.source.order: 'kind' holds no times"),
        ({"order": "step"}, "two rows of the sequence 'w"),
        ({"label": "speed"}, "'speed' must be the same in all rows of a sequence, and is "),
        ({"channels": ("person",)}, "data.source.channels: 'person' holds no numbers"),
        ({"channels": ("spd",)}, "data.source.channels: .* has no column 'spd'"),
        ({"whole": ("speed", "slope", "second", "step")}, "has no further column of numbers to learn from"),
        ({"whole": ("speed",)}, "'speed' must be the same in all rows"),
    ],
)
def test_what_is_no_table_of_sequences_is_said(keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    table = long_form().assign(step=1.0)
    table["hole"] = ["x"] * (len(table) - 1) + [None]
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=said) as caught:
        LongForm(**{"path": "t.csv", "id": "walk", "label": "kind", **keys}).read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "keys", "said"),
    [
        ({"steps": np.full(ROWS, 10)}, {}, "the length of a sequence must be 1 to 9, and that of row 0 is 10"),
        ({"steps": np.zeros(ROWS, int)}, {}, "must be 1 to 9, and that of row 0 is 0"),
        ({"steps": np.ones(ROWS)}, {}, "data.source.lengths: .* holds float64; whole numbers are needed"),
        ({"steps": np.ones(3, int)}, {}, r"has the shape \(3,\); x has 80 rows"),
        ({}, {"kind": "image"}, "images have no lengths"),
        ({"x": np.zeros((ROWS, 3, 3, 3))}, {}, "sequences are "),
        ({"x": np.full((ROWS, LENGTH, 2), np.inf)}, {}, "80 of the sequences hold infinite numbers"),
        ({"x": np.full((ROWS, LENGTH, 2), np.inf, np.float32)}, {}, "80 of the sequences hold infinite numbers"),
    ],
)
def test_arrays_that_are_no_sequences_are_explained(
    change: dict[str, np.ndarray], keys: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said):
        prepared(tmp_path, {**arrays(), **change}, **keys)


def test_encode_and_tokenize_leave_sequences_alone(tmp_path: Path) -> None:
    for step, said in (("encode", "not on sequences"), ("tokenize", "tokenize reads text, and 'sequence' holds none")):
        with pytest.raises(DataError, match=said):
            prepared(tmp_path, arrays(), {"type": step, "columns": ["sequence"]})


def test_a_test_file_may_count_its_sequences_again(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("id,v,k\n2,1,a\n2,2,a\n1,3,b\n")
    (tmp_path / "test.csv").write_text("id,v,k\n1,4,a\n1,5,a\n3,6,b\n")
    source = {"path": "train.csv", "test": "test.csv", "id": "id", "label": "k"}
    found = LongForm(**source).read(tmp_path)  # type: ignore[arg-type]
    assert found.sequences is not None
    assert found.sequences.values[:, :, 0].tolist() == [[1, 2], [3, 0], [4, 5], [6, 0]]
    assert found.columns.to_pydict() == {"k": ["a", "b", "a", "b"]}
    assert found.own_parts is not None
    assert found.own_parts.tolist() == ["train", "train", "test", "test"]
    assert page({"type": "sequences", **source}, tmp_path / "page.yaml").data.split.type == "given"
