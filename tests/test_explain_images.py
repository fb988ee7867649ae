"""Maps over images: Grad-CAM and its guided form, attention rollout, against hand computation and captum."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from explain_example import dataset, subject
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from nnopt_ray import tables
from nnopt_ray.data.types import Input, Shapes
from nnopt_ray.errors import UserError
from nnopt_ray.evaluate import pictures
from nnopt_ray.evaluate.explain import quiet
from nnopt_ray.evaluate.explain_images import (
    AttentionRollout,
    GradCam,
    GuidedGradCam,
    chosen_layer,
    guided_relus,
    rollout,
)
from nnopt_ray.models.vit import Attention, ViT

SHAPES = Shapes("classification", (Input("image", (3, 12, 12)),), 2)


class Small(nn.Module):
    """A convolution, a ReLU as a layer, as a function, and once more in place; the mean; a linear layer."""

    def __init__(self, channels: int = 3, width: int = 4, classes: int = 2, functions: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.relu, self.again = nn.ReLU(), nn.ReLU()
        self.head = nn.Linear(width, classes)
        self.functions = functions

    def forward(self, x: Tensor) -> Tensor:
        if self.functions:
            seen = functional.relu(self.first(x))
            return self.head(torch.relu_(self.second(seen)).mean((2, 3)))
        return self.head(self.again(self.second(self.relu(self.first(x)))).mean((2, 3)))


class Reused(Small):
    """The same, by one ReLU that is called twice and writes into what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(self.second(self.again(self.first(x)))).mean((2, 3)))


@pytest.mark.parametrize("network", [Small, Reused])
def test_grad_cam_is_what_its_formula_says(network: type[Small]) -> None:
    """Selvaraju et al. 2017, equations 1 and 2: of this network the mean gradient of a map is its last weight over the
    number of pixels, as the head reads the maps' means."""
    torch.manual_seed(1)
    model = network()
    asked = subject("image", model)
    with quiet():
        done = GradCam(layer="again").explain(asked)
    images, of = asked.inputs(done.rows)[0], asked.asked[done.rows]
    with torch.no_grad():
        maps = model.again(model.second(model.relu(model.first(images))))
        weights = model.head.weight[torch.from_numpy(of)] / maps[0, 0].numel()
        expected = torch.relu((weights[:, :, None, None] * maps).sum(1))
    np.testing.assert_allclose(np.array(done.values), expected.numpy(), atol=1e-7)


