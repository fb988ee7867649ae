"""Where in an image: maps of class activation, of attention, of gradients. float64 [images, height, width] each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnopt_ray.data.types import Shapes
from nnopt_ray.errors import UserError
from nnopt_ray.evaluate.explainers import Attributions, Explainer, Subject, differentiable

if TYPE_CHECKING:
    from torch import Tensor, nn

CONVOLUTIONAL: tuple[str, ...] = ("resnet", "vgg", "efficientnet")
SMALLEST = 4  # pixels a side of the map that Grad-CAM reads by itself: fewer say next to nothing of where


class GradCam(Explainer):
    """Gradient-weighted class activation maps (Selvaraju et al. 2017, arXiv:1610.02391), by captum: the maps of a
    convolutional layer, each weighted by the mean gradient of the predicted class's logit in it, summed, with what
    speaks against the class left out, and drawn out to the size of the image.

    Keys:
        layer: the layer whose maps are read, a path within the network such as stages.2; when left out the last one
            whose maps have at least 4x4 pixels.
    """

    kinds = ("image",)
    models: ClassVar[tuple[str, ...]] = CONVOLUTIONAL

    def __init__(self, *, layer: str | None = None) -> None:
        self.layer = layer

    def refusal(self, shapes: Shapes, model: nn.Module | None) -> str:
        said = super().refusal(shapes, model)
        if said or model is None:
            return said
        try:
            chosen_layer(model, shapes, self.layer)
        except UserError as error:
            return str(error)
        return ""

    def explain(self, subject: Subject) -> Attributions:
        rows = subject.rows(0)
        maps, layer, size = cam(subject, rows, self.layer)
        told = f"Read from the layer {layer}, whose maps have {size[0]}x{size[1]} pixels."
        return Attributions(rows, maps, _logit(subject), told, signed=False)


class GuidedGradCam(GradCam):
    """Grad-CAM, times the gradient of guided backpropagation (Selvaraju et al. 2017, section 3.2; Springenberg et al.
    2015, arXiv:1412.6806): sharp as the latter, and of the class as the former. At each ReLU, a layer or a function,
    only what is positive goes back, so it is for networks of ReLUs. The channels are added up.

    Keys:
        layer: as that of grad_cam.
    """

    models = ("resnet", "vgg")

    def explain(self, subject: Subject) -> Attributions:
        rows = subject.rows(0)
        maps, layer, size = cam(subject, rows, self.layer)
        back = guided_gradient(subject, rows)
        told = f"Grad-CAM of the layer {layer} ({size[0]}x{size[1]} pixels) times the guided gradient of each pixel."
        return Attributions(rows, maps * back, _logit(subject), told)


class AttentionRollout(Explainer):
    """Attention rollout of a Vision Transformer (Abnar & Zuidema 2020, arXiv:2005.00928): the attention of each block,
    the mean over its heads and of it with the identity for the shortcut, multiplied through all blocks, as the class
    token has it, or the mean over the patches where the network has none. It says where the network looked, and not for
    which class.
    """

    kinds = ("image",)
    models = ("vit",)

    def __init__(self) -> None:
        pass

    def refusal(self, shapes: Shapes, model: nn.Module | None) -> str:
        from nnopt_ray.models.vit import ViT

        said = super().refusal(shapes, model)
        if not said and model is not None and not isinstance(model, ViT):
            return "reads the attention of the built-in model vit, and this network is another"
        return said

    def explain(self, subject: Subject) -> Attributions:
        rows = subject.rows(0)
        maps, blocks, grid = rollout(subject.model, subject.inputs(rows)[0])
        told = f"Through {blocks} blocks, over {grid[0]}x{grid[1]} patches. It is the same for every class."
        return Attributions(rows, maps, "where the network looked", told, signed=False)


def _logit(subject: Subject) -> str:
    return "the logit of the predicted class" if subject.dataset.classes else subject.of


def cam(subject: Subject, rows: np.ndarray, layer: str | None) -> tuple[np.ndarray, str, tuple[int, int]]:
    """Grad-CAM of test images, the name of the layer, and the size of its maps."""
    import torch
    from captum.attr import LayerAttribution, LayerGradCam

    (images,) = subject.inputs(rows)
    name, module = chosen_layer(subject.model, subject.shapes, layer)
    target = torch.from_numpy(subject.asked[rows]).to(images.device)
    with differentiable():
        found = LayerGradCam(subject.model, module).attribute(images.requires_grad_(), target)
    assert isinstance(found, torch.Tensor)
    large = LayerAttribution.interpolate(found.detach().relu(), images.shape[2:], interpolate_mode="bilinear")
    size = int(found.shape[2]), int(found.shape[3])
    return large[:, 0].cpu().numpy().astype(np.float64), name, size


def chosen_layer(model: nn.Module, shapes: Shapes, layer: str | None) -> tuple[str, nn.Module]:
    """The layer whose maps are read, and its name. Raises UserError, half a sentence, where there is none."""
    import torch

    named = dict(model.named_modules())
    if layer is not None and layer not in named:
        from nnopt_ray.tables import suggestion

        raise UserError(f"finds no layer '{layer}' in the network.{suggestion(layer, [n for n in named if n][:60])}")
    found: dict[str, tuple[int, int]] = {}
    convolutions = 0

    def look(name: str) -> Any:
        def seen(module: nn.Module, _: Any, out: Any) -> None:
            nonlocal convolutions
            convolutions += isinstance(module, torch.nn.Conv2d)
            if isinstance(out, torch.Tensor) and out.dim() == 4 and convolutions and name:
                found.pop(name, None)  # in the order in which they end
                found[name] = int(out.shape[2]), int(out.shape[3])

        return seen

    hooks = [module.register_forward_hook(look(name)) for name, module in named.items()]
    training, device = model.training, next((w.device for w in model.parameters()), torch.device("cpu"))
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, *shapes.inputs[0].shape, device=device))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    if layer is not None:
        if layer not in found:
            raise UserError(f"reads maps, [channels, height, width] an image, and the layer '{layer}' gives none")
        return layer, named[layer]
    if not found:
        raise UserError("reads the maps of convolutions, and this network has none")
    large = [name for name, size in found.items() if min(size) >= SMALLEST]
    last = large[-1] if large else max(found, key=lambda name: min(found[name]))
    return last, named[last]


def guided_gradient(subject: Subject, rows: np.ndarray) -> np.ndarray:
    """The gradient of what is explained in each pixel, the channels added up, by guided backpropagation."""
    import torch

    (images,) = subject.inputs(rows)
    target = torch.from_numpy(subject.asked[rows]).to(images.device)
    with differentiable(), guided_relus() as met:
        said = subject.model(images.requires_grad_())
        (back,) = torch.autograd.grad(said.gather(1, target[:, None]).sum(), images)
    if not met:
        raise UserError("guided_grad_cam goes back through ReLUs, and this network has none: use grad_cam.")
    return back.sum(1).cpu().numpy().astype(np.float64)


@contextmanager
def guided_relus() -> Iterator[list[str]]:
    """Within, the gradient of every ReLU is that of guided backpropagation; yields the names of those that were met.

    captum's GuidedBackprop hangs hooks on the layers of the class ReLU: what calls the function, as the shortcuts of
    residual networks do, is passed by there, and a layer that is used twice or writes into its input fails.
    """
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    class Guided(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: Tensor) -> Tensor:
            context.save_for_backward(x)
            return x.clamp(min=0)

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> Tensor:
            (x,) = context.saved_tensors
            passed: Tensor = gradient.clamp(min=0) * (x > 0)
            return passed

    relus = (functional.relu, functional.relu_, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_)
    met: list[str] = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function in relus:
                met.append(function.__name__)
                return Guided.apply(args[0] if args else kwargs["input"])  # type: ignore[no-untyped-call]
            return function(*args, **(kwargs or {}))

    with Mode():
        yield met


def rollout(model: nn.Module, images: Tensor) -> tuple[np.ndarray, int, tuple[int, int]]:
    """Attention rollout of a built-in ViT, the number of its blocks, and its grid of patches."""
    import torch
    from torch.nn import functional

    from nnopt_ray.models.vit import Attention, ViT

    assert isinstance(model, ViT)
    through: Tensor | None = None
    blocks = 0

    def look(module: nn.Module, given: Any) -> None:
        nonlocal through, blocks
        assert isinstance(module, Attention)
        query, key, _ = module.qkv(given[0]).unflatten(2, (3, module.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        seen = (query @ key.transpose(2, 3) / query.shape[3] ** 0.5).softmax(3).mean(1)
        seen = (seen + torch.eye(seen.shape[1], device=seen.device)) / 2
        through = seen if through is None else seen @ through
        blocks += 1

    hooks = [each.register_forward_pre_hook(look) for each in model.modules() if isinstance(each, Attention)]
    try:
        with torch.inference_mode():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    assert through is not None
    token = model.class_token is not None
    seen = through[:, 0, 1:] if token else through.mean(1)
    maps = seen.reshape(len(images), 1, *model.grid)
    large = functional.interpolate(maps, images.shape[2:], mode="nearest")
    return large[:, 0].cpu().numpy().astype(np.float64), blocks, (int(model.grid[0]), int(model.grid[1]))


__all__ = ["AttentionRollout", "GradCam", "GuidedGradCam", "cam", "chosen_layer", "guided_relus", "rollout"]
