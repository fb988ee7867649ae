"""Stopped at any epoch, or killed at any moment, and resumed: bitwise the training that never stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train_example import ACCURACY, MACHINE, dataset, page, part

from nnopt_ray.errors import NotANumber, RunFailed, Superseded, UserError
from nnopt_ray.experiment import Experiment
from nnopt_ray.recipe import Ema, Mix, Swa
from nnopt_ray.results import Epoch, Fit
from nnopt_ray.rundir import TrialDir, read_lines
from nnopt_ray.train import checkpoints, state
from nnopt_ray.train.fit import TrialRun, fit
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.precision import LossScale
from nnopt_ray.train.state import State

torch.set_num_threads(1)

PLATEAU = part("reduce_on_plateau", factor=0.5, patience=1)
EARLY = {"patience": 6, "restore_best_weights": True, "min_delta": 0.01}
PAGES: dict[str, dict[str, Any]] = {
    "adam": {},
    "adamw": {"optimizer": part("adamw"), "schedule": part("cosine"), "warmup_epochs": 1.5, "early": EARLY},
    "sgd": {"optimizer": part("sgd", momentum=0.9, dampening=0.1), "schedule": PLATEAU, "l1": 1e-3},
    "accumulate": {"optimizer": part("adamw", lr=0.01), "accumulate": 2, "schedule": part("one_cycle")},
    "proximal": {"optimizer": part("sgd", lr=0.1), "l1": 0.02, "l1_form": "proximal"},
    "layers": {
        "model": part("mlp", norm="batch", dropout=0.2),
        "optimizer": part("adamw"),
        "layer_decay": 0.7,
        "freeze": 1,
    },
    "mixup": {"mix": Mix(type="mixup", alpha=0.5)},
    "augment": {"augment": (part("noise", std=0.3),)},
    "ema": {"ema": Ema(decay=0.95), "early": EARLY},
    "swa": {"swa": Swa(start_epoch=2, lr=0.005, anneal_epochs=3), "schedule": PLATEAU},
    "rmsprop": {"optimizer": part("rmsprop", momentum=0.5, centered=True), "clip_norm": 0.5, "early": EARLY},
}


def same(ours: State, theirs: State) -> None:
    """Bitwise, but for the seconds."""
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in ours.tensors.items():
        assert tensor.dtype == theirs.tensors[name].dtype, name
        assert torch.equal(tensor, theirs.tensors[name]), name
    assert timeless(ours.scalars) == timeless(theirs.scalars)


def timeless(scalars: Any) -> str:
    history = [{**line, "seconds": 0} for line in scalars["history"]]
    return json.dumps({**scalars, "history": history}, sort_keys=True)


def without_seconds(history: Any) -> list[Epoch]:
    return [dataclasses.replace(epoch, seconds=0.0) for epoch in history]


def test_float16_moved_to_a_new_trainer_keeps_its_loss_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LossScale, "INTERVAL", 7)
    half = dataclasses.replace(MACHINE, precision="float16")
    experiment = page(epochs=4, accumulate=2)
    unbroken, moved = (Trainer(experiment, dataset(), half, ACCURACY) for _ in range(2))
    while not unbroken.done:
        unbroken.run_epoch()
        moved.run_epoch()
        state.save(moved.state(), tmp_path / "state")
        moved = Trainer(experiment, dataset(), half, ACCURACY)
        moved.load_state(state.load(tmp_path / "state"))
        same(moved.state(), unbroken.state())
    assert unbroken.scale is not None
    assert unbroken.scale.value != 2.0**16


@pytest.mark.parametrize("name", PAGES)
def test_a_training_moved_to_a_new_trainer_after_every_epoch_ends_in_the_same_bits(name: str, tmp_path: Path) -> None:
    experiment = page(epochs=7, **PAGES[name])
    unbroken = Trainer(experiment, dataset(), MACHINE, ACCURACY)
    moved = Trainer(experiment, dataset(), MACHINE, ACCURACY)
    while not unbroken.done:
        unbroken.run_epoch()
        moved.run_epoch()
        state.save(moved.state(), tmp_path / "state")
        torch.manual_seed(random.getrandbits(40))  # nothing may hang on a generator that has been running
        moved = Trainer(experiment, dataset(), MACHINE, ACCURACY)
        moved.load_state(state.load(tmp_path / "state"))
        same(moved.state(), unbroken.state())
    assert moved.done
    assert moved.reason == unbroken.reason
    unbroken.finalize()
    moved.finalize()
    assert torch.equal(unbroken.weights.flat, moved.weights.flat)
    for key, tensor in unbroken.best().items():
        assert torch.equal(tensor, moved.best()[key]), key


def run(folder: Path, experiment: Experiment | None = None, **how: Any) -> Fit:
    return fit(experiment or page(checkpoint={"every": 1}), dataset(), MACHINE, ACCURACY, TrialDir(folder), **how)


@pytest.mark.parametrize("stop", range(1, 5))
def test_stopped_after_any_epoch_and_resumed(stop: int, tmp_path: Path) -> None:
    unbroken = run(tmp_path / "unbroken")
    seen: list[int] = []
    first = run(tmp_path / "cut", on_epoch=lambda e: seen.append(e.epoch), should_stop=lambda: len(seen) == stop)
    assert first.reason == (f"stopped after epoch {stop - 1}" if stop < 4 else "all epochs done")
    again = run(tmp_path / "cut", on_epoch=lambda e: seen.append(e.epoch))
    assert seen == [0, 1, 2, 3]
    assert again.reason == "all epochs done"
    assert without_seconds(again.history) == without_seconds(unbroken.history)
    ends = [state.load(checkpoints.file(TrialDir(tmp_path / name), 3)) for name in ("unbroken", "cut")]
    same(*ends)


def test_noise_from_numpy_and_python_is_the_same_after_a_resume(tmp_path: Path) -> None:
    """A network of one's own may draw from any of the three generators."""
    drawing = page(checkpoint={"every": 1}, model=part("train_example:Drawing"))
    unbroken = run(tmp_path / "unbroken", drawing)
    run(tmp_path / "cut", drawing, should_stop=lambda: True)
    random.seed(1)
    np.random.seed(1)
    again = run(tmp_path / "cut", drawing)
    assert without_seconds(again.history) == without_seconds(unbroken.history)


