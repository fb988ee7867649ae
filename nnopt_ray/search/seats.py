"""Where trials are trained: this process at first, Ray's workers when there is enough to do. The Ray door of a study.

A search on one machine begins here at once, and Ray is started beside it only if the rest would take longer than
starting Ray does; when its workers are there, they take over. A small search never needs them. On a cluster,
with GPUs, or with parts that the page brings itself (which may crash a process), all work is the workers'.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from nnopt_ray.errors import RunFailed
from nnopt_ray.experiment import Experiment, plain
from nnopt_ray.log import plural
from nnopt_ray.rundir import RunDir
from nnopt_ray.search.asking import enough, to_ask
from nnopt_ray.search.cluster import RaySession
from nnopt_ray.search.crew import Crew
from nnopt_ray.search.group import GroupLost, let_go
from nnopt_ray.search.journal import Event
from nnopt_ray.search.ledger import Trial
from nnopt_ray.search.messages import Answer, Demand
from nnopt_ray.search.node_store import Nodes
from nnopt_ray.search.seat import Seat
from nnopt_ray.search.tally import Tally
from nnopt_ray.search.waiting import LOOK_FOR_NODES_S, Waiting
from nnopt_ray.storage.keeping import apart, refuse_other_nodes

if TYPE_CHECKING:
    from nnopt_ray.data.types import Dataset
    from nnopt_ray.pipeline import Watch

# Starting Ray and two workers takes 6 to 8 s of this machine's two cores, ending it 1 s.
RAY_WORTH_S = 15.0
LOCAL_SLICE_S = 0.25


def begins_here(experiment: Experiment, address: str | None) -> bool:
    """Whether a search may begin in this process, see the head of this file."""
    ray = sys.modules.get("ray")
    return not (
        address
        or os.environ.get("RAY_ADDRESS")
        or experiment.resources.in_process == "never"
        or experiment.resources.gpus_per_worker > 0
        or experiment.resources.together
        or (ray is not None and ray.is_initialized())
        or _brings_parts({key: value for key, value in plain(experiment.tree).items() if key != "tracking"})
    )


def _brings_parts(node: Any) -> bool:
    if isinstance(node, Mapping):
        own = isinstance(node.get("type"), str) and ":" in node["type"]
        return own or any(_brings_parts(value) for value in node.values())
    return isinstance(node, (list, tuple)) and any(_brings_parts(value) for value in node)


class Seats:
    """All processes of one study."""

    def __init__(
        self,
        experiment: Experiment,
        run: RunDir,
        session: RaySession,
        dataset: Dataset,
        keeps_decisions: bool,
        watch: Watch,
        record: Callable[[Event], None] = lambda event: None,
    ) -> None:
        """record: takes the journal's events `worker`."""
        self._record = record
        self._experiment, self._run, self._session = experiment, run, session
        self._kind = "group" if experiment.resources.together else "worker"
        self._url = ""  # of a run that workers elsewhere send their trials to
        self._dataset, self._keeps, self._watch = dataset, keeps_decisions, watch
        self._here: Seat | None = None
        self._workers: list[Seat] = []
        self._to_start: list[Seat] = []  # in the place of one that died
        self._grows, self._asked = False, list[Seat]()  # who wait for a node that the cluster is to bring
        self._ask_from = 0.0
        self._waiting = Waiting(experiment.resources, lambda said: watch.note(said))
        self._flying: dict[Any, tuple[Seat, str]] = {}  # future → who answers, and what was asked
        self._demand: Callable[[int], Demand] = lambda workers: Demand(1, 0)
        self._trials = 1
        self._begun: Callable[[int], None] | None = None
        self._looked = 0.0
        self._number, self._hired = 0, False
        self.decided: dict[str, str] = {}
        self._nodes = Nodes(lambda said: watch.note(said))
        self._tally = Tally(experiment, lambda said: watch.note(said))
        self.worked_s = 0.0  # of this process, training
        self.epochs_trained = 0
        self._seen: set[str] = set()

    # ── how many ─────────────────────────────────────────────────────────────────────────────────────

    @property
    def _all(self) -> list[Seat]:
        return [*([self._here] if self._here is not None else []), *self._workers]

    @property
    def workers(self) -> int:
        return len(self._all) * self._experiment.resources.worker_range[1]

    @property
    def waited_s(self) -> float:
        """Seconds in which no worker had a place."""
        return self._waiting.waited_s

    @property
    def lanes(self) -> int:
        return sum(seat.lanes for seat in self._all)

    @property
    def lanes_filled(self) -> int:
        return sum(len(seat.trials) for seat in self._all)

    def measure_again(self) -> None:
        """What comes now is of another shape than what was measured."""
        for seat in self._all:
            seat.measured = False

    def begin(self, trials: int, demand: Callable[[int], Demand], begun: Callable[[int], None]) -> None:
        """Get ready for so many trials; `begun` is told how many processes there are when that is known."""
        self._demand, self._trials = demand, trials
        if self._all:
            return
        self._begun = begun
        if not self._session.started:
            self._begin_here()
            begun(1)
            self.decided["workers"] = "1: this process, as Ray would have taken longer to start than the search to end"

    def _begin_here(self) -> None:
        from nnopt_ray.assembly import machine_for

        crew = Crew(self._experiment, self._dataset, machine_for(self._experiment), self._run, self._keeps)
        self._here = Seat(self._next_number(), crew=crew)
        self._present(self._here, "ready", node=platform.node(), here=True)

    def _next_number(self) -> int:
        self._number += 1
        return self._number - 1

    def hire(self, left_s: float | None, there_s: float | None = None, left: int = 0) -> None:
        """Start Ray when what is left is worth it, take its workers when they are there, and look for new nodes.

        left_s: seconds that this process alone would still need, there_s: that those take who train now; None while
        not known. left: trials that are not over.
        """
        if not self._session.started:
            if left_s is not None and left_s > RAY_WORTH_S and (os.cpu_count() or 1) > 1:
                self._session.start()
            return
        if self._here is not None and not self._session.ready:
            return
        due = [seat for seat in self._to_start if seat.not_before <= time.monotonic()]
        while due and self._session.answers(at_once=True):
            self._to_start.remove(due[0])
            self._start(due.pop(0))
        # Asking Ray for its nodes takes 2 ms, which is as long as a small trial.
        joined = self._session.address is not None and time.monotonic() - self._looked > LOOK_FOR_NODES_S
        if not self._workers or (joined and self._session.answers(at_once=True)):
            self._hire_all()
        if self._grows:
            self._ask(left - self.lanes_filled, there_s)

    def _ask(self, waiting: int, left_s: float | None) -> None:
        """Have actors wait for a node, as many as more workers would be of use: what a cluster grows by."""
        if self._asked and enough(waiting, left_s):
            asked, self._asked = self._asked, []
            self._flying = {future: (seat, what) for future, (seat, what) in self._flying.items() if seat not in asked}
            return
        more = to_ask(len(self._workers), waiting, left_s) - len(self._asked)
        if more <= 0 or self._to_start or time.monotonic() < self._ask_from or not self._session.answers(at_once=True):
            return
        new = [Seat(self._next_number(), preparing=True) for _ in range(more)]
        self._asked += new
        for seat in new:
            self._start(seat)
        self._watch.note(f"The cluster is asked for {plural(more, f'more {self._kind}')}.")

    def _joined(self, seat: Seat) -> None:
        """A node has come for an actor that waited."""
        if seat in self._asked:
            self._asked.remove(seat)
            self._workers.append(seat)
            self._looked = 0.0
            self._watch.note(f"{self._kind.capitalize()} {seat.number} has come, on {seat.node}.")

    def _hire_all(self) -> None:
        cluster = self._session.cluster()
        self._grows = cluster.grows
        if self._experiment.resources.worker_range[1] > 1:
            refuse_other_nodes(self._run, cluster.nodes)
        elif not cluster.embedded:
            self._url = apart(self._run)
        self._looked = time.monotonic()
        holds = self._waiting.room(cluster)
        if any(not seat.preparing for seat in self._workers):
            self._waiting.works()
        elif self._workers and not cluster.embedded:
            self._waiting.idle(cluster, self._session.free())
        count = min(holds, max(1, self._trials)) - len(self._asked)  # each has at least one trial to itself
        if (size := self._experiment.resources.worker_range[1]) > 1 and not self._hired:
            self._watch.note(f"Each trial is trained by {size} workers together: Ray Train starts them.")
        for _ in range(count - len(self._workers)):
            seat = Seat(self._next_number(), preparing=True)
            self._workers.append(seat)
            self._start(seat)
        self._hired = True
        number = f"{len(self._workers)}"
        if size > 1:
            number += f" group{'s' * (number != '1')} of {size} workers that train a trial together"
        self.decided["workers"] = f"{number}, as many as {cluster.sentence()} holds"
        if self._begun is not None and self._workers:
            self._begun(self.workers)
            self._begun = None

    def _start(self, seat: Seat, actor: Any = None) -> None:
        """Have it get ready. actor: the one that it keeps; None: a new one."""
        seat.actor, seat.preparing, seat.measured, seat.lanes = actor or self._session.actor(), True, False, 1
        file = str(self._experiment.file) if self._experiment.file else None
        tree = plain(self._experiment.tree)
        place = self._url or str(self._run.root)
        self._flying[seat.actor.setup.remote(tree, file, place, self._keeps)] = (seat, "setup")

    def _present(self, seat: Seat, state: Literal["ready", "gone"], **more: str | bool) -> None:
        self._record({"event": "worker", "worker": seat.number, "state": state, **more})

    # ── work ─────────────────────────────────────────────────────────────────────────────────────────

    def ready(self) -> list[Seat]:
        """Those that can take orders now."""
        flying = {id(seat) for seat, _ in self._flying.values()}
        return [seat for seat in self._all if id(seat) not in flying and not seat.preparing]

    def busy(self) -> bool:
        """Whether anything is in work or waits to be handed over."""
        working = any(asked in ("work", "measure") for _, asked in self._flying.values())
        return working or any(seat.trials for seat in self._all)

    def holding(self, trial: Trial) -> Seat | None:
        return next((seat for seat in self._all if trial.id in seat.trials), None)

    def wait(self) -> list[tuple[Seat, Answer | Exception]]:
        """Hand over what was ordered, and take in what has come; returns within about half a second."""
        for seat in self.ready():
            if seat.actor is None:
                continue
            if seat.to_measure is not None:
                self._flying[seat.actor.measure.remote(seat.to_measure, self._share())] = (seat, "measure")
            elif seat.trials:
                self._flying[seat.actor.work.remote(*seat.handed())] = (seat, "work")
        came: list[tuple[Seat, Answer | Exception]] = []
        here = self._here
        if here is not None and here.trials:
            if here.to_measure is not None:
                self._measured(here, self._crew(here).measure(here.to_measure, self._share()))
            else:
                came.append((here, self._work_here(here)))
        came += self._landed(0.0 if came or (here is not None and here.trials) else 0.5)
        self._tally.count(came)
        return came

    def told(self) -> dict[str, str]:
        """What was decided, in words, and by whom the work was done that this process has seen."""
        if self._session.address is not None or "workers" not in self.decided or not self._hired:
            return self.decided | self._waiting.told()
        if not (did := self._tally.told()):
            return self.decided
        by = did if did.startswith("1:") else f"{self.decided['workers']}; before they were there, {did}"
        return {**self.decided, "workers": by}

    def _share(self) -> Demand:
        return self._demand(max(1, len(self._workers)))

    @staticmethod
    def _crew(seat: Seat) -> Crew:
        assert seat.crew is not None
        return seat.crew

    def _work_here(self, seat: Seat) -> Answer:
        orders, ends = seat.handed()
        new = any(order.trial not in self._seen for order in orders)
        self._seen.update(order.trial for order in orders)
        began = time.monotonic()
        answer = self._crew(seat).work(orders, ends, LOCAL_SLICE_S)
        if not new:  # a call that begins trials, and records their step, tells little of the others
            self.worked_s += time.monotonic() - began
            self.epochs_trained += sum(len(report.epochs) for report in answer.reports)
        seat.lanes = max(seat.lanes, answer.lanes)
        return answer

    def _measured(self, seat: Seat, found: tuple[int, str]) -> None:
        seat.to_measure = None
        # A trial of a reproducible search may wait in its lane for the turn of others, which need one too.
        seat.lanes = self._share().most if self._experiment.search.reproducible else found[0]
        if "lanes" not in self.decided:
            self._watch.note(f"{found[1][:1].upper()}{found[1][1:]}.")
        self.decided.setdefault("lanes", found[1])  # the first is for most of the work

    def _landed(self, timeout_s: float) -> list[tuple[Seat, Answer | Exception]]:
        if not self._flying:
            if timeout_s and self._session.started:
                time.sleep(0.05)
            return []
        import ray

        self._session.answers()
        came: list[tuple[Seat, Answer | Exception]] = []
        for future in ray.wait(list(self._flying), num_returns=1, timeout=timeout_s)[0]:
            seat, asked = self._flying.pop(future)
            try:
                answer = told(future)
            except (ray.exceptions.RayError, GroupLost) as error:
                came += self._gone(seat, error.with_traceback(None))  # its frames hold futures, see RaySession.close
                continue
            if asked == "setup":
                seat.preparing, seat.node, seat.died_early = False, answer.node, 0
                self._joined(seat)
                self._present(seat, "ready", node=answer.node)
                self._tally.begins(seat)
                self.decided |= self._nodes.take(answer)
                came += self._hand_over()
            elif asked == "measure":
                self._measured(seat, answer)
            else:
                seat.lanes = max(seat.lanes, answer.lanes)
                came.append((seat, answer))
        return came

    def _gone(self, seat: Seat, error: Exception) -> list[tuple[Seat, Answer | Exception]]:
        """A worker died, and another one is to come in its place."""
        if not seat.preparing:
            self._present(seat, "gone")
        if seat in self._asked:  # it is asked for again, and not at once
            self._asked.remove(seat)
            self._ask_from = time.monotonic() + LOOK_FOR_NODES_S
            return []
        if not isinstance(error, GroupLost):
            if seat.preparing:
                seat.wait(time.monotonic())
            seat.preparing = True
            self._to_start.append(seat)
            return [(seat, error)]
        if seat.preparing and any(not other.preparing for other in self._workers):
            self._workers.remove(seat)  # the cluster has no room for it now, and the others go on
            let_go([seat.actor])
            return []
        self._start(seat, seat.actor)
        if not error.failed:
            return [(seat, error)]
        others = seat.trials.keys() - {report.trial for report in error.failed}
        return [(seat, Answer(error.failed)), *([(seat, error)] if others else [])]

    def _hand_over(self) -> list[tuple[Seat, Answer | Exception]]:
        """When all workers are there, this process stops training: its trials go on in them."""
        here = self._here
        if here is None or any(seat.preparing for seat in self._workers):
            return []
        self._here = None
        self._crew(here).pause()
        self._present(here, "gone")
        self._watch.note(f"Ray's workers are there: {len(self._workers)} train from here on.")
        return [(here, HandedOver())]

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────

    def settle(self) -> list[tuple[Seat, Answer | Exception]]:
        """What the calls in work still bring; nothing new is handed over."""
        came: list[tuple[Seat, Answer | Exception]] = []
        while any(asked == "work" for _, asked in self._flying.values()):
            import ray

            self._session.answers()
            for future in ray.wait(list(self._flying), num_returns=1, timeout=0.5)[0]:
                seat, asked = self._flying.pop(future)
                with suppress(ray.exceptions.RayError, GroupLost):  # dead by now: what it has written is what goes on
                    if asked == "work":
                        came.append((seat, told(future)))
        self._tally.count(came)
        return came

    def pause(self) -> None:
        """Have every process write down what it trains."""
        if self._here is not None:
            self._crew(self._here).pause()
        for seat in self._workers:
            if seat.trials:
                import ray

                with suppress(ray.exceptions.RayError, GroupLost):
                    told(seat.actor.pause.remote())

    def close(self) -> None:
        """Let all workers go: their CPUs are free for others."""
        with suppress(RunFailed):  # a disk that takes no more has ended the study already
            for seat in self._all:
                if not seat.preparing:
                    self._present(seat, "gone")
        self._flying.clear()
        if self._experiment.resources.together and self._workers and not self._session.lost:
            let_go([seat.actor for seat in self._workers], self._run.groups)
        self._workers.clear()
        self._asked.clear()
        self._here = None


class HandedOver(Exception):
    """This process has given its trials to workers."""


def told(future: Any) -> Any:
    """What a worker answers. Raises what it raised; RayError when it is dead."""
    import ray

    try:
        return ray.get(future)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else RuntimeError(str(error))) from None
