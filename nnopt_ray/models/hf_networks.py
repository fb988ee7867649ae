"""`type: hf/PLACE`: a network of transformers, from its cache or a folder, with a head for the data at hand."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nnopt_ray.data.types import Shapes
from nnopt_ray.errors import MissingExtra, PartError, UserError
from nnopt_ray.models.inputs import one_image, one_text
from nnopt_ray.models.library import stacked

# What the configurations of transformers call the share that dropout sets to zero.
DROPOUT = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "hidden_dropout",
    "dropout",
    "attention_dropout",
    "classifier_dropout",
    "classifier_dropout_prob",
    "seq_classif_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
)


class HFNetwork(nn.Module):
    """A network of transformers for one image or one text per row, with a new head for the data's outputs.

    float32 [rows, channels, height, width] or int64 [rows, length] of tokens → float32 [rows, outputs], by
    AutoModelForImageClassification or AutoModelForSequenceClassification; padding is masked. PLACE is a folder that
    transformers saved to (`hf/./my-bert` from the current directory, `hf//srv/bert`), or a name that is in the local
    cache already: nothing is downloaded. With pretrained weights an image of one channel is given as three alike, and
    one of another size than the network's is resized to it (bilinear); without them the network is made for the
    images. Tokens must be those of the network's vocabulary.

    Raises UserError when there is no such network here, it is for other data, or its weights do not fit.

    Keys:
        pretrained: start from the weights that are kept there; false takes the form alone, with random first weights.
        dropout: share set to zero while training, everywhere the network has dropout; by itself as its file says.
    """

    place: ClassVar[str]

    def __init__(
        self, shapes: Shapes, *, pretrained: bool = True, dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    ) -> None:
        super().__init__()
        if shapes.is_language:
            raise UserError(
                f"model hf/{self.place} classifies or measures, and the task is {shapes.task}: use bert or gpt."
            )
        self.padding = self.size = None
        config = _config(self.place, shapes.outputs)
        if shapes.tokens is not None:
            self.padding = _for_text(config, shapes, self.place, pretrained)
        else:
            self.size = _for_images(config, shapes, self.place, pretrained)
        if dropout is not None:
            _set_dropout(config, dropout, self.place)
        self.network = _built(self.place, config, shapes.tokens is not None, pretrained)
        self.channels = getattr(config, "num_channels", None)

    def layer_groups(self) -> list[list[nn.Module | nn.Parameter]]:
        """Embeddings, the members of the stack, what is behind them, the head (see train/layers.py)."""
        children = [child for child in self.network.children() if any(True for _ in child.parameters())]
        return stacked(self.network, children[-1])

    def forward(self, x: Tensor) -> Tensor:
        if self.padding is not None:
            mask = x != self.padding
            mask[:, 0] = True  # attention over nothing is no number
            said: Tensor = self.network(input_ids=x, attention_mask=mask.long()).logits
            return said
        if self.channels == 3 and x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if self.size is not None and x.shape[-2:] != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False)
        logits: Tensor = self.network(pixel_values=x).logits
        return logits


def network(place: str) -> type[nn.Module]:
    """The model that `type: hf/PLACE` names. Raises MissingExtra, PartError without a place."""
    if not place:
        raise PartError("hf/ needs a name or a folder behind it, as in hf/google-bert/bert-base-uncased.")
    _transformers(place)
    return type("HFNetwork", (HFNetwork,), {"place": place, "__module__": __name__, "__doc__": HFNetwork.__doc__})


def _transformers(place: str) -> Any:
    transformers: Any
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra(
            f"'hf/{place}' needs the package transformers: pip install 'nnopt-ray[pretrained]'."
        ) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _config(place: str, outputs: int) -> Any:
    try:
        return _transformers(place).AutoConfig.from_pretrained(place, local_files_only=True, num_labels=outputs)
    except (OSError, ValueError) as error:
        raise UserError(
            f"model hf/{place}: '{place}' is neither a folder that transformers saved to nor in its local cache. "
            f"Download it once, with `hf download {place}`."
        ) from error


def _for_text(config: Any, shapes: Shapes, place: str, pretrained: bool) -> int:
    text = one_text(shapes, f"hf/{place}", getattr(config, "max_position_embeddings", None) or 1 << 30)
    there = getattr(config, "vocab_size", None)
    if there is None:
        raise UserError(f"model hf/{place} takes no text, and this data is one text per row.")
    if not pretrained:
        config.vocab_size = text.cardinalities[0]
    elif text.cardinalities[0] > there:
        raise UserError(
            f"model hf/{place} knows {there} tokens, and this data has {text.cardinalities[0]}: tokenize it with the "
            "network's own vocabulary, or set pretrained to false."
        )
    config.pad_token_id = text.padding
    return text.padding


def _for_images(config: Any, shapes: Shapes, place: str, pretrained: bool) -> tuple[int, int] | None:
    channels, height, width = one_image(shapes, f"hf/{place}")
    there, size = getattr(config, "num_channels", None), getattr(config, "image_size", None)
    if there is None:
        raise UserError(f"model hf/{place} takes no images, and this data is one image per row.")
    if not pretrained:
        config.num_channels = channels
        if size is not None:
            config.image_size = height if height == width else (height, width)
        return None
    if channels != there and (channels, there) != (1, 3):
        raise UserError(f"model hf/{place} takes images of {there} channels, and these have {channels}.")
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _set_dropout(config: Any, dropout: float, place: str) -> None:
    known = [name for name in DROPOUT if hasattr(config, name)]
    if not known:
        raise UserError(f"model hf/{place} has no dropout: leave out the key.")
    for name in known:
        setattr(config, name, dropout)


def _built(place: str, config: Any, is_text: bool, pretrained: bool) -> nn.Module:
    library = _transformers(place)
    auto = library.AutoModelForSequenceClassification if is_text else library.AutoModelForImageClassification
    try:
        if not pretrained:
            made: nn.Module = auto.from_config(config)
            return made.float()
        made, said = auto.from_pretrained(
            place,
            config=config,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype="float32",
        )
    except (OSError, ValueError, KeyError) as error:
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"model hf/{place} cannot be made for {'texts' if is_text else 'images'}: {told}") from error
    children = [name for name, child in made.named_children() if any(True for _ in child.parameters())]
    base = getattr(made, "base_model_prefix", "")
    apart = [str(each[0] if isinstance(each, tuple) else each) for each in said["mismatched_keys"]]
    wrong = [name for name in [*said["missing_keys"], *apart] if name.startswith(f"{base}.") and ".pooler." not in name]
    if wrong and base in children:
        raise UserError(f"model hf/{place}: its file has no fitting weight for '{sorted(wrong)[0]}'.")
    return made
