"""What to try next: a few rules, each computed from this run, each with its evidence.

A rule returns an Advice or None and stays silent unless the run itself shows the case. A line for
the page is proposed only when the page would still be valid with it: reading.py judges it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from nnopt_ray import reading
from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Experiment, Range, plain
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Advice
from nnopt_ray.report.facts import Facts, incumbents, risen, taken, usable

MOST = 5  # more advice than this is read by nobody
EDGE = 0.05  # of a range's length: nearer to an end than this is "at the edge"
SMALL_VALIDATION = 300  # rows; below it one standard error of an accuracy of 0.9 is above 1.7 points


def advice(facts: Facts) -> tuple[Advice, ...]:
    """The most important first."""
    if facts.result is None:
        unfinished = "The run was interrupted, or is still going on elsewhere. What was done is kept."
        return (Advice("Let it finish", unfinished, "nnopt resume RUN   # RUN: the folder of this file"),)
    noise = tuple(_noise(facts))
    found = [
        *_failures(facts),
        *_data(facts),
        *_more_epochs(facts),
        *_edges(facts),
        *_no_gain(facts),
        *_overfit(facts),
        *(() if noise else _more_trials(facts)),  # a new best among equals comes late as often as early
        *noise,
        *_small_validation(facts),
    ]
    return tuple(found[:MOST])


def _no_gain(facts: Facts) -> Iterator[Advice]:
    gain = facts.gains.get(words.base(facts.experiment.metric))
    if gain is None or gain.low is None or gain.low > 0:
        return
    yield Advice(
        "Look at data and features before tuning further",
        f"On the test part the winner's {words.metric_name(gain.metric)} is not clearly better than that of the "
        "baseline. When a simple model does as well, more trials of the same network seldom help.",
    )


def _data(facts: Facts) -> Iterator[Advice]:
    """Where a check found what makes scores or classes doubtful, and nothing was done about it."""
    for found in facts.summary.quality if facts.summary else ():
        if found.severity == "high" and not found.repaired:
            yield Advice("Look at what was found in the data", f"{found.check}: {_short(found.sentence)}")
            return


def _failures(facts: Facts) -> Iterator[Advice]:
    failed = [row for row in facts.rows if row.status == "failed"]
    if not failed or len(failed) < 0.1 * len(facts.rows):
        return
    reason = statistics.mode(row.reason for row in failed)
    yield Advice(
        "See why trials fail",
        f"{len(failed)} of {len(facts.rows)} trials failed, most often with: {_short(reason)}",
    )


def _short(text: str, longest: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


# --- the best value at the edge of its range ------------------------------------------------------


def _edges(facts: Facts) -> Iterator[Advice]:
    best = facts.best
    if best is None:
        return
    params = facts.result.best_values if facts.result else best.params
    for path, branch, opened, value in taken(facts.experiment, params):
        if path.rpartition(".")[2] == "seed":  # its values have no order
            continue
        end = edge(opened, value)
        if end and not _luck(facts, path, opened, end):
            wider = _valid_wider(facts.experiment, branch, opened, end)
            where = f"{'upper' if end > 0 else 'lower'} end of its range"
            if wider is not None:
                yield Advice(
                    f"Widen {path}",
                    f"The best value, {words.chosen(value)}, lies at the {where}: better ones may lie beyond it.",
                    _line(facts.experiment, path, branch, wider),
                )


def place(opened: Range, value: Any) -> float | None:
    """Where a value lies in its range, 0 to 1; None where the question has no meaning."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if opened.kind == "choice":
        options = opened.values
        if len(options) < 3 or any(isinstance(o, bool) or not isinstance(o, (int, float)) for o in options):
            return None
        ordered = sorted(options)
        return ordered.index(value) / (len(ordered) - 1) if value in ordered else None
    low, high = float(opened.values[0]), float(opened.values[1])
    if opened.kind in ("log", "log_int"):
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low)) if value > 0 else None
    return (value - low) / (high - low)


def edge(opened: Range, value: Any) -> int:
    """1 at the upper end, -1 at the lower, 0 inside."""
    at = place(opened, value)
    if at is None:
        return 0
    return 1 if at >= 1 - EDGE else -1 if at <= EDGE else 0


