"""How many trainings of a shape a worker takes at a time, and whether they share a step: measured, not guessed.

Fusing pays for small networks and loses for those that keep a core busy by themselves; where the border lies
depends on the machine. So steps are timed on copies of a network, alone and as lanes of several widths,
for a short while, and the best is taken.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from nnopt_ray.train.batches import Batch
from nnopt_ray.train.lanes import CannotFuse, Pack, Shape
from nnopt_ray.train.loop import Trainer

WIDTHS = (4, 16, 64)  # tried in this order while they gain
GAIN = 0.95  # of the time a trial takes: what a wider pack, or a pack at all, must come below
MEASURE_S = 1.0  # at most for one shape
SHARE = 0.2  # of the work that is left: what measuring may cost
RECORD_S = 0.2  # about what the shape and the recording of a small network cost (0.05 to 0.15 s an MLP)
MEMORY_SHARE = 0.25  # of what is free: what the lanes of one worker may take

Fuse = Literal["auto", "always", "never"]
Lanes = int | Literal["auto"]


@dataclass
class Choice:
    """What was chosen for one shape. `step_s`: seconds of one step of all lanes by width; 1 is a training alone."""

    lanes: int
    sentence: str
    step_s: Mapping[int, float] = field(default_factory=dict)
    shape: Shape | None = None  # None: one by one
    packs: dict[int, Pack] = field(default_factory=dict)
    rows_by_place: bool = False  # see exact.py

    def cheapest(self, count: int) -> int:
        """The width of the pack that `count` trainings run in for the least time; 1: one after another."""
        fitting = {width: seconds for width, seconds in self.step_s.items() if width >= count and width > 1}
        best = min(fitting, key=lambda width: fitting[width], default=1)
        alone = self.step_s.get(1)
        return best if alone is None or fitting.get(best, float("inf")) < alone * count else 1


def choose(
    example: Callable[[], Trainer],
    fuse: Fuse,
    lanes: Lanes,
    most: int,
    work_s: Callable[[float], float],
    widths: Sequence[int] = WIDTHS,
) -> Choice:
    """Measure and choose.

    example: makes a training of the shape; those made here are thrown away. most: lanes that there is use for.
    work_s: seconds of training that are left for this worker, from the seconds of a step alone. widths: tried before
    one for all that there is use for.
    """
    if fuse == "never":
        return Choice(1, "one trial at a time, as resources.fuse is never")
    wanted = most if lanes == "auto" else lanes
    if wanted < 2:
        why = "as there is no more to do" if lanes == "auto" else "as resources.lanes is 1"
        return Choice(1, f"one trial at a time, {why}")
    began = time.perf_counter()
    trainer = example()
    try:
        shape = Shape(trainer)
    except CannotFuse as error:
        return Choice(1, f"one trial at a time: {error}")
    alone = _alone_s(trainer)
    left = work_s(alone)
    if fuse == "auto" and lanes == "auto" and left * SHARE < RECORD_S:
        return Choice(1, f"one trial at a time, as measuring would cost more than the {left:.1f} s that are left")
    budget = min(MEASURE_S, left * SHARE) if fuse == "auto" else MEASURE_S
    choice = Choice(1, "", {1: alone}, shape)
    step_s: dict[int, float] = {1: alone}
    try:
        for width in _widths(wanted, lanes, _fitting(trainer, wanted), widths):
            spent = time.perf_counter() - began
            if len(step_s) > 1 and spent > budget / 2 and lanes == "auto":
                break
            pack = Pack(shape, width, trainer)
            pack.prepare(shape.sizes[0])
            step_s[width] = _pack_s(pack, trainer)
            choice.packs[width] = pack
            widths = sorted(step_s)
            if step_s[width] / width > GAIN * step_s[widths[-2]] / widths[-2] and len(widths) > 2:
                break
    except CannotFuse as error:
        return Choice(1, f"one trial at a time: {error}")
    took = time.perf_counter() - began
    width = min(step_s, key=lambda each: step_s[each] / each)
    if fuse == "always" or lanes != "auto":
        width = max(step_s) if lanes != "auto" else min((w for w in step_s if w > 1), key=lambda w: step_s[w] / w)
    elif step_s[width] / width > GAIN * alone:
        width = 1
    told = ", ".join(
        f"{seconds / each * 1e6:.0f} µs " + (f"as {each} lanes" if each > 1 else "alone")
        for each, seconds in sorted(step_s.items())
    )
    choice.lanes = width
    choice.packs = {each: pack for each, pack in choice.packs.items() if each <= width}
    choice.step_s = {each: seconds for each, seconds in step_s.items() if each <= width}
    if width == 1:
        choice.shape, choice.packs = None, {}
    chosen = f"{width} trials at a time as lanes of one step" if width > 1 else "one trial at a time"
    choice.sentence = f"{chosen}: a step of a trial takes {told} (measured in {took:.1f} s)"
    return choice


def _widths(wanted: int, lanes: Lanes, fitting: int, tried: Sequence[int]) -> list[int]:
    if lanes != "auto":
        return [lanes]
    cap = max(2, min(wanted, fitting))
    return [*(width for width in tried if width < cap), *([cap] if cap <= WIDTHS[-1] else [WIDTHS[-1]])]


def _fitting(trainer: Trainer, wanted: int) -> int:
    """Lanes whose weights, gradients, optimizer state and kept copies fit the free memory; rows between layers
    are estimated at the size of a batch times eight."""
    beside = (trainer.average is not None) + (trainer.experiment.train.accumulate > 1)
    own = trainer.weights.flat.numel() * (2 + len(trainer.slots) + beside + 3)
    batch = sum(x[: trainer.sizes[0]].numel() for x in trainer.placed.train.inputs) * 9
    lane = 4 * (own + batch)
    return max(1, min(wanted, int(_free_bytes(trainer.machine.device) * MEMORY_SHARE / lane)))


def _free_bytes(device: str) -> int:
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 << 30


def _alone_s(trainer: Trainer) -> float:
    """Median seconds of a step of this training, augmentation and mixing included; its weights move."""
    rows = _first_rows(trainer)
    return _median(lambda: trainer.try_step(*trainer.feed.changed(*rows)))


def _first_rows(trainer: Trainer) -> Batch:
    rows, target = trainer.sizes[0], trainer.placed.train.target
    assert target is not None
    return tuple(x[:rows] for x in trainer.placed.train.inputs), target[:rows]


def _pack_s(pack: Pack, trainer: Trainer) -> float:
    """Median seconds of a step of a full pack: gradients of all lanes, and each lane's optimizer and rows."""
    rows = _first_rows(trainer)
    own = _median(lambda: trainer.descend(0)) + _median(lambda: trainer.feed.changed(*rows))
    return _median(pack.try_gradients) + pack.width * own


def _median(call: Callable[[], object]) -> float:
    """Of some calls within about 50 ms, after one that warms up."""
    call()
    took: list[float] = []
    while len(took) < 5 or (sum(took) < 0.05 and len(took) < 50):
        if len(took) >= 2 and sum(took) > 0.5:
            break
        began = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return statistics.median(took)
