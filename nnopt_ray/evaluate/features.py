"""What of a row is there or not: columns of a table, squares of an image, steps of a sequence, words of a text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from nnopt_ray.data.types import Dataset, Shapes

if TYPE_CHECKING:
    import torch

    from nnopt_ray.data.words import Words

SQUARES = 7  # at most, on each side of an image
SPANNED = 64  # features of a text, at most: of more words some beside each other are one
SPANS = 12  # at most, that the steps of a sequence are divided into, each channel for itself


class Features(ABC):
    """The features of each row, and the row with some of them only.

    copies: inputs that stand for one row with some features; what is said is the mean over them.
    """

    copies: int = 1

    @abstractmethod
    def names(self, row: Sequence[np.ndarray]) -> tuple[str, ...]:
        """Those of a row, which is one array [*shape] for each input."""

    @abstractmethod
    def perturbed(self, row: Sequence[np.ndarray], present: np.ndarray) -> tuple[torch.Tensor, ...]:
        """The inputs with these features alone: present bool [n, features] → [n * copies, *shape] of each input."""


@dataclass(frozen=True, eq=False)
class Replaced(Features):
    """Groups of numbers; a group that is not there has the numbers of background rows, all of one row together.

    The expectation over them is what is said without the group ("interventional": Janzing et al. 2020,
    arXiv:1910.13413). groups: of each input int64 [*shape], the feature that each number is of, -1 for what always
    stays. background: of each input [rows, *shape]. Codes of categories are replaced as numbers are.
    """

    of_all: tuple[str, ...]
    groups: tuple[np.ndarray, ...]
    background: tuple[np.ndarray, ...]

    @property
    def copies(self) -> int:  # type: ignore[override]
        return len(self.background[0])

    def names(self, row: Sequence[np.ndarray]) -> tuple[str, ...]:
        return self.of_all

    def perturbed(self, row: Sequence[np.ndarray], present: np.ndarray) -> tuple[torch.Tensor, ...]:
        import torch

        chosen = torch.from_numpy(np.concatenate([present, np.ones((len(present), 1), dtype=bool)], axis=1))
        made = []
        for own, groups, others in zip(row, self._groups, self._background, strict=True):
            stays = chosen[:, groups].unsqueeze(1)  # the last one, -1, always does
            made.append(torch.where(stays, torch.from_numpy(np.array(own)), others.unsqueeze(0)).flatten(0, 1))
        return tuple(made)

    @cached_property
    def _groups(self) -> tuple[torch.Tensor, ...]:
        import torch

        return tuple(torch.from_numpy(groups) for groups in self.groups)

    @cached_property
    def _background(self) -> tuple[torch.Tensor, ...]:
        import torch

        return tuple(torch.from_numpy(np.array(others)) for others in self.background)


@dataclass(frozen=True, eq=False)
class Removed(Features):
    """The words of a text; those that are not there are left out, and what follows moves up."""

    read: Words
    padding: int

    def names(self, row: Sequence[np.ndarray]) -> tuple[str, ...]:
        return self.words(row[0], SPANNED)[0]

    def words(self, row: np.ndarray, most: int | None = None) -> tuple[tuple[str, ...], np.ndarray]:
        """The words of a row [length] as people read them, and int64 [length], the word that each token is of, -1 for
        the frame, for what stands between two texts, and for padding.

        most: of more words those beside each other are taken together, as many as it needs.
        """
        owner = np.full(len(row), -1, dtype=np.int64)
        place = int(self.read.framed)
        names: list[str] = []
        for number, text in enumerate(self.read.read(row)):
            place += number > 0  # the token between two texts
            for word in text:
                owner[place : place + len(word.tokens)] = len(names)
                place += len(word.tokens)
                names.append(self.read.name(word))
        together = -(-len(names) // most) if most and names else 1
        spans = tuple(" ".join(names[at : at + together]) for at in range(0, len(names), together))
        return spans, np.where(owner < 0, owner, owner // together)

    def perturbed(self, row: Sequence[np.ndarray], present: np.ndarray) -> tuple[torch.Tensor, ...]:
        import torch

        _, owner = self.words(row[0], SPANNED)
        padded = np.concatenate([present, np.ones((len(present), 1), dtype=bool)], axis=1)
        stays = padded[:, owner] & (row[0] != self.padding)
        order = np.argsort(~stays, axis=1, kind="stable")
        tokens = np.where(np.take_along_axis(stays, order, axis=1), row[0][order], self.padding)
        return (torch.from_numpy(tokens.astype(np.int64)),)


def kind_of(shapes: Shapes) -> str:
    """What an explanation is about: "image", "tokens", "sequence", or the columns of a "table"."""
    kinds = tuple(each.kind for each in shapes.inputs)
    if kinds in (("image",), ("tokens",), ("sequence",), ("sequence", "lengths")):
        return kinds[0]
    return "table"


def features_of(dataset: Dataset, background: np.ndarray) -> Features:
    """background: int64 [rows], training rows that others are compared with."""
    shapes, kind = dataset.shapes, kind_of(dataset.shapes)
    if kind == "tokens":
        from nnopt_ray.data.words import words_of

        return Removed(words_of(dataset.folder), shapes.inputs[0].padding)
    others = tuple(np.array(each[background]) for each in dataset.train.inputs)
    if kind == "image":  # one grey picture, as is usual: a network for images is slow
        others = (others[0].mean(axis=0, keepdims=True),)
    names, groups = {"image": _squares, "sequence": _spans, "table": columns}[kind](dataset)
    return Replaced(names, groups, others)


def columns(dataset: Dataset) -> tuple[tuple[str, ...], tuple[np.ndarray, ...]]:
    """The user's columns in the order of the inputs; an image or a sequence beside them is one of them."""
    from nnopt_ray.data.origins import origins

    numbers: dict[str, int] = {}
    groups = []
    for layout, names in zip(dataset.shapes.inputs, origins(dataset.folder), strict=True):
        if layout.kind in ("table", "categories"):
            groups.append(np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64))
        else:
            name = "sequence" if layout.kind == "lengths" else layout.kind
            groups.append(np.full(layout.shape, numbers.setdefault(name, len(numbers)), dtype=np.int64))
    return tuple(numbers), tuple(groups)


def _squares(dataset: Dataset) -> tuple[tuple[str, ...], tuple[np.ndarray, ...]]:
    channels, height, width = dataset.shapes.inputs[0].shape
    high, wide = min(SQUARES, height), min(SQUARES, width)
    down, across = np.arange(height) * high // height, np.arange(width) * wide // width
    square = down[:, None] * wide + across
    names = tuple(f"square {row + 1}, {column + 1}" for row in range(high) for column in range(wide))
    return names, (np.repeat(square[None], channels, axis=0).astype(np.int64),)


def _spans(dataset: Dataset) -> tuple[tuple[str, ...], tuple[np.ndarray, ...]]:
    from nnopt_ray.data.origins import channels as named

    length, channels = dataset.shapes.inputs[0].shape
    spans = min(SPANS, length)
    span = np.arange(length) * spans // length
    groups = (span[:, None] * channels + np.arange(channels)).astype(np.int64)
    ends = [np.flatnonzero(span == each) for each in range(spans)]
    names = tuple(f"{name}, steps {at[0] + 1} to {at[-1] + 1}" for at in ends for name in named(dataset.folder))
    stays = (np.full((), -1, dtype=np.int64),) * (len(dataset.shapes.inputs) - 1)  # the lengths
    return names, (groups, *stays)


__all__ = ["Features", "Removed", "Replaced", "columns", "features_of", "kind_of"]
