"""Linear models by scikit-learn, as weights and bias."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

# On standardised digits, wine, iris and breast_cancer lbfgs ends by itself after 15 to 32 iterations; a fit
# that needs more than this is used as it stands.
MAX_ITERATIONS = 1000
# On many numbers each iteration is dear, and the later ones do not pay: of Fashion-MNIST's 60,000 images, 100
# iterations (scikit-learn's default) take 14 s on one core and recognise 0.844 of the test set, 300 take 43 s and
# recognise 0.835.
LARGE, MAX_ITERATIONS_LARGE = 2**23, 100


@contextmanager
def quiet() -> Iterator[None]:
    """Within, fits use torch's number of threads, and one that is cut short stands as it is.

    BLAS splits sums over threads; the page's thread count is torch's, so the same page fits the same.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(torch.get_num_threads(), user_api="blas"), warnings.catch_warnings():
        from sklearn.exceptions import ConvergenceWarning

        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def logistic(matrix: Any, target: np.ndarray, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression: weights float64 [outputs, features] and bias [outputs].

    A class without a row gets a constant logit below all others' constants.
    """
    from sklearn.linear_model import LogisticRegression

    large = matrix.shape[0] * matrix.shape[1] > LARGE and isinstance(matrix, np.ndarray)
    most = min(MAX_ITERATIONS, MAX_ITERATIONS_LARGE) if large else MAX_ITERATIONS
    fitted = LogisticRegression(max_iter=most).fit(matrix, target)
    weight = np.zeros((outputs, matrix.shape[1]))
    bias = np.full(outputs, fitted.intercept_.min() - np.log(2 * len(target)))
    seen = fitted.classes_
    if len(seen) == 2:  # scikit-learn gives one row then: the logit of the second class against the first
        weight[seen[1]] = fitted.coef_[0]
        bias[seen] = 0.0, fitted.intercept_[0]
        bias[np.setdiff1d(np.arange(outputs), seen)] = -abs(fitted.intercept_[0]) - np.log(2 * len(target))
    else:
        weight[seen] = fitted.coef_
        bias[seen] = fitted.intercept_
    return weight, bias


def ridge(matrix: Any, target: np.ndarray, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights float64 [outputs, features] and bias [outputs]."""
    from sklearn.linear_model import Ridge

    # The tolerance matters for sparse matrices only, where the solver is iterative.
    fitted = Ridge(tol=1e-6).fit(matrix, np.asarray(target, dtype=np.float64))
    return np.atleast_2d(fitted.coef_), np.atleast_1d(fitted.intercept_)
