"""What is measured on the validation part at the end of every epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from nnopt_ray.data.types import Dataset
from nnopt_ray.train import language
from nnopt_ray.train.batches import Batch, Part, evaluation_sizes
from nnopt_ray.train.losses import Loss
from nnopt_ray.train.sharding import Shard

Forward = Callable[[tuple[Tensor, ...]], Tensor]


class Metric(Protocol):
    """outputs [rows, outputs] (logits, or values in the user's units), target in the same units → a number.

    Of a language task: what `language.told` gives, [rows, length, 3], and the tokens asked for [rows, length]."""

    @property
    def mode(self) -> Literal["min", "max"]: ...

    def __call__(self, outputs: np.ndarray, target: np.ndarray, /) -> float: ...


@dataclass
class Collected:
    """What the batches of a validation gave, one entry each."""

    losses: list[Tensor]
    weights: list[float]
    own: list[Tensor]
    outputs: list[Tensor]


class Validation:
    """Loss and metrics over the validation part.

    Accuracy and mean absolute error are added up on the device, batch by batch. For any other metric the
    outputs of all rows are brought to the CPU as one array; of a language task, what `language.told` makes of them.

    shard: where several processes measure together. The batches are those of one process and are shared out whole, and
    what each gave is added up in their order, so that the values are those of one process with the same weights.
    """

    def __init__(
        self,
        dataset: Dataset,
        part: Part,
        loss: Loss,
        metrics: Mapping[str, Metric],
        rows_a_batch: int,
        shard: Shard | None = None,
    ) -> None:
        self.dataset, self.part, self.loss, self._shard = dataset, part, loss, shard
        self.rows_a_batch = rows_a_batch
        self._sizes = evaluation_sizes(part.rows, rows_a_batch)
        own = {"classification": "accuracy", "regression": "mae"}.get(dataset.shapes.task, "")
        self.names = [name for name in metrics if name != "loss"]  # val_loss is always there
        self.own = own if own in self.names else None
        self.others = {name: metrics[name] for name in self.names if name != own}
        self._scale = torch.as_tensor(dataset.target_scale, dtype=torch.float64, device=part.device)
        target = np.asarray(dataset.validation.target)
        self._target = dataset.user_units(target) if dataset.shapes.task == "regression" else target

    def measure(self, forward: Forward) -> dict[str, float]:
        """val_loss, then val_NAME in the order of the metrics. NaN where the outputs are not finite."""
        found = self.begin()
        with torch.no_grad():
            for inputs, target in self._batches():
                self.add(found, forward(inputs), target)
            if self._shard is not None and self._shard.is_short(len(self._sizes)):
                forward(next(self.part.batches(self._sizes[:1], torch.arange(self._sizes[0])))[0])
            return self.end(found if self._shard is None else self._together(found, self._shard))

    def _batches(self) -> Iterator[Batch]:
        sizes = self._sizes
        if self._shard is None:
            return self.part.batches(sizes)
        mine = self._shard.share_out(len(sizes))
        first = sum(sizes[: mine.start])
        return self.part.batches(sizes[mine], torch.arange(first, first + sum(sizes[mine])))

    def _together(self, found: Collected, shard: Shard) -> Collected:
        """What the batches of all processes gave, in the order of the batches."""
        device, shares = self.part.device, shard.shares(len(self._sizes))

        def column(numbers: list[Tensor]) -> Tensor:
            return (torch.stack(numbers) if numbers else torch.zeros(0, device=device)).to(torch.float64)

        weights_here = torch.tensor(found.weights, dtype=torch.float64, device=device)
        columns = [column(found.losses), weights_here, *([column(found.own)] if self.own is not None else [])]
        counts = [share.stop - share.start for share in shares]
        every = shard.gathered(torch.stack(columns, dim=1), counts)  # one message for all
        losses, weights, *own = every.unbind(1)
        outputs = []
        if self.others:
            none = torch.zeros((0, *self._outputs_shape()), device=device)
            rows = [sum(self._sizes[share]) for share in shares]
            outputs = [shard.gathered(torch.cat([none, *(each.float() for each in found.outputs)]), rows)]
        return Collected(list(losses), weights.tolist(), list(own[0]) if own else [], outputs)

    def _outputs_shape(self) -> tuple[int, ...]:
        """Of a row of what `add` collects: logits or values, of a language task what `language.told` gives."""
        shapes = self.dataset.shapes
        return (*shapes.inputs[0].shape, 3) if shapes.is_language else (shapes.outputs,)

    def begin(self) -> Collected:
        return Collected([], [], [], [])

    def add(self, found: Collected, outputs: Tensor, target: Tensor) -> None:
        """One batch of the part, in its order; without gradients."""
        found.losses.append(self.loss(outputs, target))
        found.weights.append(float(self.loss.weight(target)))
        if self.own is not None:
            found.own.append(self._own_sum(outputs, target))
        if self.others:
            found.outputs.append(language.told(outputs, target) if self.dataset.shapes.is_language else outputs)

    def end(self, found: Collected) -> dict[str, float]:
        """What `measure` returns, when all batches are there."""
        losses = torch.stack(found.losses).tolist()
        total = sum(loss * weight for loss, weight in zip(losses, found.weights, strict=True))
        values = {"loss": total / sum(found.weights)}
        if self.own is not None:
            values[self.own] = float(torch.stack(found.own).sum()) / self.part.rows
        if self.others:
            values |= self._measure_others(torch.cat(found.outputs).cpu().numpy())
        return {f"val_{name}": values[name] for name in ("loss", *self.names)}

    def _own_sum(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Float64 sum over the rows: right classes, or absolute error in the user's units, mean over outputs."""
        if self.own == "accuracy":
            return (outputs.argmax(dim=1) == target).sum(dtype=torch.float64)
        return ((outputs - target).abs() * self._scale).mean(dim=1).sum()

    def _measure_others(self, outputs: np.ndarray) -> dict[str, float]:
        if not np.isfinite(outputs).all():
            return dict.fromkeys(self.others, math.nan)
        if self.dataset.shapes.task == "regression":
            outputs = self.dataset.user_units(outputs)
        return {name: float(metric(outputs, self._target)) for name, metric in self.others.items()}
