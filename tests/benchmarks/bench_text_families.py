"""Networks for text and series against the same networks of transformers and torch: steps of training a second.

Both of a pair are trained in this process, on one thread, on the same rows, by the same torch.optim.AdamW, a step of
one after a step of the other; printed are medians and their ratio, and that both have as many weights.

    python tests/benchmarks/bench_text_families.py            # 40 steps of each
    python tests/benchmarks/bench_text_families.py --quick    # 10
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from nnopt_ray import tables
from nnopt_ray.data.types import Input, Shapes, Task

STEPS = 10 if "--quick" in sys.argv else 40
ROWS, LENGTH, CODES = 32, 64, 2000
SERIES = (32, 48, 8)  # rows, steps, channels

Answer = Callable[[], Tensor]


class Reader(nn.Module):
    """torch's own LSTM and a linear layer over its last states."""

    def __init__(self, layers: int, bidirectional: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(SERIES[2], 64, layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(64 * (1 + bidirectional), 5)
        self.directions = 1 + bidirectional

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is None:
            _, (last, _) = self.lstm(x)
        else:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            _, (last, _) = self.lstm(packed)
        return self.head(torch.cat([*last[-self.directions :]], dim=1))


def ours(name: str, task: Task, inputs: tuple[Input, ...], outputs: int, **keys: Any) -> nn.Module:
    model: nn.Module = tables.find("model", name)(Shapes(task, inputs, outputs), **keys)
    return model


def step(model: nn.Module, answer: Answer, target: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model.train()

    def take() -> None:
        optimizer.zero_grad()
        said = answer()
        nn.functional.cross_entropy(said.flatten(0, -2), target.flatten()).backward()
        optimizer.step()

    return take


def contest(title: str, one: nn.Module, said: Answer, two: nn.Module, other: Answer, target: Tensor) -> None:
    weights = [sum(p.numel() for p in model.parameters()) for model in (one, two)]
    takers = [step(one, said, target), step(two, other, target)]
    seconds: list[list[float]] = [[], []]
    for number in range(STEPS + 3):
        for took, take in zip(seconds, takers, strict=True):
            began = time.perf_counter()
            take()
            if number >= 3:
                took.append(time.perf_counter() - began)
    a, b = (1 / statistics.median(took) for took in seconds)
    print(
        f"{title:44} nnopt {a:7.1f} steps/s   other {b:7.1f}   ratio {a / b:4.2f}   "
        f"weights {weights[0]:,} {weights[1]:,}"
    )


def texts() -> None:
    tokens = torch.randint(5, CODES, (ROWS, LENGTH))
    ends = torch.randint(LENGTH // 2, LENGTH + 1, (ROWS, 1))
    padded = tokens.masked_fill(torch.arange(LENGTH) >= ends, 0)
    real = (padded != 0).long()
    text = (Input("tokens", (LENGTH,), (CODES,)),)
    config = transformers.BertConfig(
        vocab_size=CODES,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        num_labels=4,
    )
    for dropout in (0.1, 0.0):
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
        one = ours("bert", "classification", text, 4, size="tiny", dropout=dropout)
        two: Any = transformers.BertForSequenceClassification(config)
        contest(
            f"bert tiny, classification, dropout {dropout}",
            one,
            lambda one=one: one(padded),
            two,
            lambda two=two: two(padded, attention_mask=real).logits,
            torch.randint(4, (ROWS,)),
        )
    for dropout in (0.1, 0.0):
        rates = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
        size = transformers.GPT2Config(
            vocab_size=CODES,
            n_embd=128,
            n_layer=4,
            n_head=4,
            n_positions=LENGTH,
            use_cache=False,
            bos_token_id=0,
            eos_token_id=0,
            **rates,
        )
        one = ours("gpt", "language_modelling", text, CODES, size="tiny", dropout=dropout)
        two = transformers.GPT2LMHeadModel(size)
        contest(
            f"gpt tiny, language modelling, dropout {dropout}",
            one,
            lambda one=one: one(tokens),
            two,
            lambda two=two: two(tokens).logits,
            tokens,
        )


def series() -> None:
    rows, steps, channels = SERIES
    x, lengths = torch.randn(SERIES), torch.randint(steps // 2, steps + 1, (rows,))
    target = torch.randint(5, (rows,))
    inputs = (Input("sequence", (steps, channels)),)
    for layers, bidirectional in ((1, False), (2, True)):
        for given in ((x,), (x, lengths)):
            more = (Input("lengths", ()),) if len(given) == 2 else ()
            one = ours("rnn", "classification", inputs + more, 5, width=64, layers=layers, bidirectional=bidirectional)
            two = Reader(layers, bidirectional)
            contest(
                f"lstm of {layers} layers, {1 + bidirectional} directions, {'of lengths' if more else 'whole rows'}",
                one,
                lambda one=one, given=given: one(*given),
                two,
                lambda two=two, given=given: two(*given),
                target,
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    texts()
    series()
