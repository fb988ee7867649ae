"""Find a part by its name or dotted path; its keys are the keyword-only arguments of its signature.

A table is a dict literal at the door of a room, name → "module:Attribute". The strings keep a
library unimported until a part that needs it is chosen. A part that a user brings is named by the
same kind of string in the page (`type: my_pkg.nets:Net`) and obeys the same rules.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import traceback
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from nnopt_ray.errors import MissingExtra, PartError


@dataclass(frozen=True)
class Room:
    """One kind of part: where its table lies and what each of its parts must be."""

    name: str
    table: str  # "module:DICT"
    contract: str  # "module:Class" that every part must be a subclass of
    about: str
    number: tuple[str, str] | None = None  # the part and its key that a number alone stands for
    checked: str = ""  # "module:function" that refuses a user's part which leaves open what must be known of it
    adapter: str = ""  # "module:function" that makes a part of another class that users have, or answers None


ROOMS: dict[str, Room] = {
    room.name: room
    for room in (
        Room(
            "source",
            "nnopt_ray.data:SOURCES",
            "nnopt_ray.data.sources:Source",
            "where the rows come from",
            adapter="nnopt_ray.data.torch_dataset:adapted",
        ),
        Room("split", "nnopt_ray.data:SPLITS", "nnopt_ray.data.split:Split", "how rows are divided"),
        Room(
            "fold",
            "nnopt_ray.data:FOLDS",
            "nnopt_ray.data.folds:Folds",
            "how rows are divided for cross-validation",
            number=("auto", "folds"),
        ),
        Room(
            "check",
            "nnopt_ray.data:CHECKS",
            "nnopt_ray.data.quality:Check",
            "what is wrong with the data: found, reported, and repaired if asked",
        ),
        Room("step", "nnopt_ray.data:STEPS", "nnopt_ray.data.steps:Step", "preprocessing fitted on the training part"),
        Room(
            "balance",
            "nnopt_ray.data:BALANCERS",
            "nnopt_ray.data.balance:Balancer",
            "how the classes of the training part are evened out",
        ),
        Room(
            "augmentation",
            "nnopt_ray.train:AUGMENTATIONS",
            "nnopt_ray.train.augmentations:Augmentation",
            "how rows of training batches are changed by chance",
        ),
        Room("model", "nnopt_ray.models:MODELS", "torch.nn:Module", "the network"),
        Room(
            "optimizer",
            "nnopt_ray.train:OPTIMIZERS",
            "nnopt_ray.train.optimizers:Optimizer",
            "how gradients are applied",
        ),
        Room(
            "schedule", "nnopt_ray.train:SCHEDULES", "nnopt_ray.train.schedules:Schedule", "the learning rate over time"
        ),
        Room("loss", "nnopt_ray.train:LOSSES", "nnopt_ray.train.losses:Loss", "what training minimizes"),
        Room(
            "method",
            "nnopt_ray.search:SEARCHERS",
            "nnopt_ray.search.searchers:Method",
            "how a search chooses its trials",
        ),
        Room(
            "scheduler",
            "nnopt_ray.search:SCHEDULERS",
            "nnopt_ray.search.schedulers:Scheduler",
            "which trials stop early",
        ),
        Room(
            "metric",
            "nnopt_ray.evaluate:METRICS",
            "nnopt_ray.evaluate.metrics:Metric",
            "how good predictions are",
            checked="nnopt_ray.evaluate.own:check",
        ),
        Room(
            "threshold",
            "nnopt_ray.evaluate:THRESHOLDS",
            "nnopt_ray.evaluate.threshold:Aim",
            "two classes: from which probability on the positive one is predicted",
            number=("at", "probability"),
        ),
        Room(
            "explainer",
            "nnopt_ray.evaluate:EXPLAINERS",
            "nnopt_ray.evaluate.explainers:Explainer",
            "why the network says what it says",
        ),
        Room(
            "tracker", "nnopt_ray.tracking:TRACKERS", "nnopt_ray.tracking.tracker:Tracker", "who else is told of a run"
        ),
    )
}

# The package of an import that fails → the extra of this project that brings it.
EXTRAS = {"timm": "pretrained", "transformers": "pretrained", "onnx": "export", "onnxruntime": "export"}


@dataclass(frozen=True)
class Part:
    """A chosen part: its name in its room and its keys, checked and with defaults filled in."""

    type: str
    keys: MappingProxyType[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __getitem__(self, key: str) -> Any:
        return self.keys[key]

    def page(self) -> dict[str, Any]:
        """As it stands on a page: `{type: ..., key: value, ...}`."""
        return {"type": self.type, **self.keys}

    def __reduce__(self) -> Any:  # a MappingProxyType does not pickle
        return _part, (self.type, dict(self.keys))


def _part(type_: str, keys: dict[str, Any]) -> Part:
    return Part(type_, MappingProxyType(keys))


def load(path: str) -> Any:
    """The attribute that "module:Attribute" names; whatever the import raises passes through."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def table(room: str) -> dict[str, str]:
    """name → "module:Attribute" of a room."""
    found: dict[str, str] = load(ROOMS[room].table)
    return found


