"""What metrics may take from the page and its data: the class that is looked for, the error of a naive forecast."""

from __future__ import annotations

import numpy as np

from nnopt_ray.data.types import Dataset
from nnopt_ray.errors import UserError
from nnopt_ray.evaluate.metrics import Given
from nnopt_ray.experiment import Experiment


def given_by(experiment: Experiment, dataset: Dataset) -> Given:
    """Raises UserError where the page names a class that is not there, or one of more than two."""
    return Given(positive_of(experiment, dataset) or 0, naive_error_of(experiment, dataset))


def naive_error_of(experiment: Experiment, dataset: Dataset) -> float | None:
    """The mean absolute change of the series from one time point to the next, over the windows of the training part and
    in the user's units; None where the page has no window."""
    window = experiment.data.window
    if window is None or not len(dataset.train):
        return None
    target = np.asarray(dataset.train.target, dtype=np.float64) * dataset.target_scale
    if window.horizon > 1:
        return float(np.abs(np.diff(target, axis=1)).mean())
    if window.foretell == "change":
        return float(np.abs(target + dataset.target_mean).mean())
    # From one window to the next, where it is the next of its series: rows of the source stand as far apart as most do.
    apart = np.diff(dataset.train.source_rows)
    if not len(apart):
        return None
    most = np.unique(apart, return_counts=True)
    follows = apart == most[0][most[1].argmax()]
    return float(np.abs(np.diff(target[:, 0]))[follows].mean())


def positive_of(experiment: Experiment, dataset: Dataset) -> int | None:
    """Of two classes the index of the one that is looked for; None where there are not two.

    It is the page's `evaluate.positive`, else the rarer one of training and validation part (of the validation part
    alone where data.balance changed the training part), of equal ones the second. Raises UserError.
    """
    classes = dataset.classes
    named = None if experiment.evaluate.positive is None else str(experiment.evaluate.positive)
    if named is not None and len(classes) != 2:
        what = f"{len(classes)} classes" if classes else dataset.shapes.task.replace("_", " ")
        raise UserError(f"evaluate.positive names one of two classes, and this data has {what}. Take it away.")
    if len(classes) != 2:
        return None
    if named is not None:
        if named not in classes:
            told = " and ".join(repr(name) for name in classes)
            raise UserError(f"evaluate.positive: there is no class {named!r}. The classes are {told}.")
        return classes.index(named)
    counts = np.bincount(dataset.validation.target, minlength=2)
    if not dataset.summary.balanced:
        counts = counts + np.bincount(dataset.train.target, minlength=2)
    return 0 if counts[0] < counts[1] else 1
