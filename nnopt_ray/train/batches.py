"""The rows of a data set where training reads them, and the batches of an epoch.

A part that fits (`RESIDENT_BYTES`, on a GPU a third of its free memory) is copied to the device once. Its
epoch is one gather, sliced into batches, while that copy stays small (`EPOCH_COPY_BYTES`); else each batch
is a gather. A larger part stays memory-mapped, and a thread reads the next batches from there (`read_ahead.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from mmap import mmap
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnopt_ray.data.types import Dataset, Rows, Shapes
from nnopt_ray.machine import Machine
from nnopt_ray.train.losses import Loss
from nnopt_ray.train.read_ahead import Wait, read_ahead

RESIDENT_BYTES = 2 << 30
EPOCH_COPY_BYTES = 256 << 20
SHARED_BYTES = 16 << 20  # arrays of this size and more are one copy for all workers of a machine
# What is read at once from a memory map: batches of 256 rows of 40 numbers, read one by one, reached 0.75 of the
# throughput from memory, as the thread that reads has to wait for the interpreter's lock at each.
GATHERED_BYTES = 4 << 20

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
    """One part of the data: on the device (`inputs`, `target`), or memory-mapped (`mapped`) when it does not fit.

    wait: how long its batches were waited for, in all passes so far; 0 on the device.
    """

    rows: int
    device: str
    inputs: tuple[Tensor, ...] = ()
    target: Tensor | None = None
    mapped: Rows | None = None
    wait: Wait = field(default_factory=Wait, compare=False)

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
        pinned = self.device.startswith("cuda")  # pinned memory is copied to a GPU while it computes
        for tensors, inside in read_ahead(self._read(sizes, order, pinned), wait=self.wait):
            for batch in zip(*(torch.split(tensor, inside) for tensor in tensors), strict=True):
                *inputs, target = (tensor.to(self.device, non_blocking=True) for tensor in batch)
                yield tuple(inputs), target

    def _read(self, sizes: list[int], order: Tensor | None, pinned: bool) -> Iterator[tuple[list[Tensor], list[int]]]:
        """Some batches at once of the memory map, on the CPU: inputs and target, and the rows of each batch."""
        assert self.mapped is not None
        arrays = (*self.mapped.inputs, self.mapped.target)
        most = max(1, GATHERED_BYTES * self.rows // max(1, _row_bytes(self.mapped)))
        end = 0
        inside: list[int] = []
        for number, size in enumerate(sizes):
            inside.append(size)
            if number + 1 < len(sizes) and sum(inside) + sizes[number + 1] <= most:
                continue
            start, end = end, end + sum(inside)
            chosen = slice(start, end) if order is None else order[start:end].numpy()
            yield [_gathered(array, chosen, pinned) for array in arrays], inside
            inside = []


def _sliced(inputs: tuple[Tensor, ...], target: Tensor, sizes: list[int]) -> Iterator[Batch]:
    split = [torch.split(tensor, sizes) for tensor in inputs]
    return zip(zip(*split, strict=True), torch.split(target, sizes), strict=True)


@dataclass(frozen=True)
class Placed:
    """The training and validation part where training reads them. `decided` says where, and why."""

    train: Part
    validation: Part
    decided: str

    @property
    def waited_s(self) -> float:
        """Seconds that batches of both parts were waited for, in all trainings so far."""
        return self.train.wait.seconds + self.validation.wait.seconds


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
    inputs = tuple(_resident(array, device) for array in rows.inputs)
    return Part(len(rows), device, inputs=inputs, target=_resident(rows.target, device))


def _resident(array: np.ndarray, device: str) -> Tensor:
    """All of an array on the device. On a CPU a large one stays mapped, copy-on-write: what is read of it is read into
    memory once for all processes of the machine, and what one writes only it sees."""
    mapped = isinstance(array, np.memmap) and isinstance(array.base, mmap)  # a slice has the offset of the whole
    if device != "cpu" or not mapped or array.nbytes < SHARED_BYTES:
        return _to_device(array, device)
    file: Any = array
    return torch.from_numpy(np.memmap(file.filename, file.dtype, "c", file.offset, file.shape))


def _to_device(array: np.ndarray, device: str) -> Tensor:
    # A copy, as torch takes no read-only memory (which a memory map is).
    return torch.from_numpy(np.array(array)).to(device)


def _gathered(array: np.ndarray, chosen: slice | np.ndarray, pinned: bool) -> Tensor:
    """These rows, copied. Other threads run meanwhile: NumPy holds no lock of the interpreter while it copies."""
    plain = np.asarray(array)
    rows = np.array(plain[chosen]) if isinstance(chosen, slice) else plain.take(chosen, axis=0)
    return torch.from_numpy(rows).pin_memory() if pinned else torch.from_numpy(rows)


def _row_bytes(rows: Rows) -> int:
    return sum(array.nbytes for array in (*rows.inputs, rows.target))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
