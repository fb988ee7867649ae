"""SHAP, LIME, integrated gradients and permutation importance against closed forms, captum and scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from explain_example import MIXED_COLUMNS, Linear, dataset, deterministic, mixed_rows, page, subject, values
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from nnopt_ray.data.origins import as_read, origins
from nnopt_ray.errors import UserError
from nnopt_ray.evaluate import coalitions
from nnopt_ray.evaluate.explain import heights, quiet, top_words
from nnopt_ray.evaluate.explain_features import Lime, Permutation, Shap
from nnopt_ray.evaluate.explain_gradients import IntegratedGradients
from nnopt_ray.evaluate.explainers import Attributions, Importance
from nnopt_ray.evaluate.features import Removed, Replaced, columns


def _by_definition(game: dict[frozenset[int], float], features: int) -> np.ndarray:
    """Shapley 1953: the mean of what each adds over all orders."""
    total = np.zeros(features)
    orders = list(permutations(range(features)))
    for order in orders:
        for place, one in enumerate(order):
            before = frozenset(order[:place])
            total[one] += game[before | {one}] - game[before]
    return total / len(orders)


@pytest.mark.parametrize("features", [1, 2, 3, 4, 5])
def test_with_all_sets_kernel_shap_is_the_shapley_value(features: int) -> None:
    draws = np.random.default_rng(features)
    game = {
        frozenset(np.flatnonzero([code >> bit & 1 for bit in range(features)])): float(draws.normal())
        for code in range(2**features)
    }
    chosen = coalitions.shapley_kernel(features, 2**features, 0)
    assert chosen.exact
    assert len(chosen.present) == 2**features - 2
    said = np.array([[game[frozenset(np.flatnonzero(row))] for row in chosen.present]]).reshape(1, -1)
    ends = np.array([game[frozenset()]]), np.array([game[frozenset(range(features))]])
    found = coalitions.shapley(said, *ends, chosen)[0]
    np.testing.assert_allclose(found, _by_definition(game, features), atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(2, 200), st.integers(0, 2**31))
def test_sampled_values_add_up_and_are_exact_where_features_do_not_interact(
    features: int, most: int, seed: int
) -> None:
    chosen = coalitions.shapley_kernel(features, most, seed)
    assert chosen.weights.sum() == pytest.approx(1)
    assert set(chosen.present.sum(1)) <= set(range(1, features))
    assert len(chosen.present) <= max(most, 4 * features)
    draws = np.random.default_rng(seed)
    parts = draws.normal(size=features)
    additive = coalitions.shapley(
        (chosen.present @ parts)[None] + 3, np.array([3.0]), np.array([parts.sum() + 3]), chosen
    )
    np.testing.assert_allclose(additive[0], parts, atol=1e-8)
    wild = draws.normal(size=(2, len(chosen.present)))
    added = coalitions.shapley(wild, np.zeros(2), np.ones(2), chosen).sum(1)
    np.testing.assert_allclose(added, 1, atol=1e-8)


def test_of_a_linear_network_shap_is_weight_times_distance_from_the_mean() -> None:
    asked = subject("numbers", Linear(dataset("numbers").shapes))
    done = Shap().explain(asked)
    data, weight = asked.dataset, asked.model.get_parameter("layer.weight").detach().numpy()[0].astype(np.float64)
    mean = np.asarray(data.train.inputs[0])[asked.background(64)].mean(0)
    expected = (np.asarray(data.test.inputs[0])[done.rows] - mean) * weight * data.target_scale[0]
    np.testing.assert_allclose(np.array(done.values), expected, atol=2e-4)
    lime = Lime(alpha=0.0).explain(asked)
    np.testing.assert_allclose(np.array(lime.values), expected[: len(lime.rows)], atol=2e-3)
    integrated = IntegratedGradients(background=64).explain(asked)
    np.testing.assert_allclose(np.array(integrated.values), expected, atol=2e-4)


def test_kernel_shap_equals_captums_exact_shapley_values() -> None:
    from captum.attr import ShapleyValues

    asked = subject("table")
    done = Shap(background=1, rows=6).explain(asked)
    reference = torch.from_numpy(np.array(asked.dataset.train.inputs[0][asked.background(1)]))
    inputs, of = asked.inputs(done.rows)[0], torch.from_numpy(asked.asked[done.rows])
    with torch.no_grad():
        exact = ShapleyValues(lambda x, of: asked.answer((x,), of)).attribute(
            inputs, reference, additional_forward_args=of
        )
    np.testing.assert_allclose(np.array(done.values), exact.numpy(), atol=1e-5)


def test_limes_linear_model_is_scikit_learns_weighted_ridge() -> None:
    chosen = coalitions.neighbours(6, 200, 0.75, 3)
    said = np.random.default_rng(0).normal(size=(2, 200))
    slopes, intercept = coalitions.local_linear(said, chosen, 1.0)
    for row in range(2):
        ridge = Ridge(alpha=1.0).fit(chosen.present, said[row], sample_weight=chosen.weights)
        np.testing.assert_allclose(slopes[row], ridge.coef_, atol=1e-10)
        assert intercept[row] == pytest.approx(ridge.intercept_)
    gone = 6 - chosen.present.sum(1)
    np.testing.assert_allclose(chosen.weights, np.sqrt(np.exp(-gone / (0.75**2 * 6))))
    with pytest.raises(UserError, match="Give more samples"):
        coalitions.local_linear(said[:, :5], coalitions.neighbours(6, 5, 0.75, 3), 0.0)


@pytest.mark.parametrize("data", ["table", "numbers", "tokens", "sequence", "lengths", "image"])
def test_integrated_gradients_add_up_to_the_difference(data: str) -> None:
    asked = subject(data)
    with quiet():
        done = IntegratedGradients(steps=200).explain(asked)
    assert done.base is not None
    assert done.output is not None
    sums = np.array([each.sum() for each in values(done)])
    gap = np.abs(done.output - done.base).max()
    np.testing.assert_allclose(sums, done.output - done.base, atol=0.02 * gap + 1e-4)
    inputs, of = asked.inputs(done.rows), torch.from_numpy(asked.asked[done.rows])
    np.testing.assert_allclose(done.output, asked.score(inputs, of).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_permutation_importance_is_scikit_learns_by_its_meaning() -> None:
    """A column that is not read is worth nothing; one that is read alone is worth what its shuffling costs."""
    asked = subject("numbers", Linear(dataset("numbers").shapes))
    with torch.no_grad():
        weight = asked.model.get_parameter("layer.weight")
        weight.zero_()
        weight[0, 2] = 1.0
    done = Permutation(repeats=200).explain(asked)
    assert isinstance(done, Importance)
    assert np.abs(np.delete(done.mean, 2)).max() == 0
    # With squared error in units of a target y: the mean over permutations is 2 cov(x, y) but for 1 / (n - 1).
    part = asked.dataset.validation
    x, y = np.asarray(part.inputs[0])[:, 2].astype(float), np.asarray(part.target)[:, 0].astype(float)
    expected = 2 * np.cov(x, y)[0, 1]
    assert done.mean[2] == pytest.approx(expected, abs=4 * done.deviation[2] / 200**0.5 + 1e-6)


def test_a_users_column_is_one_feature_whatever_the_steps_made_of_it() -> None:
    data = dataset("mixed")
    names, groups = columns(data)
    assert set(names) == set(MIXED_COLUMNS) - {"churned"}
    by_input = dict(zip((each.kind for each in data.shapes.inputs), origins(data.folder), strict=True))
    assert by_input["categories"] == ("city",)
    assert by_input["table"].count("plan") == 3
    assert by_input["table"].count("signup") == 4  # days, year, month, day_of_week
    assert by_input["table"].count("age") == 2  # and its indicator
    others = data.train.inputs
    features = Replaced(names, groups, tuple(np.array(each[:2]) for each in others))
    row = tuple(np.asarray(each[5]) for each in others)
    present = np.array([name != "plan" for name in names])[None]
    made = dict(zip(by_input, features.perturbed(row, present), strict=True))
    for number, name in enumerate(by_input["table"]):
        own, theirs = row[list(by_input).index("table")][number], others[list(by_input).index("table")][:2, number]
        np.testing.assert_array_equal(made["table"][:, number], theirs if name == "plan" else [own, own])
    np.testing.assert_array_equal(made["categories"][:, 0], [row[list(by_input).index("categories")][0]] * 2)


def test_values_are_shown_as_the_source_has_them() -> None:
    data = dataset("mixed")
    rows = np.asarray(data.test.source_rows)
    found = as_read(page("mixed"), data, rows)
    assert found is not None
    written = mixed_rows()
    for place, row in enumerate(rows):
        age, usage, plan, _, signup, _, _ = written[row]
        assert found.values["age"][place] == (None if age == "" else age)
        assert (found.values["usage"][place], found.values["plan"][place]) == (usage, plan)
        assert found.values["signup"][place] == signup
    assert np.isnan(found.orders["age"]).any()
    days = found.orders["signup"]
    years = np.array([int(value[-4:]) for value in found.values["signup"]])
    assert days[years == 2020].max() < days[years == 2022].min()
    assert set(found.orders["vip"]) == {0.0, 1.0}
    assert "plan" not in found.orders


def test_shap_of_categories_behind_an_embedding_adds_up_in_the_users_columns() -> None:
    asked = subject("mixed")
    done = Shap(rows=5).explain(asked)
    sums = np.array([each.sum() for each in values(done)])
    said = asked.answers(asked.inputs(done.rows), asked.asked[done.rows])
    background = asked.inputs(asked.background(64), asked.dataset.train)
    average = asked.answers(background, 1).mean()
    np.testing.assert_allclose(sums, said - average, atol=1e-6)


class OneWord(nn.Module):
    """Says the second class where one token stands, wherever that is."""

    def __init__(self, token: int) -> None:
        super().__init__()
        self.token = token
        self.weight = nn.Parameter(torch.tensor(4.0))

    def forward(self, tokens: Tensor) -> Tensor:
        there = (tokens == self.token).any(1).float() * self.weight
        return torch.stack([-there, there], dim=1)


@pytest.mark.parametrize("explainer", [Shap(), Lime()])
def test_the_one_word_that_counts_is_found(explainer: Shap | Lime) -> None:
    data = dataset("tokens")
    features = Removed(subject("tokens").features(1).read, 0)  # type: ignore[attr-defined]
    fox = next(iter(features.read.tokenizer.encode(["fox"]))).tolist()
    done = explainer.explain(subject("tokens", OneWord(fox[0])))
    assert isinstance(done, Attributions)
    found = 0
    for row, names, of in zip(done.rows, done.names, values(done), strict=True):
        if "fox" in names:
            place = names.index("fox")
            assert np.abs(of[place]) > 5 * np.abs(np.delete(of, place)).max()
            found += 1
        else:
            assert np.abs(of).max() < 1e-6, data.test.inputs[0][row]
    assert found


def test_words_that_go_leave_no_gap_and_the_frame_stays() -> None:
    asked = subject("tokens")
    features = asked.features(1)
    assert isinstance(features, Removed)
    row = asked.row(0)
    names = features.names(row)
    whole, none = (features.perturbed(row, np.full((1, len(names)), each))[0][0] for each in (True, False))
    np.testing.assert_array_equal(whole, row[0])
    special = features.read.tokenizer.special
    assert none[:2].tolist() == [special["[CLS]"], special["[SEP]"]]
    assert set(none[2:].tolist()) == {features.padding}
    without = features.perturbed(row, np.arange(len(names))[None] != 1)[0][0]
    assert features.read.shown(without.numpy()).split() == " ".join(names[:1] + names[2:]).split()


@pytest.mark.parametrize("explainer", [Shap(), Lime(), IntegratedGradients()])
def test_a_text_without_words_has_no_attributions(explainer: Shap | Lime | IntegratedGradients) -> None:
    asked = subject("tokens")
    tokens = np.array(asked.dataset.test.inputs[0])
    row = asked.examples[0].row
    tokens[row, 1], tokens[row, 2:] = tokens[0][tokens[0] != 0][-1], 0  # [CLS] [SEP], then padding
    bare = replace(asked.dataset, test=replace(asked.dataset.test, inputs=(tokens,)))
    with quiet():
        done = explainer.explain(replace(asked, dataset=bare))
    assert values(done)[0].shape == (0,)


def test_a_long_text_is_explained_in_spans() -> None:
    features = subject("tokens").features(1)
    assert isinstance(features, Removed)
    tokens = features.read.row([features.read.encode("fox dog " * 100)], 300)
    assert len(features.names((tokens,))) == 50
    assert features.names((tokens,))[0] == "fox dog fox dog"
    assert len(features.words(tokens)[0]) == 200


def test_ranks_and_top_words() -> None:
    assert heights(np.array([3.0, np.nan, 1.0, 3.0, 2.0])) == [1.0, None, 0.0, 1.0, 0.5]
    assert heights(np.array([2.0, 2.0])) == [None, None]
    texts = [[["The", 0.1], ["fox.", 0.5]], [["the", -0.3], ["Fox", 0.3]], [["fox", 0.2]]]
    assert top_words(texts, ["a", "a", "b"]) == {"a": [["fox", 0.4, 2]], "b": []}


def test_gradient_shap_is_near_the_exact_values_of_a_smooth_network() -> None:
    with deterministic():
        asked = subject("numbers")
    exact = Shap(rows=10, background=100, samples=400).explain(asked)
    near = Shap(method="gradient", rows=10, background=100, samples=3000).explain(asked)
    together = np.corrcoef(np.array(exact.values).ravel(), np.array(near.values).ravel())[0, 1]
    assert together > 0.98
