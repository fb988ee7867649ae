"""Plots of rows: what the winner said on the test part, and how the classes are spread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nnopt_ray.report import words
from nnopt_ray.report.blocks import Cell, Head, Plot, Table
from nnopt_ray.report.facts import Points
from nnopt_ray.report.figure import Figure, axis, clean, label, layout
from nnopt_ray.results import Scores

TICKS = 30  # class names along an axis
MATRIX = 100  # classes that the confusion matrix shows at most: more are pixels, and 100 bytes a cell
PAIRS = 15  # of confused classes in a table
CELL_TEXT = 14  # classes up to which every cell of the confusion matrix has its numbers written in


def confusion(scores: Scores) -> Plot:
    """Rows of the test part by true and predicted class; the colour is the share of the true class."""
    places = shown_classes(scores)
    size, whole = len(places), [sum(row) for row in scores.confusion]
    counts = [[scores.confusion[i][j] for j in places] for i in places]
    names = [label(scores.classes[i], 24) for i in places]
    shares = [[round(100 * cell / max(1, whole[i]), 2) for cell in row] for i, row in zip(places, counts, strict=True)]

    def told(i: int, j: int) -> str | None:
        if not counts[i][j] and size > CELL_TEXT:
            return None
        return (
            f"true {names[i]}, predicted {names[j]}<br>{counts[i][j]} of {whole[places[i]]} rows ({shares[i][j]:.1f} %)"
        )

    written = [
        [f"{counts[i][j]}<br>{shares[i][j]:.0f}%" if counts[i][j] else "" for j in range(size)] for i in range(size)
    ]
    heat: Figure = {
        "type": "heatmap",
        "z": shares,
        "x": list(range(size)),
        "y": list(range(size)),
        "customdata": [[told(i, j) for j in range(size)] for i in range(size)],
        "hovertemplate": "%{customdata}<extra></extra>",
        "colorscale": [[0, "--heat0"], [0.02, "--heat1"], [0.5, "--heat2"], [1, "--heat3"]],
        "zmin": 0,
        "zmax": 100,
        "xgap": 1,
        "ygap": 1,
        "colorbar": {
            "title": {"text": "% of the true class", "side": "right", "font": {"size": 13, "color": "--muted"}},
            "thickness": 10,
            "outlinewidth": 0,
        },
    }
    if size <= CELL_TEXT:
        heat |= {"text": written, "texttemplate": "%{text}"}
    every = max(1, math.ceil(size / TICKS))
    marked = list(range(0, size, every))
    ticks: Figure = {"tickmode": "array", "tickvals": marked, "ticktext": [names[i] for i in marked], "showgrid": False}
    figure = {
        "data": [heat],
        "layout": layout(
            axis("predicted class", **ticks, zeroline=False, constrain="domain"),
            axis("true class", **ticks, zeroline=False, autorange="reversed"),
        ),
    }
    height = max(360, min(620, 150 + 40 * size))
    sentence = _confused_sentence(scores)
    if size < len(scores.classes):
        sentence += f" Of {len(scores.classes):,} classes the {size} with the most mistakes; all are in confusion.csv."
    return Plot("confusion", "Confusion matrix", sentence, figure, height)


def shown_classes(scores: Scores) -> list[int]:
    """The classes that a matrix has room for: all, or those with the most mistakes from and to them, in their order."""
    table = scores.confusion
    if len(table) <= MATRIX:
        return list(range(len(table)))
    into = [sum(column) for column in zip(*table, strict=True)]
    wrong = [sum(row) + into[i] - 2 * row[i] for i, row in enumerate(table)]
    return sorted(sorted(range(len(table)), key=lambda i: -wrong[i])[:MATRIX])


def mistaken(scores: Scores) -> Table:
    """The pairs of classes that were confused most; a large matrix has no room to say so."""
    pairs = [(cell, i, j) for i, row in enumerate(scores.confusion) for j, cell in enumerate(row) if i != j and cell]
    rows = tuple(
        (
            Cell(scores.classes[i]),
            Cell(scores.classes[j]),
            Cell(words.count(cell), cell),
            Cell(f"{100 * cell / max(1, sum(scores.confusion[i])):.1f}{words.NBSP}%", cell / sum(scores.confusion[i])),
        )
        for cell, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))[:PAIRS]
    )
    heads = (
        Head("true class"),
        Head("taken for"),
        Head("test rows", number=True),
        Head("of the class", number=True),
    )
    return Table("The most frequent mistakes", "", heads, rows, sortable=True)


def _confused_sentence(scores: Scores) -> str:
    total = sum(sum(row) for row in scores.confusion)
    right = sum(row[i] for i, row in enumerate(scores.confusion))
    wrong = [
        (cell, i, j) for i, row in enumerate(scores.confusion) for j, cell in enumerate(row) if i != j and cell > 0
    ]
    said = f"{right:,} of {total:,} test rows lie on the diagonal"
    if not wrong:
        return f"{said}: none was confused."
    cell, i, j = max(wrong)
    times = "once" if cell == 1 else f"{cell} times"
    return f"{said}. The most frequent mistake, {times}: “{scores.classes[i]}” taken for “{scores.classes[j]}”."


def predicted_true(points: Points, target: str) -> Plot:
    low = min(*points.true, *points.predicted)
    high = max(*points.true, *points.predicted)
    figure = {
        "data": [
            _dots(points.true, points.predicted, "true %{x:.4g}<br>predicted %{y:.4g}"),
            {
                "type": "scatter",
                "mode": "lines",
                "x": [low, high],
                "y": [low, high],
                "line": {"color": "--good", "dash": "dot", "width": 1.5},
                "hoverinfo": "skip",
                "name": "exact",
            },
        ],
        "layout": layout(axis(f"true {label(target, 40)}"), axis(f"predicted {label(target, 40)}"), showlegend=False),
    }
    sentence = "Points on the dotted line are predicted exactly; above it the prediction is too high."
    return Plot("predicted", "Predicted against true", sentence + _sampled(points), figure, height=380)


def residuals(points: Points, target: str) -> Plot:
    differences = [p - t for t, p in zip(points.true, points.predicted, strict=True)]
    high = sum(value > 0 for value in differences)
    zero = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0}
    figure = {
        "data": [_dots(points.predicted, differences, "predicted %{x:.4g}<br>off by %{y:.4g}")],
        "layout": layout(
            axis(f"predicted {label(target, 40)}"),
            axis("predicted − true"),
            shapes=[{**zero, "line": {"color": "--good", "dash": "dot", "width": 1.5}}],
            showlegend=False,
        ),
    }
    sentence = (
        f"{100 * high / max(1, len(differences)):.0f}{words.NBSP}% of the predictions are too high. "
        "A curve or a funnel here means that the model misses a pattern."
    )
    return Plot("residuals", "Residuals", sentence, figure, height=380)


def _sampled(points: Points) -> str:
    shown = len(points.true)
    return "" if shown == points.rows else f" {shown:,} of {points.rows:,} rows are drawn."


def _dots(x: Sequence[float], y: Sequence[float], hover: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": clean(x),
        "y": clean(y),
        "hovertemplate": f"{hover}<extra></extra>",
        "marker": {"size": 6, "color": "--winner", "opacity": 0.55},
        "name": "test rows",
    }


def class_counts(counts: Mapping[str, Mapping[str, int]], balanced: bool = False) -> Plot:
    """Rows of each class in each part. balanced: those of the training part say nothing of the source."""
    classes = list(dict.fromkeys(name for part in counts.values() for name in part))
    places = list(range(len(classes)))
    names = [label(name, 24) for name in classes]
    colours = {"train": "--train", "validation": "--winner", "test": "--second"}
    traces = [
        {
            "type": "bar",
            "x": places,
            "y": [part.get(name, 0) for name in classes],
            "name": words.PARTS.get(title, title),
            "marker": {"color": colours.get(title, "--third")},
            "customdata": names,
            "hovertemplate": "%{customdata}: %{y} rows",
        }
        for title, part in counts.items()
    ]
    every = max(1, math.ceil(len(classes) / TICKS))
    ticks: Figure = {"tickmode": "array", "tickvals": places[::every], "ticktext": names[::every], "showgrid": False}
    said = [part for title, part in counts.items() if not (balanced and title == "train")]
    totals = {name: sum(part.get(name, 0) for part in said) for name in classes}
    least, most = min(totals, key=lambda n: totals[n]), max(totals, key=lambda n: totals[n])
    ratio = totals[most] / max(1, totals[least])
    where = " outside the balanced training part" if balanced else ""
    sentence = (
        f"The classes are balanced{where}: the largest has {ratio:.2g} times the rows of the smallest."
        if ratio < 1.5
        else f"“{most}” has {ratio:.3g} times as many rows as “{least}”{where}: "
        "read balanced accuracy and F1 beside accuracy."
    )
    figure = {
        "data": traces,
        "layout": layout(axis("class", **ticks, zeroline=False), axis("rows"), barmode="stack"),
    }
    return Plot("classes", "Rows of each class", sentence, figure, height=300)
