"""Recurrent networks: plain, LSTM and GRU cells, for series, text, and images read row by row."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nnopt_ray.data.types import Shapes
from nnopt_ray.errors import UserError
from nnopt_ray.models.inputs import kinds, masked_is_for_bert, real_tokens

Cell = Literal["rnn", "lstm", "gru"]
Pooling = Literal["last", "mean", "max", "attention"]

# On a GPU cuDNN copies the weights of each step together, as they lie in the training's own memory, and warns of it.
warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk of memory")

CELLS: dict[Cell, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def _cell(cell: Cell, inputs: int, width: int) -> nn.RNNBase:
    """One layer in one direction, float32 [rows, steps, inputs] → [rows, steps, width].

    The kernels of torch.nn, a layer and a direction each: a step of training takes what the whole stack takes as
    one call (0.9 to 1.1 times in most runs of a noisy machine), and dropout between layers and the end of each
    row stay in our hands. On one core oneDNN's LSTM takes 0.5 to 0.6 of a loop over steps in Python; packed
    sequences take 2 to 5 times as long as padded ones.
    """
    layer = CELLS[cell](inputs, width, batch_first=True)
    for name, weight in layer.named_parameters():
        for gate in range(len(weight) // width):
            part = weight.detach()[gate * width : (gate + 1) * width]
            if name.startswith("weight_ih"):
                nn.init.xavier_uniform_(part)
            elif name.startswith("weight_hh"):
                nn.init.orthogonal_(part)
            else:
                nn.init.constant_(part, float(cell == "lstm" and gate == 1 and name.startswith("bias_ih")))
    return layer


def reversed_rows(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Each row's steps from last to first; the padding behind them stays where it is.

    x: float32 [rows, steps, numbers]; lengths: int64 [rows], None where all rows have all steps.
    """
    if lengths is None:
        return x.flip(1)
    step = torch.arange(x.shape[1], device=x.device)
    last = lengths[:, None] - 1
    place = torch.where(step <= last, last - step, step)
    return x.gather(1, place[:, :, None].expand(-1, -1, x.shape[2]))


class Recurrent(nn.Module):
    """Layers of one kind of cell, in one direction or both.

    float32 [rows, steps, inputs] → float32 [rows, steps, width * directions], forward first. What stands at a real
    step depends on the real steps of its row alone: padding lies behind them, and the backward direction is given
    each row reversed within its length.
    """

    def __init__(self, cell: Cell, inputs: int, width: int, layers: int, bidirectional: bool, dropout: float) -> None:
        super().__init__()
        sizes = [inputs] + [width * (1 + bidirectional)] * (layers - 1)
        self.forwards = nn.ModuleList(_cell(cell, size, width) for size in sizes)
        self.backwards = nn.ModuleList(_cell(cell, size, width) for size in sizes) if bidirectional else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        for number, layer in enumerate(self.forwards):
            if number > 0:
                x = self.dropout(x)
            said = layer(x)[0]
            if self.backwards is not None:
                back = self.backwards[number](reversed_rows(x, lengths))[0]
                said = torch.cat([said, reversed_rows(back, lengths)], dim=2)
            x = said
        return x


class Pool(nn.Module):
    """One vector of all real steps of a row: float32 [rows, steps, states] → float32 [rows, states].

    "last" is the final state of each direction: the last real step of the forward half, the first step of the
    backward half.
    """

    def __init__(self, how: Pooling, states: int, bidirectional: bool) -> None:
        super().__init__()
        self.how = how
        self.forward_states = states // 2 if bidirectional else states
        if how == "attention":
            self.hidden = nn.Linear(states, states)
            self.score = nn.Linear(states, 1, bias=False)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        if self.how == "last":
            ahead, back = x[:, :, : self.forward_states], x[:, 0, self.forward_states :]
            if lengths is None:
                return torch.cat([ahead[:, -1], back], dim=1)
            last = (lengths - 1)[:, None, None].expand(-1, 1, self.forward_states)
            return torch.cat([ahead.gather(1, last)[:, 0], back], dim=1)
        padded = None
        if lengths is not None:
            padded = (torch.arange(x.shape[1], device=x.device) >= lengths[:, None])[:, :, None]
        if self.how == "mean":
            if padded is None or lengths is None:
                return x.mean(1)
            return x.masked_fill(padded, 0.0).sum(1) / lengths[:, None]
        if self.how == "max":
            return (x if padded is None else x.masked_fill(padded, -math.inf)).amax(1)
        scores: Tensor = self.score(torch.tanh(self.hidden(x)))
        if padded is not None:
            scores = scores.masked_fill(padded, -math.inf)
        return (torch.softmax(scores, dim=1) * x).sum(1)


