"""Metrics that a page brings itself (`my_pkg.scores:Profit`): what they must say, and what is made of what they do."""

from __future__ import annotations

import inspect
import numbers
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from nnopt_ray.data.types import Task
from nnopt_ray.errors import PartError
from nnopt_ray.evaluate.metrics import Given, Metric
from nnopt_ray.evaluate.units import Resampler, Units


def check(part: type[Metric], name: str) -> None:
    """Raises PartError where a metric leaves open what a run must know of it."""
    if getattr(part, "mode", None) not in ("min", "max"):
        raise PartError(
            f'the metric \'{name}\' does not say which end is better: write mode = "max" (or "min") in the class.'
        )
    tasks = getattr(part, "tasks", ())
    if not isinstance(tasks, tuple) or not tasks or not set(tasks) <= set(get_args(Task)):
        raise PartError(
            f"the metric '{name}' does not say what it measures: write tasks = (\"classification\",) in the class, or "
            f"others of {', '.join(get_args(Task))}."
        )
    if part.__call__ is Metric.__call__:
        raise PartError(f"the metric '{name}' has no __call__(self, outputs, target) that returns its value.")
    needed = [
        argument.name
        for argument in list(inspect.signature(part).parameters.values())
        if argument.default is argument.empty and argument.kind not in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD)
    ]
    if needed:
        raise PartError(f"the metric '{name}' is made without arguments, and its __init__ needs {', '.join(needed)}.")


class Own(Metric):
    """A user's metric: its faults are PartErrors that say where, its values are floats."""

    called = True

    def __init__(self, metric: Metric, name: str) -> None:
        self._metric, self._name = metric, name
        self.mode, self.tasks, self.of_decisions = metric.mode, metric.tasks, metric.of_decisions
        self.seconds = 0.0

    def given(self, data: Given) -> Metric:
        return Own(self._metric.given(data), self._name)

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        began = time.monotonic()
        try:
            value = self._metric(outputs, target)
        except Exception as error:  # the user's code may raise anything
            told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise PartError(f"the metric '{self._name}' failed: {told.rstrip('.')}{_place(error)}.") from error
        self.seconds = time.monotonic() - began
        return self._number(value)

    def _number(self, value: Any) -> float:
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value.item()
        if not isinstance(value, numbers.Real):
            shape = f" of shape {value.shape}" if isinstance(value, np.ndarray) else ""
            raise PartError(
                f"the metric '{self._name}' must return one number, and returned a {type(value).__name__}{shape}."
            )
        return float(value)

    def resampler(self, outputs: np.ndarray, target: np.ndarray, units: Units | None = None) -> Resampler:
        units = units or Units(len(target))

        def one(column: np.ndarray) -> float:
            rows = units.drawn(column)
            try:
                return self(outputs[rows], target[rows])
            except PartError:  # not defined on these rows, such as without one of the classes
                return float("nan")

        return lambda counts: np.array([one(column) for column in counts.T])

    def why_undefined(self, target: np.ndarray, classes: Sequence[str]) -> str:
        return self._metric.why_undefined(target, classes)


def _place(error: Exception) -> str:
    """Where in the user's code, as " (scores.py:12)"."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    return f" ({Path(frames[0].filename).name}:{frames[0].lineno})" if frames else ""