def libraries(room: str) -> dict[str, str]:
    """Prefix of a type, as `timm` of `timm/resnet18` → "module:function" that gives the class of the rest."""
    found: dict[str, str] = load("nnopt_ray.models:LIBRARIES") if room == "model" else {}
    return found


def suggestion(word: str, known: list[str]) -> str:
    """ " Did you mean 'x'?" for the nearest of `known`, else the list of what there is.

    A name that was cut short (`val_acc`) is the shortest that begins so.
    """
    begun = sorted((name for name in known if len(word) > 2 and name.startswith(word)), key=len)
    near = begun or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f" Did you mean '{near[0]}'?"
    return f" Known: {', '.join(known)}." if known else ""


def _elsewhere(room: str, name: str) -> str:
    """What to write for a name that the room has under another, as a sentence; empty when there is none."""
    module = importlib.import_module(ROOMS[room].table.partition(":")[0])
    written = getattr(module, "OTHER_NAMES", {}).get(name.lower().replace("-", ""))
    return f" Write {written}." if written else ""


def find(room: str, name: str) -> Any:
    """The class that `type: name` means in a room, checked against the room's contract.

    Nothing of a user's part is called before it is known to be a subclass of the contract.
    Raises PartError (unknown name, failing import, not the kind the room takes), MissingExtra.
    """
    return _find(room, name)


@lru_cache(maxsize=512)
def _find(room: str, name: str) -> Any:
    names = table(room)
    path = names.get(name, name)
    library = libraries(room).get(name.partition("/")[0]) if "/" in name else None
    if library is not None:
        return load(library)(name.partition("/")[2])
    if name not in names and (name.count(":") != 1 or not all(name.split(":"))):
        raise PartError(
            f"unknown {room} '{name}'.{_elsewhere(room, name) or suggestion(name, list(names))} "
            "A part of your own is written package.module:Class."
        )
    part = _named(path, name)
    contract = load(ROOMS[room].contract)
    if not (inspect.isclass(part) and issubclass(part, contract)):
        adapter = ROOMS[room].adapter
        if adapter and inspect.isclass(part) and (made := load(adapter)(part)) is not None:
            return made
        raise PartError(
            f"'{name}' is no {room}: it must be a subclass of "
            f"{contract.__module__}.{contract.__qualname__}, and is {_kind(part)}."
        )
    if name not in names and ROOMS[room].checked:
        load(ROOMS[room].checked)(part, name)
    return part


def function(path: str) -> Callable[..., Any]:
    """The function of a user's own that "package.module:function" names. Raises PartError when there is none."""
    if path.count(":") != 1 or not all(path.split(":")):
        raise PartError(f"a function of your own is written package.module:function, and this is '{path}'.")
    found = _named(path, path)
    if not callable(found):
        raise PartError(f"'{path}' is no function, but {_kind(found)}.")
    named: Callable[..., Any] = found
    return named


