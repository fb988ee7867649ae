"""The best network of a run for use elsewhere: safetensors with a loader, torch.export, ONNX.

An export is a folder. What it says is compared with what the run's network says of the same rows before it takes its
name; one that says otherwise is not kept.

README.txt            inputs, outputs, how to load it
model.safetensors, load.py, network.pt2, page.yaml, dataset.json   (safetensors)
model.pt2             (torch_export)
model.onnx            (onnx) with the preprocessing inside, where ONNX has operators for all of it
preprocessing.json    from columns to inputs: `nnopt_ray.data.prepare.apply(folder, table)`
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nnopt_ray import rundir
from nnopt_ray.data.dates import ISO
from nnopt_ray.data.types import Dataset
from nnopt_ray.errors import RunFailed, UserError
from nnopt_ray.evaluate.decision import Decision
from nnopt_ray.rundir import RunDir
from nnopt_ray.serving import columns_in_graph, loadable, network, real_rows
from nnopt_ray.serving.columns_in_graph import Prepared
from nnopt_ray.serving.network import Rows
from nnopt_ray.serving.real_rows import Real
from nnopt_ray.serving.trained import Trained

if TYPE_CHECKING:
    from torch import nn

Format = Literal["safetensors", "torch_export", "onnx"]
Preprocessing = Literal["auto", "yes", "no"]
COMPARED = 256  # rows of the test part that are put through both


@dataclass(frozen=True)
class Exported:
    """folder: what was written. difference: the largest between its outputs and the run's. rows: compared.

    columns: what it is fed, where the preprocessing is inside (name → type, shape, what is missing); else `alone`
    says why not. dates: those of them that are, and how they are written in the source.
    """

    folder: Path
    format: str
    difference: float
    rows: int
    columns: Mapping[str, str]
    alone: str = ""
    dates: Mapping[str, str] = field(default_factory=dict)


def export(
    run: RunDir, kind: Format, out: Path, force: bool = False, preprocessing: Preprocessing = "auto"
) -> Exported:
    """Write the best network of a finished run as `kind` into the folder `out`.

    safetensors gives the network itself, whose outputs are logits of classes or numbers in the scaled units of
    training; the other kinds give probabilities, or numbers in the user's units (of a language task, logits).
    preprocessing: whether an ONNX file takes the columns of the source; auto where ONNX can say all that is done to
    them.

    Raises RunFolderError when the run has no best model, UserError when the place is taken or the network has an
    operation that the format lacks, MissingExtra without the packages for ONNX, RunFailed when the outputs differ.
    """
    if out.exists() and not force:
        raise UserError(f"{out} is there already. Choose another -o, or write over it with --force.")
    if not out.absolute().parent.is_dir():
        raise UserError(f"-o: there is no folder {out.absolute().parent}. Make it, or choose another place.")
    if preprocessing == "yes" and kind != "onnx":
        raise UserError(f"--preprocessing yes: {kind} holds the network alone. Use --format onnx, or leave it out.")
    if kind == "onnx":
        network.needs_onnx()
    trained = Trained.of(run)
    dataset, data = trained.dataset, run.data_of_best
    rows = _rows(dataset)
    done = Exported(out, kind, 0.0, len(rows[0]), {})
    with _taking_name(out) as folder:
        if kind == "safetensors":
            shapes = data / loadable.SHAPES
            difference = loadable.written(trained.model, run.best_model, trained.experiment, shapes, rows, folder)
            done = Exported(out, kind, difference, done.rows, {})
        elif kind == "torch_export":
            said = network.saying(trained.model, dataset, trained.decision.temperature)
            done = Exported(out, kind, written(kind, said, dataset, rows, folder), done.rows, {})
        else:
            done = _as_onnx(trained, rows, folder, out, preprocessing)
        shutil.copyfile(data / "preprocessing.json", folder / "preprocessing.json")
        rundir.write_text(folder / "README.txt", _described(done, dataset))
    return done


def written(
    kind: Literal["torch_export", "onnx"],
    said: nn.Module,
    dataset: Dataset,
    rows: Rows,
    folder: Path,
    decision: Decision | None = None,
) -> float:
    """Write the network `said` alone into the folder; the largest difference over these rows. Raises as `export`."""
    if kind == "torch_export":
        return network.compared(said, rows, network.torch_export(said, rows, folder / "model.pt2"), kind)
    import onnx

    decision = decision or Decision()
    place = folder / "model.onnx"
    alone = network.onnx_network(said, dataset, rows)
    made = network.completed(alone, dataset, None, _facts(dataset, None, decision), decision)
    onnx.save_model(made, place)
    return network.compared(said, rows, network.called(network.session(place), dataset), kind)


def _as_onnx(trained: Trained, rows: Rows, folder: Path, out: Path, preprocessing: Preprocessing) -> Exported:
    """With the preprocessing inside where that is asked for and can be; compared over real rows then."""
    said = network.saying(trained.model, trained.dataset, trained.decision.temperature)
    alone = "--preprocessing no"
    if preprocessing != "no":
        try:
            prepared, real = _prepared(trained)
        except UserError as error:
            if preprocessing == "yes":
                raise
            alone = str(error)
        else:
            largest = with_columns(trained, said, prepared, real, folder / "model.onnx")
            dates = {one.name: one.date_format for one in trained.preprocessing.readings if one.kind == "date"}
            return Exported(out, "onnx", largest, len(real.inputs[0]), prepared.described, dates=dates)
    largest = written("onnx", said, trained.dataset, rows, folder, trained.decision)
    return Exported(out, "onnx", largest, len(rows[0]), {}, alone)


def _prepared(trained: Trained) -> tuple[Prepared, Real]:
    """The preprocessing in operators, and real rows to try it on. Raises UserError where one of them cannot be had."""
    if trained.kind == "language":
        raise UserError("ONNX has no operators for the tokenizer of a language task.")
    names = [reading.name for reading in trained.preprocessing.readings]
    taken = [name for name in names if name in ("predicted", "probabilities", "image", "sequence", "lengths")]
    if taken:
        raise UserError(f"the column '{taken[0]}' has the name of an input or output that the export brings itself.")
    target = real_rows.target_of(trained)
    prepared = columns_in_graph.prepared(trained.preprocessing, np.uint8, target)
    real = real_rows.read(trained, prepared.columns)
    if "image" in real.fed:
        prepared = columns_in_graph.prepared(trained.preprocessing, real.fed["image"].dtype, target)
    return prepared, real


def with_columns(trained: Trained, said: nn.Module, prepared: Prepared, real: Real, place: Path) -> float:
    """Write the network with its preprocessing; the largest difference over real rows, and over one of them alone."""
    import onnx
    import torch

    dataset = trained.dataset
    tensors = tuple(torch.from_numpy(np.array(array)) for array in real.inputs)
    facts = _facts(dataset, prepared.columns, trained.decision)
    alone = network.onnx_network(said, dataset, tensors)
    made = network.completed(alone, dataset, prepared, facts, trained.decision)
    onnx.save_model(made, place)
    running = network.session(place)
    with torch.inference_mode():
        wanted = said(*tensors).numpy()
    if real.target is not None:
        wanted = wanted + real.target[:, None]
    name, largest = network.output_name(dataset), 0.0
    for count in (len(wanted), 1):
        found = running.run(None, {key: values[:count] for key, values in real.fed.items()})
        by_name = dict(zip((output.name for output in running.get_outputs()), found, strict=True))
        largest = max(largest, network.difference(wanted[:count], by_name[name]))
        if dataset.classes:
            names = np.array(dataset.classes, dtype=object)[trained.decision.classes(by_name[name])]
            if not (names == by_name["predicted"]).all():
                largest = float("inf")
    return network.checked(largest, len(wanted), "onnx")


def _facts(dataset: Dataset, columns: Mapping[str, str] | None, decision: Decision) -> dict[str, Any]:
    return {
        "made_by": f"nnopt {importlib.metadata.version('nnopt-ray')}",
        "task": dataset.shapes.task,
        "target": dataset.summary.target,
        **({"classes": list(dataset.classes)} if dataset.classes else {}),
        **({"columns": dict(columns)} if columns else {}),
        **({"decision": decision.to_json()} if decision != Decision() else {}),
    }


def _rows(dataset: Dataset) -> Rows:
    """The inputs of the first rows of the test part."""
    import torch

    return tuple(torch.from_numpy(np.array(array[:COMPARED])) for array in dataset.test.inputs)


@contextmanager
def _taking_name(out: Path) -> Iterator[Path]:
    """An empty folder that takes its name when all of it is there. Raises RunFailed when it cannot be written."""
    try:
        beside = Path(tempfile.mkdtemp(prefix=".exporting-", dir=out.absolute().parent))
    except OSError as error:
        raise RunFailed(f"cannot write to {out.absolute().parent}: {error.strerror or error}.") from error
    try:
        beside.chmod(0o755)
        yield beside
        if out.is_dir():
            shutil.rmtree(out)
        elif out.exists():
            out.unlink()
        beside.rename(out)
    except OSError as error:
        raise RunFailed(f"cannot write {out}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _described(done: Exported, dataset: Dataset) -> str:
    shapes = dataset.shapes
    lines = ["The best network of a run of nnopt.", ""]
    if done.columns:
        lines += _columns(done)
    else:
        lines += ["Inputs, in this order (rows is the length of a batch):"]
        lines += [
            f"  {given.kind}: {network.dtype(given)} [{', '.join(map(str, ('rows', *given.shape)))}]"
            for given in shapes.inputs
        ]
        if dataset.feature_names:
            lines += [f"  columns of table: {json.dumps(list(dataset.feature_names), ensure_ascii=False)}"]
    raw = done.format == "safetensors"
    if dataset.classes:
        what = "logits" if raw else "probabilities"
        if done.format == "onnx":
            lines += ["Output predicted: string [rows], the class that is decided for."]
        lines += [f"Output {what}: float32 [rows, {shapes.outputs}], of the classes in this order:"]
        lines += [f"  {json.dumps(list(dataset.classes), ensure_ascii=False)}"]
    elif shapes.is_language:
        lines += [f"Output: float32 [rows, length, {shapes.outputs}], logits of the tokens."]
    else:
        units = "in training units: value * scale + mean" if raw else "in the units of the target"
        lines += [f"Output predicted: float32 [rows, {shapes.outputs}], {units}."]
        if raw:
            lines += [f"  scale {dataset.target_scale.tolist()}, mean {dataset.target_mean.tolist()}"]
    if raw:
        lines += [
            "",
            "`from load import model` is the network; load.py says what it needs. To train it on, with nnopt:",
        ]
        lines += ["  nnopt_ray.serving.loadable.rebuilt(nnopt_ray.load('page.yaml'), Path('dataset.json'))"]
    if not done.columns:
        lines += ["", f"The preprocessing is not inside: {done.alone}"] if done.alone else [""]
        lines += [
            "Columns become inputs by preprocessing.json:",
            "  nnopt_ray.data.prepare.apply(folder, nnopt_ray.data.table.Table(name, pyarrow_table))",
        ]
    return "\n".join(lines) + "\n"


def _columns(done: Exported) -> list[str]:
    lines = ["Inputs, the columns of the source as they stand there (booleans as 0 and 1):"]
    lines += [f"  {name}: {said}" for name, said in done.columns.items()]
    if not all("[rows, 1]" in said for said in done.columns.values()):  # of images, sequences and forecasts
        return [*lines, ""]
    lines += [
        "",
        "From a data frame of pandas:",
        "  import onnxruntime, pandas as pd",
        '  session = onnxruntime.InferenceSession("model.onnx")',
        "  feed = {}",
        "  for given in session.get_inputs():",
        "      column = frame[given.name]",
    ]
    if done.dates:
        forms = {name: _pandas_format(form) for name, form in done.dates.items()}
        lines += [
            f"      dates = {forms}",
            "      if given.name in dates:",
            "          column = pd.to_datetime(column, format=dates[given.name], utc=True)",
            '          column = (column - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)',
        ]
    return [
        *lines,
        '      text = given.type == "tensor(string)"',
        '      values = column.fillna("").astype(str) if text else column.astype("float64")',
        "      feed[given.name] = values.to_numpy(dtype=object if text else None)[:, None]",
        "  outputs = session.run(None, feed)",
        "",
    ]


def _pandas_format(form: str) -> str | None:
    """DD.MM.YYYY as strptime has it; None for ISO and for what is no text."""
    if form in ("", ISO):
        return None
    return form.replace("YYYY", "%Y").replace("MM", "%m").replace("DD", "%d")


__all__ = ["Exported", "Format", "export", "with_columns", "written"]
