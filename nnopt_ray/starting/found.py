"""What DATA is: the source that reads it, told from its name and its first bytes, and its rows."""

from __future__ import annotations

import codecs
import csv as python_csv
import io
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import numpy as np

from nnopt_ray import tables
from nnopt_ray.data.csv_file import MISSING, Csv
from nnopt_ray.data.idx import NAME as IDX_NAME
from nnopt_ray.data.pixels import SUFFIXES as IMAGES
from nnopt_ray.data.sources import Sklearn, Source
from nnopt_ray.data.table import Table, is_text, quoted, tidy
from nnopt_ray.errors import DataError
from nnopt_ray.reading.addresses import is_address
from nnopt_ray.tables import suggestion

Kind = Literal["table", "image", "sequence", "folder of texts", "lines"]

PACKED = (".gz", ".bz2", ".zst")
CSV = (".csv", ".tsv", ".tab")
TEXTS = (".txt", ".text", ".md")
ARROW = (".arrow", ".feather", ".ipc")
PARQUET = (".parquet", ".pq")
BLOCK = 1 << 20
HEAD = 1 << 16  # bytes from which text lines are told from a table
MOST_PIXELS = 64  # height and width that images of a folder are brought to at most: networks of minutes, not of hours
IMAGES_LOOKED_AT = 200
MARKS = (
    "?",
    "-",
    "--",
    "---",
    ".",
    "n.a.",
    "na",
    "n.d.",
    "none",
    "nil",
    "unknown",
    "missing",
    "not available",
    "#ref!",
)
LIKE_NUMBER = r"^[+-]?(\d+([.,]\d+)?|[.,]\d+)([eE][+-]?\d+)?$"
X_NAMES = ("x", "data", "images", "features", "inputs", "x_train")
Y_NAMES = ("y", "target", "targets", "labels", "label", "y_train")
LENGTH_NAMES = ("lengths", "length", "lens")
READ = "csv, tsv, parquet, arrow, feather, npz, npy, txt; a folder of images, of texts or of IDX files; sklearn:NAME"


@dataclass(frozen=True, eq=False)
class Found:
    """keys: of data.source on the page. table: all rows, tidy. remarks: what was recognised, a sentence each.

    own_parts: the source divides its rows itself. short: how DATA is called, for names and sentences.
    """

    kind: Kind
    keys: Mapping[str, Any]
    table: Table
    short: str
    own_parts: bool = False
    remarks: tuple[str, ...] = ()


def find(data: str, folder: Path, target: str | None) -> Found:
    """DATA as a source of a page in `folder`. Raises DataError with one sentence when it is none."""
    if data.startswith("sklearn:"):
        return _sklearn(data.removeprefix("sklearn:"))
    if is_address(data):
        raise DataError(f"init looks at files of this machine, and {data} is an address. Fetch it first.")
    place = Path(data).expanduser()
    if not place.exists():
        raise DataError(f"there is no file or folder {data}.{_near(place)}")
    if place.is_dir():
        return _folder(place, folder)
    if place.stat().st_size == 0:
        raise DataError(f"{data} is empty.")
    kind = suffix(place.name)
    if kind in PARQUET or kind in ARROW:
        return _read("table", {"type": "parquet" if kind in PARQUET else "arrow", "path": str(place)}, folder)
    if kind in (".npz", ".npy"):
        return _arrays(place, folder)
    if kind in IMAGES:
        raise DataError(f"{data} is one image. Name the folder that holds a folder of images for each class.")
    if kind in CSV or (kind not in TEXTS and _is_text(place)) or (kind in TEXTS and target is not None):
        return _csv(place, folder)
    if kind in TEXTS:
        return _csv(place, folder) if _has_fields(place) else _lines(place, folder)
    raise DataError(f"{data} is of no kind that init knows: {READ}.")


def suffix(name: str) -> str:
    """The suffix in small letters; that of what is packed, .csv of mine.csv.gz."""
    ends = [end.lower() for end in Path(name).suffixes]
    return next((end for end in reversed(ends) if end not in PACKED), "")


def _near(place: Path) -> str:
    if not place.parent.is_dir():
        return f" There is no folder {place.parent} either."
    others = sorted(each.name for each in place.parent.iterdir() if not each.name.startswith("."))
    near = suggestion(place.name, others) if others else ""
    return near if "Did you mean" in near else ""


