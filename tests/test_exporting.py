"""Exports say what the network says: every family as torch.export, and as ONNX in onnxruntime."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from model_example import EXAMPLES, data_of, loss_of, make, shapes_of
from safetensors.torch import load_file, save_file
from torch import nn

from nnopt_ray import reading, runs
from nnopt_ray.cli.main import code
from nnopt_ray.errors import RunFailed, RunFolderError, UserError
from nnopt_ray.evaluate.decision import Decision
from nnopt_ray.rundir import RunDir
from nnopt_ray.serving import export as exporting
from nnopt_ray.serving import loadable, network
from nnopt_ray.train.state import save_weights

PAIRS = [
    (name, kind, tasks[0])
    for name, example in EXAMPLES.items()
    if name != "baseline"  # nobody ships it
    for kind, tasks in example.takes.items()
]
QUICK_IN_ONNX = {"mlp", "resnet"}
QUICK_AS_WEIGHTS = {"mlp", "rnn"}


def put(kind: Any, name: str, inputs: str, task: Any, folder: Path) -> float:
    shapes = shapes_of(inputs, task)
    data = data_of(shapes)
    model = make(name, shapes)
    rows = tuple(torch.from_numpy(np.array(array)) for array in data.train.inputs)
    target = torch.from_numpy(np.array(data.train.target))
    optimizer = torch.optim.Adam(model.parameters(), lr=EXAMPLES[name].lr)
    for _ in range(10):  # as it begins, a network may say the same of every row
        optimizer.zero_grad()
        loss_of(shapes, model(*rows), target).backward()
        optimizer.step()
    said = network.saying(model.eval(), data)
    with torch.inference_mode():
        assert said(*rows).flatten(1).std(dim=0).max() > 1e-4
    return exporting.written(kind, said, data, rows, folder)


@pytest.mark.parametrize(("name", "inputs", "task"), PAIRS)
def test_every_family_as_torch_export(name: str, inputs: str, task: Any, tmp_path: Path, one_thread: None) -> None:
    assert put("torch_export", name, inputs, task, tmp_path) <= 1e-5


@pytest.mark.parametrize(
    ("name", "inputs", "task"),
    [pytest.param(*pair, marks=[] if pair[0] in QUICK_AS_WEIGHTS else pytest.mark.slow) for pair in PAIRS],
)
def test_every_family_as_safetensors(name: str, inputs: str, task: Any, tmp_path: Path, one_thread: None) -> None:
    shapes = shapes_of(inputs, task)
    model = make(name, shapes).eval()
    rows = tuple(torch.from_numpy(np.array(array)) for array in data_of(shapes).train.inputs)
    save_weights(model, tmp_path / "weights")
    (tmp_path / "shapes.json").write_text(json.dumps({"shapes": dataclasses.asdict(shapes)}))
    tree = {"data": {"source": {"type": "sklearn", "name": "iris"}}, "model": {"type": name, **EXAMPLES[name].keys}}
    page = reading.from_tree(tree)
    (tmp_path / "out").mkdir()
    places = (tmp_path / "weights", page, tmp_path / "shapes.json")
    assert loadable.written(model, *places, rows, tmp_path / "out") == 0
    assert (tmp_path / "out" / "load.py").read_text() == loadable.ALONE
    with torch.inference_mode():
        built = loadable.loaded(tmp_path / "out", page)(*rows)
        assert torch.equal(built, model(*rows))


def test_a_network_that_torch_export_cannot_express_is_rebuilt(tmp_path: Path, monkeypatch: Any) -> None:
    def refuses(*_: Any) -> Any:
        raise UserError("torch.export cannot express this network")

    monkeypatch.setattr(network, "torch_export", refuses)
    shapes = shapes_of("table", "classification")
    model = make("mlp", shapes).eval()
    rows = tuple(torch.from_numpy(np.array(array)) for array in data_of(shapes).train.inputs)
    save_weights(model, tmp_path / "weights")
    (tmp_path / "shapes.json").write_text(json.dumps({"shapes": dataclasses.asdict(shapes)}))
    page = reading.from_tree({"data": {"source": {"type": "sklearn", "name": "iris"}}, "model": "mlp"})
    (tmp_path / "out").mkdir()
    places = (tmp_path / "weights", page, tmp_path / "shapes.json")
    assert loadable.written(model, *places, rows, tmp_path / "out") == 0
    script = "from load import model\nprint(type(model).__module__)"
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path / "out", check=True, timeout=60, capture_output=True, text=True
    )
    assert found.stdout.strip() == "nnopt_ray.models.mlp"


@pytest.mark.parametrize(
    ("name", "inputs", "task"),
    [
        pytest.param(
            *pair, marks=[] if pair[0] in QUICK_IN_ONNX and pair[1] in ("mixed", "image") else pytest.mark.slow
        )
        for pair in PAIRS
    ],
)
def test_every_family_as_onnx(name: str, inputs: str, task: Any, tmp_path: Path, one_thread: None) -> None:
    assert put("onnx", name, inputs, task, tmp_path) <= 1e-5


@pytest.fixture(scope="module", params=["classification", "regression"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp(request.param)
    name = "iris" if request.param == "classification" else "diabetes"
    (folder / "page.yaml").write_text(
        f"objective: minimize val_loss\ndata: {{source: {{type: sklearn, name: {name}}}, steps: [scale]}}\n"
        "model: {type: mlp, widths: [8], dropout: 0.2}\ntrain: {epochs: 3}\nevaluate: {bootstrap: 0}\n"
    )
    return RunDir(runs.run(reading.load(folder / "page.yaml"), folder).path)


def inputs_of(run: RunDir) -> np.ndarray:
    return np.load(run.data / "test.table.npy")


def said_of(run: RunDir) -> np.ndarray:
    """What the run wrote of its test rows, by source row."""
    import pandas as pd

    found = pd.read_parquet(run.predictions)
    found = found[found["part"] == "test"].set_index("source_row")
    found = found.loc[np.load(run.data / "test.source_rows.npy")]
    columns = [name for name in found if name.startswith("p_")] or ["predicted"]
    return found[columns].to_numpy()


def test_onnx_alone_says_what_the_run_said(run: RunDir, tmp_path: Path) -> None:
    done = exporting.export(run, "onnx", tmp_path / "out", preprocessing="no")
    assert done.difference < 1e-5
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    for rows in (1, len(inputs_of(run))):
        found = session.run(None, {"table": inputs_of(run)[:rows]})[-1]
        np.testing.assert_allclose(found, said_of(run)[:rows], rtol=1e-4, atol=1e-5)
    assert "preprocessing.json" in {place.name for place in (tmp_path / "out").iterdir()}


def test_torch_export_alone_says_what_the_run_said(run: RunDir, tmp_path: Path) -> None:
    exporting.export(run, "torch_export", tmp_path / "out")
    found = torch.export.load(tmp_path / "out" / "model.pt2").module()(torch.from_numpy(inputs_of(run)))
    np.testing.assert_allclose(found.detach().numpy(), said_of(run), rtol=1e-4, atol=1e-5)


def test_the_loader_of_safetensors_needs_no_nnopt(run: RunDir, tmp_path: Path) -> None:
    assert code(["export", str(run.root), "--format", "safetensors", "-o", str(tmp_path / "out")]) == 0
    np.save(tmp_path / "x.npy", inputs_of(run))
    script = (
        "import sys\nsys.modules['nnopt_ray'] = None\nimport numpy as np, torch\nfrom load import model\n"
        f"x = torch.from_numpy(np.load({str(tmp_path / 'x.npy')!r}))\n"
        f"np.save({str(tmp_path / 'y.npy')!r}, model(x).detach().numpy())\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path / "out", check=True, timeout=60)
    expected = runs.open_run(run.root).model()(torch.from_numpy(inputs_of(run))).detach().numpy()
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-6, atol=1e-7)


def test_an_export_that_says_otherwise_is_not_kept(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = loadable.loaded

    def spoiled(folder: Path, experiment: Any) -> Any:
        weights = load_file(folder / "model.safetensors")
        name = next(iter(weights))
        save_file({**weights, name: weights[name] + 0.1}, folder / "model.safetensors")
        return loaded(folder, experiment)

    monkeypatch.setattr(loadable, "loaded", spoiled)
    with pytest.raises(RunFailed, match="it was not kept"):
        exporting.export(run, "safetensors", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_is_there_stays_unless_force_says_otherwise(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        exporting.export(run, "safetensors", tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "mine"
    exporting.export(run, "safetensors", tmp_path / "out", force=True)
    assert not (tmp_path / "out" / "mine").exists()


def test_a_place_that_is_not_there_and_a_run_that_is_not_finished_are_told(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        exporting.export(run, "onnx", tmp_path / "no" / "out")
    (tmp_path / "resolved.yaml").write_text("")
    with pytest.raises(RunFolderError, match="has no best model yet"):
        exporting.export(RunDir(tmp_path), "onnx", tmp_path / "out")


class Loose(nn.Module):
    """Its path hangs on its values, which neither format can say."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.sum()) > 0 else -x


