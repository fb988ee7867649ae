"""Rows of tables in files, some at a time: CSV, Parquet and Arrow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nnopt_ray.data.columns import Reading
from nnopt_ray.data.csv_file import Csv
from nnopt_ray.data.files import reading
from nnopt_ray.data.table import Table, one_line
from nnopt_ray.errors import DataError
from nnopt_ray.serving.trained import Trained

if TYPE_CHECKING:
    import pyarrow as pa

PACKED = (".gz", ".bz2", ".zst")
KINDS = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow",
    ".feather": "arrow", ".ipc": "arrow",
}  # fmt: skip
SUFFIXES = (*KINDS, *(f"{suffix}{packed}" for suffix, kind in KINDS.items() if kind == "csv" for packed in PACKED))
OF_CSV = ("delimiter", "quote", "decimal", "thousands", "encoding", "header", "missing", "text")
BATCH = 1 << 16  # rows of Parquet that are decoded at a time
CURE = "Write it anew, or give it the suffix that fits."


def kind_of(place: Path) -> str | None:
    """csv, parquet or arrow; None where the suffix is of no table."""
    name = place.name.lower()
    packed = next((end for end in PACKED if name.endswith(end)), "")
    kind = KINDS.get(Path(name.removesuffix(packed)).suffix)
    return None if packed and kind != "csv" else kind


Check = Callable[[str, list[str]], None]  # is told a file and the names of all its columns; raises DataError


def pieces(place: Path, trained: Trained, keep: tuple[str, ...], chunk: int, check: Check) -> Iterator[Table]:
    """The rows of a file as tables of `chunk` rows, with the columns that are read or kept.

    Of CSV, columns are read as the kind that they had in training, and what is only kept as text, but the target as
    what it is. Raises DataError.
    """
    batches = {"csv": _csv, "parquet": _parquet, "arrow": _arrow}[kind_of(place) or "csv"](place, trained, keep, check)
    for table in _regrouped(batches, chunk):
        yield Table(str(place), table)


def _wanted(trained: Trained, keep: tuple[str, ...]) -> dict[str, Reading | None]:
    """Column → how it is read; None where it is only kept, or tells series and time."""
    window = trained.preprocessing.window
    names: dict[str, Reading | None] = dict.fromkeys(keep)
    if window is not None:
        names |= dict.fromkeys((*window.by, window.order))
    return names | {reading.name: reading for reading in trained.preprocessing.readings}


def _regrouped(batches: Iterator[pa.RecordBatch], chunk: int) -> Iterator[pa.Table]:
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        while rows >= chunk:
            whole = pa.Table.from_batches(held)
            yield whole.slice(0, chunk)
            held, rows = whole.slice(chunk).to_batches(), rows - chunk
    if rows:
        yield pa.Table.from_batches(held)


def _csv(place: Path, trained: Trained, keep: tuple[str, ...], check: Check) -> Iterator[pa.RecordBatch]:

    source = csv_as_trained(trained, place)
    wanted = _wanted(trained, keep)
    amounts = () if trained.dataset.classes else trained.preprocessing.targets

    def kinds(names: list[str]) -> dict[int, pa.DataType]:
        check(str(place), names)
        return {at: _csv_kind(name, wanted[name], amounts) for at, name in enumerate(names) if name in wanted}

    try:
        for batch in source.batches(place, kinds):
            yield _with_booleans(batch, wanted)
    except DataError:
        wrong = _mistyped(source, place, wanted)
        if wrong:
            raise DataError(f"{place}: {'; '.join(wrong)}.") from None
        raise


def csv_as_trained(trained: Trained, place: Path) -> Csv:
    """The reader of CSV with the keys of the source that was learned from, where it was CSV."""
    source = trained.source
    if source.type == "csv":
        return Csv(path=str(place), **{key: source[key] for key in OF_CSV})
    keys = {key: source[key] for key in ("delimiter", "header") if key in source.keys}
    return Csv(path=str(place), **{"delimiter": "auto", **keys})


def _csv_kind(name: str, reading: Reading | None, amounts: tuple[str, ...]) -> pa.DataType:
    """What a column of CSV is read as: words that training saw as words stay as they stand, 007 among them."""
    import pyarrow as pa

    if reading is None:
        return pa.float64() if name in amounts else pa.string()
    if reading.kind != "numeric":
        return pa.string()
    return pa.time32("s") if reading.note == "in seconds" else pa.float64()


def _with_booleans(batch: pa.RecordBatch, wanted: dict[str, Reading | None]) -> pa.RecordBatch:
    """Booleans that are written as 0 and 1 as numbers; Arrow would read a column of them so."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for at, name in enumerate(batch.schema.names):
        reading, column = wanted[name], batch.column(at)
        boolean = reading is not None and reading.kind == "boolean"
        if boolean and pc.all(pc.match_substring_regex(column, r"^[01](\.0)?$")).as_py():
            batch = batch.set_column(at, name, column.cast(pa.float64()))
    return batch


