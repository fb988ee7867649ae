"""Plots over time: the winner's epochs, and the search trial by trial. Each says in one sentence what to see."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnopt_ray.report import words
from nnopt_ray.report.blocks import Plot
from nnopt_ray.report.facts import Facts, incumbents, risen, usable
from nnopt_ray.report.figure import axis, best_epoch_mark, clean, label, layout, line, scale
from nnopt_ray.results import Epoch, TrialRow

TOLD = 1000  # trials up to which every point of the search tells its values: 300 bytes each
LINES = 100  # learning curves drawn behind the winner's: more is a grey wall


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
    rise = risen(history)
    if rise is not None:
        return f"{said}; then it rises by {100 * rise:.0f}{words.NBSP}% while the training loss falls on: overfitting."
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
        ("paused", "paused", "square-open", "--second"),
        ("pending", "waits", "square-open", "--muted"),
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
                    "text": [_trial_text(row, short=len(facts.rows) > TOLD) for row in rows],
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


def _trial_text(row: TrialRow, short: bool) -> str:
    name = f"trial {label(row.trial)}"
    chosen = [] if short else [f"{label(path)}: {label(words.chosen(value))}" for path, value in row.params.items()]
    return "<br>".join([name, *chosen])


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
    full = len(facts.rows) * max(row.epochs for row in facts.rows)
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
