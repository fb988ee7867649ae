"""train.sampling: which rows an epoch learns from, held against counts by hand; resumption, lanes, pages at fault."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pack_example import alone, differences, together, trainer
from train_example import ACCURACY, MACHINE, dataset, page, part

from nnopt_ray import reading
from nnopt_ray.data.types import Dataset
from nnopt_ray.errors import PageError, UserError
from nnopt_ray.rundir import TrialDir
from nnopt_ray.train.batches import batch_sizes
from nnopt_ray.train.fit import fit
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.sampling import Balanced

RARE = np.array([0] * 100 + [1] * 43 + [2] * 7)


def rare() -> Dataset:
    """Three classes of 100, 43 and 7 rows, mixed."""
    made = dataset()
    target = np.random.default_rng(1).permutation(RARE)
    return replace(made, train=replace(made.train, target=target))


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=6),
    batch_size=st.integers(2, 40),
    seed=st.integers(0, 9),
)
def test_every_batch_holds_the_classes_evenly(counts: list[int], batch_size: int, seed: int) -> None:
    classes = np.repeat(np.arange(len(counts)) * 2, counts)  # a class without training rows between any two
    sampling = Balanced(classes, seed)
    for epoch in range(3):
        order = sampling.order(epoch)
        assert order.dtype == torch.int64
        assert len(order) == len(classes)
        for batch in order.split(batch_sizes(len(classes), batch_size)):
            found = np.bincount(classes[batch.numpy()] // 2, minlength=len(counts))
            assert found.max() - found.min() <= 1


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(1, 400), min_size=2, max_size=4), seed=st.integers(0, 9))
def test_a_row_comes_back_only_when_all_others_of_its_class_were_there(counts: list[int], seed: int) -> None:
    """Across the ends of epochs, and of what is drawn at a time."""
    classes = np.repeat(np.arange(len(counts)), counts)
    sampling = Balanced(classes, seed)
    stream = np.concatenate([sampling.order(epoch).numpy() for epoch in range(8)])
    for number, count in enumerate(counts):
        own = stream[classes[stream] == number]
        rounds = [own[start : start + count] for start in range(0, len(own) - count + 1, count)]
        assert all(len(set(each)) == count for each in rounds)
        if count > 20 and len(rounds) > 1:
            assert (rounds[0] != rounds[1]).any()


def test_the_order_follows_from_the_seed_and_the_epoch() -> None:
    one, again, other = Balanced(RARE, 1), Balanced(RARE, 1), Balanced(RARE, 2)
    again.order(0)
    assert torch.equal(one.order(5), again.order(5))
    assert not torch.equal(one.order(5), one.order(6))
    assert not torch.equal(one.order(5), other.order(5))


def test_a_training_sees_rare_classes_as_often_and_resumes_in_the_same_bits(tmp_path: Path) -> None:
    data, experiment = rare(), page(sampling="balanced")
    unbroken, moved = (Trainer(experiment, data, MACHINE, ACCURACY) for _ in range(2))
    counts = Counter(int(y) for _, target in unbroken.feed.batches(0) for y in target)
    assert counts == {0: 50, 1: 50, 2: 50}
    notes: list[str] = []
    fit(experiment, data, MACHINE, ACCURACY, TrialDir(tmp_path), on_note=notes.append)
    assert notes == [f"Sampling: {unbroken.decided['sampling']}."]
    assert "a row of 'c' 7.1 times and one of 'a' 0.5 times" in unbroken.decided["sampling"]
    while not unbroken.done:
        unbroken.run_epoch()
        moved.run_epoch()
        state = moved.state()
        moved = Trainer(experiment, data, MACHINE, ACCURACY)
        moved.load_state(state)
    assert torch.equal(moved.weights.flat, unbroken.weights.flat)


@pytest.mark.usefixtures("one_thread")
def test_balanced_and_shuffled_trainings_are_lanes_of_one_pack() -> None:
    data, mlp = rare(), part("mlp", widths=(16,))
    pages = [page(model=mlp, sampling=s, seed=n) for n, s in enumerate(["balanced", "shuffled", "balanced"])]
    for experiment, lane in zip(pages, together(pages, data, 3), strict=True):
        found = differences(alone(experiment, data), lane)
        assert found.pop("train_loss") < 1e-6
        assert set(found.values()) == {0.0}


def test_rows_that_have_no_classes_or_were_evened_out_are_refused() -> None:
    with pytest.raises(UserError, match="this task is regression: leave it out"):
        trainer(page(sampling="balanced"), dataset("regression"))
    data = dataset()
    done = replace(data, summary=replace(data.summary, balanced="smote"))
    with pytest.raises(UserError, match=r"data\.balance: smote has evened out their rows already"):
        trainer(page(sampling="balanced"), done)


@pytest.mark.parametrize(
    ("data", "train", "told"),
    [
        ("task: regression", "", "and data.task is regression. Take it away."),
        ("window: {length: 3, order: t}", "", "a window foretells amounts"),
        ("balance: over", "", "data.balance evens out the rows of the classes already."),
        ("balance: null", "loss: {type: cross_entropy, class_weights: balanced}, ", "rare classes a second time"),
    ],
)
def test_pages_that_even_out_what_is_none_or_twice(tmp_path: Path, data: str, train: str, told: str) -> None:
    text = f"data: {{source: {{type: csv, path: x.csv}}, {data}}}\nmodel: mlp\ntrain: {{{train}sampling: balanced}}\n"
    (tmp_path / "page.yaml").write_text(text)
    with pytest.raises(PageError, match=r"train\.sampling: ") as wrong:
        reading.load(tmp_path / "page.yaml")
    assert told in str(wrong.value)
