"""The source `hugging_face`: a folder that `save_to_disk` of the library datasets wrote, read with Arrow alone."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

import numpy as np

from nnopt_ray.data.files import digest, located, reading
from nnopt_ray.data.pixels import Shaping, Size, with_images
from nnopt_ray.data.sources import Source
from nnopt_ray.data.split import GIVEN_NAMES
from nnopt_ray.data.table import Table, hint, quoted
from nnopt_ray.errors import DataError
from nnopt_ray.experiment import Beside

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"
UNREAD = ("Audio", "Video", "Pdf", "Nifti", "Translation", "TranslationVariableLanguages")
CURE = "Write it anew by save_to_disk."


class HuggingFace(Source):
    """A Dataset or DatasetDict that `save_to_disk` of Hugging Face's library datasets wrote; the library is not needed.

    Numbers, texts and dates are columns; the names of a ClassLabel are its values; a list of fixed length, such as an
    embedding, is a column for each place, `NAME_0`, `NAME_1`; an Image is the image input. Where there is one
    ClassLabel, it is the target, and `data.target` may call it as it likes. The splits train, validation and test of a
    DatasetDict are the parts (`split: given`, the default then).

    Keys:
        path: the folder, relative to the page.
        splits: of a DatasetDict, those to read; when left out all of train, validation and test.
        image: the column of images to learn from, where there are several.
        size: height and width that all images are brought to, or a square's side; without it they must have one size.
        resize: stretch; crop what stands out, in the middle; or pad with black. The latter keep the proportions.
        channels: 1 (shades) or 3 (colours); auto is 3 where an image is coloured.
        corrupt: images that cannot be read are refused, or left_out with a note and a line each in audit.csv.
    """

    def __init__(
        self,
        *,
        path: Annotated[str, Beside()],
        splits: tuple[str, ...] | None = None,
        image: str | None = None,
        size: Size | None = None,
        resize: Literal["stretch", "crop", "pad"] = "stretch",
        channels: Literal["auto", 1, 3] = "auto",
        corrupt: Literal["refuse", "leave_out"] = "refuse",
    ) -> None:
        self.path = path
        self.splits = splits
        self.image = image
        self.shaping = Shaping.of(size, resize, channels, corrupt)
        self._digest = ""

    @classmethod
    def divides(cls, keys: Mapping[str, Any], base: Path) -> bool:
        place, chosen = keys.get("path"), keys.get("splits")
        if not isinstance(place, str) or "://" in place:
            return False
        try:
            there = json.loads((base / place / SPLITS).read_text(encoding="utf-8"))["splits"]
            parts = {GIVEN_NAMES.get(name.lower(), "") for name in (there if chosen is None else chosen)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
        parts = parts - {""} if chosen is None else parts
        return "" not in parts and "train" in parts and len(parts) > 1

    def fingerprint(self, base: Path) -> str:
        root = located(self.path, base, "data.source.path")
        chosen, _ = self._chosen(root)
        self._digest = " ".join(digest([*_data_files(folder), folder / INFO], folder) for folder in chosen.values())
        return self._digest

    def read(self, base: Path) -> Table:
        import pyarrow as pa

        root = located(self.path, base, "data.source.path")
        content = self._digest or self.fingerprint(base)
        chosen, notes = self._chosen(root)
        read = {name: _table(folder) for name, folder in chosen.items()}
        features = _features(chosen, read)
        counts = [table.num_rows for table in read.values()]
        with reading("a folder of datasets", root, CURE):
            whole = pa.concat_tables(read.values(), promote_options="permissive")
        columns = dict(_columns(whole, features, notes))
        labels = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
        table = Table(
            str(root),
            pa.table(columns) if columns else pa.table({}),
            target=labels[0] if len(labels) == 1 else None,
            own_parts=_own_parts(list(chosen), counts),
            notes=tuple(notes),
        )
        images = [name for name, feature in features.items() if feature.get("_type") == "Image"]
        if not images and self.image is None:
            return table
        name = self._image(images, features, root)
        notes += [
            f"Column '{other}' (Image) is not read; the images are '{name}'." for other in images if other != name
        ]
        table = replace(table, notes=tuple(notes))
        found = _Images(whole.column(name), list(chosen), counts, root)
        return with_images(table, sum(counts), found.opened, found.named, self.shaping, f"{content} {name}")

    def _chosen(self, root: Path) -> tuple[dict[str, Path], list[str]]:
        """Split → its folder, and notes."""
        if not root.is_dir():
            what = "is a file" if root.exists() else "is not there"
            raise DataError(f"data.source.path: {root} {what}; hugging_face needs a folder written by save_to_disk.")
        if (root / STATE).is_file():
            if self.splits is not None:
                raise DataError(f"data.source.splits: {root} is a single Dataset without splits. Leave `splits` out.")
            return {"": root}, []
        if not (root / SPLITS).is_file():
            raise DataError(
                f"data.source.path: {root} was not written by save_to_disk: it holds neither {STATE} nor {SPLITS}. "
                "Files of Parquet or CSV are read by the source types parquet and csv."
            )
        there = [str(name) for name in _json(root / SPLITS).get("splits", [])]
        known = [name for name in there if name.lower() in GIVEN_NAMES]
        if self.splits is None and not known:
            raise DataError(f"data.source: the splits of {root} are {quoted(there)}. Name those to read: splits: [...]")
        names = list(self.splits) if self.splits is not None else known
        for name in names:
            if name not in there:
                raise DataError(f"data.source.splits: {root} has no split '{name}'; it has {quoted(there)}.")
        others = [name for name in there if name not in names] if self.splits is None else []
        left = (
            [f"Splits that are none of train, validation and test were left out: {quoted(others)}."] if others else []
        )
        return {name: root / name for name in names}, left

    def _image(self, images: list[str], features: Mapping[str, Any], root: Path) -> str:
        if self.image is None:
            if len(images) > 1:
                raise DataError(
                    f"data.source: {root} has several columns of images, {quoted(images)}. "
                    f"Add to data.source: image: {images[0]}"
                )
            return images[0]
        if self.image not in features:
            raise DataError(
                f"data.source.image: {root} has no column '{self.image}'.{hint(self.image, list(features))}"
            )
        if self.image not in images:
            kind = features[self.image].get("_type")
            raise DataError(f"data.source.image: '{self.image}' is a column of {kind}, none of Image.")
        return self.image


def _json(file: Path) -> dict[str, Any]:
    with reading("a folder of datasets", file, CURE):
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no mapping")
        return found


def _data_files(folder: Path) -> list[Path]:
    state = _json(folder / STATE)
    if state.get("_indices_data_files"):
        raise DataError(f"data.source: {folder} was written by an old version of datasets, with indices. {CURE}")
    names = [entry.get("filename") for entry in state.get("_data_files", []) if isinstance(entry, dict)]
    files = [folder / str(name) for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise DataError(f"data.source: {folder} lacks {quoted(missing) or 'its files'}, named by its {STATE}. {CURE}")
    return files


def _table(folder: Path) -> pa.Table:
    import pyarrow as pa
    from pyarrow import ipc

    tables = []
    for file in _data_files(folder):
        with reading("Arrow", file, CURE), pa.memory_map(str(file)) as stream:
            tables.append(ipc.open_stream(stream).read_all())
    return pa.concat_tables(tables, promote_options="permissive").replace_schema_metadata(None)


def _features(chosen: Mapping[str, Path], read: Mapping[str, pa.Table]) -> dict[str, Any]:
    """Column → what it holds, by the file beside the data. Raises DataError where two splits differ."""
    every = {name: _json(folder / INFO).get("features") or {} for name, folder in chosen.items()}
    first = next(iter(every))
    for name, table in read.items():
        found = {column: every[name].get(column) or {} for column in table.column_names}
        every[name] = {c: f if isinstance(f, dict) else {"_type": "List", "feature": f} for c, f in found.items()}
    for name, features in every.items():
        differing = [key for key in {**every[first], **features} if every[first].get(key) != features.get(key)]
        if differing:
            raise DataError(
                f"data.source: the splits '{first}' and '{name}' differ in the columns {quoted(differing)}. "
                "Write them with the same features, or read one of them: splits: [...]"
            )
    return every[first]


def _columns(table: pa.Table, features: Mapping[str, Any], notes: list[str]) -> Iterator[tuple[str, Any]]:
    """Name and Arrow column of all that are no images."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name, feature in features.items():
        column, kind = table.column(name), feature.get("_type")
        if kind in UNREAD:
            notes.append(f"Column '{name}' ({kind}) is not read.")
        elif kind == "ClassLabel" and feature.get("names"):
            codes = pc.if_else(pc.less(column, 0), None, column)  # -1 is what datasets writes where none is known
            beyond = pc.max(codes).as_py()
            if beyond is not None and beyond >= len(feature["names"]):
                known = len(feature["names"])
                raise DataError(f"data.source: '{name}' holds the label {beyond}, and only {known} are named. {CURE}")
            yield name, pa.array(feature["names"], pa.string()).take(codes)
        elif pa.types.is_fixed_size_list(column.type) and not pa.types.is_nested(column.type.value_type):
            for place in range(column.type.list_size):
                yield f"{name}_{place}", pc.list_element(column, place)
        elif kind != "Image":
            yield name, column


def _own_parts(names: list[str], counts: list[int]) -> np.ndarray | None:
    parts = [GIVEN_NAMES.get(name.lower()) for name in names]
    return None if None in parts or len(set(parts)) < 2 else np.repeat(np.array(parts), counts)


@dataclass(frozen=True, eq=False)
class _Images:
    """column: of {bytes, path}; splits and their rows, for names in messages."""

    column: Any
    splits: list[str]
    counts: list[int]
    root: Path

    def opened(self, number: int) -> BinaryIO:
        found = self.column[number]
        content, path = (found.get(key) for key in ("bytes", "path")) if found.is_valid else (None, None)
        if content is not None and content.is_valid:
            return io.BytesIO(content.as_buffer())
        if path is None or not path.is_valid:
            raise ValueError("there is none")
        place: Path = self.root / path.as_py()
        return place.open("rb")

    def named(self, number: int) -> str:
        ends = list(accumulate(self.counts))
        split = next(position for position, end in enumerate(ends) if number < end)
        row = number - (ends[split] - self.counts[split])
        return f"row {row:,} of {self.splits[split]}" if self.splits[split] else f"row {row:,}"


__all__ = ["HuggingFace"]
