"""The plots, each a function from facts to plotly's JSON and one sentence that says what to see.

Plain dictionaries, not plotly.graph_objects: building them takes no import, and the tests let
plotly's own validators judge every one. A colour is the name of a CSS variable ("--winner"), which
the page's script looks up, so a plot follows light, dark and print. Every text of the user goes
through `label`: plotly reads some HTML in texts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nnopt_ray.report import words
from nnopt_ray.report.blocks import Plot
from nnopt_ray.report.facts import Facts, Points
from nnopt_ray.results import Epoch, Scores, TrialRow

Figure = dict[str, Any]

LINES = 100  # learning curves drawn behind the winner's: more is a grey wall
TICKS = 30  # class names along an axis
CELL_TEXT = 14  # classes up to which every cell of the confusion matrix has its numbers written in


def label(text: object, longest: int = 60) -> str:
    """A text that plotly shows as it is: shortened, and with no HTML left in it."""
    plain = " ".join(str(text).split())
    if len(plain) > longest:
        plain = plain[: longest - 1] + "…"
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def axis(title: str, colour: str = "--muted", **more: Any) -> Figure:
    return {
        "title": {"text": title, "standoff": 10, "font": {"size": 13, "color": colour}},
        "gridcolor": "--grid",
        "linecolor": "--line",
        "zerolinecolor": "--grid",
        "tickcolor": "--line",
        "automargin": True,
        **more,
    }


def layout(x: Figure, y: Figure, **more: Any) -> Figure:
    return {
        "paper_bgcolor": "--clear",
        "plot_bgcolor": "--clear",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "--ink"},
        "margin": {"l": 56, "r": 16, "t": 34, "b": 48},
        "hoverlabel": {"bgcolor": "--raised", "bordercolor": "--line", "font": {"color": "--ink"}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": "--clear"},
        "modebar": {"bgcolor": "--clear", "color": "--faint", "activecolor": "--ink"},
        "xaxis": x,
        "yaxis": y,
        **more,
    }


def clean(values: Sequence[float | None]) -> list[float | None]:
    """JSON has no NaN; plotly leaves a gap at null."""
    return [None if value is None or not math.isfinite(value) else value for value in values]


def finite(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def spread(values: Sequence[float | None]) -> str:
    """ "log" where positive values span more than a factor of 30, else "linear"."""
    known = finite(values)
    return "log" if known and min(known) > 0 and max(known) / min(known) > 30 else "linear"


def scale(values: Sequence[float | None]) -> Figure:
    """The keys of an axis for these values. A log axis gets ticks at 1, 2 and 5 (or at powers of ten where
    that is too many): plotly's own write 0.2 as a lone "2"."""
    if spread(values) == "linear":
        return {"type": "linear"}
    known = finite(values)
    first, last = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    factors = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    every = max(1, math.ceil(len(ticks) / 10)) if factors == (1,) else 1
    shown = ticks[::every]
    return {"type": "log", "tickmode": "array", "tickvals": shown, "ticktext": [f"{tick:.4g}" for tick in shown]}


def line(x: list[int], y: Sequence[float | None], name: str, colour: str, **more: Any) -> Figure:
    dash = more.pop("dash", "solid")
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(x) < 40 else "lines",
        "x": x,
        "y": clean(y),
        "name": name,
        "line": {"color": colour, "width": 2, "dash": dash},
        "marker": {"color": colour, "size": 5},
        **more,
    }


def best_epoch_mark(best_epoch: int | None) -> Figure:
    """The keys of a layout for a dotted line at the best epoch."""
    if best_epoch is None:
        return {}
    dotted = {"color": "--good", "width": 1.5, "dash": "dot"}
    ends = {"x0": best_epoch, "x1": best_epoch, "yref": "paper", "y0": 0, "y1": 1}
    return {"shapes": [{"type": "line", **ends, "line": dotted, "name": "best epoch", "showlegend": True}]}


def _epochs(history: Sequence[Epoch]) -> list[int]:
    return [epoch.epoch for epoch in history]


def _of(history: Sequence[Epoch], metric: str) -> list[float | None]:
    return [epoch.metrics.get(metric) for epoch in history]


