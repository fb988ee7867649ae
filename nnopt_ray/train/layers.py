"""The layers of a network from its inputs to its head: what is frozen, and what learns more slowly, is told by them.

A model may say them itself: `layer_groups()` returns a list of lists of modules or weights, inputs first, the head
last; what it leaves out belongs to the first. Otherwise they are its direct children in the order of their definition,
the members of an nn.Sequential or nn.ModuleList one by one. Embeddings and weights of the model itself (a class token,
say) are the first layer together, and a norm belongs to the layer in front of it, as in BEiT (Bao et al. 2022).
The head is the attribute `head`, else the last layer.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from nnopt_ray.train.weights import NORMS


def layers_of(model: nn.Module) -> list[list[str]]:
    """Names of all weights, a list a layer, inputs first, the head last; no layer is empty. [] without weights."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = _told(model) if hasattr(model, "layer_groups") else _found(model)
    layers: list[list[str]] = []
    taken: set[int] = set()
    for modules in groups:
        every = [p for each in modules for p in (each.parameters() if isinstance(each, nn.Module) else (each,))]
        own = [each for each in dict.fromkeys(id(p) for p in every) if each not in taken]
        taken.update(own)
        if own:
            layers.append([names[each] for each in own])
    left = [name for each, name in names.items() if each not in taken]
    if left:
        layers[:1] = [[*left, *(layers[0] if layers else [])]]
    return layers


def _told(model: nn.Module) -> list[list[nn.Module | nn.Parameter]]:
    told = model.layer_groups()  # type: ignore[operator]
    return [list(group) for group in told]


def _found(model: nn.Module) -> list[list[nn.Module | nn.Parameter]]:
    head = getattr(model, "head", None)
    first: list[nn.Module | nn.Parameter] = []
    layers = [first]
    for module in _members(model):
        if module is head or not any(True for _ in module.parameters()):
            continue
        if isinstance(module, nn.Embedding) and len(layers) == 1:
            first.append(module)
        elif isinstance(module, NORMS):
            layers[-1].append(module)
        else:
            layers.append([module])
    if isinstance(head, nn.Module):
        layers.append([head])
    # Weights before the first layer proper, where there are no embeddings, are that layer's.
    return layers if first else layers[1:]


def _members(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
            yield from _members(child)
        else:
            yield child
