"""Forecasts: from the newest rows of each series, what follows them, with the times of the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nnopt_ray.data import dates
from nnopt_ray.data.series import GAP, ordered
from nnopt_ray.data.split import instants
from nnopt_ray.data.table import Table, is_text, numbers, tidy
from nnopt_ray.data.types import Rows
from nnopt_ray.errors import DataError
from nnopt_ray.serving import incoming
from nnopt_ray.serving.noticed import Noticed
from nnopt_ray.serving.real_rows import target_of
from nnopt_ray.serving.trained import Trained

if TYPE_CHECKING:
    import pyarrow as pa

READ_AT_ONCE = 1 << 16  # rows
CLOSE = 1e-6  # of the usual interval: intervals that differ by less are equal


def read(data: Sequence[str], trained: Trained, noticed: Noticed) -> Table:
    """All time points of DATA as one table."""
    import pyarrow as pa

    window = trained.preprocessing.window
    assert window is not None
    target = target_of(trained) if window.foretell == "change" else None
    keep = () if target is None or target in noticed.needed else (target,)
    held = [piece.table for piece in incoming.pieces(data, trained, noticed, keep, READ_AT_ONCE)]
    whole = pa.concat_tables([table.columns for table in held], promote_options="permissive")
    return Table(held[0].origin, whole)


def foretold(trained: Trained, table: Table, noticed: Noticed) -> pa.Table:
    """A row for each series and step of the horizon: the series' columns, its time, the step from 1, the prediction.

    table: rows that are time points, those of a series in any order; the last `length` of each are read. A series that
    has fewer, or one without a number among them, has no predictions. Raises DataError for times that cannot be
    ordered.
    """
    import pyarrow as pa

    window = trained.preprocessing.window
    assert window is not None
    table = tidy(table)
    noticed.names(table.origin, table.names)
    order = ordered(table, window)
    series = list(order.series())
    interval = _interval(table, window.order, [rows for _, rows in series])
    (noticed.facts if interval.regular else noticed.odd)[interval.sentence] = None
    enough = [len(rows) >= window.length for _, rows in series]
    for (name, rows), there in zip(series, enough, strict=True):
        if not there:
            whose = f"the series {name!r}" if window.by else table.origin
            noticed.odd[
                f"{whose[0].upper()}{whose[1:]} has {len(rows):,} time points, and a forecast needs the last "
                f"{window.length:,}: it has none."
            ] = None
    tails = [rows[-window.length :] for (_, rows), there in zip(series, enough, strict=True) if there]
    said = np.full((len(series), window.horizon), np.nan)
    if tails:
        said[np.array(enough)] = _outputs(trained, table, tails, noticed)
    last = np.array([rows[-1] for _, rows in series])
    each = np.repeat(last, window.horizon)
    steps = np.tile(np.arange(1, window.horizon + 1), len(series))
    columns: dict[str, Any] = {name: table.columns.column(name).take(each) for name in window.by}
    columns[window.order] = interval.after(table.columns.column(window.order).take(pa.array(last)), window.horizon)
    values = said.ravel()
    return pa.table({**columns, "step": steps, "predicted": pa.array(values, mask=np.isnan(values))})


def _outputs(trained: Trained, table: Table, tails: list[np.ndarray], noticed: Noticed) -> np.ndarray:
    """float64 [series, horizon] in the user's units, NaN where there is no prediction."""
    from nnopt_ray.evaluate.outputs import predict

    window = trained.preprocessing.window
    assert window is not None
    recent = table.take(np.concatenate(tails))
    chosen = noticed.chosen(recent)
    frame, gaps = noticed.filled(trained.preprocessing.frame(chosen, noticed.before))
    inputs = trained.preprocessing.arrays(frame, chosen)  # a window for each series, in the order of `tails`
    count = len(inputs[0])
    rows = Rows(inputs, np.zeros(count), np.arange(count))
    said = predict(trained.model, rows, trained.dataset, trained.machine)
    without = np.zeros(count, dtype=bool)
    if len(gaps):
        without |= gaps.reshape(count, window.length).any(axis=1)
    if window.foretell == "change":
        name = target_of(trained)
        known = numbers(recent.column(name, "data.target")).reshape(count, window.length)[:, -1]
        said = said + known[:, None]
        without |= np.isnan(known)
    noticed.seen(count, {}, int(without.sum()))
    return np.where(without[:, None], np.nan, said)


