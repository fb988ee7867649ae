"""Networks for the tests of lanes: of every family, and such as a recorded step would get wrong."""

from __future__ import annotations

import itertools
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import dropout as dropped

from nnopt_ray.data.types import Dataset, DataSummary, Input, Rows, Shapes

Rate = Annotated[float, Field(ge=0, le=1)]


class Own(nn.Module):
    """A layer before and a layer behind; what is between is the network's own."""

    lane_keys: ClassVar[tuple[str, ...]] = ("dropout",)

    def __init__(self, shapes: Shapes, *, dropout: Rate = 0.0) -> None:
        super().__init__()
        self.first = nn.Linear(shapes.features, 12)
        self.last = nn.Linear(12, shapes.outputs)
        self.rate = dropout

    def between(self, x: Tensor) -> Tensor:
        return torch.relu(x)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.between(self.first(x.flatten(1))))
        return out


# ── of every family ──────────────────────────────────────────────────────────────────────────────────


class Conv(nn.Module):
    lane_keys: ClassVar[tuple[str, ...]] = ("dropout",)

    def __init__(self, shapes: Shapes, *, channels: int = 4, dropout: Rate = 0.0, norm: bool = False) -> None:
        super().__init__()
        assert shapes.image is not None
        self.one = nn.Conv2d(shapes.image[0], channels, 3, padding=1)
        self.two = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=not norm)
        self.norm = nn.BatchNorm2d(2 * channels) if norm else nn.Identity()
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout2d(dropout)
        _, height, width = shapes.image
        pixels = ((height + 1) // 2 // 2) * ((width + 1) // 2 // 2)
        self.out = nn.Linear(2 * channels * pixels, shapes.outputs)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(self.pool(torch.relu(self.norm(self.two(torch.relu(self.one(x)))))))
        out: Tensor = self.out(hidden.flatten(1))
        return out


class Recurrent(nn.Module):
    def __init__(self, shapes: Shapes, *, kind: Literal["RNN", "GRU", "LSTM"] = "GRU", layers: int = 1) -> None:
        super().__init__()
        self.layer = getattr(nn, kind)(2, 8, num_layers=layers, batch_first=True)
        self.out = nn.Linear(8, shapes.outputs)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.layer(x.flatten(1).unflatten(1, (-1, 2)))
        out: Tensor = self.out(hidden[:, -1])
        return out


class Attention(nn.Module):
    lane_keys: ClassVar[tuple[str, ...]] = ("dropout",)

    def __init__(
        self,
        shapes: Shapes,
        *,
        kind: Literal["layer", "heads", "weights", "function"] = "layer",
        dropout: Rate = 0.0,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.kind, self.rate, self.causal = kind, dropout, causal
        self.first = nn.Linear(2, 8)
        if kind == "layer":
            self.attention: nn.Module = nn.TransformerEncoderLayer(8, 2, 16, dropout, batch_first=True)
        elif kind != "function":
            self.attention = nn.MultiheadAttention(8, 2, dropout, batch_first=True)
        self.out = nn.Linear(8, shapes.outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.flatten(1).unflatten(1, (-1, 2)))
        if self.kind == "layer":
            h = self.attention(h)
        elif self.kind == "function":
            rate = self.rate if self.training else 0.0
            h = h + F.scaled_dot_product_attention(h, h, h, dropout_p=rate, is_causal=self.causal)
        else:
            h = h + self.attention(h, h, h, need_weights=self.kind == "weights")[0]
        out: Tensor = self.out(h.mean(1))
        return out


class Tied(Own):
    """One weight at two places, and one that is frozen."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.one, self.two = nn.Linear(12, 12), nn.Linear(12, 12)
        self.two.weight = self.one.weight
        self.two.bias.requires_grad_(False)

    def between(self, x: Tensor) -> Tensor:
        return torch.tanh(self.two(torch.relu(self.one(x))))


class Functional(Own):
    """Dropout by a name of its own, in place too, on what lies otherwise in memory, at rate 1 too."""

    def between(self, x: Tensor) -> Tensor:
        x = dropped(torch.relu(x), self.rate, self.training)
        x = torch.dropout(x.t(), self.rate, self.training).t()
        y = x * 1.0
        F.dropout(y, self.rate, self.training, inplace=True)
        return y + x + 0.0 * F.dropout(x, 1.0, self.training)


class Renewed(Own):
    """Puts a new tensor in the place of its buffer at each step."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.register_buffer("level", torch.zeros(12))

    def between(self, x: Tensor) -> Tensor:
        if self.training:
            self.level = 0.9 * self.level + 0.1 * x.detach().mean(0)
        return torch.relu(x - self.level)


class Listed(Own):
    """Its weights stand in a plain list beside."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.scale = nn.Parameter(torch.ones(12))
        self.all = [self.scale]

    def between(self, x: Tensor) -> Tensor:
        return torch.relu(x) * self.all[0]


class Unused(Own):
    """A weight that no step uses."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.spare = nn.Linear(3, 3)


# ── that a recorded step would get wrong ─────────────────────────────────────────────────────────────

CALLS = 0
SWITCH = [1.0]


class Item(Own):
    def between(self, x: Tensor) -> Tensor:
        return x / (1 + float(x.detach().abs().mean()))


class Branch(Own):
    def between(self, x: Tensor) -> Tensor:
        return torch.relu(x) if x.mean() > 0 else x


class Listing(Own):
    def between(self, x: Tensor) -> Tensor:
        return x * (1 + x.detach().mean(1).tolist()[0])


class ByNumpy(Own):
    def between(self, x: Tensor) -> Tensor:
        return x * (1 + float(x.detach().numpy().mean()))


class Random(Own):
    def between(self, x: Tensor) -> Tensor:
        return x + 0.01 * torch.rand(x.shape) if self.training else x


class RandomLike(Own):
    def between(self, x: Tensor) -> Tensor:
        return x + 0.01 * torch.randn_like(x) if self.training else x


class FromNumpy(Own):
    def between(self, x: Tensor) -> Tensor:
        return x * (1 + 1e-4 * float(np.random.normal()))


class OwnGenerator(Own):
    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.generator = np.random.default_rng(0)

    def between(self, x: Tensor) -> Tensor:
        return x * (1 + 1e-4 * self.generator.normal())


class AlphaDropout(Own):
    def between(self, x: Tensor) -> Tensor:
        return F.alpha_dropout(x, 0.2, self.training)


class AlwaysDropping(Own):
    def between(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.2)


class Counter(Own):
    """Changes what it does after some steps, by a count of its own."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.steps = 0

    def between(self, x: Tensor) -> Tensor:
        self.steps += self.training
        return torch.relu(x) if self.steps < 8 else x


class EpochCounter(Own):
    """Counts the epochs where it is told that training begins."""

    def __init__(self, shapes: Shapes) -> None:
        self.epochs = 0
        super().__init__(shapes)

    def train(self, mode: bool = True) -> EpochCounter:
        self.epochs += mode
        super().train(mode)
        return self

    def between(self, x: Tensor) -> Tensor:
        return torch.relu(x) if self.epochs < 8 else x


class GlobalCounter(Own):
    def between(self, x: Tensor) -> Tensor:
        global CALLS
        CALLS += 1
        return torch.relu(x)


class Nested(Own):
    """Its count lies deeper."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.state: dict[str, Any] = {"seen": [0]}

    def between(self, x: Tensor) -> Tensor:
        self.state["seen"][0] += 1
        return torch.relu(x)


class Iterated(Own):
    """Takes its factor from an iterator in a closure, where nobody sees the state."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        factors = iter(itertools.cycle([0.5, 1.0, 1.5, 2.0, 2.5]))
        self.factor = lambda: next(factors)

    def between(self, x: Tensor) -> Tensor:
        return torch.relu(x) * self.factor()


class Closure(Own):
    """Counts in a closure, and changes late what it does."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        calls = [0]

        def count() -> int:
            calls[0] += 1
            return calls[0]

        self.count = count

    def between(self, x: Tensor) -> Tensor:
        return torch.relu(x) if self.count() < 1000 else x


class Switched(Own):
    """Depends on what somebody else changes."""

    def between(self, x: Tensor) -> Tensor:
        return torch.relu(x) * SWITCH[0]


class PlainTensor(Own):
    """A tensor that is no buffer, changed in place."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.heat = torch.ones(())

    def between(self, x: Tensor) -> Tensor:
        self.heat.mul_(0.99)
        return torch.relu(x) * self.heat


class SeededAttribute(Own):
    """A random tensor that is no buffer: each seed has its own."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.mix = torch.randn(12, 12)

    def between(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.mix)


class NormWithoutMomentum(Own):
    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.norm = nn.BatchNorm1d(12, momentum=None)

    def between(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(x))


class SharedBuffer(Own):
    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.one, self.two = nn.BatchNorm1d(12), nn.BatchNorm1d(12)
        self.two.running_mean = self.one.running_mean

    def between(self, x: Tensor) -> Tensor:
        return torch.relu(self.two(self.one(x)))


class BufferViews(Own):
    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        whole = torch.zeros(14)
        self.register_buffer("low", whole[:12])
        self.register_buffer("high", whole[2:])

    def between(self, x: Tensor) -> Tensor:
        self.get_buffer("low").add_(0.1)
        return torch.relu(x + self.get_buffer("high"))


class BufferInEvaluation(Own):
    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.register_buffer("seen", torch.zeros(()))

    def between(self, x: Tensor) -> Tensor:
        self.get_buffer("seen").add_(1)
        return torch.relu(x)


class GradientHook(Own):
    """Scales the gradient of a weight by a hook, which the weight of a lane would not have."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.first.weight.register_hook(lambda gradient: 3 * gradient)


class Moving(Own):
    """Changes its own weights on the way."""

    def between(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.last.weight.clamp_(-0.1, 0.1)
        return torch.relu(x)


class WrongShape(Own):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :1]


class Failing(Own):
    def between(self, x: Tensor) -> Tensor:
        raise ValueError("not today")


class RenewedWithGradient(Renewed):
    def between(self, x: Tensor) -> Tensor:
        if self.training:
            self.level = 0.9 * self.level + 0.1 * x.mean(0)
        return torch.relu(x - self.level)


# ── data ─────────────────────────────────────────────────────────────────────────────────────────────


def made(task: str, inputs: tuple[Input, ...], rows: int = 75, validation: int = 40) -> Dataset:
    """Rows of these inputs, with a target that can be learned from them."""
    draw = np.random.default_rng(5)
    total = rows + validation + 10
    arrays: list[np.ndarray] = []
    for each in inputs:
        if each.kind == "categories":
            codes = [draw.integers(0, most, total) for most in each.cardinalities]
            arrays.append(np.stack(codes, axis=1).astype(np.int64))
        else:
            arrays.append(draw.normal(size=(total, *each.shape)).astype(np.float32))
    score = sum(a.reshape(total, -1)[:, :2].sum(1) for a in arrays)
    if task == "classification":
        target: np.ndarray = np.digitize(score, np.quantile(score, [0.5, 0.8])).astype(np.int64)
        outputs = 3
    else:
        target = np.stack([score, score**2], axis=1).astype(np.float32) / 3
        outputs = 2
    cuts = [0, rows, rows + validation, total]
    parts = [Rows(tuple(x[a:b] for x in arrays), target[a:b], np.arange(a, b)) for a, b in pairwise(cuts)]
    return Dataset(
        folder=Path("nowhere"),
        key=f"{task}-{inputs}",
        shapes=Shapes(task, inputs, outputs),  # type: ignore[arg-type]
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        classes=("a", "b", "c") if task == "classification" else (),
        target_mean=np.zeros(outputs),
        target_scale=np.ones(outputs),
        feature_names=("x",),
        summary=DataSummary("made", total, task, "y", (), {}),  # type: ignore[arg-type]
    )
