"""Optimizers of all rows of a block as one step: for a GPU, where a kernel a lane is all launching and no work.

torch's fused kernels take one rate for all tensors, so each lane's keys are a column [lanes, 1] here. The numbers
are those of `optimizers.py` but for rounding. On a CPU, where a fused kernel a row costs less, this is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nnopt_ray.train.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop

if TYPE_CHECKING:
    from nnopt_ray.train.loop import Trainer

Columns = dict[str, Tensor]  # key → float32 [rows, 1]; weight_decay [rows, P] where it leaves weights out
Slots = dict[str, Tensor]  # name → float32 [rows, P]


def sgd(weights: Tensor, gradient: Tensor, slots: Slots, keys: Columns) -> None:
    gradient = gradient.addcmul(keys["weight_decay"], weights)
    # The first gradient enters the momentum without dampening, as does every one where there is no momentum.
    share = torch.where((keys["step"] > 1) & (keys["momentum"] > 0), keys["1-dampening"], 1.0)
    buffer = slots["momentum"].mul_(keys["momentum"]).addcmul_(share, gradient)
    ahead = torch.addcmul(gradient, keys["momentum"], buffer)
    weights.addcmul_(keys["lr"], torch.where(keys["nesterov"] > 0, ahead, buffer), value=-1)


def adam(weights: Tensor, gradient: Tensor, slots: Slots, keys: Columns) -> None:
    _adam(weights, gradient.addcmul(keys["weight_decay"], weights), slots, keys)


def adamw(weights: Tensor, gradient: Tensor, slots: Slots, keys: Columns) -> None:
    weights.mul_(1 - keys["lr"] * keys["weight_decay"])
    _adam(weights, gradient, slots, keys)


def _adam(weights: Tensor, gradient: Tensor, slots: Slots, keys: Columns) -> None:
    mean = slots["mean"].lerp_(gradient, keys["1-beta1"])
    square = slots["square"].mul_(keys["beta2"]).addcmul_(gradient.square(), keys["1-beta2"])
    root = (square.sqrt() / keys["correction2"]).add_(keys["eps"])
    weights.addcdiv_(mean * (keys["lr"] / keys["correction1"]), root, value=-1)


def rmsprop(weights: Tensor, gradient: Tensor, slots: Slots, keys: Columns) -> None:
    gradient = gradient.addcmul(keys["weight_decay"], weights)
    square = slots["square"].mul_(keys["alpha"]).addcmul_(gradient.square(), keys["1-alpha"])
    mean = slots["mean"].lerp_(gradient, keys["1-alpha"])
    root = (square - keys["centered"] * mean.square()).sqrt_().add_(keys["eps"])
    buffer = slots["momentum"].mul_(keys["momentum"]).add_(gradient / root)
    weights.addcmul_(keys["lr"], buffer, value=-1)


Update = Callable[[Tensor, Tensor, Slots, Columns], None]

# optimizer → its step for rows, the keys that are its columns, the slots that it works on.
KINDS: dict[type[Optimizer], tuple[Update, tuple[str, ...], tuple[str, ...]]] = {
    SGD: (sgd, ("momentum", "dampening", "nesterov", "weight_decay"), ("momentum",)),
    Adam: (adam, ("beta1", "beta2", "eps", "weight_decay"), ("mean", "square")),
    AdamW: (adamw, ("beta1", "beta2", "eps", "weight_decay"), ("mean", "square")),
    RMSprop: (rmsprop, ("alpha", "momentum", "eps", "weight_decay", "centered"), ("square", "mean", "momentum")),
}


class _Group:
    """The rows of one optimizer in an epoch."""

    def __init__(self, kind: type[Optimizer], lanes: Sequence[tuple[int, Trainer]], steps: int, device: Any) -> None:
        self.update, keys, self.slots = KINDS[kind]
        self.rows = torch.tensor([slot for slot, _ in lanes], device=device)
        given = {key: [float(getattr(lane.optimizer, key)) for _, lane in lanes] for key in keys}
        # 1 - 0.999 in float32 is 5e-5 off.
        given |= {f"1-{key}": [1 - value for value in values] for key, values in given.items()}
        self.keys = {key: _column(values, device) for key, values in given.items()}
        size = lanes[0][1].weights.flat.numel()
        if any(lane.descent.decaying < size for _, lane in lanes):
            decays = self.keys["weight_decay"].repeat(1, size)
            for row, (_, lane) in zip(decays, lanes, strict=True):
                row[lane.descent.decaying :] = 0.0
            self.keys["weight_decay"] = decays
        told: dict[str, list[list[float]]] = {"lr": [], "step": []}
        told |= {"correction1": [], "correction2": []} if "beta1" in keys else {}
        for number in range(steps):
            told["lr"].append([lane.lr_of(number) for _, lane in lanes])
            told["step"].append([float(lane.step + number + 1) for _, lane in lanes])
            if "beta1" in keys:
                taken = [(lane.optimizer, lane.step + number + 1) for _, lane in lanes]
                told["correction1"].append([1 - o.beta1**step for o, step in taken])  # type: ignore[attr-defined]
                told["correction2"].append([(1 - o.beta2**step) ** 0.5 for o, step in taken])  # type: ignore[attr-defined]
        # For all steps at once, as each copy to a GPU is a wait: [steps, rows, 1].
        self.told = {name: torch.tensor(values, device=device).unsqueeze(2) for name, values in told.items()}

    def columns(self, number: int) -> Columns:
        return {**self.keys, **{name: values[number] for name, values in self.told.items()}}


class VectorOptimizer:
    """Takes the steps of the lanes of a block together.

    flat, gradient: float32 [width, P]. The optimizer state of a lane that is put here lives in rows of this
    object's blocks; its `slots` are views of them.
    """

    def __init__(self, flat: Tensor, gradient: Tensor) -> None:
        self.flat, self.gradient = flat, gradient
        self.slots: Slots = {}
        self._steps = torch.zeros(len(flat), device=flat.device)
        self._lanes: Sequence[tuple[int, Trainer]] = ()
        self._groups: list[_Group] = []

    @staticmethod
    def takes(optimizer: Optimizer) -> bool:
        return type(optimizer) in KINDS

    def put(self, slot: int, lane: Trainer) -> None:
        if not self.takes(lane.optimizer):
            return
        for name in KINDS[type(lane.optimizer)][2]:
            if name not in self.slots:
                self.slots[name] = torch.zeros_like(self.flat)
        for each in self.slots.values():
            each[slot].zero_()
        for name, tensor in lane.slots.items():
            row = self._steps[slot] if name == "step" else self.slots[name][slot]
            lane.slots[name] = row.copy_(tensor)

    def take(self, lane: Trainer) -> None:
        lane.slots = {name: tensor.clone() for name, tensor in lane.slots.items()}

    def begin(self, lanes: Sequence[tuple[int, Trainer]], steps: int) -> None:
        """Before an epoch of so many steps of these lanes and their rows."""
        device = self.flat.device
        self._lanes = lanes
        kinds = dict.fromkeys(type(lane.optimizer) for _, lane in lanes)
        self._groups = [
            _Group(kind, [each for each in lanes if type(each[1].optimizer) is kind], steps, device) for kind in kinds
        ]
        self._rows = torch.tensor([slot for slot, _ in lanes], device=device)
        pages = [lane.experiment.train for _, lane in lanes]
        forms = {form: [page.l1 * (page.l1_form == form) for page in pages] for form in ("subgradient", "proximal")}
        self._l1, self._threshold = (_column(l1, device) if any(l1) else None for l1 in forms.values())
        self._norm = _most([page.clip_norm for page in pages], device)
        self._value = _most([page.clip_value for page in pages], device)

    def descend(self, number: int) -> Tensor:
        """Take step `number` of the epoch by the gradients that are there → their norms, unclipped [lanes]."""
        gradient = self.gradient[self._rows]
        if self._l1 is not None:
            gradient.addcmul_(self._l1, self.flat[self._rows].sign())
        norm: Tensor = torch.linalg.vector_norm(gradient, dim=1)
        if self._norm is not None:
            gradient.mul_((self._norm / (norm.unsqueeze(1) + 1e-6)).clamp_(max=1.0))
        if self._value is not None:
            gradient = torch.clamp(gradient, -self._value, self._value)
        self.gradient[self._rows] = gradient
        for group in self._groups:
            weights, slots = self.flat[group.rows], {name: self.slots[name][group.rows] for name in group.slots}
            group.update(weights, self.gradient[group.rows], slots, group.columns(number))
            self.flat[group.rows] = weights
            for name, rows in slots.items():
                self.slots[name][group.rows] = rows
        if self._threshold is not None:
            rates = _column([lane.lr_of(number) for _, lane in self._lanes], self.flat.device)
            weights = self.flat[self._rows]
            shrunk = (weights.abs() - rates * self._threshold).clamp_(min=0).copysign_(weights)
            self.flat[self._rows] = torch.where(self._threshold > 0, shrunk, weights)
        for _, lane in self._lanes:
            lane.step += 1
            if lane.average is not None:
                lane.average.after_step(lane.weights)
        return norm

    def end(self) -> None:
        """After the last step of an epoch."""
        for _, lane in self._lanes:
            if "step" in lane.slots:
                lane.slots["step"].fill_(lane.step)


def _column(values: Sequence[float], device: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(1)


def _most(values: Sequence[float | None], device: Any) -> Tensor | None:
    """Infinity where a lane has no limit; None where none has one."""
    if all(value is None for value in values):
        return None
    return _column([float("inf") if value is None else value for value in values], device)
