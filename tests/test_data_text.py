"""Text: the source `text_lines`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nnopt_ray.data.table import Table, tidy
from nnopt_ray.data.text_files import TextLines
from nnopt_ray.errors import DataError

# The source


def read(folder: Path, **keys: Any) -> Table:
    return tidy(TextLines(path=str(folder), **keys).read(folder))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("lines", ["one", "two\x0c still two", "three", "four"]),
        ("paragraphs", ["one\ntwo\x0c still two", "three\nfour"]),
        ("files", ["one\ntwo\x0c still two\n  \nthree\n\n\nfour".replace("\n\n\n", "\n")]),
    ],
)
def test_rows_are_lines_paragraphs_or_files(rows: Any, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffone\r\ntwo\x0c still two\n  \nthree\nfour\n\n", encoding="utf-8")
    assert read(tmp_path / "a.txt", rows=rows).columns.column("text").to_pylist() == expected
    (tmp_path / "b.txt").write_text("five")
    (tmp_path / "c.md").write_text("six")
    whole = read(tmp_path, rows=rows).columns.column("text").to_pylist()
    assert whole == [*expected, "five"]
    assert read(tmp_path, rows=rows, suffix=".md").columns.column("text").to_pylist() == ["six"]


def test_folders_are_classes_and_parts(tmp_path: Path) -> None:
    for part, count in (("train", 20), ("test", 6)):
        for label in ("pos", "neg"):
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}.txt").write_text(f"{label} {part} {number}\nand more")
    table = read(tmp_path, rows="files")
    assert table.own_parts is not None
    for text, label, part in zip(
        *(table.columns.column(name).to_pylist() for name in ("text", "label")), table.own_parts, strict=True
    ):
        assert text.startswith(f"{label} {part} ")
    assert table.target == "label"
    assert read(tmp_path / "train", rows="files").own_parts is None
    assert read(tmp_path / "train" / "pos", rows="files").names == ["text"]
    assert read(tmp_path, rows="lines").names == ["text"]
    (tmp_path / "train" / "stray.txt").write_text("stray")
    stray = read(tmp_path / "train", rows="files")
    assert stray.names == ["text"]
    assert "the folders are no classes" in stray.notes[0]


@pytest.mark.parametrize(
    ("content", "keys", "said"),
    [
        (b"\n \n", {}, "holds no text"),
        (b"caf\xe9", {}, "Add to data.source: encoding: latin-1"),
        (b"word", {"encoding": "klingon"}, "no encoding 'klingon'"),
    ],
)
def test_files_that_cannot_be_read_are_explained(
    content: bytes, keys: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    for place in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(DataError, match=said) as caught:
            read(place, **keys)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"holds no file that ends in \.html"):
        read(tmp_path, suffix=".html")
