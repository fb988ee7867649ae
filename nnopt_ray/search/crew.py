"""The trials that one process trains side by side: alone one after another, or as lanes of one step.

Pure torch, no Ray: a worker's actor holds a crew, and so does the driver of a search that is too small for
workers. A round is one epoch of every trial in it; a crew works round after round until one of its trials
has come to where the study decides about it.
"""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnopt_ray import tables
from nnopt_ray.errors import NnoptError, NotANumber, RunFailed, Superseded
from nnopt_ray.experiment import plain
from nnopt_ray.results import Epoch
from nnopt_ray.rundir import RunDir, write_text
from nnopt_ray.search.ferry import Ferry
from nnopt_ray.search.messages import Answer, Copy, Demand, End, Failure, Order, Report, failure_of, is_memory
from nnopt_ray.search.shapes import how_many, shape_of

if TYPE_CHECKING:
    from nnopt_ray.data.types import Dataset
    from nnopt_ray.experiment import Experiment
    from nnopt_ray.machine import Machine
    from nnopt_ray.train.batches import Placed
    from nnopt_ray.train.choice import Choice
    from nnopt_ray.train.fit import TrialRun
    from nnopt_ray.train.lanes import Pack
    from nnopt_ray.train.loop import Trainer


# A search over many shapes measures as they come, but never for more than this share of the time it trains.
MEASURING_SHARE = 0.05
FOLDS_TOGETHER = 16
OF_ROWS = " rows "  # in the name of a shape, before what follows from the rows of a fold


@dataclass
class _Lane:
    run: TrialRun
    shape: str
    until: int | None = None
    copied: int = 0  # the `at` of its last Copy
    place: int = 0

    @property
    def goes_on(self) -> bool:
        return not self.run.done and (self.until is None or self.run.epoch < self.until)


