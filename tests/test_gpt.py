"""GPT-2 against transformers' own; what comes later must change nothing; drawing from it."""

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

SMALL = {"vocab_size": 20, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_inner": 40, "n_positions": 30}
KEYS = {"width": 16, "depth": 3, "heads": 4, "feed_forward": 40, "positions": 30}
PUBLISHED = Shapes("language_modelling", (Input("tokens", (128,), (50_257,)),), 50_257)


def theirs(model: type[nn.Module], **more: Any) -> Any:
    torch.manual_seed(3)
    made: Any = model(transformers.GPT2Config(**SMALL, bos_token_id=0, eos_token_id=0, **more)).eval()
    for parameter in made.parameters():  # biases and norms too, which start as 0 and 1
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return made


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def filled(model: nn.Module, reference: Any, place: Path) -> str:
    reference.save_pretrained(place)
    return public_weights.put(model, str(place))


@pytest.mark.parametrize(
    ("size", "depth", "width", "heads", "weights"),
    # small: gpt2 of openai; all: transformers' own of these sizes.
    [
        ("small", 12, 768, 12, 124_439_808),
        ("medium", 24, 1024, 16, 354_823_168),
        ("large", 36, 1280, 20, 774_030_080),
        ("xl", 48, 1600, 25, 1_557_611_200),
    ],
)
def test_sizes_have_the_published_numbers_of_weights(
    size: str, depth: int, width: int, heads: int, weights: int
) -> None:
    config = transformers.GPT2Config(n_layer=depth, n_embd=width, n_head=heads)
    with torch.device("meta"):
        expected = sum(p.numel() for p in transformers.GPT2LMHeadModel(config).parameters())
    assert parameters("gpt", PUBLISHED, size=size) == expected == weights


def test_mini_has_the_weights_of_nanogpt() -> None:
    # nanoGPT, config/train_shakespeare_char.py: "number of parameters: 10.65M", without its 256 positions of 384
    # and without biases, of which a layer has 9 * 384 in linear ones and 2 * 384 in norms, and the last norm 384.
    shapes = Shapes("language_modelling", (Input("tokens", (256,), (65,)),), 65)
    without = parameters("gpt", shapes, size="mini") - 256 * 384 - 6 * 11 * 384 - 384
    assert round(without / 1e6, 2) == 10.65


def test_logits_are_those_of_transformers(tmp_path: Path) -> None:
    shapes = shapes_of("tokens", "language_modelling")
    reference = theirs(transformers.GPT2LMHeadModel)
    model = make("gpt", shapes, **KEYS).eval()
    assert ";" not in filled(model, reference, tmp_path)  # nothing was left out
    tokens = batch(shapes, 5)[0]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), reference(tokens).logits, rtol=1e-5, atol=1e-5)
        expected = reference.transformer(tokens).last_hidden_state
    torch.testing.assert_close(model.states(tokens), expected, rtol=1e-5, atol=1e-5)


def test_classes_are_those_of_transformers_with_padding_in_the_batch(tmp_path: Path) -> None:
    shapes = shapes_of("tokens", "classification")
    reference = theirs(transformers.GPT2ForSequenceClassification, num_labels=3, pad_token_id=0)
    model = make("gpt", shapes, **KEYS).eval()
    assert ";" not in filled(model, reference, tmp_path)  # nothing was left out
    tokens = batch(shapes, 7)[0]
    assert (tokens == 0).any()
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), reference(tokens).logits, rtol=1e-5, atol=1e-5)


def test_a_file_of_text_alone_starts_a_classification_of_shorter_texts(tmp_path: Path) -> None:
    reference = theirs(transformers.GPT2LMHeadModel)
    shapes = shapes_of("tokens", "classification")
    model = make("gpt", shapes, **{**KEYS, "positions": 12}).eval()
    named = reference.transformer.state_dict()  # without the prefix, with the causal masks that old files have
    named |= {"h.0.attn.bias": torch.ones(1, 1, 30, 30).tril(), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    torch.save(named, tmp_path / "gpt2.bin")
    assert "head is not in the file" in public_weights.put(model, str(tmp_path / "gpt2.bin"))
    tokens = batch(shapes, 4)[0]
    with torch.no_grad():
        expected = reference.transformer(tokens).last_hidden_state
        torch.testing.assert_close(model.states(tokens), expected, rtol=1e-5, atol=1e-5)


def test_special_tokens_that_a_vocabulary_lacks_are_behind_it_and_start_anew(tmp_path: Path) -> None:
    """As of GPT-2's own, which has neither padding nor a mask."""
    reference = theirs(transformers.GPT2LMHeadModel)
    model = make("gpt", Shapes("language_modelling", (Input("tokens", (12,), (24,), padding=20),), 24), **KEYS).eval()
    first = model.tokens.weight[20:].clone()
    assert "the last 4 tokens, which the file does not have, start anew" in filled(model, reference, tmp_path)
    assert torch.equal(model.tokens.weight[20:], first)
    tokens = batch(shapes_of("tokens", "language_modelling"), 5)[0]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[..., :20], reference(tokens).logits, rtol=1e-5, atol=1e-5)
    many = Shapes("language_modelling", (Input("tokens", (12,), (26,)),), 26)
    with pytest.raises(UserError, match=r"'tokens.weight' has shape \[20, 16\] .* and \[26, 16\] in the model"):
        public_weights.put(make("gpt", many, **KEYS), str(tmp_path))


