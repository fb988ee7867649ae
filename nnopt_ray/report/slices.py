"""Slices: each searched value against the objective, a point a trial, with what the forest makes of it on average."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnopt_ray.evaluate import searched
from nnopt_ray.evaluate.importance import Curve, Importance
from nnopt_ray.evaluate.searched import Condition, Scale, Value
from nnopt_ray.machine import derived_seed
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Plot
from nnopt_ray.report.facts import Facts, usable
from nnopt_ray.report.figure import Figure, axis, label, layout, log_scale, scale
from nnopt_ray.results import TrialRow

DRAWN = 400  # points a slice: the best, and an even share of the others
KEPT = 100  # of them the best
OPTIONS = 24  # of a choice, that have room on an axis


def compared(facts: Facts, found: Importance | None) -> dict[str, float]:
    """trial → the objective as it can be compared: after as many epochs as all have where that is known."""
    if found is not None and found.values:
        return dict(found.values)
    return {row.trial: row.value for row in facts.rows if usable(row) and row.value is not None}


@dataclass(frozen=True)
class Slice:
    """One value, or those of several options under one path: what trials chose, and the forest's curve."""

    branch: str
    title: str
    path: str
    taken: Mapping[str, Any]  # trial → number or option
    place: Scale
    curve: Curve | None


def slices(facts: Facts, found: Importance | None) -> list[tuple[str, Plot]]:
    """(branch, plot) for each opened value that at least two trials differ in, in the order of the page."""
    y = compared(facts, found)
    made: list[tuple[str, Plot]] = []
    for each in _all(facts, found):
        differ = len({str(said) for trial, said in each.taken.items() if trial in y}) >= 2
        if differ and len(each.place.labels) <= OPTIONS:
            made.append((each.branch, _slice(facts, each, y, found, len(made))))
    return made


def _all(facts: Facts, found: Importance | None) -> Iterator[Slice]:
    groups = found.groups if found is not None else ()
    curves = {(group.under, share.branch): share.curve for group in groups for share in group.shares}
    by_path: dict[str, list[Value]] = {}
    for value in searched.values(facts.experiment, [row.params for row in facts.rows]):
        by_path.setdefault(value.path, []).append(value)
    for path, values in by_path.items():
        taken = {value.branch: _taken(facts, value) for value in values}
        scales = {value.branch: searched.scale(value, list(taken[value.branch].values())) for value in values}
        together = len(values) > 1 and not any(place.labels for place in scales.values())
        if together:
            everything = {trial: said for found in taken.values() for trial, said in found.items()}
            whole = _around(list(scales.values()))
            yield Slice(path, f"{path}, whichever option", path, everything, whole, curves.get(((), path)))
        for value in values:
            curve = curves.get((value.under, value.branch))
            if not together or curve is not None:
                title, mine = named(value), taken[value.branch]
                yield Slice(value.branch, title, path, mine, scales[value.branch], curve)


def _taken(facts: Facts, value: Value) -> dict[str, Any]:
    return {row.trial: said for row in facts.rows if (said := searched.chosen(value, row.params)) is not None}


def _around(scales: Sequence[Scale]) -> Scale:
    low, high = min(each.low for each in scales), max(each.high for each in scales)
    return Scale(low, high, low > 0 and any(each.log for each in scales))


def named(value: Value) -> str:
    """ "train.optimizer.lr of adam"."""
    inside = ", ".join(option for _, option in value.under)
    return f"{value.path} of {inside}" if inside else value.path


def conditions(under: Condition) -> str:
    """ "train.optimizer adam"."""
    return words.listed([f"{path} {option}" for path, option in under])


def _slice(facts: Facts, of: Slice, y: Mapping[str, float], found: Importance | None, number: int) -> Plot:
    metric, mode = facts.experiment.metric, facts.experiment.mode
    taken, place, curve = of.taken, of.place, of.curve
    order = {row.trial: at for at, row in enumerate(facts.rows, start=1)}
    best = facts.best.trial if facts.best else ""
    scored = [trial for trial in taken if trial in y]
    failed = [row.trial for row in facts.rows if row.status == "failed" and row.trial in taken]
    shown = _thinned(scored, y, mode)
    across = {trial: _across(taken[trial], trial, place) for trial in (*shown, *failed, *([best] * (best in taken)))}
    traces = _curve(curve, place) if curve is not None else []
    traces.append(_points(shown, across, y, order, facts.rows, metric))
    if best in y and best in taken:
        traces.append(_marks([best], [across[best]], [y[best]], "the winner", "star", "--good", 13))
    if failed:
        edge = _edge([y[trial] for trial in scored], mode)
        some = failed[:DRAWN]
        traces.append(_marks(some, [across[t] for t in some], [edge] * len(some), "failed", "x-thin-open", "--bad", 9))
    drawn = [y[trial] for trial in scored] + ([_edge([y[t] for t in scored], mode)] if failed else [])
    after = f", best of {found.epochs} epochs" if found is not None and found.epochs else ""
    figure = {
        "data": traces,
        "layout": layout(
            axis(label(of.path), **_ticks(place)),
            axis(label(f"{words.metric_name(metric)}{after}"), **scale(drawn)),
            hovermode="closest",
            showlegend=False,
        ),
    }
    said = _sentence(facts, of, scored, failed, shown)
    return Plot(f"slice-{number}", of.title, said, figure, height=300)


