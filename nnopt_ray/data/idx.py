"""The source `idx`: images and labels in the format of MNIST."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path
from typing import Annotated, BinaryIO, cast

import numpy as np

from nnopt_ray.data.files import digest, located
from nnopt_ray.data.sources import Source
from nnopt_ray.data.table import Table, quoted
from nnopt_ray.errors import DataError
from nnopt_ray.experiment import Beside

# train-images-idx3-ubyte, t10k-labels-idx1-ubyte.gz, train-images.idx3-ubyte, emnist-letters-test-images-idx3-ubyte.gz
NAME = re.compile(r"(?:.*[-_])?(train|t10k|test)[-_](images|labels)[-_.]idx\d-ubyte(\.gz)?$")
PARTS = {"train": "train", "t10k": "test", "test": "test"}

# The third byte of an IDX file (http://yann.lecun.com/exdb/mnist, "The IDX file format"); big-endian.
KINDS = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
BLOCK = 1 << 20


class Idx(Source):
    """Images and labels in IDX files, the format of MNIST, Fashion-MNIST and EMNIST; also compressed (.gz).

    A folder with train-images-idx3-ubyte, train-labels-idx1-ubyte and the same of t10k (or test). The files' own
    test set is the test part (`split: given`, the default here); the validation part is drawn from their
    training set. The target has no name of its own: `data.target` may call it as it likes.

    Keys:
        path: the folder, relative to the page.
        classes: the names of the labels 0, 1, 2, ...; without them the labels are the names.
    """

    own_parts = True

    def __init__(self, *, path: Annotated[str, Beside()], classes: tuple[str, ...] = ()) -> None:
        self.path = path
        self.classes = classes

    def _places(self, base: Path) -> dict[tuple[str, str], Path]:
        """(train or test, images or labels) → file. Raises DataError where one is missing or there are two."""
        folder = located(self.path, base, "data.source.path")
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "is not there"
            raise DataError(f"data.source.path: {folder} {what}; idx needs the folder that holds the four files.")
        found: dict[tuple[str, str], Path] = {}
        for file in sorted(folder.iterdir()):  # an unpacked file comes before its .gz
            match = NAME.fullmatch(file.name)
            if match is None or not file.is_file():
                continue
            which = (PARTS[match[1]], match[2])
            there = found.setdefault(which, file)
            if there is not file and there.name != file.name.removesuffix(".gz"):
                raise DataError(
                    f"data.source.path: {folder} holds two files of the {which[0]} {which[1]}, {there.name} and "
                    f"{file.name}. Put each data set into a folder of its own."
                )
        missing = [
            f"{file}-{what}-idx{3 if what == 'images' else 1}-ubyte"
            for file, part in (("train", "train"), ("t10k", "test"))
            for what in ("images", "labels")
            if (part, what) not in found
        ]
        if missing:
            raise DataError(
                f"data.source.path: {folder} lacks {quoted(missing)} (or the same with .gz). "
                "idx reads a training and a test set, images and labels of each."
            )
        return found

    def fingerprint(self, base: Path) -> str:
        return " ".join(digest([place], base) for _, place in sorted(self._places(base).items()))

    def read(self, base: Path) -> Table:
        import pyarrow as pa

        places = self._places(base)
        images, labels, parts = [], [], []
        for part in ("train", "test"):
            of_images, of_labels = (places[part, what] for what in ("images", "labels"))
            x, y = array_of(of_images), array_of(of_labels)
            if x.ndim not in (3, 4) or y.ndim != 1:
                wrong, needed = (of_images, "3 or 4") if x.ndim not in (3, 4) else (of_labels, "1")
                found = x.ndim if x.ndim not in (3, 4) else y.ndim
                raise DataError(
                    f"data.source: {wrong} holds an array of {found} dimensions; {needed} are needed. "
                    "Were images and labels swapped?"
                )
            if len(x) != len(y):
                raise DataError(
                    f"data.source: {of_images.name} holds {len(x)} images and {of_labels.name} {len(y)} labels; "
                    "they must belong together."
                )
            images.append(x[:, None] if x.ndim == 3 else x)
            labels.append(self._labels(y, of_labels))
            parts.append(np.full(len(y), part))
        if images[0].shape[1:] != images[1].shape[1:]:
            raise DataError(
                f"data.source: the images of the training set have the shape {images[0].shape[1:]}, those of the "
                f"test set {images[1].shape[1:]}. They must be alike."
            )
        return Table(
            str(base / self.path),
            pa.table({"target": pa.array(np.concatenate(labels))}),
            images=np.concatenate(images),
            target="target",
            own_parts=np.concatenate(parts),
        )

    def _labels(self, codes: np.ndarray, place: Path) -> np.ndarray:
        """As words: classes, not amounts."""
        if not self.classes:
            return codes.astype(np.str_)
        beyond = np.unique(codes[(codes < 0) | (codes >= len(self.classes))])
        if len(beyond) or codes.dtype.kind == "f":
            raise DataError(
                f"data.source.classes names {len(self.classes)} labels, 0 to {len(self.classes) - 1}, and {place.name} "
                f"holds {', '.join(f'{code:g}' for code in beyond[:5])}. Name every label, or leave `classes` out."
            )
        words: np.ndarray = np.array(self.classes)[codes]
        return words


def array_of(place: Path) -> np.ndarray:
    """The array of an IDX file. Raises DataError when the file is not what its head says."""
    packed = place.suffix == ".gz"
    try:
        with gzip.open(place, "rb") if packed else place.open("rb") as file:
            return _parsed(cast(BinaryIO, file), place)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"data.source: {place} cannot be read{' as gzip' if packed else ''}: {error}. Fetch it again."
        ) from error


def _parsed(file: BinaryIO, place: Path) -> np.ndarray:
    def fault(what: str) -> DataError:
        return DataError(f"data.source: {place} {what} Fetch it again, or check that it is an IDX file.")

    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in KINDS or not magic[3]:
        raise fault(
            f"begins with the bytes {magic.hex(' ') or '(none)'}, where an IDX file has 00 00, a kind of numbers "
            "(08, 09, 0b to 0e) and how many dimensions it has."
        )
    head = file.read(4 * magic[3])
    if len(head) < 4 * magic[3]:
        raise fault("ends within its head.")
    shape = tuple(int(size) for size in np.frombuffer(head, dtype=">u4"))
    kind = np.dtype(KINDS[magic[2]])
    wanted = kind.itemsize
    for size in shape:
        wanted *= size
    # Block by block: what the head claims is never allocated before it is there.
    content = bytearray()
    while len(content) < wanted and (block := file.read(min(BLOCK, wanted - len(content)))):
        content += block
    if len(content) < wanted or file.read(1):
        sizes = " x ".join(map(str, shape))
        more = "more than that" if len(content) == wanted else f"{len(content):,}"
        raise fault(f"says it holds {sizes} numbers, {wanted:,} bytes, and holds {more}.")
    array: np.ndarray = np.frombuffer(content, dtype=kind).reshape(shape)
    native: np.ndarray = array.astype(kind.newbyteorder("="), copy=False)
    return native
