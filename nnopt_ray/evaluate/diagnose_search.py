"""Diagnoses of a search: whether its winner is more than luck, its ranges are wide enough, its workers were at work."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from nnopt_ray.evaluate.diagnosis import Case, Diagnosis, Found, number, percent, plural, readable
from nnopt_ray.evaluate.page_line import Line, edge, place, widened
from nnopt_ray.experiment import Range
from nnopt_ray.results import TrialRow

SMALL_VALIDATION = 300  # rows; below it one standard error of an accuracy of 0.9 is above 1.7 points
SMALL_FOR_ONE = 50  # rows that choose an epoch alone; below it one is above 4 points
FAILED, MANY_FAILED = 0.1, 0.5
SETTLED_TRIALS = 10  # fewer settle nothing
LATE = 0.8  # of the trials: a best one after them came late
TIED = 5, 0.5  # trials at least, and share of all, that the noise of the score makes equal to the winner
# A worker that is idle half of the time could have trained as much again; in less than a minute it is starting up.
BUSY = 0.5
LONG_S = 60.0


def trials_failed(case: Case) -> Found:
    """Many trials failed."""
    failed = [row for row in case.rows if row.status == "failed"]
    if not case.experiment.is_search or not case.rows:
        return None
    share = len(failed) / len(case.rows)
    if not failed or share < FAILED or all(row.cause == "not-a-number" for row in failed):
        return ()
    reason = " ".join(statistics.mode(row.reason for row in failed).split())
    short = reason if len(reason) <= 160 else f"{reason[:159]}…"
    return (
        Diagnosis(
            "See why trials fail",
            f"{len(failed)} of {len(case.rows)} trials failed, most often with: {short}",
            "high" if share >= MANY_FAILED else "middle",
            {"failed": len(failed), "trials": len(case.rows), "threshold": FAILED},
        ),
    )


def best_at_the_edge(case: Case) -> Found:
    """The winner's value lies at an end of its range, and the other good trials lean there."""
    if case.best is None or not case.taken:
        return None
    found = []
    for path, branch, opened, value in case.taken:
        if path.rpartition(".")[2] == "seed":  # its values have no order
            continue
        end = edge(opened, value)
        if not end or _luck(case, path, opened, end):
            continue
        line = widened(case.experiment, path, branch, opened, end)
        if line is not None:
            where = f"{'upper' if end > 0 else 'lower'} end of its range"
            said = f"The best value, {_shown(value)}, lies at the {where}: better ones may lie beyond it."
            evidence = {"path": path, "value": value, "place": place(opened, value)}
            found.append(Diagnosis(f"Widen {path}", said, "middle", evidence, line))
    return tuple(found)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def usable(row: TrialRow) -> bool:
    return row.status != "failed" and row.value is not None and math.isfinite(row.value)


