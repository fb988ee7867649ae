"""Images that look the same: few bits of their perceptual hashes differ, and their small versions agree.

The hash is imagehash's `phash` (Zauner 2010, section 3.2.1): the signs, against their median, of the lowest frequencies
of a grey version of 32 x 32 pixels. Small images of one class agree in most bits of it without being copies, so pixels
have the last word.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from nnopt_ray.errors import DataError

SIDE = 8  # the hash has SIDE * SIDE bits
SMALL = 4 * SIDE  # imagehash's highfreq_factor is 4
TOGETHER = 2048  # images whose frequencies are calculated at a time
COMPARED = 4096  # hashes that are compared with all others of their bucket at a time
MOST_PAIRS = 20_000_000


def alike(images: np.ndarray, bits: int, correlation: float, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of images that look the same: int64 [pairs, 2], and the correlation of their pixels, float64 [pairs].

    images: [rows, channels, height, width]. bits: so many of the 64 may differ. correlation: the least one of the two
    grey images of 32 x 32 pixels. known: rows whose smallest and largest value become black and white, where they are
    not of 8 bits. Raises DataError where nearly all images look the same.
    """
    small = small_versions(images, known)
    found = within(hashes(small), bits)
    flat = small.reshape(len(small), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    size = np.linalg.norm(flat, axis=1, keepdims=True)
    flat /= np.where(size > 0, size, 1)
    indices = np.empty(len(found))
    for start in range(0, len(found), COMPARED):
        one, other = found[start : start + COMPARED].T
        indices[start : start + COMPARED] = np.einsum("ij,ij->i", flat[one], flat[other])
    blank = size[:, 0] == 0
    indices[blank[found].all(axis=1)] = 1.0
    good = indices >= correlation
    return found[good], np.clip(indices[good], 0, 1)


def small_versions(images: np.ndarray, known: np.ndarray) -> np.ndarray:
    """uint8 [rows, 32, 32]: grey, as imagehash makes them."""
    from PIL import Image

    low, high = 0.0, 255.0
    if images.dtype != np.uint8:
        seen = [images[row] for row in known]
        low, high = float(min(image.min() for image in seen)), float(max(image.max() for image in seen))
    small = np.empty((len(images), SMALL, SMALL), dtype=np.uint8)
    for row, image in enumerate(images):
        pixels = image if images.dtype == np.uint8 else _of_8_bits(image, low, high)
        small[row] = np.asarray(_grey(pixels, Image).resize((SMALL, SMALL), Image.Resampling.LANCZOS))
    return small


def _of_8_bits(image: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = (np.nan_to_num(image, nan=low) - low) * (255.0 / (high - low) if high > low else 0.0)
    of_8_bits: np.ndarray = np.clip(np.round(scaled), 0, 255).astype(np.uint8)
    return of_8_bits


def _grey(image: np.ndarray, pillow: Any) -> Any:
    """image: uint8 [channels, height, width]; three channels are red, green and blue, of others the mean is taken."""
    if len(image) == 3:
        return pillow.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).convert("L")
    return pillow.fromarray(image[0] if len(image) == 1 else np.round(image.mean(axis=0)).astype(np.uint8))


def hashes(small: np.ndarray) -> np.ndarray:
    """uint64 [rows]: imagehash.phash of each, bit by bit, of images that were made small."""
    from scipy.fftpack import dct

    made = np.empty(len(small), dtype=np.uint64)
    for start in range(0, len(small), TOGETHER):
        pixels = small[start : start + TOGETHER]
        lowest = dct(dct(pixels, axis=1), axis=2)[:, :SIDE, :SIDE].reshape(len(pixels), -1)
        signs = lowest > np.median(lowest, axis=1, keepdims=True)
        made[start : start + TOGETHER] = np.packbits(signs, axis=1).view(">u8")[:, 0]
    return made


def within(hashed: np.ndarray, bits: int) -> np.ndarray:
    """int64 [pairs, 2], the smaller first: all pairs of hashes of which at most so many bits differ.

    Of bits + 1 pieces of a hash one at least is then the same, so only hashes that share a piece are compared. Raises
    DataError for more than MOST_PAIRS.
    """
    rows = len(hashed)
    edges = np.linspace(0, 64, bits + 2).astype(np.uint64)
    found = np.zeros(0, dtype=np.int64)
    for begin, end in pairwise(edges):
        piece = (hashed >> begin) << (np.uint64(64) - (end - begin)) if end - begin < 64 else hashed
        order = np.argsort(piece, kind="stable")
        pairs, count = [found], len(found)
        for members in np.split(order, np.flatnonzero(np.diff(piece[order])) + 1):
            for near in _near(hashed, members, bits):
                pairs.append(near)
                count += len(near)
                _refuse_many(count, bits)
        found = np.unique(np.concatenate(pairs))
    return np.stack([found // max(rows, 1), found % max(rows, 1)], axis=1)


def _refuse_many(count: int, bits: int) -> None:
    if count > MOST_PAIRS:
        cure = f"Set bits: {bits - 2}, or take it away." if bits > 1 else "Take it away."
        raise DataError(
            f"data.quality: near_duplicates finds more than {MOST_PAIRS:,} pairs of images whose hashes differ in at "
            f"most {bits} bits: nearly all look the same to it. {cure}"
        )


def _near(hashed: np.ndarray, members: np.ndarray, bits: int) -> Iterator[np.ndarray]:
    """Pairs among these rows as row * rows + other, the smaller first; members: ascending."""
    own = hashed[members]
    step = max(1, COMPARED * COMPARED // max(len(members), 1))
    for start in range(0, len(members) - 1, step):
        block = own[start : start + step]
        differ = np.bitwise_count(block[:, None] ^ own[None, start + 1 :])
        one, other = np.nonzero(differ <= bits)
        one, other = one + start, other + start + 1
        later = other > one
        yield members[one[later]] * len(hashed) + members[other[later]]


__all__ = ["alike", "hashes", "small_versions", "within"]
