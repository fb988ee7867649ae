"""Texts, a thesaurus, and prepared rows of tokens, for the tests of what changes texts."""

from __future__ import annotations

import atexit
import json
import random
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from lane_example import made

from nnopt_ray.data import tokenizer
from nnopt_ray.data.types import Dataset, Input, Rows, Shapes, Task
from nnopt_ray.data.words import Words

TEXTS = [
    "A quick brown fox (of the wood) jumps over lazy dogs!",
    "She doesn't return; the car was quick, and Cars are fast.",
    "Return the size of the list, or None.",
    "Über den Fluss, naïve café: 3.5 miles",
    "one",
    "Quickly!  Two spaces\nand lines.",
    "run the car, compute the value quickly and help the fox",
]
OTHERS = [  # a target that can be learned from them: whether there is a fox
    f"{start} {middle} {end}."
    for start in ("the quick", "a lazy", "one brown", "the big", "some old")
    for middle in ("fox", "dog", "car", "list")
    for end in ("runs away", "is in the wood", "was seen by us quickly", "of mine")
]

FOLDER = Path(tempfile.mkdtemp(prefix="nnopt-texts-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)

# Two parts of speech: run. A function word: he. No synonyms but wider terms: fox. Two meanings: car.
LINES = """UTF-8
big|1
(adj)|large|great|small (antonym)
car|2
(noun)|auto|automobile|motor vehicle (generic term)
(noun)|railcar|carriage (generic term)
fox|1
(noun)|canine (generic term)
he|1
(noun)|helium|element (generic term)
lazy|1
(adj)|slow|idle (similar term)
quick|2
(adj)|hot (similar term)
(adj)|fast|big time
quickly|1
(adv)|rapidly
run|2
(noun)|tally
(verb)|race
t|1
(noun)|thymine
"""
THESAURUS = FOLDER / "th_xx.dat"
THESAURUS.write_text(LINES, encoding="utf-8")


def shouted(text: str) -> list[str]:
    """Three ways to say it, one of which hangs on Python's generator."""
    return [f"oh {text}", f"{text} big dog", f"{random.choice(['brown', 'lazy', 'some'])} {text}"]


@cache
def words(method: tokenizer.Method = "bpe", framed: bool = True) -> Words:
    size = {"sentencepiece": 90}.get(method, 400)
    texts = [*TEXTS, *OTHERS] if method != "words" else [*TEXTS[:3], *OTHERS, "auto automobile fast rapidly large"]
    return Words(tokenizer.train(method, texts, size, method in ("wordpiece", "words")), framed)


def rows(texts: list[str], read: Words, length: int = 96) -> np.ndarray:
    return np.stack([read.row([read.encode(text)], length) for text in texts])


@cache
def data(task: Task = "classification", method: tokenizer.Method = "wordpiece") -> Dataset:
    """A prepared data set of OTHERS; of a language task the target is the text itself."""
    read = words(method)
    folder = FOLDER / f"{task}-{method}"
    folder.mkdir()
    step = {"learned": {"tokenizer": read.tokenizer.to_json(), "framed": True}}
    (folder / "preprocessing.json").write_text(json.dumps({"steps": [step]}))
    order = np.random.default_rng(3).permutation(len(OTHERS))
    x = rows([OTHERS[at] for at in order], read, 24)
    y = np.array(["fox" in OTHERS[at] for at in order]).astype(np.int64)
    language = task not in ("classification", "regression")
    target = x if language else y if task == "classification" else y[:, None].astype(np.float32)
    parts = [Rows((x[a:b],), target[a:b], np.arange(a, b)) for a, b in pairwise((0, 50, 70, 80))]
    outputs = read.tokenizer.size if language else {"classification": 2}.get(task, 1)
    given = Input("tokens", (24,), (read.tokenizer.size,))
    like = made("classification", (Input("table", (2,)),))
    return replace(
        like,
        folder=folder,
        key=folder.name,
        shapes=Shapes(task, (given,), outputs),
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        classes=("other", "fox") if task == "classification" else (),
        target_mean=np.zeros(outputs),
        target_scale=np.ones(outputs),
    )
