"""Multilayer perceptron for tables, categories and flattened images."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nnopt_ray.data.types import Shapes
from nnopt_ray.models.inputs import numbers_and_codes

Activation = Literal["relu", "gelu", "tanh", "silu"]
Norm = Literal["none", "batch", "layer"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU}
NORMS: dict[str, type[nn.Module]] = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


def embedding_size(cardinality: int) -> int:
    """Numbers that a categorical column of `cardinality` codes is embedded into.

    fastai's rule, found by its authors from experiments on tables: min(600, round(1.6 * n ** 0.56))
    (fastai, `fastai.tabular.model.emb_sz_rule`).
    """
    return min(600, round(1.6 * math.pow(cardinality, 0.56)))


class Hidden(nn.Module):
    """One hidden layer: linear, norm, activation, dropout, and the shortcut around them if asked for.

    float32 [rows, inputs] → float32 [rows, width].
    """

    def __init__(self, inputs: int, width: int, activation: Activation, norm: Norm, dropout: float, residual: bool):
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(inputs, width)]
        if norm != "none":
            layers.append(NORMS[norm](width))
        layers.append(ACTIVATIONS[activation]())
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers)
        self.shortcut: nn.Module | None = None
        if residual:
            self.shortcut = nn.Identity() if inputs == width else nn.Linear(inputs, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y if self.shortcut is None else self.shortcut(x) + y


class MLP(nn.Module):
    """Multilayer perceptron: hidden layers of the given widths, then one linear layer to the outputs.

    All inputs are flattened and joined: float32 [rows, columns] of a table, float32 [rows, channels,
    height, width] of an image, float32 [rows, length, channels] of a sequence, int64 [rows, columns] codes
    through one embedding per column. Returns
    float32 [rows, outputs]. Weights start as torch.nn.Linear and torch.nn.Embedding start them; an
    embedding's unit normal fits numeric columns scaled to unit deviation.

    The shortcut is that of He et al. 2015 (arXiv:1512.03385, option B): identity where a layer keeps
    the width, a linear projection without bias where it changes it.

    Raises UserError for text, and for sequences whose length differs from row to row.

    Keys:
        widths: neurons of each hidden layer, first to last; an empty list gives a linear model.
        activation: non-linearity after each hidden layer.
        norm: normalisation before each activation, over the batch or over the neurons of the layer.
        dropout: share of a hidden layer's neurons set to zero while training.
        residual: add each hidden layer's input to its output.
        embedding_dim: numbers per categorical column; auto follows fastai's rule from the column's cardinality.
    """

    lane_keys: ClassVar[tuple[str, ...]] = ("dropout",)  # what lanes of one pack may have each of its own

    def __init__(
        self,
        shapes: Shapes,
        *,
        widths: Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(max_length=256)] = (64, 64),
        activation: Activation = "relu",
        norm: Norm = "none",
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        residual: bool = False,
        embedding_dim: Annotated[int, Field(ge=1, le=65536)] | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        numbers_and_codes(shapes, "mlp")
        self.embeddings = nn.ModuleList(
            nn.Embedding(cardinality, embedding_size(cardinality) if embedding_dim == "auto" else embedding_dim)
            for cardinality in shapes.categories
        )
        features = sum(torch.Size(i.shape).numel() for i in shapes.inputs if i.kind != "categories")
        features += sum(embedding.embedding_dim for embedding in self.embeddings if isinstance(embedding, nn.Embedding))
        hidden: list[nn.Module] = []
        for width in widths:
            hidden.append(Hidden(features, width, activation, norm, dropout, residual))
            features = width
        self.hidden = nn.Sequential(*hidden)
        self.head = nn.Linear(features, shapes.outputs)
        self._is_codes = tuple(i.kind == "categories" for i in shapes.inputs)

    def forward(self, *inputs: Tensor) -> Tensor:
        columns: list[Tensor] = []
        for is_codes, x in zip(self._is_codes, inputs, strict=True):
            if is_codes:
                columns.extend(embed(x[:, column]) for column, embed in enumerate(self.embeddings))
            else:
                columns.append(x.flatten(1))
        joined = columns[0] if len(columns) == 1 else torch.cat(columns, dim=1)
        outputs: Tensor = self.head(self.hidden(joined))
        return outputs
