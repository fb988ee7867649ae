"""A torch.utils.data.Dataset of a user's own, named on the page: what becomes of its items and of its arguments."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_example import page
from PIL import Image

from nnopt_ray import tables
from nnopt_ray.cli import main
from nnopt_ray.data.prepare import prepare
from nnopt_ray.data.table import Table, tidy
from nnopt_ray.errors import DataError, PageError, PartError
from nnopt_ray.reading.describing import describe

CODE = '''
from __future__ import annotations

from pathlib import Path
from typing import Annotated, Callable, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch.utils.data import Dataset, IterableDataset


class Birds(Dataset):
    """Pictures of birds.

    Keys:
        root: their folder.
        shift: added to every pixel.
    """

    classes = ["robin", "wren"]

    def __init__(
        self,
        root: str,
        shift: Annotated[int, Field(ge=0)] = 0,
        as_what: Literal["tensor", "array", "picture"] = "tensor",
        transform: Callable | None = None,
        how=torch.tensor,
    ):
        self.pixels = np.load(Path(root) / "pixels.npy") + np.uint8(shift)
        self.as_what = as_what

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, number):
        x = self.pixels[number]
        if self.as_what == "tensor":
            x = torch.from_numpy(np.moveaxis(x, 2, 0))
        elif self.as_what == "picture":
            x = Image.fromarray(x)
        return x, number % 2


class Listed(Dataset):
    """Whatever items are put here."""

    items: list = []

    def __init__(self, path: Path | None = None, *more, where: Path = Path("there"), **others):
        assert isinstance(where, Path)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, number):
        item = self.items[number]
        return item() if callable(item) else item


class Endless(IterableDataset):
    pass


class Unsized(Dataset):
    pass


class Broken(Listed):
    def __getitem__(self, number):
        return {}["no such entry"]
'''


@pytest.fixture
def birds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[np.ndarray]:
    """The pixels [rows, height, width, channels]; the module `my_birds` lies beside the page."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setenv("NNOPT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "my_birds.py").write_text(CODE)
    (tmp_path / "birds").mkdir()
    pixels = np.random.default_rng(0).integers(0, 200, (30, 6, 5, 3)).astype(np.uint8)
    np.save(tmp_path / "birds" / "pixels.npy", pixels)
    tables._find.cache_clear()
    tables._keys.cache_clear()
    sys.modules.pop("my_birds", None)
    yield pixels
    sys.modules.pop("my_birds", None)


def listed(*items: Any) -> Table:
    source = tables.find("source", "my_birds:Listed")()
    sys.modules["my_birds"].Listed.items = list(items)  # type: ignore[attr-defined]
    return tidy(source.read(Path.cwd()))


def refused(*items: Any) -> str:
    with pytest.raises(DataError) as caught:
        listed(*items)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("as_what", ["tensor", "array", "picture"])
def test_pictures_are_the_image_input(as_what: str, birds: np.ndarray, tmp_path: Path) -> None:
    source = {"type": "my_birds:Birds", "root": "birds", "as_what": as_what}
    experiment = page(source, tmp_path / "page.yaml")
    assert experiment.data.source["root"] == str(tmp_path / "birds")
    assert "transform" in experiment.data.source.keys
    assert "how" not in experiment.data.source.keys
    dataset = prepare(experiment, tmp_path / "cache")
    assert dataset.classes == ("robin", "wren")
    for rows in (dataset.train, dataset.validation, dataset.test):
        expected = np.moveaxis(birds[rows.source_rows], 3, 1)
        np.testing.assert_array_equal(rows.inputs[0], expected)
        np.testing.assert_array_equal(rows.target, rows.source_rows % 2)
    read = tables.build("source", experiment.data.source).read(tmp_path)
    assert isinstance(read.images, np.memmap)
    assert read.images.dtype == np.uint8


def test_the_fingerprint_follows_items_and_the_key_the_code(birds: np.ndarray, tmp_path: Path) -> None:
    source = {"type": "my_birds:Birds", "root": "birds"}
    first = prepare(page(source, tmp_path / "page.yaml"), tmp_path / "cache")
    again = prepare(page(source, tmp_path / "page.yaml"), tmp_path / "cache")
    assert (again.key, again.reused) == (first.key, True)
    birds[3, 0, 0, 0] += 1
    np.save(tmp_path / "birds" / "pixels.npy", birds)
    changed = prepare(page(source, tmp_path / "page.yaml"), tmp_path / "cache")
    assert changed.key != first.key
    (tmp_path / "my_birds.py").write_text(f"{CODE}\n# another state\n")
    assert prepare(page(source, tmp_path / "page.yaml"), tmp_path / "cache").key != changed.key


