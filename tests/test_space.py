"""The space of a page: grid, random points, and what a conditional choice opens."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_ray.experiment import Range
from nnopt_ray.search.space import (
    at,
    branches,
    distinct_grid,
    fitted,
    grid,
    identity,
    narrowed,
    params,
    points,
    random_point,
    size,
    value,
)

CONDITIONAL: dict[str, Any] = {
    "model": {"type": "mlp", "dropout": Range("step", (0.1, 0.5, 0.2))},
    "train": {
        "batch_size": Range("choice", (16, 32)),
        "optimizer": Range(
            "choice",
            (
                {"type": "adam", "lr": Range("choice", (1e-3, 1e-2, 1e-1))},
                {"type": "sgd", "lr": 0.1, "nesterov": Range("choice", (True, False))},
                {"type": "rmsprop"},
            ),
        ),
    },
}


def test_grid_counts_conditional_branches_where_they_apply() -> None:
    found = list(grid(CONDITIONAL))
    assert len(found) == 3 * 2 * (3 + 2 + 1)
    adam = [point for point in found if point["train.optimizer"] == "adam"]
    assert {point["train.optimizer.lr"] for point in adam} == {1e-3, 1e-2, 1e-1}
    assert all("train.optimizer.nesterov" not in point for point in adam)
    assert len({repr(point) for point in found}) == len(found)


def test_grid_order_is_that_of_the_page_last_fastest() -> None:
    tree = {"a": Range("choice", (1, 2)), "b": Range("int", (5, 7))}
    assert [tuple(point.values()) for point in grid(tree)] == list(itertools.product((1, 2), (5, 6, 7)))


def test_a_step_range_holds_both_ends_and_no_rounding_dust() -> None:
    range_ = Range("step", (0.1, 0.5, 0.1))
    assert [value(range_, i) for i in range(points(range_) or 0)] == [0.1, 0.2, 0.3, 0.4, 0.5]
    whole = Range("step", (16, 64, 16))
    assert [value(whole, i) for i in range(points(whole) or 0)] == [16, 32, 48, 64]
    assert all(isinstance(value(whole, i), int) for i in range(4))


def test_options_of_one_type_are_told_apart() -> None:
    tree = {"x": Range("choice", ({"type": "sgd", "lr": 1}, {"type": "sgd", "lr": 2}))}
    assert [point["x"] for point in distinct_grid(tree)] == ["sgd", "sgd#2"]


scalars = st.one_of(
    st.tuples(st.just("uniform"), st.floats(-10, 0), st.floats(0.5, 10)),
    st.tuples(st.just("log"), st.floats(1e-6, 1e-2), st.floats(0.1, 10)),
    st.tuples(st.just("int"), st.integers(-5, 0), st.integers(1, 9)),
    st.tuples(st.just("log_int"), st.integers(1, 4), st.integers(5, 900)),
).map(lambda drawn: Range(drawn[0], (drawn[1], drawn[2])))


@settings(max_examples=60, deadline=None)
@given(st.lists(scalars, min_size=1, max_size=4), st.integers(0, 2**31), st.integers(1, 500))
def test_random_points_lie_in_their_ranges_and_follow_from_seed_and_number(
    opened: list[Range], seed: int, number: int
) -> None:
    tree = {f"v{i}": range_ for i, range_ in enumerate(opened)}
    point = random_point(tree, seed, number)
    assert point == random_point(tree, seed, number)
    for i, range_ in enumerate(opened):
        assert range_.values[0] <= point[f"v{i}"] <= range_.values[1]
        assert isinstance(point[f"v{i}"], int) == (range_.kind in ("int", "log_int"))


def test_log_ranges_are_uniform_in_the_exponent() -> None:
    tree = {"lr": Range("log", (1e-4, 1e-1)), "n": Range("log_int", (1, 1000))}
    drawn = [random_point(tree, 3, number) for number in range(2000)]
    exponents = sorted(math.log10(point["lr"]) for point in drawn)
    assert exponents[1000] == pytest.approx(-2.5, abs=0.12)  # 3.5 deviations of the median of 2000
    below_ten = sum(point["n"] <= 31 for point in drawn) / 2000
    # log_int draws on [0.5, 1000.5): a whole number's share is that of the interval around it.
    assert below_ten == pytest.approx(math.log(31.5 / 0.5) / math.log(1000.5 / 0.5), abs=0.04)


def test_params_name_every_choice_once() -> None:
    seen: list[str] = []

    def last(path: str, branch: str, range_: Range) -> Any:
        seen.append(branch)
        return len(range_.values) - 2 if range_.kind == "choice" else range_.values[0]

    found = params(CONDITIONAL, last)
    assert found == {
        "model.dropout": 0.1,
        "train.batch_size": 16,
        "train.optimizer": "sgd",
        "train.optimizer.nesterov": True,
    }
    assert seen[-1] == "train.optimizer=sgd.nesterov"


def test_the_size_of_a_space_is_the_length_of_its_grid() -> None:
    assert size(CONDITIONAL) == len(list(grid(CONDITIONAL)))
    assert size({"a": 1}) == 1
    assert size({"a": Range("choice", (1, 2)), "b": Range("choice", ({"c": Range("uniform", (0, 1))}, 3))}) is None


def test_a_part_of_the_grid_has_the_given_values() -> None:
    found = list(grid(CONDITIONAL, {"train.optimizer": "sgd", "model.dropout": 0.3}))
    assert found == [
        point for point in grid(CONDITIONAL) if (point["train.optimizer"], point["model.dropout"]) == ("sgd", 0.3)
    ]
    assert len(found) == 4


def test_branches_are_the_names_that_a_walk_meets() -> None:
    met: dict[str, str] = {}
    for number in range(1, 60):

        def note(path: str, branch: str, range_: Range, number: int = number) -> Any:
            met[branch] = path
            return value(range_, number % (points(range_) or 1))

        params(CONDITIONAL, note)
    assert {branch: path for branch, path, _ in branches(CONDITIONAL)} == met
    assert list(branches(CONDITIONAL))[-1][0] == "train.optimizer=sgd.nesterov"


def test_a_narrowed_tree_is_the_same_space() -> None:
    page = {
        **CONDITIONAL,
        "data": {"steps": [{"type": "scale"}, Range("choice", ({"type": "a", "k": 1}, {"k": Range("int", (1, 2))}))]},
        "sizes": Range("choice", ([8, 8], [16])),
        "rest": {"deep": {"of": [1, {"no": "range"}]}},
    }
    small = narrowed(page)
    assert "rest" not in small
    assert list(grid(small)) == list(grid(page))
    assert [name for name, _, _ in branches(small)] == [name for name, _, _ in branches(page)]
    assert random_point(small, 5, 9) == random_point(page, 5, 9)


def test_a_point_fits_a_space_that_could_have_given_it() -> None:
    for point in grid(CONDITIONAL):
        assert fitted(CONDITIONAL, dict(reversed(point.items()))) == point
    point = next(grid(CONDITIONAL))
    assert fitted(CONDITIONAL, {**point, "model.dropout": 0.2}) is None  # between two steps
    assert fitted(CONDITIONAL, {**point, "train.epochs": 3}) is None  # not open
    assert fitted(CONDITIONAL, {key: point[key] for key in list(point)[:-1]}) is None  # one is missing
    assert fitted(CONDITIONAL, {**point, "train.optimizer": "lion"}) is None
    assert repr(fitted({"a": Range("uniform", (0.0, 2.0))}, {"a": 1})) == "{'a': 1.0}"


def test_points_are_told_apart_by_value_and_type_and_not_by_order() -> None:
    assert identity({"a": 1, "b": 2}) == identity({"b": 2, "a": 1})
    assert len({identity({"a": given}) for given in (1, 1.0, True, "1", None)}) == 5


@settings(max_examples=100, deadline=None)
@given(scalars, st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_a_share_of_a_range_is_in_it_and_grows(range_: Range, one: float, other: float) -> None:
    low, high = sorted((one, other))
    first, second = at(range_, low), at(range_, high)
    assert range_.values[0] <= first <= second <= range_.values[1]
    assert at(range_, 0.0) == pytest.approx(range_.values[0])
    assert at(range_, math.nextafter(1, 0)) == pytest.approx(range_.values[1])


def test_a_uniform_draw_of_a_countable_range_gives_each_value_the_same_share() -> None:
    range_ = Range("int", (3, 7))
    drawn = [at(range_, (number + 0.5) / 1000) for number in range(1000)]
    assert [drawn.count(found) for found in range(3, 8)] == [200] * 5
