"""`search.confirm`: the best few trials once more over seeds, so that the winner is no lucky draw.

The best of many trials is in part the luckiest. Here the best few are trained again, each with the same few
new seeds, from fresh weights to their own end (no scheduler stops them). A seed changes the first weights, the
order of the rows and what dropout leaves out; the rows of training and validation part stay the same, and the
test part is not touched. So what is said holds for the luck of training, not for the choice of the rows. The
trial as the search ran it does not count as one of the seeds: it was chosen for its value.

Everything here is pure: `planned` says what to train, `verdict` what came of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from nnopt_ray.experiment import Confirm
from nnopt_ray.machine import derived_seed
from nnopt_ray.results import Comparison, Confirmation, Contestant, TrialRow

BASELINE = "baseline"
SEED = "seed"  # its path on the page


@dataclass(frozen=True)
class ConfirmTrial:
    """One training of the confirmation. `params` closes the page like a trial's, its seed included."""

    id: str  # "0007-s1": the trial and the number of the seed
    of_trial: str
    seed: int
    params: Mapping[str, Any]


def seeds(seed: int, count: int) -> tuple[int, ...]:
    """The seeds that every contestant, and the baseline, is trained with: the same for all, so that they are
    compared in pairs. They follow from the page's seed."""
    return tuple(derived_seed(seed, "confirm", number) for number in range(1, count + 1))


def contestants(rows: Sequence[TrialRow], mode: str, top: int) -> list[TrialRow]:
    """The best `top` trials that have a value, best first, the earlier one of equals; fewer when there are no more.

    Of trials that differ in nothing but a searched `seed` only the best is one: confirmed, they are the same.
    """
    sign = 1.0 if mode == "min" else -1.0
    usable = [
        (sign * row.value, row.trial, row)
        for row in rows
        if row.value is not None and math.isfinite(row.value) and row.status in ("finished", "stopped")
    ]
    found: dict[str, TrialRow] = {}
    for _, _, row in sorted(usable, key=lambda each: each[:2]):
        point = {path: value for path, value in row.params.items() if path != SEED}
        found.setdefault(json.dumps(point, sort_keys=True, default=str), row)
    return list(found.values())[:top]


def planned(rows: Sequence[TrialRow], mode: str, confirm: Confirm, seed: int) -> list[ConfirmTrial]:
    """The trainings of a confirmation: seed by seed, so that what is cut short has compared all contestants.

    rows: every trial of the search. seed: the page's own (`Experiment.seed`).
    """
    best = contestants(rows, mode, confirm.top)
    return [
        ConfirmTrial(f"{row.trial}-s{number}", row.trial, drawn, {**row.params, SEED: drawn})
        for number, drawn in enumerate(seeds(seed, confirm.seeds), start=1)
        for row in best
    ]


def collected(trials: Sequence[ConfirmTrial], rows: Sequence[TrialRow]) -> dict[str, list[float]]:
    """Contestant → its value with each seed, in the order of `trials`; NaN where that training failed.

    rows: one for each training, in any order, its `trial` being the training's id.
    """
    by_id = {row.trial: row for row in rows}
    found: dict[str, list[float]] = {}
    for trial in trials:
        row = by_id[trial.id]
        value = math.nan if row.value is None or row.status == "failed" else row.value
        found.setdefault(trial.of_trial, []).append(value)
    return found


def verdict(
    values: Mapping[str, Sequence[float]],
    baseline: Sequence[float] | None,
    mode: Literal["min", "max"],
    confidence: float,
    metric: str = "the objective",
) -> Confirmation:
    """Name the winner, and say how sure that is.

    values: contestant → the objective with each seed (`collected`), contestants in the order in which the search
    had them. baseline: the same of the baseline, or None. What is not finite counts as a failed training.
    confidence: of the intervals, between 0 and 1.

    The winner has the best mean among those that failed with the fewest seeds; of equal means, the one that the
    search had ahead. Intervals are Student's t over the seeds; the winner is compared with the runner-up and with
    the baseline by a paired t-test (scipy.stats.ttest_rel): the differences with the same seed, their mean and its
    interval. An interval that holds 0 is a tie. As the winner was picked by these same values, its lead over the
    runner-up is judged somewhat too kindly.
    """
    sign = 1.0 if mode == "min" else -1.0
    measured = [_contestant(trial, found, confidence) for trial, found in values.items()]
    ranked = sorted(measured, key=lambda c: (c.failed, math.inf if math.isnan(c.mean) else sign * c.mean))
    simple = None if baseline is None else _contestant(BASELINE, baseline, confidence)
    if not ranked or math.isnan(ranked[0].mean):
        return Confirmation(mode, confidence, "", tuple(ranked), None, simple, None, ("No training of the best trials "
                            "over other seeds gave a value, so nothing is confirmed.",))  # fmt: skip
    winner = ranked[0]
    runner_up = _compared(winner, ranked[1], sign, confidence) if len(ranked) > 1 else None
    over_baseline = None if simple is None else _compared(winner, simple, sign, confidence)
    said = [_headline(winner, metric, measured[0].trial, len(ranked))]
    if runner_up is not None:
        said.append(_against_runner_up(winner, ranked[1], runner_up, measured))
    if over_baseline is not None:
        said.append(_against_baseline(over_baseline))
    return Confirmation(mode, confidence, winner.trial, tuple(ranked), runner_up, simple, over_baseline, tuple(said))


