"""Networks for images against the same networks of transformers: steps of training a second, one thread.

Both of a pair are trained in this process on the same rows by the same torch.optim.AdamW, a step of one after a step
of the other; printed are medians and their ratio, and how many weights each has. Seconds are those of the processor,
so that what else the machine does counts little. Ours gets its images as the training
gives them, with the channels last in memory where it says so; theirs as they come. Nothing is dropped out, as each has
that at other places.

    python tests/benchmarks/bench_image_families.py            # 20 steps of each
    python tests/benchmarks/bench_image_families.py --quick    # 5
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from nnopt_ray import tables
from nnopt_ray.data.types import Input, Shapes
from nnopt_ray.train import images

STEPS = 5 if "--quick" in sys.argv else 20
WARM_UP = 2
ROWS, SIDE, CLASSES = 16, 64, 10
SHAPES = Shapes("classification", (Input("image", (3, SIDE, SIDE)),), CLASSES)


def resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")
    config.num_labels = CLASSES
    return ResNetForImageClassification(config)


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=192,
        num_hidden_layers=12,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=SIDE,
        patch_size=8,
    )
    config.num_labels = CLASSES
    return ViTForImageClassification(config)


def efficientnet() -> nn.Module:
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    config = EfficientNetConfig(
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
        image_size=SIDE,
        dropout_rate=0.0,
        drop_connect_rate=0.0,
    )
    config.num_labels = CLASSES
    return EfficientNetForImageClassification(config)


PAIRS: dict[str, tuple[str, dict[str, Any], Callable[[], nn.Module]]] = {
    "ResNet-18": ("resnet", {"depth": 18, "stem": "imagenet"}, resnet),
    "ViT tiny, patches of 8": ("vit", {"size": "tiny", "patch": 8, "pool": "token"}, vit),
    "EfficientNet-B0": (
        "efficientnet",
        {"size": "b0", "stem": "imagenet", "padding": "same", "dropout": 0.0, "stochastic_depth": 0.0},
        efficientnet,
    ),
}


def step(model: nn.Module, x: Tensor, target: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model.train()

    def take() -> None:
        optimizer.zero_grad()
        said = model(x)
        nn.functional.cross_entropy(said if isinstance(said, Tensor) else said.logits, target).backward()
        optimizer.step()

    return take


def contest(title: str, one: nn.Module, two: nn.Module) -> None:
    x, target = torch.randn(ROWS, *SHAPES.inputs[0].shape), torch.randint(CLASSES, (ROWS,))
    last = images.channels_last((x,))[0] if images.gain_from_channels_last(one, SHAPES, "cpu") else x
    takers = [step(one, last, target), step(two, x, target)]
    seconds: list[list[float]] = [[], []]
    for number in range(STEPS + WARM_UP):
        for took, take in zip(seconds, takers, strict=True):
            began = time.process_time()
            take()
            if number >= WARM_UP:
                took.append(time.process_time() - began)
    a, b = (1 / statistics.median(took) for took in seconds)
    weights = [sum(p.numel() for p in model.parameters()) for model in (one, two)]
    print(
        f"{title:24} nnopt {a:6.2f} steps/s   transformers {b:6.2f}   ratio {a / b:4.2f}   "
        f"weights {weights[0]:,} {weights[1]:,}",
        flush=True,
    )


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{ROWS} images of 3x{SIDE}x{SIDE} a step, one thread, medians of {STEPS} steps in turn")
    for title, (name, keys, theirs) in PAIRS.items():
        contest(title, tables.find("model", name)(SHAPES, **keys), theirs())


if __name__ == "__main__":
    main()
