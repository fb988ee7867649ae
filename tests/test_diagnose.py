"""The diagnosis of runs: each rule speaks of a run that has its fault, with the numbers, and none of a healthy one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diagnose_example as example
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from nnopt_ray import reading
from nnopt_ray.cli.main import app
from nnopt_ray.errors import NotANumber, RunFolderError
from nnopt_ray.evaluate import DIAGNOSES, diagnose, diagnose_training
from nnopt_ray.evaluate.diagnose_fit import bad_calibration
from nnopt_ray.evaluate.diagnose_search import LONG_S, idle_workers
from nnopt_ray.evaluate.page_line import replaced
from nnopt_ray.experiment import Experiment, plain
from nnopt_ray.report import diagnosed
from nnopt_ray.report.course import course_of
from nnopt_ray.report.facts import Facts, facts_from_folder
from nnopt_ray.report.sections import SECTIONS
from nnopt_ray.results import Epoch
from nnopt_ray.rundir import RunDir, read_json
from nnopt_ray.train import batches

Ran = Callable[[str], tuple[RunDir, Facts]]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Trains an example when it is first asked for."""
    done: dict[str, tuple[RunDir, Facts]] = {}

    def run(name: str) -> tuple[RunDir, Facts]:
        if name not in done:
            made = {**example.ILL, **example.HEALTHY}[name]()
            done[name] = example.run(made, tmp_path_factory.mktemp(name))
        return done[name]

    return run


def told(run: RunDir, name: str) -> dict[str, Any]:
    """The finding of this name in evaluation/diagnosis.json."""
    found: dict[str, Any] = next(
        each for each in read_json(run.evaluated("diagnosis"))["found"] if each["name"] == name
    )
    return found


def with_line(experiment: Experiment, page: str) -> Experiment:
    """The page with a line put where it says: it must be valid."""
    text, _, place = page.partition("   # in ")
    ((key, value),) = yaml.safe_load(text).items()
    branch = f"{place}.{key}".replace(", choice ", "=") if place else key
    return reading.from_tree(plain(replaced(experiment.tree, branch, value)))


# --- ill runs ---------------------------------------------------------------------------------------

ELSEWHERE = {"slow_data", "idle_workers"}  # their illness is no page's: see below
# What the sentence must hold of the numbers, and the line that must stand on the page.
EXPECTED = {
    "learning_rate_too_high": ("learning rate of 10,", "lr: 0.01   # in train.optimizer"),
    "learning_rate_too_low": ("learning rate of 1e-07", "lr: 0.000"),
    "loss_not_a_number": ("all of them with train.optimizer.lr above", "lr: {log: ["),
    "still_improving": ("1 epoch of training", "epochs: 20   # in train"),
    "stopped_too_early": (
        "had not improved by more than 0.1 for 1 epoch. The training loss was still falling",
        "min_delta: 0.0   # in train.early_stopping",
    ),
    "gradient_explosion": ("In epoch 4 ", "clip_norm: "),
    "gradient_vanishing": ("of 13 layers: that of layers.0", ""),
    "dead_units": ("52 of 64 units behind hidden", "lr: 0.001   # in train.optimizer"),
    "exploding_activations": ("What comes out of hidden is", "lr: 0.001   # in train.optimizer"),
    "target_leak": ("the column 'result' alone", "ignore: [result]   # in data"),
    "copies_across_parts": ("are training rows too", "quality: [{type: duplicates, action: drop}]   # in data"),
    "class_imbalance": ("'rare' is 2 %", "class_weights: balanced}   # in train"),
    "class_never_predicted": ("never says 'c'", "class_weights: balanced}   # in train"),
    "label_noise": ("surest about", "quality: [label_errors]   # in data"),
    "unscaled_inputs": ("'x' comes in numbers of size", "steps: [scale]   # in data"),
    "unrepaired_data": ("label_errors: ", "action: drop"),
    "underfit": ("the baseline has accuracy", "weight_decay: 0.0   # in train.optimizer"),
    "overfit": ("knows its rows by heart", "dropout: 0.3   # in model"),
    "no_better_than_baseline": ("worse than the baseline's by", ""),
    "test_far_from_validation": ("standard errors apart. The baseline falls as much", "quality: [drift]   # in data"),
    "bad_calibration": ("sure. A temperature of 0.", "calibrate: temperature   # in evaluate"),
    "trials_failed": ("1 of 3 trials failed, most often with: train.accumulate is 500", ""),
    "best_at_the_edge": ("lies at the upper end of its range", "lr: {log: [1.0e-05, 0.01]}   # in train.optimizer"),
    "search_not_settled": ("Trial 10 of 10 was a new best", "trials: 20   # in search"),
    "seeds_disagree": ("Trained again with 3 seeds", "warmup_epochs: 1.0   # in train"),
    "winner_within_noise": ("6 of the 6 trials", "confirm: {top: 3, seeds: 3}   # in search"),
    "validation_too_small": ("chosen by 16 rows", "validation: 0.25   # in data.split"),
}


