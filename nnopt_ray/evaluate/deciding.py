"""The decision of a classifier, fitted to its predictions of the validation part, and what it does on the test part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from nnopt_ray import tables
from nnopt_ray.data.types import Dataset
from nnopt_ray.errors import UserError
from nnopt_ray.evaluate import intervals
from nnopt_ray.evaluate.calibration import calibration, fit_temperature
from nnopt_ray.evaluate.classes import F1, Precision, Recall
from nnopt_ray.evaluate.decision import Decision, decided
from nnopt_ray.evaluate.given import positive_of
from nnopt_ray.evaluate.metrics import Metric
from nnopt_ray.evaluate.threshold import Aim, At, Cuts, cuts_of
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import derived_seed
from nnopt_ray.results import Part

POINTS = 200  # of the curve in the report
MEASURED: Mapping[str, Metric] = {"precision": Precision(), "recall": Recall(), "f1": F1()}
Said = Mapping[Part, tuple[np.ndarray, np.ndarray]]  # (outputs, target) of a part


def check(experiment: Experiment, dataset: Dataset) -> None:
    """Raises UserError where the page asks for what this data has not."""
    page, classes = experiment.evaluate, dataset.classes
    positive_of(experiment, dataset)
    what = f"{len(classes)} classes" if classes else dataset.shapes.task.replace("_", " ")
    if page.calibrate != "none" and dataset.shapes.task != "classification":
        raise UserError(f"evaluate.calibrate is for classification, and this data is {what}. Take it away.")
    if not _is_half(page.threshold) and len(classes) != 2:
        raise UserError(f"evaluate.threshold is for two classes, and this data has {what}. Take it away.")


def _is_half(part: tables.Part) -> bool:
    return part.type == "at" and part["probability"] == 0.5


def decision_for(experiment: Experiment, dataset: Dataset, outputs: np.ndarray, target: np.ndarray) -> Decision:
    """The decision that the page asks for, fitted to what a model said about the validation part."""
    positive = positive_of(experiment, dataset)
    if dataset.shapes.task != "classification" or not np.isfinite(outputs).all():
        return Decision(positive=positive)
    temperature = fit_temperature(outputs, target)[0] if experiment.evaluate.calibrate == "temperature" else 1.0
    aim: Aim = tables.build("threshold", experiment.evaluate.threshold)
    if isinstance(aim, At):
        return Decision(temperature, aim.probability, positive)
    probabilities, _ = decided(outputs, Decision(temperature))
    cuts = cuts_of(probabilities[:, positive], target == positive) if positive is not None else None
    return Decision(temperature, aim.choose(cuts) if cuts is not None else 0.5, positive)


def told(experiment: Experiment, dataset: Dataset, said: Said, decision: Decision) -> dict[str, Any]:
    """What stands in evaluation/ about the winner's decision: `calibration`, and of two classes `threshold`."""
    if dataset.shapes.task != "classification" or not all(np.isfinite(outputs).all() for outputs, _ in said.values()):
        return {}
    page = experiment.evaluate
    sizes: dict[str, Any] = {
        "confidence": page.confidence,
        "resamples": page.bootstrap,
        "seed": derived_seed(experiment.seed, "bootstrap", "test"),
    }
    found = {
        "calibration": calibration(
            said["validation"],
            said["test"],
            dataset.classes,
            decision.positive,
            page.calibrate == "temperature",
            **sizes,
        )
    }
    if decision.positive is not None:
        found["threshold"] = _threshold(experiment, dataset.classes[decision.positive], said, decision, **sizes)
    return found


def _threshold(experiment: Experiment, positive: str, said: Said, decision: Decision, **sizes: Any) -> dict[str, Any]:
    """evaluation/threshold.json."""
    outputs, target = said["validation"]
    probabilities, _ = decided(outputs, decision)
    cuts = cuts_of(probabilities[:, decision.positive], target == decision.positive)
    aim: Aim = tables.build("threshold", experiment.evaluate.threshold)
    note = "" if cuts is not None else "No threshold was chosen: the validation part has one class only."
    others: Mapping[str, str] = {"f1": "f1", "balanced_accuracy": "balanced_accuracy"}
    return {
        "aim": experiment.evaluate.threshold.page(),
        "positive": positive,
        "threshold": decision.threshold,
        "note": note or (aim.missed(cuts) if cuts is not None else ""),
        "would_choose": {
            name: tables.build("threshold", tables.Part(part)).choose(cuts) for name, part in others.items()
        }
        if cuts is not None
        else {},
        "curve": _curve(cuts) if cuts is not None else {},
        "test": _on_test(*said["test"], decision, **sizes),
    }


def _curve(cuts: Cuts) -> dict[str, list[float]]:
    """Some cuts of the validation part, evenly over the thresholds, the ends too."""
    grid = np.linspace(0, cuts.thresholds[-1], POINTS)
    kept = np.unique(np.searchsorted(cuts.thresholds, grid).clip(max=len(cuts.thresholds) - 1))
    shares = {"threshold": cuts.thresholds, "precision": cuts.precision, "recall": cuts.recall, "f1": cuts.f1}
    return {name: values[kept].tolist() for name, values in shares.items()}


def _on_test(
    outputs: np.ndarray, target: np.ndarray, decision: Decision, *, confidence: float, resamples: int, seed: int
) -> dict[str, Any]:
    """Precision, recall and F1 of the positive class at 0.5 and at the threshold, and what the threshold gains."""
    at = {"at_half": 0.5} | ({} if decision.threshold == 0.5 else {"chosen": decision.threshold})
    drawn: dict[str, Mapping[str, np.ndarray]] = {}
    found: dict[str, Any] = {}
    positive = decision.positive
    for name, threshold in at.items():
        _, predicted = decided(outputs, Decision(decision.temperature, threshold, positive))
        certain = np.eye(2)[predicted]
        resampled = intervals.resample(MEASURED, certain, target, resamples=resamples, seed=seed)
        drawn[name] = {
            metric: one.by_class[positive] if one.by_class is not None else one.values
            for metric, one in resampled.items()
        }
        is_it, said = target == positive, predicted == positive
        right, true, alarms = int((is_it & said).sum()), int(is_it.sum()), int(said.sum())
        found[name] = {
            "threshold": threshold,
            "found": right,
            "missed": true - right,
            "false_alarms": alarms - right,
            "left_alone": len(target) - true - alarms + right,
            "precision": right / alarms if alarms else 0.0,
            "recall": right / true if true else None,
            "f1": 2 * right / (true + alarms) if true + alarms else None,
            "intervals": {metric: intervals.interval(values, confidence) for metric, values in drawn[name].items()},
        }
    if "chosen" in found:
        found["gain"] = {
            metric: asdict(
                intervals.gain(
                    "max",
                    found["chosen"][metric] if found["chosen"][metric] is not None else np.nan,
                    found["at_half"][metric] if found["at_half"][metric] is not None else np.nan,
                    drawn["chosen"][metric],
                    drawn["at_half"][metric],
                    confidence,
                )
            )
            for metric in MEASURED
        }
    return found
