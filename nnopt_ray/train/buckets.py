"""The gradient of a network, added up over several processes while the backward pass is still computing.

It lies in one block (`weights.FlatWeights`), and the backward pass fills it from its last layer to its first. So it is
sent bucket by bucket: as soon as the weights of a bucket have their gradient the all-reduce of it begins, and what is
left of the backward pass goes on beside it. The first bucket is small, so that sending begins early, the others are
large, as each costs a latency (the sizes of torch's DistributedDataParallel: Li et al. 2020, section 3.2). Biases and
norms lie behind all other weights and go last, with what else lies behind them. A small network goes as a whole.

The buckets go in one order in all processes, also where one has no rows or does not use a weight.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.distributed as dist
from torch import Tensor

from nnopt_ray.errors import PartError
from nnopt_ray.train.weights import FlatWeights


def cut(ends: list[int], first: int, size: int) -> list[int]:
    """Where the buckets of weights that end there begin, from the last one on: each holds whole weights, the first
    `first` numbers or more, the others `size` or more, the last what is left."""
    starts = [0, *ends[:-1]]
    found: list[int] = []
    end, least = (ends[-1] if ends else 0), first
    for start in reversed(starts if ends else []):
        if end - start >= least or start == 0:
            found.append(start)
            end, least = start, size
    return found


class Buckets:
    """Sends the gradient of a network, and what lies behind it.

    wire: float32 [P + more]; the gradient of `weights` is its front. Without weights it is sent as it is.
    """

    FIRST_BYTES = 1 << 20
    BUCKET_BYTES = 25 << 20

    def __init__(self, wire: Tensor, weights: FlatWeights | None = None) -> None:
        self._whole = wire
        self._buckets: list[Tensor] = []
        self._weights: list[int] = []  # in each bucket
        self._left: list[int] = []  # without a gradient yet
        self._has: list[bool] = []  # of each weight, whether its gradient is there
        self._sent: list[dist.Work] = []
        self._open = False
        if weights is None:
            return
        proper, ends, end = [], [], 0
        for name, parameter in weights.trainable:
            end += parameter.numel()
            if end <= weights.decaying:
                proper.append((name, parameter))
                ends.append(end)
        number = wire.element_size()
        starts = cut(ends, self.FIRST_BYTES // number, self.BUCKET_BYTES // number)
        if len(starts) < 2:
            return
        self._has = [False] * len(proper)
        behind = ends[-1]
        for bucket, start in enumerate(starts):
            self._buckets.append(wire[start:behind])
            inside = [index for index, end in enumerate(ends) if start < end <= behind]
            self._weights.append(len(inside))
            for index in inside:
                name, parameter = proper[index]
                hook = self._hook(bucket, index, name)
                parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
            behind = start
        self._buckets.append(wire[ends[-1] :])

    @property
    def count(self) -> int:
        """Collective operations that a gradient takes."""
        return max(1, len(self._buckets))

    def open(self) -> None:
        """The next backward pass is the last one before the gradient is used: send what it leaves behind."""
        if self._buckets:
            self._left = list(self._weights)
            self._has = [False] * len(self._has)
            self._open = True

    def close(self) -> None:
        """Send what was not sent, and wait for it all (on a GPU, let its stream wait)."""
        if not self._buckets:
            dist.all_reduce(self._whole)
            return
        self._open = False
        while len(self._sent) < len(self._buckets):
            self._send()
        for work in self._sent:
            work.wait()
        self._sent.clear()

    def _send(self) -> None:
        work = dist.all_reduce(self._buckets[len(self._sent)], async_op=True)
        assert work is not None
        self._sent.append(work)

    def _hook(self, bucket: int, index: int, name: str) -> Callable[[Tensor], None]:
        def arrived(_parameter: Tensor) -> None:
            if not self._open:
                return
            if self._has[index]:
                raise PartError(
                    f"the model adds to the gradient of its weight '{name}' twice in a backward pass, and several "
                    "workers send it once: give torch.utils.checkpoint use_reentrant=False."
                )
            self._has[index] = True
            self._left[bucket] -= 1
            while len(self._sent) < len(self._left) and not self._left[len(self._sent)]:
                self._send()

        return arrived
