"""The number format that a network computes in, and the scale that float16 needs for its gradients.

Weights, gradients and the optimizer's state are float32 whatever the format: torch.autocast lets the layers that gain
from it compute in fewer bits (Micikevicius et al. 2018).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LOWER = {"bfloat16": torch.bfloat16, "float16": torch.float16}  # what autocast is asked for


class LossScale:
    """Keeps gradients within float16's range by a factor on the loss: the rules of torch.amp.GradScaler.

    It begins at 2^16. A step whose gradient is not finite is skipped, and the factor halved; after 2000 steps in a
    row that were taken it is doubled.

    Attributes:
        value: the factor.
        skipped: steps skipped since `told` was asked last.
    """

    GROWTH, BACKOFF, INTERVAL = 2.0, 0.5, 2000

    def __init__(self) -> None:
        self.value = 2.0**16
        self.skipped = 0
        self._good = 0  # steps in a row
        self._before = self.value

    def unscale(self, gradient: Tensor) -> bool:
        """Divide a gradient by the factor, in place → whether it is finite, and its step to be taken."""
        found = torch.zeros(1, device=gradient.device)
        inverse = torch.full((1,), 1 / self.value, device=gradient.device)
        torch._amp_foreach_non_finite_check_and_unscale_([gradient], found, inverse)
        finite = not found.item()
        if not finite:
            self.value *= self.BACKOFF
            self.skipped += 1
            self._good = 0
        else:
            self._good += 1
            if self._good == self.INTERVAL:
                self.value *= self.GROWTH
                self._good = 0
        return finite

    @property
    def exhausted(self) -> bool:
        """Whether the factor is not what makes gradients infinite: a loss that is made smaller gives them too."""
        return self.value < 1

    def told(self) -> str:
        """What happened since it was asked last, in words; empty where nothing did."""
        before, skipped, self._before, self.skipped = self._before, self.skipped, self.value, 0
        if self.value == before and not skipped:
            return ""
        return f"loss scale {before:g} → {self.value:g}" + (f", steps skipped: {skipped}" if skipped else "")

    def state_dict(self) -> dict[str, Any]:
        """Between epochs, when `told` was asked."""
        return {"value": self.value, "good": self._good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = self._before = state["value"]
        self._good, self.skipped = state["good"], 0
