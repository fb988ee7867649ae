"""The door of the room: predict, score, compare with the baseline, write evaluation/.

The test part is predicted once by the winner and once by the baseline, here and nowhere else.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from nnopt_ray import rundir, tables
from nnopt_ray.data.types import IGNORED, LANGUAGE, Dataset, Rows, Task
from nnopt_ray.errors import PartError
from nnopt_ray.evaluate import intervals, metrics
from nnopt_ray.evaluate.intervals import Gain
from nnopt_ray.evaluate.metrics import Loss, Metric
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import Machine, derived_seed
from nnopt_ray.results import Scores
from nnopt_ray.train import language
from nnopt_ray.train.losses import Loss as TrainingLoss
from nnopt_ray.train.precision import LOWER

Part = Literal["validation", "test"]
PARTS: tuple[Part, ...] = ("validation", "test")
TOLD_LOGITS = 2**24  # of a language task: logits at a time, 64 MiB


@dataclass(frozen=True)
class Predictions:
    """What the winner said about one part. outputs: as `predict` gives them.

    target: int64 [rows] class indices or [rows, length] tokens, or float64 [rows, outputs] in the user's units.
    """

    source_rows: np.ndarray
    target: np.ndarray
    outputs: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """Winner and baseline measured on the same rows.

    `gains` are on the test part, a metric each, positive where the winner is better. `metric` is the
    objective's, without `val_`. `baseline_type` tells the kind too: "baseline (linear)".
    """

    task: Task
    metric: str
    mode: Literal["min", "max"]
    confidence: float
    resamples: int
    winner: Mapping[Part, Scores]
    baseline: Mapping[Part, Scores]
    baseline_type: str
    gains: Mapping[str, Gain]
    predictions: Mapping[Part, Predictions]

    @property
    def winner_test(self) -> Scores:
        return self.winner["test"]

    @property
    def baseline_test(self) -> Scores:
        return self.baseline["test"]

    @property
    def gain(self) -> Gain:
        """On the objective's metric."""
        return self.gains[self.metric]


@dataclass(frozen=True)
class _Measured:
    """Scores, and what each metric was in each resample, float64 [resamples]."""

    scores: Scores
    resampled: Mapping[str, np.ndarray]


