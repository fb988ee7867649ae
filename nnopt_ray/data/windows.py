"""Forecasting: rows that are points in time become windows, `length` steps to learn from and `horizon` to foretell.

The steps are fitted on the time points of the training part, and what they make of each point is what a window shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from nnopt_ray import tables
from nnopt_ray.data import preprocessing, repairs, store
from nnopt_ray.data.columns import recognise
from nnopt_ray.data.folds import parts_of
from nnopt_ray.data.frame import Layout
from nnopt_ray.data.preprocessing import Fitted
from nnopt_ray.data.quality import Examined
from nnopt_ray.data.series import Order, ordered
from nnopt_ray.data.split import PARTS, Given, Split
from nnopt_ray.data.table import LARGEST, Table, is_number, numbers, quoted
from nnopt_ray.data.target import Target, listed, target_name
from nnopt_ray.data.types import Column, DataSummary, Input, Shapes
from nnopt_ray.errors import DataError
from nnopt_ray.experiment import Data, Window


def content(data: Data, table: Table, described: str) -> store.Content:
    """What the store of a forecast holds. `described` is the source in words. Raises DataError."""
    window = data.window
    assert window is not None
    given, order, hidden = divided(data, table)
    name, values, parts = given.target.name, given.target.values, given.parts
    seen = repairs.of_page(data, given, "windows")
    readings = tuple(reading for reading in given.readings if reading.name not in seen.dropped)
    fitted = preprocessing.fit(table, readings, {**hidden, **seen.dropped}, (), data.steps, parts)
    steps, channels = _steps(fitted)
    made = _windows(window, order, parts, np.isfinite(values))
    _refuse_empty(window, made, parts)
    first = np.concatenate([made[part] for part in PARTS])  # positions in the order: the first step foretold
    back, ahead = np.arange(-window.length, 0), np.arange(window.horizon)
    ends = np.cumsum([len(made[part]) for part in PARTS])
    foretold = values[order.rows[first[:, None] + ahead]]
    if window.foretell == "change":
        foretold = foretold - values[order.rows[first - 1]][:, None]
        training = foretold[: len(made["train"])]
    else:
        training = np.repeat(values[parts["train"]][:, None], window.horizon, axis=1)
    target, mean, scale = _scaled(data, foretold, training)
    layout = Layout(Input("sequence", (window.length, len(channels))), channels)
    done = replace(fitted.preprocessing, layouts=(layout,), window=window)
    return store.Content(
        shapes=Shapes("regression", (layout.input,), window.horizon),
        inputs=(steps[order.rows[first[:, None] + back]],),
        target=target,
        source_rows=order.rows[first],
        parts={
            part: np.arange(end - len(made[part]), end, dtype=np.int64) for part, end in zip(PARTS, ends, strict=True)
        },
        classes=(),
        target_mean=mean,
        target_scale=scale,
        feature_names=(),
        summary=repairs.told(_summary(data, window, table, name, parts, made, order, fitted, described), seen),
        preprocessing=done.to_json(),
        audit=seen.audit,
    )


def divided(data: Data, table: Table) -> tuple[Examined, Order, dict[str, str]]:
    """The time points in their parts, as checks see them, their order, and the columns not learned from → why.

    The target is NaN where it is missing.
    """
    window = data.window
    assert window is not None
    name, values = _target(data, table)
    order = ordered(table, window)
    longest = max(len(rows) for _, rows in order.series())
    if longest < window.length + window.horizon:
        many = "the longest series has" if len(order.names) > 1 else "the series has"
        raise DataError(
            f"data.window: {many} {longest:,} time points, and a window of length {window.length:,} and horizon "
            f"{window.horizon:,} needs {window.length + window.horizon:,}. Make it shorter."
        )
    split: Split = tables.build("split", data.split)
    target = Target(name, "regression", values, ())
    parts = parts_of(data, table, target, _divided(split, table, target))
    hidden = {
        **listed(data.ignore, table, name),
        **dict.fromkeys(split.hidden, "it only serves to divide the rows"),
        **dict.fromkeys(window.by, "it only says which series a row belongs to"),
    }
    if not window.past_target:
        hidden[name] = "its past is not learned from (data.window.past_target)"
    readings, empty = recognise(table, [column for column in table.names if column not in hidden])
    return Examined(table, readings, target, parts, np.arange(table.rows)), order, {**hidden, **empty}


def _target(data: Data, table: Table) -> tuple[str, np.ndarray]:
    """The column to foretell and its values, float64 [rows], NaN where missing."""
    name = target_name(table, data.target)
    column = table.columns.column(name)
    if data.task not in ("auto", "regression") or not is_number(column.type):
        what = f"data.task is {data.task}" if data.task not in ("auto", "regression") else f"it is {column.type}"
        raise DataError(
            f"data.window: a forecast needs a target of numbers, '{name}', and {what}. "
            "Choose another target, or take data.window away."
        )
    values = numbers(column)
    beyond = int((np.abs(values) > LARGEST).sum())
    if beyond:
        raise DataError(f"data.target: '{name}' is infinite, or beyond {LARGEST:g}, in {beyond} rows. Repair them.")
    return name, values


def _divided(split: Split, table: Table, target: Target) -> dict[str, np.ndarray]:
    marked = set(split.marked(table)) if isinstance(split, Given) else set(PARTS)
    if lacking := [part for part in PARTS if part not in marked]:
        raise DataError(
            f"data.split: no row is marked {lacking[0]}, and time points drawn from the training part would lie "
            f"between those that are learned from. Mark the {lacking[0]} part, or use split: time."
        )
    return split.divide(table, target)


def _steps(fitted: Fitted) -> tuple[np.ndarray, tuple[str, ...]]:
    """float32 [rows, channels]: what the steps made of each time point, and the channels' names."""
    layouts = fitted.preprocessing.layouts
    if len(layouts) != 1 or layouts[0].input.kind != "table":
        kinds = ", ".join(layout.input.kind for layout in layouts if layout.input.kind != "table")
        raise DataError(
            f"data.window: windows hold numbers, and the steps made {kinds}. Use encode with method: one_hot or "
            "ordinal, and list what is no number in data.ignore."
        )
    return fitted.inputs[0], layouts[0].names


