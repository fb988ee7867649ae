"""Public weights: our networks compute what the networks of other libraries compute with the same file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision_example
from model_example import CLASSES, data_of, image, make
from pack_example import alone, trainer
from safetensors.torch import load_file, save_file
from torch import nn
from train_example import MACHINE, page, part

import nnopt_ray
from nnopt_ray import reading
from nnopt_ray.data.types import Shapes
from nnopt_ray.errors import UserError
from nnopt_ray.models import public_weights
from nnopt_ray.rundir import TrialDir
from nnopt_ray.train.fit import fit

SIDE = 64


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Any:
    pytest.importorskip("transformers")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


def resnet(layer: str, outputs: int = CLASSES, depths: tuple[int, ...] = (2, 2, 2, 2)) -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    wide = 4 if layer == "bottleneck" else 1
    sizes = [8 * wide * 2**stage for stage in range(4)]
    config = ResNetConfig(embedding_size=8, hidden_sizes=sizes, depths=list(depths), layer_type=layer)
    config.num_labels = outputs
    return ResNetForImageClassification(config)


def vit(outputs: int = CLASSES, side: int = SIDE) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, image_size=side, patch_size=8
    )
    config.num_labels = outputs
    return ViTForImageClassification(config)


def efficientnet(outputs: int = CLASSES) -> nn.Module:
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    config = EfficientNetConfig(width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, image_size=SIDE)
    config.num_labels = outputs
    return EfficientNetForImageClassification(config)


VIT = {"size": "micro", "width": 24, "depth": 2, "heads": 3, "patch": 8, "pool": "token", "layer_norm_eps": 1e-12}
B0 = {"size": "b0", "stem": "imagenet", "padding": "same"}
NETWORKS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "resnet basic": (lambda: resnet("basic"), "resnet", {"depth": 18, "width": 8, "stem": "imagenet"}),
    "resnet bottleneck": (
        lambda: resnet("bottleneck", depths=(3, 4, 6, 3)),
        "resnet",
        {"depth": 50, "width": 8, "stem": "imagenet"},
    ),
    "vit": (vit, "vit", VIT),
    "efficientnet": (efficientnet, "efficientnet", B0),
}


OF_TORCHVISION: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "resnet basic": (
        lambda: torchvision_example.ResNet((2, 2, 2, 2), 8, False, CLASSES),
        "resnet",
        {"depth": 18, "width": 8, "stem": "imagenet"},
    ),
    "resnet bottleneck": (
        lambda: torchvision_example.ResNet((3, 4, 6, 3), 8, True, CLASSES),
        "resnet",
        {"depth": 50, "width": 8, "stem": "imagenet"},
    ),
    "vgg": (
        lambda: torchvision_example.VGG((1, 1, 2, 2, 2), 4, True, 16, CLASSES),
        "vgg",
        {"depth": 11, "width": 4, "classifier_width": 16, "head": "imagenet"},
    ),
    "vgg plain": (
        lambda: torchvision_example.VGG((2, 2, 4, 4, 4), 4, False, 16, CLASSES),
        "vgg",
        {"depth": 19, "width": 4, "classifier_width": 16, "head": "imagenet", "batch_norm": False},
    ),
    "efficientnet": (
        lambda: torchvision_example.EfficientNetB0(CLASSES),
        "efficientnet",
        {"size": "b0", "stem": "imagenet"},
    ),
    "vit": (
        lambda: torchvision_example.ViT(SIDE, 8, 24, 2, 3, CLASSES),
        "vit",
        {**VIT, "layer_norm_eps": 1e-6},
    ),
}
# The same networks at full width: torchvision's name → how it is written here.
NAMED: dict[str, Any] = {
    "resnet18": lambda: torchvision_example.ResNet((2, 2, 2, 2), 64, False, 1000),
    "resnet50": lambda: torchvision_example.ResNet((3, 4, 6, 3), 64, True, 1000),
    "vgg11_bn": lambda: torchvision_example.VGG((1, 1, 2, 2, 2), 64, True, 4096, 1000),
    "vgg19": lambda: torchvision_example.VGG((2, 2, 4, 4, 4), 64, False, 4096, 1000),
    "efficientnet_b0": lambda: torchvision_example.EfficientNetB0(1000),
    "vit_b_16": lambda: torchvision_example.ViT(224, 16, 768, 12, 12, 1000),
}


def shuffled(network: nn.Module) -> nn.Module:
    """With every weight and every mean and variance of batch norm drawn anew, so that none is a 0 or 1 that fits."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.3)
    for name, parameter in network.named_parameters():
        if "token" in name or "position" in name:
            nn.init.normal_(parameter, std=0.3)
    return network.eval()


def images(channels: int = 3, side: int = SIDE) -> torch.Tensor:
    return torch.randn(4, channels, side, side, generator=torch.Generator().manual_seed(2))


