"""Runs side by side as one HTML file, in the look of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from nnopt_ray import reading, rundir
from nnopt_ray.comparing import Comparison, Side, letters
from nnopt_ray.data.types import Task
from nnopt_ray.errors import UserError
from nnopt_ray.evaluate.intervals import Gain
from nnopt_ray.experiment import Experiment
from nnopt_ray.report import words, write
from nnopt_ray.report.blocks import Block, Cell, Fold, Head, Plot, Section, Table, Text, Tone
from nnopt_ray.report.facts import incumbents, trial_rows
from nnopt_ray.report.figure import Figure, axis, clean, label, layout, scale
from nnopt_ray.results import TrialRow

COLOURS = ("--winner", "--second", "--good", "--third", "--train", "--bad")
DASHES = ("solid", "dash", "dot", "dashdot")
POINTS = 600  # of one curve


def html(found: Comparison) -> str:
    """The page as text."""
    trained = [trial_rows(side.run, side.experiment) for side in found.sides]
    made = {
        "summary": _summary(found),
        "scores": _scores(found),
        "learning": _learning(found, trained),
        "trials": _searches(found, trained),
        "page": _pages(found),
    }
    names = [side.experiment.name for side in found.sides]
    title = words.listed(list(dict.fromkeys(names)))
    return write.page(
        {name: section for name, section in made.items() if section is not None},
        name=f"{title}: {words.plural(len(names), 'run')} side by side",
        title=f"{title} – compared by nnopt",
        status="compared",
        standing="",
        beside=f"written {write.stamp(datetime.now().astimezone())}",
        files="nnopt compare with --json",
    )


def save(found: Comparison, path: Path) -> None:
    """Write the page, whole or not at all. Raises RunFailed when it cannot be written."""
    rundir.write_text(path, html(found))


def _colour(number: int) -> tuple[str, str]:
    """Colour and dash of a run, told apart for some two dozen."""
    return COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]


def _names(found: Comparison) -> list[str]:
    return [f"{letter} {side.experiment.name}" for letter, side in zip(letters(found), found.sides, strict=True)]


def _headline(found: Comparison) -> str:
    """The metric that the page speaks of first: the objective's of the first run, or what people read for it."""
    own = words.base(found.sides[0].experiment.metric)
    if own not in {"loss", "log_loss"} and own in found.scores:
        return own
    readable: tuple[Task, ...] = ("classification", "regression", "language_modelling")
    return next((words.HEADLINES[task] for task in readable if words.HEADLINES[task] in found.scores), own)


# --- sections -------------------------------------------------------------------------------------


def _summary(found: Comparison) -> Section:
    metric = _headline(found)
    blocks: list[Block] = [_verdict(found, number, metric) for number in range(1, len(found.sides))]
    blocks.append(_runs(found, metric))
    plot = _dots(found, metric)
    if plot is not None:
        blocks.append(plot)
    return Section("Which is better", tuple(blocks))


def _verdict(found: Comparison, number: int, metric: str) -> Text:
    """One run beside the first, in a sentence."""
    names = letters(found)
    gain = found.gains[number - 1].get(metric)
    who, other = names[number], names[0]
    if found.why_not[number - 1]:
        return Text(f"{who} and {other} are not compared row by row: {found.why_not[number - 1]}.", "muted")
    if gain is None or gain.value != gain.value:
        return Text(f"{who} and {other}: {words.metric_name(metric)} was not measured in both.", "muted")
    size = words.difference(metric, gain.value)
    between = f"{words.signed(metric, gain.low)} to {words.signed(metric, gain.high)}"
    by = f"on the {found.rows:,} test rows that both predicted, by {words.metric_name(metric)}"
    if gain.low != gain.low:
        side = "better" if gain.value > 0 else "worse"
        return Text(f"{who} is {side} than {other} by {size} {by}; how sure that is was not measured.", "muted")
    if gain.low > 0:
        return Text(f"{who} is better than {other} by {size} ({between}) {by}.", "good")
    if gain.high < 0:
        return Text(f"{who} is worse than {other} by {size} ({between}) {by}.", "bad")
    side = "ahead" if gain.value >= 0 else "behind"
    return Text(
        f"{who} is not clearly different from {other}: {side} by {size} {by}, and anything from {between} fits."
    )


