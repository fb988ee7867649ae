"""Mislabelled rows: found as cleanlab finds them, by probabilities that no row's own label had a part in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks_example import examined
from cleanlab.classification import CleanLearning
from cleanlab.filter import find_label_issues
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from nnopt_ray import assembly, reading
from nnopt_ray.data.label_errors import LabelErrors
from nnopt_ray.data.out_of_fold import folds, out_of_fold, told
from nnopt_ray.data.prepare import prepare
from nnopt_ray.data.quality import Examined
from nnopt_ray.errors import DataError
from nnopt_ray.evaluate.evaluate import predict
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import derived_seed
from nnopt_ray.train.loop import Trainer


def flipped(labels: np.ndarray, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which this share is another class, each as likely; bool, which."""
    random = np.random.default_rng(seed)
    classes = int(labels.max()) + 1
    wrong = np.zeros(len(labels), dtype=bool)
    wrong[random.choice(len(labels), int(share * len(labels)), replace=False)] = True
    return np.where(wrong, (labels + random.integers(1, classes, len(labels))) % classes, labels), wrong


def digits(share: float, seed: int = 0, **keys: Any) -> tuple[Examined, np.ndarray]:
    source = load_digits()
    labels, wrong = flipped(source.target, share, seed)
    return examined({"y": labels}, images=source.images[:, None], steps=("scale",), seed=seed, **keys), wrong


