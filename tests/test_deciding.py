"""Temperature and threshold: fitted to the validation part, true to their meaning, applied wherever a class is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from plotly import graph_objects
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from test_evaluate import dataset_of
from test_report import painted

import nnopt_ray as nn
from nnopt_ray import comparing, reading
from nnopt_ray.data.types import Dataset
from nnopt_ray.errors import PageError, UserError
from nnopt_ray.evaluate import deciding
from nnopt_ray.evaluate.calibration import COOLEST, HOTTEST, fit_temperature, reliability, sentence, wilson
from nnopt_ray.evaluate.decision import Decision, decided
from nnopt_ray.evaluate.given import positive_of
from nnopt_ray.evaluate.metrics import metric_for, softmax
from nnopt_ray.report import decided as threshold_section
from nnopt_ray.report.blocks import Plot
from nnopt_ray.report.calibrated import calibrated
from nnopt_ray.report.facts import facts_from_folder
from nnopt_ray.rundir import RunDir

LOG_LOSS = metric_for("log_loss")


def drawn(rows: int, classes: int, seed: int, sharpness: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and classes that follow their probabilities exactly."""
    draw = np.random.default_rng(seed)
    logits = sharpness * draw.normal(size=(rows, classes))
    ends = softmax(logits).cumsum(axis=1)
    return logits, (draw.random((rows, 1)) > ends).sum(axis=1).clip(max=classes - 1)


# --- temperature --------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), rows=st.integers(5, 300), classes=st.integers(2, 5), sharpness=st.floats(0.1, 20))
def test_no_other_temperature_has_a_smaller_loss_and_no_class_changes(
    seed: int, rows: int, classes: int, sharpness: float
) -> None:
    logits, target = drawn(rows, classes, seed)
    logits = logits * sharpness
    found, note = fit_temperature(logits, target)
    said, _ = decided(logits, Decision())
    after, predicted = decided(logits, Decision(found))
    np.testing.assert_array_equal(said.argmax(axis=1), predicted)
    loss = LOG_LOSS(logits / found, target)
    assert loss <= LOG_LOSS(logits, target) + 1e-12
    if note:
        return
    for other in (0.98 * found, 1.02 * found, *np.geomspace(COOLEST, HOTTEST, 25)):
        assert loss <= LOG_LOSS(logits / other, target) + 1e-12
    # Where it is the best, the expected logit is the true class's on average.
    assert (after * logits).sum(axis=1).mean() == pytest.approx(logits[np.arange(rows), target].mean(), abs=1e-6)


@pytest.mark.parametrize("times", [0.4, 1.0, 3.0])
def test_the_temperature_of_probabilities_that_are_true_is_found_again(times: float) -> None:
    logits, target = drawn(20_000, 4, 1)
    # Of 20,000 rows it is known to about 1 %.
    assert fit_temperature(times * logits, target) == (pytest.approx(times, rel=0.04), "")


def test_no_temperature_where_nothing_tells_one() -> None:
    constant = np.tile([0.3, 0.3, 0.3], (40, 1))
    found, note = fit_temperature(constant, np.arange(40) % 3)
    assert (found, "no row's probabilities" in note) == (1.0, True)
    right = np.eye(3)[np.arange(40) % 3]
    found, note = fit_temperature(right, np.arange(40) % 3)
    assert (found, "every validation row is recognised" in note) == (1.0, True)
    found, note = fit_temperature(-right, np.arange(40) % 3)
    assert (found, "guessing evenly is no worse" in note) == (HOTTEST, True)
    found, note = fit_temperature(np.where(right > 0, np.nan, 0.0), np.arange(40) % 3)
    assert (found, "not finite" in note) == (1.0, True)


def test_a_large_part_is_sampled_evenly() -> None:
    logits, target = drawn(120_000, 2, 3)
    assert fit_temperature(2 * logits, target)[0] == pytest.approx(2, rel=0.05)


# --- reliability --------------------------------------------------------------------------------