class RNN(nn.Module):
    """Recurrent network for series, text, and images: plain (Elman), LSTM or GRU cells.

    Reads float32 [rows, length, channels] of series, with int64 [rows] lengths where rows differ; int64
    [rows, length] of text, through an embedding of `width` numbers a token, up to the last that is no padding; or
    float32 [rows, channels, height, width] of an image as `height` steps of channels * width numbers. A row says the
    same whatever padding is behind it. Returns float32 [rows, outputs]; of the task language_modelling, a logit
    for each token that may come next at each position, float32 [rows, length, outputs].

    Cells compute as torch.nn.LSTM, GRU and RNN (tanh) do. Input weights start uniform (Glorot & Bengio 2010) and
    recurrent ones orthogonal (Saxe et al. 2014, arXiv:1312.6120), each gate for itself; biases start at 0, and at 1
    for the forget gate of an LSTM (Jozefowicz et al. 2015; Keras does so too). Attention pooling is that of Yang et
    al. 2016 ("Hierarchical Attention Networks", equations 5 to 7).

    Raises UserError when the data is neither a series, nor text, nor an image, and for a language task that it
    cannot do: in both directions it would see the token that it is to predict.

    Keys:
        cell: what computes a step.
        width: numbers of a layer's state, in each direction.
        layers: layers, one above the other.
        bidirectional: read each row from its end too, and join both.
        dropout: share of the numbers between layers, and before the last layer, set to zero while training.
        pooling: what the answer is read from, the final state, or all steps' mean, maximum or weighted mean.
    """

    lane_keys: ClassVar[tuple[str, ...]] = ("dropout",)  # what lanes of one pack may have each of its own

    def __init__(
        self,
        shapes: Shapes,
        *,
        cell: Cell = "lstm",
        width: Annotated[int, Field(ge=1, le=65536)] = 64,
        layers: Annotated[int, Field(ge=1, le=64)] = 1,
        bidirectional: bool = False,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        pooling: Pooling = "last",
    ) -> None:
        super().__init__()
        numbers = _numbers_a_step(shapes, width, bidirectional)
        self.tokens: nn.Embedding | None = None
        self.padding = 0
        if shapes.tokens is not None:
            self.tokens = nn.Embedding(shapes.tokens.cardinalities[0], width)
            self.padding = shapes.tokens.padding
        self.recurrent = Recurrent(cell, numbers, width, layers, bidirectional, dropout)
        states = width * (1 + bidirectional)
        self.pool = None if shapes.is_language else Pool(pooling, states, bidirectional)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(states, shapes.outputs)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if self.tokens is not None:
            if self.pool is not None:  # what comes behind a text changes no position of a language task
                lengths = real_tokens(x, self.padding)
            x = self.tokens(x)
        elif x.dim() == 4:
            x = x.transpose(1, 2).flatten(2)
        states = self.recurrent(x, lengths)
        if self.pool is not None:
            states = self.pool(states, lengths)
        outputs: Tensor = self.head(self.dropout(states))
        return outputs


def _numbers_a_step(shapes: Shapes, width: int, bidirectional: bool) -> int:
    """Numbers that a step brings. Raises UserError for data and tasks that a recurrent network cannot have."""
    masked_is_for_bert(shapes, "rnn")
    alone = len(shapes.inputs) == 1
    has_lengths = len(shapes.inputs) == 2 and shapes.inputs[1].kind == "lengths"
    if shapes.tokens is not None:
        if shapes.is_language and bidirectional:
            raise UserError(
                "model rnn in both directions would see the next token, which the task language_modelling asks for. "
                "Set bidirectional: false."
            )
        return width
    if shapes.is_language:
        raise UserError(
            f"model rnn does the task {shapes.task} on text alone, and this data has {kinds(shapes)} input. "
            "Use a source of text."
        )
    if shapes.sequence is not None and (alone or has_lengths):
        return shapes.sequence[1]
    if shapes.image is not None and alone:
        return shapes.image[0] * shapes.image[2]
    raise UserError(
        f"model rnn takes a sequence, a text or an image per row, and this data has {kinds(shapes)} input. "
        "Use model mlp, or a source of series, text or images."
    )
