"""Sources: where the rows come from. Relative paths of a page are looked up beside the page."""

from __future__ import annotations

import codecs
import hashlib
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from nnopt_ray.data.table import Table, quoted
from nnopt_ray.errors import DataError
from nnopt_ray.experiment import Beside

if TYPE_CHECKING:
    import pyarrow as pa

# pandas.read_csv's own list of what means "missing", and the empty field.
MISSING = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>",
    "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip


TORN = re.compile(r"Expected (\d+) columns?, got (\d+): (.*)")  # Arrow's words for a ragged row


class Source(ABC):
    """Contract of a source.

    `fingerprint` answers with a text that changes whenever the content does; a modification time is not
    enough. `read` gives the rows as they are; trimming and checking them is `table.tidy`'s work. Both raise
    DataError; `base` is the folder of the page.

    own_parts: the source comes with a test set of its own; `split: given` is the default then.
    """

    own_parts: ClassVar[bool] = False

    @classmethod
    def divides(cls, keys: Mapping[str, Any], base: Path) -> bool:
        """Whether its rows come in parts, where that hangs on its keys (as the page has them, unchecked) or on what
        lies there. Asked whenever a page is read, so it must be quick and may not raise."""
        return cls.own_parts

    @abstractmethod
    def read(self, base: Path) -> Table:
        """All rows."""

    @abstractmethod
    def fingerprint(self, base: Path) -> str:
        """The digest of the content."""


class Sklearn(Source):
    """A data set that comes with scikit-learn: no file, no network.

    digits are 1797 images of 8x8 pixels of 0 to 16, ten classes; iris, wine and breast_cancer are
    tables with named classes; diabetes is a table with a number to predict. The target has no name of its
    own there: `data.target` may call it as it likes.

    Keys:
        name: digits, iris, wine, breast_cancer or diabetes.
    """

    def __init__(self, *, name: Literal["digits", "iris", "wine", "breast_cancer", "diabetes"]) -> None:
        self.name = name

    def read(self, base: Path) -> Table:
        import pyarrow as pa

        bunch = _bundled(self.name)
        origin = f"scikit-learn's {self.name}"
        if self.name == "digits":
            # As words: ten classes, not amounts.
            labels = pa.array([str(digit) for digit in bunch.target])
            return Table(origin, pa.table({"target": labels}), images=bunch.images[:, None], target="target")
        columns: dict[str, Any] = {
            str(name): pa.array(np.ascontiguousarray(values))
            for name, values in zip(bunch.feature_names, bunch.data.T, strict=True)
        }
        names = getattr(bunch, "target_names", None)
        columns["target"] = pa.array(bunch.target if names is None else [str(names[code]) for code in bunch.target])
        return Table(origin, pa.table(columns), target="target")

    def fingerprint(self, base: Path) -> str:
        bunch = _bundled(self.name)
        digest = hashlib.blake2b(digest_size=20)
        for array in (bunch.data, bunch.target):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


@lru_cache(maxsize=2)
def _bundled(name: str) -> Any:
    from sklearn import datasets

    return getattr(datasets, f"load_{name}")()


class _File(Source):
    """A source that is one file, or a folder of them."""

    path: str
    suffixes: tuple[str, ...] = ()  # of the files of a folder; empty: a folder is refused

    def files(self, base: Path) -> list[Path]:
        return files(self.path, base, self.suffixes, "data.source.path")

    def fingerprint(self, base: Path) -> str:
        return digest(self.files(base), base / self.path)


def located(path: str, base: Path, key: str) -> Path:
    """Where a path of the page leads. `key` is the page's, for messages."""
    return base / Path(path).expanduser()


