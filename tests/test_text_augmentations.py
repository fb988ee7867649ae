"""Augmentations of texts: what each does to words, whatever the tokenizer; trainings, lanes, pages at fault."""

from __future__ import annotations

import random
import typing
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import text_example
import torch
from pack_example import alone, differences, together
from text_example import OTHERS, TEXTS, THESAURUS
from train_example import ACCURACY, MACHINE, page, part

import nnopt_ray as nn
from nnopt_ray import tables
from nnopt_ray.data.tokenizer import Method
from nnopt_ray.data.words import Words
from nnopt_ray.errors import PageError, PartError, RunFailed, UserError
from nnopt_ray.train.loop import Trainer

METHODS: tuple[Method, ...] = typing.get_args(Method)
BERT = part("bert", depth=1, width=16, heads=2, dropout=0.1)


def changed(name: str, texts: list[str], read: Words, length: int = 120, seed: int = 1, **keys: Any) -> list[str]:
    """What the texts say after it, told by the tokenizer."""
    augmentation = tables.find("augmentation", name)(**keys)
    given = torch.from_numpy(text_example.rows(texts, read, length))
    found = augmentation(given, torch.Generator().manual_seed(seed), read).numpy()
    assert found.dtype == np.int64
    return [told(row, read) for row in found]


def told(row: np.ndarray, read: Words) -> str:
    return " ".join(word.text for text in read.read(row) for word in text if word.text)


def plain(text: str, read: Words) -> list[str]:
    return told(text_example.rows([text], read)[0], read).split()


@pytest.mark.parametrize("method", METHODS)
def test_what_is_made_is_what_the_tokenizer_reads(method: Method) -> None:
    """The rows are those of the changed texts, as if these had been on the page."""
    read = text_example.words(method)
    every = {"word_swap": {}, "word_delete": {}, "word_insert": {}, "synonyms": {"thesaurus": str(THESAURUS)}}
    for name, keys in every.items():
        augmentation = tables.find("augmentation", name)(share=0.5, **keys)
        given = torch.from_numpy(text_example.rows([*OTHERS, TEXTS[1]], read, 120))
        found = augmentation(given, torch.Generator().manual_seed(2), read).numpy()
        assert (found != given.numpy()).any()
        for row in found:
            (text,) = read.read(row)
            tokens = [token for word in text for token in word.tokens]
            assert read.encode(read.tokenizer.decode(tokens)) == tuple(tokens)


@pytest.mark.parametrize("method", METHODS)
def test_swapped_words_are_the_same_words(method: Method) -> None:
    read = text_example.words(method)
    found = changed("word_swap", OTHERS, read, share=0.3)
    expected = [plain(text, read) for text in OTHERS]
    assert all(Counter(text.split()) == Counter(words) for text, words in zip(found, expected, strict=True))
    assert sum(text.split() != words for text, words in zip(found, expected, strict=True)) > 50


@pytest.mark.parametrize("method", METHODS)
def test_deleted_words_are_gone_as_often_as_asked(method: Method) -> None:
    read = text_example.words(method)
    found = changed("word_delete", OTHERS * 10, read, share=0.3)
    expected = [plain(text, read) for text in OTHERS * 10]
    for text, words in zip(found, expected, strict=True):
        left = iter(words)
        assert all(word in left for word in text.split())  # in their order
    share = sum(len(text.split()) for text in found) / sum(map(len, expected))
    assert abs(share - 0.7) < 0.03
    # All of the words but one: any of them, and the first stands where a text begins.
    alone_ = Counter(changed("word_delete", ["the quick brown fox"] * 400, read, share=1.0))
    assert set(alone_) == {"the", "quick", "brown", "fox"}
    assert min(alone_.values()) > 60


