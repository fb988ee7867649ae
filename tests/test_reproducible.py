"""search.reproducible: the same table to the last bit, cut off or not, and whatever the number of workers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_example import SCHEDULERS, judge_whole, page, run_with_cuts, table

import nnopt_ray as nn

QUICK = ("asha promote", "pbt")  # schedulers of the default run; the others in the long form
MORE = "reproducible: true, concurrency: 3"
LANES = ["fuse: auto", "fuse: always"]  # these trials are too short for auto: alone, and as lanes


def as_lanes(run: nn.Run) -> bool:
    """Whether the run decided to train several trials at a time."""
    return "lanes of one step" in run.result["decided"]["lanes"]


@pytest.mark.parametrize("seed", [2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 12))])
@pytest.mark.parametrize(
    "scheduler", [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in SCHEDULERS]
)
@pytest.mark.parametrize("fuse", LANES)
def test_a_search_that_is_cut_is_the_one_that_is_not(tmp_path: Path, scheduler: str, seed: int, fuse: str) -> None:
    draw = random.Random(seed)
    method = draw.choice(["random", "bayesian"]) if scheduler != "pbt" else "random"
    experiment = page(tmp_path, scheduler, method, every=draw.choice([1, 3, "auto"]), more=MORE, resources=fuse)
    run, cuts = run_with_cuts(experiment, tmp_path / "out", [draw.randrange(1, 200) for _ in range(4)])
    assert cuts
    judge_whole(run)
    whole = nn.run(experiment, tmp_path / "whole")
    assert as_lanes(whole) == (fuse == "fuse: always")
    assert table(run) == table(whole)


def test_early_stopping_takes_its_turn_too(tmp_path: Path) -> None:
    """The end of a training is no key of the page: it belongs to the round of its last epoch, killed or not."""
    page(tmp_path, "median", "bayesian", more=MORE)
    stop = {"train.early_stopping": {"patience": 1}, "train.optimizer.lr": {"log": [0.05, 3.0]}}
    experiment = nn.load(tmp_path / "page.yaml", set=stop)
    whole = nn.run(experiment, tmp_path / "whole")
    assert (whole.trials["epochs"] < 9).any()
    for seed in range(3):
        draw = random.Random(seed)
        cuts = [draw.randrange(20, 160) for _ in range(3)]
        run, _ = run_with_cuts(experiment, tmp_path / str(seed), cuts)
        assert table(run) == table(whole), cuts


@pytest.fixture(params=[2, pytest.param(1, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def workers(request: pytest.FixtureRequest) -> Iterator[int]:
    import logging

    import ray

    given: int = request.param
    ray.init(address="local", include_dashboard=False, num_cpus=given, logging_level=logging.ERROR, log_to_driver=False)
    yield given
    ray.shutdown()


@pytest.mark.ray
def test_the_number_of_workers_changes_nothing(tmp_path: Path, workers: int) -> None:
    """Ray here, this process there."""
    import ray

    cases = [("pbt", "random", LANES[1]), ("asha promote", "bayesian", LANES[0])]
    if workers != 2:
        both = [("pbt", "random"), ("asha promote", "bayesian"), ("hyperband", "random"), ("asha", "bayesian")]
        cases = [(*each, fuse) for each in both for fuse in LANES]
    found = {}
    for scheduler, method, fuse in cases:
        folder = tmp_path / f"{scheduler} {method} {fuse[6:]}"
        folder.mkdir()
        experiment = page(folder, scheduler, method, more=MORE, resources=fuse)
        found[folder] = nn.run(experiment, folder / "out")
        assert as_lanes(found[folder]) == (fuse == "fuse: always")
    ray.shutdown()
    for folder, there in found.items():
        here = nn.run(nn.load(folder / "page.yaml"), folder / "here")
        assert here.result["decided"]["workers"].startswith("1: this process")
        assert table(there) == table(here), folder.name


def test_all_places_are_filled_before_the_first_result_is_heard(tmp_path: Path) -> None:
    """Else the trials of a search train one after the other, and no two share a step."""
    run = nn.run(page(tmp_path, more="reproducible: true, concurrency: 4"), tmp_path / "out")
    events = [event["event"] for event in judge_whole(run) if event["event"] in ("asked", "result")]
    assert events[:5] == ["asked"] * 4 + ["result"]
