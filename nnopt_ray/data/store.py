"""The prepared data on disk: one .npy file an input and part, memory-mapped, and small JSON beside them.

manifest.json        format, key, sizes and checksums of all below; a folder without it is half written
dataset.json         shapes, classes, scale of the target, names of the features
PART.KIND.npy        of each part an array for each kind of input (table, image, tokens, ...)
PART.target.npy  PART.source_rows.npy
preprocessing.json  summary.json  audit.csv
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nnopt_ray import rundir
from nnopt_ray.data import audit
from nnopt_ray.data.preprocessing import FILE as PREPROCESSING
from nnopt_ray.data.scaled_images import Array, ScaledImages
from nnopt_ray.data.split import PARTS
from nnopt_ray.data.spooled import Pieces
from nnopt_ray.data.types import CODES, Dataset, DataSummary, Input, Rows, Shapes
from nnopt_ray.errors import RunFailed, RunFolderError

FORMAT = "nnopt-data"
VERSION = 2
MANIFEST = "manifest.json"
DATASET = "dataset.json"
SUMMARY = "summary.json"
AGAIN = "Start again with `nnopt run PAGE`."
BUILDING = ".building-"  # folders on their way; one left by a killed process goes after a day
ABANDONED_S = 86_400.0
CHECKED_BYTES = 1 << 20  # files up to this size are checked by content, larger ones by size


@dataclass(frozen=True, eq=False)
class Content:
    """What a store holds. The arrays cover all rows, inputs some at a time where they are Pieces; `parts` says which
    of them belong where.

    source_rows: int64 [rows], the number of each row in the source. audit: a line for each row or
    column that was left out, added or changed.
    """

    shapes: Shapes
    inputs: tuple[Array, ...] | Pieces
    target: np.ndarray
    source_rows: np.ndarray
    parts: Mapping[str, np.ndarray]
    classes: tuple[str, ...]
    target_mean: np.ndarray
    target_scale: np.ndarray
    feature_names: tuple[str, ...]
    summary: DataSummary
    preprocessing: Mapping[str, Any]
    audit: tuple[audit.Line, ...]


def build(folder: Path, key: str, content: Content) -> None:
    """Write a store beside its place and give it its name in one step.

    Two processes may build the same store at once: the first to finish wins, the other's is dropped. Raises
    RunFailed when the disk is full or the place cannot be written.
    """
    with beside(folder) as building:
        _write(building, key, content)
        take_name(building, folder, key)


def _write(folder: Path, key: str, content: Content) -> None:
    for part in PARTS:
        rows = content.parts[part]
        if not isinstance(content.inputs, Pieces):
            for layout, array in zip(content.shapes.inputs, content.inputs, strict=True):
                if isinstance(array, ScaledImages):
                    with (folder / f"{part}.{layout.kind}.npy").open("wb") as file:
                        _write_head(file, layout, len(rows))
                        for piece in array.inputs(rows):
                            file.write(piece.data)
                else:
                    np.save(folder / f"{part}.{layout.kind}.npy", array[rows], allow_pickle=False)
        np.save(folder / f"{part}.target.npy", content.target[rows], allow_pickle=False)
        np.save(folder / f"{part}.source_rows.npy", content.source_rows[rows], allow_pickle=False)
    if isinstance(content.inputs, Pieces):
        _write_pieces(folder, content, content.inputs)
    described = {
        "shapes": asdict(content.shapes),
        "classes": list(content.classes),
        "target_mean": content.target_mean.tolist(),
        "target_scale": content.target_scale.tolist(),
        "feature_names": list(content.feature_names),
    }
    rundir.write_json(folder / DATASET, described)
    rundir.write_json(folder / SUMMARY, asdict(content.summary))
    rundir.write_json(folder / PREPROCESSING, content.preprocessing)
    audit.write(folder / audit.FILE, content.audit)
    files = {file.name: {"bytes": file.stat().st_size, "blake2b": _checksum(file)} for file in sorted(folder.iterdir())}
    for name in files:
        if name.endswith(".npy"):  # shared with run folders by hard links
            (folder / name).chmod(0o444)
    rundir.write_json(folder / MANIFEST, {"format": FORMAT, "version": VERSION, "key": key, "files": files})


def _write_pieces(folder: Path, content: Content, pieces: Pieces) -> None:
    """The inputs of each part, one piece behind the other: byte for byte what np.save makes of the whole."""
    with ExitStack() as opened:
        files: dict[str, list[BinaryIO]] = {part: [] for part in PARTS}
        for part in PARTS:
            for layout in content.shapes.inputs:
                file: BinaryIO = opened.enter_context((folder / f"{part}.{layout.kind}.npy").open("wb"))
                _write_head(file, layout, len(content.parts[part]))
                files[part].append(file)
        start = 0
        for arrays in pieces:
            stop = start + len(arrays[0])
            for part, of_part in files.items():
                rows = content.parts[part]  # ascending
                inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)] - start
                for file, array in zip(of_part, arrays, strict=True):
                    file.write(np.ascontiguousarray(array[inside]).data)
            start = stop


def _write_head(file: BinaryIO, layout: Input, rows: int) -> None:
    """What np.save writes in front of these rows."""
    kind = np.dtype(np.int64 if layout.kind in CODES else np.float32)
    head = {"descr": kind.str, "fortran_order": False, "shape": (rows, *layout.shape)}
    np.lib.format.write_array_header_1_0(file, head)


def _checksum(file: Path) -> str | None:
    if file.stat().st_size > CHECKED_BYTES:
        return None
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`, gone afterwards unless it was renamed; disk errors become RunFailed."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        building = Path(tempfile.mkdtemp(prefix=BUILDING, dir=folder.parent))
        try:
            building.chmod(0o755)
            yield building
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        # numpy says "74752 requested and 51168 written" of a full disk, without an error number.
        why = error.strerror or f"the disk is full ({error})"
        raise RunFailed(
            f"cannot write the prepared data to {folder.parent}: {why}. Make room there, or choose "
            "another place: --out for the run folder, the environment variable NNOPT_CACHE for the cache."
        ) from error


def _sweep(parent: Path) -> None:
    for left in parent.glob(f"{BUILDING}*"):
        try:
            old = time.time() - left.stat().st_mtime > ABANDONED_S
        except FileNotFoundError:  # finished meanwhile
            continue
        if old:
            shutil.rmtree(left, ignore_errors=True)


def take_name(building: Path, folder: Path, key: str) -> None:
    """Give a folder that is whole the name of a store. A store of this key that stands there stays, a damaged one goes.

    Raises OSError.
    """
    for _ in range(100):
        try:
            os.rename(building, folder)
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
        if _holds(folder, key):
            return
        # What stands there is damaged. It is moved away in one step before it is deleted, so that no
        # other process sees it half gone.
        aside = Path(tempfile.mkdtemp(prefix=BUILDING, dir=folder.parent))
        try:
            os.rename(folder, aside / "damaged")
        except FileNotFoundError:  # another process was quicker
            pass
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    raise OSError(errno.EBUSY, f"other processes keep replacing {folder}")


def _holds(folder: Path, key: str) -> bool:
    try:
        return open_dataset(folder).key == key
    except RunFolderError:
        return False


def open_dataset(folder: Path) -> Dataset:
    """The data set of a store: a run folder's data/, or one of the cache. Arrays are memory-mapped, read-only.

    Raises RunFolderError when the store is missing, half written or damaged.
    """
    if not folder.is_dir():
        raise RunFolderError(f"there is no prepared data in {folder}: the folder is missing.")
    manifest = rundir.read_json(folder / MANIFEST)
    try:
        if (manifest["format"], manifest["version"]) != (FORMAT, VERSION):
            raise RunFolderError(f"{folder} is prepared data of another version of nnopt. {AGAIN}")
        for name, expected in manifest["files"].items():
            _verify(folder / name, expected)
        described = rundir.read_json(folder / DATASET)
        return Dataset(
            folder=folder,
            key=manifest["key"],
            shapes=_shapes(described["shapes"]),
            train=_part(folder, "train", described["shapes"]),
            validation=_part(folder, "validation", described["shapes"]),
            test=_part(folder, "test", described["shapes"]),
            classes=tuple(described["classes"]),
            target_mean=np.array(described["target_mean"], dtype=np.float64),
            target_scale=np.array(described["target_scale"], dtype=np.float64),
            feature_names=tuple(described["feature_names"]),
            summary=read_summary(folder / SUMMARY),
        )
    except (KeyError, TypeError, AttributeError, OSError, ValueError) as error:
        raise RunFolderError(
            f"the prepared data in {folder} is damaged ({type(error).__name__}: {error}). {AGAIN}"
        ) from error


def _verify(file: Path, expected: Mapping[str, Any]) -> None:
    found = file.stat().st_size if file.is_file() else None
    if found != expected["bytes"]:
        state = "is missing" if found is None else f"has {found} bytes instead of {expected['bytes']}"
        raise RunFolderError(f"the prepared data in {file.parent} is damaged: {file.name} {state}. {AGAIN}")
    if expected["blake2b"] is not None and _checksum(file) != expected["blake2b"]:
        raise RunFolderError(
            f"the prepared data in {file.parent} is damaged: the content of {file.name} was changed. {AGAIN}"
        )


def _shapes(said: Mapping[str, Any]) -> Shapes:
    inputs = tuple(
        Input(entry["kind"], tuple(entry["shape"]), tuple(entry["cardinalities"]), entry["padding"])
        for entry in said["inputs"]
    )
    return Shapes(said["task"], inputs, said["outputs"])


def read_shapes(file: Path) -> Shapes:
    """The shapes that dataset.json names. Raises RunFolderError when the file is missing or no JSON."""
    return _shapes(rundir.read_json(file)["shapes"])


def _part(folder: Path, part: str, shapes: Mapping[str, Any]) -> Rows:
    def mapped(name: str) -> np.ndarray:
        array: np.ndarray = np.load(folder / f"{part}.{name}.npy", mmap_mode="r", allow_pickle=False)
        return array

    return Rows(
        inputs=tuple(mapped(entry["kind"]) for entry in shapes["inputs"]),
        target=mapped("target"),
        source_rows=mapped("source_rows"),
    )


def read_summary(file: Path) -> DataSummary:
    """Raises RunFolderError when the file is missing or no JSON."""
    said = rundir.read_json(file)
    return DataSummary.from_json(said)


def place(dataset: Dataset, folder: Path) -> Dataset:
    """The same data set in a run folder: arrays by hard links (copies on another disk), the rest copied.

    A complete store that already stands there stays; half of one is replaced. Raises RunFailed when the
    place cannot be written, RunFolderError when other data stands there.
    """
    if (folder / MANIFEST).is_file():
        try:
            there: Dataset | None = open_dataset(folder)
        except RunFolderError:
            there = None
        if there is not None and there.key != dataset.key:
            raise RunFolderError(f"{folder} already holds other prepared data. Start a new run with `nnopt run PAGE`.")
        if there is not None:
            return replace(there, reused=dataset.reused)
    with beside(folder) as building:
        names = [*rundir.read_json(dataset.folder / MANIFEST)["files"], MANIFEST]
        for name in names:
            put: Callable[[Path, Path], None] = _link if name.endswith(".npy") else _copy
            put(dataset.folder / name, building / name)
        take_name(building, folder, dataset.key)
    return replace(open_dataset(folder), reused=dataset.reused)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EACCES, errno.ENOTSUP, errno.ENOSYS):
            raise
        _copy(source, target)


__all__ = ["Content", "beside", "build", "open_dataset", "place", "read_shapes", "read_summary", "take_name"]
