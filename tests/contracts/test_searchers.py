"""The contract of every search method: what it asks fits the page, nothing comes twice, it ends, and it is
reproducible. Those that learn find the known optima of closed forms, and beat random search on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnopt_ray import reading, tables
from nnopt_ray.experiment import Experiment
from nnopt_ray.search import SEARCHERS
from nnopt_ray.search.searchers import Asker
from nnopt_ray.search.space import Params, identity

DIGITS: dict[str, Any] = {"data": {"source": {"type": "sklearn", "name": "digits"}}}
OPEN: dict[str, Any] = {
    **DIGITS,
    "seed": 3,
    "model": {"type": "mlp", "dropout": {"step": [0.0, 0.4, 0.2]}},
    "train": {
        "batch_size": {"choice": [16, 32]},
        "optimizer": {
            "choice": [
                {"type": "adam", "lr": {"choice": [0.001, 0.01]}},
                {"type": "sgd", "lr": 0.1, "momentum": {"choice": [0.0, 0.5, 0.9]}},
            ]
        },
    },
}
NUMBERS = {**OPEN, "train": {"batch_size": {"choice": [64, 16, 32]}, "epochs": {"int": [1, 3]}}}
SMALL = {
    **OPEN,
    "model": {"type": "mlp", "dropout": {"choice": [0.0, 0.4]}},
    "train": {**OPEN["train"], "batch_size": 32},
}
# CMA-ES searches numbers alone; a Gaussian process takes a second for three trials.
TREES: dict[str, tuple[dict[str, Any], int]] = {"cma_es": (NUMBERS, 3 * 3 * 3), "gp": (SMALL, 2 * (2 + 3))}
LISTED = [{"train.batch_size": 16, "model.dropout": 0.1}, {"train.batch_size": 64}, {"train.optimizer": "sgd"}]
LEARNING = [name for name in SEARCHERS if name not in ("manual", "grid", "random", "quasi_random")]
SEVERAL = [name for name in SEARCHERS if tables.find("method", name).several and name != "manual"]


def page(method: str, trials: Any = 12, **search: Any) -> Experiment:
    """A countable space for a method, conditional where the method can search that."""
    keys = {"type": method, **({"startup_trials": 5} if method == "gp" else {})}
    if method == "manual":
        plain = {**OPEN, "model": "mlp", "train": {}}
        return reading.from_tree({**plain, "search": {"method": "manual", "trials": LISTED, **search}})
    return reading.from_tree({**tree_of(method)[0], "search": {"method": keys, "trials": trials, **search}})


def tree_of(method: str) -> tuple[dict[str, Any], int]:
    """(what is open, how many points that makes)."""
    return TREES.get(method, (OPEN, 3 * 2 * (2 + 3)))


def start(experiment: Experiment) -> Asker:
    asker = tables.build("method", experiment.search.method).start(experiment)
    assert isinstance(asker, Asker)
    return asker


def goodness(point: Params) -> float:
    """A closed form to search on: best at dropout 0.2, adam, lr 0.01, batch 32."""
    return (
        abs(point.get("model.dropout", 0) - 0.2)
        + (point.get("train.batch_size") == 16)
        + (point.get("train.optimizer") != "adam")
        + abs(math.log10(point.get("train.optimizer.lr", 0.1)) + 2)
    )


Call = tuple[str, str, Any]  # "ask", trial, point | "report", trial, (epochs, value) | "tell", trial, (value, ...)


def play(asker: Asker, order_seed: int) -> list[Call]:
    """Up to four trials in flight, ended in random order; some fail, become no number, or are stopped early."""
    draw = np.random.default_rng(order_seed)
    flying: list[tuple[str, Params]] = []
    calls: list[Call] = []
    while True:
        while len(flying) < 4:
            name = f"{sum(call[0] == 'ask' for call in calls) + 1:04d}"
            found = asker.ask(name)
            if found is None:
                break
            calls.append(("ask", name, found))
            flying.append((name, found))
        if not flying:
            return calls
        name, point = flying.pop(int(draw.integers(len(flying))))
        fate = draw.random()
        calls.append(("report", name, (1, goodness(point) + 1)))
        asker.report(name, 1, goodness(point) + 1)
        value = None if fate < 0.2 else goodness(point)
        calls.append(("tell", name, (value, fate < 0.1, fate > 0.7)))
        asker.tell(name, value, failed=fate < 0.1, stopped=fate > 0.7)


def asked(calls: list[Call]) -> list[Params]:
    return [call[2] for call in calls if call[0] == "ask"]


@pytest.mark.parametrize("method", SEARCHERS)
def test_what_is_asked_closes_the_page_and_ends(method: str) -> None:
    experiment = page(method)
    asker = start(experiment)
    found = asked(play(asker, 0))
    assert len(found) == asker.total == (3 if method == "manual" else min(12, tree_of(method)[1]))
    for point in found:
        assert not reading.close(experiment, point).space
    assert asker.ask("9999") is None


@pytest.mark.parametrize("method", SEARCHERS)
def test_a_fresh_asker_told_the_same_asks_the_same(method: str) -> None:
    calls = play(start(page(method)), 5)
    again = start(page(method))
    for kind, name, told in calls:
        if kind == "ask":
            assert again.ask(name) == told
        elif kind == "report":
            again.report(name, *told)
        else:
            again.tell(name, told[0], failed=told[1], stopped=told[2])


@pytest.mark.parametrize("method", [name for name in SEARCHERS if name != "manual"])
def test_a_countable_space_is_run_once_to_its_end(method: str) -> None:
    """Whatever the method wants again, each point comes once; then it says that there are no more."""
    asker = start(page(method, 100))
    size = tree_of(method)[1]
    assert asker.total == size
    assert len({identity(point) for point in asked(play(asker, 1))}) == size
    assert asker.ask("9999") is None


def test_a_repeated_wish_is_counted_in_a_note_and_the_model_hears_the_known_result() -> None:
    asker = start(page("bayesian", 100))
    play(asker, 1)
    assert any("came up again" in note and "none was run twice" in note for note in asker.notes)
    numbers = [trial for trial in asker._model._study.trials if trial.value is not None]  # type: ignore[attr-defined]
    points = [str(sorted(trial.params.items())) for trial in numbers]
    assert len(points) > len(set(points)), "no repetition was told to the model"
    values = {(point, trial.value) for point, trial in zip(points, numbers, strict=True)}
    assert len(values) == len(set(points)), "a repetition was told another value"


# --- start points -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SEARCHERS)
def test_start_points_come_first_and_once_and_are_filled_in(method: str) -> None:
    if method == "manual":
        points = [{"train.batch_size": 64}, {"train.epochs": 2}]
    elif method == "cma_es":
        points = [{"model.dropout": 0.4, "train.batch_size": 32, "train.epochs": 3}, {"train.epochs": 1}]
    else:
        points = [
            {"train.optimizer": "sgd", "train.optimizer.momentum": 0.5, "model.dropout": 0.4},
            {"train.optimizer": "adam"},
        ]
    experiment = page(method, 30, start=points)
    found = asked(play(start(experiment), 2))
    assert points[0].items() <= found[0].items()
    assert points[1].items() <= found[1].items()
    assert len({identity(point) for point in found}) == len(found) == (4 if method == "manual" else tree_of(method)[1])
    for point in found[:2]:
        assert not reading.close(experiment, point).space


def test_a_start_point_may_name_an_option_by_writing_it_out_and_a_number_loosely() -> None:
    options = {"choice": [{"type": "adam"}, {"type": "sgd", "lr": 0.5}]}
    tree = {**DIGITS, "model": UNIT_DROPOUT, "train": {"optimizer": options}}
    written = reading.from_tree(tree).tree["train"]["optimizer"].values[1]
    given = {"model.dropout": 0, "train.optimizer": written}
    experiment = reading.from_tree({**tree, "search": {"trials": 3, "start": [given]}})
    point = start(experiment).ask("1")
    assert point is not None
    assert (point["train.optimizer"], repr(point["model.dropout"])) == ("sgd", "0.0")


# --- methods that learn -------------------------------------------------------------------------


def branin(point: Params) -> float:
    """Minimum 0.397887 at three places (Dixon and Szegö 1978); the page's ranges are mapped on its own."""
    x, y = point["model.dropout"] / 0.9 * 15 - 5, point["train.warmup_epochs"]
    return (
        (y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6) ** 2
        + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x)
        + 10
    )


