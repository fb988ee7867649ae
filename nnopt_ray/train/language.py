"""What a network says of each position of a text, as three numbers: all that losses and metrics need of its logits.

The logits of a part, [rows, length, vocabulary], seldom fit memory; these do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnopt_ray.data.types import IGNORED

TOLD = ("log_loss", "spread", "token")  # what `told` gives, in this order


def told(outputs: Tensor, target: Tensor) -> Tensor:
    """float32 [rows, length, 3]: of each position what a language task measures.

    outputs: float32 [rows, length, vocabulary] logits; target: int64 [rows, length]. The numbers are -log of the
    probability of the token that is asked for (in nats; 0 where nothing is asked), the mean of -log of the
    probability over the vocabulary (what label smoothing adds), and the most probable token (float32 holds
    whole numbers up to 2^24).
    """
    logs = torch.log_softmax(outputs, dim=-1)
    asked = target != IGNORED
    picked = -logs.gather(-1, target.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    spread = -logs.mean(dim=-1)
    # Where nothing is asked the numbers count for nothing, unless they are none at all.
    picked = torch.where(asked | ~torch.isfinite(spread), picked, torch.zeros_like(picked))
    return torch.stack([picked, spread, outputs.argmax(dim=-1).float()], dim=-1)
