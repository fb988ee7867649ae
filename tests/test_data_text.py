"""Text: the source `text_lines`; the step `tokenize`, against `transformers` and by hand; what is said of text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data_example import page
from pyarrow import csv as arrow_csv

from nnopt_ray.data import tokenizer
from nnopt_ray.data.prepare import apply, prepare
from nnopt_ray.data.table import Table, tidy
from nnopt_ray.data.text_files import TextLines
from nnopt_ray.data.types import Dataset
from nnopt_ray.errors import DataError

METHODS = ("wordpiece", "bpe", "sentencepiece", "characters", "words")
SIZE = 400

# The source


def read(folder: Path, **keys: Any) -> Table:
    return tidy(TextLines(path=str(folder), **keys).read(folder))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("lines", ["one", "two\x0c still two", "three", "four"]),
        ("paragraphs", ["one\ntwo\x0c still two", "three\nfour"]),
        ("files", ["one\ntwo\x0c still two\n  \nthree\n\n\nfour".replace("\n\n\n", "\n")]),
    ],
)
def test_rows_are_lines_paragraphs_or_files(rows: Any, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffone\r\ntwo\x0c still two\n  \nthree\nfour\n\n", encoding="utf-8")
    assert read(tmp_path / "a.txt", rows=rows).columns.column("text").to_pylist() == expected
    (tmp_path / "b.txt").write_text("five")
    (tmp_path / "c.md").write_text("six")
    whole = read(tmp_path, rows=rows).columns.column("text").to_pylist()
    assert whole == [*expected, "five"]
    assert read(tmp_path, rows=rows, suffix=".md").columns.column("text").to_pylist() == ["six"]


def test_folders_are_classes_and_parts(tmp_path: Path) -> None:
    for part, count in (("train", 20), ("test", 6)):
        for label in ("pos", "neg"):
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}.txt").write_text(f"{label} {part} {number}\nand more")
    table = read(tmp_path, rows="files")
    assert table.own_parts is not None
    for text, label, part in zip(
        *(table.columns.column(name).to_pylist() for name in ("text", "label")), table.own_parts, strict=True
    ):
        assert text.startswith(f"{label} {part} ")
    assert table.target == "label"
    assert read(tmp_path / "train", rows="files").own_parts is None
    assert read(tmp_path / "train" / "pos", rows="files").names == ["text"]
    assert read(tmp_path, rows="lines").names == ["text"]
    (tmp_path / "train" / "stray.txt").write_text("stray")
    stray = read(tmp_path / "train", rows="files")
    assert stray.names == ["text"]
    assert "the folders are no classes" in stray.notes[0]


@pytest.mark.parametrize(
    ("content", "keys", "said"),
    [
        (b"\n \n", {}, "holds no text"),
        (b"caf\xe9", {}, "Add to data.source: encoding: latin-1"),
        (b"word", {"encoding": "klingon"}, "no encoding 'klingon'"),
    ],
)
def test_files_that_cannot_be_read_are_explained(
    content: bytes, keys: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    for place in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(DataError, match=said) as caught:
            read(place, **keys)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"holds no file that ends in \.html"):
        read(tmp_path, suffix=".html")


def test_files_whose_name_begins_with_a_line_are_read_and_other_endings_are_named(tmp_path: Path) -> None:
    for name in ("__init__.py", "b.py", ".hidden.py", "c.md"):
        (tmp_path / name).write_text(f"text of {name}")
    read = TextLines(path=".", rows="files", suffix=".py").read(tmp_path)
    assert read.columns.column("text").to_pylist() == ["text of __init__.py", "text of b.py"]
    with pytest.raises(DataError, match=r"no file that ends in \.txt; of those there are, 2 in \.py, 1 in \.md"):
        TextLines(path=".", rows="files").read(tmp_path)


# The step


def review(random: np.random.Generator, label: str) -> str:
    subject = ("the film", "The plot", "an actor", "Ünlü müzik", "this book")[random.integers(5)]
    judged = {"good": ("wonderful", "moving", "brilliant"), "bad": ("dreadful", "boring", "wooden")}[label]
    words = [subject, "was", judged[random.integers(3)], "and", judged[random.integers(3)] + ",", "I'd say"]
    return " ".join([*words, *["again"] * random.integers(0, 12), f"({random.integers(1000)})"])


def reviews(rows: int = 240, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    labels = ["good" if random.random() < 0.5 else "bad" for _ in range(rows)]
    return pa.table({"text": [review(random, label) for label in labels], "label": labels})


def prepared(folder: Path, table: pa.Table | None = None, **step: Any) -> Dataset:
    arrow_csv.write_csv(reviews() if table is None else table, folder / "t.csv")
    keys = {"type": "tokenize", "vocabulary_size": SIZE, **step}
    source = {"type": "csv", "path": str(folder / "t.csv")}
    return prepare(page(source, target="label", steps=[keys]), folder / "cache")


def learned(dataset: Dataset) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((dataset.folder / "preprocessing.json").read_text())["steps"][0]["learned"]
    return found


@pytest.mark.parametrize("method", METHODS)
def test_text_becomes_framed_tokens_of_one_length(method: str, tmp_path: Path) -> None:
    dataset = prepared(tmp_path, method=method)
    tokens = dataset.shapes.tokens
    assert tokens is not None
    assert tokens.padding == 0
    assert tokens.cardinalities[0] <= SIZE
    made = tokenizer.from_json(learned(dataset)["tokenizer"])
    assert made.vocabulary()[:5] == tokenizer.SPECIAL
    texts = reviews().column("text").to_pylist()
    lower = method in ("wordpiece", "words")
    for rows in (dataset.train, dataset.validation, dataset.test):
        (ids,) = rows.inputs
        assert ids.dtype == np.int64
        assert ids.max() < tokens.cardinalities[0]
        for row, source_row in zip(ids[:20], rows.source_rows, strict=False):
            end = int(np.flatnonzero(row == 3)[0])
            assert row[0] == 2
            assert (row[end + 1 :] == 0).all()
            text = texts[source_row].lower() if lower else texts[source_row]
            if end < len(row) - 1 and 1 not in row and method != "words":
                squeezed = made.decode(row.tolist()).replace(" ", "")
                expected = text.replace(" ", "")
                if method == "wordpiece":  # BERT drops accents with capitals
                    expected = expected.replace("ü", "u")
                assert squeezed == expected
    again = apply(dataset.folder, Table("new rows", reviews().take(dataset.test.source_rows).drop_columns(["label"])))
    np.testing.assert_array_equal(again[0], dataset.test.inputs[0])


def test_wordpiece_gives_what_transformers_bert_tokenizer_gives(tmp_path: Path) -> None:
    from transformers import BertTokenizerFast

    dataset = prepared(tmp_path, length=24)
    state = learned(dataset)["tokenizer"]["tokenizer"]
    vocabulary = state["model"]["vocab"]
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)), encoding="utf-8")
    reference = BertTokenizerFast(vocab=vocabulary, do_lower_case=True)
    texts = reviews().take(dataset.train.source_rows).column("text").to_pylist()
    expected = reference(texts, padding="max_length", truncation=True, max_length=24)["input_ids"]
    np.testing.assert_array_equal(dataset.train.inputs[0], expected)
    saved = prepared(tmp_path, length=24, file=str(tmp_path / "vocab.txt"))
    np.testing.assert_array_equal(saved.train.inputs[0], expected)


@pytest.mark.parametrize("method", ["wordpiece", "bpe", "words"])
def test_the_saved_tokenizer_works_elsewhere_and_is_read_back(method: str, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    dataset = prepared(tmp_path, method=method, length=64)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(learned(dataset)["tokenizer"]["tokenizer"]))
    elsewhere = Tokenizer.from_file(str(file))
    texts = reviews().take(dataset.test.source_rows).column("text").to_pylist()
    for row, text in zip(dataset.test.inputs[0], texts, strict=True):
        ids = elsewhere.encode(text).ids
        assert row[: len(ids)].tolist() == ids
    for place in (file, dataset.folder / "preprocessing.json"):
        again = prepared(tmp_path, length=64, file=str(place))
        np.testing.assert_array_equal(again.test.inputs[0], dataset.test.inputs[0])
        assert again.key != dataset.key


def test_another_tokenizer_under_the_same_name_is_met(tmp_path: Path) -> None:
    file = tmp_path / "vocab.txt"
    words = [*tokenizer.SPECIAL, "the", "film", "was"]
    file.write_text("\n".join(words))
    first = prepared(tmp_path, file=str(file), length=8)
    file.write_text("\n".join([*words, "and"]))
    second = prepared(tmp_path, file=str(file), length=8)
    assert second.key != first.key
    assert second.shapes.inputs[0].cardinalities == (9,)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    file.rename(elsewhere / file.name)
    assert prepared(tmp_path, file=str(elsewhere / file.name), length=8).key == second.key


def test_a_vocabulary_without_special_tokens_gets_them_at_its_end(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    bare = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}, merges=[("a", "b")]))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    bare.save(str(tmp_path / "gpt.json"))
    rows = pa.table({"text": ["ab a", "b", "ab"] * 20, "label": ["x", "y", "x"] * 20})
    dataset = prepared(tmp_path, rows, file=str(tmp_path / "gpt.json"), columns=["text"], length=5)
    assert dataset.shapes.tokens is not None
    assert dataset.shapes.tokens.cardinalities == (8,)
    assert dataset.shapes.tokens.padding == 4
    expected = {"x": [[6, 2, 0, 3, 4], [6, 2, 3, 4, 4]], "y": [[6, 1, 3, 4, 4]]}
    for row, label in zip(dataset.train.inputs[0].tolist(), dataset.train.target, strict=True):
        assert row in expected[dataset.classes[label]]


@pytest.mark.parametrize("method", METHODS)
def test_texts_outside_the_training_part_change_no_vocabulary(method: str, tmp_path: Path) -> None:
    first = prepared(tmp_path, method=method)
    rows = reviews().to_pydict()
    for row in (*first.validation.source_rows, *first.test.source_rows):
        rows["text"][row] = f"Quite other words, zebra {row} xylophone ÆØÅ " * 9
    second = prepared(tmp_path, pa.table(rows), method=method)
    assert second.key != first.key
    assert learned(second) == learned(first)
    np.testing.assert_array_equal(second.train.inputs[0], first.train.inputs[0])
    assert not np.array_equal(second.test.inputs[0], first.test.inputs[0])


def test_vocabularies_are_the_same_in_every_process() -> None:
    """Hugging Face's trainers number pieces by a hash table that is seeded anew in each process."""
    program = (
        "import hashlib, json, sys; from nnopt_ray.data import tokenizer\n"
        "texts = json.load(sys.stdin)\n"
        f"for method in {METHODS!r}:\n"
        "    made = json.dumps(tokenizer.train(method, texts, 300, True).to_json())\n"
        "    print(method, hashlib.sha256(made.encode()).hexdigest())"
    )
    texts = json.dumps(reviews(400, seed=5).column("text").to_pylist())
    found = [
        subprocess.run(
            [sys.executable, "-c", program],
            input=texts, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert found[0].count("\n") == len(METHODS)
    assert found[0] == found[1]


def test_characters_and_words_are_numbered_by_how_often_they_occur() -> None:
    texts = ["abba b", "b c d", "B"]
    made = tokenizer.train("characters", texts, 8, lowercase=False)
    counts = Counter("".join(texts))
    ranked = sorted(counts, key=lambda character: (-counts[character], character))[:3]
    assert made.vocabulary() == (*tokenizer.SPECIAL, *ranked)
    assert [tokens.tolist() for tokens in made.encode(["b Zd", ""])] == [[5, 6, 1, 1], []]
    words = tokenizer.train("words", texts, 7, lowercase=True)
    assert words.vocabulary() == (*tokenizer.SPECIAL, "b", "abba")
    assert [tokens.tolist() for tokens in words.encode(["ABBA c b!"])] == [[6, 1, 5, 1]]


def test_what_is_cut_unknown_and_empty_is_said(tmp_path: Path) -> None:
    rows = reviews().to_pydict()
    first = prepared(tmp_path, pa.table(rows), method="words", length=10)
    sizes = np.array([2 + len(_split(text)) for text in rows["text"]])
    cut = int((sizes[first.train.source_rows] > 10).sum())
    assert any(
        f"longer ones were cut at their end: {cut} of 156 rows of the train part" in n for n in first.summary.notes
    )
    for row in first.validation.source_rows[:7]:
        rows["text"][row] = None
    second = prepared(tmp_path, pa.table(rows), method="words", length=10)
    assert "Rows without any text in 'text': 7 of the validation part." in second.summary.notes
    made = tokenizer.from_json(learned(second)["tokenizer"])
    texts = [rows["text"][row] or "" for row in second.validation.source_rows]
    tokens = np.concatenate(list(made.encode(texts)))
    share = f"{100 * float((tokens == 1).mean()):.2g} % of the validation part"
    assert any("unknown ([UNK])" in note and share in note for note in second.summary.notes)
    auto = prepared(tmp_path, pa.table(rows), method="words")
    quantile = np.quantile(
        [2 + len(_split(rows["text"][row] or "")) for row in auto.train.source_rows], 0.99, method="inverted_cdf"
    )
    assert auto.shapes.inputs[0].shape == (8 * int(np.ceil(quantile / 8)),)
    assert any(f"99 % of the training rows have at most {quantile}, rounded up" in n for n in auto.summary.notes)


def _split(text: str) -> list[str]:
    """Words and marks, as BERT divides them."""
    import re

    return re.findall(r"\w+|[^\w\s]", text)


def test_several_columns_are_read_as_one_text(tmp_path: Path) -> None:
    table = reviews().append_column("title", pa.array([f"part {n % 3}" for n in range(240)]))
    dataset = prepared(tmp_path, table, method="words", columns=["title", "text"], length=12)
    made = tokenizer.from_json(learned(dataset)["tokenizer"])
    for row, source_row in zip(dataset.train.inputs[0], dataset.train.source_rows, strict=True):
        title, text = made.encode([table.column(name)[source_row].as_py() for name in ("title", "text")])
        inside = [*title.tolist(), 3, *text.tolist()][:10]
        assert row.tolist() == [2, *inside, 3, *[0] * (10 - len(inside))]


def test_free_text_is_met_with_the_step_that_reads_it(tmp_path: Path) -> None:
    arrow_csv.write_csv(reviews(), tmp_path / "t.csv")
    source = {"type": "csv", "path": str(tmp_path / "t.csv")}
    for steps in ([], ["encode"], ["impute", "scale"]):
        with pytest.raises(DataError, match=r"column 'text' is free text.* - \{type: tokenize, columns: \[text\]\}"):
            prepare(page(source, target="label", steps=steps), tmp_path / "cache")
    kept = prepare(page(source, target="label", steps=["tokenize"]), tmp_path / "cache")
    assert [(column.name, column.kind) for column in kept.summary.columns] == [("text", "text"), ("label", "target")]
    names = pa.table({"text": [f"name{n}" for n in range(100)], "x": range(0, 1000, 10), "label": ["a", "b"] * 50})
    arrow_csv.write_csv(names, tmp_path / "t.csv")
    dataset = prepare(page(source, target="label"), tmp_path / "cache")
    assert dataset.feature_names == ("x",)  # an identifier, as before
    read = prepare(page(source, target="label", steps=["tokenize"]), tmp_path / "cache")
    assert [layout.kind for layout in read.shapes.inputs] == ["tokens", "table"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"columns": ["txt"]}, "no column there is: 'txt'. Did you mean 'text'"),
        ({"file": "nowhere.json"}, "there is no file"),
        ({"file": "t.csv"}, "is no tokenizer that is known here"),
        ({"file": "broken.json"}, "cannot be read"),
        ({"file": "other.json"}, "holds no tokenizer"),
        ({"file": "broken.model"}, "cannot be read"),
        ({"method": "sentencepiece", "vocabulary_size": 6}, "SentencePiece could not learn 6 tokens"),
    ],
)
def test_what_tokenize_cannot_do_is_said(keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{"model": {"type": "BPE"}}')
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "broken.model").write_bytes(b"no protobuf")
    if "file" in keys:
        keys = {**keys, "file": str(tmp_path / keys["file"])}
    with pytest.raises(DataError, match=said) as caught:
        prepared(tmp_path, **keys)
    assert "\n" not in str(caught.value)


def test_a_folder_of_reviews_is_learned_from_as_it_lies(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 15)):
        for label in ("good", "bad"):
            folder = tmp_path / "reviews" / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}.txt").write_text(review(random, label), encoding="utf-8")
    source = {"type": "text_lines", "path": str(tmp_path / "reviews"), "rows": "files"}
    dataset = prepare(page(source, steps=["tokenize"]), tmp_path / "cache")
    assert dataset.classes == ("bad", "good")
    assert dataset.summary.parts == {"train": 68, "validation": 12, "test": 30}
    otherwise = prepare(page(source, split="random", steps=["tokenize"]), tmp_path / "cache")
    assert any("data.split: given would keep that" in note for note in otherwise.summary.notes)


def test_a_text_is_read_once(tmp_path: Path) -> None:
    arrow_csv.write_csv(reviews().append_column("title", pa.array(["x"] * 120 + ["y"] * 120)), tmp_path / "t.csv")
    source = {"type": "csv", "path": str(tmp_path / "t.csv")}
    steps = [{"type": "tokenize", "columns": [name], "vocabulary_size": 300} for name in ("text", "title")]
    with pytest.raises(DataError, match="two tokenize steps"):
        prepare(page(source, target="label", steps=steps), tmp_path / "cache")
