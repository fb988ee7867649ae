"""The layers of a network that another library has made."""

from __future__ import annotations

from torch import nn


def stacked(network: nn.Module, head: nn.Module) -> list[list[nn.Module | nn.Parameter]]:
    """Groups of its weights from the inputs to the head: what is in front of the stack of alike blocks, each block,
    what is behind them, the head. The stack is the list of modules that has most weights."""
    inside = {id(parameter) for parameter in head.parameters()}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in inside]
    stack = max(
        (
            m
            for m in network.modules()
            if isinstance(m, (nn.ModuleList, nn.Sequential)) and len(m) > 1 and m is not head
        ),
        key=_size,
        default=None,
    )
    if stack is None:
        return [[*rest], [head]]
    blocks: list[list[nn.Module | nn.Parameter]] = [[b] for b in stack if any(True for _ in b.parameters())]
    own = {id(parameter) for parameter in stack.parameters()}
    first = next(place for place, parameter in enumerate(rest) if id(parameter) in own)
    behind = [parameter for parameter in rest[first:] if id(parameter) not in own]
    return [[*rest[:first]], *blocks, [*behind], [head]]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
