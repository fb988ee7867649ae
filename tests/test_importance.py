"""Importance of searched values, against optuna's fANOVA, functions whose shares are known, and by Monte Carlo."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnopt_ray import reading, rundir
from nnopt_ray.evaluate import forest, importance, searched
from nnopt_ray.evaluate.importance import LEAST, Group, Importance, Share
from nnopt_ray.evaluate.searched import Scale
from nnopt_ray.experiment import Experiment, Range
from nnopt_ray.results import Epoch, TrialRow

SPACE: dict[str, Any] = {
    "data": {"source": {"type": "sklearn", "name": "wine"}},
    "model": {"type": "mlp", "dropout": {"uniform": [0.0, 0.5]}},
    "train": {
        "epochs": 10,
        "optimizer": {
            "choice": [
                {"type": "adam", "lr": {"log": [1e-4, 1e-2]}},
                {"type": "sgd", "lr": {"log": [1e-3, 1.0]}, "momentum": {"uniform": [0.5, 0.9]}},
                {"type": "rmsprop"},
            ]
        },
    },
    "search": {"method": "random", "trials": 100},
}
DROPOUT, OPTIMIZER, RATE, MOMENTUM = (
    "model.dropout",
    "train.optimizer",
    "train.optimizer.lr",
    "train.optimizer.momentum",
)


def page(**change: Any) -> Experiment:
    return reading.from_tree(SPACE | change)


def row(number: int, params: dict[str, Any], value: float | None, status: Any = "finished", **more: Any) -> TrialRow:
    return TrialRow(f"{number:04d}", status, "", params, more.pop("epochs", 10), 1, 1.0, value, {}, **more)


def group(found: Importance, *under: tuple[str, str]) -> Group:
    return next(each for each in found.groups if each.under == under)


def shares(found: Group) -> dict[str, Share]:
    return {each.branch: each for each in found.shares}


# --- the forest -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_shares_are_those_of_optuna_for_the_same_forest() -> None:
    import optuna

    random = np.random.default_rng(0)
    x = random.random((40, 3))
    y = 3 * x[:, 0] + np.sin(6 * x[:, 1]) + x[:, 0] * x[:, 2]
    trees = [forest.boxes(tree, 3) for tree in forest.fit(x, y, 7, trees=6).estimators_]
    ours = [float(np.mean([forest.main_variance(tree, j) / tree.variance for tree in trees])) for j in range(3)]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    kinds = {name: optuna.distributions.FloatDistribution(0, 1) for name in "abc"}
    points = [dict(zip("abc", map(float, point), strict=True)) for point in x]
    study.add_trials(
        [
            optuna.trial.create_trial(params=point, distributions=kinds, value=float(value))
            for point, value in zip(points, y, strict=True)
        ]
    )
    theirs = optuna.importance.FanovaImportanceEvaluator(n_trees=6, seed=7).evaluate(study)
    assert ours == pytest.approx([theirs[name] for name in "abc"], rel=1e-9)


def test_marginals_and_pairs_are_means_over_the_other_inputs() -> None:
    """Against the tree's own predictions, at points that are drawn."""
    random = np.random.default_rng(1)
    x = random.random((60, 3))
    tree = forest.fit(x, x[:, 0] * x[:, 1] + x[:, 2], 3, trees=1).estimators_[0]
    leaves = forest.boxes(tree, 3)
    drawn = random.random((40_000, 3))
    assert leaves.mean == pytest.approx(tree.predict(drawn).mean(), abs=0.01)
    assert leaves.variance == pytest.approx(tree.predict(drawn).var(), rel=0.05)
    at = np.array([0.03, 0.5, 0.97])
    fixed = [np.column_stack([np.full(len(drawn), place), drawn[:, 1:]]) for place in at]
    assert forest.on_grid(leaves, 0, at) == pytest.approx([tree.predict(each).mean() for each in fixed], abs=0.01)
    cells = (np.arange(60) + 0.5) / 60
    grid = [np.column_stack([np.full(200, a), np.full(200, b), drawn[:200, 2]]) for a in cells for b in cells]
    means = tree.predict(np.vstack(grid)).reshape(-1, 200).mean(axis=1)
    assert forest.pair_variance(leaves, 0, 1) == pytest.approx(means.var(), rel=0.1)
    assert forest.pair_variance(leaves, 0, 1) >= forest.main_variance(leaves, 0)


# --- spaces -----------------------------------------------------------------------------------------