def test_arguments_are_keys(birds: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(PageError, match=r"shift: must be a whole number of at least 0; it is -1"):
        page({"type": "my_birds:Birds", "root": "birds", "shift": -1})
    with pytest.raises(PageError, match=r"root: is missing"):
        page({"type": "my_birds:Birds"})
    with pytest.raises(PageError, match=r"shfit: unknown key.*Did you mean 'shift'"):
        page({"type": "my_birds:Birds", "root": "birds", "shfit": 1})
    said = describe("source", "my_birds:Birds")
    assert "Pictures of birds." in said
    assert "added to every pixel" in said
    with pytest.raises(PartError, match="Endless has no positions"):
        tables.find("source", "my_birds:Endless")
    with pytest.raises(PartError, match="Unsized has no positions"):
        tables.find("source", "my_birds:Unsized")
    for foreign in ("my_birds:Path", "os:system", "my_birds:Dataset"):
        with pytest.raises(PartError):
            tables.find("source", foreign)
    assert page({"type": "my_birds:Listed", "path": "birds"}, tmp_path / "page.yaml").data.source["path"] == str(
        tmp_path / "birds"
    )


def test_numbers_texts_and_mappings_are_columns(birds: np.ndarray) -> None:
    assert listed((1.5, "a"), (np.float32(2), None)).columns.to_pydict() == {"x": [1.5, 2.0], "target": ["a", None]}
    found = listed((torch.tensor([1.0, 2.0]), torch.tensor(3)), (np.array([4.0, 5.0]), np.array([6])))
    assert found.columns.to_pydict() == {"x0": [1.0, 4.0], "x1": [2.0, 5.0], "target": [3, 6]}
    mixed = {"age": 7, "note": "good", "photo": Image.new("L", (4, 3), 9), "flag": True}
    found = listed((mixed, 0), (mixed, 1))
    assert found.columns.to_pydict() == {
        "age": [7, 7], "note": ["good"] * 2, "flag": [True] * 2, "target": [0, 1],
    }  # fmt: skip
    assert found.images is not None
    np.testing.assert_array_equal(found.images, np.full((2, 1, 3, 4), 9))
    assert listed((torch.zeros(2, 8, 9), 1)).images.shape == (1, 2, 8, 9)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ((), "Listed has no items"),
        ((3,), "item 0 of Listed is a int; a pair (x, y) is needed"),
        (((1, 2, 3),), "item 0 of Listed is a tuple"),
        (((1, 2), (1, [2])), "item 1 of Listed: y is a list"),
        (((1, 2), (1, torch.zeros(2))), "item 1 of Listed: y has the shape (2,)"),
        (((1, 2), ("a", 2)), "'x' of Listed is of several kinds: 'int', 'str'"),
        (((torch.zeros(2), 1), (torch.zeros(3), 1)), "item 1 of Listed has 'x0', 'x1', 'x2', 'target', and item 0"),
        (
            ((torch.zeros(1, 2, 3), 1), (torch.zeros(1, 3, 3), 1)),
            "image of (1, 3, 3), float32, and item 0 one of (",
        ),
        (((torch.zeros(1, 2, 3), 1), (torch.zeros(1, 2, 3).int(), 1)), "int32, and item 0 one of"),
        (((torch.zeros(1, 1, 2, 3), 1),), "x has the shape (1, 1, 2, 3)"),
        ((({"target": 1}, 1),), "has an entry 'target'"),
        ((({"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)}, 1),), "has 2 images"),
        ((lambda: (torch.rand(4), 1),), "differs when it is read twice"),
    ],
)
def test_items_that_are_no_rows_are_explained(items: Any, said: str, birds: np.ndarray) -> None:
    assert said in refused(*items)


def test_an_error_of_its_own_is_told_with_its_line(
    birds: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "page.yaml"
    file.write_text(json.dumps({"data": {"source": "my_birds:Broken"}, "model": "mlp"}))
    tables.find("source", "my_birds:Listed")
    sys.modules["my_birds"].Listed.items = [1]  # type: ignore[attr-defined]
    line = 1 + CODE.splitlines().index('        return {}["no such entry"]')
    for verb in ("run", "plan"):
        assert main.code([verb, str(file)]) == 1
        assert f"KeyError: 'no such entry' (my_birds.py:{line})" in capsys.readouterr().err


def test_no_torch_is_imported_before_such_a_class_is_chosen(tmp_path: Path) -> None:
    program = """
import sys
from nnopt_ray import tables
try:
    tables.find("source", "json:JSONDecoder")
except tables.PartError:
    pass
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
