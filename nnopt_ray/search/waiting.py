"""Waiting for places on a cluster: others use it, its nodes are gone for a while, or it is to bring some."""

from __future__ import annotations

import time
from collections.abc import Callable

from nnopt_ray.errors import ClusterLost, UserError
from nnopt_ray.experiment import Resources
from nnopt_ray.search.cluster import Cluster

NODES_BACK_S = 600.0  # a machine that is started again, or another one in its place
NODES_COME_S = 1800.0  # a machine with GPUs may be minutes on its way, and longer where there are few
LOOK_FOR_NODES_S = 5.0
SAY_AFTER_S = 30.0  # workers of Ray Train take 17 s on two cores where nothing is in their way


class Waiting:
    """What a run does while no worker of it is at work."""

    def __init__(
        self, resources: Resources, note: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """resources: of one worker. note: takes a sentence for the user. clock: seconds."""
        self._resources, self._note, self._clock = resources, note, clock
        self._had = False  # there was room before
        self._without_since: float | None = None  # a worker, as far as is known
        self._waited_s = 0.0
        self._lacks_since: float | None = None
        self._idle_since: float | None = None
        self._said = False

    def room(self, cluster: Cluster) -> int:
        """How many trials fit on it now, 0 while it is waited for nodes.

        Raises UserError where the cluster has never held one and brings none by itself, ClusterLost where it has held
        none for NODES_BACK_S, or brought none in NODES_COME_S.
        """
        try:
            held = cluster.seats(self._resources)
        except UserError:
            if not (self._had or cluster.grows):
                raise
            self._lacks(cluster)
            return 0
        self._had, self._lacks_since = True, None
        return held

    def _lacks(self, cluster: Cluster) -> None:
        self._without()
        limit_s = NODES_COME_S if cluster.grows else NODES_BACK_S
        if self._lacks_since is None:
            self._lacks_since = self._clock()
            if cluster.grows:
                self._note("No node of the cluster has room for a worker yet; `ray status` says what it starts.")
            else:
                self._note(
                    f"Nodes are gone, and the {cluster.sentence()} has no room left for a worker; one that comes "
                    f"within {limit_s / 60:.0f} minutes is taken."
                )
        elif self._clock() - self._lacks_since > limit_s:
            raise ClusterLost(
                f"no node has come in {limit_s / 60:.0f} minutes, and the {cluster.sentence()} has no room for a worker"
            )

    def idle(self, cluster: Cluster, free: tuple[float, float]) -> None:
        """Nobody is at work. free: CPUs and GPUs. Where there is room, others may have it, which is said once."""
        self._without()
        if self._lacks_since is not None:
            self._idle_since = None
            return
        if self._idle_since is None:
            self._idle_since = self._clock()
        elif not self._said and self._clock() - self._idle_since > SAY_AFTER_S:
            self._said = True
            gpus = f" and {free[1]:g} of {cluster.gpus:g} GPUs" if self._resources.gpus_per_worker else ""
            self._note(
                f"No worker is there after {SAY_AFTER_S:.0f} s: {free[0]:g} of {cluster.cpus:g} CPUs{gpus} of the "
                "cluster are free. Where others use it the run waits; `ray status` says what is in use."
            )

    def works(self) -> None:
        """Somebody is at work."""
        self._idle_since, self._said = None, False
        self._waited_s, self._without_since = self.waited_s, None

    def _without(self) -> None:
        if self._without_since is None:
            self._without_since = self._clock()

    @property
    def waited_s(self) -> float:
        """Seconds in which nobody was at work."""
        return self._waited_s + (0.0 if self._without_since is None else self._clock() - self._without_since)

    def told(self) -> dict[str, str]:
        """As what was decided: that there was a wait worth a word."""
        if self.waited_s < SAY_AFTER_S:
            return {}
        return {"waited": f"{self.waited_s:.0f} s for places on the cluster, which no other number of seconds counts"}