def columns(matrix: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    return {f"x{place}": matrix[:, place] for place in range(matrix.shape[1])} | {"y": labels}


@pytest.mark.parametrize(
    ("model", "share", "precision", "recall"),
    [("linear", 0.05, 0.9, 0.65), ("linear", 0.1, 0.9, 0.7), ("boosted", 0.1, 0.9, 0.8)],
)
def test_flipped_digits_are_found(model: Any, share: float, precision: float, recall: float) -> None:
    data, wrong = digits(share)
    (finding,) = LabelErrors(model=model, folds=3 if model == "boosted" else 5).examine(data)
    there = wrong[finding.rows]
    found = there.mean(), there.sum() / wrong[data.train].sum()
    print(f"{model}, {share:.0%} flipped: precision {found[0]:.3f}, recall {found[1]:.3f}")
    assert found[0] >= precision
    assert found[1] >= recall
    assert (np.diff(finding.sure) <= 0).all()
    assert np.isin(finding.rows, data.train).all()


@pytest.mark.parametrize("load", [load_digits, load_wine, load_iris])
def test_of_labels_that_are_right_next_to_none_is_doubted(load: Any) -> None:
    source = load()
    data = examined(columns(source.data, source.target), steps=("scale",))
    found = LabelErrors().examine(data)
    assert sum(len(finding.rows) for finding in found) <= 0.005 * len(data.train)


@pytest.mark.parametrize("filter_by", ["prune_by_noise_rate", "both", "confident_learning", "low_self_confidence"])
def test_of_the_same_probabilities_cleanlab_finds_the_same_rows(filter_by: Any) -> None:
    data, _ = digits(0.1)
    check = LabelErrors(filter_by=filter_by)
    said = out_of_fold(data, data.train, 5, "linear", derived_seed(data.seed, "label_errors"))
    labels = data.target.values[data.train]
    expected = find_label_issues(
        labels, said.probabilities, filter_by=filter_by, return_indices_ranked_by="self_confidence", n_jobs=1
    )
    (finding,) = check.examine(data)
    assert sorted(finding.rows) == sorted(data.train[expected])
    sure = 1 - said.probabilities[expected, labels[expected]]
    np.testing.assert_allclose(finding.sure, sure, atol=1e-12)
    table = CleanLearning(find_label_issues_kwargs={"filter_by": filter_by, "n_jobs": 1}).find_label_issues(
        labels=labels, pred_probs=said.probabilities
    )
    assert sorted(finding.rows) == data.train[table["is_label_issue"]].tolist()
    suggested = dict(zip(finding.rows.tolist(), finding.measured["suggested"], strict=True))
    assert all(
        suggested[row] == str(table["predicted_label"][place])
        for place, row in enumerate(data.train)
        if row in suggested
    )


def test_a_fold_is_judged_by_steps_and_model_of_the_others_alone() -> None:
    """The same numbers as scikit-learn's own scaler and model give, fitted on the other folds by hand."""
    source = load_wine()
    labels, _ = flipped(source.target, 0.1)
    gaps = np.random.default_rng(0).random(source.data.shape) < 0.2
    holey = np.where(gaps, np.nan, source.data)
    data = examined(columns(holey, labels), steps=("impute", "scale"))
    rows = data.train
    said = out_of_fold(data, rows, 4, "linear", 9)
    fold = folds(labels[rows], None, 4, 9)
    matched = np.zeros(len(rows), dtype=bool)
    for number in range(4):
        held = fold == number
        fill = np.nanmean(holey[rows[~held]], axis=0)
        filled = np.where(gaps, fill, holey)
        scaler = StandardScaler().fit(filled[rows[~held]])
        x = scaler.transform(filled).astype(np.float32).astype(np.float64)
        for strength in (0.003, 0.01, 0.03, 0.1, 1.0, 10.0):
            model = LogisticRegression(C=strength).fit(x[rows[~held]], labels[rows[~held]])
            matched[held] |= np.abs(model.predict_proba(x[rows[held]]) - said.probabilities[held]).max(axis=1) < 1e-4
    assert matched.all()


def test_no_label_has_a_part_in_its_own_judgement() -> None:
    data, _ = digits(0.0)
    train, asked = data.train[:400], data.train[400:600]
    values = data.target.values.copy()
    values[asked] = (values[asked] + 3) % 10
    other = replace(data, target=replace(data.target, values=values))
    for model in ("linear", "boosted"):
        first, second = told(data, train, asked, model, 0), told(other, train, asked, model, 0)
        np.testing.assert_array_equal(first.probabilities, second.probabilities)


@pytest.mark.parametrize("action", ["drop", "relabel"])
def test_poisoned_validation_and_test_rows_change_no_repair(action: Any) -> None:
    data, _ = digits(0.05)
    assert data.table.images is not None
    images, values = data.table.images.copy(), data.target.values.copy()
    outside = np.concatenate([data.parts["validation"], data.parts["test"]])
    images[outside] = 1e6 * np.random.default_rng(1).normal(size=images[outside].shape)
    values[outside] = 0
    poisoned = replace(data, table=replace(data.table, images=images), target=replace(data.target, values=values))
    judged = ("train", "validation", "test")
    clean, dirty = (LabelErrors(action=action, judged=judged).examine(d) for d in (data, poisoned))
    assert clean[0].repairs == dirty[0].repairs
    assert clean[0].repairs
    assert not any(finding.repairs for finding in (*clean[1:], *dirty[1:]))
    np.testing.assert_array_equal(clean[0].sure, dirty[0].sure)


def test_what_the_actions_ask_for() -> None:
    data, wrong = digits(0.1)
    (dropped,), (relabelled,) = (LabelErrors(action=action).examine(data) for action in ("drop", "relabel"))
    assert [repair.row for repair in dropped.repairs] == dropped.rows.tolist()
    true = load_digits().target
    right = [int(r.after) == true[r.row] for r in relabelled.repairs if wrong[r.row]]
    assert np.mean(right) > 0.9
    for repair in relabelled.repairs:
        assert (repair.what, repair.column) == ("relabelled", "y")
        assert repair.before == data.target.classes[data.target.values[repair.row]] != repair.after
    (few,) = LabelErrors(share=0.25).examine(data)
    (sure,) = LabelErrors(threshold=0.9).examine(data)
    assert few.rows.tolist() == dropped.rows[: len(few.rows)].tolist()
    assert len(few.rows) == np.ceil(len(dropped.rows) / 4)
    assert sure.rows.tolist() == dropped.rows[dropped.sure >= 0.9].tolist()


def test_validation_and_test_rows_are_judged_by_the_training_part() -> None:
    data, wrong = digits(0.1)
    found = LabelErrors(judged=("validation", "test")).examine(data)
    for part, finding in zip(("validation", "test"), found, strict=True):
        assert np.isin(finding.rows, data.parts[part]).all()
        assert wrong[finding.rows].mean() > 0.85
        assert f"{part} rows seem mislabelled" in finding.sentence


def test_a_text_whose_label_is_wrong_is_found() -> None:
    random = np.random.default_rng(0)
    topics = (
        ["engine", "wheel", "brake", "road", "motor", "driver"],
        ["flour", "butter", "oven", "sugar", "bread", "cake"],
    )
    labels = random.integers(0, 2, 400)
    texts = [" ".join(random.choice([*topics[label], "the", "a", "and"], 12)) for label in labels]
    named, wrong = flipped(labels, 0.05)
    for model in ("linear", "boosted"):
        data = examined(
            {"text": texts, "y": named},
            steps=({"type": "tokenize", "vocabulary_size": 100},),
            as_text=frozenset({"text"}),
        )
        (finding,) = LabelErrors(model=model).examine(data)  # type: ignore[arg-type]
        assert wrong[finding.rows].all(), model
        assert len(finding.rows) >= 0.8 * wrong[data.train].sum(), model


def test_categories_beside_numbers_are_judged() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 500)
    city = np.where(random.random(500) < 0.97, np.array(["A", "B"])[labels], "C")
    named, wrong = flipped(labels, 0.05)
    for method in ("embedding", "one_hot"):
        steps = ("scale", {"type": "encode", "method": method})
        data = examined({"city": city, "x": labels * 4 + random.normal(size=500), "y": named}, steps=steps)
        for model in ("linear", "boosted"):
            (finding,) = LabelErrors(model=model).examine(data)  # type: ignore[arg-type]
            assert wrong[finding.rows].mean() > 0.9
            assert wrong[finding.rows].sum() > 0.6 * wrong[data.train].sum()


