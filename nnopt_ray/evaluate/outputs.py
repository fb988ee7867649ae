"""What a model says about rows, and what is true of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from nnopt_ray.data.types import Dataset, Rows
from nnopt_ray.errors import PartError
from nnopt_ray.machine import Machine
from nnopt_ray.train import language
from nnopt_ray.train.precision import LOWER

TOLD_LOGITS = 2**24  # of a language task: logits at a time, 64 MiB


def predict(model: nn.Module, rows: Rows, dataset: Dataset, machine: Machine, batch: int = 1024) -> np.ndarray:
    """What the model says about the rows, in evaluation mode, `batch` rows at a time.

    Classification: logits float32 [rows, outputs]; regression: the user's units, float64 [rows, outputs]; a
    language task: what `train.language.told` makes of the logits, float32 [rows, length, 3].
    Raises PartError when the model returns another shape.
    """
    model = model.to(machine.device)
    training = model.training
    model.eval()
    shapes = dataset.shapes
    length = shapes.inputs[0].shape if shapes.is_language else ()
    outputs: np.ndarray = np.empty((len(rows), shapes.outputs), dtype=np.float32)
    if shapes.is_language:
        outputs = np.empty((len(rows), *length, len(language.TOLD)), dtype=np.float32)
        batch = max(1, min(batch, TOLD_LOGITS // (length[0] * shapes.outputs)))
    lower = LOWER.get(machine.precision)
    try:
        with torch.inference_mode(), torch.autocast(machine.device, lower, enabled=lower is not None):
            for start in range(0, len(rows), batch):
                part = slice(start, start + batch)
                inputs = [torch.from_numpy(_writable(x[part])).to(machine.device) for x in rows.inputs]
                said = model(*inputs)
                expected = (len(inputs[0]), *length, shapes.outputs)
                if tuple(said.shape) != expected:
                    raise PartError(
                        f"the model {type(model).__name__} returned a tensor of shape {tuple(said.shape)} for "
                        f"{expected[0]} rows, and must return {expected}: rows, {'length, ' if length else ''}outputs."
                    )
                if shapes.is_language:
                    target = torch.from_numpy(np.array(rows.target[part])).to(machine.device)
                    said = language.told(said.float(), target)
                    outputs[part] = said.cpu().numpy()
                else:
                    outputs[part] = said.float().cpu().numpy()
    finally:
        model.train(training)
    if shapes.task == "regression":
        return dataset.user_units(outputs.astype(np.float64))
    return outputs


def _writable(rows: np.ndarray) -> np.ndarray:
    """A copy of rows of a read-only memory map, which torch cannot take; of others none, as that took a tenth of the
    time of a small network."""
    return rows if rows.flags.writeable else np.array(rows)


def targets(rows: Rows, dataset: Dataset) -> np.ndarray:
    """int64 [rows] class indices or [rows, length] tokens, or float64 [rows, outputs] in the user's units."""
    if dataset.shapes.task == "regression":
        return dataset.user_units(np.asarray(rows.target, dtype=np.float64))
    return np.asarray(rows.target)
