"""The best network of a run for use elsewhere: safetensors with a loader, torch.export, ONNX.

An export is a folder. What it says is compared with what the run's network says of the same rows before it takes its
name; one that says otherwise is not kept.

README.txt            inputs, outputs, how to load it
model.safetensors, load.py, page.yaml, dataset.json   (safetensors)
model.pt2             (torch_export)
model.onnx            (onnx)
preprocessing.json    from columns to inputs: `nnopt_ray.data.prepare.apply(folder, table)`
"""

from __future__ import annotations

import importlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nnopt_ray import assembly, reading, rundir
from nnopt_ray.errors import MissingExtra, RunFailed, UserError
from nnopt_ray.rundir import RunDir

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nnopt_ray.data.types import Dataset, Input

Format = Literal["safetensors", "torch_export", "onnx"]
COMPARED = 256  # rows of the test part that are put through both
CLOSE = 1e-4  # the largest difference allowed, of probabilities or relative to the largest value

LOADER = '''"""The network as PyTorch module: `from load import model`. Needs nnopt_ray, torch and safetensors."""

from pathlib import Path

from safetensors.torch import load_file

import nnopt_ray
from nnopt_ray.serving.export import rebuilt

here = Path(__file__).parent
model = rebuilt(nnopt_ray.load(here / "page.yaml"), here / "dataset.json")
model.load_state_dict(load_file(here / "model.safetensors"))
model.eval()
'''


@dataclass(frozen=True)
class Exported:
    """folder: what was written. difference: the largest between its outputs and the run's. rows: compared."""

    folder: Path
    format: str
    difference: float
    rows: int


def rebuilt(experiment: Any, dataset_json: Path) -> nn.Module:
    """The network of a page with its first weights, for data of these shapes; what load.py of an export calls."""
    from nnopt_ray import tables
    from nnopt_ray.data.store import read_shapes

    model: nn.Module = tables.build("model", experiment.model, read_shapes(dataset_json))
    return model


def export(run: RunDir, kind: Format, out: Path, force: bool = False) -> Exported:
    """Write the best network of a finished run as `kind` into the folder `out`.

    safetensors gives the network itself, whose outputs are logits of classes or numbers in the scaled units of
    training; the other kinds give probabilities, or numbers in the user's units (of a language task, logits).

    Raises RunFolderError when the run has no best model, UserError when the place is taken or the network has an
    operation that the format lacks, MissingExtra without the packages for ONNX, RunFailed when the outputs differ.
    """
    if out.exists() and not force:
        raise UserError(f"{out} is there already. Choose another -o, or write over it with --force.")
    if not out.absolute().parent.is_dir():
        raise UserError(f"-o: there is no folder {out.absolute().parent}. Make it, or choose another place.")
    if kind == "onnx":
        _needs_onnx()
    experiment, dataset, model = assembly.best_model(run)
    data = run.data_of_best
    rows = _rows(dataset)
    with _taking_name(out) as folder:
        if kind == "safetensors":
            shutil.copyfile(run.best_model, folder / "model.safetensors")
            rundir.write_text(folder / "page.yaml", reading.dump(experiment))
            shutil.copyfile(data / "dataset.json", folder / "dataset.json")
            rundir.write_text(folder / "load.py", LOADER)
            difference = _compared(model, rows, _loaded(folder, experiment), kind)
        else:
            difference = written(kind, saying(model, dataset), dataset, rows, folder)
        shutil.copyfile(data / "preprocessing.json", folder / "preprocessing.json")
        rundir.write_text(folder / "README.txt", _described(kind, dataset))
    return Exported(out, kind, difference, len(rows[0]))


def saying(model: nn.Module, dataset: Dataset) -> nn.Module:
    """The network with what makes its outputs probabilities, or numbers in the user's units."""
    import torch
    from torch import nn

    class Said(nn.Module):
        mean: torch.Tensor
        scale: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.classes = bool(dataset.classes)
            self.numbers = dataset.shapes.task == "regression"
            self.register_buffer("mean", torch.from_numpy(dataset.target_mean).float())
            self.register_buffer("scale", torch.from_numpy(dataset.target_scale).float())

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.model(*inputs)
            if self.classes:
                return outputs.softmax(dim=-1)
            return outputs * self.scale + self.mean if self.numbers else outputs

    return Said().eval()


def written(
    kind: Literal["torch_export", "onnx"],
    said: nn.Module,
    dataset: Dataset,
    rows: tuple[torch.Tensor, ...],
    folder: Path,
) -> float:
    """Write the network `said` into the folder; the largest difference over these rows. Raises as `export` does."""
    if kind == "torch_export":
        return _compared(said, rows, _torch_export(said, rows, folder / "model.pt2"), kind)
    return _compared(said, rows, _onnx(said, dataset, rows, folder / "model.onnx"), kind)


