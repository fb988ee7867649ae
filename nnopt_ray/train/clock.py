"""Where the time of an epoch goes, for a scaling study; a training that nobody studies has no clock and pays nothing.

A clock is hung onto the parts of one training from outside. At every moment exactly one kind is being counted, the
innermost of those that are under way, so that the kinds of an epoch add up to its wall-clock time.

On a GPU each mark waits for the device, as its work would else be counted where the next wait happens to be. Of what
runs beside the backward pass only what is left to wait for counts as communication.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final, Literal

import torch
import torch.distributed as dist

from nnopt_ray.results import Epoch
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.sharding import Shard

Kind = Literal["compute", "preempted", "communication", "data", "validation", "checkpoint", "other"]

# compute: forward, backward, optimizer. preempted: of these, what the training's thread was ready to run and another
# had the core (on Linux and a CPU), so that a busy machine is told from a network that does not scale. communication:
# all-reduce and gathering, with the wait for slower workers; also inside the network, where it is cut over the workers
# or its batch norm is synced. data: reading, ordering and augmenting rows. checkpoint: from the end of the last epoch
# to the start of this one, which writes history and checkpoint. other: the decisions at the end of an epoch, and what
# has no name here.
KINDS: Final[tuple[Kind, ...]] = (
    "compute",
    "preempted",
    "communication",
    "data",
    "validation",
    "checkpoint",
    "other",
)
TALKING = ("reduce", "average", "gathered")  # of a shard: what waits for the other workers


class Core:
    """What the system gave the thread that asks first: seconds on a core, and seconds in the queue for one.

    From Linux's /proc/thread-self/schedstat (7 µs a look); elsewhere nothing is known to have queued.
    """

    def __init__(self) -> None:
        self._file: int | None = None

    def seconds(self) -> tuple[float, float]:
        if self._file is None:
            try:
                self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
            except OSError:
                return time.thread_time(), 0.0
        on, queued, _ = os.pread(self._file, 100, 0).split()
        return int(on) / 1e9, int(queued) / 1e9

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)


class Clock:
    """Counts the seconds of each kind while one training runs, and writes them into its epochs (`Epoch.spent`).

    With a shard they are the mean over all workers.
    """

    def __init__(
        self, trainer: Trainer, shard: Shard | None = None, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self._trainer, self._shard, self._now = trainer, shard, now
        self._waits = trainer.machine.device.startswith("cuda")
        self._seconds: dict[Kind, float] = dict.fromkeys(KINDS, 0.0)
        self._kind: Kind = "other"
        self._core = Core()
        self._core_since = (0.0, 0.0)
        self._since: float | None = None  # None: before the first epoch of this process
        self._hang(trainer, "_train", "compute")
        self._hang(trainer.validation, "measure", "validation")
        for name in TALKING if shard is not None else ():
            self._hang(shard, name, "communication")
        self._hang_on_rows(trainer.feed)
        self._hang_on_epochs()

    def turn(self, kind: Kind) -> Kind:
        """Count this kind from now on → the one that was counted before."""
        if self._waits:
            torch.cuda.synchronize()
        now, before = self._now(), self._kind
        if self._since is not None:
            took = now - self._since
            if before == "compute" and not self._waits:
                took = self._computed(took)
            self._seconds[before] += took
            self._since = now
        if kind == "compute":
            self._core_since = self._core.seconds()
        self._kind = kind
        return before

    def _computed(self, took: float) -> float:
        """Of so many seconds of compute, those that were; the rest is counted as what it was."""
        had, queued = (a - b for a, b in zip(self._core.seconds(), self._core_since, strict=True))
        lost = min(took, queued)
        self._seconds["preempted"] += lost
        inside = self._shard is not None and self._shard.goes_along
        waited = max(0.0, took - lost - had) if inside else 0.0
        self._seconds["communication"] += waited
        return took - lost - waited

    def _hang(self, part: Any, name: str, kind: Kind) -> None:
        act = getattr(part, name)

        def counted(*arguments: Any, **keys: Any) -> Any:
            before = self.turn(kind)
            try:
                return act(*arguments, **keys)
            finally:
                self.turn(before)

        setattr(part, name, counted)

    def _hang_on_rows(self, feed: Any) -> None:
        mixed = feed.mixed

        def counted(epoch: int) -> Iterator[Any]:
            rows = iter(mixed(epoch))
            while True:
                before = self.turn("data")
                try:
                    one = next(rows)
                except StopIteration:
                    return
                finally:
                    self.turn(before)
                yield one

        feed.mixed = counted

    def _hang_on_epochs(self) -> None:
        trainer: Any = self._trainer
        opened, closed = trainer.open_epoch, trainer.close_epoch

        def open_epoch() -> None:
            if self._since is None:
                self._since = self._now()
            self.turn("other")
            opened()

        def close_epoch(*arguments: Any, **keys: Any) -> Epoch:
            record: Epoch = closed(*arguments, **keys)
            self.turn("checkpoint")
            record = replace(record, spent=self._taken())
            trainer.history[-1] = record
            return record

        trainer.open_epoch, trainer.close_epoch = open_epoch, close_epoch

    def _taken(self) -> dict[str, float]:
        """What was counted since the last time, and begin anew."""
        own = [self._seconds[kind] for kind in KINDS]
        self._seconds = dict.fromkeys(KINDS, 0.0)
        if self._shard is not None:
            device = self._trainer.weights.flat.device
            every = type(self._shard).gathered(self._shard, torch.tensor([own], device=device))
            own = every.double().mean(dim=0).tolist()
        return {kind: round(seconds, 6) for kind, seconds in zip(KINDS, own, strict=True)}


LEAST_BYTES = 1 << 10
LARGE_BYTES = 1 << 22  # from some megabytes on it is the bandwidth that counts, and no more the latency
SWEEP_S = 0.05  # about, for each size of the sweep
CALLS = (5, 50)  # at least and at most


def all_reduces(most: int, device: torch.device) -> list[list[float]]:
    """What an all-reduce (a sum over all workers, as of every gradient) takes, in the default group.

    most: bytes of the largest one. Returns [bytes, median seconds] of the slowest worker for sizes from 1 KiB on, each
    four times the last, and `most`. Every worker must call it.
    """
    sizes = [LEAST_BYTES]
    while sizes[-1] * 4 < most:
        sizes.append(sizes[-1] * 4)
    found = []
    for size in [*sizes, *([most] if most > sizes[-1] else [])]:
        numbers = torch.zeros(max(1, size // 4), device=device)
        calls = CALLS[0]
        for _ in range(2):  # the first ones warm up, and say how many there is time for
            took = _reduced(numbers, calls)
            calls = min(CALLS[1], max(CALLS[0], int(SWEEP_S / max(took, 1e-9))))
        found.append([float(numbers.numel() * 4), took])
    return found


def _reduced(numbers: torch.Tensor, calls: int) -> float:
    """Median seconds of so many sums, of the slowest worker."""
    took = []
    for _ in range(calls):
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(numbers)
        if numbers.is_cuda:
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    slowest = torch.tensor([statistics.median(took)], device=numbers.device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return float(slowest)
