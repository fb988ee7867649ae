"""What the workers of a group do: the first holds the crew, and all train each of its trials together.

The first one's word leads: before it does anything to a training that takes all, it says so to the others, each of
which has a trainer of the same trial (`train.sharding`) and writes nothing. Where a training breaks in all of them at
one place, they go on with the next; where it breaks in one alone, the others wait for it inside a sum, and Ray Train
starts all of them anew.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from nnopt_ray import assembly, reading, tables
from nnopt_ray.errors import RunFailed
from nnopt_ray.experiment import Experiment, plain
from nnopt_ray.results import Epoch
from nnopt_ray.rundir import RunDir, TrialDir, write_text
from nnopt_ray.search import ray_train
from nnopt_ray.search.crew import Crew
from nnopt_ray.search.messages import Answer, Failure, ToldFailure, failure_of
from nnopt_ray.search.worker import SLICE_S
from nnopt_ray.train import checkpoints, state
from nnopt_ray.train.choice import Choice
from nnopt_ray.train.fit import TrialRun
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.sharding import Shard

if TYPE_CHECKING:
    from nnopt_ray.data.types import Dataset
    from nnopt_ray.machine import Machine
    from nnopt_ray.search.node_store import Mapped

IDLE = timedelta(days=365)  # a group may wait long for its next trial
SEEN_S = 60.0  # a file that one node wrote is seen by another within the time that network file systems cache


class Broken(BaseException):
    """The workers have lost each other; nothing but a new start helps. No Exception, as no trial is at fault."""


class Line:
    """What the workers of a group say to each other beside the sums of a training, and to the group's actor."""

    def __init__(self, group: Any) -> None:
        self.rank, self.workers = dist.get_rank(), dist.get_world_size()
        self._group = group
        self._wire = dist.new_group(backend="gloo", timeout=IDLE)
        self.time = 0
        self.time = self.shared(self.ask("enter") if self.rank == 0 else None)

    def ask(self, method: str, *arguments: Any) -> Any:
        import ray

        return ray.get(getattr(self._group, method).remote(*arguments))

    def shared(self, word: Any) -> Any:
        """The first worker's word, in all."""
        words = [word]
        with self._or_broken():
            dist.broadcast_object_list(words, 0, self._wire)
        return words[0]

    def agree(self, failure: Failure | None) -> Failure | None:
        """What failed in any of them, where nothing was under way."""
        every: list[Failure | None] = [None] * self.workers
        with self._or_broken():
            dist.all_gather_object(every, failure, self._wire)
        return next((each for each in every if each is not None), None)

    @contextmanager
    def _or_broken(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            self.ask("raised", self.time, self.rank, self.workers, -1, "", None)
            raise Broken from error

    @contextmanager
    def together(self, trial: TrialDir, own_place: Callable[[BaseException], str]) -> Iterator[None]:
        """Within, all train. Raises Broken when they do not come out of it alike."""
        try:
            yield
        except (Exception, SystemExit) as error:
            failure = None if _of_the_others(error) else failure_of(error, own_place(error))
            everyone: Any = dist.group.WORLD  # torch's stub lacks what counts the calls of a group
            sums = int(everyone._get_sequence_number_for_group())
            if not self.ask("raised", self.time, self.rank, self.workers, sums, trial.id, failure):
                if failure is not None:
                    write_text(trial.error, traceback.format_exc())
                raise Broken from error
            raise


def _of_the_others(error: BaseException) -> bool:
    """Whether this is how the loss of another process shows."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


class LedRun(TrialRun):
    """A training that the others take part in."""

    def __init__(
        self, line: Line, own_place: Callable[[BaseException], str], page: Experiment, *made: Any, **more: Any
    ):
        """page: as it stands on the trial's page; the rest is of TrialRun."""
        super().__init__(*made, **more)
        self._line, self._own_place, self._open = line, own_place, True
        self._tell("open", plain(page.tree), str(page.file) if page.file else None, self.epoch)

    def _tell(self, word: str, *more: Any) -> None:
        """Say it, and hear whether it went well. Raises ToldFailure."""
        self._line.shared((word, self.trial.id, *more))
        if (failure := self._line.agree(None)) is not None:
            self._drop()
            raise ToldFailure(failure)

    def epochs(
        self,
        until: int | None = None,
        on_epoch: Callable[[Epoch], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[Epoch]:
        """The next epoch, and no more."""
        assert until == self.epoch + 1
        self._line.shared(("epoch", self.trial.id))
        with self._line.together(self.trial, self._own_place):
            epoch = self.trainer.run_epoch()
        return [self.take(epoch)]

    def adopt(self, donor: TrialDir, epoch: int) -> None:
        super().adopt(donor, epoch)  # and writes it down
        self._tell("load", self.epoch)

    def close(self, reason: str = "") -> None:
        super().close(reason)
        self._drop()

    def _drop(self) -> None:
        if self._open:
            self._open = False
            self._line.shared(("drop", self.trial.id))


class GroupCrew(Crew):
    """The crew of the first worker: each trial is trained alone, by all."""

    def __init__(self, line: Line, *made: Any) -> None:
        super().__init__(*made)
        self._line = line

    def _opened(self, trial: str, closed: Experiment) -> TrialRun:
        dataset, placed = self._dataset(closed)
        scaled = assembly.scaled(closed, self._line.workers)
        tree = plain(self._experiment.tree)
        return LedRun(
            self._line,
            lambda error: tables.own_place(tree, error),
            closed,
            scaled,
            dataset,
            self._machine,
            assembly.metrics_for(scaled, dataset),
            self._run.trial(trial),
            on_note=lambda note: self._notes.append(f"trial {trial}: {note}"),
            placed=placed,
            shard=Shard(scaled.resources.sync_batch_norm),  # one a training, whose weights it holds
        )

    def _choice_for(self, shape: str, trials: list[str]) -> Choice:
        return Choice(1, "")


class Follower(Crew):
    """What the other workers hold: the trainers, and no say."""

    def __init__(self, line: Line, *made: Any) -> None:
        super().__init__(*made)
        self._line = line
        self._trainers: dict[str, Trainer] = {}

    def follow(self) -> None:
        """Do what the first worker says, until it ends."""
        while True:
            word, trial, *more = self._line.shared(None)
            if word == "end":
                return
            if word == "drop":
                self._trainers.pop(trial, None)
            elif word == "epoch":
                self._epoch(trial)
            else:
                self._line.agree(self._tried((self._open if word == "open" else self._load), trial, more))

    def _tried(self, act: Callable[..., None], trial: str, more: Sequence[Any]) -> Failure | None:
        try:
            act(trial, *more)
        except (Exception, SystemExit) as error:
            return failure_of(error, self._own_place(error))
        return None

    def _own_place(self, error: BaseException) -> str:
        return tables.own_place(plain(self._experiment.tree), error)

    def _epoch(self, trial: str) -> None:
        try:
            with self._line.together(self._run.trial(trial), self._own_place):
                self._trainers[trial].run_epoch()
        except (Exception, SystemExit):  # as in the first worker, which tells it
            return

    def _open(self, trial: str, tree: Mapping[str, Any], file: str | None, epoch: int) -> None:
        closed = reading.from_tree(tree, Path(file) if file else None)
        dataset, placed = self._dataset(closed)
        scaled = assembly.scaled(closed, self._line.workers)
        metrics = assembly.metrics_for(scaled, dataset)
        shard = Shard(scaled.resources.sync_batch_norm)
        self._trainers[trial] = Trainer(scaled, dataset, self._machine, metrics, placed, shard)
        if epoch:
            self._load(trial, epoch)

    def _load(self, trial: str, epoch: int) -> None:
        """Go on from what the first worker has written after so many epochs."""
        path, until = checkpoints.file(self._run.trial(trial), epoch - 1), time.monotonic() + SEEN_S
        while not path.is_file() and time.monotonic() < until:
            time.sleep(0.1)
        self._trainers[trial].load_state(state.load(path))


def member(told: Mapping[str, Any]) -> None:
    """What each worker of a group does, from its start to its end."""
    sys.path.extend(path for path in told["import_paths"] if path not in sys.path)
    line = Line(told["group"])
    try:
        made, keeps, mapped = _page_and_data(told)
    except Exception as error:
        line.ask("ready", line.time, line.rank, line.workers, error)
        raise
    line.ask("ready", line.time, line.rank, line.workers, mapped)
    try:
        if line.rank:
            Follower(line, *made).follow()
        else:
            _lead(GroupCrew(line, *made, keeps), line)
    except Broken as broken:
        raise RuntimeError(f"the workers have lost each other: {broken.__cause__}") from broken


def _page_and_data(told: Mapping[str, Any]) -> tuple[tuple[Experiment, Dataset, Machine, RunDir], bool, Mapped]:
    from nnopt_ray.search.node_store import open_on_node

    run = RunDir(Path(told["root"]))
    experiment = reading.from_tree(told["tree"], Path(told["file"]) if told["file"] else None)
    where = ray_train.with_device(assembly.machine_for(experiment))
    dataset, mapped = open_on_node(run.data)
    return (experiment, dataset, where, run), told["keeps_decisions"], mapped


def _lead(crew: GroupCrew, line: Line) -> None:
    """Carry out what the study asks, call by call."""
    done = 0
    while (call := line.ask("next", line.time, done)) is not None:
        done = call.number
        answer: Answer | None = None
        error: RunFailed | None = None
        try:
            if call.method == "work":
                orders, ends = call.arguments
                answer = crew.work(orders, ends, SLICE_S)
            else:
                crew.pause()
        except RunFailed as full:
            error = full
        line.ask("answer", line.time, call.number, answer, error)
    line.shared(("end", ""))
