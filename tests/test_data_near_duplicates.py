"""Near duplicates: the parts that stand in for a library's are compared with it, and planted copies are found."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasketch
import imagehash
import numpy as np
import pytest
from data_example import page, table
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from nnopt_ray.data import image_hashes, shingles
from nnopt_ray.data.columns import recognise
from nnopt_ray.data.likeness import Likeness, copies, exact_items
from nnopt_ray.data.near_duplicates import NearDuplicates
from nnopt_ray.data.prepare import prepare
from nnopt_ray.data.quality import Examined
from nnopt_ray.data.target import Target
from nnopt_ray.errors import DataError


def examined(given: Any, labels: np.ndarray | None = None, train: int | None = None) -> Examined:
    """All rows in the training part, or so many, and the rest shared by the others."""
    rows = np.arange(given.rows)
    train = given.rows if train is None else train
    middle = train + (given.rows - train) // 2
    parts = {"train": rows[:train], "validation": rows[train:middle], "test": rows[middle:]}
    labels = np.zeros(given.rows, dtype=np.int64) if labels is None else labels
    readings, _ = recognise(given, given.names)
    return Examined(given, readings, Target("label", "classification", labels, ("a", "b")), parts, rows)


# Which of like rows stays


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_two_rows_that_are_left_are_alike_and_each_copy_is_like_one_that_stays(drawn: st.DataObject) -> None:
    rows = drawn.draw(st.integers(1, 25))
    small = st.integers(0, 5)
    item = np.array(drawn.draw(st.lists(small, min_size=rows, max_size=rows)))
    part = np.array(drawn.draw(st.lists(st.integers(-1, 2), min_size=rows, max_size=rows)))
    label = np.array(drawn.draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows)))
    pairs = drawn.draw(st.lists(st.tuples(small, small).filter(lambda p: p[0] < p[1]), unique=True, max_size=6))
    parts = drawn.draw(st.sampled_from([("train",), ("validation",), ("train", "validation")]))
    item[0] = 5  # so that every item of a pair has a number
    likeness = Likeness(item, np.array(pairs, dtype=np.int64).reshape(-1, 2), np.full(len(pairs), 0.9))
    data = replace(
        examined(table({"x": np.arange(rows)})),
        parts={name: np.flatnonzero(part == number) for number, name in enumerate(("train", "validation", "test"))},
    )
    found = copies(likeness, data, parts, label)
    may_go = data.within(parts)
    gone = {copy.row for copy in found.found if may_go[copy.row]}

    def alike(a: int, b: int) -> bool:
        both = tuple(sorted((int(item[a]), int(item[b]))))
        return (both[0] == both[1] or both in pairs) and (part[a] != part[b] or label[a] == label[b])

    left = [row for row in range(rows) if part[row] >= 0 and row not in gone]
    for copy in found.found:
        assert copy.of in left
        assert alike(copy.row, copy.of)
        assert copy.across == (part[copy.row] != part[copy.of])
    for one in left:
        for other in left:
            assert one == other or not alike(one, other) or not (may_go[one] or may_go[other])
    for one, other in found.unlike:
        assert part[one] == part[other]
        assert label[one] != label[other]
    assert not {row for row, _ in found.unlike} & gone
    poisoned = np.where(part == 2, 1 - label, label)
    again = copies(likeness, data, parts, poisoned)
    assert {copy.row for copy in again.found if may_go[copy.row]} == gone


# Texts

WORDS = np.array([f"{a}{b}{c}" for a in "bdfglmnprst" for b in "aeiou" for c in ("", "n", "rk", "st")])


def prose(rows: int, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(WORDS[random.integers(0, len(WORDS), random.integers(15, 60))]) for _ in range(rows)]


def altered(texts: list[str], words: int, seed: int = 1) -> list[str]:
    """With so many words of each replaced."""
    random = np.random.default_rng(seed)
    made = []
    for text in texts:
        said = text.split()
        for place in random.choice(len(said), words, replace=False):
            said[place] = str(random.choice(WORDS))
        made.append(" ".join(said))
    return made


def jaccard(one: str, other: str, size: int) -> float:
    a, b = ({text[n : n + size] for n in range(max(1, len(text) - size + 1))} for text in (one, other))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_signatures_are_those_of_datasketch(size: int) -> None:
    texts = ["", "a", "abc", "abcd", "äöü€😀 xyz abcdef", *prose(10)]
    hashes, starts = shingles.shingle_hashes(texts, size)
    ends = [*starts[1:].tolist(), len(hashes)]
    assert [end - start for start, end in zip(starts.tolist(), ends, strict=True)] == [
        max(len(text) - size, 0) + 1 for text in texts
    ]
    made = shingles.signatures(texts, size, seed=7)
    for place, (start, end) in enumerate(zip(starts.tolist(), ends, strict=True)):
        theirs = datasketch.MinHash(num_perm=shingles.PERMUTATIONS, seed=7, hashfunc=int)
        theirs.update_batch(hashes[start:end].tolist())
        np.testing.assert_array_equal(made[place], theirs.hashvalues)


def test_equal_runs_of_characters_have_equal_hashes_wherever_they_stand() -> None:
    text = "the cat saw the cat"
    hashes, _ = shingles.shingle_hashes(["xy", text, "seethe cat"], 3)
    runs = ["xy", *(text[n : n + 3] for n in range(17)), *("seethe cat"[n : n + 3] for n in range(8))]
    told: dict[str, int] = {}
    for run, number in zip(runs, hashes.tolist(), strict=True):
        assert told.setdefault(run, number) == number
    assert len(set(told.values())) == len(told)


def test_candidates_are_those_of_datasketchs_index() -> None:
    base = prose(60)
    texts = [*base, *altered(base, 1), *altered(base, 3, seed=2)]
    made = shingles.signatures(texts, 5, seed=3)
    index = datasketch.MinHashLSH(threshold=0.8, num_perm=shingles.PERMUTATIONS, weights=shingles.WEIGHTS)
    theirs = [
        datasketch.MinHash(num_perm=shingles.PERMUTATIONS, seed=3, hashvalues=row, scheme="affine32") for row in made
    ]
    for number, one in enumerate(theirs):
        index.insert(number, one)
    expected = {(min(n, m), max(n, m)) for n, one in enumerate(theirs) for m in index.query(one) if m != n}
    found = shingles.candidates(made, index.b, index.r)
    assert {tuple(pair) for pair in found.tolist()} == expected
    assert len(expected) > 50


def test_alike_texts_are_told_by_the_exact_index(capsys: pytest.CaptureFixture[str]) -> None:
    base = prose(80)
    texts = list(dict.fromkeys([*base, *altered(base, 1), *altered(base, 2, seed=2)]))
    pairs, indices = shingles.alike(texts, 5, 0.7, seed=0)
    expected = {
        (n, m): index
        for n in range(len(texts))
        for m in range(n + 1, len(texts))
        if (index := jaccard(texts[n], texts[m], 5)) >= 0.7
    }
    found = {tuple(pair): index for pair, index in zip(pairs.tolist(), indices.tolist(), strict=True)}
    assert found.items() <= expected.items()  # precision is 1, and the index is exact
    recall = len(found) / len(expected)
    with capsys.disabled():
        print(f" {len(expected)} pairs of texts at 0.7 or more, recall {recall:.3f} ", end="")
    assert recall > 0.93


def test_a_crowd_of_like_texts_takes_few_comparisons() -> None:
    made = np.zeros((1000, 128), dtype=np.uint32)
    found = shingles.candidates(made, 2, 9)
    assert len(found) <= 2 * shingles.CROWD * 1000
    assert set(found[:, 1].tolist()) == set(range(1, 1000))  # each with one before it


# Images


def as_8_bits(values: np.ndarray) -> np.ndarray:
    return np.asarray((values * 255 / values.max()).round(), dtype=np.uint8)


def test_hashes_are_imagehashs() -> None:
    random = np.random.default_rng(0)
    digits = as_8_bits(load_digits().images[:60])[:, None]
    coloured = random.integers(0, 256, (20, 3, 40, 50), dtype=np.uint8)
    for images in (digits, coloured):
        found = image_hashes.hashes(image_hashes.small_versions(images, np.arange(len(images))))
        for image, one in zip(images, found.tolist(), strict=True):
            theirs = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
            assert one == int(str(imagehash.phash(theirs)), 16)


@pytest.mark.parametrize("bits", [0, 1, 4, 9, 16])
def test_hashes_within_a_bound_are_all_found(bits: int) -> None:
    random = np.random.default_rng(bits)
    hashed = random.integers(0, 2**63, 300, dtype=np.uint64) * np.uint64(2)
    for place in range(150, 300):  # neighbours at all distances up to 20
        flips = random.choice(64, random.integers(0, 20), replace=False)
        hashed[place] = hashed[place - 150] ^ np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64), initial=0)
    differ = np.bitwise_count(hashed[:, None] ^ hashed[None])
    one, other = np.nonzero(np.triu(differ <= bits, 1))
    found = image_hashes.within(hashed, bits)
    assert {tuple(pair) for pair in found.tolist()} == set(zip(one.tolist(), other.tolist(), strict=True))
    assert len(found) > 0


def lossy(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95)
    return np.asarray(Image.open(file))


def test_changed_copies_of_images_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    digits = as_8_bits(load_digits().images)
    random = np.random.default_rng(0)
    noise = np.clip(digits[:100] + random.normal(0, 4, (100, 8, 8)), 0, 255).astype(np.uint8)
    darker = (digits[100:200] * 0.9).astype(np.uint8)
    saved = np.stack([lossy(image) for image in digits[200:300]])
    images = np.concatenate([digits, noise, darker, saved])[:, None]
    data = examined(table({}, images))
    rows = len(images)
    found = copies_of(NearDuplicates(), data)
    planted = {rows - 300 + n: n for n in range(300)}
    hit = {row for row, of in found.items() if planted.get(row) == of}
    recall = {name: len(hit & set(range(rows - 300 + a, rows - 200 + a))) / 100 for name, a in
              (("noise", 0), ("darker", 100), ("jpeg", 200))}  # fmt: skip
    others = len(found) - len(hit)
    with capsys.disabled():
        print(f" planted images found: {recall}, others {others} of {rows} ", end="")
    assert recall["noise"] > 0.95
    assert recall["darker"] > 0.95
    assert others < 0.01 * rows


def copies_of(check: NearDuplicates, data: Examined) -> dict[int, int]:
    pairs = [pair for finding in check.examine(data) for pair in finding.measured.get("copy_and_original", ())]
    return dict(map(tuple, pairs))


# Numbers


@pytest.mark.parametrize("columns", [2, 5, 20])
def test_rows_within_a_tolerance_are_all_found(columns: int) -> None:
    random = np.random.default_rng(columns)
    x = random.normal(size=(300, columns)) * np.logspace(-3, 3, columns)
    scale = x[:200].std(axis=0)
    x[200:] = x[:100] + random.uniform(-0.02, 0.02, (100, columns)) * scale * random.random((100, 1))
    word = np.array(["a", "b"])[random.integers(0, 2, 300)]
    word[200:280] = word[:80]
    whole = random.integers(0, 3, 300)
    whole[200:270] = whole[:70]
    given = table({**{f"x{n}": x[:, n] for n in range(columns)}, "word": word, "whole": whole})
    data = examined(given, train=200)
    likeness, _ = NearDuplicates(tolerance=0.01)._likeness(data)
    scale = x[:200].std(axis=0)
    near = (np.abs(x[:, None] - x[None]) <= 0.01 * scale).all(axis=2)
    near &= (word[:, None] == word[None]) & (whole[:, None] == whole[None])
    one, other = np.nonzero(np.triu(near, 1))
    expected = set(zip(one.tolist(), other.tolist(), strict=True))
    assert len(expected) >= 30
    assert {tuple(pair) for pair in likeness.pairs.tolist()} == expected
    assert ((likeness.similarity >= 0.99) & (likeness.similarity <= 1)).all()


def test_a_lone_column_of_close_numbers_is_refused_in_one_sentence() -> None:
    data = examined(table({"x": np.random.default_rng(0).normal(size=20_000)}))
    with pytest.raises(DataError, match=r"more than 20,000,000 pairs of rows .*Set a smaller one, or take it away"):
        NearDuplicates(tolerance=1.0).examine(data)


# Through the page


def test_like_texts_of_other_classes_stay_and_are_told(tmp_path: Path) -> None:
    base = prose(200)
    copied = altered(base[:80], 1)
    labels = [n % 2 for n in range(200)] + [n % 2 if n < 60 else 1 - n % 2 for n in range(80)]
    lines = "".join(f'"{text}",{label}\n' for text, label in zip([*base, *copied], labels, strict=True))
    (tmp_path / "t.csv").write_text("review,label\n" + lines, encoding="utf-8")
    made = [
        prepare(
            page(
                {"type": "csv", "path": str(tmp_path / "t.csv")},
                target="label",
                steps=[{"type": "tokenize", "method": "words", "columns": ["review"]}],
                quality=quality,
            ),
            tmp_path / "cache",
        )
        for quality in ([], [{"type": "near_duplicates", "action": "drop", "similarity": 0.7}])
    ]
    before, after = (
        {p: set(getattr(d, p).source_rows.tolist()) for p in ("train", "validation", "test")} for d in made
    )
    assert (before["validation"], before["test"]) == (after["validation"], after["test"])
    outside = before["validation"] | before["test"]
    for n, text in enumerate(copied):
        pair = {n, 200 + n}
        if jaccard(base[n], text, 5) < 0.75 or not pair & before["train"]:
            continue
        if pair & outside:
            assert not pair & after["train"]
        else:
            assert pair & after["train"] == ({n} if n < 60 else pair)
    notes = " ".join(made[1].summary.notes)
    assert "of different classes" in notes
    assert "row of another part" in notes


@pytest.mark.slow
def test_a_hundred_thousand_texts_and_sixty_thousand_images_take_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    import time

    texts = prose(100_000)
    began = time.monotonic()
    pairs, _ = shingles.alike(list(dict.fromkeys([*texts, *altered(texts[:1000], 1)])), 5, 0.8, 0)
    texts_s, began = time.monotonic() - began, time.monotonic()
    images = np.random.default_rng(0).integers(0, 256, (60_000, 1, 7, 7), dtype=np.uint8).repeat(4, 2).repeat(4, 3)
    image_hashes.alike(images, 6, 0.99, np.arange(10))
    images_s = time.monotonic() - began
    with capsys.disabled():
        print(f" texts {texts_s:.1f} s ({len(pairs)} pairs), images {images_s:.1f} s ", end="")
    assert len(pairs) > 500
    assert texts_s + images_s < 120


def test_zeros_of_either_sign_and_missing_values_are_the_same() -> None:
    given = table(
        {"x": [0.0, -0.0, None, None, 1.0], "y": [1.5, 1.5, 2.5, 2.5, None], "w": ["a", "a", None, None, "a"]}
    )
    items = exact_items(examined(given))
    assert items[0] == items[1] != items[2] == items[3]
    assert items[4] not in items[:4]
