"""More workers than there are: what a step of N would take, from what was measured of few.

An epoch of N workers is `steps` times (compute + data + communication left to wait for), then the validation part,
shared out in whole batches, then what does not shrink (checkpoint, decisions).

- compute: c0 + c1 * rows of a worker in a step, by least squares over the measured sizes; from a single size c0 is 0.
- communication: the gradient is added up around a ring, 2 (N - 1) / N * bytes / bandwidth + 2 (N - 1) * latency. No
  algorithm sends less (Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations");
  the two terms are the usual cost model (Thakur, Rabenseifner & Gropp 2005). A tree, as NCCL has it, has less latency.
- overlap, where it is assumed: the sum runs beside the backward pass, two thirds of the compute (2 of 3 multiplications
  per weight and row: Kaplan et al. 2020, section 2.1), and only what is left over is waited for.

How wrong this is where it can be known, `errors` says: each measured size foretold from the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

LEAST_ROWS = 2  # a worker with fewer gets none of a batch (train/sharding.py)
BACKWARD = 2 / 3  # of the compute
PAYS = 0.5  # efficiency below which more workers are said not to pay
SCANNED = 1 << 20  # workers up to which it is looked for


@dataclass(frozen=True)
class Link:
    """Between two workers: bytes a second, seconds of a message."""

    bandwidth: float
    latency_s: float

    def all_reduce_s(self, size: float, workers: int) -> float:
        """Seconds to add up so many bytes of each of so many workers around a ring."""
        if workers < 2:
            return 0.0
        return 2 * (workers - 1) / workers * size / self.bandwidth + 2 * (workers - 1) * self.latency_s


@dataclass(frozen=True)
class Work:
    """The training: rows of an epoch, rows of a batch, bytes of the gradient, rows of the validation part, rows of a
    batch there at least (a larger batch of the training is taken there too)."""

    rows: int
    batch_size: int
    gradient_bytes: int
    validation_rows: int
    evaluation_rows: int

    def steps(self) -> int:
        return max(1, math.ceil(self.rows / self.batch_size))

    def step_rows(self, workers: int) -> float:
        """Rows of a step that the worker with most of them has."""
        takers = max(1, min(workers, self.batch_size // LEAST_ROWS))
        return min(self.batch_size, self.rows) / takers

    def validation_share(self, workers: int) -> float:
        """Of the validation rows, those that the worker with most of them measures."""
        size = max(self.batch_size, self.evaluation_rows)
        batches = max(1, math.ceil(self.validation_rows / size))
        return min(1.0, math.ceil(batches / workers) * size / max(1, self.validation_rows))


@dataclass(frozen=True)
class Measured:
    """A size that was trained: kind → seconds of an epoch (`train.clock.KINDS`), and its work.

    What other processes took of its cores (preempted) is left out: a plan is of workers that have theirs.
    """

    workers: int
    work: Work
    spent: Mapping[str, float]

    @property
    def epoch_s(self) -> float:
        return sum(seconds for kind, seconds in self.spent.items() if kind != "preempted")


@dataclass(frozen=True)
class Costs:
    """What was learned from measured sizes: seconds of compute of a step and of each row in it, of reading a row, of
    measuring the whole validation part, and of an epoch besides."""

    step_s: float
    row_s: float
    data_row_s: float
    validation_s: float
    rest_s: float


@dataclass(frozen=True)
class Foreseen:
    """An epoch of so many workers. communication_s: of a step, what is waited for. speed_up: in rows a second, to one
    worker by the same reckoning. money: None without a price."""

    workers: int
    batch_size: int
    steps: int
    compute_s: float
    communication_s: float
    step_s: float
    epoch_s: float
    rows_per_s: float
    speed_up: float
    efficiency: float
    money: float | None = None


@dataclass(frozen=True)
class Plan:
    """kept: the batch is that of one worker; grown: each worker has as many rows as one had. stops: workers from which
    on the efficiency is below a half, None where that is not before a million. errors: workers → foretold / measured
    - 1 of the seconds of an epoch, each from the other sizes."""

    link: Link
    link_from: str
    gradient_bytes: int
    overlap: bool
    costs: Costs
    kept: tuple[Foreseen, ...]
    grown: tuple[Foreseen, ...]
    kept_stops: int | None
    grown_stops: int | None
    errors: Mapping[int, float]
    sentences: tuple[str, ...]


def link_of(sweeps: Mapping[int, Sequence[tuple[float, float]]]) -> Link | None:
    """Bandwidth and latency by least squares of relative errors over all-reduces; workers → (bytes, seconds) each."""
    rows = [
        (2 * (n - 1), 2 * (n - 1) / n * size, seconds)
        for n, sweep in sweeps.items()
        for size, seconds in sweep
        if n > 1 and seconds > 0
    ]
    if len({size for _, size, _ in rows}) < 2:
        return None
    latency, inverse = _line([(a / t, b / t) for a, b, t in rows])
    return Link(1 / inverse if inverse > 0 else math.inf, latency)


def costs_of(measured: Iterable[Measured]) -> Costs:
    """What sizes cost, from one or more of them."""
    sizes = list(measured)
    points = [(size.work.step_rows(size.workers), size.spent["compute"] / size.work.steps()) for size in sizes]
    if len({rows for rows, _ in points}) > 1:
        step_s, row_s = _line([(1 / seconds, rows / seconds) for rows, seconds in points])
    else:
        step_s, row_s = 0.0, float(np.mean([seconds / rows for rows, seconds in points]))
    read = [size.spent["data"] / (size.work.step_rows(size.workers) * size.work.steps()) for size in sizes]
    validated = [size.spent["validation"] / size.work.validation_share(size.workers) for size in sizes]
    rest = [size.spent["checkpoint"] + size.spent["other"] for size in sizes]
    return Costs(step_s, row_s, float(np.mean(read)), float(np.mean(validated)), float(np.mean(rest)))


def _line(columns: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(a, b), neither below 0, so that a * first + b * second is nearest to 1 in every row."""
    matrix = np.array(columns)
    ones = np.ones(len(matrix))
    (a, b), *_ = np.linalg.lstsq(matrix, ones, rcond=None)
    if a >= 0 and b >= 0:
        return float(a), float(b)
    alone = [float(column @ ones / (column @ column)) for column in matrix.T]
    left = [float(((column * factor - 1) ** 2).sum()) for column, factor in zip(matrix.T, alone, strict=True)]
    return (alone[0], 0.0) if left[0] < left[1] else (0.0, alone[1])


