"""What picking the best of many adds to its score: against published order statistics and simulated searches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import report_example as example

from nnopt_ray.evaluate.optimism import expected_best, optimism
from nnopt_ray.report import words
from nnopt_ray.report.optimistic import judged, sentences


@pytest.mark.parametrize(
    ("count", "mean"),
    [(1, 0.0), (2, 0.56419), (3, 0.84628), (5, 1.16296), (10, 1.53875), (50, 2.24907), (100, 2.50759)],
)
def test_the_mean_of_the_largest_is_that_of_published_tables(count: int, mean: float) -> None:
    """Teichroew 1956, "Tables of expected values of order statistics", and Harter 1961."""
    assert expected_best(count) == pytest.approx(mean, abs=2e-5)


@pytest.mark.parametrize("count", [1000, 100_000])
def test_the_mean_of_the_largest_of_very_many_is_found_too(count: int) -> None:
    """Blom's approximation of it: the quantile at (n - 0.375) / (n + 0.25)."""
    from statistics import NormalDist

    assert expected_best(count) == pytest.approx(NormalDist().inv_cdf((count - 0.375) / (count + 0.25)), rel=0.01)


TRUE: dict[str, Any] = {
    "all equal": lambda random, n: np.zeros(n),
    "normal, as far apart as chance": lambda random, n: random.normal(0, 1, n),
    "normal, three times as far": lambda random, n: random.normal(0, 3, n),
    "many bad ones": lambda random, n: -random.exponential(10, n),
}


@pytest.mark.parametrize("kind", list(TRUE))
@pytest.mark.parametrize("count", [10, 40, 300])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_of_simulated_searches_it_is_near_what_the_winner_was_flattered_by(kind: str, count: int, mode: str) -> None:
    random = np.random.default_rng(count)
    flattered, told = [], []
    sign = 1 if mode == "max" else -1
    for _ in range(200):
        true = TRUE[kind](random, count)
        luck = random.normal(0, 1, count)
        at = int(np.argmax(true + luck))
        seen = sign * (true + luck)
        found = optimism(seen.tolist(), float(seen[at]), float(sign * true[at]), mode, 1.0, "seeds")
        flattered.append(found.gap)  # measured on a test part without chance
        told.append(found.expected)
        assert 1 <= found.contenders <= count
        assert found.expected <= found.most
    assert np.mean(told) == pytest.approx(np.mean(flattered), rel=0.35)


def test_the_report_takes_the_deviation_between_seeds_else_that_of_the_rows() -> None:
    facts = example.classification()
    assert facts.result is not None
    assert facts.result.confirm is not None
    by_seeds = judged(facts)
    assert by_seeds is not None
    sds = [each.sd for each in facts.result.confirm.contestants if each.sd is not None]
    assert by_seeds.source == "seeds"
    assert by_seeds.noise == pytest.approx(float(np.sqrt(np.mean(np.square(sds)))))
    best = facts.best
    assert best is not None
    assert best.value is not None
    assert by_seeds.gap == pytest.approx(facts.winner["test"].metrics["loss"] - best.value)
    mean = next(each.mean for each in facts.result.confirm.contestants if each.trial == best.trial)
    assert by_seeds.lucky == pytest.approx(mean - best.value)
    alone = replace(facts, result=replace(facts.result, confirm=None))
    by_rows = judged(alone)
    assert by_rows is not None
    ends = [facts.winner["test"].intervals["loss"], facts.baseline["test"].intervals["loss"]]
    assert by_rows.source == "rows"
    wider = max(high - low for low, high in ends)
    assert by_rows.noise == pytest.approx(wider / (2 * 1.959964) * np.sqrt(360 / 270))
    one_class = replace(facts.winner["test"], intervals={"loss": (0.1, 0.1)})
    assert judged(replace(alone, winner={**facts.winner, "test": one_class})).noise > 0  # type: ignore[union-attr]
    for each, found in ((facts, by_seeds), (alone, by_rows)):
        said = " ".join(sentences(each, found))
        assert "on the validation part" in said
        assert "quote is that on the test part" in said
    assert judged(replace(facts, winner={})) is None
    assert judged(replace(facts, result=None)) is None


def test_a_winner_that_is_better_on_the_test_part_was_not_flattered() -> None:
    facts = example.classification()
    found = judged(facts)
    assert found is not None
    said = " ".join(sentences(facts, replace(found, gap=-0.1)))
    assert "it does no worse there" in said
    half = replace(found, gap=0.04, expected=0.02, contenders=3)
    assert f"about 50{words.NBSP}% of that" in " ".join(sentences(facts, half))
