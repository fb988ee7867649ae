"""Gradients of what a network says in its inputs: saliency and integrated gradients, by captum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from nnopt_ray.data.types import Shapes
from nnopt_ray.evaluate.explainers import Attributions, Explainer, Subject, differentiable
from nnopt_ray.evaluate.features import Removed, columns

if TYPE_CHECKING:
    from torch import Tensor, nn

TABLE_ROWS, TEXT_ROWS = 100, 24  # explained where the page says nothing: about a second on small networks


class Saliency(Explainer):
    """The size of the gradient in each pixel (Simonyan et al. 2014, arXiv:1312.6034): where the smallest change changes
    the predicted class's log odds most. The largest of the channels is shown.
    """

    kinds = ("image",)

    def __init__(self) -> None:
        pass

    def explain(self, subject: Subject) -> Attributions:
        import torch
        from captum.attr import Saliency as OfCaptum

        rows = subject.rows(0)
        (images,) = subject.inputs(rows)
        asked = torch.from_numpy(subject.asked[rows]).to(images.device)
        with differentiable():
            found = OfCaptum(lambda x, of: subject.score((x,), of)).attribute(
                images.requires_grad_(), additional_forward_args=asked
            )
        maps = found.detach().amax(1).cpu().numpy().astype(np.float64)
        return Attributions(rows, maps, scored(subject), "The largest of the channels is shown.", signed=False)


class IntegratedGradients(Explainer):
    """Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365): the gradients on the straight way from a
    reference to the row, times that way. They add up to the difference of what is said of the two, the log odds of the
    predicted class or the number.

    The reference of numbers is the mean of some training rows; of a text it is padding in the place of each word, and
    the way leads through the embeddings. Categories have no way between them: use shap.

    Keys:
        steps: points of the way.
        background: training rows whose mean is the reference.
        rows: test rows that are explained; when left out 100 of tables, 24 of texts, else those that are shown.
    """

    kinds = ("image", "table", "tokens", "sequence")

    def __init__(
        self,
        *,
        steps: Annotated[int, Field(ge=2, le=1000)] = 20,
        background: Annotated[int, Field(ge=1)] = 100,
        rows: Annotated[int, Field(ge=1)] | None = None,
    ) -> None:
        self.steps, self.background, self.rows = steps, background, rows

    def refusal(self, shapes: Shapes, model: nn.Module | None) -> str:
        said = super().refusal(shapes, model)
        if not said and shapes.categories:
            return "goes from number to number, and this data has categories that are embedded"
        if not said and shapes.tokens is not None and model is not None and embedding(model, shapes) is None:
            return "goes through the embedding of the tokens, and this network has none"
        return said

    def explain(self, subject: Subject) -> Attributions:
        rows = subject.rows(self.rows or {"table": TABLE_ROWS, "tokens": TEXT_ROWS}.get(subject.kind, 0))
        if subject.kind == "tokens":
            return self._of_texts(subject, rows)
        import torch
        from captum.attr import IntegratedGradients as OfCaptum

        inputs = subject.inputs(rows)
        asked = torch.from_numpy(subject.asked[rows]).to(inputs[0].device)
        # The lengths of sequences go along as they are.
        whole, fixed = inputs[: moved(subject)], inputs[moved(subject) :]
        background = subject.inputs(subject.background(self.background), subject.dataset.train)
        reference = tuple(each.float().mean(0, keepdim=True) for each in background[: len(whole)])
        with differentiable():
            found = OfCaptum(lambda *given: subject.score(given[:-1], given[-1])).attribute(
                whole,
                reference,
                additional_forward_args=(*fixed, asked),
                n_steps=self.steps,
                internal_batch_size=max(subject.batch, len(rows)),
            )
        told = f"{self.steps} steps from the mean of {len(background[0])} training rows."
        return folded(subject, rows, found, told, scored(subject), *self._ends(subject, whole, reference, fixed, asked))

    def _ends(
        self, subject: Subject, whole: Any, reference: Any, fixed: Any, asked: Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """What is said of the reference and of the rows."""
        import torch

        with torch.inference_mode():
            begun = tuple(each.expand_as(of) for each, of in zip(reference, whole, strict=True))
            said = [subject.score((*each, *fixed), asked).cpu().numpy() for each in (begun, whole)]
        return said[0].astype(np.float64), said[1].astype(np.float64)

    def _of_texts(self, subject: Subject, rows: np.ndarray) -> Attributions:
        import torch
        from captum.attr import LayerIntegratedGradients

        features = subject.features(1)
        assert isinstance(features, Removed)
        (tokens,) = subject.inputs(rows)
        owned = [features.words(np.asarray(subject.dataset.test.inputs[0][row])) for row in rows]
        inside = torch.from_numpy(np.stack([owner for _, owner in owned]) >= 0).to(tokens.device)
        reference = tokens.masked_fill(inside, features.padding)
        asked = torch.from_numpy(subject.asked[rows]).to(tokens.device)
        layer = embedding(subject.model, subject.shapes)
        assert layer is not None  # refused before
        with differentiable():
            made = LayerIntegratedGradients(lambda x, of: subject.score((x,), of), layer)
            found, off = made.attribute(
                tokens,
                reference,
                additional_forward_args=asked,
                n_steps=self.steps,
                internal_batch_size=max(subject.batch, len(rows)),
                return_convergence_delta=True,
            )
        by_token = found.detach().sum(2).cpu().numpy().astype(np.float64)
        values = [_added(of, owner, len(names)) for of, (names, owner) in zip(by_token, owned, strict=True)]
        with torch.inference_mode():
            output = subject.score((tokens,), asked).cpu().numpy().astype(np.float64)
        # The reference as captum met it: the embeddings of padding, seen with the mask of the text.
        base = output - (by_token.sum(1) - off.detach().cpu().numpy())
        told = f"{self.steps} steps through the embeddings, from padding in the place of each word."
        names = [of for of, _ in owned]
        return Attributions(rows, values, scored(subject), told, names, base, output)


def _added(values: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    summed: np.ndarray = np.bincount(owner[owner >= 0], values[owner >= 0], minlength=count)
    return summed


def moved(subject: Subject) -> int:
    """How many of the inputs, the first ones, are numbers."""
    return sum(each.kind != "lengths" for each in subject.shapes.inputs)


def scored(subject: Subject) -> str:
    """What `Subject.score` is, in words."""
    return subject.of.replace("the probability", "the log odds")


def folded(
    subject: Subject,
    rows: np.ndarray,
    found: tuple[Tensor, ...],
    told: str,
    of: str,
    base: np.ndarray | None,
    output: np.ndarray | None,
) -> Attributions:
    """Values of each number as those of the features that are shown: of a pixel, a column, a step of a channel."""
    values = [each.detach().cpu().numpy().astype(np.float64) for each in found]
    if subject.kind == "image":
        return Attributions(rows, values[0].sum(1), of, told, (), base, output)
    if subject.kind == "sequence":
        return Attributions(rows, values[0], of, told, (), base, output)
    names, groups = columns(subject.dataset)
    summed = np.zeros((len(rows), len(names)))
    for each, group in zip(values, groups, strict=True):
        np.add.at(summed.T, group.ravel(), each.reshape(len(rows), -1).T)
    return Attributions(rows, summed, of, told, names, base, output)


def embedding(model: nn.Module, shapes: Shapes) -> nn.Module | None:
    """The layer that makes numbers of the tokens: the first embedding that is called with them."""
    import torch

    text = shapes.tokens
    assert text is not None
    found: list[nn.Module] = []

    def look(module: nn.Module, given: Any, _: Any) -> None:
        if given and isinstance(given[0], torch.Tensor) and given[0].shape[-1:] == text.shape:
            found.append(module)

    layers = [each for each in model.modules() if isinstance(each, torch.nn.Embedding)]
    hooks = [each.register_forward_hook(look) for each in layers if each.num_embeddings >= text.cardinalities[0]]
    training, device = model.training, next((w.device for w in model.parameters()), torch.device("cpu"))
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, *text.shape, dtype=torch.int64, device=device))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


__all__ = ["IntegratedGradients", "Saliency", "embedding", "folded", "moved", "scored"]