def conditional(point: Params) -> float:
    """Two branches with bowls of their own; the better one is the larger: 0 with sgd, 0.5 with adam."""
    rate = math.log10(point["train.optimizer.lr"])
    drop = 10 * (point["model.dropout"] - 0.2) ** 2
    if point["train.optimizer"] == "adam":
        return drop + 0.5 + (rate + 3) ** 2
    return drop + (rate + 1) ** 2 + 10 * (point["train.optimizer.momentum"] - 0.9) ** 2


def mixed(point: Params) -> float:
    """0 at dropout 0.2, rate 1e-3, batch 64, 20 epochs."""
    return (
        10 * (point["model.dropout"] - 0.2) ** 2
        + (math.log10(point["train.optimizer.lr"]) + 3) ** 2
        + abs(math.log2(point["train.batch_size"]) - 6) / 4
        + ((point["train.epochs"] - 20) / 20) ** 2
    )


UNIT_DROPOUT = {"type": "mlp", "dropout": {"uniform": [0.0, 0.5]}}
BRANIN = {
    "model": {"type": "mlp", "dropout": {"uniform": [0.0, 0.9]}},
    "train": {"warmup_epochs": {"uniform": [0.0, 15.0]}},
}
CONDITIONAL = {
    "model": UNIT_DROPOUT,
    "train": {
        "optimizer": {
            "choice": [
                {"type": "adam", "lr": {"log": [1e-5, 1e-1]}},
                {"type": "sgd", "lr": {"log": [1e-4, 1.0]}, "momentum": {"uniform": [0.0, 0.99]}},
            ]
        }
    },
}
MIXED = {
    "model": UNIT_DROPOUT,
    "train": {
        "optimizer": {"type": "adam", "lr": {"log": [1e-5, 1e-1]}},
        "batch_size": {"choice": [16, 32, 64, 128, 256]},
        "epochs": {"int": [1, 50]},
    },
}


