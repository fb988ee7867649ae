"""What came out of a scaling study, as one value; scaling.json holds all of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nnopt_ray.scaling.laws import Law
from nnopt_ray.scaling.planner import Plan
from nnopt_ray.scaling.verdict import Score

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Size:
    """One size, measured. Throughput and times are of the epochs after the first, the median over them and the seeds.

    workers: processes on one network (lanes: trials at a time). rows_per_s, steps_per_s, epochs_per_s: of all workers
    together (lanes: of all trials); a step is one of the optimizer. epoch_s: wall-clock seconds of an epoch, validation
    and checkpoint included. spent: kind → seconds of it, adding up to epoch_s; empty for lanes. start_s: from the start
    of the workers to their first step. worker_s: worker-seconds of an epoch. money: of an epoch; None without a price.
    values: the objective at the best epoch with each seed, NaN where there is none. failed: why there is no figure.
    """

    name: str
    workers: int
    gpus: float = 0.0
    rows: int = 0
    batch_size: int = 0
    steps: int = 0
    epochs: int = 0
    epoch_s: float = math.nan
    rows_per_s: float = math.nan
    steps_per_s: float = math.nan
    epochs_per_s: float = math.nan
    start_s: float = math.nan
    spent: Mapping[str, float] = field(default_factory=dict)
    values: tuple[float, ...] = ()
    oversubscribed: bool = False
    failed: str = ""
    note: str = ""
    all_reduce: tuple[tuple[float, float], ...] = ()  # bytes, seconds
    speed_up: float | None = None  # to the first size that was measured
    efficiency: float | None = None
    worker_s: float | None = None
    money: float | None = None
    score: Score | None = None  # against the first size

    @property
    def measured(self) -> bool:
        return not self.failed and math.isfinite(self.epoch_s)

    @property
    def value(self) -> float:
        """The mean objective over seeds."""
        known = [value for value in self.values if math.isfinite(value)]
        return sum(known) / len(known) if known else math.nan


@dataclass(frozen=True)
class Scaling:
    """A scaling study.

    kind: strong (the batch is kept), weak (rows and batch grow with the workers), or lanes. status: finished, or
    interrupted when sizes are missing. law: None where none could be fitted; law_said says why. sentences: what is to
    be said of it, the verdict first.
    """

    name: str
    path: Path
    kind: Literal["strong", "weak", "lanes"]
    status: Literal["finished", "interrupted"]
    metric: str
    mode: Literal["min", "max"]
    confidence: float
    sizes: tuple[Size, ...]
    law: Law | None
    law_said: str
    plan: Plan | None
    sentences: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)  # processor, cores, gradient_bytes, seeds, ...

    def to_json(self) -> dict[str, Any]:
        said = asdict(self)
        said["path"] = str(self.path)
        return said

    @property
    def table(self) -> pd.DataFrame:
        """A row a size: workers, gpus, rows_per_s, steps_per_s, epochs_per_s, epoch_s, start_s, speed_up, efficiency,
        worker_s, money, value (the mean objective), a column `spent.KIND` of each kind of time in seconds,
        oversubscribed, failed."""
        import pandas as pd

        plain = ("name", "workers", "gpus", "rows_per_s", "steps_per_s", "epochs_per_s", "epoch_s", "start_s",
                 "speed_up", "efficiency", "worker_s", "money", "value")  # fmt: skip
        rows = [
            {name: getattr(size, name) for name in plain}
            | {f"spent.{kind}": seconds for kind, seconds in size.spent.items()}
            | {"oversubscribed": size.oversubscribed, "failed": size.failed}
            for size in self.sizes
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"Scaling({str(self.path)!r})"


def size_from_json(said: Mapping[str, Any]) -> Size:
    """A size as `asdict` and JSON gave it, without what belongs to the study as a whole."""
    numbers = ("epoch_s", "rows_per_s", "steps_per_s", "epochs_per_s", "start_s")
    read = {name: math.nan if said[name] is None else said[name] for name in numbers}
    values = tuple(math.nan if value is None else value for value in said["values"])
    pairs = tuple((float(size), float(seconds)) for size, seconds in said["all_reduce"])
    whole = dict.fromkeys(("speed_up", "efficiency", "worker_s", "money", "score"))
    return Size(**{**said, **read, "values": values, "all_reduce": pairs, **whole})
