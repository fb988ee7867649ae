"""The Ray that a study runs on: embedded, or a cluster that is there already."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Resources


@dataclass(frozen=True)
class Cluster:
    """What there is. `embedded` is False on a cluster that others may share."""

    embedded: bool
    cpus: float
    gpus: float
    nodes: int

    def workers(self, resources: Resources) -> int:
        """How many workers of this size fit at once. Raises UserError when not one does."""
        by_cpu = int(self.cpus // resources.cpus_per_worker)
        by_gpu = by_cpu if resources.gpus_per_worker == 0 else int(self.gpus / resources.gpus_per_worker + 1e-9)
        if by_cpu < 1 or by_gpu < 1:
            raise UserError(
                f"a worker needs {resources.cpus_per_worker} CPUs and {resources.gpus_per_worker:g} GPUs, and there "
                f"are {self.cpus:g} CPUs and {self.gpus:g} GPUs. Lower resources.cpus_per_worker or "
                "resources.gpus_per_worker."
            )
        return min(by_cpu, by_gpu)

    def sentence(self) -> str:
        kind = "embedded Ray" if self.embedded else f"Ray cluster of {self.nodes} node{'s' * (self.nodes != 1)}"
        return f"{kind}, {self.cpus:g} CPUs" + (f", {self.gpus:g} GPUs" if self.gpus else "")


@contextmanager
def connected(address: str | None) -> Iterator[Cluster]:
    """Start an embedded Ray, or join the cluster at `address` or in RAY_ADDRESS (set inside a Ray job).

    Without either, never a cluster that happens to run on this machine: `ray.init()` would join it.
    Raises UserError when the address does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with warnings.catch_warnings():
        # Ray's own imports warn about its own deprecations; nothing that a user can act on.
        warnings.simplefilter("ignore")
        import ray

    address = address or os.environ.get("RAY_ADDRESS")
    already = ray.is_initialized()
    _quieten()
    if not already:
        options = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
        try:
            if address:
                ray.init(address=address, **options)
            else:
                ray.init(address="local", include_dashboard=False, **options)
        except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            place = f"the Ray cluster at {address}" if address else "an embedded Ray"
            raise UserError(f"cannot reach {place}: {first}") from error
    try:
        total = ray.cluster_resources()
        nodes = sum(1 for node in ray.nodes() if node["Alive"])
        yield Cluster(embedded=not address, cpus=total.get("CPU", 0.0), gpus=total.get("GPU", 0.0), nodes=nodes)
    finally:
        if not already:
            ray.shutdown()


def _quieten() -> None:
    """Ray prints a paragraph to standard output for each dead worker, whatever `log_to_driver` says; the
    study says it in a line, and standard output may be promised to JSON. There is no public switch."""
    from ray._private import worker

    if hasattr(worker, "print_worker_logs"):
        worker.print_worker_logs = lambda *_arguments, **_keys: None
