"""A network as torch.export and ONNX write it, and what it says there."""

from __future__ import annotations

import importlib
import inspect
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnopt_ray.data.types import CODES, Dataset, Input
from nnopt_ray.errors import MissingExtra, RunFailed, UserError
from nnopt_ray.evaluate.decision import Decision
from nnopt_ray.serving.graph import SPECIAL, texts_of

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn

    from nnopt_ray.serving.columns_in_graph import Prepared

CLOSE = 1e-4  # the largest difference allowed, of probabilities or relative to the largest value
INSIDE = "network/"  # what the names of an ONNX network begin with where others stand beside it

Rows = tuple["torch.Tensor", ...]
Called = Callable[..., "torch.Tensor"]


def saying(model: nn.Module, dataset: Dataset, temperature: float = 1.0) -> nn.Module:
    """The network with what makes its outputs probabilities, or numbers in the user's units.

    temperature: the logits are divided by it first.
    """
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
                return (outputs / temperature if temperature != 1 else outputs).softmax(dim=-1)
            return outputs * self.scale + self.mean if self.numbers else outputs

    return Said().eval()


def output_name(dataset: Dataset) -> str:
    if dataset.classes:
        return "probabilities"
    return "predicted" if dataset.shapes.task == "regression" else "logits"


def _dynamic(module: nn.Module, rows: Rows) -> Any:
    """The first axis of every input may have any length."""
    import torch

    batch = torch.export.Dim("rows", min=1)
    each = tuple({0: batch} for _ in rows)
    parameters = inspect.signature(module.forward).parameters.values()
    gathered = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    return (each,) if gathered else each


def torch_export(said: nn.Module, rows: Rows, place: Path) -> Called:
    """Write the network; what it is when it is loaded again. Raises UserError where the format lacks an operation."""
    import torch

    with _telling("torch.export"):
        program = torch.export.export(said, rows, dynamic_shapes=_dynamic(said, rows))
        torch.export.save(program, place)
    loaded: Called = torch.export.load(place).module()
    return loaded


def needs_onnx() -> None:
    """Raises MissingExtra without the packages for ONNX."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingExtra(
                f"export to ONNX needs the package {package}: pip install 'nnopt-ray[export]'"
            ) from error


def onnx_network(said: nn.Module, dataset: Dataset, rows: Rows) -> onnx.ModelProto:
    """The network with its inputs by kind. Raises UserError where ONNX lacks an operation."""
    import torch

    with _telling("ONNX"):
        program = torch.onnx.export(
            said,
            rows,
            input_names=[given.kind for given in dataset.shapes.inputs],
            output_names=[output_name(dataset)],
            dynamic_shapes=_dynamic(said, rows),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    made: onnx.ModelProto = program.model_proto
    return made


def completed(
    network: onnx.ModelProto,
    dataset: Dataset,
    prepared: Prepared | None,
    facts: Mapping[str, Any],
    decision: Decision,
) -> Any:
    """The network with the preprocessing ahead of it, the predicted class behind it, and `facts` in its metadata."""
    import onnx
    from onnx import compose, helper

    if prepared is not None:
        network = compose.add_prefix(network, INSIDE)
        graph = network.graph
        names = [given.name for given in graph.input]
        nodes = [*prepared.graph.nodes]
        nodes += [helper.make_node("Identity", [made], [name]) for made, name in zip(prepared.made, names, strict=True)]
        nodes += graph.node
        if prepared.added:
            nodes.append(helper.make_node("Cast", [prepared.added], ["counted from"], to=onnx.TensorProto.FLOAT))
            nodes.append(helper.make_node("Add", [graph.output[0].name, "counted from"], [output_name(dataset)]))
        else:
            nodes.append(helper.make_node("Identity", [graph.output[0].name], [output_name(dataset)]))
        del graph.node[:], graph.input[:]
        graph.node.extend(nodes)
        graph.input.extend(prepared.inputs)
        graph.initializer.extend(prepared.graph.constants)
        graph.output[0].name = output_name(dataset)
    if dataset.classes:
        _with_class(network, dataset, decision)
    known = {entry.domain for entry in network.opset_import}
    if SPECIAL not in known and any(node.domain == SPECIAL for node in network.graph.node):
        network.opset_import.append(helper.make_opsetid(SPECIAL, 3))
    for key, value in facts.items():
        entry = network.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    onnx.checker.check_model(network)
    return network


def _with_class(network: onnx.ModelProto, dataset: Dataset, decision: Decision) -> None:
    """`predicted`, the name of the class that is decided for, as the first output."""
    from onnx import TensorProto, helper, numpy_helper

    graph = network.graph
    graph.initializer.append(texts_of("classes", [str(name) for name in dataset.classes]))
    probabilities = graph.output[0]
    place = "place of the class"
    if decision.positive is None or decision.threshold == 0.5:
        graph.node.append(helper.make_node("ArgMax", [probabilities.name], [place], axis=-1, keepdims=0))
    else:  # as Decision.classes
        numbers = {
            "positive": np.int64(decision.positive),
            "negative": np.int64(1 - decision.positive),
            "threshold": np.float32(decision.threshold),
        }
        graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in numbers.items())
        graph.node.extend(
            [
                helper.make_node("Gather", [probabilities.name, "positive"], ["looked for"], axis=-1),
                helper.make_node("GreaterOrEqual", ["looked for", "threshold"], ["is it"]),
                helper.make_node("Where", ["is it", "positive", "negative"], [place]),
            ]
        )
    graph.node.append(helper.make_node("Gather", ["classes", place], ["predicted"]))
    predicted = helper.make_tensor_value_info("predicted", TensorProto.STRING, ["rows"])
    del graph.output[:]
    graph.output.extend([predicted, probabilities])


def session(place: Path) -> Any:
    """An ONNX file in onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(place), options, providers=["CPUExecutionProvider"])


def called(running: Any, dataset: Dataset) -> Called:
    """What a session says of the network's own inputs, as the network would."""
    import torch

    def say(*inputs: torch.Tensor) -> torch.Tensor:
        fed = {given.name: x.numpy() for given, x in zip(running.get_inputs(), inputs, strict=False)}
        return torch.from_numpy(running.run([output_name(dataset)], fed)[0])

    return say


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


def compared(model: Called, rows: Rows, other: Called, kind: str) -> float:
    """The largest difference over these rows, and over one alone, of another length than was exported with."""
    import torch

    largest = 0.0
    with torch.inference_mode():
        for part in (rows, tuple(x[:1] for x in rows)):
            largest = max(largest, difference(model(*part).double().numpy(), other(*part).double().numpy()))
    return checked(largest, len(rows[0]), kind)


def difference(wanted: np.ndarray, found: np.ndarray) -> float:
    """The largest, relative to the largest value where that is beyond 1."""
    return float(np.abs(wanted - found).max()) / max(1.0, float(np.abs(wanted).max()))


def checked(largest: float, rows: int, kind: str) -> float:
    """Raises RunFailed where it is too large."""
    if not largest <= CLOSE:
        raise RunFailed(
            f"what {kind} says of {rows} test rows differs by {largest:.2g} from what the network says, more "
            f"than {CLOSE:g}; it was not kept. Export as safetensors, and send us the page."
        )
    return largest


def dtype(given: Input) -> str:
    return "int64" if given.kind in CODES else "float32"


__all__ = [
    "called", "checked", "compared", "completed", "difference", "dtype", "needs_onnx", "onnx_network", "output_name",
    "saying", "session", "torch_export",
]  # fmt: skip
