"""The validation curve of a search that opens one value: training and validation score against it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from nnopt_ray.evaluate import searched
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Plot
from nnopt_ray.report.facts import Facts, usable
from nnopt_ray.report.figure import Figure, axis, label, layout, log_scale, scale

JOINED = 40  # different values up to which the points are joined by a line
CLEAR = 0.1  # of the span of the curve: what differs by less is called equal


def validation_curve(facts: Facts) -> Plot | None:
    """None unless exactly one value differs between the trials, and at least three of its values have a score."""
    rows = [row for row in facts.rows if usable(row)]
    values = searched.values(facts.experiment, [row.params for row in facts.rows])
    taken = [(value, [searched.chosen(value, row.params) for row in rows]) for value in values]
    differing = [(value, said) for value, said in taken if len({str(each) for each in said}) > 1]
    if len(differing) != 1 or any(each is None for each in differing[0][1]):
        return None
    value, said = differing[0]
    mine, other = _pair(facts)
    points = [(each, row.metrics.get(other), row.metrics.get(mine)) for each, row in zip(said, rows, strict=True)]
    known = [(x, t, v) for x, t, v in points if _finite(t) and _finite(v)]
    place = searched.scale(value, [x for x, _, _ in known])
    if len({str(x) for x, _, _ in known}) < 3:
        return None
    by_value = _means(known, place)
    mode = facts.experiment.mode if mine == facts.experiment.metric else "min"
    marks = [_line(by_value, 1, "training", "--train", "dash"), _line(by_value, 2, "validation", "--winner", "solid")]
    at = min(by_value, key=lambda point: point[2] if mode == "min" else -point[2])
    marks.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "best",
            "x": [at[0]],
            "y": [at[2]],
            "hovertemplate": "%{x}: %{y:.4g}<extra></extra>",
            "marker": {"symbol": "star", "size": 14, "color": "--good"},
        }
    )
    ticks: Figure = {}
    if place.labels:
        ticks = {"tickmode": "array", "tickvals": list(range(len(place.labels)))}
        ticks["ticktext"] = [label(name, 18) for name in place.labels]
    elif place.log:
        ticks = log_scale([place.low, place.high])
    y = [number for _, t, v in by_value for number in (t, v)]
    name = words.NAMES.get(words.base(mine), words.base(mine))
    figure = {
        "data": marks,
        "layout": layout(axis(label(value.path), **ticks), axis(label(name), **scale(y)), showlegend=True),
    }
    ordered = not place.labels or all(_numeric(option) for option in place.labels)
    told = _sentence(by_value, at, mode, mine, _shown(at[0], place), ordered)
    return Plot("validation-curve", f"Validation curve of {value.path}", told, figure, height=340)


def _pair(facts: Facts) -> tuple[str, str]:
    """The objective and its like on the training part; the losses where training measures no more."""
    metric = facts.experiment.metric
    other = f"train_{words.base(metric)}"
    measured = any(other in row.metrics for row in facts.rows)
    return (metric, other) if measured else ("val_loss", "train_loss")


def _finite(number: float | None) -> bool:
    return number is not None and math.isfinite(number)


def _numeric(option: str) -> bool:
    try:
        float(option)
    except ValueError:
        return False
    return True


Point = tuple[float, float, float]  # place on the axis, training, validation


def _means(known: Sequence[tuple[Any, Any, Any]], place: searched.Scale) -> list[Point]:
    """Trials of one value are one point."""
    found: dict[float, list[tuple[float, float]]] = {}
    for x, train, validation in known:
        at = float(place.labels.index(str(x))) if place.labels else float(x)
        found.setdefault(at, []).append((train, validation))
    return [(at, fmean(t for t, _ in found[at]), fmean(v for _, v in found[at])) for at in sorted(found)]


def _line(points: Sequence[Point], which: int, name: str, colour: str, dash: str) -> Mapping[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(points) <= JOINED else "markers",
        "name": name,
        "x": [point[0] for point in points],
        "y": [point[which] for point in points],
        "hovertemplate": f"{name} %{{y:.4g}} at %{{x}}<extra></extra>",
        "line": {"color": colour, "width": 2, "dash": dash},
        "marker": {"color": colour, "size": 6},
    }


def _shown(at: float, place: searched.Scale) -> str:
    return place.labels[int(at)] if place.labels else words.chosen(at)


def _sentence(points: Sequence[Point], best: Point, mode: str, metric: str, shown: str, ordered: bool) -> str:
    said = f"Best on the validation part, {words.score(metric, best[2])}, at {shown}"
    if not ordered:
        return f"{said}. Each point is the best epoch of a trial."
    if best is points[0] or best is points[-1]:
        said += ", an end of what was tried"
    sides = []
    for name, end in (("left", points[0]), ("right", points[-1])):
        if end is not best and (fault := _fault(points, best, end, mode)):
            sides.append(f"{name} of it the network {fault}")
    told = f"; {words.listed(sides)}" if sides else ""
    return (
        f"{said}{told}. The training score is the mean over an epoch's batches, with dropout and changes to the rows."
    )


def _fault(points: Sequence[Point], best: Point, end: Point, mode: str) -> str:
    """What the data say of an end of the curve: nothing where its validation score is not clearly worse."""
    sign = 1.0 if mode == "min" else -1.0
    span = max(point[2] for point in points) - min(point[2] for point in points)
    worse, fits = sign * (end[2] - best[2]), sign * (best[1] - end[1])
    if worse <= CLEAR * span:
        return ""
    if fits < -CLEAR * span:
        return "underfits: training and validation are both worse there"
    gap = sign * (end[2] - end[1]) - sign * (best[2] - best[1])
    return "overfits: training is no worse there, validation is" if gap > CLEAR * span else ""
