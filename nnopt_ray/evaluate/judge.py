"""The page's own network as a judge of labels: trained on some rows, it says what it thinks of others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnopt_ray import reading
from nnopt_ray.data.types import Dataset, DataSummary, Rows, Shapes
from nnopt_ray.errors import DataError, NotANumber
from nnopt_ray.evaluate.evaluate import predict
from nnopt_ray.evaluate.metrics import Metric
from nnopt_ray.experiment import Experiment, plain
from nnopt_ray.machine import Machine
from nnopt_ray.train.loop import Trainer

# What of a page a judgement follows from, beside the data that it is given. The weights to start from and compiling
# are left out: they are for the training that the page is about, and compiling takes longer than a fold does.
SECTIONS = ("objective", "model", "train", "resources")
LEFT_OUT = ("from", "compile")


class Judge:
    """Trains the network of a page on prepared rows, as the page trains it, and takes the weights of its best epoch.

    Args:
        page: gives a page without open ranges; called when there is something to judge.
        machine: gives device, precision and threads for it.
        metrics: gives those that the page watches, of a data set.
    """

    def __init__(
        self,
        page: Callable[[], Experiment],
        machine: Callable[[Experiment], Machine],
        metrics: Callable[[Experiment, Dataset], Mapping[str, Metric]],
    ) -> None:
        self._page, self._machine, self._metrics = page, machine, metrics

    @cached_property
    def _given(self) -> tuple[dict[str, Any], Path | None]:
        """The page as plain data, and its file."""
        page = self._page()
        tree = {key: value for key, value in plain(page.tree).items() if key != "search"}
        return tree | {"train": {k: v for k, v in tree["train"].items() if k not in LEFT_OUT}}, page.file

    @property
    def key(self) -> str:
        """All that its answers follow from, beside what it is given: for the cache."""
        tree, _ = self._given
        said = {key: tree[key] for key in SECTIONS} | {"augment": tree["data"].get("augment")}
        return json.dumps([torch.__version__, said], sort_keys=True, default=str)

    def __call__(
        self,
        shapes: Shapes,
        inputs: tuple[np.ndarray, ...],
        target: np.ndarray,
        learned: np.ndarray,
        validated: np.ndarray,
        asked: np.ndarray,
        seed: int,
    ) -> np.ndarray:
        """float64 [asked, classes]: probabilities, of a network that was trained on the rows `learned` of the inputs
        and validated on others. target: int64, the classes of the first rows, those learned and validated.

        Raises DataError when the training comes to no numbers.
        """
        tree, file = self._given
        page = reading.from_tree({**tree, "seed": seed}, file)
        dataset = _dataset(shapes, inputs, target, learned, validated, asked)
        machine = self._machine(page)
        trainer = Trainer(page, dataset, machine, self._metrics(page, dataset))
        try:
            while not trainer.done:
                trainer.run_epoch()
        except NotANumber as error:
            raise DataError(
                f"data.quality: label_errors with model: page trains the page's network, which failed: {error} "
                "Write model: linear, or boosted."
            ) from error
        if trainer.best_epoch >= 0 and trainer.reason != "fitted directly":
            trainer.weights.restore(trainer.snapshots[trainer.best_epoch])
        logits = torch.from_numpy(predict(trainer.model, dataset.test, dataset, machine)).double()
        return torch.softmax(logits, dim=1).numpy()


def _dataset(
    shapes: Shapes,
    inputs: tuple[np.ndarray, ...],
    target: np.ndarray,
    learned: np.ndarray,
    validated: np.ndarray,
    asked: np.ndarray,
) -> Dataset:
    """The rows as a data set that lies nowhere; the classes of the rows asked about are not in it."""

    def part(rows: np.ndarray, labels: np.ndarray) -> Rows:
        return Rows(tuple(array[rows] for array in inputs), labels, rows)

    sizes = {"train": len(learned), "validation": len(validated), "test": len(asked)}
    return Dataset(
        folder=Path(),
        key="judged",
        shapes=shapes,
        train=part(learned, target[learned]),
        validation=part(validated, target[validated]),
        test=part(asked, np.zeros(len(asked), dtype=np.int64)),
        classes=tuple(str(label) for label in range(shapes.outputs)),
        target_mean=np.zeros(shapes.outputs),
        target_scale=np.ones(shapes.outputs),
        feature_names=(),
        summary=DataSummary("rows to judge", sum(sizes.values()), shapes.task, "", (), sizes),
    )
