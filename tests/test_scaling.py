"""Scaling studies: laws and plans against closed forms, clocks that add up, verdicts, and a real study."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
import torch.multiprocessing as processes
import yaml
from hypothesis import given
from hypothesis import strategies as some
from scipy import optimize

import nnopt_ray as nn
from nnopt_ray import assembly, reading
from nnopt_ray.cli.main import code
from nnopt_ray.report.blocks import Plot, within
from nnopt_ray.scaling import laws, page, planner, study, verdict
from nnopt_ray.scaling.asked import Asked, bandwidth, latency, settled
from nnopt_ray.scaling.found import Scaling, Size
from nnopt_ray.scaling.planner import Costs, Link, Measured, Work
from nnopt_ray.scaling.summing import summed_up
from nnopt_ray.train.clock import KINDS, Clock, all_reduces
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.sharding import Shard

PAGE: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "data": {"source": {"type": "sklearn", "name": "digits"}, "steps": ["scale"]},
    "model": {"type": "mlp", "widths": [16]},
    "train": {"epochs": 3, "batch_size": 64, "optimizer": {"type": "adam", "lr": 0.01}},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.yaml").write_text(yaml.safe_dump(PAGE))
    return tmp_path


# --- laws -----------------------------------------------------------------------------------------


@given(some.floats(0.0, 0.9), some.floats(1e-3, 1e3))
def test_laws_find_the_share_that_they_were_made_with(serial: float, one: float) -> None:
    workers = (1, 2, 4, 8, 16)
    amdahl, _ = laws.amdahl({n: one * (serial + (1 - serial) / n) for n in workers})
    gustafson, _ = laws.gustafson({n: one * (serial + (1 - serial) * n) for n in workers})
    for law in (amdahl, gustafson):
        assert law is not None
        assert law.serial == pytest.approx(serial, abs=1e-6)
        assert law.one == pytest.approx(one)
        assert max(map(abs, law.residuals.values())) < 1e-9
        assert not law.exact


def test_laws_are_the_least_squares_of_scipy() -> None:
    random = np.random.default_rng(0)
    workers = np.array([1, 2, 3, 4, 8, 12])
    seconds = (2 + 9 / workers) * random.normal(1, 0.05, len(workers))

    def missed(told: np.ndarray) -> np.ndarray:
        return np.asarray(told[1] * (told[0] + (1 - told[0]) / workers) / seconds - 1)

    found = optimize.least_squares(missed, [0.5, 10.0], xtol=1e-15, ftol=1e-15, gtol=1e-15)
    law, _ = laws.amdahl(dict(zip(workers.tolist(), seconds.tolist(), strict=True)))
    assert law is not None
    assert (law.serial, law.one) == pytest.approx(found.x, rel=1e-5)
    assert law.most == pytest.approx(1 / found.x[0], rel=1e-5)
    assert law.residuals[12] == pytest.approx(seconds[-1] / (found.x[1] * (found.x[0] + (1 - found.x[0]) / 12)) - 1)


def test_two_sizes_determine_a_law_and_one_none() -> None:
    law, said = laws.amdahl({1: 10.0, 4: 4.0})
    assert law is not None
    assert law.exact
    assert law.serial == pytest.approx(0.2)
    assert not law.residuals
    assert "Two sizes determine it exactly" in said
    assert laws.amdahl({2: 1.0})[0] is None
    assert laws.gustafson({})[0] is None


@pytest.mark.parametrize(
    ("seconds", "said"), [({1: 1.0, 2: 2.0}, "more workers are slower"), ({1: 4.0, 2: 1.0}, "more than their number")]
)
def test_what_no_law_describes_is_said(seconds: dict[int, float], said: str) -> None:
    law, sentence = laws.amdahl(seconds)
    assert said in sentence
    assert law is not None
    assert law.most is None


# --- the plan -------------------------------------------------------------------------------------

WORK = Work(rows=10_000, batch_size=100, gradient_bytes=1_000_000, validation_rows=1000, evaluation_rows=50)
COSTS = Costs(step_s=1e-3, row_s=1e-4, data_row_s=1e-5, validation_s=0.5, rest_s=0.1)
LINK = Link(bandwidth=1e9, latency_s=1e-5)


def test_a_planned_epoch_is_the_sum_by_hand() -> None:
    found = planner.epoch_of(COSTS, WORK, 4, LINK, overlap=False)
    compute = 1e-3 + 25 * 1e-4
    waiting = 2 * 3 / 4 * 1e6 / 1e9 + 2 * 3 * 1e-5
    step = compute + 25 * 1e-5 + waiting
    # The validation part is 10 batches of 100 rows; of four workers one has three of them.
    assert found.communication_s == pytest.approx(waiting)
    assert found.epoch_s == pytest.approx(100 * step + 0.5 * 0.3 + 0.1)
    assert found.rows_per_s == pytest.approx(10_000 / found.epoch_s)
    beside = planner.epoch_of(COSTS, WORK, 4, LINK, overlap=True)
    assert beside.communication_s == pytest.approx(max(0.0, waiting - 2 / 3 * compute))
    assert planner.epoch_of(COSTS, WORK, 1, LINK, overlap=False).communication_s == 0


def test_the_batch_kept_feeds_so_many_workers_and_grown_is_never_more_than_all_rows() -> None:
    assert WORK.step_rows(50) == WORK.step_rows(400) == 2
    assert planner.grown(WORK, 3).batch_size == 300
    assert planner.grown(WORK, 10**6) == Work(10_000, 10_000, 1_000_000, 1000, 50)


def spent(workers: int, work: Work = WORK) -> Measured:
    """As a machine that is exactly the model would measure it."""
    found = planner.epoch_of(COSTS, work, workers, LINK, overlap=False)
    times = {
        "compute": found.steps * found.compute_s,
        "communication": found.steps * found.communication_s,
        "data": found.steps * work.step_rows(workers) * COSTS.data_row_s,
        "validation": COSTS.validation_s * work.validation_share(workers),
        "checkpoint": 0.06,
        "other": 0.04,
    }
    return Measured(workers, work, times)


SWEEPS = {n: [(size, LINK.all_reduce_s(size, n)) for size in (1e3, 1e5, 1e7)] for n in (2, 4)}


def test_costs_and_link_are_found_again_and_each_size_is_foretold_from_the_others() -> None:
    sizes = [spent(n) for n in (1, 2, 4)]
    costs, link = planner.costs_of(sizes), planner.link_of(SWEEPS)
    assert vars(costs) == pytest.approx(vars(COSTS))
    assert link is not None
    assert vars(link) == pytest.approx(vars(LINK))
    made = planner.plan(sizes, WORK, (1, 8, 64), SWEEPS)
    assert made is not None
    assert made.errors == pytest.approx({1: 0, 2: 0, 4: 0}, abs=1e-9)
    assert made.kept[0].speed_up == pytest.approx(1)
    assert made.kept[1].efficiency == pytest.approx(made.kept[1].speed_up / 8)
    assert made.grown[2].batch_size == 6400
    from_one = planner.plan([spent(1), spent(4)], WORK, (8,), SWEEPS)
    assert from_one is not None  # from one size the cost of a step besides its rows cannot be told
    assert from_one.errors[4] == pytest.approx(
        planner.epoch_of(planner.costs_of([spent(1)]), WORK, 4, LINK, False).epoch_s / spent(4).epoch_s - 1
    )
    assert from_one.errors[4] < -0.01


def test_more_workers_stop_paying_where_the_efficiency_falls_below_a_half() -> None:
    made = planner.plan([spent(n) for n in (1, 2, 4)], WORK, (2,), SWEEPS)
    assert made is not None
    assert made.kept_stops is not None

    def efficiency(n: int) -> float:
        one, many = (planner.epoch_of(COSTS, WORK, each, LINK, False).epoch_s for each in (1, n))
        return one / many / n

    assert efficiency(made.kept_stops) < 0.5 <= efficiency(made.kept_stops - 1)


def test_a_plan_more_hopeful_than_what_was_measured_says_so() -> None:
    slow = Measured(2, WORK, {**spent(2).spent, "communication": 3 * spent(1).epoch_s})
    for sizes, told in (([spent(1), slow], True), ([spent(1), spent(2)], False)):
        made = planner.plan(sizes, WORK, (8,), {}, (25e9, None))
        assert made is not None
        assert any("below 50 % at 2 already" in said for said in made.sentences) == told


def test_a_given_link_is_planned_with_and_the_measured_one_judges() -> None:
    sizes = [spent(n) for n in (1, 2, 4)]
    made = planner.plan(sizes, WORK, (8,), SWEEPS, (25e9, 20e-6))
    assert made is not None
    assert made.link == Link(25e9, 20e-6)
    assert made.kept[0].communication_s == pytest.approx(2 * 7 / 8 * 1e6 / 25e9 + 14 * 20e-6)
    assert made.errors == pytest.approx({1: 0, 2: 0, 4: 0}, abs=1e-9)
    alone = planner.plan([spent(1)], WORK, (8,), {}, (25e9, None))
    assert alone is not None
    assert not alone.errors
    assert any("How wrong this is cannot be said" in said for said in alone.sentences)
    assert planner.plan([spent(1)], WORK, (8,), {}) is None


@pytest.mark.parametrize(
    ("said", "bytes_a_second"),
    [("25GB/s", 25e9), ("200Gb/s", 25e9), ("1.5 MB/s", 1.5e6), ("100Gbps", 12.5e9), ("1e3B/s", 1e3)],
)
def test_bandwidth(said: str, bytes_a_second: float) -> None:
    assert bandwidth(said) == pytest.approx(bytes_a_second)


def test_latency() -> None:
    assert (latency("20us"), latency("0.1ms"), latency("5µs")) == pytest.approx((2e-5, 1e-4, 5e-6))


# --- praise ---------------------------------------------------------------------------------------


def sizes_of(scores: dict[int, tuple[float, ...]], **more: Any) -> Scaling:
    """A study in which n workers are n times as fast."""
    sizes = [
        Size(f"{n} workers", n, rows=1000, batch_size=64, steps=16, epochs=4, epoch_s=8 / n, rows_per_s=125 * n,
             steps_per_s=2 * n, epochs_per_s=n / 8, start_s=1.0,
             spent=dict.fromkeys(KINDS, 8 / n / (len(KINDS) - 1)) | {"preempted": 0.0}, values=values,
             all_reduce=tuple(SWEEPS.get(n, ())))
        for n, values in scores.items()
    ]  # fmt: skip
    experiment = reading.load("page.yaml", set={"objective": "maximize val_accuracy"})
    facts = {"cores": 8, "gradient_bytes": 10**6, "validation_rows": 100, "evaluation_rows": 64, "train_rows": 1000}
    asked = Asked(workers=tuple(scores), seeds=len(scores[1]), worker_hour=3600.0, **more)
    return summed_up(experiment, asked, sizes, facts, Path("study"), True)


def test_a_speed_up_that_costs_accuracy_is_not_praised(here: Path) -> None:
    found = sizes_of({1: (0.95, 0.96, 0.95), 2: (0.951, 0.958, 0.952), 4: (0.85, 0.87, 0.86)})
    assert found.sizes[2].speed_up == pytest.approx(4)
    assert found.sizes[2].efficiency == pytest.approx(1)
    assert [size.money for size in found.sizes] == pytest.approx([8, 8, 8])
    assert found.sentences[0].startswith("No gain: 4 workers: 4.00 times")
    assert "costs accuracy. The validation accuracy is worse by 9.3\u00a0points, beyond chance" in found.sentences[0]
    assert found.sentences[1].startswith("2 workers: 2.00 times")
    assert "at 1.00 times the cost" in found.sentences[1]
    assert "is not worse beyond chance" in found.sentences[1]
    assert found.sizes[2].score is not None
    assert found.sizes[2].score.judged == "fell"


def test_one_seed_does_not_tell(here: Path) -> None:
    found = sizes_of({1: (0.95,), 4: (0.94,)})
    assert "one seed does not tell whether that is chance: --seeds 3" in found.sentences[0]
    assert "is no worse" in sizes_of({1: (0.95,), 4: (0.96,)}).sentences[0]
    assert "is the same" in sizes_of({1: (0.95,), 4: (0.95,)}).sentences[0]


def test_the_interval_of_the_difference_is_students() -> None:
    from scipy import stats

    first, other = [0.5, 0.6, 0.55, 0.52], [0.45, 0.58, 0.5, 0.53]
    found = verdict.compared(first, other, "max", 0.95)
    test = stats.ttest_rel(other, first)
    ends = test.confidence_interval(0.95)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
    turned = verdict.compared(first, other, "min", 0.95)
    assert turned is not None
    assert turned.gain == pytest.approx(-found.gain)
    assert verdict.compared([math.nan], [0.5], "max", 0.95) is None


def test_a_size_that_shares_cores_is_in_no_fit_and_a_failed_one_is_a_row(here: Path) -> None:
    whole = sizes_of({1: (0.9,), 2: (0.9,), 4: (0.9,)})
    shared = Size(**{**vars(whole.sizes[2]), "oversubscribed": True, "epoch_s": 80.0})
    lost = Size("9 workers", 9, failed="there is no room")
    experiment = reading.load("page.yaml")
    found = summed_up(
        experiment, Asked(workers=(1, 2, 4, 9)), [*whole.sizes[:2], shared, lost], whole.facts, here, True
    )
    assert found.law is not None
    assert found.law.exact
    assert any(said.startswith("Oversubscribed: 4 workers share 8 cores") for said in found.sentences)
    text = page.html(found)
    assert "there is no room" in text
    assert "shares cores" in text
    json.dumps(nn_finite(found.to_json()))


def nn_finite(said: Any) -> Any:
    from nnopt_ray.rundir import finite

    return finite(said)


def test_a_busy_machine_is_told_behind_the_verdict(here: Path) -> None:
    whole = sizes_of({1: (0.9,), 2: (0.9,)})
    spent = {**dict.fromkeys(KINDS, 0.0), "compute": 2.0, "preempted": 6.0}
    busy = Size(**{**vars(whole.sizes[0]), "spent": spent})
    found = summed_up(reading.load("page.yaml"), Asked(), [busy, whole.sizes[1]], whole.facts, here, True)
    assert "busy with other work: of 1 workers 75 % of an epoch" in found.sentences[1]
    assert not any("busy with other work" in said for said in whole.sentences)


def test_the_page_has_its_plots_and_plan(here: Path) -> None:
    found = sizes_of({1: (0.9, 0.91), 2: (0.9, 0.92), 4: (0.91, 0.9)}, plan=(8, 64), bandwidth=1e9)
    text = page.html(found)
    for title in ("Rows a second, against the smallest size", "Where the time of an epoch goes", "The batch kept",
                  "Validation accuracy at each size", "How wrong it is where it was measured"):  # fmt: skip
        assert title in text
    made = [page._speed(found), page._time(found), page._score(found), page._planned(found)]
    plots = [
        block for section in made if section is not None for block in within(section.blocks) if isinstance(block, Plot)
    ]
    assert [plot.id for plot in plots] == ["speed", "spent", "scores"]
    for plot in plots:
        go.Figure(unpainted(json.loads(json.dumps(plot.figure))))
        assert plot.caption.endswith(".")
    bars = plots[1].figure["data"]
    assert sum(trace["y"][1] for trace in bars) == pytest.approx(found.sizes[1].epoch_s)


def unpainted(node: Any) -> Any:
    """A figure whose colours plotly knows."""
    if isinstance(node, str) and node.startswith("--"):
        return "#123456"
    if isinstance(node, list):
        return [unpainted(each) for each in node]
    return {key: unpainted(each) for key, each in node.items()} if isinstance(node, dict) else node


# --- the clock ------------------------------------------------------------------------------------


def test_a_clock_changes_no_number_and_its_kinds_add_up(here: Path) -> None:
    experiment = reading.load("page.yaml")
    dataset, where = assembly.data_of(experiment), assembly.machine_for(experiment)
    made = (experiment, dataset, where, assembly.metrics_for(experiment, dataset))
    plain, timed = Trainer(*made), Trainer(*made)
    Clock(timed)
    while not plain.done:
        bare, with_clock = plain.run_epoch(), timed.run_epoch()
        assert bare.metrics == with_clock.metrics
        assert not bare.spent
        assert set(with_clock.spent) == set(KINDS)
        assert with_clock.spent["communication"] == 0
        inside = sum(with_clock.spent.values()) - with_clock.spent["checkpoint"]
        assert inside == pytest.approx(with_clock.seconds, rel=0.05, abs=2e-3)
        assert nn_epoch(with_clock.line()) == with_clock.spent
    assert timed.history[1].spent["compute"] > 0
    assert timed.history[1].spent["validation"] > 0


class Busy(torch.nn.Module):
    """Another network; takes longer for each step, and waits for the other processes in it when asked to."""

    def __init__(self, inner: torch.nn.Module, extra_s: float, meets: bool = False) -> None:
        super().__init__()
        self.inner, self.extra_s, self.meets = inner, extra_s, meets

    def forward(self, *inputs: torch.Tensor) -> Any:
        end = time.perf_counter() + self.extra_s * self.training
        while time.perf_counter() < end:
            pass
        if self.meets and self.training:
            torch.distributed.barrier()
        return self.inner(*inputs)


EXTRA_S = 0.01


def one_of_two(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NNOPT_CACHE": f"{folder}/cache"}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    experiment = reading.load(f"{folder}/page.yaml", set={"train.epochs": 2})
    dataset, where, shard = assembly.data_of(experiment), assembly.machine_for(experiment), Shard()
    told: dict[str, Any] = {"sweep": all_reduces(1 << 16, torch.device("cpu"))}
    for name in ("untimed", "timed", "inside"):
        shard.goes_along = name == "inside"
        trainer = Trainer(experiment, dataset, where, assembly.metrics_for(experiment, dataset), shard=shard)
        forward: Any = trainer._forward
        forward.model = Busy(trainer.model, EXTRA_S * rank, meets=name == "inside")
        if name != "untimed":
            Clock(trainer, shard)
        began = time.perf_counter()
        while not trainer.done:
            trainer.run_epoch()
        told[name] = {"weights": trainer.weights.flat.tolist(), "took": time.perf_counter() - began,
                      "spent": [dict(epoch.spent) for epoch in trainer.history]}  # fmt: skip
    Path(folder, f"{rank}.json").write_text(json.dumps(told))
    torch.distributed.destroy_process_group()


def test_the_clock_of_several_processes_is_their_mean_and_tells_who_waits(here: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes.spawn(one_of_two, (port, str(here)), nprocs=2)  # type: ignore[no-untyped-call]
    first, second = (json.loads((here / f"{rank}.json").read_text()) for rank in range(2))
    assert first["timed"]["weights"] == first["untimed"]["weights"] == second["timed"]["weights"]
    steps = 19
    for name in ("timed", "inside"):  # waiting for the sum of gradients, and inside the network
        spent = first[name]["spent"]
        assert spent == second[name]["spent"], "each has the mean of both"
        assert sum(sum(each.values()) for each in spent) == pytest.approx(first[name]["took"], rel=0.1, abs=0.05)
        for each in spent:  # one process computes longer, the other waits for it: half of it in the mean
            assert each["communication"] > 0.4 * steps * EXTRA_S
            assert each["compute"] + each["preempted"] > 0.5 * steps * EXTRA_S
    assert first["sweep"] == second["sweep"]
    assert [size for size, _ in first["sweep"]] == [1024.0, 4096.0, 16384.0, 65536.0]
    assert all(seconds > 0 for _, seconds in first["sweep"])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux tells what a thread queued for")
def test_what_another_program_takes_of_the_core_is_told_from_compute(here: Path) -> None:
    experiment = reading.load("page.yaml", set={"train.epochs": 2})
    dataset, where = assembly.data_of(experiment), assembly.machine_for(experiment)
    trainer = Trainer(experiment, dataset, where, assembly.metrics_for(experiment, dataset))
    forward: Any = trainer._forward
    forward.model = Busy(trainer.model, EXTRA_S)
    Clock(trainer)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    endless = "print(flush=True)\nwhile True: pass"
    rival = subprocess.Popen([sys.executable, "-c", endless], stdout=subprocess.PIPE)
    assert rival.stdout is not None
    try:
        rival.stdout.readline()  # it is at work
        spent = trainer.run_epoch().spent
    finally:
        rival.kill()
        rival.wait()
        rival.stdout.close()
        os.sched_setaffinity(0, before)
    assert spent["preempted"] > 0.2 * (spent["compute"] + spent["preempted"]), "two share a core"


def nn_epoch(line: dict[str, Any]) -> Any:
    from nnopt_ray.results import Epoch

    return Epoch.from_line(json.loads(json.dumps(line))).spent


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "0"], "--workers takes whole numbers of at least 1"),
        (["--workers", "abc"], "'abc' is none"),
        (["--workers", "1,,2"], "'' is none"),
        (["--epochs", "1"], "--epochs must be at least 2"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--lanes", "1,4"], "--lanes scales a search"),
        (["--gpus", "2"], "at most 1"),
        (["--gpus", "0.25,0.5"], "0 GPUs"),
        (["--plan", "8", "--bandwidth", "fast"], "--bandwidth is bytes or bits a second"),
        (["--plan", "8", "--latency", "20"], "--latency is a time with its unit"),
        (["--bandwidth", "1GB/s"], "belong to a plan"),
        (["--price-per-gpu-hour", "2"], "the workers have no GPU"),
        (["--price-per-worker-hour", "-2"], "at least 0"),
        (
            ["--set", "model.dropout={uniform: [0, 0.5]}", "--workers", "1,2"],
            "this page is a search (it opens model.dropout)",
        ),
        (["--set", "model.dropout={uniform: [0, 0.5]}", "--weak"], "--weak scales the training of one network"),
    ],
)
def test_what_makes_no_study_is_refused_in_a_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert code(["scale", "page.yaml", *options]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert len(told.err.strip().splitlines()) == 1
    assert not (here / "runs").exists()


def test_without_options_the_sizes_are_those_of_the_machine(here: Path) -> None:
    single = settled(Asked(), reading.load("page.yaml"))
    assert single.workers[:2] == (1, 2)
    search = settled(Asked(), reading.load("page.yaml", set={"model.dropout": {"uniform": [0, 0.5]}}))
    assert search.lanes == (1, 4, 16)


# --- a real study ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.ray
def test_a_study_of_one_and_two_workers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["scale", "page.yaml", "--workers", "1,2,1000", "--plan", "8", "--json", "--price-per-worker-hour", "1"]
    assert code(asked) == 0
    said = json.loads(capsys.readouterr().out)
    folder = Path(said["path"])
    one, two, lost = said["sizes"]
    assert (one["workers"], two["workers"], lost["workers"]) == (1, 2, 1000)
    assert "at most 2 to a core" in lost["failed"]
    rows = said["facts"]["train_rows"]
    for size in (one, two):
        assert size["rows_per_s"] == pytest.approx(rows / size["epoch_s"])
        assert size["steps"] == -(-rows // 64)
        assert size["steps_per_s"] == pytest.approx(size["steps"] / size["epoch_s"])
        assert sum(size["spent"].values()) == pytest.approx(size["epoch_s"])
        assert size["worker_s"] == pytest.approx(size["workers"] * size["epoch_s"])
        assert size["money"] == pytest.approx(size["worker_s"] / 3600)
    assert two["speed_up"] == pytest.approx(two["rows_per_s"] / one["rows_per_s"])
    assert one["spent"]["communication"] == 0
    assert two["spent"]["communication"] > 0
    assert two["start_s"] > 1 > one["start_s"]
    assert two["values"] == pytest.approx(one["values"], rel=1e-3)  # the batch kept: the same training
    sweep = two["all_reduce"]
    assert sweep[0][0] == 1024
    assert sweep[-1][0] >= said["facts"]["gradient_bytes"]
    assert said["plan"]["kept"][0]["workers"] == 8
    assert set(said["plan"]["errors"]) == {"1", "2"}
    assert said == json.loads((folder / "scaling.json").read_text()) | {"ok": True}
    assert "How far" not in said["sentences"][0]
    assert (folder / "report.html").stat().st_size > 1e6
    for file in folder.rglob("*"):  # the test part has no share in it
        assert file.name not in {"scores.json", "predictions.parquet", "result.json"}
    before = (folder / "sizes" / "2-workers" / "measured.json").stat().st_mtime_ns
    assert code(["resume", str(folder)]) == 0  # only what failed is tried again
    assert (folder / "sizes" / "2-workers" / "measured.json").stat().st_mtime_ns == before
    assert "1000 workers: " in capsys.readouterr().out


def test_a_study_goes_on_where_it_was_stopped(here: Path) -> None:
    class Stopping(nn.Watch):
        def __init__(self) -> None:
            self.epochs = 0
            self.notes: list[str] = []

        def note(self, sentence: str) -> None:
            self.notes.append(sentence)

    experiment, watch = reading.load("page.yaml"), Stopping()
    asked = Asked(workers=(1,), seeds=3)
    ended = iter([False] * 6 + [True] * 100)  # in the second training
    with pytest.raises(nn.Interrupted, match="nnopt resume"):
        study.carry_out(experiment, asked, watch=watch, should_stop=lambda: next(ended))
    folder = next((here / "runs").iterdir())
    found = study.open_study(folder)
    assert found.status == "interrupted"
    assert not found.sizes
    assert "Sizes are missing" in (folder / "report.html").read_text()
    first = (folder / "sizes" / "1-worker" / "measured.json").read_bytes()
    again = study.carry_out(experiment, asked, watch=watch)
    assert again.path == folder.resolve()
    assert any(note.startswith("Going on with ") for note in watch.notes)
    assert again.status == "finished"
    assert len(again.sizes[0].values) == 3
    assert len(set(again.sizes[0].values)) == 3, "each seed is a training of its own"
    assert (folder / "sizes" / "1-worker" / "measured.json").read_bytes() == first
    assert study.carry_out(experiment, asked).path != folder.resolve(), "a finished study is not gone on with"


def test_the_verbs_that_look_at_runs_know_a_study(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = nn.scale(nn.load("page.yaml"), workers=(1,))
    folder, report = str(found.path), found.path / "report.html"
    assert code(["ls", "--json"]) == 0
    (line,) = json.loads(capsys.readouterr().out)["runs"]
    assert (line["status"], line["objective"], line["value"]) == ("finished", "speed-up", 1.0)
    assert code(["show", folder]) == 0
    assert "Where the time of an epoch goes" in capsys.readouterr().out
    assert code(["show", folder, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == json.loads((found.path / "scaling.json").read_text())
    report.unlink()
    assert code(["report", folder]) == 0
    assert report.is_file()
    capsys.readouterr()
    assert code(["resume", folder]) == 0
    assert "is finished already; nothing to do." in capsys.readouterr().err
    assert code(["resume", folder, "--trials", "3"]) == 2
    assert "without --trials and --set" in capsys.readouterr().err
    assert list(found.table["workers"]) == [1]


def test_weak_scaling_grows_rows_and_batch(here: Path) -> None:
    from nnopt_ray.scaling import sizes

    experiment = reading.load("page.yaml", set={"resources.lr_scaling": "linear", "resources.batch": "per_worker"})
    asked = Asked(workers=(1, 2, 4), weak=True)
    one, _, four = (sizes.page_of(experiment, asked, place, 0) for place in sizes.places(experiment, asked))
    assert one.data.train_share == 0.25
    assert four.data.train_share is None
    assert assembly.scaled(four, 4).train.batch_size == 256
    assert assembly.scaled(four, 4).train.optimizer["lr"] == pytest.approx(0.04)
    assert assembly.scaled(one, 1).train.batch_size == 64
    strong = sizes.page_of(experiment, Asked(workers=(1, 2)), sizes.Place(2, 0.0), 0)
    assert assembly.scaled(strong, 2).train.batch_size == 64
    assert sizes.places(experiment, Asked(gpus=(0.25, 1.0))) == (sizes.Place(1, 1.0), sizes.Place(4, 0.25))


def test_lanes_of_a_search(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = ["--set", "train.optimizer.lr={log: [1e-4, 1e-1]}", "--set", "search.scheduler=asha"]
    assert code(["scale", "page.yaml", *search, "--lanes", "1,4", "--epochs", "3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    one, four = said["sizes"]
    assert said["kind"] == "lanes"
    assert four["rows"] == 4 * one["rows"]
    assert four["speed_up"] == pytest.approx(four["rows_per_s"] / one["rows_per_s"])
    assert four["epochs_per_s"] == pytest.approx(4 / four["epoch_s"])
    assert four["values"] == pytest.approx(one["values"], rel=1e-4)  # a lane is the trial alone
    assert "4 lanes" in four["note"]
    assert (Path(said["path"]) / "sizes" / "4-lanes" / "trials" / "0004" / "history.jsonl").is_file()


@pytest.mark.slow
@pytest.mark.ray
def test_a_study_on_a_cluster_that_is_too_small_for_one_size(here: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    try:
        found = nn.scale(nn.load("page.yaml"), workers=(1, 2, 3), address=cluster.address)
    finally:
        ray.shutdown()
        cluster.shutdown()
    one, two, three = found.sizes
    assert one.measured
    assert two.measured
    assert one.start_s > 1, "on a cluster one worker is one of its workers too"
    assert not two.oversubscribed
    assert "asks for 3 workers" in three.failed
    assert "holds 2" in three.failed
    table = found.table
    assert list(table["workers"]) == [1, 2, 3]
    assert table["spent.compute"][0] > 0


ODD = """
import torch

class Odd(torch.nn.Module):
    def __init__(self, shapes, *, least: int = 70):
        super().__init__()
        self.layer = torch.nn.Linear(shapes.features, shapes.outputs)

    def forward(self, x):
        if self.training:
            raise RuntimeError("odd")
        return self.layer(x)
"""


def test_a_fault_of_the_users_own_part_is_a_row(here: Path) -> None:
    (here / "odd_parts.py").write_text(ODD)
    experiment = reading.load("page.yaml", set={"model": {"type": "odd_parts:Odd"}})
    found = study.carry_out(experiment, Asked(workers=(1,)))
    assert found.status == "finished"
    assert "odd_parts.py:" in found.sizes[0].failed
    assert found.sentences[0] == "No size could be measured."
