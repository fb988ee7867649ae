"""How far off numbers are, output by output or step by step of a forecast, and a margin around a prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnopt_ray.report import words
from nnopt_ray.report.blocks import Block, Cell, Head, Plot, Section, Table, Text
from nnopt_ray.report.facts import Facts
from nnopt_ray.report.figure import Figure, axis, label, layout, line
from nnopt_ray.report.summary import baseline_name


def amounts(facts: Facts) -> Section | None:
    found = facts.evaluated.get("amounts")
    if not found:
        return None
    target = label(facts.summary.target, 40) if facts.summary else "target"
    blocks: list[Block] = [Text(_margin(found))]
    if found["steps"] and len(found["outputs"]) > 1:
        blocks.append(_by_step(found, target, baseline_name(facts)))
    blocks.append(_table(found, baseline_name(facts)))
    return Section("How far off", tuple(blocks))


def _margin(found: Mapping[str, Any]) -> str:
    level = f"{100 * found['confidence']:.3g}{words.NBSP}%"
    rows = words.plural(found["validation_rows"], "validation row")
    if "margin" not in found["outputs"][0]:
        return f"There are too few validation rows ({rows}) to say how far off {level} of the values are."
    first, last = found["outputs"][0], found["outputs"][-1]
    said = f"By the errors on {rows}, {level} of the values lie within {words.number(first['margin'])} of what is said"
    if last is not first and found["steps"]:
        said += f" at the first step, and within {words.number(last['margin'])} at the last"
    elif last is not first:
        said += " of the first output"
    held = [one["held"] for one in found["outputs"]]
    least, most = (f"{100 * value:.3g}{words.NBSP}%" for value in (min(held), max(held)))
    came = least if least == most else f"{least} to {most}"
    return f"{said}. On the test part {came} did."


def _by_step(found: Mapping[str, Any], target: str, simple: str) -> Plot:
    steps = list(range(1, len(found["outputs"]) + 1))
    mae = [one["mae"] for one in found["outputs"]]
    traces: list[Figure] = [line(steps, [one["winner"] for one in mae], "winner", "--winner")]
    if all(one["interval"] for one in mae):
        low, high = ([one["interval"][end] for one in mae] for end in (0, 1))
        hidden = {"mode": "lines", "showlegend": False, "hoverinfo": "skip"}
        traces = [
            {**line(steps, high, "high", "--winner"), **hidden, "line": {"width": 0}},
            {**line(steps, low, "low", "--winner"), **hidden, "line": {"width": 0}, "fill": "tonexty", "opacity": 0.3},
            *traces,
        ]
    if all(one["baseline"] is not None for one in mae):
        traces.append(line(steps, [one["baseline"] for one in mae], f"baseline ({label(simple)})", "--second"))
    figure = {"data": traces, "layout": layout(axis("step of the horizon"), axis(f"mean absolute error of {target}"))}
    growth = mae[-1]["winner"] / mae[0]["winner"] if mae[0]["winner"] else 0.0
    sentence = f"The last step is off by {growth:.3g} times as much as the first; the band is the winner's interval."
    return Plot("steps", "Error at each step", sentence, figure, height=320)


def _table(found: Mapping[str, Any], simple: str) -> Table:
    rows = []
    for number, one in enumerate(found["outputs"], start=1):
        cells = [Cell(str(number), number)]
        for name in ("mae", "rmse"):
            said = words.number(one[name]["winner"])
            ends = one[name]["interval"]
            cells.append(Cell(f"{said}\n{words.interval(name, *ends)}" if ends else said, one[name]["winner"]))
            other = one[name]["baseline"]
            cells.append(Cell("–" if other is None else words.number(other), other))
        if "margin" in one:
            low, high = (f"{100 * end:.3g}" for end in one["held_interval"])
            cells.append(Cell(f"± {words.number(one['margin'])}", one["margin"]))
            cells.append(Cell(f"{100 * one['held']:.3g}{words.NBSP}%\n{low} to {high}{words.NBSP}%", one["held"]))
        rows.append(tuple(cells))
    level = f"{100 * found['confidence']:.3g}{words.NBSP}%"
    heads = [Head("step" if found["steps"] else "output", number=True)]
    for name in ("mae", "rmse"):
        heads += [Head(words.metric_name(name), number=True), Head(f"baseline ({simple})", number=True)]
    if "margin" in found["outputs"][0]:
        heads += [Head(f"margin, {level}", number=True), Head("held on the test part", number=True)]
    caption = (
        "In the target's units, on the test part. The margin is a quantile of the absolute errors on the validation "
        "part, and holds as often as it says where new rows are like those."
    )
    return Table("Each step" if found["steps"] else "Each output", caption, tuple(heads), tuple(rows), sortable=True)
