"""Several files, several sources: rows below each other, columns by name, parts that files and sources are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data_example import page
from PIL import Image
from pyarrow import feather, parquet

from nnopt_ray import reading, tables
from nnopt_ray.data.concat import Concat
from nnopt_ray.data.prepare import prepare
from nnopt_ray.data.table import Table, tidy
from nnopt_ray.errors import DataError, PageError
from nnopt_ray.tables import Part

WRITE = {
    "csv": lambda rows, place: place.write_text(
        "\n".join([",".join(rows.column_names), *(",".join(map(str, row.values())) for row in rows.to_pylist())]) + "\n"
    ),
    "parquet": lambda rows, place: parquet.write_table(rows, place),
    "arrow": lambda rows, place: feather.write_feather(rows, str(place)),
}
KINDS = list(WRITE)


def put(kind: str, place: Path, **columns: list[Any]) -> None:
    place.parent.mkdir(exist_ok=True, parents=True)
    WRITE[kind](pa.table(columns), place)


def build(kind: str, **keys: Any) -> Any:
    return tables.find("source", kind)(**keys)


def read(kind: str, base: Path, **keys: Any) -> Table:
    return tidy(build(kind, **keys).read(base))


def refused(kind: str, base: Path, **keys: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(kind, base, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Files


@pytest.mark.parametrize("kind", KINDS)
def test_patterns_and_lists_of_files_are_one_table(kind: str, tmp_path: Path) -> None:
    for number in range(3):
        put(kind, tmp_path / "logs" / f"{number}.{kind}", a=[number, 10], b=["x", "y"])
    put(kind, tmp_path / f"more.{kind}", b=["z"], a=[0.5])
    pattern = f"logs/*.{kind}"
    assert read(kind, tmp_path, path=pattern).columns.to_pydict() == {"a": [0, 10, 1, 10, 2, 10], "b": ["x", "y"] * 3}
    found = read(kind, tmp_path, path=(f"more.{kind}", f"logs/[02].{kind}"))
    assert found.columns.to_pydict() == {"b": ["z", *["x", "y"] * 2], "a": [0.5, 0, 10, 2, 10]}
    assert "no file is named as" in refused(kind, tmp_path, path=f"nowhere/*.{kind}")
    assert "more than once" in refused(kind, tmp_path, path=(f"logs/1.{kind}", pattern))
    before = build(kind, path=pattern).fingerprint(tmp_path)
    (tmp_path / "logs" / f"2.{kind}").rename(tmp_path / "logs" / f"3.{kind}")
    assert build(kind, path=pattern).fingerprint(tmp_path) != before


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_other_columns_are_named(kind: str, tmp_path: Path) -> None:
    put(kind, tmp_path / f"1.{kind}", a=[1], b=[2])
    put(kind, tmp_path / f"2.{kind}", a=[1], c=[2], d=[3])
    said = refused(kind, tmp_path, path=f"*.{kind}")
    assert f"the columns of '2.{kind}' are not those of '1.{kind}': it lacks 'b' and has 'c', 'd' besides" in said


@pytest.mark.parametrize("kind", KINDS)
def test_test_and_validation_files_are_parts(kind: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, rows in (("train", 40), ("validation", 10), ("test", 20)):
        values = random.normal(size=rows)
        put(kind, tmp_path / f"{name}.{kind}", x=values.tolist(), y=[int(value > 0) for value in values])
    source = {"type": kind, "path": f"train.{kind}", "test": f"test.{kind}"}
    file = tmp_path / "page.yaml"
    assert page(source, file).data.split.type == "given"
    assert page({**source, "test": None}, file).data.split.type == "random"
    dataset = prepare(page(source, file, target="y"), tmp_path / "cache")
    assert dataset.summary.parts == {"train": 34, "validation": 6, "test": 20}
    assert dataset.summary.source == f"{kind} train.{kind}, test test.{kind}"
    assert sorted(dataset.test.source_rows) == list(range(40, 60))
    given = {**source, "validation": f"validation.{kind}"}
    dataset = prepare(page(given, file, target="y"), tmp_path / "cache")
    assert dataset.summary.parts == {"train": 40, "validation": 10, "test": 20}
    # A split that is named wins, and what was not followed is said.
    dataset = prepare(page(given, file, target="y", split="random"), tmp_path / "cache")
    assert "data.split: given would keep that" in dataset.summary.notes[0]
    assert "stands in two parts" in refused(kind, tmp_path, path=f"train.{kind}", test=f"train.{kind}")
    assert f"there is no file {tmp_path}/tst.{kind}" in refused(
        kind, tmp_path, path=f"train.{kind}", test=f"tst.{kind}"
    )


def test_patterns_and_lists_of_a_page_are_kept_in_full(tmp_path: Path) -> None:
    put("csv", tmp_path / "logs" / "1.csv", x=[1])
    file = tmp_path / "page.yaml"
    said = page({"type": "csv", "path": ["logs/*.csv", "logs/1.csv", "away.csv"]}, file).data.source["path"]
    assert said == (f"{tmp_path}/logs/*.csv", f"{tmp_path}/logs/1.csv", "away.csv")
    with pytest.raises(PageError, match="at least 1 item"):
        page({"type": "csv", "path": []}, file)


def test_kinds_of_columns_follow_from_all_csv_files(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,b,c,d\n01,1,2020-01-01,\n02,,2020-01-02,\n")
    (tmp_path / "2.csv").write_text("a,b,c,d\nx,2.5,soon,7\n")
    found = read("csv", tmp_path, path="*.csv").columns
    assert found.column("a").to_pylist() == ["01", "02", "x"]
    assert found.column("b").to_pylist() == [1, None, 2.5]
    assert found.column("c").to_pylist() == ["2020-01-01", "2020-01-02", "soon"]
    assert found.column("d").to_pylist() == [None, None, 7]


def test_columns_of_other_kinds_are_named(tmp_path: Path) -> None:
    put("parquet", tmp_path / "1.parquet", a=[1], b=[None])
    put("parquet", tmp_path / "2.parquet", a=["k"], b=[1.5])
    assert "'a' holds numbers in '1.parquet' and texts in '2.parquet'" in refused("parquet", tmp_path, path="*.parquet")


def test_a_folder_of_parquet_files_of_other_columns_is_refused(tmp_path: Path) -> None:
    put("parquet", tmp_path / "rows" / "1.parquet", a=[1])
    put("parquet", tmp_path / "rows" / "2.parquet", a=[1], b=[2])
    assert "'2.parquet' are not those of '1.parquet': it has 'b' besides" in refused("parquet", tmp_path, path="rows")


def test_folders_of_hive_are_columns(tmp_path: Path) -> None:
    rows = pa.table({"a": [1, 2, 3, 4], "m": ["x y", "z", None, "z"], "k": [2019, 2019, 2020, 2020]})
    parquet.write_to_dataset(rows, tmp_path / "rows", partition_cols=["m", "k"])
    for path in ("rows", "rows/*/*/*.parquet"):
        found = read("parquet", tmp_path, path=path).columns
        assert sorted(found.to_pylist(), key=lambda row: row["a"]) == rows.to_pylist()


def test_texts_of_several_files_and_of_a_test_file(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("one\ntwo\n")
    (tmp_path / "2.txt").write_text("three\n")
    (tmp_path / "held.txt").write_text("four\n")
    found = read("text_lines", tmp_path, path=("[12].txt",), test="held.txt")
    assert found.columns.to_pydict() == {"text": ["one", "two", "three", "four"]}
    assert found.own_parts is not None
    assert found.own_parts.tolist() == ["train"] * 3 + ["test"]


# Sources


def concat(*sources: dict[str, Any], **keys: Any) -> Concat:
    parts = tuple(Part(source.pop("type"), source) for source in sources)  # type: ignore[arg-type]
    return Concat(sources=parts, **keys)


def test_sources_of_any_type_are_one(tmp_path: Path) -> None:
    put("csv", tmp_path / "a.csv", x=[1, 2], y=["p", "q"])
    put("parquet", tmp_path / "b.parquet", y=["r"], x=[0.5])
    np.savez(tmp_path / "c.npz", x=np.ones((1, 1)), y=np.array(["s"]))
    made = concat({"type": "csv", "path": "a.csv"}, {"type": "parquet", "path": "b.parquet"})
    found = tidy(made.read(tmp_path))
    assert found.columns.to_pydict() == {"x": [1, 2, 0.5], "y": ["p", "q", "r"]}
    assert found.own_parts is None
    before = made.fingerprint(tmp_path)
    put("parquet", tmp_path / "b.parquet", y=["t"], x=[0.5])
    assert made.fingerprint(tmp_path) != before
    with pytest.raises(
        DataError, match=r"c\.npz' are not those of '.*a\.csv': it lacks 'x', 'y' and has 'x0', 'target'"
    ):
        concat({"type": "csv", "path": "a.csv"}, {"type": "numpy", "path": "c.npz"}).read(tmp_path)


def test_concatenated_pages_are_read_checked_and_run(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in "ab":
        put("csv", tmp_path / f"{name}.csv", x=random.normal(size=30).tolist(), y=[0, 1] * 15)
    file = tmp_path / "page.yaml"
    sources = [{"type": "csv", "path": "a.csv"}, {"type": "csv", "path": "b.csv"}]
    experiment = page({"type": "concat", "sources": sources}, file, target="y")
    assert experiment.data.split.type == "random"
    assert experiment.data.source["sources"][1]["path"] == str(tmp_path / "b.csv")
    again = reading.from_tree(experiment.tree)  # as a run folder keeps it
    assert again.data.source == experiment.data.source
    dataset = prepare(experiment, tmp_path / "cache")
    assert dataset.summary.rows == 60
    assert dataset.summary.source == "concat of csv a.csv, csv b.csv"
    parts = page({"type": "concat", "sources": sources, "parts": ["train", "test"]}, file, target="y")
    assert parts.data.split.type == "given"
    assert prepare(parts, tmp_path / "cache").summary.parts == {"train": 26, "validation": 4, "test": 30}
    with pytest.raises(DataError, match="1 parts are named for 2 sources"):
        prepare(page({"type": "concat", "sources": sources, "parts": ["train"]}, file, target="y"))
    sources[1] = {"type": "csv", "path": "b.csv", "delimeter": ";"}
    with pytest.raises(PageError, match=r"data.source.sources.1.delimeter: unknown key.*Did you mean 'delimiter'"):
        page({"type": "concat", "sources": sources}, file)
    with pytest.raises(PageError, match=r"sources.0: unknown source 'cvs'. Did you mean 'csv'"):
        page({"type": "concat", "sources": ["cvs"]}, file)


def test_sources_that_divide_their_rows_keep_their_parts(tmp_path: Path) -> None:
    for name in "ab":
        for part in ("train", "test"):
            put("csv", tmp_path / f"{name}-{part}.csv", x=[1, 2])
    both = [{"type": "csv", "path": f"{name}-train.csv", "test": f"{name}-test.csv"} for name in "ab"]
    assert page({"type": "concat", "sources": both}, tmp_path / "page.yaml").data.split.type == "given"
    found = concat(*both).read(tmp_path)
    assert found.own_parts is not None
    assert found.own_parts.tolist() == ["train", "train", "test", "test"] * 2
    mixed = concat({"type": "csv", "path": "a-train.csv", "test": "a-test.csv"}, {"type": "csv", "path": "b-train.csv"})
    assert mixed.read(tmp_path).own_parts is None
    assert "divides its rows itself" in mixed.read(tmp_path).notes[0]


def test_images_of_folders_and_arrays_are_one_array(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for folder, rows, size in (("a", 3, 8), ("b", 2, 8), ("c", 2, 9)):
        for number in range(rows):
            place = tmp_path / folder / "k" / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (size, size)).astype(np.uint8)).save(place)
    (tmp_path / "a" / "k" / "1.png").write_bytes(b"?")
    a = {"type": "image_folder", "path": "a", "corrupt": "leave_out"}
    found = concat(dict(a), {"type": "image_folder", "path": "b"}).read(tmp_path)
    alone = [read("image_folder", tmp_path, path=name, corrupt="leave_out").images for name in "ab"]
    assert isinstance(found.images, np.memmap)
    np.testing.assert_array_equal(found.images, np.concatenate([images for images in alone if images is not None]))
    assert found.numbers is not None
    assert found.numbers.tolist() == [0, 2, 3, 4]
    assert found.unread[0][0] == 1
    assert found.target == "label"
    with pytest.raises(
        DataError, match=r"has images of the shape \(1, 8, 8\), and '.*c' images of the shape \(1, 9, 9\)"
    ):
        concat(dict(a), {"type": "image_folder", "path": "c"}).read(tmp_path)


def test_sequences_are_filled_to_the_longest(tmp_path: Path) -> None:
    for name, steps in (("a", 2), ("b", 3)):
        put("csv", tmp_path / f"{name}.csv", id=[1] * steps, v=list(range(1, steps + 1)), label=["k"] * steps)
    one = {"type": "sequences", "id": "id", "label": "label"}
    found = tidy(concat({**one, "path": "a.csv"}, {**one, "path": "b.csv"}).read(tmp_path))
    assert found.sequences is not None
    assert found.sequences.values[:, :, 0].tolist() == [[1, 2, 0], [1, 2, 3]]
    assert found.sequences.lengths.tolist() == [2, 3]
    assert found.sequences.differ
