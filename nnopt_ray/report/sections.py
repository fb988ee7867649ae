"""The sections of the page, one function each: facts in, blocks out, None where there is nothing to show.

A section is added by a function here and a line in SECTIONS; its place there is its place on the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nnopt_ray import reading
from nnopt_ray.experiment import Range
from nnopt_ray.report import plots, words
from nnopt_ray.report.advice import advice
from nnopt_ray.report.blocks import (
    Block,
    Cell,
    Code,
    Fold,
    Head,
    Hero,
    Row,
    Section,
    Table,
    Text,
    Tile,
    Tone,
    Whisker,
)
from nnopt_ray.report.facts import Facts, Gain, taken
from nnopt_ray.report.parallel import parallel
from nnopt_ray.results import Epoch, Scores, TrialRow

ROWS = 400  # trials in the table: the best; the rest is in trials.parquet
FAILED_ROWS = 100


# --- 1 summary ------------------------------------------------------------------------------------


def summary(facts: Facts) -> Section:
    metric = headline(facts)
    test = facts.winner.get("test")
    level = f"{100 * facts.experiment.evaluate.confidence:.3g}{words.NBSP}%"
    value, between, label = "–", "", "No score on the test part yet"
    if test is not None and metric in test.metrics:
        label = f"{words.capital(words.metric_name(metric))} on the test part"
        value = words.score(metric, test.metrics[metric])
        ends = test.intervals.get(metric)
        rows = words.plural(test.rows, "test row")
        between = f"{level} interval {words.interval(metric, *ends)} · {rows}" if ends else f"{rows}, no interval"
        if words.base(metric) in words.IN_TARGET_UNITS and facts.summary:
            label += f", in units of {facts.summary.target}"
    verdict, tone = verdict_of(facts, metric)
    whiskers, scale = whiskers_of(facts, metric)
    blocks: list[Block] = [
        Hero(
            label=label,
            value=value,
            interval=between,
            verdict=verdict,
            verdict_tone=tone,
            scale=scale,
            whiskers=whiskers,
            tiles=tiles(facts),
            searched=searched(facts),
            advice=advice(facts),
        )
    ]
    blocks += [Text(sentence, "muted") for sentence in facts.missing]
    return Section("Summary", tuple(blocks))


def headline(facts: Facts) -> str:
    """The metric of the first screen: the objective's own, unless it is a loss that nobody reads."""
    own = words.base(facts.experiment.metric)
    test = facts.winner.get("test")
    if own in {"loss", "log_loss"} and facts.task is not None and test is not None:
        readable = words.HEADLINES[facts.task]
        return readable if readable in test.metrics else own
    return own


def verdict_of(facts: Facts, metric: str) -> tuple[str, Tone]:
    """The gain over the baseline in words; nothing is called better that its interval does not show."""
    test, simple = facts.winner.get("test"), facts.baseline.get("test")
    if test is None or simple is None:
        return "It has not been compared with the baseline.", "muted"
    name = baseline_name(facts)
    gain = facts.gains.get(metric)
    if gain is not None:
        return gain_words(gain, name)
    own = words.base(facts.experiment.metric)
    said = (
        f"The baseline ({name}) has {words.score(metric, simple.metrics[metric])}."
        if metric in simple.metrics
        else f"The baseline is {name}."
    )
    if own in facts.gains:
        more, tone = gain_words(facts.gains[own], name)
        return f"{said} By {words.metric_name(own)}, the objective: {more[0].lower()}{more[1:]}", tone
    return said, "muted"


def gain_words(gain: Gain, name: str) -> tuple[str, Tone]:
    """ "Better than the baseline (linear) by 2.1 points (1.0 to 3.3)." and its tone."""
    size = words.difference(gain.metric, gain.value)
    if gain.low is None or gain.high is None:
        side = "better" if gain.value > 0 else "worse"
        return f"{side.capitalize()} than the baseline ({name}) by {size}; how sure that is was not measured.", "muted"
    low, high = (words.signed(gain.metric, end).lstrip("+") for end in (gain.low, gain.high))
    if gain.low > 0:
        return f"Better than the baseline ({name}) by {size} ({low} to {high}).", "good"
    if gain.high < 0:
        ends = [words.signed(gain.metric, -end).lstrip("+") for end in (gain.high, gain.low)]
        return f"Worse than the baseline ({name}) by {size} ({ends[0]} to {ends[1]}).", "bad"
    side = "more" if gain.value >= 0 else "less"
    return (
        f"Not clearly better than the baseline ({name}): {size} {side}, and anything from "
        f"{words.signed(gain.metric, gain.low)} to {words.signed(gain.metric, gain.high)} fits the test rows.",
        "bad",
    )


