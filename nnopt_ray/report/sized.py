"""The score against the number of training rows."""

from __future__ import annotations

import math
from collections.abc import Mapping

from nnopt_ray.evaluate.sized import Sized
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Cell, Head, Plot, Section, Table, Text
from nnopt_ray.report.facts import Facts
from nnopt_ray.report.figure import Figure, axis, label, layout, scale

STEPS = 40  # points that the law is drawn through


def sized(facts: Facts) -> Section | None:
    said = facts.evaluated.get("sizes")
    if not isinstance(said, Mapping):
        return None
    try:
        found = Sized.from_json(said)
    except (KeyError, TypeError):  # of another version
        return None
    return Section("Score against training rows", (Text(found.sentence), _plot(found), _table(found)))


def _plot(found: Sized) -> Plot:
    name = words.metric_name(found.metric)
    points = [(one.rows, value) for one in found.sizes for value in one.values if math.isfinite(value)]
    traces: list[Figure] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "each seed",
            "x": [rows for rows, _ in points],
            "y": [value for _, value in points],
            "marker": {"color": "--winner", "size": 7, "opacity": 0.7},
        }
    ]
    law, most = found.law, found.sizes[-1].rows
    if law is not None:
        sign = 1.0 if found.mode == "min" else -1.0
        first = found.sizes[0].rows
        x = [first * (2 * most / first) ** (step / STEPS) for step in range(STEPS + 1)]
        y = [sign * (law.a * rows**-law.b + law.c) for rows in x]
        dotted = {"color": "--muted", "width": 2, "dash": "dot"}
        traces.append({"type": "scatter", "mode": "lines", "name": "power law", "x": x, "y": y, "line": dotted})
        ends = {
            "type": "data",
            "symmetric": False,
            "array": [law.high - law.doubled],
            "arrayminus": [law.doubled - law.low],
        }
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "twice the rows",
                "x": [2 * most],
                "y": [law.doubled],
                "error_y": {**ends, "color": "--second"},
                "marker": {"color": "--second", "size": 9, "symbol": "diamond-open"},
            }
        )
    ticks = [float(one.rows) for one in found.sizes]
    values = [value for _, value in points]
    x_axis = axis("training rows", type="log", tickvals=ticks, ticktext=[f"{tick:,.0f}" for tick in ticks])
    figure = {"data": traces, "layout": layout(x_axis, axis(label(name), **scale(values)))}
    caption = "A dot is a training with one seed; where the dots still fall or rise at the right, more rows would help."
    return Plot("sizes", f"{words.capital(name)} by training rows", caption, figure, height=320)


def _table(found: Sized) -> Table:
    none = Cell("–", tone="muted")
    rows = tuple(
        (
            Cell(f"{100 * one.share:.3g}{words.NBSP}%", one.share),
            Cell(words.count(one.rows), one.rows),
            Cell(words.score(found.metric, one.mean)),
            none if one.sd is None else Cell(words.difference(found.metric, one.sd)),
            Cell(f"{sum(map(math.isfinite, one.values))} of {len(one.values)}"),
        )
        for one in found.sizes
    )
    heads = (
        Head("share", number=True),
        Head("training rows", number=True),
        Head(words.metric_name(found.metric), number=True),
        Head("deviation", number=True, hint="between seeds"),
        Head("trainings with a value", number=True),
    )
    caption = (
        f"Trial {found.of_trial} on growing shares of its training rows, each holding the one before, prepared anew; "
        "measured on the whole validation part at the best epoch. The test part has no share in it."
    )
    return Table("Each size", caption, heads, rows)