def epoch_of(costs: Costs, work: Work, workers: int, link: Link, overlap: bool) -> Foreseen:
    """An epoch of this work by so many workers; its speed-up and efficiency are filled in by `plan`."""
    rows = work.step_rows(workers)
    compute = costs.step_s + costs.row_s * rows
    sending = link.all_reduce_s(work.gradient_bytes, workers)
    waited = max(0.0, sending - BACKWARD * compute) if overlap else sending
    step = compute + costs.data_row_s * rows + waited
    epoch = work.steps() * step + costs.validation_s * work.validation_share(workers) + costs.rest_s
    return Foreseen(workers, work.batch_size, work.steps(), compute, waited, step, epoch, work.rows / epoch, 1.0, 1.0)


def grown(work: Work, workers: int) -> Work:
    """The batch of all workers, each with as many rows as one had; never more than all rows."""
    return replace(work, batch_size=min(work.batch_size * workers, work.rows))


def plan(
    measured: Sequence[Measured],
    work: Work,
    workers: Sequence[int],
    sweeps: Mapping[int, Sequence[tuple[float, float]]],
    given: tuple[float | None, float | None] = (None, None),
    overlap: bool = False,
    worker_hour: float | None = None,
) -> Plan | None:
    """Foresee an epoch of `work` by so many workers. given: bandwidth and latency of the link that is planned with, in
    place of those of the sweeps. None where nothing was measured, or no link is known.

    worker_hour: the price of a worker.
    """
    seen = link_of(sweeps)
    if not measured or (seen is None and given[0] is None):
        return None
    bandwidth = given[0] if given[0] is not None else seen.bandwidth if seen else math.inf
    latency = given[1] if given[1] is not None else 0.0 if given[0] is not None else seen.latency_s if seen else 0.0
    link, costs = Link(bandwidth, latency), costs_of(measured)

    def foreseen(of: Work, number: int) -> Foreseen:
        one = epoch_of(costs, work, 1, link, overlap)
        found = epoch_of(costs, of, number, link, overlap)
        faster = found.rows_per_s / one.rows_per_s
        money = None if worker_hour is None else number * found.epoch_s / 3600 * worker_hour
        return replace(found, speed_up=faster, efficiency=faster / number, money=money)

    kept = tuple(foreseen(work, number) for number in workers)
    larger = tuple(foreseen(grown(work, number), number) for number in workers)
    kept_stops = next((n for n in _scanned() if foreseen(work, n).efficiency < PAYS), None)
    grown_stops = next((n for n in _scanned() if foreseen(grown(work, n), n).efficiency < PAYS), None)
    told = f"measured by sums over {', '.join(str(n) for n in sorted(sweeps) if n > 1)} workers" if sweeps else ""
    made = Plan(
        link=link,
        link_from="given" if given[0] is not None else told,
        gradient_bytes=work.gradient_bytes,
        overlap=overlap,
        costs=costs,
        kept=kept,
        grown=larger,
        kept_stops=kept_stops,
        grown_stops=grown_stops,
        errors={} if seen is None else _errors(measured, seen, overlap),
        sentences=(),
    )
    return replace(made, sentences=_sentences(made, work, measured))


