"""The door of the room: predict, decide, score, compare with the baseline.

The test part is predicted once by the winner and once by the baseline, here and nowhere else. What is fitted to
predictions (temperature, threshold) is fitted to those of the validation part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from nnopt_ray.data.types import Dataset, Rows
from nnopt_ray.evaluate import amounts_told, metrics, scoring
from nnopt_ray.evaluate.deciding import Said, decision_for, told
from nnopt_ray.evaluate.decision import Decision
from nnopt_ray.evaluate.evaluation import Evaluation, Predictions
from nnopt_ray.evaluate.outputs import predict, targets
from nnopt_ray.evaluate.page_loss import page_loss
from nnopt_ray.evaluate.scoring import measures, score
from nnopt_ray.evaluate.writing import write
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import Machine, derived_seed
from nnopt_ray.results import Part

PARTS: tuple[Part, ...] = ("validation", "test")


def evaluate(
    experiment: Experiment, dataset: Dataset, machine: Machine, winner: nn.Module, baseline: nn.Module
) -> Evaluation:
    """Measure winner and baseline on the validation and the test part; each predicts each part once."""
    rows: dict[Part, Rows] = {"validation": dataset.validation, "test": dataset.test}
    target = {part: targets(rows[part], dataset) for part in PARTS}
    measured = measures(experiment, dataset)
    said = {part: _fixed(predict(winner, rows[part], dataset, machine)) for part in PARTS}
    simple = {part: _fixed(predict(baseline, rows[part], dataset, machine)) for part in PARTS}
    decision = decision_for(experiment, dataset, said["validation"], target["validation"])
    of_simple = decision_for(experiment, dataset, simple["validation"], target["validation"])

    def scored(outputs: Mapping[Part, np.ndarray], decision: Decision) -> dict[Part, scoring.Measured]:
        return {
            part: scoring.measure(measured, outputs[part], target[part], dataset, experiment, part, decision)
            for part in PARTS
        }

    of_winner, of_baseline = scored(said, decision), scored(simple, of_simple)
    name = metrics.bare(experiment.metric)
    kind = getattr(baseline, "kind", "")
    return Evaluation(
        task=dataset.shapes.task,
        metric=name,
        mode=measured[name].mode,
        confidence=experiment.evaluate.confidence,
        resamples=experiment.evaluate.bootstrap,
        winner={part: one.scores for part, one in of_winner.items()},
        baseline={part: one.scores for part, one in of_baseline.items()},
        baseline_type=f"{experiment.evaluate.baseline.type} ({kind})" if kind else experiment.evaluate.baseline.type,
        gains=scoring.gains(measured, of_winner["test"], of_baseline["test"], experiment.evaluate.confidence),
        predictions={part: Predictions(np.asarray(rows[part].source_rows), target[part], said[part]) for part in PARTS},
        decision=decision,
        found=_told(
            experiment, dataset, {part: (said[part], target[part]) for part in PARTS}, simple["test"], decision
        ),
    )


def _told(
    experiment: Experiment, dataset: Dataset, said: Said, simple: np.ndarray, decision: Decision
) -> dict[str, Any]:
    """What stands in evaluation/ beside the scores: file → content."""
    if dataset.shapes.task != "regression":
        return told(experiment, dataset, said, decision)
    found = amounts_told.told(
        said["validation"],
        said["test"],
        simple,
        steps=experiment.data.window is not None,
        confidence=experiment.evaluate.confidence,
        resamples=experiment.evaluate.bootstrap,
        seed=derived_seed(experiment.seed, "bootstrap", "test"),
    )
    return {"amounts": found} if found else {}


def _fixed(outputs: np.ndarray) -> np.ndarray:
    """The same, not to be written to."""
    outputs.setflags(write=False)
    return outputs


__all__ = [
    "PARTS",
    "Evaluation",
    "Part",
    "Predictions",
    "evaluate",
    "measures",
    "page_loss",
    "predict",
    "score",
    "targets",
    "write",
]