def baseline_name(facts: Facts) -> str:
    """ "baseline (linear)" → "linear"."""
    told = facts.result.baseline_type if facts.result else facts.experiment.evaluate.baseline.type
    return told.removeprefix("baseline (").removesuffix(")") if told.startswith("baseline (") else told


def whiskers_of(facts: Facts, metric: str) -> tuple[tuple[Whisker, ...], tuple[str, str]]:
    """Winner and baseline on one scale."""
    pairs = [("winner", facts.winner.get("test")), ("baseline", facts.baseline.get("test"))]
    known = [(name, scores) for name, scores in pairs if scores is not None and metric in scores.metrics]
    values = [scores.metrics[metric] for _, scores in known]
    values += [end for _, scores in known for end in scores.intervals.get(metric, ())]
    values = [value for value in values if value - value == 0]
    if len(known) < 2 or not values or min(values) == max(values):
        return (), ("", "")
    margin = 0.08 * (max(values) - min(values))
    low, high = min(values) - margin, max(values) + margin
    if words.base(metric) in words.PERCENT:
        low, high = max(0.0, low), min(1.0, high)

    def at(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    found = []
    for name, scores in known:
        value, ends = scores.metrics[metric], scores.intervals.get(metric)
        if value - value != 0:
            continue
        label = name if name == "winner" else f"baseline ({baseline_name(facts)})"
        found.append(
            Whisker(
                label=label,
                text=words.score(metric, value),
                dot=at(value),
                low=at(ends[0]) if ends else None,
                high=at(ends[1]) if ends else None,
                tone="winner" if name == "winner" else "baseline",
            )
        )
    return tuple(found), (words.score(metric, low), words.score(metric, high))


def tiles(facts: Facts) -> tuple[Tile, ...]:
    result, rows = facts.result, facts.rows
    names = {"finished": "to the end", "stopped": "stopped early", "failed": "failed", "running": "unfinished"}
    counts = {said: sum(row.status == status for row in rows) for status, said in names.items()}
    note = ", ".join(f"{number} {said}" for said, number in counts.items() if number)
    epochs = result.epochs_trained if result else sum(row.epochs for row in rows)
    seconds = result.seconds if result else sum(row.seconds for row in rows)
    found = []
    if facts.experiment.is_search:
        found.append(Tile("trials", words.count(len(rows)), note))
    best = facts.best
    at = f"best at epoch {best.best_epoch}" if best and best.best_epoch is not None else ""
    found.append(Tile("epochs trained", words.count(epochs), "" if facts.experiment.is_search else at))
    found.append(Tile("time", words.duration(seconds), "from the page to the result" if result else "of training"))
    if facts.parameters is not None:
        found.append(Tile("parameters", words.count(facts.parameters), f"model {facts.experiment.model.type}"))
    if facts.summary is not None:
        parts = facts.summary.parts
        found.append(
            Tile(
                "rows",
                words.count(sum(parts.values())),
                ", ".join(f"{number:,} {words.PARTS.get(part, part)}" for part, number in parts.items()),
            )
        )
    return tuple(found)


def searched(facts: Facts) -> str:
    """One sentence: what was opened, by which method."""
    experiment = facts.experiment
    goal = experiment.objective.replace(experiment.metric, words.metric_name(experiment.metric))
    if not experiment.is_search:
        return f"One training of {experiment.model.type}, nothing searched; objective: {goal}."
    spans: dict[str, list[str]] = {}
    for path, opened in experiment.space:
        spans.setdefault(path, []).append(span(opened))
    told = [f"{path} ({' or '.join(dict.fromkeys(found))})" for path, found in spans.items()]
    scheduler = experiment.search.scheduler.type
    stopping = "" if scheduler == "none" else f" with {scheduler} stopping"
    over = f" over {words.listed(told)}" if told else ""
    return f"{words.capital(experiment.search.method.type)} search{stopping}{over}, to {goal}."


def span(opened: Range) -> str:
    """A range in words: "0.0001 to 0.1, log", "16, 32 or 64"."""
    if opened.kind == "choice":
        labels = [words.chosen(label) for label in opened.labels()]
        return f"{', '.join(labels[:-1])} or {labels[-1]}" if len(labels) > 1 else labels[0]
    low, high = words.chosen(opened.values[0]), words.chosen(opened.values[1])
    step = f" in steps of {words.chosen(opened.values[2])}" if opened.kind == "step" else ""
    return f"{low} to {high}{step}{', log' if opened.kind in ('log', 'log_int') else ''}"


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
    return Section("Winner against baseline", tuple(blocks)) if blocks else None


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
            f"{level} bootstrap intervals over the test rows. The test part was predicted once by each "
            "model. The validation score chose the winner, so it flatters it."
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
        title="Winning values",
        caption=f"Trial {trial}. Its own page runs it alone: nnopt run trials/{trial}/page.yaml",
        heads=(Head("path"), Head("value"), Head("searched")),
        rows=rows,
    )