def test_a_few_epochs_at_a_time(tmp_path: Path) -> None:
    unbroken = run(tmp_path / "unbroken")
    for until in (1, 2, 4, 4):
        with TrialRun(page(), dataset(), MACHINE, ACCURACY, TrialDir(tmp_path / "cut")) as trial:
            trained = trial.epochs(until=until)
            assert len(trial.history) == trial.epoch == until
            assert len(trained) in (1, 2) or until == 4
    assert trial.done
    assert without_seconds(trial.finish().history) == without_seconds(unbroken.history)
    assert [line["epoch"] for line in read_lines(TrialDir(tmp_path / "cut").history)] == [0, 1, 2, 3]


# One clean process forks the trainings, as importing torch takes longer than all of them.
FORKING = """
import os, random, resource, signal, sys, time
from pathlib import Path
import torch
from train_example import *
from nnopt_ray.errors import RunFailed
from nnopt_ray.rundir import TrialDir
from nnopt_ray.train.fit import fit

torch.set_num_threads(1)
EXIT = {"done": 0, "no room": 7}

def train(folder, epochs):
    experiment = page(
        epochs=epochs, checkpoint={"every": 1}, optimizer=part("rmsprop", momentum=0.5), early={"patience": 999}
    )
    fit(experiment, dataset(), MACHINE, ACCURACY, TrialDir(Path(folder)))

def forked(folder, epochs, largest_file=None, kill_after=None):
    child = os.fork()
    if child == 0:
        try:
            if largest_file is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
            train(folder, epochs)
        except RunFailed as error:
            print(error, flush=True)
            os._exit(EXIT["no room"])
        os._exit(EXIT["done"])
    if kill_after is not None:
        kill_after(child)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def in_clean_process(code: str, *arguments: str) -> list[str]:
    """The lines that `code` prints after FORKING."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FORKING + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_killed_at_random_moments(tmp_path: Path) -> None:
    trial = TrialDir(tmp_path / "killed")
    printed = in_clean_process(
        """
from nnopt_ray.rundir import read_lines
from nnopt_ray.train import checkpoints, state

draw = random.Random()
trial = TrialDir(Path(sys.argv[2]))
assert forked(sys.argv[1], 100) == 0
newest = lambda: max(checkpoints.kept(trial), default=-1)

def kill(child):
    before, deadline = newest(), time.monotonic() + 60
    while newest() == before and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)

took = 0
for _ in range(10):
    took += forked(trial.root, 100, kill_after=kill) == -signal.SIGKILL
    for path in checkpoints.kept(trial).values():
        state.load(path)  # every file that has its name is whole
    list(read_lines(trial.history))
    print(newest())
assert forked(trial.root, 100) == 0
print(took)
""",
        str(tmp_path / "unbroken"),
        str(trial.root),
    )
    *reached, killed = map(int, printed)
    assert reached == sorted(set(reached))  # every life got further
    assert killed >= 5
    ends = [state.load(checkpoints.file(TrialDir(tmp_path / name), 99)) for name in ("unbroken", "killed")]
    same(*ends)
    lines = [[{**e, "seconds": 0} for e in read_lines(TrialDir(tmp_path / n).history)] for n in ("unbroken", "killed")]
    assert lines[0] == lines[1]
    assert not list(trial.checkpoints.glob(".*"))


