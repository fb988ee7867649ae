"""Plots of a search: trial by trial, and the curves of its trials. Each says in one sentence what to see."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nnopt_ray.report import words
from nnopt_ray.report.blocks import Plot
from nnopt_ray.report.facts import Facts, incumbents, usable
from nnopt_ray.report.figure import Figure, axis, clean, label, layout, line, scale
from nnopt_ray.results import Epoch, TrialRow

TOLD = 1000  # trials up to which every point of the search tells its values: 300 bytes each
LINES = 100  # learning curves drawn behind the winner's: more is a grey wall


def _epochs(history: Sequence[Epoch]) -> list[int]:
    return [epoch.epoch for epoch in history]


def _of(history: Sequence[Epoch], metric: str) -> list[float | None]:
    return [epoch.metrics.get(metric) for epoch in history]


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
    beside, known, told = _beside(facts, order)
    traces += beside
    values = [*(row.value for row in facts.rows if usable(row)), *known]
    failed = sum(row.status == "failed" for row in facts.rows)
    shapes = _taken_up(facts)
    figure = {
        "data": traces,
        "layout": layout(
            axis("trial, in the order they were suggested", tickformat="d"),
            axis(label(words.metric_name(metric)), **scale(values)),
            **({"shapes": shapes} if shapes else {}),
        ),
    }
    last = order[steps[-1][0]] if steps else 0
    sentence = (
        f"The best value came with trial {last} of {len(facts.rows)}; "
        f"{'lower' if mode == 'min' else 'higher'} is better."
        + (f" {words.plural(failed, 'failed trial has', 'failed trials have')} no point." if failed else "")
    )
    if shapes:
        told += " Dotted: the search was taken up again (an extension is dashed)."
    return Plot("search", "The search, trial by trial", f"{sentence}{told}", figure, height=340)


def _beside(facts: Facts, order: Mapping[str, int]) -> tuple[list[Figure], list[float], str]:
    """The baseline's value and what the confirmed trials gave with other seeds: traces, values, and what to see."""
    traces: list[Figure] = []
    known: list[float] = []
    told = ""
    simple = facts.baseline.get("validation")
    level = simple.metrics.get(words.base(facts.experiment.metric)) if simple is not None else None
    if level is not None and math.isfinite(level) and facts.experiment.metric.startswith("val_"):
        known.append(level)
        dash = {"color": "--train", "width": 1.5, "dash": "dash"}
        ends: Figure = {"x": [1, max(2, len(facts.rows))], "y": [level, level]}
        traces.append({"type": "scatter", "mode": "lines", "name": "baseline", **ends, "line": dash})
    confirmed = facts.result.confirm.contestants if facts.result is not None and facts.result.confirm else ()
    again = [
        (order[each.trial], value)
        for each in confirmed
        if each.trial in order
        for value in each.values
        if math.isfinite(value)
    ]
    if again:
        known += [value for _, value in again]
        told = " Crosses: the best ones trained again with other seeds."
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "over seeds",
                "x": [at for at, _ in again],
                "y": [value for _, value in again],
                "hovertemplate": "trial %{x}, another seed<br>%{y:.4g}<extra></extra>",
                "marker": {"symbol": "x-thin-open", "color": "--third", "size": 8},
            }
        )
    return traces, known, told


def _taken_up(facts: Facts) -> list[Figure]:
    """A line between the trials before and after a resume or an extension."""
    moments = dict.fromkeys(facts.course.resumed_at, "dot") | dict.fromkeys(facts.course.extended_at, "dash")
    return [
        {
            "type": "line",
            "x0": at + 0.5,
            "x1": at + 0.5,
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "line": {"color": "--muted", "width": 1, "dash": dash},
        }
        for at, dash in moments.items()
    ]


def _trial_text(row: TrialRow, short: bool) -> str:
    name = f"trial {label(row.trial)}"
    chosen = [] if short else [f"{label(path)}: {label(words.chosen(value))}" for path, value in row.params.items()]
    return "<br>".join([name, *chosen])


def all_curves(facts: Facts) -> Plot | None:
    """The objective over the epochs of many trials, the winner on top."""
    metric = facts.experiment.epoch_metric
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
