"""The source `csv`."""

from __future__ import annotations

import codecs
import csv as python_csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from nnopt_ray.data import later
from nnopt_ray.data.arrow_files import Arrow, Parquet
from nnopt_ray.data.csv_spool import Spool, spool
from nnopt_ray.data.files import Paths, reading, suffix
from nnopt_ray.data.joined import kind_of
from nnopt_ray.data.later import Later
from nnopt_ray.data.sources import FileSource
from nnopt_ray.data.table import Table, one_line, quoted
from nnopt_ray.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

# pandas.read_csv's own list of what means "missing", and the empty field.
MISSING = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>",
    "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip


TORN = re.compile(r"Expected (\d+) columns?, got (\d+): (.*)")  # Arrow's words for a ragged row


DELIMITERS = (",", ";", "\t", "|")
PACKED_SUFFIXES = (".gz", ".bz2", ".zst", ".lz4", ".br")
PACKED = 4  # times that tables of numbers shrink
SNIFFED = 1 << 16  # bytes from which the delimiter is told
BLOCK = 1 << 22  # bytes of text that are parsed at a time; a row must fit


class Csv(FileSource):
    """CSV files, also compressed (.gz, .bz2, .zst). The kinds of the columns are found from all rows of all files.

    Empty fields and the usual marks (pandas' list: NA, NaN, null, ...) are missing values. Spaces around
    names and texts are cut off. ISO dates are recognised. Several files must have the same columns.

    Keys:
        path: the file, a pattern such as logs/*.csv, or a list of these, relative to the page.
        validation: the same with the validation part; then path is the training part (`split: given`).
        test: the same with the test part.
        delimiter: what stands between fields; auto tells it from the first rows.
        quote: what stands around fields that hold the delimiter or line ends.
        decimal: the decimal point of numbers.
        thousands: what parts the thousands of numbers, as the comma of 1,234.5.
        encoding: of the file, such as utf-8, latin-1 or cp1252.
        header: the first row holds the names; without one the columns are f0, f1, ...
        missing: further marks of a missing value, such as "?".
        text: columns to read as text whatever they look like (codes with leading zeros).
    """

    def __init__(
        self,
        *,
        path: Paths,
        validation: Paths | None = None,
        test: Paths | None = None,
        delimiter: Annotated[str, Field(min_length=1, max_length=1)] | Literal["auto"] = ",",
        quote: Annotated[str, Field(min_length=1, max_length=1)] = '"',
        decimal: Annotated[str, Field(min_length=1, max_length=1)] = ".",
        thousands: Annotated[str, Field(min_length=1, max_length=1)] | None = None,
        encoding: str = "utf-8",
        header: bool = True,
        missing: tuple[str, ...] = (),
        text: tuple[str, ...] = (),
    ) -> None:
        if thousands == decimal:
            raise DataError(f"decimal and thousands are both {decimal!r}; give two different signs.")
        self.path = path
        self.validation = validation
        self.test = test
        self.delimiter = delimiter
        self.quote = quote
        self.decimal = decimal
        self.thousands = thousands
        self.encoding = encoding
        self.header = header
        self.missing = missing
        self.text = text

    def tables(self, places: list[Path]) -> list[Table]:
        found = [self._table(place, self.text) for place in places]
        torn = _torn_columns([list(zip(table.column_names, table.schema.types, strict=True)) for table in found])
        if torn:
            found = [self._table(place, (*self.text, *torn)) for place in places]
        return [Table(str(place), columns) for place, columns in zip(places, found, strict=True)]

    def later(self, places: list[Path], room: Path) -> list[Table] | None:
        if sum(map(_content_bytes, places)) <= later.LARGE_BYTES:
            return None
        spools = [self._spooled(place, room / f"csv-{number}") for number, place in enumerate(places)]
        found = [self._columns(texts, self.text) for texts in spools]
        if len(places) > 1:
            names = [list(enumerate(columns.column_names)) for columns in found]
            torn = _torn_columns(
                [[(name, one.kind(at)) for at, name in each] for one, each in zip(found, names, strict=True)]
            )
            if torn:
                found = [self._columns(texts, (*self.text, *torn)) for texts in spools]
        return [Table(str(place), columns) for place, columns in zip(places, found, strict=True)]

    def _spooled(self, place: Path, folder: Path) -> Spool:
        """The fields of a file as texts on disk. Raises DataError as `_table` does."""
        import pyarrow as pa
        from pyarrow import csv

        self._check_encoding(place)
        delimiter = self.sniffed(place) if self.delimiter == "auto" else self.delimiter
        options = self._options(delimiter)
        with self._refusing(place, delimiter), csv.open_csv(place, **options) as head:
            names = list(head.schema.names)
        as_they_are = csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False, null_values=[]
        )

        def batches() -> Iterator[pa.RecordBatch]:
            with self._refusing(place, delimiter):
                yield from csv.open_csv(place, **options, convert_options=as_they_are)

        texts = spool(names, batches(), folder)
        last = texts.last
        if texts.rows and "\n" in last:
            end = len(names) - 1
            last = texts.inferred(end, self._converting({names[end]}.intersection(self.text))).column(0)[-1].as_py()
        self._check_read(place, [_unmarked(name) for name in names], texts.rows, last)
        return texts

    def batches(
        self, place: Path, wanted: Callable[[list[str]], Mapping[int, pa.DataType]]
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a file some at a time, in the memory that they take.

        wanted: from the names of all columns, as `table.tidy` calls them, the kind of each that is to be read, by its
        place. Texts are not trimmed. Raises DataError as `read` does, and for a value that is not of its kind.
        """
        import pyarrow as pa
        from pyarrow import csv

        self._check_encoding(place)
        delimiter = self.sniffed(place) if self.delimiter == "auto" else self.delimiter
        options = self._options(delimiter)
        with self._refusing(place, delimiter), csv.open_csv(place, **options) as head:
            raw = list(head.schema.names)
        names = one_line([_unmarked(name) for name in raw])
        kinds = wanted(names)
        twice = sorted({names[at] for at in kinds if raw.count(raw[at]) > 1})
        if twice:
            raise DataError(f"{place} has more than one column named {quoted(twice)}. Give every column its own name.")
        converting = csv.ConvertOptions(
            null_values=[*MISSING, *self.missing],
            strings_can_be_null=True,
            decimal_point=self.decimal,
            column_types={raw[at]: self._before_thousands(kind) for at, kind in kinds.items()},
            include_columns=[raw[at] for at in kinds],
        )
        options["read_options"].block_size = BLOCK
        rows, last = 0, None
        with self._refusing(place, delimiter), csv.open_csv(place, **options, convert_options=converting) as batches:
            for batch in batches:
                if not batch.num_rows:
                    continue
                rows += batch.num_rows
                last = batch.column(batch.num_columns - 1)[-1].as_py() if kinds else None
                found = pa.Table.from_batches([batch]).rename_columns([names[at] for at in kinds])
                if self.thousands is not None:
                    texts = tuple(names[at] for at, kind in kinds.items() if not pa.types.is_floating(kind))
                    found = self._without_thousands(found, texts)
                yield from found.combine_chunks().to_batches()
        if not rows:
            raise DataError(f"{place} has a header and no rows.")
        self._check_quotes(place, last)

    def _before_thousands(self, kind: pa.DataType) -> pa.DataType:
        import pyarrow as pa

        return pa.string() if self.thousands is not None and pa.types.is_floating(kind) else kind

    def _columns(self, texts: Spool, text: tuple[str, ...]) -> Later:
        """The columns of a spooled file, the kind of each found when it is first asked for."""
        names = [_unmarked(name) for name in texts.names]

        def opened(number: int) -> Any:
            raw, name = texts.names[number], names[number]

            def make() -> pa.Table:
                made = texts.inferred(number, self._converting({raw}.intersection(text))).rename_columns([name])
                return made if self.thousands is None else self._without_thousands(made, text)

            return texts.opened(number, "text" if name in text else "own", make)

        return Later(
            names,
            texts.rows,
            lambda number: opened(number).read_all().column(0),
            lambda number: opened(number).schema.types[0],
        )

    def _options(self, delimiter: str) -> dict[str, Any]:
        from pyarrow import csv

        return {
            "read_options": csv.ReadOptions(encoding=self.encoding, autogenerate_column_names=not self.header),
            # Quoted fields may hold line ends; Arrow's default would tear such rows apart.
            "parse_options": csv.ParseOptions(delimiter=delimiter, quote_char=self.quote, newlines_in_values=True),
        }

    def _converting(self, text: Iterable[str]) -> Any:
        """How fields become values; the columns of these names are read as text."""
        import pyarrow as pa
        from pyarrow import csv

        return csv.ConvertOptions(
            null_values=[*MISSING, *self.missing],
            strings_can_be_null=True,
            decimal_point=self.decimal,
            column_types={name: pa.string() for name in text},
        )

    @contextmanager
    def _refusing(self, place: Path, delimiter: str) -> Iterator[None]:
        """What goes wrong while a file is read, as one sentence."""
        import pyarrow as pa

        with reading("CSV", place, "Check data.source: delimiter, quote, encoding."):
            try:
                yield
            except UnicodeError as error:
                raise DataError(_undecodable(place, self.encoding)) from error
            except pa.ArrowInvalid as error:
                if torn := TORN.search(str(error)):
                    raise DataError(self._torn(place, delimiter, *torn.groups())) from error
                if "invalid UTF8 data" in str(error):
                    raise DataError(_undecodable(place, self.encoding)) from error
                raise

    def _check_read(self, place: Path, names: list[str], rows: int, last: Any) -> None:
        if rows == 0:
            raise DataError(f"data.source.path: {place} has a header and no rows.")
        self._check_quotes(place, last)
        strange = [name for name in self.text if name not in names]
        if strange:
            raise DataError(f"data.source.text: {place} has no column {quoted(strange)}.")

    def _table(self, place: Path, text: tuple[str, ...]) -> pa.Table:
        import pyarrow as pa
        from pyarrow import csv

        self._check_encoding(place)
        delimiter = self.sniffed(place) if self.delimiter == "auto" else self.delimiter
        with self._refusing(place, delimiter):
            columns = csv.read_csv(place, **self._options(delimiter), convert_options=self._converting(text))
        try:
            unread = any(pa.types.is_binary(column.type) for column in columns.columns)
        except UnicodeError:  # in the names
            unread = True
        if unread:
            raise DataError(_undecodable(place, self.encoding))
        columns = columns.rename_columns([_unmarked(name) for name in columns.column_names])
        rows = columns.num_rows
        last = columns.column(columns.num_columns - 1)[-1].as_py() if rows else ""
        self._check_read(place, columns.column_names, rows, last)
        return columns if self.thousands is None else self._without_thousands(columns, text)

    def sniffed(self, place: Path) -> str:
        """The delimiter that divides every one of the first rows into the same number of fields, the most of them."""
        import pyarrow as pa

        with reading("CSV", place, "Check data.source: encoding."), pa.input_stream(str(place)) as content:
            head = content.read(SNIFFED)
        lines = io.StringIO(head.decode(self.encoding, errors="replace"), newline="").read()
        if len(head) == SNIFFED:  # its last row may be cut
            lines = lines[: lines.rfind("\n") + 1]
        best, most = ",", 1
        for delimiter in DELIMITERS:
            rows = python_csv.reader(io.StringIO(lines, newline=""), delimiter=delimiter, quotechar=self.quote)
            try:
                counts = {len(row) for row in rows if row}
            except python_csv.Error:  # a field beyond Python's limit: it is not the delimiter
                continue
            if len(counts) == 1 and (count := counts.pop()) > most:
                best, most = delimiter, count
        return best

    def _without_thousands(self, columns: pa.Table, text: tuple[str, ...]) -> pa.Table:
        """Texts such as 1,234.5 as numbers, where all of a column are."""
        import pyarrow as pa
        import pyarrow.compute as pc

        parting, point = re.escape(self.thousands or ""), re.escape(self.decimal)
        pattern = rf"^\s*[+-]?(\d{{1,3}}({parting}\d{{3}})+|\d+)({point}\d*)?\s*$"
        for place, name in enumerate(columns.column_names):
            column = columns.column(place)
            if name in text or not pa.types.is_string(column.type):
                continue
            if not pc.all(pc.match_substring_regex(column, pattern)).as_py():
                continue
            plain = pc.replace_substring(pc.utf8_trim_whitespace(column), self.thousands, "")
            plain = pc.replace_substring(plain, self.decimal, ".")
            whole = not pc.any(pc.match_substring(plain, ".")).as_py()
            try:
                numbers = plain.cast(pa.int64() if whole else pa.float64())
            except pa.ArrowInvalid:  # beyond 64 bits
                numbers = plain.cast(pa.float64())
            columns = columns.set_column(place, name, numbers)
        return columns

    def _check_encoding(self, place: Path) -> None:
        try:
            known = codecs.lookup(self.encoding).name
        except LookupError:
            raise DataError(
                f"data.source.encoding: Python knows no encoding '{self.encoding}'. Write one such as utf-8 or latin-1."
            ) from None
        with place.open("rb") as file:
            marked = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        if marked and not known.startswith("utf-16"):
            raise DataError(f"data.source: {place} is written in UTF-16. Add to data.source: encoding: utf-16")

    def _check_quotes(self, place: Path, last: Any) -> None:
        """Arrow takes a quote that is never closed for a field that swallows the rest of the file."""
        import pyarrow as pa

        if not (isinstance(last, str) and "\n" in last):
            return
        quotes = 0
        with pa.input_stream(str(place), compression="detect") as content:
            while block := content.read(1 << 20):
                quotes += block.count(self.quote.encode(self.encoding))
        if quotes % 2:
            raise DataError(
                f"data.source: {place} has a quote that is never closed; the field that begins with {last[:40]!r} "
                f"swallows what follows. Close it, or check data.source: quote ({self.quote!r} now)."
            )

    def _torn(self, place: Path, delimiter: str, expected: str, found: str, row: str) -> str:
        shown = row[:60] + ("..." if len(row) > 60 else "")
        return (
            f"data.source: {place} is ragged: a row has {found} fields where {expected} are expected ({shown!r}). "
            f"Repair the row, or check data.source: delimiter ({delimiter!r} now) and quote."
        )


def _torn_columns(tables: list[list[tuple[str, Any]]]) -> tuple[str, ...]:
    """Columns that are text in one file and look like numbers in another: they are read again as they stand, for a
    column that is text in one is text in all. tables: of each its columns' names and Arrow types."""
    kinds: dict[str, set[str]] = {}
    for table in tables:
        for name, kind in table:
            kinds.setdefault(name, set()).add(kind_of(kind))
    return tuple(name for name, seen in kinds.items() if len(seen - {"nothing"}) > 1)


def _content_bytes(place: Path) -> int:
    """Bytes of the text in a file, about."""
    return place.stat().st_size * (PACKED if place.suffix in PACKED_SUFFIXES else 1)


def _unmarked(name: str) -> str:
    return name.removeprefix("\ufeff")


def _undecodable(place: Path, encoding: str) -> str:
    other = "latin-1" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else "utf-8"
    return f"data.source: {place} holds bytes that are not {encoding}. Add to data.source: encoding: {other}"


def table_file(path: str | tuple[str, ...], *parts: Any, **keys: Any) -> FileSource:
    """The source that reads a table of this name, by its suffix; csv where it is none of Arrow's formats.

    parts: `validation` and `test`. keys: those of csv.
    """
    kinds: dict[str, type[Parquet | Arrow]] = {".parquet": Parquet, ".pq": Parquet, ".arrow": Arrow, ".feather": Arrow}
    kind = kinds.get(suffix(path if isinstance(path, str) else path[0]))
    validation, test = parts or (None, None)
    if kind is not None:
        return kind(path=path, validation=validation, test=test)
    return Csv(path=path, validation=validation, test=test, **keys)


__all__ = ["MISSING", "Csv", "table_file"]
