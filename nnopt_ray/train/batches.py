"""The rows of a data set where training reads them, and the batches of an epoch.

A part that fits (`RESIDENT_BYTES`, on a GPU a third of its free memory) is copied to the device once. Its
epoch is one gather, sliced into batches, while that copy stays small (`EPOCH_COPY_BYTES`); else each batch
is a gather. A larger part stays memory-mapped, and each batch is read from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from math import prod

import numpy as np
import torch
from torch import Tensor

from nnopt_ray.data.types import Dataset, Rows, Shapes
from nnopt_ray.machine import Machine
from nnopt_ray.train.losses import Loss

RESIDENT_BYTES = 2 << 30
EPOCH_COPY_BYTES = 256 << 20

Batch = tuple[tuple[Tensor, ...], Tensor]  # one tensor per input [rows, *shape], target [rows] or [rows, outputs]


def batch_sizes(rows: int, batch_size: int) -> list[int]:
    """Rows of each step of an epoch: every row is used, in a smaller last batch where they do not divide.

    A last batch of one row joins the one before it, as batch norm has no deviation of a single row.
    """
    sizes = [batch_size] * (rows // batch_size)
    left = rows % batch_size
    if left == 1 and sizes:
        sizes[-1] += 1
    elif left:
        sizes.append(left)
    return sizes


def evaluation_sizes(rows: int, rows_a_batch: int) -> list[int]:
    """Rows of each batch of a pass over a part without training."""
    return [rows_a_batch] * (rows // rows_a_batch) + ([rows % rows_a_batch] if rows % rows_a_batch else [])


def evaluation_size(shapes: Shapes, batch_size: int) -> int:
    """Rows of a batch in evaluation: 2^14 input numbers at most, 1024 rows at most, never below batch_size.

    What lies between the layers should stay in the cache: on 8x8 images batches of 128 rows take 19 ms where
    batches of 1024 take 23 ms; for tables, where little lies between, large batches cost least.
    """
    numbers = max(1, sum(prod(each.shape) for each in shapes.inputs))
    return max(batch_size, min(1024, 2**14 // numbers))


@dataclass(frozen=True)
class Part:
    """One part of the data: on the device (`inputs`, `target`), or memory-mapped (`mapped`) when it does not fit."""

    rows: int
    device: str
    inputs: tuple[Tensor, ...] = ()
    target: Tensor | None = None
    mapped: Rows | None = None

    def batches(self, sizes: list[int], order: Tensor | None = None) -> Iterator[Batch]:
        """Batches of these sizes; `order`: int64 [rows] permutation on the CPU, None for the order of the part."""
        if self.mapped is not None:
            return self._from_map(sizes, order)
        assert self.target is not None
        if order is None:
            return _sliced(self.inputs, self.target, sizes)
        order = order.to(self.device)
        if sum(_bytes(t) for t in (*self.inputs, self.target)) <= EPOCH_COPY_BYTES:
            gathered = tuple(t.index_select(0, order) for t in self.inputs)
            return _sliced(gathered, self.target.index_select(0, order), sizes)
        return self._gathered(sizes, order)

    def _gathered(self, sizes: list[int], order: Tensor) -> Iterator[Batch]:
        assert self.target is not None
        for chosen in torch.split(order, sizes):
            yield tuple(t.index_select(0, chosen) for t in self.inputs), self.target.index_select(0, chosen)

    def _from_map(self, sizes: list[int], order: Tensor | None) -> Iterator[Batch]:
        assert self.mapped is not None
        for end, size in zip(accumulate(sizes), sizes, strict=True):
            chosen = slice(end - size, end) if order is None else order[end - size : end].numpy()
            inputs = tuple(_to_device(array[chosen], self.device) for array in self.mapped.inputs)
            yield inputs, _to_device(self.mapped.target[chosen], self.device)


def _sliced(inputs: tuple[Tensor, ...], target: Tensor, sizes: list[int]) -> Iterator[Batch]:
    split = [torch.split(tensor, sizes) for tensor in inputs]
    return zip(zip(*split, strict=True), torch.split(target, sizes), strict=True)


@dataclass(frozen=True)
class Placed:
    """The training and validation part where training reads them. `decided` says where, and why."""

    train: Part
    validation: Part
    decided: str


def place(dataset: Dataset, machine: Machine) -> Placed:
    """Put a data set on the machine's device, once for all trainings of a process on it."""
    limit, limit_name = RESIDENT_BYTES, "of a process"
    if machine.device.startswith("cuda"):
        limit, limit_name = torch.cuda.mem_get_info(machine.device)[0] // 3, "of a third of the GPU's free memory"
    needed = sum(_row_bytes(rows) for rows in (dataset.train, dataset.validation))
    fits = needed <= limit
    size, most = f"{needed / 2**20:.1f} MiB", f"{limit / 2**20:.0f} MiB {limit_name}"
    return Placed(
        train=_part(dataset.train, machine.device, fits),
        validation=_part(dataset.validation, machine.device, fits),
        decided=f"in memory of {machine.device} ({size}, fits the {most})"
        if fits
        else f"memory-mapped ({size}, more than the {most})",
    )


def mean_loss(part: Part, loss: Loss, forward: Callable[[tuple[Tensor, ...]], Tensor], rows_a_batch: int) -> float:
    """Mean of the loss over a part, exact whatever the size of the batches; without gradients."""
    total = weights = 0.0
    with torch.no_grad():
        for inputs, target in part.batches(evaluation_sizes(part.rows, rows_a_batch)):
            weight = float(loss.weight(target))
            total += float(loss(forward(inputs), target)) * weight
            weights += weight
    return total / weights


def _part(rows: Rows, device: str, fits: bool) -> Part:
    if not fits:
        return Part(len(rows), device, mapped=rows)
    inputs = tuple(_to_device(array, device) for array in rows.inputs)
    return Part(len(rows), device, inputs=inputs, target=_to_device(rows.target, device))


def _to_device(array: np.ndarray, device: str) -> Tensor:
    # A copy, as torch takes no read-only memory (which a memory map is).
    return torch.from_numpy(np.array(array)).to(device)


def _row_bytes(rows: Rows) -> int:
    return sum(array.nbytes for array in (*rows.inputs, rows.target))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