def _luck(case: Case, path: str, opened: Range, end: int) -> bool:
    """True where the other good trials do not lean to the same end: the winner is there by chance.

    The best fifth is asked (at least three trials with this value): their median must lie in the outer third.
    """
    sign = 1 if case.experiment.mode == "min" else -1
    rows = sorted((row for row in case.rows if usable(row)), key=lambda row: sign * (row.value or 0.0))
    places = [at for row in rows if (at := place(opened, row.params.get(path))) is not None]
    best = places[: max(3, len(places) // 5)]
    if len(best) < 3:
        return False
    middle = statistics.median(best)
    return middle < 2 / 3 if end > 0 else middle > 1 / 3


def winner_within_noise(case: Case) -> Found:
    """Trials whose distance from the winner the interval of the score makes meaningless."""
    test, validation = case.winner.get("test"), case.winner.get("validation")
    ends = test.intervals.get(case.metric) if test is not None else None
    rows = [row for row in case.rows if usable(row) and row.status == "finished"]
    if not case.experiment.is_search or test is None or ends is None or case.best is None or case.best.value is None:
        return None
    if len(rows) < TIED[0]:
        return None
    # The interval's half width on the test part, carried over to a part of another size.
    half = (ends[1] - ends[0]) / 2 * (math.sqrt(test.rows / validation.rows) if validation else 1.0)
    near = [row for row in rows if abs((row.value or 0.0) - case.best.value) <= half]
    if len(near) < max(TIED[0], TIED[1] * len(rows)):
        return ()
    confirm = {"top": 3, "seeds": 3}
    return (
        Diagnosis(
            "Do not read too much into the winning values",
            f"{len(near)} of the {len(rows)} trials trained to the end lie within ±{number(half)} of the winner's "
            f"{readable(case.experiment.metric)}: no more than the interval so few rows leave, so their order is "
            "partly luck.",
            "low",
            {"near": len(near), "trials": len(rows), "half_width": half, "threshold": TIED[1]},
            case.line("search.confirm", confirm) if case.confirm is None else None,
        ),
    )


def search_not_settled(case: Case) -> Found:
    """A new best came in the last fifth of the trials."""
    rows, asked = case.rows, case.experiment.search.trials
    if not case.experiment.is_search or len(rows) < SETTLED_TRIALS or not isinstance(asked, int) or len(rows) < asked:
        return None
    late = [at for at in _bests(rows, case.experiment.mode) if at > LATE * len(rows)]
    if not late or winner_within_noise(case):  # a new best among equals comes late as often as early
        return ()
    return (
        Diagnosis(
            "Search longer",
            f"Trial {late[-1]} of {len(rows)} was a new best: the search had not settled.",
            "low",
            {"trial": late[-1], "trials": len(rows), "threshold": LATE},
            case.line("search.trials", 2 * asked),
        ),
    )


def _bests(rows: Sequence[TrialRow], mode: str) -> list[int]:
    """The places, from 1, of the trials that were better than all before them."""
    sign = 1 if mode == "min" else -1
    found, best = [], math.inf
    for at, row in enumerate(rows, start=1):
        if usable(row) and sign * (row.value or 0.0) < best:
            best = sign * (row.value or 0.0)
            found.append(at)
    return found


def validation_too_small(case: Case) -> Found:
    """Too few validation rows to tell trials apart, or to choose an epoch by."""
    rows = case.summary.parts.get("validation", 0) if case.summary is not None else 0
    if not rows or case.directly:
        return None
    limit = SMALL_VALIDATION if case.experiment.is_search else SMALL_FOR_ONE
    if rows >= limit:
        return ()
    what = f"The {len(case.rows)} trials were compared on" if case.experiment.is_search else "The epoch was chosen by"
    one = f", where one row is {number(100 / rows)} points of accuracy" if case.task == "classification" else ""
    return (
        Diagnosis(
            "Choose by more validation rows",
            f"{what} {plural(rows, 'row')}{one}. A larger validation part makes the choice surer.",
            "middle" if rows < SMALL_FOR_ONE else "low",
            {"rows": rows, "threshold": limit},
            _larger(case),
        ),
    )


def _larger(case: Case) -> Line | None:
    now = case.value("data.split.validation")
    return case.line("data.split.validation", 0.25) if isinstance(now, float) and now < 0.25 else None


def seeds_disagree(case: Case) -> Found:
    """Trained again with other seeds, the winner varies more than it leads, or fails."""
    confirm = case.confirm
    winner = confirm.contestants[0] if confirm is not None and confirm.contestants else None
    if confirm is None or winner is None:
        return None
    sign = -1 if confirm.mode == "min" else 1
    base = confirm.baseline.mean if confirm.baseline is not None else math.nan
    lead = sign * (winner.mean - base)
    evidence = {"values": list(winner.values), "sd": winner.sd, "lead": lead, "failed": winner.failed}
    cure = case.line("train.warmup_epochs", 1.0) or case.line("train.clip_norm", 1.0)
    if winner.failed:
        said = (
            f"Trained again with {len(winner.values)} seeds, the winner failed with {winner.failed} of them: it is at "
            "the edge of what can be trained."
        )
        return (Diagnosis("Make training steadier", said, "high", evidence, cure),)
    if winner.sd is None or not math.isfinite(lead) or lead <= 0 or winner.sd <= lead:
        return ()
    said = (
        f"Trained again with {len(winner.values)} seeds, the winner's {readable(case.experiment.metric)} varies by "
        f"{number(winner.sd)} (standard deviation), and its lead over the baseline is {number(lead)}: the seed counts "
        "for more than the values that were searched."
    )
    return (Diagnosis("Make training steadier", said, "middle", evidence, cure),)


def idle_workers(case: Case) -> Found:
    """Workers that were not training for much of the search."""
    if case.busy is None or case.workers < 2 or case.seconds < LONG_S:
        return None
    if case.busy >= BUSY:
        return ()
    limited = case.experiment.search.concurrency
    why = f", as search.concurrency lets {plural(limited, 'trial')} run at a time" if limited else ""
    line = None
    if limited is not None and limited < case.workers:
        line = case.line("search.concurrency", case.workers)
    elif case.experiment.search.scheduler.type in ("hyperband", "median"):
        line = case.line("search.scheduler", {"type": "asha"})
    return (
        Diagnosis(
            "Keep the workers busy",
            f"The {case.workers} workers trained {percent(case.busy)} of the {number(case.seconds)} s that the search "
            f"took, and waited for the rest{why}. More trials at a time, a scheduler that waits for none (asha), or "
            "fewer workers give the same result sooner or cheaper.",
            "low",
            {"busy": case.busy, "workers": case.workers, "seconds": case.seconds, "threshold": BUSY},
            line,
        ),
    )