def ours(name: str, keys: dict[str, Any], channels: int = 3, outputs: int = CLASSES, side: int = SIDE) -> nn.Module:
    return make(name, Shapes("classification", image(channels, side, side), outputs), **{"dropout": 0.0, **keys}).eval()


def outputs_of(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        said = network(x)
    return said if isinstance(said, torch.Tensor) else said.logits


@pytest.mark.parametrize(
    ("case", "form"), [*((case, "folder") for case in NETWORKS), ("resnet basic", "pt"), ("vit", "names in memory")]
)
def test_transformers_networks_compute_the_same_here(case: str, form: str, tmp_path: Path) -> None:
    build, name, keys = NETWORKS[case]
    theirs = shuffled(build())
    place = tmp_path
    if form == "folder":
        theirs.save_pretrained(tmp_path)
    elif form == "pt":
        place = tmp_path / "weights.pt"
        torch.save({"epoch": 3, "state_dict": theirs.state_dict()}, place)
    else:
        place = tmp_path / "memory.safetensors"
        save_file(theirs.state_dict(), place)
    model = ours(name, keys)
    before = outputs_of(model, images())
    said = public_weights.put(model, str(place))
    assert "transformers'" in said
    assert ";" not in said  # nothing was left out, and nothing else is to be said
    assert not torch.allclose(before, outputs_of(theirs, images()), atol=1e-2)
    torch.testing.assert_close(outputs_of(model, images()), outputs_of(theirs, images()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", OF_TORCHVISION)
def test_networks_with_torchvisions_names_compute_the_same_here(case: str, tmp_path: Path) -> None:
    build, name, keys = OF_TORCHVISION[case]
    theirs = shuffled(build())
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    model = ours(name, keys)
    said = public_weights.put(model, str(tmp_path / "weights.pth"))
    assert "torchvision's" in said
    assert ";" not in said
    torch.testing.assert_close(outputs_of(model, images()), outputs_of(theirs, images()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMED)
def test_the_names_are_torchvisions(name: str) -> None:
    models = pytest.importorskip("torchvision").models
    with torch.device("meta"):
        theirs, written = getattr(models, name)().state_dict(), NAMED[name]().state_dict()
    shapes = [{key: tensor.shape for key, tensor in each.items()} for each in (theirs, written)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("case", NETWORKS)
def test_a_head_of_another_width_stays_and_all_else_is_taken(case: str, tmp_path: Path) -> None:
    build, name, keys = NETWORKS[case]
    theirs = shuffled(build())
    theirs.save_pretrained(tmp_path)
    model = ours(name, keys, outputs=5)
    head = model.head.weight.clone()
    said = public_weights.put(model, str(tmp_path))
    assert "head has 5 outputs here and 3 there, so it is not taken" in said
    assert torch.equal(model.head.weight, head)
    whole = ours(name, keys)
    public_weights.put(whole, str(tmp_path))
    whole.head, model.head = nn.Identity(), nn.Identity()
    assert torch.equal(outputs_of(model, images()), outputs_of(whole, images()))


@pytest.mark.parametrize("case", NETWORKS)
def test_grey_images_are_taken_as_three_equal_channels(case: str, tmp_path: Path) -> None:
    build, name, keys = NETWORKS[case]
    theirs = shuffled(build())
    theirs.save_pretrained(tmp_path)
    model = ours(name, keys, channels=1)
    assert "summed up for images of one" in public_weights.put(model, str(tmp_path))
    grey = images(1)
    torch.testing.assert_close(
        outputs_of(model, grey), outputs_of(theirs, grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4
    )


def test_positions_of_a_vit_follow_the_image_as_transformers_interpolates_them(tmp_path: Path) -> None:
    theirs = shuffled(vit())
    theirs.save_pretrained(tmp_path)
    model = ours("vit", VIT, side=96)
    public_weights.put(model, str(tmp_path))
    with torch.no_grad():
        said = theirs(images(side=96), interpolate_pos_encoding=True).logits
    torch.testing.assert_close(outputs_of(model, images(side=96)), said, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("case", "keys", "advice"),
    [
        ("vit", {"layer_norm_eps": 1e-6}, "layer_norm_eps: 1e-12"),
        ("vit", {"pool": "mean"}, "pool: token"),
        ("efficientnet", {"padding": "symmetric"}, "same"),
    ],
)
def test_keys_that_make_it_compute_otherwise_are_named(
    case: str, keys: dict[str, Any], advice: str, tmp_path: Path
) -> None:
    build, name, fitting = NETWORKS[case]
    build().save_pretrained(tmp_path)
    assert f"{advice} makes it compute as there" in public_weights.put(ours(name, {**fitting, **keys}), str(tmp_path))


def refused(model: nn.Module, place: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        public_weights.put(model, str(place))
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


def test_what_does_not_fit_is_refused_in_a_sentence(tmp_path: Path) -> None:
    shuffled(resnet("basic")).save_pretrained(tmp_path)
    keys = {"width": 8, "stem": "imagenet"}
    assert "no weight for the model's 'stages.0.2.branch.0.weight'" in refused(
        ours("resnet", {"depth": 34, **keys}), tmp_path
    )
    assert "has shape [8, 3, 7, 7]" in refused(ours("resnet", {"depth": 18, **keys, "width": 4}), tmp_path)
    assert "of transformers' ResNet, and the page's model is vit" in refused(ours("vit", VIT), tmp_path)
    plain = ours("resnet", {"depth": 18, **keys, "batch_norm": False})
    assert "no weight for the model's 'stem.0.bias'" in refused(plain, tmp_path)


class Opened:
    """Unpickling it runs code."""

    def __reduce__(self) -> Any:
        return (open, ("/nowhere", "w"))


def test_files_that_cannot_be_read_are_refused_in_a_sentence(tmp_path: Path) -> None:
    model = ours("resnet", {"depth": 8, "width": 4})
    torch.save({"weights": Opened()}, tmp_path / "code.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    save_file({"a.b": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "folder").mkdir()
    assert "nothing of it was run" in refused(model, tmp_path / "code.pt")
    assert "holds no tensors by name" in refused(model, tmp_path / "list.pt")
    assert "nothing of it was run" in refused(model, tmp_path / "text.pt")
    assert "is no safetensors file" in refused(model, tmp_path / "text.safetensors")
    assert "it has names such as 'a.b'" in refused(model, tmp_path / "other.safetensors")
    assert "has neither model.safetensors nor pytorch_model.bin" in refused(model, tmp_path / "folder")
    assert "there is no file" in refused(model, tmp_path / "nothing.pt")


# ── on a page ────────────────────────────────────────────────────────────────────────────────────────


def test_the_path_on_a_page_is_looked_up_beside_the_page(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_text("")
    text = "data: {source: {type: sklearn, name: digits}}\nmodel: {type: resnet, weights: weights.safetensors}\n"
    (tmp_path / "page.yaml").write_text(text)
    assert reading.load(tmp_path / "page.yaml").model["weights"] == str(tmp_path / "weights.safetensors")
    searched = text.replace("weights: weights.safetensors", "weights: {choice: [weights.safetensors, null]}")
    (tmp_path / "page.yaml").write_text(searched)
    (_, opened), *_ = reading.load(tmp_path / "page.yaml").space
    assert opened.values == (str(tmp_path / "weights.safetensors"), None)


def test_a_training_starts_from_them_and_goes_on_without_the_file(tmp_path: Path) -> None:
    """The file is read once, when the first epoch begins: what was trained does not need it any more."""
    keys = {"depth": 8, "width": 4}
    small = make("resnet", Shapes("classification", image(3, 8, 8), 5), seed=9, **keys)
    place = tmp_path / "weights.safetensors"
    save_file(small.state_dict(), place)
    data = data_of(Shapes("classification", image(3, 8, 8), CLASSES))
    experiment = page(model=part("resnet", **keys, weights=str(place)), optimizer=part("sgd", lr=1e-9), epochs=2)
    started = alone(experiment, data, epochs=1)
    assert "of a network of nnopt" in started.decided["weights"]
    assert "head has 3 outputs here and 5 there" in started.decided["weights"]
    torch.testing.assert_close(started.model.stem[0].weight, small.stem[0].weight)
    told: list[str] = []
    fit(experiment, data, MACHINE, {}, TrialDir(tmp_path / "trial"), on_note=told.append)
    assert told == [f"{started.decided['weights']}."]
    place.unlink()
    again = trainer(experiment, data)
    again.load_state(started.state())
    again.run_epoch()
    assert again.done
    with pytest.raises(UserError, match="there is no file"):
        alone(experiment, data)


def test_a_run_folder_is_whole_without_the_file(tmp_path: Path) -> None:
    """What is evaluated, and what another run starts from, are the weights that were trained."""
    keys = {"depth": 8, "width": 4}
    shapes = Shapes("classification", image(1, 8, 8), 10)
    place = tmp_path / "first.safetensors"
    save_file(make("resnet", shapes, seed=9, **keys).state_dict(), place)
    (tmp_path / "page.yaml").write_text(
        "data: {source: {type: sklearn, name: digits}}\n"
        "model: {type: resnet, depth: 8, width: 4, weights: first.safetensors}\n"
        "train: {epochs: 1}\nevaluate: {bootstrap: 0}\n"
    )
    run = nnopt_ray.run(reading.load(tmp_path / "page.yaml"), out=tmp_path / "runs")
    place.unlink()
    opened = nnopt_ray.open_run(run.path)
    again = opened.model()
    assert torch.equal(again.state_dict()["head.bias"], load_file(run.path / "best" / "model.safetensors")["head.bias"])