def _sklearn(name: str) -> Found:
    known = [str(each) for each in get_args(get_type_hints(Sklearn.__init__)["name"])]
    if name not in known:
        raise DataError(f"scikit-learn brings no data set '{name}'.{suggestion(name, known)}")
    return _read("image" if name == "digits" else "table", {"type": "sklearn", "name": name}, Path.cwd(), name)


def _read(kind: Kind, keys: dict[str, Any], folder: Path, short: str = "", remarks: tuple[str, ...] = ()) -> Found:
    """The rows of the source with these keys; its paths become those of a page in `folder`."""
    contract = tables.find("source", keys["type"])
    source: Source = contract(**{key: value for key, value in keys.items() if key != "type"})
    table = tidy(source.read(Path.cwd()))
    own = table.own_parts is not None
    said = {key: _beside(value, folder) if key == "path" else value for key, value in keys.items()}
    named = short or Path(str(keys.get("path", keys.get("x", "data")))).name
    return Found(kind, said, table, named, own, remarks)


def _beside(path: str, folder: Path) -> str:
    """The path as a page in `folder` says it: relative, unless that leads far up."""
    relative = os.path.relpath(Path(path).resolve(), folder.resolve())
    return str(Path(path).resolve()) if relative.startswith(os.path.join("..", "..")) else Path(relative).as_posix()


# Tables


def _csv(place: Path, folder: Path) -> Found:
    keys: dict[str, Any] = {"type": "csv", "path": str(place)}
    remarks: list[str] = []
    encoding = _encoding(place)
    if encoding != "utf-8":
        keys["encoding"] = encoding
        remarks.append(f"The file is written in {encoding}.")
    delimiter = Csv(path=str(place), delimiter="auto", encoding=encoding).sniffed(place)
    if delimiter != ",":
        keys["delimiter"] = delimiter
        remarks.append(f"Its fields are separated by {delimiter!r}.")
    if not _has_header(place, delimiter, encoding):
        keys["header"] = False
        remarks.append("Its first row holds numbers, so the columns have no names: f0, f1, ...")
    table = tidy(Csv(**{key: value for key, value in keys.items() if key != "type"}).read(Path.cwd()))
    if _decimal_comma(table) and delimiter != ",":
        keys["decimal"] = ","
        remarks.append("Its numbers have a decimal comma.")
        table = tidy(Csv(**{key: value for key, value in keys.items() if key != "type"}).read(Path.cwd()))
    marks = _marks(table)
    if marks:
        keys["missing"] = list(marks)
        remarks.append(f"{', '.join(map(repr, marks))} {'stands' if len(marks) == 1 else 'stand'} for a missing value.")
    return _read("table", keys, folder, remarks=tuple(remarks))


