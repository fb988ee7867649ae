"""Networks written for the tests, whose weights have the names that torchvision gives them.

Each computes as torchvision's does, written anew: tests/test_public_weights.py holds the names against torchvision's
own where that is installed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv(channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=bias)


class Residual(nn.Module):
    """A block of ResNet: of two convolutions, or a bottleneck of three."""

    def __init__(self, channels: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        out = 4 * width if bottleneck else width
        steps = [(channels, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            steps = [(channels, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
        for number, step in enumerate(steps, start=1):
            self.add_module(f"conv{number}", conv(*step))
            self.add_module(f"bn{number}", nn.BatchNorm2d(step[1]))
        self.steps = len(steps)
        self.downsample = None
        if stride > 1 or channels != out:
            self.downsample = nn.Sequential(conv(channels, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number in range(1, self.steps + 1):
            y = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(y))
            if number < self.steps:
                y = y.relu()
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet(nn.Module):
    def __init__(self, blocks: tuple[int, ...], width: int, bottleneck: bool, outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, width, 7, 2), nn.BatchNorm2d(width)
        channels = width
        for stage, count in enumerate(blocks):
            made = nn.Sequential()
            for block in range(count):
                made.append(Residual(channels, width * 2**stage, 2 if stage and not block else 1, bottleneck))
                channels = width * 2**stage * (4 if bottleneck else 1)
            self.add_module(f"layer{stage + 1}", made)
        self.fc = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


class VGG(nn.Module):
    def __init__(self, blocks: tuple[int, ...], width: int, norm: bool, hidden: int, outputs: int) -> None:
        super().__init__()
        self.features, channels = nn.Sequential(), 3
        for block, count in enumerate(blocks):
            out = width * min(2**block, 8)
            for _ in range(count):
                self.features.append(conv(channels, out, 3, bias=True))
                if norm:
                    self.features.append(nn.BatchNorm2d(out))
                self.features.append(nn.ReLU())
                channels = out
            self.features.append(nn.MaxPool2d(2, 2))
        units = [(channels * 49, hidden), (hidden, hidden), (hidden, outputs)]
        modules = [module for unit in units for module in (nn.Linear(*unit), nn.ReLU(), nn.Dropout())]
        self.classifier = nn.Sequential(*modules[:-2])

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(nn.functional.adaptive_avg_pool2d(self.features(x), (7, 7)).flatten(1))


def normed(channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1, silu: bool = True) -> nn.Module:
    made = nn.Sequential(conv(channels, width, kernel, stride, groups), nn.BatchNorm2d(width))
    return made.append(nn.SiLU()) if silu else made


class Squeeze(nn.Module):
    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = conv(width, squeezed, 1, bias=True), conv(squeezed, width, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        mean = nn.functional.adaptive_avg_pool2d(x, 1)
        return self.fc2(nn.functional.silu(self.fc1(mean))).sigmoid() * x


class MBConv(nn.Module):
    def __init__(self, channels: int, width: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inside = channels * expansion
        self.block = nn.Sequential()
        if expansion > 1:
            self.block.append(normed(channels, inside, 1))
        self.block.append(normed(inside, inside, kernel, stride, inside))
        self.block.append(Squeeze(inside, channels // 4))
        self.block.append(normed(inside, width, 1, silu=False))
        self.residual = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.residual else self.block(x)


class EfficientNetB0(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.features, channels = nn.Sequential(normed(3, 32, 3, 2)), 32
        widths, counts = (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)
        kernels, strides = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1)
        for stage, (width, count) in enumerate(zip(widths, counts, strict=True)):
            made = nn.Sequential()
            for block in range(count):
                stride = 1 if block else strides[stage]
                made.append(MBConv(channels, width, 6 if stage else 1, kernels[stage], stride))
                channels = width
            self.features.append(made)
        self.features.append(normed(channels, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.0), nn.Linear(4 * width, width), nn.Dropout(0.0)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.self_attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class ViT(nn.Module):
    def __init__(self, side: int, patch: int, width: int, depth: int, heads: int, outputs: int) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.conv_proj = nn.Conv2d(3, width, patch, patch)
        self.encoder = nn.Module()
        self.encoder.pos_embedding = nn.Parameter(torch.zeros(1, (side // patch) ** 2 + 1, width))
        self.encoder.layers = nn.Sequential()
        for layer in range(depth):
            self.encoder.layers.add_module(f"encoder_layer_{layer}", EncoderLayer(width, heads))
        self.encoder.ln = nn.LayerNorm(width, eps=1e-6)
        self.heads = nn.Sequential()
        self.heads.add_module("head", nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        row = torch.cat([self.class_token.expand(len(x), -1, -1), patches], 1) + self.encoder.pos_embedding
        return self.heads(self.encoder.ln(self.encoder.layers(row))[:, 0])
