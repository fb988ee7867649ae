"""Start a network from public weights: a file that another library's network of the same form was saved to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnopt_ray.data.tokenizer import SPECIAL
from nnopt_ray.errors import UserError
from nnopt_ray.models import MODELS
from nnopt_ray.models.origins import ORIGINS, Named, Origin, heads_of, recognised

# What a folder that transformers saved to holds, the safe form first.
IN_FOLDER = ("model.safetensors", "pytorch_model.bin")
INSIDE = ("state_dict", "model", "model_state_dict")  # under which training scripts keep the weights in a .pt file
COUNTED = "num_batches_tracked"  # of batch norm; old files have none, and it does not enter into what is computed


def put(model: nn.Module, place: str) -> str:
    """Fill a model of MODELS, in place, with the weights of a file → what was taken and what was not, in words.

    place: a .safetensors file, a .pt, .pth or .bin file that torch.save wrote, or a folder that transformers wrote.
    It may hold the weights of an origin of ORIGINS, or those of a run of this program. The last layer keeps its first
    weights when the number of outputs differs. Three channels of the first layer are summed up for images with one,
    which computes what the file's network computes for a grey image of three equal channels. Special tokens that the
    step tokenize had to add to a vocabulary, at its end, keep their first weights.

    Raises UserError when there is no such file, it cannot be read, or it is of another network.
    """
    file = _file(place)
    there = read(file)
    kind = _kind(model)
    origin = recognised(there)
    saved = model.state_dict()
    if origin is None:
        if not _of_ours(there, saved):
            raise UserError(_unknown(file, there, kind))
        ours, library = dict(there), "a network of nnopt"
    else:
        if origin.model != kind:
            raise UserError(f"model.weights: {file} is of {origin.library}, and the page's model is {kind}.")
        ours, library = _renamed(file, there, origin, model), origin.library
    notes = _grey(ours, saved) + _added(ours, saved)
    left = _left(ours, saved, heads_of(kind))
    _refuse_other(file, ours, saved, left)
    with torch.no_grad():
        for name, tensor in saved.items():
            if name in ours and _layer(name) not in left:
                tensor.copy_(ours[name])
    notes += [f"{layer} {why}, so it is not taken" for layer, why in left.items()]
    if origin is not None and (advice := origin.advice(model)):
        notes.append(advice)
    return "; ".join([f"weights of {library} from {file}", *notes])


def read(file: Path) -> Named:
    """The tensors of a file by name, on the CPU. Raises UserError when it cannot be read."""
    from safetensors import SafetensorError, safe_open

    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"model.weights: {file} is no safetensors file, or is damaged: {error}.") from error
    return _tensors(file, _unpickled(file))


def _unpickled(file: Path) -> Any:
    # torch names the class of this error by importing it only.
    unsafe: type[Exception] = torch.serialization.pickle.UnpicklingError  # type: ignore[attr-defined]
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except unsafe as error:
        raise UserError(
            f"model.weights: {file} holds more than tensors, and nothing of it was run: save its state_dict() as "
            "safetensors."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"model.weights: {file} is no file of torch.save, or is damaged: {told[0]}.") from error


def _tensors(file: Path, content: Any) -> Named:
    while isinstance(content, Mapping):
        inside = next((content[name] for name in INSIDE if isinstance(content.get(name), Mapping)), None)
        if inside is None:
            break
        content = inside
    found = {str(name): value for name, value in content.items()} if isinstance(content, Mapping) else {}
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"model.weights: {file} holds no tensors by name: save a state_dict().")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}  # of DataParallel


def _file(place: str) -> Path:
    path = Path(place).expanduser()
    if path.is_dir():
        found = next((path / name for name in IN_FOLDER if (path / name).is_file()), None)
        if found is None:
            raise UserError(f"model.weights: the folder {path} has neither {' nor '.join(IN_FOLDER)}.")
        return found
    if not path.is_file():
        raise UserError(f"model.weights: there is no file '{place}', neither beside the page nor here.")
    return path


def _kind(model: nn.Module) -> str:
    """The name of a model in MODELS."""
    of = f"{type(model).__module__}:{type(model).__qualname__}"
    return next((name for name, path in MODELS.items() if path == of), type(model).__name__)


def _of_ours(there: Named, saved: Mapping[str, Tensor]) -> bool:
    known = sum(name in saved for name in there)
    return known > len(there) / 2


def _unknown(file: Path, there: Named, kind: str) -> str:
    known = " and ".join(origin.library for origin in ORIGINS if origin.model == kind) or "none"
    names = ", ".join(repr(name) for name in sorted(there)[:3])
    return (
        f"model.weights: {file} is of no network that is known; it has names such as {names}. Known for model {kind}: "
        f"{known}."
    )


def _renamed(file: Path, there: Named, origin: Origin, model: nn.Module) -> Named:
    parts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in there.items():
        try:
            ours = origin.ours(name)
        except (KeyError, IndexError):
            raise UserError(
                f"model.weights: {file} is of {origin.library}, and its '{name}' is none that this model can have."
            ) from None
        if ours is not None:
            whole, _, number = ours.partition("@")
            parts.setdefault(whole, {})[int(number or 0)] = tensor
    joined = {
        name: torch.cat([some[number] for number in sorted(some)]) if len(some) > 1 else next(iter(some.values()))
        for name, some in parts.items()
    }
    return origin.arrange(joined, model)


def _grey(ours: Named, saved: Mapping[str, Tensor]) -> list[str]:
    """Let the first convolution take one channel where the file's takes more → that in words."""
    for name, tensor in saved.items():
        if tensor.dim() == 4 and name in ours and ours[name].dim() == 4:
            if tensor.shape[1] == 1 < ours[name].shape[1] and tensor.shape[2:] == ours[name].shape[2:]:
                channels = ours[name].shape[1]
                ours[name] = ours[name].sum(1, keepdim=True)
                return [f"the {channels} channels of its first layer are summed up for images of one"]
            break
    return []


