"""VGG networks: plain stacks of 3x3 convolutions."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nnopt_ray.data.types import Shapes
from nnopt_ray.experiment import Beside
from nnopt_ray.models.convolution import convolution, is_large, refuse_small
from nnopt_ray.models.inputs import one_image

# depth → convolutions in each of the five blocks (Simonyan and Zisserman, table 1: A, B, D and E).
BLOCKS: dict[int, tuple[int, ...]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
MULTIPLES = (1, 2, 4, 8, 8)  # a block's channels, for each of the first block's
POOLED = 7  # pixels a side that the imagenet head sees


class VGG(nn.Module):
    """VGG network (Simonyan and Zisserman 2014, arXiv:1409.1556).

    float32 [rows, channels, height, width] → float32 [rows, outputs]. Five blocks of 3x3 convolutions, each with a
    pooling behind it that halves height and width. With the imagenet head these are torchvision's networks weight
    for weight: VGG-11 and 16 have 132,863,336 and 138,357,544 for 3 channels and 1000 classes, 11 with batch norm
    132,868,840 (torchvision.models.vgg, `num_params`). Weights start as torchvision starts them.

    Where an image has no more than one pixel a side, the poolings that are left are left out, unless `halvings` says
    how many there are.

    Raises UserError when the data is not one image per row, or the images are too small for the halvings.

    Keys:
        depth: layers with weights in the published network, three of them in its head.
        width: channels of the first block; the paper's is 64.
        batch_norm: normalise over the batch after each convolution.
        halvings: poolings that halve the image, the first ones; auto: as many of the five as it has pixels for.
        head: imagenet: on 7x7 pixels, three layers; small: on the mean, one; auto: imagenet from 128 pixels on.
        classifier_width: units of each hidden layer of the imagenet head; the paper's is 4096.
        dropout: share set to zero while training of each hidden layer of the head; of the small one, of the means.
        weights: public weights to start from, a file of torchvision's VGG, beside the page.
    """

    lane_keys: ClassVar[tuple[str, ...]] = ("dropout",)  # what lanes of one pack may have each of its own

    def __init__(
        self,
        shapes: Shapes,
        *,
        depth: Literal[11, 13, 16, 19] = 11,
        width: Annotated[int, Field(ge=1, le=1024)] = 64,
        batch_norm: bool = True,
        halvings: Annotated[int, Field(ge=1, le=5)] | Literal["auto"] = "auto",
        head: Literal["auto", "small", "imagenet"] = "auto",
        classifier_width: Annotated[int, Field(ge=1, le=65536)] = 4096,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5,
        weights: Annotated[str | None, Beside()] = None,
    ) -> None:
        super().__init__()
        self.public_weights = weights
        channels, height, wide = one_image(shapes, "vgg")
        fits = max(1, min(len(MULTIPLES), min(height, wide).bit_length() - 1))
        poolings = fits if halvings == "auto" else halvings
        refuse_small("model vgg", (height, wide), poolings, "model mlp" if halvings == "auto" else "fewer halvings")
        if head == "auto":
            head = "imagenet" if is_large(height, wide) else "small"
        features: list[nn.Module] = []
        for block, count in enumerate(BLOCKS[depth]):
            outside = width * MULTIPLES[block]
            for _ in range(count):
                # Its bias stays beside batch norm, which takes it out again, as in torchvision.
                features += [*convolution(channels, outside, 3, 1, batch_norm, bias=True), nn.ReLU()]
                channels = outside
            # An Identity, so that the layers behind are called as in torchvision.
            features.append(nn.MaxPool2d(2) if block < poolings else nn.Identity())
        self.features = nn.Sequential(*features)
        self.pooled = POOLED if head == "imagenet" else 1
        self.hidden = nn.Sequential()
        if head == "imagenet":
            self.hidden.extend([_linear(channels * POOLED**2, classifier_width), nn.ReLU(), nn.Dropout(dropout)])
            self.hidden.extend([_linear(classifier_width, classifier_width), nn.ReLU(), nn.Dropout(dropout)])
            channels = classifier_width
        else:
            self.hidden.append(nn.Dropout(dropout))
        self.head = _linear(channels, shapes.outputs)

    def forward(self, image: Tensor) -> Tensor:
        seen = self.features(image)
        pooled = seen.mean((2, 3)) if self.pooled == 1 else F.adaptive_avg_pool2d(seen, self.pooled).flatten(1)
        outputs: Tensor = self.head(self.hidden(pooled))
        return outputs


def _linear(inside: int, outside: int) -> nn.Linear:
    made = nn.Linear(inside, outside)
    nn.init.normal_(made.weight, 0.0, 0.01)
    nn.init.zeros_(made.bias)
    return made
