"""The state of a training as one safetensors file: tensors, scalars as JSON, and a checksum over both.

The metadata of the file holds `scalars` (JSON; a number that JSON cannot say is {"float": "nan"}) and
`blake2b` (over names, types, shapes and bytes of the tensors, and over `scalars`). Any safetensors
reader opens the tensors. Written by write-then-rename.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnopt_ray import rundir
from nnopt_ray.errors import RunFailed, RunFolderError
from nnopt_ray.results import Epoch

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class State:
    """Everything a training needs to go on: tensors by name, and what JSON can say.

    Numbers in `scalars` may be NaN or infinite; tuples come back as lists.
    """

    tensors: Mapping[str, Tensor]
    scalars: Mapping[str, Any] = field(default_factory=dict)

    def copied(self) -> State:
        """The same with tensors of its own."""
        return State({name: tensor.clone() for name, tensor in self.tensors.items()}, self.scalars)


# Names that the format gives types (https://huggingface.co/docs/safetensors, "Format").
TYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "complex64": "C64", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "uint16": "U16", "uint32": "U32",
    "uint64": "U64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip


def save(state: State, path: Path, before: Callable[[], None] | None = None) -> None:
    """Write a state. Raises RunFailed when there is no room; what stood there before is untouched then.

    before: called when the file is filled and has not its name yet; what it raises leaves what stood there.

    Written here rather than by `safetensors.torch.save_file`, which takes 0.7 ms for a small network's state, three
    times as long: the trials of a search are many and small.
    """
    tensors = {name: _plain(tensor) for name, tensor in state.tensors.items()}
    scalars = json.dumps(_to_json(state.scalars), separators=(",", ":"), allow_nan=False)
    bytes_of = {name: _bytes(tensor) for name, tensor in tensors.items()}
    header: dict[str, Any] = {"__metadata__": {"scalars": scalars, "blake2b": _checksum(tensors, bytes_of, scalars)}}
    # The wider types first, so that every tensor lies at a multiple of its width.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    end = 0
    for name in order:
        tensor, begin = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        kind = TYPES.get(str(tensor.dtype).removeprefix("torch."))
        if kind is None:
            raise RunFailed(f"cannot write {path}: no safetensors file holds '{name}', which is {tensor.dtype}.")
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def fill(temporary: Path) -> None:
        with open(temporary, "wb", buffering=1 << 16) as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                file.write(bytes_of[name])
        if before is not None:
            before()

    rundir.write(path, fill)


def load(path: Path) -> State:
    """Read a state back, on the CPU. Raises RunFolderError when the file is missing or damaged."""
    tensors, metadata = _read(path)
    if "scalars" not in metadata or "blake2b" not in metadata:
        raise RunFolderError(f"{path} is no checkpoint: it is a safetensors file without a training's state.")
    bytes_of = {name: _bytes(tensor) for name, tensor in tensors.items()}
    if _checksum(tensors, bytes_of, metadata["scalars"]) != metadata["blake2b"]:
        raise RunFolderError(f"{path} is damaged: its checksum does not fit.")
    return State(tensors, _from_json(json.loads(metadata["scalars"])))


def read_weights(path: Path) -> State:
    """Named tensors, also of a safetensors file that another program wrote (`scalars` is empty then).

    Raises RunFolderError when the file is missing or damaged.
    """
    tensors, metadata = _read(path)
    return load(path) if "blake2b" in metadata else State(tensors)


def save_weights(model: nn.Module, path: Path) -> None:
    """Weights and buffers of a model, named as in state_dict(). Raises RunFailed when there is no room."""
    from torch import Tensor

    save(State({name: value.clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)}), path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill a model with the weights of a file, in place.

    Raises RunFolderError when the file is missing or damaged, UserError when it is of another model.
    """
    from nnopt_ray.train.weights import put

    put(model, read_weights(path).tensors, str(path))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError as error:
        raise RunFolderError(f"{path} is missing.") from error
    except (SafetensorError, OSError) as error:
        raise RunFolderError(f"{path} is damaged: {error}.") from error


def _plain(tensor: Tensor) -> Tensor:
    """On the CPU, contiguous. A tensor of one element counts as contiguous whatever its stride, but cannot be
    viewed as bytes then; a copy has the usual one."""
    import torch

    plain = tensor.detach().cpu().contiguous()
    return plain.clone(memory_format=torch.contiguous_format) if plain.numel() < 2 else plain


def _bytes(tensor: Tensor) -> memoryview:
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _checksum(tensors: Mapping[str, Tensor], bytes_of: Mapping[str, memoryview], scalars: str) -> str:
    digest = hashlib.blake2b(scalars.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(bytes_of[name])
    return digest.hexdigest()


def _to_json(value: Any) -> Any:
    if isinstance(value, float) and value - value != 0:
        return {"float": repr(value)}
    if isinstance(value, Mapping):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"float"} and isinstance(value["float"], str):
            return float(value["float"])
        return {key: _from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    return value


def to_line(epoch: Epoch) -> dict[str, Any]:
    """An epoch among the scalars of a state; `from_line` is the way back."""
    return {field.name: getattr(epoch, field.name) for field in dataclasses.fields(epoch)}


def from_line(line: Mapping[str, Any]) -> Epoch:
    return Epoch(**{**line, "events": tuple(line["events"])})


def lists(layout: Any) -> list[list[Any]]:
    """A layout as JSON gives it back."""
    return [[name, list(shape)] for name, shape in layout]
