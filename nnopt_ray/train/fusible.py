"""Whether trainings of a model can be lanes of one step: found by trying it, as a recorded step repeats what it saw.

Recording sees tensors. What a model keeps in Python (a counter, a schedule of its own, a cache), what it draws from
NumPy, and what it takes a number out of a tensor for would stand still in a replay. So a model is watched while it
computes, and a recorded step is held against autograd on rows and weights that it was not recorded with.
"""

from __future__ import annotations

import logging
import random
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nnopt_ray.train import masks
from nnopt_ray.train.functional import tensors_of

if TYPE_CHECKING:
    from nnopt_ray.train.loop import Trainer

# Largest distance between two gradients of the same step, as a share of their length. Measured: below 1e-5 for
# linear, recurrent and attention layers, below 1e-4 for convolutions with batch norm.
SAME = 1e-3

# A number that rounding puts on the other side of a kink (a ReLU's zero) changes a gradient by more: 0.3 % was seen.
KINK = 0.05

# What a model's code raises when it cannot be a lane, or cannot compute at all: alone it says so again.
FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)

LOOKED_AT = 10_000  # objects in one attribute, beyond which they are told apart by their place
LARGE_BYTES = 1 << 20  # arrays in a model's attributes above this are told apart by their place, not their content

# What torch and Python keep in a module for themselves.
OF_TORCH = {"_parameters", "_buffers", "_modules", "training", "_flat_weight_refs"}


class CannotFuse(Exception):
    """Why the trainings of a shape cannot be lanes of one step, as half a sentence."""


def reason(error: Exception) -> str:
    """Half a sentence for what recording raised."""
    told = str(error)
    if "randomness" in told:
        return "it draws random numbers in another way than by dropout"
    if "item()" in told or "data-dependent" in told or "data pointer" in told:
        return "it asks for the number in a tensor (item(), float(), or an if on a tensor)"
    lines = told.strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")


# ── what a model keeps ───────────────────────────────────────────────────────────────────────────────


def observe(model: nn.Module, inputs: Sequence[tuple[Tensor, ...]]) -> None:
    """Let the model compute on these batches, in training and in evaluation.

    Leaves it in training, with its buffers as they were. Raises CannotFuse when it keeps or draws what a recorded
    step would not.
    """
    _refuse_shared(model)
    buffers = dict(model.named_buffers())
    kept = {name: buffer.clone() for name, buffer in buffers.items()}
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    model.train()
    attributes, drawn = _attributes(model), _generators()
    try:
        for batch in inputs:
            model.train()
            masks.sites(lambda batch=batch: model(*batch))  # type: ignore[misc]
            trained = {name: buffer.clone() for name, buffer in model.named_buffers()}
            model.eval()
            if masks.sites(lambda batch=batch: model(*batch)):  # type: ignore[misc]
                raise CannotFuse("its dropout is at work in evaluation too")
            if not _equal(trained, dict(model.named_buffers())):
                raise CannotFuse("its buffers change in evaluation")
    finally:
        model.train()
        put_back(model, buffers, kept)
    if changed := _differing(attributes, _attributes(model)):
        raise CannotFuse(f"its forward changes {changed}, which is neither a weight nor a buffer")
    for name, state in _generators().items():
        if state != drawn[name]:
            raise CannotFuse(f"its forward draws random numbers from {name} in another way than by dropout")
    if not all(torch.equal(p, before) for p, before in zip(model.parameters(), weights, strict=True)):
        raise CannotFuse("its forward changes its own weights")


