"""The baseline against scikit-learn's own estimators."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from nnopt_ray.data.types import Input, Shapes
from nnopt_ray.models.baseline import Baseline


def said(model: Baseline, *inputs: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(*(torch.from_numpy(x) for x in inputs)).numpy()


def fitted(shapes: Shapes, kind: str, inputs: list[np.ndarray], target: np.ndarray) -> Baseline:
    model = Baseline(shapes, kind=kind)
    assert model.fit_directly(inputs, target, shapes, 0)
    return model


@pytest.mark.parametrize("load", [load_digits, load_wine, load_breast_cancer])
def test_linear_is_scikit_learns_logistic_regression(load) -> None:
    x, y = load(return_X_y=True)
    x = x.astype(np.float32)
    shapes = Shapes("classification", (Input("table", (x.shape[1],)),), len(np.unique(y)))
    model = fitted(shapes, "auto", [x], y)
    assert model.kind == "linear"
    expected = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x.astype(np.float64), y)
    probabilities = torch.softmax(torch.from_numpy(said(model, x)), dim=1).numpy()
    np.testing.assert_allclose(probabilities, expected.predict_proba(x.astype(np.float64)), atol=2e-4)
    assert (probabilities.argmax(1) == expected.predict(x.astype(np.float64))).mean() > 0.999


def test_linear_flattens_images() -> None:
    x, y = load_digits(return_X_y=True)
    flat = fitted(Shapes("classification", (Input("table", (64,)),), 10), "linear", [x.astype(np.float32)], y)
    images = x.astype(np.float32).reshape(-1, 1, 8, 8)
    model = fitted(Shapes("classification", (Input("image", (1, 8, 8)),), 10), "linear", [images], y)
    np.testing.assert_array_equal(said(model, images), said(flat, x.astype(np.float32)))


def test_linear_is_scikit_learns_ridge() -> None:
    x, y = load_diabetes(return_X_y=True)
    x = x.astype(np.float32)
    target = np.stack([(y - y.mean()) / y.std(), y / 100], axis=1).astype(np.float32)
    for outputs in (1, 2):
        shapes = Shapes("regression", (Input("table", (x.shape[1],)),), outputs)
        model = fitted(shapes, "linear", [x], target[:, :outputs])
        expected = make_pipeline(StandardScaler(), Ridge()).fit(x.astype(np.float64), target[:, :outputs])
        np.testing.assert_allclose(
            said(model, x), expected.predict(x.astype(np.float64)).reshape(-1, outputs), atol=1e-5
        )


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("with_table", [True, False])
def test_categories_are_one_hot(task: str, with_table: bool) -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(400, 3)).astype(np.float32) * 5 + 2
    codes = np.stack([generator.integers(0, 4, 400), generator.integers(0, 6, 400)], axis=1)
    signal = x[:, 0] + 3 * (codes[:, 0] == 2) - 2 * (codes[:, 1] == 5) + generator.normal(size=400)
    y = np.digitize(signal, np.quantile(signal, [0.3, 0.6])) if task == "classification" else signal[:, None]
    y = y if task == "classification" else y.astype(np.float32)
    # Code 6 of the second column is never seen: it stands for what is unknown later.
    inputs = (*((Input("table", (3,)),) if with_table else ()), Input("categories", (2,), (4, 7)))
    shapes = Shapes(task, inputs, 3 if task == "classification" else 1)
    arrays = [x, codes] if with_table else [codes]
    model = fitted(shapes, "linear", arrays, y)

    one_hot = OneHotEncoder(categories=[range(4), range(7)], sparse_output=False).fit_transform(codes)
    matrix = np.hstack([StandardScaler().fit_transform(x.astype(np.float64)), one_hot]) if with_table else one_hot
    if task == "classification":
        expected = LogisticRegression(max_iter=1000, tol=1e-6).fit(matrix, y).predict_proba(matrix)
        values = torch.softmax(torch.from_numpy(said(model, *arrays)), dim=1).numpy()
    else:
        expected = Ridge().fit(matrix, y).predict(matrix).reshape(-1, 1)
        values = said(model, *arrays)
    np.testing.assert_allclose(values, expected, atol=3e-3)


def test_majority_is_scikit_learns_dummy() -> None:
    y = np.array([0] * 5 + [1] * 3 + [2] * 2)
    x = np.zeros((10, 4), np.float32)
    model = fitted(Shapes("classification", (Input("table", (4,)),), 3), "majority", [x], y)
    probabilities = torch.softmax(torch.from_numpy(said(model, x)), dim=1).numpy()
    np.testing.assert_allclose(probabilities, DummyClassifier(strategy="prior").fit(x, y).predict_proba(x), atol=1e-6)

    target = np.linspace(-3, 5, 10, dtype=np.float32)[:, None]
    model = fitted(Shapes("regression", (Input("table", (4,)),), 1), "majority", [x], target)
    np.testing.assert_allclose(said(model, x)[:, 0], DummyRegressor().fit(x, target).predict(x).ravel(), atol=1e-6)


@pytest.mark.parametrize("kind", ["majority", "linear"])
@pytest.mark.parametrize("seen", [(1,), (0, 2), (0, 1, 3)])
def test_classes_without_a_training_row_are_never_predicted(kind: str, seen: tuple[int, ...]) -> None:
    generator = np.random.default_rng(2)
    y = np.array(seen)[generator.integers(0, len(seen), 90)]
    x = generator.normal(size=(90, 2)).astype(np.float32)
    x[:, 0] += 3 * y
    model = fitted(Shapes("classification", (Input("table", (2,)),), 4), kind, [x], y)
    values = said(model, x)
    assert np.isfinite(values).all()
    assert set(values.argmax(1)) <= set(seen)
    if kind == "linear" and len(seen) > 1:
        assert (values.argmax(1) == y).mean() > 0.85


def test_constant_and_tiny_columns_do_no_harm() -> None:
    generator = np.random.default_rng(3)
    y = generator.integers(0, 2, 80)
    x = np.stack([np.full(80, 7.0), y * 1e-12 + 1e-13 * generator.normal(size=80), 1e9 * generator.normal(size=80)], 1)
    model = fitted(Shapes("classification", (Input("table", (3,)),), 2), "linear", [x.astype(np.float32)], y)
    values = said(model, x.astype(np.float32))
    assert np.isfinite(values).all()
    assert (values.argmax(1) == y).mean() > 0.95


def test_a_fit_that_does_not_converge_warns_nobody() -> None:
    generator = np.random.default_rng(4)
    x = generator.normal(size=(60, 300)).astype(np.float32)
    y = generator.integers(0, 3, 60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from nnopt_ray.models import linear

        before, linear.MAX_ITERATIONS = linear.MAX_ITERATIONS, 2
        try:
            fitted(Shapes("classification", (Input("table", (300,)),), 3), "linear", [x], y)
        finally:
            linear.MAX_ITERATIONS = before


def test_weights_are_set_in_place() -> None:
    """The trainer holds all weights in one flat tensor; a fit must not put others in their place."""
    shapes = Shapes("regression", (Input("table", (2,)), Input("categories", (1,), (3,))), 1)
    model = Baseline(shapes, kind="linear")
    before = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    x = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    model.fit_directly([x, np.arange(20)[:, None] % 3], x[:, :1].copy(), shapes, 0)
    assert {name: weight.data_ptr() for name, weight in model.named_parameters()} == before
    assert all(weight.abs().max() > 0 for weight in model.parameters())


def test_mlp_kind_is_trained_by_gradients() -> None:
    shapes = Shapes("classification", (Input("table", (2,)),), 2)
    model = Baseline(shapes, kind="mlp")
    before = [weight.clone() for weight in model.parameters()]
    assert model.fit_directly([np.zeros((4, 2), np.float32)], np.array([0, 1, 0, 1]), shapes, 0) is False
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
