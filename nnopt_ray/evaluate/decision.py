"""From logits to probabilities and a predicted class, as the page wants it: temperature and threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nnopt_ray.evaluate.metrics import softmax


@dataclass(frozen=True)
class Decision:
    """What stands between a classifier's logits and what is said: best/decision.json.

    temperature: the logits are divided by it before the softmax. positive: of two classes the index of the one that is
    looked for; it is predicted where its probability is at least `threshold`. Of more classes, where `positive` is
    None, and at a threshold of 0.5 the most probable one is predicted.
    """

    temperature: float = 1.0
    threshold: float = 0.5
    positive: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Decision:
        return cls(found["temperature"], found["threshold"], found["positive"])

    def logits(self, outputs: np.ndarray) -> np.ndarray:
        """The logits whose softmax is what is said; [rows, classes]."""
        return outputs if self.temperature == 1 else outputs.astype(np.float64) / self.temperature

    def classes(self, probabilities: np.ndarray) -> np.ndarray:
        """int64 [rows]: the predicted class of each row of probabilities [rows, classes]."""
        if self.positive is None or self.threshold == 0.5:
            largest: np.ndarray = probabilities.argmax(axis=1)
            return largest
        return np.where(probabilities[:, self.positive] >= self.threshold, self.positive, 1 - self.positive)


def decided(outputs: np.ndarray, decision: Decision) -> tuple[np.ndarray, np.ndarray]:
    """(probabilities float64 [rows, classes], predicted classes int64 [rows]) of logits as `predict` gives them."""
    probabilities = softmax(decision.logits(outputs))
    return probabilities, decision.classes(probabilities)