def test_of_classes_that_overlap_so_many_are_found_that_nothing_is_repaired() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 600)
    data = examined({"x": random.normal(size=600) + labels, "y": labels}, steps=("scale",))
    (finding,) = LabelErrors().examine(data)
    assert len(finding.rows) > 0.2 * len(data.train)
    assert finding.sentence.endswith("cannot tell the classes apart, not that labels are wrong.")
    with pytest.raises(DataError, match=r"^data.quality: label_errors would drop .*% of the training rows, more than"):
        LabelErrors(action="drop").examine(data)
    (sure,) = LabelErrors(action="drop", threshold=0.9).examine(data)
    assert 0 < len(sure.repairs) == len(sure.rows) < 0.2 * len(data.train)


@pytest.mark.parametrize("action", ["drop", "relabel"])
def test_a_rare_class_that_the_model_does_not_know_keeps_its_rows(action: Any) -> None:
    """Its rows look like mislabelled ones of the large class; without them there would be nothing to learn of it."""
    random = np.random.default_rng(3)
    matrix, labels = random.normal(size=(1500, 4)), (random.random(1500) < 0.04).astype(np.int64)
    data = examined(columns(matrix, labels), steps=("scale",))
    (finding,) = LabelErrors(action=action).examine(data)
    rare = data.target.values[finding.rows] == 1
    assert rare.sum() > 0.2 * (data.target.values[data.train] == 1).sum()
    assert {repair.row for repair in finding.repairs} == set(finding.rows[~rare].tolist())
    assert "classes that the model does not know, so they keep their rows" in finding.sentence
    (all_of_them,) = LabelErrors(action=action, most=1.0).examine(data)
    assert len(all_of_them.repairs) == len(all_of_them.rows)


