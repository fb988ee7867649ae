"""The page's loss as a metric."""

from __future__ import annotations

import numpy as np
import torch

from nnopt_ray import tables
from nnopt_ray.data.types import IGNORED, Dataset
from nnopt_ray.evaluate.metrics import Loss
from nnopt_ray.evaluate.units import Units
from nnopt_ray.experiment import Experiment
from nnopt_ray.train.losses import Loss as TrainingLoss


def page_loss(experiment: Experiment, dataset: Dataset) -> Loss:
    """The page's loss as a metric of outputs and targets in the user's units; its value is in training units."""
    shapes = dataset.shapes
    classes = shapes.task == "classification"
    counts = np.bincount(dataset.train.target, minlength=shapes.outputs) if classes else None
    loss = tables.build("loss", experiment.train.loss, shapes, counts)
    if shapes.is_language:
        return _token_loss(loss)

    def training_units(values: np.ndarray) -> torch.Tensor:
        if classes:  # a temperature makes float64 of logits, and losses are promised float32
            return torch.from_numpy(values.astype(np.float32 if values.dtype.kind == "f" else np.int64))
        return torch.from_numpy(((values - dataset.target_mean) / dataset.target_scale).astype(np.float32))

    def mean(outputs: np.ndarray, target: np.ndarray) -> float:
        with torch.inference_mode():
            return float(loss(training_units(outputs), training_units(target)))

    def by_unit(outputs: np.ndarray, target: np.ndarray, units: Units) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            said, true = training_units(outputs), training_units(target)
            known = loss.by_row(said, true) if _knows_rows(type(loss)) else None
            if known is not None:
                losses, weights = (each.numpy().astype(np.float64) for each in known)
                return units.sums(losses * weights), units.sums(weights)
            # A loss promises no more than the mean of a batch and what the batch counts: each unit is one.
            found = np.zeros((2, units.count))
            for unit, rows in enumerate(units.members()):
                weight = float(loss.weight(true[rows]))
                found[:, unit] = float(loss(said[rows], true[rows])) * weight, weight
            return found[0], found[1]

    return Loss(mean, by_unit)


def _knows_rows(loss: type[TrainingLoss]) -> bool:
    """Whether `by_row` was written for this loss, or for one that it inherits both the mean and the weight from."""

    def depth(name: str) -> int:
        return next(place for place, one in enumerate(loss.__mro__) if name in vars(one))

    return depth("by_row") <= min(depth("__call__"), depth("weight"))


def _token_loss(loss: TrainingLoss) -> Loss:
    """The page's loss of a language task as a metric of what `train.language.told` gives."""

    def by_row(told: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked = target != IGNORED
        return np.where(asked, loss.of_told(told.astype(np.float64)), 0.0).sum(axis=1), asked.sum(axis=1)

    def mean(told: np.ndarray, target: np.ndarray) -> float:
        losses, counts = by_row(told, target)
        return float(losses.sum() / counts.sum())

    def by_unit(told: np.ndarray, target: np.ndarray, units: Units) -> tuple[np.ndarray, np.ndarray]:
        losses, counts = by_row(told, target)
        return units.sums(losses), units.sums(counts)

    return Loss(mean, by_unit)
