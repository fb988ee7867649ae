"""Language tasks: losses, metrics and baselines over tokens, against torch, scikit-learn and counting by hand."""

from __future__ import annotations

import itertools
import math
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from nnopt_ray import tables
from nnopt_ray.data.types import IGNORED, LANGUAGE, Input, Shapes, Task
from nnopt_ray.errors import PartError, UserError
from nnopt_ray.evaluate import intervals
from nnopt_ray.evaluate.metrics import metric_for
from nnopt_ray.models.baseline import Baseline
from nnopt_ray.tables import Part
from nnopt_ray.train.language import told
from nnopt_ray.train.losses import Loss

ROWS, LENGTH, VOCABULARY = 9, 7, 11


def shapes(task: Task = "language_modelling", outputs: int = VOCABULARY) -> Shapes:
    return Shapes(task, (Input("tokens", (LENGTH,), (VOCABULARY,)),), outputs)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(ROWS, LENGTH, VOCABULARY, generator=generator) * 3
    target = torch.randint(VOCABULARY, (ROWS, LENGTH), generator=generator)
    target[torch.rand(ROWS, LENGTH, generator=generator) < 0.4] = IGNORED
    target[3] = IGNORED  # a row in which nothing is asked
    return outputs, target


def loss(name: str, **keys: Any) -> Loss:
    made: Loss = tables.build("loss", Part(name, MappingProxyType(keys)), shapes(), None)
    return made


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_torchs_over_all_tokens_that_are_asked_for(smoothing: float) -> None:
    outputs, target = batch()
    ours = loss("cross_entropy", label_smoothing=smoothing)
    expected = torch.nn.functional.cross_entropy(outputs.transpose(1, 2), target, label_smoothing=smoothing)
    torch.testing.assert_close(ours(outputs, target), expected)
    values = {name: torch.tensor(value) for name, value in ours.lane_values().items()}
    torch.testing.assert_close(ours.lane(outputs, target, values), expected)
    asked = (target != IGNORED).numpy()
    by_token = ours.of_told(told(outputs, target).numpy())
    assert by_token[asked].mean() == pytest.approx(float(expected), rel=1e-5)


def test_batches_count_by_their_tokens_and_one_without_counts_for_nothing() -> None:
    outputs, target = batch()
    ours = loss("auto")
    total = weights = 0.0
    for row in range(ROWS):
        one = ours(outputs[row : row + 1], target[row : row + 1])
        assert torch.isfinite(one)
        total += float(one) * float(ours.weight(target[row : row + 1]))
        weights += float(ours.weight(target[row : row + 1]))
    assert weights == float((target != IGNORED).sum())
    assert total / weights == pytest.approx(float(ours(outputs, target)), rel=1e-5)


def test_losses_of_numbers_and_class_weights_are_refused() -> None:
    with pytest.raises(PartError, match="the task is language_modelling"):
        loss("mse")
    with pytest.raises(PartError, match="class_weights are for classification"):
        loss("cross_entropy", class_weights=(1.0,) * VOCABULARY)


def test_metrics_are_those_of_the_tokens_that_are_asked_for() -> None:
    outputs, target = batch()
    said, true = told(outputs, target).numpy(), target.numpy()
    asked = true != IGNORED
    chances = torch.softmax(outputs.double(), dim=2).numpy()[asked]
    expected = {
        "perplexity": math.exp(sk.log_loss(true[asked], chances, labels=range(VOCABULARY))),
        "token_accuracy": sk.accuracy_score(true[asked], chances.argmax(axis=1)),
    }
    for name, value in expected.items():
        metric = metric_for(name)
        assert metric.tasks == LANGUAGE
        assert metric(said, true) == pytest.approx(value, rel=1e-5)
        drawn = intervals.resample({name: metric}, said, true, resamples=20, seed=1)[name].values
        counts = np.concatenate(list(intervals.blocks(ROWS, 20, 1)), axis=1)
        for index in (0, 7, 19):
            rows = np.repeat(np.arange(ROWS), counts[:, index].astype(int))
            assert drawn[index] == pytest.approx(metric(said[rows], true[rows]), rel=1e-9)
        said[0, 0, 0], kept = math.nan, said[0, 0, 0]
        assert math.isnan(metric(said, true))
        said[0, 0, 0] = kept