def test_bins_are_scikit_learns_quantiles() -> None:
    logits, target = drawn(1000, 2, 5)
    p = softmax(logits)[:, 1]
    bins = reliability(p, target == 1, 0.95)
    true, said = calibration_curve(target, p, n_bins=10, strategy="quantile")
    assert [one.rows for one in bins] == pytest.approx([100] * 10, abs=1)
    assert [one.said for one in bins] == pytest.approx(said, abs=0.01)
    assert [one.came_true for one in bins] == pytest.approx(true, abs=0.02)
    for one in bins:
        theirs = binomtest(round(one.came_true * one.rows), one.rows).proportion_ci(0.95, method="wilson")
        assert (one.low, one.high) == pytest.approx(tuple(theirs))
    assert wilson(0, 20, 0.9) == pytest.approx(tuple(binomtest(0, 20).proportion_ci(0.9, method="wilson")))


def test_equal_probabilities_stand_in_one_bin_and_few_rows_make_few_bins() -> None:
    target = np.arange(500) % 4 == 0
    (only,) = reliability(np.full(500, 0.25), target, 0.95)
    assert (only.said, only.came_true, only.rows, only.off) == (0.25, 0.25, 500, 0)
    assert len(reliability(np.linspace(0, 1, 45), target[:45], 0.95)) == 2
    assert len(reliability(np.linspace(0, 1, 3), target[:3], 0.95)) == 1


def test_the_sentence_names_the_bin_that_is_off_and_none_where_chance_explains_all() -> None:
    draw = np.random.default_rng(0)
    p = np.repeat([0.3, 0.9], 300)
    came = draw.random(600) < np.where(p == 0.9, 0.7, 0.3)
    said = sentence(reliability(p, came, 0.95), None)
    assert said.startswith(f"Where it says 90 %, it is right in {100 * came[300:].mean():.3g} % (")
    assert "says 90 % for 'yes', " in sentence(reliability(p, came, 0.95), "yes")
    true = draw.random(600) < p
    assert sentence(reliability(p, true, 0.95), None) == "No bin is farther from the truth than chance explains."


# --- the positive class -------------------------------------------------------------------------


def page(**sections: Any) -> Any:
    data = {"source": {"type": "sklearn", "name": "breast_cancer"}}
    return reading.from_tree({"data": data, "model": "mlp", "seed": 3, **sections})


def two(share: float = 0.2, classes: tuple[str, ...] = ("no", "yes")) -> Dataset:
    draw = np.random.default_rng(0)
    return dataset_of(draw.normal(size=(600, 2)), (draw.random(600) < share).astype(np.int64), classes)


def test_the_rarer_class_is_looked_for_unless_the_page_names_one() -> None:
    assert positive_of(page(), two(0.2)) == 1
    assert positive_of(page(), two(0.8)) == 0
    assert positive_of(page(evaluate={"positive": "yes"}), two(0.8)) == 1
    assert positive_of(page(evaluate={"positive": 0}), two(0.2, ("0", "1"))) == 0
    three = dataset_of(np.zeros((90, 2)), np.arange(90) % 3, ("a", "b", "c"))
    assert positive_of(page(), three) is None
    with pytest.raises(UserError, match=r"there is no class 'maybe'. The classes are 'no' and 'yes'"):
        positive_of(page(evaluate={"positive": "maybe"}), two())
    with pytest.raises(UserError, match="names one of two classes, and this data has 3 classes"):
        positive_of(page(evaluate={"positive": "a"}), three)


def test_what_the_data_has_not_is_refused_before_training() -> None:
    three = dataset_of(np.zeros((90, 2)), np.arange(90) % 3, ("a", "b", "c"))
    numbers = dataset_of(np.zeros((90, 2)), np.arange(90.0), (), scaled=True)
    with pytest.raises(UserError, match=r"evaluate.threshold is for two classes, and this data has 3 classes"):
        deciding.check(page(evaluate={"threshold": "f1"}), three)
    with pytest.raises(UserError, match=r"evaluate.threshold is for two classes, and this data has regression"):
        deciding.check(page(evaluate={"threshold": 0.3}), numbers)
    with pytest.raises(UserError, match=r"evaluate.calibrate is for classification"):
        deciding.check(page(evaluate={"calibrate": "temperature"}), numbers)
    deciding.check(page(evaluate={"threshold": 0.5, "calibrate": "temperature"}), three)


