"""`type: timm/NAME`: a network for images of timm (Wightman 2019), with a head for the data at hand."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from nnopt_ray.data.types import Shapes
from nnopt_ray.errors import MissingExtra, PartError, UserError
from nnopt_ray.models.inputs import one_image
from nnopt_ray.models.library import stacked
from nnopt_ray.section import Beside


class TimmNetwork(nn.Module):
    """A network of timm for one image per row, with a new head for the data's outputs and images of its channels.

    float32 [rows, channels, height, width] → float32 [rows, outputs]. Its first layer is adapted to the channels as
    timm does it (weights of three channels are summed for one). Nothing is downloaded: pretrained weights come from
    the local cache of the Hugging Face hub, or from a file.

    Raises UserError when the data is no image per row, the network cannot be made for it, or weights are not here.

    Keys:
        pretrained: start from the weights that timm has for this name, which must be in the local cache.
        weights: start from this file of weights instead, beside the page.
        dropout: share of the features set to zero while training, before the last layer (timm's drop_rate).
    """

    name: ClassVar[str]

    def __init__(
        self,
        shapes: Shapes,
        *,
        pretrained: bool = False,
        weights: Annotated[str | None, Beside()] = None,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        timm = _timm(self.name)
        channels, height, width = one_image(shapes, f"timm/{self.name}")
        keys: dict[str, Any] = {"num_classes": shapes.outputs, "in_chans": channels, "drop_rate": dropout}
        settings = timm.get_pretrained_cfg(self.name)
        if settings is not None and settings.fixed_input_size:
            keys["img_size"] = (height, width)
        if pretrained or weights:
            place = weights or _cached(self.name, settings)
            keys |= {"pretrained": True, "pretrained_cfg_overlay": {"file": place, "hf_hub_id": None, "url": ""}}
        try:
            self.network: nn.Module = timm.create_model(self.name, **keys)
        except (RuntimeError, ValueError, TypeError, AssertionError, OSError) as error:
            told = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"model timm/{self.name} cannot be made for these {height}x{width} images: {told}"
            ) from error

    def layer_groups(self) -> list[list[nn.Module | nn.Parameter]]:
        """The stem, the members of the stack, what is behind them, the head (see train/layers.py)."""
        return stacked(self.network, self.network.get_classifier())  # type: ignore[operator]

    def forward(self, image: Tensor) -> Tensor:
        outputs: Tensor = self.network(image)
        return outputs


def network(name: str) -> type[nn.Module]:
    """The model that `type: timm/NAME` names. Raises MissingExtra, PartError for a name that timm has not."""
    timm = _timm(name)
    if not timm.is_model(name.partition(".")[0]):
        near = timm.list_models(f"*{name.partition('.')[0][:6]}*")[:5]
        raise PartError(f"timm has no network '{name}'." + (f" It has {', '.join(near)}, for example." if near else ""))
    return type("TimmNetwork", (TimmNetwork,), {"name": name, "__module__": __name__, "__doc__": TimmNetwork.__doc__})


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise MissingExtra(f"'timm/{name}' needs the package timm: pip install 'nnopt-ray[pretrained]'.") from error
    except RuntimeError as error:  # operator torchvision::nms does not exist
        raise MissingExtra(
            f"'timm/{name}' needs torchvision, and the one here is for another build of torch ({error}): install "
            "torch and torchvision from the same index, https://download.pytorch.org/whl/cpu for one."
        ) from error
    return timm


def _cached(name: str, settings: Any) -> str:
    from huggingface_hub import try_to_load_from_cache

    repository = getattr(settings, "hf_hub_id", None)
    if repository is not None:
        repository = repository if repository != "timm/" else f"timm/{name}"
        for file in ("model.safetensors", "pytorch_model.bin"):
            found = try_to_load_from_cache(repository, file)
            if isinstance(found, str):
                return found
    raise UserError(
        f"model timm/{name}: its weights are not in the local cache. Download them once, with `hf download "
        f"{repository or f'timm/{name}'}`, or give a file by the key weights."
    )
