"""Texts that share most of their runs of characters: MinHash finds the candidates, the sets themselves decide.

Broder 1997 (shingles, their resemblance), Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, chapter 3 (bands).
Permutations and the number of bands are those of datasketch; signatures are made for many texts at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PERMUTATIONS = 128
# Of the two ways to err, candidates that are none cost a comparison of two sets, and one that is missed is never found.
WEIGHTS = (0.1, 0.9)
TOGETHER = 2_000_000  # characters of which signatures are made at a time
CROWD = 50  # of texts that share a band with more than twice as many, so many first and so many last ones are compared


def alike(texts: Sequence[str], size: int, least: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of texts whose Jaccard index of shingles is at least `least`: int64 [pairs, 2], float64 [pairs].

    texts: different ones. size: characters of a shingle; a shorter text is its own. seed: of the permutations. The
    index of each pair is exact; that none is missed is likely, not certain: for `least` 0.8 (14 bands of 9 numbers) a
    pair of index 0.8 is a candidate with probability 0.87, one of 0.85 with 0.97, one of 0.9 with 0.999.
    """
    from datasketch import MinHashLSH

    if len(texts) < 2:
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0)
    bands = MinHashLSH(threshold=least, num_perm=PERMUTATIONS, weights=WEIGHTS)
    found = candidates(signatures(texts, size, seed), bands.b, bands.r)
    sets: dict[int, frozenset[str]] = {}
    pairs, indices = [], []
    for one, other in found.tolist():
        a, b = (sets.setdefault(n, shingles(texts[n], size)) for n in (one, other))
        if min(len(a), len(b)) < least * max(len(a), len(b)):
            continue
        shared = len(a & b)
        index = shared / (len(a) + len(b) - shared)
        if index >= least:
            pairs.append((one, other))
            indices.append(index)
    return np.array(pairs, dtype=np.int64).reshape(-1, 2), np.array(indices)


def shingles(text: str, size: int) -> frozenset[str]:
    """Every run of `size` characters; of a shorter text itself."""
    return frozenset(text[start : start + size] for start in range(max(len(text) - size, 0) + 1))


def signatures(texts: Sequence[str], size: int, seed: int) -> np.ndarray:
    """uint32 [texts, PERMUTATIONS]: those that datasketch's MinHash gives for the same hashes of the shingles."""
    from datasketch import MinHash

    a, b = MinHash(num_perm=PERMUTATIONS, seed=seed).permutations
    made = np.empty((len(texts), PERMUTATIONS), dtype=np.uint32)
    lengths = np.array([max(len(text), size) for text in texts], dtype=np.int64)
    for first, last in _batches(lengths):
        hashes, starts = shingle_hashes(texts[first:last], size)
        mixed = _mixed(hashes)
        for number in range(PERMUTATIONS):
            made[first:last, number] = np.minimum.reduceat(mixed * a[number] + b[number], starts)
    return made


def _batches(lengths: np.ndarray) -> list[tuple[int, int]]:
    batch = np.cumsum(lengths) // TOGETHER
    edges = np.flatnonzero(np.diff(batch)) + 1
    return list(zip([0, *edges.tolist()], [*edges.tolist(), len(lengths)], strict=True))


def shingle_hashes(texts: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """uint32, a hash of each shingle of each text, and int64 [texts], where those of each text begin."""
    padded = [text.ljust(size, "\0") for text in texts]
    characters = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    sizes = np.array([len(text) for text in padded], dtype=np.int64)
    ends = np.cumsum(sizes)
    rolled = np.zeros(len(characters) - size + 1, dtype=np.uint64)
    for place in range(size):  # a polynomial in an odd number, modulo 2**64
        rolled = rolled * np.uint64(0x9E3779B97F4A7C15) + characters[place : len(characters) - size + 1 + place]
    inside = np.ones(len(rolled), dtype=bool)
    for back in range(1, size):  # a shingle does not reach into the next text
        inside[(ends[:-1] - back)[ends[:-1] - back < len(rolled)]] = False
    counts = sizes - size + 1
    return (rolled[inside] >> np.uint64(32)).astype(np.uint32), np.concatenate([[0], np.cumsum(counts)[:-1]])


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """The finalizer of MurmurHash3 (Appleby), by which datasketch spreads its hashes before it permutes them."""
    mixed = hashes ^ (hashes >> np.uint32(16))
    mixed = mixed * np.uint32(0x85EBCA6B)
    mixed = mixed ^ (mixed >> np.uint32(13))
    mixed = mixed * np.uint32(0xC2B2AE35)
    mixed = mixed ^ (mixed >> np.uint32(16))
    return np.asarray(mixed)


def candidates(signature: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """int64 [pairs, 2], the smaller first: texts that agree in one of `bands` bands of `rows` numbers.

    In a band that very many texts share, a text is compared with the first and with the last ones before it.
    """
    texts = len(signature)
    found = np.zeros(0, dtype=np.int64)
    for band in range(bands):
        part = np.ascontiguousarray(signature[:, band * rows : (band + 1) * rows])
        keys = part.view([("", part.dtype)] * part.shape[1]).ravel()
        _, group = np.unique(keys, return_inverse=True)
        order = np.argsort(group, kind="stable")
        begins = np.flatnonzero(np.diff(group[order], prepend=-1))
        sizes = np.diff(np.append(begins, texts))
        pairs = [found]
        for begin, size in zip(begins[sizes > 1], sizes[sizes > 1], strict=True):
            one, other = _pairs(int(size))
            members = order[begin : begin + size]
            pairs.append(members[one] * texts + members[other])
        found = np.unique(np.concatenate(pairs))
    return np.stack([found // texts, found % texts], axis=1)


def _pairs(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of 0..size-1, the smaller first."""
    if size <= 2 * CROWD:
        one, other = np.triu_indices(size, 1)
        return one, other
    later = np.arange(1, size)
    first = [(np.full(size - 1 - n, n), np.arange(n + 1, size)) for n in range(CROWD)]
    last = [(later[later - n >= CROWD] - n, later[later - n >= CROWD]) for n in range(1, CROWD + 1)]
    return tuple(np.concatenate(side) for side in zip(*first, *last, strict=True))  # type: ignore[return-value]


__all__ = ["PERMUTATIONS", "alike", "candidates", "shingle_hashes", "shingles", "signatures"]