def put_back(model: nn.Module, buffers: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Give a model these buffers again, with these values, also where it has put others in their places."""
    with torch.no_grad():
        for name, buffer in buffers.items():
            path, _, own = name.rpartition(".")
            model.get_submodule(path)._buffers[own] = buffer
            buffer.copy_(values[name])


def _refuse_shared(model: nn.Module) -> None:
    """A tensor of which each lane needs its own, under two names or in two views, would be two in a lane."""
    buffers = [buffer for _, buffer in model.named_buffers(remove_duplicate=False)]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    places = [tensor.untyped_storage().data_ptr() for tensor in (*buffers, *frozen) if tensor.numel()]
    trained = {p.untyped_storage().data_ptr() for p in model.parameters() if p.requires_grad}
    if len(set(places)) < len(places) or trained & set(places):
        raise CannotFuse("some of its buffers or frozen weights share their memory")


def _equal(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(
        each.shape == two[name].shape and torch.equal(each, two[name]) for name, each in one.items()
    )


def _generators() -> dict[str, object]:
    state = np.random.get_state(legacy=False)
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "NumPy": repr(state["state"] if isinstance(state, dict) else state),
        "Python": random.getstate(),
    }


def _attributes(model: nn.Module) -> dict[str, object]:
    """What stands in a model's attributes, in its classes and in the modules that define them, by name."""
    found: dict[str, object] = {}
    homes: dict[str, Mapping[str, Any]] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in OF_TORCH:
                found[f"the attribute '{f'{path}.' if path else ''}{name}'"] = _token(value, set())
        for each in type(module).__mro__:
            if each.__module__.partition(".")[0] not in ("torch", "nnopt_ray", "builtins"):
                homes[f"'{{}}' of the class {each.__name__}"] = vars(each)
                homes[f"the global '{{}}' of {each.__module__}"] = vars(sys.modules.get(each.__module__)) or {}
    for told, names in homes.items():
        for name, value in list(names.items()):
            if not (name.startswith("__") or isinstance(value, (type, types.ModuleType, types.FunctionType))):
                found[told.format(name)] = _token(value, set())
    return found


def _token(value: Any, seen: set[int]) -> object:
    """Something that compares equal as long as the value has not changed."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return type(value), repr(value)
    if id(value) in seen or len(seen) > LOOKED_AT:
        return id(value)
    seen.add(id(value))
    if isinstance(value, Tensor):
        return id(value), value._version, value.data_ptr()
    if isinstance(value, np.ndarray):
        return id(value), value.tobytes() if value.nbytes <= LARGE_BYTES else None
    if isinstance(value, (np.random.Generator, np.random.RandomState)):
        bits = value.bit_generator if isinstance(value, np.random.Generator) else value
        return repr(bits.state if isinstance(bits, np.random.BitGenerator) else bits.get_state(legacy=False))
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, Mapping):
        return type(value), tuple((_token(k, seen), _token(v, seen)) for k, v in list(value.items()))
    if isinstance(value, (list, tuple)) or type(value).__name__ == "deque":
        return type(value), tuple(_token(each, seen) for each in value)
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(repr(each) for each in value)
    if hasattr(type(value), "__next__"):  # how far an iterator has come cannot be seen: never equal
        return object()
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
        return id(value), tuple(_token(each, seen) for each in cells)
    # A logger keeps what it was asked, and nothing is computed from that.
    if isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType, logging.Logger)):
        return id(value)
    inside = {k: v for k, v in getattr(value, "__dict__", {}).items() if not isinstance(value, nn.Module)}
    return id(value), tuple((k, _token(v, seen)) for k, v in list(inside.items()))


def _differing(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    """What differs first; empty where nothing does."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return names[0] if names else ""


# ── what a step gives ────────────────────────────────────────────────────────────────────────────────


def plain_step(
    model: nn.Module,
    loss: Callable[[Tensor], Tensor],
    leaves: Mapping[str, Tensor],
    rest: Mapping[str, Tensor],
    inputs: tuple[Tensor, ...],
    drops: Sequence[Tensor],
) -> dict[str, Tensor]:
    """Loss, flat gradient [P] and buffers of a step by plain autograd, of a model with these tensors."""
    own = {name: tensor.detach().clone().requires_grad_() for name, tensor in leaves.items()}
    others = {name: tensor.clone() for name, tensor in rest.items()}
    with torch.enable_grad():
        with tensors_of(model, {**own, **others}) as after, masks.fed(drops):
            outputs = model(*inputs)
        value = loss(outputs)
        found = torch.autograd.grad(value, list(own.values()), allow_unused=True)
    if any(buffer.requires_grad for buffer in after.values()):
        raise CannotFuse("gradients reach its buffers")
    flat = [
        (torch.zeros_like(leaf) if each is None else each).reshape(-1)
        for leaf, each in zip(own.values(), found, strict=True)
    ]
    return _told(value, torch.cat(flat), after)


def _told(loss: Tensor, gradient: Tensor, buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {f"buffer '{name}'": buffer.detach().clone() for name, buffer in buffers.items()}
    return {"loss": loss.detach(), "gradient": gradient.detach().clone(), **named}


@dataclass
class Distance:
    """Of two results of a step. what: in which they are farthest apart; share: of its length."""

    what: str
    share: float
    one: Mapping[str, Tensor]

    def judge(self, disturbed: Callable[[], Mapping[str, Tensor]], most: float = KINK) -> None:
        """Raises CannotFuse when it is more than `most` and rounding does not explain it.

        disturbed: gives the result of the step again, from weights of which the last digits are others. Far out
        of balance (weights that diverge, batch norm over two rows), a step enlarges rounding that much itself.
        """
        if self.share > most and self.share > 10 * farthest(disturbed(), self.one).share:
            raise CannotFuse(f"its {self.what}, recorded once and repeated, is not what the model itself gives")


def farthest(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Distance:
    shares = {what: apart(found[what], each) for what, each in expected.items() if what in found}
    what = max(shares, key=lambda each: shares[each])
    return Distance(what, shares[what], expected)


@contextmanager
def alone(
    lane: Trainer,
    inputs: tuple[Tensor, ...],
    target: Tensor,
    mixed: tuple[Tensor, ...],
    drops: Sequence[Tensor],
    buffers: Mapping[str, Tensor],
) -> Iterator[Callable[[float], dict[str, Tensor]]]:
    """Within, a function that takes the first step of a lane's epoch as its training alone would, without descent.

    buffers: as they were before the step. The function's argument is the share by which the weights are off, and
    it returns what `plain_step` does. On a CPU the training draws its own dropout; on a GPU, where it would draw
    other masks than a lane, it is given `drops`. Afterwards gradient, buffers and weights are as before.
    """
    weights, gradient = lane.weights.flat.detach(), lane.weights.gradient
    kept = weights.clone(), gradient.clone()
    live = dict(lane.model.named_buffers())
    after = {name: buffer.clone() for name, buffer in live.items()}

    def step(off: float) -> dict[str, Tensor]:
        put_back(lane.model, live, {name: buffers[name] for name in live})
        weights.copy_(kept[0])
        if off:
            weights.mul_(1 + off * torch.randn_like(weights))
        given = masks.fed(drops) if weights.is_cuda else nullcontext()
        with torch_seeded(lane.noise_seed()), given:
            loss = lane.gradient_of(inputs, target, mixed)
        return _told(loss, gradient, dict(lane.model.named_buffers()))

    try:
        yield step
    except FAULTS as error:
        raise CannotFuse(reason(error)) from error
    finally:
        put_back(lane.model, live, after)
        weights.copy_(kept[0])
        gradient.copy_(kept[1])


def apart(one: Tensor, two: Tensor) -> float:
    """The distance of two tensors as a share of their length; 0 for equal ones, NaN and infinities included."""
    one, two = one.detach().double(), two.detach().double()
    if torch.equal(one.isfinite(), two.isfinite()) and not one.isfinite().all():
        one, two = one.nan_to_num(0.0, 0.0, 0.0), two.nan_to_num(0.0, 0.0, 0.0)
    length = max(float(one.norm()), float(two.norm()))
    return float((one - two).norm()) / length if length else 0.0


@contextmanager
def torch_seeded(seed: int) -> Iterator[None]:
    """Within, torch draws from this seed; afterwards it goes on where it was."""
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