def test_values_of_an_option_stand_under_it() -> None:
    found = {value.branch: value for value in searched.opened(page())}
    assert {name: value.under for name, value in found.items()} == {
        DROPOUT: (),
        OPTIMIZER: (),
        f"{OPTIMIZER}=adam.lr": ((OPTIMIZER, "adam"),),
        f"{OPTIMIZER}=sgd.lr": ((OPTIMIZER, "sgd"),),
        f"{OPTIMIZER}=sgd.momentum": ((OPTIMIZER, "sgd"),),
    }
    point = {OPTIMIZER: "sgd", RATE: 0.1}
    assert searched.chosen(found[f"{OPTIMIZER}=sgd.lr"], point) == 0.1
    assert searched.chosen(found[f"{OPTIMIZER}=adam.lr"], point) is None


@pytest.mark.parametrize("label", [64, 2.5, True, None, "relu", "[64, 32]"])
def test_an_option_is_found_again_as_a_table_keeps_it(label: Any) -> None:
    options = [64, 2.5, True, None, "relu", [64, 32]]
    value = searched.Value("x", "x", Range("choice", tuple(options)))
    for said in (label, str(label), json.dumps(label)) if label != "[64, 32]" else (label,):
        assert searched.chosen(value, {"x": said}) == str(label)


@given(
    st.sampled_from(
        [
            Range("uniform", (-1.0, 3.0)), Range("log", (1e-4, 10.0)), Range("int", (2, 9)), Range("log_int", (1, 500)),
            Range("step", (0.1, 0.9, 0.2)),
        ]
    ),
    st.floats(0, 1),
)  # fmt: skip
def test_places_of_numbers_go_there_and_back(opened: Range, unit: float) -> None:
    place = searched.scale(searched.Value("x", "x", opened), [])
    said = place.said(unit)
    assert opened.values[0] <= said <= opened.values[1]
    assert place.said(place.unit(said)) == pytest.approx(said, rel=1e-9)


def test_whole_numbers_have_cells_of_one_size() -> None:
    place = searched.scale(searched.Value("x", "x", Range("int", (1, 4))), [])
    assert [place.unit(number) for number in (1, 2, 3, 4)] == pytest.approx([0.125, 0.375, 0.625, 0.875])
    options = searched.scale(searched.Value("x", "x", Range("choice", ("a", "b"))), [])
    assert [options.unit(option) for option in "ab"] == [0.25, 0.75]
    assert searched.scale(searched.Value("x", "x", None), [0.01, 1.0]) == Scale(0.01, 1.0, True)


# --- whole searches ---------------------------------------------------------------------------------


def test_an_additive_function_has_the_shares_of_its_terms() -> None:
    """lr over its four decades makes 4, dropout 1 of the variance, and the width nothing."""
    random = np.random.default_rng(2)
    model = {"type": "mlp", "dropout": {"uniform": [0.0, 0.5]}, "widths": {"choice": [[8], [16], [32]]}}
    optimizer = {"type": "adam", "lr": {"log": [1e-4, 1.0]}}
    experiment = page(model=model, train={"optimizer": optimizer})
    rows = []
    for number in range(250):
        decades, share, width = random.random(), random.random(), random.integers(3)
        params = {DROPOUT: 0.5 * share, "model.widths": f"[{8 * 2**width}]", RATE: 10 ** (4 * decades - 4)}
        rows.append(row(number, params, 5 + 2 * decades + share))
    found = importance.of(experiment, rows, "val_loss", "min")
    whole = shares(group(found))
    assert list(whole)[:2] == [RATE, DROPOUT]
    assert whole[RATE].share == pytest.approx(0.8, abs=0.05)
    assert whole[DROPOUT].share == pytest.approx(0.2, abs=0.05)
    assert whole["model.widths"].share < 0.01
    assert [each.told for each in whole.values()] == [True, True, False]
    assert group(found).explained > 0.95
    assert all(each.low <= each.share <= each.high for each in whole.values())
    curve = whole[RATE].curve
    assert curve is not None
    assert (curve.x[0], curve.x[-1]) == pytest.approx((1e-4, 1.0))
    # On average over the others: 5 + 2 * decades + 1/2.
    assert np.max(np.abs(np.array(curve.y) - (5.5 + 2 * np.linspace(0, 1, len(curve.y))))) < 0.3
    again = importance.read(json.loads(json.dumps(rundir.finite({"objectives": [found.to_json()]}))))
    assert again == (found,)


def conditional(random: np.random.Generator, count: int = 150) -> list[TrialRow]:
    """Of sgd the momentum is everything; of adam the rate; rmsprop is taken by a few alone."""
    rows = []
    for number in range(count):
        kind = "rmsprop" if number < 6 else ("adam", "sgd")[number % 2]
        params: dict[str, Any] = {DROPOUT: 0.5 * random.random(), OPTIMIZER: kind}
        value = 1.0
        if kind == "adam":
            params[RATE] = 10 ** (2 * random.random() - 4)
            value += math.log10(params[RATE]) + 4
        elif kind == "sgd":
            params |= {RATE: 10 ** (3 * random.random() - 3), MOMENTUM: 0.5 + 0.4 * random.random()}
            value += 5 * params[MOMENTUM]
        rows.append(row(number, params, value + 0.05 * random.random()))
    return rows


