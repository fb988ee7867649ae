"""Residual networks: the papers' figures, and what the layers do."""

from __future__ import annotations

import pytest
import torch
from model_example import IMAGE, batch, make
from torch import nn

from nnopt_ray import tables
from nnopt_ray.data.types import Input, Shapes
from nnopt_ray.models.resnet import Block


@pytest.mark.parametrize(
    ("depth", "parameters", "millions"),
    # Millions: He et al. 2015, table 6. Exact: per stage of w channels 2n(9ww + 2w), the stem, the head.
    [(20, 269_722, 0.27), (32, 464_154, 0.46), (44, 658_586, 0.66), (56, 853_018, 0.85)],
)
def test_resnet_has_the_papers_parameters(depth: int, parameters: int, millions: float) -> None:
    shapes = Shapes("classification", (Input("image", (3, 32, 32)),), 10)
    count = sum(p.numel() for p in make("resnet", shapes, depth=depth, width="auto").parameters())
    assert count == parameters
    assert abs(count / 1e6 - millions) < 0.01


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56])
def test_resnet_parameters_follow_the_papers_layout(depth: int) -> None:
    n = (depth - 2) // 6
    count = 9 * 3 * 16 + 32 + 64 * 10 + 10
    for stage, w in enumerate((16, 32, 64)):
        first = w if stage == 0 else w // 2
        count += 9 * first * w + (2 * n - 1) * 9 * w * w + 2 * n * 2 * w
    shapes = Shapes("classification", (Input("image", (3, 32, 32)),), 10)
    assert sum(p.numel() for p in make("resnet", shapes, depth=depth, width="auto").parameters()) == count


def test_resnet_18_has_the_known_number_of_parameters() -> None:
    # 11,173,962: ResNet-18 with a 3x3 stem and 10 classes in kuangliu/pytorch-cifar.
    shapes = Shapes("classification", (Input("image", (3, 32, 32)),), 10)
    with torch.device("meta"):
        model = tables.find("model", "resnet")(shapes, depth=18)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962


@pytest.mark.parametrize(("depth", "channels", "side"), [(8, 64, 8), (20, 64, 8), (18, 512, 4)])
def test_resnet_halves_the_image_once_a_stage(depth: int, channels: int, side: int) -> None:
    shapes = Shapes("classification", (Input("image", (3, 32, 32)),), 10)
    model = make("resnet", shapes, depth=depth, width="auto").eval()
    with torch.no_grad():
        assert model.stages(model.stem(torch.zeros(1, 3, 32, 32))).shape == (1, channels, side, side)


def test_resnet_shortcut_is_every_second_pixel_and_new_channels_are_zero() -> None:
    block = Block(4, 8, 2, batch_norm=False, projection=False, branch_scale=1.0)
    for weight in block.parameters():
        nn.init.zeros_(weight)
    x = torch.rand(2, 4, 6, 7)
    y = block(x)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 6:].any()


@pytest.mark.parametrize("depth", [20, 56])
def test_resnet_without_batch_norm_keeps_the_signals_size(depth: int) -> None:
    shapes = Shapes("classification", IMAGE, 3)
    model = make("resnet", shapes, depth=depth, width=8, batch_norm=False)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    with torch.no_grad():
        stem = model.stem(batch(shapes, 8)[0])
        grown = model.stages(stem).std() / stem.std()
    assert 0.2 < grown < 5


@pytest.mark.parametrize("side", [4, 5, 8, 11, 28])
def test_resnet_takes_any_side_from_the_smallest_on(side: int) -> None:
    shapes = Shapes("classification", (Input("image", (1, side, side + 1)),), 3)
    assert make("resnet", shapes).eval()(*batch(shapes, 2)).shape == (2, 3)
