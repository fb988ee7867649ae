"""The trials of a search side by side in one process: what a wider pack gains.

The trials are of one shape, the page's first values, and differ in the seed: what a search fills its lanes with at
best. Trial 1 is the same at every size, so its score tells whether lanes change what is trained.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

from nnopt_ray import assembly, reading
from nnopt_ray.errors import RunFailed
from nnopt_ray.experiment import Experiment
from nnopt_ray.folding import OF_THE_WHOLE
from nnopt_ray.machine import derived_seed
from nnopt_ray.rundir import RunDir
from nnopt_ray.scaling.found import Size
from nnopt_ray.scaling.sizes import Place

if TYPE_CHECKING:
    from nnopt_ray.data.types import Dataset

EPOCHS = 10  # of each trial, where --epochs does not say it


def page_of(experiment: Experiment, lanes: int, epochs: int) -> Experiment:
    """The page that the trials of a size are, but for their seeds."""
    changes = {
        **assembly.some_params(experiment),
        **OF_THE_WHOLE,
        "evaluate.explain": [],
        "resources.fuse": "always" if lanes > 1 else "never",
        "resources.lanes": lanes,
        "resources.workers": 1,
        # Nothing ends a trial but its epochs, so that the pack stays full.
        "train.epochs": epochs,
        "train.early_stopping": None,
    }
    return reading.close(experiment, changes)


def measured(
    page: Experiment, dataset: Dataset, place: Place, run: RunDir, should_stop: Callable[[], bool]
) -> Size | None:
    """Train so many trials at a time → what it took; None when it was stopped. Raises RunFailed when a trial failed."""
    from nnopt_ray.search.crew import Crew
    from nnopt_ray.search.messages import Demand, Order

    shutil.rmtree(run.trials, ignore_errors=True)
    lanes, epochs = place.workers, page.train.epochs
    began = time.perf_counter()
    crew = Crew(page, dataset, assembly.machine_for(page), run)
    _, why = crew.measure({}, Demand(lanes, lanes * epochs, lanes))
    seeds = [page.seed, *(derived_seed(page.seed, "scaling", number) for number in range(1, lanes))]
    orders = [Order(f"{number:04d}", {"seed": seed}, until=epochs) for number, seed in enumerate(seeds, start=1)]
    prepared_s = time.perf_counter() - began
    took: list[float] = []
    values: list[float] = []
    sign = 1.0 if page.mode == "min" else -1.0
    for number in range(epochs):
        round_began = time.perf_counter()
        answer = crew.work(orders if number == 0 else [], [], slice_s=0.0)
        took.append(time.perf_counter() - round_began)
        for report in answer.reports:
            if report.failure is not None:
                raise RunFailed(f"trial {report.trial} of {place.name} failed: {report.failure.message}")
            if report.trial == orders[0].trial:
                values += [epoch.metrics[page.epoch_metric] for epoch in report.epochs]
        if should_stop():
            return None
    rows, steps = len(dataset.train), -(-len(dataset.train) // page.train.batch_size)
    seconds = median(took[1:])
    return Size(
        place.name,
        lanes,
        rows=rows * lanes,
        batch_size=page.train.batch_size,
        steps=steps * lanes,
        epochs=len(took) - 1,
        epoch_s=seconds,
        rows_per_s=rows * lanes / seconds,
        steps_per_s=steps * lanes / seconds,
        epochs_per_s=lanes / seconds,
        start_s=prepared_s + max(0.0, took[0] - seconds),
        values=(sign * min(sign * value for value in values if math.isfinite(value)),) if values else (math.nan,),
        note="" if lanes == 1 else why,
    )
