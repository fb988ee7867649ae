"""What a training goes on from: its state as tensors and numbers, and the way back."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from nnopt_ray.data.types import Dataset
from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Experiment
from nnopt_ray.results import Epoch
from nnopt_ray.train.averaging import Average
from nnopt_ray.train.precision import LossScale
from nnopt_ray.train.state import State, from_line, lists, to_line
from nnopt_ray.train.watch import Watch
from nnopt_ray.train.weights import FlatWeights, Snapshot, aliases


class Training(Protocol):
    """What `loop.Trainer` has that is kept, or that a state must fit."""

    experiment: Experiment
    dataset: Dataset
    weights: FlatWeights
    slots: dict[str, Tensor]
    average: Average | None
    scale: LossScale | None
    watch: Watch
    snapshots: dict[int, Snapshot]
    history: list[Epoch]
    epoch: int
    step: int
    base_lr: float
    done: bool
    reason: str
    at_boundary: bool

    @property
    def model(self) -> nn.Module: ...


def state_of(trainer: Training) -> State:
    """All that a resumed training needs, live. Only between epochs (AssertionError in the middle of one)."""
    assert trainer.at_boundary, "the state in the middle of an epoch is none to go on from"
    tensors = Snapshot(trainer.weights.flat, trainer.weights.rest).tensors("")
    tensors |= {f"optimizer.{name}": tensor for name, tensor in trainer.slots.items()}
    for epoch, taken in trainer.snapshots.items():
        tensors |= taken.tensors(f"epoch-{epoch}.")
    average = trainer.average
    if average is not None and average.snapshot is not None:
        tensors |= average.snapshot.tensors("average.")
    scalars = {
        "epoch": trainer.epoch,
        "step": trainer.step,
        "base_lr": trainer.base_lr,
        "done": trainer.done,
        "reason": trainer.reason,
        "watch": trainer.watch.state_dict(),
        "loss_scale": trainer.scale.state_dict() if trainer.scale is not None else None,
        "averaged": average.count if average is not None else 0,
        "snapshots": list(trainer.snapshots),
        "history": [to_line(epoch) for epoch in trainer.history],
        "layout": trainer.weights.layout,
        "aliases": aliases(trainer.model),
        "optimizer": trainer.experiment.train.optimizer.type,
        "data": trainer.dataset.key,
    }
    return State(tensors, scalars)


def load(trainer: Training, state: State) -> None:
    """Put a training where the state was taken. Raises UserError when it is of another page."""
    tensors, scalars = state.tensors, state.scalars
    _take(trainer, state)
    device = trainer.weights.flat.device
    trainer.snapshots = {e: Snapshot.of(tensors, f"epoch-{e}.", device) for e in scalars["snapshots"]}
    trainer.epoch, trainer.step, trainer.base_lr = scalars["epoch"], scalars["step"], scalars["base_lr"]
    trainer.done, trainer.reason = scalars["done"], scalars["reason"]
    trainer.history = [from_line(line) for line in scalars["history"]]
    trainer.watch.load_state_dict(scalars["watch"])
    if trainer.scale is not None and scalars["loss_scale"] is not None:
        trainer.scale.load_state_dict(scalars["loss_scale"])


def adopt(trainer: Training, state: State) -> None:
    """Take over weights and optimizer only. Raises UserError when they are of another shape."""
    _take(trainer, state)
    trainer.step = state.scalars["step"]


def _take(trainer: Training, state: State) -> None:
    _refuse_other(trainer, state)
    trainer.weights.restore(Snapshot.of(state.tensors, ""))
    for name, slot in trainer.slots.items():
        slot.copy_(state.tensors[f"optimizer.{name}"])
    if trainer.average is not None:
        trainer.average.count = state.scalars["averaged"] if "average.weights" in state.tensors else 0
        trainer.average.snapshot = None
        if trainer.average.count:
            trainer.average.snapshot = Snapshot.of(state.tensors, "average.", trainer.weights.flat.device)


def _refuse_other(trainer: Training, state: State) -> None:
    scalars = state.scalars
    differing = {
        "other weights": ([[name, list(shape)] for name, shape in trainer.weights.layout], lists(scalars["layout"])),
        "another optimizer": (trainer.experiment.train.optimizer.type, scalars["optimizer"]),
        "other state of the optimizer": (
            sorted(f"optimizer.{name}" for name in trainer.slots),
            sorted(name for name in state.tensors if name.startswith("optimizer.")),
        ),
        "other data": (trainer.dataset.key, scalars["data"]),
    }
    for what, (here, there) in differing.items():
        if here != there:
            raise UserError(
                f"this training cannot be resumed with this page: its checkpoint has {what}. "
                "Start a new run, or start from its weights with train.from."
            )
