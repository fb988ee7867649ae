"""Parallel coordinates of the trials: one axis per searched value, one line per trial.

Drawn by the page's own script as SVG: plotly's parcoords needs WebGL, which browsers on remote
desktops and virtual machines do not offer, does not print, and cannot be tied to the table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nnopt_ray.experiment import Range
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Axis, Line, Parallel
from nnopt_ray.report.facts import Facts, usable
from nnopt_ray.report.figure import spread
from nnopt_ray.results import TrialRow

LINES = 500  # more lines hide each other


def parallel(facts: Facts) -> Parallel | None:
    """None where fewer than two trials gave a value or nothing was opened."""
    metric, mode = facts.experiment.metric, facts.experiment.mode
    scored = sorted((row for row in facts.rows if usable(row)), key=lambda row: row.value or 0.0, reverse=mode == "max")
    paths = list(dict.fromkeys(path for row in facts.rows for path in row.params))
    if len(scored) < 2 or not paths:
        return None
    shown = scored[:LINES]
    scales = [
        _scale(path, [row.params.get(path) for row in shown], [r for at, r in facts.experiment.space if at == path])
        for path in paths
    ]
    values = [row.value for row in shown]
    last = Scale.numbers(words.metric_name(metric), [value for value in values if value is not None], spread(values))

    def places(row: TrialRow) -> tuple[float | None, ...]:
        chosen = (scale.place(row.params.get(path)) for scale, path in zip(scales, paths, strict=True))
        return (*chosen, last.place(row.value))

    lines = tuple(
        Line(
            key=row.trial,
            places=places(row),
            rank=place / max(1, len(shown) - 1),
            text=_text(row, metric),
        )
        for place, row in enumerate(shown)
    )
    cut = f" The best {LINES} of {len(scored)} trials are drawn." if len(scored) > LINES else ""
    caption = (
        "Each line is a trial; the stronger its colour, the better. Drag along an axis to keep only the trials "
        f"that pass there (a click on the axis frees it).{cut}"
    )
    return Parallel("parallel", "What the trials chose", caption, tuple(s.axis for s in [*scales, last]), lines)


def _text(row: TrialRow, metric: str) -> str:
    chosen = ", ".join(f"{path} {words.chosen(value)}" for path, value in row.params.items())
    return f"{row.trial}: {words.metric_name(metric)} {words.score(metric, row.value or 0.0)}, {chosen}"


class Scale:
    """Places of values on an axis, from 0 at the bottom to 1 at the top."""

    def __init__(self, axis: Axis, low: float, high: float, log: bool, names: tuple[str, ...] = ()) -> None:
        self.axis = axis
        self._low, self._high, self._log, self._names = low, high, log, names

    @classmethod
    def numbers(cls, title: str, values: Sequence[float], kind: str, ends: tuple[float, float] | None = None) -> Scale:
        """An axis for numbers, over `ends` or the values' own span."""
        low, high = ends or (min(values), max(values))
        scale = cls(Axis(title, ()), low, high, kind == "log" and low > 0)
        ticks = tuple((scale.place(value) or 0.0, words.chosen(value)) for value in _ticks(low, high, scale._log))
        scale.axis = Axis(title, ticks)
        return scale

    @classmethod
    def options(cls, title: str, names: Sequence[str]) -> Scale:
        """An axis for options, evenly spaced."""
        steps = max(1, len(names) - 1)
        ticks = tuple((0.5 if len(names) == 1 else place / steps, name) for place, name in enumerate(names))
        return cls(Axis(title, ticks), 0, 1, False, tuple(names))

    def place(self, value: Any) -> float | None:
        if value is None:
            return None
        if self._names:
            name = words.chosen(value)
            return {text: at for at, text in self.axis.ticks}.get(name)
        number = float(value)
        if self._high == self._low:
            return 0.5
        if self._log:
            return (math.log(number) - math.log(self._low)) / (math.log(self._high) - math.log(self._low))
        return (number - self._low) / (self._high - self._low)


def _scale(path: str, values: Sequence[Any], opened: Sequence[Range]) -> Scale:
    """An axis for one path; `opened` holds its ranges (one per sub-page that has the key)."""
    known = [value for value in values if value is not None]
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known)
    choices = [words.chosen(label) for found in opened if found.kind == "choice" for label in found.labels()]
    if not known or not numeric or choices:
        return Scale.options(path, list(dict.fromkeys([*choices, *map(words.chosen, known)])) or ["none"])
    ends = [float(end) for found in opened for end in found.values[:2]]
    low, high = min([*ends, *known]), max([*ends, *known])
    kind = "log" if any(found.kind in ("log", "log_int") for found in opened) else "linear"
    return Scale.numbers(path, known, kind, (low, high))


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """The ends, and round numbers between them."""
    if low == high:
        return [low]
    if log:
        first, last = math.ceil(math.log10(low) + 1e-9), math.floor(math.log10(high) - 1e-9)
        between = [10.0**power for power in range(first, last + 1)]
        inner = [value for value in between if value / low > 1.3 and high / value > 1.3]
        return [low, *inner[:: max(1, math.ceil(len(inner) / 6))], high]
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw)
    start = math.floor(low / step) + 1
    inner = [round(step * i, 12) for i in range(start, start + 6) if low + 0.3 * step < step * i < high - 0.3 * step]
    return [low, *inner, high]
