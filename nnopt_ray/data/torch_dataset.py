"""A torch.utils.data.Dataset of a user's own as a source: `type: my_pkg.data:Birds`."""

from __future__ import annotations

import errno
import hashlib
import inspect
import os
import sys
import typing
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np

from nnopt_ray.data.cache import ArrayFile, default_cache
from nnopt_ray.data.sources import Source
from nnopt_ray.data.store import beside
from nnopt_ray.data.table import Table, quoted
from nnopt_ray.errors import DataError, PartError
from nnopt_ray.experiment import Beside
from nnopt_ray.reading.addresses import is_address

# Arguments of these names, or that end so, are places beside the page; so are those annotated as a Path.
PLACES = ("root", "path", "file", "folder", "directory", "dir")
ARRAY = "images.npy"
NEEDED = "x a tensor or array, a PIL image, a number, a text, or a mapping of these; y a number, a text or None"


def adapted(part: type) -> type[Source] | None:
    """A source that reads this class; None where it is no torch.utils.data.Dataset.

    Its arguments are the keys of the source, also those that are not keyword-only. Raises PartError for a Dataset
    without positions. Torch is not imported for the question: a subclass of its Dataset has imported it.
    """
    torch_data = sys.modules.get("torch.utils.data")
    if torch_data is None or not issubclass(part, torch_data.Dataset):
        return None
    if issubclass(part, torch_data.IterableDataset) or not hasattr(part, "__len__"):
        raise PartError(f"{part.__qualname__} has no positions: a dataset needs `__len__` and `__getitem__`.")
    places, arguments = _arguments(part)

    def __init__(self: TorchDataset, **said: Any) -> None:
        self.said = said
        self.read_before = None

    signature = inspect.Signature([inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD), *arguments])
    __init__.__signature__ = signature  # type: ignore[attr-defined]
    __init__.__annotations__ = {argument.name: argument.annotation for argument in arguments}
    inside = {"__init__": __init__, "__module__": part.__module__, "__doc__": part.__doc__, "brought": part}
    made: type[Source] = type(part.__name__, (TorchDataset,), {**inside, "places": places})
    return made


class TorchDataset(Source):
    """Items 0 to len - 1 of a map-style dataset, each (x, y), as the rows of a table."""

    brought: ClassVar[type]
    places: ClassVar[Mapping[str, bool]]  # argument → whether it is wanted as a Path
    said: dict[str, Any]
    read_before: tuple[Table, str] | None

    def fingerprint(self, base: Path) -> str:
        """Of all items, as the dataset gives them. What is read for it is handed on by `read`, once."""
        self.read_before = self._read(base)
        return self.read_before[1]

    def read(self, base: Path) -> Table:
        table, _ = self.read_before or self._read(base)
        self.read_before = None
        return table

    def _read(self, base: Path) -> tuple[Table, str]:
        dataset = self.brought(**{name: self._argument(name, value, base) for name, value in self.said.items()})
        name = self.brought.__qualname__
        count = len(dataset)
        if count == 0:
            raise DataError(f"data.source: {name} has no items.")
        first, again = (_Item.of(dataset[0], name, 0) for _ in range(2))
        if first.digest() != again.digest():
            raise DataError(
                f"data.source: item 0 of {name} differs when it is read twice. Take random changes out of it: rows of "
                "the test part must stay as they are, and data.augment changes training rows anew in every epoch."
            )
        with beside(default_cache() / "images" / "reading") as building:
            rows = _Rows(name, count, first, building)
            with rows.images or nullcontext():
                for number in range(count):
                    rows.add(_Item.of(dataset[number], name, number) if number else first, number)
            digest = rows.digest.hexdigest()
            return rows.table(getattr(dataset, "classes", None), digest), digest

    def _argument(self, name: str, value: Any, base: Path) -> Any:
        if name not in self.places or not isinstance(value, str):
            return value
        there = base / Path(value).expanduser()
        full = value if is_address(value) or not there.exists() else str(there)
        return Path(full) if self.places[name] else full


