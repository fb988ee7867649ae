"""Workers that Ray Train places, joins to one group of torch, and starts anew when some are lost. A Ray door."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from nnopt_ray.errors import ClusterLost
from nnopt_ray.experiment import Resources
from nnopt_ray.machine import Machine

LOSSES = 3  # times that workers are started anew
# By itself Ray Train gives up on places for a fixed number of workers after a minute, four times; the clusters that
# nnopt runs on have others on them, and whether they hold so many at all is looked at by who waits (`waiting`). Of a
# range Ray Train itself waits until there is room for the least, and tries another size when that was taken.
PLACES_S = 31_536_000


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
    if least == most:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(PLACES_S))
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


class Hosted:
    """Ray Train at work in a process of its own on this node.

    It waits for places in a way that nothing but the end of its process ends, and a thread of this one that asks Ray
    while Ray is left takes the whole process with it (core_worker_process.cc).
    """

    def __init__(
        self,
        work: Callable[[dict[str, Any]], None],
        told: Mapping[str, Any],
        resources: Resources,
        folder: Path,
        name: str,
    ) -> None:
        """As `fit`."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        settings = {key: value for key, value in os.environ.items() if key.startswith("RAY_TRAIN_")}
        made = ray.remote(_Host).options(num_cpus=0, max_restarts=0, scheduling_strategy=here)
        self._host = made.remote(list(sys.path), settings)
        self._end = self._host.fit.remote(work, told, resources, folder, name)

    def __enter__(self) -> Hosted:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        import ray

        if not isinstance(error, ClusterLost):  # else there is nobody to tell
            ray.kill(self._host)

    def over(self, within_s: float) -> bool:
        import ray

        return bool(ray.wait([self._end], timeout=within_s)[0])

    def why(self) -> str:
        """Why there is no result, when it is over; nothing where the workers ended by themselves."""
        import ray

        try:
            said = str(ray.get(self._end))
        except ray.exceptions.RayError as error:
            said = str(error)
        return " ".join(said.split())[:500]


class _Host:
    """What is in that process."""

    def __init__(self, import_paths: list[str], settings: Mapping[str, str]) -> None:
        sys.path.extend(path for path in import_paths if path not in sys.path)
        os.environ.update(settings)

    def fit(self, *asked: Any) -> str:
        """What `fit` is asked → why it failed, nothing where it did not."""
        prepare()
        from ray.exceptions import RayError
        from ray.train import TrainingFailedError

        try:
            fit(*asked)
        except (TrainingFailedError, RuntimeError, ValueError, OSError, RayError) as error:
            return str(error) or type(error).__name__
        return ""


def with_device(where: Machine) -> Machine:
    """In a worker: the machine with the GPU that Ray gave this one, as the workers of a node see all of them."""
    if where.device == "cpu":
        return where
    from ray.train.torch import get_device

    return replace(where, device=str(get_device()))