def _windows(window: Window, order: Order, parts: Mapping[str, np.ndarray], known: np.ndarray) -> dict[str, np.ndarray]:
    """part → position (int64, in the order of `order.rows`) of the first step that each window foretells.

    The horizon lies inside its part and has a target at every step (as has the step before it, where changes from
    there are foretold). What a training window looks back on lies in the
    training part too; windows of the other parts may look back to any time before.
    """
    part_of = np.full(len(order.rows), -1)  # of a fold, rows that come later are in no part
    for number, part in enumerate(PARTS):
        part_of[parts[part]] = number
    part_of, known = part_of[order.rows], known[order.rows]

    def before(counted: np.ndarray) -> np.ndarray:  # how many there are before each position
        return np.concatenate([[0], np.cumsum(counted)])

    unknown, outside, changes = before(~known), before(part_of != 0), before(np.diff(part_of) != 0)
    ends = np.append(order.starts[1:], len(order.rows))
    first = np.concatenate(
        [
            np.arange(begin + window.length, end - window.horizon + 1, window.stride)
            for begin, end in zip(order.starts, ends, strict=True)
        ]
    )
    last = first + window.horizon
    counted = first - (window.foretell == "change")
    whole = (unknown[last] == unknown[counted]) & (changes[last - 1] == changes[first])
    whole &= (part_of[first] != 0) | (outside[first] == outside[first - window.length])
    return {part: first[whole & (part_of[first] == number)] for number, part in enumerate(PARTS)}


def _refuse_empty(window: Window, made: Mapping[str, np.ndarray], parts: Mapping[str, np.ndarray]) -> None:
    for part in PARTS:
        if not len(made[part]):
            inside = window.horizon if part != "train" else window.length + window.horizon
            before = "" if part == "train" else f", and {window.length:,} before them"
            raise DataError(
                f"data.window: no window fits into the {part} part: it has {len(parts[part]):,} time points in all, "
                f"and a window needs {inside:,} that follow each other in one series, with a target{before}. "
                "Use a shorter horizon or length, larger shares (data.split), or more rows."
            )


