"""Errors of each output, the margin that holds as often as it says, and MASE against its definition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from plotly import graph_objects
from test_report import painted

import nnopt_ray as nn
from nnopt_ray import reading
from nnopt_ray.errors import UserError
from nnopt_ray.evaluate.amounts_told import margins, told
from nnopt_ray.report.amounts import amounts
from nnopt_ray.report.blocks import Plot
from nnopt_ray.report.facts import facts_from_folder
from nnopt_ray.rundir import RunDir


def series(rows: int = 500) -> np.ndarray:
    draw = np.random.default_rng(0)
    return 20 + 5 * np.sin(np.arange(rows) / 6) + draw.normal(size=rows)


def page(**window: Any) -> str:
    told = {"length": 12, "order": "t", **window}
    return (
        f"data: {{source: {{type: csv, path: series.csv}}, target: y, window: {json.dumps(told)}, steps: [scale]}}\n"
        "model: {type: mlp, widths: [16]}\n"
        "train: {epochs: 3}\n"
        "evaluate: {bootstrap: 100}\n"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series")
    pd.DataFrame({"t": np.arange(500), "y": series()}).to_csv(folder / "series.csv", index=False)
    return folder


def run(folder: Path, **window: Any) -> Path:
    (folder / "page.yaml").write_text(page(**window))
    return Path(nn.run(nn.load(folder / "page.yaml"), out=folder / "runs").path)


@pytest.fixture(scope="module")
def ran(folder: Path) -> Path:
    return run(folder, horizon=4)


@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_the_margin_holds_as_often_as_it_says(confidence: float) -> None:
    draw, held = np.random.default_rng(1), []
    for _ in range(600):
        errors = draw.standard_t(4, size=(31, 2))
        found = margins(errors[:30], np.zeros((30, 2)), confidence)
        assert found is not None
        held.append(np.abs(errors[30]) <= found)
    # Between the level and the level + 1 / 31 (Lei et al. 2018, theorem 2.2), 600 times 2 trials.
    assert confidence - 0.03 <= np.mean(held) <= confidence + 1 / 31 + 0.03


def test_too_few_rows_have_no_margin() -> None:
    assert margins(np.ones((18, 1)), np.zeros((18, 1)), 0.95) is None
    assert margins(np.arange(19.0)[:, None], np.zeros((19, 1)), 0.95) == 18


def test_each_step_is_measured_by_itself(ran: Path) -> None:
    found = json.loads((ran / "evaluation" / "amounts.json").read_text())
    said = pd.read_parquet(ran / "evaluation" / "predictions.parquet")
    test, validation = said[said["part"] == "test"], said[said["part"] == "validation"]
    assert found["steps"]
    assert len(found["outputs"]) == 4
    for step, one in enumerate(found["outputs"]):
        errors = (test[f"predicted_{step}"] - test[f"true_{step}"]).abs()
        assert one["mae"]["winner"] == pytest.approx(errors.mean(), rel=1e-5)
        assert one["rmse"]["winner"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-5)
        assert one["mae"]["interval"][0] < one["mae"]["winner"] < one["mae"]["interval"][1]
        known = np.sort((validation[f"predicted_{step}"] - validation[f"true_{step}"]).abs())
        assert one["margin"] == pytest.approx(known[int(np.ceil((len(known) + 1) * 0.95)) - 1], rel=1e-5)
        assert one["held"] == pytest.approx((errors <= one["margin"]).mean(), abs=1 / len(test))
    scores = json.loads((ran / "result.json").read_text())
    assert np.mean([one["mae"]["winner"] for one in found["outputs"]]) == pytest.approx(scores["test"]["mae"])


def test_the_report_shows_them(ran: Path) -> None:
    section = amounts(facts_from_folder(RunDir.open(ran)))
    assert section is not None
    plots = [block for block in section.blocks if isinstance(block, Plot)]
    assert [plot.title for plot in plots] == ["Error at each step"]
    graph_objects.Figure(painted(json.loads(json.dumps(plots[0].figure))))
    assert "95\u00a0% of the values lie within" in section.blocks[0].text


@pytest.mark.parametrize(("horizon", "foretell"), [(4, "level"), (1, "level"), (4, "change"), (1, "change")])
def test_mase_is_in_units_of_the_naive_forecast_of_the_training_series(
    folder: Path, horizon: int, foretell: str
) -> None:
    done = run(folder, horizon=horizon, foretell=foretell)
    test = json.loads((done / "result.json").read_text())["test"]
    assert ("mape" in test) is (foretell == "level"), "a share of a change that may be 0 says nothing"
    notes = json.loads((done / "evaluation" / "scores.json").read_text())["winner"]["test"]["notes"]
    assert any("foretell: change" in note for note in notes) is (foretell == "change")
    # The training part is the first 64 % of the series, less what the windows at its ends lack.
    naive = np.abs(np.diff(series()[12:320])).mean()
    assert test["mae"] / test["mase"] == pytest.approx(naive, rel=0.02)


def test_mase_of_what_is_no_forecast_is_refused(folder: Path) -> None:
    tree = {"data": {"source": {"type": "sklearn", "name": "diabetes"}}, "model": "mlp", "train": {"epochs": 1}}
    with pytest.raises(UserError, match=r"'mase' measures forecasts, and the page has no data.window"):
        nn.run(reading.from_tree({**tree, "evaluate": {"metrics": ["mase"]}}), out=folder / "runs")
    done = nn.run(reading.from_tree({**tree, "evaluate": {"bootstrap": 20}}), out=folder / "runs")
    assert "mase" not in done.result["test"]
    found = json.loads((Path(done.path) / "evaluation" / "amounts.json").read_text())
    assert (found["steps"], len(found["outputs"])) == (False, 1)


def test_outputs_that_are_no_numbers_tell_nothing() -> None:
    bad = np.full((5, 1), np.nan), np.zeros((5, 1))
    assert not told(bad, bad, bad[0], steps=False, confidence=0.9, resamples=5, seed=1)
    good = np.ones((40, 1)), np.zeros((40, 1))
    found = told(good, good, bad[0], steps=False, confidence=0.9, resamples=5, seed=1)
    assert found["outputs"][0]["mae"]["baseline"] is None
