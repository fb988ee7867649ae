"""CSV files larger than memory: spooled, then read a column at a time, with the same kinds and values as in memory."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_example import mixed, page
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_ray.data import csv_spool, later, spooled
from nnopt_ray.data.csv_file import Csv
from nnopt_ray.data.prepare import prepare
from nnopt_ray.errors import DataError

ENCODE = {"type": "encode", "method": "one_hot"}
ROWS = 3000


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooled, "ROWS_AT_ONCE", 999)
    monkeypatch.setattr(csv_spool, "BATCH_BYTES", 20_000)


def written(delimiter: str = ",", quote: str = '"', decimal: str = ".", header: bool = True) -> str:
    """A file with all that a CSV file may hold: each column becomes what it is through its last rows only."""
    random = np.random.default_rng(4)
    table = mixed(ROWS).to_pydict()
    late = range(ROWS - 3, ROWS)
    table["real_late"] = [f"{n}.5" if n in late else str(n % 7) for n in range(ROWS)]
    table["text_late"] = ["never" if n in late else str(n % 5) for n in range(ROWS)]
    table["codes"] = [f"{n % 40:04d}" for n in range(ROWS)]
    table["money"] = [f"{n % 3},{n % 900:03d}.50" if n % 2 else "12.25" for n in range(ROWS)]
    table["lines"] = [f"a {quote}b{quote}\n{delimiter}{n % 6}" for n in range(ROWS)]
    table["spaced"] = [f"  {n % 11} " for n in range(ROWS)]
    table["marks"] = [["NA", "?", "null", "7", ""][n % 5] for n in range(ROWS)]
    table["moment"] = [f"2020-01-{n % 28 + 1:02d} 10:00:{n % 60:02d}" for n in range(ROWS)]
    table["flag"] = [["true", "False"][n % 2] for n in range(ROWS)]
    table["umlaut"] = [["Köln", "Bonn", "Ål"][n % 3] for n in range(ROWS)]
    table["nothing"] = [""] * ROWS
    table["score"] = [str(round(float(x), 3)).replace(".", decimal) for x in random.normal(size=ROWS)]
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quotechar=quote, quoting=csv.QUOTE_MINIMAL)
    if header:
        writer.writerow(table)
    for row in zip(*table.values(), strict=True):
        writer.writerow(["" if value is None else value for value in row])
    return text.getvalue().replace("\r\n", "\r\n\r\n", 50)  # and blank lines


GERMAN = {"delimiter": ";", "decimal": ",", "quote": "'"}
SOURCES: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[[str], bytes]]] = {
    "plain": ({}, {}, str.encode),
    "keys": ({"missing": ["?"], "text": ["codes"], "thousands": ","}, {}, str.encode),
    "german": (GERMAN, GERMAN, str.encode),
    "auto": ({"delimiter": "auto"}, {"delimiter": "\t"}, str.encode),
    "latin": ({"encoding": "latin-1"}, {}, lambda text: text.encode("latin-1")),
    "utf16": ({"encoding": "utf-16"}, {}, lambda text: text.encode("utf-16")),
    "mark": ({}, {}, lambda text: text.encode("utf-8-sig")),
    "gz": ({}, {}, lambda text: gzip.compress(text.encode())),
    "bz2": ({}, {}, lambda text: bz2.compress(text.encode())),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_the_store_is_the_same_to_the_byte(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, form, encoded = SOURCES[name]
    place = tmp_path / (f"rows.csv.{name}" if name in ("gz", "bz2") else "rows.csv")
    place.write_bytes(encoded(written(**form)))
    made = page({"type": "csv", "path": str(place), **keys}, target="churn", steps=["impute", "scale", ENCODE])
    same(made, tmp_path, monkeypatch)


def same(made: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepare(made, folder / "whole")
    monkeypatch.setattr(later, "LARGE_BYTES", 0)
    monkeypatch.setattr(Csv, "tables", lambda self, places: pytest.fail("it was read in memory"))
    streamed = prepare(made, folder / "streamed")
    stores = [
        {file.name: file.read_bytes() for file in sorted(dataset.folder.iterdir())} for dataset in (whole, streamed)
    ]
    assert stores[0] == stores[1]
    assert [path.name for path in (folder / "streamed").iterdir()] == [streamed.key]


def test_without_a_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "rows.csv"
    place.write_text(written(header=False))
    made = page({"type": "csv", "path": str(place), "header": False}, target="f8", steps=["impute", "scale", ENCODE])
    same(made, tmp_path, monkeypatch)


def test_a_column_that_is_text_in_one_of_several_files_is_text_in_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = written().replace("\r\n\r\n", "\r\n").split("\r\n")[:-1]
    for name, part in (("a", lines[1:1001]), ("b", lines[1001:])):
        (tmp_path / f"{name}.csv").write_text("\r\n".join([lines[0], *part]), newline="")
    made = page({"type": "csv", "path": str(tmp_path / "[ab].csv")}, target="churn", steps=["impute", "scale", ENCODE])
    same(made, tmp_path, monkeypatch)


FAULTS: dict[str, tuple[dict[str, Any], bytes]] = {
    "ragged": ({}, b"a,b,churn\n" + b"1,2,0\n" * 3000 + b"1,2\n3,4,1\n"),
    "long row": ({}, b"a,b,churn\n" + b"1,2,0\n" * 3000 + b"1,2,3,4\n"),
    "encoding": ({}, b"a,b,churn\n" + b"1,x,0\n" * 3000 + b"1,\xff,1\n"),
    "encoding of text": ({"text": ["b"]}, b"a,b,churn\n" + b"1,x,0\n" * 3000 + b"1,\xff,1\n"),
    "encoding of a name": ({}, b"a,b\xff,churn\n" + b"1,x,0\n" * 3000),
    "not in it": ({"encoding": "ascii"}, "a,b,churn\n1,ö,0\n2,x,1\n".encode()),
    "utf-16": ({}, "a,b,churn\n1,2,3\n".encode("utf-16")),
    "unknown encoding": ({"encoding": "klingon"}, b"a,b,churn\n1,2,3\n"),
    "quote": ({}, b"a,churn,b\n" + b"1,0,x\n" * 300 + b'1,1,"x\n' + b"1,0,x\n" * 300),
    "quote for long": ({}, b"a,churn,b\n" + b'1,1,"x\n' + b"1,0,x\n" * 400_000),
    "no rows": ({}, b"a,b,churn\n"),
    "blank": ({}, b"\n\n"),
    "twice": ({}, b"a,a,churn\n" + b"1,2,0\n" * 300),
    "strange text": ({"text": ["c"]}, b"a,b,churn\n" + b"1,2,0\n3,4,1\n" * 300),
    "not compressed": ({"path": "rows.csv.gz"}, b"a,b,churn\n" + b"1,2,0\n3,4,1\n" * 300),
    "cut": ({"path": "rows.csv.gz"}, gzip.compress(written().encode())[:30_000]),
    "infinite": ({}, b"a,b,churn\n" + b"1,2,0\n3,inf,1\n" * 300),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_refused_is_refused_in_the_same_words(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, content = FAULTS[name]
    place = tmp_path / keys.get("path", "rows.csv")
    place.write_bytes(content)
    made = page({"type": "csv", **keys, "path": str(place)}, target="churn", steps=["impute", ENCODE])
    with pytest.raises(DataError) as whole:
        prepare(made, tmp_path / "whole")
    monkeypatch.setattr(later, "LARGE_BYTES", 0)
    monkeypatch.setattr(Csv, "tables", lambda self, places: pytest.fail("it was read in memory"))
    with pytest.raises(DataError) as streamed:
        prepare(made, tmp_path / "streamed")
    assert str(whole.value) == str(streamed.value)
    assert not list((tmp_path / "streamed").iterdir())


MARKS = ("", "NA", "null", "?", '"', "\n")
NUMBERS = ("1", " 2 ", "-3", "1.5", "2,5", "1e3", "1,234", "0x1F", "inf", "nan", "007", "9" * 20)
OTHERS = ("true", "No", "2020-01-31", "2020-01-31 10:00", "2020-01-31T10:00:00.123456789Z", "10:00")
FIELD = st.sampled_from(MARKS + NUMBERS + OTHERS) | st.text(st.sampled_from("ab1 ,;.\"'\n\t-"), max_size=6)


@given(
    rows=st.integers(2, 4).flatmap(lambda n: st.lists(st.lists(FIELD, min_size=n, max_size=n), min_size=1, max_size=8)),
    keys=st.fixed_dictionaries(
        {
            "delimiter": st.sampled_from([",", ";"]),
            "quote": st.sampled_from(['"', "'"]),
            "decimal": st.sampled_from([".", ","]),
            "missing": st.sampled_from([(), ("?",)]),
            "thousands": st.sampled_from([None, " "]),
        }
    ),
    all_quoted=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_every_column_has_the_same_kind_and_values(
    rows: list[list[str]], keys: dict[str, Any], all_quoted: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    place = folder / "rows.csv"
    quoting = csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
    with place.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=keys["delimiter"], quotechar=keys["quote"], quoting=quoting)
        writer.writerows([[f"c{number}" for number in range(len(rows[0]))], *rows])
    source = Csv(path=str(place), text=("c1",), **keys)

    def found(read: Callable[[], Any]) -> Any:
        try:
            return read()[0].columns
        except DataError as error:
            return str(error)

    whole = found(lambda: source.tables([place]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(later, "LARGE_BYTES", 0)
        spooled = found(lambda: source.later([place], folder))
    if isinstance(whole, str):
        assert spooled == whole
        return
    assert whole.column_names == spooled.column_names
    for number, name in enumerate(whole.column_names):
        assert spooled.kind(number) == whole.schema.types[number]
        assert repr(spooled.column(name).to_pylist()) == repr(whole.column(name).to_pylist())
