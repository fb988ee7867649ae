"""Every model of the table, on every kind of input that it takes and for every task; all else it refuses.

What a model takes, and the keys that make it quick here, stand in tests/model_example.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_example import (
    EXAMPLES,
    INPUTS,
    TASKS,
    batch,
    data_of,
    expected_shape,
    loss_of,
    make,
    shapes_of,
    target_of,
)
from pack_example import alone, differences, together, trainer
from pydantic_core import PydanticUndefined
from safetensors.torch import load_file, save_file
from torch import nn
from train_example import page, part

from nnopt_ray import tables
from nnopt_ray.data.types import Input, Shapes, Task
from nnopt_ray.errors import UserError
from nnopt_ray.models import MODELS
from nnopt_ray.train import state
from nnopt_ray.train.fusible import CannotFuse

CASES = [
    pytest.param(name, kind, task, id=f"{name}-{kind}-{task}")
    for name, example in EXAMPLES.items()
    for kind, tasks in example.takes.items()
    for task in tasks
]
NOT_TAKEN = [
    pytest.param(name, kind, task, id=f"{name}-{kind}-{task}")
    for name, example in EXAMPLES.items()
    for kind in INPUTS
    for task in TASKS
    if not example.takes_more
    and task not in example.takes.get(kind, ())
    and (kind == "tokens" or task in ("classification", "regression"))
]
REFUSED = [
    pytest.param(name, *refused, id=f"{name}-{number}")
    for name, example in EXAMPLES.items()
    for number, refused in enumerate(example.refused)
]


def test_every_model_is_under_these_contracts() -> None:
    assert EXAMPLES.keys() == MODELS.keys()


pytestmark = pytest.mark.usefixtures("one_thread")


def fits_itself(model: nn.Module, shapes: Shapes, inputs: list[torch.Tensor], target: torch.Tensor) -> bool:
    fit = getattr(model, "fit_directly", None)
    return fit is not None and fit([x.numpy() for x in inputs], target.numpy(), shapes, 0)


def train(
    model: nn.Module, shapes: Shapes, steps: int, inputs: list[torch.Tensor], target: torch.Tensor, lr: float = 1e-2
) -> float:
    """Adam on one batch; the loss of the last step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    loss = torch.tensor(float("nan"))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(shapes, model(*inputs), target)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize(("name", "kind", "task"), CASES)
