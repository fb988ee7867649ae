"""Where public weights come from: the names that other libraries give the weights of our networks.

One entry of ORIGINS a model and origin. A rule is a pattern of the other name and ours: a template over its groups, a
function of them, or None for a weight that is not needed. The first pattern that matches the whole name counts. Our
names that end in @0, @1, ... are parts of one weight, to be joined along their first dimension.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnopt_ray.errors import UserError

Rule = tuple[str, str | Callable[..., str] | None]
Named = dict[str, Tensor]

HEADS = ("head.", "hidden.")


@dataclass(frozen=True)
class Origin:
    """One kind of file.

    model: its name in MODELS. library: as sentences name it. mark: a pattern that one of the file's names matches
    as a whole, and no name of another origin.
    arrange: what is left to do under our names, given the model. heads: how the names of the layers begin that keep
    their first weights where the file's are others or none. advice: what the page has to say so that the network
    computes as there, in words; empty where it does.
    """

    model: str
    library: str
    mark: str
    rules: tuple[Rule, ...] = ()
    arrange: Callable[[Named, nn.Module], Named] = lambda named, model: named
    heads: tuple[str, ...] = HEADS
    advice: Callable[[nn.Module], str] = lambda model: ""

    def ours(self, name: str) -> str | None:
        """Our name of a weight; None where it is not needed. Raises KeyError for a name that no rule knows."""
        for pattern, told in self.rules:
            if found := re.fullmatch(pattern, name):
                if told is None:
                    return None
                return told.format(*found.groups()) if isinstance(told, str) else told(*found.groups())
        raise KeyError(name)


def first_of(model: nn.Module, module: type[nn.Module]) -> nn.Module:
    return next(each for each in model.modules() if isinstance(each, module))


# ── ResNet ───────────────────────────────────────────────────────────────────────────────────────────


RESNET = (
    Origin(
        "resnet",
        "torchvision's ResNet",
        r"layer1\.0\.conv1\.weight",
        (
            (r"conv1\.(.*)", "stem.0.{0}"),
            (r"bn1\.(.*)", "stem.1.{0}"),
            (r"layer(\d)\.(\d+)\.conv(\d)\.(.*)", lambda s, b, i, w: f"{_block(s, b, 1)}.branch.{3 * int(i) - 3}.{w}"),
            (r"layer(\d)\.(\d+)\.bn(\d)\.(.*)", lambda s, b, i, w: f"{_block(s, b, 1)}.branch.{3 * int(i) - 2}.{w}"),
            (r"layer(\d)\.(\d+)\.downsample\.(.*)", lambda s, b, w: f"{_block(s, b, 1)}.projection.{w}"),
            (r"fc\.(.*)", "head.{0}"),
        ),
    ),
    Origin(
        "resnet",
        "transformers' ResNet",
        r"(resnet\.)?encoder\.stages\.0\.layers\.0\.layer\.0\.convolution\.weight",
        (
            (r"(?:resnet\.)?embedder\.embedder\.convolution\.(.*)", "stem.0.{0}"),
            (r"(?:resnet\.)?embedder\.embedder\.normalization\.(.*)", "stem.1.{0}"),
            (
                r"(?:resnet\.)?encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.(convolution|normalization)\.(.*)",
                lambda s, b, i, k, w: f"{_block(s, b)}.branch.{3 * int(i) + (k == 'normalization')}.{w}",
            ),
            (
                r"(?:resnet\.)?encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.(convolution|normalization)\.(.*)",
                lambda s, b, k, w: f"{_block(s, b)}.projection.{int(k == 'normalization')}.{w}",
            ),
            (r"classifier\.1\.(.*)", "head.{0}"),
        ),
    ),
)


def _block(stage: str, block: str, first: int = 0) -> str:
    return f"stages.{int(stage) - first}.{block}"


# ── VGG ──────────────────────────────────────────────────────────────────────────────────────────────

VGG = (
    Origin(
        "vgg",
        "torchvision's VGG",
        r"features\.0\.weight",
        (
            (r"(features\..*)", "{0}"),
            (r"classifier\.([03])\.(.*)", "hidden.{0}.{1}"),
            (r"classifier\.6\.(.*)", "head.{0}"),
        ),
    ),
)

# ── EfficientNet ─────────────────────────────────────────────────────────────────────────────────────

# Parts of a block in torchvision's order; the first stage's blocks have no expansion.
PARTS = ("expand", "depthwise", "squeeze", "project")
IN_CONVOLUTION = {"0": "convolution", "1": "norm"}
SQUEEZED = {"fc1": "reduce", "fc2": "expand"}
PARTS_THERE = {
    "expansion.expand_conv": "expand.convolution",
    "expansion.expand_bn": "expand.norm",
    "depthwise_conv.depthwise_conv": "depthwise.convolution",
    "depthwise_conv.depthwise_norm": "depthwise.norm",
    "squeeze_excite.reduce": "squeeze.reduce",
    "squeeze_excite.expand": "squeeze.expand",
    "projection.project_conv": "project.convolution",
    "projection.project_bn": "project.norm",
}
TENSORFLOWS_EPS = 1e-3  # added to variances by the batch norm of the published networks; transformers' default too


def _of_torchvision(stage: str, block: str, part: str, inside: str, rest: str) -> str:
    name = PARTS[int(part) + (stage == "1")]
    return f"{_block(stage, block, 1)}.{name}.{(SQUEEZED | IN_CONVOLUTION)[inside]}.{rest}"


def _efficientnet_of_transformers(named: Named, model: nn.Module) -> Named:
    """Blocks are numbered through there; and what batch norm adds to variances is made part of them."""
    stages = model.get_submodule("stages")
    places = [f"stages.{s}.{b}" for s, stage in enumerate(stages.children()) for b, _ in enumerate(stage.children())]
    norm = first_of(model, nn.BatchNorm2d)
    assert isinstance(norm, nn.BatchNorm2d)
    arranged = {}
    for name, tensor in named.items():
        number, _, rest = name.removeprefix("blocks.").partition(".")
        if name.startswith("blocks."):
            name = f"{places[int(number)]}.{rest}" if int(number) < len(places) else name
        arranged[name] = tensor + (TENSORFLOWS_EPS - norm.eps) if name.endswith("running_var") else tensor
    return arranged


def _padding(model: nn.Module) -> str:
    return "" if getattr(model, "padding", "") == "same" else "model.padding: same makes it compute as there"


EFFICIENTNET = (
    Origin(
        "efficientnet",
        "torchvision's EfficientNet",
        r"features\.1\.0\.block\.0\.0\.weight",
        (
            (r"features\.0\.([01])\.(.*)", lambda i, w: f"stem.{IN_CONVOLUTION[i]}.{w}"),
            (r"features\.8\.([01])\.(.*)", lambda i, w: f"top.{IN_CONVOLUTION[i]}.{w}"),
            (r"features\.([1-7])\.(\d+)\.block\.(\d)\.(0|1|fc1|fc2)\.(.*)", _of_torchvision),
            (r"classifier\.1\.(.*)", "head.{0}"),
        ),
    ),
    Origin(
        "efficientnet",
        "transformers' EfficientNet",
        r"(efficientnet\.)?encoder\.blocks\.0\.depthwise_conv\.depthwise_conv\.weight",
        (
            (r"(?:efficientnet\.)?embeddings\.convolution\.(.*)", "stem.convolution.{0}"),
            (r"(?:efficientnet\.)?embeddings\.batchnorm\.(.*)", "stem.norm.{0}"),
            (
                r"(?:efficientnet\.)?encoder\.blocks\.(\d+)\.(\w+\.\w+)\.(.*)",
                lambda b, part, w: f"blocks.{b}.{PARTS_THERE[part]}.{w}",
            ),
            (r"(?:efficientnet\.)?encoder\.top_conv\.(.*)", "top.convolution.{0}"),
            (r"(?:efficientnet\.)?encoder\.top_bn\.(.*)", "top.norm.{0}"),
            (r"classifier\.(.*)", "head.{0}"),
        ),
        arrange=_efficientnet_of_transformers,
        advice=_padding,
    ),
)

# ── ViT ──────────────────────────────────────────────────────────────────────────────────────────────


def _positions(named: Named, model: nn.Module) -> Named:
    """Learned positions of another grid of patches are interpolated in the plane (Dosovitskiy et al. 2020, 3.2)."""
    there, (high, wide) = named.get("positions"), tuple(getattr(model, "grid", (0, 0)))
    if there is None:
        return named
    if getattr(model, "class_token", None) is None:
        rest = {name: tensor for name, tensor in named.items() if name != "class_token"}
        return rest | {"positions": _of_grid(there, high, wide)[:, 1:]}
    return named | {"positions": _of_grid(there, high, wide)}


def _of_grid(there: Tensor, high: int, wide: int) -> Tensor:
    """Positions [1, 1 + high * wide, width], the class token's first; as they are where they have no other square."""
    if there.shape[1] == high * wide + 1:
        return there
    side = math.isqrt(there.shape[1] - 1)
    if side * side != there.shape[1] - 1:
        return there
    token, grid = there[:, :1], there[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    drawn = F.interpolate(grid, (high, wide), mode="bicubic", align_corners=False)
    return torch.cat([token.float(), drawn.flatten(2).transpose(1, 2)], dim=1)


TRANSFORMERS_EPS = 1e-12


def _token(model: nn.Module) -> str:
    missing = getattr(model, "class_token", None) is None
    return "model.pool: token makes it compute as there" if missing else ""


def _epsilon(model: nn.Module) -> str:
    norm = first_of(model, nn.LayerNorm)
    same = isinstance(norm, nn.LayerNorm) and norm.eps == TRANSFORMERS_EPS
    return _token(model) if same else "model.layer_norm_eps: 1e-12 makes it compute as there"


VIT_BLOCK = r"(?:vit\.)?(?:encoder\.)?layers?\.(\d+)"
VIT = (
    Origin(
        "vit",
        "torchvision's ViT",
        r"encoder\.layers\.encoder_layer_0\.ln_1\.weight",
        (
            (r"class_token", "class_token"),
            (r"encoder\.pos_embedding", "positions"),
            (r"conv_proj\.(.*)", "patches.{0}"),
            (r"encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.(.*)", "blocks.{0}.norm_{1}.{2}"),
            (
                r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_(\w+)",
                "blocks.{0}.attention.qkv.{1}",
            ),
            (
                r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.(.*)",
                "blocks.{0}.attention.out.{1}",
            ),
            (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.([03])\.(.*)", "blocks.{0}.mlp.{1}.{2}"),
            (
                r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.linear_([12])\.(.*)",  # in files before torchvision 0.14
                lambda b, i, w: f"blocks.{b}.mlp.{3 * int(i) - 3}.{w}",
            ),
            (r"encoder\.ln\.(.*)", "norm.{0}"),
            (r"heads\.head\.(.*)", "head.{0}"),
        ),
        arrange=_positions,
        advice=_token,
    ),
    Origin(
        "vit",
        "transformers' ViT",
        r"(vit\.)?embeddings\.cls_token",
        (
            (r"(?:vit\.)?embeddings\.cls_token", "class_token"),
            (r"(?:vit\.)?embeddings\.position_embeddings", "positions"),
            (r"(?:vit\.)?embeddings\.patch_embeddings\.projection\.(.*)", "patches.{0}"),
            (rf"{VIT_BLOCK}\.layernorm_before\.(.*)", "blocks.{0}.norm_1.{1}"),
            (rf"{VIT_BLOCK}\.layernorm_after\.(.*)", "blocks.{0}.norm_2.{1}"),
            (rf"{VIT_BLOCK}\.attention\.(?:attention\.query|q_proj)\.(.*)", "blocks.{0}.attention.qkv.{1}@0"),
            (rf"{VIT_BLOCK}\.attention\.(?:attention\.key|k_proj)\.(.*)", "blocks.{0}.attention.qkv.{1}@1"),
            (rf"{VIT_BLOCK}\.attention\.(?:attention\.value|v_proj)\.(.*)", "blocks.{0}.attention.qkv.{1}@2"),
            (rf"{VIT_BLOCK}\.attention\.(?:output\.dense|o_proj)\.(.*)", "blocks.{0}.attention.out.{1}"),
            (rf"{VIT_BLOCK}\.(?:intermediate\.dense|mlp\.fc1)\.(.*)", "blocks.{0}.mlp.0.{1}"),
            (rf"{VIT_BLOCK}\.(?:output\.dense|mlp\.fc2)\.(.*)", "blocks.{0}.mlp.3.{1}"),
            (r"(?:vit\.)?layernorm\.(.*)", "norm.{0}"),
            (r"(?:vit\.)?pooler\..*", None),  # of pre-training; classifiers have none
            (r"classifier\.(.*)", "head.{0}"),
        ),
        arrange=_positions,
        advice=_epsilon,
    ),
)

# ── BERT and GPT-2 ───────────────────────────────────────────────────────────────────────────────────

BERT_EMBEDDINGS = {"word": "tokens", "position": "positions", "token_type": "types"}
BERT_LAYER = r"(?:bert\.)?encoder\.layer\.(\d+)"
GPT_LAYER = r"(?:transformer\.)?h\.(\d+)"
GPT_LINEAR = {
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.out",
    "mlp.c_fc": "widen",
    "mlp.c_proj": "narrow",
}
IN_NORM = {"gamma": "weight", "beta": "bias"}  # in files of 2018 and 2019


def _norm(place: str) -> Callable[..., str]:
    return lambda *found: f"{place.format(*found[:-1])}.{IN_NORM.get(found[-1], found[-1])}"


def _text(named: Named, model: nn.Module) -> Named:
    """Of more positions than the model has, the first are taken; the last layer must be the embedding of the tokens."""
    decoder, positions = named.pop("decoder", None), model.get_submodule("positions")
    if decoder is not None and not torch.equal(decoder, named["tokens.weight"]):
        raise UserError(
            "model.weights: the last layer of this file is another matrix than the embedding of its tokens, and that "
            "of the model is the embedding: use a file in which they are tied."
        )
    if isinstance(positions, nn.Embedding):
        named["positions.weight"] = named["positions.weight"][: positions.num_embeddings]
    return named


def _gpt(named: Named, model: nn.Module) -> Named:
    """Matrices within the layers are [inputs, outputs] there; and the last layer of a classification has no bias."""
    for name, tensor in named.items():
        if name.startswith("layers.") and tensor.dim() == 2:
            named[name] = tensor.t()
    if "head.weight" in named:
        named["head.bias"] = named["head.weight"].new_zeros(len(named["head.weight"]))
    return _text(named, model)


TEXT = (
    Origin(
        "bert",
        "transformers' BERT",
        r"(bert\.)?embeddings\.token_type_embeddings\.weight",
        (
            (r"(?:bert\.)?embeddings\.(\w+)_embeddings\.weight", lambda e: f"{BERT_EMBEDDINGS[e]}.weight"),
            (r"(?:bert\.)?embeddings\.LayerNorm\.(\w+)", _norm("norm")),
            (r"(?:bert\.)?embeddings\.position_ids", None),
            (
                rf"{BERT_LAYER}\.attention\.self\.(query|key|value)\.(\w+)",
                lambda b, e, w: f"layers.{b}.attention.qkv.{w}@{'qkv'.index(e[0])}",
            ),
            (rf"{BERT_LAYER}\.attention\.output\.dense\.(\w+)", "layers.{0}.attention.out.{1}"),
            (rf"{BERT_LAYER}\.attention\.output\.LayerNorm\.(\w+)", _norm("layers.{0}.attention_norm")),
            (rf"{BERT_LAYER}\.intermediate\.dense\.(\w+)", "layers.{0}.widen.{1}"),
            (rf"{BERT_LAYER}\.output\.dense\.(\w+)", "layers.{0}.narrow.{1}"),
            (rf"{BERT_LAYER}\.output\.LayerNorm\.(\w+)", _norm("layers.{0}.norm")),
            (r"(?:bert\.)?pooler\.dense\.(\w+)", "pooler.{0}"),
            (r"cls\.predictions\.transform\.dense\.(\w+)", "masked.transform.{0}"),
            (r"cls\.predictions\.transform\.LayerNorm\.(\w+)", _norm("masked.norm")),
            (r"cls\.predictions\.bias", "masked.bias"),
            (r"cls\.predictions\.decoder\.weight", "decoder"),
            (r"cls\.predictions\.decoder\.bias", None),  # is cls.predictions.bias
            (r"cls\.seq_relationship\..*", None),  # whether one text follows the other: of pre-training
            (r"classifier\.(\w+)", "head.{0}"),
        ),
        arrange=_text,
        heads=("head.", "pooler.", "masked."),
    ),
    Origin(
        "gpt",
        "transformers' GPT-2",
        r"(transformer\.)?h\.0\.attn\.c_attn\.weight",
        (
            (r"(?:transformer\.)?wte\.weight", "tokens.weight"),
            (r"(?:transformer\.)?wpe\.weight", "positions.weight"),
            (r"(?:transformer\.)?ln_f\.(\w+)", "norm.{0}"),
            (rf"{GPT_LAYER}\.ln_1\.(\w+)", "layers.{0}.attention_norm.{1}"),
            (rf"{GPT_LAYER}\.ln_2\.(\w+)", "layers.{0}.norm.{1}"),
            (rf"{GPT_LAYER}\.attn\.(?:masked_)?bias", None),  # the causal mask
            (rf"{GPT_LAYER}\.(\w+\.\w+)\.(\w+)", lambda b, part, w: f"layers.{b}.{GPT_LINEAR[part]}.{w}"),
            (r"lm_head\.weight", "decoder"),
            (r"score\.weight", "head.weight"),
        ),
        arrange=_gpt,
        heads=("head.",),
    ),
)

ORIGINS: tuple[Origin, ...] = (*RESNET, *VGG, *EFFICIENTNET, *VIT, *TEXT)


def heads_of(model: str) -> tuple[str, ...]:
    """How the names of the layers of a model begin that keep their first weights where a file has others or none."""
    return next((origin.heads for origin in ORIGINS if origin.model == model), HEADS)


def recognised(names: Mapping[str, object]) -> Origin | None:
    """The origin of a file with these names."""
    for origin in ORIGINS:
        if any(re.fullmatch(origin.mark, name) for name in names):
            return origin
    return None