def test_nothing_that_comes_later_is_looked_at() -> None:
    shapes = shapes_of("tokens", "language_modelling")
    model = make("gpt", shapes).eval()
    text = batch(shapes, 4)[0]
    other = text.clone()
    other[:, 7:] = 20 - other[:, 7:]
    one, two = model(text), model(other)
    torch.testing.assert_close(one[:, :7], two[:, :7])
    assert not torch.isclose(one[:, 7:], two[:, 7:]).all()


def test_matrices_start_as_published() -> None:
    model = make("gpt", PUBLISHED_TINY, size="tiny", width="auto", heads="auto", depth="auto")
    for name, weight in model.state_dict().items():
        if weight.dim() == 2:
            ends = "attention.out" in name or "narrow" in name  # 4 layers of 2 branches
            assert abs(float(weight.std()) / (0.02 / 8**0.5 if ends else 0.02) - 1) < 0.05, name
        elif "bias" in name:
            assert not weight.any(), name


PUBLISHED_TINY = Shapes("language_modelling", (Input("tokens", (64,), (500,)),), 500)


class TestSample:
    def test_the_likeliest_are_those_of_transformers(self, tmp_path: Path) -> None:
        reference = theirs(transformers.GPT2LMHeadModel)
        model = make("gpt", shapes_of("tokens", "language_modelling"), **KEYS)
        assert ";" not in filled(model, reference, tmp_path)  # nothing was left out
        prompt = torch.tensor([[3, 5, 7], [2, 2, 19]])
        expected = prompt
        for _ in range(9):
            with torch.no_grad():
                likeliest = reference(expected).logits[:, -1].argmax(1)
            expected = torch.cat([expected, likeliest[:, None]], dim=1)
        assert torch.equal(model.sample(prompt, 9, temperature=0), expected)
        assert torch.equal(model.sample(prompt, 9, top_k=1), model.sample(prompt, 9, temperature=0))

    def test_it_draws_as_often_as_the_softmax_says(self) -> None:
        model = make("gpt", shapes_of("tokens", "language_modelling"), dropout=0.5)
        with torch.no_grad():
            model.tokens.weight.mul_(10)
        prompt = torch.full((20_000, 2), 4)
        for temperature, top_k in ((1.0, None), (0.5, None), (2.0, 3)):
            drawn = model.sample(
                prompt, 1, temperature=temperature, top_k=top_k, generator=torch.Generator().manual_seed(1)
            )
            with torch.no_grad():
                logits = model.eval()(prompt[:1])[0, -1] / temperature
            model.train()
            expected = torch.softmax(logits, dim=0)
            if top_k:
                expected = torch.where(logits >= logits.sort().values[-top_k], expected, 0.0)
                expected /= expected.sum()
            share = torch.bincount(drawn[:, -1], minlength=20) / len(drawn)
            assert float((share - expected).abs().max()) < 0.015
            assert 0.02 < float(expected.max()) < 0.999

    def test_the_generator_decides_and_the_model_is_left_as_it_was(self) -> None:
        model = make("gpt", shapes_of("tokens", "language_modelling"), dropout=0.5).train()
        prompt = torch.tensor([[1, 2]])
        one, two, other = (model.sample(prompt, 20, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
        assert torch.equal(one, two)
        assert not torch.equal(one, other)
        assert one.shape == (1, 22)  # longer than the 12 positions: the last 12 are looked at
        assert model.training
        assert all(weight.grad is None for weight in model.parameters())

    @pytest.mark.parametrize(
        ("task", "keys", "prompt"),
        [
            ("classification", {}, [[1]]),
            ("language_modelling", {}, [[]]),
            ("language_modelling", {"temperature": -1.0}, [[1]]),
            ("language_modelling", {"top_k": 0}, [[1]]),
        ],
    )
    def test_what_cannot_be_is_refused(self, task: Any, keys: dict[str, Any], prompt: list[list[int]]) -> None:
        model = make("gpt", shapes_of("tokens", task))
        with pytest.raises(ValueError, match="sample needs"):
            model.sample(torch.tensor(prompt, dtype=torch.int64), 3, **keys)


def test_hidden_tokens_are_for_bert() -> None:
    with pytest.raises(UserError, match=r"from left to right.* Use model bert"):
        make("gpt", shapes_of("tokens", "masked_language_modelling"))
