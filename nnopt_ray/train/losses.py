"""Losses: what training minimizes, as one number a batch.

A loss is built from Shapes and the training part's class counts (positional) and its keys. The mean of
an epoch is exact also with a smaller last batch: each batch counts by `weight`. The same loss is
recorded as train_loss (while the weights change, with dropout) and val_loss; the L1 penalty of
`train.l1` is not part of either, so trials of different strength can be compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from nnopt_ray.data.types import IGNORED, LANGUAGE, Shapes, Task
from nnopt_ray.errors import PartError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class Loss:
    """Base of all losses.

    Raises PartError when the loss does not fit the task.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("classification", "regression")
    lane_keys: ClassVar[tuple[str, ...]] = ()  # keys that may differ among the lanes of a pack

    def __init__(self, shapes: Shapes, class_counts: np.ndarray | None) -> None:
        if shapes.task not in self.tasks:
            raise PartError(
                f"the loss {type(self).__name__} is for {', '.join(self.tasks)}, and the task is {shapes.task}: "
                "set train.loss to auto."
            )

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Scalar float32 mean of a batch.

        outputs: float32 [rows, outputs], logits or values in training units; of a language task [rows, length,
        outputs]. target: int64 [rows] class index, float32 [rows, outputs], or int64 [rows, length] tokens.
        """
        raise NotImplementedError

    def of_told(self, told: np.ndarray) -> np.ndarray:
        """Of a language task: the loss of each position, [rows, length], from `train.language.told`'s numbers."""
        raise PartError(f"the loss {type(self).__name__} does not say what it is at each token (of_told).")

    def by_row(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | None:
        """(loss, weight) of each row as a batch of its own, both float32 [rows]; None where they are not known but by
        calling the loss with each."""
        return None

    def weight(self, target: Tensor) -> float | Tensor:
        """What the batch counts in a mean over batches: its rows, unless a class counts more."""
        return float(len(target))

    def lane_values(self) -> dict[str, float]:
        """What lanes of one pack may have each of its own, by name; part of the page's keys of `lane_keys`."""
        return {}

    def lane_weight(self, rows: int) -> float | None:
        """What each batch of so many rows counts; None where its target decides."""
        return float(rows) if type(self).weight is Loss.weight else None

    def lane(self, outputs: Tensor, target: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """The loss of one lane's batch, as a call gives it, with its own `values` (scalars) of `lane_values`."""
        return self(outputs, target)


class CrossEntropy(Loss):
    """Cross entropy of the softmax of the logits (torch.nn.CrossEntropyLoss).

    With class weights, the mean is weighted: divided by the sum of the weights of the batch's rows. Of a language
    task it is the mean over all tokens of the batch that are asked for.

    Keys:
        label_smoothing: share of the target spread over all classes or tokens (Szegedy et al. 2016).
        class_weights: none; balanced, rows / (classes * rows of the class) as in scikit-learn; or a number a class.
    """

    tasks = ("classification", *LANGUAGE)
    lane_keys = ("label_smoothing",)

    def __init__(
        self,
        shapes: Shapes,
        class_counts: np.ndarray | None,
        *,
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        class_weights: Literal["none", "balanced"]
        | tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = "none",
    ) -> None:
        super().__init__(shapes, class_counts)
        self.label_smoothing = label_smoothing
        self._classes, self._of_tokens = shapes.outputs, shapes.is_language
        if self._of_tokens and class_weights != "none":
            raise PartError("class_weights are for classification, and the task is a language: leave them out.")
        self._class_weights = _weights_of(class_weights, shapes.outputs, class_counts)
        self._on_device: Tensor | None = None

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        from torch.nn.functional import cross_entropy

        smoothing = self.label_smoothing
        if not self._of_tokens:
            return cross_entropy(outputs, target, weight=self._weights(outputs), label_smoothing=smoothing)
        # A batch in which nothing is asked has a loss of 0, and counts for nothing.
        logits, tokens = outputs.flatten(0, 1), target.flatten()
        total = cross_entropy(logits, tokens, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing)
        return total / (target != IGNORED).sum().clamp(min=1)

    def by_row(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | None:
        from torch.nn.functional import cross_entropy

        if self._of_tokens:
            return None
        weights = self._weights(outputs)
        losses = cross_entropy(outputs, target, weight=weights, label_smoothing=self.label_smoothing, reduction="none")
        counted = losses.new_ones(len(target)) if weights is None else weights[target]
        return losses / counted, counted

    def of_told(self, told: np.ndarray) -> np.ndarray:
        found: np.ndarray = (1 - self.label_smoothing) * told[..., 0] + self.label_smoothing * told[..., 1]
        return found

    def weight(self, target: Tensor) -> float | Tensor:
        if self._of_tokens:
            return (target != IGNORED).sum()
        weights = self._weights(target)
        return float(len(target)) if weights is None else weights[target].sum()

    def lane_values(self) -> dict[str, float]:
        if not self.label_smoothing:
            return {}
        return {"keep": 1 - self.label_smoothing, "spread": self.label_smoothing / self._classes}

    def lane_weight(self, rows: int) -> float | None:
        return float(rows) if self._class_weights is None and not self._of_tokens else None

    def lane(self, outputs: Tensor, target: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        # In parts, as the batched form of nll_loss imports sympy (0.6 s); the same gradients, bit for bit.
        from torch.nn.functional import log_softmax

        if self._of_tokens:
            logs = log_softmax(outputs, dim=-1)
            asked = target != IGNORED
            picked = -logs.gather(-1, target.clamp(min=0).unsqueeze(-1)).squeeze(-1)
            each = picked if not values else picked * values["keep"] - logs.sum(dim=-1) * values["spread"]
            return (each * asked).sum() / asked.sum().clamp(min=1)
        weights = self._weights(outputs)
        logs = log_softmax(outputs, dim=1)
        picked = -logs.gather(1, target.unsqueeze(1)).squeeze(1)
        loss: Tensor = picked.mean() if weights is None else (picked * weights[target]).sum() / weights[target].sum()
        if values:
            smooth = -(logs if weights is None else logs * weights).sum(dim=1)
            spread = smooth.mean() if weights is None else smooth.sum() / weights[target].sum()
            loss = loss * values["keep"] + spread * values["spread"]
        return loss

    def _weights(self, like: Tensor) -> Tensor | None:
        if self._class_weights is None:
            return None
        if self._on_device is None or self._on_device.device != like.device:
            import torch

            self._on_device = torch.as_tensor(self._class_weights, dtype=torch.float32, device=like.device)
        return self._on_device


def _weights_of(chosen: str | tuple[float, ...], classes: int, class_counts: np.ndarray | None) -> np.ndarray | None:
    """A weight a class, float64 [classes]; None where all are 1."""
    if chosen == "none":
        return None
    if chosen == "balanced":
        if class_counts is None:
            raise PartError("class_weights: balanced needs the counts of the training classes.")
        if not class_counts.all():
            raise PartError(
                f"class_weights: balanced needs training rows of every class, and class number "
                f"{int(np.argmin(class_counts))} has none: set a number a class, or none."
            )
        balanced: np.ndarray = class_counts.sum() / (classes * class_counts)
        return balanced
    if len(chosen) != classes:
        raise PartError(f"class_weights has {len(chosen)} numbers, and the target has {classes} classes.")
    return np.array(chosen, dtype=np.float64)


class MeanSquaredError(Loss):
    """Mean of the squared differences over rows and outputs (torch.nn.MSELoss), in training units."""

    tasks = ("regression",)

    def __init__(self, shapes: Shapes, class_counts: np.ndarray | None) -> None:
        super().__init__(shapes, class_counts)

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        from torch.nn.functional import mse_loss

        return mse_loss(outputs, target)

    def by_row(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | None:
        from torch.nn.functional import mse_loss

        losses = mse_loss(outputs, target, reduction="none").mean(dim=1)
        return losses, losses.new_ones(len(target))


class MeanAbsoluteError(Loss):
    """Mean of the absolute differences over rows and outputs (torch.nn.L1Loss), in training units."""

    tasks = ("regression",)

    def __init__(self, shapes: Shapes, class_counts: np.ndarray | None) -> None:
        super().__init__(shapes, class_counts)

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        from torch.nn.functional import l1_loss

        return l1_loss(outputs, target)

    def by_row(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | None:
        from torch.nn.functional import l1_loss

        losses = l1_loss(outputs, target, reduction="none").mean(dim=1)
        return losses, losses.new_ones(len(target))


class Huber(Loss):
    """Squared for small differences, linear for large ones (Huber 1964; torch.nn.HuberLoss), in training units.

    Keys:
        delta: the difference at which the loss becomes linear.
    """

    tasks = ("regression",)

    def __init__(
        self,
        shapes: Shapes,
        class_counts: np.ndarray | None,
        *,
        delta: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0,
    ) -> None:
        super().__init__(shapes, class_counts)
        self.delta = delta

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        from torch.nn.functional import huber_loss

        return huber_loss(outputs, target, delta=self.delta)

    def by_row(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | None:
        from torch.nn.functional import huber_loss

        losses = huber_loss(outputs, target, delta=self.delta, reduction="none").mean(dim=1)
        return losses, losses.new_ones(len(target))


class Auto(Loss):
    """Cross entropy for classes and tokens, mean squared error for numbers."""

    tasks = ("classification", "regression", *LANGUAGE)

    def __init__(self, shapes: Shapes, class_counts: np.ndarray | None) -> None:
        super().__init__(shapes, class_counts)
        chosen = MeanSquaredError if shapes.task == "regression" else CrossEntropy
        self._loss: Loss = chosen(shapes, class_counts)

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        return self._loss(outputs, target)

    def by_row(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | None:
        return self._loss.by_row(outputs, target)

    def of_told(self, told: np.ndarray) -> np.ndarray:
        return self._loss.of_told(told)

    def weight(self, target: Tensor) -> float | Tensor:
        return self._loss.weight(target)

    def lane_values(self) -> dict[str, float]:
        return self._loss.lane_values()

    def lane_weight(self, rows: int) -> float | None:
        return self._loss.lane_weight(rows)

    def lane(self, outputs: Tensor, target: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        return self._loss.lane(outputs, target, values)