def files(
    path: str, base: Path, suffixes: tuple[str, ...], key: str, hidden: tuple[str, ...] = ("_", ".")
) -> list[Path]:
    """The file, or the files of the folder in sorted order. Raises DataError when there is nothing to read.

    hidden: how names begin that are no data; what writes Parquet leaves files such as _SUCCESS beside it.
    """
    place = located(path, base, key)
    if place.is_dir():
        if not suffixes:
            raise DataError(f"{key}: {place} is a folder; name a file in it.")
        there = [file for file in sorted(place.rglob("*")) if file.is_file() and not file.name.startswith(hidden)]
        found = [file for file in there if file.name.endswith(suffixes)]
        if not found:
            others = Counter(file.suffix for file in there if file.suffix).most_common(3)
            told = ", ".join(f"{count} in {suffix}" for suffix, count in others)
            raise DataError(
                f"{key}: the folder {place} holds no file that ends in {' or '.join(suffixes)}"
                + (f"; of those there are, {told}." if told else ", and no other.")
            )
        return found
    if not place.exists():
        beside = ""
        if place.parent.is_dir():
            near = [file.name for file in sorted(place.parent.iterdir()) if file.name.lower() == place.name.lower()]
            near = near or [file.name for file in sorted(place.parent.iterdir()) if file.stem == place.stem]
            beside = f" There is {near[0]}." if near else ""
        relative = "" if Path(path).is_absolute() else " Relative paths start at the folder of the page."
        raise DataError(f"{key}: there is no file {place}.{beside}{relative}")
    if place.stat().st_size == 0:
        raise DataError(f"{key}: {place} is empty.")
    return [place]


def digest(files: list[Path], root: Path) -> str:
    """Digest of the content of files, and of their names inside a folder."""
    total = hashlib.blake2b(digest_size=20)
    for file in files:
        name = str(file.relative_to(root)) if len(files) > 1 else ""
        total.update(f"{name}\x1f{file.stat().st_size}\x1f".encode())
        try:
            with file.open("rb") as content:
                while block := content.read(1 << 20):
                    total.update(block)
        except OSError as error:
            raise DataError(f"data.source: {file} cannot be read: {error.strerror or error}.") from error
    return total.hexdigest()


@contextmanager
def reading(kind: str, place: Path, cure: str) -> Iterator[None]:
    """What goes wrong while a file is read, as one sentence."""
    import zipfile
    import zlib

    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        first = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise DataError(f"data.source: {place} cannot be read as {kind}: {first}. {cure}") from error


