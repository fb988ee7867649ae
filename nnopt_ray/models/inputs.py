"""Which inputs and tasks a model takes: each refuses all others in one sentence of the same form."""

from __future__ import annotations

from nnopt_ray.data.types import CODES, Shapes
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


def _refuse_language(shapes: Shapes, model: str) -> None:
    if shapes.is_language:
        raise UserError(
            f"model {model} gives one answer per row, and the task {shapes.task} asks for a token at each position. "
            "Use a model for text."
        )