@pytest.mark.parametrize("method", METHODS)
def test_inserted_words_are_of_the_batch_or_synonyms(method: Method) -> None:
    read = text_example.words(method)
    known = {word.strip(".") for text in OTHERS for word in plain(text, read)}
    for found, before in zip(changed("word_insert", OTHERS, read, share=0.3), OTHERS, strict=True):
        words, more = plain(before, read), Counter(found.split())
        more.subtract(words)
        assert min(more.values()) >= 0
        assert {word for word, count in more.items() if count} <= known
    found = changed("word_insert", ["the big car"] * 300, read, share=1.0, thesaurus=str(THESAURUS))
    assert {word for text in found for word in text.split()} - {"the", "big", "car"} <= {
        "large", "great", "auto", "automobile"
    }  # fmt: skip
    assert {text.split().index("automobile") for text in found if "automobile" in text.split()} >= {1, 2, 3}


@pytest.mark.parametrize("method", ["bpe", "sentencepiece", "characters"])
def test_synonyms_of_the_same_part_of_speech(method: Method) -> None:
    read = text_example.words(method)
    texts = ["The Car, (quickly!) run by he and CAR dogs don't"] * 200
    found = changed("synonyms", texts, read, share=1.0, thesaurus=str(THESAURUS))
    assert set(found) == {
        f"The {car}, (rapidly!) run by he and CAR dogs don't" for car in ("Auto", "Automobile")
    }  # fmt: skip


def test_synonyms_that_the_tokenizer_does_not_know_are_not_taken() -> None:
    read = text_example.words("words")  # knows neither great nor "big time"
    assert set(changed("synonyms", ["the big quick fox"] * 100, read, share=1.0, thesaurus=str(THESAURUS))) == {
        "the large fast fox"
    }


def test_what_becomes_too_long_is_cut_at_its_end() -> None:
    read = text_example.words("wordpiece")
    given = torch.from_numpy(text_example.rows(OTHERS, read, 8))
    insert = tables.find("augmentation", "word_insert")(share=1.0)
    found = insert(given, torch.Generator().manual_seed(1), read)
    assert (found[:, -1] == read.tokenizer.special["[SEP]"]).all()
    assert (found[:, 0] == read.tokenizer.special["[CLS]"]).all()


def turned(text: str) -> str:
    return " ".join(reversed(text.split()))


def no_text(text: str) -> int:
    return 3


def nothing(text: str) -> list[str]:
    return []


def test_a_function_of_ones_own_says_texts_otherwise() -> None:
    read = text_example.words("bpe")
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr, index]
    found = changed("paraphrase", OTHERS, read, function="test_text_augmentations:turned", probability=0.5)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[union-attr, index]
    other = [turned(text) for text in OTHERS]
    assert all(text in both for text, both in zip(found, zip(OTHERS, other, strict=True), strict=True))
    assert 20 < sum(text == back for text, back in zip(found, other, strict=True)) < 60


@pytest.mark.parametrize(
    ("function", "told_"),
    [
        ("no_text", "must return a text or a list of texts, and returned a int"),
        ("nothing", "must return a text or a list of texts, and returned an empty list"),
    ],
)
def test_a_function_that_says_no_text_is_told(function: str, told_: str) -> None:
    with pytest.raises(PartError, match=told_):
        changed(
            "paraphrase", OTHERS, text_example.words(), function=f"test_text_augmentations:{function}", probability=1.0
        )


@pytest.mark.parametrize(
    ("function", "told_"),
    [
        ("turned", "a function of your own is written package.module:function, and this is 'turned'"),
        ("no_such_module:turned", "cannot import 'no_such_module'"),
        ("test_text_augmentations:no_such", "'test_text_augmentations' has no 'no_such'"),
        ("test_text_augmentations:OTHERS", "is no function, but a list"),
    ],
)
def test_a_function_that_there_is_not_is_told(function: str, told_: str) -> None:
    with pytest.raises(PartError, match=told_):
        tables.find("augmentation", "paraphrase")(function=function)


ALL = (
    part("word_swap", share=0.2),
    part("word_delete", share=0.2),
    part("word_insert", share=0.2),
    part("synonyms", share=0.5, thesaurus=str(THESAURUS)),
    part("mask_words", share=0.2),
    part("paraphrase", function="text_example:shouted", probability=0.3),
)


