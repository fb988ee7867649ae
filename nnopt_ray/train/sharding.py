"""A network trained by several processes: each takes its piece of every batch, and all take the same step.

A batch is that of one process, cut into pieces; the gradient of a step is the mean over all rows of the batch, however
they are cut, as each piece counts by its weight. All processes start from the same weights, take the same steps and
see the same validation values, so that they take the same decisions; the first one writes them down. The number of
processes may change between two epochs: orders and batches do not hang on it.

What differs from one process: dropout and augmentation draw anew in each, and batch norm takes the mean and variance of
its own piece (its running averages are averaged at the end of an epoch), unless it is synced (`batch_norm.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nnopt_ray.train import batch_norm
from nnopt_ray.train.batches import Batch
from nnopt_ray.train.buckets import Buckets
from nnopt_ray.train.losses import Loss
from nnopt_ray.train.state import State
from nnopt_ray.train.weights import FlatWeights

LEAST_ROWS = 2  # batch norm has no deviation of a single row
LEAST_WEIGHT = 1e-30  # a batch in which nothing is asked has a loss and a gradient of 0, and is divided by this


class Training(Protocol):
    """What `loop.Trainer` has that is written down."""

    def state(self) -> State: ...

    def best(self) -> dict[str, Tensor]: ...


def wire_device() -> torch.device:
    """Where tensors must lie that the default group sends: NCCL sends those of a GPU alone."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