# --- 3 learning curves ------------------------------------------------------------------------------


def learning(facts: Facts) -> Section | None:
    if not facts.history:
        return None
    best = facts.best.best_epoch if facts.best else None
    figures = [
        plots.loss_curves(facts.history, best),
        plots.metric_curves(facts.history, best),
        plots.rate_curve(facts.history, best),
    ]
    blocks: list[Block] = []
    if facts.best is not None and facts.best.reason:
        blocks.append(Text(f"Training ended: {facts.best.reason.rstrip('.')}. Epochs count from 0."))
    blocks.append(Row(tuple(figure for figure in figures if figure is not None)))
    blocks.append(Fold("Every epoch in numbers", (_epochs_table(facts.history, best),)))
    return Section("Learning curves of the winner", tuple(blocks))


def _epochs_table(history: tuple[Epoch, ...], best: int | None) -> Table:
    metrics = list(dict.fromkeys(name for epoch in history for name in epoch.metrics))
    rows = tuple(
        (
            Cell(str(epoch.epoch), epoch.epoch),
            *(Cell(words.score(name, epoch.metrics[name]) if name in epoch.metrics else "–") for name in metrics),
            Cell(f"{epoch.lr:.4g}"),
            Cell(words.number(epoch.grad_norm)),
            Cell(words.duration(epoch.seconds)),
            Cell("; ".join(epoch.events)),
        )
        for epoch in history
    )
    heads = (
        Head("epoch", number=True),
        *(Head(words.metric_name(name), number=True) for name in metrics),
        Head("learning rate", number=True),
        Head("gradient norm", number=True),
        Head("time", number=True),
        Head("events"),
    )
    keys = tuple(f"epoch {epoch.epoch}" for epoch in history)
    return Table("", "", heads, rows, keys=keys, best=f"epoch {best}")


# --- 4 trials ---------------------------------------------------------------------------------------


def trials(facts: Facts) -> Section | None:
    if not facts.experiment.is_search or not facts.rows:
        return None
    blocks: list[Block] = []
    figures = [plots.search_history(facts), plots.all_curves(facts)]
    blocks.append(Row(tuple(figure for figure in figures if figure is not None)))
    crossing = parallel(facts)
    if crossing is not None:
        blocks.append(crossing)
    blocks.append(_trials_table(facts))
    return Section("Trials", tuple(blocks))