def test_no_room_is_said_and_leaves_what_was_there(tmp_path: Path) -> None:
    trial = TrialDir(tmp_path)
    printed = in_clean_process(
        """
assert forked(sys.argv[1], 2) == EXIT["done"]
before = {path: path.read_bytes() for path in TrialDir(Path(sys.argv[1])).checkpoints.iterdir()}
assert forked(sys.argv[1], 4, largest_file=3000) == EXIT["no room"]
assert before == {path: path.read_bytes() for path in TrialDir(Path(sys.argv[1])).checkpoints.iterdir()}
assert forked(sys.argv[1], 4) == EXIT["done"]
""",
        str(trial.root),
    )
    assert printed[0].startswith(f"cannot write {checkpoints.file(trial, 2)}: ")
    assert "File too large" in printed[0]
    assert max(checkpoints.kept(trial)) == 3


def files(trial: TrialDir) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in trial.root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("stops_at", range(1, 8))
def test_one_that_was_thought_dead_writes_nothing_over_its_successor(
    stops_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process stands still at one of its writes, another one takes the training up, and the first comes back."""
    made = (page(epochs=6, checkpoint={"every": 1, "keep": 2}), dataset(), MACHINE, ACCURACY)
    own, trial, asked, after = TrialRun.refuse_superseded, TrialDir(tmp_path / "trial"), [], dict[Path, bytes]()

    def stand_still(self: TrialRun) -> None:
        if self is first:
            asked.append(1)
            if len(asked) == stops_at:
                TrialRun(*made, trial).epochs()
                after.update(files(trial))
        own(self)

    monkeypatch.setattr(TrialRun, "refuse_superseded", stand_still)
    first = TrialRun(*made, trial)
    with pytest.raises(Superseded):
        first.epochs()
    assert after
    assert files(trial) == after
    assert [line["epoch"] for line in read_lines(trial.history)] == list(range(6))
    unbroken = TrialRun(*made, TrialDir(tmp_path / "unbroken"))
    unbroken.epochs()
    same(*(state.load(checkpoints.file(each, 5)) for each in (trial, unbroken.trial)))


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path) -> None:
    trial = TrialDir(tmp_path)
    unbroken = run(tmp_path)
    there = checkpoints.file(trial, 3)
    content = bytearray(there.read_bytes())
    content[-10] ^= 1  # one bit of a weight
    there.write_bytes(content)
    notes: list[str] = []
    again = run(tmp_path, on_note=notes.append)
    assert len(notes) == 1
    assert f"{there} is damaged: its checksum does not fit." in notes[0]
    assert "the one after epoch 2 is used instead" in notes[0]
    assert without_seconds(again.history) == without_seconds(unbroken.history)
    for path in checkpoints.kept(trial).values():
        path.write_bytes(path.read_bytes()[:100])
    notes.clear()
    again = run(tmp_path, on_note=notes.append)
    assert len(notes) == len(checkpoints.kept(trial)) == 2
    assert "training starts again" in notes[1]
    assert without_seconds(again.history) == without_seconds(unbroken.history)


@pytest.mark.parametrize(("every", "keep", "left"), [(1, 2, {4, 5}), (2, 1, {5}), (3, 3, {2, 5}), (9, 1, {5})])
def test_which_checkpoints_are_kept(every: int, keep: int, left: set[int], tmp_path: Path) -> None:
    done = run(tmp_path, page(epochs=6, checkpoint={"every": every, "keep": keep}))
    written = {1, 2, 3, 4, 5} if every == 1 else {1, 3, 5} if every == 2 else {2, 5} if every == 3 else {5}
    kept = set(checkpoints.kept(TrialDir(tmp_path)))
    assert kept == left | ({done.best_epoch} & (written | {0}))
    best = state.load(checkpoints.best_file(TrialDir(tmp_path)))
    assert best.scalars == {"epoch": done.best_epoch, "value": done.value, "metric": "val_loss"}


def test_automatic_checkpoints_cost_little(tmp_path: Path) -> None:
    writer = checkpoints.Writer(TrialDir(tmp_path), "auto", 2)
    writer.cost_s = 0.003
    due = [writer.due(0.04) for _ in range(3)]
    assert due == [False, False, True]


def test_best_weights_are_those_of_the_best_epoch(tmp_path: Path) -> None:
    experiment = page(epochs=6, objective="maximize val_accuracy", checkpoint={"every": 9})
    done = run(tmp_path, experiment)
    assert done.metrics["val_accuracy"] == max(epoch.metrics["val_accuracy"] for epoch in done.history)
    trainer = Trainer(experiment, dataset(), MACHINE, ACCURACY)
    state.load_weights(trainer.model, checkpoints.best_file(TrialDir(tmp_path)))
    trainer.model.eval()
    assert trainer.validation.measure(trainer._forward)["val_accuracy"] == done.value
    assert done.parameters == sum(p.numel() for p in trainer.model.parameters())


def test_more_epochs_can_follow(tmp_path: Path) -> None:
    run(tmp_path / "more")
    longer = page(epochs=7, checkpoint={"every": 1})
    more, straight = run(tmp_path / "more", longer), run(tmp_path / "straight", longer)
    assert without_seconds(more.history) == without_seconds(straight.history)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"model": part("train_example:Net", width=8)}, "checkpoint has other weights"),
        ({"optimizer": part("sgd", momentum=0.9)}, "checkpoint has another optimizer"),
    ],
)
def test_checkpoints_of_another_page_are_refused(other: dict[str, Any], what: str, tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(UserError, match=what):
        run(tmp_path, page(**other))
    with pytest.raises(UserError, match="checkpoint has other data"):
        fit(page(), dataset(rows=151), MACHINE, ACCURACY, TrialDir(tmp_path))


def test_interrupted_in_an_epoch_goes_on_from_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken = run(tmp_path / "unbroken")
    trained = Trainer._train

    def interrupted(self: Trainer) -> Any:
        found = trained(self)
        if self.epoch == 2:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Trainer, "_train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    monkeypatch.undo()
    assert max(checkpoints.kept(TrialDir(tmp_path / "cut"))) == 1
    assert without_seconds(run(tmp_path / "cut").history) == without_seconds(unbroken.history)


def test_interrupted_between_epochs_loses_nothing(tmp_path: Path) -> None:
    def interrupt(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, page(checkpoint={"every": 100}), on_epoch=interrupt)
    assert max(checkpoints.kept(TrialDir(tmp_path))) == 2


def test_an_objective_that_is_never_a_number_fails_in_words(tmp_path: Path) -> None:
    class Nothing:
        mode = "max"

        def __call__(self, outputs: Any, target: Any) -> float:
            return float("nan")

    with pytest.raises(NotANumber, match="val_odd was not a number in any of 4 epochs"):
        fit(page(objective="maximize val_odd"), dataset(), MACHINE, {"odd": Nothing()}, TrialDir(tmp_path))  # type: ignore[dict-item]
    lines = list(read_lines(TrialDir(tmp_path).history))
    assert [line["val_odd"] for line in lines] == [None] * 4


def test_nothing_trained_is_nothing_to_finish(tmp_path: Path) -> None:
    with (
        TrialRun(page(), dataset(), MACHINE, ACCURACY, TrialDir(tmp_path)) as trial,
        pytest.raises(RunFailed, match="no epoch was trained"),
    ):
        trial.finish()