@dataclass(frozen=True)
class Interval:
    """What lies between time points. months: where it is some of them; days or numbers else. weekdays: and only from
    Monday to Friday."""

    step: float
    months: int
    weekdays: bool
    month_ends: bool
    is_date: bool
    sentence: str
    regular: bool = True

    def after(self, last: Any, horizon: int) -> Any:
        """The times of the steps after each of these, an Arrow array [series * horizon] of their kind."""
        import pyarrow as pa

        steps = np.arange(1, horizon + 1)
        if not self.is_date:
            found = (numbers(last)[:, None] + self.step * steps).ravel()
            whole = pa.types.is_integer(last.type) and (found == np.floor(found)).all()
            return pa.array(found.astype(np.int64) if whole else found)
        kind = pa.timestamp("us") if is_text(last.type) else last.type
        form = (dates.date_formats(last) or ("",))[0] if is_text(last.type) else ""
        days = dates.days(last, form)
        assert days is not None
        made = np.concatenate([self._days_after(float(day), steps) for day in days])
        moments = pa.array(np.round(made * 86_400e6).astype(np.int64)).cast(pa.timestamp("us"))
        if is_text(last.type) or pa.types.is_date(kind):
            whole_days = bool((made == np.floor(made)).all())
            return moments.cast(pa.date32()) if whole_days else moments
        return moments.cast(pa.timestamp(kind.unit)).cast(pa.int64()).cast(kind)

    def _days_after(self, last: float, steps: np.ndarray) -> np.ndarray:
        """float64 [steps], days since 1970-01-01."""
        if self.weekdays:
            day = np.datetime64(int(np.floor(last)), "D")
            counted = np.busday_offset(day, steps, roll="backward")
            return np.asarray(counted.astype(np.int64) + (last - np.floor(last)), dtype=np.float64)
        if not self.months:
            found: np.ndarray = last + self.step * steps
            return found
        day = np.datetime64(int(np.floor(last)), "D")
        month = day.astype("datetime64[M]")
        ahead = month + steps * self.months
        lengths = ((ahead + 1).astype("datetime64[D]") - ahead.astype("datetime64[D]")).astype(np.int64)
        within = int((day - month.astype("datetime64[D]")).astype(np.int64))
        offset = lengths - 1 if self.month_ends else np.minimum(within, lengths - 1)
        counted = ahead.astype("datetime64[D]").astype(np.int64) + offset
        return np.asarray(counted + (last - np.floor(last)), dtype=np.float64)


def _interval(table: Table, order: str, series: list[np.ndarray]) -> Interval:
    """What usually lies between neighbours, over all series. Raises DataError where no series has two time points."""
    column = table.column(order, "data.window.order")
    is_date = is_text(column.type) or dates.is_date(column.type)
    times = instants(table, order, "data.window.order")
    between = np.concatenate([np.diff(times[rows]) for rows in series])
    if not len(between):
        raise DataError(f"{table.origin} has one time point; what lies between two cannot be told. Give more rows.")
    usual = float(np.median(between))
    regular = np.abs(between - usual) <= CLOSE * max(usual, 1.0)
    unit = " days" if is_date else ""
    found = Interval(usual, 0, False, False, is_date, "")
    uneven = int((~regular).sum())
    if not uneven:
        said = _duration(usual) if is_date else f"{usual:g}"
        return replace(found, sentence=f"The time points are {said} apart; so are those that are foretold.")
    if is_date and (calendar := _calendar(times, series)) is not None:
        months, ends = calendar
        what = "a month" if months == 1 else "a year" if months == 12 else f"{months} months"
        return replace(
            found,
            months=months,
            month_ends=ends,
            sentence=f"The time points are {what} apart{', at its end' * ends}; so are those that are foretold.",
        )
    if is_date and _only_weekdays(times, series):
        return replace(
            found,
            weekdays=True,
            sentence="The time points are the days from Monday to Friday; so are those that are foretold.",
        )
    gaps = int((between > GAP * usual).sum())
    told = f"{gaps:,} gaps" if gaps == uneven else f"{uneven:,} other distances"
    return replace(
        found,
        regular=False,
        sentence=f"The time points are {usual:g}{unit} apart as a rule, with {told} of {len(between):,}; the steps "
        "that are foretold are taken to be so, too.",
    )


def _duration(days: float) -> str:
    for unit, size in (("day", 1.0), ("hour", 1 / 24), ("minute", 1 / 1440), ("second", 1 / 86_400)):
        count = days / size
        if count >= 1 and abs(count - round(count)) < 1e-6:
            return f"1 {unit}" if round(count) == 1 else f"{round(count):,} {unit}s"
    return f"{days:g} days"


def _calendar(times: np.ndarray, series: list[np.ndarray]) -> tuple[int, bool] | None:
    """How many months lie between all neighbours, and whether the points are ends of months; None where it differs."""
    steps: set[int] = set()
    ends = same = True
    for rows in series:
        if not len(rows):
            continue
        days = np.floor(times[rows]).astype("datetime64[D]")
        months = days.astype("datetime64[M]")
        within = (days - months.astype("datetime64[D]")).astype(np.int64)
        lengths = ((months + 1).astype("datetime64[D]") - months.astype("datetime64[D]")).astype(np.int64)
        steps |= set(np.diff(months.astype(np.int64)).tolist())
        ends &= bool((within == lengths - 1).all())
        same &= bool((within == within[0]).all())
    if len(steps) != 1 or not (ends or same) or (months_between := steps.pop()) < 1:
        return None
    return months_between, ends and not same


def _only_weekdays(times: np.ndarray, series: list[np.ndarray]) -> bool:
    """Whether neighbours are a working day apart, none of them on a weekend."""
    for rows in series:
        days = np.floor(times[rows]).astype(np.int64)
        if ((days + 3) % 7 > 4).any():  # 1970-01-01 was a Thursday
            return False
        between = np.busday_count(days[:-1].astype("datetime64[D]"), days[1:].astype("datetime64[D]"))
        if (between != 1).any():
            return False
    return True


__all__ = ["Interval", "foretold", "read"]
