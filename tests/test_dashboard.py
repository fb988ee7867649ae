"""The file that optuna-dashboard opens, read back by Optuna itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from nnopt_ray import reading, tables
from nnopt_ray.errors import RunFailed
from nnopt_ray.experiment import Experiment
from nnopt_ray.results import Epoch, TrialRow
from nnopt_ray.search.dashboard import DashboardStorage

TREE: dict[str, Any] = {
    "name": "digits",
    "seed": 4,
    "data": {"source": {"type": "sklearn", "name": "digits"}},
    "model": {"type": "mlp", "dropout": {"step": [0.0, 0.5, 0.2]}},
    "train": {
        "batch_size": {"choice": [16, 32]},
        "epochs": {"log_int": [1, 64]},
        "optimizer": {
            "choice": [
                {"type": "adam", "lr": {"log": [1e-5, 1e-1]}},
                {"type": "sgd", "lr": {"log": [1e-4, 1.0]}, "momentum": {"uniform": [0.0, 0.99]}},
            ]
        },
    },
    "search": {"method": "random", "trials": 40},
}
STATES = {"finished": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}


def rows_of(experiment: Experiment, count: int) -> list[TrialRow]:
    asker = tables.build("method", experiment.search.method).start(experiment)
    draw = np.random.default_rng(0)
    found = []
    for number in range(count):
        point = asker.ask(f"{number + 1:04d}")
        assert point is not None
        status: Any = ("finished", "stopped", "failed")[number % 3]
        value = None if status == "failed" else float(draw.random())
        history = tuple(Epoch(e, {"val_loss": 1.0 / (e + 1)}, 0.1, 1.0, 0.5) for e in range(3))
        metrics = {"val_loss": value, "parameters": 100.0 + number} if value is not None else {}
        found.append(TrialRow(f"{number + 1:04d}", status, "why", point, 3, 2, 1.5, value, metrics, history))
    return found


def load(path: Path) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    return optuna.load_study(study_name="digits", storage=optuna.storages.JournalStorage(backend))


def test_optuna_reads_back_every_trial_with_its_values_and_epochs(tmp_path: Path) -> None:
    experiment = reading.from_tree(TREE)
    rows = rows_of(experiment, 30)
    assert DashboardStorage(tmp_path / "optuna.log", experiment).add(rows) == 30
    study = load(tmp_path / "optuna.log")
    assert [direction.name for direction in study.directions] == ["MINIMIZE"]
    assert study.metric_names == ["val_loss"]
    assert study.best_value == min(row.value for row in rows if row.status == "finished" and row.value is not None)
    for row, trial in zip(rows, study.trials, strict=True):
        assert trial.user_attrs["trial"] == row.trial
        assert trial.state.name == STATES[row.status]
        assert trial.value == row.value
        assert trial.intermediate_values == {0: 1.0, 1: 0.5, 2: 1 / 3}
        assert trial.duration is not None
        assert trial.duration.total_seconds() == pytest.approx(1.5)
        # A branch is part of the name: `train.optimizer=sgd.lr` is our path `train.optimizer.lr`.
        named = {path.replace("=adam", "").replace("=sgd", ""): value for path, value in trial.params.items()}
        assert named == row.params
    kinds = {name: type(found).__name__ for name, found in study.trials[0].distributions.items()}
    assert kinds["model.dropout"] == "FloatDistribution"
    assert kinds["train.optimizer"] == "CategoricalDistribution"
    assert study.trials[0].distributions["model.dropout"].high == 0.4  # type: ignore[attr-defined]


def test_a_trial_is_written_once_over_any_number_of_processes(tmp_path: Path) -> None:
    experiment, path = reading.from_tree(TREE), tmp_path / "optuna.log"
    rows = rows_of(experiment, 12)
    first = DashboardStorage(path, experiment)
    assert [first.add(rows[:5]), first.add(rows[:5]), first.add(rows[:8])] == [5, 0, 3]
    again = DashboardStorage(path, experiment)
    assert again.add(rows) == 4
    assert [trial.user_attrs["trial"] for trial in load(path).trials] == [row.trial for row in rows]


def test_trials_under_way_are_not_written_and_nothing_is_touched_for_them(tmp_path: Path) -> None:
    experiment, path = reading.from_tree(TREE), tmp_path / "optuna.log"
    running = TrialRow("0001", "running", "", {}, 1, None, 0.1, None, {})
    assert DashboardStorage(path, experiment).add([running]) == 0
    assert not path.exists()


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_a_file_that_was_cut_off_is_mended(tmp_path: Path, cut: int) -> None:
    """A killed process leaves half a line: whole lines are kept, the trial of the torn one is written again."""
    experiment, path = reading.from_tree(TREE), tmp_path / "optuna.log"
    rows = rows_of(experiment, 6)
    DashboardStorage(path, experiment).add(rows)
    path.write_bytes(path.read_bytes()[:-cut])
    assert DashboardStorage(path, experiment).add(rows) == 1
    assert sorted(trial.user_attrs["trial"] for trial in load(path).trials) == [row.trial for row in rows]


@pytest.mark.parametrize("content", [b"", b"nonsense\n", b'{"op_code": 0, "study_name": "other", "directions": [1]}\n'])
def test_what_is_no_study_of_this_page_is_written_anew(tmp_path: Path, content: bytes) -> None:
    experiment, path = reading.from_tree(TREE), tmp_path / "optuna.log"
    path.write_bytes(content)
    assert DashboardStorage(path, experiment).add(rows_of(experiment, 3)) == 3
    assert len(load(path).trials) == 3


def test_several_objectives_have_a_direction_and_a_value_each(tmp_path: Path) -> None:
    experiment = reading.from_tree({**TREE, "objective": ["maximize val_accuracy", "minimize parameters"]})
    rows = rows_of(experiment, 6)
    DashboardStorage(tmp_path / "optuna.log", experiment).add(rows)
    study = load(tmp_path / "optuna.log")
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["val_accuracy", "parameters"]
    assert study.trials[0].values == [rows[0].value, 100.0]
    assert len(study.best_trials) >= 1


def test_trials_by_hand_and_points_of_another_space_are_shown_too(tmp_path: Path) -> None:
    listed = [{"train.batch_size": 16, "train.optimizer": {"type": "sgd", "lr": 0.5}}, {"train.batch_size": 64}]
    plain = {**TREE, "model": "mlp", "train": {}, "search": {"method": "manual", "trials": listed}}
    experiment = reading.from_tree(plain)
    rows = [*rows_of(experiment, 2), TrialRow("0003", "finished", "", {"train.clip_norm": 1.0}, 1, 0, 1.0, 0.5, {})]
    DashboardStorage(tmp_path / "optuna.log", experiment).add(rows)
    trials = load(tmp_path / "optuna.log").trials
    assert trials[0].params["train.batch_size"] == 16
    assert trials[0].distributions["train.batch_size"].choices == (16, 64)  # type: ignore[attr-defined]
    assert '"sgd"' in trials[0].params["train.optimizer"]
    assert trials[2].params == {"train.clip_norm": 1.0}


def test_epochs_that_are_no_numbers_are_kept_and_given_values_go_before_a_history(tmp_path: Path) -> None:
    experiment = reading.from_tree(TREE)
    rows = rows_of(experiment, 1)
    DashboardStorage(tmp_path / "optuna.log", experiment).add(rows, {"0001": [math.nan, 0.25]})
    told = load(tmp_path / "optuna.log").trials[0].intermediate_values
    assert math.isnan(told[0])
    assert told[1] == 0.25


def test_a_place_that_cannot_be_written_is_said_in_one_sentence(tmp_path: Path) -> None:
    experiment = reading.from_tree(TREE)
    storage = DashboardStorage(tmp_path / "no folder" / "optuna.log", experiment)
    with pytest.raises(RunFailed, match=r"cannot write .*optuna\.log: No such file or directory"):
        storage.add(rows_of(experiment, 1))