def best_of(tree: dict[str, Any], value: Callable[[Params], float], method: str, seed: int, trials: int) -> float:
    """The best value of a search, one trial after the other."""
    asker = start(reading.from_tree({**DIGITS, **tree, "seed": seed, "search": {"method": method, "trials": trials}}))
    best = math.inf
    for number in range(trials):
        point = asker.ask(str(number))
        assert point is not None
        best = min(best, value(point))
        asker.tell(str(number), value(point))
    return best


@pytest.mark.parametrize(
    ("method", "tree", "value", "trials", "near"),
    [
        ("bayesian", BRANIN, branin, 40, 1.0),
        ("bayesian", CONDITIONAL, conditional, 50, 0.1),
        ("bayesian", MIXED, mixed, 50, 0.1),
        ("bohb", BRANIN, branin, 40, 1.0),
        ("bohb", CONDITIONAL, conditional, 60, 0.15),
        ("cma_es", BRANIN, branin, 100, 0.5),
        ("cma_es", MIXED, mixed, 60, 0.1),
    ],
)
def test_it_comes_near_the_known_optimum_and_beats_random(
    method: str, tree: dict[str, Any], value: Callable[[Params], float], trials: int, near: float
) -> None:
    """Medians of the best value over seven seeds (Bergstra et al. 2011's own comparison)."""
    seeds = range(7)
    found = float(np.median([best_of(tree, value, method, seed, trials) for seed in seeds]))
    random = float(np.median([best_of(tree, value, "random", seed, trials) for seed in seeds]))
    assert found < near
    assert found < random


def test_the_gaussian_process_finds_the_optimum_of_branin_in_25_trials() -> None:
    found = [best_of(BRANIN, branin, "gp", seed, 25) for seed in range(5)]
    random = [best_of(BRANIN, branin, "random", seed, 25) for seed in range(5)]
    assert np.median(found) == pytest.approx(0.397887, abs=0.05)
    assert np.median(found) < np.median(random)


@pytest.mark.parametrize("method", LEARNING)
def test_evidence_from_elsewhere_steers_a_fresh_search(method: str) -> None:
    """Results carried over count as if they had been asked; those of points outside of the space do not."""
    tree = {**DIGITS, "model": {"type": "mlp", "dropout": {"uniform": [0.0, 0.5]}},
            "train": {"optimizer": {"type": "adam", "lr": {"log": [1e-5, 1e-1]}}}}  # fmt: skip
    experiment = reading.from_tree({**tree, "seed": 1, "search": {"method": method, "trials": 12}})
    asker = start(experiment)
    draw = np.random.default_rng(0)
    for exponent in np.linspace(-5, -1, 30):
        point = {"model.dropout": float(draw.uniform(0, 0.5)), "train.optimizer.lr": float(10**exponent)}
        asker.evidence(point, abs(exponent + 3) + point["model.dropout"])
    asker.evidence({"model.dropout": 0.2, "train.optimizer.lr": 0.9}, -100.0)
    asker.evidence({"model.dropout": 0.2}, -100.0)
    found = [asker.ask(str(i)) for i in range(12)]
    near = [abs(math.log10(point["train.optimizer.lr"]) + 3) < 1 for point in found if point]
    assert sum(near) >= 9  # at random: 6 of 12
    assert asker.ask("more") is None
    assert any("2 earlier results of points that are not in the space" in note for note in asker.notes)


