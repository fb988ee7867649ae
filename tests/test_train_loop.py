"""The core: an epoch does what a plain loop over torch does, and says what happened."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from train_example import ACCURACY, MACHINE, Named, Net, accuracy, dataset, page, part

from nnopt_ray.data.types import Dataset
from nnopt_ray.errors import NotANumber, PartError, UserError
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import Machine, derived_seed
from nnopt_ray.train import batches, state
from nnopt_ray.train.batches import batch_sizes, evaluation_sizes
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.weights import split

pytestmark = pytest.mark.usefixtures("one_thread")


def trained(experiment: Experiment, data: Dataset | None = None, metrics: Any = ACCURACY) -> Trainer:
    trainer = Trainer(experiment, data or dataset(), MACHINE, metrics)
    while not trainer.done:
        trainer.run_epoch()
    return trainer


def plain_loop(experiment: Experiment, data: Dataset, optimizer: Any, **clip: float) -> tuple[nn.Module, list[Any]]:
    """The same training as anyone would write it: → the model, (train loss, val loss, accuracy, norm) an epoch."""
    torch.manual_seed(derived_seed(experiment.seed, "weights"))
    model = Net(data.shapes)
    made = optimizer([p for p in model.parameters() if p.requires_grad])
    x, y = torch.tensor(data.train.inputs[0]), torch.tensor(data.train.target)
    found = []
    for epoch in range(experiment.train.epochs):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(derived_seed(7, "order", epoch)))
        torch.manual_seed(derived_seed(7, "noise", epoch))
        model.train()
        total, norms = 0.0, []
        for rows in order.split(experiment.train.batch_size):
            made.zero_grad()
            loss = cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), clip.get("norm", math.inf))))
            if "value" in clip:
                nn.utils.clip_grad_value_(model.parameters(), clip["value"])
            made.step()
            total += loss.item() * len(rows)
        model.eval()
        with torch.no_grad():
            out = model(torch.tensor(data.validation.inputs[0]))
            true = torch.tensor(data.validation.target)
            right = float((out.argmax(1) == true).float().mean())
            found.append((total / len(x), float(cross_entropy(out, true)), right, float(np.mean(norms))))
    return model, found


@pytest.mark.parametrize(
    ("name", "make", "keys", "clip"),
    [
        ("adam", lambda p: torch.optim.Adam(p, lr=0.01), {"lr": 0.01}, {}),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.01), {"lr": 0.01}, {"norm": 0.1, "weight_decay_on": "all"}),
        (
            "adamw",
            lambda p: torch.optim.AdamW(
                [
                    {"params": [w for w in p if w.dim() > 1]},
                    {"params": [w for w in p if w.dim() < 2], "weight_decay": 0},
                ],
                lr=0.01,
                weight_decay=0.5,
            ),
            {"lr": 0.01, "weight_decay": 0.5},
            {},
        ),
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), {"lr": 0.1, "momentum": 0.9}, {"value": 0.02}),
        ("rmsprop", lambda p: torch.optim.RMSprop(p, lr=0.01), {"lr": 0.01}, {"norm": 0.2, "value": 0.05}),
    ],
)
def test_an_epoch_is_that_of_a_plain_loop(name: str, make: Any, keys: dict[str, Any], clip: dict[str, Any]) -> None:
    clip = dict(clip)
    decay = {"weight_decay_on": clip.pop("weight_decay_on", "weights")}
    train = decay | {f"clip_{how}": most for how, most in clip.items()}
    experiment = page(optimizer=part(name, **keys), **train)
    model, expected = plain_loop(experiment, dataset(), make, **clip)
    trainer = trained(experiment)
    names = ("train_loss", "val_loss", "val_accuracy")
    found = [(*(epoch.metrics[n] for n in names), epoch.grad_norm) for epoch in trainer.history]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for (key, ours), theirs in zip(trainer.model.state_dict().items(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=key)


def test_l1_adds_its_gradient_to_every_weight_and_not_to_the_recorded_loss() -> None:
    data = dataset()
    experiment = page(optimizer=part("sgd", lr=0.01), l1=0.5, epochs=1, batch_size=len(data.train))
    trainer = trained(experiment)
    torch.manual_seed(derived_seed(7, "weights"))
    model = Net(data.shapes)
    torch.manual_seed(derived_seed(7, "noise", 0))
    order = torch.randperm(150, generator=torch.Generator().manual_seed(derived_seed(7, "order", 0)))
    loss = cross_entropy(model(torch.tensor(data.train.inputs[0])[order]), torch.tensor(data.train.target)[order])
    weights = [p for p in model.parameters() if p.requires_grad]
    penalty = 0.5 * torch.stack([p.abs().sum() for p in weights]).sum()
    (loss + penalty).backward()  # type: ignore[no-untyped-call]
    for name, ours in trainer.weights.trainable:
        theirs = model.get_parameter(name)
        torch.testing.assert_close(ours, theirs.detach() - 0.01 * theirs.grad, msg=name)  # type: ignore[operator]
    assert trainer.history[0].metrics["train_loss"] == pytest.approx(loss.item(), rel=1e-6)


def test_the_same_page_gives_the_same_bits_and_another_seed_does_not() -> None:
    first, again, other = (trained(page(epochs=2, seed=seed)) for seed in (7, 7, 8))
    assert torch.equal(first.weights.flat, again.weights.flat)
    assert [e.metrics for e in first.history] == [e.metrics for e in again.history]
    assert not torch.equal(first.weights.flat, other.weights.flat)


def test_another_training_in_between_changes_nothing() -> None:
    alone = trained(page())
    one, two = (Trainer(page(seed=seed), dataset(), MACHINE, ACCURACY) for seed in (7, 8))
    while not one.done:
        one.run_epoch()
        two.run_epoch()
    assert torch.equal(one.weights.flat, alone.weights.flat)


@pytest.mark.parametrize(
    ("rows", "size", "expected"),
    [(10, 5, [5, 5]), (11, 5, [5, 6]), (12, 5, [5, 5, 2]), (1, 5, [1]), (6, 5, [6]), (3, 1, [1, 1, 1]), (4, 9, [4])],
)
def test_every_row_is_in_a_batch_and_none_is_alone(rows: int, size: int, expected: list[int]) -> None:
    assert batch_sizes(rows, size) == expected


def test_a_last_batch_of_one_row_does_not_fail_batch_norm() -> None:
    assert trained(page(epochs=1, batch_size=50), dataset(rows=151)).decided["batches"] == (
        "3 steps an epoch, the last of 51 rows"
    )


@pytest.mark.parametrize("changed", ["EPOCH_COPY_BYTES", "RESIDENT_BYTES"])
def test_where_the_data_lies_changes_no_bit(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resident = trained(page(epochs=2))
    monkeypatch.setattr(batches, changed, 0)
    data = dataset()
    data.train.inputs[0].flags.writeable = False  # as a memory map is
    other = trained(page(epochs=2), data)
    assert torch.equal(resident.weights.flat, other.weights.flat)
    assert [e.metrics for e in resident.history] == [e.metrics for e in other.history]
    assert other.decided["data"].startswith("memory-mapped" if changed == "RESIDENT_BYTES" else "in memory of cpu")


def test_evaluation_batches_do_not_change_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(page(epochs=1))
    monkeypatch.setattr(batches, "evaluation_size", lambda shapes, batch_size: 7)
    parts = trained(page(epochs=1))
    assert evaluation_sizes(50, 7) == [7] * 7 + [1]
    for name, value in whole.history[0].metrics.items():
        assert parts.history[0].metrics[name] == pytest.approx(value, rel=1e-6)


def test_metrics_come_in_the_users_units() -> None:
    def mae(outputs: np.ndarray, target: np.ndarray) -> float:
        assert outputs.shape == target.shape == (50, 1)
        return float(np.abs(outputs - target).mean())

    data = dataset("regression")
    metrics = {"mae": Named("min", mae), "mean": Named("min", lambda o, t: o.mean()), "again": Named("min", mae)}
    trainer = trained(page(objective="minimize val_mae"), data, metrics)
    last = trainer.history[-1].metrics
    assert list(last) == ["train_loss", "val_loss", "val_mae", "val_mean", "val_again"]
    assert last["val_mae"] == pytest.approx(last["val_again"], rel=1e-6)  # one summed by torch, one by numpy
    assert 8 < last["val_mean"] < 12
    assert trainer.best_value == min(e.metrics["val_mae"] for e in trainer.history)


def test_accuracy_on_the_device_is_the_metrics() -> None:
    metrics = {"accuracy": ACCURACY["accuracy"], "same": Named("max", accuracy)}
    for epoch in trained(page(), metrics=metrics).history:
        assert epoch.metrics["val_accuracy"] == pytest.approx(epoch.metrics["val_same"], abs=1e-12)


def test_class_weights_give_the_mean_of_the_whole_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "evaluation_size", lambda shapes, batch_size: 7)
    data = dataset()
    trainer = trained(page(loss=part("cross_entropy", class_weights="balanced"), epochs=1))
    with torch.no_grad():
        outputs = trainer.model(torch.tensor(data.validation.inputs[0]))
    expected = float(trainer.loss(outputs, torch.tensor(data.validation.target)))
    assert trainer.history[0].metrics["val_loss"] == pytest.approx(expected, rel=1e-6)


def test_the_rate_follows_warm_up_and_schedule() -> None:
    trainer = trained(
        page(schedule=part("exponential", gamma=0.5), warmup_epochs=1.4, epochs=5, optimizer=part("sgd", lr=1.0))
    )
    rates = [trainer.rates.at(step, trainer.steps_per_epoch, trainer.base_lr) for step in range(25)]
    assert rates[:7] == pytest.approx([(step + 1) / 7 for step in range(7)])
    assert rates[7:] == pytest.approx([0.5 ** (step // 5) for step in range(18)])
    assert [epoch.lr for epoch in trainer.history] == pytest.approx([rates[5 * n + 4] for n in range(5)])


def test_a_plateau_lowers_the_rate_and_says_so() -> None:
    worse = iter([0.5, 0.6, 0.7, 0.4, 0.5, 0.6])
    metrics = {"odd": Named("min", lambda o, t: next(worse))}
    schedule = part("reduce_on_plateau", factor=0.5, patience=2, monitor="val_odd")
    trainer = trained(page(schedule=schedule, epochs=6), metrics=metrics)
    assert [epoch.lr for epoch in trainer.history] == [0.01, 0.01, 0.01, 0.005, 0.005, 0.005]
    assert [epoch.events for epoch in trainer.history if epoch.events] == [
        ("learning rate 0.01 → 0.005",),
        ("learning rate 0.005 → 0.0025",),
    ]


def scripted(values: list[float]) -> dict[str, Any]:
    rest = iter(values)
    return {"odd": Named("max", lambda o, t: next(rest))}


@pytest.mark.parametrize("restore", [False, True])
def test_early_stopping_ends_training_and_keeps_the_best(restore: bool) -> None:
    early = {"patience": 2, "restore_best_weights": restore}
    experiment = page(objective="maximize val_odd", early=early, epochs=9)
    trainer = Trainer(experiment, dataset(), MACHINE, scripted([0.1, 0.5, 0.5, 0.2, 0.9]))
    flats = []
    while not trainer.done:
        trainer.run_epoch()
        flats.append(trainer.weights.flat.clone())
    assert (trainer.epoch, trainer.reason, trainer.best_epoch) == (4, "early stop after epoch 3", 1)
    assert trainer.history[-1].events == ("early stop",)
    trainer.finalize()
    assert torch.equal(trainer.weights.flat, flats[1 if restore else 3])
    assert not trainer.model.training
    best = Net(dataset().shapes)
    best.load_state_dict(trainer.best())
    for name, weight in split(flats[1], trainer.weights.layout).items():
        assert torch.equal(best.get_parameter(name), weight), name


def test_min_delta_and_the_objective_may_call_different_epochs_best() -> None:
    early = {"patience": 9, "restore_best_weights": True, "min_delta": 0.2}
    trainer = Trainer(
        page(objective="maximize val_odd", early=early), dataset(), MACHINE, scripted([0.1, 0.5, 0.6, 0.3])
    )
    flats = []
    while not trainer.done:
        trainer.run_epoch()
        flats.append(trainer.weights.flat.clone())
    trainer.finalize()
    assert torch.equal(trainer.weights.flat, flats[1])  # what early stopping calls best, as in Keras
    assert trainer.best_epoch == 2
    assert torch.equal(trainer.best()["hidden.weight"].flatten(), flats[2][: 16 * 6])


def test_a_value_that_is_no_number_is_never_best() -> None:
    trainer = trained(page(objective="maximize val_odd"), metrics=scripted([math.nan, 0.1, math.nan, 0.1]))
    assert (trainer.best_epoch, trainer.best_value) == (1, 0.1)


def test_a_loss_that_is_no_number_ends_training_with_a_cure() -> None:
    with pytest.raises(
        NotANumber, match=r"training loss became (inf|nan) in epoch 0, step 3 \(learning rate 0.01\)\. Lower train"
    ):
        trained(page(model=part("train_example:Exploding")), metrics={})
    with pytest.raises(NotANumber, match=r"in epoch \d, step \d .* or set train.clip_norm"):
        trained(page(optimizer=part("sgd", lr=1e30), epochs=9), dataset("regression"), {})
    data = dataset()
    data.train.inputs[0][:] = np.nan
    with pytest.raises(NotANumber, match="first step: look for values in the data that are not finite"):
        trained(page(), data)


def test_a_broken_epoch_leaves_no_state_to_save() -> None:
    trainer = Trainer(page(model=part("train_example:Exploding")), dataset(), MACHINE, {})
    before = trainer.state()
    with pytest.raises(NotANumber):
        trainer.run_epoch()
    with pytest.raises(AssertionError):
        trainer.state()
    with pytest.raises(RuntimeError, match="broke off"):
        trainer.run_epoch()
    trainer.load_state(before)
    assert trainer.at_boundary


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "maximize val_f1"}, "the objective is 'val_f1', which is not recorded"),
        ({"objective": "maximize val_acuracy"}, "Did you mean 'val_accuracy'?"),
        ({"early": {"monitor": "loss"}}, "train.early_stopping.monitor is 'loss', which is not recorded"),
        ({"schedule": part("reduce_on_plateau", monitor="x")}, "train.schedule.monitor is 'x'"),
    ],
)
def test_a_metric_that_is_not_recorded_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Trainer(page(**changes), dataset(), MACHINE, ACCURACY)
    assert message in str(caught.value)


def test_monitors_know_their_direction() -> None:
    trainer = Trainer(
        page(
            objective="minimize val_odd",
            early={"monitor": "val_accuracy"},
            schedule=part("reduce_on_plateau", monitor="val_odd", mode="max"),
        ),
        dataset(),
        MACHINE,
        {**ACCURACY, **scripted([])},
    )
    assert trainer.watch.stopper is not None
    assert trainer.watch.plateau is not None
    assert (trainer.watch.stopper.mode, trainer.watch.plateau.mode) == ("max", "max")


def test_a_model_that_cannot_be_trained_is_refused() -> None:
    with pytest.raises(PartError, match=r"'train_example:Frozen' has no weights to train"):
        trained(page(model=part("train_example:Frozen")))
    with pytest.raises(PartError, match=r"gave its weight 'out.weight' other memory"):
        trained(page(model=part("train_example:Moving")))


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_outputs_of_another_shape_are_refused(task: str) -> None:
    data = dataset(task)
    with pytest.raises(
        PartError, match=rf"of shape \[rows, outputs\], here \[32, {data.shapes.outputs}\], and returned shape"
    ):
        trained(page(model=part("train_example:Flat")), data, {})


def test_outputs_that_no_gradient_can_pass_are_refused() -> None:
    with pytest.raises(PartError, match="no gradient can reach its weights"):
        trained(page(model=part("train_example:Detached")), dataset(), {})


def test_images_lie_with_channels_last_where_the_model_can_take_it() -> None:
    data = dataset(image=True)
    last, first = (trained(page(model=part("train_example:Conv", view=view)), data) for view in (False, True))
    assert "images" in last.decided
    assert "images" not in first.decided
    assert last.history[-1].metrics["val_loss"] == pytest.approx(first.history[-1].metrics["val_loss"], rel=0.02)


def test_trying_the_order_of_images_leaves_no_trace() -> None:
    trainer = Trainer(page(model=part("train_example:Conv")), dataset(image=True), MACHINE, {})
    assert trainer.weights.rest["norm.num_batches_tracked"] == 0
    assert not trainer.weights.rest["norm.running_mean"].any()


def test_bfloat16_computes_in_it_and_keeps_weights_in_float32() -> None:
    machine = Machine("cpu", "bfloat16", 1, {})
    trainer = Trainer(page(epochs=3), dataset(), machine, ACCURACY)
    while not trainer.done:
        trainer.run_epoch()
    exact = trained(page(epochs=3))
    assert trainer.weights.flat.dtype == torch.float32
    assert trainer.history[-1].metrics["val_loss"] == pytest.approx(exact.history[-1].metrics["val_loss"], rel=0.02)
    assert not torch.equal(trainer.weights.flat, exact.weights.flat)


@pytest.mark.parametrize("kind", ["linear", "majority", "mlp"])
def test_a_model_that_fits_itself_takes_no_steps(kind: str, tmp_path: Path) -> None:
    experiment = page(model=part("baseline", kind=kind), epochs=3)
    trainer = trained(experiment)
    assert trainer.epoch == (3 if kind == "mlp" else 1)
    assert trainer.reason == ("all epochs done" if kind == "mlp" else "fitted directly")
    last = trainer.history[-1]
    if kind != "mlp":
        assert (last.lr, last.grad_norm) == (0.0, 0.0)
    if kind == "linear":
        assert last.metrics["val_accuracy"] > 0.6
        outputs = trainer.model(torch.tensor(dataset().train.inputs[0])).detach()
        assert last.metrics["train_loss"] == pytest.approx(
            float(cross_entropy(outputs, torch.tensor(dataset().train.target)))
        )
    state.save(trainer.state(), tmp_path / "state")
    again = Trainer(experiment, dataset(), MACHINE, ACCURACY)
    again.load_state(state.load(tmp_path / "state"))
    assert again.done
    again.finalize()
    assert again.validation.measure(again._forward) == {k: v for k, v in last.metrics.items() if k != "train_loss"}


def test_it_learns() -> None:
    trainer = trained(page(epochs=30, model=part("train_example:Net", dropout=0.0)))
    assert trainer.history[-1].metrics["val_accuracy"] > 0.6
    regression = trained(page(epochs=60), dataset("regression", rows=500), {})
    assert regression.best_value < 0.2 * float(np.var(dataset("regression").train.target))