def _runs(found: Comparison, metric: str) -> Table:
    rows = []
    for letter, side in zip(letters(found), found.sides, strict=True):
        result = side.result
        value = result["test"].get(metric)
        objective = result["objective"]["metric"]
        chosen = result["best"]["metrics"].get(objective)
        rows.append(
            (
                Cell(letter),
                Cell(side.experiment.name),
                Cell("–" if value is None else words.score(metric, value), value, "best"),
                Cell("–" if chosen is None else f"{words.score(objective, chosen)} ({objective})", chosen),
                Cell(words.count(result["trials"]["total"]), result["trials"]["total"]),
                Cell(words.count(result["epochs_trained"]), result["epochs_trained"]),
                Cell(words.duration(result["seconds"]), result["seconds"]),
                Cell(side.run.place),
            )
        )
    heads = (
        Head("run"),
        Head("name"),
        Head(f"{words.metric_name(metric)}, test", number=True),
        Head("chosen by, validation", number=True),
        Head("trials", number=True),
        Head("epochs", number=True),
        Head("time", number=True),
        Head("folder"),
    )
    return Table("The runs", f"All others are compared with {letters(found)[0]}.", heads, tuple(rows), sortable=True)


def _dots(found: Comparison, metric: str) -> Plot | None:
    """Each run's score with its own interval."""
    values = [side.result["test"].get(metric) for side in found.sides]
    if any(value is None for value in values):
        return None
    ends = [side.result.get("test_interval", {}).get(metric) or (value, value) for side, value in _with(found, values)]
    traces: list[Figure] = []
    for number, (name, value, (low, high)) in enumerate(zip(_names(found), values, ends, strict=True)):
        colour, _ = _colour(number)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [value],
                "y": [label(name, 30)],
                "name": label(name, 30),
                "marker": {"size": 11, "color": colour},
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [high - value],
                    "arrayminus": [value - low],
                    "color": colour,
                    "thickness": 2,
                },
                "hovertemplate": f"{label(words.score(metric, value))}<extra></extra>",
            }
        )
    level = f"{100 * found.confidence:.3g}{words.NBSP}%"
    sentence = (
        f"Each run by itself, with its {level} interval. Intervals that overlap do not say that two runs are alike: "
        "what makes a row hard for both cancels in their difference, which the table of scores has."
    )
    x = axis(label(words.metric_name(metric)))
    if words.base(metric) in words.PERCENT:
        x["tickformat"] = ".1%"
    figure = {
        "data": traces,
        "layout": layout(x, axis("run", autorange="reversed", type="category"), showlegend=False),
    }
    title = f"{words.capital(words.metric_name(metric))} on the test part"
    return Plot("dots", title, sentence, figure, height=120 + 44 * len(values))


def _with(found: Comparison, values: Sequence[float]) -> list[tuple[Side, float]]:
    return list(zip(found.sides, values, strict=True))


def _scores(found: Comparison) -> Section:
    names = letters(found)
    order = dict.fromkeys([_headline(found), words.base(found.sides[0].experiment.metric), *found.scores])
    rows = []
    for metric in order:
        if metric not in found.scores:
            continue
        cells = [_score(side, metric) for side in found.sides]
        gains = [_difference(metric, each.get(metric)) for each in found.gains]
        rows.append((Cell(words.capital(words.metric_name(metric))), *cells, *gains))
    heads = (
        Head("metric"),
        *(Head(name, number=True) for name in names),
        *(Head(f"{name} beside {names[0]}", number=True, hint="positive: better") for name in names[1:]),
    )
    level = f"{100 * found.confidence:.3g}{words.NBSP}%"
    caption = (
        f"{level} intervals. A difference is positive where the run is better than {names[0]}, with the interval of "
        "the paired bootstrap on the same rows; it knows nothing of how another seed would have trained "
        "(search.confirm does)."
    )
    return Section("Scores on the test part", (Table("", caption, heads, tuple(rows)),))


def _score(side: Side, metric: str) -> Cell:
    value = side.result["test"].get(metric)
    if value is None:
        return Cell("–", tone="muted")
    ends = side.result.get("test_interval", {}).get(metric)
    said = words.score(metric, value)
    return Cell(f"{said}\n{words.interval(metric, *ends)}" if ends and None not in ends else said)


def _difference(metric: str, gain: Gain | None) -> Cell:
    if gain is None or gain.value != gain.value:
        return Cell("–", tone="muted")
    said = words.signed(metric, gain.value)
    if words.base(metric) in words.PERCENT:
        said += f"{words.NBSP}points"
    if gain.low != gain.low:
        return Cell(said)
    tone: Tone = "good" if gain.low > 0 else "bad" if gain.high < 0 else ""
    return Cell(f"{said}\n{words.signed(metric, gain.low)} to {words.signed(metric, gain.high)}", tone=tone)


