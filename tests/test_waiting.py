"""A run without a place on its cluster: how long it waits, and what it says meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnopt_ray.errors import ClusterLost, UserError
from nnopt_ray.experiment import Resources
from nnopt_ray.search.cluster import Cluster
from nnopt_ray.search.waiting import NODES_BACK_S, NODES_COME_S, SAY_AFTER_S, Waiting

EMPTY = Cluster(False, 0.0, 0.0, 1, ((0.0, 0.0),))
ROOM = Cluster(False, 2.0, 0.0, 2, ((0.0, 0.0), (2.0, 0.0)))
GROWS = Cluster(False, 0.0, 0.0, 1, ((0.0, 0.0),), grows=True)


class Told:
    """A waiting with a clock that is set, and what it has said."""

    def __init__(self, resources: Resources | None = None) -> None:
        self.now, self.said = 0.0, list[str]()
        self.waiting = Waiting(resources or Resources(), self.said.append, lambda: self.now)


def test_a_cluster_that_never_held_a_worker_is_refused_at_once() -> None:
    told = Told()
    with pytest.raises(UserError, match=r"a worker needs 1 CPUs .* Lower"):
        told.waiting.room(EMPTY)
    assert not told.said


@pytest.mark.parametrize(("cluster", "limit_s", "had"), [(EMPTY, NODES_BACK_S, True), (GROWS, NODES_COME_S, False)])
def test_a_node_is_waited_for_and_not_for_ever(cluster: Cluster, limit_s: float, had: bool) -> None:
    told = Told()
    if had:
        assert told.waiting.room(ROOM) == 2
    assert told.waiting.room(cluster) == 0
    told.now = limit_s
    assert told.waiting.room(cluster) == 0
    assert len(told.said) == 1, "it is said once"
    told.now = limit_s + 1
    with pytest.raises(
        ClusterLost,
        match=rf"no node has come in {limit_s / 60:.0f} minutes, and the Ray .* no room for a worker$",
    ):
        told.waiting.room(cluster)


def test_a_node_that_has_come_begins_the_time_anew() -> None:
    told = Told()
    for gone in range(3):
        told.now = 1000.0 * gone
        assert told.waiting.room(ROOM) == 2
        assert told.waiting.room(EMPTY) == 0
        told.now += NODES_BACK_S - 1
        assert told.waiting.room(EMPTY) == 0
    assert len(told.said) == 3


def test_that_others_have_the_places_is_said_once_until_somebody_works() -> None:
    told = Told(Resources(gpus_per_worker=1.0))
    cluster = Cluster(False, 4.0, 2.0, 1, ((4.0, 2.0),))
    for second in range(200):
        told.now = float(second)
        told.waiting.idle(cluster, (3.0, 0.0))
        assert bool(told.said) == (second > SAY_AFTER_S)
    assert told.said == [
        "No worker is there after 30 s: 3 of 4 CPUs and 0 of 2 GPUs of the cluster are free. Where others use it the "
        "run waits; `ray status` says what is in use."
    ]
    told.waiting.works()
    told.waiting.idle(cluster, (3.0, 0.0))
    assert len(told.said) == 1
    told.now += SAY_AFTER_S + 1
    told.waiting.idle(cluster, (3.0, 0.0))
    assert len(told.said) == 2


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=60))
def test_where_nodes_come_back_in_time_a_run_never_ends(course: list[tuple[float, bool]]) -> None:
    told, lacking = Told(), 0.0
    told.waiting.room(ROOM)
    for seconds, there in course:
        told.now += seconds
        lacking = 0.0 if there else lacking + seconds
        if lacking <= NODES_BACK_S:
            assert told.waiting.room(ROOM if there else EMPTY) == (2 if there else 0)
        else:
            return
