"""Averaged weights: the numbers of torch.optim.swa_utils, and where they count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn
from train_example import ACCURACY, MACHINE, Net, dataset, page, part

from nnopt_ray.machine import derived_seed
from nnopt_ray.recipe import Ema, Swa
from nnopt_ray.rundir import TrialDir
from nnopt_ray.train import checkpoints, start, state
from nnopt_ray.train.averaging import annealed
from nnopt_ray.train.fit import fit
from nnopt_ray.train.loop import Trainer

EPOCHS, SIZE, QUIET = 5, 32, part("train_example:Net", dropout=0.0)


pytestmark = pytest.mark.usefixtures("one_thread")


def ours(**keys: Any) -> Trainer:
    trainer = Trainer(page(model=QUIET, epochs=EPOCHS, batch_size=SIZE, **keys), dataset(), MACHINE, ACCURACY)
    while not trainer.done:
        trainer.run_epoch()
    return trainer


def theirs(average: Any, first: int, a_step: bool) -> tuple[AveragedModel, Net, list[float]]:
    """The same training as torch's documentation writes it → averaged network, last network, validation losses."""
    data = dataset()
    torch.manual_seed(derived_seed(7, "weights"))
    model = Net(data.shapes, dropout=0.0)
    averaged = average(model)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    x, y = torch.tensor(data.train.inputs[0]), torch.tensor(data.train.target)
    losses = []
    for epoch in range(EPOCHS):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(derived_seed(7, "order", epoch)))
        model.train()
        for rows in order.split(SIZE):
            optimizer.zero_grad()
            cross_entropy(model(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if a_step:
                averaged.update_parameters(model)
        counts = model
        if epoch >= first:
            if not a_step:
                averaged.update_parameters(model)
                update_bn([x[rows] for rows in order.split(SIZE)], averaged)
            counts = averaged.module
        counts.eval()
        with torch.no_grad():
            out = counts(torch.tensor(data.validation.inputs[0]))
            losses.append(float(cross_entropy(out, torch.tensor(data.validation.target))))
    return averaged, model, losses


def same(trainer: Trainer, averaged: AveragedModel) -> None:
    trainer.finalize()
    for name, expected in averaged.module.state_dict().items():
        if expected.is_floating_point():
            torch.testing.assert_close(trainer.model.state_dict()[name], expected, rtol=1e-4, atol=1e-5, msg=name)


def test_the_exponential_average_is_torchs() -> None:
    averaged, model, losses = theirs(
        lambda m: AveragedModel(m, multi_avg_fn=get_ema_multi_avg_fn(0.95), use_buffers=True), first=0, a_step=True
    )
    trainer = ours(ema=Ema(decay=0.95, warmup=False))
    np.testing.assert_allclose([e.metrics["val_loss"] for e in trainer.history], losses, rtol=1e-4)
    # The optimizer goes on from the weights themselves.
    torch.testing.assert_close(trainer.model.get_parameter("out.weight"), model.out.weight, rtol=1e-4, atol=1e-5)
    same(trainer, averaged)


def test_the_stochastic_average_is_torchs_with_its_batch_norm() -> None:
    averaged, _, losses = theirs(AveragedModel, first=2, a_step=False)
    trainer = ours(swa=Swa(start_epoch=2))
    np.testing.assert_allclose([e.metrics["val_loss"] for e in trainer.history], losses, rtol=1e-4)
    assert [e.events for e in trainer.history] == [(), (), ("weights averaged from here on",), (), ()]
    same(trainer, averaged)


def test_the_learning_rate_of_stochastic_averaging_is_that_of_swalr() -> None:
    for anneal in (0, 1, 4):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
        scheduler = SWALR(optimizer, swa_lr=0.05, anneal_epochs=anneal)
        expected = []
        for _ in range(6):
            optimizer.step()
            scheduler.step()
            expected.append(optimizer.param_groups[0]["lr"])
        found = [annealed(0.3, Swa(lr=0.05, anneal_epochs=anneal), epoch) for epoch in range(6)]
        assert found == pytest.approx(expected, rel=1e-12)


def test_the_schedule_gives_way_at_the_first_averaged_epoch() -> None:
    trainer = ours(swa=Swa(start_epoch=3, lr=0.002), schedule=part("step", every_epochs=2, gamma=0.1))
    assert [e.lr for e in trainer.history] == pytest.approx([0.01, 0.01, 0.001, 0.002, 0.002])
    late = Trainer(page(epochs=8, swa=Swa(lr=0.5)), dataset(), MACHINE, ACCURACY)
    assert [late.rates.at(epoch * 5, late.steps_per_epoch, late.base_lr) for epoch in range(8)] == [0.01] * 6 + [
        0.5
    ] * 2  # after three quarters


def test_the_first_steps_are_soon_forgotten() -> None:
    """With warm-up step n keeps (1 + n) / (10 + n) at most: by hand, from the weights after each step."""
    trainer = Trainer(page(model=QUIET, ema=Ema(decay=0.6), epochs=1), dataset(), MACHINE, ACCURACY)
    seen = []
    descend = trainer.descend

    def watched(number: int) -> Any:
        norm = descend(number)
        seen.append(trainer.weights.flat.clone().double())
        return norm

    trainer.descend = watched  # type: ignore[method-assign]
    trainer.run_epoch()
    expected = seen[0]
    for n, weights in enumerate(seen[1:], start=1):
        decay = min(0.6, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * weights
    assert trainer.average is not None
    assert trainer.average.snapshot is not None
    torch.testing.assert_close(trainer.average.snapshot.flat.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", [{"ema": Ema(decay=0.9)}, {"swa": Swa(start_epoch=1)}], ids=str)
def test_best_weights_and_later_starts_are_the_averaged_ones(way: dict[str, Any], tmp_path: Path) -> None:
    experiment = page(checkpoint={"every": 1, "keep": 9}, **way)
    done = fit(experiment, dataset(), MACHINE, ACCURACY, TrialDir(tmp_path))
    assert done.best_epoch > 1
    trainer = Trainer(experiment, dataset(), MACHINE, ACCURACY)
    state.load_weights(trainer.model, checkpoints.best_file(TrialDir(tmp_path)))
    trainer.model.eval()
    assert trainer.validation.measure(trainer._forward)["val_loss"] == done.value
    best = trainer.weights.flat.clone()
    for optimizer in (False, True):
        again = page(start={"run": str(tmp_path), "epoch": done.best_epoch, "optimizer": optimizer})
        found = start.find(again).weights
        same_as_best = all(torch.equal(found[name], value) for name, value in trainer.model.state_dict().items())
        assert same_as_best != optimizer  # the optimizer went on from its own weights
    assert torch.equal(best, trainer.weights.flat)


def test_an_average_goes_with_the_weights_that_another_trial_takes_over() -> None:
    """As population based training does; a trial without an average takes the weights themselves."""
    donor, heir, plain = (
        Trainer(page(seed=seed, epochs=3, **way), dataset(), MACHINE, ACCURACY)
        for seed, way in ((1, {"ema": Ema(decay=0.9)}), (2, {"ema": Ema(decay=0.5)}), (3, {}))
    )
    donor.run_epoch()
    heir.run_epoch()
    taken = donor.state()
    for trainer in (heir, plain):
        trainer.adopt(taken)
        assert torch.equal(trainer.weights.flat, taken.tensors["weights"])
    assert heir.average is not None
    assert heir.average.snapshot is not None
    assert torch.equal(heir.average.snapshot.flat, taken.tensors["average.weights"])
    heir.run_epoch()
    assert not torch.equal(heir.average.snapshot.flat, taken.tensors["average.weights"])
    assert torch.equal(taken.tensors["average.weights"], donor.state().tensors["average.weights"])
    heir.adopt(plain.state())  # nothing was averaged there: it begins anew
    assert heir.average.count == 0
    assert heir.average.snapshot is None