def test_trainings_with_changed_texts_resume_in_the_same_bits_and_validate_on_true_ones() -> None:
    data, experiment = text_example.data(), page(model=BERT, augment=ALL)
    unbroken, moved = (Trainer(experiment, data, MACHINE, ACCURACY) for _ in range(2))
    assert len({tuple(map(tuple, x[0].tolist())) for e in range(3) for x, _ in unbroken.feed.batches(e)}) == 6
    while not unbroken.done:
        unbroken.run_epoch()
        moved.run_epoch()
        state = moved.state()
        random.random()
        moved = Trainer(experiment, data, MACHINE, ACCURACY)
        moved.load_state(state)
    assert torch.equal(moved.weights.flat, unbroken.weights.flat)
    seen = [x for (x,), _ in unbroken.placed.validation.batches([20])]
    assert torch.equal(seen[0], torch.from_numpy(np.array(data.validation.inputs[0])))


@pytest.mark.usefixtures("one_thread")
def test_texts_are_changed_in_each_lane_as_alone() -> None:
    data = text_example.data()
    several = [(part("word_delete", share=0.1),), (part("word_delete", share=0.5), part("mask_words")), ()]
    pages = [page(model=BERT, augment=parts, seed=seed) for seed, parts in enumerate(several)]
    for experiment, lane in zip(pages, together(pages, data, 2), strict=True):
        found = differences(alone(experiment, data), lane)
        assert max(value for name, value in found.items() if name.startswith(("val", "train"))) < 2e-5


def test_language_tasks_take_what_leaves_their_targets_true() -> None:
    following, hidden = text_example.data("language_modelling"), text_example.data("masked_language_modelling")
    gpt = part("gpt", depth=1, width=16, heads=2)
    trainer = Trainer(page(model=gpt, augment=(part("mask_words"),), epochs=1), following, MACHINE, {})
    trainer.run_epoch()
    for data, name, model in ((following, "word_swap", gpt), (hidden, "mask_words", BERT)):
        with pytest.raises(UserError, match=rf"data\.augment\.0: {name} changes a text of which .*: leave it out"):
            Trainer(page(model=model, augment=(part(name),)), data, MACHINE, {})


def test_a_run_from_a_page(tmp_path: Path) -> None:
    """The thesaurus lies beside the page, the function too; what is wrong with them is one sentence."""
    rows = "\n".join(f"{text},{'fox' in text}" for text in OTHERS * 2)
    (tmp_path / "texts.csv").write_text(f"text,target\n{rows}\n")
    (tmp_path / "th.dat").write_text(THESAURUS.read_text())
    (tmp_path / "saying.py").write_text("def louder(text):\n    return text + '!'\n")
    (tmp_path / "page.yaml").write_text(
        "data:\n"
        "  source: {type: csv, path: texts.csv}\n"
        "  steps: [{type: tokenize, vocabulary_size: 100}]\n"
        "  augment: [word_swap, {type: synonyms, thesaurus: th.dat}, {type: paraphrase, function: 'saying:louder'}]\n"
        "model: {type: bert, depth: 1, width: 16, heads: 2}\n"
        "train: {epochs: 2}\n"
        "evaluate: {bootstrap: 0}\n"
    )
    run = nn.run(nn.load(tmp_path / "page.yaml"), tmp_path / "out")
    assert run.result["status"] == "finished"
    (tmp_path / "failing.py").write_text("def louder(text):\n    raise KeyError('not today')\n")
    own = [{"type": "paraphrase", "function": "failing:louder"}]
    other = nn.load(tmp_path / "page.yaml", set={"data.augment": own})
    with pytest.raises(RunFailed, match=r"KeyError: 'not today' \(failing\.py:2\)"):
        nn.run(other, tmp_path / "out")
    (tmp_path / "th.dat").write_text("UTF-8\n")
    with pytest.raises(PageError, match=r"4:24: data\.augment\.1: synonyms\.thesaurus: .*th\.dat is no thesaurus"):
        nn.load(tmp_path / "page.yaml")