@dataclass(frozen=True, eq=False)
class _Item:
    """One item: its values by column, and the image of it, [channels, height, width], where it has one."""

    columns: dict[str, Any]
    image: np.ndarray | None

    @classmethod
    def of(cls, item: Any, name: str, number: int) -> _Item:
        where = f"data.source: item {number:,} of {name}"
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DataError(f"{where} is a {type(item).__name__}; a pair (x, y) is needed: {NEEDED}.")
        x, y = item
        columns: dict[str, Any] = {}
        images: list[np.ndarray] = []
        for key, value in x.items() if isinstance(x, Mapping) else (("x", x),):
            cls._put(str(key), value, columns, images, f"{where}: x")
        if len(images) > 1:
            raise DataError(f"{where} has {len(images)} images; one can be learned from.")
        if "target" in columns:
            raise DataError(f"{where}: x has an entry 'target', which is the name of y. Name it otherwise.")
        columns["target"] = _scalar(y, f"{where}: y")
        return cls(columns, images[0] if images else None)

    @staticmethod
    def _put(key: str, value: Any, columns: dict[str, Any], images: list[np.ndarray], where: str) -> None:
        array = _array(value)
        if array is None or array.ndim == 0:
            columns[key] = _scalar(value if array is None else array, where)
        elif array.dtype.kind not in "biuf":
            raise DataError(f"{where} holds {array.dtype}; numbers are needed.")
        elif array.ndim == 1:
            columns |= {f"{key}{place}": number for place, number in enumerate(array.tolist())}
        elif array.ndim in (2, 3):
            last = array.ndim == 3 and (
                _is_picture(value) or (array.shape[0] not in (1, 3, 4) and array.shape[2] in (1, 3, 4))
            )
            images.append(np.moveaxis(array, 2, 0) if last else array if array.ndim == 3 else array[None])
        else:
            raise DataError(
                f"{where} has the shape {array.shape}; images are [height, width] or [channels, height, width]."
            )

    def digest(self) -> str:
        return hashlib.blake2b(
            repr((self.columns, self.image is not None and self.image.tobytes())).encode()
        ).hexdigest()


@dataclass(eq=False)
class _Rows:
    """The items as they come; images go to a mapped file at once, so that memory stays bounded."""

    name: str
    count: int
    first: _Item
    folder: Path
    columns: dict[str, list[Any]] = field(default_factory=dict)
    images: ArrayFile | None = None
    digest: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=20))

    def __post_init__(self) -> None:
        self.columns = {key: [] for key in self.first.columns}
        self.digest.update(self._shape(self.first).encode())
        if self.first.image is not None:
            shape = (self.count, *self.first.image.shape)
            self.images = ArrayFile(self.folder / ARRAY, self.first.image.dtype, shape)

    def add(self, item: _Item, number: int) -> None:
        if list(item.columns) != list(self.columns):
            raise DataError(
                f"data.source: item {number:,} of {self.name} has {_told(item)}, and item 0 {_told(self.first)}. "
                "All items must be alike."
            )
        if self._shape(item) != self._shape(self.first):
            raise DataError(
                f"data.source: item {number:,} of {self.name} has an image of {self._shape(item)}, and item 0 one of "
                f"{self._shape(self.first)}. All must have one shape and kind of numbers."
            )
        for key, value in item.columns.items():
            self.columns[key].append(value)
        self.digest.update(repr(list(item.columns.items())).encode())
        if item.image is not None and self.images is not None:
            self.images.put(number, item.image[None])
            self.digest.update(np.ascontiguousarray(item.image).tobytes())

    @staticmethod
    def _shape(item: _Item) -> str:
        return "nothing" if item.image is None else f"{item.image.shape}, {item.image.dtype}"

    def table(self, classes: Any, digest: str) -> Table:
        import pyarrow as pa

        columns = {}
        for key, values in self.columns.items():
            try:
                columns[key] = pa.array(values)
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                kinds = sorted({type(value).__name__ for value in values if value is not None})
                what = "y" if key == "target" else f"'{key}'"
                raise DataError(f"data.source: {what} of {self.name} is of several kinds: {quoted(kinds)}.") from error
        columns["target"] = _named(columns["target"], classes)
        return Table(self.name, pa.table(columns), images=self._kept(digest), target="target")

    def _kept(self, digest: str) -> np.ndarray | None:
        """The images at their place in the cache, mapped."""
        if self.images is None:
            return None
        place = default_cache() / "images" / f"dataset-{digest}"
        try:
            os.rename(self.folder, place)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        found: np.ndarray = np.load(place / ARRAY, mmap_mode="r", allow_pickle=False)
        return found


