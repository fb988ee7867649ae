"""BERT against transformers' own, and what padding must not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from model_example import batch, make, parameters, shapes_of
from torch import nn

from nnopt_ray.data.types import Input, Shapes
from nnopt_ray.errors import UserError
from nnopt_ray.models import public_weights

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


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


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


def test_states_and_pooler_are_those_of_transformers_with_padding_in_the_batch(tmp_path: Path) -> None:
    shapes = shapes_of("tokens", "classification")
    reference = theirs(transformers.BertForSequenceClassification, num_labels=3)
    model = make("bert", shapes, **KEYS).eval()
    reference.save_pretrained(tmp_path)
    said = public_weights.put(model, str(tmp_path))
    assert "transformers' BERT" in said
    assert ";" not in said  # nothing was left out
    tokens = batch(shapes, 9)[0]
    real = tokens != 0
    assert not real.all()
    with torch.no_grad():
        expected = reference.bert(tokens, attention_mask=real.long())
        torch.testing.assert_close(model.states(tokens)[real], expected.last_hidden_state[real], rtol=1e-5, atol=1e-5)
        logits = reference(tokens, attention_mask=real.long()).logits
        torch.testing.assert_close(model(tokens), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("published", ["BertForMaskedLM", "BertForPreTraining"])
def test_logits_of_hidden_tokens_are_those_of_transformers(published: str, tmp_path: Path) -> None:
    shapes = shapes_of("tokens", "masked_language_modelling")
    reference = theirs(getattr(transformers, published))
    model = make("bert", shapes, **KEYS).eval()
    torch.save(reference.state_dict(), tmp_path / "weights.bin")
    said = public_weights.put(model, str(tmp_path / "weights.bin"))
    assert ("pooler is not in this model" in said) == (published == "BertForPreTraining")
    tokens = batch(shapes, 5)[0]
    tokens[1, 8:] = 0
    real = tokens != 0
    with torch.no_grad():
        told = reference(tokens, attention_mask=real.long())
    expected = told.logits if published == "BertForMaskedLM" else told.prediction_logits
    torch.testing.assert_close(model(tokens)[real], expected[real], rtol=1e-5, atol=1e-5)


def test_a_file_without_a_head_names_what_keeps_its_first_weights_and_names_of_old_files_are_read(
    tmp_path: Path,
) -> None:
    reference = theirs(transformers.BertForMaskedLM)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): each
        for name, each in reference.state_dict().items()
    }
    torch.save(old, tmp_path / "old.bin")
    shapes = shapes_of("tokens", "classification")
    model = make("bert", shapes, **{**KEYS, "positions": 20}).eval()
    head = model.head.weight.clone()
    said = public_weights.put(model, str(tmp_path / "old.bin"))
    for layer in ("head is not in the file", "pooler is not in the file", "masked.transform is not in this model"):
        assert layer in said
    assert torch.equal(model.head.weight, head)
    tokens = batch(shapes, 4)[0]
    real = tokens != 0
    with torch.no_grad():
        expected = reference.bert(tokens, attention_mask=real.long()).last_hidden_state
        torch.testing.assert_close(model.states(tokens)[real], expected[real], rtol=1e-5, atol=1e-5)


def test_what_was_learned_from_hidden_tokens_starts_a_classification(tmp_path: Path) -> None:
    hidden = make("bert", shapes_of("tokens", "masked_language_modelling"), seed=1).eval()
    model = make("bert", shapes_of("tokens", "classification"), seed=2).eval()
    torch.save(hidden.state_dict(), tmp_path / "run.pt")
    assert "a network of nnopt" in public_weights.put(model, str(tmp_path / "run.pt"))
    tokens = batch(shapes_of("tokens", "classification"), 4)[0]
    assert torch.equal(model.states(tokens), hidden.states(tokens))


def test_files_of_another_network_are_refused(tmp_path: Path) -> None:
    reference = theirs(transformers.BertForMaskedLM)
    shapes = shapes_of("tokens", "masked_language_modelling")
    untied = reference.state_dict() | {"cls.predictions.decoder.weight": torch.zeros(20, 16)}
    for name, named, keys, words in (
        ("untied", untied, {}, "another matrix than the embedding"),
        ("deep", reference.state_dict(), {"depth": 2}, "which the model has not"),
        ("wide", reference.state_dict(), {"width": 8}, r"has shape \[20, 16\]"),
        ("long", reference.state_dict(), {"positions": 40}, r"has shape \[30, 16\]"),
        (
            "other",
            reference.state_dict() | {"bert.adapter.weight": torch.zeros(1)},
            {},
            "'bert.adapter.weight' is none",
        ),
    ):
        torch.save(named, tmp_path / f"{name}.pt")
        with pytest.raises(UserError, match=words):
            public_weights.put(make("bert", shapes, **{**KEYS, **keys}), str(tmp_path / f"{name}.pt"))


@pytest.mark.parametrize("model_type", ["bert", "gpt"])
def test_a_text_says_the_same_without_its_padding_and_padding_alone_is_a_number(model_type: str) -> None:
    shapes = shapes_of("tokens", "regression")
    model = make(model_type, shapes).eval()
    tokens = batch(shapes, 6)[0]
    tokens[5] = 0
    said = model(tokens)
    assert torch.isfinite(said).all()
    for row in range(5):
        length = int((tokens[row] != 0).sum())
        torch.testing.assert_close(said[row : row + 1], model(tokens[row : row + 1, :length]))


def test_the_last_layer_of_hidden_tokens_is_the_embedding() -> None:
    model = make("bert", shapes_of("tokens", "masked_language_modelling"))
    assert sum(p.numel() == 20 * 16 for p in model.parameters()) == 1
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