def _rows(dataset: Dataset) -> tuple[torch.Tensor, ...]:
    """The inputs of the first rows of the test part."""
    import torch

    return tuple(torch.from_numpy(np.array(array[:COMPARED])) for array in dataset.test.inputs)


def _needs_onnx() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingExtra(
                f"export to ONNX needs the package {package}: pip install 'nnopt-ray[export]'"
            ) from error


def _loaded(folder: Path, experiment: Any) -> Any:
    from safetensors.torch import load_file

    model = rebuilt(experiment, folder / "dataset.json")
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


def _dynamic(rows: tuple[torch.Tensor, ...]) -> Any:
    """The first axis of every input may have any length."""
    import torch

    batch = torch.export.Dim("rows", min=1)
    return (tuple({0: batch} for _ in rows),)


def _torch_export(said: nn.Module, rows: tuple[torch.Tensor, ...], place: Path) -> Any:
    import torch

    with _telling("torch.export"):
        program = torch.export.export(said, rows, dynamic_shapes=_dynamic(rows))
        torch.export.save(program, place)
    return torch.export.load(place).module()


def _onnx(said: nn.Module, dataset: Dataset, rows: tuple[torch.Tensor, ...], place: Path) -> Any:
    import torch

    names = [given.kind for given in dataset.shapes.inputs]
    output = "probabilities" if dataset.classes else "predicted" if dataset.shapes.task == "regression" else "logits"
    with _telling("ONNX"):
        torch.onnx.export(
            said,
            rows,
            place,
            input_names=names,
            output_names=[output],
            dynamic_shapes=_dynamic(rows),
            dynamo=True,
            verbose=False,
            external_data=False,
        )
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(place), options, providers=["CPUExecutionProvider"])

    def called(*inputs: torch.Tensor) -> torch.Tensor:
        fed = {given.name: x.numpy() for given, x in zip(session.get_inputs(), inputs, strict=False)}
        return torch.from_numpy(session.run(None, fed)[0])

    return called


@contextmanager
def _telling(name: str) -> Iterator[None]:
    """What an exporter cannot do, as one sentence."""
    import io
    import logging
    from contextlib import redirect_stderr, redirect_stdout

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except (RuntimeError, ValueError, TypeError) as error:  # the exporters' own are all of the first
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{name} cannot express this network: {first} Use --format safetensors, or another model."
        ) from error
    finally:
        logging.disable(before)


def _compared(model: Any, rows: tuple[torch.Tensor, ...], other: Any, kind: str) -> float:
    """The largest difference over these rows, and over one alone, of another length than was exported with."""
    import torch

    largest = 0.0
    with torch.inference_mode():
        for part in (rows, tuple(x[:1] for x in rows)):
            wanted, found = model(*part).double(), other(*part).double()
            size = max(1.0, float(wanted.abs().max()))
            largest = max(largest, float((wanted - found).abs().max()) / size)
    if not largest <= CLOSE:
        raise RunFailed(
            f"what {kind} says of {len(rows[0])} test rows differs by {largest:.2g} from what the network says, more "
            f"than {CLOSE:g}; it was not kept. Export as safetensors, and send us the page."
        )
    return largest


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


def _described(kind: str, dataset: Dataset) -> str:
    shapes = dataset.shapes
    lines = ["The best network of a run of nnopt.", "", "Inputs, in this order (rows is the length of a batch):"]
    lines += [
        f"  {given.kind}: {_dtype(given)} [{', '.join(map(str, ('rows', *given.shape)))}]" for given in shapes.inputs
    ]
    names = dataset.feature_names
    if names:
        lines += [f"  columns of table: {json.dumps(list(names), ensure_ascii=False)}"]
    raw = kind == "safetensors"
    if dataset.classes:
        what = "logits" if raw else "probabilities"
        lines += [f"Output: float32 [rows, {shapes.outputs}], {what} of the classes in this order:"]
        lines += [f"  {json.dumps(list(dataset.classes), ensure_ascii=False)}"]
    elif shapes.is_language:
        lines += [f"Output: float32 [rows, length, {shapes.outputs}], logits of the tokens."]
    else:
        units = "in training units: value * scale + mean" if raw else "in the units of the target"
        lines += [f"Output: float32 [rows, {shapes.outputs}], {units}."]
        if raw:
            lines += [f"  scale {dataset.target_scale.tolist()}, mean {dataset.target_mean.tolist()}"]
    lines += [
        "",
        "Columns become inputs by preprocessing.json:",
        "  nnopt_ray.data.prepare.apply(folder, nnopt_ray.data.table.Table(name, pyarrow_table))",
    ]
    return "\n".join(lines) + "\n"


def _dtype(given: Input) -> str:
    from nnopt_ray.data.types import CODES

    return "int64" if given.kind in CODES else "float32"


__all__ = ["Exported", "Format", "export", "rebuilt", "saying", "written"]