class TestModel:
    def test_returns_float32_of_the_shape_of_its_task(self, name: str, kind: str, task: Task) -> None:
        shapes = shapes_of(kind, task)
        for outputs in (shapes.outputs,) if shapes.is_language else (shapes.outputs, 2):
            shapes = Shapes(shapes.task, shapes.inputs, outputs)
            model = make(name, shapes)
            for rows in (1, 7):
                said = model.eval()(*batch(shapes, rows))
                assert said.shape == expected_shape(shapes, rows)
                assert said.dtype == torch.float32
                assert torch.isfinite(said).all()

    def test_gradient_reaches_every_weight(self, name: str, kind: str, task: Task) -> None:
        shapes = shapes_of(kind, task)
        model = make(name, shapes)
        inputs = batch(shapes, 32)
        target = target_of(shapes, inputs)
        if fits_itself(model, shapes, inputs, target):
            assert all(torch.isfinite(weight).all() for weight in model.parameters())
            return
        loss_of(shapes, model.train()(*inputs), target).backward()
        for weight_name, weight in model.named_parameters():
            assert weight.grad is not None, weight_name
            assert weight.grad.abs().max() > 0, weight_name

    def test_same_seed_same_weights(self, name: str, kind: str, task: Task) -> None:
        shapes = shapes_of(kind, task)
        one, two = make(name, shapes, seed=5), make(name, shapes, seed=5)
        assert one.state_dict().keys() == two.state_dict().keys()
        for key, value in one.state_dict().items():
            assert torch.equal(value, two.state_dict()[key]), key

    def test_saved_state_is_the_whole_state(self, name: str, kind: str, task: Task, tmp_path: Path) -> None:
        """A model rebuilt with other weights and given the saved state says and learns the same, bit for bit."""
        shapes = shapes_of(kind, task)
        inputs = batch(shapes, 16)
        target = target_of(shapes, inputs)
        model = make(name, shapes, seed=1)
        if not fits_itself(model, shapes, inputs, target):
            train(model, shapes, 3, inputs, target)
        saved = {key: value.clone() for key, value in model.state_dict().items()}  # tied weights are saved twice
        save_file(saved, tmp_path / "model.safetensors")
        again = make(name, shapes, seed=2)
        again.load_state_dict(load_file(tmp_path / "model.safetensors"))
        assert torch.equal(model.eval()(*inputs), again.eval()(*inputs))
        for each in (model, again):
            torch.manual_seed(3)
            train(each, shapes, 2, inputs, target)
        assert torch.equal(model.eval()(*inputs), again.eval()(*inputs))

    def test_evaluation_is_deterministic_and_by_row(self, name: str, kind: str, task: Task) -> None:
        shapes = shapes_of(kind, task)
        model = make(name, shapes, **{"dropout": 0.5} if "dropout" in tables.keys("model", name).model_fields else {})
        inputs = batch(shapes, 12)
        model.eval()
        assert torch.equal(model(*inputs), model(*inputs))
        # A row's outputs do not depend on the rows beside it; sums in another order differ in the last digits.
        alone = torch.cat([model(*(x[i : i + 1] for x in inputs)) for i in range(12)])
        torch.testing.assert_close(model(*inputs), alone, rtol=1e-4, atol=1e-5)

    def test_learns_eight_rows_by_heart(self, name: str, kind: str, task: Task) -> None:
        shapes, example = shapes_of(kind, task), EXAMPLES[name]
        inputs = batch(shapes, 8, seed=4)
        target = target_of(shapes, inputs)
        model = make(name, shapes, seed=4)
        before = float(loss_of(shapes, model.train()(*inputs), target).detach())
        if fits_itself(model, shapes, inputs, target):  # with a penalty: better than it began, not by heart
            assert float(loss_of(shapes, model(*inputs), target).detach()) < before
            return
        assert train(model, shapes, example.steps, inputs, target, example.lr) < 0.05 * before

    def test_a_training_that_is_resumed_ends_in_the_same_bits(
        self, name: str, kind: str, task: Task, tmp_path: Path
    ) -> None:
        data = data_of(shapes_of(kind, task))
        keys = tables.keys("model", name).model_fields
        asked = {**EXAMPLES[name].keys, **({"dropout": 0.3} if "dropout" in keys else {})}
        experiment = page(model=part(name, **asked), epochs=3)
        unbroken = alone(experiment, data)
        cut = alone(experiment, data, epochs=1)
        state.save(cut.state(), tmp_path / "state")
        torch.manual_seed(12345)  # nothing may hang on a generator that has been running
        resumed = trainer(experiment, data)
        resumed.load_state(state.load(tmp_path / "state"))
        while not resumed.done:
            resumed.run_epoch()
        assert differences(resumed, unbroken) == dict.fromkeys(differences(unbroken, unbroken), 0.0)

    def test_a_lane_is_the_training_alone_or_it_is_said_why_not(self, name: str, kind: str, task: Task) -> None:
        data, example = data_of(shapes_of(kind, task)), EXAMPLES[name]
        keys = tables.keys("model", name).model_fields
        experiments = [
            page(
                model=part(name, **{**example.keys, **({"dropout": rate} if "dropout" in keys else {})}),
                optimizer=part("adam", lr=0.001),
                epochs=2,
                seed=seed,
            )
            for seed, rate in enumerate((0.2, 0.4))
        ]
        if isinstance(example.lanes, str):
            with pytest.raises(CannotFuse, match=example.lanes) as refused:
                together(experiments, data, 2)
            assert "\n" not in str(refused.value)
            return
        for experiment, lane in zip(experiments, together(experiments, data, 2), strict=True):
            found = differences(alone(experiment, data), lane)
            assert max(value for key, value in found.items() if key.startswith("val")) <= example.lanes, found


