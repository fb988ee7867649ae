"""A network as a function of its tensors, and gradients of such a function, without what torch.func's own import.

`torch.func.functional_call` imports sympy (0.6 s), `torch.func.grad_and_value` torch._dynamo (1.8 s): the time of a
whole small search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def tensors_of(model: nn.Module, named: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Within, the model computes with these tensors, for all its weights and buffers.

    Yields a dict that holds, when the block has ended, the buffers that the model has then: a model may put new
    tensors in their places.
    """
    own: dict[int, Tensor] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        own[id(tensor)] = named[name]
    after: dict[str, Tensor] = {}
    places: list[tuple[Any, Any, Any]] = []

    def swap(table: Any, keys: Any, depth: int = 0) -> None:
        for key, held in keys:
            if isinstance(held, Tensor) and id(held) in own:
                places.append((table, key, held))
                table[key] = own[id(held)]
            elif isinstance(held, list) and depth < 2:  # a recurrent layer has its weights in a list beside
                swap(held, list(enumerate(held)), depth + 1)
            elif type(held) is dict and depth < 2:
                swap(held, list(held.items()), depth + 1)

    try:
        for module in model.modules():
            swap(module._parameters, list(module._parameters.items()))
            swap(module._buffers, list(module._buffers.items()))
            beside = [(k, v) for k, v in vars(module).items() if k not in ("_parameters", "_buffers", "_modules")]
            swap(vars(module), beside)
        names = {
            name: (module._buffers, own_name)
            for path, module in model.named_modules()
            for own_name in module._buffers
            if (name := f"{path}.{own_name}" if path else own_name) in named
        }
        yield after
        after.update(
            {name: table[own_name] for name, (table, own_name) in names.items() if table[own_name] is not None}
        )
    finally:
        for table, key, held in places:
            table[key] = held


def gradients_of(
    loss: Callable[[Mapping[str, Tensor]], tuple[Tensor, Mapping[str, Tensor]]], leaves: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """Gradients by name, the loss, and what comes beside it: `torch.func.grad_and_value` with has_aux."""
    from torch._functorch.eager_transforms import enable_inplace_requires_grad

    functorch = torch._C._functorch
    with _level() as level:
        with torch.enable_grad():
            wrapped = {name: functorch._wrap_for_grad(leaf, level) for name, leaf in leaves.items()}
            with enable_inplace_requires_grad(True):
                for leaf in wrapped.values():
                    leaf.requires_grad_()
            value, beside = loss(wrapped)
            found = torch.autograd.grad(value, list(wrapped.values()), allow_unused=True)
        gradients = [None if each is None else functorch._unwrap_for_grad(each, level) for each in found]
        unwrapped = {name: functorch._unwrap_for_grad(tensor, level) for name, tensor in beside.items()}
        value = functorch._unwrap_for_grad(value, level)
    plain = {
        name: torch.zeros_like(leaf) if each is None else each
        for (name, leaf), each in zip(leaves.items(), gradients, strict=True)
    }
    return plain, value, unwrapped


def value_of(function: Callable[[Mapping[str, Tensor]], Tensor], leaves: Mapping[str, Tensor]) -> Tensor:
    """A function of named tensors as if its gradient were asked for: recurrent layers are batched only so."""
    functorch = torch._C._functorch
    with _level() as level:
        value = function({name: functorch._wrap_for_grad(leaf, level) for name, leaf in leaves.items()})
        unwrapped: Tensor = functorch._unwrap_for_grad(value, level)
    return unwrapped


@contextmanager
def _level() -> Iterator[int]:
    functorch = torch._C._functorch
    try:
        yield functorch._grad_increment_nesting()
    finally:
        functorch._grad_decrement_nesting()
