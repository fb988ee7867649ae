"""Compiled steps: the same training to rounding, under the same names; or uncompiled, and said."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from train_example import ACCURACY, MACHINE, dataset, page, part

from nnopt_ray.recipe import Mix
from nnopt_ray.train.lanes import CannotFuse, Shape
from nnopt_ray.train.loop import Trainer

MISSING = "InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')\n\nSet"


def trained(machine: Any = MACHINE, **keys: Any) -> Trainer:
    trainer = Trainer(page(epochs=3, **keys), dataset(), machine, ACCURACY)
    while not trainer.done:
        trainer.run_epoch()
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys", [{}, {"mix": Mix(type="mixup"), "accumulate": 2}, {"precision": "float16"}], ids=["plain", "mixed", "half"]
)
def test_compiled_steps_are_the_training_itself(keys: dict[str, Any]) -> None:
    """With dropout, batch norm and a smaller last batch."""
    machine = dataclasses.replace(MACHINE, precision=keys.pop("precision", "float32"))
    compiled, plain = trained(machine, compile=True, **keys), trained(machine, **keys)
    assert compiled.compiled is not None
    assert compiled.compiled.failed == ""
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())
    assert compiled.state().tensors.keys() == plain.state().tensors.keys()
    most = 1e-4 if machine.precision == "float32" else 1e-2
    for one, two in zip(compiled.history, plain.history, strict=True):
        assert one.events == two.events
        for name, value in two.metrics.items():
            assert one.metrics[name] == pytest.approx(value, rel=most), name
    resumed = Trainer(page(epochs=3, compile=True, **keys), dataset(), machine, ACCURACY)
    first = Trainer(page(epochs=3, compile=True, **keys), dataset(), machine, ACCURACY)
    first.run_epoch()
    resumed.load_state(first.state())
    while not resumed.done:
        resumed.run_epoch()
    assert torch.equal(resumed.weights.flat, compiled.weights.flat)


@pytest.mark.slow
def test_a_model_that_torch_cannot_compile_as_a_whole_trains_uncompiled() -> None:
    drawing = {"model": part("train_example:Drawing")}
    compiled, plain = trained(compile=True, **drawing), trained(**drawing)
    assert compiled.history[0].events[0].startswith("not compiled: torch.compile cannot do it: ")
    assert torch.equal(compiled.weights.flat, plain.weights.flat)


def test_without_a_compiler_the_training_is_the_uncompiled_one_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(function: Any, **how: Any) -> Any:
        assert how == {"fullgraph": True, "dynamic": False, "options": {"fallback_random": True}}

        def called(*batch: Any) -> Any:
            function(*batch)
            raise RuntimeError(MISSING)

        return called

    monkeypatch.setattr(torch, "compile", compile)
    compiled = trained(compile=True)
    plain = trained()
    assert [e.events for e in compiled.history] == [
        ("not compiled: torch finds no C++ compiler here: install one, such as g++",), (), (),
    ]  # fmt: skip
    assert torch.equal(compiled.weights.flat, plain.weights.flat)
    assert compiled.weights.rest["norm.num_batches_tracked"] == plain.weights.rest["norm.num_batches_tracked"]


def test_each_training_compiles_a_function_of_its_own_for_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile gives a function up after eight programs, and a search trains many networks in one process."""
    seen: list[Any] = []
    sizes: set[int] = set()

    def compile(function: Any, **_: Any) -> Any:
        seen.append(function)

        def called(*batch: Any) -> Any:
            sizes.add(len(batch[1]))
            return function(*batch)

        return called

    monkeypatch.setattr(torch, "compile", compile)
    one, two, plain = trained(compile=True), trained(compile=True), trained()
    assert seen[0].__func__.__code__ is not seen[1].__func__.__code__
    assert sizes == {32, 22} == set(one.sizes)
    assert torch.equal(one.weights.flat, plain.weights.flat)
    assert torch.equal(two.weights.flat, plain.weights.flat)


def test_compiled_steps_are_no_lanes() -> None:
    with pytest.raises(CannotFuse, match="each trial's steps are compiled"):
        Shape(Trainer(page(compile=True), dataset(), MACHINE, ACCURACY))
