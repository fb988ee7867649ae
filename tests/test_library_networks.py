"""Networks of transformers and timm: made here with random weights, saved to a folder, and taken from there."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from model_example import batch
from pack_example import alone, differences, together
from torch import nn
from train_example import MACHINE, dataset, page, part

from nnopt_ray import tables
from nnopt_ray.data.types import Dataset, Input, Rows, Shapes
from nnopt_ray.errors import MissingExtra, PartError, UserError
from nnopt_ray.models.hf_networks import _transformers
from nnopt_ray.train.fusible import CannotFuse
from nnopt_ray.train.layers import layers_of
from nnopt_ray.train.loop import Trainer

TEXT = Shapes("classification", (Input("tokens", (6,), (30,)),), 3)
IMAGE = Shapes("classification", (Input("image", (3, 16, 16)),), 3)
GREY = Shapes("regression", (Input("image", (1, 8, 8)),), 2)

CONFIGS: dict[str, Any] = {
    "bert": lambda: transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32
    ),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=30, n_embd=16, n_layer=2, n_head=2, n_positions=16),
    "vit": lambda: transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4
    ),
    "resnet": lambda: transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_channels=3
    ),
}
SHAPES = {"bert": TEXT, "gpt2": TEXT, "vit": IMAGE, "resnet": IMAGE}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind → a folder with such a network, saved without a head for this data."""
    torch.set_num_threads(1)
    _transformers("any")  # it says nothing from here on
    folders = {}
    for kind, config in CONFIGS.items():
        torch.manual_seed(1)
        folders[kind] = tmp_path_factory.mktemp(kind)
        transformers.AutoModel.from_config(config()).save_pretrained(folders[kind])
    return folders


def built(place: Any, shapes: Shapes, seed: int = 0, **keys: Any) -> nn.Module:
    name = f"hf/{place}"
    torch.manual_seed(seed)
    checked = tables.keys("model", name)(**keys)
    model: nn.Module = tables.find("model", name)(shapes, **dict(checked))
    return model


def data_of(shapes: Shapes, rows: int = 24) -> Dataset:
    inputs = tuple(each.numpy() for each in batch(shapes, rows))
    target = torch.arange(rows).numpy() % shapes.outputs
    part_ = Rows(inputs, target, torch.arange(rows).numpy())
    return replace(dataset(), shapes=shapes, train=part_, validation=part_)


@pytest.mark.parametrize("kind", CONFIGS)
def test_it_computes_what_transformers_computes(kind: str, saved: dict[str, Path]) -> None:
    shapes = SHAPES[kind]
    model = built(saved[kind], shapes).eval()
    auto = (
        transformers.AutoModelForSequenceClassification
        if shapes.tokens
        else transformers.AutoModelForImageClassification
    )
    reference = auto.from_pretrained(saved[kind], num_labels=3, **({"pad_token_id": 0} if shapes.tokens else {})).eval()
    mine = dict(model.named_parameters())
    with torch.no_grad():  # the heads are new, each its own
        for name, weight in reference.named_parameters():
            if not name.startswith(f"{reference.base_model_prefix}.") or "pooler" in name:
                weight.copy_(mine[f"network.{name}"])
            else:
                assert torch.equal(weight, mine[f"network.{name}"]), name
    rows = batch(shapes, 5)[0]
    if shapes.tokens:
        rows[0, 3:] = 0
        expected = reference(input_ids=rows, attention_mask=(rows != 0).long()).logits
    else:
        expected = reference(pixel_values=rows).logits
    found = model(rows)
    assert found.shape == (5, 3)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", CONFIGS)
def test_it_trains_by_layers_and_resumes_to_the_bit(kind: str, saved: dict[str, Path]) -> None:
    data = data_of(SHAPES[kind])
    said = page(
        model=part(f"hf/{saved[kind]}", pretrained=True, dropout=None),
        layer_decay=0.8,
        freeze=1,
        epochs=3,
        batch_size=8,
    )
    whole, first, second = (Trainer(said, data, MACHINE, {}) for _ in range(3))
    before = first.model.state_dict()
    frozen = {name for name, weight in first.model.named_parameters() if not weight.requires_grad}
    assert frozen == set(layers_of(first.model)[0])
    before = {name: before[name].clone() for name in frozen}
    while not whole.done:
        whole.run_epoch()
    first.run_epoch()
    second.load_state(first.state())
    while not second.done:
        second.run_epoch()
    assert torch.equal(whole.weights.flat, second.weights.flat)
    assert whole.history[-1].metrics["train_loss"] < whole.history[0].metrics["train_loss"]
    after = second.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in frozen)


def test_layers_are_embeddings_blocks_and_head(saved: dict[str, Path]) -> None:
    bert = layers_of(built(saved["bert"], TEXT))
    assert len(bert) == 1 + 3 + 1 + 1
    assert all(".embeddings." in name for name in bert[0])
    assert all(".layer.1." in name for name in bert[2])
    assert all(".pooler." in name for name in bert[4])
    assert all(name.startswith("network.classifier") for name in bert[5])
    assert layers_of(built(saved["gpt2"], TEXT))[-1] == ["network.score.weight"]


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_grey_images_of_another_size(kind: str, saved: dict[str, Path]) -> None:
    rows = batch(GREY, 4)[0]
    assert built(saved[kind], GREY)(rows).shape == (4, 2)
    own = built(saved[kind], GREY, pretrained=False)
    assert own(rows).shape == (4, 2)
    assert own.network.config.num_channels == 1
    grey = built(saved[kind], GREY).eval()
    large = nn.functional.interpolate(rows, (16, 16), mode="bilinear") if kind == "vit" else rows
    torch.testing.assert_close(grey(rows), grey(large.expand(-1, 3, -1, -1)))


