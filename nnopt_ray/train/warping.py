"""Images [rows, channels, height, width] and sequences [rows, length, channels] moved, each row in its own way."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

PADDING = {"edge": "border", "reflect": "reflection", "zero": "zeros"}  # as grid_sample calls it


def shifted(x: Tensor, down: Tensor, right: Tensor, outside: str) -> Tensor:
    """Each image moved by whole pixels, int64 [rows] each; no value is changed, as none is interpolated.

    outside: "edge" repeats the nearest pixel, "reflect" mirrors at the edge (by less than a side), "zero" is 0.
    """
    height, width = x.shape[-2:]
    y, inside_y = _seen(height, down, outside)
    z, inside_z = _seen(width, right, outside)
    places = (y[:, :, None] * width + z[:, None, :]).flatten(1)
    moved = x.flatten(2).gather(2, places[:, None, :].expand(-1, x.shape[1], -1)).view(x.shape)
    if outside != "zero":
        return moved
    return moved * (inside_y[:, :, None] & inside_z[:, None, :])[:, None]


def _seen(length: int, by: Tensor, outside: str) -> tuple[Tensor, Tensor]:
    """int64 [rows, length]: which pixel of a line is seen at each place; and bool: whether it is one of the image."""
    wanted = torch.arange(length, device=by.device)[None, :] - by[:, None]
    inside = (wanted >= 0) & (wanted < length)
    if outside == "reflect":
        wanted = torch.where(wanted < 0, -1 - wanted, wanted)
        wanted = torch.where(wanted >= length, 2 * length - 1 - wanted, wanted)
    return wanted.clamp(0, length - 1), inside


def warped(x: Tensor, matrix: Tensor, shift: Tensor, outside: str) -> Tensor:
    """Each image under a linear map of its own, bilinearly.

    A point p of the result, in pixels to the right and down from the middle, shows the point
    `matrix` [rows, 2, 2] times (p - `shift` [rows, 2]) of the image.
    """
    height, width = x.shape[-2:]
    half = x.new_tensor([width / 2, height / 2])  # torch counts from -1 to 1 from edge to edge
    turn = matrix * (half[None, None, :] / half[None, :, None])
    start = -(matrix @ shift[:, :, None]) / half[None, :, None]
    grid = affine_grid(torch.cat([turn, start], dim=2), list(x.shape), align_corners=False)
    return grid_sample(x, grid, mode="bilinear", padding_mode=PADDING[outside], align_corners=False)


def rotated(x: Tensor, degrees: Tensor, outside: str) -> Tensor:
    """Each image turned around its middle, anticlockwise, by float32 [rows] degrees."""
    angle = torch.deg2rad(degrees)
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    return warped(x, matrix, torch.zeros_like(matrix[:, 0]), outside)


def boxes(top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: tuple[int, int]) -> Tensor:
    """bool [rows, 1, *size]: a box of each row's own, from int64 [rows] each."""
    y = torch.arange(size[0], device=top.device)[None, :]
    x = torch.arange(size[1], device=top.device)[None, :]
    tall = (y >= top[:, None]) & (y < (top + height)[:, None])
    wide = (x >= left[:, None]) & (x < (left + width)[:, None])
    return (tall[:, :, None] & wide[:, None, :])[:, None]


def steps(x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """The steps of sequences, float32 [1, length], and how many each has, float32 [rows, 1]."""
    every = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)[None, :]
    has = x.new_full((len(x), 1), x.shape[1]) if lengths is None else lengths[:, None].to(x.dtype)
    return every, has


def resampled(x: Tensor, places: Tensor, length: Tensor) -> Tensor:
    """Sequences [rows, length, channels] seen at `places` [rows, length], in steps, between which they are linear.

    Beyond their ends, the last being that of the row's own `length` [rows, 1], the first or last step is seen.
    """
    places = torch.minimum(places.clamp(min=0), length - 1)
    before = places.floor()
    after = torch.minimum(before + 1, length - 1)
    one, two = (x.gather(1, each.long()[:, :, None].expand_as(x)) for each in (before, after))
    return torch.lerp(one, two, (places - before)[:, :, None])


def spline(values: Tensor, places: Tensor) -> Tensor:
    """Natural cubic splines through `values` [rows, knots], which lie evenly from 0 to 1, at `places` [rows, any]."""
    count = values.shape[1]
    apart = 1 / (count - 1)
    system = torch.eye(count, dtype=torch.float64)  # of the second derivatives, 0 at the ends
    known = torch.zeros(count, count, dtype=torch.float64)
    for knot in range(1, count - 1):
        system[knot, knot - 1 : knot + 2] = torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64)
        known[knot, knot - 1 : knot + 2] = torch.tensor([1.0, -2.0, 1.0], dtype=torch.float64) * 6 / apart**2
    bends = values @ torch.linalg.solve(system, known).T.to(values)
    before = (places / apart).floor().clamp(0, count - 2)
    far = places / apart - before  # from the knot before, as a share of the way to the next
    left = before.long().expand(len(values), -1)
    one, two = (values.gather(1, left), bends.gather(1, left)), (values.gather(1, left + 1), bends.gather(1, left + 1))
    cubic = ((1 - far) ** 3 - (1 - far)) * one[1] + (far**3 - far) * two[1]
    found: Tensor = (1 - far) * one[0] + far * two[0] + cubic * apart**2 / 6
    return found