def _patched(rows: int, draws: np.random.Generator) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Images with upright stripes somewhere on the right; those of class 1 have level stripes on the left as well."""
    images = draws.normal(0, 0.1, size=(rows, 1, 16, 16)).astype(np.float32)
    classes = draws.integers(0, 2, rows)
    stripes = np.where(np.arange(4) % 2 == 0, 1.0, -1.0).astype(np.float32)
    places = [(int(draws.integers(0, 13)), int(draws.integers(0, 5))) for _ in range(rows)]
    for image, is_there, (down, across) in zip(images, classes, places, strict=True):
        other = int(draws.integers(0, 13))
        image[0, other : other + 4, across + 8 : across + 12] += stripes[None, :]
        if is_there:
            image[0, down : down + 4, across : across + 4] += stripes[:, None]
    return torch.from_numpy(images), torch.from_numpy(classes), places


def test_grad_cam_finds_what_decides_and_with_random_weights_does_not() -> None:
    """The second half: a map that stays when the weights go shows the image and not the network (Adebayo et al. 2018,
    arXiv:1810.03292)."""
    from captum.attr import LayerAttribution, LayerGradCam

    images, classes, places = _patched(160, np.random.default_rng(0))
    torch.manual_seed(0)
    model, random = Small(1, 8), Small(1, 8)
    random.load_state_dict(model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(50):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), classes).backward()
        optimizer.step()
    assert (model(images).argmax(1) == classes).float().mean() > 0.97
    name, _ = chosen_layer(model, Shapes("classification", (Input("image", (1, 16, 16)),), 2), None)
    assert name == "again"
    there = torch.nonzero(classes == 1)[:40, 0]
    shares = []
    for network in (model, random):
        with quiet():
            found = LayerGradCam(network, network.again).attribute(images[there], 1, relu_attributions=True).detach()
        large = LayerAttribution.interpolate(found, (16, 16)).numpy()
        inside = [
            map_[0, down : down + 4, across : across + 4].sum() / max(map_.sum(), 1e-9)
            for map_, (down, across) in zip(large, [places[row] for row in there], strict=True)
        ]
        shares.append(float(np.mean(inside)))
    assert shares[0] > 0.5  # the patch is 16 of 256 pixels: 0.06 by chance
    assert shares[1] < 0.4


def test_guided_gradients_are_captums_and_the_same_for_functions_in_place() -> None:
    from captum.attr import GuidedBackprop

    torch.manual_seed(2)
    model, same, reused = Small(), Small(functions=True), Reused()
    same.load_state_dict(model.state_dict())
    reused.load_state_dict(model.state_dict())
    images = torch.randn(3, 3, 12, 12, requires_grad=True)
    with quiet():
        expected = GuidedBackprop(model).attribute(images, 1)
    for network in (model, same, reused):
        with guided_relus() as met:
            (found,) = torch.autograd.grad(network(images)[:, 1].sum(), images)
        assert len(met) == 2
        torch.testing.assert_close(found, expected)
    (plain,) = torch.autograd.grad(model(images)[:, 1].sum(), images)
    assert not torch.allclose(plain, expected)


def test_guided_grad_cam_is_the_product_of_both() -> None:
    torch.manual_seed(3)
    asked = subject("image", Small())
    with quiet():
        done, cam = GuidedGradCam().explain(asked), GradCam().explain(asked)
    images, of = asked.inputs(done.rows)[0].requires_grad_(), torch.from_numpy(asked.asked[done.rows])
    with guided_relus():
        (back,) = torch.autograd.grad(asked.model(images).gather(1, of[:, None]).sum(), images)
    np.testing.assert_allclose(np.array(done.values), np.array(cam.values) * back.sum(1).numpy(), atol=1e-8)


def test_guided_grad_cam_of_a_network_without_relus_says_what_to_use() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(4 * 144, 2))
    with pytest.raises(UserError, match="use grad_cam"), quiet():
        GuidedGradCam().explain(subject("image", net))


@pytest.mark.parametrize(
    ("model", "keys", "layer", "size"),
    [
        ("resnet", {"depth": 8, "width": 4}, "stages", 4),
        ("resnet", {"depth": 18, "width": 4}, "stages.2", 4),
        ("vgg", {"width": 4}, "features.9", 4),
        ("efficientnet", {}, "top", 4),
    ],
)
def test_the_last_layer_with_maps_is_found(model: str, keys: dict[str, int], layer: str, size: int) -> None:
    shapes = Shapes("classification", (Input("image", (3, 16, 16)),), 2)
    built = tables.find("model", model)(shapes, **keys)
    name, module = chosen_layer(built, shapes, None)
    sizes: list[torch.Size] = []
    module.register_forward_hook(lambda _, __, out: sizes.append(out.shape))
    built.eval()(torch.zeros(1, 3, 16, 16))
    assert min(sizes[0][2:]) == size
    assert name.startswith(layer.split(".")[0])


def test_a_layer_by_name_and_what_is_no_map() -> None:
    model = Small()
    assert chosen_layer(model, SHAPES, "first")[1] is model.first
    with pytest.raises(UserError, match=r"finds no layer 'secnd'.*Did you mean 'second'"):
        chosen_layer(model, SHAPES, "secnd")
    with pytest.raises(UserError, match="the layer 'head' gives none"):
        chosen_layer(model, SHAPES, "head")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(432, 2))
    assert GradCam().refusal(SHAPES, flat) == "reads the maps of convolutions, and this network has none"


def test_rollout_of_even_attention_is_even_and_of_one_block_what_its_formula_says() -> None:
    shapes = dataset("image").shapes
    torch.manual_seed(0)
    images = torch.randn(2, 3, 12, 12)
    for pool in ("token", "mean"):
        model = ViT(shapes, depth=3, width=16, heads=2, patch=3, pool=pool).eval()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, Attention):
                    module.qkv.weight.zero_()
        maps, blocks, grid = rollout(model, images)
        assert (blocks, grid) == (3, (4, 4))
        np.testing.assert_allclose(maps, maps[0, 0, 0], rtol=1e-5)
    model = ViT(shapes, depth=1, width=16, heads=2, patch=3, pool="token").eval()
    seen: list[Tensor] = []
    attention = next(module for module in model.modules() if isinstance(module, Attention))
    attention.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    maps, _, _ = rollout(model, images)
    query, key, _ = attention.qkv(seen[0].clone()).chunk(3, dim=2)
    shares = [
        torch.softmax(query[:, :, part] @ key[:, :, part].transpose(1, 2) / 8**0.5, dim=2)
        for part in (slice(0, 8), slice(8, 16))
    ]
    expected = (sum(shares) / 2)[:, 0, 1:] / 2  # the class token's; the identity has nothing off its diagonal
    np.testing.assert_allclose(maps[:, ::3, ::3].reshape(2, -1), expected.detach().numpy(), atol=1e-6)


def test_rollout_refuses_another_network() -> None:
    assert "another" in AttentionRollout().refusal(SHAPES, Small())


def test_images_are_shown_as_people_know_them() -> None:
    """What the step scale did is undone to the byte."""
    data = dataset("image")
    given = np.load(data.folder.parents[1] / "images.npz")["x"]
    rows = np.asarray(data.test.source_rows)
    found = pictures.unscaled(np.array(data.test.inputs[0]), data.folder)
    np.testing.assert_array_equal(found.round().astype(np.uint8), given[rows])
    top = pictures.white(found)
    assert top == 255.0
    shown = Image.open(io.BytesIO(base64.b64decode(pictures.picture(found[0], top)))).convert("RGB")
    assert max(shown.size) == 120  # 12 pixels, each 10 times
    # The picture has 64 colours, so that the colours of 144 pixels are near.
    off = np.asarray(shown)[5::10, 5::10].astype(float) - given[rows[0]].transpose(1, 2, 0)
    assert np.abs(off).mean() < 16


@pytest.mark.parametrize(("values", "top"), [([0.0, 1.0], 1.0), ([0.0, 16.0], 16.0), ([3.0, 250.0], 255.0)])
def test_white(values: list[float], top: float) -> None:
    assert pictures.white(np.array(values)) == top


def test_a_map_is_laid_over_where_it_is_largest() -> None:
    values = np.zeros((8, 8))
    values[6, 1], values[1, 6] = 1.0, -1.0
    png = pictures.overlaid(np.full((1, 8, 8), 0.5), 1.0, values, signed=True)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")).astype(int)
    red, blue = shown[6 * 16 + 8, 16 + 8], shown[16 + 8, 6 * 16 + 8]
    assert red[0] > red[2] + 100
    assert blue[2] > blue[0] + 100
    assert np.ptp(shown[8, 8]) < 5
    even = pictures.overlaid(np.full((1, 8, 8), 0.5), 1.0, np.zeros((8, 8)), signed=False)
    assert len(even) < 1000
