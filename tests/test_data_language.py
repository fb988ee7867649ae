"""Language tasks: blocks made by hand, the masking of Devlin et al. 2019, no text in two parts, what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data_example import page
from pyarrow import csv as arrow_csv

from nnopt_ray.data.prepare import apply, prepare
from nnopt_ray.data.table import Table
from nnopt_ray.data.types import IGNORED, Dataset
from nnopt_ray.errors import DataError

WORDS = [f"w{n}" for n in range(40)]
PARTS = ("train", "validation", "test")
PAD, UNKNOWN, CLS, SEP, MASK = range(5)


def texts(rows: int = 60, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(1, 30))) for _ in range(rows)]


def part_of(number: int) -> str:
    return ("train", "train", "validation", "train", "test")[number % 5]


def prepared(folder: Path, told: list[Any], task: str = "language_modelling", **changed: Any) -> Dataset:
    """The texts as a table with a part, and a label that nobody reads."""
    rows = range(len(told))
    columns = {"text": pa.array(told, pa.string()), "label": list(rows), "part": [part_of(n) for n in rows]}
    arrow_csv.write_csv(pa.table(columns), folder / "t.csv")
    data = {key: changed.pop(key) for key in ("split", "masks", "ignore") if key in changed}
    data = {"split": {"type": "given", "column": "part"}, **data}
    step = {"type": "tokenize", "method": "words", "length": 16, "columns": ["text"], **changed}
    source = {"type": "csv", "path": str(folder / "t.csv")}
    return prepare(page(source, task=task, steps=[step], **data), folder / "cache")


def parts_of(dataset: Dataset) -> dict[str, Any]:
    return {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}


def vocabulary(dataset: Dataset) -> dict[str, int]:
    state = json.loads((dataset.folder / "preprocessing.json").read_text())["steps"][0]["learned"]["tokenizer"]
    found: dict[str, int] = state["tokenizer"]["model"]["vocab"]
    return found


def streams(dataset: Dataset, told: list[str]) -> dict[str, tuple[list[int], list[int]]]:
    """part → the tokens of its texts, an end token after each, and the text of each token."""
    words = vocabulary(dataset)
    made: dict[str, tuple[list[int], list[int]]] = {part: ([], []) for part in PARTS}
    for number, text in enumerate(told):
        tokens, of = made[part_of(number)]
        tokens += [*(words.get(word, UNKNOWN) for word in text.split()), SEP]
        of += [number] * (len(text.split()) + 1)
    return made


@pytest.mark.parametrize("length", [3, 16, 1000])
def test_blocks_ask_for_the_next_token_of_the_joined_texts(length: int, tmp_path: Path) -> None:
    told = texts()
    dataset = prepared(tmp_path, told, length=length)
    size = len(vocabulary(dataset))
    assert (dataset.shapes.task, dataset.shapes.outputs) == ("language_modelling", size)
    assert dataset.shapes.inputs[0].cardinalities == (size,)
    assert dataset.target_mean.tolist() == [0.0] * size
    for part, (stream, of) in streams(dataset, told).items():
        rows = parts_of(dataset)[part]
        assert rows.inputs[0].shape == rows.target.shape == (len(rows), length)
        assert rows.inputs[0].dtype == rows.target.dtype == np.int64
        inputs, target = rows.inputs[0].ravel(), rows.target.ravel()
        asked = target != IGNORED
        assert inputs[asked].tolist() == stream[:-1]
        assert target[asked].tolist() == stream[1:]
        assert (inputs[~asked] == PAD).all()
        assert (~asked).sum() < length
        assert rows.source_rows.tolist() == of[: len(stream) - 1 : length]
        assert dataset.summary.parts[part] == len(rows)


@pytest.mark.parametrize("framed", [True, False])
def test_masking_is_that_of_bert(framed: bool, tmp_path: Path) -> None:
    """15 % of the positions; of them 80 % [MASK], 10 % another token, 10 % the token itself."""
    told = texts(3000)
    dataset = prepared(tmp_path, told, "masked_language_modelling", special_tokens=framed, masks=3)
    for part, (stream, _) in streams(dataset, told).items():
        copies = 3 if part == "train" else 1
        rows = parts_of(dataset)[part]
        blocks = len(rows) // copies
        truths = []
        chosen = rows.target != IGNORED
        for copy in range(copies):
            own = slice(copy * blocks, (copy + 1) * blocks)
            inputs, target = rows.inputs[0][own], rows.target[own]
            true = np.where(chosen[own], target, inputs)
            if framed:
                assert (true[:, 0] == CLS).all()
                last = (true != PAD).sum(axis=1) - 1
                assert (true[np.arange(blocks), last] == SEP).all()
                true = np.stack([np.where(np.arange(16) < end, row, PAD) for row, end in zip(true, last, strict=True)])
                true = true[:, 1:]
            truths.append(true.ravel()[true.ravel() != PAD].tolist())
            # To within a half: the nearest whole number of the words in the block.
            ordinary = ((true != PAD) & (true != SEP)).sum(axis=1)
            assert (np.abs(chosen[own].sum(axis=1) - 0.15 * ordinary) <= 0.85).all()
            assert (np.abs(chosen[own].sum(axis=1) - 0.15 * ordinary)[ordinary > 6] <= 0.5 + 1e-9).all()
        assert truths == [stream] * copies
        assert not np.isin(rows.target[chosen], (PAD, CLS, SEP, MASK)).any()
        shown, true = rows.inputs[0][chosen], rows.target[chosen]
        other = (shown != MASK) & (shown != true)
        assert (shown[other] > MASK).all()
        # A word drawn at random is the true one in one of 40 cases.
        expected = {"masked": 0.8, "other": 0.1 * 39 / 40, "same": 0.1 + 0.1 / 40}
        found = {"masked": (shown == MASK).mean(), "other": other.mean(), "same": (shown == true).mean()}
        for name, share in expected.items():
            assert abs(found[name] - share) < 4 * np.sqrt(share * (1 - share) / len(shown)), name
        if part == "train":
            first, second = chosen[:blocks], chosen[blocks : 2 * blocks]
            assert 0.1 < (first & second).sum() / first.sum() < 0.25  # two draws have little in common


def test_masks_follow_from_the_seed_of_the_split(tmp_path: Path) -> None:
    told = texts(200)

    def made(seed: int) -> Dataset:
        given = {"type": "given", "column": "part", "seed": seed}
        return prepared(tmp_path, told, "masked_language_modelling", split=given)

    first, other = made(1), made(2)
    (tmp_path / "again").mkdir()
    again = prepared(
        tmp_path / "again", told, "masked_language_modelling", split={"type": "given", "column": "part", "seed": 1}
    )
    for part in PARTS:
        np.testing.assert_array_equal(parts_of(first)[part].inputs[0], parts_of(again)[part].inputs[0])
        assert not np.array_equal(parts_of(first)[part].inputs[0], parts_of(other)[part].inputs[0])
    twice = prepared(
        tmp_path, told, "masked_language_modelling", masks=2, split={"type": "given", "column": "part", "seed": 1}
    )
    assert len(first.train) == 2 * len(twice.train)  # 4 times without a word
    np.testing.assert_array_equal(twice.train.inputs[0], first.train.inputs[0][: len(twice.train)])


@pytest.mark.parametrize("task", ["language_modelling", "masked_language_modelling"])
def test_texts_outside_the_training_part_change_nothing_in_it(task: str, tmp_path: Path) -> None:
    told = texts(80)
    first = prepared(tmp_path, told, task)
    changed = [text if part_of(n) == "train" else f"quite other words {n} " * 3 for n, text in enumerate(told)]
    second = prepared(tmp_path, changed, task)
    assert second.key != first.key
    assert vocabulary(second) == vocabulary(first)
    np.testing.assert_array_equal(second.train.inputs[0], first.train.inputs[0])
    np.testing.assert_array_equal(second.train.target, first.train.target)
    assert not np.array_equal(second.test.inputs[0], first.test.inputs[0])


def test_what_is_read_and_left_out_is_said(tmp_path: Path) -> None:
    told: list[Any] = texts(60)
    told[0] = told[7] = None
    dataset = prepared(tmp_path, told)
    notes = " ".join(dataset.summary.notes)
    words = sum(len(text.split()) for n, text in enumerate(told) if text and part_of(n) == "train")
    assert f"{words:,} of 35 texts in the train part" in notes
    assert "Rows without a text, which were left out: 2." in notes
    assert "'label', 'part'" in notes
    lines = (dataset.folder / "audit.csv").read_text().splitlines()[1:]
    assert lines == ["0,,left out,no text,,,", "7,,left out,no text,,,"]
    assert dataset.train.source_rows[0] == 1
    assert (dataset.summary.columns[0].name, dataset.summary.columns[0].kind) == ("text", "text")
    assert dataset.summary.rows == 60


def test_new_texts_are_read_as_the_old_ones(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, texts())
    words = vocabulary(dataset)
    (tokens,) = apply(dataset.folder, Table("new", pa.table({"text": ["w3 w4 zebra", "w1 " * 40]})))
    assert tokens.tolist() == [[words["w3"], words["w4"], UNKNOWN] + [PAD] * 13, [words["w1"]] * 16]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"columns": None, "ignore": ["text"]}, "finds no column"),
        ({"columns": ["txt"]}, "no column 'txt'"),
        ({"ignore": ["lable"]}, "data.ignore: .* has no column 'lable'. Did you mean 'label'"),
        ({"columns": ["text", "part"]}, "reads one text column, and finds the columns 'text', 'part'"),
    ],
)
def test_what_a_language_task_cannot_read_is_said(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as caught:
        prepared(tmp_path, texts(), **change)
    assert "\n" not in str(caught.value)


def test_the_length_of_a_block_is_128_unless_told(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, texts(), length="auto")
    assert dataset.shapes.inputs[0].shape == (128,)
