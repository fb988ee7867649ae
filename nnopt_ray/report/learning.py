"""The winner's epochs: losses and metrics with all that happened marked, learning rate and gradient, every number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nnopt_ray.evaluate.diagnose_fit import risen
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Block, Cell, Fold, Head, Plot, Row, Section, Table, Text
from nnopt_ray.report.facts import Facts
from nnopt_ray.report.figure import Figure, axis, best_epoch_mark, clean, label, layout, line, scale
from nnopt_ray.results import Epoch

POINTS = 1500  # epochs drawn of a curve: more are closer together than pixels
ROWS = 500  # epochs in the table: 400 bytes each
NOISY = 150  # epochs from which the gradient's norm is a thin line, as dashes of it are a blot

# What happened in an epoch: how its words begin, its name in the legend, its mark.
MARKS = (
    ("learning rate", "learning rate cut", "triangle-down", "--second"),
    ("early stop", "early stop", "x", "--bad"),
    ("resumed", "resumed", "circle-open", "--third"),
    ("checkpoint", "checkpoint kept", "square-open", "--muted"),
    ("", "event", "diamond", "--third"),
)


def learning(facts: Facts) -> Section | None:
    if not facts.history:
        return None
    title = f"Learning curves of {'the winner' if facts.result is not None else 'the best so far'}"
    best = facts.best.best_epoch if facts.best else None
    happened = events(facts)
    blocks: list[Block] = []
    if facts.best is not None and facts.best.reason:
        ended = "Training ended" if facts.best.status != "running" else "Training"
        blocks.append(Text(f"{ended}: {facts.best.reason.rstrip('.')}. Epochs count from 0."))
    table = _table(facts.history, best, happened)
    if len(facts.history) == 1:  # a point is no curve
        return Section(title, (*blocks, Text(_loss_sentence(facts.history, best)), table))
    metric = metric_curves(facts.history, best)
    clip = (facts.best.params if facts.best else {}).get("train.clip_norm", facts.experiment.train.clip_norm)
    rate = rate_curve(facts.history, best, clip)
    blocks.append(loss_curves(facts.history, best, happened))
    blocks.append(Row((rate,) if metric is None else (metric, rate)))
    blocks.append(Fold("Every epoch in numbers", (table,)))
    return Section(title, tuple(blocks))


def events(facts: Facts) -> dict[int, list[str]]:
    """Epoch → what happened in it, or at its end, in words."""
    found: dict[int, list[str]] = {epoch.epoch: list(epoch.events) for epoch in facts.history}
    trial = facts.best.trial if facts.best else ""
    for epoch in facts.resumed:
        found.setdefault(epoch, []).insert(0, "resumed before this epoch")
    for copied in facts.course.takeovers:
        if copied.trial == trial and copied.epochs in found:
            found[copied.epochs].insert(0, f"went on with the weights of trial {copied.donor}")
    for epoch in facts.checkpoints:
        if epoch in found:
            found[epoch].append("checkpoint after this epoch, kept")
    return {epoch: said for epoch, said in found.items() if said}


def _epochs(history: Sequence[Epoch]) -> list[int]:
    return [epoch.epoch for epoch in history]


def _of(history: Sequence[Epoch], metric: str) -> list[float | None]:
    return [epoch.metrics.get(metric) for epoch in history]


def _drawn(history: Sequence[Epoch], best: int | None) -> list[Epoch]:
    """At most about POINTS epochs, evenly spread; the best and the last are among them."""
    every = math.ceil(len(history) / POINTS)
    last = len(history) - 1
    return [epoch for at, epoch in enumerate(history) if at % every == 0 or epoch.epoch == best or at == last]


def _epoch_axis(history: Sequence[Epoch]) -> Figure:
    few: Figure = {"dtick": 1} if len(history) < 12 else {}
    return axis("epoch", tickformat="d", **few)


def loss_curves(history: Sequence[Epoch], best_epoch: int | None, happened: dict[int, list[str]]) -> Plot:
    drawn = _drawn(history, best_epoch)
    x = _epochs(drawn)
    train, validation = _of(drawn, "train_loss"), _of(drawn, "val_loss")
    traces = [
        line(x, train, "training", "--train", dash="dash"),
        line(x, validation, "validation", "--winner"),
        *_marks(history, happened),
    ]
    at = next((epoch for epoch in history if epoch.epoch == best_epoch), None)
    if at is not None:
        traces.append(_points([at], ["the best epoch"], "best epoch", "star", "--good"))
    mark = best_epoch_mark(best_epoch)
    for shape in mark.get("shapes", ()):  # the star is in the legend
        shape["showlegend"] = False
    figure = {
        "data": traces,
        "layout": layout(
            _epoch_axis(history), axis("loss", **scale([*train, *validation])), hovermode="x unified", **mark
        ),
    }
    sentence = _loss_sentence(history, best_epoch) + _left_out(drawn, history)
    return Plot("loss", "Loss", sentence, figure, height=380)


def _left_out(drawn: Sequence[Epoch], history: Sequence[Epoch]) -> str:
    return "" if len(drawn) == len(history) else f" {len(drawn):,} of {len(history):,} epochs are drawn."


def _marks(history: Sequence[Epoch], happened: dict[int, list[str]]) -> list[Figure]:
    """A trace a kind of event, on the validation curve."""
    by_kind: dict[int, list[tuple[Epoch, str]]] = {}
    for epoch in history:
        for said in happened.get(epoch.epoch, ()):
            kind = next(at for at, (begin, *_) in enumerate(MARKS) if said.startswith(begin))
            by_kind.setdefault(kind, []).append((epoch, said))
    found = []
    for kind, pairs in sorted(by_kind.items()):
        _, name, symbol, colour = MARKS[kind]
        found.append(_points([epoch for epoch, _ in pairs], [said for _, said in pairs], name, symbol, colour))
    return found


def _points(epochs: Sequence[Epoch], texts: Sequence[str], name: str, symbol: str, colour: str) -> Figure:
    y = [epoch.metrics.get("val_loss", epoch.metrics.get("train_loss")) for epoch in epochs]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": _epochs(epochs),
        "y": clean(y),
        "text": [label(text, 200) for text in texts],
        "hovertemplate": "%{text}<extra></extra>",
        "name": name,
        "marker": {"symbol": symbol, "size": 11, "color": colour, "line": {"width": 2, "color": colour}},
    }


def _loss_sentence(history: Sequence[Epoch], best_epoch: int | None) -> str:
    points = [(e.epoch, e.metrics.get("train_loss"), e.metrics.get("val_loss")) for e in history]
    known = [(epoch, t, v) for epoch, t, v in points if t is not None and v is not None and math.isfinite(v)]
    if not known:
        return "The loss after each epoch."
    low = min(known, key=lambda point: point[2])
    last = known[-1]
    if len(history) == 1:
        return f"One epoch: {words.number(low[1])} in training, {words.number(low[2])} in validation."
    said = f"Validation loss is lowest, {words.number(low[2])}, at epoch {low[0]} (training: {words.number(low[1])})"
    rise = risen(*([e.metrics.get(name, math.nan) for e in history] for name in ("train_loss", "val_loss")))
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
    drawn = _drawn(history, best_epoch)
    traces = [
        line(
            _epochs(drawn),
            _of(drawn, name),
            label(words.metric_name(name)),
            "--train" if name.startswith("train_") else colours[place % len(colours)],
            dash="dash" if name.startswith("train_") else "solid",
        )
        for place, name in enumerate(shown)
    ]
    y = axis(words.NAMES.get(words.base(shown[0]), label(words.base(shown[0]))) if len(shown) == 1 else "score")
    if words.base(shown[0]) in words.PERCENT:
        y["tickformat"] = ".0%" if _span(drawn, shown) > 0.05 else ".1%"
    first = shown[0]
    at = next((epoch for epoch in history if epoch.epoch == best_epoch), history[-1])
    value = at.metrics.get(first)
    sentence = f"{words.capital(words.metric_name(first))} after each epoch"
    if value is not None:
        sentence += f": {words.score(first, value)} at the best epoch, {at.epoch}"
    figure = {
        "data": traces,
        "layout": layout(
            _epoch_axis(history), y, hovermode="x unified", showlegend=True, **best_epoch_mark(best_epoch)
        ),
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


def rate_curve(history: Sequence[Epoch], best_epoch: int | None, clip_norm: float | None = None) -> Plot:
    """The learning rate, and the gradient's norm with the one it was clipped to."""
    drawn = _drawn(history, best_epoch)
    x = _epochs(drawn)
    rates = [epoch.lr for epoch in drawn]
    norms = [epoch.grad_norm for epoch in drawn]
    traces = [
        line(x, rates, "learning rate", "--winner"),  # named by the colours of the axis titles
        line(x, norms, "gradient norm", "--train", dash="dash", yaxis="y2"),
    ]
    if len(x) > NOISY:
        traces[1] |= {"opacity": 0.6, "line": {"color": "--train", "width": 1}}
    if clip_norm is not None:
        clipped = line(x, [clip_norm] * len(x), "clip_norm", "--second", dash="dot", yaxis="y2")
        traces.append({**clipped, "mode": "lines"})
    second = axis("gradient norm", "--train", overlaying="y", side="right", showgrid=False, **scale(norms))
    if second["type"] == "linear":
        second |= {"rangemode": "tozero", "tickmode": "auto", "nticks": 6}
    figure = {
        "data": traces,
        "layout": layout(
            _epoch_axis(history),
            axis("learning rate", "--winner", **scale(rates), rangemode="tozero"),
            yaxis2=second,
            hovermode="x unified",
            showlegend=clip_norm is not None,
            **best_epoch_mark(best_epoch),
        ),
    }
    return Plot("rate", "Learning rate and gradient", _rate_sentence(history, clip_norm), figure)


