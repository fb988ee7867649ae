"""The published networks have the published number of weights, counted without making them."""

from __future__ import annotations

from typing import Any

import pytest
from model_example import image, parameters

from nnopt_ray.data.types import Shapes

IMAGENET = Shapes("classification", image(3, 224, 224), 1000)

# `num_params` of the weights of torchvision 0.28 (torchvision.models: resnet, vgg, efficientnet, vision_transformer);
# tiny and small ViT are DeiT-Ti and DeiT-S, of 5 and 22 million in Touvron et al. 2020, table 1.
PUBLISHED: list[tuple[str, dict[str, Any], int]] = [
    ("resnet", {"depth": 18}, 11_689_512),
    ("resnet", {"depth": 34}, 21_797_672),
    ("resnet", {"depth": 50}, 25_557_032),
    ("resnet", {"depth": 101}, 44_549_160),
    ("vgg", {"depth": 11, "batch_norm": False}, 132_863_336),
    ("vgg", {"depth": 11}, 132_868_840),
    ("vgg", {"depth": 13, "batch_norm": False}, 133_047_848),
    ("vgg", {"depth": 13}, 133_053_736),
    ("vgg", {"depth": 16, "batch_norm": False}, 138_357_544),
    ("vgg", {"depth": 16}, 138_365_992),
    ("vgg", {"depth": 19, "batch_norm": False}, 143_667_240),
    ("vgg", {"depth": 19}, 143_678_248),
    ("efficientnet", {"size": "b0"}, 5_288_548),
    ("efficientnet", {"size": "b1"}, 7_794_184),
    ("efficientnet", {"size": "b2"}, 9_109_994),
    ("efficientnet", {"size": "b3"}, 12_233_232),
    ("vit", {"size": "tiny"}, 5_717_416),
    ("vit", {"size": "small"}, 22_050_664),
    ("vit", {"size": "base"}, 86_567_656),
]


@pytest.mark.parametrize(("name", "keys", "count"), PUBLISHED)
def test_published_networks_have_the_published_number_of_weights(name: str, keys: dict[str, Any], count: int) -> None:
    assert parameters(name, IMAGENET, **keys) == count
