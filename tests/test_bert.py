"""BERT against transformers' own, and what padding must not change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from model_example import batch, make, parameters, shapes_of
from torch import nn

from nnopt_ray.data.types import Input, Shapes
from nnopt_ray.errors import UserError
from nnopt_ray.models import public_text

SMALL = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4}
SMALL |= {"intermediate_size": 40, "max_position_embeddings": 30}
KEYS = {"width": 16, "depth": 3, "heads": 4, "feed_forward": 40, "positions": 30}
PUBLISHED = (Input("tokens", (128,), (30_522,)),)


def counted(model: type[nn.Module], **config: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in model(transformers.BertConfig(**config)).parameters())


def theirs(model: type[nn.Module], **more: Any) -> Any:
    torch.manual_seed(3)
    made: Any = model(transformers.BertConfig(**SMALL, **more)).eval()
    for parameter in made.parameters():  # biases and norms too, which start as 0 and 1
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return made


def test_base_has_the_published_number_of_weights() -> None:
    # 109,482,240: bert-base-uncased with its pooler. The last layer of two classes is the page's own.
    classes = Shapes("classification", PUBLISHED, 2)
    assert parameters("bert", classes, size="base") - (768 * 2 + 2) == 109_482_240 == counted(transformers.BertModel)
    hidden = Shapes("masked_language_modelling", PUBLISHED, 30_522)
    assert parameters("bert", hidden, size="base") == counted(transformers.BertForMaskedLM)


@pytest.mark.parametrize(
    ("size", "depth", "width", "millions"),
    # Turc et al. 2019, table 1; google-research/bert's README; Devlin et al. 2019 ("340M").
    [
        ("tiny", 2, 128, 4.4),
        ("mini", 4, 256, 11.3),
        ("small", 4, 512, 29.1),
        ("medium", 8, 512, 41.7),
        ("base", 12, 768, 110.1),
        ("large", 24, 1024, 340),
    ],
)
def test_sizes_are_the_published_ones(size: str, depth: int, width: int, millions: float) -> None:
    count = parameters("bert", Shapes("classification", PUBLISHED, 2), size=size) - (2 * width + 2)
    config = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": width // 64}
    assert count == counted(transformers.BertModel, **config, intermediate_size=4 * width)
    assert abs(count / 1e6 - millions) < 0.02 * millions


def test_states_and_pooler_are_those_of_transformers_with_padding_in_the_batch() -> None:
    shapes = shapes_of("tokens", "classification")
    reference = theirs(transformers.BertForSequenceClassification, num_labels=3)
    model = make("bert", shapes, **KEYS).eval()
    model.load_state_dict(public_text.bert(reference.state_dict()))
    tokens = batch(shapes, 9)[0]
    real = tokens != 0
    assert not real.all()
    with torch.no_grad():
        expected = reference.bert(tokens, attention_mask=real.long())
        torch.testing.assert_close(model.states(tokens)[real], expected.last_hidden_state[real], rtol=1e-5, atol=1e-5)
        logits = reference(tokens, attention_mask=real.long()).logits
        torch.testing.assert_close(model(tokens), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("published", ["BertForMaskedLM", "BertForPreTraining"])
def test_logits_of_hidden_tokens_are_those_of_transformers(published: str) -> None:
    shapes = shapes_of("tokens", "masked_language_modelling")
    reference = theirs(getattr(transformers, published))
    model = make("bert", shapes, **KEYS).eval()
    found = public_text.bert(reference.state_dict())
    model.load_state_dict({name: each for name, each in found.items() if not name.startswith("pooler")})
    tokens = batch(shapes, 5)[0]
    tokens[1, 8:] = 0
    real = tokens != 0
    with torch.no_grad():
        said = reference(tokens, attention_mask=real.long())
    expected = said.logits if published == "BertForMaskedLM" else said.prediction_logits
    torch.testing.assert_close(model(tokens)[real], expected[real], rtol=1e-5, atol=1e-5)


def test_names_of_old_files_are_read() -> None:
    named = public_text.bert(theirs(transformers.BertModel).state_dict())
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): each
        for name, each in theirs(transformers.BertModel).state_dict().items()
    }
    again = public_text.bert(old)
    assert named.keys() == again.keys()
    assert all(torch.equal(named[name], again[name]) for name in named)


def test_a_text_says_the_same_without_its_padding_and_padding_alone_is_a_number() -> None:
    shapes = shapes_of("tokens", "regression")
    model = make("bert", shapes).eval()
    tokens = batch(shapes, 6)[0]
    tokens[5] = 0
    said = model(tokens)
    assert torch.isfinite(said).all()
    for row in range(5):
        length = int((tokens[row] != 0).sum())
        torch.testing.assert_close(said[row : row + 1], model(tokens[row : row + 1, :length]))


def test_the_last_layer_of_hidden_tokens_is_the_embedding() -> None:
    model = make("bert", shapes_of("tokens", "masked_language_modelling"))
    assert not any("decoder" in name or name.startswith("head") for name, _ in model.named_parameters())
    tokens = torch.ones((1, 12), dtype=torch.int64)
    before = model.eval()(tokens)[0, 0]
    with torch.no_grad():
        model.tokens.weight[7] += torch.randn(16)  # a token that is not in the text
    changed = ~torch.isclose(model(tokens)[0, 0], before)
    assert changed.nonzero().flatten().tolist() == [7]


def test_language_modelling_is_for_gpt() -> None:
    with pytest.raises(UserError, match=r"sees the whole text.* Use model gpt"):
        make("bert", shapes_of("tokens", "language_modelling"))


def test_matrices_start_as_published() -> None:
    model = make("bert", shapes_of("tokens", "classification"), size="tiny", width="auto", heads="auto")
    for name, weight in model.state_dict().items():
        if weight.dim() == 2 and weight.numel() > 10_000:
            # A normal distribution of deviation 1 that is cut at two has deviation 0.88.
            assert abs(float(weight.std()) / 0.02 - 0.88) < 0.02, name
            assert float(weight.abs().max()) <= 0.04, name
        elif name.endswith("bias"):
            assert not weight.any(), name
