"""What an explainer is, what it is given, and what it hands back.

An attribution says how much a feature of one row (a column, a pixel, a word) moved what the network says of that row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnopt_ray import tables
from nnopt_ray.data.types import Dataset, Rows, Shapes
from nnopt_ray.evaluate.decision import Decision, decided
from nnopt_ray.evaluate.examples import AS_IS, Example
from nnopt_ray.evaluate.features import Features, features_of, kind_of
from nnopt_ray.machine import Machine, derived_seed, seed_torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nnopt_ray.evaluate.metrics import Metric

BATCH, NUMBERS = 4096, 2**22  # rows a pass at most, and numbers of their inputs: 16 MiB
WIDTH = 256  # numbers that a token is counted for

# The kinds of data that the built-in models read, as `kind_of` names them.
READ_BY: dict[str, tuple[str, ...]] = {
    "mlp": ("table", "image", "sequence"),
    "baseline": ("table", "image", "sequence", "tokens"),
    "resnet": ("image",),
    "vgg": ("image",),
    "efficientnet": ("image",),
    "vit": ("image",),
    "rnn": ("sequence", "tokens", "image"),
    "bert": ("tokens",),
    "gpt": ("tokens",),
}
ABOUT = {"table": "columns", "image": "images", "tokens": "texts", "sequence": "sequences"}


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained network and the rows that it is asked about. It is in evaluation mode, on the machine's device.

    outputs: what it says of the test part, as evaluate.predict gives it. examples: test rows that are shown by
    themselves. metric: what is measured on the validation part, by its name `measured`. decision: from the logits of
    classes to what is said.
    """

    model: nn.Module
    dataset: Dataset
    machine: Machine
    seed: int
    outputs: np.ndarray
    examples: tuple[Example, ...]
    metric: Metric
    measured: str
    decision: Decision = AS_IS

    @property
    def shapes(self) -> Shapes:
        return self.dataset.shapes

    @property
    def kind(self) -> str:
        return kind_of(self.shapes)

    @property
    def batch(self) -> int:
        """Rows that go through the network at a time."""
        numbers = sum(prod(each.shape) * (WIDTH if each.kind == "tokens" else 1) for each in self.shapes.inputs)
        return max(1, min(BATCH, NUMBERS // numbers))

    def rows(self, most: int) -> np.ndarray:
        """int64 [rows]: the examples, then test rows drawn by lot, `most` in all (but no example is left out)."""
        first = np.array([example.row for example in self.examples], dtype=np.int64)
        order = np.random.default_rng(derived_seed(self.seed, "explained rows")).permutation(len(self.dataset.test))
        more = order[~np.isin(order, first)][: max(0, most - len(first))]
        return np.concatenate([first, more])

    def background(self, count: int) -> np.ndarray:
        """int64 [rows]: so many training rows, drawn by lot."""
        draws = np.random.default_rng(derived_seed(self.seed, "background"))
        rows = len(self.dataset.train)
        return np.sort(draws.choice(rows, size=min(count, rows), replace=False))

    def features(self, background: int) -> Features:
        """What of a row is there or not; with so many training rows in the place of what is not."""
        return features_of(self.dataset, self.background(background))

    def row(self, row: int) -> tuple[np.ndarray, ...]:
        """A test row: one array [*shape] for each input."""
        return tuple(np.asarray(each[row]) for each in self.dataset.test.inputs)

    def inputs(self, rows: np.ndarray, part: Rows | None = None) -> tuple[Tensor, ...]:
        """Rows of the test part, or of another one, on the device."""
        import torch

        of = self.dataset.test if part is None else part
        return tuple(torch.from_numpy(np.array(each[rows])).to(self.machine.device) for each in of.inputs)

    @property
    def positive(self) -> int | None:
        """Of a table with two classes the one whose probability is explained whatever is predicted: the one that is
        looked for, else the second."""
        if self.kind != "table" or len(self.dataset.classes) != 2:
            return None
        return 1 if self.decision.positive is None else self.decision.positive

    @cached_property
    def asked(self) -> np.ndarray:
        """int64 [test rows]: the class whose probability is explained, `positive` or the predicted one; 0 where numbers
        are predicted."""
        if not self.dataset.classes:
            return np.zeros(len(self.outputs), dtype=np.int64)
        if self.positive is not None:
            return np.full(len(self.outputs), self.positive, dtype=np.int64)
        return decided(self.outputs, self.decision)[1]

    @property
    def of(self) -> str:
        """What is explained, in words."""
        if not self.dataset.classes:
            return "the prediction" + (", the mean over its steps" if self.shapes.outputs > 1 else "")
        if self.positive is not None:
            return f"the probability of {self.dataset.classes[self.positive]}"
        return "the probability of the predicted class"

    def answer(self, inputs: tuple[Tensor, ...], asked: Tensor) -> Tensor:
        """float32 [rows]: what is explained: the probability of the class asked for, int64 [rows]; or the number in
        the user's units, the mean of several."""
        said = self.model(*inputs).float() / self.decision.temperature
        if self.dataset.classes:
            share: Tensor = said.softmax(1).gather(1, asked[:, None])[:, 0]
            return share
        return self._user_units(said)

    def score(self, inputs: tuple[Tensor, ...], asked: Tensor) -> Tensor:
        """As `answer`, but of classes the log odds of the one asked for: log(p / (1 - p)), whose gradient does not
        vanish where the network is sure."""
        said = self.model(*inputs).float() / self.decision.temperature
        if not self.dataset.classes:
            return self._user_units(said)
        import torch

        others = said.masked_fill(torch.nn.functional.one_hot(asked, said.shape[1]).bool(), -torch.inf)
        odds: Tensor = said.gather(1, asked[:, None])[:, 0] - others.logsumexp(1)
        return odds

    def _user_units(self, said: Tensor) -> Tensor:
        import torch

        scale, mean = (
            torch.from_numpy(each).to(said) for each in (self.dataset.target_scale, self.dataset.target_mean)
        )
        return (said * scale + mean).mean(1)

    def answers(self, inputs: tuple[Tensor, ...], asked: int | np.ndarray) -> np.ndarray:
        """float64 [rows]: `answer` without a gradient, some rows at a time."""
        import torch

        classes = torch.from_numpy(np.broadcast_to(np.asarray(asked, dtype=np.int64), (len(inputs[0]),)).copy())
        device, said = self.machine.device, []
        with torch.inference_mode():
            for start in range(0, len(classes), self.batch):
                part = slice(start, start + self.batch)
                of = classes[part].to(device)
                said.append(self.answer(tuple(each[part].to(device) for each in inputs), of).cpu().numpy())
        return np.concatenate(said).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Attributions:
    """What moved each of some rows.

    rows: int64 [n], places in the test part, those of the examples first. values: of columns float64 [n, columns]; of
    images [n, height, width]; of sequences [n, length, channels]; of texts an array [words] for each row. names: the
    columns; of texts the words of each row. of: what is explained; told: how, with its counts, as a sentence.
    base, output: float64 [n], what the values of a row lead from and to where they add up. signed: whether a value may
    speak against.
    """

    rows: np.ndarray
    values: Sequence[np.ndarray] | np.ndarray
    of: str
    told: str
    names: Sequence[Any] = ()
    base: np.ndarray | None = None
    output: np.ndarray | None = None
    signed: bool = True


@dataclass(frozen=True, eq=False)
class Importance:
    """What each column is worth to the network as a whole: mean and deviation float64 [columns] of `of`."""

    columns: tuple[str, ...]
    mean: np.ndarray
    deviation: np.ndarray
    of: str
    told: str


class Explainer(ABC):
    """Contract of an explainer. Made from the keys of the page alone; all randomness follows from the subject's seed.

    kinds: of data that it explains, as `kind_of` names them. models: the built-in models that it is for, where it is
    not for all that read such data.
    """

    kinds: ClassVar[tuple[str, ...]]
    models: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def explain(self, subject: Subject) -> Attributions | Importance:
        """What moved the rows. What it raises is told to the user and ends nothing but this explanation."""

    @classmethod
    def is_for(cls, model: str) -> bool:
        """Whether it may explain this model of the page; a model that is not built in may be anything."""
        if model not in READ_BY:
            return True
        return (not cls.models or model in cls.models) and bool(set(cls.kinds) & set(READ_BY[model]))

    def refusal(self, shapes: Shapes, model: nn.Module | None) -> str:
        """Why it cannot explain such data or this network, the rest of a sentence that its name begins; else empty."""
        if shapes.is_language:
            return "explains one answer for each row, and a language task has one for each token"
        if kind_of(shapes) not in self.kinds:
            return f"explains {_listed([ABOUT[kind] for kind in self.kinds])}, and this data is {_inputs(shapes)}"
        return ""


def _listed(items: list[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else items[0]


def _inputs(shapes: Shapes) -> str:
    return " and ".join(each.kind for each in shapes.inputs if each.kind != "lengths")


def fitting(shapes: Shapes, model: str) -> list[str]:
    """The explainers of the table for such data and this model of the page."""
    names = []
    for name in tables.table("explainer"):
        part = tables.find("explainer", name)
        if part.is_for(model) and not part().refusal(shapes, None):
            names.append(name)
    return names


def for_models(models: Sequence[str]) -> list[str]:
    """The explainers of the table that may explain one of these models of the page."""
    return [name for name in tables.table("explainer") if any(tables.find("explainer", name).is_for(m) for m in models)]


@contextmanager
def differentiable() -> Iterator[None]:
    """Within, gradients are computed, and cuDNN is off: its recurrent networks give none in evaluation mode."""
    import torch

    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        yield


@contextmanager
def drawing(device: str, *parts: object) -> Iterator[None]:
    """Within, torch and numpy draw from a seed made of these parts; afterwards they go on as before. For libraries that
    take no generator."""
    import torch

    state, seed = np.random.get_state(), derived_seed(*parts)
    devices = [torch.cuda.current_device()] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices):
        seed_torch(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(state)


__all__ = ["Attributions", "Explainer", "Importance", "Subject", "differentiable", "drawing", "fitting", "for_models"]
