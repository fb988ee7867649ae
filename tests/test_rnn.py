"""Recurrent networks: against torch.nn with packed sequences, and what padding and direction must not change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_example import batch, make, shapes_of
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from nnopt_ray.data.types import Input, Shapes
from nnopt_ray.errors import UserError

CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
POOLINGS = ("last", "mean", "max", "attention")


def reference(model: Any, cell: str, inputs: int, layers: int, bidirectional: bool) -> nn.RNNBase:
    """torch's own stack of layers with the weights of a model."""
    width = model.recurrent.forwards[0].hidden_size
    whole: nn.RNNBase = CELLS[cell](inputs, width, layers, batch_first=True, bidirectional=bidirectional)
    for layer in range(layers):
        for ends, part in (("", model.recurrent.forwards), ("_reverse", model.recurrent.backwards)):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if part is not None else ():
                getattr(whole, f"{name}_l{layer}{ends}").data.copy_(getattr(part[layer], f"{name}_l0"))
    return whole


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, False), (1, True), (3, True)])
def test_states_and_gradients_are_those_of_torch_with_packed_sequences(
    cell: str, layers: int, bidirectional: bool
) -> None:
    shapes = shapes_of("sequence_lengths", "classification")
    model = make("rnn", shapes, cell=cell, layers=layers, bidirectional=bidirectional, width=6)
    whole = reference(model, cell, 3, layers, bidirectional)
    x, lengths = batch(shapes, 7)
    packed, last = whole(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    expected, _ = pad_packed_sequence(packed, batch_first=True, total_length=10)
    real = (torch.arange(10) < lengths[:, None])[:, :, None]
    states = model.recurrent(x, lengths)
    torch.testing.assert_close(states * real, expected)
    final = last[0] if cell == "lstm" else last
    directions = 1 + bidirectional
    pooled = model.pool(states, lengths)
    torch.testing.assert_close(pooled, torch.cat([*final[-directions:]], dim=1))
    pooled.square().sum().backward()
    final[-directions:].square().sum().backward()
    torch.testing.assert_close(model.recurrent.forwards[0].weight_hh_l0.grad, whole.weight_hh_l0.grad)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", ["sequence_lengths", "tokens"])
def test_a_row_says_the_same_without_its_padding(kind: str, bidirectional: bool, pooling: str) -> None:
    shapes = shapes_of(kind, "classification")
    model = make("rnn", shapes, pooling=pooling, bidirectional=bidirectional, layers=2).eval()
    inputs = batch(shapes, 9)
    lengths = inputs[1] if kind == "sequence_lengths" else (inputs[0] != 0).sum(1)
    assert len(set(lengths.tolist())) > 3
    said = model(*inputs)
    for row, length in enumerate(lengths.tolist()):
        alone = model(inputs[0][row : row + 1, :length])
        torch.testing.assert_close(said[row : row + 1], alone)
    if kind == "sequence_lengths":
        behind = torch.arange(10) >= lengths[:, None]
        other = torch.where(behind[:, :, None], torch.tensor(7.0), inputs[0])
        assert torch.equal(model(other, lengths), said)


def test_pooling_is_what_its_formula_says() -> None:
    shapes = shapes_of("sequence_lengths", "classification")
    x, lengths = batch(shapes, 5)
    for pooling in ("mean", "max", "attention"):
        pool = make("rnn", shapes, pooling=pooling, width=3).pool
        expected = []
        for row, length in zip(x, lengths, strict=True):
            real = row[:length]
            if pooling == "attention":  # Yang et al. 2016, equations 5 to 7
                scores = torch.tanh(real @ pool.hidden.weight.T + pool.hidden.bias) @ pool.score.weight[0]
                expected.append((scores.exp() / scores.exp().sum()) @ real)
            else:
                expected.append(real.mean(0) if pooling == "mean" else real.max(0).values)
        torch.testing.assert_close(pool(x, lengths), torch.stack(expected))


def test_an_image_is_read_row_by_row() -> None:
    one = make("rnn", shapes_of("image", "classification"), seed=1)
    two = make("rnn", Shapes("classification", (Input("sequence", (8, 24)),), 3), seed=2)
    two.load_state_dict(one.state_dict())
    image = batch(shapes_of("image", "classification"), 3)[0]
    rows = torch.stack([torch.cat([image[:, 0, y], image[:, 1, y], image[:, 2, y]], dim=1) for y in range(8)], dim=1)
    torch.testing.assert_close(one(image), two(rows))


@pytest.mark.parametrize("cell", CELLS)
def test_each_gate_starts_as_said(cell: str) -> None:
    layer = make("rnn", shapes_of("sequence", "classification"), cell=cell, width=8).recurrent.forwards[0]
    for gate in layer.weight_hh_l0.split(8):
        torch.testing.assert_close(gate @ gate.T, torch.eye(8), atol=1e-5, rtol=0)
    # Uniform between +-sqrt(6 / (3 + 8)).
    assert 0.6 < float(layer.weight_ih_l0.detach().abs().max()) <= (6 / 11) ** 0.5
    biases = layer.bias_ih_l0 + layer.bias_hh_l0
    # torch.nn.LSTM: input, forget, cell and output gate, in this order.
    assert biases.tolist() == ([0.0] * 8 + [1.0] * 8 + [0.0] * 16 if cell == "lstm" else [0.0] * len(biases))


def test_language_modelling_looks_at_nothing_that_comes_later() -> None:
    shapes = shapes_of("tokens", "language_modelling")
    model = make("rnn", shapes, layers=2).eval()
    text = batch(shapes, 4)[0]
    other = text.clone()
    other[:, 7:] = 20 - other[:, 7:]
    one, two = model(text), model(other)
    assert torch.equal(one[:, :7], two[:, :7])
    assert not torch.isclose(one[:, 7:], two[:, 7:]).all()


@pytest.mark.parametrize(
    ("shapes", "keys", "words"),
    [
        (shapes_of("tokens", "language_modelling"), {"bidirectional": True}, "would see the next token"),
        (shapes_of("tokens", "masked_language_modelling"), {}, "Use model bert"),
        (Shapes("language_modelling", (Input("sequence", (10, 3)),), 5), {}, "on text alone"),
        (Shapes("regression", (Input("table", (5,)),), 1), {}, "this data has table input. Use model mlp"),
    ],
)
def test_refusals(shapes: Shapes, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make("rnn", shapes, **keys)


def test_a_series_is_learned_that_depends_on_its_first_step() -> None:
    """Delayed recall: the class is the sign of the first of 20 steps, all others being noise."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((256, 20, 1), generator=generator)
    target = (x[:, 0, 0] > 0).long()
    model = make("rnn", Shapes("classification", (Input("sequence", (20, 1)),), 2), cell="lstm", width=16)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()
    fresh = torch.randn((256, 20, 1), generator=generator)
    right: Tensor = model(fresh).argmax(1) == (fresh[:, 0, 0] > 0)
    assert float(right.float().mean()) > 0.85
