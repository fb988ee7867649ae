"""The simple models of texts: a linear model of weighted word counts, and tables of what follows what."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from nnopt_ray.data.types import IGNORED, Shapes
from nnopt_ray.models.linear import logistic, quiet, ridge

# Tokens up to which a table of pairs is kept (a GiB in float32); beyond, only how frequent each is.
PAIRS = 2**14


class CountedTokens(nn.Module):
    """TF-IDF and a linear model: scikit-learn's TfidfTransformer, LogisticRegression and Ridge, as they come.

    int64 [rows, length] → float32 [rows, outputs]. A text is the counts of its tokens (padding left out), each
    times ln((1 + n) / (1 + rows with it)) + 1, scaled to unit length.
    """

    inverse_frequency: Tensor

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        assert shapes.tokens is not None
        self.task = shapes.task
        self.vocabulary, self.padding = shapes.tokens.cardinalities[0], shapes.tokens.padding
        self.register_buffer("inverse_frequency", torch.ones(self.vocabulary))
        self.linear = nn.Linear(self.vocabulary, shapes.outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        counts = torch.zeros(len(tokens), self.vocabulary, device=tokens.device)
        counts.scatter_add_(1, tokens, (tokens != self.padding).float())
        weighted = counts * self.inverse_frequency
        outputs: Tensor = self.linear(weighted / torch.linalg.vector_norm(weighted, dim=1, keepdim=True).clamp(1e-12))
        return outputs

    def fit(self, tokens: np.ndarray, target: np.ndarray) -> None:
        """tokens: int64 [rows, length]; target: int64 [rows] or float32 [rows, outputs]."""
        from scipy import sparse
        from sklearn.feature_extraction.text import TfidfTransformer

        real = tokens != self.padding
        places = np.repeat(np.arange(len(tokens)), real.sum(axis=1)), tokens[real]
        counts = sparse.csr_matrix((np.ones(real.sum()), places), shape=(len(tokens), self.vocabulary))
        weigh = TfidfTransformer()
        matrix = weigh.fit_transform(counts)
        with quiet():
            fit = logistic if self.task == "classification" else ridge
            weight, bias = fit(matrix, target, self.linear.out_features)
        with torch.no_grad():
            self.inverse_frequency.copy_(torch.from_numpy(weigh.idf_))
            self.linear.weight.copy_(torch.from_numpy(weight))
            self.linear.bias.copy_(torch.from_numpy(bias))


class FollowingTokens(nn.Module):
    """What follows a token, counted in the training part: -log of it is what a language model has to beat.

    int64 [rows, length] → float32 [rows, length, vocabulary], log-probabilities. The share of b among the tokens
    that follow a is mixed with the share of b among all by Witten & Bell (1991, method C): a token that n others
    follow, d of them different, gives d / (n + d) to the latter. A masked token is told from the one before it.

    pairs: False, only how frequent each token is.
    """

    def __init__(self, shapes: Shapes, *, pairs: bool) -> None:
        super().__init__()
        assert shapes.tokens is not None
        self.vocabulary = shapes.tokens.cardinalities[0]
        self.masked = shapes.task == "masked_language_modelling"
        self.pairs = pairs and self.vocabulary <= PAIRS
        self.log_shares = nn.Parameter(torch.zeros(self.vocabulary if self.pairs else 1, self.vocabulary))

    def forward(self, tokens: Tensor) -> Tensor:
        if not self.pairs:
            return self.log_shares[0].expand(*tokens.shape, -1)
        return nn.functional.embedding(self._before(tokens), self.log_shares)

    def _before(self, tokens: Tensor) -> Tensor:
        """The token before each that is asked for."""
        return torch.roll(tokens, 1, dims=1) if self.masked else tokens

    def fit(self, tokens: np.ndarray, target: np.ndarray) -> None:
        """tokens, target: int64 [rows, length]."""
        from scipy import sparse

        told = np.where(target == IGNORED, tokens, target) if self.masked else target
        frequency = np.bincount(told[told != IGNORED], minlength=self.vocabulary) + 0.5  # none is impossible
        shares = frequency / frequency.sum()
        table = np.log(shares)[None]
        if self.pairs:
            if self.masked:
                first, then = told[:, :-1].ravel(), told[:, 1:].ravel()
            else:
                first, then = tokens[target != IGNORED], target[target != IGNORED]
            counts = sparse.csr_matrix((np.ones(len(first)), (first, then)), shape=(self.vocabulary,) * 2)
            counts.sum_duplicates()
            followed = np.asarray(counts.sum(axis=1)).ravel()
            different = np.diff(counts.indptr)
            total = np.maximum(followed + different, 1)
            given = np.where(followed > 0, different / total, 1.0)
            mixed = np.outer(given, shares)
            rows = np.repeat(np.arange(self.vocabulary), different)
            mixed[rows, counts.indices] += counts.data / total[rows]
            table = np.log(mixed)
        with torch.no_grad():
            self.log_shares.copy_(torch.from_numpy(table.astype(np.float32)))