def _encoding(place: Path) -> str:
    """utf-8 where every byte of the file is that; utf-16 by its mark; else cp1252, or latin-1 which reads any byte."""
    import pyarrow as pa

    tried = {"utf-8": codecs.getincrementaldecoder("utf-8")(), "cp1252": codecs.getincrementaldecoder("cp1252")()}
    with pa.input_stream(str(place), compression="detect") as content:
        first = True
        while block := content.read(BLOCK):
            if first and block[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                return "utf-16"
            first = False
            for name, decoder in list(tried.items()):
                try:
                    decoder.decode(block)
                except UnicodeDecodeError:
                    del tried[name]
    return next(iter(tried), "latin-1")


def _rows(place: Path, delimiter: str, encoding: str) -> list[list[str]]:
    import pyarrow as pa

    with pa.input_stream(str(place), compression="detect") as content:
        head = content.read(HEAD).decode(encoding, errors="replace")
    lines = head[: head.rfind("\n") + 1] or head
    return [row for row in python_csv.reader(io.StringIO(lines, newline=""), delimiter=delimiter) if row]


def _has_header(place: Path, delimiter: str, encoding: str) -> bool:
    """No, when the first row holds nothing but numbers, or a number in each column of numbers."""
    rows = _rows(place, delimiter, encoding)
    if len(rows) < 2:
        return True
    first, second = ([bool(re.match(LIKE_NUMBER, field.strip())) for field in row] for row in rows[:2])
    return not (any(first) and first == second and len(set(rows[0])) > 0 and sum(first) * 2 >= len(first))


def _has_fields(place: Path) -> bool:
    """Whether a text file is a table: the same number of fields, at least two, in all of its first rows."""
    delimiter = Csv(path=str(place), delimiter="auto", encoding=_encoding(place)).sniffed(place)
    counts = Counter(map(len, _rows(place, delimiter, _encoding(place))))
    return len(counts) == 1 and next(iter(counts)) >= 2


def _is_text(place: Path) -> bool:
    with place.open("rb") as file:
        head = file.read(HEAD)
    return suffix(place.name) in ("", ".dat", ".data") and b"\0" not in head


def _texts_of(table: Table) -> list[tuple[str, Any]]:
    """(column, its different texts) of all text columns."""
    import pyarrow.compute as pc

    columns = ((name, table.columns.column(name)) for name in table.names)
    return [(name, pc.value_counts(column.drop_null())) for name, column in columns if is_text(column.type)]


def _decimal_comma(table: Table) -> bool:
    """Whether a column of text holds numbers such as 1,5 and nothing else."""
    number = re.compile(r"[+-]?\d*(,\d+)?([eE][+-]?\d+)?")
    every = ([str(word) for word in counted.field("values").to_pylist()] for _, counted in _texts_of(table))
    return any(any("," in word for word in words) and all(map(number.fullmatch, words)) for words in every)


def _marks(table: Table) -> tuple[str, ...]:
    """Words that mean a missing value: '?' and other bare signs anywhere, words such as 'unknown' among numbers."""
    found: list[str] = []
    for _, counted in _texts_of(table):
        words = [str(word) for word in counted.field("values").to_pylist()]
        others = [word for word in words if not re.match(LIKE_NUMBER, word)]
        meant = [word for word in others if word in MARKS and not any(sign.isalnum() for sign in word)]
        if len(others) < len(words) and 0 < len(others) <= 3 and all(word.lower() in MARKS for word in others):
            meant = others
        found += [word for word in meant if word not in found and word not in MISSING]
    return tuple(found)


# Arrays


def _arrays(place: Path, folder: Path) -> Found:
    keys: dict[str, Any] = {"type": "numpy"}
    if suffix(place.name) == ".npz":
        names = _names(place)
        x, y = _chosen(names, X_NAMES), _chosen(names, Y_NAMES)
        if x is None or y is None:
            raise DataError(
                f"{place} holds the arrays {quoted(names)}; init looks for inputs named x and a target named y. "
                "Name them so, or write data.source by hand: {type: numpy, path: ..., x: NAME, y: NAME}."
            )
        keys["path"] = str(place)
        keys |= {key: name for key, name in (("x", x), ("y", y)) if key != name}
        lengths = _chosen(names, LENGTH_NAMES)
        shape, dtype = _shape(place, x)
    else:
        x_file, y_file = _pair(place)
        keys |= {"x": str(x_file), "y": str(y_file)}
        lengths, (shape, dtype) = None, _shape(x_file, None)
    kind: Kind = "table"
    if len(shape) == 3 and (lengths is not None or not _looks_like_images(shape, dtype)):
        kind = "sequence"
        keys |= {"kind": "sequence"} | ({} if lengths is None else {"lengths": lengths})
    elif len(shape) >= 3:
        kind = "image"
        if len(shape) == 4 and shape[-1] in (1, 3, 4) and shape[1] not in (1, 3, 4):
            keys["layout"] = "channels_last"
    found = _read(kind, keys, folder)
    paths = {key: _beside(value, folder) for key, value in keys.items() if str(value).endswith(".npy")}
    return Found(kind, {**found.keys, **paths}, found.table, place.name, remarks=found.remarks)


def _names(place: Path) -> list[str]:
    import zipfile

    try:
        with np.load(place, allow_pickle=False) as content:
            return list(content.files)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{place} cannot be read as arrays of NumPy: {error}.") from error


def _chosen(names: list[str], known: tuple[str, ...]) -> str | None:
    by_lower = {name.lower(): name for name in names}
    return next((by_lower[name] for name in known if name in by_lower), None)


def _pair(place: Path) -> tuple[Path, Path]:
    """x.npy and y.npy, of which one was named."""
    there = {file.stem.lower(): file for file in sorted(place.parent.glob("*.npy"))}
    for x_name in X_NAMES:
        y_name = Y_NAMES[0] + x_name[1:] if x_name in ("x", "x_train") else ""
        for x, y in ((x_name, y) for y in ((y_name,) if y_name else Y_NAMES)):
            if x in there and y in there and place in (there[x], there[y]):
                return there[x], there[y]
    raise DataError(f"{place} needs a file with the target beside it: x.npy and y.npy in one folder.")


def _shape(place: Path, name: str | None) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        content = np.load(place, allow_pickle=False, mmap_mode=None if name else "r")
        array = content[name] if name else content
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{place} cannot be read as arrays of NumPy: {error}.") from error
    return array.shape, array.dtype


def _looks_like_images(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """[rows, height, width]: bytes, or as high as wide and not as narrow as channels are."""
    return dtype == np.uint8 or (shape[1] == shape[2] and shape[1] >= 8)


# Folders and lines


def _folder(place: Path, folder: Path) -> Found:
    there = [file for file in sorted(place.rglob("*")) if file.is_file() and not file.name.startswith((".", "_"))]
    if any(IDX_NAME.fullmatch(file.name) for file in there if file.parent == place):
        return _read("image", {"type": "idx", "path": str(place)}, folder)
    kinds = Counter(suffix(file.name) for file in there)
    images = [file for file in there if file.suffix.lower() in IMAGES]
    if images and len(images) * 2 >= len(there):
        return _image_folder(place, folder, images)
    texts = [file for file in there if suffix(file.name) in TEXTS]
    if texts and len(texts) * 2 >= len(there):
        return _texts(place, folder, texts)
    if kinds.keys() & set(PARQUET):
        return _read("table", {"type": "parquet", "path": str(place)}, folder)
    npy = [file for file in there if file.suffix == ".npy" and file.parent == place]
    if npy:
        return _arrays(npy[0], folder)
    told = ", ".join(f"{count} in {kind or 'no suffix'}" for kind, count in kinds.most_common(3))
    raise DataError(f"the folder {place} holds {told or 'no file'}; init knows {READ}. Name one file of it?")


def _image_folder(place: Path, folder: Path, images: list[Path]) -> Found:
    if all(file.parent == place for file in images):
        raise DataError(f"the images of {place} lie in no folders. Put those of each class into a folder of its name.")
    from PIL import Image, UnidentifiedImageError

    sizes: list[tuple[int, int]] = []
    for file in images[:: max(1, len(images) // IMAGES_LOOKED_AT)]:
        try:
            with Image.open(file) as opened:
                sizes.append((opened.height, opened.width))
        except (OSError, UnidentifiedImageError):
            continue
    keys: dict[str, Any] = {"type": "image_folder", "path": str(place), "corrupt": "leave_out"}
    remarks = []
    if sizes and (len(set(sizes)) > 1 or max(sizes[0]) > MOST_PIXELS):
        side = int(min(MOST_PIXELS, np.median(sizes)))
        side = max(16, side - side % 8)
        keys |= {"size": [side, side], "resize": "pad"}
        least, most = min(sizes), max(sizes)
        remarks.append(f"Its images are of {least[0]}x{least[1]} to {most[0]}x{most[1]} pixels; size makes them alike.")
    return _read("image", keys, folder, remarks=tuple(remarks))


def _texts(place: Path, folder: Path, texts: list[Path]) -> Found:
    ends = Counter(suffix(file.name) for file in texts).most_common(1)[0][0]
    keys: dict[str, Any] = {"type": "text_lines", "path": str(place), "rows": "files"}
    keys |= {} if ends == ".txt" else {"suffix": ends}
    encoding = next((found for file in texts if (found := _encoding(file)) != "utf-8"), "utf-8")
    keys |= {} if encoding == "utf-8" else {"encoding": encoding}
    divided = _read("folder of texts", keys, folder)
    if divided.table.target is not None:
        return divided
    del keys["rows"]
    return _read("lines", keys, folder, remarks=("Its files do not lie in folders of classes.",))


def _lines(place: Path, folder: Path) -> Found:
    encoding = _encoding(place)
    keys: dict[str, Any] = {"type": "text_lines", "path": str(place)}
    return _read("lines", keys | ({} if encoding == "utf-8" else {"encoding": encoding}), folder)


__all__ = ["Found", "Kind", "find"]