def loss_curves(history: Sequence[Epoch], best_epoch: int | None) -> Plot:
    x = _epochs(history)
    train, validation = _of(history, "train_loss"), _of(history, "val_loss")
    figure = {
        "data": [
            line(x, train, "training", "--train", dash="dash"),
            line(x, validation, "validation", "--winner"),
        ],
        "layout": layout(
            axis("epoch"),
            axis("loss", **scale([*train, *validation])),
            hovermode="x unified",
            **best_epoch_mark(best_epoch),
        ),
    }
    return Plot("loss", "Loss", _loss_sentence(history, best_epoch), figure)


def _loss_sentence(history: Sequence[Epoch], best_epoch: int | None) -> str:
    points = [(e.epoch, e.metrics.get("train_loss"), e.metrics.get("val_loss")) for e in history]
    known = [(epoch, t, v) for epoch, t, v in points if t is not None and v is not None and math.isfinite(v)]
    if not known:
        return "The loss after each epoch."
    low = min(known, key=lambda point: point[2])
    last = known[-1]
    said = f"Validation loss is lowest, {words.number(low[2])}, at epoch {low[0]} (training: {words.number(low[1])})"
    if last[0] > low[0] and last[2] > low[2] * 1.05 and last[1] < low[1]:
        risen = words.number(last[2])
        return f"{said}; after it the training loss falls on while validation rises to {risen}: overfitting."
    if low[0] == last[0] and len(known) > 2:
        return f"{said}, the last one: it was still falling."
    if best_epoch is not None and best_epoch != low[0]:
        return f"{said}; the kept weights are those of epoch {best_epoch}, the best by the objective."
    return f"{said}."


def metric_curves(history: Sequence[Epoch], best_epoch: int | None) -> Plot | None:
    """The validation metrics beside the loss; those of one unit share the plot of the first."""
    names = [n for n in history[0].metrics if not n.endswith("_loss") and n.startswith(("val_", "train_"))]
    if not names:
        return None
    shown = _same_unit(names)
    colours = ["--winner", "--second", "--third", "--train"]
    x = _epochs(history)
    traces = [
        line(
            x,
            _of(history, name),
            label(words.metric_name(name)),
            "--train" if name.startswith("train_") else colours[place % len(colours)],
            dash="dash" if name.startswith("train_") else "solid",
        )
        for place, name in enumerate(shown)
    ]
    per_cent = words.base(shown[0]) in words.PERCENT
    y = axis(words.NAMES.get(words.base(shown[0]), label(words.base(shown[0]))) if len(shown) == 1 else "score")
    if per_cent:
        y["tickformat"] = ".0%" if _span(history, shown) > 0.05 else ".1%"
    first = shown[0]
    at = next((epoch for epoch in history if epoch.epoch == best_epoch), history[-1])
    value = at.metrics.get(first)
    sentence = f"{words.capital(words.metric_name(first))} after each epoch"
    if value is not None:
        sentence += f": {words.score(first, value)} at the best epoch, {at.epoch}"
    figure = {
        "data": traces,
        "layout": layout(axis("epoch"), y, hovermode="x unified", showlegend=True, **best_epoch_mark(best_epoch)),
    }
    return Plot("metric", words.capital(words.metric_name(first)), f"{sentence}.", figure)


def _same_unit(names: Sequence[str]) -> list[str]:
    def unit(name: str) -> str:
        base = words.base(name)
        return "share" if base in words.PERCENT else "target" if base in words.IN_TARGET_UNITS else base

    return [name for name in names if unit(name) == unit(names[0])][:4]


def _span(history: Sequence[Epoch], names: Sequence[str]) -> float:
    values = [v for name in names for v in clean(_of(history, name)) if v is not None]
    return max(values) - min(values) if values else 0.0


