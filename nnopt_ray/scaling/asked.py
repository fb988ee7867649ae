"""What a scaling study is asked for: sizes, seeds, prices, a plan. Every fault of it is told before anything starts."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Experiment

MOST = 1_000_000  # workers of a plan
LANES = (1, 4, 16)

RATE = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
TIME = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


@dataclass(frozen=True)
class Asked:
    """One study. Of `workers` and `lanes` one is empty.

    workers: processes that train one network, ascending. gpus: of each worker, ascending; empty: as the page says.
    weak: the rows of an epoch and the batch grow with the workers. epochs: None as the page says. seeds: trainings of
    each size. worker_hour, gpu_hour: prices. plan: workers to foresee. bandwidth: bytes a second of a link between two
    workers, and latency_s of a message on it, in the plan; None: as measured. overlap: the plan lets the sum of
    gradients run beside the backward pass.
    """

    workers: tuple[int, ...] = ()
    lanes: tuple[int, ...] = ()
    gpus: tuple[float, ...] = ()
    weak: bool = False
    epochs: int | None = None
    seeds: int = 1
    worker_hour: float | None = None
    gpu_hour: float | None = None
    plan: tuple[int, ...] = ()
    bandwidth: float | None = None
    latency_s: float | None = None
    overlap: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Asked:
        lists = {name: tuple(said[name]) for name in ("workers", "lanes", "gpus", "plan")}
        return cls(**{**said, **lists})


def settled(asked: Asked, experiment: Experiment) -> Asked:
    """The study of this page, with what was not said filled in. Raises UserError where it makes none."""
    _refuse(asked, experiment)
    if asked.lanes or experiment.is_search:
        lanes = asked.lanes or LANES
        return Asked(**{**asked.to_json(), "lanes": tuple(sorted(set(lanes)))})
    gpus = tuple(sorted(set(asked.gpus)))
    workers = asked.workers or (() if gpus else _powers(cores() // experiment.resources.cpus_per_worker))
    return Asked(**{**asked.to_json(), "workers": tuple(sorted(set(workers))), "gpus": gpus})


def _refuse(asked: Asked, experiment: Experiment) -> None:
    """Raises UserError."""
    of_one = asked.workers or asked.gpus or asked.weak or asked.plan
    if experiment.is_search and of_one:
        what = "--workers" if asked.workers else "--gpus" if asked.gpus else "--weak" if asked.weak else "--plan"
        opened = ", ".join(path for path, _ in experiment.space) or "search.trials"
        raise UserError(
            f"{what} scales the training of one network, and this page is a search (it opens {opened}). Close it with "
            "--set PATH=VALUE, or scale the search itself with --lanes 1,4,16."
        )
    if asked.lanes and not experiment.is_search:
        raise UserError(
            "--lanes scales a search, its trials side by side in one process, and this page opens no value. Open one "
            "with --set, or scale the one training with --workers 1,2,4."
        )
    for name, numbers in (("--workers", asked.workers), ("--lanes", asked.lanes), ("--plan", asked.plan)):
        if any(number < 1 for number in numbers):
            raise UserError(f"{name} takes whole numbers of at least 1; it has {min(numbers)}.")
    if any(not 0 < share <= 1 for share in asked.gpus):
        raise UserError(
            "--gpus takes a share of a GPU for each worker, above 0 and at most 1, as a worker trains on one device. "
            "For more GPUs ask for more workers: --workers 1,2,4 --gpus 1."
        )
    if asked.epochs is not None and asked.epochs < 2:
        raise UserError(f"--epochs must be at least 2, as the first one is not timed; it is {asked.epochs}.")
    if asked.epochs is None and not asked.lanes and experiment.train.epochs < 2:
        raise UserError("the page trains one epoch, and the first one is not timed: give --epochs 2 or more.")
    if asked.seeds < 1:
        raise UserError(f"--seeds must be at least 1; it is {asked.seeds}.")
    prices = (asked.worker_hour, asked.gpu_hour)
    if any(price is not None and not 0 <= price < math.inf for price in prices):
        raise UserError("a price an hour must be a number of at least 0.")
    if asked.gpu_hour is not None and not asked.gpus and experiment.resources.gpus_per_worker == 0:
        raise UserError("--price-per-gpu-hour is given, and the workers have no GPU: say --gpus, or give the worker's.")
    given = asked.bandwidth is not None or asked.latency_s is not None or asked.overlap
    if given and not asked.plan:
        raise UserError("--bandwidth, --latency and --overlap belong to a plan: say for how many, with --plan 8,64.")
    if any(number > MOST for number in asked.plan):
        raise UserError(f"--plan goes up to {MOST:,} workers; it has {max(asked.plan):,}.")


def cores() -> int:
    """CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no such call
        return os.cpu_count() or 1


def _powers(most: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to what the machine holds, two at least."""
    found = [1, 2]
    while found[-1] * 2 <= most:
        found.append(found[-1] * 2)
    return tuple(found)


# --- words of the command -----------------------------------------------------------------------


def whole(option: str, said: str) -> tuple[int, ...]:
    """`1,2,4` → (1, 2, 4). Raises UserError."""
    words = [word.strip() for word in said.split(",")]
    wrong = [word for word in words if not re.fullmatch(r"[0-9]{1,9}", word) or int(word) < 1]
    if wrong:
        raise UserError(
            f"{option} takes whole numbers of at least 1 with commas between, as 1,2,4; '{wrong[0]}' is none."
        )
    return tuple(int(word) for word in words)


def shares(option: str, said: str) -> tuple[float, ...]:
    """`0.25,0.5,1` → (0.25, 0.5, 1.0). Raises UserError."""
    try:
        return tuple(float(word) for word in said.split(","))
    except ValueError:
        raise UserError(f"{option} takes numbers with commas between, as 0.25,0.5,1; it is '{said}'.") from None


def bandwidth(said: str) -> float:
    """`25GB/s`, `200Gb/s` (bits) → bytes a second. Raises UserError."""
    found = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([KMGT]?)(B|b|bit)(?:/s|ps)\s*", said)
    number = _number(found[1]) if found else None
    if found is None or number is None or number <= 0:
        raise UserError(
            f"--bandwidth is bytes or bits a second, as 25GB/s or 200Gb/s (B bytes, b bits); it is '{said}'."
        )
    return number * RATE[found[2]] / (1 if found[3] == "B" else 8)


def latency(said: str) -> float:
    """`20us` → seconds. Raises UserError."""
    found = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*(s|ms|us|µs|ns)\s*", said)
    number = _number(found[1]) if found else None
    if found is None or number is None:
        raise UserError(f"--latency is a time with its unit, as 20us or 0.1ms; it is '{said}'.")
    return number * TIME[found[2]]


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