def _scanned() -> Iterable[int]:
    yield from range(2, 4097)
    number = 8192
    while number <= SCANNED:
        yield number
        number *= 2


def _errors(measured: Sequence[Measured], link: Link, overlap: bool) -> dict[int, float]:
    """Each size foretold from the others, with the link that the sweeps saw."""
    if len(measured) < 2:
        return {}
    return {
        size.workers: epoch_of(costs_of([other for other in measured if other is not size]), size.work, size.workers,
                               link, overlap).epoch_s / size.epoch_s - 1
        for size in measured
    }  # fmt: skip


def _measured_to_stop(measured: Sequence[Measured]) -> int | None:
    """The smallest size that was measured, of one work, to have an efficiency below PAYS."""
    one = next((size for size in measured if size.workers == 1), None)
    if one is None:
        return None
    kept = (size for size in measured if size.work == one.work)
    return min((size.workers for size in kept if one.epoch_s / size.epoch_s / size.workers < PAYS), default=None)


def _sentences(made: Plan, work: Work, measured: Sequence[Measured]) -> tuple[str, ...]:
    latency = f"{made.link.latency_s * 1e6:.3g} µs a message"
    said = [
        f"Planned with {bytes_told(made.link.bandwidth)}/s and {latency} between two workers ({made.link_from}), a "
        f"gradient of {bytes_told(made.gradient_bytes)} added up around a ring, and workers as measured here. "
        + ("The sum is taken to run beside the backward pass." if made.overlap else "Nothing else runs meanwhile.")
    ]
    for stops, what in ((made.kept_stops, "the batch kept"), (made.grown_stops, "the batch grown")):
        if stops is None:
            said.append(f"With {what} the efficiency stays above {100 * PAYS:.0f} % up to a million workers.")
        else:
            said.append(
                f"With {what} more workers stop paying at {stops:,}: the efficiency is below {100 * PAYS:.0f} %."
            )
    found = _measured_to_stop(measured)
    if found is not None and (made.kept_stops is None or found < made.kept_stops):
        said.append(
            f"As measured here, with the batch kept, it is below {100 * PAYS:.0f} % at {found} already: the plan has "
            "another link, or is too hopeful."
        )
    if work.batch_size // LEAST_ROWS < max((each.workers for each in made.kept), default=1):
        said.append(
            f"A batch of {work.batch_size} rows keeps at most {work.batch_size // LEAST_ROWS} workers busy, with "
            f"{LEAST_ROWS} rows each: beyond, with the batch kept, the others only wait."
        )
    if made.errors:
        each = ", ".join(f"{100 * error:+.0f} % at {n}" for n, error in sorted(made.errors.items()))
        foretold = f"Foretold from the other sizes, the seconds of an epoch miss the measured ones by {each}"
        said.append(f"{foretold} (below 0: too hopeful).")
    else:
        said.append("How wrong this is cannot be said: no size that was measured can be foretold from another.")
    return tuple(said)


def bytes_told(size: float) -> str:
    """25 GB, 300 kB: in powers of ten, as networks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB" if math.isfinite(size) else "unlimited bytes"
