"""Sequences with a row each and a column for each step: which columns are steps, where a row ends, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data_example import page
from pyarrow import parquet

from nnopt_ray.data.prepare import prepare
from nnopt_ray.data.table import Table, tidy
from nnopt_ray.data.wide_form import WideForm
from nnopt_ray.errors import DataError


def read(base: Path, text: str, **keys: Any) -> Table:
    (base / "t.csv").write_text(text)
    return tidy(WideForm(**{"path": "t.csv", "label": "k", **keys}).read(base))


def refused(base: Path, text: str, **keys: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(base, text, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def values(table: Table) -> list[Any]:
    assert table.sequences is not None
    found: list[Any] = table.sequences.values.tolist()
    return found


TWO = "k,x_0,y_0,x_10,y_10,x_2,y_2,who\na,1,2,5,6,3,4,p\nb,7,8,,,9,10,q\n"


def test_columns_that_differ_in_a_number_are_a_channel(tmp_path: Path) -> None:
    found = read(tmp_path, TWO)
    assert found.sequences is not None
    assert found.sequences.channels == ("x", "y")
    assert values(found) == [[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 10], [0, 0]]]
    assert found.sequences.lengths.tolist() == [3, 2]
    assert found.columns.to_pydict() == {"k": ["a", "b"]}
    assert found.target == "k"
    assert found.notes == ("Columns that are neither steps nor named in `whole` are not read: 'who'.",)
    gaps = read(tmp_path, TWO, trailing="missing", whole=("who",))
    assert np.isnan(values(gaps)[1][2]).all()
    assert gaps.columns.to_pydict() == {"k": ["a", "b"], "who": ["p", "q"]}
    assert gaps.notes == ()


def test_channels_are_patterns_or_lists(tmp_path: Path) -> None:
    assert values(read(tmp_path, TWO, channels=("y_*",))) == [[[2], [4], [6]], [[8], [10], [0]]]
    found = read(tmp_path, TWO, channels=(("x_0", "y_0"), ("y_10", "x_10")))
    np.testing.assert_array_equal(values(found), [[[1, 6], [2, 5]], [[7, np.nan], [8, np.nan]]])
    assert read(tmp_path, TWO, channels=("y_*", "x_*")).sequences.channels == ("y", "x")  # type: ignore[union-attr]
    seasons = "k,jan,feb,mar\na,1,2,3\n"
    assert values(read(tmp_path, seasons, channels=(("jan", "feb", "mar"),))) == [[[1], [2], [3]]]


def test_files_without_a_header_as_the_ucr_archive_has_them(tmp_path: Path) -> None:
    """Dau et al. 2019: the label first, tabs, shorter series filled with NaN."""
    found = read(tmp_path, "1\t0.5\t0.25\tNaN\n2\t1\t2\t3\n", label="f0", header=False, delimiter="\t")
    assert values(found) == [[[0.5], [0.25], [0.0]], [[1.0], [2.0], [3.0]]]
    assert found.sequences is not None
    assert found.sequences.lengths.tolist() == [2, 3]
    assert found.columns.to_pydict() == {"f0": [1, 2]}
    named = "k,1,2,3\na,1,2,3\n"
    assert read(tmp_path, named).sequences.channels == ("value",)  # type: ignore[union-attr]


def test_a_test_file_is_the_test_part_and_runs(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, rows in (("train", 40), ("test", 10)):
        steps = random.normal(size=(rows, 5))
        columns = {f"t{step}": steps[:, step] for step in range(5)}
        parquet.write_table(pa.table({"k": (steps.mean(1) > 0).astype(int), **columns}), tmp_path / f"{name}.parquet")
    source = {"type": "wide_sequences", "path": "train.parquet", "test": "test.parquet", "label": "k"}
    experiment = page(source, tmp_path / "page.yaml")
    assert experiment.data.split.type == "given"
    dataset = prepare(experiment, tmp_path / "cache")
    assert dataset.summary.parts == {"train": 34, "validation": 6, "test": 10}
    assert [(one.kind, one.shape) for one in dataset.shapes.inputs] == [("sequence", (5, 1))]
    np.testing.assert_allclose(dataset.test.inputs[0][:, :, 0], steps, rtol=1e-6)


def test_the_fingerprint_is_that_of_the_file(tmp_path: Path) -> None:
    source = WideForm(path="t.csv", label="k")
    (tmp_path / "t.csv").write_text(TWO)
    before = source.fingerprint(tmp_path)
    (tmp_path / "t.csv").write_text(TWO.replace("10", "11"))
    assert source.fingerprint(tmp_path) != before


@pytest.mark.parametrize(
    ("text", "keys", "said"),
    [
        ("k,a,b\n1,2,3\n", {}, "no columns of numbers whose names differ only in a number"),
        (
            "k,x0,x1,y0\n1,2,3,4\n",
            {"channels": ("x*", "y*")},
            "'x*' has 2 steps and 'y*' 1; they must be the same, and diff",
        ),
        ("k,x0,x1,y1,y2\n1,2,3,4,5\n", {}, "differ at 0, 2"),
        ("k,x0,x1\n1,2,3\n", {"channels": ("z*",)}, "'z*' names no columns"),
        ("k,x0,x1\n1,2,3\n", {"channels": ("x0",)}, "a name with one star"),
        ("k,x0,x1\n1,2,3\n", {"channels": (("x0", "x3"),)}, "has no column 'x3'"),
        ("k,x0,x1\n1,2,3\n", {"channels": (("k", "x0"),)}, "stands in 'channel 0' too"),
        ("k,x0,x1\n1,2,3\n", {"label": "l"}, "data.source.label"),
        ("k,x0,x1\n1,2,3\n", {"whole": ("w",)}, "data.source.whole"),
        ("k,x0,x1\n1,2,b\n", {"channels": ("x*",)}, "'x1' hold no numbers"),
        ("k,x0,x1\n1,2,3\n1,,\n", {}, "all steps are missing in 1 rows"),
        ("k,x0,x1\n1,2,inf\n", {}, "are infinite"),
    ],
)
def test_tables_without_sequences_are_explained(text: str, keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in refused(tmp_path, text, **keys)
