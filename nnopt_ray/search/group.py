"""A group: workers that train the trials of a search one after another, each trial together. A Ray door.

Ray Train starts such workers in about 17 s (two cores, two workers), as long as hundreds of small trials take. So a
group is started once and stays: its workers wait for the next call. To the study it is what `worker.Worker` is; here is
the actor between the two, which needs no CPU: it has Ray Train start the workers, hands each call to the first of them,
and is asked by those whose training broke whether it did so in all. What the workers do is in `members.py`.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnopt_ray.experiment import Resources
from nnopt_ray.search import ray_train
from nnopt_ray.search.messages import Answer, Demand, End, Failure, Order, Report

if TYPE_CHECKING:
    from nnopt_ray.search.node_store import Mapped

GRACE_S = 10.0  # how long a worker whose training broke waits for the others to say so too
END_S = 10.0  # given to workers to end; killed, they would keep their CPUs until the driver ends
CALLS = 8  # at a time, beside one of each worker


class GroupLost(Exception):
    """The workers of a group are gone, or have lost each other.

    Args:
        why: in words.
        failed: trials whose own fault it was, which do not go on.
    """

    def __init__(self, why: str, failed: tuple[Report, ...] = ()) -> None:
        super().__init__(why, failed)  # as it travels
        self.why, self.failed = why, failed

    def __str__(self) -> str:
        return self.why


@dataclass(frozen=True)
class Call:
    """What the first worker is to do: a method of its crew."""

    number: int
    method: str
    arguments: tuple[Any, ...]


class Group:
    """Trains the trials of one study by several workers together. Made into an actor by `cluster`."""

    def __init__(self, import_paths: list[str]) -> None:
        sys.path.extend(path for path in import_paths if path not in sys.path)  # which its workers get from it
        self._changed = threading.Condition()
        self._runs = False  # whether Ray Train is at work
        self._time = 0  # which workers these are: the first ones, those after a loss, ...
        self._over = 0  # those up to here are lost
        self._ends = False
        self._there: dict[int, Mapped] = {}  # rank → where it has its data
        self._unable: Exception | None = None
        self._lost: GroupLost | None = None  # since the last call came back
        self._ready = False
        self._calls = 0
        self._call: Call | None = None
        self._answer: tuple[Answer | None, Exception | None] | None = None
        self._raised: dict[int, int] = {}  # rank → how many sums it had begun when its training broke
        self._failure: Report | None = None

    @staticmethod
    def needs(resources: Resources) -> dict[str, Any]:
        """What Ray is to give this actor; the workers have their own."""
        return {"num_cpus": 0, "num_gpus": 0, "max_concurrency": resources.worker_range[1] + CALLS}

    # ── the study's side ─────────────────────────────────────────────────────────────────────────────

    def setup(self, tree: Mapping[str, Any], file: str | None, root: str, keeps_decisions: bool) -> Mapped:
        """See to it that there are workers, with page and data of a run folder → where the data is mapped.

        Raises GroupLost when they ended before they were there, and what a worker raised that cannot begin.
        """
        import ray

        told: dict[str, Any] = {"tree": tree, "file": file, "root": root, "keeps_decisions": keeps_decisions}
        told["group"] = ray.get_runtime_context().current_actor
        with self._changed:
            self._lost = None
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._fitted, args=(told,), daemon=True).start()
            self._changed.wait_for(lambda: self._ready or self._unable or self._lost)
            if self._unable is not None:
                raise self._unable
            if self._lost is not None:
                raise self._lost
            return self._there[0]

    def measure(self, params: Mapping[str, Any], demand: Demand) -> tuple[int, str]:
        """How many trials are trained here at a time, and why."""
        return 1, "one trial at a time in a group, as all of its workers train it"

    def work(self, orders: tuple[Order, ...], ends: tuple[End, ...]) -> Answer:
        """As `worker.Worker.work`. Raises GroupLost."""
        answer = self._asked("work", orders, ends)
        assert answer is not None
        return answer

    def pause(self) -> None:
        """As `worker.Worker.pause`. Raises GroupLost."""
        self._asked("pause")

    def end(self) -> None:
        """Let the workers go; returns when Ray Train has ended, and what they held is free, or at once without any."""
        with self._changed:
            self._ends = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._runs or self._time == self._over)

    def _asked(self, method: str, *arguments: Any) -> Answer | None:
        with self._changed:
            if self._lost is not None:
                raise self._lost
            self._calls += 1
            self._call, self._answer = Call(self._calls, method, arguments), None
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._answer or self._lost)
            self._call = None
            if self._answer is None:
                assert self._lost is not None
                raise self._lost
            answer, error = self._answer
            if error is not None:
                raise error
            return answer

    # ── Ray Train's side ─────────────────────────────────────────────────────────────────────────────

    def _fitted(self, told: dict[str, Any]) -> None:
        """Let Ray Train keep the workers; in a thread, as it waits for their end."""
        why = "its workers ended"
        try:
            _keep_workers(told)
        except Exception as error:
            why = " ".join(str(error).split())[:500] or type(error).__name__
        with self._changed:
            self._runs = False
            self._lose(why)

    def _lose(self, why: str) -> None:
        failed = () if self._failure is None else (self._failure,)
        self._lost = self._lost or GroupLost(why, failed)
        self._over, self._ready, self._failure = self._time, False, None
        self._there, self._raised = {}, {}
        self._changed.notify_all()

    # ── the workers' side ────────────────────────────────────────────────────────────────────────────

    def enter(self) -> int:
        """The first of new workers comes in → their number in time, by which they sign."""
        with self._changed:
            if self._ready:  # nobody said that those before were gone
                self._lose("a process of its group ended")
            self._time += 1
            return self._time

    def ready(self, time: int, rank: int, workers: int, there: Mapped | Exception) -> None:
        """A worker has page and data, or cannot have them."""
        with self._changed:
            if not self._of_now(time):
                return
            if isinstance(there, Exception):
                self._unable = there
            else:
                self._there[rank] = there
                self._ready = len(self._there) == workers
            self._changed.notify_all()

    def next(self, time: int, done: int) -> Call | None:
        """Wait for a call after number `done`; None at the end. Raises GroupLost for workers that others replaced."""

        def due() -> bool:
            return self._call is not None and self._call.number > done

        with self._changed:
            self._changed.wait_for(lambda: due() or self._ends or not self._of_now(time))
            if self._ends:
                return None
            if not self._of_now(time):
                raise GroupLost("others are in its place")
            assert self._call is not None
            return self._call

    def _of_now(self, time: int) -> bool:
        return time == self._time > self._over

    def answer(self, time: int, number: int, answer: Answer | None, error: Exception | None) -> None:
        """The first worker has carried out a call."""
        with self._changed:
            if self._of_now(time) and self._call is not None and self._call.number == number:
                self._answer = answer, error
                self._changed.notify_all()

    def raised(self, time: int, rank: int, workers: int, sums: int, trial: str, failure: Failure | None) -> bool:
        """A worker's training of a trial broke → whether that of all did, at one place, so that they can go on.

        sums: it had begun so many with the others. failure: None where it was the others that it lost.
        """
        with self._changed:
            if not self._of_now(time):
                return False
            if failure is not None and self._failure is None:
                self._failure = Report(trial, failure=failure)
            raised = self._raised
            raised[rank] = sums if failure is not None else -1
            self._changed.notify_all()
            if failure is not None:
                self._changed.wait_for(
                    lambda: len(raised) == workers or -1 in raised.values() or not self._of_now(time), GRACE_S
                )
            if len(raised) == workers and len(set(raised.values())) == 1 and failure is not None:
                self._raised, self._failure = {}, None
                return True
            if self._of_now(time):
                self._lose("a process of its group ended" if self._failure is None else "one of its workers failed")
            return False


def _keep_workers(told: dict[str, Any]) -> None:
    """Start the workers, and anew when some are lost, up to `ray_train.LOSSES` times."""
    from nnopt_ray import reading
    from nnopt_ray.rundir import RunDir
    from nnopt_ray.search import members

    resources = reading.from_tree(told["tree"], Path(told["file"]) if told["file"] else None).resources
    name = f"group-{os.getpid()}-{threading.get_ident()}"
    ray_train.fit(members.member, told, resources, RunDir(Path(told["root"])).groups, name)


def let_go(groups: Iterable[Any], folder: Path | None = None) -> None:
    """End groups, which hold on to their workers, and clear away the folder that Ray Train has written to."""
    import ray

    there = list(groups)
    ray.wait([group.end.remote() for group in there], num_returns=len(there), timeout=END_S)
    for group in there:
        ray.kill(group)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
