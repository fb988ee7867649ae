"""Augmentation of training batches: what is changed and what never is, resumption, and searches over strengths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fault_example
import model_example
import numpy as np
import pytest
import torch
from lane_example import made
from pack_example import alone, differences, together
from torch import Tensor
from train_example import ACCURACY, MACHINE, Net, dataset, page, part

import nnopt_ray as nn
from nnopt_ray import reading
from nnopt_ray.data import prepare
from nnopt_ray.data.types import Dataset, Input
from nnopt_ray.errors import PartError
from nnopt_ray.experiment import Experiment
from nnopt_ray.rundir import RunDir, TrialDir
from nnopt_ray.search import shapes
from nnopt_ray.tables import Part
from nnopt_ray.train.augmentations import Augmentation
from nnopt_ray.train.fit import fit
from nnopt_ray.train.loop import Trainer

IMAGES = made("classification", (Input("image", (3, 8, 8)),))
ALL = tuple(part(name) for name in ("random_crop", "flip", "rotate", "affine", "colour", "erase", "noise"))


class Seeing(Net):
    """Keeps what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "seen"):
            self.seen: list[tuple[bool, Tensor]] = []
        self.seen.append((self.training, x.clone()))
        return super().forward(x)


class Halving(Augmentation):
    """Forgets half of the columns."""

    kinds = ("table",)

    def __call__(self, x: Tensor, draws: torch.Generator) -> Tensor:
        return x[:, ::2]


def rows_of(trainer: Trainer, training: bool) -> Tensor:
    assert isinstance(trainer.model, Seeing)
    return torch.cat([x for seen_in_training, x in trainer.model.seen if seen_in_training is training])


def test_rows_of_training_change_in_every_epoch_and_those_of_validation_never() -> None:
    data = dataset()
    trainer = Trainer(page(model=part("test_train_augment:Seeing"), augment=(part("noise"),)), data, MACHINE, ACCURACY)
    trainer.run_epoch()
    trainer.run_epoch()
    measured = rows_of(trainer, False)
    held = torch.tensor(data.validation.inputs[0])
    torch.testing.assert_close(measured, torch.cat([held, held]), rtol=0, atol=0)
    taught = rows_of(trainer, True).view(2, 150, 6)
    for epoch in range(2):
        trainer.epoch = epoch
        off = (taught[epoch] - torch.tensor(data.train.inputs[0])[trainer.feed.order(trainer.epoch)]).numpy()
        assert (off != 0).all()
        assert abs(off.std() - 0.1) < 0.01
        assert len(np.unique(off.round(6))) > 0.95 * off.size  # no two batches, rows or columns alike


def test_a_batch_follows_from_the_seed_the_epoch_and_its_number_alone() -> None:
    def batches(seed: int, epoch: int) -> list[Tensor]:
        trainer = Trainer(page(model=part("lane_example:Conv"), augment=ALL, seed=seed), IMAGES, MACHINE, {})
        trainer.epoch = epoch
        torch.manual_seed(seed + epoch)
        return [inputs[0] for inputs, _ in trainer.feed.batches(epoch)]

    first = batches(7, 3)
    assert all(torch.equal(one, again) for one, again in zip(first, batches(7, 3), strict=True))
    assert not torch.equal(first[0], batches(7, 4)[0])
    assert not torch.equal(first[0], batches(8, 3)[0])


def test_augmented_images_resume_in_the_same_bits() -> None:
    experiment = page(model=part("lane_example:Conv", norm=True, dropout=0.2), augment=ALL)
    unbroken = Trainer(experiment, IMAGES, MACHINE, ACCURACY)
    moved = Trainer(experiment, IMAGES, MACHINE, ACCURACY)
    while not unbroken.done:
        unbroken.run_epoch()
        moved.run_epoch()
        state = moved.state()
        torch.rand(3)
        moved = Trainer(experiment, IMAGES, MACHINE, ACCURACY)
        moved.load_state(state)
        assert torch.equal(moved.weights.flat, unbroken.weights.flat)
    plain = Trainer(page(model=experiment.model), IMAGES, MACHINE, ACCURACY)
    while not plain.done:
        plain.run_epoch()
    assert not torch.equal(plain.weights.flat, unbroken.weights.flat)


def test_an_augmentation_of_ones_own_that_changes_the_shape_is_refused() -> None:
    trainer = Trainer(page(augment=(part("test_train_augment:Halving"),)), dataset(), MACHINE, {})
    told = r"must return torch.float32 \[32, 6\] as it was given, and it returned torch.float32 \[32, 3\]"
    with pytest.raises(PartError, match=told):
        trainer.run_epoch()


