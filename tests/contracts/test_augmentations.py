"""Contract of every augmentation: the shape and dtype stay, what is given stays, the seed decides, rows differ."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import text_example
import torch
from lane_example import made
from PIL import Image, ImageEnhance, ImageOps
from scipy import interpolate, ndimage
from torch import Tensor
from train_example import MACHINE, page, part

from nnopt_ray import tables
from nnopt_ray.data.types import Input
from nnopt_ray.errors import PartError, UserError
from nnopt_ray.experiment import Data, Window
from nnopt_ray.train import AUGMENTATIONS, rand_augment, warping
from nnopt_ray.train.augmentations import Augmentation
from nnopt_ray.train.augmenting import Augmenter
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.text_augmentations import OfTexts

INPUTS = {
    "image": Input("image", (3, 8, 11)),
    "table": Input("table", (7,)),
    "categories": Input("categories", (2,), (5, 3)),
    "sequence": Input("sequence", (9, 4)),
    "tokens": text_example.data().shapes.inputs[0],
}
BY_WORD = ("word_swap", "word_delete", "word_insert", "mask_words")
OUTSIDE = ("edge", "reflect", "zero")

# Every way in which each can be asked to work, as strong as it gets where that is a number.
WAYS: list[tuple[str, dict[str, Any]]] = [
    *(("random_crop", {"padding": 7, "outside": outside}) for outside in OUTSIDE),
    ("random_crop", {}),
    *(("flip", {"direction": direction}) for direction in ("horizontal", "vertical", "both")),
    *(("rotate", {"degrees": 180.0, "outside": outside}) for outside in OUTSIDE),
    *(("affine", {"translate": 1.0, "scale": 0.9, "shear": 60.0, "outside": outside}) for outside in OUTSIDE),
    ("colour", {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0}),
    *(("erase", {"max_area": 1.0, "fill": fill}) for fill in ("noise", "mean", "zero")),
    *(("rand_augment", {"operations": 3, "magnitude": 10.0, "outside": outside}) for outside in OUTSIDE),
    ("noise", {"std": 2.0}),
    ("feature_swap", {"share": 0.5}),
    ("scaling", {"std": 1.0}),
    *(("time_shift", {"share": 1.0, "outside": outside}) for outside in ("edge", "zero")),
    ("window_slice", {"min_share": 0.1}),
    ("time_warp", {"std": 0.5}),
    *((name, {"share": share}) for name in BY_WORD for share in (0.3, 0.9)),
    ("word_insert", {"share": 1.0, "thesaurus": str(text_example.THESAURUS)}),
    ("synonyms", {"share": 0.7, "thesaurus": str(text_example.THESAURUS)}),
    ("paraphrase", {"function": "text_example:shouted"}),
]  # fmt: skip
CASES = [(name, keys, kind) for name, keys in WAYS for kind in tables.find("augmentation", name).kinds]
NOTHING: dict[str, dict[str, Any]] = {  # keys with which each leaves rows as they are
    "flip": {"probability": 0.0},
    "rotate": {"degrees": 0.0},
    "affine": {"translate": 0.0, "scale": 0.0, "shear": 0.0},
    "colour": {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0},
    "erase": {"probability": 0.0},
    "noise": {"std": 0.0},
    "feature_swap": {"share": 0.0},
    "scaling": {"std": 0.0},
    "time_shift": {"share": 0.0},
    "window_slice": {"min_share": 1.0},
    "time_warp": {"std": 0.0},
    "rand_augment": {"operations": 0},
    **{name: {"share": 0.0} for name in BY_WORD},
    "synonyms": {"share": 0.0, "thesaurus": str(text_example.THESAURUS)},
    "paraphrase": {"function": "text_example:shouted", "probability": 0.0},
}
BEYOND = ("colour", "noise", "feature_swap", "scaling")  # which may leave the range of a row's values


NEEDED: dict[str, dict[str, Any]] = {  # keys that there is no default for
    "synonyms": {"thesaurus": str(text_example.THESAURUS)},
    "paraphrase": {"function": "text_example:shouted"},
}


def build(name: str, **keys: Any) -> Augmentation:
    augmentation: Augmentation = tables.find("augmentation", name)(**keys)
    return augmentation


def change(augmentation: Augmentation, x: Tensor, draws: torch.Generator) -> Tensor:
    if isinstance(augmentation, OfTexts):
        return augmentation(x, draws, text_example.words("wordpiece"))
    return augmentation(x, draws)


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(kind: str, count: int = 40) -> Tensor:
    given = INPUTS[kind]
    if kind == "tokens":
        return torch.from_numpy(np.array(text_example.data().train.inputs[0][:count]))
    x = torch.randn((count, *given.shape), generator=draws(5)) * 3 + 1
    if kind == "categories":
        return torch.randint(0, 3, (count, *given.shape), generator=draws(5))
    return x


def test_every_augmentation_of_the_table_is_tried() -> None:
    assert {name for name, _ in WAYS} == set(AUGMENTATIONS)


@pytest.mark.parametrize(("name", "keys", "kind"), CASES)
def test_contract(name: str, keys: dict[str, Any], kind: str) -> None:
    x, augmentation = rows(kind), build(name, **keys)
    before = x.clone()
    global_state = torch.get_rng_state()
    assert augmentation.refuse(INPUTS[kind]) == ""
    one, again, other = (change(augmentation, x, draws(seed)) for seed in (1, 1, 2))
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), global_state)
    assert (one.shape, one.dtype) == (x.shape, x.dtype)
    assert one.isfinite().all()
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, x)
    if name != "feature_swap":  # of rows that are all one, any swap is none
        same = change(augmentation, x[:1].expand(40, *x.shape[1:]), draws(3))
        assert len(same.flatten(1).unique(dim=0)) > 1  # each row draws its own
    assert torch.equal(*(change(augmentation, x[:1], draws(1)) for _ in range(2)))  # a batch of one row
    if kind == "tokens":
        judge_tokens(x, one)
    elif name not in BEYOND and not (keys.get("outside") == "zero" or keys.get("fill") == "zero"):
        flat, changed = x.flatten(1), one.flatten(1)
        assert (changed.amax(1) <= flat.amax(1) + 1e-5).all()
        assert (changed.amin(1) >= flat.amin(1) - 1e-5).all()


def judge_tokens(x: Tensor, changed: Tensor) -> None:
    """Of any text: framed as it was, filled up at its end, all of the vocabulary."""
    read = text_example.words("wordpiece")
    special = read.tokenizer.special
    assert 0 <= changed.min() <= changed.max() < read.tokenizer.size
    assert (changed[:, 0] == special["[CLS]"]).all()
    for row in changed:
        (end,) = (row == special["[SEP]"]).nonzero()[:, 0].tolist()
        assert (row[end + 1 :] == special["[PAD]"]).all()
        assert not (row[:end] == special["[PAD]"]).any()
        assert end > 1  # something is left to read
    assert {special["[CLS]"], special["[SEP]"]} <= set(x[0].tolist())


@pytest.mark.parametrize("name", NOTHING)
def test_a_strength_of_nothing_changes_nothing(name: str) -> None:
    for kind in tables.find("augmentation", name).kinds:
        x = rows(kind)
        torch.testing.assert_close(change(build(name, **NOTHING[name]), x, draws(1)), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_that_it_is_not_for_are_refused_when_training_begins(name: str, kind: str) -> None:
    data = text_example.data() if kind == "tokens" else made("classification", (INPUTS[kind],))
    experiment = page(model=part("gpt", depth=1, width=8, heads=2) if kind == "tokens" else part("mlp", widths=(4,)))
    asked = experiment.data.model_copy(update={"augment": (part(name, **NEEDED.get(name, {})),)})
    experiment = experiment.model_copy(update={"data": asked})
    if kind in tables.find("augmentation", name).kinds:
        trainer = Trainer(experiment, data, MACHINE, {})
        assert name in trainer.decided["augment"]
    else:
        with pytest.raises(UserError, match=rf"^data\.augment\.0: {name} changes .*, and this data has .*leave it out"):
            Trainer(experiment, data, MACHINE, {})


@pytest.mark.parametrize(
    ("name", "keys", "told"),
    [
        ("random_crop", {"padding": 8}, "padding must be less than a side, and 8 is not for images of 8x11 pixels"),
        ("colour", {"saturation": 0.1}, "saturation is for red, green and blue, and these images have 1 channel:"),
    ],
)
def test_images_that_do_not_fit_are_refused(name: str, keys: dict[str, Any], told: str) -> None:
    data = made("classification", (Input("image", (1, 8, 11)),))
    with pytest.raises(UserError, match=told):
        Augmenter(Data(source=part("made"), augment=(part(name, **keys),)), data)


def test_boxes_of_no_area_are_refused() -> None:
    with pytest.raises(PartError, match=r"min_area must be at most max_area, and 0\.5 is more than 0\.4"):
        build("erase", min_area=0.5)


# Against references


@pytest.mark.parametrize("outside", OUTSIDE)
def test_a_crop_is_that_of_the_padded_image(outside: str) -> None:
    x = rows("image", 3)
    mode: Any = {"edge": "edge", "reflect": "symmetric", "zero": "constant"}[outside]
    padded = np.pad(x.numpy(), [(0, 0), (0, 0), (7, 7), (7, 7)], mode=mode)
    for down in (-7, -1, 0, 2, 7):
        for right in (-7, 0, 3, 7):
            moved = warping.shifted(x, torch.full((3,), down), torch.full((3,), right), outside)
            np.testing.assert_array_equal(moved, padded[:, :, 7 - down : 15 - down, 7 - right : 18 - right])


def test_every_crop_is_as_likely() -> None:
    """Of 25 places that an image of one bright pixel can move to."""
    x = torch.zeros(5000, 1, 7, 7)
    x[:, :, 3, 3] = 1
    found = build("random_crop", padding=2)(x, draws(7)).sum(0)[0]
    inner = found[1:6, 1:6]
    assert inner.sum() == 5000
    assert ((inner - 200) ** 2 / 200).sum() < 43  # chi squared, 24 degrees of freedom: 1 %


@pytest.mark.parametrize("quarters", [-2, -1, 1, 2])
@pytest.mark.parametrize("outside", OUTSIDE)
def test_quarter_turns_are_exact(quarters: int, outside: str) -> None:
    x = torch.randn(4, 2, 9, 9, generator=draws(1))
    turned = warping.rotated(x, torch.full((4,), 90.0 * quarters), outside)
    torch.testing.assert_close(turned, torch.rot90(x, quarters, (2, 3)), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("outside", "mode"), [("edge", "nearest"), ("reflect", "reflect"), ("zero", "grid-constant")])
def test_linear_maps_are_those_of_scipy(outside: str, mode: Any) -> None:
    """Of an image that is no square, by any angle, with a shift; scipy counts pixels (down, right) from a corner."""
    x = torch.randn(1, 1, 8, 11, generator=draws(2), dtype=torch.float64)
    for angle, right, down in ((20.0, 0.0, 0.0), (-75.0, 1.5, -2.0), (0.0, 3.0, 0.25)):
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        back = np.array([[cos, -sin], [sin, cos]])  # (right, down), from the result to the image
        shift = np.array([right, down])
        found = warping.warped(x, torch.tensor(back)[None], torch.tensor(shift)[None], outside)
        turned = back[::-1, ::-1]
        middle = np.array([3.5, 5.0])
        offset = middle - turned @ (middle + shift[::-1])
        expected = ndimage.affine_transform(x[0, 0].numpy(), turned, offset, order=1, mode=mode)
        np.testing.assert_allclose(found[0, 0], expected, atol=1e-9)


def test_angles_reach_to_both_sides_and_no_farther() -> None:
    """By where a bright pixel to the right of the middle goes."""
    x = torch.zeros(400, 1, 41, 41)
    x[:, :, 19:22, 34:37] = 1
    turned = build("rotate", degrees=30.0, outside="zero")(x, draws(4))[:, 0]
    weight = turned.sum((1, 2))
    off = torch.arange(41.0) - 20
    down, right = (turned.sum(2) * off).sum(1) / weight, (turned.sum(1) * off).sum(1) / weight
    angles = torch.rad2deg(torch.atan2(-down, right))
    assert -30.5 < angles.min() < -28
    assert 28 < angles.max() < 30.5
    assert abs(float(angles.mean())) < 3 * 30 / math.sqrt(3 * 400)


def test_an_affine_map_moves_and_grows_what_is_there() -> None:
    """A box of 10 x 10 in the middle of 60 x 80: its area and middle say by how much."""
    x = torch.zeros(300, 1, 60, 80)
    x[:, :, 25:35, 35:45] = 1
    done = build("affine", translate=0.25, scale=0.5, shear=30.0, outside="zero")(x, draws(4))[:, 0]
    area = done.sum((1, 2))
    down = (done.sum(2) * (torch.arange(60.0) - 29.5)).sum(1) / area
    right = (done.sum(1) * (torch.arange(80.0) - 39.5)).sum(1) / area
    for found, most in ((area.sqrt() / 10 - 1, 0.5), (down, 15.0), (right, 20.0)):
        assert 0.9 * most < found.abs().max() < 1.02 * most
        assert abs(float(found.mean())) < 3 * most / math.sqrt(3 * 300)


@pytest.mark.parametrize(("direction", "axes"), [("horizontal", (3,)), ("vertical", (2,)), ("both", (2, 3))])
def test_flips(direction: str, axes: tuple[int, ...]) -> None:
    x = rows("image")
    torch.testing.assert_close(build("flip", direction=direction, probability=1.0)(x, draws(1)), x.flip(axes))
    half = build("flip", direction="horizontal")(x, draws(1))
    mirrored = (half != x).flatten(1).any(1)
    assert torch.equal(half[mirrored], x[mirrored].flip(3))
    assert 8 < int(mirrored.sum()) < 32


def test_colours() -> None:
    x = rows("image")
    brighter = build("colour", brightness=0.5, contrast=0.0)(x, draws(1)) - x
    added = brighter.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(brighter, added.expand_as(x), rtol=1e-4, atol=1e-5)
    apart = x.flatten(1).amax(1) - x.flatten(1).amin(1)
    assert 0.4 < (added.flatten() / apart).abs().max() <= 0.5
    contrast = build("colour", brightness=0.0, contrast=0.5)(x, draws(1))
    torch.testing.assert_close(contrast.mean((1, 2, 3)), x.mean((1, 2, 3)))
    factor = contrast.flatten(1).std(1) / x.flatten(1).std(1)
    assert 0.5 <= factor.min() < 0.6
    assert 1.4 < factor.max() <= 1.5001
    paler = build("colour", brightness=0.0, contrast=0.0, saturation=0.5)(x, draws(1))
    grey = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(torch.einsum("ncyx,c->nyx", paler, grey), torch.einsum("ncyx,c->nyx", x, grey))
    distances = (paler[:, 0] - paler[:, 1]) / (x[:, 0] - x[:, 1])
    torch.testing.assert_close(distances.flatten(1).amax(1), distances.flatten(1).amin(1), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("fill", ["noise", "mean", "zero"])
def test_an_erased_box_is_one_rectangle_of_the_area_asked_for(fill: str) -> None:
    x = rows("image", 300).repeat(1, 1, 4, 4)
    done = build("erase", min_area=0.1, max_area=0.3, fill=fill)(x, draws(3))
    gone = (done != x).any(1)
    erased = gone.flatten(1).any(1)
    assert 110 < int(erased.sum()) < 190  # half of 300, by 4.6 deviations
    whole = gone.any(1, keepdim=True) & gone.any(2, keepdim=True)
    assert torch.equal(whole, gone)
    area = gone[erased].flatten(1).float().mean(1)
    assert 0.08 < area.min() < 0.12
    assert 0.28 < area.max() < 0.32
    top, bottom, left, right = (edge.any(1) for edge in (gone[:, 0], gone[:, -1], gone[:, :, 0], gone[:, :, -1]))
    assert all(only.any() for only in (top & ~bottom, bottom & ~top, left & ~right, right & ~left))  # everywhere
    if fill != "noise":
        expected = torch.zeros(300) if fill == "zero" else x.mean((1, 2, 3))
        torch.testing.assert_close(done, torch.where(gone[:, None], expected[:, None, None, None], x))


def test_noise_is_normal_and_independent() -> None:
    x = torch.zeros(4000, 3)
    found = build("noise", std=0.5)(x, draws(1))
    assert abs(float(found.std()) - 0.5) < 0.02
    assert abs(float(found.mean())) < 0.02
    assert (torch.corrcoef(found.T) - torch.eye(3)).abs().max() < 0.08


@pytest.mark.parametrize("kind", ["table", "categories"])
def test_swapped_values_are_the_columns_own(kind: str) -> None:
    x = torch.arange(4000 * 3).view(4000, 3)
    x = x.float() if kind == "table" else x  # every value tells its row and column
    found = build("feature_swap", share=0.3)(x, draws(1))
    assert found.dtype == x.dtype
    assert ((found % 3) == (x % 3)).all()
    changed = (found != x).float()
    assert (changed.mean(0) - 0.3).abs().max() < 0.03
    assert (torch.corrcoef(changed.T) - torch.eye(3)).abs().max() < 0.08  # each value by itself
    assert len(found[changed.bool()].unique()) > 0.6 * changed.sum()  # from all rows alike


def test_factors_of_sequences_are_normal_around_one_and_each_channels_own() -> None:
    found = build("scaling", std=0.2)(torch.ones(3000, 5, 2), draws(1))
    assert torch.equal(found, found[:, :1].expand_as(found))
    assert abs(float(found.mean()) - 1) < 0.02
    assert abs(float(found.std()) - 0.2) < 0.01
    assert abs(float(torch.corrcoef(found[:, 0].T)[0, 1])) < 0.08


LENGTHS = torch.tensor([20, 13, 1, 2] * 100)


def ramps() -> Tensor:
    """A step's number from 1, and its square; 0 behind the end."""
    step = torch.arange(1.0, 21)[None, :, None] * (torch.arange(20)[None, :, None] < LENGTHS[:, None, None])
    return torch.cat([step, step**2], dim=2)