def _named(path: str, name: str) -> Any:
    """What "module:attribute" names; `name` is what the page says. Raises PartError, MissingExtra."""
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in EXTRAS:
            raise MissingExtra(
                f"'{name}' needs the package {missing}: pip install 'nnopt-ray[{EXTRAS[missing]}]'."
            ) from error
        raise PartError(
            f"cannot import '{module_name}': {error}. It is looked for beside the page, in the current "
            "directory and among the installed packages."
        ) from error
    except (Exception, SystemExit) as error:  # a user's module may raise anything; nothing of ours runs in it
        raise PartError(f"importing '{module_name}' failed: {type(error).__name__}: {error}") from error
    part = module
    for step in attribute.split("."):
        if not hasattr(part, step):
            raise PartError(f"'{module_name}' has no '{attribute}'.{suggestion(step, _classes(module))}")
        part = getattr(part, step)
    return part


def _classes(module: Any) -> list[str]:
    return [n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module.__name__][:20]


def _kind(thing: Any) -> str:
    return f"the class {thing.__qualname__}" if inspect.isclass(thing) else f"a {type(thing).__name__}"


class Keys(BaseModel):
    """Base of the models made from signatures: strict, closed, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True)


def keys(room: str, name: str) -> type[Keys]:
    """The keys of a part as a pydantic model made from the keyword-only arguments of its `__init__`.

    `Annotated[float, Field(ge=0)]` gives a range, `Literal` a choice, a default makes a key optional.
    An argument without annotation takes anything. Raises PartError as `find` does.
    """
    return _keys(room, name)


@lru_cache(maxsize=512)
def _keys(room: str, name: str) -> type[Keys]:
    part = find(room, name)
    try:
        hints = typing.get_type_hints(part.__init__, include_extras=True)
    except Exception as error:  # annotations of a user's class may name anything
        raise PartError(f"the annotations of '{name}' cannot be read: {error}") from error
    fields: dict[str, Any] = {}
    for argument in inspect.signature(part.__init__).parameters.values():
        if argument.kind is not argument.KEYWORD_ONLY:
            continue
        default = ... if argument.default is argument.empty else argument.default
        fields[argument.name] = (hints.get(argument.name, Any), default)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", 'Field name ".*" .*shadows', UserWarning)  # a key may be called `json`
        made: type[Keys] = create_model(f"{room}_{name}", __base__=Keys, **fields)
    made.__doc__ = inspect.getdoc(part) or ""
    return made


def build(room: str, part: Part, *supplied: Any) -> Any:
    """Make a part: what the run supplies is positional, what the page says is by keyword."""
    return find(room, part.type)(*supplied, **part.keys)


def own_parts(node: Any) -> Iterator[str]:
    """Every `type: package.module:Class`, `function: package.module:function` and metric of its own that a page,
    given as plain data, names."""
    if isinstance(node, Mapping):
        yield from (str(node[key]) for key in ("type", "function") if ":" in str(node.get(key, "")))
        for key in ("objective", "metrics", "monitor"):
            said = node.get(key)
            named = [said] if isinstance(said, str) else said if isinstance(said, (list, tuple)) else []
            for one in named:
                if isinstance(one, str) and ":" in one:
                    yield one.split()[-1].removeprefix("cv_").removeprefix("val_")
        for value in node.values():
            yield from own_parts(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from own_parts(value)


def own_place(page: Mapping[str, Any], error: BaseException) -> str:
    """file:line where a part that the page brings itself stood when this error was raised; empty when the
    error came by none. `page` is plain data."""
    modules = {name.partition(":")[0] for name in own_parts(page)}
    files = {getattr(sys.modules.get(module), "__file__", None) for module in modules}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


__all__ = [
    "EXTRAS",
    "ROOMS",
    "Keys",
    "Part",
    "Room",
    "build",
    "find",
    "function",
    "keys",
    "load",
    "own_parts",
    "own_place",
    "suggestion",
    "table",
]
