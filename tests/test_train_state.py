"""A state comes back as it was, and a file that is not whole is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from train_example import dataset, page

from nnopt_ray import tables
from nnopt_ray.errors import RunFailed, RunFolderError, UserError
from nnopt_ray.train import state
from nnopt_ray.train.state import State
from nnopt_ray.train.weights import FlatWeights, aliases

TENSORS = {
    "weights": torch.randn(7),
    "step": torch.tensor(3.0),
    "counts": torch.tensor(5),
    "empty": torch.zeros(0, 3),
    "half": torch.randn(3, 2).bfloat16(),
    "odd": torch.tensor([math.nan, math.inf, -math.inf, -0.0]),
    "strided": torch.randn(4, 6)[::2, ::3],
    "stride 0": torch.zeros(1, dtype=torch.int64).as_strided((1,), (0,)),
    "flags": torch.tensor([True, False]),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).tolist()


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    state.save(State(TENSORS, {"epoch": 3}), tmp_path / "a.safetensors")
    found = state.load(tmp_path / "a.safetensors")
    assert found.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert found.tensors[name].shape == tensor.shape
        assert bits(found.tensors[name]) == bits(tensor), name
    with safetensors.safe_open(tmp_path / "a.safetensors", "np") as file:  # any reader opens it
        assert set(file.keys()) == set(TENSORS)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scalars=st.dictionaries(st.text(), JSON, max_size=4))
def test_scalars_come_back_as_they_were(scalars: dict[str, Any], tmp_path: Path) -> None:
    state.save(State({"a": torch.zeros(1)}, scalars), tmp_path / "a")
    assert repr(state.load(tmp_path / "a").scalars) == repr(scalars)


def test_any_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state.save(State({"a": torch.randn(20), "b": torch.randn(3)}, {"epoch": 3}), path)
    whole, expected = path.read_bytes(), state.load(path)
    unnoticed = []
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            unnoticed.append(state.load(path))
        except RunFolderError:
            continue
    # A bit without meaning may pass: the JSON of the header can say the same in another way.
    assert len(unnoticed) < len(whole) / 100
    for found in unnoticed:
        assert found.scalars == expected.scalars
        assert all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.tensors.items())


@pytest.mark.parametrize("length", [0, 4, 8, 100, -1])
def test_a_file_cut_short_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state.save(State({"a": torch.randn(20)}), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(RunFolderError, match="is damaged"):
        state.load(path)


def test_what_is_no_checkpoint_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is missing"):
        state.load(tmp_path / "none")
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(RunFolderError, match="is no checkpoint"):
        state.load(tmp_path / "foreign")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunFolderError, match="is damaged"):
        state.load(tmp_path / "folder")


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailed, match="cannot write"):
        state.save(State({"a": torch.zeros(1)}), tmp_path / "file" / "a.safetensors")


class Tied(nn.Module):
    """A weight with two names, a buffer that is not saved, and one that is."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.two = nn.Linear(3, 3)
        self.two.weight = self.one.weight
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("passing", torch.ones(2), persistent=False)


def test_weights_are_named_as_in_state_dict(tmp_path: Path) -> None:
    model = Tied()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flat = FlatWeights(model)
    assert flat.flat.numel() == sum(p.numel() for p in model.parameters())
    assert list(aliases(model)) == list(before)
    named = flat.named()
    assert named.keys() == before.keys()
    assert all(torch.equal(named[name], value) for name, value in before.items())
    state.save_weights(model, tmp_path / "best.safetensors")
    other = Tied()
    state.load_weights(other, tmp_path / "best.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    safetensors.torch.save_file({n: t.clone() for n, t in before.items()}, tmp_path / "foreign.safetensors")
    state.load_weights(Tied(), tmp_path / "foreign.safetensors")


def test_weights_of_another_model_are_refused_by_their_first_difference(tmp_path: Path) -> None:
    shapes = dataset().shapes

    def made(**keys: Any) -> nn.Module:
        found: nn.Module = tables.build(
            "model", page(model=page().model).model.__class__("train_example:Net", keys), shapes
        )
        return found

    path = tmp_path / "w"
    state.save_weights(made(width=8), path)
    with pytest.raises(UserError, match=r"'frozen' has shape \[8\] in .*w and \[16\] in the page's model"):
        state.load_weights(made(), path)
    with pytest.raises(UserError, match=r"w has no weight 'hidden.bias', which the page's model has"):
        state.load_weights(made(width=8, norm=False), path)
    state.save_weights(made(width=8, norm=False), path)
    with pytest.raises(UserError, match=r"has no weight 'norm.weight'"):
        state.load_weights(made(width=8), path)
    state.save_weights(nn.Linear(2, 2), path)
    with pytest.raises(UserError, match=r"has a weight 'bias', which the page's model has not"):
        state.load_weights(nn.Linear(2, 2, bias=False), path)
