"""Workers that Ray Train places, joins to one group of torch, and starts anew when some are lost. A Ray door."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnopt_ray.experiment import Resources
from nnopt_ray.machine import Machine

LOSSES = 3  # times that workers are started anew
# Ray Train gives up on places for a fixed number of workers after a minute, four times; the clusters that nnopt runs on
# have others on them, and whether they hold so many at all is looked at by who waits (`waiting`). Of a range Ray Train
# itself waits until there is room for the least, and tries another size when what it counted on is not there.
PLACES_S = {True: "31536000", False: "60"}


def prepare() -> None:
    """Import what `fit` needs."""
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process less on one machine
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")  # by default 2, which each end waits for
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own imports warn about its own deprecations
        import ray.train.torch  # noqa: F401

        with suppress(ImportError):  # not public
            from ray.train.v2.api import data_parallel_trainer

            from nnopt_ray.search.cleaner import OwnClusterCallback

            data_parallel_trainer.PlacementGroupCleanerCallback = OwnClusterCallback


def fit(
    work: Callable[[dict[str, Any]], None], told: Mapping[str, Any], resources: Resources, folder: Path, name: str
) -> None:
    """Have each of `resources.workers` processes do `work(told)`; returns when all have.

    Ray Train writes to `folder/name`. Raises what Ray Train raises when they are lost too often or cannot be placed.
    """
    prepare()
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    least, most = resources.worker_range
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = PLACES_S[least == most]
    gpus = resources.gpus_per_worker
    per_worker = {"CPU": float(resources.cpus_per_worker), **({"GPU": gpus} if gpus else {})}
    TorchTrainer(
        work,
        train_loop_config={**told, "import_paths": list(sys.path)},
        scaling_config=ScalingConfig(
            num_workers=least if least == most else (least, most), use_gpu=gpus > 0, resources_per_worker=per_worker
        ),
        # Two workers that share a GPU have no NCCL between them.
        torch_config=TorchConfig(backend="nccl" if gpus >= 1 else "gloo"),
        run_config=RunConfig(
            name=name,
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=LOSSES, controller_failure_limit=LOSSES if least == most else -1),
        ),
    ).fit()


def with_device(where: Machine) -> Machine:
    """In a worker: the machine with the GPU that Ray gave this one, as the workers of a node see all of them."""
    if where.device == "cpu":
        return where
    from ray.train.torch import get_device

    return replace(where, device=str(get_device()))
