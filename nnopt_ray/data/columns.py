"""What each column of a source is, and the features made from it.

Kinds are recognised over all rows, as the types in a file are; what is dropped is decided on the training rows alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from nnopt_ray.data import dates
from nnopt_ray.data.frame import Feature, Numeric, Text
from nnopt_ray.data.table import LARGEST, Table, is_number, is_text, numbers, quoted
from nnopt_ray.errors import DataError

Kind = Literal["numeric", "categorical", "boolean", "date", "text"]

# Two words that make a text column a boolean, the false one first; any case.
BOOLEAN_WORDS = (("false", "true"), ("no", "yes"), ("f", "t"), ("n", "y"), ("off", "on"))

# Names under which tables keep their row numbers and keys.
ID_NAME = re.compile(r"(?i:(^|[_\W])(id|ids|uuid|guid|index|rowid|row_?n(umber|um|o)?)$|^unnamed_\d+$)|[a-z](Id|ID)$")
ID_NAME_ROWS = 20  # fewer rows may well differ in all values by chance

# Text is free text, to be read and not a set of categories, when half of its values are of so many words or more (names
# and addresses have fewer) and so many of them occur once.
FREE_WORDS = 5
FREE_DISTINCT = 0.5


@dataclass(frozen=True)
class Reading:
    """How one source column is read: saved, so that new rows are read the same way."""

    name: str
    kind: Kind
    date_format: str = ""  # of dates written as text
    with_time: bool = False  # dates with a time of day
    note: str = ""
    doubt: str = ""  # what the user should look at, following the column's name

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def recognise(
    table: Table, names: list[str], as_text: frozenset[str] = frozenset()
) -> tuple[tuple[Reading, ...], dict[str, str]]:
    """How each of these columns is read, and those that cannot be learned from (name → reason).

    as_text: columns that a step reads as text, whatever they look like.

    Raises DataError for infinite numbers and for kinds that have no numbers (lists, bytes).
    """
    readings: list[Reading] = []
    empty: dict[str, str] = {}
    strange: list[str] = []
    infinite: dict[str, int] = {}
    for name in names:
        column = table.columns.column(name)
        if column.null_count == len(column):
            empty[name] = "every value is missing"
            continue
        is_read = name in as_text and (is_text(column.type) or is_number(column.type))
        reading = Reading(name, "text") if is_read else _recognise(name, column)
        if reading is None:
            strange.append(f"'{name}' ({column.type})")
            continue
        if reading.kind == "numeric":
            count = int((np.abs(_as_numbers(column)) > LARGEST).sum())
            if count:
                infinite[name] = count
        readings.append(reading)
    if strange:
        raise DataError(
            f"{table.origin}: cannot learn from the column{'s' * (len(strange) > 1)} {', '.join(strange)}. "
            "Write plain numbers, text, booleans or dates, or list the columns in data.ignore."
        )
    if infinite:
        told = ", ".join(f"'{name}' ({count})" for name, count in infinite.items())
        raise DataError(
            f"{table.origin}: infinite numbers, or numbers beyond {LARGEST:g}, in {told}. "
            "Replace them, leave the values empty, or list the columns in data.ignore."
        )
    return tuple(readings), empty


def _recognise(name: str, column: Any) -> Reading | None:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_boolean(kind):
        return Reading(name, "boolean")
    if is_number(kind):
        return Reading(name, "numeric")
    if pa.types.is_time(kind) or pa.types.is_duration(kind):
        return Reading(name, "numeric", note="in seconds")
    if dates.is_date(kind):
        return _date(name, column, "")
    if is_text(kind):
        return _text(name, column)
    return None


def _text(name: str, column: Any) -> Reading:
    import pyarrow.compute as pc

    sample = column.drop_null().slice(0, 1000)  # most texts are told from dates and numbers by a few rows
    if dates.date_formats(sample):
        formats = dates.date_formats(column)
        if len(formats) == 1:
            return _date(name, column, formats[0])
        if formats:
            return Reading(
                name, "categorical", doubt="looks like dates, but nothing tells day from month: write YYYY-MM-DD"
            )
    words = {str(word).lower() for word in pc.unique(sample).to_pylist()}
    for pair in BOOLEAN_WORDS:
        if words <= set(pair):
            words = {str(word).lower() for word in pc.unique(column.drop_null()).to_pylist()}
            if words <= set(pair):
                return Reading(name, "boolean", note=f"{pair[1]} is 1, {pair[0]} is 0")
    like_number = pc.match_substring_regex(sample, r"^[+-]?\d+([.,]\d+)?([eE][+-]?\d+)?$")
    if float(pc.mean(like_number).as_py()) >= 0.5:
        other = pc.unique(sample.filter(pc.invert(like_number))).to_pylist()[:3]
        if not other:
            return Reading(name, "categorical", note="text that looks like numbers")
        told = ", ".join(map(repr, other))
        doubt = (
            f"is text that looks like numbers but for {told}: if they mean a missing value, add to data.source: missing"
        )
        return Reading(name, "categorical", doubt=f"{doubt}: [{told}]")
    spaces = pc.count_substring_regex(sample, r"\s+")
    wordy = float(pc.mean(pc.greater_equal(spaces, FREE_WORDS - 1)).as_py()) >= 0.5
    free = wordy and pc.count_distinct(sample).as_py() > FREE_DISTINCT * len(sample)
    return Reading(name, "text" if free else "categorical")


def _date(name: str, column: Any, form: str) -> Reading:
    since_epoch = dates.days(column, form)
    assert since_epoch is not None  # the format was found on this column
    present = since_epoch[np.isfinite(since_epoch)]
    with_time = bool((present != np.floor(present)).any())
    made = "days, year, month, day_of_week" + (", hour" if with_time else "")
    return Reading(name, "date", form, with_time, note=f"{'read as ' + form + ', ' if form else ''}made into {made}")


def features(table: Table, readings: tuple[Reading, ...]) -> dict[str, Feature]:
    """The features of all rows. Raises DataError for a column that is not of the kind it is read as."""
    made: dict[str, Feature] = {}
    wrong: list[str] = []
    for reading in readings:
        column = table.columns.column(reading.name)
        found = _features(reading, column)
        if found is None:
            example = next((value for value in column.drop_null().slice(0, 1000).to_pylist()), None)
            wrong.append(f"'{reading.name}' should be {reading.kind} and is {column.type} (such as {example!r})")
        else:
            made |= found
    if wrong:
        raise DataError(f"{table.origin}: {'; '.join(wrong)}.")
    taken = [name for name, feature in made.items() if name != feature.origin and name in table.names]
    if taken:
        raise DataError(
            f"{table.origin}: the columns {quoted(taken)} have the names of features made from dates. Rename them."
        )
    return made


def _features(reading: Reading, column: Any) -> dict[str, Feature] | None:
    import pyarrow as pa

    name = reading.name
    if pa.types.is_null(column.type):  # new rows may lack every value
        kinds = {"categorical": pa.string(), "text": pa.string(), "date": pa.timestamp("s")}
        column = column.cast(kinds.get(reading.kind, pa.float64()))
    if reading.kind in ("categorical", "text"):
        return {name: text(column, name, free=reading.kind == "text")}
    if reading.kind == "date":
        if not (dates.is_date(column.type) or is_text(column.type)):
            return None
        since_epoch = dates.days(column, reading.date_format)
        if since_epoch is None:
            return None
        parts = dates.numbers_of(since_epoch, reading.with_time)
        return {f"{name}.{part}": Numeric(values, name) for part, values in parts.items()}
    if reading.kind == "boolean" and is_text(column.type):
        truth = _truth(column)
        return None if truth is None else {name: Numeric(truth, name, binary=True)}
    if is_text(column.type):
        try:
            column = column.cast(pa.float64())
        except pa.ArrowInvalid:
            return None
    values = _as_numbers(column)
    if reading.kind == "boolean" and not np.isin(values[~np.isnan(values)], (0.0, 1.0)).all():
        return None
    return {name: Numeric(values, name, binary=reading.kind == "boolean")}


def _as_numbers(column: Any) -> np.ndarray:
    import pyarrow as pa

    if pa.types.is_time(column.type) or pa.types.is_duration(column.type):
        unit = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[column.type.unit]
        if pa.types.is_time32(column.type):
            column = column.cast(pa.int32())
        return numbers(column.cast(pa.int64())) / unit
    return numbers(column)


def _truth(column: Any) -> np.ndarray | None:
    """Texts of one pair of BOOLEAN_WORDS as 0.0, 1.0 and NaN; None for other texts."""
    encoded = text(column, "")
    for false, true in BOOLEAN_WORDS:
        if {word.lower() for word in encoded.words} <= {false, true}:
            values = np.array([float(word.lower() == true) for word in encoded.words] + [np.nan])
            truth: np.ndarray = values[encoded.codes]
            return truth
    return None


def text(column: Any, origin: str, free: bool = False) -> Text:
    """Any column as words and codes; whole numbers are written without a point."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not is_text(column.type):
        if pa.types.is_floating(column.type) and pc.all(pc.equal(pc.floor(column), column)).as_py():
            column = column.cast(pa.int64(), safe=False)
        column = column.cast(pa.string())
    encoded = pc.dictionary_encode(column).combine_chunks()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return Text(codes, tuple(encoded.dictionary.to_pylist()), origin, free)