def _mistyped(source: Csv, place: Path, wanted: dict[str, Reading | None]) -> list[str]:
    """A sentence for each column that should hold numbers and holds words too; the file is read once more for it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    numeric = [name for name, one in wanted.items() if one is not None and one.kind == "numeric" and not one.note]
    wrong: dict[str, tuple[int, str, int]] = {}  # values, the first of them, and its row
    rows = 0
    try:
        for batch in source.batches(
            place, lambda names: {at: pa.string() for at, name in enumerate(names) if name in numeric}
        ):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                texts = pc.replace_substring(pc.utf8_trim_whitespace(column), source.decimal, ".")
                if source.thousands is not None:
                    texts = pc.replace_substring(pc.utf8_trim_whitespace(column), source.thousands, "")
                    texts = pc.replace_substring(texts, source.decimal, ".")
                like = pc.match_substring_regex(texts, r"(?i)^([+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?|)$")
                others = pc.indices_nonzero(pc.invert(pc.fill_null(like, True)))
                if len(others):
                    count, word, row = wrong.get(name, (0, column[others[0].as_py()].as_py(), rows + others[0].as_py()))
                    wrong[name] = (count + len(others), word, row)
            rows += batch.num_rows
    except DataError:  # what is wrong with the file is said by the first reading
        return []
    return [
        f"'{name}' should be numeric and holds {word!r} in row {row:,}"
        + (f", and {count - 1:,} more that are no numbers" if count > 1 else "")
        for name, (count, word, row) in wrong.items()
    ]


def _parquet(place: Path, trained: Trained, keep: tuple[str, ...], check: Check) -> Iterator[pa.RecordBatch]:
    from pyarrow import parquet

    wanted = _wanted(trained, keep)
    with reading("Parquet", place, CURE), parquet.ParquetFile(place, pre_buffer=False) as file:
        names = one_line(list(file.schema_arrow.names))
        check(str(place), names)
        if not file.metadata.num_rows:
            raise DataError(f"{place} has no rows.")
        raw = [name for name, known in zip(file.schema_arrow.names, names, strict=True) if known in wanted]
        for batch in file.iter_batches(batch_size=BATCH, columns=raw):
            yield batch.rename_columns(one_line(list(batch.schema.names)))


def _arrow(place: Path, trained: Trained, keep: tuple[str, ...], check: Check) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    from pyarrow import feather, ipc

    wanted = _wanted(trained, keep)
    with reading("Arrow", place, CURE):
        with place.open("rb") as file:
            head = file.read(6)
        with pa.memory_map(str(place)) as stream:
            if head == b"ARROW1":
                opened = ipc.open_file(stream)
                batches = (opened.get_batch(number) for number in range(opened.num_record_batches))
                schema = opened.schema
            elif head[:4] == b"FEA1":
                table = feather.read_table(place)
                batches, schema = iter(table.to_batches()), table.schema
            elif head[:4] == b"\xff\xff\xff\xff":  # how every message of a stream begins
                opened = ipc.open_stream(stream)
                batches, schema = iter(opened), opened.schema
            else:
                raise ValueError("it is no Feather or Arrow file")
            names = one_line(list(schema.names))
            check(str(place), names)
            chosen = [at for at, name in enumerate(names) if name in wanted]
            rows = 0
            for batch in batches:
                rows += batch.num_rows
                yield pa.RecordBatch.from_arrays([batch.column(at) for at in chosen], [names[at] for at in chosen])
            if not rows:
                raise DataError(f"{place} has no rows.")


__all__ = ["SUFFIXES", "csv_as_trained", "kind_of", "pieces"]