def _added(ours: Named, saved: Mapping[str, Tensor]) -> list[str]:
    """Let special tokens that a vocabulary lacks, which are then put behind it, have their first weights → in words."""
    notes = []
    for name in ("tokens.weight", "masked.bias"):
        if name in ours and name in saved:
            more = len(saved[name]) - len(ours[name])
            if 0 < more <= len(SPECIAL) and saved[name].shape[1:] == ours[name].shape[1:]:
                ours[name] = torch.cat([ours[name], saved[name][-more:].to(ours[name].dtype)])
                notes = [f"the last {more} tokens, which the file does not have, start anew"]
    return notes


def _left(ours: Named, saved: Mapping[str, Tensor], heads: tuple[str, ...]) -> dict[str, str]:
    """Layers of the head that the model has in another form → why each is not taken."""
    found = {}
    for name, tensor in ours.items():
        if name.startswith(heads):
            if name not in saved:
                found[_layer(name)] = "is not in this model"
            elif saved[name].shape != tensor.shape:
                found[_layer(name)] = f"has {saved[name].shape[0]} outputs here and {tensor.shape[0]} there"
                if saved[name].shape[0] == tensor.shape[0]:
                    found[_layer(name)] = f"has {saved[name].shape[1]} inputs here and {tensor.shape[1]} there"
    for name in saved:
        if name.startswith(heads) and name not in ours and _layer(name) not in found:
            found[_layer(name)] = "is not in the file"
    return found


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _refuse_other(file: Path, ours: Named, saved: Mapping[str, Tensor], left: Mapping[str, str]) -> None:
    cure = "Give the model the keys that it was made with."
    for name, tensor in saved.items():
        if _layer(name) in left or (name not in ours and name.endswith(COUNTED)):
            continue
        if name not in ours:
            raise UserError(f"model.weights: {file} has no weight for the model's '{name}'. {cure}")
        if ours[name].shape != tensor.shape:
            raise UserError(
                f"model.weights: the weight '{name}' has shape {list(ours[name].shape)} in {file} and "
                f"{list(tensor.shape)} in the model. {cure}"
            )
    for name in ours:
        if name not in saved and _layer(name) not in left:
            raise UserError(f"model.weights: {file} has a weight '{name}', which the model has not. {cure}")
