"""Going further with a search: how many trials more, which ranges; and what is noted about a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnopt_ray as nn
from nnopt_ray import pipeline, reading, runs
from nnopt_ray.cli import main
from nnopt_ray.cli.running import total_trials
from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Experiment, count
from nnopt_ray.rundir import RunDir
from nnopt_ray.search.space import distinct_grid

SEARCH: dict[str, Any] = {
    "data": {"source": {"type": "sklearn", "name": "wine"}},
    "model": {"type": "mlp", "widths": [8]},
    "train": {
        "epochs": 3,
        "optimizer": {"choice": [{"type": "adam", "lr": {"log": [1e-4, 1e-1]}}, {"type": "sgd", "lr": 0.1}]},
        "batch_size": {"choice": [16, 32]},
    },
    "search": {"method": "random", "trials": 20},
}
GRID = {
    **{key: value for key, value in SEARCH.items() if key != "search"},
    "train": {"batch_size": {"choice": [16, 32, 64]}},
    "seed": {"int": [1, 2]},
}


def grid(**search: Any) -> Experiment:
    return reading.from_tree({**GRID, "search": search})


# --- --trials -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "total"), [("+50", 70), ("50", 50), ("8", 8), (" +1 ", 21)])
def test_a_number_sets_the_total_and_plus_adds_to_it(said: str, total: int) -> None:
    assert total_trials(said, reading.from_tree(SEARCH), 8, Path("runs/x")) == total


def test_a_whole_grid_counts_as_its_combinations() -> None:
    assert total_trials("+2", grid(method="grid"), 6, Path("runs/x")) == 8


@pytest.mark.parametrize(
    ("said", "page", "sentence"),
    [
        (
            "many",
            SEARCH,
            r"--trials takes the trials in all, such as 100, or so many more, such as \+50; it is 'many'\.",
        ),
        ("0", SEARCH, "it is '0'"),
        ("-3", SEARCH, "it is '-3'"),
        ("+", SEARCH, r"it is '\+'"),
        ("1e2", SEARCH, "it is '1e2'"),
        ("12", SEARCH, "runs/x has begun 13 trials already, and what is done stays done. Give at least 13, or"),
        ("+5", {**SEARCH, "train": {}}, "runs/x is a single training, which has no trials to add to."),
        (
            "+5",
            {**SEARCH, "train": {}, "search": {"method": "manual", "trials": [{"seed": 1}, {"seed": 2}]}},
            "the 2 trials of runs/x were listed by hand, and a number adds none.",
        ),
    ],
)
def test_a_number_of_trials_that_cannot_be(said: str, page: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        total_trials(said, reading.from_tree(page), 13, Path("runs/x"))


@pytest.fixture
def folder(tmp_path: Path) -> RunDir:
    """A search of which three trials have begun, as its journal says."""
    (tmp_path / "page.yaml").write_text(json.dumps(SEARCH))
    run = pipeline.begin(reading.load(tmp_path / "page.yaml"), tmp_path / "runs")
    lines = [{"event": "asked", "trial": f"{n:04d}", "params": {}} for n in (1, 2, 3)]
    run.journal.write_text("".join(f"{json.dumps(line)}\n" for line in [{"event": "study"}, *lines]))
    return run


def test_the_program_hands_on_what_was_asked(
    folder: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handed: dict[str, Any] = {}

    def resume(path: Path, **options: Any) -> Any:
        handed.update(options, path=path)
        raise nn.Interrupted("so far, so good")

    monkeypatch.setattr(runs, "resume", resume)
    wider = "train.optimizer.lr={log: [1e-5, 1]}"
    assert (
        main.code(["resume", str(folder.root), "--trials", "+50", "--set", wider, "--set", "search.timeout_s=60"])
        == 130
    )
    assert (handed["path"], handed["trials"], handed["set"]) == (folder.root, 70, [wider, "search.timeout_s=60"])
    handed.clear()
    assert main.code(["resume", str(folder.root)]) == 130
    assert not {"trials", "set"} & set(handed), "nothing is changed that was not asked for"
    assert main.code(["resume", str(folder.root), "--trials", "2"]) == 2
    assert "has begun 3 trials already" in capsys.readouterr().err


# --- --set --------------------------------------------------------------------------------------


def changed(**settings: Any) -> Experiment:
    tree = reading.from_tree(SEARCH)
    return reading.load(_page(tree), set=settings)


def _page(experiment: Experiment) -> Path:
    assert experiment.file is not None
    return experiment.file


@pytest.fixture
def extend(tmp_path: Path) -> Any:
    page = tmp_path / "page.yaml"
    page.write_text(reading.dump(reading.from_tree(SEARCH)))

    def extend(*settings: str) -> None:
        reading.check_extends(reading.load(page), reading.load(page, set=settings))

    return extend


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["train.optimizer.choice.0.lr={log: [1e-6, 1]}"],
        ["train.batch_size={int: [8, 64]}"],
        [
            "train.batch_size={choice: [64, 16]}",
            "search.trials=100",
            "search.timeout_s=9",
            "resources.cpus_per_worker=2",
        ],
        ["train.optimizer={choice: [{type: rmsprop, lr: {log: [1e-4, 1]}}, {type: adam, lr: {log: [1e-4, 1]}}]}"],
        ["search.confirm={top: 2, seeds: 3}", "search.concurrency=4"],
    ],
)
def test_ranges_and_what_hangs_on_the_machine_may_change(extend: Any, settings: list[str]) -> None:
    extend(*settings)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("train.batch_size=16", "train.batch_size: it is searched, and can be given another range, but not 16 alone."),
        ("seed={int: [0, 9]}", "seed: it was 0 in every trial so far and cannot be opened now. Start a new search"),
        ("train.epochs=9", "train.epochs: it was 3 in every trial so far, and results could not be compared with "),
        ("model.widths=[8, 8]", r"model.widths: it was \[8\] in every trial so far, .* of \[8, 8\]"),
        ("model=baseline", "model.type: it was mlp in every trial"),
        ("data.split.test=0.3", "data.split.test: it was 0.2 in"),
        ("search.method=bayesian", "search.method.type: it was random in"),
        ("search.scheduler=asha", "search.scheduler.type: it was none in"),
        ("train.early_stopping={patience: 3}", "train.early_stopping: it was None in"),
        ("train.optimizer.choice.1.lr=0.2", "train.optimizer.choice.1.lr: it was 0.1 in every trial so far"),
        ("train.optimizer.lr={log: [1e-6, 1]}", "train.optimizer.choice.1.lr: it was 0.1 in"),
    ],
)  # fmt: skip
def test_what_would_make_trials_another_thing_is_refused(extend: Any, setting: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        extend(setting)


def test_every_path_that_cannot_change_is_named(extend: Any) -> None:
    with pytest.raises(UserError) as caught:
        extend("train.epochs=9", "seed=4")
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["seed", "train.epochs"]


# --- notes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["random", "bayesian", "grid"])
def test_more_trials_than_points_is_noted(method: str) -> None:
    assert reading.notes(grid(method=method, trials=7)) == (
        "The space has only 6 points, and search.trials is 7: 6 trials will run.",
    )
    assert reading.notes(grid(method=method, trials=6)) == ()


def test_a_grid_that_is_not_run_to_its_end_is_noted() -> None:
    (note,) = reading.notes(grid(method="grid", trials=4))
    assert "only the first 4 will run" in note
    assert reading.notes(grid(method="grid")) == ()
    assert reading.notes(grid(method="random", trials=4)) == ()


def test_a_space_that_cannot_be_counted_is_not_noted() -> None:
    assert reading.notes(reading.from_tree(SEARCH)) == ()
    assert reading.notes(reading.from_tree({**SEARCH, "train": {}, "search": {}})) == ()
    listed = {"method": "manual", "trials": [{"seed": 1}]}
    assert reading.notes(reading.from_tree({**SEARCH, "train": {}, "search": listed})) == ()


def test_check_says_how_many_and_what_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.yaml"
    page.write_text(json.dumps({**GRID, "search": {"method": "random", "trials": 20}}))
    assert main.code(["check", str(page)]) == 0
    assert "\n# The space has only 6 points, and search.trials is 20: 6 trials will run.\n" in capsys.readouterr().out
    assert main.code(["check", str(page), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["notes"]) == 1
    page.write_text(json.dumps({**GRID, "search": {"method": "grid"}}))
    assert main.code(["check", str(page)]) == 0
    assert "ok (a search over 2 values, every one of 6 combinations: " in capsys.readouterr().out


scalars = st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True).map(lambda found: {"choice": found})
whole = st.tuples(st.integers(1, 5), st.integers(1, 3)).map(lambda ends: {"int": [ends[0], sum(ends)]})
rates = st.sampled_from([0.1, 0.01, {"choice": [0.1, 0.01, 0.001]}, {"step": [0.1, 0.5, 0.1]}])
optimizers = st.lists(rates, min_size=1, max_size=3, unique_by=repr).map(
    lambda found: {"choice": [{"type": "sgd", "lr": rate} for rate in found]}
)


@settings(max_examples=60, deadline=None)
@given(seed=st.one_of(st.just(0), scalars), epochs=st.one_of(st.just(3), whole), optimizer=optimizers)
def test_the_count_is_that_of_the_grid(seed: Any, epochs: Any, optimizer: Any) -> None:
    # Batch sizes are open too: a page of one point alone would be refused.
    train = {"epochs": epochs, "optimizer": optimizer, "batch_size": {"choice": [16, 32]}}
    page = reading.from_tree({**SEARCH, "seed": seed, "train": train, "search": {"method": "grid"}})
    assert count(page.tree) == len(distinct_grid(page.tree))
