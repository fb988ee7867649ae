"""A network trained by several processes: each takes its piece of every batch, and all take the same step.

A batch is that of one process, cut into pieces; the gradient of a step is the mean over all rows of the batch, however
they are cut, as each piece counts by its weight. All processes start from the same weights, take the same steps and
see the same validation values, so that they take the same decisions; the first one writes them down. The number of
processes may change between two epochs: orders and batches do not hang on it.

What differs from one process: dropout and augmentation draw anew in each, and batch norm takes the mean and variance of
its own piece (its running averages are averaged at the end of an epoch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nnopt_ray.train.state import State
from nnopt_ray.train.weights import FlatWeights

LEAST_ROWS = 2  # batch norm has no deviation of a single row


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

    Attributes:
        rank: which one, from 0.
        workers: how many there are.
    """

    def __init__(self) -> None:
        self.rank, self.workers = dist.get_rank(), dist.get_world_size()
        self._wire: Tensor | None = None

    def pieces(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Start and end of this process's piece within each batch of so many rows; it may be empty."""
        found = []
        for size in sizes:
            takers = self.takers(size)
            first, last = (min(self.rank + more, takers) * size // takers for more in (0, 1))
            found.append((first, last))
        return found

    def takers(self, size: int) -> int:
        """How many processes get rows of a batch of so many."""
        return max(1, min(self.workers, size // LEAST_ROWS))

    def mine(self, sizes: Sequence[int], order: Tensor) -> tuple[list[int], Tensor]:
        """Rows of each batch for this process, and its rows in order."""
        pieces = self.pieces(sizes)
        chosen = [
            batch[first:last] for batch, (first, last) in zip(torch.split(order, list(sizes)), pieces, strict=True)
        ]
        return [last - first for first, last in pieces], torch.cat(chosen)

    def share_out(self, count: int) -> slice:
        """Which of so many batches of a pass without training are this process's: neighbours, so that order is kept."""
        return slice(self.rank * count // self.workers, (self.rank + 1) * count // self.workers)

    def take_over(self, weights: FlatWeights) -> None:
        """Let the gradient lie where it is sent from, with room for a loss and a weight."""
        size = weights.flat.numel()
        self._wire = torch.zeros(size + 2, device=weights.flat.device)
        rest = {name: torch.empty_like(tensor) for name, tensor in weights.rest.items()}
        weights.move(torch.empty_like(weights.flat), self._wire[:size], rest)

    def to_send(self, number: int, loss: Tensor, weight: float | Tensor) -> tuple[Tensor, float | Tensor]:
        """Of this process's piece of batch `number` of an epoch: the loss to take the gradient of, what it counts."""
        return loss, weight

    def reduce(self, loss: Tensor, weight: float | Tensor) -> tuple[Tensor, Tensor]:
        """From the mean gradient and loss of this piece those of the whole batch → its loss and its weight.

        The gradient lies in `weights.gradient` before and after. A piece without rows has weight 0.
        """
        wire = self._wire
        assert wire is not None, "take_over comes first"
        wire[:-2].mul_(weight)
        wire[-2] = loss.detach() * weight
        wire[-1] = weight
        dist.all_reduce(wire)
        total = wire[-1].clone()
        wire[:-1].div_(total)
        return wire[-2].clone(), total

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Make tensors of real numbers the mean over all processes, in place."""
        for tensor in tensors:
            if tensor.is_floating_point():
                dist.all_reduce(tensor)
                tensor.div_(self.workers)

    def gathered(self, numbers: Tensor) -> Tensor:
        """What all processes hold, one behind the other along the first axis, which may differ in length."""
        count = torch.tensor([len(numbers)], device=numbers.device)
        counts = [torch.zeros_like(count) for _ in range(self.workers)]
        dist.all_gather(counts, count)
        longest = int(max(counts))
        padded = torch.zeros((longest, *numbers.shape[1:]), dtype=numbers.dtype, device=numbers.device)
        padded[: len(numbers)] = numbers
        every = [torch.zeros_like(padded) for _ in range(self.workers)]
        dist.all_gather(every, padded)
        return torch.cat([each[: int(number)] for each, number in zip(every, counts, strict=True)])

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

    def weights_of(self, model: nn.Module, precision: str) -> FlatWeights:
        """The weights of a network, of which this process trains its part."""
        weights = FlatWeights(model)
        self.take_over(weights)
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
        """The state that is written down, of the one that this process has."""
        return state

    def pieces_of(self, state: State, weights: FlatWeights) -> State:
        """The way back from `whole`."""
        return state

    @contextmanager
    def led(self, trainer: Training) -> Iterator[None]:
        """Within, the first process writes the state down."""
        yield
