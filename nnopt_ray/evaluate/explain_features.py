"""Which features moved a prediction, by taking them away: SHAP, LIME, and permutation importance.

captum's KernelShap and Lime go row by row, sample by sample (1.3 s a row of 10 columns with 1,000 samples on one core)
and know one reference; here all samples of a row go through the network at once, against many background rows (100
rows with 64 background rows in 1 s). Tests hold both against captum's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from nnopt_ray.data.types import Rows, Shapes
from nnopt_ray.evaluate import coalitions
from nnopt_ray.evaluate.coalitions import Coalitions
from nnopt_ray.evaluate.decision import decided
from nnopt_ray.evaluate.explain_gradients import TABLE_ROWS, folded, moved, scored
from nnopt_ray.evaluate.explainers import Attributions, Explainer, Importance, Subject, differentiable, drawing
from nnopt_ray.evaluate.features import Features, Replaced, columns
from nnopt_ray.machine import derived_seed

if TYPE_CHECKING:
    from torch import nn

# Where the page says nothing; about a second each on a small network. Texts are longer to read, and no background
# multiplies them.
BACKGROUND = {"table": 64, "image": 100, "sequence": 16}
SAMPLES = {"table": 128, "image": 256, "sequence": 128, "tokens": 64}
NEIGHBOURS = {"table": 512, "tokens": 200}  # sets of LIME; of images and sequences 256


class Shap(Explainer):
    """SHAP values (Lundberg & Lee 2017, arXiv:1705.07874): how the difference between what is said of a row and what is
    said on average is shared among its features, each by the mean of what it adds to all sets of the others. They add
    up to that difference.

    What is not there has the values of training rows. A column of the user is one feature, whatever the steps made of
    it; so is a word of a text, which is left out (of more than 64 words some beside each other are one); of images
    squares, of sequences spans of steps in a channel.

    Keys:
        method: kernel tries sets of features; gradient takes gradients on the ways from training rows (GradientShap),
            of numbers alone, and adds up nearly.
        rows: test rows that are explained; when left out 100 of tables, else those that are shown.
        background: training rows that the row is compared with; when left out 64 of tables, 16 of
            sequences, and of images the mean of 100.
        samples: sets of features that are tried, all of them where they are fewer; for gradient, points. When left out
            128, of images 256, of texts 64, and always at least four for each feature.
    """

    kinds = ("table", "tokens", "sequence", "image")

    def __init__(
        self,
        *,
        method: Literal["kernel", "gradient"] = "kernel",
        rows: Annotated[int, Field(ge=1)] | None = None,
        background: Annotated[int, Field(ge=1)] | None = None,
        samples: Annotated[int, Field(ge=2)] | None = None,
    ) -> None:
        self.method, self.rows, self.background, self.samples = method, rows, background, samples

    def refusal(self, shapes: Shapes, model: nn.Module | None) -> str:
        said = super().refusal(shapes, model)
        if not said and self.method == "gradient" and (shapes.categories or shapes.tokens is not None):
            return "with method: gradient goes from number to number, and this data has codes that are embedded"
        return said

    def explain(self, subject: Subject) -> Attributions:
        rows = subject.rows(self.rows or (TABLE_ROWS if subject.kind == "table" else 0))
        if self.method == "gradient":
            return self._by_gradient(subject, rows)
        features = subject.features(self.background or BACKGROUND.get(subject.kind, 1))
        most = self.samples or SAMPLES[subject.kind]
        values, names, base, output, tried = [], [], [], [], []
        every: dict[int, Coalitions] = {}
        for row in rows:
            own = subject.row(row)
            count = len(features.names(own))
            if count not in every:
                every[count] = coalitions.shapley_kernel(count, most, derived_seed(subject.seed, "shap", count))
            chosen, asked = every[count], int(subject.asked[row])
            ends = asked_about(subject, features, own, np.array([[False] * count, [True] * count], dtype=bool), asked)
            middle = asked_about(subject, features, own, chosen.present, asked)
            values.append(coalitions.shapley(middle[None], ends[:1], ends[1:], chosen)[0] if count else np.empty(0))
            names.append(features.names(own))
            base.append(ends[0])
            output.append(ends[1])
            tried.append(len(chosen.present))
        exact = all(chosen.exact for chosen in every.values())
        told = f"{_span(tried)} sets of features for each row{', which are all there are' if exact else ''}"
        told += f"; what is not there {_absent(subject, features)}."
        return _attributions(subject, features, rows, values, names, told, np.array(base), np.array(output))

    def _by_gradient(self, subject: Subject, rows: np.ndarray) -> Attributions:
        import torch
        from captum.attr import GradientShap

        inputs = subject.inputs(rows)
        whole, fixed = inputs[: moved(subject)], inputs[moved(subject) :]
        asked = torch.from_numpy(subject.asked[rows]).to(inputs[0].device)
        background = subject.background(self.background or BACKGROUND[subject.kind])
        others = subject.inputs(background, subject.dataset.train)[: len(whole)]
        samples = self.samples or SAMPLES[subject.kind]
        with differentiable(), drawing(subject.machine.device, subject.seed, "gradient shap"):
            found = GradientShap(lambda *given: subject.score(given[:-1], given[-1])).attribute(
                whole, others, n_samples=samples, additional_forward_args=(*fixed, asked)
            )
        told = f"{samples} points on the ways from {len(background)} training rows. They add up nearly, not exactly."
        return folded(subject, rows, found, told, scored(subject), None, None)


class Lime(Explainer):
    """LIME (Ribeiro et al. 2016, arXiv:1602.04938): a linear model of what the network says when some of the row's
    features are there and the others are not, which counts the sets that are near the whole row more. Its weights say
    what each feature adds there. What is not there, and what a feature is, is as with shap.

    The sets are drawn and weighted, and the ridge regression has the penalty, as in the authors' package.

    Keys:
        samples: sets of features that are tried; when left out 512 of tables, 200 of texts, else 256.
        width: of the kernel, times the square root of the features; a smaller one looks at fewer changes.
        alpha: the ridge's penalty.
        background: as that of shap.
    """

    kinds = ("table", "tokens", "sequence", "image")

    def __init__(
        self,
        *,
        samples: Annotated[int, Field(ge=8)] | None = None,
        width: Annotated[float, Field(gt=0, le=1e6)] = 0.75,
        alpha: Annotated[float, Field(ge=0, le=1e6)] = 1.0,
        background: Annotated[int, Field(ge=1)] | None = None,
    ) -> None:
        self.samples, self.width, self.alpha, self.background = samples, width, alpha, background

    def explain(self, subject: Subject) -> Attributions:
        rows = subject.rows(0)
        features = subject.features(self.background or BACKGROUND.get(subject.kind, 1))
        samples = self.samples or NEIGHBOURS.get(subject.kind, 256)
        values, names = [], []
        for row in rows:
            own = subject.row(row)
            count = len(features.names(own))
            names.append(features.names(own))
            seed = derived_seed(subject.seed, "lime", int(row))
            chosen = coalitions.neighbours(count, samples, self.width, seed)
            said = asked_about(subject, features, own, chosen.present, int(subject.asked[row]))
            values.append(coalitions.local_linear(said[None], chosen, self.alpha)[0][0] if count else np.empty(0))
        told = f"{samples} sets of features for each row; what is not there {_absent(subject, features)}."
        return _attributions(subject, features, rows, values, names, told, None, None)


class Permutation(Explainer):
    """Permutation importance (Breiman 2001; scikit-learn's permutation_importance): how much worse the objective's
    metric is on the validation part when the values of a column change places among its rows, the mean and deviation of
    several times. A column of the user is taken as a whole, whatever the steps made of it.

    Keys:
        repeats: how often each column is permuted.
        rows: validation rows that it is measured on, at most.
    """

    kinds = ("table",)

    def __init__(self, *, repeats: Annotated[int, Field(ge=1)] = 10, rows: Annotated[int, Field(ge=2)] = 1000) -> None:
        self.repeats, self.rows = repeats, rows

    def explain(self, subject: Subject) -> Importance:
        from nnopt_ray.evaluate.evaluate import predict, targets

        draws = np.random.default_rng(derived_seed(subject.seed, "permutation"))
        every = subject.dataset.validation
        picked = np.sort(draws.choice(len(every), size=min(self.rows, len(every)), replace=False))
        inputs = tuple(np.array(each[picked]) for each in every.inputs)
        part = Rows(inputs, np.array(every.target[picked]), np.array(every.source_rows[picked]))
        sign = 1.0 if subject.metric.mode == "min" else -1.0
        true = targets(part, subject.dataset)

        def measured(changed: tuple[np.ndarray, ...]) -> float:
            rows = Rows(changed, part.target, part.source_rows)
            said = predict(subject.model, rows, subject.dataset, subject.machine)
            if subject.dataset.classes:
                _, chosen = decided(said, subject.decision)
                of_decisions = getattr(subject.metric, "of_decisions", False)
                said = np.eye(said.shape[1])[chosen] if of_decisions else subject.decision.logits(said)
            return sign * float(subject.metric(said, true))

        names, groups = columns(subject.dataset)
        as_it_is = measured(inputs)
        worse = np.empty((len(names), self.repeats))
        for column in range(len(names)):
            for time in range(self.repeats):
                order = draws.permutation(len(picked))
                changed = tuple(
                    np.where(group == column, each[order], each) for each, group in zip(inputs, groups, strict=True)
                )
                worse[column, time] = measured(changed) - as_it_is
        of = f"by how much {subject.measured} is worse"
        told = f"Each column permuted {self.repeats} times on {len(picked):,} validation rows."
        return Importance(names, worse.mean(1), worse.std(1), of, told)


def asked_about(
    subject: Subject, features: Features, row: tuple[np.ndarray, ...], present: np.ndarray, asked: int
) -> np.ndarray:
    """float64 [n]: what is said of a row with these features alone, the mean over what stands for the others."""
    if not len(present):
        return np.empty(0)
    said = subject.answers(features.perturbed(row, present), asked)
    mean: np.ndarray = said.reshape(len(present), features.copies).mean(1)
    return mean


def _absent(subject: Subject, features: Features) -> str:
    if subject.kind == "tokens":
        return "is left out of the text"
    if subject.kind == "image":
        return "has the mean of some training images"
    return f"has the values of {features.copies} training rows, one after the other"


def _span(counts: list[int]) -> str:
    low, high = min(counts, default=0), max(counts, default=0)
    return f"{low}" if low == high else f"{low} to {high}"


def _attributions(
    subject: Subject,
    features: Features,
    rows: np.ndarray,
    values: list[np.ndarray],
    names: list[tuple[str, ...]],
    told: str,
    base: np.ndarray | None,
    output: np.ndarray | None,
) -> Attributions:
    """As they are shown: the part of a square is shared evenly by its pixels, that of a span by its steps."""
    if subject.kind == "tokens":
        return Attributions(rows, values, subject.of, told, names, base, output)
    made = np.array(values)
    if subject.kind == "table":
        return Attributions(rows, made, subject.of, told, names[0], base, output)
    assert isinstance(features, Replaced)
    group = features.groups[0][0] if subject.kind == "image" else features.groups[0]
    shared = (made / np.bincount(group.ravel()))[:, group]
    return Attributions(rows, shared, subject.of, told, (), base, output)


__all__ = ["Lime", "Permutation", "Shap"]