def _luck(facts: Facts, path: str, opened: Range, end: int) -> bool:
    """True where the other good trials do not lean to the same end: the winner is there by chance.

    The best fifth is asked (at least three trials with this value): their median must lie in the
    outer third.
    """
    sign = 1 if facts.experiment.mode == "min" else -1
    rows = sorted((row for row in facts.rows if usable(row)), key=lambda row: sign * (row.value or 0.0))
    places = [at for row in rows if (at := place(opened, row.params.get(path))) is not None]
    best = places[: max(3, len(places) // 5)]
    if len(best) < 3:
        return False
    middle = statistics.median(best)
    return middle < 2 / 3 if end > 0 else middle > 1 / 3


def wider(opened: Range, end: int, share: float) -> Range | None:
    """The range made longer beyond one end: by its own length (a factor of at most 10 for log) times `share`."""
    low, high = opened.values[0], opened.values[1]
    if opened.kind == "choice":
        ordered = sorted(opened.values)
        a, b = (ordered[-2], ordered[-1]) if end > 0 else (ordered[1], ordered[0])
        new = b * b / a if a > 0 and b > 0 and share == 1 else b + (b - a) * share
        if all(isinstance(value, int) for value in ordered):
            new = round(new)
        new = _tidy(new)
        return None if new in ordered else Range("choice", (*opened.values, new) if end > 0 else (new, *opened.values))
    if opened.kind in ("log", "log_int"):
        factor = min(10.0, high / low) ** share
        new = high * factor if end > 0 else low / factor
    elif opened.kind == "step":
        step = opened.values[2]
        steps = max(1, round((high - low) / step * share))
        new = high + steps * step if end > 0 else low - steps * step
    else:
        new = high + (high - low) * share if end > 0 else low - (high - low) * share
    if opened.kind in ("int", "log_int") or (opened.kind == "step" and all(isinstance(v, int) for v in opened.values)):
        new = round(new)
    new = _tidy(new)
    if new in (low, high):
        return None
    ends = (low, new) if end > 0 else (new, high)
    return Range(opened.kind, (*ends, *opened.values[2:]))


def _tidy(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.3g}")


def _valid_wider(experiment: Experiment, branch: str, opened: Range, end: int) -> Range | None:
    """The widest of three proposals with which the page is still valid."""
    for share in (1.0, 0.5, 0.25):
        proposal = wider(opened, end, share)
        if proposal is not None and valid(experiment, replaced(experiment.tree, branch, proposal)):
            return proposal
    return None


def valid(experiment: Experiment, tree: Any) -> bool:
    try:
        reading.from_tree(plain(tree), experiment.file)
    except UserError:
        return False
    return True


def replaced(node: Any, branch: str, new: Any, here: str = "") -> Any:
    """The tree with what stands at `branch` (as experiment.walk names it) replaced."""
    if here == branch:
        return new
    if isinstance(node, Range):
        if node.kind != "choice":
            return node
        pairs = zip(node.labels(), node.values, strict=True)
        return Range("choice", tuple(replaced(value, branch, new, f"{here}={label}") for label, value in pairs))
    if isinstance(node, Mapping):
        return {key: replaced(value, branch, new, f"{here}.{key}" if here else str(key)) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [replaced(value, branch, new, f"{here}.{i}" if here else str(i)) for i, value in enumerate(node)]
    return node


def _line(experiment: Experiment, path: str, branch: str, wider: Range) -> str:
    """The line of the page with the wider range; of a value in a list, the line of the whole list."""
    tree = replaced(experiment.tree, branch, wider)
    above, inner = words.path_parts(path)[0] + words.path_parts(path)[1].partition(".")[0], path
    value: Any = wider
    while inner != above:
        inner, branch = inner.rpartition(".")[0], branch.rpartition(".")[0]
        value = standing(tree, branch)
    return page_line(inner, branch, value)


def standing(node: Any, branch: str, here: str = "") -> Any:
    """What stands at `branch` (as experiment.walk names it); None where nothing does."""
    if here == branch:
        return node
    inner: list[tuple[str, Any]] = []
    if isinstance(node, Range) and node.kind == "choice":
        inner = [(f"{here}={label}", value) for label, value in zip(node.labels(), node.values, strict=True)]
    elif isinstance(node, Mapping):
        inner = [(f"{here}.{key}" if here else str(key), value) for key, value in node.items()]
    elif isinstance(node, (list, tuple)):
        inner = [(f"{here}.{index}" if here else str(index), value) for index, value in enumerate(node)]
    return next((found for at, value in inner if (found := standing(value, branch, at)) is not None), None)


def page_line(path: str, branch: str, value: Any) -> str:
    """`lr: {log: [0.0001, 1.0]}` with a comment that says where it stands."""
    key = path.rpartition(".")[2]
    node = plain(value)
    text: str = yaml.safe_dump({key: node}, default_flow_style=True, sort_keys=False, width=1000).strip()
    inside = branch.rpartition(".")[0].replace("=", ", choice ")
    return f"{text[1:-1]}   # in {inside}" if inside else text[1:-1]


# --- more of the same -----------------------------------------------------------------------------


def _more_epochs(facts: Facts) -> Iterator[Advice]:
    """The winner's best epoch is its last allowed one, and its last fifth still gained."""
    best, metric = facts.best, facts.experiment.epoch_metric
    params = best.params if best else {}
    if best is None or best.best_epoch is None or "train.epochs" in params:
        return
    limit = facts.experiment.train.epochs
    if best.best_epoch < limit - max(1, round(0.05 * limit)):
        return
    values = [epoch.metrics.get(metric, math.nan) for epoch in facts.history]
    values = [value for value in values if math.isfinite(value)]
    if len(values) < 3:
        return
    sign = 1 if facts.experiment.mode == "min" else -1
    whole = sign * values[0] - min(sign * value for value in values)
    before = min(sign * value for value in values[: max(1, round(0.8 * len(values)))])
    late = before - min(sign * value for value in values)
    if whole <= 0 or late < 0.01 * whole:
        return
    yield Advice(
        "Train longer",
        f"The winner was best at epoch {best.best_epoch}, and {limit} epochs end with {limit - 1}. The last fifth of "
        f"them still brought {100 * late / whole:.0f}{words.NBSP}% of all the improvement.",
        page_line("train.epochs", "train.epochs", 2 * limit),
    )


def _more_trials(facts: Facts) -> Iterator[Advice]:
    """A new best came in the last fifth of a search of ten trials or more."""
    rows, asked = facts.rows, facts.experiment.search.trials
    if len(rows) < 10 or not isinstance(asked, int) or len(rows) < asked:
        return
    steps = incumbents(rows, facts.experiment.mode)
    order = {row.trial: number for number, row in enumerate(rows, start=1)}
    late = [trial for trial, _ in steps if order[trial] > 0.8 * len(rows)]
    if late:
        yield Advice(
            "Search longer",
            f"Trial {order[late[-1]]} of {len(rows)} was a new best: the search had not settled.",
            page_line("search.trials", "search.trials", 2 * asked),
        )


# --- honesty about the winner ---------------------------------------------------------------------


def _overfit(facts: Facts) -> Iterator[Advice]:
    rise = risen(facts.history)
    if rise is not None:
        yield Advice(
            "Regularise more",
            f"After its lowest point the winner's validation loss rose by {100 * rise:.0f}{words.NBSP}% while the "
            "training loss fell on: it memorises. More dropout, weight decay or data help; more epochs do not.",
        )


def _noise(facts: Facts) -> Iterator[Advice]:
    """Trials whose lead the interval of the test score makes meaningless."""
    metric = facts.experiment.metric
    ends = facts.winner["test"].intervals.get(words.base(metric)) if "test" in facts.winner else None
    best = facts.best
    rows = [row for row in facts.rows if usable(row) and row.status == "finished"]
    if ends is None or best is None or best.value is None or len(rows) < 5:
        return
    # The interval's half width on the test part, carried over to a part of another size.
    test, validation = facts.winner["test"].rows, facts.winner.get("validation")
    half = (ends[1] - ends[0]) / 2 * math.sqrt(test / validation.rows) if validation else (ends[1] - ends[0]) / 2
    near = [row for row in rows if abs((row.value or 0.0) - best.value) <= half]
    if len(near) < max(5, len(rows) // 2):
        return
    yield Advice(
        "Do not read too much into the winning values",
        f"{len(near)} of the {len(rows)} trials trained to the end lie within ±{words.number(half)} of the winner's "
        f"{words.metric_name(metric)}: no more than the interval so few rows leave, so their order is partly luck.",
    )


def _small_validation(facts: Facts) -> Iterator[Advice]:
    rows = facts.summary.parts.get("validation", 0) if facts.summary else 0
    if not 0 < rows < SMALL_VALIDATION or not facts.experiment.is_search:
        return
    yield Advice(
        "Choose by more validation rows",
        f"The {len(facts.rows)} trials were compared on {rows} rows"
        + (f", where one row is {100 / rows:.2g} points of accuracy" if facts.task == "classification" else "")
        + ". A larger validation part makes the choice surer.",
        _larger_validation(facts.experiment),
    )


def _larger_validation(experiment: Experiment) -> str:
    now = experiment.data.split.keys.get("validation")
    if not isinstance(now, float) or now >= 0.25:
        return ""
    tree = replaced(experiment.tree, "data.split.validation", 0.25)
    return page_line("data.split.validation", "data.split.validation", 0.25) if valid(experiment, tree) else ""