class Shard:
    """One process of several that train a network together, in torch.distributed's default group.

    sync_batch_norm: batch norm is over the rows of all of them; PartError where a network has none.

    Attributes:
        rank: which one, from 0.
        workers: how many there are.
        goes_along: where this process has no rows of a batch it computes on some that count nothing, as what happens
            inside the network takes all processes.
        present: whether the rows of the batch that is computed count.
    """

    goes_along = False
    present = True

    def __init__(self, sync_batch_norm: bool = False) -> None:
        self.rank, self.workers = dist.get_rank(), dist.get_world_size()
        self._sync = sync_batch_norm
        self.goes_along = self.goes_along or sync_batch_norm

    # ── rows ─────────────────────────────────────────────────────────────────────────────────────────

    def takers(self, size: int) -> int:
        """How many processes get rows of a batch of so many."""
        return max(1, min(self.workers, size // LEAST_ROWS))

    def counts(self, size: int) -> bool:
        """Whether this process gets rows of a batch of so many."""
        return self.rank < self.takers(size)

    def pieces(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Start and end of this process's piece within each batch of so many rows; it may be empty."""
        found = []
        for size in sizes:
            takers = self.takers(size)
            first, last = (min(self.rank + more, takers) * size // takers for more in (0, 1))
            if self.goes_along and first == last:
                first, last = 0, min(size, LEAST_ROWS)
            found.append((first, last))
        return found

    def mine(self, sizes: Sequence[int], order: Tensor) -> tuple[list[int], Tensor]:
        """Rows of each batch for this process, and its rows in order."""
        pieces = self.pieces(sizes)
        chosen = [
            batch[first:last] for batch, (first, last) in zip(torch.split(order, list(sizes)), pieces, strict=True)
        ]
        return [last - first for first, last in pieces], torch.cat(chosen)

    def share_out(self, count: int) -> slice:
        """Which of so many batches of a pass without training are this process's: neighbours, so that order is kept."""
        return self.shares(count)[self.rank]

    def shares(self, count: int) -> list[slice]:
        """The same of all processes."""
        ends = [rank * count // self.workers for rank in range(self.workers + 1)]
        return [slice(start, end) for start, end in pairwise(ends)]

    # ── gradients ────────────────────────────────────────────────────────────────────────────────────

    def _sync_batch_norm(self, model: nn.Module) -> None:
        if self._sync:
            batch_norm.sync(model, self)

    def _carry(self, weights: FlatWeights, buckets: Buckets, behind: Tensor) -> None:
        """From here on send these buckets; losses and weights of the batches of a step lie in `behind`."""
        self._weights, self._buckets, self._behind = weights, buckets, behind
        self._every = len(behind) // 2
        self._losses, self._counts = torch.split(behind, self._every)

    def plan(self, sizes: Sequence[int], loss: Loss, target_numbers: int) -> None:
        """Hear of what an epoch consists, before the first: rows of each batch of all processes together, and the loss,
        of targets of so many numbers a row."""
        self._sizes, self._loss = list(sizes), loss
        self._seeds: dict[float, Tensor] = {}
        # Of a loss that counts rows it is known beforehand how much of the step each piece is.
        known = [loss.lane_weight(size) for size in sizes]
        self._known = [weight for weight in known if weight is not None] if None not in known else None
        self._nominal = float(max(sizes, default=1) * target_numbers)

    def open(self, number: int) -> None:
        """Batch `number` of an epoch is next."""
        self.present = self.counts(self._sizes[number])
        if number % self._every == 0:
            self._weights.gradient.zero_()
            self._behind.zero_()

    def seed(self, number: int, target: Tensor) -> Tensor:
        """What the gradient of the loss of this process's piece of a batch is multiplied with, float32 [].

        The share of the piece in its step, so that gradients need only be added up: inside the network too, where what
        all processes share (synced batch norm) is part of the loss of each. Where it is not known before all have
        computed, a number that is in proportion to it, near it in size.
        """
        if self._is_last(number):
            self._buckets.open()
        if not self.present:
            return torch.zeros((), device=target.device)
        weight = self._loss.weight(target)
        if self._known is None:
            return torch.as_tensor(weight / self._nominal, dtype=torch.float32, device=target.device)
        share = float(weight) / sum(self._known[self._step(number)])
        if share not in self._seeds:  # made anew it would be copied to the device at every step
            self._seeds[share] = torch.tensor(share, device=target.device)
        return self._seeds[share]

    def reduce(self, number: int, loss: Tensor, target: Tensor) -> list[tuple[Tensor, float | Tensor]]:
        """From gradient and loss of this piece of a batch those of all → loss and weight of each batch of the step that
        is over with it, [] while it is not.

        The gradient is the mean over the rows of the step then, in `weights.gradient`.
        """
        at = number % self._every
        if self.present:
            weight = self._loss.weight(target)
            whole = 1.0 if self._known is None else self._known[number]
            torch.mul(loss.detach(), weight / whole, out=self._losses[at])
            if self._known is None:
                self._counts[at] = weight
        if not self._is_last(number):
            return []
        self._buckets.close()
        losses = self._losses[: at + 1].clone()
        if self._known is not None:
            return list(zip(losses.unbind(), self._known[self._step(number)], strict=True))
        counts = self._counts[: at + 1].clone()
        self._weights.gradient.mul_(self._nominal / counts.sum().clamp(min=LEAST_WEIGHT))
        return list(zip((losses / counts.clamp(min=LEAST_WEIGHT)).unbind(), counts.unbind(), strict=True))

    def _is_last(self, number: int) -> bool:
        """Whether a step is due after this batch."""
        return (number + 1) % self._every == 0 or number + 1 == len(self._sizes)

    def _step(self, number: int) -> slice:
        """The batches of its step."""
        first = number - number % self._every
        return slice(first, first + self._every)

    def with_rows(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """This process's batches of an epoch, of which no gradient is taken; those without rows are left out."""
        for size, batch in zip(self._sizes, batches, strict=True):
            self.present = self.counts(size)
            if len(batch[1]):
                yield batch

    # ── values ───────────────────────────────────────────────────────────────────────────────────────

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Make tensors of real numbers the mean over all processes, in place; those of a type are sent together."""
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            if tensor.is_floating_point():
                by_type.setdefault(tensor.dtype, []).append(tensor)
        for alike in by_type.values():
            together = torch.cat([tensor.reshape(-1) for tensor in alike])
            dist.all_reduce(together)
            together.div_(self.workers)
            for tensor, mean in zip(alike, torch.split(together, [tensor.numel() for tensor in alike]), strict=True):
                tensor.copy_(mean.view(tensor.shape))

    def gathered(self, numbers: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """What all processes hold, one behind the other along the first axis, of which they have so many each; without
        `counts` as many as this one."""
        counts = counts or [len(numbers)] * self.workers
        padded = numbers.new_zeros((max(counts), *numbers.shape[1:]))
        padded[: len(numbers)] = numbers
        every = [torch.zeros_like(padded) for _ in range(self.workers)]
        dist.all_gather(every, padded)
        return torch.cat([each[:count] for each, count in zip(every, counts, strict=True)])

    def agreed(self, word: bool) -> bool:
        """Whether the first process says so."""
        said = torch.tensor([float(word)], device=wire_device())
        dist.broadcast(said, 0)
        return bool(said)

    # ── where `fully_sharded.FullShard` does otherwise ───────────────────────────────────────────────

    decided = ""

    def home(self, device: str) -> str:
        """Where a network is made that is to be trained on this device."""
        return device

    def weights_of(self, model: nn.Module, precision: str, every: int) -> FlatWeights:
        """The weights of a network, of which this process trains its part, by steps of `every` batches.

        The gradient lies where it is sent from, with room for the losses and weights of the batches behind it.
        """
        self._sync_batch_norm(model)
        weights = FlatWeights(model)
        size = weights.flat.numel()
        wire = torch.zeros(size + 2 * every, device=weights.flat.device)
        rest = {name: torch.empty_like(tensor) for name, tensor in weights.rest.items()}
        weights.move(torch.empty_like(weights.flat), wire[:size], rest)
        self._carry(weights, Buckets(wire, weights), wire[size:])
        return weights

    @contextmanager
    def filling(self, model: nn.Module, weights: FlatWeights, make: Callable[[], nn.Module]) -> Iterator[nn.Module]:
        """Within, a network to put weights into, which this process's then has. make: makes such a network anew."""
        yield model

    def is_short(self, count: int) -> bool:
        """Whether this process has to go along with one batch more than its own of so many that are shared out."""
        return False

    def in_turn(self) -> Iterator[None]:
        """Once, when it is this process's turn to make a network; ends when all are made."""
        yield
        dist.barrier()

    def whole(self, state: State, weights: FlatWeights) -> State:
        """The state that is written down, of the live one that this process has; copies."""
        return state.copied()

    def pieces_of(self, state: State, weights: FlatWeights) -> State:
        """The way back from `whole`."""
        return state

    @contextmanager
    def led(self, trainer: Training) -> Iterator[None]:
        """Within, the first process writes the state down."""
        yield
