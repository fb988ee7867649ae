"""The Ray that a study runs on: embedded, or a cluster that is there already."""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from nnopt_ray import versions
from nnopt_ray.errors import ClusterLost, UserError
from nnopt_ray.experiment import Resources
from nnopt_ray.search import token

# Ray ends a process without a word of ours when its head has been silent for 60 s (rpc_client.h, "The program will
# terminate"). A head that is started again within this time is taken up by Ray.
LOST_S = 30.0
# Ray's launcher and KubeRay give the nodes that they start RAY_NODE_TYPE_NAME, which becomes this label; `ray start`
# alone gives none.
GROWS_BY = "ray.io/node-group"
LOOK_EVERY_S = 2.0
LOOKS = 5  # in vain, at the least: a machine that slept has made none


@dataclass(frozen=True)
class Cluster:
    """What there is. `embedded` is False on a cluster that others may share."""

    embedded: bool
    cpus: float
    gpus: float
    nodes: int
    each: tuple[tuple[float, float], ...] = ()  # CPUs and GPUs of every node, where they are known
    grows: bool = False  # started by Ray's launcher or KubeRay, whose autoscaler brings nodes for actors that wait

    def workers(self, resources: Resources) -> int:
        """How many workers of this size fit at once. Raises UserError when not one does."""
        held = sum(resources.held(*node) for node in self.each or ((self.cpus, self.gpus),))
        if held < 1:
            raise UserError(
                f"a worker needs {resources.cpus_per_worker} CPUs and {resources.gpus_per_worker:g} GPUs, and there "
                f"are {self.cpus:g} CPUs and {self.gpus:g} GPUs. Lower resources.cpus_per_worker or "
                "resources.gpus_per_worker."
            )
        return held

    def seats(self, resources: Resources) -> int:
        """How many networks may be trained at a time, each by its workers. Raises UserError when not one."""
        size, held = resources.worker_range[0], self.workers(resources)
        if held < size:
            raise UserError(
                f"resources.workers asks for {size} workers of {resources.cpus_per_worker} CPUs and "
                f"{resources.gpus_per_worker:g} GPUs, and {self.sentence()} holds {held}. Lower it."
            )
        return held // size

    def sentence(self) -> str:
        kind = "embedded Ray" if self.embedded else f"Ray cluster of {self.nodes} node{'s' * (self.nodes != 1)}"
        return f"{kind} ({self.cpus:g} CPUs" + (f", {self.gpus:g} GPUs)" if self.gpus else ")")


class Trains(Protocol):
    """What an actor of a session is made of."""

    def __init__(self, *arguments: Any) -> None: ...

    @staticmethod
    def needs(resources: Resources) -> dict[str, Any]: ...


