"""What the families for images do by themselves: patches, stems, poolings, stochastic depth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_example import CLASSES, image, make
from torch import nn

from nnopt_ray import tables
from nnopt_ray.data.types import Shapes
from nnopt_ray.models.efficientnet import InvertedBottleneck, Stage
from nnopt_ray.train.images import gain_from_channels_last


def shapes(height: int, width: int | None = None, channels: int = 1) -> Shapes:
    return Shapes("classification", image(channels, height, width or height), CLASSES)


def on_meta(name: str, of: Shapes, **keys: Any) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = tables.find("model", name)(of, **keys)
    return model


@pytest.mark.parametrize(
    ("height", "width", "patch"),
    [(8, 8, 2), (16, 16, 2), (28, 28, 4), (32, 32, 4), (64, 64, 8), (9, 21, 3), (224, 224, 16), (130, 130, 26)],
)
def test_the_patch_is_the_smallest_that_makes_64_or_less(height: int, width: int, patch: int) -> None:
    model = on_meta("vit", shapes(height, width))
    assert model.patches.kernel_size == (patch, patch)
    assert model.positions.shape[1] == (height // patch) * (width // patch)  # micro has no class token


def test_positions_start_as_waves_that_tell_places_apart_and_neighbours_alike() -> None:
    start = make("vit", shapes(16), width=64).positions[0].detach()  # a grid of 8x8
    gap = torch.cdist(start, start)
    assert gap[~torch.eye(64, dtype=torch.bool)].min() > 0.1
    assert gap[27, 28] < gap[27, 29] < gap[27, 30]  # along a row
    assert gap[27, 35] < gap[27, 43] < gap[27, 51]  # down a column
    torch.testing.assert_close(gap[27, 28], gap[27, 35])


@pytest.mark.parametrize(("side", "depth", "stem"), [(127, 18, 1), (128, 18, 4), (128, 20, 1), (224, 50, 4)])
def test_the_stem_of_a_resnet_follows_image_and_depth(side: int, depth: int, stem: int) -> None:
    model = on_meta("resnet", shapes(side), depth=depth)
    seen = model.stem(torch.empty(1, 1, side, side, device="meta"))
    assert seen.shape[2] == -(-side // stem)


@pytest.mark.parametrize(("side", "left"), [(2, 1), (8, 1), (15, 1), (31, 1), (32, 1), (64, 2), (100, 3)])
def test_a_vgg_halves_as_often_as_there_are_pixels(side: int, left: int) -> None:
    model = on_meta("vgg", shapes(side), width=4).eval()
    assert model.features(torch.empty(1, 1, side, side, device="meta")).shape == (1, 32, left, left)


@pytest.mark.parametrize(("side", "size", "left"), [(8, "tiny", 2), (28, "tiny", 7), (32, "b0", 2), (224, "b0", 7)])
def test_an_efficientnet_ends_with_so_many_pixels(side: int, size: str, left: int) -> None:
    model = on_meta("efficientnet", shapes(side), size=size)
    assert model.stages(model.stem(torch.empty(1, 1, side, side, device="meta"))).shape[2:] == (left, left)


def test_stochastic_depth_leaves_out_the_branch_of_some_rows_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    block = InvertedBottleneck(4, Stage(2, 3, 1, 4, 1), 4, 1, 0.25, "symmetric")
    block.eval()  # batch norm by row
    x = torch.randn(1, 4, 5, 5).expand(4000, -1, -1, -1)
    branch = (block(x[:1]) - x[:1]).squeeze(0)
    block.training = True
    said = block(x) - x
    for row in (torch.zeros_like(branch), branch / 0.75):
        assert any(torch.allclose(each, row, atol=1e-5) for each in said[:50])
    out = said.abs().amax((1, 2, 3)) == 0
    assert 0.22 < out.float().mean() < 0.28
    torch.testing.assert_close(said[~out], (branch / 0.75).expand_as(said[~out]), rtol=1e-4, atol=1e-5)


def test_the_rate_of_stochastic_depth_grows_with_the_block() -> None:
    """The reference code's rate times the block's number, over the number of blocks."""
    model = on_meta("efficientnet", shapes(224, channels=3), size="b0", stochastic_depth=0.2)
    rates = [each.rate for each in model.modules() if isinstance(each, InvertedBottleneck)]
    assert len(rates) == 16
    assert rates == [0.2 * number / 16 if rate else 0.0 for number, rate in enumerate(rates)]
    assert sum(rate > 0 for rate in rates) == 9  # all but the first of each of the seven stages


@pytest.mark.parametrize(("side", "kernel"), [(8, 3), (8, 5), (9, 3), (9, 5)])
def test_same_padding_is_tensorflows(side: int, kernel: int) -> None:
    """TensorFlow's rule (tf.nn, "SAME"): ceil(side / stride) outputs, the odd pixel of padding behind."""
    from nnopt_ray.models.efficientnet import Convolution

    made = Convolution(1, 1, kernel, 2, padding="same").eval()
    x = torch.randn(1, 1, side, 11)
    out = [-(-each // 2) for each in x.shape[2:]]
    totals = [(o - 1) * 2 + kernel - each for o, each in zip(out, x.shape[2:], strict=True)]
    down, across = ((total // 2, total - total // 2) for total in totals)
    by_hand = F.silu(made.norm(F.conv2d(F.pad(x, [*across, *down]), made.convolution.weight, stride=2)))
    assert list(by_hand.shape[2:]) == out
    torch.testing.assert_close(made(x), by_hand)


@pytest.mark.parametrize(
    ("name", "keys", "gains"),
    [("resnet", {"depth": 8}, True), ("resnet", {"depth": 18}, False), ("efficientnet", {}, True), ("vit", {}, True)],
)
def test_channels_lie_last_where_convolutions_are_narrow_or_of_one_channel(
    name: str, keys: dict[str, Any], gains: bool
) -> None:
    model: nn.Module = tables.find("model", name)(shapes(8), **keys)
    assert gain_from_channels_last(model, shapes(8), "cpu") == gains
