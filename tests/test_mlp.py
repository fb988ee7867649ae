"""The multilayer perceptron against its layers written out, and its documented rules."""

from __future__ import annotations

import torch
from model_example import TABLE, batch, make, shapes_of

from nnopt_ray.data.types import Input, Shapes
from nnopt_ray.models.mlp import embedding_size


def test_mlp_equals_the_layers_written_out() -> None:
    shapes = Shapes("classification", TABLE, 3)
    model = make("mlp", shapes, widths=(6, 4), activation="tanh")
    x = batch(shapes, 9)[0]
    w = [p.detach().double() for p in model.parameters()]
    by_hand = torch.tanh(torch.tanh(x.double() @ w[0].T + w[1]) @ w[2].T + w[3]) @ w[4].T + w[5]
    torch.testing.assert_close(model(x).double(), by_hand, rtol=1e-5, atol=1e-6)


def test_mlp_without_hidden_layers_is_linear() -> None:
    model = make("mlp", Shapes("regression", TABLE, 1), widths=())
    assert sum(p.numel() for p in model.parameters()) == 6


def test_mlp_residual_adds_the_input() -> None:
    shapes = Shapes("regression", (Input("table", (4,)),), 1)
    plain, residual = make("mlp", shapes, widths=(4,), seed=3), make("mlp", shapes, widths=(4,), residual=True, seed=3)
    residual.load_state_dict(plain.state_dict())
    x = batch(shapes, 6)[0]
    torch.testing.assert_close(residual(x) - plain(x), x @ plain.head.weight.T)


def test_mlp_embeds_by_the_documented_rule() -> None:
    # fastai's emb_sz_rule(2), (10), (1_000_000).
    assert [embedding_size(n) for n in (2, 10, 1_000_000)] == [2, 6, 600]
    auto, fixed = (
        make("mlp", shapes_of("mixed", "regression")),
        make("mlp", shapes_of("mixed", "regression"), embedding_dim=5),
    )
    assert [tuple(e.weight.shape) for e in auto.embeddings] == [(3, 3), (7, 5)]
    assert [tuple(e.weight.shape) for e in fixed.embeddings] == [(3, 5), (7, 5)]
