"""Every model of the table, on every kind of input it takes, for classification and regression."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic_core import PydanticUndefined
from safetensors.torch import load_file, save_file
from torch import nn

from nnopt_ray import tables
from nnopt_ray.data.types import Input, Shapes
from nnopt_ray.errors import UserError
from nnopt_ray.models import MODELS
from nnopt_ray.models.mlp import embedding_size
from nnopt_ray.models.resnet import Block

TABLE = (Input("table", (5,)),)
MIXED = (Input("table", (4,)), Input("categories", (2,), (3, 7)))
CATEGORIES = (Input("categories", (2,), (3, 7)),)
IMAGE = (Input("image", (3, 8, 8)),)
INPUTS = {"table": TABLE, "mixed": MIXED, "categories": CATEGORIES, "image": IMAGE}

# Models that need an image, and keys that make the large ones quick here.
IMAGES_ONLY = {"resnet"}
QUICK: dict[str, dict[str, Any]] = {"resnet": {"depth": 8, "width": 8}}

KINDS = [
    pytest.param(name, kind, task, id=f"{name}-{kind}-{task}")
    for name in MODELS
    for kind in (("image",) if name in IMAGES_ONLY else INPUTS)
    for task in ("classification", "regression")
]


def shapes_of(kind: str, task: str) -> Shapes:
    return (
        Shapes("classification", INPUTS[kind], 3) if task == "classification" else Shapes("regression", INPUTS[kind], 1)
    )


def make(name: str, shapes: Shapes, seed: int = 0, **keys: Any) -> nn.Module:
    checked = tables.keys("model", name)(**{**QUICK.get(name, {}), **keys})
    torch.manual_seed(seed)
    model: nn.Module = tables.find("model", name)(shapes, **dict(checked))
    return model


def batch(shapes: Shapes, rows: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for one in shapes.inputs:
        if one.kind == "categories":
            # The first 21 rows all differ; a model can tell them apart.
            made.append(torch.stack([torch.arange(rows) % n for n in one.cardinalities], dim=1))
        else:
            made.append(torch.randn((rows, *one.shape), generator=generator))
    return made


def target_of(shapes: Shapes, rows: int) -> torch.Tensor:
    if shapes.task == "classification":
        return torch.arange(rows) % shapes.outputs
    return torch.randn((rows, shapes.outputs), generator=torch.Generator().manual_seed(9))


def loss_of(shapes: Shapes, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    loss = nn.functional.cross_entropy if shapes.task == "classification" else nn.functional.mse_loss
    return loss(outputs, target)


def fits_itself(model: nn.Module, shapes: Shapes, inputs: list[torch.Tensor], target: torch.Tensor) -> bool:
    fit = getattr(model, "fit_directly", None)
    return fit is not None and fit([x.numpy() for x in inputs], target.numpy(), shapes, 0)


def train(model: nn.Module, shapes: Shapes, steps: int, inputs: list[torch.Tensor], target: torch.Tensor) -> float:
    """Adam on one batch; the loss of the last step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    loss = torch.tensor(float("nan"))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(shapes, model(*inputs), target)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize(("name", "kind", "task"), KINDS)