@pytest.mark.parametrize(("name", "keys"), [(name, keys) for name, keys, kind in CASES if kind == "sequence"])
def test_sequences_keep_their_length(name: str, keys: dict[str, Any]) -> None:
    x, data = ramps(), made("classification", (Input("sequence", (20, 2)), Input("lengths", ())))
    augmenter = Augmenter(Data(source=part("made"), augment=(part(name, **keys),)), data)
    changed, lengths = augmenter.batch((x, LENGTHS), 3)
    assert torch.equal(lengths, LENGTHS)
    behind = torch.arange(20)[None, :] >= LENGTHS[:, None]
    assert (changed[behind] == 0).all()
    assert (changed != x).flatten(1).any(1)[LENGTHS == 13].float().mean() > 0.8


@pytest.mark.parametrize("outside", ["edge", "zero"])
def test_a_shifted_sequence_is_the_padded_one_from_another_place(outside: str) -> None:
    x = ramps()
    found = build("time_shift", share=0.5, outside=outside)(x, draws(2), LENGTHS)  # type: ignore[call-arg]
    seen: dict[int, set[int]] = {}
    for before, after, length in zip(x.numpy(), found.numpy(), LENGTHS.tolist(), strict=True):
        most = round(length / 2)
        mode: Any = "edge" if outside == "edge" else "constant"
        padded = np.pad(before[:length], [(most, most), (0, 0)], mode=mode)
        equal = [by for by in range(-most, most + 1) if (padded[most - by :][:length] == after[:length]).all()]
        assert equal
        seen.setdefault(length, set()).update(equal)
    assert seen[20] == set(range(-10, 11))


