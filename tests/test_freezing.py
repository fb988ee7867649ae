"""Frozen layers and rates for each layer: what a layer is, and torch.optim with groups of weights as reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lane_example import made
from model_example import EXAMPLES, make, shapes_of
from pack_example import alone, differences, together, trainer
from torch import Tensor, nn
from train_example import MACHINE, dataset, page, part

from nnopt_ray import assembly, pipeline, reading
from nnopt_ray.data.types import Input
from nnopt_ray.errors import UserError
from nnopt_ray.models import MODELS
from nnopt_ray.reading.notes import notes
from nnopt_ray.rundir import TrialDir
from nnopt_ray.train.fit import fit
from nnopt_ray.train.fusible import CannotFuse
from nnopt_ray.train.layer_rates import runs, shares
from nnopt_ray.train.layers import layers_of
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.shape import Shape

MLP = part("mlp", widths=(8, 8, 8), norm="batch", dropout=0.1)


pytestmark = pytest.mark.usefixtures("one_thread")


class Own(nn.Module):
    """Says its layers itself; what it leaves out, a scale, is of the first."""

    def __init__(self, shapes: Any) -> None:
        super().__init__()
        self.last = nn.Linear(8, shapes.outputs)
        self.first = nn.Linear(shapes.features, 8)
        self.norm = nn.BatchNorm1d(8)
        self.scale = nn.Parameter(torch.ones(8))

    def layer_groups(self) -> list[list[nn.Module]]:
        return [[self.first, self.norm], [self.last]]

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x.flatten(1))).relu() * self.scale)


class Alone(nn.Module):
    def __init__(self, shapes: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(shapes.features, shapes.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


def trained(**said: Any) -> tuple[dict[str, Tensor], Trainer]:
    """Weights and buffers before, and the trainer after its training."""
    one = Trainer(page(**said), dataset(), MACHINE, {})
    before = {name: tensor.clone() for name, tensor in one.model.state_dict().items()}
    while not one.done:
        one.run_epoch()
    return before, one


# What a layer is


@pytest.mark.parametrize("name", [name for name in MODELS if name != "baseline"])
def test_every_weight_of_every_model_is_in_one_layer_and_the_head_is_last(name: str) -> None:
    kind = next(iter(EXAMPLES[name].takes))
    model = make(name, shapes_of(kind, "classification"))
    layers = layers_of(model)
    assert sorted(each for layer in layers for each in layer) == sorted(name for name, _ in model.named_parameters())
    assert all(layers)
    assert len(layers) > 1
    assert {each.partition(".")[0] for each in layers[-1]} == {"head"}
    order = [each for each, _ in model.named_parameters()]
    firsts = [min(order.index(each) for each in layer) for layer in layers]
    assert firsts == sorted(firsts)


def test_layers_of_known_networks() -> None:
    from nnopt_ray.data.types import Shapes
    from nnopt_ray.models.bert import BERT
    from nnopt_ray.models.resnet import ResNet
    from nnopt_ray.models.vit import ViT

    image = Shapes("classification", (Input("image", (3, 32, 32)),), 10)
    text = Shapes("classification", (Input("tokens", (8,), (20,)),), 2)
    resnet = layers_of(ResNet(image, depth=20))
    assert len(resnet) == 1 + 9 + 1  # stem, blocks, head: its stem's norm is part of it
    assert {each.split(".")[0] for each in resnet[0]} == {"stem"}
    bert = layers_of(BERT(text, size="mini"))
    assert [len({each.split(".")[0] for each in layer}) for layer in bert] == [4, 1, 1, 1, 1, 1, 1]
    assert {each.split(".")[0] for each in bert[0]} == {"tokens", "positions", "types", "norm"}
    vit = layers_of(ViT(image))
    assert {"positions", "patches.weight"} <= set(vit[0])
    assert any(each.startswith("norm.") for each in vit[-2])


def test_a_model_may_say_its_layers() -> None:
    own = Own(dataset().shapes)
    assert layers_of(own) == [["scale", "first.weight", "first.bias", "norm.weight", "norm.bias"],
                              ["last.weight", "last.bias"]]  # fmt: skip


# Freezing


@pytest.mark.parametrize("first", ["all_but_head", 1, 2])
def test_frozen_layers_stay_as_they_are_and_the_others_do_not(first: Any) -> None:
    before, one = trained(model=MLP, freeze=first, optimizer=part("adamw", lr=0.05, weight_decay=0.1), clip_norm=1.0)
    layers = layers_of(one.model)
    frozen = {name for layer in layers[: 3 if first == "all_but_head" else first] for name in layer}
    after = one.model.state_dict()
    for name in before:
        owner = name.rpartition(".")[0]
        still = name in frozen or any(each.startswith(f"{owner}.") for each in frozen)  # a norm's statistics too
        assert torch.equal(before[name], after[name]) == still, name
    assert one.weights.flat.numel() == sum(p.numel() for n, p in one.model.named_parameters() if n not in frozen)
    assert "keeps its statistics" in one.decided["frozen"]


def test_the_head_alone_is_trained_as_torch_optim_trains_it() -> None:
    data, said = dataset(), {"model": part("mlp", widths=(8,)), "optimizer": part("adam", lr=0.05)}
    one = Trainer(page(freeze="all_but_head", epochs=1, **said), data, MACHINE, {})
    model = Trainer(page(**said), data, MACHINE, {}).model
    optimizer = torch.optim.Adam(model.head.parameters(), lr=0.05)
    for chosen in one.feed.order(one.epoch).split(32):
        rows, target = torch.from_numpy(data.train.inputs[0])[chosen], torch.from_numpy(data.train.target)[chosen]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(rows), target).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    one.run_epoch()
    for name, tensor in one.model.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], msg=name)


def test_a_run_says_what_is_frozen(tmp_path: Path) -> None:
    told: list[str] = []
    said = page(model=part("mlp", widths=(8,), norm="batch"), freeze=1, epochs=1)
    fit(said, dataset(), MACHINE, {}, TrialDir(tmp_path / "trial"), on_note=told.append)
    # 6 inputs: 6 * 8 weights, 8 biases, 8 scales and 8 shifts; the head has 8 * 3 + 3.
    assert told == ["Frozen: the first 1 of 2 layers, 72 of 99 weights, whose batch norm keeps its statistics."]


@pytest.mark.parametrize(
    ("model", "first", "told"),
    [
        ("mlp", 3, "is 3, and the network has 2 layers in front of its head"),
        (f"{__name__}:Alone", "all_but_head", "one layer, which is its head"),
    ],
)
def test_more_layers_than_there_are_cannot_be_frozen(model: str, first: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        Trainer(page(model=part(model), freeze=first), dataset(), MACHINE, {})


def test_the_baseline_has_no_part_in_it_and_random_weights_are_noted() -> None:
    tree = {
        "data": {"source": {"type": "sklearn", "name": "wine"}},
        "model": "mlp",
        "train": {"epochs": 1, "freeze": 2, "layer_decay": 0.5},
    }
    experiment = reading.from_tree(tree)
    assert any("first weights" in note for note in notes(experiment))
    data, where = pipeline.prepared(experiment), assembly.machine_for(experiment)
    assembly.baseline_model(experiment, data, where)  # it has one layer, or none


def test_lanes_do_without_it() -> None:
    with pytest.raises(CannotFuse, match="frozen"):
        Shape(trainer(page(model=part("mlp", widths=(8,)), freeze=1), dataset()))


# A rate for each layer


def test_the_rate_falls_by_layers_and_covers_all_weights() -> None:
    model = Trainer(page(model=MLP), dataset(), MACHINE, {})
    found = shares(model.model, 0.5)
    assert found["head.weight"] == 1.0
    assert found["hidden.2.layers.0.weight"] == found["hidden.2.layers.1.bias"] == 0.5
    assert found["hidden.0.layers.0.weight"] == 0.125
    pieces = runs(model.model, model.weights.layout, 0.5)
    assert [piece[0] for piece in pieces] == [0, *(piece[1] for piece in pieces[:-1])]
    assert pieces[-1][1] == model.weights.flat.numel()


OPTIMIZERS: dict[str, tuple[Any, Any]] = {
    "adam": (part("adam", lr=0.02), lambda groups: torch.optim.Adam(groups, lr=0.02)),
    "adamw": (part("adamw", lr=0.02, weight_decay=0.3), lambda groups: torch.optim.AdamW(groups, weight_decay=0.3)),
    "sgd": (part("sgd", lr=0.02, momentum=0.9), lambda groups: torch.optim.SGD(groups, lr=0.02, momentum=0.9)),
    "rmsprop": (part("rmsprop", lr=0.02), lambda groups: torch.optim.RMSprop(groups, lr=0.02)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_torch_optim_with_a_group_for_each_layer(name: str) -> None:
    data, said = dataset(), {"model": part("mlp", widths=(8, 8)), "clip_norm": 1.0, "epochs": 2}
    chosen, reference = OPTIMIZERS[name]
    one = Trainer(page(optimizer=chosen, layer_decay=0.3, **said), data, MACHINE, {})
    model = Trainer(page(optimizer=chosen, **said), data, MACHINE, {}).model
    groups = []
    for place, module in enumerate((model.hidden[0], model.hidden[1], model.head)):
        linear = module if isinstance(module, nn.Linear) else module.layers[0]
        groups.append({"params": [linear.weight], "lr": 0.02 * 0.3 ** (2 - place)})
        groups.append({"params": [linear.bias], "lr": 0.02 * 0.3 ** (2 - place), "weight_decay": 0.0})
    optimizer = reference(groups)
    while not one.done:
        for rows in one.feed.order(one.epoch).split(32):
            inputs, target = torch.from_numpy(data.train.inputs[0])[rows], torch.from_numpy(data.train.target)[rows]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), target).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        one.run_epoch()
    for key, tensor in one.model.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[key], msg=key, rtol=1e-3, atol=1e-4)


def test_the_soft_threshold_goes_with_the_rate() -> None:
    """A layer that hardly moves is hardly made sparse: rate and threshold are both lr * share."""
    _, one = trained(model=part("mlp", widths=(8, 8)), optimizer=part("sgd", lr=0.05), l1=0.3, l1_form="proximal",
                     layer_decay=1e-3, epochs=20)  # fmt: skip
    zeros = [float((layer.weight == 0).float().mean()) for layer in one.model.modules() if isinstance(layer, nn.Linear)]
    assert zeros[0] == 0.0
    assert zeros[-1] > 0.3


def test_a_decay_of_one_is_the_plain_training() -> None:
    _, plain = trained(model=MLP)
    _, one = trained(model=MLP, layer_decay=1.0)
    _, other = trained(model=MLP, layer_decay=0.9)
    assert torch.equal(plain.weights.flat, one.weights.flat)
    assert not torch.equal(plain.weights.flat, other.weights.flat)


def test_an_optimizer_that_needs_all_weights_at_once_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnopt_ray.train.optimizers import Adam

    monkeypatch.setattr(Adam, "elementwise", False)
    with pytest.raises(UserError, match=r"layer_decay.*Adam takes one for all weights"):
        Trainer(page(model=MLP, layer_decay=0.9), dataset(), MACHINE, {})


def test_lanes_have_each_their_own() -> None:
    data = made("classification", (Input("table", (12,)),))
    experiments = [page(model=part("mlp", widths=(16,)), layer_decay=decay, seed=1) for decay in (1.0, 0.5, 0.1)]
    for experiment, lane in zip(experiments, together(experiments, data, 3), strict=True):
        found = differences(alone(experiment, data), lane)
        assert found.pop("train_loss") < 1e-6
        assert set(found.values()) == {0.0}, found