# --- baselines --------------------------------------------------------------------------------------

WORDS = ("the", "cat", "dog", "sat", "ran", "mat", "sun", "rain", "wet", "dry")


def texts(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of words as codes from 1, ended by padding, and a class that some words tell."""
    draw = np.random.default_rng(3)
    tokens = draw.integers(1, VOCABULARY, (rows, LENGTH))
    tokens[np.arange(LENGTH) >= draw.integers(1, LENGTH + 1, rows)[:, None]] = 0
    return tokens, ((tokens == 3).sum(axis=1) > (tokens == 4).sum(axis=1)).astype(np.int64)


def test_the_baseline_of_texts_is_scikit_learns_tfidf_and_logistic_regression() -> None:
    tokens, target = texts(300)
    model = Baseline(shapes("classification", 2))
    assert model.fit_directly([tokens], target, shapes("classification", 2), 0)
    assert model.kind == "TF-IDF, linear"
    lines = [" ".join(WORDS[code - 1] for code in row if code) for row in tokens]
    vectors = TfidfVectorizer()
    expected = LogisticRegression(max_iter=1000).fit(vectors.fit_transform(lines[:300]), target)
    fresh, _ = texts(500)
    new = [" ".join(WORDS[code - 1] for code in row if code) for row in fresh]
    with torch.no_grad():
        chances = torch.softmax(model.eval()(torch.from_numpy(fresh)), dim=1).numpy()
    np.testing.assert_allclose(chances, expected.predict_proba(vectors.transform(new)), atol=2e-3)


@pytest.mark.parametrize("task", LANGUAGE)
def test_the_baseline_of_language_counts_what_follows(task: Task) -> None:
    draw = np.random.default_rng(0)
    stream = draw.integers(0, VOCABULARY - 1, (40, LENGTH + 1))  # the last token never occurs
    if task == "language_modelling":
        tokens, target = stream[:, :-1], stream[:, 1:]
        pairs = [(int(a), int(b)) for row in stream for a, b in itertools.pairwise(row)]
        frequent = target.ravel()
    else:
        tokens, target = stream[:, 1:].copy(), np.full((40, LENGTH), IGNORED)
        target[:, ::3] = tokens[:, ::3]
        tokens[:, ::3] = 5
        whole = np.where(target == IGNORED, tokens, target)
        pairs = [(int(a), int(b)) for row in whole for a, b in itertools.pairwise(row)]
        frequent = whole.ravel()
    model = Baseline(shapes(task))
    assert model.fit_directly([tokens], target, shapes(task), 0)
    assert model.kind == "bigram"
    with torch.no_grad():
        logs = model.eval()(torch.from_numpy(tokens))
    assert logs.shape == (40, LENGTH, VOCABULARY)
    torch.testing.assert_close(logs.exp().sum(dim=2), torch.ones(40, LENGTH))
    share = np.bincount(frequent, minlength=VOCABULARY) + 0.5
    share = share / share.sum()
    for row, place, then in ((0, 1, 2), (7, 5, 3), (20, 3, VOCABULARY - 1)):
        first = int(tokens[row, place] if task == "language_modelling" else tokens[row, place - 1])
        followers = [b for a, b in pairs if a == first]
        n, d = len(followers), len(set(followers))
        expected = followers.count(then) / (n + d) + d / (n + d) * share[then]
        assert float(logs[row, place, then].exp()) == pytest.approx(expected, rel=1e-4)


def test_the_simplest_baselines_are_frequencies() -> None:
    tokens, target = texts(100)
    model = Baseline(shapes(), kind="majority")
    assert model.fit_directly([tokens], tokens, shapes(), 0)
    assert model.kind == "unigram"
    rows = Baseline(shapes("classification", 2), kind="majority")
    assert rows.fit_directly([tokens], target, shapes("classification", 2), 0)
    with torch.no_grad():
        torch.testing.assert_close(
            rows(torch.from_numpy(tokens)).exp()[5], torch.tensor([1 - target.mean(), target.mean()]).float()
        )


def test_the_small_network_reads_no_text() -> None:
    with pytest.raises(UserError, match="reads no text"):
        Baseline(shapes("classification", 2), kind="mlp")
