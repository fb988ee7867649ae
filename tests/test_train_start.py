"""train.from: an earlier run's weights, and its optimizer's state if asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from train_example import ACCURACY, MACHINE, dataset, page, part

from nnopt_ray import rundir
from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Experiment
from nnopt_ray.results import Fit
from nnopt_ray.rundir import RunDir, TrialDir
from nnopt_ray.train import checkpoints, state
from nnopt_ray.train.fit import fit
from nnopt_ray.train.loop import Trainer

EARLIER = {"epochs": 6, "checkpoint": {"every": 1, "keep": 3}, "optimizer": part("adam", lr=0.1)}


def trained(folder: Path, experiment: Experiment) -> Fit:
    return fit(experiment, dataset(), MACHINE, ACCURACY, TrialDir(folder))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run folder of one trial, as far as train.from reads it."""
    run = RunDir(tmp_path_factory.mktemp("runs") / "earlier")
    trained(run.trial("t1").root, page(**EARLIER))
    run.best.mkdir()
    run.best_model.write_bytes(checkpoints.best_file(run.trial("t1")).read_bytes())
    return run


def begun(start: dict[str, Any], **changes: Any) -> Trainer:
    """A trainer that has taken its first weights and trained nothing: its rate is 0."""
    trainer = Trainer(page(start=start, **changes), dataset(), MACHINE, ACCURACY)
    assert trainer.experiment.train.start is not None
    trainer._start(trainer.experiment.train.start.optimizer)
    return trainer


def weights_after(run: RunDir, epoch: int) -> torch.Tensor:
    return state.load(checkpoints.file(run.trial("t1"), epoch)).tensors["weights"]


def test_the_best_epoch_of_a_run_or_a_trial(run: RunDir) -> None:
    for place in (run.root, run.trial("t1").root):
        trainer = begun({"run": str(place)})
        best = state.read_weights(run.best_model).tensors
        for name, tensor in trainer.weights.named().items():
            assert torch.equal(tensor, best[name]), name
        assert trainer.step == 0


@pytest.mark.parametrize(("asked", "epoch"), [(4, 4), ("last", 5)])
def test_a_kept_epoch(run: RunDir, asked: Any, epoch: int) -> None:
    trainer = begun({"run": str(run.root), "epoch": asked})
    assert torch.equal(trainer.weights.flat, weights_after(run, epoch))
    assert float(trainer.slots["mean"].abs().sum()) == 0


def test_training_begins_from_there(run: RunDir, tmp_path: Path) -> None:
    frozen = {"optimizer": part("sgd", lr=0.0), "epochs": 1, "model": part("train_example:Net", dropout=0.0)}
    done = trained(tmp_path, page(start={"run": str(run.root), "epoch": 5}, **frozen))
    assert torch.equal(state.load(checkpoints.file(TrialDir(tmp_path), 0)).tensors["weights"], weights_after(run, 5))
    assert done.value < trained(tmp_path / "afresh", page(**frozen)).value


def test_with_the_optimizer_it_goes_on_as_the_longer_training(run: RunDir) -> None:
    """One step of the next epoch, from weights and slots: the order and the noise are those of epoch 0 again."""
    experiment = {"optimizer": EARLIER["optimizer"], "epochs": 1}
    trainer = begun({"run": str(run.root), "epoch": "last", "optimizer": True}, **experiment)
    there = state.load(checkpoints.file(run.trial("t1"), 5))
    assert trainer.step == there.scalars["step"] == 6 * 5
    for name, slot in trainer.slots.items():
        assert torch.equal(slot, there.tensors[f"optimizer.{name}"])
    trainer.run_epoch()
    assert trainer.step == 35


def test_a_resumed_training_does_not_start_again(run: RunDir, tmp_path: Path) -> None:
    start = {"run": str(run.root)}
    unbroken = trained(tmp_path / "unbroken", page(start=start, checkpoint={"every": 1}))
    seen: list[int] = []
    fit(
        page(start=start),
        dataset(),
        MACHINE,
        ACCURACY,
        TrialDir(tmp_path / "cut"),
        on_epoch=lambda epoch: seen.append(epoch.epoch),
        should_stop=lambda: len(seen) == 2,
    )
    again = trained(tmp_path / "cut", page(start=start))
    assert [epoch.metrics for epoch in again.history] == [epoch.metrics for epoch in unbroken.history]


def test_a_relative_path_is_beside_the_page_or_here(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.root.parent)
    assert begun({"run": "earlier"}).step == 0
    beside = page(start={"run": "earlier"})
    beside._file = run.root.parent / "page.yaml"
    monkeypatch.chdir("/")
    Trainer(beside, dataset(), MACHINE, ACCURACY)._start(False)
    with pytest.raises(UserError, match="there is no folder 'earlier'; looked at /earlier"):
        begun({"run": "earlier"})


@pytest.mark.parametrize(
    ("start", "changes", "message"),
    [
        ({"epoch": 1}, {}, r"epoch 1, which .*t1 has not kept\. Kept are: .*3, 4, 5\."),
        ({"epoch": 99}, {}, r"epoch 99, which .* has not kept"),
        ({}, {"model": part("train_example:Net", width=4)}, r"'frozen' has shape \[16\] in .* and \[4\]"),
        ({"epoch": 5, "optimizer": True}, {"optimizer": part("sgd")}, r"was trained with adam and the page says sgd"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    run: RunDir, start: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    kept = checkpoints.kept(run.trial("t1"))
    assert set(kept) >= {3, 4, 5}
    with pytest.raises(UserError, match=message):
        begun({"run": str(run.root), **start}, **changes)


def test_the_best_epoch_with_its_optimizer_must_have_been_kept(run: RunDir) -> None:
    trial = run.trial("t1")
    best = state.load(checkpoints.best_file(trial)).scalars["epoch"]
    assert best in checkpoints.kept(trial)  # the best epoch's is kept beside the newest
    trainer = begun({"run": str(trial.root), "optimizer": True})
    assert torch.equal(trainer.weights.flat, weights_after(run, best))


def test_other_slots_of_the_same_optimizer_are_refused(tmp_path: Path) -> None:
    trained(tmp_path, page(optimizer=part("sgd")))
    with pytest.raises(UserError, match="keeps nothing and the page's sgd needs momentum"):
        begun({"run": str(tmp_path), "epoch": "last", "optimizer": True}, optimizer=part("sgd", momentum=0.9))


def test_a_folder_that_is_none_or_not_finished(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is neither a run folder nor a trial's folder"):
        begun({"run": str(tmp_path)})
    search = RunDir(tmp_path / "search")
    for name in ("a", "b"):
        trained(search.trial(name).root, page(epochs=1, seed=ord(name)))
    with pytest.raises(UserError, match="is not finished and has 2 trials with weights: name one"):
        begun({"run": str(search.root)})
    rundir.write_json(search.result, {"best": {"trial": "b"}})
    trainer = begun({"run": str(search.root), "epoch": "last"})
    expected = state.load(checkpoints.file(search.trial("b"), 0)).tensors["weights"]
    assert torch.equal(trainer.weights.flat, expected)
