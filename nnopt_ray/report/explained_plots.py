"""The plots of explanations: what columns are worth, values against attributions, one row from average to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnopt_ray.report import words
from nnopt_ray.report.blocks import Plot
from nnopt_ray.report.figure import Figure, axis, cut, label, layout

BARS = 15  # columns of a bar chart
STEPS = 9  # columns of a waterfall; the others are one bar
STACKS = 50  # places along an axis within which points of a swarm are stacked
FOR, AGAINST = "--second", "--winner"


def heading(example: Mapping[str, Any]) -> str:
    """A row in a line: true 5, predicted 3 (98.0 %), row 412."""
    share = example.get("probability")
    sure = f" ({words.score('accuracy', share)})" if isinstance(share, float) else ""
    said = {key: str(example[key]) for key in ("true", "predicted")}
    if share is None:  # numbers
        said = {key: words.sign(value) for key, value in said.items()}
    true = f"true {said['true']}, " if said["true"] else ""
    return f"{true}predicted {said['predicted']}{sure}, row {example['source_row']}"


def _layout(x: Figure, y: Figure, **more: Any) -> Figure:
    """Without room for a legend above."""
    return layout(x, y, **{"margin": {"l": 56, "r": 16, "t": 8, "b": 48}, **more})


def importance(m: Mapping[str, Any], name: str, number: int) -> Plot:
    """The columns that move predictions most, the largest on top."""
    order = sorted(range(len(m["columns"])), key=lambda at: -abs(m["importance"][at]))[:BARS][::-1]
    deviation = m.get("deviation")
    bar: Figure = {
        "type": "bar",
        "orientation": "h",
        "x": [m["importance"][at] for at in order],
        "y": list(range(len(order))),
        "marker": {"color": "--winner"},
        "customdata": [label(m["columns"][at], 60) for at in order],
        "hovertemplate": "%{customdata}: %{x:.4g}<extra></extra>",
    }
    if deviation:
        bar["error_x"] = {
            "type": "data",
            "array": [deviation[at] for at in order],
            "color": "--muted",
            "thickness": 1.2,
        }
    left = len(m["columns"]) - len(order)
    more = f" {words.plural(left, 'further column is', 'further columns are')} less." if left > 0 else ""
    if deviation:
        of = f"by how much {words.metric_name(m['metric'])} is worse"
        caption = f"{words.capital(of)} when the column's values change places; the line is one deviation.{more}"
        x = f"worse by, {words.metric_name(m['metric'])}"
    else:
        caption = f"By how much a column moves {m['of']}, up or down, the mean over {m['rows']} test rows.{more}"
        x = "mean size of its part"
    ticks: Figure = {
        "tickmode": "array",
        "tickvals": bar["y"],
        "ticktext": [label(m["columns"][at], 24) for at in order],
    }
    figure = {"data": [bar], "layout": _layout(axis(label(x, 60)), axis("", **ticks, showgrid=False))}
    return Plot(f"importance-{number}", f"What columns are worth, by {name}", caption, figure, 110 + 24 * len(order))


def swarm(m: Mapping[str, Any], name: str, number: int) -> Plot:
    """A point a row and column: its place is the attribution, its colour the value."""
    columns = m["swarm"][::-1]
    largest = max((abs(value) for column in columns for value in column["attribution"]), default=0.0) or 1.0
    traces = []
    for ordered in (False, True):
        x, y, heights, told = [], [], [], []
        for place, column in enumerate(columns):
            shown = label(column["column"], 40)
            offsets = _stacked(column["attribution"], largest)
            rows = zip(column["attribution"], offsets, column["height"], column["value"], strict=True)
            for value, offset, height, written in rows:
                if (height is not None) == ordered:
                    x.append(value)
                    y.append(round(place + offset, 3))
                    heights.append(height)
                    told.append(f"{shown} = {label(written, 40)}" if written else shown)
        colour: Any = {"color": "--train", "size": 5, "opacity": 0.7}
        if ordered:
            bar = {"title": {"text": "value", "side": "right"}, "tickvals": [0, 1], "ticktext": ["low", "high"]}
            scale = [[0, "--winner"], [0.5, "--third"], [1, "--second"]]
            colour |= {"color": heights, "colorscale": scale, "cmin": 0, "cmax": 1, "showscale": True}
            colour["colorbar"] = bar | {"thickness": 8, "outlinewidth": 0}
        if x:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": x,
                    "y": y,
                    "marker": colour,
                    "customdata": told,
                    "hovertemplate": "%{customdata}: %{x:+.3g}<extra></extra>",
                    "showlegend": False,
                }
            )
    ticks: Figure = {
        "tickmode": "array",
        "tickvals": list(range(len(columns))),
        "ticktext": [label(column["column"], 24) for column in columns],
    }
    caption = (
        f"A point is a test row; right of 0 the column raised {m['of']}, left of it it lowered it. From blue over "
        "purple to orange the column's value grows; grey is a word, or missing."
    )
    figure = {
        "data": traces,
        "layout": _layout(
            axis(label(f"part in {m['of']}", 60)), axis("", **ticks, zeroline=False), hovermode="closest"
        ),
    }
    return Plot(f"swarm-{number}", f"Value and effect of a column, by {name}", caption, figure, 130 + 34 * len(columns))


def _stacked(values: Sequence[float], largest: float) -> list[float]:
    """How far above or below its line each point stands, so that points of one place stand beside each other."""
    counts: dict[int, int] = {}
    offsets = []
    places = [round(STACKS * value / largest) for value in values]
    most = max((places.count(place) for place in set(places)), default=1)
    step = min(0.09, 0.8 / max(most, 1))
    for place in places:
        seen = counts.get(place, 0)
        counts[place] = seen + 1
        offsets.append((seen + 1) // 2 * step * (1 if seen % 2 else -1))
    return offsets


def waterfall(m: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], place: int, id_: str) -> Plot:
    """One row: from the average answer, column by column, to what is said of the row. The largest part is on top."""
    example, values = examples[place], m["attributions"][place]
    order = sorted(range(len(values)), key=lambda at: -abs(values[at]))
    shown = order[:STEPS] if len(order) > STEPS + 1 else order
    parts = [(_named(m["columns"][at], example), values[at]) for at in shown]
    rest = [values[at] for at in order[len(shown) :]]
    if rest:
        parts.append((f"{len(rest)} others", sum(rest)))
    parts = parts[::-1]  # plotly draws from below
    adds = "base" in m
    begun, starts = (m["base"][place] if adds else 0.0), []
    for _, value in parts:
        starts.append(begun if adds else 0.0)
        begun += value if adds else 0.0
    bar: Figure = {
        "type": "bar",
        "orientation": "h",
        "x": [value for _, value in parts],
        "base": starts,
        "y": list(range(len(parts))),
        "text": [words.sign(f"{value:+.3g}") for _, value in parts],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": [FOR if value > 0 else AGAINST for _, value in parts]},
        "customdata": [label(name, 60) for name, _ in parts],
        "hovertemplate": "%{customdata}: %{text}<extra></extra>",
    }
    ends = [min(s, s + v) for s, (_, v) in zip(starts, parts, strict=True)]
    tops = [max(s, s + v) for s, (_, v) in zip(starts, parts, strict=True)]
    low, high = min(ends, default=0.0), max(tops, default=1.0)
    wide = (high - low) or 1.0
    marks: Figure = {}
    if adds:
        marks = {"shapes": [_mark(m["base"][place], "--muted", "dot"), _mark(m["output"][place], "--ink", "solid")]}
        caption = (
            f"From {words.number(m['base'][place])}, the average over background rows (dotted), to "
            f"{words.number(m['output'][place])} for this row: {m['of']}."
        )
    else:
        caption = f"By how much each value, where it is there, changes {m['of']} near this row."
    ticks: Figure = {"tickmode": "array", "tickvals": bar["y"], "ticktext": [label(name, 36) for name, _ in parts]}
    figure = {
        "data": [bar],
        "layout": _layout(
            # room for the numbers beside the bars, and for the names beside those
            axis(label(m["of"], 60), range=[low - 0.4 * wide, high + 0.3 * wide]),
            axis("", **ticks, showgrid=False),
            showlegend=False,
            **marks,
        ),
    }
    title = f"{words.capital(example['about'])}: {heading(example)}"
    return Plot(f"waterfall-{id_}", title, caption, figure, 120 + 26 * len(parts))


def _named(column: str, example: Mapping[str, Any]) -> str:
    written = (example.get("values") or {}).get(column)
    """As it is; a figure shortens and escapes it."""
    return f"{cut(column, 18)} = {cut(str(written), 14)}" if written is not None else column


def _mark(at: float, colour: str, dash: str) -> Figure:
    return {
        "type": "line",
        "x0": at,
        "x1": at,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {"color": colour, "width": 1.2, "dash": dash},
    }


def steps(m: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], place: int, id_: str) -> Plot:
    """One sequence: its channels as lines, and under them what each step's part was."""
    example, values, series = examples[place], m["steps"][place], m["series"][place]
    largest = max((abs(value) for channel in values for value in channel), default=0.0) or 1.0
    x = list(range(len(values[0])))
    names = [label(name, 20) for name in m["channels"]]
    colours = ("--winner", "--second", "--third", "--train")
    heat: Figure = {
        "type": "heatmap",
        "x": x,
        "y": names,
        "z": values,
        "zmin": -largest,
        "zmax": largest,
        "colorscale": [[0, AGAINST], [0.5, "--surface"], [1, FOR]],
        "hovertemplate": "%{y}, step %{x}: %{z:+.3g}<extra></extra>",
        "yaxis": "y2",
        "showscale": False,
    }
    lines = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": x,
            "y": channel,
            "name": names[at],
            "line": {"color": colours[at % len(colours)], "width": 1.5},
        }
        for at, channel in enumerate(series[: len(colours)])
    ]
    below = min(0.5, 0.12 + 0.06 * len(names))
    figure = {
        "data": [*lines, heat],
        "layout": _layout(
            axis("step", anchor="y2"),
            axis("value", domain=[below + 0.06, 1]),
            yaxis2=axis("", domain=[0, below], showgrid=False, autorange="reversed"),
            showlegend=len(names) > 1,
        ),
    }
    caption = (
        f"Above, what the network read, behind the steps of the data. Below, orange raised {m['of']}, blue lowered it."
    )
    title = f"{words.capital(example['about'])}: {heading(example)}"
    return Plot(f"steps-{id_}", title, caption, figure, 340)


__all__ = ["heading", "importance", "steps", "swarm", "waterfall"]
