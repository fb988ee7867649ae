"""Contract of every source: all rows, a fingerprint of the content, faults in one sentence."""

from __future__ import annotations

import bz2
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data_example import BUNDLED, mixed
from pyarrow import csv, feather, ipc, parquet
from sklearn import datasets

from nnopt_ray import tables
from nnopt_ray.data import SOURCES
from nnopt_ray.data.sources import Source
from nnopt_ray.data.table import tidy
from nnopt_ray.errors import DataError

ROWS = mixed(40).drop_columns(["since", "empty"])


def _write_npz(place: Path, rows: pa.Table) -> None:
    x = np.stack([rows.column("income").to_numpy(), rows.column("customer_id").to_numpy()], axis=1)
    np.savez(place, x=x, y=rows.column("churn").to_numpy())


# How a file of each source is written, and under which name.
FILES: dict[str, tuple[str, Callable[[Path, pa.Table], None]]] = {
    "csv": ("rows.csv", lambda place, rows: csv.write_csv(rows, place)),
    "parquet": ("rows.parquet", lambda place, rows: parquet.write_table(rows, place)),
    "arrow": ("rows.feather", lambda place, rows: feather.write_feather(rows, str(place))),
    "numpy": ("rows.npz", _write_npz),
}


def build(kind: str, /, **keys: Any) -> Source:
    made: Source = tables.find("source", kind)(**keys)
    return made


def refused(name: str, base: Path, **keys: Any) -> str:
    with pytest.raises(DataError) as caught:
        tidy(build(name, **keys).read(base))
    said = str(caught.value)
    assert "\n" not in said
    assert "Traceback" not in said
    return said


def test_every_source_of_the_table_is_tried() -> None:
    # Bundled; and in test_data_idx.py, _text.py, _sequences.py, _images.py, _hugging_face.py and _joined.py.
    elsewhere = {
        "sklearn",
        "idx",
        "text_lines",
        "sequences",
        "image_folder",
        "hugging_face",
        "concat",
        "wide_sequences",
    }
    assert {*FILES, *elsewhere} == set(SOURCES)


@pytest.mark.parametrize("name", FILES)
def test_files_give_back_what_was_written(name: str, tmp_path: Path) -> None:
    file, write = FILES[name]
    write(tmp_path / file, ROWS)
    read = tidy(build(name, path=file).read(tmp_path))
    assert read.rows == ROWS.num_rows
    if name == "numpy":
        assert read.names == ["x0", "x1", "target"]
        assert read.columns.column("x0").to_pylist() == ROWS.column("income").to_pylist()
        assert read.target == "target"
    else:
        assert read.columns.to_pylist() == ROWS.to_pylist()