def predict(model: nn.Module, rows: Rows, dataset: Dataset, machine: Machine, batch: int = 1024) -> np.ndarray:
    """What the model says about the rows, in evaluation mode, `batch` rows at a time.

    Classification: logits float32 [rows, outputs]; regression: the user's units, float64 [rows, outputs]; a
    language task: what `train.language.told` makes of the logits, float32 [rows, length, 3].
    Raises PartError when the model returns another shape.
    """
    model = model.to(machine.device)
    training = model.training
    model.eval()
    shapes = dataset.shapes
    length = shapes.inputs[0].shape if shapes.is_language else ()
    outputs: np.ndarray = np.empty((len(rows), shapes.outputs), dtype=np.float32)
    if shapes.is_language:
        outputs = np.empty((len(rows), *length, len(language.TOLD)), dtype=np.float32)
        batch = max(1, min(batch, TOLD_LOGITS // (length[0] * shapes.outputs)))
    lower = LOWER.get(machine.precision)
    try:
        with torch.inference_mode(), torch.autocast(machine.device, lower, enabled=lower is not None):
            for start in range(0, len(rows), batch):
                part = slice(start, start + batch)
                # np.array copies: torch cannot take a read-only memory map.
                inputs = [torch.from_numpy(np.array(x[part])).to(machine.device) for x in rows.inputs]
                said = model(*inputs)
                expected = (len(inputs[0]), *length, shapes.outputs)
                if tuple(said.shape) != expected:
                    raise PartError(
                        f"the model {type(model).__name__} returned a tensor of shape {tuple(said.shape)} for "
                        f"{expected[0]} rows, and must return {expected}: rows, {'length, ' if length else ''}outputs."
                    )
                if shapes.is_language:
                    target = torch.from_numpy(np.array(rows.target[part])).to(machine.device)
                    said = language.told(said.float(), target)
                    outputs[part] = said.cpu().numpy()
                else:
                    outputs[part] = said.float().cpu().numpy()
    finally:
        model.train(training)
    if shapes.task == "regression":
        return dataset.user_units(outputs.astype(np.float64))
    return outputs


def targets(rows: Rows, dataset: Dataset) -> np.ndarray:
    """int64 [rows] class indices or [rows, length] tokens, or float64 [rows, outputs] in the user's units."""
    if dataset.shapes.task == "regression":
        return dataset.user_units(np.asarray(rows.target, dtype=np.float64))
    return np.asarray(rows.target)


def page_loss(experiment: Experiment, dataset: Dataset) -> Loss:
    """The page's loss as a metric of outputs and targets in the user's units; its value is in training units."""
    shapes = dataset.shapes
    classes = shapes.task == "classification"
    counts = np.bincount(dataset.train.target, minlength=shapes.outputs) if classes else None
    loss = tables.build("loss", experiment.train.loss, shapes, counts)
    if shapes.is_language:
        return _token_loss(loss)

    def training_units(values: np.ndarray) -> torch.Tensor:
        if classes:
            return torch.from_numpy(np.array(values))
        return torch.from_numpy(((values - dataset.target_mean) / dataset.target_scale).astype(np.float32))

    def mean(outputs: np.ndarray, target: np.ndarray) -> float:
        with torch.inference_mode():
            return float(loss(training_units(outputs), training_units(target)))

    def by_row(outputs: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Row by row, as a loss promises no more than the mean of a batch and what the batch counts.
        with torch.inference_mode():
            said, true = training_units(outputs), training_units(target)
            rows = [slice(row, row + 1) for row in range(len(true))]
            losses = np.array([float(loss(said[row], true[row])) for row in rows])
            weights = np.array([float(loss.weight(true[row])) for row in rows])
        return losses, weights

    return Loss(mean, by_row)


def _token_loss(loss: TrainingLoss) -> Loss:
    """The page's loss of a language task as a metric of what `train.language.told` gives."""

    def by_row(told: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked = target != IGNORED
        counts = asked.sum(axis=1).astype(np.float64)
        return np.where(asked, loss.of_told(told.astype(np.float64)), 0.0).sum(axis=1) / np.maximum(counts, 1), counts

    def mean(told: np.ndarray, target: np.ndarray) -> float:
        losses, counts = by_row(told, target)
        return float(losses @ counts / counts.sum())

    return Loss(mean, by_row)


def measures(experiment: Experiment, dataset: Dataset) -> dict[str, Metric]:
    """All that is measured at the end, `loss` first."""
    others = metrics.chosen(experiment.evaluate.metrics, experiment.metric, dataset.shapes.task)
    return {"loss": page_loss(experiment, dataset), **others}


def score(outputs: np.ndarray, rows: Rows, dataset: Dataset, experiment: Experiment, part: Part) -> Scores:
    """Metrics of predictions (as `predict` gives them) on one part; on the test part with bootstrap intervals.

    The validation part has no intervals: what was chosen by it looks better on it than it is, and
    resampling its rows does not show that.
    """
    return _measure(measures(experiment, dataset), outputs, rows, dataset, experiment, part).scores


def _measure(
    measured: Mapping[str, Metric],
    outputs: np.ndarray,
    rows: Rows,
    dataset: Dataset,
    experiment: Experiment,
    part: Part,
) -> _Measured:
    target = targets(rows, dataset)
    classes = dataset.classes if dataset.shapes.task == "classification" else ()
    bad = int((~np.isfinite(outputs)).reshape(len(outputs), -1).any(axis=1).sum())
    if bad:
        note = f"Nothing is measured on the {part} part: the model's outputs are not finite in {bad} of its rows."
        values = dict.fromkeys(measured, math.nan)
        return _Measured(Scores(part=part, rows=len(rows), metrics=values, classes=classes, notes=(note,)), {})
    values = {name: metric(outputs, target) for name, metric in measured.items()}
    reasons = {n: measured[n].why_undefined(target, classes) for n, value in values.items() if math.isnan(value)}
    notes = [f"{are} not defined on the {part} part: {why}." for are, why in _grouped(reasons)]
    resampled = intervals.resample(
        {name: metric for name, metric in measured.items() if not math.isnan(values[name])},
        outputs,
        target,
        resamples=experiment.evaluate.bootstrap if part == "test" else 0,
        seed=derived_seed(experiment.seed, "bootstrap", part),
    )
    ends: dict[str, tuple[float, float]] = {}
    gaps: dict[str, str] = {}
    for name, drawn in resampled.items():
        found = intervals.interval(drawn, experiment.evaluate.confidence)
        if found is not None:
            ends[name] = found
        missing = int(np.isnan(drawn).sum())
        if missing:
            then = "such resamples are left out of the interval" if name in ends else "so there is no interval"
            gaps[name] = f"{missing} of {len(drawn)} resamples of the {part} rows; {then}."
    notes += [f"{are} not defined in {gap}" for are, gap in _grouped(gaps)]
    if classes and not (outputs.argmax(axis=1) != target).any():
        notes.append(_all_right(len(target), part, experiment.evaluate.confidence))
    scores = Scores(
        part=part,
        rows=len(rows),
        metrics=values,
        intervals=ends,
        per_class=_per_class(outputs, target, classes),
        confusion=_confusion(outputs, target, len(classes)),
        classes=classes,
        notes=tuple(notes),
    )
    return _Measured(scores, resampled)


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


def _confusion(outputs: np.ndarray, target: np.ndarray, classes: int) -> tuple[tuple[int, ...], ...]:
    """[true][predicted] rows; empty for regression."""
    if not classes:
        return ()
    cells = np.bincount(target * classes + outputs.argmax(axis=1), minlength=classes * classes)
    return tuple(tuple(row) for row in cells.reshape(classes, classes).tolist())


def _per_class(outputs: np.ndarray, target: np.ndarray, classes: tuple[str, ...]) -> tuple[Mapping[str, Any], ...]:
    """A row per class; what would divide by zero is 0, as in the averages."""
    table = np.array(_confusion(outputs, target, len(classes)))
    rows: list[Mapping[str, Any]] = []
    for index, name in enumerate(classes):
        right, true, said = int(table[index, index]), int(table[index].sum()), int(table[:, index].sum())
        rows.append(
            {
                "class": name,
                "precision": right / said if said else 0.0,
                "recall": right / true if true else 0.0,
                "f1": 2 * right / (true + said) if true + said else 0.0,
                "rows": true,
            }
        )
    return tuple(rows)


def evaluate(
    experiment: Experiment, dataset: Dataset, machine: Machine, winner: nn.Module, baseline: nn.Module
) -> Evaluation:
    """Measure winner and baseline on the validation and the test part; each predicts each part once."""
    rows: dict[Part, Rows] = {"validation": dataset.validation, "test": dataset.test}
    said = {part: predict(winner, rows[part], dataset, machine) for part in PARTS}
    measured = measures(experiment, dataset)
    of_winner = {part: _measure(measured, said[part], rows[part], dataset, experiment, part) for part in PARTS}
    of_baseline = {
        part: _measure(measured, predict(baseline, rows[part], dataset, machine), rows[part], dataset, experiment, part)
        for part in PARTS
    }
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
        gains=_gains(measured, of_winner["test"], of_baseline["test"], experiment.evaluate.confidence),
        predictions={
            part: Predictions(np.asarray(rows[part].source_rows), targets(rows[part], dataset), said[part])
            for part in PARTS
        },
    )


def _gains(measured: Mapping[str, Metric], one: _Measured, other: _Measured, confidence: float) -> dict[str, Gain]:
    """A gain for each metric; NaN where it is not defined for both."""
    gains: dict[str, Gain] = {}
    for name, metric in measured.items():
        values = one.scores.metrics[name], other.scores.metrics[name]
        if math.isnan(sum(values)):
            gains[name] = Gain(math.nan, math.nan, math.nan)
        else:
            gains[name] = intervals.gain(metric.mode, *values, one.resampled[name], other.resampled[name], confidence)
    return gains


def write(evaluation: Evaluation, run: rundir.RunDir) -> None:
    """Write evaluation/: scores.json, predictions.parquet and, for classes, confusion.csv of the test part."""
    rundir.write_json(
        run.scores,
        {
            "objective": {"metric": evaluation.metric, "mode": evaluation.mode},
            "confidence": evaluation.confidence,
            "resamples": evaluation.resamples,
            "winner": {part: asdict(scores) for part, scores in evaluation.winner.items()},
            "baseline_type": evaluation.baseline_type,
            "baseline": {part: asdict(scores) for part, scores in evaluation.baseline.items()},
            "gains": {name: asdict(gain) for name, gain in evaluation.gains.items()},
        },
    )
    _write_predictions(evaluation, run)
    scores = evaluation.winner["test"]
    if scores.confusion:
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(["true \\ predicted", *scores.classes])
        table.writerows([name, *row] for name, row in zip(scores.classes, scores.confusion, strict=True))
        rundir.write_text(run.confusion, text.getvalue())


def _write_predictions(evaluation: Evaluation, run: rundir.RunDir) -> None:
    """predictions.parquet: source_row, part, true, predicted and for classes p_<class>, in the source's order; of a
    language task the tokens asked for in each block, their mean log loss (nats), and how many were right."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pieces = []
    for part, predictions in evaluation.predictions.items():
        order = np.argsort(predictions.source_rows, kind="stable")
        columns: dict[str, Any] = {
            "source_row": predictions.source_rows[order],
            "part": pa.array([part] * len(order), pa.string()),
        }
        outputs, target = predictions.outputs[order], predictions.target[order]
        if evaluation.task in LANGUAGE:
            asked = target != IGNORED
            counts = np.maximum(asked.sum(axis=1), 1)
            columns["tokens"] = asked.sum(axis=1)
            columns["log_loss"] = np.where(asked, outputs[..., 0], 0.0).sum(axis=1, dtype=np.float64) / counts
            columns["right"] = ((outputs[..., 2] == target) & asked).sum(axis=1)
        elif evaluation.task == "classification":
            classes = np.array(evaluation.winner[part].classes, dtype=object)
            columns["true"] = pa.array(classes[target], pa.string())
            columns["predicted"] = pa.array(classes[outputs.argmax(axis=1)], pa.string())
            columns |= {f"p_{name}": p for name, p in zip(classes, metrics.softmax(outputs).T, strict=True)}
        else:
            for index in range(outputs.shape[1]):
                ending = f"_{index}" if outputs.shape[1] > 1 else ""
                columns[f"true{ending}"] = _without_noise(target[:, index])
                columns[f"predicted{ending}"] = outputs[:, index]
        pieces.append(pa.table(columns))
    table = pa.concat_tables(pieces)
    rundir.write(run.predictions, lambda temporary: pq.write_table(table, temporary))


def _without_noise(values: np.ndarray) -> np.ndarray:
    """The values as the source had them: without the digits that float32 storage of the scaled target made up."""
    spread = np.abs(values - values.mean()).max() if len(values) else 0.0
    if not spread > 0:
        return values
    noise = 4 * spread * 2.0**-24
    return np.round(values, math.floor(-math.log10(noise)))