def test_every_diagnosis_has_an_example() -> None:
    assert set(DIAGNOSES) == set(example.ILL) | ELSEWHERE == set(EXPECTED) | ELSEWHERE
    for name, rule in diagnose.rules().items():
        assert rule.__doc__, name


@pytest.mark.parametrize("name", example.ILL)
def test_an_ill_run_is_told_so_with_its_numbers_and_a_line_that_is_valid(ran: Ran, name: str) -> None:
    run, facts = ran(name)
    found = told(run, name)
    sentence, page = EXPECTED[name]
    assert sentence in found["sentence"]
    assert page in found["page"]
    assert bool(page) == bool(found["page"])
    assert found["evidence"]
    if page:
        assert plain(with_line(facts.experiment, found["page"]).tree) != plain(facts.experiment.tree)


@pytest.mark.parametrize("name", example.ILL)
def test_the_worst_of_an_ill_run_is_its_illness_or_goes_with_it(ran: Ran, name: str) -> None:
    """What follows from a fault stands behind it, and says of what."""
    run, _ = ran(name)
    found = read_json(run.evaluated("diagnosis"))["found"]
    names = [each["name"] for each in found]
    ranks = [(bool(each["follows"]), ["high", "middle", "low"].index(each["severity"])) for each in found]
    assert ranks == sorted(ranks)
    for each in found:
        assert not each["follows"] or each["follows"] in names
        assert not each["follows"] or not each["page"]


def test_copies_that_a_check_found_too_are_told_once(tmp_path: Path) -> None:
    made = example.Made(example.tree(data={"quality": ["duplicates"]}), example.copied(example.moons(), 0.2))
    run, _ = example.run(made, tmp_path)
    names = [each["name"] for each in read_json(run.evaluated("diagnosis"))["found"]]
    assert names.count("copies_across_parts") == 1
    assert "unrepaired_data" not in names


# --- healthy runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", example.HEALTHY)
def test_nothing_is_said_of_a_healthy_run(ran: Ran, name: str) -> None:
    run, facts = ran(name)
    said = read_json(run.evaluated("diagnosis"))
    assert [each["sentence"] for each in said["found"]] == []
    section = SECTIONS["diagnosed"](facts)
    assert section is not None
    assert "Nothing was found; looked for: learning rate too high" in repr(section.blocks[0])
    assert not set(said["looked_for"]) - set(DIAGNOSES)


def test_classes_that_overlap_are_no_wrong_labels(tmp_path: Path) -> None:
    made = example.Made(example.tree(), example.blobs({"a": 700, "b": 700}, far=1.2))
    _, facts = example.run(made, tmp_path)
    assert facts.winner["test"].metrics["accuracy"] < 0.85
    assert "label_noise" not in example.found(facts)


def test_what_a_run_cannot_have_is_not_looked_for(ran: Ran) -> None:
    asked = {name: set(read_json(ran(name)[0].evaluated("diagnosis"))["looked_for"]) for name in ("amounts", "search")}
    assert not asked["amounts"] & {"class_imbalance", "label_noise", "bad_calibration", "best_at_the_edge"}
    assert {"class_imbalance", "label_noise", "bad_calibration", "best_at_the_edge", "dead_units"} <= asked["search"]


# --- what no page can be made to have ---------------------------------------------------------------


def test_a_wait_for_rows_is_recorded_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(batches, "GATHERED_BYTES", 1)
    quick = batches._gathered

    def slow(*given: Any) -> Any:
        time.sleep(0.004)
        return quick(*given)

    monkeypatch.setattr(batches, "_gathered", slow)
    monkeypatch.setattr(diagnose_training, "WAITED_S", 0.1)
    page = example.tree(train={"epochs": 2, "batch_size": 16, "early_stopping": None})
    run, facts = example.run(example.Made(page, example.moons(400)), tmp_path)
    seconds = [(epoch.waited_s, epoch.seconds) for epoch in facts.history]
    assert all(0.2 * whole < waited <= whole for waited, whole in seconds)
    found = told(run, "slow_data")
    assert "Training waited for its rows" in found["sentence"]
    assert found["evidence"]["waited_s"] == pytest.approx(sum(waited for waited, _ in seconds))