class Crew:
    """Trains trials of one study in this process. `root`: the run folder."""

    def __init__(
        self, experiment: Experiment, dataset: Dataset, machine: Machine, run: RunDir, keeps_decisions: bool = False
    ) -> None:
        from nnopt_ray.train.batches import place

        self._experiment, self._machine, self._run = experiment, machine, run
        self.ferry = Ferry()  # of a worker elsewhere, another
        self._data: dict[str, tuple[Dataset, Placed]] = {_preparation(experiment): (dataset, place(dataset, machine))}
        self._keeps_decisions = keeps_decisions
        self._lanes: dict[str, _Lane] = {}
        self._choices: dict[str, Choice] = {}
        self._demand = Demand(1, 0)
        self._measuring_s = self._rounds_s = 0.0
        self._notes: list[str] = []
        self._reports: dict[str, Report] = {}

    # ── how ──────────────────────────────────────────────────────────────────────────────────────────

    def measure(self, params: Mapping[str, Any], demand: Demand) -> tuple[int, str]:
        """Choose how trials of this shape are trained → how many at a time, and why in a sentence.

        A trial of this shape that cannot be built is no reason to fail: it is one trial at a time then.
        """
        from nnopt_ray import reading

        self._demand = demand
        try:
            closed = reading.close(self._experiment, params)
            choice = self._chosen(closed)
        except (Exception, SystemExit) as error:
            return 1, f"one trial at a time, as the first one could not be built ({type(error).__name__})"
        return choice.lanes, choice.sentence

    def _chosen(self, closed: Experiment, share: float = 1.0) -> Choice:
        """`share`: of the work that is left, which trials of this shape are."""
        from nnopt_ray.train.choice import WIDTHS, Choice, choose
        from nnopt_ray.train.exact import choose_exactly

        shape, demand = self._shape(closed), self._demand
        if shape in self._choices:
            return self._choices[shape]
        how = self._experiment.resources.fuse, self._experiment.resources.lanes
        if self._experiment.search.reproducible and closed.data.fold is not None:
            why = "search.reproducible promises every bit, and that lanes on other rows keep theirs is not tried"
            self._choices[shape] = Choice(1, f"one fold at a time, as {why}")
        elif self._experiment.search.reproducible:
            trainings = demand.total / min(demand.total, how_many(self._experiment))
            self._choices[shape] = choose_exactly(lambda: self._trainer(closed), *how, demand.width, trainings)
        else:
            dataset, _ = self._dataset(closed)
            steps = share * demand.epochs * max(1, len(dataset.train) // closed.train.batch_size)
            work = demand.most, lambda step_s: steps * step_s
            # Folds are few, all of them there from the start: one pack of all.
            widths = () if closed.data.fold is not None and demand.most <= FOLDS_TOGETHER else WIDTHS
            self._choices[shape] = choose(lambda: self._trainer(closed), *how, *work, widths)
        return self._choices[shape]

    def _shape(self, closed: Experiment) -> str:
        """Folds are lanes of one step where they have as many training rows, and the same loss of them."""
        if closed.data.fold is None:
            return shape_of(closed)
        dataset, _ = self._dataset(closed)
        loss = closed.train.loss
        weighted = loss.keys.get("class_weights") == "balanced" or ":" in loss.type
        counts = dataset.summary.class_counts.get("train") if weighted else None
        return f"{shape_of(closed)}{OF_ROWS}{len(dataset.train)} {dataset.shapes} {counts}"

    def _trainer(self, closed: Experiment) -> Trainer:
        from nnopt_ray.assembly import metrics_for
        from nnopt_ray.train.loop import Trainer

        dataset, placed = self._dataset(closed)
        return Trainer(closed, dataset, self._machine, metrics_for(closed, dataset), placed)

    def _dataset(self, closed: Experiment) -> tuple[Dataset, Placed]:
        """The study's data; prepared anew (or taken from the cache) where a trial varies its preparation."""
        name = _preparation(closed)
        if name not in self._data:
            from nnopt_ray.assembly import data_of
            from nnopt_ray.train.batches import place

            dataset = data_of(self._experiment, closed)
            self._data[name] = (dataset, place(dataset, self._machine))
        return self._data[name]

    # ── work ─────────────────────────────────────────────────────────────────────────────────────────

    def work(self, orders: Sequence[Order], ends: Sequence[End], slice_s: float) -> Answer:
        """Carry out the ends, take up the orders, and train until one trial needs a decision, or for `slice_s`.

        Raises RunFailed when the disk takes no more.
        """
        self._reports, self._notes = {}, []
        for end in ends:
            self._end(end)
        for order in orders:
            self._guard(order.trial, lambda order=order: self._take_up(order))  # type: ignore[misc]
        began = time.monotonic()
        while True:
            going = [trial for trial, lane in self._lanes.items() if lane.goes_on]
            if not going:
                break
            round_began = time.monotonic()
            self._round(going)
            self._rounds_s += time.monotonic() - round_began
            waits = any(not self._lanes[t].goes_on if t in self._lanes else True for t in going)
            if waits or time.monotonic() - began > slice_s:
                break
        return Answer(tuple(self._reports.values()), tuple(self._notes), self._places())

    def pause(self) -> None:
        """Write the state of every trial, so that another process goes on from here."""
        for trial in list(self._lanes):
            self._leave(trial)

    def _places(self) -> int:
        here = {lane.shape for lane in self._lanes.values()} or set(self._choices)
        return max((self._choices[shape].lanes for shape in here if shape in self._choices), default=1)

    def _report(self, trial: str) -> Report:
        return self._reports.setdefault(trial, Report(trial))

    def _take_up(self, order: Order) -> None:
        lane = self._lanes.get(order.trial)
        if lane is None:
            lane = self._lanes[order.trial] = self._begin(order)
            self._report(order.trial).epochs.extend(lane.run.history)
            self._report(order.trial).parameters = lane.run.parameters
        if order.copy is not None:
            lane = self._copied(order, order.copy)
        lane.until, lane.place = order.until, order.place
        if self._keeps_decisions and order.copy is None and lane.until == lane.run.epoch:
            lane.run.keep_decision(again=False)  # cut off between its last epoch and this
            self.ferry.show(order.trial)
        if lane.run.done:  # it had ended before its driver heard of it
            self._finished(order.trial)

    def _begin(self, order: Order) -> _Lane:
        from nnopt_ray import reading

        base = reading.close(self._experiment, order.params)
        self.ferry.bring(order.trial)
        folder = self._run.trial(order.trial)
        page = reading.dump(base)
        there = folder.page.read_text(encoding="utf-8") if folder.page.is_file() else page
        if there != page and order.copied_params is not None:
            copied = reading.close(self._experiment, order.copied_params)
            if there == reading.dump(copied):
                base, page = copied, there
                self._report(order.trial).copied = order.until or 0
        if there != page and order.copy is None and not _same_training(folder.page, base):
            # The journal lost its end, in a power cut, and another point bears this number now.
            self._notes.append(f"{folder.root} held another trial's training; this one starts anew.")
            shutil.rmtree(folder.root)
        if order.copy is None and (there != page or not folder.page.is_file()):
            write_text(folder.page, page)
        return _Lane(self._opened(order.trial, base), self._shape(base), copied=self._report(order.trial).copied)

    def _opened(self, trial: str, closed: Experiment) -> TrialRun:
        from nnopt_ray.assembly import metrics_for
        from nnopt_ray.train.fit import TrialRun

        dataset, placed = self._dataset(closed)
        return TrialRun(
            closed,
            dataset,
            self._machine,
            metrics_for(closed, dataset),
            self._run.trial(trial),
            on_note=lambda note: self._notes.append(f"trial {trial}: {note}"),
            placed=placed,
        )

    def _copied(self, order: Order, copy: Copy) -> _Lane:
        """Go on with the weights and the optimizer of another trial, and other values."""
        from nnopt_ray import reading

        closed = reading.close(self._experiment, order.params)
        page, folder = reading.dump(closed), self._run.trial(order.trial)
        self._report(order.trial).copied = copy.at
        if self._lanes[order.trial].copied == copy.at:
            return self._lanes[order.trial]
        self._leave(order.trial)
        self.ferry.bring(order.trial)
        self.ferry.lend(copy.donor)
        run = self._opened(order.trial, closed)
        run.adopt(self._run.trial(copy.donor), copy.donor_epochs - 1)
        write_text(folder.page, page)
        lane = self._lanes[order.trial] = _Lane(run, self._shape(closed), copied=copy.at)
        return lane

    def _end(self, end: End) -> None:
        self._guard(end.trial, lambda: self._leave(end.trial, end.reason))
        self._report(end.trial).ended = True

    def _leave(self, trial: str, reason: str = "") -> None:
        lane = self._lanes.pop(trial, None)
        if lane is not None:
            self._drop(lane)
            lane.run.close(reason)
            self.ferry.give(trial)

    def _drop(self, lane: _Lane) -> None:
        choice = self._choices.get(lane.shape)
        for pack in choice.packs.values() if choice is not None else ():
            if lane.run.trainer in pack.lanes:
                pack.take(lane.run.trainer)

    def _finished(self, trial: str) -> None:
        lane, report = self._lanes[trial], self._report(trial)
        report.done, report.reason = True, lane.run.reason
        self._leave(trial)

    # ── one round ────────────────────────────────────────────────────────────────────────────────────

    def _round(self, going: list[str]) -> None:
        """One epoch of each of these trials."""
        by_shape: dict[str, list[str]] = {}
        for trial in going:
            by_shape.setdefault(self._lanes[trial].shape, []).append(trial)
        for shape, trials in by_shape.items():
            choice = self._choice_for(shape, trials)
            for group in self._groups(trials, choice):
                width = choice.cheapest(len(group))
                if width == 1 or not self._together(choice, width, group):
                    for trial in group:
                        self._guard(trial, lambda trial=trial: self._alone(trial))  # type: ignore[misc]

    def _groups(self, trials: list[str], choice: Choice) -> list[list[str]]:
        """Those that share a step."""
        size = max(1, choice.lanes)
        if not choice.rows_by_place:
            return [trials[start : start + size] for start in range(0, len(trials), size)]
        found: dict[int, list[str]] = {}
        for trial in trials:
            found.setdefault(self._lanes[trial].place // size, []).append(trial)
        return list(found.values())

    def _choice_for(self, shape: str, trials: list[str]) -> Choice:
        if shape in self._choices:
            return self._choices[shape]
        if OF_ROWS in shape and (like := self._like(shape, trials[0])) is not None:
            self._choices[shape] = like
            return like
        exact = self._experiment.search.reproducible
        if not exact and (len(trials) < 2 or self._measuring_s > MEASURING_SHARE * self._rounds_s):
            from nnopt_ray.train.choice import Choice

            return Choice(1, "")
        began = time.monotonic()
        share = len(trials) / max(1, len(self._lanes))
        choice = self._chosen(self._lanes[trials[0]].run.trainer.experiment, share)
        self._measuring_s += time.monotonic() - began
        return choice

    def _like(self, shape: str, trial: str) -> Choice | None:
        """What was measured on folds that differ in their rows alone serves for these too."""
        from nnopt_ray.train.choice import Choice
        from nnopt_ray.train.lanes import CannotFuse, Shape

        before = shape.partition(OF_ROWS)[0]
        known = (choice for name, choice in self._choices.items() if name.partition(OF_ROWS)[0] == before)
        measured = next((choice for choice in known if choice.shape is not None), None)
        if measured is None:
            return None
        try:
            return Choice(measured.lanes, "", measured.step_s, Shape(self._lanes[trial].run.trainer))
        except CannotFuse:
            return None

    def _alone(self, trial: str) -> None:
        lane = self._lanes[trial]
        self._drop(lane)
        self._took(trial, lane.run.epochs(until=lane.run.epoch + 1)[0])

    def _took(self, trial: str, epoch: Epoch) -> None:
        lane = self._lanes[trial]
        self._report(trial).epochs.append(epoch)
        if lane.run.done:
            self._finished(trial)
        elif self._keeps_decisions and lane.until == lane.run.epoch:
            lane.run.keep_decision()
            self.ferry.show(trial)

    def _together(self, choice: Choice, width: int, trials: list[str]) -> bool:
        """An epoch of these trials as lanes of a pack. False when they cannot be, and none has moved."""
        from nnopt_ray.train.lanes import CannotFuse, Pack

        assert choice.shape is not None
        runs = {id(self._lanes[trial].run.trainer): trial for trial in trials}
        trainers = [self._lanes[trial].run.trainer for trial in trials]
        try:
            pack = choice.packs.get(width)
            if pack is None:
                pack = choice.packs[width] = Pack(choice.shape, width, trainers[0])
            rows = {id(self._lanes[t].run.trainer): self._lanes[t].place % width for t in trials}
            self._seat(choice, pack, trainers, rows if choice.rows_by_place else {})
            done = pack.run_epoch(only=set(trainers))
        except CannotFuse as error:
            self._one_by_one(choice, f"{error}")
            return False
        except (Exception, SystemExit) as error:
            self._again_alone(choice, trials, error)
            return True
        for trainer, came in done:
            trial = runs[id(trainer)]
            self._guard(trial, lambda trial=trial, came=came: self._came(trial, came))  # type: ignore[misc]
        return True

    def _seat(self, choice: Choice, pack: Pack, trainers: Sequence[Trainer], rows: Mapping[int, int]) -> None:
        """Put them into the pack, at these rows where they have one (id of a training → row)."""
        for trainer in trainers:
            row = rows.get(id(trainer))
            if trainer in pack.lanes:
                if row is None or pack.lanes[row] is trainer:
                    continue
                pack.take(trainer)
            if row is not None and (sits := pack.lanes[row]) is not None:
                pack.take(sits)
            for other in choice.packs.values():
                if trainer in other.lanes:
                    other.take(trainer)
            if pack.filled == pack.width:  # one that waits for a decision makes room
                pack.take(next(lane for lane in pack.lanes if lane is not None and lane not in trainers))
            pack.put(trainer, row)

    def _came(self, trial: str, came: Epoch | NotANumber) -> None:
        if isinstance(came, NotANumber):
            raise came
        self._took(trial, self._lanes[trial].run.take(came))

    def _one_by_one(self, choice: Choice, why: str) -> None:
        for pack in choice.packs.values():
            for trainer in [lane for lane in pack.lanes if lane is not None]:
                pack.take(trainer)
        choice.lanes, choice.step_s, choice.packs = 1, {}, {}
        self._notes.append(f"Trials of this shape are trained one at a time from now on: {why}.")

    def _again_alone(self, choice: Choice, trials: list[str], error: BaseException) -> None:
        """A step of all failed in the middle of an epoch: each goes on alone from what it has written."""
        why = "out of memory" if is_memory(error) else f"{type(error).__name__}: {error}"
        for trial in trials:
            run = self._lanes[trial].run
            self._drop(self._lanes[trial])
            closed = run.trainer.experiment
            self._guard(trial, lambda trial=trial, closed=closed: self._reopen(trial, closed))  # type: ignore[misc]
        self._one_by_one(choice, f"a step of {len(trials)} together failed ({why})")

    def _reopen(self, trial: str, closed: Experiment) -> None:
        self._lanes[trial].run = self._opened(trial, closed)

    # ── faults ───────────────────────────────────────────────────────────────────────────────────────

    def _guard(self, trial: str, act: Callable[[], object]) -> None:
        """The one door where anything may come: a trial's fault is a row of the study, not its end."""
        try:
            act()
        except Superseded:  # the study thinks this process dead, and does not hear it
            lane = self._lanes.pop(trial, None)
            if lane is not None:
                self._drop(lane)
        except (Exception, SystemExit) as error:
            lane = self._lanes.pop(trial, None)
            try:
                write_text(self._run.trial(trial).error, traceback.format_exc())
                if lane is not None:
                    self._drop(lane)
                    lane.run.close()
                self.ferry.give(trial)
                failure = failure_of(error, tables.own_place(plain(self._experiment.tree), error))
            except RunFailed as full:
                failure = Failure("storage", str(full))
            self._report(trial).failure = failure


def _same_training(page: Path, closed: Experiment) -> bool:
    """Whether the page of a trial differs from this one in nothing that its training depends on: a search may go
    on with other resources, or more trials."""
    from nnopt_ray import reading

    try:
        there = reading.load(page)
    except NnoptError:
        return False
    beside = ("name", "about", "search", "resources", "evaluate", "tracking")
    return all(plain(there.tree[key]) == plain(closed.tree[key]) for key in closed.tree if key not in beside)


def _preparation(experiment: Experiment) -> str:
    """A name for how the data is prepared; augmentation has no part in it."""
    return repr({key: plain(value) for key, value in experiment.tree["data"].items() if key != "augment"})
