"""Where predictions go: .csv, .parquet, .arrow or .feather, whole or not at all."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnopt_ray import rundir
from nnopt_ray.errors import RunFailed, UserError

if TYPE_CHECKING:
    import pyarrow as pa

WRITTEN = (".parquet", ".csv", ".arrow", ".feather")
GROUP = 1 << 17  # rows of a group of a Parquet file, or a batch of an Arrow file, unless a piece is larger
STANDARD = "-"  # standard output, as CSV


def check(out: str, force: bool) -> None:
    """Raises UserError for a place that is taken, or of another kind."""
    if out == STANDARD:
        return
    place = Path(out)
    if place.suffix not in WRITTEN:
        raise UserError(
            f"predictions are written as {', '.join(WRITTEN)}, and -o is {out}. Choose one of these, or - for CSV on "
            "standard output."
        )
    if not place.parent.is_dir():
        raise UserError(f"-o: there is no folder {place.parent}. Make it, or choose another place.")
    if place.is_dir():
        raise UserError(f"-o: {out} is a folder. Name a file in it.")
    if place.exists() and not force:
        raise UserError(f"{out} is there already. Choose another -o, or write over it with --force.")


def write(out: str, tables: Iterable[pa.Table]) -> None:
    """Write tables of one schema below each other. What `tables` raises leaves nothing behind.

    Raises RunFailed when the place cannot be written.
    """
    if out != STANDARD:
        try:
            rundir.write(Path(out), lambda place: _fill(place, Path(out).suffix, tables))
        except RunFailed as error:
            why = error.__cause__
            if not isinstance(why, OSError):
                raise
            said = os.strerror(why.errno) if why.errno else str(why)
            raise RunFailed(
                f"cannot write {out}: {said}. What was there before is untouched; make room, or choose another -o."
            ) from why
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "predictions.csv"
        _fill(place, ".csv", tables)
        with place.open(encoding="utf-8", newline="") as whole:
            shutil.copyfileobj(whole, sys.stdout)
        sys.stdout.flush()


def _fill(place: Path, suffix: str, tables: Iterable[pa.Table]) -> None:
    import pyarrow as pa

    writer: Any = None
    held: list[pa.Table] = []
    rows = 0
    try:
        for table in tables:
            if writer is None:
                writer = _writer(place, suffix, table.schema)
            held.append(table.cast(held[0].schema) if held else table)
            rows += table.num_rows
            if rows >= GROUP:
                writer.write_table(pa.concat_tables(held).combine_chunks())
                held, rows = [held[0].slice(0, 0)], 0
        if rows:
            writer.write_table(pa.concat_tables(held).combine_chunks())
    finally:
        if writer is not None:
            writer.close()


def _writer(place: Path, suffix: str, schema: pa.Schema) -> Any:
    if suffix == ".csv":
        from pyarrow import csv

        return csv.CSVWriter(str(place), schema, write_options=csv.WriteOptions(quoting_style="needed"))
    if suffix == ".parquet":
        from pyarrow import parquet

        return parquet.ParquetWriter(place, schema)
    from pyarrow import ipc

    return ipc.new_file(str(place), schema)


__all__ = ["STANDARD", "WRITTEN", "check", "write"]
