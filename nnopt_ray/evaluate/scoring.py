"""What a model's outputs on one part are worth: every metric, with its interval, and every class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nnopt_ray.data.types import Dataset, Rows
from nnopt_ray.errors import PartError
from nnopt_ray.evaluate import intervals, metrics
from nnopt_ray.evaluate.by_class import confusion_of, table_of_classes
from nnopt_ray.evaluate.classes import F1, Precision, Recall
from nnopt_ray.evaluate.decision import Decision, decided
from nnopt_ray.evaluate.given import given_by
from nnopt_ray.evaluate.intervals import Gain, Resampled
from nnopt_ray.evaluate.metrics import Metric
from nnopt_ray.evaluate.outputs import targets
from nnopt_ray.evaluate.page_loss import page_loss
from nnopt_ray.evaluate.ranking import Area
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import derived_seed
from nnopt_ray.results import Part, Scores

OF_EACH_CLASS: Mapping[str, Metric] = {"precision": Precision(), "recall": Recall(), "f1": F1()}
OF_LEVELS = ("mape", "smape")  # shares of the true value, which say nothing where it is a change that may be 0
FORETOLD_CHANGES = (
    "True and foretold values are changes from the last time point that is seen (data.window.foretell: change), so r2 "
    "is of the changes, which are harder to tell than the level."
)


@dataclass(frozen=True)
class Measured:
    """Scores, and what each metric was in each resample."""

    scores: Scores
    resampled: Mapping[str, Resampled]


def measures(experiment: Experiment, dataset: Dataset) -> dict[str, Metric]:
    """All that is measured at the end, `loss` first."""
    others = metrics.chosen(experiment.evaluate.metrics, experiment.metric, dataset.shapes.task)
    given = given_by(experiment, dataset)
    if _of_changes(experiment) and "auto" in (experiment.evaluate.metrics, *experiment.evaluate.metrics):
        asked = (*experiment.evaluate.metrics, metrics.bare(experiment.metric))
        others = {name: metric for name, metric in others.items() if name not in OF_LEVELS or name in asked}
    if given.naive_error is not None and "auto" in (experiment.evaluate.metrics, *experiment.evaluate.metrics):
        others |= {name: metrics.metric_for(name) for name in ("mase",)}
    return {"loss": page_loss(experiment, dataset)} | {name: metric.given(given) for name, metric in others.items()}


def _of_changes(experiment: Experiment) -> bool:
    window = experiment.data.window
    return window is not None and window.foretell == "change"


def score(
    outputs: np.ndarray,
    rows: Rows,
    dataset: Dataset,
    experiment: Experiment,
    part: Part,
    decision: Decision | None = None,
) -> Scores:
    """Metrics of predictions (as `predict` gives them) on one part; on the test part with bootstrap intervals.

    The validation part has no intervals: what was chosen by it looks better on it than it is, and
    resampling its rows does not show that.
    """
    return measure(
        measures(experiment, dataset),
        outputs,
        targets(rows, dataset),
        dataset,
        experiment,
        part,
        decision or Decision(),
    ).scores


def measure(
    measured: Mapping[str, Metric],
    outputs: np.ndarray,
    target: np.ndarray,
    dataset: Dataset,
    experiment: Experiment,
    part: Part,
    decision: Decision,
) -> Measured:
    """Every metric of outputs (as `predict` gives them; of classes the decision is applied here) on one part."""
    classes = dataset.classes if dataset.shapes.task == "classification" else ()
    bad = int((~np.isfinite(outputs)).reshape(len(outputs), -1).any(axis=1).sum())
    if bad:
        note = f"Nothing is measured on the {part} part: the model's outputs are not finite in {bad} of its rows."
        values = dict.fromkeys(measured, math.nan)
        return Measured(Scores(part=part, rows=len(target), metrics=values, classes=classes, notes=(note,)), {})
    predicted = None
    if classes:
        _, predicted = decided(outputs, decision)
        outputs = decision.logits(outputs)
    # A metric of the predicted class sees what the threshold decides: the class that is predicted, and no other.
    moved = predicted is not None and not np.array_equal(predicted, outputs.argmax(axis=1))
    certain = np.eye(len(classes))[predicted] if moved else None
    values, reasons = {}, {}
    for name, metric in measured.items():
        said = outputs if certain is None or not metric.of_decisions else certain
        try:
            values[name] = metric(said, target)
            if math.isnan(values[name]):
                reasons[name] = metric.why_undefined(target, classes)
        except PartError as error:  # of the user's own: a fault in it must not lose the run
            values[name], reasons[name] = math.nan, str(error).rstrip(".")
    notes = [FORETOLD_CHANGES] if _of_changes(experiment) else []
    notes += [f"{are} not defined on the {part} part: {why}." for are, why in _grouped(reasons)]
    drawn = {name: metric for name, metric in measured.items() if not math.isnan(values[name])}
    if classes:  # each class has its intervals, also where the average is not defined or not asked for
        drawn |= {name: metric for name, metric in measured.items() if isinstance(metric, Area)}
        drawn |= {name: measured.get(name, metric) for name, metric in OF_EACH_CLASS.items()}
    resampled = intervals.resample(
        drawn,
        outputs,
        target,
        resamples=experiment.evaluate.bootstrap if part == "test" else 0,
        seed=derived_seed(experiment.seed, "bootstrap", part),
        decided=certain,
    )
    resampled_by_class = resampled
    resampled = {name: drawn for name, drawn in resampled.items() if not math.isnan(values.get(name, math.nan))}
    ends, told = _ends(resampled, experiment, part)
    notes += told
    if predicted is not None and not (predicted != target).any():
        notes.append(_all_right(len(target), part, experiment.evaluate.confidence))
    scores = Scores(
        part=part,
        rows=len(target),
        metrics=values,
        intervals=ends,
        per_class=table_of_classes(
            measured, outputs, predicted, target, classes, resampled_by_class, experiment.evaluate.confidence
        )
        if predicted is not None
        else (),
        confusion=confusion_of(predicted, target, len(classes)) if predicted is not None else (),
        classes=classes,
        notes=tuple(notes),
    )
    return Measured(scores, resampled)


def _ends(
    resampled: Mapping[str, Resampled], experiment: Experiment, part: Part
) -> tuple[dict[str, tuple[float, float]], list[str]]:
    """The intervals, and sentences about those that are not what they might be taken for."""
    ends: dict[str, tuple[float, float]] = {}
    gaps: dict[str, str] = {}
    fewer: dict[str, str] = {}
    for name, drawn in resampled.items():
        found = intervals.interval(drawn.values, experiment.evaluate.confidence)
        if found is not None:
            ends[name] = found
        missing, number = int(np.isnan(drawn.values).sum()), len(drawn.values)
        if missing:
            then = "such resamples are left out of the interval" if name in ends else "so there is no interval"
            gaps[name] = f"{missing} of {number} resamples of the {part} rows; {then}."
        if 0 < number < experiment.evaluate.bootstrap:
            fewer[name] = f"the first {number} of {experiment.evaluate.bootstrap} resamples, being called for each."
    notes = [f"{are} not defined in {gap}" for are, gap in _grouped(gaps)]
    return ends, notes + [f"{are} measured on {what}" for are, what in _grouped(fewer)]


def _grouped(said: Mapping[str, str]) -> list[tuple[str, str]]:
    """("roc_auc and pr_auc are", what is said of both), in the order of the first of each."""
    together: dict[str, list[str]] = {}
    for name, sentence in said.items():
        together.setdefault(sentence, []).append(name)
    return [(f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}", said) for said, names in together.items()]


def _all_right(rows: int, part: Part, confidence: float) -> str:
    """What to say where every row is recognised, as no resample can then show an error."""
    chance = 1 - confidence
    rate = 1 - chance ** (1 / rows)  # exact binomial bound for 0 errors (Clopper & Pearson 1934)
    return (
        f"All {rows} rows of the {part} part are recognised, and drawing from them again cannot show an error: "
        f"a true error rate of {100 * rate:.2g} % would still give this with a chance of {100 * chance:.2g} %."
    )


def gains(measured: Mapping[str, Metric], one: Measured, other: Measured, confidence: float) -> dict[str, Gain]:
    """How much better `one` is, a gain for each metric; NaN where it is not defined for both."""
    found: dict[str, Gain] = {}
    for name, metric in measured.items():
        values = one.scores.metrics[name], other.scores.metrics[name]
        if math.isnan(sum(values)):
            found[name] = Gain(math.nan, math.nan, math.nan)
        else:
            drawn = one.resampled[name].values, other.resampled[name].values
            found[name] = intervals.gain(metric.mode, *values, *drawn, confidence)
    return found
