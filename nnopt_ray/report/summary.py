"""The first screen: score with its interval, gain over the baseline, what was searched, what to try next."""

from __future__ import annotations

from nnopt_ray.experiment import Range
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Block, Hero, Section, Text, Tile, Tone, Whisker
from nnopt_ray.report.diagnosed import advice
from nnopt_ray.report.facts import Facts, Gain


def summary(facts: Facts) -> Section:
    metric = headline(facts)
    test = facts.winner.get("test")
    level = f"{100 * facts.experiment.evaluate.confidence:.3g}{words.NBSP}%"
    value, between, label = "–", "", "No score yet"
    best = facts.best
    if test is None and best is not None and best.value is not None:
        value = words.score(facts.experiment.metric, best.value)
        label = f"{words.capital(words.metric_name(facts.experiment.metric))}, the best so far"
        between = "not measured on the test part yet"
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
            also=objective_verdict(facts, metric),
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
        return "Not compared with the baseline yet.", "muted"
    name = baseline_name(facts)
    gain = facts.gains.get(metric)
    if gain is not None:
        return gain_words(gain, name)
    if metric in simple.metrics:
        return f"The baseline ({name}) has {words.score(metric, simple.metrics[metric])}.", "muted"
    return f"The baseline is {name}.", "muted"


def objective_verdict(facts: Facts, metric: str) -> str:
    """What the objective says where the first screen shows another metric."""
    own = words.base(facts.experiment.metric)
    gain = facts.gains.get(own)
    if own == metric or gain is None or gain.low is None or gain.high is None:
        return ""
    low, high = (words.signed(own, end) for end in (gain.low, gain.high))
    size = words.difference(own, gain.value)
    if gain.low > 0:
        said = f"clearly better, by {size} ({low[1:]} to {high[1:]})"
    elif gain.high < 0:
        said = f"clearly worse, by {size} ({high[1:]} to {low[1:]})"
    else:
        said = f"not clearly better ({low} to {high})"
    return f"By {words.metric_name(own)}, the objective, it is {said}."


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
    side = "ahead" if gain.value >= 0 else "behind"
    return (
        f"Not clearly better than the baseline ({name}): {side} by {size}, and anything from "
        f"{words.signed(gain.metric, gain.low)} to {words.signed(gain.metric, gain.high)} fits the test rows.",
        "",
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
    names = {"finished": "to the end", "stopped": "stopped early", "failed": "failed"}
    names |= {"running": "unfinished", "paused": "paused", "pending": "not begun"}
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
    zero = facts.result.best_metrics.get("sparsity") if facts.result is not None else None
    if zero is not None:
        found.append(Tile("sparsity", words.score("sparsity", zero), "of the weights are 0"))
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
    goal = words.listed(
        [
            f"{'min' if mode == 'min' else 'max'}imize {words.metric_name(metric)}"
            for mode, metric in experiment.objectives
        ]
    )
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