@pytest.mark.parametrize("method", SEARCHERS)
def test_trials_asked_by_another_version_count_and_are_not_run_again(method: str) -> None:
    before = asked(play(start(page(method, 6)), 3))[:2]
    asker = start(page(method, 6))
    for number, point in enumerate(before):
        asker.adopt(f"{number}", dict(point))
        asker.report(f"{number}", 1, 2.0)
        asker.tell(f"{number}", 1.0)
    found = asked(play(asker, 3))
    assert len(found) == (1 if method == "manual" else 4)
    assert not {identity(point) for point in found} & {identity(point) for point in before}


@pytest.mark.parametrize("method", SEARCHERS)
def test_a_point_that_another_version_asked_instead_takes_the_place_of_the_one_named_here(method: str) -> None:
    """A replay finds the difference only by asking: what was named then is no trial, and may come again."""
    first, other = asked(play(start(page(method, 6)), 3))[:2]
    asker = start(page(method, 6))
    assert asker.ask("0001") == first
    asker.adopt("0001", dict(other))
    asker.tell("0001", 1.0)
    found = asked(play(asker, 3))
    assert len(found) == (2 if method == "manual" else 5)
    assert (identity(first) == identity(found[0])) or not asker.sweeps
    assert identity(other) not in {identity(point) for point in found}


def test_bohb_learns_from_trainings_that_were_stopped_and_from_the_longest_that_enough_have_had() -> None:
    """After one epoch low rates look best; after nine, high ones do: the model follows the longer trainings
    as soon as there are enough of them."""
    tree = {**DIGITS, **CONDITIONAL, "train": {"optimizer": {"type": "adam", "lr": {"log": [1e-5, 1e-1]}}}}
    keys = {"type": "bohb", "random_fraction": 0.0}
    experiment = reading.from_tree({**tree, "search": {"method": keys, "trials": 80}})
    asker = start(experiment)

    def rates(first: int, last: int, long: bool) -> list[float]:
        found = []
        for number in range(first, last):
            point = asker.ask(str(number))
            assert point is not None
            rate = math.log10(point["train.optimizer.lr"])
            found.append(rate)
            asker.report(str(number), 1, rate)
            if long:
                asker.report(str(number), 9, -rate)
            asker.tell(str(number), rate, stopped=True)
        return found

    assert np.median(rates(0, 30, long=False)[15:]) < -4
    assert np.median(rates(30, 70, long=True)[20:]) > -2.5


def test_a_point_without_a_number_is_as_bad_as_the_worst_for_the_gaussian_process() -> None:
    asker = start(reading.from_tree({**DIGITS, **BRANIN, "search": {"method": "gp", "trials": 9}}))
    for number, value in enumerate([3.0, 7.0, math.nan, None]):
        asker.ask(str(number))
        asker.tell(str(number), value)
    asker.ask("lost")
    asker.tell("lost", None, failed=True)
    known = [trial.value for trial in asker._model._study.trials if trial.value is not None]  # type: ignore[attr-defined]
    assert known == [3.0, 7.0, 7.0, 7.0]


def test_cma_es_starts_anew_with_twice_the_population_once_it_has_settled() -> None:
    keys = {"type": "cma_es", "population": 4}
    asker = start(reading.from_tree({**DIGITS, **BRANIN, "search": {"method": keys, "trials": 900}}))
    sizes = []
    while (point := asker.ask(str(len(sizes)))) is not None:
        sizes.append(asker._cma.population_size)  # type: ignore[attr-defined]
        asker.tell(str(len(sizes) - 1), branin(point))
    assert sorted(set(sizes))[:2] == [4, 8]


# --- methods that learn nothing -----------------------------------------------------------------


def test_quasi_random_points_leave_smaller_gaps_than_random_ones() -> None:
    """By the centered discrepancy (Hickernell 1998, as scipy computes it), for each of five seeds."""
    from scipy.stats import qmc

    for seed in range(5):
        gaps = []
        for method in ("quasi_random", "random"):
            tree = {**DIGITS, **BRANIN, "seed": seed, "search": {"method": method, "trials": 64}}
            asker = start(reading.from_tree(tree))
            points = [asker.ask(str(number)) or {} for number in range(64)]
            unit = [(point["model.dropout"] / 0.9, point["train.warmup_epochs"] / 15) for point in points]
            gaps.append(qmc.discrepancy(np.array(unit)))
        assert gaps[0] < 0.5 * gaps[1]