def test_a_sliced_sequence_is_the_linear_interpolation_of_a_window() -> None:
    x = ramps()
    found = build("window_slice", min_share=0.3)(x, draws(2), LENGTHS)  # type: ignore[call-arg]
    shares = []
    for before, after, length in zip(x.numpy(), found.numpy(), LENGTHS.tolist(), strict=True):
        places = after[:length, 0] - 1  # of a ramp the value is the place
        assert -1e-5 <= places[0] <= places[-1] <= length - 1 + 1e-5
        expected = np.interp(places, np.arange(length), before[:length, 1])
        np.testing.assert_allclose(after[:length, 1], expected, rtol=1e-4, atol=1e-3)
        if length == 20:
            np.testing.assert_allclose(np.diff(places), np.diff(places).mean(), atol=1e-4)
            shares.append(np.diff(places).mean())
    assert 0.3 - 1e-4 <= min(shares) < 0.35
    assert 0.95 < max(shares) <= 1


def test_a_warped_sequence_is_seen_in_order_at_the_pace_of_a_spline() -> None:
    """From its first to its last step; where the paces lie on scipy's natural spline, steps are as far apart."""
    x = ramps()
    found = build("time_warp", std=0.3, knots=3)(x, draws(2), LENGTHS)  # type: ignore[call-arg]
    drawn = torch.empty(len(x), 5).normal_(1, 0.3, generator=draws(2)).numpy()
    for before, after, paces, length in zip(x.numpy(), found.numpy(), drawn, LENGTHS.tolist(), strict=True):
        places = after[:length, 0] - 1
        assert places[0] == 0
        assert abs(places[-1] - (length - 1)) < 1e-4
        np.testing.assert_allclose(after[:length, 1], np.interp(places, np.arange(length), before[:length, 1]), 1e-3)
        if length > 2:
            assert (np.diff(places) > 0).all()
            curve = interpolate.CubicSpline(np.linspace(0, 1, 5), paces, bc_type="natural")
            pace = np.maximum(curve(np.arange(length - 1) / (length - 1)), 0.1)
            np.testing.assert_allclose(np.diff(places), pace / pace.sum() * (length - 1), rtol=1e-3, atol=1e-4)


