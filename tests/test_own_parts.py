"""Parts that a page brings itself (`package.module:Class`): where they are looked for."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from nnopt_ray import pipeline, reading, tables
from nnopt_ray.errors import PageError, PartError
from nnopt_ray.reading.describing import describe

NET = '''
import torch


class Net(torch.nn.Module):
    """One layer.

    Keys:
        bias: whether it has one.
    """

    def __init__(self, shapes, *, bias: bool = True):
        super().__init__()
        self.layer = torch.nn.Linear(shapes.features, shapes.outputs, bias=bias)

    def forward(self, x):
        return self.layer(x)
'''


def page_of(folder: Path, package: str) -> Path:
    """A page in a folder of its own, its network beside it in a package of that name."""
    (folder / package).mkdir(parents=True)
    (folder / package / "nets.py").write_text(NET)
    page = folder / "page.yaml"
    page.write_text(f"data: {{source: {{type: sklearn, name: wine}}}}\nmodel: '{package}.nets:Net'\n")
    return page


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another current directory, and import paths that are given back afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


def test_a_page_in_a_run_folder_finds_what_its_run_found(tmp_path: Path, elsewhere: Path) -> None:
    experiment = reading.load(page_of(tmp_path / "project", "kept_beside"))
    run = pipeline.begin(experiment, tmp_path / "runs")
    alone = run.trial("0001").page
    alone.parent.mkdir(parents=True)
    alone.write_text(reading.dump(experiment))
    before = list(sys.path)
    for page in (run.resolved, run.page, alone):
        sys.path[:] = [path for path in before if "project" not in path]
        assert reading.load(page).model.type == "kept_beside.nets:Net"
        assert str(tmp_path / "project") in sys.path
        # A run of that page is itself a run folder, whose pages find their parts in turn.
        again = pipeline.begin(reading.load(page), tmp_path / "again")
        assert str(tmp_path / "project") in json.loads(again.environment.read_text())["import_paths"]


@pytest.mark.parametrize("content", ["{", "[]", '{"import_paths": 3}', '{"import_paths": [3, null]}'])
def test_a_damaged_environment_is_no_obstacle(tmp_path: Path, elsewhere: Path, content: str) -> None:
    run = pipeline.begin(reading.load(page_of(tmp_path / "project", "lost_beside")), tmp_path / "runs")
    run.environment.write_text(content)
    sys.modules.pop("lost_beside", None)
    sys.path[:] = [path for path in sys.path if "project" not in path]
    assert all(isinstance(path, str) for path in reading.import_paths(run.resolved))
    source = "data: {source: {type: sklearn, name: wine}}"
    (elsewhere / "another.yaml").write_text(f"{source}\nmodel: 'nowhere_at_all:Net'\n")
    with pytest.raises(PageError, match="cannot import 'nowhere_at_all'"):
        reading.load(elsewhere / "another.yaml")


def test_describe_looks_in_the_current_directory(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page_of(elsewhere, "described_here")
    sys.path[:] = [path for path in sys.path if path not in ("", str(elsewhere))]
    assert "whether it has one" in describe("model", "described_here.nets:Net")


def test_names_that_a_model_has_elsewhere_lead_to_it() -> None:
    import yaml

    from nnopt_ray.models import MODELS, OTHER_NAMES

    for name, written in OTHER_NAMES.items():
        assert name not in MODELS
        with pytest.raises(PartError, match=re.escape(f"Write {written}.")):
            tables.find("model", name.upper())
        if written.startswith("{"):
            part = yaml.safe_load(written)
            tables.keys("model", part.pop("type"))(**part)
