"""Metrics of language tasks. They take what `train.language.told` gives in place of outputs."""

from __future__ import annotations

import math

import numpy as np

from nnopt_ray.data.types import IGNORED, LANGUAGE
from nnopt_ray.evaluate.metrics import Metric, Mode
from nnopt_ray.evaluate.units import Resampler, Units


class _OverTokens(Metric):
    """A mean over the tokens that are asked for. told: float32 [rows, length, 3]; target: int64 [rows, length]."""

    tasks: tuple[str, ...] = LANGUAGE

    def by_token(self, told: np.ndarray, target: np.ndarray) -> np.ndarray:
        """float64 [rows, length]."""
        raise NotImplementedError

    def finish(self, mean: np.ndarray) -> np.ndarray:
        return mean

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        if not np.isfinite(outputs).all():
            return math.nan
        return float(self.resampler(outputs, target)(np.ones((len(target), 1)))[0])

    def resampler(self, outputs: np.ndarray, target: np.ndarray, units: Units | None = None) -> Resampler:
        units, asked = units or Units(len(target)), target != IGNORED
        sums = units.total(np.where(asked, self.by_token(outputs, target), 0.0).sum(axis=1))
        counted = units.total(asked.sum(axis=1))

        def over(counts: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
                return self.finish(sums(counts) / counted(counts))

        return over


class Perplexity(_OverTokens):
    """exp of the mean of -log(probability of the true token) over all tokens that are asked for.

    1 is perfect; a guess among k equally likely tokens has k. It depends on the tokenizer: compare runs of one
    tokenizer only. Of a masked task it is taken over the masked tokens ("pseudo" perplexity).
    """

    mode: Mode = "min"

    def by_token(self, told: np.ndarray, target: np.ndarray) -> np.ndarray:
        losses: np.ndarray = told[..., 0].astype(np.float64)
        return losses

    def finish(self, mean: np.ndarray) -> np.ndarray:
        perplexity: np.ndarray = np.exp(mean)
        return perplexity


class TokenAccuracy(_OverTokens):
    """Share of the tokens asked for that are the most probable one."""

    mode: Mode = "max"

    def by_token(self, told: np.ndarray, target: np.ndarray) -> np.ndarray:
        right: np.ndarray = (told[..., 2] == target).astype(np.float64)
        return right