@pytest.mark.parametrize("method", ["random", "quasi_random"])
def test_the_nth_point_depends_on_the_seed_and_n_alone(method: str) -> None:
    tree = {**DIGITS, **MIXED, "seed": 7}
    long, short = (
        start(reading.from_tree({**tree, "search": {"method": method, "trials": trials}})) for trials in (20, 5)
    )
    points = [long.ask(str(number)) for number in range(5)]
    for number in range(5):
        assert short.ask(str(number)) == points[number]
        short.tell(str(number), float(number))  # what came of it changes nothing
    other = start(reading.from_tree({**tree, "seed": 8, "search": {"method": method, "trials": 5}}))
    assert other.ask("0") != points[0]


def test_the_order_of_a_grid_is_that_of_the_page() -> None:
    found = asked(play(start(page("grid", None)), 1))
    assert [point["model.dropout"] for point in found] == sorted(point["model.dropout"] for point in found)
    assert [point.get("train.optimizer.lr") for point in found[:3]] == [0.001, 0.01, None]


# --- several objectives -------------------------------------------------------------------------


@pytest.mark.parametrize("method", SEVERAL)
def test_several_objectives_are_searched_and_failures_survived(method: str) -> None:
    both = ["minimize val_loss", "minimize parameters"]
    tree, size = tree_of(method)
    experiment = reading.from_tree({**tree, "objective": both, "search": page(method, size).tree["search"]})
    asker = start(experiment)
    for number in range(size):
        point = asker.ask(str(number))
        assert point is not None
        bad = number in (3, 7)
        asker.tell(str(number), None if bad else (goodness(point), point["model.dropout"]), failed=number == 3)
    assert asker.ask("one more") is None


def test_several_objectives_bring_a_better_front_than_random() -> None:
    """Two bowls around different rates: the hypervolume that 40 trials cover, medians over five seeds."""

    def covered(method: str, seed: int) -> float:
        tree = {**DIGITS, **MIXED, "seed": seed, "objective": ["minimize val_loss", "minimize parameters"]}
        asker = start(reading.from_tree({**tree, "search": {"method": method, "trials": 40}}))
        corners = []
        for number in range(40):
            point = asker.ask(str(number))
            assert point is not None
            one = mixed(point)
            two = mixed({**point, "train.optimizer.lr": point["train.optimizer.lr"] * 10})
            asker.tell(str(number), (one, two))
            corners.append((one, two))
        area, height = 0.0, 3.0
        for one, two in sorted(corners):
            if one < 3 and two < height:
                area, height = area + (3 - one) * (height - two), two
        return area

    found = {method: np.median([covered(method, seed) for seed in range(5)]) for method in ("random", "bayesian")}
    assert found["bayesian"] > found["random"]


def test_methods_are_found_without_importing_ray(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import sys; from nnopt_ray import tables; [tables.keys('method', m) for m in tables.table('method')]; " \
           "[tables.keys('scheduler', m) for m in tables.table('scheduler')]; " \
           "print([m for m in ('ray', 'optuna', 'cmaes', 'torch', 'scipy') if m in sys.modules])"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("method", ["random", "quasi_random", "bohb"])
def test_a_search_that_goes_on_over_a_wider_range_does_not_draw_the_same_places_of_it(method: str) -> None:
    def over(top: float) -> Asker:
        lr = {"log": [1e-4, top]}
        tree = {**DIGITS, "model": "mlp", "train": {"optimizer": {"type": "adam", "lr": lr}}}
        return start(reading.from_tree({**tree, "search": {"method": method, "trials": 12}}))

    def place(point: Params | None, top: float) -> float:
        assert point is not None
        return math.log(point["train.optimizer.lr"] / 1e-4) / math.log(top / 1e-4)

    narrow, wide = over(1e-1), over(1.0)
    places = []
    for number in range(5):
        point = narrow.ask(f"{number}")
        places.append(place(point, 1e-1))
        wide.adopt(f"{number}", point or {})
    for number in range(5, 10):
        here = place(wide.ask(f"{number}"), 1.0)
        assert all(abs(here - place) > 1e-6 for place in places)
