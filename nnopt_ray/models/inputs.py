"""Which inputs and tasks a model takes: each refuses all others in one sentence of the same form."""

from __future__ import annotations

import torch
from torch import Tensor

from nnopt_ray.data.types import CODES, Input, Shapes
from nnopt_ray.errors import UserError


def kinds(shapes: Shapes) -> str:
    """The kinds of input in words, e.g. "table and categories"."""
    return " and ".join(each.kind for each in shapes.inputs)


def one_image(shapes: Shapes, model: str) -> tuple[int, int, int]:
    """(channels, height, width) of the images. Raises UserError when a row is not one image with one answer."""
    if shapes.image is None or len(shapes.inputs) != 1:
        raise UserError(
            f"model {model} takes one image per row, and this data has {kinds(shapes)} input. "
            "Use model mlp, or a source of images."
        )
    _refuse_language(shapes, model)
    return shapes.image


def numbers_and_codes(shapes: Shapes, model: str) -> None:
    """Raises UserError unless every input is numbers or the categories of a table, with one answer per row."""
    if any(each.kind in CODES and each.kind != "categories" for each in shapes.inputs):
        raise UserError(
            f"model {model} takes tables, images, and sequences of one length, and this data has {kinds(shapes)} "
            "input. Use a model for text or for sequences."
        )
    _refuse_language(shapes, model)


def one_text(shapes: Shapes, model: str, positions: int) -> Input:
    """The text. Raises UserError when a row is not one text, or is longer than the model has positions."""
    if shapes.tokens is None:
        raise UserError(
            f"model {model} takes one text per row, and this data has {kinds(shapes)} input. "
            "Use model mlp or rnn, or a text column and the step tokenize."
        )
    length, codes = shapes.tokens.shape[0], shapes.tokens.cardinalities[0]
    if length > positions:
        raise UserError(
            f"model {model} has {positions} positions, and the texts of this data have {length} tokens. "
            f"Set positions: {length}, or the step tokenize's length to {positions}."
        )
    if shapes.is_language and shapes.outputs != codes:
        raise UserError(
            f"model {model} says one of the {codes} tokens that it reads, and the target of this data has "
            f"{shapes.outputs}. Give both the same vocabulary."
        )
    return shapes.tokens


def masked_is_for_bert(shapes: Shapes, model: str) -> None:
    """Raises UserError for the task masked_language_modelling, which a model that reads left to right cannot do."""
    if shapes.task == "masked_language_modelling":
        raise UserError(
            f"model {model} reads a text from left to right and says what comes next, and the task "
            "masked_language_modelling asks for tokens within it. Use model bert, or the task language_modelling."
        )


def real_tokens(tokens: Tensor, padding: int) -> Tensor:
    """int64 [rows, length] of tokens → int64 [rows], tokens up to the last that is no padding; at least 1."""
    place = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    return torch.where(tokens != padding, place, 1).amax(1)


def _refuse_language(shapes: Shapes, model: str) -> None:
    if shapes.is_language:
        raise UserError(
            f"model {model} gives one answer per row, and the task {shapes.task} asks for a token at each position. "
            "Use a model for text."
        )