# RandAugment


def pictures(channels: int, side: int = 40) -> np.ndarray:
    """uint8 [6, channels, side, side], each from 0 to 255, smooth so that ranks differ from values."""
    made = np.random.default_rng(4).normal(size=(6, channels, side, side))
    made = ndimage.gaussian_filter(made, (0, 0, 2, 2)) ** 3
    low, high = made.min((1, 2, 3), keepdims=True), made.max((1, 2, 3), keepdims=True)
    return np.round((made - low) / (high - low) * 255).astype(np.uint8)


def by_pillow(picture: np.ndarray, name: str, amount: float) -> np.ndarray:
    image = Image.fromarray(picture.transpose(1, 2, 0)[:, :, 0] if len(picture) == 1 else picture.transpose(1, 2, 0))
    match name:
        case "brightness" | "contrast" | "sharpness" | "colour":
            kind = {"colour": "Color"}.get(name, name.title())
            done = getattr(ImageEnhance, kind)(image).enhance(1 + 0.9 * amount)
        case "posterize":
            done = ImageOps.posterize(image, 8 - round(4 * abs(amount)))
        case "solarize":
            done = ImageOps.solarize(image, 255 * (1 - abs(amount)) + 0.5)
        case "equalize":
            done = ImageOps.equalize(image)
        case _:
            done = ImageOps.autocontrast(image)
    shown = np.asarray(done)
    return shown[None] if shown.ndim == 2 else shown.transpose(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("amount", [1.0, -0.5, 0.3])
def test_changes_of_light_are_those_of_pillow(channels: int, amount: float) -> None:
    """On images that a step has scaled, with values of any range."""
    given = pictures(channels)
    x = torch.from_numpy(given / 255 * 3.7 - 1.2).float()
    for number, name in enumerate(rand_augment.names_for(channels)):
        if name == "nothing" or name in rand_augment.GEOMETRIC:
            continue
        found = rand_augment.applied(x, torch.full((6,), number), torch.full((6,), amount), "edge")
        seen = (found.numpy() + 1.2) / 3.7 * 255
        for picture, ours in zip(given, seen, strict=True):
            off = np.abs(by_pillow(picture, name, amount) - ours)
            # Pillow rounds to whole levels on its way; its greys are those of ITU-R BT.601 too.
            assert np.quantile(off, 0.999) < 1.6, (name, off.max())


def test_changes_of_place_are_those_asked_for() -> None:
    x = rows("image", 4)
    numbers = {name: torch.full((4,), n) for n, name in enumerate(rand_augment.names_for(3))}
    amount = torch.tensor([1.0, -1.0, 0.5, 0.0])
    turned = rand_augment.applied(x, numbers["rotate"], amount, "edge")
    torch.testing.assert_close(turned, warping.rotated(x, amount * 30, "edge"))
    for name, axis in (("translate_x", 3), ("translate_y", 2)):
        side = x.shape[axis]
        moved = rand_augment.applied(x, numbers[name], torch.full((4,), 2 / side / rand_augment.TRANSLATE), "zero")
        kept = moved.narrow(axis, 2, side - 2)
        torch.testing.assert_close(kept, x.narrow(axis, 0, side - 2), rtol=1e-4, atol=1e-4)
    leaning = rand_augment.applied(x, numbers["shear_x"], torch.full((4,), 1.0), "edge")
    matrix, offset = [[1, 0], [0.3, 1]], (0, -0.3 * 3.5)
    there = np.stack(
        [ndimage.affine_transform(y, matrix, offset, order=1, mode="nearest") for y in x.numpy().reshape(-1, 8, 11)]
    )
    np.testing.assert_allclose(leaning.numpy().reshape(-1, 8, 11), there, atol=1e-4)
    assert torch.equal(rand_augment.applied(x, numbers["nothing"], amount, "edge"), x)


def test_changes_are_drawn_evenly_and_of_no_strength_are_few() -> None:
    """Of 12 changes of one channel, equalize alone knows no strength; with 40 x 40 pixels it has something to do."""
    x = torch.from_numpy(pictures(1)[:1]).float().expand(3000, 1, 40, 40)
    still = (build("rand_augment", operations=1, magnitude=0.0)(x, draws(3)) - x).abs().amax((1, 2, 3))
    share = float((still > 1e-3).float().mean())
    assert abs(share - 1 / 12) < 4 * math.sqrt(1 / 12 / 3000)


@pytest.mark.parametrize("name", ["noise", "scaling", "time_shift", "window_slice", "time_warp"])
def test_what_a_forecast_follows_from_is_left_alone(name: str) -> None:
    data = made("regression", (INPUTS["sequence"],))
    said = Data(source=part("made"), augment=(part(name),), window=Window(length=9, order="day"))
    if name == "noise":
        assert Augmenter(said, data).parts
    else:
        with pytest.raises(
            UserError, match=rf"data\.augment\.0: {name} changes where a sequence ends or how high it is"
        ):
            Augmenter(said, data)