class TestModel:
    def test_returns_float32_rows_by_outputs(self, name: str, kind: str, task: str) -> None:
        shapes = shapes_of(kind, task)
        for outputs in (shapes.outputs, 2):
            shapes = Shapes(shapes.task, shapes.inputs, outputs)
            model = make(name, shapes)
            for rows in (1, 7):
                said = model.eval()(*batch(shapes, rows))
                assert said.shape == (rows, outputs)
                assert said.dtype == torch.float32
                assert torch.isfinite(said).all()

    def test_gradient_reaches_every_weight(self, name: str, kind: str, task: str) -> None:
        shapes = shapes_of(kind, task)
        model = make(name, shapes)
        inputs, target = batch(shapes, 32), target_of(shapes, 32)
        if fits_itself(model, shapes, inputs, target):
            assert all(torch.isfinite(weight).all() for weight in model.parameters())
            return
        loss_of(shapes, model.train()(*inputs), target).backward()
        for weight_name, weight in model.named_parameters():
            assert weight.grad is not None, weight_name
            assert weight.grad.abs().max() > 0, weight_name

    def test_same_seed_same_weights(self, name: str, kind: str, task: str) -> None:
        shapes = shapes_of(kind, task)
        one, two = make(name, shapes, seed=5), make(name, shapes, seed=5)
        assert one.state_dict().keys() == two.state_dict().keys()
        for key, value in one.state_dict().items():
            assert torch.equal(value, two.state_dict()[key]), key

    def test_saved_state_is_the_whole_state(self, name: str, kind: str, task: str, tmp_path: Path) -> None:
        """A model rebuilt with other weights and given the saved state says and learns the same, bit for bit."""
        shapes = shapes_of(kind, task)
        inputs, target = batch(shapes, 16), target_of(shapes, 16)
        model = make(name, shapes, seed=1)
        if not fits_itself(model, shapes, inputs, target):
            train(model, shapes, 3, inputs, target)
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        again = make(name, shapes, seed=2)
        again.load_state_dict(load_file(tmp_path / "model.safetensors"))
        assert torch.equal(model.eval()(*inputs), again.eval()(*inputs))
        for each in (model, again):
            torch.manual_seed(3)
            train(each, shapes, 2, inputs, target)
        assert torch.equal(model.eval()(*inputs), again.eval()(*inputs))

    def test_evaluation_is_deterministic_and_by_row(self, name: str, kind: str, task: str) -> None:
        shapes = shapes_of(kind, task)
        model = make(name, shapes, **{"dropout": 0.5} if "dropout" in tables.keys("model", name).model_fields else {})
        inputs = batch(shapes, 12)
        model.eval()
        assert torch.equal(model(*inputs), model(*inputs))
        # A row's outputs do not depend on the rows beside it; sums in another order differ in the last digits.
        alone = torch.cat([model(*(x[i : i + 1] for x in inputs)) for i in range(12)])
        torch.testing.assert_close(model(*inputs), alone, rtol=1e-4, atol=1e-5)

    def test_learns_eight_rows_by_heart(self, name: str, kind: str, task: str) -> None:
        shapes = shapes_of(kind, task)
        inputs, target = batch(shapes, 8, seed=4), target_of(shapes, 8)
        model = make(name, shapes, seed=4)
        before = float(loss_of(shapes, model.train()(*inputs), target).detach())
        if fits_itself(model, shapes, inputs, target):  # with a penalty: better than it began, not by heart
            assert float(loss_of(shapes, model(*inputs), target).detach()) < before
            return
        assert train(model, shapes, 150, inputs, target) < 0.05 * before


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


@pytest.mark.parametrize("name", MODELS)
def test_any_valid_keys_make_a_working_model(name: str) -> None:
    fields = tables.keys("model", name).model_fields
    shapes = shapes_of("image" if name in IMAGES_ONLY else "mixed", "classification")
    keys = st.fixed_dictionaries(
        {}, optional={key: value_of(field.annotation, field.metadata, 9) for key, field in fields.items()}
    )

    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(chosen=keys)
    def holds(chosen: dict[str, Any]) -> None:
        model = make(name, shapes, **{"width": 4, **chosen} if "width" in fields else chosen)
        said = model.train()(*batch(shapes, 4))
        assert said.shape == (4, 3)
        assert torch.isfinite(said).all()
        loss_of(shapes, said, target_of(shapes, 4)).backward()
        assert torch.equal(model.eval()(*batch(shapes, 4)), model(*batch(shapes, 4)))

    holds()


@pytest.mark.parametrize("name", MODELS)
def test_every_key_is_explained_and_has_a_default(name: str) -> None:
    keys = tables.keys("model", name)
    explained = (keys.__doc__ or "").partition("Keys:")[2]
    for key, field in keys.model_fields.items():
        assert f"\n    {key}: " in explained, key
        assert field.default is not PydanticUndefined, key


# --- mlp ----------------------------------------------------------------------------------------


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


