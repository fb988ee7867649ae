"""audit.csv: a line for each row, or column, of the source that did not go into the store as it was."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

FILE = "audit.csv"


class Line(NamedTuple):
    """source_row: number in the source, from 0; -1 for a row that was made, None where a whole column is meant.
    part: train, validation or test; empty where a row never had one, or a column is meant.
    action: left out, dropped, relabelled, changed, column dropped (data.quality); removed, repeated, made (balance).
    column, before, after: of a value that was changed, or of a class (column: the target).
    """

    source_row: int | None
    part: str
    action: str
    reason: str
    column: str = ""
    before: str = ""
    after: str = ""


def write(file: Path, lines: Iterable[Line]) -> None:
    """With the names of the fields as the first line."""
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(Line._fields)
        writer.writerows(lines)


__all__ = ["FILE", "Line", "write"]