def test_a_class_with_fewer_rows_than_folds_is_left_alone() -> None:
    source = load_digits()
    rows = np.concatenate(
        [np.flatnonzero(source.target == 0), np.flatnonzero(source.target == 1), np.flatnonzero(source.target == 2)[:3]]
    )
    data = examined({"y": source.target[rows]}, images=source.images[rows, None], steps=("scale",))
    found = LabelErrors(action="drop").examine(data)
    assert all(data.target.values[row] != 2 for finding in found for row in finding.rows)


def test_amounts_are_refused() -> None:
    data = examined({"x": np.arange(100.0) ** 2, "y": np.arange(100.0) / 7})
    with pytest.raises(
        DataError, match=r"^data.quality: label_errors judges classes, and the target 'y' is read as amounts"
    ):
        LabelErrors().examine(data)


def page_of(folder: Path, labels: np.ndarray, **keys: Any) -> Experiment:
    source = load_digits()
    np.save(folder / "x.npy", source.images[:, None].astype(np.float32))
    np.save(folder / "y.npy", labels)
    check = {"type": "label_errors", "model": "page", "folds": 3, "action": "drop", "most": 1.0, **keys}
    data = {
        "source": {"type": "numpy", "x": str(folder / "x.npy"), "y": str(folder / "y.npy")},
        "steps": ["scale"],
        "quality": [check],
    }
    train = {"epochs": 6, "batch_size": 32, "optimizer": {"type": "adam", "lr": {"choice": [0.005, 0.0001]}}}
    return reading.from_tree({"data": data, "model": {"type": "mlp", "widths": [64]}, "train": train})


def test_the_page_s_own_network_judges_and_trials_are_judged_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setenv("NNOPT_CACHE", str(tmp_path / "cache"))
    labels, wrong = flipped(load_digits().target, 0.1)
    page = page_of(tmp_path, labels)
    dataset = assembly.data_of(page)
    (found,) = dataset.summary.quality
    rows = np.array([row for row, _ in found.first_rows])
    train = np.union1d(dataset.train.source_rows, rows)
    assert wrong[rows].mean() > 0.9
    assert wrong[rows].sum() > 0.7 * wrong[train].sum()
    assert found.repaired == {"dropped": len(rows)}
    assert not np.isin(rows, dataset.train.source_rows).any()
    # A trial that is prepared anew is judged by the network of the search, not by its own: lr 0.0001 learns nothing.
    other = reading.close(page, {"train.optimizer.lr": 0.0001})
    assert assembly.data_of(page, other).key == dataset.key
    assert assembly.data_of(other).key != dataset.key
    # With another check the network has no part in it, and the data is the same whatever the network.
    plain = [
        page_of(tmp_path, labels, model="linear"),
        reading.close(page_of(tmp_path, labels, model="linear"), {"train.optimizer.lr": 0.0001}),
    ]
    assert assembly.data_of(plain[0]).key == assembly.data_of(plain[1]).key


def test_the_judge_trains_as_the_page_does(tmp_path: Path, one_thread: None) -> None:
    """The probabilities are those of a training of the page on the same rows, at its best epoch."""
    page = reading.close(page_of(tmp_path, load_digits().target), {"train.optimizer.lr": 0.05, "seed": 17})
    page = page.model_copy(update={"data": page.data.model_copy(update={"quality": ()})})
    dataset = prepare(page, tmp_path / "cache")
    run = Trainer(page, dataset, assembly.machine_for(page), {})
    while not run.done:
        run.run_epoch()
    assert run.best_epoch < run.epoch - 1
    run.weights.restore(run.snapshots[run.best_epoch])
    expected = softmax(predict(run.model, dataset.test, dataset, assembly.machine_for(page)).astype(np.float64), axis=1)
    arrays = [np.concatenate([np.array(part.inputs[0]) for part in (dataset.train, dataset.validation, dataset.test)])]
    labels = np.concatenate([dataset.train.target, dataset.validation.target])
    ends = np.cumsum([len(dataset.train), len(dataset.validation), len(dataset.test)])
    rows = np.split(np.arange(ends[2]), ends[:2])
    said = assembly.judge_of(page)(dataset.shapes, tuple(arrays), labels, *rows, seed=17)
    np.testing.assert_allclose(said, expected, atol=1e-12)


