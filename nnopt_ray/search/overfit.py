"""Can a network learn a handful of rows by heart? One that cannot will learn no more of all rows.

The check is Karpathy's ("A Recipe for Training Neural Networks", 2019, step 2, "overfit one batch"): with dropout
off, the loss of a few rows must fall to almost nothing. Where the page's own steps do not bring it there, Adam at a
usual rate tries from new weights, which tells a rate that does not fit from a network that cannot.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from nnopt_ray import tables
from nnopt_ray.data.types import IGNORED, Dataset, Rows
from nnopt_ray.experiment import Experiment, plain
from nnopt_ray.machine import Machine
from nnopt_ray.train import batches
from nnopt_ray.train.loop import Trainer

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

ROWS = 8
LOOKED_AT = 64  # rows among which they are chosen
TRY_S = 2.5  # seconds of each of two tries
LEFT = 0.05  # of the loss of an answer that is the same for every row: learned by heart
LEFT_OF_TEXT = 0.3  # of a text, whose first tokens follow from nothing
ADAM_LR = 1e-3  # where nothing is known (torch.optim's and Keras' default)


@dataclass(frozen=True)
class Overfit:
    """What came of it. reached: None where it is not known. told: in words, the cure included.

    loss: at the end, of the page's own steps; floor: that of the best answer that is the same for every row.
    """

    reached: bool | None
    told: str
    rows: int
    steps: int
    loss: float
    floor: float


@dataclass(frozen=True)
class _Try:
    steps: int
    loss: float
    falling: bool  # it was when the time was over
    reached: bool
    constant: bool  # the same answer for every row


class _ByHeart(Trainer):
    """A trainer that takes steps on one batch, without dropout."""

    def learn(self, inputs: tuple[Tensor, ...], target: Tensor, goal: Callable[[float, Tensor], bool]) -> _Try:
        _without_dropout(self.model)
        losses: list[float] = []
        # The first step is the slowest by far. Other processes lengthen the time, but not without end.
        ends = patience = math.inf
        while True:
            if len(losses) == 1:
                ends, patience = time.thread_time() + TRY_S, time.perf_counter() + 2 * TRY_S
            self.weights.gradient.zero_()
            outputs = self._forward(inputs)
            loss = self.loss(outputs, target)
            losses.append(float(loss.detach()))
            reached = goal(losses[-1], outputs.detach())
            late = time.thread_time() > ends or time.perf_counter() > patience
            if reached or late or not math.isfinite(losses[-1]):
                break
            loss.backward()  # type: ignore[no-untyped-call]
            self.descend(len(losses) - 1)
        spread = float((outputs.detach() - outputs.detach()[:1]).abs().max())
        constant = spread <= 1e-6 * (1 + float(outputs.detach().abs().max()))
        recent = losses[-max(2, len(losses) // 4) :]
        return _Try(len(losses) - 1, losses[-1], recent[-1] < 0.9 * recent[0], reached, constant)

    def lr_of(self, number: int) -> float:
        return self.base_lr  # its schedule and warm-up are for a whole training


def overfit(experiment: Experiment, dataset: Dataset, machine: Machine, *, lr_is_open: bool) -> Overfit | None:
    """Let the network of a closed page learn some training rows by heart.

    lr_is_open: the page searches its optimizer or rate, so that these say nothing. None where there is nothing to
    learn: a model that takes no steps, or rows that all ask for the same. A fault of a part of the page's own is
    none of this check's and gives None too.
    """
    try:
        return _overfit(experiment, dataset, machine, lr_is_open)
    # A part of the page's own may raise anything; what is not from there goes on.
    except (Exception, SystemExit) as error:
        if tables.own_place(plain(experiment.tree), error):
            return None
        raise


def _overfit(experiment: Experiment, dataset: Dataset, machine: Machine, lr_is_open: bool) -> Overfit | None:
    machine = replace(machine, precision="float32")
    rows = _rows(dataset.train)
    placed = batches.place(
        replace(dataset, train=_taken(dataset.train, rows), validation=_taken(dataset.train, rows)), machine
    )
    trainer = _trainer(experiment, dataset, machine, placed)
    if getattr(trainer.model, "fit_directly", None) is not None or not trainer.weights.flat.numel():
        return None
    inputs, target = placed.train.inputs, placed.train.target
    assert target is not None
    floor = _floor(trainer, target)
    if len(rows) < 2 or floor <= 0:
        return None
    goal = _goal(dataset, target, floor)
    trainer.open_epoch()
    own = None if lr_is_open else trainer.learn(inputs, target, goal)
    if own is not None and own.reached:
        return Overfit(
            True,
            f"yes: {len(rows)} rows in {own.steps} step{'s' * (own.steps != 1)}",
            len(rows),
            own.steps,
            own.loss,
            floor,
        )
    usual = _trainer(_with_adam(experiment), dataset, machine, placed)
    usual.open_epoch()
    other = usual.learn(inputs, target, goal)
    shown = own or other
    told = _told(len(rows), own, other, floor, _frozen(trainer.model))
    reached = True if other.reached and own is None else None if _unknown(own, other) else False
    return Overfit(reached, told, len(rows), shown.steps, shown.loss, floor)


def _unknown(own: _Try | None, other: _Try) -> bool:
    """Whether only the time was too short."""
    return own.falling if own is not None else other.falling and not other.reached


def _told(rows: int, own: _Try | None, other: _Try, floor: float, frozen: bool) -> str:

    def steps(one: _Try) -> str:
        return f"{one.steps} step{'s' * (one.steps != 1)}"

    adam = f"Adam at {ADAM_LR:g}"
    shown = own or other
    stood = (
        f"the loss of {rows} rows is {shown.loss:.3g} after {steps(shown)}, and {floor:.3g} takes no network to reach"
    )
    if _unknown(own, other):
        return f"not known: {stood}; it was still falling after {TRY_S:g} s"
    if other.reached and own is None:
        return f"yes: {rows} rows in {steps(other)} of {adam}, as the page searches its own"
    if other.reached:
        return (
            f"no: {stood}; {adam} learned them in {steps(other)}, so look at train.optimizer (its lr first), "
            "weight decay and clipping"
        )
    if other.constant:
        return (
            f"no: {stood}: it gives every row the same answer, so look for where its forward loses its inputs "
            "(units that are dead, a constant, a sum over all rows)"
        )
    if frozen:
        return f"no: {stood}, also with {adam}: too few of its weights are free to learn (train.freeze)"
    return (
        f"no: {stood}, also with {adam}: the model is too small, its weights cannot be reached, or the rows are alike "
        "and ask for different answers"
    )


def _trainer(experiment: Experiment, dataset: Dataset, machine: Machine, placed: batches.Placed) -> _ByHeart:
    from nnopt_ray.assembly import metrics_for

    plainly = {"accumulate": 1, "ema": None, "swa": None, "l1": 0.0}
    page = experiment.model_copy(update={"train": experiment.train.model_copy(update=plainly)})
    return _ByHeart(page, dataset, machine, metrics_for(experiment, dataset), placed)


def _with_adam(experiment: Experiment) -> Experiment:
    keys = tables.keys("optimizer", "adam")(lr=ADAM_LR).model_dump()  # type: ignore[call-arg]
    train = {
        "optimizer": tables.Part("adam", MappingProxyType(keys)),
        "clip_norm": None,
        "clip_value": None,
        "layer_decay": 1.0,
    }
    return experiment.model_copy(update={"train": experiment.train.model_copy(update=train)})


def _rows(part: Rows) -> list[int]:
    """Rows that differ from each other, and as far as there are such, in what they ask for."""
    import numpy as np

    found: dict[bytes, list[int]] = {}  # what is asked → rows
    seen: set[bytes] = set()
    for row in np.linspace(0, len(part) - 1, min(LOOKED_AT, len(part))).round().astype(int).tolist():
        content = b"".join(array[row].tobytes() for array in part.inputs)
        if content not in seen:
            seen.add(content)
            found.setdefault(part.target[row].tobytes(), []).append(row)
    turns = sorted((place, number, row) for number, rows in enumerate(found.values()) for place, row in enumerate(rows))
    return sorted(row for _, _, row in turns[:ROWS])


def _taken(part: Rows, rows: list[int]) -> Rows:
    return Rows(tuple(array[rows] for array in part.inputs), part.target[rows], part.source_rows[rows])


def _floor(trainer: Trainer, target: Tensor) -> float:
    """The page's loss of the best answer that is the same for every row, or nearly so."""
    import torch

    shapes = trainer.dataset.shapes
    if shapes.task == "regression":
        constant = target.mean(0, keepdim=True).expand_as(target)
    else:
        asked = target[target != IGNORED]
        shares = torch.bincount(asked, minlength=shapes.outputs).float() / max(len(asked), 1)
        if float(shares.max()) == 1.0:
            return 0.0
        constant = shares.clamp(min=1e-4).log().expand(*target.shape, shapes.outputs).contiguous()
    return float(trainer.loss(constant, target))


def _goal(dataset: Dataset, target: Tensor, floor: float) -> Callable[[float, Tensor], bool]:
    """Whether a loss and outputs are those of rows that are known by heart."""
    if dataset.shapes.task == "classification":  # whatever else the loss holds, smoothed labels for one
        return lambda loss, outputs: bool((outputs.argmax(dim=1) == target).all())
    left = LEFT_OF_TEXT if dataset.shapes.is_language else LEFT
    return lambda loss, outputs: loss < left * floor


def _frozen(model: nn.Module) -> bool:
    return any(not parameter.requires_grad for parameter in model.parameters())


def _without_dropout(model: nn.Module) -> None:
    """Evaluation, but for batch norm, which has no statistics yet, and recurrent layers, which a GPU trains so only."""
    import torch

    model.eval()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and _learns(module):
            module.train()
        if isinstance(module, torch.nn.RNNBase):
            module.train()
            module.dropout = 0.0


def _learns(module: torch.nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