SEVERAL: dict[str, list[tuple[Part, ...]]] = {  # what the lanes of one pack do to their rows
    "strengths": [(part("noise", std=std), part("rotate", degrees=30 * std)) for std in (0.1, 0.5, 0.0)],
    "other parts": [ALL, (), (part("erase", probability=1.0),)],
}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("several", SEVERAL)
def test_each_lane_augments_as_it_does_alone(several: str) -> None:
    """Bit for bit, whatever the others do; the pack is narrower than there are trainings."""
    mlp = part("mlp", widths=(16,), activation="relu", norm="none", dropout=0.1, residual=False, embedding_dim="auto")
    pages = [page(model=mlp, augment=parts, seed=seed) for seed, parts in enumerate(SEVERAL[several])]
    for width in (3, 2):
        for experiment, lane in zip(pages, together(pages, IMAGES, width), strict=True):
            found = differences(alone(experiment, IMAGES), lane)
            assert found.pop("train_loss") < 1e-6
            assert set(found.values()) == {0.0}


@pytest.mark.usefixtures("one_thread")
def test_lanes_augment_sequences_within_their_lengths() -> None:
    data = model_example.data_of(model_example.shapes_of("sequence_lengths", "classification"), rows=75)
    several = [(part("time_shift", share=share), part("noise", std=share)) for share in (0.1, 0.4)]
    pages = [page(model=part("rnn", cell="gru", width=8), augment=parts) for parts in several]
    for experiment, lane in zip(pages, together(pages, data, 2), strict=True):
        assert max(differences(alone(experiment, data), lane).values()) < 2e-5


def test_a_model_that_is_fitted_directly_says_that_nothing_was_augmented(tmp_path: Path) -> None:
    for model, told in (("baseline", 1), ("mlp", 0)):
        notes: list[str] = []
        asked = page(model=part(model), augment=(part("noise"),), epochs=1)
        fit(asked, dataset(), MACHINE, ACCURACY, TrialDir(tmp_path / model), on_note=notes.append)
        assert [note.partition(":")[0] for note in notes] == ["data.augment has no part in it"] * told


def load(folder: Path, augment: Any, **more: Any) -> Experiment:
    tree = {
        "name": "strengths",
        "data": {"source": {"type": "sklearn", "name": "iris"}, "steps": ["scale"], "augment": augment},
        "model": {"type": "mlp", "widths": [8]},
        "train": {"epochs": 2},
        "evaluate": {"bootstrap": 0},
        **more,
    }
    (folder / "page.yaml").write_text(json.dumps(tree))
    return nn.load(folder / "page.yaml")


def test_it_is_no_part_of_the_prepared_data(tmp_path: Path) -> None:
    keys = [prepare.prepare(load(tmp_path, augment), tmp_path / "cache").key for augment in ([], [{"type": "noise"}])]
    assert keys[0] == keys[1]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_search_over_strengths_reads_the_data_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[Dataset] = []
    real = prepare.prepare

    def counted(*words: Any, **keys: Any) -> Dataset:
        prepared.append(real(*words, **keys))
        return prepared[-1]

    monkeypatch.setattr(prepare, "prepare", counted)
    opened = [{"type": "noise", "std": {"choice": [0.0, 0.5, 50.0]}}]
    run = nn.run(load(tmp_path, opened, search={"method": "grid"}), tmp_path / "out")
    assert len(prepared) == 1
    assert not RunDir(run.path).best_data.exists()
    losses = dict(zip(run.trials["param.data.augment.0.std"], run.trials["value"], strict=True))
    assert losses[50.0] > losses[0.0]  # so much noise that nothing can be learned


def test_augmentations_are_of_one_shape_whatever_they_are(tmp_path: Path) -> None:
    noise = {"type": "noise", "std": {"uniform": [0.1, 0.5]}}
    strengths = load(tmp_path, [noise])
    assert shapes.how_many(strengths) == 1
    points = [{"data.augment.0.std": std} for std in (0.1, 0.2)]
    assert len({shapes.alike(strengths, point) for point in points}) == 1
    assert len({shapes.shape_of(reading.close(strengths, point)) for point in points}) == 1
    whether = load(tmp_path, {"choice": [[], [noise]]})
    assert shapes.how_many(whether) == 1
    labels = whether.space[0][1].labels()
    ways = [{"data.augment": labels[0]}, {"data.augment": labels[1], "data.augment.0.std": 0.2}]
    assert len({shapes.alike(whether, way) for way in ways}) == 1
    assert len({shapes.shape_of(reading.close(whether, way)) for way in ways}) == 1


def test_a_reproducible_search_of_augmented_and_mixed_lanes_is_the_same_cut_off_or_not(tmp_path: Path) -> None:
    fault_example.page(tmp_path, "asha", "random", more="reproducible: true, concurrency: 3", resources="fuse: always")
    noise = [{"type": "noise", "std": {"uniform": [0.0, 0.5]}}]
    mix = {"type": "mixup", "alpha": {"log": [0.1, 2.0]}}
    experiment = nn.load(tmp_path / "page.yaml", set={"data.augment": noise, "train.mix": mix})
    run, cuts = fault_example.run_with_cuts(experiment, tmp_path / "out", [30, 90])
    assert cuts
    whole = nn.run(experiment, tmp_path / "whole")
    assert "lanes of one step" in whole.result["decided"]["lanes"]
    assert fault_example.table(run) == fault_example.table(whole)