def test_a_number_alone_is_a_threshold() -> None:
    assert page(evaluate={"threshold": 0.3}).evaluate.threshold.page() == {"type": "at", "probability": 0.3}
    with pytest.raises(PageError, match=r"threshold.probability: must be a number above 0 and below 1; it is 3"):
        page(evaluate={"threshold": 3})
    with pytest.raises(PageError, match=r"evaluate.threshold: must be a threshold"):
        page(evaluate={"threshold": True})


def test_a_decision_says_the_positive_class_from_the_threshold_on() -> None:
    logits = np.log([[0.7, 0.3], [0.69, 0.31], [0.2, 0.8], [0.9, 0.1]])
    assert decided(logits, Decision(threshold=0.305, positive=1))[1].tolist() == [0, 1, 1, 0]
    assert decided(logits, Decision(threshold=0.75, positive=0))[1].tolist() == [1, 1, 1, 0]
    assert decided(logits, Decision(positive=1))[1].tolist() == [0, 0, 1, 0]
    cooler = decided(logits, Decision(temperature=0.5))[0]
    np.testing.assert_allclose(cooler, [[0.49 / 0.58, 0.09 / 0.58], *cooler[1:]])
    whole = Decision(1.25, 0.3, 1)
    assert Decision.from_json(json.loads(json.dumps(whole.to_json()))) == whole


# --- in a run -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The table, and a run on it that applies both, with 12 % positives and a network that is too sure."""
    folder = tmp_path_factory.mktemp("decided")
    draw = np.random.default_rng(1)
    x = draw.normal(size=(1500, 5))
    churned = draw.random(1500) < 1 / (1 + np.exp(2.6 - 1.5 * x[:, 0] + x[:, 1]))
    table = pd.DataFrame(x, columns=list("abcde")).assign(churned=np.where(churned, "yes", "no"))
    table.to_csv(folder / "rows.csv", index=False)
    (folder / "page.yaml").write_text(
        "data: {source: {type: csv, path: rows.csv}, target: churned, steps: [scale]}\n"
        "model: {type: mlp, widths: [64]}\n"
        "train: {epochs: 12, optimizer: {type: adam, lr: 0.03}}\n"
        "evaluate: {calibrate: temperature, threshold: {type: cost, false_negative: 5}, bootstrap: 200}\n"
    )
    run = nn.run(nn.load(folder / "page.yaml"), out=folder / "runs")
    return folder, Path(run.path)


def test_every_class_that_is_said_follows_the_decision(ran: tuple[Path, Path]) -> None:
    folder, run = ran
    decision = json.loads((run / "best" / "decision.json").read_text())
    assert decision["positive"] == 1
    assert decision["temperature"] != 1
    assert 0 < decision["threshold"] < 0.5  # a missed row costs five times a false alarm
    said = pd.read_parquet(run / "evaluation" / "predictions.parquet")
    np.testing.assert_array_equal(said["predicted"] == "yes", said["p_yes"] >= decision["threshold"])
    test = said[said["part"] == "test"]
    confusion = pd.read_csv(run / "evaluation" / "confusion.csv", index_col=0)
    np.testing.assert_array_equal(confusion, sk.confusion_matrix(test["true"], test["predicted"]))
    scores = json.loads((run / "evaluation" / "scores.json").read_text())["winner"]["test"]
    assert scores["metrics"]["f1"] == pytest.approx(sk.f1_score(test["true"], test["predicted"], average="macro"))
    assert scores["metrics"]["accuracy"] == sk.accuracy_score(test["true"], test["predicted"])
    assert scores["metrics"]["log_loss"] == pytest.approx(sk.log_loss(test["true"], test[["p_no", "p_yes"]]))
    assert scores["metrics"]["pr_auc"] == pytest.approx(
        sk.average_precision_score(test["true"] == "yes", test["p_yes"])
    )
    low, high = scores["intervals"]["accuracy"]
    assert low < scores["metrics"]["accuracy"] < high
    new = nn.open_run(run).predict(pd.read_csv(folder / "rows.csv").drop(columns="churned"))
    same = new.iloc[said["source_row"]]
    assert (same["predicted"].to_numpy() == said["predicted"].to_numpy()).all()
    np.testing.assert_allclose(same["p_yes"], said["p_yes"], rtol=1e-5)