def sentence(error: pytest.ExceptionInfo[UserError]) -> str:
    said = str(error.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


@pytest.mark.parametrize(("name", "kind", "task"), NOT_TAKEN)
def test_inputs_and_tasks_that_it_cannot_have_are_refused(name: str, kind: str, task: Task) -> None:
    with pytest.raises(UserError, match=f"model {name}") as refused:
        make(name, shapes_of(kind, task))
    sentence(refused)


@pytest.mark.parametrize(("name", "inputs", "keys", "words"), REFUSED)
def test_shapes_that_it_cannot_have_are_refused(
    name: str, inputs: tuple[Input, ...], keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words) as refused:
        make(name, Shapes("classification", inputs, 3), **keys)
    sentence(refused)


def value_of(annotation: Any, metadata: list[Any], small: int) -> st.SearchStrategy[Any]:
    """Values that a key's annotation allows; whole numbers up to `small` to keep the networks quick."""
    options = [a for a in get_args(annotation) if a is not type(None)]
    if annotation is bool:
        return st.booleans()
    if annotation is int or annotation is float:
        bounds = {k: getattr(m, k) for m in metadata for k in ("ge", "gt", "le", "lt") if hasattr(m, k)}
        if annotation is int:
            return st.integers(bounds.get("ge", 0), small)
        low, high = bounds.get("ge", bounds.get("gt", 0.0)), bounds.get("le", bounds.get("lt", 1.0))
        return st.floats(low, high, exclude_min="gt" in bounds, exclude_max="lt" in bounds, width=32)
    if getattr(annotation, "__origin__", None) is tuple:
        return st.lists(value_of(options[0], [], small), max_size=3).map(tuple)
    if hasattr(annotation, "__metadata__"):  # Annotated[...]
        inner = [m for given_ in annotation.__metadata__ for m in (getattr(given_, "metadata", None) or [given_])]
        return value_of(annotation.__origin__, inner, small)
    if all(isinstance(option, (str, int)) for option in options):  # Literal[...]
        return st.sampled_from(options)
    return st.one_of([value_of(option, metadata, small) for option in options])


@pytest.mark.parametrize("name", EXAMPLES)
def test_any_valid_keys_make_a_working_model_or_are_refused(name: str) -> None:
    """Keys may contradict each other (heads that do not divide a width); most do not."""
    fields, example = tables.keys("model", name).model_fields, EXAMPLES[name]
    kind, tasks = next(iter(example.takes.items()))
    shapes = shapes_of("mixed" if "mixed" in example.takes else kind, tasks[0])
    optional = {
        key: st.sampled_from(example.values[key])
        if key in example.values
        else value_of(field.annotation, field.metadata, 9)
        for key, field in fields.items()
    }
    worked: list[bool] = []
    told: list[str] = []

    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(chosen=st.fixed_dictionaries({}, optional=optional))
    def holds(chosen: dict[str, Any]) -> None:
        try:
            model = make(name, shapes, **chosen)
        except UserError as refused:
            worked.append(False)
            told.append(str(refused))
            return
        worked.append(True)
        inputs = batch(shapes, 4)
        said = model.train()(*inputs)
        assert said.shape == expected_shape(shapes, 4)
        assert torch.isfinite(said).all()
        loss_of(shapes, said, target_of(shapes, inputs)).backward()
        assert torch.equal(model.eval()(*inputs), model(*inputs))

    holds()
    assert sum(worked) > len(worked) / 2
    assert not any("\n" in sentence for sentence in told)


@pytest.mark.parametrize("name", MODELS)
def test_every_key_is_explained_and_has_a_default(name: str) -> None:
    keys = tables.keys("model", name)
    explained = (keys.__doc__ or "").partition("Keys:")[2]
    for key, field in keys.model_fields.items():
        assert f"\n    {key}: " in explained, key
        assert field.default is not PydanticUndefined, key
