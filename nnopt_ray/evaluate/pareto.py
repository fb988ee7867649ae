"""Several objectives: the trials that no other beats in all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnopt_ray.results import TrialRow

Objectives = Sequence[tuple[str, str]]  # (mode "min" or "max", metric), as Experiment.objectives has them


def front(rows: Sequence[tuple[float, ...]], modes: Sequence[str]) -> list[bool]:
    """Which rows no other row dominates: is as good in every objective and better in one.

    Equal rows stand on the front together; a row with NaN never stands on it and dominates none.
    Time: rows x size of the front.
    """
    signs = [1.0 if mode == "min" else -1.0 for mode in modes]
    costs = [tuple(sign * value for sign, value in zip(signs, row, strict=True)) for row in rows]
    # In lexicographic order whatever dominates a row comes before it, and is on the front or behind one that is.
    order = sorted((i for i, cost in enumerate(costs) if not any(map(math.isnan, cost))), key=lambda i: costs[i])
    best: list[tuple[float, ...]] = []
    found = [False] * len(rows)
    for i in order:
        cost = costs[i]
        if any(other != cost and all(a <= b for a, b in zip(other, cost, strict=True)) for other in best):
            continue
        found[i] = True
        if not best or best[-1] != cost:
            best.append(cost)
    return found


def objective_values(row: TrialRow, objectives: Objectives) -> tuple[float, ...] | None:
    """A trial's number for each objective, those of an epoch at its best epoch; None where one is missing."""
    if row.value is None or row.status == "failed":
        return None
    known = {**row.metrics, "seconds": row.seconds, objectives[0][1]: row.value}
    values = tuple(float(known.get(metric, math.nan)) for _, metric in objectives)
    return None if any(map(math.isnan, values)) else values


def pareto(rows: Sequence[TrialRow], objectives: Objectives) -> list[tuple[TrialRow, tuple[float, ...]]]:
    """The finished trials that no other finished one beats in all objectives, best by the first one first.

    Trials that were stopped early are left out: what they cost is not what a full training costs.
    """
    known = [(row, objective_values(row, objectives)) for row in rows if row.status == "finished"]
    valued = [(row, values) for row, values in known if values is not None]
    modes = [mode for mode, _ in objectives]
    kept = front([values for _, values in valued], modes)
    sign = 1.0 if modes[0] == "min" else -1.0
    return sorted((pair for pair, on in zip(valued, kept, strict=True) if on), key=lambda pair: sign * pair[1][0])