# --- resnet -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "parameters", "millions"),
    # Millions: He et al. 2015, table 6. Exact: per stage of w channels 2n(9ww + 2w), the stem, the head.
    [(20, 269_722, 0.27), (32, 464_154, 0.46), (44, 658_586, 0.66), (56, 853_018, 0.85)],
)
def test_resnet_has_the_papers_parameters(depth: int, parameters: int, millions: float) -> None:
    shapes = Shapes("classification", (Input("image", (3, 32, 32)),), 10)
    count = sum(p.numel() for p in make("resnet", shapes, depth=depth, width="auto").parameters())
    assert count == parameters
    assert abs(count / 1e6 - millions) < 0.01


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56])
def test_resnet_parameters_follow_the_papers_layout(depth: int) -> None:
    n = (depth - 2) // 6
    count = 9 * 3 * 16 + 32 + 64 * 10 + 10
    for stage, w in enumerate((16, 32, 64)):
        first = w if stage == 0 else w // 2
        count += 9 * first * w + (2 * n - 1) * 9 * w * w + 2 * n * 2 * w
    shapes = Shapes("classification", (Input("image", (3, 32, 32)),), 10)
    assert sum(p.numel() for p in make("resnet", shapes, depth=depth, width="auto").parameters()) == count


def test_resnet_18_has_the_known_number_of_parameters() -> None:
    # 11,173,962: ResNet-18 with a 3x3 stem and 10 classes in kuangliu/pytorch-cifar.
    shapes = Shapes("classification", (Input("image", (3, 32, 32)),), 10)
    with torch.device("meta"):
        model = tables.find("model", "resnet")(shapes, depth=18)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962


@pytest.mark.parametrize(("depth", "channels", "side"), [(8, 64, 8), (20, 64, 8), (18, 512, 4)])
def test_resnet_halves_the_image_once_a_stage(depth: int, channels: int, side: int) -> None:
    shapes = Shapes("classification", (Input("image", (3, 32, 32)),), 10)
    model = make("resnet", shapes, depth=depth, width="auto").eval()
    with torch.no_grad():
        assert model.stages(model.stem(torch.zeros(1, 3, 32, 32))).shape == (1, channels, side, side)


def test_resnet_shortcut_is_every_second_pixel_and_new_channels_are_zero() -> None:
    block = Block(4, 8, 2, batch_norm=False, projection=False, branch_scale=1.0)
    for weight in block.parameters():
        nn.init.zeros_(weight)
    x = torch.rand(2, 4, 6, 7)
    y = block(x)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 6:].any()


@pytest.mark.parametrize("depth", [20, 56])
def test_resnet_without_batch_norm_keeps_the_signals_size(depth: int) -> None:
    shapes = Shapes("classification", IMAGE, 3)
    model = make("resnet", shapes, depth=depth, width=8, batch_norm=False)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    with torch.no_grad():
        stem = model.stem(batch(shapes, 8)[0])
        grown = model.stages(stem).std() / stem.std()
    assert 0.2 < grown < 5


@pytest.mark.parametrize(
    ("inputs", "keys", "words"),
    [
        (TABLE, {}, "one image per row, and this data has table input"),
        (IMAGE + CATEGORIES, {}, "image and categories input"),
        (
            (Input("image", (1, 3, 8)),),
            {"depth": 8},
            "halves the image 2 times and needs at least 4x4 pixels, and these are 3x8",
        ),
        (
            (Input("image", (1, 7, 7)),),
            {"depth": 18},
            "needs at least 8x8 pixels, and these are 7x7. Use a depth other than 18",
        ),
    ],
)
def test_resnet_refuses_what_is_no_image_or_too_small(
    inputs: tuple[Input, ...], keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        make("resnet", Shapes("classification", inputs, 3), **keys)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", [4, 5, 8, 11, 28])
def test_resnet_takes_any_side_from_the_smallest_on(side: int) -> None:
    shapes = Shapes("classification", (Input("image", (1, side, side + 1)),), 3)
    assert make("resnet", shapes).eval()(*batch(shapes, 2)).shape == (2, 3)
