"""`train.freeze`: layers that keep the weights they begin with."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from nnopt_ray.errors import UserError
from nnopt_ray.train.layers import layers_of


def freeze(model: nn.Module, first: int | Literal["all_but_head"] | None) -> dict[str, str]:
    """Freeze the first so many layers of a network, or all but its head → {"frozen": what was, in words}, if any.

    Their weights take no gradient. Batch norm in them goes on with the statistics it has, in training too, and keeps
    them (as Keras has it since version 2: a frozen layer runs in inference); their dropout stays as it is.
    Raises UserError when the network has not as many layers and one to train.
    """
    if first is None:
        return {}
    layers = layers_of(model)
    most = len(layers) - 1
    count = most if first == "all_but_head" else first
    if count > most or count < 1:
        few = "one layer, which is its head" if most < 1 else f"{most} layers in front of its head"
        raise UserError(f"train.freeze is {first}, and the network has {few}.")
    frozen = {name for layer in layers[:count] for name in layer}
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    still = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and _is_frozen(module)
    ]
    if still:

        def at_rest(_model: nn.Module, _inputs: Any) -> None:
            for module in still:
                module.training = False

        model.register_forward_pre_hook(at_rest)  # model.train() is called in many places
    numbers = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    whole = sum(p.numel() for p in model.parameters())
    said = f"the first {count} of {len(layers)} layers, {numbers:,} of {whole:,} weights"
    return {"frozen": said + (", whose batch norm keeps its statistics" if still else "")}


def _is_frozen(module: nn.Module) -> bool:
    weights = list(module.parameters(recurse=False))
    return bool(weights) and not any(parameter.requires_grad for parameter in weights)
