"""The page of each size, and what is measured of its trainings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from nnopt_ray import reading
from nnopt_ray.experiment import Experiment
from nnopt_ray.folding import OF_THE_WHOLE
from nnopt_ray.log import plural
from nnopt_ray.machine import derived_seed
from nnopt_ray.results import Epoch
from nnopt_ray.scaling.asked import Asked, cores
from nnopt_ray.scaling.found import Size

OVERSUBSCRIBED = 2  # workers' CPUs to a core of this machine that are still tried


@dataclass(frozen=True)
class Place:
    """One size of a study: so many workers (or lanes), of such a share of a GPU each."""

    workers: int
    gpus: float
    lanes: bool = False

    @property
    def name(self) -> str:
        what = "lane" if self.lanes else "worker"
        share = f" of {self.gpus:g} GPU" if self.gpus else ""
        return f"{plural(self.workers, what)}{share}"

    def folder(self, seed: int) -> str:
        """Of the training with so-manieth seed, from 0."""
        return f"{self.name.replace(' ', '-')}{f'-seed-{seed + 1}' if seed else ''}"


def places(experiment: Experiment, asked: Asked) -> tuple[Place, ...]:
    """The sizes of a study, in their order. Shares of a GPU without a number of workers have as many as share one."""
    if asked.lanes:
        return tuple(Place(lanes, 0.0, lanes=True) for lanes in asked.lanes)
    if not asked.gpus:
        return tuple(Place(workers, experiment.resources.gpus_per_worker) for workers in asked.workers)
    if not asked.workers:
        return tuple(Place(max(1, int(1 / share + 1e-9)), share) for share in sorted(asked.gpus, reverse=True))
    return tuple(Place(workers, share) for share in asked.gpus for workers in asked.workers)


def page_of(experiment: Experiment, asked: Asked, place: Place, seed: int) -> Experiment:
    """The page that is trained at a size, with the seed of this number (0: the page's own)."""
    most = max(each.workers for each in places(experiment, asked))
    changes: dict[str, object] = {
        **OF_THE_WHOLE,
        "evaluate.explain": [],
        "seed": experiment.seed if seed == 0 else derived_seed(experiment.seed, "scaling", seed),
        "resources.workers": place.workers,
        "resources.gpus_per_worker": place.gpus,
        "resources.batch": "per_worker" if asked.weak else "global",
        "resources.lr_scaling": experiment.resources.lr_scaling if asked.weak else "none",
    }
    if asked.epochs is not None:
        changes["train.epochs"] = asked.epochs
    if place.workers == 1:
        changes["resources.fsdp"] = False
    if asked.weak and place.workers < most:
        changes["data.train_share"] = (experiment.data.train_share or 1.0) * place.workers / most
    return reading.close(experiment, changes)


def too_many(experiment: Experiment, place: Place) -> str:
    """Why a size is not tried on this machine; empty where it is."""
    needed, there = place.workers * experiment.resources.cpus_per_worker, cores()
    if needed <= OVERSUBSCRIBED * there:
        return ""
    return (
        f"{plural(place.workers, 'worker')} of {plural(experiment.resources.cpus_per_worker, 'CPU')} on "
        f"{plural(there, 'core')}: at most {OVERSUBSCRIBED} to a core are tried. Give a cluster with --address."
    )


def oversubscribed(experiment: Experiment, place: Place, embedded: bool) -> bool:
    """Whether the workers of a size share cores."""
    return embedded and not place.lanes and place.workers * experiment.resources.cpus_per_worker > cores()


@dataclass(frozen=True)
class Trained:
    """One training at a size: its epochs, the seconds to its first step, its objective (NaN: none), the epochs that it
    was taken up at after an interruption, which are not timed as the first is not."""

    history: tuple[Epoch, ...]
    start_s: float
    value: float
    taken_up: frozenset[int] = frozenset()

    @property
    def timed(self) -> list[Epoch]:
        return [epoch for epoch in self.history if epoch.epoch > 0 and epoch.epoch not in self.taken_up]


def epoch_s(epoch: Epoch) -> float:
    """Wall-clock seconds of an epoch, what is written after the one before it included."""
    return sum(epoch.spent.values()) or epoch.seconds


def measured(place: Place, trained: Sequence[Trained], rows: int, batch_size: int, steps: int) -> Size:
    """The trainings of a size as one: times of all epochs but the first of each.

    rows: of an epoch. batch_size: of all workers together. steps: of an epoch.
    """
    timed = [epoch for each in trained for epoch in each.timed]
    values = tuple(each.value for each in trained)
    found = Size(place.name, place.workers, place.gpus, rows, batch_size, steps, values=values)
    if not timed:
        return Size(**{**vars(found), "failed": "it trained too few epochs, as the first one is not timed"})
    seconds = median(epoch_s(epoch) for epoch in timed)
    # Shares of all the time there was, of the median epoch: so the kinds add up to it.
    whole = sum(epoch_s(epoch) for epoch in timed)
    kinds = dict.fromkeys(kind for epoch in timed for kind in epoch.spent)
    spent = {kind: seconds * sum(epoch.spent.get(kind, 0.0) for epoch in timed) / whole for kind in kinds}
    starts = [each.start_s for each in trained if math.isfinite(each.start_s)]
    more = {
        "epochs": len(timed),
        "epoch_s": seconds,
        "rows_per_s": rows / seconds,
        "steps_per_s": steps / seconds,
        "epochs_per_s": 1 / seconds,
        "start_s": median(starts) if starts else math.nan,
        "spent": spent,
    }
    return Size(**{**vars(found), **more})