def test_what_lies_in_memory_is_not_waited_for(ran: Ran) -> None:
    run, facts = ran("table")
    assert {epoch.waited_s for epoch in facts.history} == {0.0}
    assert "waited_s" not in run.trial("0001").history.read_text()
    assert Epoch.from_line(replace(facts.history[0], waited_s=0.25).line()).waited_s == 0.25


def test_idle_workers_are_told_by_the_journal(ran: Ran) -> None:
    """Two workers, one of which trains for the first tenth of the time alone."""
    events: list[dict[str, Any]] = []
    for trial, worker, begin, end in (("0001", 0, 0.0, 20.0), ("0002", 1, 0.0, 100.0), ("0003", 0, 5.0, 15.0)):
        events.append({"event": "started", "trial": trial, "worker": worker, "t": begin, "epoch": 0})
        events.append({"event": "ended", "trial": trial, "status": "finished", "t": end})
    events.sort(key=lambda event: event["t"])
    course = course_of(events)
    assert diagnosed.busy(course) == pytest.approx((20 + 100) / 200)
    _, facts = ran("search")
    case = replace(diagnosed.case_of(facts), workers=4, seconds=LONG_S + 1, busy=0.3)
    (found,) = idle_workers(case) or ()
    assert "The 4 workers trained 30 % of the 61 s" in found.sentence
    assert idle_workers(replace(case, busy=0.8)) == ()
    assert idle_workers(replace(case, seconds=LONG_S - 1)) is None  # starting takes most of so short a search
    assert idle_workers(replace(case, workers=1)) is None


# --- old, damaged and cut-short runs ----------------------------------------------------------------