class Csv(_File):
    """A CSV file, also compressed (.gz, .bz2). The kinds of the columns are found from all rows.

    Empty fields and the usual marks (pandas' list: NA, NaN, null, ...) are missing values. Spaces around
    names and texts are cut off. ISO dates are recognised.

    Keys:
        path: the file, relative to the page.
        delimiter: what stands between fields.
        quote: what stands around fields that hold the delimiter or line ends.
        decimal: the decimal point of numbers.
        encoding: of the file, such as utf-8, latin-1 or cp1252.
        header: the first row holds the names; without one the columns are f0, f1, ...
        missing: further marks of a missing value, such as "?".
        text: columns to read as text whatever they look like (codes with leading zeros).
    """

    def __init__(
        self,
        *,
        path: Annotated[str, Beside()],
        delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ",",
        quote: Annotated[str, Field(min_length=1, max_length=1)] = '"',
        decimal: Annotated[str, Field(min_length=1, max_length=1)] = ".",
        encoding: str = "utf-8",
        header: bool = True,
        missing: tuple[str, ...] = (),
        text: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self.delimiter = delimiter
        self.quote = quote
        self.decimal = decimal
        self.encoding = encoding
        self.header = header
        self.missing = missing
        self.text = text

    def read(self, base: Path) -> Table:
        import pyarrow as pa
        from pyarrow import csv

        place = self.files(base)[0]
        self._check_encoding(place)
        cure = "Check data.source: delimiter, quote, encoding."
        with reading("CSV", place, cure):
            try:
                columns = csv.read_csv(
                    place,
                    read_options=csv.ReadOptions(encoding=self.encoding, autogenerate_column_names=not self.header),
                    # Quoted fields may hold line ends; Arrow's default would tear such rows apart.
                    parse_options=csv.ParseOptions(
                        delimiter=self.delimiter,
                        quote_char=self.quote,
                        newlines_in_values=True,
                    ),
                    convert_options=csv.ConvertOptions(
                        null_values=[*MISSING, *self.missing],
                        strings_can_be_null=True,
                        decimal_point=self.decimal,
                        column_types={name: pa.string() for name in self.text},
                    ),
                )
            except UnicodeError as error:
                raise DataError(_undecodable(place, self.encoding)) from error
            except pa.ArrowInvalid as error:
                if torn := TORN.search(str(error)):
                    raise DataError(self._torn(place, *torn.groups())) from error
                raise
        try:
            unread = any(pa.types.is_binary(column.type) for column in columns.columns)
        except UnicodeError:  # in the names
            unread = True
        if unread:
            raise DataError(_undecodable(place, self.encoding))
        if columns.num_rows == 0:
            raise DataError(f"data.source.path: {place} has a header and no rows.")
        self._check_quotes(place, columns)
        strange = [name for name in self.text if name not in columns.column_names]
        if strange:
            raise DataError(f"data.source.text: {place} has no column {quoted(strange)}.")
        return Table(str(place), columns)

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

    def _check_quotes(self, place: Path, columns: pa.Table) -> None:
        """Arrow takes a quote that is never closed for a field that swallows the rest of the file."""
        import pyarrow as pa

        last = columns.column(columns.num_columns - 1)[-1].as_py()
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

    def _torn(self, place: Path, expected: str, found: str, row: str) -> str:
        shown = row[:60] + ("..." if len(row) > 60 else "")
        return (
            f"data.source: {place} is ragged: a row has {found} fields where {expected} are expected ({shown!r}). "
            f"Repair the row, or check data.source: delimiter ({self.delimiter!r} now) and quote."
        )


def _undecodable(place: Path, encoding: str) -> str:
    other = "latin-1" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else "utf-8"
    return f"data.source: {place} holds bytes that are not {encoding}. Add to data.source: encoding: {other}"


class Parquet(_File):
    """A Parquet file, or a folder of them (Hive-style `key=value` folders become columns).

    Keys:
        path: the file or folder, relative to the page.
    """

    suffixes = (".parquet", ".pq")

    def __init__(self, *, path: Annotated[str, Beside()]) -> None:
        self.path = path

    def read(self, base: Path) -> Table:
        from pyarrow import parquet

        self.files(base)
        place = base / Path(self.path).expanduser()
        with reading("Parquet", place, "Write it anew, or choose the source type that fits the file."):
            columns = parquet.read_table(place)
        return Table(str(place), columns)


class Arrow(_File):
    """A Feather or Arrow IPC file, file or stream form, compressed or not.

    Keys:
        path: the file, relative to the page.
    """

    def __init__(self, *, path: Annotated[str, Beside()]) -> None:
        self.path = path

    def read(self, base: Path) -> Table:
        place = self.files(base)[0]
        with reading("Arrow", place, "Write it anew, or choose the source type that fits the file."):
            return Table(str(place), _read_arrow(place))


def _read_arrow(place: Path) -> pa.Table:
    import pyarrow as pa
    from pyarrow import feather, ipc

    with place.open("rb") as file:
        head = file.read(6)
    if head == b"ARROW1" or head[:4] == b"FEA1":
        return feather.read_table(place)
    if head[:4] != b"\xff\xff\xff\xff":  # how every message of a stream begins
        raise ValueError("it is no Feather or Arrow file")
    with pa.memory_map(str(place)) as stream:
        return ipc.open_stream(stream).read_all()


__all__ = ["MISSING", "Arrow", "Csv", "Parquet", "Sklearn", "Source", "digest", "files", "located", "reading"]
