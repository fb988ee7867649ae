"""What the report says of a search as tables: facts in, a pandas frame out. The numbers are those of the report."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from nnopt_ray.evaluate import importance as importances
from nnopt_ray.evaluate import searched
from nnopt_ray.report.conduct import savings_of
from nnopt_ray.report.course import worked
from nnopt_ray.report.facts import Facts
from nnopt_ray.report.optimistic import judged
from nnopt_ray.report.slices import compared, conditions

if TYPE_CHECKING:
    import pandas as pd


def importance(facts: Facts) -> pd.DataFrame:
    """A row per objective, group of trials and value: share, low, high, told (more than chance), explained (R²)."""
    rows = [
        {
            "objective": found.metric,
            "among": conditions(group.under) or "all",
            "trials": group.trials,
            "value": share.path,
            "branch": share.branch,
            "share": share.share,
            "low": share.low,
            "high": share.high,
            "told": share.told,
            "explained": group.explained,
        }
        for found in importances.read(facts.evaluated.get("importance"))
        for group in found.groups
        for share in group.shares
    ]
    names = ("objective", "among", "trials", "value", "branch", "share", "low", "high", "told", "explained")
    return _frame(rows, names)


def marginals(facts: Facts) -> pd.DataFrame:
    """A row per place of a value's curve: the forest's mean over all other values (mean), and low, high."""
    rows = [
        {
            "objective": found.metric,
            "among": conditions(group.under) or "all",
            "branch": share.branch,
            "at": at,
            "mean": mean,
            "low": low,
            "high": high,
        }
        for found in importances.read(facts.evaluated.get("importance"))
        for group in found.groups
        for share in group.shares
        if (curve := share.curve) is not None
        for at, mean, low, high in zip(curve.x, curve.y, curve.low, curve.high, strict=True)
    ]
    return _frame(rows, ("objective", "among", "branch", "at", "mean", "low", "high"))


def slices(facts: Facts) -> pd.DataFrame:
    """A row per trial and value that it has: what it chose, and the objective as slices compare it (NaN: failed)."""
    found = importances.read(facts.evaluated.get("importance"))
    y = compared(facts, found[0] if found else None)
    values = searched.values(facts.experiment, [row.params for row in facts.rows])
    rows = [
        {"trial": row.trial, "branch": value.branch, "value": value.path, "chose": said, "score": y.get(row.trial)}
        for value in values
        for row in facts.rows
        if (said := searched.chosen(value, row.params)) is not None
    ]
    frame = _frame(rows, ("trial", "branch", "value", "chose", "score"))
    return frame.assign(score=frame["score"].astype(float))


def timeline(facts: Facts) -> pd.DataFrame:
    """A row per stint of a trial on a worker: begin_s, end_s (seconds of the search), first and last epoch."""
    names = ("trial", "worker", "begin_s", "end_s", "first", "last")
    return _frame([asdict(stint) for stint in facts.course.stints], names)


def workers(facts: Facts) -> pd.DataFrame:
    """A row per worker: how long it was there, busy and idle. Idle time is NaN where an old journal does not tell."""
    rows = []
    for each in worked(facts.course):
        row = asdict(each) | {"idle_s": each.idle_s}
        unknown = ("there_s", "busy_s", "idle_s", "before_s", "between_s", "after_s")
        rows.append(row if row.pop("told") else row | dict.fromkeys(unknown, float("nan")))
    names = ("worker", "node", "here", "begin_s", "there_s", "busy_s", "idle_s", "before_s", "between_s", "after_s")
    return _frame(rows, (*names, "trials", "epochs"))


def savings(facts: Facts) -> pd.DataFrame:
    """One row: what the scheduler left out, see evaluate.savings.Savings."""
    found = asdict(savings_of(facts))
    return _frame([found], tuple(found))


def optimism(facts: Facts) -> pd.DataFrame:
    """One row, see evaluate.optimism.Optimism; none where it cannot be told."""
    found = judged(facts)
    names = ("gap", "noise", "source", "trials", "contenders", "expected", "most", "lucky")
    return _frame([] if found is None else [asdict(found)], names)


def _frame(rows: list[dict[str, object]], columns: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=list(columns))