def useless(
    made: Mapping[str, Feature], train: np.ndarray, all_rows: int, keep: frozenset[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Features to drop (name → reason) and remarks on kept ones, judged on the training rows.

    Dropped are features without any value or with one value throughout, and identifiers: text that is
    different in more than nine of ten rows (free text stays), and whole numbers that never repeat and
    either are named like a key or fill a range no wider than the table is long. `keep` holds columns that
    a step names: of those only the ones without any value go.
    """
    dropped: dict[str, str] = {}
    remarks: dict[str, str] = {}
    for name, feature in made.items():
        wanted = name in keep or feature.origin in keep
        present, distinct = _counts(feature, train)
        if present == 0:
            dropped[name] = "every value is missing in the training part"
        elif wanted:
            continue
        elif distinct == 1 and present == len(train):
            dropped[name] = "it has one and the same value in all training rows"
        elif isinstance(feature, Text):
            if not feature.free and present >= ID_NAME_ROWS and distinct > 0.9 * present:
                dropped[name] = f"an identifier or free text: {distinct} different values in {present} training rows"
        elif isinstance(feature, Numeric) and name == feature.origin and distinct == present >= ID_NAME_ROWS:
            values = feature.values[train]
            values = values[~np.isnan(values)]
            if (values == np.floor(values)).all():
                if ID_NAME.search(name) or values.max() - values.min() < all_rows:
                    dropped[name] = "an identifier: whole numbers that never repeat"
                else:
                    remarks[name] = "never repeats; if it is an identifier, list it in data.ignore"
    return dropped, remarks


def _counts(feature: Feature, train: np.ndarray) -> tuple[int, int]:
    """Training rows with a value, and how many different values they have."""
    if isinstance(feature, Numeric):
        values = feature.values[train]
        values = values[~np.isnan(values)]
        return len(values), len(np.unique(values))
    if isinstance(feature, Text):
        codes = feature.codes[train]
        codes = codes[codes >= 0]
        return len(codes), len(np.unique(codes))
    return len(train), feature.cardinality  # codes and tokens are made by steps, later
