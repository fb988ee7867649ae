"""How far off numbers are: every output by itself, and a margin that holds as often as it says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnopt_ray.evaluate import intervals
from nnopt_ray.evaluate.amounts import MeanAbsoluteError, RootMeanSquaredError
from nnopt_ray.evaluate.calibration import wilson

MEASURED = {"mae": MeanAbsoluteError(), "rmse": RootMeanSquaredError()}


def margins(outputs: np.ndarray, target: np.ndarray, confidence: float) -> np.ndarray | None:
    """float64 [outputs]: half the width of an interval around a prediction that holds the true value of a new row with
    this probability, if new rows are like these (split conformal prediction, Lei et al. 2018, "Distribution-free
    predictive inference for regression"): the ceil((rows + 1) confidence)-th smallest absolute residual.

    Both [rows, outputs] of rows that were not learned from. None where there are too few of them to say.
    """
    rows = len(target)
    rank = math.ceil((rows + 1) * confidence)
    if rank > rows:
        return None
    found: np.ndarray = np.sort(np.abs(outputs - target), axis=0)[rank - 1]
    return found


def told(
    validation: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    baseline: np.ndarray,
    *,
    steps: bool,
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """evaluation/amounts.json: errors of each output on the test part, of the winner and the baseline, and the margin
    from the validation part with how often it held. validation and test: the winner's (outputs, target), baseline its
    outputs of the test part. steps: the outputs are steps of a horizon. Empty where an output is not finite."""
    outputs, target = test
    if not np.isfinite(outputs).all() or not np.isfinite(validation[0]).all():
        return {}
    margin = margins(*validation, confidence)
    rows = []
    for index in range(outputs.shape[1]):
        one, true, simple = (each[:, index : index + 1] for each in (outputs, target, baseline))
        drawn = intervals.resample(MEASURED, one, true, resamples=resamples, seed=seed)
        known = bool(np.isfinite(simple).all())
        row: dict[str, Any] = {
            name: {
                "winner": metric(one, true),
                "interval": intervals.interval(drawn[name].values, confidence),
                "baseline": metric(simple, true) if known else None,
            }
            for name, metric in MEASURED.items()
        }
        if margin is not None:
            held = float((np.abs(one - true) <= margin[index]).mean())
            between = wilson(held * len(true), len(true), confidence)
            row |= {"margin": float(margin[index]), "held": held, "held_interval": between}
        rows.append(row)
    return {"steps": steps, "confidence": confidence, "validation_rows": len(validation[1]), "outputs": rows}
