"""The check `outliers`: rows with values far from those of the training rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from nnopt_ray.data.out_of_fold import one_thread
from nnopt_ray.data.quality import Check, Examined, Finding, Repair, Repaired
from nnopt_ray.data.split import PARTS
from nnopt_ray.data.views import View, numbers
from nnopt_ray.errors import DataError
from nnopt_ray.machine import derived_seed

NORMAL = 0.6745  # third quartile of the standard normal: the MAD of normal values is so many deviations
MOST_OUTSIDE = 0.05  # share of the training rows outside from which on a column is no bell with strays
FEW_VALUES = 10  # a column with no more different values counts something; none of them is far out
APART = 0.6  # a score above which Liu, Ting & Zhou (2008, section 2) call a row a potential anomaly
TREES = 100  # as scikit-learn and the paper have it
LARGEST = 1e30  # deviations; beyond, float32 that the trees work in would overflow


class Outliers(Check):
    """Values far from the rest, in the columns of numbers and dates; of images and sequences by mean and deviation.

    robust_z: |0.6745 (x - median) / MAD| above the threshold (Iglewicz & Hoaglin 1993). Columns of at most 10 different
    values, those of which half the rows have the same value, and those of which more than 5 % of the training rows
    would be outliers, as with long tails, are not looked at; of normally distributed values 0.05 % are found.
    isolation_forest: rows that random cuts set apart early (Liu, Ting & Zhou 2008; scikit-learn), all columns at once;
    those count whose score has a robust z above the threshold and is above 0.6. Of normally distributed rows without
    fault that finds 5 % in one or two columns, below 0.5 % in three or more. Both learn from the training rows alone.

    Keys:
        action: report; drop the rows; fix, of robust_z: clip values of number columns to the threshold.
        method: robust_z by column, or isolation_forest over rows.
        threshold: robust deviations from the median.
        contamination: isolation_forest: share of the training rows to take for outliers, in place of the threshold.
        parts: parts whose rows are dropped or changed; the rows of all are looked at.
    """

    def __init__(
        self,
        *,
        action: Literal["report", "drop", "fix"] = "report",
        method: Literal["robust_z", "isolation_forest"] = "robust_z",
        threshold: Annotated[float, Field(gt=0)] = 3.5,
        contamination: Annotated[float, Field(gt=0, le=0.5)] | None = None,
        parts: Repaired = ("train",),
    ) -> None:
        if action == "fix" and method == "isolation_forest":
            raise DataError(
                "outliers with method: isolation_forest finds rows, not values, and has nothing to clip. "
                "Write action: drop, or method: robust_z."
            )
        if contamination is not None and method == "robust_z":
            raise DataError(
                "outliers takes contamination with method: isolation_forest only; robust_z goes by the threshold."
            )
        self.action = action
        self.method = method
        self.threshold = threshold
        self.contamination = contamination
        self.parts = parts

    @property
    def _cure(self) -> str:
        method = "" if self.method == "robust_z" else f", method: {self.method}"
        return f"data.quality: - {{type: outliers{method}, action: drop}}  (where they are mistakes)"

    def examine(self, data: Examined) -> tuple[Finding, ...]:
        rows = np.concatenate([data.parts[part] for part in PARTS])
        view = numbers(data, rows)
        if not len(view):
            return ()
        learned = view.matrix[: len(data.train)]  # PARTS begins with the training part
        finding = (self._by_column if self.method == "robust_z" else self._by_forest)(data, rows, learned, view)
        return () if finding is None else (finding,)

    # ── robust z ─────────────────────────────────────────────────────────────────────────────────────

    def _by_column(self, data: Examined, rows: np.ndarray, learned: np.ndarray, asked: View) -> Finding | None:
        z = np.zeros(asked.matrix.shape)
        bounds: dict[str, Bound] = {}
        for place, name in enumerate(asked.names):
            bound = bound_of(learned[:, place], self.threshold)
            if bound is not None and np.mean(np.abs(bound.z(learned[:, place])) > self.threshold) <= MOST_OUTSIDE:
                bounds[name] = bound
                z[:, place] = np.nan_to_num(np.abs(bound.z(asked.matrix[:, place])), nan=0.0)
        far = z > self.threshold
        hit = np.flatnonzero(far.any(axis=1))
        if not len(hit):
            return None
        worst = z.max(axis=1)
        hit = hit[np.argsort(-worst[hit], kind="stable")]
        sure = 1 - self.threshold / (2 * worst[hit])
        counts = {name: int(far[:, place].sum()) for place, name in enumerate(asked.names) if far[:, place].any()}
        order = sorted(counts, key=lambda name: -counts[name])
        first = asked.names[int(z[hit[0]].argmax())]
        value = asked.matrix[hit[0], asked.names.index(first)]
        told = ", ".join(f"'{name}' ({counts[name]:,})" for name in order[:6])
        sentence = (
            f"{len(hit):,} of {len(rows):,} rows have values more than {self.threshold:g} robust deviations from the "
            f"median, in {told}{' and other columns' if len(order) > 6 else ''}; the farthest is source row "
            f"{int(data.source_rows[rows[hit[0]]])} with {value:g} in '{first}' ({worst[hit[0]]:.3g} deviations)."
        )
        measured: dict[str, Any] = {
            "method": self.method,
            "looked_at": len(rows),
            "columns": {
                name: {"outside": counts[name], "low": bounds[name].low, "high": bounds[name].high} for name in order
            },
        }
        repairs = self._repairs(data, rows, hit, asked, z, bounds)
        columns = tuple(dict.fromkeys(asked.origins[asked.names.index(name)] for name in order))
        return Finding(
            "outliers",
            sentence,
            "low",
            rows=rows[hit],
            sure=sure,
            columns=columns,
            measured=measured,
            repairs=repairs,
            cure=self._cure,
        )

    def _repairs(
        self,
        data: Examined,
        rows: np.ndarray,
        hit: np.ndarray,
        asked: View,
        z: np.ndarray,
        bounds: dict[str, Bound],
    ) -> tuple[Repair, ...]:
        hit = hit[data.within(self.parts)[rows[hit]]]
        if self.action == "report":
            return ()
        if self.action == "drop":
            return tuple(
                Repair(int(rows[row]), "dropped", f"robust z {z[row].max():.3g} in '{name}'")
                for row, name in ((row, asked.names[int(z[row].argmax())]) for row in hit.tolist())
            )
        numeric = {reading.name for reading in data.readings if reading.kind == "numeric"}
        made = []
        for row in hit.tolist():
            for place in np.flatnonzero(z[row] > self.threshold).tolist():
                name = asked.names[place]
                if name in numeric and _is_number(data, name):
                    before = asked.matrix[row, place]
                    after = bounds[name].clip(before, whole=_is_whole(data, name))
                    why = f"robust z {z[row, place]:.3g}, clipped"
                    made.append(Repair(int(rows[row]), "changed", why, name, _written(before), _written(after)))
        return tuple(made)

    # ── isolation forest ─────────────────────────────────────────────────────────────────────────────

    def _by_forest(self, data: Examined, rows: np.ndarray, learned: np.ndarray, asked: View) -> Finding | None:
        from sklearn.ensemble import IsolationForest

        center = np.array([_median(column) for column in learned.T])
        spread = np.array([_deviation(column) for column in learned.T])
        scaled = [np.clip((m - center) / spread, -LARGEST, LARGEST) for m in (learned, asked.matrix)]
        seed = derived_seed(data.seed, "outliers") % 2**32
        with one_thread():
            forest = IsolationForest(n_estimators=TREES, random_state=seed).fit(scaled[0])
            usual, scores = -forest.score_samples(scaled[0]), -forest.score_samples(scaled[1])
        if self.contamination is not None:
            limit = float(np.quantile(usual, 1 - self.contamination))
        else:
            bound = bound_of(usual, self.threshold, fewest=0)
            if bound is None:
                return None
            limit = max(bound.high, APART)
        hit = np.flatnonzero(scores > limit)
        if not len(hit):
            return None
        hit = hit[np.argsort(-scores[hit], kind="stable")]
        sentence = (
            f"{len(hit):,} of {len(rows):,} rows are set apart by an isolation forest over "
            f"{len(asked):,} column{'s' * (len(asked) > 1)} (anomaly score above {limit:.3f}); the first is source row "
            f"{int(data.source_rows[rows[hit[0]]])} ({scores[hit[0]]:.3f})."
        )
        measured = {"method": self.method, "looked_at": len(rows), "limit": limit, "columns": list(asked.names[:100])}
        repairs = tuple(
            Repair(int(rows[row]), "dropped", f"isolation forest, anomaly score {scores[row]:.3f}")
            for row in (hit[data.within(self.parts)[rows[hit]]].tolist() if self.action == "drop" else ())
        )
        columns = tuple(dict.fromkeys(asked.origins))
        return Finding(
            "outliers",
            sentence,
            "low",
            rows=rows[hit],
            sure=np.clip(scores[hit], 0.0, 1.0),
            columns=columns,
            measured=measured,
            repairs=repairs,
            cure=self._cure,
        )


@dataclass(frozen=True)
class Bound:
    """Median and MAD of a column, and the values that lie `threshold` robust deviations from it."""

    median: float
    mad: float
    low: float
    high: float

    def z(self, values: np.ndarray) -> np.ndarray:
        """The modified z of Iglewicz & Hoaglin (1993)."""
        z: np.ndarray = NORMAL * (values - self.median) / self.mad
        return z

    def clip(self, value: float, whole: bool) -> float:
        """The nearest value inside; of a column of whole numbers a whole one."""
        low, high = (np.ceil(self.low), np.floor(self.high)) if whole else (self.low, self.high)
        return float(np.clip(value, low, high))


def bound_of(values: np.ndarray, threshold: float, fewest: int = FEW_VALUES) -> Bound | None:
    """Of float64 [rows], NaN where missing; None where there is nothing to measure distances by."""
    there = values[np.isfinite(values)]
    if not len(there) or len(np.unique(there)) <= fewest:
        return None
    median = float(np.median(there))
    mad = float(np.median(np.abs(there - median)))
    if mad == 0:
        return None
    reach = threshold * mad / NORMAL
    return Bound(median, mad, median - reach, median + reach)


def _median(values: np.ndarray) -> float:
    there = values[np.isfinite(values)]
    return float(np.median(there)) if len(there) else 0.0


def _deviation(values: np.ndarray) -> float:
    """A width of the column that is not zero."""
    there = values[np.isfinite(values)]
    if not len(there):
        return 1.0
    mad = float(np.median(np.abs(there - np.median(there))))
    return mad or float(np.ptp(there)) or 1.0


def _is_number(data: Examined, name: str) -> bool:
    from nnopt_ray.data.table import is_number

    return is_number(data.table.columns.column(name).type)


def _is_whole(data: Examined, name: str) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(data.table.columns.column(name).type))


def _written(value: float) -> str:
    return str(int(value)) if value == np.floor(value) and abs(value) < 2**53 else repr(float(value))


__all__ = ["Outliers"]