class RaySession:
    """An embedded Ray, or a connection to the cluster at `address` or in RAY_ADDRESS (set inside a Ray job).

    Without either, never a cluster that happens to run on this machine: `ray.init()` would join it. A
    Ray that this process has started already is used and left running.

    Starting takes 3 to 5 s of waiting for other processes, ending about 1 s; both go on in a thread
    while the caller prepares data or evaluates. It is one thread from start to end because the system
    ties the life of an embedded Ray's processes to the thread that started them (PR_SET_PDEATHSIG).
    """

    def __init__(
        self,
        address: str | None,
        resources: Resources,
        worker: type[Trains] | None,
        *arguments: Any,
        at_once: bool = True,
        cpus: int | None = None,
    ) -> None:
        """`worker(*arguments)` is what an actor of this session is; the first ones start with the session. None where
        others make the actors.

        at_once: start now; else `start` does, if it is ever called. cpus: what an embedded Ray takes the machine to
        have, where workers are to share cores; None: what there is. Raises UserError for a Ray that nnopt does not work
        with.
        """
        versions.check("ray")
        self.address = address or os.environ.get("RAY_ADDRESS")
        self._resources, self._worker, self._arguments, self._cpus = resources, worker, arguments, cpus
        self._waiting: list[Any] = []
        self._ready, self._closing = threading.Event(), threading.Event()
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        self._head: tuple[str, int] | None = None
        self._silent: list[float] = []  # when the head was looked for in vain, since it was last there
        self._looked = 0.0
        self._lost = False
        self._remote: Any = None
        if at_once:
            self.start()

    def start(self) -> None:
        """Start Ray, beside what this process does."""
        for earlier in _ending:
            earlier.join()
        _ending.clear()
        self._thread = threading.Thread(target=self._live, name="ray session", daemon=True)
        self._thread.start()

    @property
    def started(self) -> bool:
        return self._thread is not None

    @property
    def ready(self) -> bool:
        """Whether `cluster` and `actor` answer without a wait."""
        return self._ready.is_set()

    def __enter__(self) -> RaySession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        while error is not None and self.started:  # its frames hold what Ray gave
            traceback.clear_frames(error.__traceback__)
            error = error.__cause__ or error.__context__
        self.close()

    @property
    def lost(self) -> bool:
        """Whether the cluster has been given up: from then on whatever asks Ray waits in vain."""
        return self._lost

    def answers(self, at_once: bool = False) -> bool:
        """Whether Ray's head takes connections. Raises ClusterLost when it has not for LOST_S.

        Where it does not, whatever asks it waits, and Ray ends the process after a minute.

        at_once: look now; else every LOOK_EVERY_S.
        """
        now = time.monotonic()
        if self._head is not None and (at_once or now - self._looked > LOOK_EVERY_S):
            self._silent = [] if _takes_connections(self._head) else [*self._silent, now]
            self._looked = time.monotonic()
        if len(self._silent) >= LOOKS and now - self._silent[0] >= LOST_S:
            raise self._gone(f"its head has not answered for {now - self._silent[0]:.0f} s")
        return not self._silent

    def refuse_gone(self) -> None:
        """Raises ClusterLost when the head does not answer now: what has failed has failed for that."""
        if not self.answers(at_once=True):
            raise self._gone("its head does not answer")

    def _gone(self, why: str) -> ClusterLost:
        self._lost = True
        what = f"the Ray cluster at {self.address}" if self.address else "the embedded Ray"
        return ClusterLost(f"{what} is gone: {why}. What is in the last checkpoints is kept")

    def actor(self) -> Any:
        """A worker: one that started with the session, or a new one."""
        return self._waiting.pop() if self._waiting else self._new_actor()

    def _new_actor(self) -> Any:
        import ray

        assert self._worker is not None
        if self._remote is None:  # made anew, its class would be sent to the head again, and that is waited for
            self._remote = ray.remote(self._worker).options(**self._worker.needs(self._resources), max_restarts=0)
        return self._remote.remote(*self._arguments)

    def cluster(self) -> Cluster:
        """Wait until Ray is there. Raises UserError when the address does not answer."""
        self._ready.wait()
        if self._error is not None:
            said = str(self._error)
            first = versions.mismatch(said) or next(iter(said.strip().splitlines()), type(self._error).__name__)
            what = f"cannot reach the Ray cluster at {self.address}" if self.address else "cannot start an embedded Ray"
            raise UserError(f"{what}: {first}") from self._error
        return self._cluster()

    def free(self) -> tuple[float, float]:
        """CPUs and GPUs of the cluster that nobody uses."""
        import ray

        now = ray.available_resources()
        return now.get("CPU", 0.0), now.get("GPU", 0.0)

    def _cluster(self) -> Cluster:
        import ray

        total = ray.cluster_resources()
        alive = [node for node in ray.nodes() if node["Alive"]]
        nodes = [node["Resources"] for node in alive]
        each = tuple((node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes)
        grows = bool(self.address) and any(node.get("Labels", {}).get(GROWS_BY) for node in alive)
        return Cluster(not self.address, total.get("CPU", 0.0), total.get("GPU", 0.0), len(nodes), each, grows)

    def _prestart(self) -> None:
        """On this machine workers start at once; on a cluster only when the study knows how many it needs."""
        if self._worker is None:
            return
        cluster = self._cluster()
        fits = cluster.embedded and cluster.cpus >= self._resources.cpus_per_worker
        if fits and cluster.gpus >= self._resources.gpus_per_worker:
            fit = cluster.workers(self._resources) // self._resources.worker_range[1]
            self._waiting = [self._new_actor() for _ in range(fit)]

    def close(self) -> None:
        """Let Ray end, in its thread; the next session waits for it."""
        if self._thread is not None and not self._closing.is_set():
            self._waiting.clear()
            # A future or an actor's handle that is forgotten here while Ray ends there makes Ray exit this process
            # (core_worker_process.cc, "The core worker has already been shutdown").
            gc.collect()
            self._closing.set()
            _ending.append(self._thread)

    def _live(self) -> None:
        try:
            ray, ours = self._start()
            if "://" not in (self.address or ""):  # of a client's proxy there is no head to look for
                self._head = _at(ray.get_runtime_context().gcs_address)
            self._prestart()
        except (UserError, ImportError, ConnectionError, TimeoutError, ValueError, RuntimeError, OSError) as error:
            self._error = error
            return
        finally:
            self._ready.set()
        self._closing.wait()
        if ours:
            ray.shutdown()
            if token.restore():
                _read_again(ray)

    def _start(self) -> tuple[Any, bool]:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # When the study ends by an error, Ray prints the tracebacks of answers that nobody has asked for.
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
        with warnings.catch_warnings():
            # Ray's own imports warn about its own deprecations; nothing that a user can act on.
            warnings.simplefilter("ignore")
            import ray

        _quieten()
        if ray.is_initialized():
            return ray, False
        options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if self.address:
            if token.settle(*_at(self.address)):
                _read_again(ray)
            ray.init(address=self.address, **options)
        else:
            ray.init(address="local", include_dashboard=False, num_cpus=self._cpus, **options)
        return ray, True


def _read_again(ray: Any) -> None:
    """RAY_AUTH_MODE, which Ray has read when it was imported, and the token; what Ray itself does when it sets them."""
    with suppress(AttributeError):  # not public
        ray._raylet.Config.initialize("")
        ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def _at(address: str) -> tuple[str, int]:
    """Host and port; port 0 where there is none, as in `auto` and of a client's proxy (ray://)."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port) if port.isdigit() and "://" not in address else 0


def _takes_connections(head: tuple[str, int]) -> bool:
    try:
        socket.create_connection(head, timeout=1.0).close()
    except OSError:
        return False
    return True


_ending: list[threading.Thread] = []  # sessions on their way out


def _quieten() -> None:
    """Ray prints a paragraph to standard output for each dead worker, whatever `log_to_driver` says; the
    study says it in a line, and standard output may be promised to JSON. There is no public switch."""
    from ray._private import worker

    if hasattr(worker, "print_worker_logs"):
        worker.print_worker_logs = lambda *_arguments, **_keys: None
