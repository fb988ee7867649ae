"""Weights of BERT and GPT-2 as they are published (transformers' names and layout) → those of models bert and gpt."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# Ours ← theirs, without the prefix that a network with a head has. Each has a weight and a bias.
BERT_LAYER = {
    "attention.out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
    "norm": "output.LayerNorm",
}
BERT_OUTSIDE = {
    "tokens.weight": "embeddings.word_embeddings.weight",
    "positions.weight": "embeddings.position_embeddings.weight",
    "types.weight": "embeddings.token_type_embeddings.weight",
    "norm.weight": "embeddings.LayerNorm.weight",
    "norm.bias": "embeddings.LayerNorm.bias",
    "pooler.weight": "pooler.dense.weight",
    "pooler.bias": "pooler.dense.bias",
    "transform.weight": "cls.predictions.transform.dense.weight",
    "transform.bias": "cls.predictions.transform.dense.bias",
    "transform_norm.weight": "cls.predictions.transform.LayerNorm.weight",
    "transform_norm.bias": "cls.predictions.transform.LayerNorm.bias",
    "bias": "cls.predictions.bias",
    "head.weight": "classifier.weight",
    "head.bias": "classifier.bias",
}
GPT_LAYER = {
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "norm": "ln_2",
    "widen": "mlp.c_fc",
    "narrow": "mlp.c_proj",
}
GPT_OUTSIDE = {
    "tokens.weight": "wte.weight",
    "positions.weight": "wpe.weight",
    "norm.weight": "ln_f.weight",
    "norm.bias": "ln_f.bias",
    "head.weight": "score.weight",
}


def bert(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of model bert by our names, from those of BertModel, BertForMaskedLM, BertForPreTraining or
    BertForSequenceClassification: all that both have.
    """
    # Files of before 2019's end write gamma and beta for the weight and the bias of a layer norm.
    theirs = {
        re.sub(r"^bert\.", "", name)
        .replace("LayerNorm.gamma", "LayerNorm.weight")
        .replace("LayerNorm.beta", "LayerNorm.bias"): each
        for name, each in published.items()
    }
    found = {ours: theirs[name] for ours, name in BERT_OUTSIDE.items() if name in theirs}
    for layer in _layers(theirs, r"encoder\.layer\.(\d+)\."):
        for end in ("weight", "bias"):
            for ours, name in BERT_LAYER.items():
                found[f"layers.{layer}.{ours}.{end}"] = theirs[f"encoder.layer.{layer}.{name}.{end}"]
            within = [
                theirs[f"encoder.layer.{layer}.attention.self.{each}.{end}"] for each in ("query", "key", "value")
            ]
            found[f"layers.{layer}.attention.qkv.{end}"] = torch.cat(within)
    return found


def gpt(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of model gpt by our names, from those of GPT2Model, GPT2LMHeadModel or GPT2ForSequenceClassification.

    Theirs are matrices [inputs, outputs] within the layers (Conv1D), ours [outputs, inputs]. Theirs have no bias in
    the last layer of a classification: ours is 0 then.
    """
    theirs = {re.sub(r"^transformer\.", "", name): each for name, each in published.items()}
    found = {ours: theirs[name] for ours, name in GPT_OUTSIDE.items() if name in theirs}
    if "head.weight" in found:
        found["head.bias"] = found["head.weight"].new_zeros(len(found["head.weight"]))
    for layer in _layers(theirs, r"h\.(\d+)\."):
        for ours, name in GPT_LAYER.items():
            weight = theirs[f"h.{layer}.{name}.weight"]
            found[f"layers.{layer}.{ours}.weight"] = weight.t() if weight.dim() == 2 else weight
            found[f"layers.{layer}.{ours}.bias"] = theirs[f"h.{layer}.{name}.bias"]
    return found


def _layers(theirs: Mapping[str, Tensor], pattern: str) -> list[int]:
    """The numbers of the layers, in order."""
    return sorted({int(match[1]) for name in theirs if (match := re.match(pattern, name))})
