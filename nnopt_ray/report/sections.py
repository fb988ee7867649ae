"""The sections of the page, one function each: facts in, blocks out, None where there is nothing to show.

A section is added by a function here and a line in SECTIONS; its place there is its place on the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nnopt_ray import reading
from nnopt_ray.data.types import LANGUAGE
from nnopt_ray.reading.addresses import masked
from nnopt_ray.report import curves, predictions, words
from nnopt_ray.report.amounts import amounts
from nnopt_ray.report.augmented import augmented
from nnopt_ray.report.blocks import Block, Cell, Code, Fold, Head, Row, Section, Table, Text, Tone
from nnopt_ray.report.calibrated import calibrated
from nnopt_ray.report.card import card
from nnopt_ray.report.classes import class_table
from nnopt_ray.report.conduct import conduct
from nnopt_ray.report.confirmed import confirmed
from nnopt_ray.report.decided import decided
from nnopt_ray.report.diagnosed import diagnosed
from nnopt_ray.report.explained import explained
from nnopt_ray.report.facts import Facts, Gain, taken, usable
from nnopt_ray.report.folded import folded
from nnopt_ray.report.found import found, notes_of
from nnopt_ray.report.learned import learned
from nnopt_ray.report.learning import learning
from nnopt_ray.report.optimistic import optimistic
from nnopt_ray.report.parallel import parallel
from nnopt_ray.report.sized import sized
from nnopt_ray.report.summary import baseline_name, headline, span, summary
from nnopt_ray.report.tradeoffs import tradeoffs
from nnopt_ray.results import Scores, TrialRow

ROWS = 400  # trials in the table: the best; the rest is in trials.parquet
FAILED_ROWS = 100
COLUMNS = 300  # of the source in the table


# --- 2 winner against baseline ----------------------------------------------------------------------


def winner(facts: Facts) -> Section | None:
    blocks: list[Block] = []
    test = facts.winner.get("test")
    if test is not None:
        blocks.append(_scores_table(facts, test))
        blocks += [Text(note, "muted") for note in dict.fromkeys((*test.notes, *_notes(facts.baseline)))]
    params = facts.result.best_values if facts.result else (facts.best.params if facts.best else {})
    if params:
        blocks.append(_values_table(facts, params))
    title = "Winner against baseline" if test is not None else "The best so far"
    return Section(title, tuple(blocks)) if blocks else None


def _notes(scores: Mapping[str, Scores]) -> tuple[str, ...]:
    return tuple(f"Baseline: {note}" for note in scores["test"].notes) if "test" in scores else ()


def _scores_table(facts: Facts, test: Scores) -> Table:
    simple, validation = facts.baseline.get("test"), facts.winner.get("validation")
    order = dict.fromkeys([headline(facts), words.base(facts.experiment.metric), *test.metrics])
    rows = []
    for metric in order:
        if metric not in test.metrics:
            continue
        gain = facts.gains.get(metric)
        rows.append(
            (
                Cell(words.capital(words.metric_name(metric))),
                _with_interval(test, metric, "best"),
                _with_interval(simple, metric),
                _gain_cell(gain),
                _plain(validation, metric),
            )
        )
    level = f"{100 * facts.experiment.evaluate.confidence:.3g}{words.NBSP}%"
    return Table(
        title="Scores",
        caption=(
            f"{level} bootstrap intervals over the test rows, which each model predicted once. A gain is positive "
            "where the winner is better. The validation score chose the winner, so it flatters it."
        ),
        heads=(
            Head("metric"),
            Head("winner, test", number=True),
            Head(f"baseline ({baseline_name(facts)}), test", number=True),
            Head("gain", number=True, hint="positive: the winner is better"),
            Head("winner, validation", number=True),
        ),
        rows=tuple(rows),
    )


def _with_interval(scores: Scores | None, metric: str, tone: Tone = "") -> Cell:
    if scores is None or metric not in scores.metrics:
        return Cell("–", tone="muted")
    ends = scores.intervals.get(metric)
    said = words.score(metric, scores.metrics[metric])
    return Cell(f"{said}\n{words.interval(metric, *ends)}" if ends else said, tone=tone)


def _plain(scores: Scores | None, metric: str) -> Cell:
    if scores is None or metric not in scores.metrics:
        return Cell("–", tone="muted")
    return Cell(words.score(metric, scores.metrics[metric]))


def _gain_cell(gain: Gain | None) -> Cell:
    if gain is None:
        return Cell("–", tone="muted")
    said = words.signed(gain.metric, gain.value)
    if words.base(gain.metric) in words.PERCENT:
        said += f"{words.NBSP}points"
    if gain.low is None or gain.high is None:
        return Cell(said)
    tone: Tone = "good" if gain.low > 0 else "bad" if gain.high < 0 else ""
    return Cell(f"{said}\n{words.signed(gain.metric, gain.low)} to {words.signed(gain.metric, gain.high)}", tone=tone)


def _values_table(facts: Facts, params: Mapping[str, Any]) -> Table:
    spans = {path: span(opened) for path, _, opened, _ in taken(facts.experiment, params)}
    rows = tuple(
        (Cell(path), Cell(words.chosen(value), tone="best"), Cell(spans.get(path, "set by hand"), tone="muted"))
        for path, value in params.items()
    )
    trial = facts.best.trial if facts.best else ""
    return Table(
        title="Winning values" if facts.result else "Best values so far",
        caption=f"Trial {trial}. Its own page runs it alone: nnopt run trials/{trial}/page.yaml",
        heads=(Head("path"), Head("value"), Head("searched")),
        rows=rows,
    )


# --- 4 trials ---------------------------------------------------------------------------------------


def trials(facts: Facts) -> Section | None:
    if not facts.experiment.is_search or not facts.rows:
        return None
    blocks: list[Block] = []
    if any(usable(row) for row in facts.rows):
        figures = [curves.search_history(facts), curves.all_curves(facts)]
        blocks.append(Row(tuple(figure for figure in figures if figure is not None)))
    else:
        blocks.append(Text("No trial has a value yet, so there is nothing to draw.", "muted"))
    crossing = parallel(facts)
    if crossing is not None:
        blocks.append(crossing)
    blocks.append(_trials_table(facts))
    return Section("Trials", tuple(blocks))


def _ranked(facts: Facts) -> list[TrialRow]:
    """Best first; trials without a value after them, failed ones last."""
    sign = 1 if facts.experiment.mode == "min" else -1
    good = sorted((row for row in facts.rows if usable(row)), key=lambda row: sign * (row.value or 0.0))
    rest = [row for row in facts.rows if not usable(row)]
    return good[:ROWS] + sorted(rest, key=lambda row: row.status == "failed")[:FAILED_ROWS]


def _trials_table(facts: Facts) -> Table:
    rows = _ranked(facts)
    objective = facts.experiment.metric
    metrics = [name for name in dict.fromkeys(n for row in rows for n in row.metrics) if name != objective]
    metrics = [name for name in metrics if name.startswith("val_")][:3]
    paths = list(dict.fromkeys(path for row in rows for path in row.params))
    heads = (
        Head("trial"),
        Head("status"),
        Head(words.metric_name(objective), number=True),
        *(Head(words.metric_name(name), number=True) for name in metrics),
        *(_path_head(path, _numeric(rows, path)) for path in paths),
        Head("epochs", number=True),
        Head("time", number=True),
        Head("why it ended"),
    )
    tones: dict[str, Tone] = {"failed": "bad", "finished": ""}
    cells = tuple(
        (
            Cell(row.trial),
            Cell(row.status, tone=tones.get(row.status, "muted")),
            _score_cell(objective, row.value if usable(row) else None),
            *(_score_cell(name, row.metrics.get(name)) for name in metrics),
            *(_value_cell(row.params.get(path)) for path in paths),
            Cell(words.count(row.epochs), row.epochs),
            Cell(words.duration(row.seconds), row.seconds),
            Cell(row.reason, tone=tones.get(row.status, "muted")),
        )
        for row in rows
    )
    left = len(facts.rows) - len(rows)
    more = f" {words.plural(left, 'more trial is', 'more trials are')} in trials.parquet." if left else ""
    return Table(
        title="Every trial" if not left else "The best trials",
        caption=f"A click on a column's head sorts by it; pointing at a row shows its line above.{more}",
        heads=heads,
        rows=cells,
        sortable=True,
        keys=tuple(row.trial for row in rows),
        best=facts.best.trial if facts.best else "",
    )


def _path_head(path: str, number: bool) -> Head:
    before, tail = words.path_parts(path)
    return Head(tail, number, above=before)


def _numeric(rows: list[TrialRow], path: str) -> bool:
    values = [row.params[path] for row in rows if path in row.params]
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _score_cell(metric: str, value: float | None) -> Cell:
    return Cell("–", tone="muted") if value is None else Cell(words.score(metric, value), value)


def _value_cell(value: Any) -> Cell:
    if value is None:
        return Cell("–", tone="muted")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return Cell(words.chosen(value), value if number else None)


# --- 5 mistakes -------------------------------------------------------------------------------------


def mistakes(facts: Facts) -> Section | None:
    test = facts.winner.get("test")
    if facts.task == "regression" and facts.points is not None and facts.points.true:
        target = facts.summary.target if facts.summary else "target"
        if facts.points.targets > 1:
            target = f"{target}, 1 of {facts.points.targets}"
        figures = (predictions.predicted_true(facts.points, target), predictions.residuals(facts.points, target))
        return Section("Predictions on the test part", (Row(figures),))
    if test is None or not test.confusion:
        return None
    matrix, classes = predictions.confusion(test), class_table(test)
    if len(test.classes) <= predictions.CELL_TEXT:
        return Section("Predictions on the test part", (Row((matrix, classes)),))
    return Section("Predictions on the test part", (matrix, predictions.mistaken(test), classes))


# --- 6 data -----------------------------------------------------------------------------------------


def data(facts: Facts) -> Section | None:
    seen = facts.summary
    if seen is None:
        return None
    parts = words.listed([f"{number:,} for {words.PARTS.get(part, part)}" for part, number in seen.parts.items()])
    told = seen.task.replace("_", " ") + (f" of {seen.target}" if seen.task not in LANGUAGE else "")
    blocks: list[Block] = [Text(f"{seen.rows:,} rows from {seen.source}; {told}. {words.capital(parts)}.")]
    blocks += [Text(note, "muted") for note in notes_of(seen)]
    if seen.class_counts:
        blocks.append(predictions.class_counts(seen.class_counts, bool(seen.balanced)))
    rows = tuple(
        (
            Cell(column.name),
            Cell(column.kind, tone="muted" if column.kind == "dropped" else ""),
            Cell(words.count(column.missing), column.missing, "bad" if column.missing else "muted"),
            Cell(words.count(column.distinct), column.distinct),
            Cell(column.note),
        )
        for column in seen.columns[:COLUMNS]
    )
    heads = (
        Head("column"),
        Head("taken as"),
        Head("missing", number=True),
        Head("distinct", number=True),
        Head("note"),
    )
    if rows:
        left = len(seen.columns) - len(rows)
        more = f" {words.plural(left, 'more column is', 'more columns are')} in data/summary.json." if left > 0 else ""
        caption = f"How each column of the source was understood.{more}"
        blocks.append(Table("Columns", caption, heads, rows, sortable=True))
    return Section("Data", tuple(blocks))


# --- 7 environment and page -------------------------------------------------------------------------


def environment(facts: Facts) -> Section:
    blocks: list[Block] = []
    decided = facts.result.decided if facts.result else {}
    told = _pairs("Decided at run time", "What the page left open, and why it was chosen so.", decided)
    seen = {name: value for name, value in facts.environment.items() if name != "packages"}
    packages = facts.environment.get("packages")
    if isinstance(packages, Mapping):
        seen["versions"] = [f"{name} {version}" for name, version in packages.items()]
    machine = _pairs("Machine", "", flat(seen, between=", "))
    blocks += [table for table in (told, machine) if table.rows]
    page = Code(masked(reading.dump(facts.experiment)), "resolved.yaml")
    blocks.append(Fold("The page with every default filled in, as it runs", (page,)))
    return Section("Environment and page", tuple(blocks))


def _pairs(title: str, caption: str, found: Mapping[str, Any]) -> Table:
    rows = tuple((Cell(str(name)), Cell(str(value))) for name, value in found.items())
    return Table(title, caption, (Head("what"), Head("value")), rows)


def flat(found: Mapping[str, Any], prefix: str = "", between: str = " ") -> dict[str, str]:
    """Nested mappings as one, with dotted names; lists as words."""
    out: dict[str, str] = {}
    for name, value in found.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{name}.", between)
        elif isinstance(value, (list, tuple)):
            out[f"{prefix}{name}"] = (" " if name == "command" else between).join(str(item) for item in value)
        else:
            out[f"{prefix}{name}"] = words.chosen(value)
    return out


# --- augmentation -----------------------------------------------------------------------------------


def changed_rows(facts: Facts) -> Section | None:
    return augmented(facts.augmented)


SECTIONS: dict[str, Callable[[Facts], Section | None]] = {
    "summary": summary,
    "diagnosed": diagnosed,
    "winner": winner,
    "confirmed": confirmed,
    "optimistic": optimistic,
    "folded": folded,
    "tradeoffs": tradeoffs,
    "calibrated": calibrated,
    "decided": decided,
    "learning": learning,
    "sized": sized,
    "trials": trials,
    "learned": learned,
    "conduct": conduct,
    "mistakes": mistakes,
    "amounts": amounts,
    "explained": explained,
    "data": data,
    "found": found,
    "augmented": changed_rows,
    "card": card,
    "environment": environment,
}

# Sections that belong together stand one after another and are one entry of the page's navigation.
CHAPTERS = {
    "Diagnosis": ("diagnosed",),
    "Scores": ("winner", "confirmed", "optimistic", "folded", "tradeoffs", "calibrated", "decided"),
    "Learning": ("learning", "sized"),
    "Search": ("trials", "learned", "conduct"),
    "Predictions": ("mistakes", "amounts", "explained"),
    "Data": ("data", "found", "augmented"),
    "Page and machine": ("environment",),
}


def chapter(name: str, section: Section) -> str:
    """The chapter of a section; its own title where it is one by itself."""
    return next((title for title, names in CHAPTERS.items() if name in names), section.title)
