"""Data larger than memory: prepared a column and then some rows at a time, byte for byte as in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data_example import mixed, page
from pyarrow import feather, parquet

from nnopt_ray.data import later, spooled
from nnopt_ray.data.prepare import prepare
from nnopt_ray.errors import DataError

ENCODE = {"type": "encode", "method": "one_hot"}
PAGES: dict[str, dict[str, Any]] = {
    "all": {"steps": [{"type": "impute", "indicator": True}, "scale", ENCODE]},
    "embedding": {"steps": [{"type": "encode", "method": "embedding"}, {"type": "impute", "strategy": "median"}]},
    "ordinal": {
        "steps": [
            {"type": "impute", "strategy": "most_frequent"},
            {"type": "encode", "method": "ordinal", "columns": ["city", "city2"]},
            {"type": "scale", "method": "robust", "columns": ["age", "since", "city"]},
            {"type": "scale", "method": "minmax"},
        ]
    },
    "amounts": {"target": "age", "steps": ["impute", "scale", ENCODE], "ignore": ["churn"]},
    "time": {"split": {"type": "time", "column": "since"}, "steps": ["impute", ENCODE]},
    "grouped": {
        "split": {"type": "grouped", "group": "city2"},
        "steps": [{"type": "impute", "indicator": True}, ENCODE],
    },
}


def rows(gaps: bool = True) -> pa.Table:
    """With names that meet those of what is made of other columns, and some rows without a target."""
    table = mixed(3000)
    table = table.append_column("city2", pa.array(np.random.default_rng(5).integers(0, 40, len(table)).astype(str)))
    table = table.append_column("city=Bonn", pa.array(np.random.default_rng(1).normal(size=len(table))))
    table = table.append_column("age.missing", pa.array(np.random.default_rng(2).normal(size=len(table))))
    if gaps:
        lacking = np.random.default_rng(3).random(len(table)) < 0.05
        churn = pa.array(table.column("churn").to_numpy(), mask=lacking)
        table = table.set_column(table.column_names.index("churn"), "churn", churn)
    return table


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("name", PAGES)
def test_the_store_is_the_same_to_the_byte(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "rows.data"
    if kind == "parquet":
        parquet.write_table(rows(), place, row_group_size=700)
    else:
        feather.write_feather(rows(), place, chunksize=700, compression="zstd")
    made = page({"type": kind, "path": str(place)}, **{"target": "churn", **PAGES[name]})
    whole = prepare(made, tmp_path / "whole")
    monkeypatch.setattr(later, "LARGE_BYTES", 0)
    monkeypatch.setattr(spooled, "ROWS_AT_ONCE", 999)
    used: list[int] = []
    before = spooled.Pieces.__iter__
    monkeypatch.setattr(spooled.Pieces, "__iter__", lambda self: (used.append(1), before(self))[1])
    streamed = prepare(made, tmp_path / "streamed")
    assert used
    assert not streamed.reused
    assert files(whole.folder) == files(streamed.folder)
    assert [path.name for path in (tmp_path / "streamed").iterdir()] == [streamed.key]  # nothing is left of the spool


@pytest.mark.parametrize(
    "steps",
    [
        [],
        ["impute"],
        ["scale"],
        [ENCODE],
        [{"type": "scale", "columns": ["agee"]}],
        ["impute", {**ENCODE, "columns": ["empty"]}],
    ],
)
def test_what_is_refused_is_refused_in_the_same_words(
    steps: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet.write_table(rows(), tmp_path / "rows.parquet")
    made = page({"type": "parquet", "path": str(tmp_path / "rows.parquet")}, target="churn", steps=steps)
    with pytest.raises(DataError) as whole:
        prepare(made, tmp_path / "whole")
    monkeypatch.setattr(later, "LARGE_BYTES", 0)
    monkeypatch.setattr(spooled, "ROWS_AT_ONCE", 999)
    with pytest.raises(DataError) as streamed:
        prepare(made, tmp_path / "streamed")
    assert str(whole.value) == str(streamed.value)
    assert not list((tmp_path / "streamed").iterdir())


def test_a_page_that_needs_all_rows_at_once_is_prepared_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet.write_table(rows(), tmp_path / "rows.parquet")
    made = page(
        {"type": "parquet", "path": str(tmp_path / "rows.parquet")},
        target="churn",
        steps=["impute", ENCODE],
        balance="over",
    )
    whole = prepare(made, tmp_path / "whole")
    monkeypatch.setattr(later, "LARGE_BYTES", 0)
    assert files(whole.folder) == files(prepare(made, tmp_path / "streamed").folder)
    assert json.loads((whole.folder / "summary.json").read_text())["balanced"] == "over"
