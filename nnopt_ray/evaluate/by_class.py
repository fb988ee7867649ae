"""Each class by itself: the confusion matrix, and what the averages are averages of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nnopt_ray.evaluate import intervals
from nnopt_ray.evaluate.intervals import Resampled
from nnopt_ray.evaluate.metrics import Metric
from nnopt_ray.evaluate.ranking import Area

SHARES = {"precision": 1, "recall": 0}  # shares of rows, by the axis of the confusion matrix whose sum is the whole


def confusion_of(predicted: np.ndarray, target: np.ndarray, classes: int) -> tuple[tuple[int, ...], ...]:
    """[true][predicted] rows."""
    cells = np.bincount(target * classes + predicted, minlength=classes * classes)
    return tuple(tuple(row) for row in cells.reshape(classes, classes).tolist())


def table_of_classes(
    measured: Mapping[str, Metric],
    outputs: np.ndarray,
    predicted: np.ndarray,
    target: np.ndarray,
    classes: tuple[str, ...],
    resampled: Mapping[str, Resampled],
    confidence: float,
) -> tuple[Mapping[str, Any], ...]:
    """A row per class: class, rows, precision, recall, f1, and roc_auc and pr_auc against the rest where they are
    measured; `intervals` of them, and a `note` where there are none.

    What would divide by zero is 0, as in the averages, and NaN where a class has no rows to be ranked.
    """
    table = np.array(confusion_of(predicted, target, len(classes)))
    right, true, said = table.diagonal(), table.sum(axis=1), table.sum(axis=0)
    values = {
        "precision": right / np.maximum(said, 1),
        "recall": right / np.maximum(true, 1),
        "f1": 2 * right / np.maximum(true + said, 1),
    }
    values |= {name: area.by_class(outputs, target) for name, area in measured.items() if isinstance(area, Area)}
    rows: list[Mapping[str, Any]] = []
    for index, name in enumerate(classes):
        row: dict[str, Any] = {"class": name, **{metric: float(value[index]) for metric, value in values.items()}}
        row |= {"rows": int(true[index]), "intervals": {}}
        if true[index] < 2:
            row["note"] = "no test row" if not true[index] else "one test row: it shows no interval"
        elif resampled:
            wholes = {"precision": int(said[index]), "recall": int(true[index])}
            row["intervals"] = _intervals(row, index, wholes, resampled, confidence)
        rows.append(row)
    return tuple(rows)


def _intervals(
    row: Mapping[str, Any],
    index: int,
    wholes: Mapping[str, int],
    resampled: Mapping[str, Resampled],
    confidence: float,
) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}
    for name, drawn in resampled.items():
        if drawn.by_class is None or name not in row or math.isnan(row[name]):
            continue
        ends = intervals.interval(drawn.by_class[index], confidence)
        if ends is None or not len(drawn.by_class[index]):
            continue
        if name in wholes and wholes[name] and row[name] in (0, 1):
            ends = all_or_none(wholes[name], row[name] == 1, confidence)
        found[name] = ends
    return found


def all_or_none(rows: int, every: bool, confidence: float) -> tuple[float, float]:
    """The interval of a share that is 1, or 0, of so many rows, in which drawing them again shows no spread: the exact
    binomial one (Clopper & Pearson 1934)."""
    bound = 1 - ((1 - confidence) / 2) ** (1 / rows)
    return (1 - bound, 1.0) if every else (0.0, bound)