def test_dropout_and_first_weights_follow_the_page(saved: dict[str, Path]) -> None:
    model = built(saved["bert"], TEXT, dropout=0.4)
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.4}
    one, same, other = (built(saved["bert"], TEXT, seed=seed, pretrained=False) for seed in (1, 1, 2))
    weights = [torch.cat([p.flatten() for p in each.parameters()]) for each in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    with pytest.raises(UserError, match="has no dropout"):
        built(saved["resnet"], IMAGE, dropout=0.4)


@pytest.mark.parametrize(
    ("kind", "shapes", "told"),
    [
        ("bert", IMAGE, "takes no images"),
        ("vit", TEXT, "no text|one text per row"),
        ("bert", Shapes("classification", (Input("tokens", (6,), (99,)),), 3), "knows 30 tokens, and this data has 99"),
        ("bert", Shapes("language_modelling", (Input("tokens", (6,), (30,)),), 30), "use bert or gpt"),
        ("bert", Shapes("classification", (Input("table", (6,)),), 3), "one image per row"),
        ("gpt2", Shapes("classification", (Input("tokens", (60,), (30,)),), 3), "16 positions"),
    ],
)
def test_what_does_not_fit_is_told(kind: str, shapes: Shapes, told: str, saved: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=told):
        built(saved[kind], shapes)


def test_what_is_not_here_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a folder that transformers saved to nor in its local cache"):
        built(tmp_path / "nothing", TEXT)
    with pytest.raises(PartError, match="needs a name"):
        tables.find("model", "hf/")


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for library, package in (("hf", "transformers"), ("timm", "timm")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtra, match=rf"needs the package {package}: pip install 'nnopt-ray\[pretrained\]'"):
            tables.find("model", f"{library}/never-asked-for")


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_lanes_of_images_are_the_trainings_alone(kind: str, saved: dict[str, Path]) -> None:
    data, model = data_of(SHAPES[kind]), part(f"hf/{saved[kind]}", pretrained=True, dropout=None)
    experiments = [
        page(model=model, seed=seed, batch_size=8, epochs=2, optimizer=part("adam", lr=1e-4)) for seed in (1, 2)
    ]
    for experiment, lane in zip(experiments, together(experiments, data, 2), strict=True):
        found = differences(alone(experiment, data), lane)
        assert max(value for name, value in found.items() if name.startswith(("val", "train"))) < 1e-3, found


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_lanes_of_texts_are_refused_with_the_reason(kind: str, saved: dict[str, Path]) -> None:
    """transformers asks whether any token is masked."""
    experiment = page(model=part(f"hf/{saved[kind]}", pretrained=True, dropout=None), batch_size=8)
    with pytest.raises(CannotFuse, match="asks for the number in a tensor"):
        together([experiment], data_of(TEXT), 2)


def test_it_stands_on_a_page_like_any_other(saved: dict[str, Path]) -> None:
    import jsonschema

    from nnopt_ray import reading
    from nnopt_ray.errors import PageError
    from nnopt_ray.reading.describing import describe
    from nnopt_ray.reading.schema import schema

    name = f"hf/{saved['bert']}"
    tree = {"data": {"source": {"type": "csv", "path": "texts.csv"}}, "model": {"type": name, "dropout": 0.2}}
    assert reading.from_tree(tree).model["pretrained"] is True
    jsonschema.Draft202012Validator(schema()).validate(tree)
    assert "first weights" in describe("model", name, width=80)
    assert "hf/NAME" in describe("model", None, width=200)
    with pytest.raises(PageError, match=r"model.dropout: .* it is 2"):
        reading.from_tree({**tree, "model": {"type": name, "dropout": 2}})
    with pytest.raises(PageError, match="Did you mean 'pretrained'"):
        reading.from_tree({**tree, "model": {"type": name, "pretrain": True}})


# timm, where it can be imported: its torchvision must be of torch's own build.


def timm_is_here() -> bool:
    if importlib.util.find_spec("timm") is None:
        return False
    try:
        importlib.import_module("timm")
    except RuntimeError:
        return False
    return True


@pytest.mark.skipif(not timm_is_here(), reason="no timm")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "test_efficientnet"])
def test_networks_of_timm(name: str, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    shapes = Shapes("classification", (Input("image", (1, 32, 32)),), 3)
    made: nn.Module = tables.find("model", f"timm/{name}")(shapes, dropout=0.1)
    rows = batch(shapes, 4)[0]
    assert made(rows).shape == (4, 3)
    layers = layers_of(made)
    assert sorted(each for layer in layers for each in layer) == sorted(each for each, _ in made.named_parameters())
    assert len(layers) > 3
    size = {"img_size": 32} if name.startswith("vit") else {}
    reference = timm.create_model(name, **size)
    save_file(reference.state_dict(), tmp_path / "weights.safetensors")
    loaded = tables.find("model", f"timm/{name}")(
        Shapes("classification", (Input("image", (3, 32, 32)),), 3), weights=str(tmp_path / "weights.safetensors")
    )
    head = set(layers_of(loaded)[-1])
    for key, weight in reference.named_parameters():
        if f"network.{key}" not in head:
            assert torch.equal(weight, loaded.get_parameter(f"network.{key}")), key
    with pytest.raises(UserError, match="not in the local cache"):
        tables.find("model", f"timm/{name}")(shapes, pretrained=True)
    with pytest.raises(PartError, match="timm has no network"):
        tables.find("model", "timm/resnet_of_nobody")