def test_values_of_an_option_are_judged_among_the_trials_that_took_it() -> None:
    found = importance.of(page(), conditional(np.random.default_rng(3)), "val_loss", "min")
    adam, sgd = group(found, (OPTIMIZER, "adam")), group(found, (OPTIMIZER, "sgd"))
    assert (adam.trials, sgd.trials) == (72, 72)
    assert shares(adam)[f"{OPTIMIZER}=adam.lr"].share > 0.9
    assert shares(sgd)[f"{OPTIMIZER}=sgd.momentum"].share > 0.9
    assert set(shares(sgd)) == {DROPOUT, f"{OPTIMIZER}=sgd.lr", f"{OPTIMIZER}=sgd.momentum"}
    assert not shares(sgd)[f"{OPTIMIZER}=sgd.lr"].told
    # Not every trial has a rate, so among all of them it is no value.
    assert set(shares(group(found))) == {DROPOUT, OPTIMIZER}
    assert shares(group(found))[OPTIMIZER].share > 0.8


def test_a_value_that_every_option_has_is_also_judged_among_all() -> None:
    rows = [each for each in conditional(np.random.default_rng(4)) if each.params[OPTIMIZER] != "rmsprop"]
    whole = shares(group(importance.of(page(), rows, "val_loss", "min")))
    assert set(whole) == {DROPOUT, OPTIMIZER, RATE}
    assert whole[RATE].pooled
    assert whole[RATE].curve is None  # 0.1 is not the same place in the two ranges


def epochs(values: list[float]) -> tuple[Epoch, ...]:
    return tuple(Epoch(at, {"val_loss": value}, 0.1, 1.0, 0.5) for at, value in enumerate(values))


def test_trials_are_compared_after_the_epochs_that_all_have_had() -> None:
    rows = [
        row(1, {}, 0.1, history=epochs([3.0, 2.0, 1.5, 0.1]), epochs=4),
        row(2, {}, 1.8, "stopped", history=epochs([2.5, 1.8]), epochs=2),
        row(3, {}, 1.0, "stopped", history=epochs([4.0, 2.2, 1.0]), epochs=3),
        row(4, {}, 5.0, history=epochs([5.0]), epochs=1),  # it had one epoch by its own page
        row(5, {}, None, "failed", history=epochs([1.0]), epochs=1),
        row(6, {}, 0.2, "stopped", epochs=2),  # its folder is gone
    ]
    assert importance.comparable(rows, "val_loss", "min") == (2, {"0001": 2.0, "0002": 1.8, "0003": 2.2, "0004": 5.0})
    alone = [rows[0], rows[3]]
    assert importance.comparable(alone, "val_loss", "min") == (None, {"0001": 0.1, "0004": 5.0})


def test_one_trial_that_diverged_is_not_all_the_variance() -> None:
    rows = conditional(np.random.default_rng(5), 60)
    spoiled = [*rows[:-1], row(59, rows[-1].params, 25.0)]
    found = importance.of(page(), spoiled, "val_loss", "min")
    assert found.clipped == 1
    assert found.limit is not None
    assert found.limit < 25
    assert found.values["0059"] == 25.0
    assert shares(group(found, (OPTIMIZER, "adam")))[f"{OPTIMIZER}=adam.lr"].share > 0.8


def test_nothing_is_said_of_too_few_trials_or_of_noise() -> None:
    rows = conditional(np.random.default_rng(6), 40)
    few = importance.of(page(), [*rows[: LEAST - 1], row(99, {}, None, "failed")], "val_loss", "min")
    assert "14 trials have a value" in few.silent
    assert (few.failed, few.groups) == (1, ())
    random = np.random.default_rng(7)
    noise = [row(at, each.params, random.random()) for at, each in enumerate(rows)]
    whole = group(importance.of(page(), noise, "val_loss", "min"))
    assert whole.shares == ()
    assert "no better than their mean" in whole.silent
    flat = [row(at, each.params, 1.0) for at, each in enumerate(rows)]
    assert "same value" in group(importance.of(page(), flat, "val_loss", "min")).silent
    changing = page(search={"method": "random", "trials": 40, "scheduler": {"type": "pbt"}})
    assert "population" in importance.of(changing, rows, "val_loss", "min").silent


@pytest.mark.parametrize(
    "damaged",
    [None, [], 3, {}, {"objectives": [{}]}, {"objectives": [{"metric": "a", "mode": "min", "groups": None}]},
     {"objectives": [{"metric": "a", "mode": "min", "values": {}, "groups": [{"new": 1}]}]}],
)  # fmt: skip
def test_a_damaged_file_says_nothing(damaged: Any) -> None:
    assert importance.read(damaged) == ()
