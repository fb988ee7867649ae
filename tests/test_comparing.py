"""Runs side by side: differences of pages and paired differences of scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk

import nnopt_ray
from nnopt_ray import compared, reading, runs
from nnopt_ray.cli.main import code
from nnopt_ray.comparing import compare
from nnopt_ray.errors import RunFolderError, UserError
from nnopt_ray.rundir import RunDir


def trained(folder: Path, name: str, *changes: str) -> Path:
    page = folder / "page.yaml"
    page.write_text(
        f"name: run\nobjective: minimize val_loss\ndata: {{source: {{type: sklearn, name: {name}}}, steps: [scale], "
        "split: {seed: 4}}\nmodel: {type: mlp, widths: [8]}\n"
        "train: {epochs: 4, optimizer: {type: adam, lr: 0.01}}\nevaluate: {bootstrap: 200}\n"
    )
    return runs.run(reading.load(page, set=changes), folder).path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        "good": trained(folder, "wine", "train.epochs=30"),
        "bad": trained(folder, "wine", "train.optimizer.lr=1e-6", "train.epochs=1"),
        "other seed": trained(folder, "wine", "data.split.seed=5"),
        "numbers": trained(folder, "diabetes"),
        "numbers 2": trained(folder, "diabetes", "data.scale_target=false", "train.optimizer.lr=0.1"),
    }


def test_a_clear_difference_is_clear_and_has_the_metrics_of_the_runs(folders: dict[str, Path]) -> None:
    found = compare([folders["bad"], folders["good"]])
    assert found.page == {"train.epochs": ("1", "30"), "train.optimizer.lr": ("1e-06", "0.01")}
    (gain,) = found.gains
    for name in ("accuracy", "log_loss", "brier", "roc_auc"):
        before, after = found.scores[name]
        assert before is not None
        assert after is not None
        sign = 1 if found.modes[name] == "max" else -1
        assert gain[name].value == pytest.approx(sign * (after - before), rel=1e-4, abs=1e-6)
        assert gain[name].low > 0
    assert found.why_not == ("",)
    swapped = compare([folders["good"], folders["bad"]]).gains[0]["accuracy"]
    assert (swapped.value, swapped.high, swapped.low) == pytest.approx(
        (-gain["accuracy"].value, -gain["accuracy"].low, -gain["accuracy"].high)
    )


def test_the_interval_is_that_of_the_paired_bootstrap(folders: dict[str, Path]) -> None:
    """By scikit-learn on rows drawn by hand; only the draws differ."""
    gain = compare([folders["numbers"], folders["numbers 2"]]).gains[0]["mae"]
    one, other = (
        pd.read_parquet(RunDir(folders[name]).predictions).query("part == 'test'") for name in ("numbers", "numbers 2")
    )
    random, differences = np.random.default_rng(0), []
    for _ in range(2000):
        drawn = random.integers(0, len(one), len(one))
        errors = [
            sk.mean_absolute_error(table["true"].to_numpy()[drawn], table["predicted"].to_numpy()[drawn])
            for table in (one, other)
        ]
        differences.append(errors[0] - errors[1])
    width = np.ptp(np.quantile(differences, (0.025, 0.975)))
    assert gain.low == pytest.approx(np.quantile(differences, 0.025), abs=0.2 * width)
    assert gain.high == pytest.approx(np.quantile(differences, 0.975), abs=0.2 * width)


def test_a_run_beside_itself_is_not_different(folders: dict[str, Path]) -> None:
    found = compare([folders["good"], folders["good"]])
    assert not found.page
    assert {(gain.value, gain.low, gain.high) for gain in found.gains[0].values()} == {(0.0, 0.0, 0.0)}


def test_other_test_rows_are_not_compared_and_it_is_said(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert code(["compare", *(str(folders[name]) for name in ("good", "other seed", "bad"))]) == 0
    out = capsys.readouterr().out
    assert "B and A are not compared row by row: their test parts differ (36 and 36 rows" in out
    assert "C and A are not" not in out
    assert "worse" in out


def test_json_is_one_object(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert code(["compare", str(folders["bad"]), str(folders["good"]), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["gains"][0]["accuracy"]["low"] > 0
    assert told["page"]["train.epochs"] == ["1", "30"]


def test_the_page_says_what_the_numbers_say(folders: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "beside.html"
    found = nnopt_ray.compare(folders["bad"], nnopt_ray.open_run(folders["good"]), folders["other seed"], html=file)
    text = file.read_text(encoding="utf-8")
    gain = found.gains[0]["accuracy"]
    assert f"B is better than A by {100 * gain.value:.1f}\u00a0points" in text
    assert "C and A are not compared row by row: their test parts differ" in text
    assert text.count('data-plot="plot-') == 3  # scores, losses, accuracies
    for name in ("A run", "B run", "C run"):
        assert name in text
    assert "train.optimizer.lr" in text
    table = found.table.set_index(["metric", "run"])
    assert table.loc[("accuracy", str(folders["good"])), "gain"] == gain.value
    assert table["gain"].isna().sum() == 2 * len(found.scores) + len(set(found.scores) - set(found.gains[0]))


def test_a_search_beside_a_training_shows_what_was_chosen(folders: dict[str, Path], tmp_path: Path) -> None:
    searched = trained(tmp_path, "wine", "model.dropout={choice: [0.1, 0.4]}", "search.method=grid")
    text = compared.html(compare([folders["good"], searched]))
    chosen = nnopt_ray.open_run(searched).best["values"]["model.dropout"]
    assert "Between the networks" in text
    assert f">{chosen}</td>" in text
    assert "{choice: [0.1, 0.4]}" in text


def test_what_cannot_be_compared_is_one_sentence(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least two runs"):
        compare([folders["good"]])
    with pytest.raises(UserError, match="predict different things"):
        compare([folders["good"], folders["numbers"]])
    (tmp_path / "resolved.yaml").write_text("")
    with pytest.raises(RunFolderError, match="is not finished"):
        compare([folders["good"], tmp_path])
