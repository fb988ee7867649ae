"""Cross-validation: its statistics by hand, folds as lanes against folds alone, nothing learned from what is held out,
and runs that have it, interrupted and resumed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_example import csv_page
from scipy import stats

import nnopt_ray as nn
from nnopt_ray import assembly, folding, reading
from nnopt_ray.data.prepare import prepare
from nnopt_ray.errors import DataError, Interrupted, PageError
from nnopt_ray.evaluate.folded import Folded, FoldScores, corrected, summed_up
from nnopt_ray.experiment import Experiment, plain
from nnopt_ray.train.lanes import CannotFuse, Pack, Shape
from nnopt_ray.train.loop import Trainer

PAGE: dict[str, Any] = {
    "data": {"source": {"type": "sklearn", "name": "wine"}, "steps": ["scale"]},
    "model": {"type": "mlp", "widths": [32]},
    "train": {"epochs": 6, "batch_size": 16, "optimizer": {"type": "adam", "lr": 0.01}},
    "evaluate": {"folds": 4, "bootstrap": 0},
}


def page(**sections: Any) -> Experiment:
    return reading.from_tree({**PAGE, **sections})


# Statistics


def test_the_interval_is_that_of_nadeau_and_bengio_by_hand() -> None:
    scores = [0.81, 0.84, 0.79, 0.86, 0.80]
    mean = sum(scores) / 5
    variance = sum((score - mean) ** 2 for score in scores) / 4
    half = stats.t.ppf(0.975, df=4) * math.sqrt((1 / 5 + 1 / 4) * variance)
    found = corrected(scores, 1 / 4, 0.95)
    assert found.mean == pytest.approx(mean)
    assert found.sd == pytest.approx(math.sqrt(variance))
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half))
    plain = stats.t.interval(0.95, 4, mean, math.sqrt(variance / 5))
    assert found.high - found.low == pytest.approx((plain[1] - plain[0]) * math.sqrt(1 + 5 / 4))  # type: ignore[operator]


def test_scores_that_are_not_defined_are_left_out_and_one_fold_has_no_interval() -> None:
    assert corrected([0.5, math.nan, 0.7], 0.25, 0.9).folds == 2
    assert corrected([0.5, math.nan], 0.25, 0.9).low is None
    assert math.isnan(corrected([math.nan], 0.25, 0.9).mean)


def fold(number: int, value: float, baseline: float, failed: str = "") -> FoldScores:
    rows = {"train": 60, "validation": 20, "held_out": 20}
    metrics = {} if failed else {"accuracy": value, "loss": 1 - value}
    return FoldScores(number, f"0001-f{number}", rows, 5, 3, metrics, {"accuracy": baseline, "loss": 0.4}, failed)


def test_gains_are_paired_and_positive_where_the_winner_is_better_whatever_the_mode() -> None:
    each = [fold(1, 0.9, 0.8), fold(2, 0.7, 0.65), fold(3, 0.8, 0.7), fold(4, 0, 0, "no number")]
    found = summed_up(
        each, {"accuracy": "max", "loss": "min"}, "loss", 0.95, ("k_fold", 4, 1), False, "0001", searched=True
    )
    assert found.gains["accuracy"] == corrected([0.9 - 0.8, 0.7 - 0.65, 0.8 - 0.7], 0.25, 0.95)
    assert found.gains["loss"].mean == pytest.approx(0.4 - (0.1 + 0.3 + 0.2) / 3)
    assert "1 of 4 folds failed" in found.sentences[1]
    assert "too kind" in found.sentences[0]
    again = Folded.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found


# Lanes


def folds_of(experiment: Experiment) -> list[Experiment]:
    pages = folding.planned(experiment, "0001", {}, "classification")
    return [reading.close(experiment, each.params) for each in pages]


def trainers(pages: list[Experiment]) -> list[Trainer]:
    made = []
    for each in pages:
        dataset = assembly.data_of(each)
        made.append(Trainer(each, dataset, assembly.machine_for(each), assembly.metrics_for(each, dataset)))
    return made


@pytest.mark.parametrize("widths", [[32], [64, 32]])
def test_a_fold_as_a_lane_is_bitwise_the_fold_alone(widths: list[int], one_thread: None) -> None:
    experiment = page(
        model={"type": "mlp", "widths": widths, "dropout": 0.2},
        train={**PAGE["train"], "epochs": 12, "early_stopping": {"patience": 2}},
        objective="maximize val_accuracy",
    )
    together, alone = trainers(folds_of(experiment)), trainers(folds_of(experiment))
    assert len({t.dataset.key for t in together}) == 4
    assert len({len(t.dataset.validation) for t in together}) == 2, "parts that choose the epoch differ by a row"
    pack = Pack(Shape(together[0]), 4, together[0])
    for trainer in together:
        pack.put(trainer)
    while left := [trainer for trainer in together if not trainer.done]:
        pack.run_epoch(only=left)
    for lane, by_itself in zip(together, alone, strict=True):
        while not by_itself.done:
            by_itself.run_epoch()
        assert torch.equal(lane.weights.flat, by_itself.weights.flat)
        assert lane.best_epoch == by_itself.best_epoch
        assert lane.reason == by_itself.reason
        for one, two in zip(lane.history, by_itself.history, strict=True):
            assert {k: v for k, v in one.metrics.items() if k != "train_loss"} == {
                k: v for k, v in two.metrics.items() if k != "train_loss"
            }


def test_folds_whose_loss_or_rows_differ_are_no_lanes_of_one_pack() -> None:
    pages = folds_of(page(train={**PAGE["train"], "loss": {"type": "cross_entropy", "class_weights": "balanced"}}))
    weighted = trainers(pages)
    pack = Pack(Shape(weighted[0]), 4, weighted[0])
    pack.put(weighted[0])
    unlike = [t for t in weighted[1:] if not _same_counts(t, weighted[0])]
    assert unlike, "the counts of the classes differ by a row in some fold"
    with pytest.raises(CannotFuse, match="other data"):
        pack.put(unlike[0])
    plain = trainers(folds_of(page())[:1])[0]
    fewer = trainers([reading.close(page(), {"data.train_share": 0.5, "evaluate.folds": None})])[0]
    pack = Pack(Shape(plain), 2, plain)
    with pytest.raises(CannotFuse):
        pack.put(fewer)


def _same_counts(one: Trainer, two: Trainer) -> bool:
    return bool((np.bincount(one.dataset.train.target) == np.bincount(two.dataset.train.target)).all())


# Nothing is learned from what is held out


def text(poison: Callable[[int], bool], labels: bool) -> str:
    random = np.random.default_rng(5)
    lines = ["a,b,word,label"]
    for row in range(120):
        a, b = random.normal(50, 9), random.normal()
        word, label = ("amber", "blue", "cyan")[random.integers(0, 3)], "x" if random.random() < 0.4 else "y"
        if poison(row):
            a, b, word = a * 1e4 + 7, -b * 50, f"poison{row % 3}"
            label = ("y" if label == "x" else "x") if labels else label
        lines.append(f"{a!r},{b!r},{word},{label}")
    return "\n".join(lines)


@pytest.mark.parametrize("kind", ["k_fold", "stratified"])
@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("beside", [{}, {"balance": "smote"}, {"quality": [{"type": "outliers", "action": "drop"}]}])
def test_poison_in_the_fold_held_out_and_in_the_test_part_changes_nothing_that_is_learned(
    kind: str, number: int, beside: dict[str, Any], tmp_path: Path
) -> None:
    """Stratified folds are drawn by the labels, so there only what is not the label is poisoned."""
    steps = [{"type": "impute"}, {"type": "scale"}, {"type": "encode", "method": "target"}]
    keys = {"target": "label", "steps": steps, "split": {"type": "random", "stratify": False}, **beside}
    fold = {"number": number, "of": {"type": kind, "folds": 4, "seed": 0}}
    clean_text = text(lambda row: False, False)
    whole = prepare(csv_page(tmp_path / "whole.csv", clean_text, **keys), tmp_path / "cache")
    clean = prepare(csv_page(tmp_path / "clean.csv", clean_text, fold=fold, **keys), tmp_path / "cache")
    hidden = {*np.asarray(clean.test.source_rows).tolist(), *np.asarray(whole.test.source_rows).tolist()}
    told = csv_page(tmp_path / "other.csv", text(hidden.__contains__, kind == "k_fold"), fold=fold, **keys)
    other = prepare(told, tmp_path / "cache")
    assert clean.key != other.key
    assert len(clean.test) > 0
    assert not set(whole.test.source_rows.tolist()) & set(clean.test.source_rows.tolist())
    assert not np.array_equal(clean.test.inputs[0], other.test.inputs[0])
    for part in ("train", "validation"):
        one, two = getattr(clean, part), getattr(other, part)
        np.testing.assert_array_equal(one.target, two.target)
        np.testing.assert_array_equal(one.source_rows, two.source_rows)
        np.testing.assert_array_equal(one.inputs[0], two.inputs[0])
    learned = [json.loads((each.folder / "preprocessing.json").read_text(encoding="utf-8")) for each in (clean, other)]
    assert learned[0]["steps"] == learned[1]["steps"]


def test_folds_by_time_foretell_from_the_past_alone(tmp_path: Path) -> None:
    series = "\n".join(["day,y", *(f"{day},{math.sin(day / 5)!r}" for day in range(160))])
    window = {"length": 6, "horizon": 2, "order": "day"}
    for number in range(1, 4):
        fold = {"number": number, "of": {"type": "auto", "folds": 3}}
        keys = {"target": "y", "window": window, "steps": ["scale"], "fold": fold}
        found = prepare(csv_page(tmp_path / "s.csv", series, **keys), tmp_path / "cache")
        train, chosen, held = (np.asarray(part.source_rows) for part in (found.train, found.validation, found.test))
        assert train.max() + 1 < chosen.min()
        assert chosen.max() + 1 < held.min()
        assert held.max() < 128, "the test part is in no fold"


# Pages


BAD = {
    "a fold of one": ({"evaluate": {"folds": 1}}, "evaluate.folds.folds: must be a whole number from 2 to 1000"),
    "a word": ({"evaluate": {"folds": "many"}}, "evaluate.folds: unknown fold 'many'. Known: auto, k_fold"),
    "groups torn": (
        {"data": {**PAGE["data"], "split": {"type": "grouped", "group": "who"}}, "evaluate": {"folds": "k_fold"}},
        "evaluate.folds: data.split keeps each 'who' whole, and k_fold tears them apart. Write type: grouped.",
    ),
    "a group that is learned from": (
        {"evaluate": {"folds": {"type": "grouped", "group": "who"}}},
        "evaluate.folds.group: 'who' tells which rows belong together, and the network would learn from it.",
    ),
    "the future": (
        {"data": {**PAGE["data"], "split": {"type": "time", "column": "day"}}, "evaluate": {"folds": "stratified"}},
        "evaluate.folds: the split is by time (data.split), and stratified learns from what comes later.",
    ),
    "time repeated": (
        {
            "data": {**PAGE["data"], "split": {"type": "time", "column": "day"}},
            "evaluate": {"folds": {"type": "auto", "repeats": 3}},
        },
        "evaluate.folds.repeats: rows in time have one order, so there is nothing to repeat. Take it away.",
    ),
    "nested without a search": (
        {"evaluate": {"folds": 3, "nested": True}},
        "evaluate.nested: it searches inside each fold, and this page searches nothing. Take it away.",
    ),
    "nested without folds": (
        {"evaluate": {"nested": True}},
        "evaluate.nested: it searches inside each fold, and there are none. Add evaluate.folds: 5.",
    ),
    "language": (
        {"data": {**PAGE["data"], "task": "language_modelling", "steps": ["tokenize"]}, "model": "gpt"},
        "evaluate.folds: a language task counts its loss by token of a vocabulary that each fold would have of its own",
    ),
    "a fold of a fold": (
        {"data": {**PAGE["data"], "fold": {"number": 1, "of": "k_fold"}}},
        "evaluate.folds: the page is one fold already (data.fold)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_page_that_asks_for_what_there_cannot_be_is_refused(case: str) -> None:
    sections, sentence = BAD[case]
    with pytest.raises(PageError) as told:
        page(**sections)
    assert sentence in str(told.value)


def test_what_cannot_be_divided_is_refused_before_anything_trains(tmp_path: Path) -> None:
    rows = [f"{row},{row % 7},{'rare' if row < 4 else 'often'}" for row in range(90)]
    experiment = csv_page(tmp_path / "rare.csv", "\n".join(["a,b,label", *rows]), target="label")
    experiment = reading.from_tree({**plain(experiment.tree), "evaluate": {"folds": 5}})
    with pytest.raises(DataError, match=r"the class 'rare' has 3 rows outside the test part, and each of 5 folds"):
        nn.run(experiment, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


# Runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> nn.Run:
    return nn.run(page(), tmp_path_factory.mktemp("whole"))


def told(run: nn.Run) -> Any:
    return json.loads((run.path / "evaluation" / "folds.json").read_text(encoding="utf-8"))


def test_a_run_has_its_folds_in_files_result_and_report(whole: nn.Run) -> None:
    found = told(whole)
    assert [one["number"] for one in found["each"]] == [1, 2, 3, 4]
    scores = [one["metrics"]["accuracy"] for one in found["each"]]
    assert whole.result["cv"]["winner"]["accuracy"]["mean"] == pytest.approx(np.mean(scores))
    assert sum(one["rows"]["held_out"] for one in found["each"]) == 142, "all rows of wine but the test part"
    assert {"loss", "accuracy", "roc_auc"} <= set(found["each"][0]["baseline"])
    assert "Cross-validation" in (whole.path / "report.html").read_text(encoding="utf-8")


def test_the_page_of_a_fold_runs_it_alone_and_measures_what_it_holds_out(whole: nn.Run, tmp_path: Path) -> None:
    alone = nn.run(nn.load(whole.path / "trials" / "0001-f2" / "page.yaml"), tmp_path)
    assert alone.result["test"]["loss"] == pytest.approx(told(whole)["each"][1]["metrics"]["loss"], rel=1e-5)
    assert alone.result["test"]["accuracy"] == told(whole)["each"][1]["metrics"]["accuracy"]


def test_a_run_that_is_interrupted_among_its_folds_ends_as_one_that_was_not(whole: nn.Run, tmp_path: Path) -> None:
    looks = 0

    def stop() -> bool:
        nonlocal looks
        looks += any(tmp_path.glob("*/trials/*-f*/history.jsonl"))
        return looks > 0

    with pytest.raises(Interrupted):
        nn.run(page(resources={"fuse": "never"}), tmp_path, should_stop=stop)
    folder = next(tmp_path.iterdir())
    assert not (folder / "result.json").exists()
    assert len(list(folder.glob("trials/*-f*"))) < 4
    assert told(nn.resume(folder)) == told(whole)


def test_the_winner_of_a_search_is_cross_validated_and_the_choice_is_said(tmp_path: Path) -> None:
    searched = page(
        model={"type": "mlp", "widths": [32], "dropout": {"uniform": [0.0, 0.5]}},
        search={"method": "random", "trials": 3},
    )
    run = nn.run(searched, tmp_path)
    found = told(run)
    best = run.result["best"]["trial"]
    assert found["of_trial"] == best
    assert [one["trial"] for one in found["each"]] == [f"{best}-f{number}" for number in range(1, 5)]
    assert "chosen by rows that are held out here" in found["sentences"][0]
    assert run.result["trials"]["total"] == 3, "a fold is no trial of the search"


def test_a_nested_search_chooses_in_each_fold_anew(tmp_path: Path) -> None:
    searched = page(
        model={"type": "mlp", "widths": [32], "dropout": {"uniform": [0.0, 0.5]}},
        train={**PAGE["train"], "epochs": 3},
        search={"method": "random", "trials": 3},
        evaluate={"folds": 2, "nested": True, "bootstrap": 0},
    )
    found = told(nn.run(searched, tmp_path))
    assert found["nested"]
    assert [list(one["values"]) for one in found["each"]] == [["model.dropout"]] * 2
    folder = next(tmp_path.iterdir())
    for one in found["each"]:
        journal = (folder / "folds" / str(one["number"]) / "journal.jsonl").read_text(encoding="utf-8").splitlines()
        ended = [json.loads(line) for line in journal if '"ended"' in line]
        best = min(ended, key=lambda event: (event["value"], event["trial"]))
        assert one["trial"].endswith(best["trial"])