def _ranked(facts: Facts) -> list[TrialRow]:
    """Best first; trials without a value after them, failed ones last."""
    sign = 1 if facts.experiment.mode == "min" else -1
    good = sorted((row for row in facts.rows if plots.usable(row)), key=lambda row: sign * (row.value or 0.0))
    rest = [row for row in facts.rows if not plots.usable(row)]
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
            _score_cell(objective, row.value if plots.usable(row) else None),
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
    before, dot, last = path.rpartition(".")
    return Head(last, number, above=before + dot)


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
        figures = (plots.predicted_true(facts.points, target), plots.residuals(facts.points, target))
        return Section("Predictions on the test part", (Row(figures),))
    if test is None or not test.confusion:
        return None
    both: tuple[Block, ...] = (plots.confusion(test), _class_table(test))
    beside = len(test.classes) <= plots.CELL_TEXT
    return Section("Predictions on the test part", (Row(both),) if beside else both)


def _class_table(test: Scores) -> Table:
    rows = tuple(
        (
            Cell(str(found["class"])),
            Cell(words.score("precision", found["precision"]), found["precision"]),
            Cell(words.score("recall", found["recall"]), found["recall"]),
            Cell(words.score("f1", found["f1"]), found["f1"]),
            Cell(words.count(found["rows"]), found["rows"]),
        )
        for found in test.per_class
    )
    heads = (
        Head("class"),
        Head("precision", number=True, hint="of the rows predicted as this class, the share that is it"),
        Head("recall", number=True, hint="of the rows of this class, the share that was found"),
        Head("F1", number=True, hint="harmonic mean of precision and recall"),
        Head("test rows", number=True),
    )
    worst = min(test.per_class, key=lambda found: found["f1"], default=None)
    caption = f"The hardest class is {worst['class']}, with F1 {worst['f1']:.3f}." if worst else ""
    return Table("Each class", caption, heads, rows, sortable=True)


# --- 6 data -----------------------------------------------------------------------------------------


def data(facts: Facts) -> Section | None:
    seen = facts.summary
    if seen is None:
        return None
    parts = words.listed([f"{number:,} for {words.PARTS.get(part, part)}" for part, number in seen.parts.items()])
    blocks: list[Block] = [
        Text(f"{seen.rows:,} rows from {seen.source}; {seen.task} of {seen.target}. {words.capital(parts)}.")
    ]
    blocks += [Text(note, "muted") for note in seen.notes]
    if seen.class_counts:
        blocks.append(plots.class_counts(seen.class_counts))
    rows = tuple(
        (
            Cell(column.name),
            Cell(column.kind, tone="muted" if column.kind == "dropped" else ""),
            Cell(words.count(column.missing), column.missing, "bad" if column.missing else "muted"),
            Cell(words.count(column.distinct), column.distinct),
            Cell(column.note),
        )
        for column in seen.columns
    )
    heads = (
        Head("column"),
        Head("taken as"),
        Head("missing", number=True),
        Head("distinct", number=True),
        Head("note"),
    )
    if rows:
        blocks.append(Table("Columns", "How each column of the source was understood.", heads, rows, sortable=True))
    return Section("Data", tuple(blocks))


# --- 7 environment and page -------------------------------------------------------------------------


def environment(facts: Facts) -> Section:
    blocks: list[Block] = []
    decided = facts.result.decided if facts.result else {}
    tables = [
        _pairs("Decided at run time", "What the page left open, and why it was chosen so.", decided),
        _pairs("Machine and versions", "", flat(facts.environment)),
    ]
    blocks += [table for table in tables if table.rows]
    told = "The page with every default filled in; it runs as it stands."
    blocks += [Text(told), Code(reading.dump(facts.experiment), "resolved.yaml")]
    return Section("Environment and page", tuple(blocks))


def _pairs(title: str, caption: str, found: Mapping[str, Any]) -> Table:
    rows = tuple((Cell(str(name)), Cell(str(value))) for name, value in found.items())
    return Table(title, caption, (Head("what"), Head("value")), rows)


def flat(found: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as one, with dotted names; lists as words."""
    out: dict[str, str] = {}
    for name, value in found.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            out[f"{prefix}{name}"] = " ".join(str(item) for item in value)
        else:
            out[f"{prefix}{name}"] = words.chosen(value)
    return out


SECTIONS: dict[str, Callable[[Facts], Section | None]] = {
    "summary": summary,
    "winner": winner,
    "learning": learning,
    "trials": trials,
    "mistakes": mistakes,
    "data": data,
    "environment": environment,
}