def test_the_threshold_is_the_cheapest_on_the_validation_part(ran: tuple[Path, Path]) -> None:
    _, run = ran
    said = pd.read_parquet(run / "evaluation" / "predictions.parquet")
    rows = said[said["part"] == "validation"]
    found = json.loads((run / "evaluation" / "threshold.json").read_text())

    def cost(threshold: float) -> int:
        predicted, true = rows["p_yes"] >= threshold, rows["true"] == "yes"
        return int((predicted & ~true).sum() + 5 * (~predicted & true).sum())

    assert cost(found["threshold"]) == min(cost(each) for each in [*rows["p_yes"], 0.999999])
    test = said[said["part"] == "test"]
    for name, threshold in (("chosen", found["threshold"]), ("at_half", 0.5)):
        one, predicted = found["test"][name], test["p_yes"] >= threshold
        cells = sk.confusion_matrix(test["true"] == "yes", predicted).ravel().tolist()
        assert [one[cell] for cell in ("left_alone", "false_alarms", "missed", "found")] == cells
        assert one["recall"] == pytest.approx(sk.recall_score(test["true"] == "yes", predicted))
        low, high = one["intervals"]["recall"]
        assert low < one["recall"] < high
    gain = found["test"]["gain"]["recall"]
    assert gain["low"] <= gain["value"] <= gain["high"]
    assert gain["value"] == pytest.approx(found["test"]["chosen"]["recall"] - found["test"]["at_half"]["recall"])


def test_calibration_is_measured_on_the_test_part(ran: tuple[Path, Path]) -> None:
    _, run = ran
    found = json.loads((run / "evaluation" / "calibration.json").read_text())
    assert found["applied"]
    assert found["of"] == "yes"
    assert found["validation_log_loss"]["after"] <= found["validation_log_loss"]["before"]
    scores = json.loads((run / "evaluation" / "scores.json").read_text())["winner"]["test"]
    for name in ("log_loss", "brier", "ece"):
        assert found["metrics"][name]["after"] == pytest.approx(scores["metrics"][name])
        assert found["metrics"][name]["intervals"]["after"] == pytest.approx(scores["intervals"][name])
    assert sum(one["rows"] for one in found["before"]["bins"]) == found["rows"]["test"]
    assert sum(found["before"]["histogram"]) == found["rows"]["test"]


def test_the_report_shows_both(ran: tuple[Path, Path]) -> None:
    facts = facts_from_folder(RunDir.open(ran[1]))
    for section, said in (
        (calibrated(facts), "probabilities true"),
        (threshold_section.decided(facts), "From when on it says “yes”"),
    ):
        assert section is not None
        assert said in section.title
        plots = [one for block in section.blocks for one in getattr(block, "blocks", (block,)) if isinstance(one, Plot)]
        assert plots
        for plot in plots:
            graph_objects.Figure(painted(json.loads(json.dumps(plot.figure))))  # raises on a wrong name, type or colour
            assert plot.caption.endswith(".")
    assert "the smallest cost, 1 for a false alarm and 5 for a missed row" in (ran[1] / "report.html").read_text()


def test_runs_are_compared_by_what_they_decided(ran: tuple[Path, Path]) -> None:
    _, run = ran
    found = nn.compare(run, run)
    assert all(abs(gain.value) < 1e-12 for gain in found.gains[0].values())
    rows = comparing._predictions(RunDir.open(run))
    undecided = rows.assign(predicted=np.where(rows["p_yes"] > 0.5, "yes", "no"))
    gains = comparing._gains(reading.load(run / "resolved.yaml"), undecided, rows, 1)
    recall = sk.recall_score(rows["true"], rows["predicted"], average="macro")
    before = sk.recall_score(rows["true"], undecided["predicted"], average="macro")
    assert gains["recall"].value == pytest.approx(recall - before)
    assert gains["pr_auc"].value == 0
