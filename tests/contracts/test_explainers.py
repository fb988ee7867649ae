"""Every explainer, on every kind of data that it is for: finite numbers of the right shape, the same for a seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from explain_example import dataset, subject

from nnopt_ray import tables
from nnopt_ray.evaluate import EXPLAINERS
from nnopt_ray.evaluate.explain import quiet
from nnopt_ray.evaluate.explainers import Attributions, Explainer, Importance
from nnopt_ray.evaluate.features import kind_of
from nnopt_ray.models.vit import ViT

# kind of data as it is explained → data sets of tests/explain_example.py
DATA = {
    "table": ("table", "numbers", "mixed"),
    "image": ("image",),
    "tokens": ("tokens",),
    "sequence": ("sequence", "lengths"),
}
KEYS: dict[str, list[dict[str, Any]]] = {"shap": [{}, {"method": "gradient"}]}
CASES = [
    pytest.param(name, keys, data, id=f"{name}-{'-'.join(map(str, keys.values())) or 'plain'}-{data}")
    for name in EXPLAINERS
    for keys in KEYS.get(name, [{}])
    for kind in tables.find("explainer", name).kinds
    for data in DATA[kind]
]


@pytest.mark.parametrize(("name", "keys", "data"), CASES)
def test_explains_what_it_says_it_is_for(name: str, keys: dict[str, Any], data: str) -> None:
    explainer: Explainer = tables.find("explainer", name)(**keys)
    torch.manual_seed(0)
    model = ViT(dataset(data).shapes, depth=2, width=16, heads=2) if name == "attention_rollout" else None
    asked = subject(data, model)
    refused = explainer.refusal(asked.shapes, asked.model)
    if refused:  # a kind that it is for, in a form that it is not for: of embedded categories there is no gradient
        assert data in ("mixed", "tokens")
        assert "embedded" in refused
        return
    state = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    with quiet():
        done, again = explainer.explain(asked), explainer.explain(asked)
    assert torch.equal(state[0], torch.random.get_rng_state()), "it draws from torch's own generator"
    assert state[1] == np.random.get_state()[1].tolist(), "it draws from numpy's own generator"
    if isinstance(done, Importance):
        assert isinstance(again, Importance)
        assert done.mean.shape == done.deviation.shape == (len(done.columns),)
        np.testing.assert_array_equal(done.mean, again.mean)
        return
    assert isinstance(again, Attributions)
    first = [example.row for example in asked.examples]
    assert done.rows[: len(first)].tolist() == first
    assert len(done.values) == len(done.rows)
    for row, one, other in zip(done.rows, done.values, again.values, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, other)
        assert one.shape == _shape(asked.dataset, done, int(row))
        assert done.signed or (one >= 0).all()
    if done.base is not None and done.output is not None:
        sums = np.array([each.sum() for each in done.values])
        if name == "shap":  # the others add up as finely as they are computed: tests/test_explain_values.py
            np.testing.assert_allclose(sums, done.output - done.base, rtol=1e-6, atol=1e-6)
    assert done.of
    assert done.told.endswith(".")


def _shape(data: Any, done: Attributions, row: int) -> tuple[int, ...]:
    kind = kind_of(data.shapes)
    if kind == "image":
        return tuple(data.shapes.inputs[0].shape[1:])
    if kind == "sequence":
        return tuple(data.shapes.inputs[0].shape)
    if kind == "tokens":
        return (len(done.names[done.rows.tolist().index(row)]),)
    return (len(done.names),)


@pytest.mark.parametrize("name", list(EXPLAINERS))
def test_it_refuses_what_it_is_not_for_in_half_a_sentence(name: str) -> None:
    explainer: Explainer = tables.find("explainer", name)()
    others = [data for kind, of in DATA.items() if kind not in explainer.kinds for data in of]
    for data in others:
        said = explainer.refusal(dataset(data).shapes, None)
        assert said.startswith("explains ")
        assert not said.endswith(".")