# --- statistics ---------------------------------------------------------------------------------


def _contestant(trial: str, values: Sequence[float], confidence: float) -> Contestant:
    kept = tuple(float(value) if math.isfinite(value) else math.nan for value in values)
    numbers = [value for value in kept if not math.isnan(value)]
    if not numbers:
        return Contestant(trial, kept, math.nan)
    mean = _mean(numbers)
    if len(numbers) < 2:
        return Contestant(trial, kept, mean)
    sd = stdev(numbers)
    half = _half(sd, len(numbers), confidence)
    return Contestant(trial, kept, mean, sd, mean - half, mean + half)


def _compared(winner: Contestant, other: Contestant, sign: float, confidence: float) -> Comparison:
    pairs = [
        sign * (theirs - ours)
        for ours, theirs in zip(winner.values, other.values, strict=True)
        if not math.isnan(ours) and not math.isnan(theirs)
    ]
    if len(pairs) < 2:
        return Comparison(other.trial, len(pairs), pairs[0] if pairs else math.nan)
    gain, sd = _mean(pairs), stdev(pairs)
    half = _half(sd, len(pairs), confidence)
    return Comparison(other.trial, len(pairs), gain, gain - half, gain + half, _p(gain, sd, len(pairs)))


def _mean(values: Sequence[float]) -> float:
    """Equal values have exactly that mean: a sum of three times 0.1, divided by 3, need not be 0.1."""
    return values[0] if len(set(values)) == 1 else fmean(values)


def _half(sd: float, count: int, confidence: float) -> float:
    """Half the width of Student's interval of a mean."""
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, (1 + confidence) / 2)) * sd / math.sqrt(count)


def _p(mean: float, sd: float, count: int) -> float:
    """Two-sided, of a mean of 0. Differences that are all the same leave no doubt, unless they are all 0."""
    from scipy.special import stdtr

    if sd == 0:
        return 1.0 if mean == 0 else 0.0
    return 2 * float(stdtr(count - 1, -abs(mean) / (sd / math.sqrt(count))))


# --- words --------------------------------------------------------------------------------------


def _headline(winner: Contestant, metric: str, had_ahead: str, among: int) -> str:
    trained = len(winner.values) - winner.failed
    between = "" if winner.low is None else f" ({_said(winner.low)} to {_said(winner.high)})"
    failed = "" if not winner.failed else f"; with {winner.failed} more it failed"
    first = "" if winner.trial == had_ahead else f" The search had {had_ahead} ahead."
    best = f"the best of {among}" if among > 1 else "the only trial to confirm"
    return (
        f"Trial {winner.trial} is {best} over {trained} seed{'s' * (trained != 1)}{failed}: {metric} "
        f"{_said(winner.mean)} on average{between}.{first}"
    )


def _against_runner_up(winner: Contestant, other: Contestant, found: Comparison, measured: Sequence[Contestant]) -> str:
    if other.failed > winner.failed:
        named = f"{other.trial} failed with {other.failed} of {len(other.values)} seeds"
    elif winner.mean == other.mean:
        named = f"their means are equal, and the search had {winner.trial} ahead"
    else:
        named = "its mean is the better one"
    if found.pairs < 2 or found.low is None or found.high is None:
        return (
            f"Whether it is better than {other.trial}, the runner-up, cannot be told: both have a value with "
            f"{found.pairs} seed{'s' * (found.pairs != 1)} only. {winner.trial} is named because {named}."
        )
    if found.tie:
        return (
            f"{winner.trial} and {other.trial} are tied: paired by seed, the difference is {_said(found.gain)} and may "
            f"lie anywhere from {_said(found.low)} to {_said(found.high)}. {winner.trial} is named because {named}."
        )
    if found.gain < 0:  # it failed with more seeds, and is better where it did not
        return (
            f"{other.trial} is better by {_said(-found.gain)} ({_said(-found.high)} to {_said(-found.low)}) where both "
            f"have a value. {winner.trial} is named because {named}."
        )
    return (
        f"It is better than {other.trial}, the runner-up, by {_said(found.gain)} ({_said(found.low)} to "
        f"{_said(found.high)}, paired over {found.pairs} seeds)."
    )


def _against_baseline(found: Comparison) -> str:
    if found.pairs < 2 or found.low is None or found.high is None:
        return f"The baseline has a value with {found.pairs} of its seeds, too few to compare them."
    ends = f"{_said(found.low)} to {_said(found.high)}, paired over {found.pairs} seeds"
    if found.tie:
        return f"It is not clearly better than the baseline: the difference is {_said(found.gain)} ({ends})."
    if found.gain < 0:
        ends = f"{_said(-found.high)} to {_said(-found.low)}, paired over {found.pairs} seeds"
    side = "worse" if found.gain < 0 else "better"
    return f"It is {side} than the baseline by {_said(abs(found.gain))} ({ends})."


def _said(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