def _learning(found: Comparison, trained: Sequence[Sequence[TrialRow]]) -> Section | None:
    """The winners' losses and objectives over their epochs."""
    winners = [
        next((row for row in rows if row.trial == side.result["best"]["trial"]), None)
        for side, rows in zip(found.sides, trained, strict=True)
    ]
    names = dict.fromkeys([*(side.experiment.metric for side in found.sides), f"val_{_headline(found)}"])
    blocks = [_curves(found, winners, "val_loss", "train_loss")]
    blocks += [_curves(found, winners, name, "") for name in names if name != "val_loss"]
    shown = tuple(block for block in blocks if block is not None)
    return Section("Learning curves of the winners", shown) if shown else None


def _curves(found: Comparison, winners: Sequence[TrialRow | None], metric: str, beside: str) -> Plot | None:
    traces: list[Figure] = []
    values: list[float | None] = []
    for number, (name, row) in enumerate(zip(_names(found), winners, strict=True)):
        if row is None:
            continue
        colour, dash = _colour(number)
        every = -(-len(row.history) // POINTS)
        for shown, faint in ((metric, False), (beside, True)):
            drawn = [epoch for epoch in row.history[::every] if shown in epoch.metrics]
            if not drawn:
                continue
            y = [epoch.metrics[shown] for epoch in drawn]
            values += y
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers" if len(drawn) == 1 else "lines",
                    "x": [epoch.epoch for epoch in drawn],
                    "y": clean(y),
                    "name": label(name, 30) + (", training" if faint else ""),
                    "line": {"color": colour, "width": 1 if faint else 2, "dash": "dot" if faint else dash},
                    "opacity": 0.7 if faint else 1,
                }
            )
    if not traces:
        return None
    said = words.metric_name(metric)
    figure = {
        "data": traces,
        "layout": layout(axis("epoch", tickformat="d"), axis(label(said), **scale(values)), hovermode="x unified"),
    }
    more = "; the training loss is dotted" if beside else ""
    sentence = f"Of the network that each run kept{more}."
    return Plot(f"curves-{metric}", words.capital(said), sentence, figure, height=360)


def _searches(found: Comparison, trained: Sequence[Sequence[TrialRow]]) -> Section | None:
    """How soon each search found what: the best so far by trials, of those with the same objective as the first."""
    first = found.sides[0].experiment
    traces: list[Figure] = []
    values: list[float | None] = []
    for number, (side, rows) in enumerate(zip(found.sides, trained, strict=True)):
        if len(rows) < 2 or (side.experiment.metric, side.experiment.mode) != (first.metric, first.mode):
            continue
        order = {row.trial: place for place, row in enumerate(rows, start=1)}
        steps = incumbents(rows, first.mode)
        if not steps:
            continue
        x, y = [order[trial] for trial, _ in steps], [value for _, value in steps]
        values += y
        colour, dash = _colour(number)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": label(_names(found)[number], 30),
                "x": [*x, len(rows)],
                "y": [*y, y[-1]],
                "line": {"shape": "hv", "color": colour, "width": 2, "dash": dash},
                "marker": {"color": colour, "size": 5},
            }
        )
    if len(traces) < 2:
        return None
    said = words.metric_name(first.metric)
    figure = {"data": traces, "layout": layout(axis("trials", tickformat="d"), axis(label(said), **scale(values)))}
    sentence = f"The best {said} after so many trials."
    return Section("The searches", (Plot("incumbents", "Best so far", sentence, figure),))


def _pages(found: Comparison) -> Section:
    """The pages of the networks that came out, and where one was searched for, the pages as they were."""
    searched = any(side.experiment.is_search for side in found.sides)
    winners = reading.differences([_closed(side) for side in found.sides]) if searched else found.page
    about = "As on a page, with every default filled in; “-” where a page has no such key."
    if not searched:
        return Section("What differs on the pages", (_page_table(found, "", about, winners),))
    first = _page_table(found, "Between the networks", f"With the values that the searches chose. {about}", winners)
    whole = _page_table(found, "", "With the ranges that were searched.", found.page)
    return Section("What differs on the pages", (first, Fold("Between the pages", (whole,))))


def _closed(side: Side) -> Experiment:
    try:
        return reading.close(side.experiment, side.result["best"]["values"])
    except UserError:  # a range that was changed since
        return side.experiment


def _page_table(found: Comparison, title: str, caption: str, page: Mapping[str, tuple[str, ...]]) -> Table | Text:
    if not page:
        return Text("They say the same.")
    rows = tuple((Cell(path), *(Cell(value) for value in values)) for path, values in page.items())
    return Table(title, caption, (Head("path"), *(Head(name) for name in letters(found))), rows)


__all__ = ["html", "save"]
