"""The score against the number of training rows: the law that is fitted, and runs that have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import nnopt_ray as nn
from nnopt_ray import reading
from nnopt_ray.data.prepare import prepare
from nnopt_ray.errors import DataError, PageError
from nnopt_ray.evaluate.sized import Sized, fitted, size, summed_up

PAGE: dict[str, Any] = {
    "data": {"source": {"type": "sklearn", "name": "wine"}, "steps": ["scale"]},
    "model": {"type": "mlp", "widths": [16]},
    "train": {"epochs": 4, "batch_size": 16, "optimizer": {"type": "adam", "lr": 0.01}},
    "evaluate": {"sizes": [0.25, 0.5, 0.75, 1.0], "bootstrap": 0},
}
ROWS = (50, 100, 200, 400, 800)


def sizes(law: Any, noise: float = 0.0, seed: int = 0) -> list[Any]:
    random = np.random.default_rng(seed)
    return [size(n / 800, n, [law(n) + noise * random.normal() for _ in range(3)]) for n in ROWS]


@pytest.mark.parametrize(("mode", "sign", "c"), [("min", 1.0, 0.05), ("max", -1.0, -0.97)])
def test_a_law_that_the_scores_follow_is_found(mode: Literal["min", "max"], sign: float, c: float) -> None:
    law = fitted(sizes(lambda n: sign * (2.0 * n**-0.6 + c)), mode, 0.95, 0)
    assert law is not None
    assert (law.a, law.b, law.c) == pytest.approx((2.0, 0.6, c), rel=1e-3, abs=1e-4)
    assert law.doubled == pytest.approx(sign * (2.0 * 1600**-0.6 + c), abs=1e-4)
    assert law.explained == pytest.approx(1.0)


def test_the_interval_holds_what_twice_the_rows_give_about_as_often_as_it_says_or_is_shown_to_be_wide() -> None:
    truth = 2.0 * 1600**-0.6 + 0.05
    laws = [fitted(sizes(lambda n: 2.0 * n**-0.6 + 0.05, 0.004, seed), "min", 0.95, seed) for seed in range(12)]
    assert all(law is not None and law.low <= law.doubled <= law.high for law in laws)
    assert sum(law.low <= truth <= law.high for law in laws if law is not None) >= 8


def test_no_loss_is_foretold_below_zero_and_no_share_above_one() -> None:
    steep = fitted(sizes(lambda n: 5 / n, 0.0005), "min", 0.95, 0)
    assert steep is not None
    assert 0 <= steep.low <= steep.doubled
    high = fitted(sizes(lambda n: min(1.0, 1 - 5 / n), 0.0005), "max", 0.95, 0)
    assert high is not None
    assert high.doubled <= high.high <= 1


def test_a_law_of_the_small_sizes_alone_foretells_nothing() -> None:
    """A small ResNet on digits: the least squares are of the first two sizes, and twice the rows would do harm."""
    measured = {117: (2.144, 2.233, 2.095), 234: (1.420, 1.806, 1.321), 467: (0.237, 0.338, 0.250),
                818: (0.093, 0.090, 0.124), 1168: (0.053, 0.069, 0.096)}  # fmt: skip
    found = summed_up([size(n / 1168, n, each) for n, each in measured.items()], "val_loss", "min", 0.95, "0001", 0)
    assert found.law is None
    for seed in range(12):
        law = fitted(sizes(lambda n: 2.0 * n**-0.6 + 0.05, 0.004, seed), "min", 0.95, seed)
        assert law is not None
        assert law.doubled < 2.0 * 800**-0.6 + 0.05 + 0.004


def test_scores_without_a_law_are_said_to_have_none() -> None:
    flat = summed_up(sizes(lambda n: 0.5, 0.01), "val_loss", "min", 0.95, "0001", 0)
    rising = summed_up(sizes(lambda n: n / 1000), "val_loss", "min", 0.95, "0001", 0)
    few = summed_up(sizes(lambda n: 2.0 * n**-0.6)[:3], "val_loss", "min", 0.95, "0001", 0)
    for found in (flat, rising, few):
        assert found.law is None
        assert "cannot be told" in found.sentence
    assert Sized.from_json(json.loads(json.dumps(few.to_json()))) == few


def test_a_run_has_its_sizes_nested_in_each_other_on_one_validation_part(tmp_path: Path) -> None:
    run = nn.run(reading.from_tree(PAGE), tmp_path)
    found = Sized.from_json(json.loads((run.path / "evaluation" / "sizes.json").read_text(encoding="utf-8")))
    assert [one.share for one in found.sizes] == [0.25, 0.5, 0.75, 1.0]
    before: set[int] = set()
    for number, one in enumerate(found.sizes, start=1):
        data = prepare(nn.load(run.path / "trials" / f"0001-n{number}-s1" / "page.yaml"))
        assert one.rows == len(data.train) == round(one.share * found.sizes[-1].rows)
        assert before < set(data.train.source_rows.tolist())
        before = set(data.train.source_rows.tolist())
        shares = np.bincount(data.train.target) / len(data.train)
        assert np.abs(shares - np.array([59, 71, 48]) / 178).max() < 0.05, "classes keep their shares"
    whole = prepare(reading.from_tree({**PAGE, "evaluate": {}}))
    assert before == set(whole.train.source_rows.tolist())
    np.testing.assert_array_equal(data.validation.source_rows, whole.validation.source_rows)
    assert len({value for one in found.sizes for value in one.values}) == 12
    assert "Score against training rows" in (run.path / "report.html").read_text(encoding="utf-8")


def test_of_a_search_the_winner_is_sized(tmp_path: Path) -> None:
    searched = {
        **PAGE,
        "model": {"type": "mlp", "widths": [16], "dropout": {"uniform": [0.0, 0.5]}},
        "search": {"method": "random", "trials": 2},
        "evaluate": {"sizes": [0.5, 1.0], "bootstrap": 0},
    }
    run = nn.run(reading.from_tree(searched), tmp_path)
    found = json.loads((run.path / "evaluation" / "sizes.json").read_text(encoding="utf-8"))
    assert found["of_trial"] == run.best["trial"]
    assert run.result["trials"]["total"] == 2


def test_shares_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PageError, match=r"evaluate.sizes: one share of the training rows shows nothing"):
        reading.from_tree({**PAGE, "evaluate": {"sizes": [0.5]}})
    with pytest.raises(PageError, match=r"evaluate.sizes: the page learns from a part of its rows already"):
        reading.from_tree({**PAGE, "data": {**PAGE["data"], "train_share": 0.5}})
    with pytest.raises(DataError, match=r"data.train_share: 0.01 of the training rows are 1, and none is of the class"):
        nn.run(reading.from_tree({**PAGE, "evaluate": {"sizes": [0.01, 1.0]}}), tmp_path)
    assert not list(tmp_path.iterdir())