@pytest.mark.parametrize("kind", ["torch_export", "onnx"])
def test_a_network_that_a_format_cannot_say_is_one_sentence(kind: Any, tmp_path: Path) -> None:
    data = data_of(shapes_of("table", "classification"))
    rows = tuple(torch.from_numpy(np.array(array)) for array in data.train.inputs)
    with pytest.raises(UserError, match=r"cannot express this network: .*Use --format safetensors") as told:
        exporting.written(kind, network.saying(Loose(), data), data, rows, tmp_path)
    assert "\n" not in str(told.value)


def test_a_threshold_and_a_temperature_go_into_onnx(tmp_path: Path) -> None:
    shapes = dataclasses.replace(shapes_of("table", "classification"), outputs=2)
    data = dataclasses.replace(data_of(shapes), classes=("no", "yes"), target_mean=np.zeros(2), target_scale=np.ones(2))
    torch.manual_seed(0)
    model = nn.Linear(5, 2).eval()
    rows = (torch.from_numpy(np.array(data.train.inputs[0])),)
    decision = Decision(temperature=3.0, threshold=0.4, positive=1)
    exporting.written("onnx", network.saying(model, data, 3.0), data, rows, tmp_path, decision)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    predicted, probabilities = session.run(None, {"table": rows[0].numpy()})
    logits = model(rows[0]).detach().numpy() / 3.0
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, share, rtol=1e-5)
    wanted = np.where(share[:, 1] >= 0.4, "yes", "no")
    assert predicted.tolist() == wanted.tolist()
    assert set(wanted) == {"yes", "no"}
    assert (wanted != np.where(share[:, 1] >= 0.5, "yes", "no")).any()
