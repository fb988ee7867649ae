"""BERT: a Transformer that reads a text from both sides, for one answer per text or for hidden tokens."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nnopt_ray.data.types import Shapes
from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Beside
from nnopt_ray.models.inputs import one_text
from nnopt_ray.models.transformer import Attention, Auto, Size

# Devlin et al. 2019 (arXiv:1810.04805), base and large; Turc et al. 2019 (arXiv:1908.08962), table 1, the others.
SIZES: dict[str, Size] = {
    "tiny": Size(2, 128, 2, 512),
    "mini": Size(4, 256, 4, 1024),
    "small": Size(4, 512, 8, 2048),
    "medium": Size(8, 512, 8, 2048),
    "base": Size(12, 768, 12, 3072),
    "large": Size(24, 1024, 16, 4096),
}
TYPES = 2  # of tokens: first and second text of a pair; here all are of the first
EPSILON = 1e-12  # of the published layer norms


class Layer(nn.Module):
    """Attention and a feed-forward part, each added to what it was given and normalised after that.

    float32 [rows, length, width] → the same. mask: as that of Attention.
    """

    def __init__(self, size: Size, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(size.width, size.heads, dropout)
        self.attention_norm = nn.LayerNorm(size.width, EPSILON)
        self.widen = nn.Linear(size.width, size.feed_forward)
        self.narrow = nn.Linear(size.feed_forward, size.width)
        self.norm = nn.LayerNorm(size.width, EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, mask)))
        said: Tensor = self.norm(x + self.dropout(self.narrow(F.gelu(self.widen(x)))))
        return said


class Masked(nn.Module):
    """A logit for each token at each position: the states transformed, and the embedding of the tokens once more.

    float32 [rows, length, width], embedding [tokens, width] → float32 [rows, length, tokens].
    """

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.transform = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, EPSILON)
        self.bias = nn.Parameter(torch.zeros(tokens))

    def forward(self, states: Tensor, embedding: Tensor) -> Tensor:
        return F.linear(self.norm(F.gelu(self.transform(states))), embedding, self.bias)


class BERT(nn.Module):
    """Transformer encoder for text (Devlin et al. 2019, arXiv:1810.04805), as published: size base with its pooler
    has 109,482,240 weights at the published vocabulary of 30,522 tokens.

    int64 [rows, length] of tokens. Returns float32 [rows, outputs] from the first token's state through the pooler,
    dropout and a linear layer; of the task masked_language_modelling float32 [rows, length, outputs], a logit for
    each token that may have been at each position, through a transform and the embedding of the tokens once more.
    Padding is not looked at. Matrices and embeddings start from a normal distribution of deviation 0.02 that is cut
    at two deviations, biases from 0 (google-research/bert, modeling.py).

    Raises UserError when the data is not one text per row, when a text is longer than `positions`, when the heads
    do not divide the width, and for the task language_modelling, whose answer it would see.

    Keys:
        size: depth, width, heads and feed_forward, as published (Turc et al. 2019, arXiv:1908.08962).
        depth: layers; auto is that of the size, as are the next three.
        width: numbers a token.
        heads: heads of attention, among which the width is divided.
        feed_forward: numbers of each layer's hidden layer; auto is four times the width.
        positions: longest text, in tokens, that the network has position embeddings for.
        dropout: share set to zero while training, of the states, of attention's weights, and before the last layer.
        weights: weights to start from, a file or folder of transformers' BERT or of a run, beside the page.
    """

    lane_keys: ClassVar[tuple[str, ...]] = ("dropout",)  # what lanes of one pack may have each of its own

    def __init__(
        self,
        shapes: Shapes,
        *,
        size: Literal["tiny", "mini", "small", "medium", "base", "large"] = "tiny",
        depth: Annotated[int, Field(ge=1, le=1024)] | Auto = "auto",
        width: Annotated[int, Field(ge=1, le=65536)] | Auto = "auto",
        heads: Annotated[int, Field(ge=1, le=1024)] | Auto = "auto",
        feed_forward: Annotated[int, Field(ge=1, le=262144)] | Auto = "auto",
        positions: Annotated[int, Field(ge=1, le=1048576)] = 512,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        weights: Annotated[str | None, Beside()] = None,
    ) -> None:
        super().__init__()
        self.public_weights = weights
        text = one_text(shapes, "bert", positions)
        if shapes.task == "language_modelling":
            raise UserError(
                "model bert sees the whole text, and so the next token, which the task language_modelling asks for. "
                "Use model gpt, or the task masked_language_modelling."
            )
        chosen = SIZES[size].changed("bert", depth, width, heads, feed_forward)
        self.padding = text.padding
        self.tokens = nn.Embedding(text.cardinalities[0], chosen.width)
        self.positions = nn.Embedding(positions, chosen.width)
        self.types = nn.Embedding(TYPES, chosen.width)
        self.norm = nn.LayerNorm(chosen.width, EPSILON)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(chosen, dropout) for _ in range(chosen.depth))
        self.masked: Masked | None = None
        if shapes.is_language:
            self.masked = Masked(chosen.width, shapes.outputs)
        else:
            self.pooler = nn.Linear(chosen.width, chosen.width)
            self.head = nn.Linear(chosen.width, shapes.outputs)
        self.apply(_start)

    def states(self, tokens: Tensor) -> Tensor:
        """int64 [rows, length] → float32 [rows, length, width], the last layer's states."""
        length = tokens.shape[1]
        embedded = self.tokens(tokens) + self.positions.weight[:length] + self.types.weight[0]
        x: Tensor = self.dropout(self.norm(embedded))
        # A row of padding alone looks at its first token, as a softmax over nothing is no number.
        first = torch.arange(length, device=tokens.device) == 0
        mask = ((tokens != self.padding) | first)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        return x

    def forward(self, tokens: Tensor) -> Tensor:
        states = self.states(tokens)
        outputs: Tensor
        if self.masked is not None:
            outputs = self.masked(states, self.tokens.weight)
        else:
            outputs = self.head(self.dropout(torch.tanh(self.pooler(states[:, 0]))))
        return outputs


def _start(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