HARM: dict[str, Callable[[Path], object]] = {
    "gone": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "null": lambda path: path.write_text("null\n"),
    "list": lambda path: path.write_text(
        '{"found": [1, {"name": "overfit"}], "looked_for": 3, "measured": {"inside": 1}}'
    ),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_diagnosis_is_judged_anew(ran: Ran, tmp_path: Path, harm: str) -> None:
    run, _ = ran("overfit")
    copy = RunDir(shutil.copytree(run.root, tmp_path / "run"))
    HARM[harm](copy.evaluated("diagnosis"))
    again = facts_from_folder(copy)
    SECTIONS["diagnosed"](again)
    diagnosed.advice(again)
    assert isinstance(diagnosed.of_folder(copy), tuple)


@pytest.mark.parametrize("name", ["overfit", "loss_not_a_number"])
def test_a_run_without_some_of_its_files_is_judged_by_the_rest(ran: Ran, tmp_path: Path, name: str) -> None:
    run, _ = ran(name)
    for lost in (run.scores, run.result, run.journal, run.trials_table, run.data / "summary.json", run.best_metrics):
        copy = RunDir(shutil.copytree(run.root, tmp_path / lost.name))
        copy.evaluated("diagnosis").unlink()
        (copy.root / lost.relative_to(run.root)).unlink(missing_ok=True)
        try:
            facts = facts_from_folder(copy)
        except RunFolderError:
            continue
        case = diagnosed.case_of(facts)
        for each in diagnose.diagnose(case).found:
            assert each.sentence, lost
        SECTIONS["diagnosed"](facts)
        assert diagnosed.advice(facts) or lost


def test_rules_bear_histories_of_any_kind(ran: Ran) -> None:
    _, facts = ran("table")
    case = diagnosed.case_of(facts)
    for history in ((), facts.history[:1], facts.history[:3]):
        diagnose.diagnose(replace(case, history=history))
    for value in (np.nan, np.inf, -1.0, 0.0):
        broken = tuple(replace(e, metrics=dict.fromkeys(e.metrics, value), grad_norm=value) for e in facts.history)
        diagnose.diagnose(replace(case, history=broken))


def test_what_a_temperature_would_bring_is_told_with_bad_probabilities(ran: Ran) -> None:
    _, facts = ran("bad_calibration")
    told: dict[str, Any] = {"applied": False, "temperature": 0.31, "metrics": {"ece": {"before": 0.3, "after": 0.02}}}
    case = replace(diagnosed.case_of(facts), calibration=told)
    (found,) = bad_calibration(case) or ()
    assert "A temperature of 0.31, learned from the validation rows, brings that to 2 %." in found.sentence
    for other in ({**told, "applied": True}, {"metrics": {"ece": 3}}, {"temperature": "hot", "metrics": None}, [1]):
        (found,) = bad_calibration(replace(case, calibration=other)) or ()  # type: ignore[arg-type]
        assert "temperature" not in found.sentence


# --- where they are told ----------------------------------------------------------------------------


def test_the_report_and_the_program_tell_the_findings(ran: Ran) -> None:
    run, facts = ran("learning_rate_too_high")
    page = run.report.read_text()
    assert "What is wrong, and what to change" in page
    assert list(SECTIONS).index("diagnosed") <= 2
    first = diagnosed.advice(facts)[0]
    assert (first.title, first.page) == ("Lower the learning rate", "lr: 0.01   # in train.optimizer")
    shown = CliRunner().invoke(app, ["show", str(run.root)])
    assert shown.exit_code == 0
    assert "high    Lower the learning rate. In the first epoch" in shown.stdout
    assert shown.stdout.count("on the page: ") == 1
    assert "on the page: lr: 0.01   # in train.optimizer" in shown.stdout
    assert "(Goes with: learning rate too high.)" in shown.stdout


# --- the long form ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["digits", "images", "table", "amounts"])
def test_healthy_runs_of_other_seeds_are_left_alone(name: str, seed: int, tmp_path: Path) -> None:
    made = example.HEALTHY[name]()
    run, _ = example.run(replace(made, tree={**made.tree, "seed": seed}), tmp_path)
    assert [each["sentence"] for each in read_json(run.evaluated("diagnosis"))["found"]] == []


NETWORKS: dict[str, dict[str, Any]] = {
    "resnet": {"type": "resnet", "depth": 8, "width": 8},
    "vgg": {"type": "vgg", "depth": 11, "width": 8, "halvings": 2, "head": "small", "dropout": 0.1},
    "vit": {"type": "vit", "size": "micro", "patch": 2},
    "lstm": {"type": "rnn", "width": 48},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_every_kind_are_left_alone_when_they_learn(name: str, tmp_path: Path) -> None:
    train = {"epochs": 40, "optimizer": {"type": "adamw", "lr": 3e-3}, "early_stopping": {"patience": 6}}
    page = {**example.tree(train=train), "model": NETWORKS[name]}
    run, facts = example.run(example.Made(page, "digits"), tmp_path)
    assert facts.winner["test"].metrics["accuracy"] > 0.9
    found = read_json(run.evaluated("diagnosis"))["found"]
    # On digits logistic regression is a match for some of them, which is said as it is.
    assert [each["name"] for each in found if each["name"] != "no_better_than_baseline"] == []


@pytest.mark.slow
@pytest.mark.parametrize("data", ["digits", "breast_cancer", "diabetes", "wine"])
@pytest.mark.parametrize(
    ("optimizer", "low", "good", "high"),
    [("adam", (1e-6, 1e-4), (1e-3, 1e-2), (0.3, 1.0)), ("sgd", (1e-4, 1e-2), (0.1,), (10.0,))],
)
def test_rates_far_off_are_told_and_those_that_fit_are_not(
    data: str, optimizer: str, low: tuple[float, ...], good: tuple[float, ...], high: tuple[float, ...], tmp_path: Path
) -> None:
    """The measurement that the thresholds come from, at some of its rates."""

    def told(rate: float) -> set[str]:
        train = {"epochs": 20, "optimizer": {"type": optimizer, "lr": rate}, "early_stopping": None, "batch_size": 64}
        page = {**example.tree(train=train), "model": {"type": "mlp"}}
        page["data"] = {"steps": ["scale"]}
        try:
            run, _ = example.run(example.Made(page, data), tmp_path / f"{rate}")
        except NotANumber:
            return {"learning_rate_too_high"}  # the run fails, and its message says so
        return {each["name"] for each in read_json(run.evaluated("diagnosis"))["found"]}

    rates = {"learning_rate_too_low", "learning_rate_too_high"}
    for rate in low:
        assert told(rate) & rates == {"learning_rate_too_low"}, rate
    for rate in good:
        assert told(rate) & (rates | {"dead_units", "gradient_explosion", "exploding_activations"}) == set(), rate
    for rate in high:
        assert told(rate) & rates == {"learning_rate_too_high"}, rate