def _rate_sentence(history: Sequence[Epoch], clip_norm: float | None) -> str:
    first, last = history[0].lr, history[-1].lr
    cuts = sum(said.startswith("learning rate") for epoch in history for said in epoch.events)
    said = (
        f"The learning rate stayed at {first:.3g}"
        if all(epoch.lr == first for epoch in history)
        else f"The learning rate went from {first:.3g} to {last:.3g}"
    )
    said += f", cut {words.plural(cuts, 'time')}" if cuts else ""
    told = f"{said}. The gradient's norm is the mean over the steps of an epoch, before clipping"
    if clip_norm is None:
        return f"{told}."
    above = sum(epoch.grad_norm > clip_norm for epoch in history)
    return f"{told}; it was above clip_norm, {clip_norm:g}, in {above} of {words.plural(len(history), 'epoch')}."


def _table(history: Sequence[Epoch], best: int | None, happened: dict[int, list[str]]) -> Table:
    every = math.ceil(len(history) / ROWS)
    last = history[-1].epoch
    shown = [e for at, e in enumerate(history) if at % every == 0 or e.epoch in (best, last) or e.events]
    if len(shown) > 2 * ROWS:  # an event in each
        shown = [e for at, e in enumerate(history) if at % every == 0 or e.epoch in (best, last)]
    metrics = list(dict.fromkeys(name for epoch in history for name in epoch.metrics))
    rows = tuple(
        (
            Cell(str(epoch.epoch), epoch.epoch),
            *(Cell(words.score(name, epoch.metrics[name]) if name in epoch.metrics else "–") for name in metrics),
            Cell(f"{epoch.lr:.4g}"),
            Cell(words.number(epoch.grad_norm)),
            Cell(words.duration(epoch.seconds)),
            Cell("; ".join(happened.get(epoch.epoch, ()))),
        )
        for epoch in shown
    )
    heads: tuple[Any, ...] = (
        Head("epoch", number=True),
        *(Head(words.metric_name(name), number=True) for name in metrics),
        Head("learning rate", number=True),
        Head("gradient norm", number=True),
        Head("time", number=True),
        Head("events"),
    )
    left = len(history) - len(shown)
    caption = f"{words.plural(left, 'more epoch is', 'more epochs are')} in history.jsonl of the trial." if left else ""
    return Table("", caption, heads, rows, keys=tuple(f"epoch {e.epoch}" for e in shown), best=f"epoch {best}")


__all__ = ["events", "learning", "loss_curves", "metric_curves", "rate_curve"]
