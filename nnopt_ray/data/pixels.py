"""Images from files to one array: decoded once, in parallel, into a memory-mapped file of the cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

import numpy as np
from pydantic import Field

from nnopt_ray.data.cache import ArrayFile, kept
from nnopt_ray.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from nnopt_ray.data.table import Table

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
GRAY = ("1", "L", "LA", "I;16", "I;16L", "I;16B", "I;16N")
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
MANY = 5_000  # images whose decoding is announced; one of 640 x 480 pixels took 10 ms on two cores
AT_ONCE = 64  # images a task of a thread
SHOWN = 10
OTHER_SIZE = "it has "  # how the reason begins where an image has another size
VERSION = 1  # of the meaning of what follows: other pixels from the same files need another number

Pixels = Annotated[int, Field(ge=1)]
Size = Pixels | tuple[Pixels, Pixels]  # as a page says it: both sides of a square, or height and width

ARRAY, FACTS = "images.npy", "decoded.json"


@dataclass(frozen=True)
class Shaping:
    """How images come to one shape.

    size: height and width, None to keep those of the files. resize: stretch; crop what stands out in the middle, or
    pad with black, both keeping the proportions. Bilinear over the whole area of a pixel, as Pillow does.
    """

    size: tuple[int, int] | None = None
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    channels: Literal["auto", 1, 3] = "auto"
    corrupt: Literal["refuse", "leave_out"] = "refuse"

    @classmethod
    def of(cls, size: Size | None, *others: Any) -> Shaping:
        """From the keys of a source."""
        return cls((size, size) if isinstance(size, int) else size, *others)


@dataclass(frozen=True, eq=False)
class Decoded:
    """images: uint8 [rows, channels, height, width], memory-mapped. rows: int64, which of the files they are.

    faults: (file, why) of those left out.
    """

    images: np.ndarray
    rows: np.ndarray
    faults: tuple[tuple[int, str], ...]


Opened = Callable[[int], BinaryIO]


def decode(count: int, opened: Opened, named: Callable[[int], str], shaping: Shaping, content: str) -> Decoded:
    """The images 0 to count - 1. opened: a stream of each; named: its name in messages; content: digest of them all.

    EXIF orientation is followed, of animations the first frame is taken, transparency is dropped and 16 bits a pixel
    become 8. Raises DataError for images that cannot be read (unless they are to be left out) or differ in size.
    """
    import PIL

    said = json.dumps([VERSION, PIL.__version__, content, shaping.size, shaping.resize, shaping.channels, count])
    key = hashlib.blake2b(f"{said} {shaping.corrupt}".encode(), digest_size=16).hexdigest()
    folder = kept("images", key, lambda place: _decode(place, count, opened, named, shaping))
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    faults = tuple((int(number), str(why)) for number, why in facts["faults"])
    rows = np.setdiff1d(np.arange(count), [number for number, _ in faults])
    return Decoded(np.load(folder / ARRAY, mmap_mode="r", allow_pickle=False), rows, faults)


def decode_some(
    count: int, opened: Opened, shape: tuple[int, int, int], shaping: Shaping
) -> tuple[np.ndarray, dict[int, str]]:
    """A few images in memory, uint8 [count, *shape], brought to [channels, height, width] as `decode` brings them.

    Beside them why one could not be read, or is of another size where none is to be brought to one (number → why); it
    is all 0 then.
    """
    from PIL import Image

    Image.init()
    made = np.zeros((count, *shape), dtype=np.uint8)

    def pixels(number: int) -> np.ndarray:
        if shaping.size is None:
            height, width, _ = _head(opened(number))
            if (height, width) != shape[1:]:
                raise ValueError(f"{OTHER_SIZE}{height} x {width} pixels")
        return _pixels(opened(number), shape, shaping)

    faults: dict[int, str] = {}
    for number, found in _each(count, pixels):
        if isinstance(found, str):
            faults[number] = found
        else:
            made[number] = found
    return made, faults


def _decode(place: Path, count: int, opened: Opened, named: Callable[[int], str], shaping: Shaping) -> None:
    from PIL import Image

    Image.init()  # knows all formats only then
    if count >= MANY:
        logging.getLogger(__name__).warning("%s images are decoded, once.", f"{count:,}")
    faults: dict[int, str] = {}
    heads: dict[int, tuple[int, int, bool]] = {}
    for number, found in _each(count, lambda number: _head(opened(number))):
        (faults if isinstance(found, str) else heads)[number] = found
    _refuse(faults, count, named, shaping)
    height, width = shaping.size or _one_size(heads)
    channels = shaping.channels
    if channels == "auto":
        channels = 3 if any(colour for _, _, colour in heads.values()) else 1
    shape = (channels, height, width)
    with ArrayFile(place / ARRAY, np.uint8, (count, *shape)) as array:
        unread = _each(
            count,
            lambda number: _pixels(opened(number), shape, shaping) if number in heads else None,
            lambda number, pixels: None if pixels is None else array.put(number, pixels[None]),
        )
        faults |= {number: found for number, found in unread if isinstance(found, str)}
    _refuse(faults, count, named, shaping)
    if faults:
        rows = np.setdiff1d(np.arange(count), list(faults))
        every = np.load(place / ARRAY, mmap_mode="r", allow_pickle=False)
        with ArrayFile(place / f"whole-{ARRAY}", np.uint8, (len(rows), *shape)) as whole:
            for start in range(0, len(rows), AT_ONCE):
                whole.put(start, every[rows[start : start + AT_ONCE]])
        os.replace(place / f"whole-{ARRAY}", place / ARRAY)
    (place / ARRAY).chmod(0o444)
    (place / FACTS).write_text(json.dumps({"faults": sorted(faults.items())}), encoding="utf-8")


def _each(count: int, work: Callable[[int], Any], then: Callable[[int, Any], None] | None = None) -> Any:
    """(number, what came of it, or a text that says why nothing did) of all, in order, by several threads.

    then: takes what came of it instead; what that raises is no fault of an image and passes through.
    """
    from PIL.Image import DecompressionBombError

    unread = (
        OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error,
        zlib.error, DecompressionBombError,
    )  # fmt: skip  # what Pillow's readers raise at files that are not what they say

    def some(start: int) -> list[tuple[int, Any]]:
        found: list[tuple[int, Any]] = []
        for number in range(start, min(start + AT_ONCE, count)):
            try:
                done = work(number)
            except unread as error:
                found.append((number, _why(error)))
                continue
            if then is None:
                found.append((number, done))
            else:
                then(number, done)
        return found

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="images") as threads:
        for found in threads.map(some, range(0, count, AT_ONCE)):
            yield from found


def _why(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "no image of a known format"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _head(stream: BinaryIO) -> tuple[int, int, bool]:
    """Height, width and whether it is coloured, from the head of a file."""
    from PIL import Image

    with stream, Image.open(stream, formats=FORMATS) as image:
        if image.mode in ("I", "F"):
            raise ValueError(f"pixels of 32 bits (mode {image.mode}), which no image of colours or shades has")
        width, height = image.size
        if image.getexif().get(0x0112, 1) in TURNED:
            width, height = height, width
        return height, width, image.mode not in GRAY


def _pixels(stream: BinaryIO, shape: tuple[int, int, int], shaping: Shaping) -> np.ndarray:
    """uint8 [channels, height, width]"""
    from PIL import Image, ImageOps

    channels, height, width = shape
    with stream, Image.open(stream, formats=FORMATS) as file:
        image: Image.Image = ImageOps.exif_transpose(_eight_bits(file))
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            how = Image.Resampling.BILINEAR
            if shaping.resize == "crop":
                image = ImageOps.fit(image, (width, height), how)
            elif shaping.resize == "pad":
                image = ImageOps.pad(image, (width, height), how)
            else:
                image = image.resize((width, height), how)
        pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if channels == 1 else np.moveaxis(pixels, 2, 0)


def _eight_bits(image: Image) -> Image:
    """Pillow cuts 16-bit values off at 255 where it converts them; here their upper byte is kept."""
    from PIL import Image as Images

    if not image.mode.startswith("I;16"):
        return image
    orientation = image.getexif()
    made = Images.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    made.getexif().update(orientation)
    return made


def _one_size(heads: dict[int, tuple[int, int, bool]]) -> tuple[int, int]:
    sizes = Counter((height, width) for height, width, _ in heads.values())
    if len(sizes) > 1:
        told = ", ".join(f"{height} x {width} ({count:,})" for (height, width), count in sizes.most_common(4))
        more = f" and {len(sizes) - 4:,} more" if len(sizes) > 4 else ""
        height, width = (int(np.median([head[side] for head in heads.values()])) for side in (0, 1))
        raise DataError(
            f"data.source: the images have {len(sizes):,} different sizes (height x width): {told}{more}. "
            f"Add to data.source: size: [{height}, {width}]"
        )
    return next(iter(sizes))


def _refuse(faults: dict[int, str], count: int, named: Callable[[int], str], shaping: Shaping) -> None:
    if not faults or (shaping.corrupt == "leave_out" and len(faults) < count):
        return
    shown = "; ".join(f"{named(number)} ({faults[number]})" for number in sorted(faults)[:SHOWN])
    more = f"; and {len(faults) - SHOWN:,} more" if len(faults) > SHOWN else ""
    cure = "Repair them, or add to data.source: corrupt: leave_out" if len(faults) < count else "Repair them."
    raise DataError(f"data.source: {len(faults):,} of {count:,} images cannot be read: {shown}{more}. {cure}")


def with_images(
    table: Table, count: int, opened: Opened, named: Callable[[int], str], shaping: Shaping, content: str
) -> Table:
    """The table with an image for each of its rows, as `decode` gives them; rows whose image cannot be read are left
    out, told in a note and in `unread`."""
    decoded = decode(count, opened, named, shaping, content)
    unread = tuple((number, f"{named(number)}: {why}") for number, why in decoded.faults)
    notes = (*table.notes, *_left_out(decoded.faults, named))
    table = replace(table, numbers=np.arange(count) if unread else None, unread=unread, notes=notes)
    return replace(table.take(decoded.rows) if unread else table, images=decoded.images)


def _left_out(faults: tuple[tuple[int, str], ...], named: Callable[[int], str]) -> tuple[str, ...]:
    """A sentence on images that were left out; none where there are none."""
    if not faults:
        return ()
    shown = "; ".join(f"{named(number)} ({why})" for number, why in faults[:SHOWN])
    more = f"; and {len(faults) - SHOWN:,} more" if len(faults) > SHOWN else ""
    one = len(faults) == 1
    images = "1 image cannot be read and was" if one else f"{len(faults):,} images cannot be read and were"
    return (f"{images} left out: {shown}{more}.",)


__all__ = ["OTHER_SIZE", "SUFFIXES", "Shaping", "Size", "decode", "decode_some", "with_images"]
