"""The report's rows before and after augmentation: the very rows of training, viewable, escaped, small."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import model_example
import numpy as np
import plotly.graph_objects as go
import pytest
import text_example
from lane_example import made
from PIL import Image
from train_example import page, part

import nnopt_ray as nn
from nnopt_ray import rundir
from nnopt_ray.data.types import Dataset, Input
from nnopt_ray.report.augmented import GAP, TILE, Augmented, augmented, samples
from nnopt_ray.report.blocks import Picture, Plot, Row, Table
from nnopt_ray.report.facts import Facts, facts_from_folder
from nnopt_ray.report.write import html

IMAGES = made("classification", (Input("image", (3, 8, 12)),))
GREY = made("regression", (Input("image", (2, 150, 200)),), rows=6, validation=2)
SERIES = model_example.data_of(model_example.shapes_of("sequence_lengths", "classification"))


def shown(data: Dataset, *parts: Any) -> tuple[Augmented, Any]:
    found = samples(page(augment=parts), data, {})
    assert found is not None
    section = augmented(found)
    assert section is not None
    return found, section.blocks[1]


def tiles(picture: Picture, high: int, wide: int) -> Iterator[np.ndarray]:
    with Image.open(io.BytesIO(picture.png)) as image:
        assert image.size == (picture.width, picture.height)
        pixels = np.asarray(image.convert("RGB")).astype(float)
    for row in range(4):
        for column in range(7):
            top, left = row * (high + GAP), column * (wide + GAP) + GAP * (column > 0)
            yield pixels[top : top + high, left : left + wide]


def test_images_are_those_of_training_in_their_own_range() -> None:
    found, picture = shown(IMAGES, part("flip", probability=1.0))
    assert (picture.width, picture.height) == (7 * 96 + 7 * GAP, 4 * 64 + 3 * GAP)
    rows = np.asarray(found.rows)
    assert {row.tobytes() for row in rows} <= {row.tobytes() for row in IMAGES.train.inputs[0]}
    assert found.labels == ("a", "b", "c", found.labels[3])
    light = (rows - rows.min()) / (rows.max() - rows.min()) * 255
    grid = list(tiles(picture, 64, 96))
    for row in range(4):
        expected = light[row].round().transpose(1, 2, 0)
        np.testing.assert_array_equal(grid[7 * row][::8, ::8], expected)
        assert (grid[7 * row][:8, :8] == grid[7 * row][0, 0]).all()  # a pixel is a square
        for variant in range(1, 7):
            np.testing.assert_array_equal(grid[7 * row + variant][::8, ::8], expected[:, ::-1])


def test_large_images_are_made_small_and_further_channels_named() -> None:
    found, picture = shown(GREY, part("noise", std=1.0))
    assert picture.width == 7 * TILE + 7 * GAP
    assert len(picture.png) < 400_000
    assert "Of 2 channels the first is shown." in picture.caption
    assert found.labels == ()


def test_sequences_are_lines_that_plotly_takes() -> None:
    found, row = shown(SERIES, part("time_warp", std=0.5), part("noise", std=0.3))
    assert isinstance(row, Row)
    lengths = {x.tobytes(): int(n) for x, n in zip(*SERIES.train.inputs, strict=True)}
    for number, plot in enumerate(row.blocks):
        assert isinstance(plot, Plot)
        go.Figure(json.loads(re.sub('"--[a-z]+"', '"#123456"', json.dumps(plot.figure))))  # raises on a wrong name
        lines = plot.figure["data"]
        assert len(lines) == 2 * (3 + 1)
        start = found.rows[number][:1].tobytes()
        own = next(length for row_, length in lengths.items() if row_.startswith(start))
        assert all(len(line["x"]) == len(line["y"]) == own for line in lines)
        solid = [line for line in lines if line["line"]["dash"] == "solid"]
        np.testing.assert_allclose(solid[0]["y"], found.rows[number][:, 0], rtol=1e-3)


def test_texts_stand_side_by_side() -> None:
    found, table = shown(text_example.data(), part("word_delete", share=0.3), part("mask_words", share=0.3))
    assert isinstance(table, Table)
    assert [head.text for head in table.heads] == ["class", "as it is", *(f"changed, {n}" for n in (1, 2, 3))]
    assert {row[1].text for row in table.rows} <= set(text_example.OTHERS)
    assert {row[0].text for row in table.rows} == {"fox", "other"}
    assert any("[MASK]" in cell.text for row in table.rows for cell in row)
    assert len(found.variants) == 3


class Texts(HTMLParser):
    """What a page says, and its elements."""

    def __init__(self, page_: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said = ""
        start = page_.index('<section id="augmented"')
        self.feed(page_[start : page_.index("</section>", start)])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said += data


def test_no_text_becomes_markup() -> None:
    evil = "<script>alert(1)</script> & \"'<img src=x onerror=alert(2)>"
    found = Augmented("tokens", [evil], ([evil], [evil]), (evil,), evil)
    read = Texts(html(Facts(page(), augmented=found)))
    assert "script" not in [tag for tag, _ in read.tags]
    assert "img" not in [tag for tag, _ in read.tags]
    assert read.said.count(evil) == 5


def test_tables_have_nothing_to_look_at() -> None:
    data = made("classification", (Input("table", (5,)),))
    assert samples(page(augment=(part("noise"),)), data, {}) is None
    assert samples(page(), IMAGES, {}) is None


@pytest.mark.parametrize("search", [False, True])
def test_a_run_shows_them_with_the_winners_strengths(tmp_path: Path, search: bool) -> None:
    degrees: Any = {"choice": [7.0, 21.0]} if search else 7.0
    tree = {
        "data": {
            "source": {"type": "sklearn", "name": "digits"},
            "augment": [{"type": "rotate", "degrees": degrees}],
        },
        "model": {"type": "mlp", "widths": [8]},
        "train": {"epochs": 1},
        "evaluate": {"bootstrap": 0},
    }
    rundir.write_json(tmp_path / "page.yaml", tree)
    run = nn.run(nn.load(tmp_path / "page.yaml"), tmp_path / "out")
    text = (run.path / "report.html").read_text()
    read = Texts(text)
    best = run.result["best"]["values"].get("data.augment.0.degrees", 7.0)
    assert f"rotate (degrees {best:g}, outside edge)" in read.said
    ((_, image),) = [each for each in read.tags if each[0] == "img"]
    assert str(image["src"]).startswith("data:image/png;base64,")
    assert "img-src data:" in text
    assert len(str(image["src"])) < 30_000
    folder = rundir.RunDir.open(run.path)
    for file in (run.path / "data").glob("train.image.npy"):
        file.unlink()
    told = facts_from_folder(folder)
    assert told.augmented is None
    assert any(sentence.startswith("Augmented rows cannot be shown: ") for sentence in told.missing)
    assert replace(told, augmented=None) == told