@pytest.mark.parametrize("name", FILES)
def test_the_fingerprint_follows_the_content_and_nothing_else(name: str, tmp_path: Path) -> None:
    file, write = FILES[name]
    place = tmp_path / file
    write(place, ROWS)
    before, stat = build(name, path=file).fingerprint(tmp_path), place.stat()
    os.utime(place, ns=(1, 1))
    assert build(name, path=file).fingerprint(tmp_path) == before
    content = bytearray(place.read_bytes())
    content[len(content) // 2] ^= 1
    place.write_bytes(content)
    os.utime(place, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert place.stat().st_size == stat.st_size
    assert build(name, path=file).fingerprint(tmp_path) != before


@pytest.mark.parametrize("name", FILES)
def test_missing_empty_and_foreign_files_are_named(name: str, tmp_path: Path) -> None:
    file, write = FILES[name]
    assert f"there is no file {tmp_path / file}" in refused(name, tmp_path, path=file)
    (tmp_path / file).write_bytes(b"")
    assert f"{tmp_path / file} is empty" in refused(name, tmp_path, path=file)
    (tmp_path / file).write_bytes(b'a,b\n1,"2\n' if name == "csv" else b"PK no such thing \x00\x01\x02")
    assert str(tmp_path / file) in refused(name, tmp_path, path=file)
    write(tmp_path / file, ROWS)
    if name != "csv":  # a torn CSV file is a shorter CSV file
        (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:-30])
        assert "cannot be read" in refused(name, tmp_path, path=file)


@pytest.mark.parametrize("name", ["csv", "arrow", "numpy"])
def test_a_folder_is_no_file(name: str, tmp_path: Path) -> None:
    assert "is a folder" in refused(name, tmp_path, path=".")


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_sets_are_scikit_learns(name: Any, tmp_path: Path) -> None:
    read = tidy(build("sklearn", name=name).read(tmp_path))
    bunch = getattr(datasets, f"load_{name}")()
    assert read.rows == len(bunch.data)
    assert read.target == "target"
    target = read.columns.column("target").to_pylist()
    if name == "digits":
        assert read.images is not None
        np.testing.assert_array_equal(read.images[:, 0], bunch.images)
        assert target == [str(digit) for digit in bunch.target]
    else:
        np.testing.assert_array_equal(np.stack([c.to_numpy() for c in read.columns.columns[:-1]], axis=1), bunch.data)
        named = hasattr(bunch, "target_names")
        assert target == [str(bunch.target_names[code]) if named else code for code in bunch.target]
    assert len({build("sklearn", name=other).fingerprint(tmp_path) for other in BUNDLED}) == len(BUNDLED)


# CSV


def read_csv(tmp_path: Path, content: str | bytes, file: str = "t.csv", **keys: Any) -> dict[str, list[Any]]:
    raw = content.encode() if isinstance(content, str) else content
    (tmp_path / file).write_bytes(raw)
    found: dict[str, list[Any]] = tidy(build("csv", path=file, **keys).read(tmp_path)).columns.to_pydict()
    return found


def test_csv_takes_what_people_write(tmp_path: Path) -> None:
    plain = {"a": [1, 2], "b": ["x", "y"]}
    assert read_csv(tmp_path, "a,b\n1,x\n2,y\n") == plain
    assert read_csv(tmp_path, b"\xef\xbb\xbfa, b\r\n1, x\r\n\r\n2, y\r\n") == plain
    assert read_csv(tmp_path, "a;b\n1;x\n2;y\n", delimiter=";") == plain
    assert read_csv(tmp_path, "a\tb\n1\t'x'\n2\ty\n", delimiter="\t", quote="'") == plain
    assert read_csv(tmp_path, gzip.compress(b"a,b\n1,x\n2,y\n"), file="t.csv.gz") == plain
    assert read_csv(tmp_path, bz2.compress(b"a,b\n1,x\n2,y\n"), file="t.csv.bz2") == plain
    zstandard = pa.compress(b"a,b\n1,x\n2,y\n", codec="zstd", asbytes=True)
    assert read_csv(tmp_path, zstandard, file="t.csv.zst") == plain
    assert read_csv(tmp_path, "1,x\n2,y\n", header=False) == {"f0": [1, 2], "f1": ["x", "y"]}
    assert read_csv(tmp_path, "a;b\n1,5;x\n2,5;y\n", delimiter=";", decimal=",")["a"] == [1.5, 2.5]
    assert read_csv(tmp_path, "a,b\n01234,x\n2,y\n", text=("a",))["a"] == ["01234", "2"]
    assert read_csv(tmp_path, "a,b\n?,x\n2,-\n", missing=("?", "-")) == {"a": [None, 2], "b": ["x", None]}
    assert read_csv(tmp_path, 'a,b\n1,"two\nlines, one field"\n')["b"] == ["two\nlines, one field"]
    assert read_csv(tmp_path, "a,b\n1,\u00e9\n2,\u00fc\n".encode("latin-1"), encoding="latin-1")["b"] == [
        "\u00e9",
        "\u00fc",
    ]
    assert read_csv(tmp_path, ",a\n0,5\n1,6\n") == {"unnamed_1": [0, 1], "a": [5, 6]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(encoding: str, tmp_path: Path) -> None:
    mark = "" if encoding in ("utf-16", "utf-8-sig") else "\ufeff"  # those two write one themselves
    raw = (mark + "\u00e4,b\n1,x\n2,\u20ac\n").encode(encoding)
    assert read_csv(tmp_path, raw, encoding=encoding) == {"\u00e4": [1, 2], "b": ["x", "\u20ac"]}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("file", ["t.csv", "t.csv.gz"])
def test_the_delimiter_is_told_from_the_rows(delimiter: str, file: str, tmp_path: Path) -> None:
    rows = [["a", "b", "c"], ["1", '"x, y; z|\n"', "3"], ["2", '"p\tq"', "4"], *([["5", "w", "6"]] * 20_000)]
    content = "\n".join(delimiter.join(row) for row in rows).encode()
    found = read_csv(tmp_path, gzip.compress(content) if file.endswith("gz") else content, file, delimiter="auto")
    assert {name: values[:2] for name, values in found.items()} == {"a": [1, 2], "b": ["x, y; z|", "p\tq"], "c": [3, 4]}
    assert read_csv(tmp_path, "a\n1\n2\n", delimiter="auto") == {"a": [1, 2]}
    assert read_csv(tmp_path, "a;b\n1,5;x\n2;y\n", delimiter="auto", decimal=",") == {"a": [1.5, 2], "b": ["x", "y"]}


def test_thousands_are_no_obstacle(tmp_path: Path) -> None:
    content = 'a,b,c,d,e\n"1,234",5,"1,234.5","12,34",01\n-12,6,"+1,000,000",5,02\n,7,.5,6,03\n'
    found = read_csv(tmp_path, content.replace(".5,6", "0.5,6"), thousands=",", text=("e",))
    assert found["a"] == [1234, -12, None]
    assert found["b"] == [5, 6, 7]
    assert found["c"] == [1234.5, 1e6, 0.5]
    assert found["d"] == ["12,34", "5", "6"]  # no thousands
    assert found["e"] == ["01", "02", "03"]
    german = "a;b\n1.234,5;1.000\n-2;12.000\n"
    found = read_csv(tmp_path, german, delimiter=";", decimal=",", thousands=".")
    assert found == {"a": [1234.5, -2.0], "b": [1000, 12000]}
    with pytest.raises(DataError, match="both ','"):
        build("csv", path="t.csv", decimal=",", thousands=",")


@pytest.mark.parametrize("mark", ["", "NA", "NaN", "null", "None", "#N/A", "  "])
def test_the_usual_marks_are_missing_values(mark: str, tmp_path: Path) -> None:
    found = read_csv(tmp_path, f"n,w\n1,a\n{mark.strip()},{mark}\n")
    assert found == {"n": [1, None], "w": ["a", None]}


@pytest.mark.parametrize(
    ("content", "keys", "said"),
    [
        (b"a,b\n", {}, "has a header and no rows"),
        (b"a,b\n1,2\n1,2,3\n", {}, "3 fields where 2 are expected ('1,2,3')"),
        (b"a,b\n1,2\n1\n", {}, "1 fields where 2 are expected ('1')"),
        (b"a,b\n1,\xe9\n", {}, "Add to data.source: encoding: latin-1"),
        ("a,b\n1,2\n".encode("utf-16"), {}, "Add to data.source: encoding: utf-16"),
        (b"a,b\n1,2\n", {"encoding": "utf-16"}, "bytes that are not utf-16"),
        (b"a,b\n1,2\n", {"encoding": "klingon"}, "no encoding 'klingon'"),
        (b'a,b\n1,"2\n3,4\n5,6\n', {}, "a quote that is never closed"),
        (b"a,b,a\n1,2,3\n", {}, "more than one column named 'a'"),
        (b"a,b\n1,2\n", {"text": ("c",)}, "no column 'c'"),
    ],
)
def test_a_csv_file_that_cannot_be_read_is_explained(
    content: bytes, keys: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    assert said in refused("csv", tmp_path, path="t.csv", **keys)


def test_a_wrong_spelling_of_a_file_is_met_with_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("a\n1\n")
    assert "There is people.csv." in refused("csv", tmp_path, path="People.csv")
    assert "There is people.csv." in refused("parquet", tmp_path, path="people.parquet")


# Arrow, Parquet, NumPy


def test_arrow_reads_file_and_stream_form_compressed_or_not(tmp_path: Path) -> None:
    for compression in ("uncompressed", "lz4", "zstd"):
        feather.write_feather(ROWS, str(tmp_path / "t.arrow"), compression=compression)
        assert tidy(build("arrow", path="t.arrow").read(tmp_path)).columns.to_pylist() == ROWS.to_pylist()
    with ipc.new_stream(tmp_path / "t.arrow", ROWS.schema) as stream:
        stream.write_table(ROWS)
    assert tidy(build("arrow", path="t.arrow").read(tmp_path)).columns.to_pylist() == ROWS.to_pylist()


def test_a_folder_of_parquet_files_is_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    parquet.write_to_dataset(ROWS, folder, partition_cols=["member"])
    read = tidy(build("parquet", path="rows").read(tmp_path))
    assert read.rows == ROWS.num_rows
    assert sorted(read.columns.column("member").to_pylist()) == sorted(ROWS.column("member").to_pylist())
    before = build("parquet", path="rows").fingerprint(tmp_path)
    one = sorted(folder.rglob("*.parquet"))[0]
    one.rename(one.with_name("a-other.parquet"))
    assert build("parquet", path="rows").fingerprint(tmp_path) != before
    (tmp_path / "none").mkdir()
    assert "holds no file that ends in .parquet or .pq" in refused("parquet", tmp_path, path="none")


def test_numpy_reads_two_files_and_images_of_every_layout(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    y = np.arange(9) % 3
    np.save(tmp_path / "y.npy", y[:, None])
    for shape, keys, expected in (
        ((9, 6, 5), {}, (1, 6, 5)),
        ((9, 3, 6, 5), {}, (3, 6, 5)),
        ((9, 6, 5, 3), {"layout": "channels_last"}, (3, 6, 5)),
    ):
        x = random.integers(0, 255, shape).astype(np.uint8)
        np.save(tmp_path / "x.npy", x)
        read = tidy(build("numpy", x="x.npy", y="y.npy", **keys).read(tmp_path))
        assert read.images is not None
        assert read.images.shape == (9, *expected)
        restored = np.moveaxis(read.images, 1, 3) if keys else read.images
        np.testing.assert_array_equal(restored.reshape(shape), x)
        assert read.columns.column("target").to_pylist() == y.tolist()


@pytest.mark.parametrize(
    ("arrays", "keys", "said"),
    [
        ({"x": np.array([1, "a", None], dtype=object), "y": np.arange(3)}, {}, "pickled objects are not read"),
        ({"x": np.zeros((5, 2)), "y": np.zeros(4)}, {}, "x has 5 rows and y has 4"),
        ({"x": np.zeros((5, 2)), "y": np.zeros((5, 2))}, {}, "must be [rows] or [rows, 1]"),
        ({"x": np.zeros(5), "y": np.zeros(5)}, {}, "x has the shape (5,)"),
        ({"x": np.zeros((5, 2)), "y": np.zeros(5)}, {"y": "labels"}, "no array 'labels'; it holds 'x', 'y'"),
        ({"x": np.zeros((5, 8, 9, 3)), "y": np.zeros(5)}, {}, "layout: channels_last"),
        ({"x": np.full((5, 8, 9), np.inf), "y": np.zeros(5)}, {}, "5 of the images hold values that are not finite"),
        (
            {"x": np.full((5, 8, 9), np.inf, np.float32), "y": np.zeros(5)},
            {},
            "5 of the images hold values that are not",
        ),
        ({"x": np.zeros((5, 2), dtype=complex), "y": np.zeros(5)}, {}, "numbers are needed"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, {}, "has no rows"),
    ],
)
def test_arrays_that_do_not_fit_are_explained(
    arrays: dict[str, np.ndarray], keys: dict[str, str], said: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "t.npz", **arrays)  # type: ignore[arg-type]
    assert said in refused("numpy", tmp_path, path="t.npz", **keys)