def test_what_the_judge_learns_by_is_part_of_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = reading.close(page_of(tmp_path, load_digits().target), {"train.optimizer.lr": 0.005})
    keys = [assembly.judge_of(page).key]
    for path, value in (("model.widths", [32]), ("train.epochs", 7), ("data.augment", ["noise"])):
        keys.append(assembly.judge_of(reading.close(page, {path: value})).key)
    own = tmp_path / "own_judge.py"
    monkeypatch.syspath_prepend(tmp_path)
    for depth in (1, 2):
        own.write_text(f"from nnopt_ray.models.mlp import MLP\n\n\nclass Own(MLP):\n    depth = {depth}\n")
        keys.append(assembly.judge_of(reading.close(page, {"model": "own_judge:Own"})).key)
    assert len(set(keys)) == len(keys)
    # What has no part in it: the seed of the page, the search, what is measured in the end.
    assert assembly.judge_of(reading.close(page, {"seed": 3, "evaluate.bootstrap": 10})).key == keys[0]


def test_a_network_that_does_not_learn_is_said_so(tmp_path: Path, one_thread: None) -> None:
    page = page_of(tmp_path, load_digits().target)
    page = reading.close(page, {"train.optimizer": {"type": "sgd", "lr": 1e12}})
    with pytest.raises(
        DataError, match=r"^data.quality: label_errors with model: page trains the page's network, which"
    ):
        assembly.data_of(page)


def test_without_a_network_to_ask_model_page_is_refused() -> None:
    data, _ = digits(0.0)
    with pytest.raises(DataError, match=r"Write model: linear, or boosted\.$"):
        LabelErrors(model="page").examine(data)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=12, max_size=80), st.integers(2, 6), st.integers(0, 1000))
def test_folds_deal_every_class_evenly(classes: list[int], count: int, seed: int) -> None:
    labels = np.array(classes)
    fold = folds(labels, None, count, seed)
    counts = np.array([np.bincount(fold[labels == label], minlength=count) for label in np.unique(labels)])
    assert (np.ptp(counts, axis=1) <= 1).all()
    assert np.ptp(counts.sum(axis=0)) <= 1
    np.testing.assert_array_equal(fold, folds(labels, None, count, seed))


def test_a_group_is_in_one_fold_under_a_grouped_split() -> None:
    """Rows of a group are copies with one label: with a copy outside the fold, a wrong label would seem right."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 60)
    centers = random.normal(size=(60, 5)) + 1.5 * labels[:, None]
    named, wrong = flipped(labels, 0.1)
    group = np.repeat(np.arange(60), 8)
    matrix = centers[group] + 0.01 * random.normal(size=(480, 5))
    table = columns(matrix, named[group]) | {"who": [f"p{number}" for number in group]}
    data = examined(table, split={"type": "grouped", "group": "who"}, steps=("scale",))
    fold = folds(data.target.values[data.train], group[data.train], 5, 0)
    assert all(len(np.unique(fold[group[data.train] == who])) == 1 for who in np.unique(group[data.train]))
    recall = {}
    for name, seen in (("grouped", data), ("alone", replace(data, split=None))):
        found = LabelErrors(model="boosted").examine(seen)
        rows = np.concatenate([finding.rows for finding in found]) if found else np.zeros(0, dtype=np.int64)
        recall[name] = wrong[group[rows]].sum() / wrong[group[data.train]].sum()
    assert recall["alone"] < 0.2 < 0.5 < recall["grouped"]
    with pytest.raises(DataError, match="folds need as many groups"):
        LabelErrors(folds=50).examine(data)