def rate_curve(history: Sequence[Epoch], best_epoch: int | None) -> Plot:
    """The learning rate, with what happened at each epoch, and the gradient's norm."""
    x = _epochs(history)
    rates = [epoch.lr for epoch in history]
    norms = [epoch.grad_norm for epoch in history]
    told = [epoch for epoch in history if epoch.events]
    traces = [
        line(x, rates, "learning rate", "--winner"),  # named by the colours of the axis titles
        line(x, norms, "gradient norm", "--train", dash="dash", yaxis="y2"),
    ]
    if told:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [epoch.epoch for epoch in told],
                "y": clean([epoch.lr for epoch in told]),
                "text": [label("; ".join(epoch.events), 200) for epoch in told],
                "hovertemplate": "%{text}<extra></extra>",
                "name": "event",
                "marker": {"symbol": "diamond", "size": 10, "color": "--second"},
            }
        )
    second = axis("gradient norm", "--train", overlaying="y", side="right", showgrid=False, **scale(norms))
    if second["type"] == "linear":
        second |= {"rangemode": "tozero", "tickmode": "auto", "nticks": 6}
    figure = {
        "data": traces,
        "layout": layout(
            axis("epoch"),
            axis("learning rate", "--winner", **scale(rates), rangemode="tozero"),
            yaxis2=second,
            hovermode="x unified",
            showlegend=False,
            **best_epoch_mark(best_epoch),
        ),
    }
    return Plot("rate", "Learning rate and gradient", _rate_sentence(history), figure)


def _rate_sentence(history: Sequence[Epoch]) -> str:
    first, last = history[0].lr, history[-1].lr
    events = sum(len(epoch.events) for epoch in history)
    said = (
        f"The learning rate stayed at {first:.3g}"
        if all(epoch.lr == first for epoch in history)
        else f"The learning rate went from {first:.3g} to {last:.3g}"
    )
    if events:
        said += f"; {words.plural(events, 'event')} marked"
    return f"{said}. The gradient's norm is the mean over the steps of an epoch, before clipping."


def search_history(facts: Facts) -> Plot:
    """Every trial's objective in the order they were made, and the best so far."""
    metric, mode = facts.experiment.metric, facts.experiment.mode
    order = {row.trial: place for place, row in enumerate(facts.rows, start=1)}
    traces = []
    looks = (
        ("finished", "finished", "circle", "--winner"),
        ("stopped", "stopped early", "circle-open", "--muted"),
        ("running", "unfinished", "diamond-open", "--second"),
    )
    for status, name, symbol, colour in looks:
        rows = [row for row in facts.rows if row.status == status and usable(row)]
        if rows:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": [order[row.trial] for row in rows],
                    "y": [row.value for row in rows],
                    "text": [f"trial {label(row.trial)}<br>{_params_text(row)}" for row in rows],
                    "hovertemplate": "%{text}<br>%{y:.4g}<extra></extra>",
                    "marker": {"symbol": symbol, "color": colour, "size": 7},
                }
            )
    steps = incumbents(facts.rows, mode)
    x = [order[trial] for trial, _ in steps]
    y = [value for _, value in steps]
    if steps:
        x, y = [*x, len(facts.rows)], [*y, y[-1]]
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "best so far",
            "x": x,
            "y": y,
            "line": {"shape": "hv", "color": "--good", "width": 2.5},
            "hoverinfo": "skip",
        }
    )
    values = [row.value for row in facts.rows if usable(row)]
    failed = sum(row.status == "failed" for row in facts.rows)
    figure = {
        "data": traces,
        "layout": layout(
            axis("trial, in the order they were suggested", tickformat="d"),
            axis(label(words.metric_name(metric)), **scale(values)),
        ),
    }
    last = order[steps[-1][0]] if steps else 0
    sentence = (
        f"The best value came with trial {last} of {len(facts.rows)}; "
        f"{'lower' if mode == 'min' else 'higher'} is better."
        + (f" {words.plural(failed, 'failed trial has', 'failed trials have')} no point." if failed else "")
    )
    return Plot("search", "The search, trial by trial", sentence, figure, height=340)


def usable(row: TrialRow) -> bool:
    return row.status != "failed" and row.value is not None and math.isfinite(row.value)


def incumbents(rows: Sequence[TrialRow], mode: str) -> list[tuple[str, float]]:
    """(trial, value) of each trial that was better than all before it."""
    found: list[tuple[str, float]] = []
    for row in rows:
        if usable(row) and row.value is not None:
            better = not found or (row.value < found[-1][1] if mode == "min" else row.value > found[-1][1])
            if better:
                found.append((row.trial, row.value))
    return found


def _params_text(row: TrialRow) -> str:
    return "<br>".join(f"{label(path)}: {label(words.chosen(value))}" for path, value in row.params.items())


