"""Dates: which texts are dates, and the numbers a network gets from a date."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnopt_ray.data.table import is_text

ISO = "YYYY-MM-DD"  # with a time of day and an offset from UTC where they are written
ISO_TEXT = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:?\d{2})?)?$"
ZONE = r"(Z|[+-]\d{2}:?\d{2})$"

# How a date is written → (what such a text looks like, its parts put in the order of ISO).
WRITTEN = {
    "YYYY/MM/DD": (r"^(\d{4})/(\d{1,2})/(\d{1,2})$", r"\1-\2-\3"),
    "DD.MM.YYYY": (r"^(\d{1,2})\.(\d{1,2})\.(\d{4})$", r"\3-\2-\1"),
    "DD/MM/YYYY": (r"^(\d{1,2})/(\d{1,2})/(\d{4})$", r"\3-\2-\1"),
    "MM/DD/YYYY": (r"^(\d{1,2})/(\d{1,2})/(\d{4})$", r"\3-\1-\2"),
}


def is_date(kind: Any) -> bool:
    """True for Arrow's dates and timestamps."""
    import pyarrow as pa

    return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def date_formats(column: Any) -> tuple[str, ...]:
    """The ways in which every text of the column is a date; empty when it holds other text.

    Two formats come back only for 03/04/2020: nothing in the column tells day from month.
    """
    return tuple(form for form in (ISO, *WRITTEN) if parse(column, form) is not None)


def parse(column: Any, form: str) -> Any | None:
    """Texts as timestamps (microseconds, UTC where an offset is written); None unless all are dates of this form."""
    import pyarrow as pa
    import pyarrow.compute as pc

    pattern, order = (ISO_TEXT, "") if form == ISO else WRITTEN[form]
    if not pc.all(pc.match_substring_regex(column, pattern)).as_py():
        return None
    zoned = False
    if form == ISO:
        ends = pc.match_substring_regex(pc.utf8_slice_codeunits(column, 10), ZONE)
        zoned = bool(pc.any(ends).as_py())
        if zoned and not pc.all(ends).as_py():
            return None
    else:
        column = pc.replace_substring_regex(column, pattern, order)
        column = pc.replace_substring_regex(column, r"\b(\d)\b", r"0\1")
    try:
        return column.cast(pa.timestamp("us", "UTC" if zoned else None))
    except pa.ArrowInvalid:  # 2021-02-30
        return None


def days(column: Any, form: str) -> np.ndarray | None:
    """float64 [rows], days since 1970-01-01 (UTC) with the time of day as a fraction; NaN where missing.

    Takes Arrow's dates and timestamps, and texts written as `form` (or as ISO). None when a text is no date.
    """
    import pyarrow as pa

    if is_text(column.type):
        parsed = parse(column, form or ISO)
        if parsed is None and form:
            parsed = parse(column, ISO)
        if parsed is None:
            return None
        column = parsed
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    units = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[column.type.unit]
    counts = column.cast(pa.int64()).cast(pa.float64(), safe=False).to_numpy()
    return np.asarray(counts, dtype=np.float64) / (86_400.0 * units)


def numbers_of(days_since_epoch: np.ndarray, with_time: bool) -> dict[str, np.ndarray]:
    """The features of a date: days, year, month (1-12), day_of_week (Monday 0), and hour when times of day occur.

    float64 [rows] each, NaN where the date is missing.
    """
    present = np.isfinite(days_since_epoch)
    whole = np.floor(np.where(present, days_since_epoch, 0.0))
    date = whole.astype("datetime64[D]")
    found = {
        "days": days_since_epoch,
        "year": date.astype("datetime64[Y]").astype(np.int64) + 1970.0,
        "month": date.astype("datetime64[M]").astype(np.int64) % 12 + 1.0,
        "day_of_week": (whole + 3) % 7,  # 1970-01-01 was a Thursday
    }
    if with_time:
        found["hour"] = (days_since_epoch - whole) * 24.0
    return {name: np.where(present, values, np.nan) for name, values in found.items()}
