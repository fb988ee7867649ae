"""The loss of a batch compiled by torch.compile: forward pass, loss and their gradient as one program.

Each number of rows is compiled for itself and as a whole, so that which program runs never hangs on what ran before:
a resumed training is the unbroken one to the bit. Dropout draws as it does uncompiled. On a CPU torch needs a C++
compiler for it. Compiling takes from seconds to minutes, also of a small
network. Where it fails the training goes on uncompiled, and says so.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nnopt_ray.train.weights import FlatWeights

LossOf = Callable[..., Tensor]

# torch.compile gives up a function after eight programs. A model that changes what it does step by step (a counter of
# its own) is found out before training begins.
REPEATED = 10


class Compiled:
    """A function of batches to their loss, compiled when `prepare` has tried it.

    Attributes:
        failed: why the function is called as it is, as half a sentence; empty where it is compiled.
    """

    def __init__(self, function: LossOf) -> None:
        self._function = self._chosen = function
        self.failed = ""
        self._tried = False

    def __call__(self, *batch: Any) -> Tensor:
        return self._chosen(*batch)

    def prepare(self, weights: FlatWeights, batches: Sequence[tuple[Any, ...]]) -> None:
        """Compile for these batches, once. Buffers are as before then; gradients are not, nor are generators.

        What the function itself raises is raised here.
        """
        if self._tried:
            return
        self._tried = True
        kept = weights.snapshot()
        self._function(*batches[0], True)
        try:
            compiled = torch.compile(
                _fresh(self._function), fullgraph=True, dynamic=False, options={"fallback_random": True}
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what torch has to say of its own code
                for batch in batches:
                    for _ in range(REPEATED):
                        compiled(*batch).backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:  # all that torch.compile raises
            self.failed = _reason(error)
        else:
            self._chosen = compiled
        weights.restore(kept)


def _fresh(function: LossOf) -> LossOf:
    """The same function with a code of its own.

    torch.compile keeps its programs with the code, of which it makes eight at most; a process trains many networks.
    """
    assert isinstance(function, types.MethodType)
    inner = function.__func__
    assert isinstance(inner, types.FunctionType)
    copy = types.FunctionType(inner.__code__.replace(), inner.__globals__, inner.__name__, inner.__defaults__)
    copy.__kwdefaults__ = inner.__kwdefaults__
    bound: LossOf = types.MethodType(copy, function.__self__)
    return bound


def _reason(error: RuntimeError) -> str:
    told = str(error)
    if "No working C++ compiler" in told:
        return "torch finds no C++ compiler here: install one, such as g++"
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith("raised:"):  # what, stands in the next line
        del lines[0]
    first = lines[0] if lines else type(error).__name__
    return f"torch.compile cannot do it: {first[:200].rstrip('.')}"