def _scaled(data: Data, foretold: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The target as training sees it, float32 [windows, horizon], with the mean and deviation of the training values
    (float64 [rows, horizon], NaN where missing) that it is scaled by: float64 [horizon]."""
    horizon = foretold.shape[1]
    mean, scale = np.nanmean(training, axis=0), np.nanstd(training, axis=0)
    if not scale.any():
        raise DataError(
            f"data.split: what is to be foretold is {mean[0]:g} everywhere in the training part: there is nothing to "
            "learn. Divide the rows otherwise."
        )
    scale = np.where(scale > 0, scale, 1.0)
    if not data.scale_target:
        mean, scale = np.zeros(horizon), np.ones(horizon)
    with np.errstate(over="ignore"):
        scaled = ((foretold - mean) / scale).astype(np.float32)
    if not np.isfinite(scaled).all():
        raise DataError("data.target: numbers are too large for float32 (3.4e38). Give them in a larger unit.")
    return scaled, mean, scale


def _summary(
    data: Data,
    window: Window,
    table: Table,
    name: str,
    parts: Mapping[str, np.ndarray],
    made: Mapping[str, np.ndarray],
    order: Order,
    fitted: Fitted,
    described: str,
) -> DataSummary:
    done = fitted.preprocessing
    read = {reading.name: reading for reading in done.readings}
    columns = []
    for column in table.names:
        values = table.columns.column(column)
        counts = (values.null_count, len(values.unique()) - bool(values.null_count))
        if column == name:
            past = "its own past is learned from" if column in read else "its own past is not learned from"
            columns.append(Column(data.target, "target", *counts, f"regression; {past}"))
        elif column in done.left_out:
            columns.append(Column(column, "dropped", *counts, done.left_out[column]))
        else:
            constant = [key for key in done.left_out if key.startswith(f"{column}.") and key not in table.names]
            said = [read[column].note, f"constant: {', '.join(constant)}" if constant else ""]
            columns.append(Column(column, read[column].kind, *counts, "; ".join(part for part in said if part)))
    change = ", as changes from the last step that is seen" if window.foretell == "change" else ""
    channels = len(done.layouts[0].names)
    many = f" in {len(order.names):,} series" if window.by else ""
    told = ", ".join(f"{len(made[part]):,} in the {part} part of {len(parts[part]):,} time points" for part in PARTS)
    notes = [
        *table.notes,
        f"Windows{many}: {window.length:,} steps of {channels:,} number{'s' * (channels != 1)} to learn from, "
        f"{window.horizon:,} of '{name}' to foretell{change}, a window every {window.stride:,} "
        f"step{'s' * (window.stride != 1)}: {told}.",
        "What is foretold lies wholly inside its part; the first windows of the validation and test part look back to "
        "time points before it.",
    ]
    if window.stride < window.horizon:
        notes.append(
            "Windows overlap in what they foretell: the intervals of the scores, which take rows for independent, are "
            "too narrow."
        )
    missing = table.columns.column(name).null_count
    if missing:
        notes.append(f"The target is missing at {missing:,} time points; no window foretells one of them.")
    if order.gaps:
        notes.append(
            f"Between {order.gaps:,} neighbouring time points more time passes than usual. A window counts time "
            "points, not time: fill the gaps if that matters."
        )
    short = [label for label, rows in order.series() if len(rows) < window.length + window.horizon]
    if short:
        notes.append(f"Too short for a window: {len(short):,} series, {quoted(short)}.")
    dropped = [column for column in columns if column.kind == "dropped"]
    notes += [f"Column '{column.name}' is not learned from: {column.note}." for column in dropped]
    notes += [f"Column '{column}' {remark}." for column, remark in fitted.remarks.items()]
    return DataSummary(
        source=described,
        rows=table.rows,
        task="regression",
        target=data.target,
        columns=tuple(columns),
        parts={part: len(made[part]) for part in PARTS},
        notes=(*notes, *fitted.notes),
    )


__all__ = ["content"]
