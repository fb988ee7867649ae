"""Models that know their own way to their weights, as a least squares fit does: `fit_directly` in place of steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from nnopt_ray.data.types import Dataset
from nnopt_ray.machine import derived_seed


def fit_directly(model: nn.Module, dataset: Dataset, seed: int) -> bool:
    """Let a model go its own way on the training part, on the CPU → whether it has one and took it."""
    fit: Callable[..., bool] | None = getattr(model, "fit_directly", None)
    if fit is None:
        return False
    rows, drawn = dataset.train, derived_seed(seed, "weights") % 2**32  # as much as scikit-learn takes
    with torch.no_grad():
        return bool(fit([np.asarray(a) for a in rows.inputs], np.asarray(rows.target), dataset.shapes, drawn))
