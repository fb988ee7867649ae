"""One real batch through every branch of a page's space: does it work, how large is it, how long does it take.

All combinations of a space are too many, so one value is moved at a time: every option of a choice, and the ends
of every other range, the rest at their first values. What that says of the whole space is rounded off by two
combinations more, of the moves that took most and of those that took least.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median_low
from typing import TYPE_CHECKING, Any

from nnopt_ray import reading, tables
from nnopt_ray.errors import NnoptError, NotANumber
from nnopt_ray.experiment import Experiment, Range, plain
from nnopt_ray.search.space import Params, params, value

if TYPE_CHECKING:
    from torch import Tensor

    from nnopt_ray.data.types import Dataset, Rows
    from nnopt_ray.machine import Machine
    from nnopt_ray.train.loop import Trainer

EPOCHS = 3  # timed at most, the middle one counts

Way = dict[str, Any]  # branch of a range (see experiment.walk) → value, or index of a choice; others at their first


@dataclass(frozen=True)
class Branch:
    """One closed page to try. `way` is how it differs from the first values of everything."""

    params: Params
    moved: Params  # those of `params` that are not as in the first branch
    way: Way = field(default_factory=dict)
    together: bool = False  # several moves at once


@dataclass(frozen=True)
class Memory:
    """Bytes that one trial holds while it trains."""

    weights: int  # buffers and frozen weights included
    gradient: int
    optimizer: int  # an average of the weights included
    best: int  # copy of the best epoch's weights
    activations: int  # kept by one batch from its forward for its backward pass

    @property
    def total(self) -> int:
        return self.weights + self.gradient + self.optimizer + self.best + self.activations


@dataclass(frozen=True)
class Tried:
    """What came of a branch.

    epoch_s: estimated seconds of one epoch. steps: an epoch's. timed_steps: those that were measured, 0: none.
    diverged: in the first steps its loss was no number any more, and why: a bad point, but a page that works.
    fault: why it cannot be trained, with the exit code that says whose fault it is; the rest is None then.
    """

    branch: Branch
    parameters: int | None = None
    memory: Memory | None = None
    steps: int | None = None
    timed_steps: int = 0
    epoch_s: float | None = None
    note: str = ""
    diverged: str = ""
    fault: str = ""
    exit_code: int = 0


# --- branches -----------------------------------------------------------------------------------


def branches(experiment: Experiment) -> list[Branch]:
    """What to try of a page, the most telling first: the first values of everything, then what changes shapes."""
    listed = experiment.search.trials
    if isinstance(listed, tuple):
        return [Branch(dict(trial), dict(trial)) for trial in listed]
    first = _closed(experiment.tree, {})
    found = [Branch(first, {}, {})]
    for way in _moves(experiment.tree):
        closed = _closed(experiment.tree, way)
        found.append(Branch(closed, _moved(closed, first), way))
    return sorted(found, key=lambda branch: _rank(branch.way))


def extremes(experiment: Experiment, tried: Sequence[Tried]) -> list[Branch]:
    """The moves that took most memory, all at once, and those that took least; without what was tried already."""
    sizes = {_key(each.branch.way): each.memory.total for each in tried if each.memory is not None}
    known = [each.branch.params for each in tried]
    found: list[Branch] = []
    for sign in (1, -1):
        way = _extreme_way(experiment.tree, sizes, sign)
        closed = _closed(experiment.tree, way)
        if closed not in known and closed not in [branch.params for branch in found]:
            found.append(Branch(closed, _moved(closed, tried[0].branch.params), way, together=True))
    return found


def _closed(tree: Mapping[str, Any], way: Way) -> Params:
    return params(tree, lambda _path, branch, range_: way.get(branch, _first(range_)))


def _first(range_: Range) -> Any:
    return 0 if range_.kind == "choice" else range_.first()


def _moved(closed: Params, first: Params) -> Params:
    return {path: chosen for path, chosen in closed.items() if path not in first or first[path] != chosen}


def _moves(tree: Any) -> Iterator[Way]:
    """Every range moved to each of its other values that are tried; the options around it are taken too."""
    for branch, range_, way in _ranges(tree, "", {}):
        for other in _others(range_):
            yield {**way, branch: other}


def _others(range_: Range) -> list[Any]:
    """What a range is tried at beside its first value."""
    if range_.kind == "choice":
        return list(range(1, len(range_.values)))
    count = range_.points()
    return [range_.values[1] if count is None else value(range_, count - 1)]


def _ranges(node: Any, branch: str, way: Way) -> Iterator[tuple[str, Range, Way]]:
    """(branch, range, the options taken on the way to it) of every range of the space."""
    if isinstance(node, Range):
        yield branch, node, way
        if node.kind == "choice":
            for index, (option, label) in enumerate(zip(node.values, node.labels(), strict=True)):
                yield from _ranges(option, f"{branch}={label}", {**way, branch: index} if index else way)
    elif isinstance(node, Mapping):
        for key, child in node.items():
            yield from _ranges(child, f"{branch}.{key}" if branch else str(key), way)
    elif isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            yield from _ranges(child, f"{branch}.{index}" if branch else str(index), way)


def _rank(way: Way) -> int:
    if not way:
        return 0
    last = list(way)[-1]
    return 1 if last.startswith(("model", "data", "train.batch_size")) else 2


def _key(way: Way) -> str:
    return repr(sorted(way.items()))


def _extreme_way(tree: Mapping[str, Any], sizes: Mapping[str, int], sign: int) -> Way:
    found: Way = {}
    for branch, range_, way in _ranges(tree, "", {}):
        if any(found.get(outer, 0) != index for outer, index in way.items()) or _key(way) not in sizes:
            continue
        best = (sign * sizes[_key(way)], None)
        for other in _others(range_):
            moved = _key({**way, branch: other})
            if moved in sizes and sign * sizes[moved] > best[0]:
                best = (sign * sizes[moved], other)
        if best[1] is not None:
            found[branch] = best[1]
    return found


# --- trying -------------------------------------------------------------------------------------


def attempt(experiment: Experiment, dataset: Dataset, machine: Machine, branch: Branch, seconds: float) -> Tried:
    """One batch forward and backward with an optimizer step, then as much of an epoch as `seconds` hold.

    dataset: the page's; where the branch prepares its data otherwise, its own is prepared. Faults of the page,
    of a part of the page's own and a lack of memory come back as `fault`; a fault of nnopt's is raised.
    """
    try:
        return _tried(experiment, dataset, machine, branch, seconds)
    # A part of the page's own may raise anything; what is not from there goes on.
    except (Exception, SystemExit) as error:
        told = _fault(error, tables.own_place(plain(experiment.tree), error))
        if told is not None:
            return Tried(branch, fault=told[0], exit_code=told[1])
        raise


def _fault(error: BaseException, own_place: str) -> tuple[str, int] | None:
    """The sentence and the exit code; None where it is no fault of the page."""
    if isinstance(error, NnoptError):
        return str(error), error.exit_code
    # torch tells a GPU's lack of memory by a class of its own, a CPU's by a RuntimeError.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error):
        asked = re.search(r"tried to allocate ([\d.]+ ?\w+)", str(error), re.IGNORECASE)
        more = f" (it asked for {asked[1]} at once)" if asked else ""
        return f"there is not enough memory for one batch{more}: make the network or the batch smaller.", 1
    return (f"{type(error).__name__}: {error} ({own_place})", 2) if own_place else None


def _tried(experiment: Experiment, dataset: Dataset, machine: Machine, branch: Branch, seconds: float) -> Tried:
    from nnopt_ray.assembly import data_of
    from nnopt_ray.train.batches import batch_sizes

    page = reading.close(experiment, branch.params)
    data = dataset if page.data.preparation == experiment.data.preparation else data_of(experiment, page)
    rows, size = len(data.train), page.train.batch_size
    # Compiling takes longer than all that is tried here.
    page = page.model_copy(update={"train": page.train.model_copy(update={"compile": False})})
    # Early stopping would only end what is timed; `from` costs its reading once a trial, not once an epoch.
    timed = page.model_copy(
        update={"train": page.train.model_copy(update={"epochs": EPOCHS, "early_stopping": None, "start": None})}
    )
    began = time.perf_counter()
    trainer = _trainer(page, data, machine, min(size, rows))
    saved, epoch_s, diverged = _Saved(), 0.0, ""
    with saved.watching(trainer.weights.flat):
        try:
            epoch_s = trainer.run_epoch().seconds
        except NotANumber as error:
            diverged = str(error)
    fresh = Tried(
        branch,
        parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        memory=_memory(trainer, saved.bytes),
        steps=len(batch_sizes(rows, size)),
        diverged=diverged,
    )
    if diverged:
        return fresh
    if trainer.reason == "fitted directly":
        # By solvers whose time hangs on the data; a sample says little of it.
        return replace(fresh, note="fitted directly, without steps; its time is not estimated")
    try:
        return _timed(fresh, timed, data, machine, epoch_s, seconds - (time.perf_counter() - began))
    except NotANumber as error:
        return replace(fresh, diverged=str(error))


def _timed(tried: Tried, page: Experiment, data: Dataset, machine: Machine, epoch_s: float, left: float) -> Tried:
    """With the seconds of an epoch, from as many steps as fit in what is left of the time.

    A share of the training rows is trained on and the same share of the validation rows measured, so the
    time of a whole epoch is in proportion; where the share is all of them, it is an epoch as it will be.
    """
    rows, size = len(data.train), page.train.batch_size
    assert tried.steps is not None
    steps = 1
    for _ in range(3):  # the first guess comes from a cold step, which is far too slow
        fits = max(1, int(steps * 0.5 * max(left, 0.0) / (EPOCHS * max(epoch_s, 1e-6))))
        steps = min(tried.steps, max(steps, fits))
        taken = rows if steps == tried.steps else steps * size
        trainer = _trainer(page, data, machine, taken)
        began = time.perf_counter()
        seconds: list[float] = []
        while not trainer.done and (not seconds or time.perf_counter() - began + seconds[-1] < left):
            seconds.append(trainer.run_epoch().seconds)
        left -= time.perf_counter() - began
        epoch_s = median_low(seconds)
        tried = replace(tried, timed_steps=steps, epoch_s=epoch_s * rows / taken)
        if steps == tried.steps or left < EPOCHS * epoch_s * 2:
            break
    return tried


def _trainer(page: Experiment, data: Dataset, machine: Machine, rows: int) -> Trainer:
    """A trainer of the whole page on so many training rows and the same share of the validation rows."""
    from nnopt_ray.assembly import metrics_for
    from nnopt_ray.train.batches import place
    from nnopt_ray.train.feed import Feed
    from nnopt_ray.train.loop import Trainer

    share = rows / len(data.train)
    part = replace(
        data,
        train=_spread(data.train, rows),
        validation=_spread(data.validation, max(1, math.ceil(share * len(data.validation)))),
    )
    # The training part stays whole where classes are counted, since a sample can lack one.
    made = Trainer(
        page,
        replace(part, train=data.train),
        machine,
        metrics_for(page, data),
        place(part, machine),
    )
    made.feed = Feed(page, part, made.placed)
    made.sizes = made.feed.sizes
    made.dataset = part
    return made


def _spread(part: Rows, count: int) -> Rows:
    """So many rows, evenly spread over the part."""
    import numpy as np

    if count >= len(part):
        return part
    chosen = np.linspace(0, len(part) - 1, count).round().astype(np.int64)
    return replace(
        part,
        inputs=tuple(array[chosen] for array in part.inputs),
        target=part.target[chosen],
        source_rows=part.source_rows[chosen],
    )


class _Saved:
    """Bytes that autograd keeps from forward for backward, each memory counted once, the weights' not."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        return sum(self._seen.values())

    def watching(self, weights: Tensor) -> Any:
        """A context in which what a forward pass saves is counted; `weights` is the flat tensor of all of them."""
        import torch

        own = weights.untyped_storage().data_ptr()

        def pack(saved: Tensor) -> Tensor:
            memory = saved.untyped_storage()
            if memory.data_ptr() != own:
                self._seen[memory.data_ptr()] = memory.nbytes()
            return saved

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved)


def _memory(trainer: Trainer, activations: int) -> Memory:
    def size(*tensors: Tensor) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    weights = size(trainer.weights.flat, *trainer.weights.rest.values())
    average = trainer.average.snapshot if trainer.average is not None else None
    averaged = [] if average is None else [average.flat, *average.rest.values()]
    return Memory(
        weights=weights,
        gradient=size(trainer.weights.gradient),
        optimizer=size(*trainer.slots.values(), *averaged),
        best=weights,
        activations=activations,
    )
