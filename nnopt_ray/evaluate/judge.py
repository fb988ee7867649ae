"""The page's own network as a judge of labels: trained on some rows, it says what it thinks of others."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnopt_ray import models, reading, tables, train
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
    def _given(self) -> Experiment:
        return self._page()

    @cached_property
    def _tree(self) -> dict[str, Any]:
        """The page as plain data."""
        # Its classes are numbers here, and neither threshold nor temperature is asked for.
        tree = {key: value for key, value in plain(self._given.tree).items() if key not in ("search", "evaluate")}
        return tree | {"train": {key: value for key, value in tree["train"].items() if key not in LEFT_OUT}}

    @cached_property
    def key(self) -> str:
        """All that its answers follow from, beside what it is given: for the cache."""
        said = {key: self._tree[key] for key in SECTIONS} | {"augment": self._tree["data"].get("augment")}
        return json.dumps([torch.__version__, said, _code(self._given)], sort_keys=True, default=str)

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
        page = reading.from_tree({**self._tree, "seed": seed}, self._given.file)
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


def _code(page: Experiment) -> str:
    """Digest of the code that trains, parts of the user's own included, and of the files that the network reads."""
    digest = hashlib.blake2b(digest_size=16)
    for module in (models, train):
        for file in sorted(Path(str(module.__file__)).parent.glob("*.py")):
            digest.update(file.read_bytes())
    chosen = [("model", page.model), ("loss", page.train.loss), ("optimizer", page.train.optimizer)]
    chosen += [("schedule", page.train.schedule), *(("augmentation", part) for part in page.data.augment)]
    for room, part in chosen:
        source = None if part.type in tables.table(room) else inspect.getsourcefile(tables.find(room, part.type))
        digest.update(Path(source).read_bytes() if source else b"")
    base = page.file.resolve().parent if page.file is not None else Path.cwd()
    for value in page.model.keys.values():
        if isinstance(value, str) and (base / value).is_file():  # weights: told apart by size and time, they are large
            there = (base / value).stat()
            digest.update(f"{there.st_size} {there.st_mtime_ns}".encode())
    return digest.hexdigest()


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