def all_curves(facts: Facts) -> Plot | None:
    """The objective over the epochs of many trials, the winner on top."""
    metric = facts.experiment.metric
    winner = facts.best.trial if facts.best else ""
    rows = [row for row in facts.rows if len(row.history) > 1 and row.trial != winner]
    if not rows:
        return None
    shown = rows[:: max(1, math.ceil(len(rows) / LINES))]
    x: list[int | None] = []
    y: list[float | None] = []
    for row in shown:
        x += [*_epochs(row.history), None]
        y += [*clean(_of(row.history, metric)), None]
    behind = {
        "type": "scatter",
        "mode": "lines",
        "name": f"{len(shown)} other trials" + (f" of {len(rows)}" if len(shown) < len(rows) else ""),
        "x": x,
        "y": y,
        "line": {"color": "--faint", "width": 1},
        "hoverinfo": "skip",
    }
    traces = [behind]
    if facts.history:
        best = line(_epochs(facts.history), _of(facts.history, metric), "winner", "--winner")
        best["mode"] = "lines"
        traces.append(best)
    epochs = sum(row.epochs for row in facts.rows)
    full = sum(max((row.epochs for row in facts.rows), default=0) for _ in facts.rows)
    stopped = sum(row.status == "stopped" for row in facts.rows)
    sentence = "Each line is a trial; the winner is on top."
    if stopped and full:
        saved = 100 * (1 - epochs / full)
        sentence = (
            f"Each line is a trial; {stopped} of {len(facts.rows)} were stopped early, "
            f"so {saved:.0f}{words.NBSP}% of the epochs were never trained."
        )
    figure = {
        "data": traces,
        "layout": layout(axis("epoch"), axis(label(words.metric_name(metric)), **scale(y)), hovermode="closest"),
    }
    return Plot("curves", "Learning curves of the trials", sentence, figure, height=340)


def confusion(scores: Scores) -> Plot:
    """Rows of the test part by true and predicted class; the colour is the share of the true class."""
    counts = scores.confusion
    size = len(scores.classes)
    names = [label(name, 24) for name in scores.classes]
    shares = [[100 * cell / max(1, sum(row)) for cell in row] for row in counts]
    told = [
        [
            f"true {names[i]}, predicted {names[j]}<br>{counts[i][j]} of {sum(counts[i])} rows ({shares[i][j]:.1f} %)"
            for j in range(size)
        ]
        for i in range(size)
    ]
    written = [
        [f"{counts[i][j]}<br>{shares[i][j]:.0f}%" if counts[i][j] else "" for j in range(size)] for i in range(size)
    ]
    heat: Figure = {
        "type": "heatmap",
        "z": shares,
        "x": list(range(size)),
        "y": list(range(size)),
        "customdata": told,
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
    places = list(range(0, size, every))
    ticks: Figure = {"tickmode": "array", "tickvals": places, "ticktext": [names[i] for i in places], "showgrid": False}
    figure = {
        "data": [heat],
        "layout": layout(
            axis("predicted class", **ticks, zeroline=False, constrain="domain"),
            axis("true class", **ticks, zeroline=False, autorange="reversed"),
        ),
    }
    height = max(360, min(620, 150 + 40 * size))
    return Plot("confusion", "Confusion matrix", _confused_sentence(scores), figure, height)


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


def class_counts(counts: Mapping[str, Mapping[str, int]]) -> Plot:
    """Rows of each class in each part."""
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
    totals = {name: sum(part.get(name, 0) for part in counts.values()) for name in classes}
    least, most = min(totals, key=lambda n: totals[n]), max(totals, key=lambda n: totals[n])
    ratio = totals[most] / max(1, totals[least])
    sentence = (
        f"The classes are balanced: the largest has {ratio:.2g} times the rows of the smallest."
        if ratio < 1.5
        else f"“{most}” has {ratio:.3g} times as many rows as “{least}”: read balanced accuracy and F1 beside accuracy."
    )
    figure = {
        "data": traces,
        "layout": layout(axis("class", **ticks), axis("rows"), barmode="stack"),
    }
    return Plot("classes", "Rows of each class", sentence, figure, height=300)
