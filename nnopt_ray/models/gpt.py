"""GPT-2: a Transformer that reads a text from left to right and says what comes next."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nnopt_ray.data.types import Shapes
from nnopt_ray.experiment import Beside
from nnopt_ray.models.inputs import masked_is_for_bert, one_text, real_tokens
from nnopt_ray.models.transformer import Attention, Auto, Size

# Radford et al. 2019, table 2: small (GPT-2), medium, large, xl. mini and tiny are the networks for single
# characters of karpathy/nanoGPT (config/train_shakespeare_char.py, and the README's for a CPU).
SIZES: dict[str, Size] = {
    "tiny": Size(4, 128, 4, 512),
    "mini": Size(6, 384, 6, 1536),
    "small": Size(12, 768, 12, 3072),
    "medium": Size(24, 1024, 16, 4096),
    "large": Size(36, 1280, 20, 5120),
    "xl": Size(48, 1600, 25, 6400),
}
PUBLISHED_POSITIONS = 1024


class Layer(nn.Module):
    """Attention to what is before and a feed-forward part, each of the normalised states, added to them.

    float32 [rows, length, width] → the same.
    """

    def __init__(self, size: Size, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(size.width)
        self.attention = Attention(size.width, size.heads, dropout, causal=True)
        self.norm = nn.LayerNorm(size.width)
        self.widen = nn.Linear(size.width, size.feed_forward)
        self.narrow = nn.Linear(size.feed_forward, size.width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        hidden = F.gelu(self.widen(self.norm(x)), approximate="tanh")
        said: Tensor = x + self.dropout(self.narrow(hidden))
        return said


class GPT(nn.Module):
    """Transformer decoder for text (GPT-2, Radford et al. 2019), as published: size small has 124,439,808 weights
    at the published vocabulary of 50,257 tokens, the last layer being the embedding of the tokens once more.

    int64 [rows, length] of tokens. Of the task language_modelling it returns float32 [rows, length, outputs], a logit
    for each token that may come next at each position; else float32 [rows, outputs] from the state of the last token
    that is no padding. Matrices and embeddings start from a normal distribution of deviation 0.02, those that end a
    branch from one of 0.02 / sqrt(2 * depth), biases from 0 (openai/gpt-2, model.py; section 2.3 of the paper).

    Raises UserError when the data is not one text per row, when a text is longer than `positions`, when the heads
    do not divide the width, and for the task masked_language_modelling.

    Keys:
        size: depth, width and heads; small to xl are the published ones, tiny and mini are those of nanoGPT.
        depth: layers; auto is that of the size, as are the next three.
        width: numbers a token.
        heads: heads of attention, among which the width is divided.
        feed_forward: numbers of each layer's hidden layer; auto is four times the width.
        positions: longest text, in tokens; auto is 1024, and in sizes tiny and mini the length of the data's texts.
        dropout: share set to zero while training, of the states, of attention's weights, and before a last layer.
        weights: weights to start from, a file or folder of transformers' GPT-2 or of a run, beside the page.
    """

    lane_keys: ClassVar[tuple[str, ...]] = ("dropout",)  # what lanes of one pack may have each of its own

    def __init__(
        self,
        shapes: Shapes,
        *,
        size: Literal["tiny", "mini", "small", "medium", "large", "xl"] = "tiny",
        depth: Annotated[int, Field(ge=1, le=1024)] | Auto = "auto",
        width: Annotated[int, Field(ge=1, le=65536)] | Auto = "auto",
        heads: Annotated[int, Field(ge=1, le=1024)] | Auto = "auto",
        feed_forward: Annotated[int, Field(ge=1, le=262144)] | Auto = "auto",
        positions: Annotated[int, Field(ge=1, le=1048576)] | Auto = "auto",
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        weights: Annotated[str | None, Beside()] = None,
    ) -> None:
        super().__init__()
        self.public_weights = weights
        if positions == "auto":
            own = size in ("tiny", "mini") and shapes.tokens is not None
            positions = shapes.inputs[0].shape[0] if own else PUBLISHED_POSITIONS
        text = one_text(shapes, "gpt", positions)
        masked_is_for_bert(shapes, "gpt")
        chosen = SIZES[size].changed("gpt", depth, width, heads, feed_forward)
        self.padding = text.padding
        self.tokens = nn.Embedding(text.cardinalities[0], chosen.width)
        self.positions = nn.Embedding(positions, chosen.width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(chosen, dropout) for _ in range(chosen.depth))
        self.norm = nn.LayerNorm(chosen.width)
        self.head = None if shapes.is_language else nn.Linear(chosen.width, shapes.outputs)
        self._start(chosen.depth)

    def _start(self, depth: int) -> None:
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            elif "norm" not in name:
                ends_branch = name.endswith(("attention.out.weight", "narrow.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * depth) ** 0.5 if ends_branch else 0.02)

    def states(self, tokens: Tensor) -> Tensor:
        """int64 [rows, length] → float32 [rows, length, width], the normalised states of the last layer."""
        x = self.dropout(self.tokens(tokens) + self.positions.weight[: tokens.shape[1]])
        for layer in self.layers:
            x = layer(x)
        normalised: Tensor = self.norm(x)
        return normalised

    def forward(self, tokens: Tensor) -> Tensor:
        states = self.states(tokens)
        if self.head is None:
            return F.linear(states, self.tokens.weight)
        last = (real_tokens(tokens, self.padding) - 1)[:, None, None].expand(-1, 1, states.shape[2])
        outputs: Tensor = self.head(self.dropout(states.gather(1, last)[:, 0]))
        return outputs

    @torch.no_grad()
    def sample(
        self,
        prompt: Tensor,
        steps: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Go on with texts, a token at a time, each drawn from the softmax of the logits over `temperature`.

        prompt: int64 [rows, length], length at least 1, without padding. Returns int64 [rows, length + steps]. The
        last `positions` tokens are looked at. temperature: 0 takes the likeliest token. top_k: only so many of the
        likeliest tokens are drawn from. generator: on the device of the prompt. Dropout is off meanwhile.
        Raises ValueError for a model of another task, an empty prompt, a negative temperature, or a top_k below 1.
        """
        if self.head is not None or prompt.dim() != 2 or prompt.shape[1] == 0:
            raise ValueError("sample needs a model of the task language_modelling and a prompt [rows, length >= 1]")
        if temperature < 0 or (top_k is not None and top_k < 1):
            raise ValueError("sample needs a temperature of at least 0 and a top_k of at least 1")
        was_training = self.training
        self.eval()
        try:
            for _ in range(steps):
                seen = prompt[:, -self.positions.num_embeddings :]
                logits = F.linear(self.states(seen)[:, -1], self.tokens.weight)
                if temperature == 0:
                    chosen = logits.argmax(1, keepdim=True)
                else:
                    chosen = _draw(logits / temperature, top_k, generator)
                prompt = torch.cat([prompt, chosen], dim=1)
        finally:
            self.train(was_training)
        return prompt


def _draw(logits: Tensor, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    """float32 [rows, tokens] → int64 [rows, 1], one token a row."""
    if top_k is None or top_k >= logits.shape[1]:
        return torch.multinomial(torch.softmax(logits, dim=1), 1, generator=generator)
    likeliest, tokens = logits.topk(top_k, dim=1)
    return tokens.gather(1, torch.multinomial(torch.softmax(likeliest, dim=1), 1, generator=generator))
