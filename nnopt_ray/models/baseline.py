"""The simple model that every result is compared with."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nnopt_ray.data.types import Shapes
from nnopt_ray.errors import UserError
from nnopt_ray.models.linear import logistic, quiet, ridge
from nnopt_ray.models.mlp import MLP
from nnopt_ray.models.text_baseline import CountedTokens, FollowingTokens

# Beyond 2**27 numbers (1 GiB in float64) the standardised matrix is held in float32.
FLOAT64_NUMBERS = 2**27


class Baseline(nn.Module):
    """A simple model to beat: a constant, a linear model, or a small network.

    Takes one tensor per input and returns float32 [rows, outputs], like every model. `kind` holds the
    kind that was chosen. The constant and the linear kind are not trained by gradients: `fit_directly`
    fits them at once (scikit-learn's LogisticRegression and Ridge with their default penalties on
    standardised columns, images and sequences flattened, categories one-hot), and what was fitted is folded
    into plain weights on the inputs as they are. Of a text the linear kind is that of TF-IDF weighted token
    counts; of a language task it is a table of which token follows which (bigram).

    Keys:
        kind: majority: class shares or the mean; linear: logistic or ridge; mlp: one hidden layer of 64; auto: linear.
    """

    offsets: Tensor

    def __init__(self, shapes: Shapes, *, kind: Literal["auto", "majority", "linear", "mlp"] = "auto") -> None:
        super().__init__()
        self.kind: str = "linear" if kind == "auto" else kind
        self.text: CountedTokens | FollowingTokens | None = None
        if shapes.tokens is not None and (shapes.is_language or self.kind != "majority"):
            if self.kind == "mlp":
                raise UserError("the baseline of kind mlp reads no text. Write kind: auto, or leave it out.")
            if shapes.is_language:
                self.text = FollowingTokens(shapes, pairs=self.kind == "linear")
                self.kind = "bigram" if self.text.pairs else "unigram"
            else:
                self.text = CountedTokens(shapes)
                self.kind = "TF-IDF, linear"
            return
        self._is_codes = tuple(i.kind == "categories" for i in shapes.inputs)
        if any(i.kind == "tokens" for i in shapes.inputs) and self.kind != "majority":
            raise UserError(
                "the baseline reads a text alone, and this data has other inputs beside it. "
                "Write evaluate.baseline: {type: baseline, kind: majority}."
            )
        if self.kind == "mlp":
            self.mlp = MLP(shapes, widths=(64,))
            return
        self.bias = nn.Parameter(torch.zeros(shapes.outputs))
        if self.kind == "linear":
            features = sum(torch.Size(i.shape).numel() for i in shapes.inputs if i.kind != "categories")
            self.weight = nn.Parameter(torch.zeros(shapes.outputs, features)) if features else None
            # A one-hot column times its weights is a row of a table: code → what it adds to each output.
            self.codes = nn.Embedding(sum(shapes.categories), shapes.outputs) if shapes.categories else None
            if self.codes is not None:
                nn.init.zeros_(self.codes.weight)
            offsets = np.cumsum((0, *shapes.categories[:-1])) if shapes.categories else np.zeros(0, np.int64)
            self.register_buffer("offsets", torch.from_numpy(offsets), persistent=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.text is not None:
            told: Tensor = self.text(*inputs)
            return told
        if self.kind == "mlp":
            trained: Tensor = self.mlp(*inputs)
            return trained
        outputs = self.bias.expand(len(inputs[0]), -1)
        if self.kind == "majority":
            return outputs
        numbers = [
            x.reshape(len(x), -1).float() for is_codes, x in zip(self._is_codes, inputs, strict=True) if not is_codes
        ]
        if self.weight is not None:
            outputs = outputs + torch.cat(numbers, dim=1) @ self.weight.T
        if self.codes is not None:
            columns = next(x for is_codes, x in zip(self._is_codes, inputs, strict=True) if is_codes)
            outputs = outputs + self.codes(columns + self.offsets).sum(dim=1)
        return outputs

    def fit_directly(self, inputs: list[np.ndarray], target: np.ndarray, shapes: Shapes, seed: int) -> bool:
        """Fit on the training part without gradients; False for the mlp kind, which needs them.

        inputs: one array per input, [rows, *shape]. target: int64 [rows] class indices, or float32
        [rows, outputs]. The fits draw nothing, so `seed` changes nothing. Weights are set in place.
        """
        if self.text is not None:
            self.text.fit(inputs[0], target)
            return True
        if self.kind == "mlp":
            return False
        bias = _constant(target, shapes)
        if self.kind == "linear" and (shapes.task == "regression" or len(np.unique(target)) > 1):
            numbers = [
                x.reshape(len(x), -1) for is_codes, x in zip(self._is_codes, inputs, strict=True) if not is_codes
            ]
            columns = [x for is_codes, x in zip(self._is_codes, inputs, strict=True) if is_codes]
            weight, bias = _linear(numbers, columns, target, shapes)
            features = 0 if self.weight is None else self.weight.shape[1]
            if self.weight is not None:
                _set(self.weight, weight[:, :features])
            if self.codes is not None:
                _set(self.codes.weight, weight[:, features:].T)
        _set(self.bias, bias)
        return True


def _set(parameter: Tensor, values: np.ndarray) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)))


def _constant(target: np.ndarray, shapes: Shapes) -> np.ndarray:
    """float64 [outputs]: the logarithm of each class's share of the rows, or the mean of each target.

    A class without a row counts as half a row, so that no probability is zero.
    """
    if shapes.task == "regression":
        mean: np.ndarray = np.asarray(target, dtype=np.float64).mean(axis=0)
        return mean
    counts = np.maximum(np.bincount(target, minlength=shapes.outputs).astype(np.float64), 0.5)
    shares: np.ndarray = np.log(counts / counts.sum())
    return shares


def _linear(
    numbers: list[np.ndarray], columns: list[np.ndarray], target: np.ndarray, shapes: Shapes
) -> tuple[np.ndarray, np.ndarray]:
    """Weights float64 [outputs, features + codes] and bias [outputs] on the inputs as they are."""
    matrix, mean, scale = _standardised(numbers, columns, shapes.categories)
    with quiet():
        fit = logistic if shapes.task == "classification" else ridge
        weight, bias = fit(matrix, target, shapes.outputs)
    folded = weight / scale
    return folded, bias - folded @ mean


def _standardised(
    numbers: list[np.ndarray], columns: list[np.ndarray], cardinalities: tuple[int, ...]
) -> tuple[Any, np.ndarray, np.ndarray]:
    """[rows, features + codes] of mean 0 and deviation 1, codes one-hot as they are; mean and scale of each column.

    Dense without categories, else a scipy CSR matrix.
    """
    width = sum(x.shape[1] for x in numbers)
    rows = len((numbers or columns)[0])
    dtype = np.float64 if rows * width <= FLOAT64_NUMBERS else np.float32
    dense = np.concatenate([np.asarray(x, dtype=dtype) for x in numbers], axis=1) if numbers else np.zeros((rows, 0))
    mean = dense.mean(axis=0, dtype=np.float64)
    scale = dense.std(axis=0, dtype=np.float64)
    scale[scale == 0] = 1.0
    dense -= mean.astype(dtype)
    dense /= scale.astype(dtype)
    if not columns:
        return dense, mean, scale
    from scipy import sparse
    from sklearn.preprocessing import OneHotEncoder

    one_hot = OneHotEncoder(categories=[np.arange(n) for n in cardinalities], dtype=dtype).fit_transform(columns[0])
    codes = sum(cardinalities)
    return (
        sparse.hstack([sparse.csr_matrix(dense), one_hot], format="csr"),
        np.concatenate([mean, np.zeros(codes)]),
        np.concatenate([scale, np.ones(codes)]),
    )
