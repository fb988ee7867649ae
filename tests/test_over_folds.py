"""Searches by cv_val_METRIC: a trial's value is the mean over its folds, hopeless trials are dropped after the first of
them, and a search that was cut off goes on."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest

import nnopt_ray as nn
from nnopt_ray import reading
from nnopt_ray.data.prepare import prepare
from nnopt_ray.errors import Interrupted, PageError
from nnopt_ray.experiment import Experiment

PAGE: dict[str, Any] = {
    "objective": "minimize cv_val_loss",
    "data": {"source": {"type": "sklearn", "name": "wine"}, "steps": ["scale"]},
    "model": {"type": "mlp", "widths": [32]},
    "train": {
        "epochs": 6,
        "batch_size": 16,
        "optimizer": {"type": "adam", "lr": {"choice": [0.01, 0.00001, 0.003, 0.02]}},
    },
    "search": {"method": "grid", "concurrency": 1},
    "evaluate": {"folds": {"type": "stratified", "folds": 4}, "bootstrap": 0},
}


def page(**sections: Any) -> Experiment:
    return reading.from_tree({**PAGE, **sections})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> nn.Run:
    return nn.run(page(), tmp_path_factory.mktemp("run"))


def losses(run: nn.Run, trial: str) -> list[float]:
    """The best val_loss of each fold of a trial that was trained to its end."""
    found = []
    for folder in sorted(run.path.glob(f"trials/{trial}-f*")):
        history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        if len(history) == 6:
            found.append(min(line["val_loss"] for line in history))
    return found


def test_a_trial_is_the_mean_over_its_folds_and_the_best_mean_wins(run: nn.Run) -> None:
    finished = run.trials[run.trials.status == "finished"]
    assert len(finished) >= 2
    for _, row in finished.iterrows():
        assert row["value"] == pytest.approx(fmean(losses(run, row["trial"])))
    best = finished.loc[finished["value"].idxmin()]
    assert run.best["trial"] == best["trial"]
    assert run.best["metrics"]["cv_val_loss"] == pytest.approx(best["value"])


def test_a_hopeless_trial_is_dropped_after_two_folds_by_the_rule_that_is_stated(run: nn.Run) -> None:
    dropped = run.trials[run.trials.status == "stopped"]
    assert "0002" in dropped["trial"].tolist(), "at a rate of 0.00001 next to nothing is learned"
    told = dropped.set_index("trial").loc["0002", "reason"]
    mine, best = losses(run, "0002"), losses(run, "0001")
    assert len(mine) == 2
    assert fmean(mine) - fmean(best[:2]) > stdev(best)
    assert told.startswith("dropped after 2 of 4 folds: worse than trial 0001 on the same by ")
    assert not list(run.path.glob("trials/0002-f3"))


def test_the_winner_is_trained_on_the_pages_own_parts_and_measured_on_the_test_part(run: nn.Run) -> None:
    best = run.best["trial"]
    own = nn.load(run.path / "trials" / best / "page.yaml")
    assert own.data.fold is None
    assert own.objective == "minimize val_loss"
    history = [json.loads(line) for line in (run.path / "trials" / best / "history.jsonl").read_text().splitlines()]
    assert run.best["metrics"]["val_loss"] == pytest.approx(min(line["val_loss"] for line in history))
    assert run.best["epoch"] == int(np.argmin([line["val_loss"] for line in history]))
    assert 0 <= run.result["test"]["accuracy"] <= 1
    assert run.result["cv"]["folds"] == 4, "evaluate.folds cross-validates it beside"
    assert "cross-validated loss" in (run.path / "report.html").read_text(encoding="utf-8")


def test_no_row_of_the_test_part_is_in_a_fold_and_each_other_row_validates_once(run: nn.Run) -> None:
    whole = prepare(page(train={**PAGE["train"], "optimizer": "adam"}, objective="minimize val_loss", search={}))
    validated = []
    for number in range(1, 5):
        data = prepare(nn.load(run.path / "trials" / f"0001-f{number}" / "page.yaml"))
        np.testing.assert_array_equal(data.test.source_rows, whole.test.source_rows)
        assert not set(data.train.source_rows) & set(data.validation.source_rows)
        assert not set(data.train.source_rows) & set(whole.test.source_rows)
        validated += data.validation.source_rows.tolist()
    assert sorted(validated) == sorted([*whole.train.source_rows.tolist(), *whole.validation.source_rows.tolist()])


@pytest.mark.parametrize("form", ["stop", "promote"])
def test_a_scheduler_gives_folds(form: str, tmp_path: Path) -> None:
    asha = {"type": "asha", "form": form, "grace_period": 1, "reduction_factor": 2}
    rates = {"choice": [0.01, 0.00001, 0.02, 0.00002, 0.005, 0.003]}
    run = nn.run(
        page(
            train={**PAGE["train"], "optimizer": {"type": "adam", "lr": rates}},
            search={"method": "grid", "scheduler": asha, "concurrency": 2},
            evaluate={"folds": 4, "bootstrap": 0},
        ),
        tmp_path,
    )
    stopped = run.trials[run.trials.status == "stopped"]
    assert {"0002", "0004"} <= set(stopped["trial"])
    for _, row in stopped.iterrows():
        assert 1 <= len(losses(run, row["trial"])) < 4
    for _, row in run.trials[run.trials.status == "finished"].iterrows():
        assert len(losses(run, row["trial"])) == 4


def test_a_search_that_was_cut_off_among_folds_goes_on_to_the_same_values(run: nn.Run, tmp_path: Path) -> None:
    def stop() -> bool:
        return len(list(tmp_path.glob("*/trials/0001-f*"))) >= 3

    with pytest.raises(Interrupted):
        nn.run(page(), tmp_path, should_stop=stop)
    again = nn.resume(next(tmp_path.iterdir()))
    columns = ["trial", "status", "value"]
    assert again.trials[columns].equals(run.trials[columns])
    assert again.result["test"] == run.result["test"]


def test_a_fault_in_a_fold_fails_its_trial_with_its_cause(tmp_path: Path) -> None:
    rates = {"choice": [0.01, 1e30]}
    sgd = {**PAGE["train"], "optimizer": {"type": "sgd", "lr": rates}}
    run = nn.run(page(train=sgd, evaluate={"folds": 3, "bootstrap": 0}), tmp_path)
    assert run.trials["status"].tolist() == ["finished", "failed"]
    assert run.trials["cause"].tolist()[1] == "not-a-number"


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nothing to search": (
        {"train": {"epochs": 3}, "search": {}},
        "objective: cv_val_loss compares the trials of a search, and this page searches nothing. Write val_loss, and "
        "evaluate.folds: 5 to cross-validate the result.",
    ),
    "an unknown metric": ({"objective": "minimize cv_val_losss"}, "no metric gives 'val_losss'. Did you mean"),
    "the wrong direction": ({"objective": "maximize cv_val_loss"}, "val_loss is better when it is smaller"),
    "a scheduler of epochs": (
        {"search": {"method": "random", "scheduler": "pbt"}},
        "search.scheduler: pbt gives trials epochs, and by cv_val_loss it is folds that they are given.",
    ),
    "more grace than folds": (
        {"search": {"method": "random", "scheduler": {"type": "asha", "grace_period": 9}}},
        "search.scheduler.grace_period",
    ),
    "reproducible": (
        {"search": {"method": "random", "reproducible": True}},
        "search.reproducible: which trials are dropped hangs on which folds are done first.",
    ),
    "confirmed too": (
        {"search": {"method": "random", "confirm": {"top": 2}}},
        "search.confirm: cv_val_loss compares trials over folds already.",
    ),
    "nested too": ({"evaluate": {"folds": 3, "nested": True}}, "evaluate.nested: folds of folds are not trained."),
    "beside another part": (
        {"objective": ["minimize cv_val_loss", "maximize val_accuracy"], "search": {"method": "random"}},
        "'maximize val_accuracy' is of the page's own validation part, and cv_val_loss of folds.",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_search_over_folds_cannot_be_is_refused(case: str) -> None:
    sections, sentence = BAD[case]
    with pytest.raises(PageError) as told:
        page(**sections)
    assert sentence in str(told.value)
