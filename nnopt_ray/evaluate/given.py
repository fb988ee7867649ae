"""What metrics may take from the page and its data: the class that is looked for, the error of a naive forecast."""

from __future__ import annotations

import numpy as np

from nnopt_ray.data.types import Dataset
from nnopt_ray.errors import UserError
from nnopt_ray.evaluate.metrics import Given
from nnopt_ray.experiment import Experiment


def given_by(experiment: Experiment, dataset: Dataset) -> Given:
    """Raises UserError where the page names a class that is not there, or one of more than two."""
    return Given(positive=positive_of(experiment, dataset) or 0)


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
