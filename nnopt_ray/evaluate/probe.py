"""What goes on inside a trained network: a few training rows go through it once, watched layer by layer.

Activations are seen where torch computes them, as a module or as a function, so that networks of one's own are measured
like the built-in ones. Nothing is changed: no gradient is left behind, the network stays in evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from nnopt_ray.data.types import CODES, Dataset, Rows
from nnopt_ray.train.batches import Batch
from nnopt_ray.train.losses import Loss

ROWS = 256  # a unit that none of so many rows moves is called dead
ROW_NUMBERS = 2**20  # input numbers in all, beyond which fewer rows serve: 256 of 64 x 64 in grey
NUMBERS_A_TOKEN = 64  # what a token is embedded into, at least
LOGITS_A_NUMBER = 8  # of a language task it is 2^23 logits, 32 MiB
FEWEST_ROWS = 8
SATURATED = 0.99  # share of its largest value beyond which a tanh or sigmoid hardly changes: its slope is below 0.04

RECTIFIERS: tuple[Callable[..., Any], ...] = (
    F.relu, F.relu_, F.relu6, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_
)  # fmt: skip
SQUASHERS: Mapping[Callable[..., Any], str] = {
    torch.tanh: "tanh", Tensor.tanh: "tanh", F.tanh: "tanh",
    torch.sigmoid: "sigmoid", Tensor.sigmoid: "sigmoid", F.sigmoid: "sigmoid",
}  # fmt: skip
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Layer:
    """A layer with weights. `name` is its place in the network, such as hidden.0.layers.0.

    weight, gradient: norms of its weights and of the gradient of the mean loss by them; rms: root mean square of the
    numbers that come out. gradient is NaN for a layer that is frozen or that no gradient reaches.
    """

    name: str
    kind: str
    weight: float
    gradient: float
    rms: float


@dataclass(frozen=True)
class Activation:
    """What comes behind an activation function, after the layer `after`.

    A unit is a channel of a convolution or one number of the last dimension. dead: units that are 0 in every row (and
    at every place or step); saturated: those at an end of a tanh or sigmoid in every row.
    """

    after: str
    function: str
    units: int
    dead: int
    saturated: int


@dataclass(frozen=True)
class Inside:
    """What was seen inside a network. `rows`: how many went through it; loss: their mean loss."""

    rows: int
    loss: float
    layers: tuple[Layer, ...]  # as they came to be used
    activations: tuple[Activation, ...]


def rows_of(dataset: Dataset, rows: Rows) -> int:
    """How many of these rows a look inside takes: fewer of large images, of long texts and of large vocabularies."""
    shapes = dataset.shapes
    numbers = sum(int(np.prod(each.shape)) for each in shapes.inputs if each.kind not in CODES)
    numbers += sum(NUMBERS_A_TOKEN * each.shape[0] for each in shapes.inputs if each.kind == "tokens")
    if shapes.is_language:
        numbers = max(numbers, shapes.inputs[0].shape[0] * shapes.outputs // LOGITS_A_NUMBER)
    return min(len(rows), max(FEWEST_ROWS, min(ROWS, ROW_NUMBERS // max(1, numbers))))


def evenly(rows: int, most: int) -> np.ndarray:
    """int64: at most so many row numbers, spread evenly over all."""
    return np.unique(np.linspace(0, rows - 1, min(rows, most)).round().astype(np.int64))


def batches_of(dataset: Dataset, rows: Rows, device: str, batch_size: int) -> list[Batch]:
    """Some of the rows, evenly spread, on the device, in batches that are no larger than training's."""
    chosen = evenly(len(rows), rows_of(dataset, rows))
    found = []
    for part in np.array_split(chosen, -(-len(chosen) // batch_size)):
        inputs = tuple(torch.from_numpy(np.asarray(array)[part]).to(device) for array in rows.inputs)
        found.append((inputs, torch.from_numpy(np.asarray(rows.target)[part]).to(device)))
    return found


def look_inside(model: nn.Module, loss: Loss, batches: Sequence[Batch]) -> Inside:
    """Put some rows through a network forwards and backwards and measure each layer on the way.

    batches: as training gives them, on the network's device. The network is in evaluation meanwhile, so that dropout
    silences no unit; it is put back as it was.
    """
    training = model.training
    model.eval()
    weights = {name: each for name, each in model.named_parameters() if each.ndim > 1}
    learned = {name: each for name, each in weights.items() if each.requires_grad}
    watching = _Watching(model)
    gradients: dict[str, Tensor] = {}
    total = counted = 0.0
    try:
        for inputs, target in batches:
            # cuDNN computes no gradient of a recurrent layer in evaluation.
            with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False), watching.hooked(), watching:
                outputs = model(*inputs)
            found, weight = loss(outputs.float(), target), float(loss.weight(target))
            total, counted = total + float(found.detach()) * weight, counted + weight
            if not learned or not found.requires_grad:
                continue
            for name, slope in zip(
                learned, torch.autograd.grad(found, list(learned.values()), allow_unused=True), strict=True
            ):
                if slope is not None:
                    gradients[name] = gradients.get(name, torch.zeros_like(slope)) + weight * slope
        rows = sum(len(target) for _, target in batches)
        means = {name: slope / counted for name, slope in gradients.items()}
        return Inside(rows, total / counted, watching.layers(weights, means), watching.activations())
    finally:
        model.train(training)


class _Watching(TorchFunctionMode):
    """Sees every activation function that a network calls, and what comes out of its layers with weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = {module: name for name, module in model.named_modules() if _own_weights(module)}
        self._kinds = {name: type(module).__name__ for module, name in self._names.items()}
        self._last: tuple[str, bool] = ("", False)  # the layer that spoke last, and whether it is a convolution
        self._squares: dict[str, list[Tensor]] = {}  # layer → mean squares of what came out, a call each
        self._silent: dict[tuple[str, str], Tensor] = {}  # (layer, function) → bool [units]: never moved
        self._full: dict[tuple[str, str], Tensor] = {}

    @contextmanager
    def hooked(self) -> Iterator[None]:
        handles = [module.register_forward_hook(self._came_out) for module in self._names]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _came_out(self, module: nn.Module, _inputs: Any, outputs: Any) -> None:
        name = self._names[module]
        said = outputs[0] if isinstance(outputs, tuple) else outputs
        if isinstance(said, Tensor) and said.is_floating_point() and said.numel():
            self._squares.setdefault(name, []).append(said.detach().float().square().mean())
        if not isinstance(module, nn.modules.batchnorm._NormBase | nn.LayerNorm):
            self._last = name, isinstance(module, CONVOLUTIONS)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        # torch's ReLU6 is a hard tanh from 0 to 6.
        clipped = func is F.hardtanh and (kwargs or {}).get("min_val", args[1] if len(args) > 1 else -1.0) == 0
        if clipped or func in RECTIFIERS or func in SQUASHERS:
            self._activated(SQUASHERS.get(func, "relu"), out.detach())
        return out

    def _activated(self, function: str, out: Tensor) -> None:
        if out.ndim < 2 or not out.numel():
            return
        by_unit = out.movedim(1, -1) if out.ndim > 2 and self._last[1] else out
        by_unit = by_unit.flatten(0, -2)
        key = self._last[0], function
        if function == "relu":
            _both(self._silent, key, (by_unit <= 0).all(dim=0))
        else:
            high = by_unit > SATURATED
            low = by_unit < (-SATURATED if function == "tanh" else 1 - SATURATED)
            _both(self._full, key, high.all(dim=0) | low.all(dim=0))

    def layers(self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> tuple[Layer, ...]:
        found = []
        for name, squares in self._squares.items():
            own = [each for each in weights if each.rpartition(".")[0] == name]
            if own:
                known = [gradients[each] for each in own if each in gradients]
                found.append(
                    Layer(
                        name,
                        self._kinds[name],
                        _norm([weights[each] for each in own]),
                        _norm(known) if known else float("nan"),
                        float(torch.stack(squares).mean().sqrt()),
                    )
                )
        return tuple(found)

    def activations(self) -> tuple[Activation, ...]:
        def count(flags: Tensor | None) -> int:
            return int(flags.sum()) if flags is not None else 0

        return tuple(
            Activation(key[0], key[1], len(flags), count(self._silent.get(key)), count(self._full.get(key)))
            for key, flags in {**self._silent, **self._full}.items()
        )


def _own_weights(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _both(flags: dict[tuple[str, str], Tensor], key: tuple[str, str], now: Tensor) -> None:
    """A function that is called again behind the same layer, as in a recurrent network, joins what it said before."""
    before = flags.get(key)
    flags[key] = now if before is None or before.shape != now.shape else before & now


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.stack([each.detach().float().square().sum() for each in tensors]).sum().sqrt())


def moved(model: nn.Module, fresh: nn.Module) -> float:
    """How far a network's weights are from their first values, as a share of their norm then; NaN without weights."""
    first = {name: each for name, each in fresh.named_parameters() if each.ndim > 1}
    pairs = [(each, first[name]) for name, each in model.named_parameters() if name in first]
    if not pairs:
        return float("nan")
    way = _norm([now.to("cpu") - then.to("cpu") for now, then in pairs])
    return way / max(_norm([then for _, then in pairs]), 1e-12)


__all__ = ["Activation", "Inside", "Layer", "batches_of", "evenly", "look_inside", "moved", "rows_of"]