def _ticks(place: Scale) -> Figure:
    if place.labels:
        return {
            "tickmode": "array",
            "tickvals": list(range(len(place.labels))),
            "ticktext": [label(name, 18) for name in place.labels],
            "range": [-0.6, len(place.labels) - 0.4],
            "showgrid": False,
        }
    return log_scale([place.low, place.high]) if place.log else {"type": "linear"}


def _across(said: Any, trial: str, place: Scale) -> float:
    """Where a point stands: a number at its place, an option in a strip, whose points lie beside each other."""
    if not place.labels:
        return float(said)
    aside = derived_seed(0, "strip", trial) % 1000 / 1000 - 0.5
    return float(place.labels.index(str(said)) + round(0.5 * aside, 3))


def _thinned(trials: Sequence[str], y: Mapping[str, float], mode: str) -> list[str]:
    if len(trials) <= DRAWN:
        return list(trials)
    ranked = sorted(trials, key=lambda trial: y[trial] if mode == "min" else -y[trial])
    rest = ranked[KEPT:]
    return [*ranked[:KEPT], *rest[:: math.ceil(len(rest) / (DRAWN - KEPT))]]


def _edge(known: Sequence[float], mode: str) -> float:
    """Beyond the worst value, on the scale of the plot."""
    low, high = min(known), max(known)
    if scale(known)["type"] == "log":
        ratio: float = (high / low) ** 0.08
        return high * ratio if mode == "min" else low / ratio
    margin = 0.08 * (high - low or abs(high) or 1.0)
    return high + margin if mode == "min" else low - margin


def _points(
    shown: Sequence[str], across: Mapping[str, float], y: Mapping[str, float], order: Mapping[str, int],
    rows: Sequence[TrialRow], metric: str,
) -> Figure:  # fmt: skip
    value = {row.trial: row.value for row in rows}

    def text(trial: str) -> str:
        own = value.get(trial)
        at_end = "" if own is None or own == y[trial] else f"<br>at its end {words.score(metric, own)}"
        return f"trial {label(trial)}{at_end}"

    return {
        "type": "scatter",
        "mode": "markers",
        "name": "trials",
        "x": [across[trial] for trial in shown],
        "y": [y[trial] for trial in shown],
        "text": [text(trial) for trial in shown],
        "hovertemplate": "%{text}<br>%{y:.4g} at %{x:.4g}<extra></extra>",
        "marker": {
            "color": [order[trial] for trial in shown],
            "colorscale": [[0, "--faint"], [1, "--winner"]],
            "cmin": 1,
            "cmax": max(2, len(rows)),
            "size": 7,
        },
    }


def _marks(
    trials: Sequence[str], x: Sequence[float], y: Sequence[float], name: str, symbol: str, colour: str, size: int
) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": list(x),
        "y": list(y),
        "text": [f"trial {label(trial)}, {name}" for trial in trials],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"symbol": symbol, "color": colour, "size": size, "line": {"color": colour, "width": 1.5}},
    }


def _curve(curve: Curve, place: Scale) -> list[Figure]:
    """The forest's mean with the middle of its trees: a line in a band, or a bar with ends for each option."""
    if place.labels:
        x: list[Any] = [place.labels.index(str(option)) for option in curve.x if str(option) in place.labels]
        if len(x) != len(curve.x):
            return []
        ends = {
            "type": "data",
            "symmetric": False,
            "array": [high - y for y, high in zip(curve.y, curve.high, strict=True)],
            "arrayminus": [y - low for y, low in zip(curve.y, curve.low, strict=True)],
            "color": "--second",
            "thickness": 1.5,
        }
        mark = {"symbol": "line-ew-open", "size": 26, "color": "--second", "line": {"color": "--second", "width": 3}}
        return [
            {
                "type": "scatter", "mode": "markers", "name": "on average", "x": x, "y": list(curve.y), "error_y": ends,
                "marker": mark, "hoverinfo": "skip",
            }
        ]  # fmt: skip
    x = list(curve.x)
    hidden = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "x": x, "showlegend": False}
    thin = {"color": "--second", "width": 0.5}
    return [
        {**hidden, "name": "low", "y": list(curve.low), "line": thin, "opacity": 0.5},
        {**hidden, "name": "high", "y": list(curve.high), "line": thin, "opacity": 0.5},
        {**hidden, "name": "on average", "y": list(curve.y), "line": {"color": "--second", "width": 2.5}},
    ]


def _sentence(facts: Facts, of: Slice, scored: Sequence[str], failed: Sequence[str], shown: Sequence[str]) -> str:
    metric, mode = facts.experiment.metric, facts.experiment.mode
    taken, place, curve = of.taken, of.place, of.curve
    said = []
    if curve is not None and len(curve.y) > 1:
        at = min(range(len(curve.y)), key=lambda i: curve.y[i] if mode == "min" else -curve.y[i])
        where = f"at {words.chosen(curve.x[at])}" if not isinstance(curve.x[at], str) else f"with {curve.x[at]}"
        said.append(f"On average over all else best {where}: {words.score(metric, curve.y[at])}.")
        if not place.labels and at in (0, len(curve.y) - 1):
            said.append("That is the end of the range.")
    best = facts.best
    if best is not None and best.trial in taken:
        said.append(f"The winner (star) has {words.chosen(taken[best.trial])}.")
    if failed:
        said.append(f"{words.plural(len(failed), 'failed trial')} (cross) at the edge.")
    if len(shown) < len(scored):
        said.append(f"{len(shown)} of {len(scored):,} trials are drawn, the best {KEPT} among them.")
    return " ".join(said) or f"{words.plural(len(scored), 'trial')} with a value."
