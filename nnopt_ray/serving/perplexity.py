"""What a language model says of texts: how probable it finds each, token by token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnopt_ray.data.frame import Tokens
from nnopt_ray.data.language import blocks
from nnopt_ray.data.table import Table, tidy
from nnopt_ray.data.types import IGNORED, Rows
from nnopt_ray.evaluate.outputs import predict
from nnopt_ray.serving.noticed import Noticed
from nnopt_ray.serving.trained import Trained


def columns(trained: Trained, table: Table, noticed: Noticed, faults: Mapping[int, str]) -> dict[str, Any]:
    """`tokens`, `log_loss` (the mean of -log of the probability of each, in nats) and `perplexity`, exp of it: Arrow
    arrays of all rows, null for a text without tokens.

    Of a text every token but the first is asked for, and its end; longer ones are read in blocks, as in training.
    """
    import pyarrow as pa

    chosen = noticed.chosen(tidy(table), faults)
    frame = trained.preprocessing.frame(chosen, noticed.before)
    tokens = next(feature for feature in frame.features.values() if isinstance(feature, Tokens))
    count = len(tokens.starts) - 1
    made = [blocks(tokens, np.array([row]), masked=False) for row in range(count)]
    inputs, target, of = (np.concatenate([one[at] for one in made]) for at in range(3))
    asked = target != IGNORED
    loss, sizes = np.zeros(count), np.zeros(count, dtype=np.int64)
    if len(inputs):
        said = predict(trained.model, Rows((inputs,), target, of), trained.dataset, trained.machine)
        np.add.at(loss, of, np.where(asked, said[..., 0], 0.0).sum(axis=1, dtype=np.float64))
        np.add.at(sizes, of, asked.sum(axis=1))
    empty = np.diff(tokens.starts) == 0
    empty[list(faults)] = True
    noticed.seen(count, faults, int(empty.sum()))
    mean = loss / np.maximum(sizes, 1)
    with np.errstate(over="ignore"):
        found = {"tokens": sizes, "log_loss": mean, "perplexity": np.exp(mean)}
    return {name: pa.array(values, mask=empty) for name, values in found.items()}


__all__ = ["columns"]