def _arguments(part: type) -> tuple[dict[str, bool], list[inspect.Parameter]]:
    """The places among the arguments of a class, and all that a page can give, as keyword-only ones."""
    try:
        hints = typing.get_type_hints(part.__init__, include_extras=True)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise PartError(f"the annotations of '{part.__qualname__}' cannot be read: {error}") from error
    places: dict[str, bool] = {}
    found: list[inspect.Parameter] = []
    for argument in inspect.signature(part).parameters.values():
        if argument.kind not in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY):
            continue
        default = argument.default
        hint = hints.get(argument.name, type(default) if isinstance(default, bool) else Any)
        members = typing.get_args(hint) or (hint,)
        wants_path = any(inspect.isclass(member) and issubclass(member, os.PathLike) for member in members)
        if isinstance(default, os.PathLike):
            default = str(default)
        if default is not argument.empty and not isinstance(default, (type(None), bool, int, float, str, list, tuple)):
            continue  # such as a transform: no page can say it, and the class knows it
        if wants_path:
            hint = Annotated[str | None, Beside()] if default is None else Annotated[str, Beside()]
        elif argument.name.rpartition("_")[2] in PLACES:
            hint = Annotated[hint, Beside()]
        if wants_path or argument.name.rpartition("_")[2] in PLACES:
            places[argument.name] = wants_path and str not in members
        found.append(argument.replace(kind=argument.KEYWORD_ONLY, annotation=hint, default=default))
    return places, found


def _channels_first(array: np.ndarray, picture: bool) -> np.ndarray:
    """[channels, height, width]. Tensors and arrays have channels first, unless only the last axis can be channels."""
    if array.ndim == 2:
        return array[None]
    last = picture or (array.shape[0] not in (1, 3, 4) and array.shape[2] in (1, 3, 4))
    return np.moveaxis(array, 2, 0) if last else array


def _is_picture(value: Any) -> bool:
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)


def _array(value: Any) -> np.ndarray | None:
    """A tensor, array or picture as an array; None for all else."""
    torch = sys.modules["torch"]
    if isinstance(value, torch.Tensor):
        return np.asarray(value.detach().cpu())
    if _is_picture(value):
        return np.asarray(value if value.mode in ("L", "RGB") else value.convert("L" if value.mode == "1" else "RGB"))
    return value if isinstance(value, np.ndarray) else None


def _scalar(value: Any, where: str) -> Any:
    array = _array(value)
    if array is not None:
        if array.size != 1 or array.dtype.kind not in "biufU":
            raise DataError(f"{where} has the shape {array.shape} and holds {array.dtype}; a single value is needed.")
        return array.reshape(-1)[0].item()
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise DataError(f"{where} is a {type(value).__name__}; what is needed: {NEEDED}.")


def _named(column: Any, classes: Any) -> Any:
    """Whole numbers as the words of `classes`, an attribute that torchvision's datasets have; else the column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    words = isinstance(classes, (list, tuple)) and classes and all(isinstance(word, str) for word in classes)
    if not words or not pa.types.is_integer(column.type):
        return column
    ends = pc.min_max(column).as_py()
    inside = ends["min"] is not None and ends["min"] >= 0 and ends["max"] < len(classes)
    return pa.array(list(classes), pa.string()).take(column) if inside else column


def _told(item: _Item) -> str:
    return quoted(list(item.columns)) + (" and an image" if item.image is not None else "")


__all__ = ["TorchDataset", "adapted"]
