"""`nnopt plan`: what a page would do, before it does it. Starts no search and no Ray."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from nnopt_ray import assembly, pipeline, tables
from nnopt_ray.experiment import Experiment, Range, count
from nnopt_ray.reading.notes import notes
from nnopt_ray.search.cluster import Cluster
from nnopt_ray.search.space import distinct_grid, value
from nnopt_ray.search.trying import Tried, attempt, branches, extremes

if TYPE_CHECKING:
    from nnopt_ray.data.types import Dataset
    from nnopt_ray.machine import Machine
    from nnopt_ray.search.overfit import Overfit

MOST_BRANCHES = 64
BRANCH_S, ALL_S = 1.0, 10.0  # seconds of measuring: a branch, and all of them together
PATIENCE_S = 60.0  # one step of a large network may take longer than that; no new branch is begun after this long
COUNTED_POINTS = 10_000  # of a grid, so many are looked at one by one for their epochs


@dataclass(frozen=True)
class Span:
    """From the least to the most."""

    least: float
    most: float


@dataclass(frozen=True)
class Lanes:
    """Trials that one worker trains at a time. `count`: None where it is found by measuring when the search starts."""

    count: int | None
    why: str


@dataclass(frozen=True)
class DataMemory:
    """Bytes of prepared data that each worker holds, and its rows by part."""

    bytes: int
    resident: bool  # False: read from the memory map batch by batch
    rows: dict[str, int]


@dataclass(frozen=True)
class Plan:
    """What a page would do. Spans are over all branches that were tried and work; None where none does."""

    name: str
    search: bool
    method: str
    scheduler: str
    trials: int
    trials_exact: bool  # False: at most so many
    epochs: Span  # of all trials together, as the scheduler spends them
    confirm_epochs: int  # at most, on top
    workers: int
    workers_why: str
    at_once: int  # trials in work at a time, one a worker
    lanes: Lanes
    data: DataMemory
    device: str
    tried: tuple[Tried, ...]
    untried: int  # branches left out
    parameters: Span | None
    memory: Span | None  # bytes of one trial
    epoch_s: Span | None
    seconds: Span | None  # of the trials together, `at_once` at a time
    confirm_s: float | None  # at most, on top
    machine_bytes: int  # memory that the trials share: the GPUs' where they train on one
    overfit: Overfit | None = None  # of the first branch; None where it was not tried
    notes: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[Tried, ...]:
        """The branches that cannot be trained."""
        return tuple(each for each in self.tried if each.fault)

    @property
    def exit_code(self) -> int:
        return max((each.exit_code for each in self.faults), default=0)

    def to_json(self) -> dict[str, Any]:
        said = asdict(replace(self, tried=()))
        del said["tried"]
        said["branches"] = [_line(each) for each in self.tried]
        said["faults"] = [{"branch": dict(each.branch.moved), "message": each.fault} for each in self.faults]
        return said


def _line(tried: Tried) -> dict[str, Any]:
    memory = None if tried.memory is None else {**asdict(tried.memory), "total": tried.memory.total}
    own = ("parameters", "steps", "timed_steps", "epoch_s", "note", "diverged", "fault")
    return {
        "params": dict(tried.branch.params),
        "moved": dict(tried.branch.moved),
        "memory": memory,
        **{name: getattr(tried, name) for name in own},
    }


def plan(experiment: Experiment, overfit: bool = True) -> Plan:
    """What the page would do on this machine.

    Prepares the data (or takes it from the cache) and puts one real batch through every branch of the space.
    Raises UserError where the page cannot be run at all: its data, its metrics, a GPU that is not there.
    A branch that cannot be trained is a fault in the plan. overfit: try whether the first one can learn a few rows
    by heart, which takes up to five seconds.
    """
    dataset = assembly.data_of(experiment)
    assembly.metrics_for(experiment, dataset)
    where = assembly.machine_for(experiment)
    trials, exact = trial_count(experiment)
    epochs = epoch_budget(experiment, trials)
    workers, why = _workers(experiment, trials)
    tried, untried = _tried(experiment, dataset, where)
    works = [each for each in tried if not each.fault]
    epoch_s = mean_epoch_s(works)
    at_once = min(workers, experiment.search.concurrency or workers)
    confirm = experiment.search.confirm if experiment.is_search else None
    confirm_epochs = 0 if confirm is None else confirm.seeds * min(confirm.top, trials) * epoch_ends(experiment)[1]
    found = Plan(
        name=experiment.name,
        search=experiment.is_search,
        method=experiment.search.method.type,
        scheduler=experiment.search.scheduler.type,
        trials=trials,
        trials_exact=exact,
        epochs=epochs,
        confirm_epochs=confirm_epochs,
        workers=workers,
        workers_why=why,
        at_once=at_once,
        lanes=lanes_of(experiment),
        data=data_memory(dataset, where),
        device=where.device,
        tried=tuple(tried),
        untried=untried,
        parameters=_span([each.parameters for each in works]),
        memory=_span([each.memory.total for each in works if each.memory is not None]),
        epoch_s=_span([each.epoch_s for each in works]),
        seconds=None if epoch_s is None else Span(*(n * epoch_s / at_once for n in (epochs.least, epochs.most))),
        confirm_s=None if epoch_s is None else confirm_epochs * epoch_s / at_once,
        machine_bytes=_machine_bytes(where),
        overfit=_by_heart(experiment, dataset, where, tried) if overfit else None,
    )
    return replace(found, notes=_notes(experiment, found))


def _by_heart(experiment: Experiment, dataset: Dataset, where: Machine, tried: Sequence[Tried]) -> Overfit | None:
    from nnopt_ray.search import overfit

    if not tried or tried[0].fault or tried[0].diverged:
        return None
    page = assembly.representative(experiment)
    if page.data.preparation != experiment.data.preparation:
        dataset = pipeline.prepared(page)
    opened = [path for path, _ in experiment.space]
    if isinstance(experiment.search.trials, tuple):
        opened += [path for trial in experiment.search.trials for path in trial]
    return overfit.overfit(page, dataset, where, lr_is_open=any(path.startswith("train.optimizer") for path in opened))


def _span(values: Sequence[float | None]) -> Span | None:
    known = [number for number in values if number is not None]
    return Span(min(known), max(known)) if known else None


def mean_epoch_s(tried: Sequence[Tried]) -> float | None:
    """Over the branches that were timed. Those of several moves at once are no usual trials, and left out."""
    seconds = [each.epoch_s for each in tried if each.epoch_s is not None and not each.branch.together]
    return sum(seconds) / len(seconds) if seconds else None


def _notes(experiment: Experiment, found: Plan) -> tuple[str, ...]:
    said = [*notes(experiment)]
    if found.untried:
        tried = len(found.tried)
        said.append(
            f"{found.untried} more branches were not tried: {tried} were enough for a plan. What changes shapes came "
            "first."
        )
    if experiment.train.early_stopping is not None:
        said.append("Early stopping may end a training sooner than this says.")
    if experiment.is_search and experiment.search.timeout_s is not None:
        said.append(f"No new trial is started after {experiment.search.timeout_s:g} s (search.timeout_s).")
    trained = found.memory.most if found.memory else 0
    if experiment.resources.fsdp and trained:
        trained = int(trained / max(1, found.workers))
        said.append(
            f"resources.fsdp cuts the network, which was tried whole here: about {trained / 2**20:.1f} MiB for each of "
            f"{found.workers} workers, and the block that is computed."
        )
    processes = found.workers * (experiment.resources.worker_range[1] if experiment.is_search else 1)
    needed = processes * (found.data.bytes + (found.lanes.count or 1) * trained)
    if needed > found.machine_bytes:
        gib = f"{needed / 2**30:.1f} GiB on {processes} workers, and there are {found.machine_bytes / 2**30:.1f} GiB"
        said.append(f"The largest trials need about {gib}: ask for more cpus_per_worker, so that fewer run at once.")
    return tuple(said)


# --- trials and epochs --------------------------------------------------------------------------


def trial_count(experiment: Experiment) -> tuple[int, bool]:
    """(trials, whether they are exactly so many): a timeout may end any search, a model of the past a learning one."""
    if not experiment.is_search:
        return 1, True
    asker = tables.build("method", experiment.search.method).start(experiment)
    return asker.total, not asker.adaptive and experiment.search.timeout_s is None


def epoch_ends(experiment: Experiment) -> tuple[int, int]:
    """The shortest and the longest training that a trial of this page may have; epochs can be searched too."""
    found = _listed_epochs(experiment)
    if found:
        return min(found), max(found)
    opened = [range_ for path, range_ in experiment.space if path == "train.epochs"]
    ends = [end for range_ in opened for end in _ends(range_)]
    return (min(ends), max(ends)) if ends else (experiment.train.epochs, experiment.train.epochs)


def _ends(range_: Range) -> list[int]:
    if range_.kind == "choice":
        return [int(option) for option in range_.values]
    values = range_.points()
    return [int(range_.first()), int(range_.values[1] if values is None else value(range_, values - 1))]


def _listed_epochs(experiment: Experiment) -> list[int]:
    """The epochs of each trial where the trials are known beforehand; empty where they are not."""
    usual = experiment.train.epochs
    listed = experiment.search.trials
    if isinstance(listed, tuple):
        return [int(trial.get("train.epochs", usual)) for trial in listed]
    points = count(experiment.tree)
    if experiment.search.method.type != "grid" or points is None or points > COUNTED_POINTS:
        return []
    grid = distinct_grid(experiment.tree)
    limit = listed if isinstance(listed, int) else len(grid)
    return [int(point.get("train.epochs", usual)) for point in grid[:limit]]


def epoch_budget(experiment: Experiment, trials: int) -> Span:
    """Epochs of all trials together, as the scheduler spends them. What early stopping saves is not known here."""
    shortest, longest = epoch_ends(experiment)
    if not experiment.is_search:
        return Span(longest, longest)
    scheduler = tables.build("scheduler", experiment.search.scheduler)
    least, most = scheduler.budget(trials, longest)
    listed = _listed_epochs(experiment)
    known = listed if len(listed) == trials else []
    if least == trials * longest:  # it stops nobody
        return Span(sum(known), sum(known)) if known else Span(trials * shortest, trials * longest)
    if shortest != longest:
        least = min(least, scheduler.budget(trials, shortest)[0])
        most = min(most, sum(known)) if known else most
    return Span(least, most)


# --- workers, lanes, memory ---------------------------------------------------------------------


def _workers(experiment: Experiment, trials: int) -> tuple[int, str]:
    """Workers on this machine. Raises UserError when not one fits."""
    resources = experiment.resources
    if not experiment.is_search and not resources.together:
        return 1, "a single training runs in one process"
    gpus = 0
    if resources.gpus_per_worker > 0:
        import torch

        gpus = torch.cuda.device_count()
    there = Cluster(embedded=True, cpus=os.cpu_count() or 1, gpus=gpus, nodes=1)
    fits = there.workers(resources)
    needs = f"{resources.cpus_per_worker} CPU{'s' * (resources.cpus_per_worker != 1)}"
    needs += f" and {resources.gpus_per_worker:g} GPU" if resources.gpus_per_worker else ""
    holds = f"{there.cpus:g} CPUs" + (f" and {gpus} GPUs" if resources.gpus_per_worker else "")
    if resources.together and experiment.is_search:
        size, groups = resources.worker_range[1], max(1, there.seats(resources))
        told = f"each a group of {size} workers that train a trial together; this machine holds {fits} ({holds})"
        return min(groups, trials), told
    if resources.together:
        least, most = resources.worker_range
        told = f"that train the network together, {least} at least; this machine holds {fits} ({holds})"
        return min(fits, most), told
    if fits > trials:
        return trials, f"one a trial; this machine holds {fits} ({holds}, {needs} each)"
    return fits, f"as many as this machine holds: {holds}, {needs} each"


def lanes_of(experiment: Experiment) -> Lanes:
    """Trials that one worker trains at a time, and why so many.

    The one place of a plan that knows how lanes are chosen.
    """
    resources = experiment.resources
    if not experiment.is_search:
        return Lanes(1, "a single training")
    if resources.together:
        return Lanes(1, "one trial at a time, as several workers train it")
    if resources.fuse == "never":
        return Lanes(1, "one trial at a time, as resources.fuse is never")
    if resources.lanes != "auto":
        return Lanes(resources.lanes, "resources.lanes")
    if experiment.search.reproducible:
        return Lanes(None, "where a step is small, as search.reproducible leaves it to no clock")
    return Lanes(None, "chosen by measuring at the start")


def data_memory(dataset: Dataset, where: Machine) -> DataMemory:
    """The prepared data as each worker holds it: see train/batches.py."""
    from nnopt_ray.train.batches import EPOCH_COPY_BYTES, RESIDENT_BYTES

    limit = RESIDENT_BYTES
    if where.device == "cuda":
        import torch

        limit = torch.cuda.mem_get_info()[0] // 3
    train, validation = (
        sum(array.nbytes for array in (*part.inputs, part.target)) for part in (dataset.train, dataset.validation)
    )
    rows = {name: len(getattr(dataset, name)) for name in ("train", "validation", "test")}
    if train + validation > limit:
        return DataMemory(0, False, rows)
    shuffled = train if train <= EPOCH_COPY_BYTES else 0
    return DataMemory(train + validation + shuffled, True, rows)


def _machine_bytes(where: Machine) -> int:
    """Memory that the trials share: the GPUs' where they train on one."""
    if where.device == "cuda":
        import torch

        one: int = torch.cuda.mem_get_info()[1]
        return one * torch.cuda.device_count()
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# --- branches -----------------------------------------------------------------------------------


def _tried(experiment: Experiment, dataset: Dataset, where: Machine) -> tuple[list[Tried], int]:
    """Every branch tried, those of several moves at once last, and how many were left out."""
    every = branches(experiment)
    chosen = every[:MOST_BRANCHES]
    each_s = min(BRANCH_S, ALL_S / (len(chosen) + 2))
    deadline = time.monotonic() + PATIENCE_S
    tried: list[Tried] = []
    for branch in chosen:
        if time.monotonic() < deadline or not tried:
            tried.append(attempt(experiment, dataset, where, branch, each_s))
    untried = len(every) - len(tried)
    if len(tried) == len(chosen) and not isinstance(experiment.search.trials, tuple):
        tried += [attempt(experiment, dataset, where, branch, each_s) for branch in extremes(experiment, tried)]
    if all(each.fault or each.diverged for each in tried):  # not one point trains: that is no matter of the values
        tried = [replace(each, fault=each.fault or each.diverged, exit_code=each.exit_code or 1) for each in tried]
    return tried, untried
