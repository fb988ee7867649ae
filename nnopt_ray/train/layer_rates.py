"""`train.layer_decay`: a learning rate for each layer, the smaller the farther it is from the head.

The rate of a layer is lr * layer_decay ** (its distance from the head), the head's is lr: the discriminative rates of
ULMFiT (Howard & Ruder 2018, section 3.2, where layer_decay is 1 / 2.6) as BEiT and MAE use them (0.65 to 0.9).
Weights of one layer lie together in the flat tensor, so its update is the optimizer's kernel called once for each.
"""

from __future__ import annotations

import torch
from torch import nn

from nnopt_ray.train.layers import layers_of
from nnopt_ray.train.weights import Layout

Run = tuple[int, int, float]  # first number, the one behind the last, share of the learning rate


def shares(model: nn.Module, decay: float) -> dict[str, float]:
    """Name of each weight → its share of the learning rate."""
    layers = layers_of(model)
    return {name: decay ** (len(layers) - 1 - place) for place, layer in enumerate(layers) for name in layer}


def runs(model: nn.Module, layout: Layout, decay: float) -> list[Run]:
    """The flat weights of a model in pieces of one rate, in order and without gaps."""
    share_of = shares(model, decay)
    found: list[Run] = []
    start = 0
    for name, shape in layout:
        end, share = start + torch.Size(shape).numel(), share_of[name]
        if found and found[-1][2] == share:
            found[-1] = (found[-1][0], end, share)
        else:
            found.append((start, end, share))
        start = end
    return found
