"""What a model says of rows that it was not fitted on: class probabilities, fold by fold.

The page's steps are fitted anew in each fold, on that fold's training rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nnopt_ray.data import preprocessing
from nnopt_ray.errors import DataError
from nnopt_ray.machine import derived_seed

if TYPE_CHECKING:
    from nnopt_ray.data.quality import Examined
    from nnopt_ray.data.types import Input

Model = Literal["linear", "boosted", "page"]

# Rows that a simple model is fitted on at most, drawn by lot: what more of them adds is little, and the time is not.
MOST_FITTED = 20_000
VALIDATION = 7  # of a fold's training rows, one in so many tells the page's network when to stop
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 1.0, 10.0)  # scikit-learn's C of the linear model, of which one is chosen
MOST_TRIED = 2000  # rows that it is chosen by
# scikit-learn's default; on 28x28 images more of them take longer and recognise less (models/linear.py).
LINEAR_ITERATIONS = 100
BOOSTED_TREES = 50
LATENT = 64  # numbers that a text is made into for the boosted model (LSA; Deerwester et al. 1990)
MOST_CODES = 255  # codes of a column that scikit-learn's boosted trees take for categories


def draw(seed: int, *purpose: object) -> np.random.Generator:
    """Numbers that follow from the seed and the purpose alone."""
    return np.random.Generator(np.random.PCG64(derived_seed(seed, *purpose)))


def groups_of(data: Examined, rows: np.ndarray) -> np.ndarray | None:
    """int64 [rows]: the group of each of these rows where the page divides by groups, else None."""
    if data.split is None or data.split.type != "grouped":
        return None
    from nnopt_ray.data.columns import text

    groups: np.ndarray = text(data.table.columns.column(data.split["group"]), "").codes[rows]
    return groups


def folds(labels: np.ndarray, groups: np.ndarray | None, count: int, seed: int) -> np.ndarray:
    """int64 [rows]: the fold of each row, each class dealt evenly; rows of a group have one fold.

    Grouped as scikit-learn's StratifiedGroupKFold does it. Raises DataError where groups are fewer than folds.
    """
    if groups is None:
        order = draw(seed, "folds").permutation(len(labels))
        dealt = order[np.argsort(labels[order], kind="stable")]
        fold = np.empty(len(labels), dtype=np.int64)
        fold[dealt] = np.arange(len(labels)) % count
        return fold
    from sklearn.model_selection import StratifiedGroupKFold

    there = len(np.unique(groups))
    if there < count:
        raise DataError(
            f"data.quality: {count} folds need as many groups, and the training part has {there}. Set folds lower."
        )
    divide = StratifiedGroupKFold(count, shuffle=True, random_state=derived_seed(seed, "folds") % 2**32)
    fold = np.zeros(len(labels), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer rows than folds
        for number, (_, held) in enumerate(divide.split(labels, labels, groups)):
            fold[held] = number
    return fold


@dataclass(frozen=True)
class Said:
    """probabilities: float64 [rows, classes], rows adding to 1. known: bool [rows], the row's own class had training
    rows, so that it could have been told. fitted: rows that a fit had at most, thinned where they were more."""

    probabilities: np.ndarray
    known: np.ndarray
    fitted: int
    thinned: bool


def out_of_fold(data: Examined, rows: np.ndarray, count: int, model: Model, seed: int) -> Said:
    """What a model that was not fitted on it says of each of these rows of the table. Classification."""
    labels = data.target.values[rows]
    fold = folds(labels, groups_of(data, rows), count, seed)
    probabilities = np.zeros((len(rows), len(data.target.classes)))
    known = np.zeros(len(rows), dtype=bool)
    fitted, thinned = 0, False
    for number in range(count):
        held = np.flatnonzero(fold == number)
        said = told(data, rows[fold != number], rows[held], model, derived_seed(seed, "fold", number))
        probabilities[held], known[held] = said.probabilities, said.known
        fitted, thinned = max(fitted, said.fitted), thinned or said.thinned
    return Said(probabilities, known, fitted, thinned)


def told(data: Examined, train: np.ndarray, asked: np.ndarray, model: Model, seed: int) -> Said:
    """What a model fitted on the rows `train` says of the rows `asked`; it sees no label of the latter."""
    thinned = model != "page" and len(train) > MOST_FITTED
    if thinned:
        train = np.sort(draw(seed, "thinned").choice(train, MOST_FITTED, replace=False))
    both = np.concatenate([train, asked])
    learned, new = np.arange(len(train)), np.arange(len(train), len(both))
    none = new[:0]
    fitted = preprocessing.fit(
        data.table.take(both),
        data.readings,
        data.unread,
        (),
        data.steps,
        {"train": learned, "validation": none, "test": none},
        target=data.target.take(both),
        seed=seed,
    )
    inputs = tuple(layout.input for layout in fitted.preprocessing.layouts)
    labels = data.target.values[train]
    classes = len(data.target.classes)
    if model == "page":
        probabilities = _by_page(data, train, inputs, fitted.inputs, labels, new, seed)
    else:
        probabilities = _by_simple(inputs, fitted.inputs, labels, new, classes, model, seed)
    known = np.isin(data.target.values[asked], np.unique(labels))
    return Said(probabilities / probabilities.sum(axis=1, keepdims=True), known, len(train), thinned)


def _by_page(
    data: Examined,
    rows: np.ndarray,
    inputs: tuple[Input, ...],
    arrays: tuple[np.ndarray, ...],
    labels: np.ndarray,
    asked: np.ndarray,
    seed: int,
) -> np.ndarray:
    from nnopt_ray.data.types import Shapes

    if data.judge is None:
        raise DataError(
            "data.quality: label_errors with model: page needs the page's network, which there is none of here. "
            "Write model: linear, or boosted."
        )
    groups = groups_of(data, rows)
    parts = VALIDATION if groups is None else min(VALIDATION, len(np.unique(groups)))
    fold = folds(labels, groups, max(parts, 2), seed)
    shapes = Shapes("classification", inputs, len(data.target.classes))
    learned = np.flatnonzero(fold != 0), np.flatnonzero(fold == 0)
    return data.judge(shapes, arrays, labels, *learned, asked, seed)


def _by_simple(
    inputs: tuple[Input, ...],
    arrays: tuple[np.ndarray, ...],
    labels: np.ndarray,
    asked: np.ndarray,
    classes: int,
    model: Model,
    seed: int,
) -> np.ndarray:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    learned = np.arange(len(labels))
    random = derived_seed(seed, "fit") % 2**32
    with one_thread():
        if model == "linear":
            matrix: Any = _standardised(inputs, arrays, learned)
            strength = _strength(matrix[learned], labels, seed)
            fit = LogisticRegression(C=strength, max_iter=LINEAR_ITERATIONS)
        else:
            matrix, categorical = _columns(inputs, arrays, learned, random)
            fit = HistGradientBoostingClassifier(
                max_iter=BOOSTED_TREES, categorical_features=categorical, early_stopping=False, random_state=random
            )
        fit.fit(matrix[learned], labels)
        probabilities = np.zeros((len(asked), classes))
        probabilities[:, fit.classes_] = fit.predict_proba(matrix[asked])
    return probabilities


def _strength(matrix: Any, labels: np.ndarray, seed: int) -> float:
    """scikit-learn's C, by the log loss on a fifth of these rows held out.

    Labels that are wrong make a fit that is free remember them: of 10,000 images of Fashion-MNIST with 5 % wrong, C = 1
    finds them with a precision of 0.26, C = 0.01 of 0.48.
    """
    from sklearn.linear_model import LogisticRegression

    some = draw(seed, "strength").permutation(len(labels))[:MOST_TRIED]
    matrix, labels = matrix[some], labels[some]
    held = folds(labels, None, 5, seed) == 0
    if len(np.unique(labels[~held])) < 2:
        return 1.0
    held &= np.isin(labels, labels[~held])
    best, least = STRENGTHS[0], np.inf
    fit = LogisticRegression(max_iter=LINEAR_ITERATIONS, warm_start=True)
    for strength in STRENGTHS:
        said = fit.set_params(C=strength).fit(matrix[~held], labels[~held]).predict_proba(matrix[held])
        of_label = said[np.arange(len(said)), np.searchsorted(fit.classes_, labels[held])]
        loss = float(-np.log(np.maximum(of_label, 1e-15)).mean()) if len(said) else 0.0
        if loss > least:  # it rises from here on, and the freer fits take longest
            break
        best, least = strength, loss
    return best


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, sums are added in one order whatever the machine, and a fit that is cut short stands as it is."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), warnings.catch_warnings():
        from sklearn.exceptions import ConvergenceWarning

        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _standardised(inputs: tuple[Input, ...], arrays: tuple[np.ndarray, ...], learned: np.ndarray) -> Any:
    """[rows, columns], as the linear baseline reads rows: numbers of mean 0 and deviation 1, codes one-hot, texts as
    TF-IDF weighted token counts. Dense where all are numbers, else a scipy CSR matrix."""
    from scipy import sparse
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    found: list[Any] = []
    for given, array in zip(inputs, arrays, strict=True):
        if given.kind == "tokens":
            found.append(_weighted(given, array, learned))
        elif given.kind == "categories":
            every = [np.arange(size) for size in given.cardinalities]
            found.append(OneHotEncoder(categories=every).fit_transform(array))
        else:
            flat = array.reshape(len(array), -1).astype(np.float64)
            found.append(StandardScaler().fit(flat[learned]).transform(flat))
    if all(isinstance(matrix, np.ndarray) for matrix in found):
        return np.hstack(found)
    return sparse.hstack([sparse.csr_matrix(matrix) for matrix in found], format="csr")


def _columns(
    inputs: tuple[Input, ...], arrays: tuple[np.ndarray, ...], learned: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """float64 [rows, columns] for trees, and which columns are categories (bool [columns])."""
    from sklearn.decomposition import TruncatedSVD

    found: list[np.ndarray] = []
    categorical: list[np.ndarray] = []
    for given, array in zip(inputs, arrays, strict=True):
        if given.kind == "tokens":
            weighted = _weighted(given, array, learned)
            size = min(LATENT, weighted.shape[1] - 1, len(learned) - 1)
            latent = TruncatedSVD(size, random_state=seed).fit(weighted[learned])
            array = latent.transform(weighted)
        flat = array.reshape(len(array), -1).astype(np.float64)
        found.append(flat)
        codes = np.array(given.cardinalities) <= MOST_CODES if given.kind == "categories" else None
        categorical.append(np.zeros(flat.shape[1], dtype=bool) if codes is None else codes)
    return np.hstack(found), np.concatenate(categorical)


def _weighted(given: Input, tokens: np.ndarray, learned: np.ndarray) -> Any:
    """scipy CSR [rows, vocabulary]: token counts, weighted by scikit-learn's TfidfTransformer."""
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfTransformer

    real = tokens != given.padding
    places = np.repeat(np.arange(len(tokens)), real.sum(axis=1)), tokens[real]
    counts = sparse.csr_matrix((np.ones(int(real.sum())), places), shape=(len(tokens), given.cardinalities[0]))
    counts.sum_duplicates()
    return TfidfTransformer().fit(counts[learned]).transform(counts).tocsr()
