"""The fields of a CSV file as texts on disk, so that Arrow can find the kind of one column after the other.

Arrow's reader keeps the text of all columns until it knows the kinds of all, and so needs memory for the whole file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import csv

# Texts that are written at once: of wide files, a column of a batch would be a few bytes and its description as many.
BATCH_BYTES = 1 << 24


@dataclass(frozen=True, eq=False)
class Spool:
    """names: of the columns, as in the file. last: the last field of the last row."""

    folder: Path
    names: list[str]
    rows: int
    last: str

    def inferred(self, number: int, convert: csv.ConvertOptions) -> pa.Table:
        """One column as Arrow reads it from a CSV file of this column alone, every field in quotes."""
        import pyarrow as pa
        from pyarrow import csv, ipc

        alone = self.folder / f"{number}.csv"
        with pa.OSFile(str(_texts(self.folder))) as source:
            texts = ipc.open_file(source, options=ipc.IpcReadOptions(included_fields=[number]))
            quoted = csv.WriteOptions(include_header=False, quoting_style="all_valid")
            with csv.CSVWriter(alone, texts.schema, write_options=quoted) as writer:
                for batch in range(texts.num_record_batches):
                    writer.write_batch(texts.get_batch(batch))
        try:
            return csv.read_csv(
                alone,
                read_options=csv.ReadOptions(column_names=[self.names[number]]),
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=convert,
            )
        finally:
            alone.unlink()

    def opened(self, number: int, kind: str, make: Callable[[], pa.Table]) -> Any:
        """An Arrow file of the column that `make` gives; it is made once for each `kind`."""
        import pyarrow as pa
        from pyarrow import ipc

        place = self.folder / f"{number}.{kind}.arrow"
        if not place.exists():
            made = make()
            with pa.OSFile(str(place), "wb") as file, ipc.new_file(file, made.schema) as writer:
                writer.write_table(made)
        return ipc.open_file(pa.OSFile(str(place)))


def spool(names: list[str], batches: Iterable[pa.RecordBatch], folder: Path) -> Spool:
    """Write batches of texts into `folder`, which is made."""
    import pyarrow as pa
    from pyarrow import ipc

    folder.mkdir()
    schema = pa.schema([(str(number), pa.string()) for number in range(len(names))])
    rows, last, size = 0, "", 0
    held: list[pa.RecordBatch] = []
    with pa.OSFile(str(_texts(folder)), "wb") as file, ipc.new_file(file, schema) as writer:

        def write() -> None:
            for batch in pa.Table.from_batches(held, schema).combine_chunks().to_batches():
                writer.write_batch(batch)

        for batch in batches:
            if not batch.num_rows:
                continue
            rows, last, size = rows + batch.num_rows, batch.column(len(names) - 1)[-1].as_py(), size + batch.nbytes
            held.append(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
            if size >= BATCH_BYTES:
                write()
                held, size = [], 0
        write()
    return Spool(folder, names, rows, last)


def _texts(folder: Path) -> Path:
    return folder / "texts.arrow"


__all__ = ["Spool", "spool"]
