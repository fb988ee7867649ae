"""Lanes: each is the training alone, whatever is beside it; what cannot be a lane is refused."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import lane_example
import model_example
import pytest
import torch
import torch.nn.functional as F
from pack_example import alone, differences, together, trainer
from train_example import page, part

from nnopt_ray.data.types import Dataset, Input
from nnopt_ray.errors import NotANumber
from nnopt_ray.experiment import Experiment
from nnopt_ray.recipe import Ema, Swa
from nnopt_ray.tables import Part
from nnopt_ray.train import masks
from nnopt_ray.train.lanes import CannotFuse, Pack, Shape
from nnopt_ray.train.loop import Trainer

dropout_of_torch = F.dropout
pytestmark = pytest.mark.usefixtures("one_thread")


WIDE = lane_example.made("classification", (Input("table", (20,)),), rows=150)
TABLE = lane_example.made("classification", (Input("table", (8,)),))
NUMBERS = lane_example.made("regression", (Input("table", (8,)),))
IMAGES = lane_example.made("classification", (Input("image", (2, 8, 8)),))
MIXED = lane_example.made("classification", (Input("table", (4,)), Input("categories", (2,), (5, 3))))
SERIES, SERIES_OF_LENGTHS, TEXTS, HIDDEN, FOLLOWING = (
    model_example.data_of(model_example.shapes_of(kind, task), rows=75)
    for kind, task in (
        ("sequence", "regression"),
        ("sequence_lengths", "classification"),
        ("tokens", "classification"),
        ("tokens", "masked_language_modelling"),
        ("tokens", "language_modelling"),
    )
)

# One page's training each: all optimizers, schedules, clipping, decisions.
TRAININGS: list[dict[str, Any]] = [
    {"optimizer": part("adam", lr=0.01, weight_decay=0.01), "l1": 1e-3, "clip_norm": 0.2, "epochs": 4},
    {"optimizer": part("adamw", lr=0.02), "schedule": part("cosine"), "warmup_epochs": 1.5, "epochs": 3},
    {"optimizer": part("sgd", lr=0.1, momentum=0.9, nesterov=True), "clip_value": 0.02, "epochs": 5},
    {
        "optimizer": part("rmsprop", lr=0.01, momentum=0.5, centered=True),
        "schedule": part("reduce_on_plateau", patience=0, factor=0.3),
        "epochs": 4,
    },
    {
        "optimizer": part("sgd", lr=0.05, momentum=0.8, dampening=0.1, weight_decay=0.01),
        "weight_decay_on": "all",
        "early": {"monitor": "val_loss", "patience": 1, "min_delta": 0.1, "restore_best_weights": True},
        "epochs": 5,
    },
    {"optimizer": part("rmsprop", lr=0.003, weight_decay=0.1), "schedule": part("one_cycle"), "epochs": 2},
    {
        "optimizer": part("sgd", lr=0.1),
        "schedule": part("step", every_epochs=1),
        "l1": 0.01,
        "l1_form": "proximal",
        "epochs": 3,
    },
]


def pages(model: Part, varied: Mapping[str, tuple[str, list[Any]]] | None = None, **both: Any) -> list[Experiment]:
    """The pages of TRAININGS. varied: "model" or "loss" → a key and its values, one a page in turn."""
    made = []
    slower = both.pop("slower", 1.0)
    for number, training in enumerate(TRAININGS):
        optimizer = training["optimizer"]
        training = training | {"optimizer": part(optimizer.type, **{**optimizer.keys, "lr": optimizer["lr"] * slower})}
        parts = {"model": model, "loss": both.get("loss", part("auto"))}
        for room, (key, values) in (varied or {}).items():
            parts[room] = part(parts[room].type, **{**parts[room].keys, key: values[number % len(values)]})
        made.append(page(**{"seed": number, "batch_size": 32, **training, **both, **parts}))
    return made


MLP = {"widths": (16,), "activation": "relu", "norm": "none", "dropout": 0.0, "residual": False}


def mlp(**keys: Any) -> Part:
    return part("mlp", **{**MLP, "embedding_dim": "auto", **keys})


def own(name: str, **keys: Any) -> Part:
    return part(f"lane_example:{name}", **keys)


RATES = {"model": ("dropout", [0.1, 0.5, 0.3])}
SMOOTHED = {"loss": ("label_smoothing", [0.1, 0.02, 0.3])}
# family → data, model, what varies among the lanes, what all have, how far numbers may be apart.
ROUNDING, CHAOS = 2e-5, 0.02
SLOWER = {"slower": 0.1}  # at rates at which a Transformer diverges, rounding grows to 1e-2 of the loss
FAMILIES: dict[str, tuple[Dataset, Part, Any, dict[str, Any], float]] = {
    "mlp": (WIDE, mlp(), {}, {}, 0.0),
    "mlp dropout": (WIDE, mlp(dropout=0.1), RATES, {}, 0.0),
    "mlp gelu residual": (WIDE, mlp(activation="gelu", residual=True), {}, {}, 0.0),
    "mlp smoothed": (WIDE, mlp(), SMOOTHED, {"loss": part("cross_entropy")}, 0.0),
    "mlp weighted": (WIDE, mlp(), {}, {"loss": part("cross_entropy", class_weights="balanced")}, ROUNDING),
    "mlp smoothed weighted": (
        WIDE,
        mlp(),
        SMOOTHED,
        {"loss": part("cross_entropy", class_weights=(1.0, 0.5, 3.0))},
        ROUNDING,
    ),
    "mlp accumulating": (WIDE, mlp(dropout=0.1), RATES, {"accumulate": 3}, 0.0),
    "mlp accumulating weighted": (
        WIDE,
        mlp(),
        {},
        {"loss": part("cross_entropy", class_weights=(1.0, 0.5, 3.0)), "accumulate": 2},
        ROUNDING,
    ),
    "mlp narrow": (TABLE, mlp(widths=(5, 3)), {}, {}, ROUNDING),
    "mlp tanh": (NUMBERS, mlp(activation="tanh"), {}, {}, ROUNDING),
    "mlp silu huber": (NUMBERS, mlp(activation="silu"), {}, {"loss": part("huber", delta=0.7)}, ROUNDING),
    "mlp mae": (NUMBERS, mlp(), {}, {"loss": part("mae")}, ROUNDING),
    "mlp layer": (TABLE, mlp(norm="layer", dropout=0.2), RATES, {}, ROUNDING),
    "mlp batch": (TABLE, mlp(norm="batch", dropout=0.2), RATES, {}, CHAOS),
    "mlp embeddings": (MIXED, mlp(), {}, {}, ROUNDING),
    "resnet": (IMAGES, part("resnet", depth=8, width=4, dropout=0.2), RATES, {}, CHAOS),
    "resnet plain": (IMAGES, part("resnet", depth=8, width=4, batch_norm=False), {}, {}, CHAOS),
    "vgg": (IMAGES, part("vgg", width=4, halvings=2, dropout=0.2), RATES, {}, CHAOS),
    "vgg plain": (
        IMAGES,
        part("vgg", width=4, batch_norm=False, head="imagenet", classifier_width=8, dropout=0.2),
        RATES,
        {},
        CHAOS,
    ),
    "vit": (IMAGES, part("vit", width=16, depth=2, dropout=0.1), RATES, SLOWER, ROUNDING),
    "vit token": (
        IMAGES,
        part("vit", width=16, depth=2, pool="token", attention_dropout=0.1),
        {"model": ("attention_dropout", [0.1, 0.5, 0.3])},
        SLOWER,
        ROUNDING,
    ),
    "conv": (IMAGES, own("Conv", channels=6), {}, {}, ROUNDING),
    "conv norm dropout": (IMAGES, own("Conv", norm=True, dropout=0.2), RATES, {}, ROUNDING),
    "rnn": (TABLE, own("Recurrent", kind="RNN"), {}, {}, ROUNDING),
    "gru": (TABLE, own("Recurrent", kind="GRU"), {}, {}, ROUNDING),
    "lstm": (TABLE, own("Recurrent", kind="LSTM", layers=2), {}, {}, ROUNDING),
    "transformer": (TABLE, own("Attention", dropout=0.1), RATES, {}, ROUNDING),
    "attention": (TABLE, own("Attention", kind="heads"), {}, {}, ROUNDING),
    "attention weights": (TABLE, own("Attention", kind="weights", dropout=0.1), RATES, {}, ROUNDING),
    "attention causal": (TABLE, own("Attention", kind="function", dropout=0.1, causal=True), RATES, {}, ROUNDING),
    "rnn series": (
        SERIES,
        part("rnn", cell="rnn", width=8, layers=2, pooling="mean", dropout=0.1),
        RATES,
        {},
        ROUNDING,
    ),
    "gru both ways": (
        SERIES_OF_LENGTHS,
        part("rnn", cell="gru", width=8, bidirectional=True, pooling="attention", dropout=0.1),
        RATES,
        {},
        ROUNDING,
    ),
    "lstm text": (TEXTS, part("rnn", cell="lstm", width=8, layers=2, bidirectional=True), {}, SLOWER, ROUNDING),
    "lstm next token": (FOLLOWING, part("rnn", cell="lstm", width=8, dropout=0.1), RATES, SLOWER, ROUNDING),
    "bert": (TEXTS, part("bert", depth=2, width=16, heads=2, dropout=0.1), RATES, SLOWER, ROUNDING),
    "bert hidden tokens": (HIDDEN, part("bert", depth=2, width=16, heads=2, dropout=0.1), RATES, SLOWER, ROUNDING),
    "gpt": (FOLLOWING, part("gpt", depth=2, width=16, heads=2, dropout=0.1), RATES, SLOWER, ROUNDING),
    "gpt classes": (TEXTS, part("gpt", depth=2, width=16, heads=2, dropout=0.1), RATES, SLOWER, ROUNDING),
    "net": (TABLE, part("train_example:Net"), {}, {}, ROUNDING),
    "tied": (TABLE, own("Tied"), {}, {}, ROUNDING),
    "functional": (TABLE, own("Functional", dropout=0.1), RATES, {}, ROUNDING),
    "renewed": (TABLE, own("Renewed"), {}, {}, ROUNDING),
    "listed": (TABLE, own("Listed"), {}, {}, ROUNDING),
    "unused": (TABLE, own("Unused"), {}, {}, ROUNDING),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lane_is_the_training_alone(family: str) -> None:
    data, model, varied, both, most = FAMILIES[family]
    # What rounding does grows with every step, so where it is more than the last digits, steps are short.
    experiments = pages(model, varied, **(both | {"slower": 0.1} if most == CHAOS else both))
    for experiment, lane in zip(experiments, together(experiments, data, 3), strict=True):
        found = differences(alone(experiment, data), lane)
        assert found.pop("train_loss") < max(most, 1e-6)
        if most == 0:
            assert set(found.values()) == {0.0}, found
        else:
            # The bias of a key in attention, and one before batch norm, have no gradient but rounding, which Adam
            # makes steps of: such weights differ, and what the network gives does not.
            assert max(value for name, value in found.items() if name.startswith(("val", "norm"))) < most, found


@pytest.mark.parametrize(("family", "vector"), [("mlp dropout", False), ("mlp dropout", True), ("net", False)])
def test_lanes_average_each_in_its_own_way(family: str, vector: bool) -> None:
    data, model, varied, both, _ = FAMILIES[family]
    ways = [{"ema": Ema(decay=0.9)}, {}, {"swa": Swa(start_epoch=1, lr=0.01)}, {"ema": Ema(decay=0.5, warmup=False)}]
    experiments = [
        each.model_copy(update={"train": each.train.model_copy(update=way)})
        for each, way in zip(pages(model, varied, **both), ways, strict=False)
    ]
    lanes = [trainer(experiment, data) for experiment in experiments]
    pack = Pack(Shape(lanes[0]), len(lanes), lanes[0], vector=vector)
    for lane in lanes:
        pack.put(lane)
    while live := {lane for lane in lanes if not lane.done}:
        pack.run_epoch(only=live)
    for experiment, lane in zip(experiments, lanes, strict=True):
        pack.take(lane)
        end = alone(experiment, data)
        found = differences(end, lane)
        assert ("average" in found) == (experiment.train.ema is not None or experiment.train.swa is not None)
        if vector:
            assert found.pop("optimizer") < 1e-3
        assert found.pop("train_loss") < ROUNDING
        assert max(found.values()) <= (0.0 if family.startswith("mlp") and not vector else ROUNDING), found
        lane.finalize()
        end.finalize()
        torch.testing.assert_close(lane.weights.flat, end.weights.flat)


@pytest.mark.parametrize(("family", "bitwise"), [("mlp dropout", True), ("conv norm dropout", False)])
def test_width_and_row_do_not_matter(family: str, bitwise: bool) -> None:
    data, model, varied, both, _ = FAMILIES[family]
    experiments = pages(model, varied, **both)[:3]
    narrow, wide = together(experiments, data, 3), together(experiments[::-1], data, 7)[::-1]
    for one, two in zip(narrow, wide, strict=True):
        found = differences(one, two)
        assert max(found.values()) <= (0.0 if bitwise else ROUNDING), found


ODD = {
    "Item": "asks for the number in a tensor",
    "Branch": "asks for the number in a tensor",
    "Listing": "asks for the number in a tensor",
    "ByNumpy": "asks for the number in a tensor",
    "NormWithoutMomentum": "asks for the number in a tensor",
    "Random": "draws random numbers from torch",
    "RandomLike": "draws random numbers from torch",
    "AlphaDropout": "draws random numbers from torch",
    "FromNumpy": "draws random numbers from NumPy",
    "OwnGenerator": "changes the attribute 'generator'",
    "AlwaysDropping": "at work in evaluation",
    "Counter": "changes the attribute 'steps'",
    "EpochCounter": "changes the attribute 'epochs'",
    "GlobalCounter": "changes the global 'CALLS'",
    "Nested": "changes the attribute 'state'",
    "Iterated": "changes the attribute 'factor'",
    "Closure": "changes the attribute 'count'",
    "PlainTensor": "changes the attribute 'heat'",
    "SeededAttribute": "is not what the model itself gives",
    "GradientHook": "is not what the model itself gives",
    "SharedBuffer": "share their memory",
    "BufferViews": "share their memory",
    "BufferInEvaluation": "buffers change in evaluation",
    "RenewedWithGradient": "gradients reach its buffers",
    "Moving": "changes its own weights",
    "WrongShape": "not one tensor of shape",
    "Failing": "not today",
}


@pytest.mark.parametrize("name", ODD)
def test_what_a_replay_would_get_wrong_is_refused(name: str) -> None:
    experiments = pages(own(name))[:3]
    with pytest.raises(CannotFuse, match=ODD[name]) as refused:
        together(experiments, TABLE, 3)
    assert "\n" not in str(refused.value)


def test_a_network_that_changes_later_is_refused_with_all_lanes_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    experiments = pages(own("Switched"))[:3]
    lanes = [trainer(experiment, TABLE) for experiment in experiments]
    pack = Pack(Shape(lanes[0]), 4, lanes[0])
    for lane in lanes:
        pack.put(lane)
    pack.run_epoch()
    before = [lane.state() for lane in lanes]
    monkeypatch.setattr(lane_example, "SWITCH", [2.0])
    with pytest.raises(CannotFuse, match="is not what the model itself gives"):
        pack.run_epoch()
    for lane, state in zip(lanes, before, strict=True):
        assert_equal(lane, state)
        pack.take(lane)
        lane.run_epoch()


def assert_equal(lane: Trainer, state: Any) -> None:
    now = lane.state()
    assert now.scalars == state.scalars
    assert now.tensors.keys() == state.tensors.keys()
    for name, tensor in state.tensors.items():
        assert torch.equal(now.tensors[name], tensor), name


@pytest.mark.parametrize("family", ["mlp dropout", "conv norm dropout", "lstm", "transformer"])
def test_a_lane_that_breaks_touches_no_other(family: str) -> None:
    data, model, varied, both, _ = FAMILIES[family]
    healthy = pages(model, varied, **both)[:3]
    broken = {"train": healthy[1].train.model_copy(update={"optimizer": part("sgd", lr=1e38)})}
    bad = healthy[1].model_copy(update=broken)
    ends = []
    for middle in (healthy[1], bad):
        lanes = [trainer(each, data) for each in (healthy[0], middle, healthy[2])]
        pack = Pack(Shape(lanes[0]), 3, lanes[0])
        for lane in lanes:
            pack.put(lane)
        came = [dict(pack.run_epoch()), dict(pack.run_epoch(only={lanes[0], lanes[2]}))]
        ends.append((lanes, came[0]))
    (fine, _), (beside, came) = ends
    error = came[beside[1]]
    assert isinstance(error, NotANumber)
    alone_broken = trainer(bad, data)
    with pytest.raises(NotANumber) as expected:
        alone_broken.run_epoch()
    assert str(error).partition(",")[0] == str(expected.value).partition(",")[0]
    for index in (0, 2):
        assert max(differences(fine[index], beside[index]).values()) == 0.0


def test_lanes_that_rest_stay_as_they_are_to_the_last_buffer() -> None:
    experiments = pages(part("train_example:Net"))[:3]
    lanes = [trainer(experiment, TABLE) for experiment in experiments]
    pack = Pack(Shape(lanes[0]), 3, lanes[0])
    for lane in lanes:
        pack.put(lane)
    pack.run_epoch()
    before = lanes[1].state()
    assert [lane for lane, _ in pack.run_epoch(only={lanes[0], lanes[2]})] == [lanes[0], lanes[2]]
    assert pack.run_epoch(only=set()) == []
    assert_equal(lanes[1], before)
    pack.run_epoch(only={lanes[1]})
    everyone = together(experiments, TABLE, 3)
    for lane, other in zip(lanes, everyone, strict=True):
        assert lane.history[-1].metrics == other.history[lane.epoch - 1].metrics


def test_a_state_goes_from_a_pack_to_a_training_alone_and_back() -> None:
    data, model, varied, both, _ = FAMILIES["mlp dropout"]
    experiments = pages(model, varied, **both)
    expected = [alone(experiment, data) for experiment in experiments]
    first = [trainer(experiment, data) for experiment in experiments]
    pack = Pack(Shape(first[0]), len(first), first[0])
    for lane in first:
        pack.put(lane)
    pack.run_epoch()
    resumed = [trainer(experiment, data) for experiment in experiments]
    for one, two in zip(first, resumed, strict=True):
        two.load_state(one.state())  # from a pack to one alone
        two.run_epoch()
    for one, two in zip(first, resumed, strict=True):
        if not two.done:
            one.load_state(two.state())  # and back into the row of the pack
        else:
            pack.take(one)
    while live := {lane for lane in first if lane in pack.lanes and not lane.done}:
        pack.run_epoch(only=live)
    for experiment, one, two, end in zip(experiments, first, resumed, expected, strict=True):
        lane = two if two.done else one
        found = differences(end, lane)
        found.pop("train_loss")
        assert set(found.values()) == {0.0}, experiment
        assert lane.best_epoch == end.best_epoch
        best, expected_best = lane.best(), end.best()
        assert all(torch.equal(best[name], tensor) for name, tensor in expected_best.items())
        lane.finalize()
        end.finalize()
        assert torch.equal(lane.weights.flat, end.weights.flat)
        assert not lane.model.training
        if lane in pack.lanes:
            pack.take(lane)
        assert torch.equal(lane.weights.flat, end.weights.flat)
        with torch.no_grad():
            x = torch.tensor(data.test.inputs[0])
            assert torch.equal(lane.model(x), end.model(x))


def test_turns_in_a_pack_and_alone_are_one_training() -> None:
    experiments = pages(part("train_example:Net"))[:2]
    lanes = [trainer(experiment, TABLE) for experiment in experiments]
    shape = Shape(lanes[0])
    for epoch in range(3):
        if epoch == 1:
            for lane in lanes:
                lane.run_epoch()
            continue
        pack = Pack(shape, 2, lanes[0])
        for lane in lanes:
            pack.put(lane)
        pack.run_epoch()
        for lane in lanes:
            pack.take(lane)
    for experiment, lane in zip(experiments, lanes, strict=True):
        assert max(differences(alone(experiment, TABLE, 3), lane).values()) < ROUNDING


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"model": mlp(activation="tanh")}, "another model"),
        ({"model": mlp(widths=(12, 13))}, "other weights"),
        ({"batch_size": 16}, "other batches"),
        ({"accumulate": 2}, "other batches"),
        ({"loss": part("cross_entropy")}, "another loss"),
        ({"model": mlp(dropout=0.0)}, "dropout is not at the same places"),
    ],
)
def test_a_training_of_another_shape_is_refused(other: dict[str, Any], told: str) -> None:
    lane = trainer(page(**{"model": mlp(dropout=0.1), "batch_size": 32, **other}), TABLE)
    example = trainer(page(model=mlp(dropout=0.1), batch_size=32), TABLE)
    pack = Pack(Shape(example), 2, example)
    flat = lane.weights.flat
    with pytest.raises(CannotFuse, match=told):
        pack.put(lane)
    assert pack.filled == 0
    assert lane.weights.flat is flat


def test_smoothed_lanes_and_others_do_not_mix() -> None:
    smoothed, plain = (
        trainer(page(model=mlp(), loss=part("cross_entropy", label_smoothing=s)), TABLE) for s in (0.1, 0.0)
    )
    for example, other in ((smoothed, plain), (plain, smoothed)):
        with pytest.raises(CannotFuse, match="another loss"):
            Pack(Shape(example), 2, example).put(other)


def test_a_lane_that_has_ended_moves_nothing() -> None:
    lanes = [trainer(page(model=mlp(), epochs=epochs), TABLE) for epochs in (1, 2)]
    pack = Pack(Shape(lanes[0]), 2, lanes[0])
    for lane in lanes:
        pack.put(lane)
    pack.run_epoch()
    before = lanes[1].state()
    with pytest.raises(RuntimeError, match="has ended"):
        pack.run_epoch()
    assert_equal(lanes[1], before)
    assert lanes[1].at_boundary


def test_the_seconds_of_the_lanes_are_those_of_the_pack() -> None:
    lanes = [trainer(page(model=mlp(), seed=seed), TABLE) for seed in range(4)]
    pack = Pack(Shape(lanes[0]), 4, lanes[0])
    for lane in lanes:
        pack.put(lane)
    started = time.perf_counter()
    pack.run_epoch()
    assert sum(lane.history[0].seconds for lane in lanes) <= time.perf_counter() - started
    assert len({lane.history[0].seconds for lane in lanes}) == 1


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_masks_are_those_of_dropout_itself(rate: float) -> None:
    """In the order and memory of each site, from one generator: as the network alone draws them."""
    x = torch.rand(5, 6, 4, 3) + 1

    def forward() -> list[torch.Tensor]:
        last = x.to(memory_format=torch.channels_last)
        scores = x.flatten(2)
        return [
            F.dropout(x, rate),
            F.dropout(last, rate),
            F.dropout2d(x, rate),
            F.dropout1d(scores, rate),
            F.dropout(x[:, :, 1:], rate),
            F.dropout(x[:1].expand(5, -1, -1, -1), rate),
            F.scaled_dot_product_attention(scores, scores, scores, dropout_p=min(rate, 0.9)),
        ]

    torch.manual_seed(3)
    expected = forward()
    sites = masks.sites(forward)
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.empty(site.shape) for site in sites]
    for mask, site in zip(drawn, sites, strict=True):
        masks.draw(mask, site, site.rate, generator)
    with masks.fed(drawn):
        found = forward()
    for one, two in zip(found[:-1], expected[:-1], strict=True):
        assert torch.equal(one, two)
    torch.testing.assert_close(found[-1], expected[-1])
    assert F.dropout is dropout_of_torch


OPTIMIZERS: list[tuple[Part, Any]] = [
    (
        part("adam", lr=0.01, beta1=0.8, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 0.01, (0.8, 0.999), weight_decay=0.1),
    ),
    (part("adam", lr=0.02, eps=1e-3), lambda p: torch.optim.Adam(p, 0.02, eps=1e-3)),
    (part("adamw", lr=0.01, weight_decay=0.2), lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.2)),
    (part("sgd", lr=0.1), lambda p: torch.optim.SGD(p, 0.1)),
    (part("sgd", lr=0.1, dampening=0.5), lambda p: torch.optim.SGD(p, 0.1, dampening=0.5)),
    (
        part("sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True, weight_decay=0.1),
    ),
    (part("sgd", lr=0.1, momentum=0.8, dampening=0.3), lambda p: torch.optim.SGD(p, 0.1, 0.8, dampening=0.3)),
    (part("rmsprop", lr=0.01, weight_decay=0.1), lambda p: torch.optim.RMSprop(p, 0.01, weight_decay=0.1)),
    (part("rmsprop", lr=0.01, alpha=0.8, centered=True), lambda p: torch.optim.RMSprop(p, 0.01, 0.8, centered=True)),
    (part("rmsprop", lr=0.01, momentum=0.7), lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.7)),
]


def test_optimizers_of_all_rows_at_once_are_those_of_torch() -> None:
    pages_ = [page(model=mlp(), optimizer=optimizer, weight_decay_on="all") for optimizer, _ in OPTIMIZERS]
    lanes = [trainer(each, TABLE) for each in pages_]
    pack = Pack(Shape(lanes[0]), len(lanes) + 1, lanes[0], vector=True)
    slots = [pack.put(lane) for lane in lanes]
    vector = pack._vector
    assert vector is not None
    theirs = [lane.weights.flat.clone().requires_grad_() for lane in lanes]
    optimizers = [make([each]) for (_, make), each in zip(OPTIMIZERS, theirs, strict=True)]
    generator = torch.Generator().manual_seed(2)
    for _ in range(2):
        vector.begin(list(zip(slots, lanes, strict=True)), 15)
        for number in range(15):
            gradient = torch.randn(pack.block.gradient.shape, generator=generator)
            pack.block.gradient.copy_(gradient)
            vector.descend(number)
            for slot, each, optimizer in zip(slots, theirs, optimizers, strict=True):
                each.grad = gradient[slot].clone()
                optimizer.step()
        vector.end()
    for lane, each, (optimizer, _) in zip(lanes, theirs, OPTIMIZERS, strict=True):
        torch.testing.assert_close(lane.weights.flat, each, rtol=1e-5, atol=1e-6, msg=str(optimizer))
        assert lane.step == 30


def test_lanes_whose_optimizers_step_together_are_their_trainings_alone() -> None:
    experiments = pages(mlp())
    lanes = [trainer(experiment, WIDE) for experiment in experiments]
    pack = Pack(Shape(lanes[0]), len(lanes), lanes[0], vector=True)
    for lane in lanes:
        pack.put(lane)
    while live := {lane for lane in lanes if not lane.done}:
        states = {id(lane): lane.state() for lane in lanes if lane not in live}
        pack.run_epoch(only=live)
        for lane in lanes:
            if lane not in live:
                assert_equal(lane, states[id(lane)])
    for experiment, lane in zip(experiments, lanes, strict=True):
        pack.take(lane)
        end = alone(experiment, WIDE)
        found = differences(end, lane)
        assert found.pop("optimizer", 0.0) < 1e-3  # RMSprop's momentum is of the size of 1
        assert max(found.values()) < ROUNDING, found
        assert all(slot._base is None for slot in lane.slots.values())
