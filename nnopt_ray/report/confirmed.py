"""The best few over seeds: who won, and how sure that is."""

from __future__ import annotations

from nnopt_ray.report import words
from nnopt_ray.report.blocks import Block, Cell, Head, Section, Table, Text, Tone
from nnopt_ray.report.facts import Facts
from nnopt_ray.results import Comparison, Confirmation, Contestant


def confirmed(facts: Facts) -> Section | None:
    found, metric = facts.result.confirm if facts.result else None, facts.experiment.metric
    if found is None:
        return None
    blocks: list[Block] = [Text(sentence) for sentence in _sentences(found, metric)]
    if found.contestants:
        blocks.append(_table(found, metric))
    return Section("Confirmed over seeds", tuple(blocks))


def _sentences(found: Confirmation, metric: str) -> list[str]:
    if not found.winner:
        return list(found.sentences)
    winner = found.contestants[0]
    trained = words.plural(len(winner.values) - winner.failed, "seed")
    best = f"is the best of {len(found.contestants)}" if len(found.contestants) > 1 else "was trained again"
    over = f"Trial {winner.trial} {best} over {trained}, with a mean {words.metric_name(metric)} of "
    said = [f"{over}{words.score(metric, winner.mean)}."]
    if found.runner_up is not None:
        other = f"trial {found.runner_up.other} (the runner-up)"
        said.append(_compared(found.runner_up, other, metric))
        failed = next(each for each in found.contestants if each.trial == found.runner_up.other).failed
        if failed > winner.failed:
            failures = words.plural(failed, "seed")
            said[-1] += f" Trial {found.runner_up.other} failed with {failures}, so it stands behind."
        elif found.runner_up.tie:
            said[-1] += " Calling one of them better would be a guess."
    if found.over_baseline is not None:
        said.append(_compared(found.over_baseline, "the baseline", metric))
    return said


def _compared(found: Comparison, other: str, metric: str) -> str:
    seeds = words.plural(found.pairs, "seed")
    if found.low is None or found.high is None:
        return f"It cannot be compared with {other}: both have a value with {seeds} only."
    size = words.difference(metric, found.gain)
    low, high = words.signed(metric, found.low), words.signed(metric, found.high)
    if found.tie:
        side = "ahead of" if found.gain > 0 else "behind" if found.gain < 0 else "level with"
        by = f" by {size}" if found.gain else ""
        return f"A tie with {other}: it is {side} it{by}, and anything from {low} to {high} fits the {seeds}."
    if found.gain < 0:
        ends = [words.signed(metric, -end).lstrip("+") for end in (found.high, found.low)]
        return f"It is worse than {other} by {size} ({ends[0]} to {ends[1]}) where both have a value."
    return f"It is better than {other} by {size} ({low.lstrip('+')} to {high.lstrip('+')})."


def _table(found: Confirmation, metric: str) -> Table:
    level = f"{100 * found.confidence:.3g}{words.NBSP}%"
    beside = {each.other: each for each in (found.runner_up, found.over_baseline) if each is not None}
    listed = [*found.contestants, *([found.baseline] if found.baseline is not None else [])]
    seeds = max(len(each.values) for each in listed)
    heads = (
        Head("trial"),
        Head(f"{words.metric_name(metric)}, mean", number=True),
        Head("deviation", number=True, hint="between seeds"),
        *(Head(f"seed {number}", number=True) for number in range(1, seeds + 1)),
        Head("winner is better by", number=True, hint="mean of the differences with the same seed"),
        Head("p", number=True, hint="of no difference, two-sided, paired t-test"),
    )
    rows = tuple(_row(each, beside.get(each.trial), metric, each.trial == found.winner) for each in listed)
    return Table(
        title="The best trials again, with other seeds",
        caption=(
            f"{level} intervals of Student's t over the seeds, differences paired by seed. A seed brings other first "
            "weights and another order of the rows; the rows of training and validation are those of the search, so "
            "what other rows would do is not part of the intervals. The winner was picked by these values, so its lead "
            "looks somewhat too good."
        ),
        heads=heads,
        rows=rows,
        keys=tuple(each.trial for each in listed),
        best=found.winner,
    )


def _row(each: Contestant, beside: Comparison | None, metric: str, best: bool) -> tuple[Cell, ...]:
    mean = words.score(metric, each.mean)
    if each.low is not None and each.high is not None:
        mean += f"\n{words.interval(metric, each.low, each.high)}"
    values = [
        Cell("failed", tone="bad") if value != value else Cell(words.score(metric, value)) for value in each.values
    ]
    none = Cell("–", tone="muted")
    return (
        Cell(each.trial),
        Cell(mean, tone="best" if best else ""),
        none if each.sd is None else Cell(words.difference(metric, each.sd)),
        *values,
        none if beside is None else _gain_cell(beside, metric),
        none if beside is None or beside.p is None else Cell("< 0.001" if beside.p < 0.001 else f"{beside.p:.2g}"),
    )


def _gain_cell(found: Comparison, metric: str) -> Cell:
    if found.pairs == 0:
        return Cell("–", tone="muted")
    said = words.signed(metric, found.gain)
    if found.low is None or found.high is None:
        return Cell(said)
    tone: Tone = "" if found.tie else "good" if found.gain > 0 else "bad"
    return Cell(f"{said}\n{words.signed(metric, found.low)} to {words.signed(metric, found.high)}", tone=tone)
