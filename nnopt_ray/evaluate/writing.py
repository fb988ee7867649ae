"""evaluation/: what was measured, in open formats."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict
from typing import Any

import numpy as np

from nnopt_ray import rundir
from nnopt_ray.data.types import IGNORED, LANGUAGE
from nnopt_ray.evaluate.decision import decided
from nnopt_ray.evaluate.evaluation import Evaluation


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
    for name, found in evaluation.found.items():
        rundir.write_json(run.evaluated(name), found)
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
            probabilities, predicted = decided(outputs, evaluation.decision)
            columns["predicted"] = pa.array(classes[predicted], pa.string())
            columns |= {f"p_{name}": p for name, p in zip(classes, probabilities.T, strict=True)}
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
