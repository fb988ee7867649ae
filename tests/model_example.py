"""What each model of the table takes, with keys that make it quick, and small data of every kind, for its contracts.

A new model is under all contracts of tests/contracts/test_models.py with one entry in EXAMPLES.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nnopt_ray import tables
from nnopt_ray.data.types import IGNORED, LANGUAGE, Dataset, DataSummary, Input, Rows, Shapes, Task

TABLE = (Input("table", (5,)),)
MIXED = (Input("table", (4,)), Input("categories", (2,), (3, 7)))
CATEGORIES = (Input("categories", (2,), (3, 7)),)
IMAGE = (Input("image", (3, 8, 8)),)
TOKENS = (Input("tokens", (12,), (20,), padding=0),)
SEQUENCE = (Input("sequence", (10, 3)),)
SEQUENCE_LENGTHS = (Input("sequence", (10, 3)), Input("lengths", ()))
INPUTS: dict[str, tuple[Input, ...]] = {
    "table": TABLE,
    "mixed": MIXED,
    "categories": CATEGORIES,
    "image": IMAGE,
    "tokens": TOKENS,
    "sequence": SEQUENCE,
    "sequence_lengths": SEQUENCE_LENGTHS,
}
TASKS: tuple[Task, ...] = ("classification", "regression", *LANGUAGE)
BOTH: tuple[Task, ...] = ("classification", "regression")
CLASSES = 3


@dataclass(frozen=True)
class Example:
    """One model of the table.

    takes: kind of INPUTS → tasks. All other pairs it must refuse with a sentence, unless `takes_more`.
    keys: make it quick here.
    values: key → the values that are tried of it among "any valid keys", where others would be slow.
    refused: inputs, keys, and words of the sentence, for shapes that it cannot take.
    lanes: how far a lane's validation loss may be from that of the training alone; or words of the sentence
        that says why it cannot be a lane.
    lr, steps: of Adam, to learn eight rows by heart.
    """

    takes: Mapping[str, tuple[Task, ...]]
    keys: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    refused: tuple[tuple[tuple[Input, ...], dict[str, Any], str], ...] = ()
    lanes: float | str = 0.0
    lr: float = 1e-2
    steps: int = 150
    takes_more: bool = False


def image(channels: int, height: int, width: int) -> tuple[Input, ...]:
    return (Input("image", (channels, height, width)),)


def text(length: int) -> tuple[Input, ...]:
    return (Input("tokens", (length,), (20,)),)


TRANSFORMER = {
    "depth": (1, 3),
    "width": (8, 16, 24),
    "heads": (1, 2, 4, "auto"),
    "feed_forward": (5, 32, "auto"),
    "positions": (12, 40),
    "weights": (None,),
}
ROUNDING, CHAOS = 2e-5, 0.02  # as in tests/test_lanes.py

EXAMPLES: dict[str, Example] = {
    "baseline": Example(
        takes={
            **dict.fromkeys(("table", "mixed", "categories", "image", "sequence", "sequence_lengths"), BOTH),
            "tokens": TASKS,
        },
        lanes="in a way of its own",
        takes_more=True,
    ),
    "bert": Example(
        takes={"tokens": (*BOTH, "masked_language_modelling")},
        keys={"depth": 2, "width": 16, "heads": 2, "dropout": 0.0},
        values={**TRANSFORMER, "size": ("tiny", "mini")},
        refused=(
            (text(600), {}, "has 512 positions, and the texts of this data have 600 tokens. Set positions: 600"),
            (TOKENS, {"width": 15}, "2 heads do not divide a width of 15"),
            (SEQUENCE_LENGTHS, {}, "sequence and lengths input"),
        ),
        lanes=ROUNDING,
        lr=3e-3,
    ),
    "gpt": Example(
        takes={"tokens": (*BOTH, "language_modelling")},
        keys={"depth": 2, "width": 16, "heads": 2, "dropout": 0.0},
        values={**TRANSFORMER, "size": ("tiny", "mini"), "positions": (12, 40, "auto")},
        refused=(
            (text(40), {"positions": 30}, "has 30 positions, and the texts of this data have 40 tokens"),
            (text(2000), {"size": "small"}, "has 1024 positions, and the texts of this data have 2000 tokens"),
            (TOKENS, {"heads": 3}, "3 heads do not divide a width of 16"),
        ),
        lanes=ROUNDING,
        lr=3e-3,
    ),
    "mlp": Example(
        takes={"table": BOTH, "mixed": BOTH, "categories": BOTH, "image": BOTH, "sequence": BOTH},
        lanes=ROUNDING,
    ),
    "resnet": Example(
        takes={"image": BOTH},
        keys={"depth": 8, "width": 8},
        values={"width": (1, 4, 9), "depth": (8, 14, 18, 20, 50), "stem": ("auto", "small"), "weights": (None,)},
        refused=(
            (IMAGE + CATEGORIES, {}, "image and categories input"),
            (
                image(1, 3, 8),
                {"depth": 8},
                "halves the image 2 times and needs at least 4x4 pixels, and these are 3x8",
            ),
            (
                image(1, 7, 7),
                {"depth": 18},
                "needs at least 8x8 .* and these are 7x7. Use a depth of three stages",
            ),
            (IMAGE, {"depth": 50, "stem": "imagenet"}, "halves the image 5 times and .* 32x32 .* Use stem: small, or"),
        ),
        lanes=CHAOS,
    ),
    "vgg": Example(
        takes={"image": BOTH},
        keys={"width": 4, "dropout": 0.0},
        values={"width": (1, 4), "classifier_width": (1, 16), "weights": (None,)},
        refused=(
            (IMAGE, {"halvings": 4}, "halves the image 4 times and needs at least 16x16 pixels, .* Use fewer halvings"),
            (image(1, 1, 9), {}, "needs at least 2x2 pixels, and these are 1x9"),
        ),
        lanes=CHAOS,
    ),
    "efficientnet": Example(
        takes={"image": BOTH},
        keys={"dropout": 0.0, "stochastic_depth": 0.1},
        values={"size": ("tiny",), "stem": ("auto", "small", "imagenet"), "weights": (None,)},
        refused=(
            (IMAGE, {"size": "b0"}, "halves the image 4 times and needs at least 16x16 pixels, .* Use size: tiny"),
            (image(1, 8, 7), {"stem": "imagenet"}, "needs at least 8x8 pixels, and these are 8x7. Use stem: small"),
            (image(1, 3, 3), {}, "needs at least 4x4 pixels, and these are 3x3. Use model mlp"),
        ),
        lanes=CHAOS,
    ),
    "vit": Example(
        takes={"image": BOTH},
        keys={"width": 16, "depth": 2, "heads": 2},
        values={"width": (8, 12), "patch": ("auto", 1, 3, 4), "heads": (1, 2, 4), "depth": (1, 2), "weights": (None,)},
        refused=(
            (IMAGE, {"heads": 3}, "3 heads do not divide 16"),
            (IMAGE, {"patch": 3}, "3 does not divide 8x8 pixels. Give patch: 2, 4 or 8."),
            (image(1, 28, 7), {"patch": 4}, "Give patch: 7."),
            (image(1, 29, 31), {}, "no patch divides 29x31 pixels into 4 to 64 patches. Bring the images"),
        ),
        lanes=ROUNDING,
        lr=3e-3,
    ),
    "rnn": Example(
        takes={
            "sequence": BOTH,
            "sequence_lengths": BOTH,
            "tokens": (*BOTH, "language_modelling"),
            "image": BOTH,
        },
        keys={"width": 16},
        refused=(
            ((*TABLE, Input("lengths", ())), {}, "table and lengths input"),
            ((*TOKENS, Input("lengths", ())), {}, "tokens and lengths input"),
        ),
        lanes=ROUNDING,
    ),
}


def shapes_of(kind: str, task: Task) -> Shapes:
    if task in LANGUAGE:
        return Shapes(task, INPUTS[kind], INPUTS[kind][0].cardinalities[0])
    return Shapes(task, INPUTS[kind], CLASSES if task == "classification" else 1)


def make(name: str, shapes: Shapes, seed: int = 0, **keys: Any) -> nn.Module:
    """A model of the table with the keys that make it quick, and these; checked as those of a page."""
    quick = EXAMPLES[name].keys if name in EXAMPLES else {}
    checked = tables.keys("model", name)(**{**quick, **keys})
    torch.manual_seed(seed)
    model: nn.Module = tables.find("model", name)(shapes, **dict(checked))
    return model


def parameters(name: str, shapes: Shapes, **keys: Any) -> int:
    """How many weights a model has, counted without making them."""
    checked = tables.keys("model", name)(**keys)
    with torch.device("meta"):
        model = tables.find("model", name)(shapes, **dict(checked))
    return sum(p.numel() for p in model.parameters())


def batch(shapes: Shapes, rows: int, seed: int = 0) -> list[Tensor]:
    """Rows of which the first differ from each other in every kind of input."""
    generator = torch.Generator().manual_seed(seed)
    made: list[Tensor] = []
    for one in shapes.inputs:
        if one.kind == "categories":
            # The first 21 rows all differ; a model can tell them apart.
            made.append(torch.stack([torch.arange(rows) % n for n in one.cardinalities], dim=1))
        elif one.kind == "tokens":
            codes = one.cardinalities[0]
            text = torch.randint(1, codes, (rows, *one.shape), generator=generator)
            # What comes after a text's first token can be known from it alone.
            text[:, 0] = 1 + torch.arange(rows) % (codes - 1)
            if not shapes.is_language:
                length = one.shape[0]
                ends = torch.arange(rows) % (length // 2) + length // 2 + 1
                text[torch.arange(length) >= ends[:, None]] = one.padding
            made.append(text)
        elif one.kind == "lengths":
            longest = shapes.inputs[0].shape[0]
            made.append(longest - torch.arange(rows) % (longest // 2))
            made[0][torch.arange(longest) >= made[-1][:, None]] = 0
        else:
            made.append(torch.randn((rows, *one.shape), generator=generator))
    return made


def target_of(shapes: Shapes, inputs: list[Tensor]) -> Tensor:
    """A target of the shape that the task has; what a text continues with, or hides, is the text itself."""
    rows = len(inputs[0])
    if shapes.task == "classification":
        return torch.arange(rows) % shapes.outputs
    if shapes.task == "regression":
        return torch.randn((rows, shapes.outputs), generator=torch.Generator().manual_seed(9))
    if shapes.task == "language_modelling":
        following = torch.roll(inputs[0], -1, dims=1)
        following[:, -1] = IGNORED
        return following
    asked = torch.arange(inputs[0].shape[1]) % 3 == 0
    return torch.where(asked, inputs[0], IGNORED)


def loss_of(shapes: Shapes, outputs: Tensor, target: Tensor) -> Tensor:
    if shapes.task == "regression":
        return nn.functional.mse_loss(outputs, target)
    return nn.functional.cross_entropy(outputs.flatten(0, -2), target.flatten(), ignore_index=IGNORED)


def expected_shape(shapes: Shapes, rows: int) -> tuple[int, ...]:
    return (rows, shapes.inputs[0].shape[0], shapes.outputs) if shapes.is_language else (rows, shapes.outputs)


def data_of(shapes: Shapes, rows: int = 50, validation: int = 20) -> Dataset:
    """A prepared data set of such rows."""
    total = rows + validation + 5
    inputs = batch(shapes, total, seed=8)
    target = target_of(shapes, inputs)
    cuts = [0, rows, rows + validation, total]
    parts = [
        Rows(tuple(x[a:b].numpy() for x in inputs), target[a:b].numpy(), np.arange(a, b)) for a, b in pairwise(cuts)
    ]
    counted = 1 if shapes.is_language else shapes.outputs
    return Dataset(
        folder=Path("nowhere"),
        key=f"{shapes}",
        shapes=shapes,
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        classes=("a", "b", "c") if shapes.task == "classification" else (),
        target_mean=np.zeros(counted),
        target_scale=np.ones(counted),
        feature_names=("x",),
        summary=DataSummary("made", total, shapes.task, "y", (), {}),
    )
