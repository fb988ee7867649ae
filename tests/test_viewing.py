"""A run in Python: its tables say what its files say, its figures are the report's."""

from __future__ import annotations

import math
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import report_example as example

import nnopt_ray as nn
from nnopt_ray import rundir
from nnopt_ray.errors import RunFolderError, UserError
from nnopt_ray.report.facts import Facts


@cache
def told() -> Facts:
    return example.classification()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> nn.Run:
    return nn.open_run(example.folder(told(), tmp_path_factory.mktemp("run")).root)


def test_epochs_are_those_of_the_histories(run: nn.Run) -> None:
    every = run.epochs
    assert len(every) == sum(row.epochs for row in told().rows)
    best = told().best
    assert best is not None
    own = every[every["trial"] == best.trial].drop(columns="trial").reset_index(drop=True)
    pd.testing.assert_frame_equal(own, run.history)
    assert list(run.history["val_loss"]) == [epoch.metrics["val_loss"] for epoch in told().history]
    assert list(run.history.columns[-4:]) == ["lr", "grad_norm", "seconds", "events"]


def test_scores_have_intervals_and_gains_where_they_were_measured(run: nn.Run) -> None:
    found = run.scores.set_index(["model", "part", "metric"])
    assert len(found) == 4 * len(told().winner["test"].metrics)
    line = found.loc[("winner", "test", "accuracy")]
    gain = told().gains["accuracy"]
    assert tuple(line[["low", "high"]]) == told().winner["test"].intervals["accuracy"]
    assert tuple(line[["gain", "gain_low", "gain_high"]]) == (gain.value, gain.low, gain.high)
    assert found.loc[("winner", "validation", "accuracy")].isna().sum() == 5
    assert found.loc[("baseline", "test", "accuracy")].isna().sum() == 3


def test_classes_and_confusion_agree(run: nn.Run) -> None:
    table = run.confusion
    each = run.classes[run.classes["model"] == "winner"].set_index("class")
    assert table.index.name == "true"
    assert np.allclose(np.diag(table) / table.sum(axis=1), each["recall"].loc[table.index])
    assert list(table.sum(axis=1)) == list(each["rows"].loc[table.index])


def test_intervals_of_classes_become_columns(tmp_path: Path) -> None:
    folder = example.folder(told(), tmp_path)
    scores = rundir.read_json(folder.scores)
    scores["winner"]["test"]["per_class"][0]["intervals"] = {"f1": [0.5, 0.75]}
    rundir.write_json(folder.scores, scores)
    first = nn.open_run(tmp_path).classes.iloc[0]
    assert (first["f1_low"], first["f1_high"]) == (0.5, 0.75)


def test_what_the_evaluation_wrote_beside_the_scores_is_a_table(tmp_path: Path) -> None:
    folder = example.folder(told(), tmp_path)
    run = nn.open_run(tmp_path)
    with pytest.raises(RunFolderError, match=r"holds no folds\.json"):
        _ = run.folds
    each = [{"number": 0, "rows": {"train": 8}, "metrics": {"accuracy": 0.5}, "baseline": {}, "failed": ""}]
    rundir.write_json(folder.evaluated("folds"), {"each": each})
    assert run.folds.loc[0, "metrics.accuracy"] == 0.5
    rundir.write_json(folder.evaluated("diagnosis"), {"found": [{"name": "overfit", "evidence": {"rise": 0.2}}]})
    assert run.diagnosis.loc[0, "evidence.rise"] == 0.2
    assert set(run.evaluated) == {"folds", "diagnosis"}


def test_predictions_are_those_of_the_file(tmp_path: Path) -> None:
    facts = example.regression()
    run = nn.open_run(example.folder(facts, tmp_path).root)
    assert facts.points is not None
    assert tuple(run.predictions["predicted"]) == facts.points.predicted
    assert len(run.classes) == 0
    assert run.confusion.empty


def test_figures_are_those_of_the_report(run: nn.Run) -> None:
    names = run.figures()
    assert names["loss"] == "Loss"
    assert set(names) >= {"loss", "metric", "rate", "search", "curves", "confusion", "classes"}
    for name in names:
        drawn = run.figure(name)  # plotly's own validators judge colours and types
        assert drawn.layout.title.text == names[name]
    loss, dark = run.figure("learning"), run.figure("loss", dark=True)
    validation = next(trace for trace in loss.data if trace.name == "validation")
    assert list(validation.y) == [epoch.metrics["val_loss"] for epoch in told().history]
    assert loss.layout.paper_bgcolor != dark.layout.paper_bgcolor
    with pytest.raises(UserError, match=r"no figure 'losss'.* Did you mean 'loss'"):
        run.figure("losss")


def test_a_run_that_is_not_done_says_so(tmp_path: Path) -> None:
    folder = example.folder(told(), tmp_path)
    folder.result.unlink()
    folder.scores.unlink()
    run = nn.open_run(tmp_path)
    with pytest.raises(RunFolderError, match="has not been evaluated yet"):
        _ = run.scores
    with pytest.raises(RunFolderError, match="has not been evaluated yet"):
        _ = run.predictions
    assert len(run.epochs)
    assert "interrupted" in run._repr_html_()
    folder.trials_table.unlink()
    folder.journal.unlink()
    for trial in folder.trials.iterdir():
        (trial / "history.jsonl").unlink()
        trial.rmdir()
    assert list(run.epochs.columns) == ["trial", "epoch", "lr", "grad_norm", "seconds", "events"]
    assert run.history.empty


class Texts(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_in_a_notebook_it_tells_the_score_and_runs_no_text_of_the_user(tmp_path: Path) -> None:
    test = told().winner["test"]
    shown = Texts(nn.open_run(example.folder(told(), tmp_path / "one").root)._repr_html_())
    assert f"accuracy {100 * test.metrics['accuracy']:.1f}\u00a0%" in shown.text
    assert not math.isnan(test.metrics["accuracy"])
    bad = example.classification(experiment=example.page(name=" ".join(example.HOSTILE)))
    shown = Texts(nn.open_run(example.folder(bad, tmp_path / "two").root)._repr_html_())
    assert shown.tags <= {"table", "caption", "b", "tbody", "tr", "th", "td"}
    assert " ".join(example.HOSTILE) in shown.text
