"""Our judges decide as Ray Tune's own schedulers do, and as the papers say, though they are asked less often."""

from __future__ import annotations

import math
import random
import types
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_example import Study, Value, made_up

from nnopt_ray.experiment import Range
from nnopt_ray.search.halving import Asha, _Recorded
from nnopt_ray.search.hyperband import Hyperband
from nnopt_ray.search.median import Median
from nnopt_ray.search.population import PopulationBasedTraining, changeable, explore, opened
from nnopt_ray.search.schedulers import EPOCH, METRIC, TrialCard

# --- asha ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    ("grace", "factor", "epochs"), [(1, 3, 27), (4, 3, 30), (2, 2, 16), (3, 2.5, 20), (1, 1.5, 12), (5, 4, 5)]
)
def test_asha_decides_as_tune_when_it_sees_every_epoch(seed: int, grace: int, factor: float, epochs: int) -> None:
    from ray.tune.schedulers import ASHAScheduler

    mode = "min" if seed % 2 else "max"
    tune = ASHAScheduler(
        time_attr=EPOCH, metric=METRIC, mode=mode, max_t=epochs, grace_period=grace, reduction_factor=factor
    )
    judge = Asha(grace_period=grace, reduction_factor=factor).start(mode, epochs, 0)
    stopped = beside_tune(judge, tune, epochs, seed)
    assert stopped > 0 or grace == epochs


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("grace", "required", "epochs"), [(1, 3, 10), (3, 1, 12), (2, 5, 30), (6, 2, 6)])
def test_median_decides_as_tune(seed: int, grace: int, required: int, epochs: int) -> None:
    from ray.tune.schedulers import MedianStoppingRule

    mode = "min" if seed % 2 else "max"
    tune = MedianStoppingRule(
        time_attr=EPOCH, metric=METRIC, mode=mode, grace_period=grace, min_samples_required=required
    )
    judge = Median(grace_period=grace, min_samples_required=required).start(mode, epochs, 0)
    stopped = beside_tune(judge, tune, epochs, seed)
    assert stopped > 0 or grace == epochs


def beside_tune(judge: Any, tune: Any, epochs: int, seed: int) -> int:
    """Both see one history, Tune as its controller shows it: results of every epoch, the last one of a stopped
    trial twice, of a finished one only at the end. They must agree at each epoch. → how many were stopped."""
    from ray.tune.schedulers import TrialScheduler

    draw = np.random.default_rng(seed)
    controller = types.SimpleNamespace(get_live_trials=list)
    alive: dict[str, tuple[TrialCard, int]] = {}
    waiting = [f"t{i}" for i in range(60)]
    stopped = 0
    while waiting or alive:
        while waiting and len(alive) < 6:
            name = waiting.pop(0)
            alive[name] = (TrialCard(name), 0)
            judge.asked(name)
            tune.on_trial_add(controller, alive[name][0])
        name = str(draw.choice(sorted(alive)))
        card, done = alive[name]
        done += 1
        alive[name] = (card, done)
        value = float(np.round(draw.normal(), 1))  # rounded, so that ties come up
        result = {EPOCH: done, METRIC: value}
        chance = draw.random()
        if chance < 0.02:
            tune.on_trial_error(controller, card)
            judge.ended(name, done, None)
            del alive[name]
        elif done == epochs or chance < 0.04:
            tune.on_trial_complete(controller, card, result)
            judge.ended(name, done, value)
            del alive[name]
        else:
            theirs = tune.on_trial_result(controller, card, result) == TrialScheduler.STOP
            ours = judge.next_decision(name, done - 1) == done and judge.judge(name, done, value, {}).kind == "stop"
            assert ours == theirs, (name, done)
            if ours:
                tune.on_trial_complete(controller, card, result)
                judge.ended(name, done, value)
                stopped += 1
                del alive[name]
    return stopped


@given(values=st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=40), factor=st.floats(1.01, 100))
def test_the_percentile_of_a_rung_is_numpys_to_the_last_bit(values: list[float], factor: float) -> None:
    recorded, q = _Recorded(), (1 - 1 / factor) * 100
    for index, value in enumerate(values):
        recorded[str(index)] = value
    assert recorded.percentile(q) == np.nanpercentile(values, q)
    assert _Recorded().percentile(q) is None


class Paper:
    """get_job() of Algorithm 2 in Li et al. 2020, line by line; a rung is trial -> loss in order of arrival."""

    def __init__(self, rungs: int, eta: float) -> None:
        self.rungs: list[dict[str, float]] = [{} for _ in range(rungs)]
        self.promoted: list[set[str]] = [set() for _ in range(rungs)]
        self.eta = eta

    def get_job(self) -> tuple[str, int] | None:
        for k in reversed(range(len(self.rungs))):
            candidates = sorted(self.rungs[k], key=lambda t: self.rungs[k][t])[: int(len(self.rungs[k]) / self.eta)]
            promotable = [trial for trial in candidates if trial not in self.promoted[k]]
            if promotable:
                self.promoted[k].add(promotable[0])
                return promotable[0], k + 1
        return None


@settings(deadline=None)
@given(
    seed=st.integers(0, 10**6),
    lanes=st.integers(1, 6),
    grace=st.integers(1, 3),
    factor=st.sampled_from([2.0, 3.0, 4.0]),
)
def test_promoting_asha_is_algorithm_2(seed: int, lanes: int, grace: int, factor: float) -> None:
    """Each time a worker reports, both say which job it takes next; the same trial to the same rung."""
    epochs = 30
    scheduler = Asha(grace_period=grace, reduction_factor=factor, form="promote")
    judge, rungs = scheduler.start("min", epochs, 0), scheduler.rungs(epochs)
    paper = Paper(len(rungs), factor)
    draw = np.random.default_rng(seed)
    running: dict[str, int] = {}  # trial -> the rung it trains for
    begun, promotions = 0, 0
    for _ in range(150):
        while len(running) < lanes:
            job = paper.get_job()
            assert judge.promote() == (job[0] if job else None)
            begun += job is None
            name, rung = job or (f"{begun:04d}", 0)
            running[name] = rung
            promotions += job is not None
        # Several may report before anyone fetches a job; then more than one rung has somebody to promote.
        for name in draw.choice(sorted(running), size=int(draw.integers(1, lanes + 1)), replace=False).tolist():
            rung, loss = running.pop(name), float(np.round(draw.normal(), 1))
            if rung == len(rungs):
                judge.ended(name, epochs, loss)
                continue
            paper.rungs[rung][name] = loss
            if judge.judge(name, rungs[rung], loss, {}).kind == "go":
                assert paper.get_job() == (name, rung + 1)
                running[name] = rung + 1
                promotions += 1
            else:
                assert judge.next_decision(name, rungs[rung]) == ([*rungs, None][rung + 1])
    assert promotions > 0


@given(seed=st.integers(0, 10**6), trials=st.integers(1, 60), lanes=st.integers(1, 8))
@settings(deadline=None)
def test_promoting_asha_rounds_up_at_the_end_and_promotes_nobody_twice(seed: int, trials: int, lanes: int) -> None:
    scheduler = Asha(form="promote", reduction_factor=3)
    played = Study(
        scheduler.start("min", 27, 0), trials, 27, made_up(seed), lanes=lanes, order=np.random.default_rng(seed)
    ).play()
    came = list(played.decisions)
    for rung, following in [(1, 3), (3, 9), (9, 27)]:
        ranked = sorted(came, key=lambda trial: played.decisions[trial][rung])
        further = [trial for trial in came if played.done[trial] >= following]
        best = ranked[: math.ceil(len(came) / 3)]
        worst = played.decisions[best[-1]][rung]
        assert {t for t in came if played.decisions[t][rung] < worst} <= set(further)
        assert {done for trial, done in played.done.items() if trial in came} <= {rung, *range(following, 28)}
        came = further
    assert came  # one at least trained to its end
    moved = [(trial, done) for trial, done, verdict in played.verdicts]
    assert len(moved) == len(set(moved))


# --- hyperband ----------------------------------------------------------------------------------


class Controller:
    """Ray Tune's controller around its HyperBandForBOHB: one trial pending ahead of those that run."""

    def __init__(self, tune: Any, trials: int, value: Value, epochs: int, lanes: int) -> None:
        self.tune, self.trials, self.value, self.epochs, self.lanes = tune, trials, value, epochs, lanes
        self.cards: list[TrialCard] = []
        self.done: dict[str, int] = {}
        nothing = types.SimpleNamespace(on_pause=lambda _: None, on_unpause=lambda _: None)
        self.search_alg = types.SimpleNamespace(searcher=nothing)

    def get_trials(self) -> list[TrialCard]:
        return self.cards

    def stop_trial(self, card: TrialCard) -> None:
        running, card.status = card.status == "RUNNING", "TERMINATED"
        if running:
            self.tune.on_trial_complete(self, card, {})
        else:
            self.tune.on_trial_remove(self, card)

    def run(self, order: np.random.Generator) -> dict[str, int]:
        while True:
            if len(self.cards) < self.trials and not any(card.status == "PENDING" for card in self.cards):
                card = TrialCard(f"{len(self.cards) + 1:04d}", "PENDING")
                self.cards.append(card)
                self.done[card.trial_id] = 0
                self.tune.on_trial_add(self, card)
            running = [card for card in self.cards if card.status == "RUNNING"]
            if len(running) < self.lanes and (chosen := self.tune.choose_trial_to_run(self)):
                chosen.status = "RUNNING"
                continue
            if not running:
                assert all(card.status == "TERMINATED" for card in self.cards)
                return self.done
            card = running[int(order.integers(len(running)))]
            done = self.done[card.trial_id] = self.done[card.trial_id] + 1
            action = self.tune.on_trial_result(self, card, {EPOCH: done, METRIC: self.value(card.trial_id, done)})
            if action == "STOP":
                self.stop_trial(card)
            elif action == "PAUSE":
                card.status = "PAUSED"


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    trials=st.integers(1, 70),
    epochs=st.integers(1, 30),
    factor=st.sampled_from([2, 2.5, 3, 4]),
    lanes=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_hyperband_trains_each_trial_as_long_as_tune(
    seed: int, trials: int, epochs: int, factor: float, lanes: tuple[int, int]
) -> None:
    """The cuts do not depend on the order of the results, so ours may come in another order, on other lanes."""
    from ray.tune.schedulers.hb_bohb import HyperBandForBOHB

    mode, value = ("min", "max")[seed % 2], made_up(seed)
    tune = HyperBandForBOHB(time_attr=EPOCH, metric=METRIC, mode=mode, max_t=epochs, reduction_factor=factor)
    theirs = Controller(tune, trials, value, epochs, lanes[0]).run(np.random.default_rng(seed))
    scheduler = Hyperband(reduction_factor=factor)
    judge = scheduler.start(mode, epochs, 0)
    ours = Study(judge, trials, epochs, value, lanes=lanes[1], order=np.random.default_rng(seed + 1)).play()
    assert ours.done == theirs
    assert scheduler.budget(trials, epochs) == (ours.epochs, ours.epochs)


def test_hyperband_has_the_brackets_of_the_paper_and_cuts_them() -> None:
    """Table 1 of Li et al. 2018: R = 81, eta = 3."""
    scheduler = Hyperband(reduction_factor=3)
    assert scheduler.brackets(81) == [
        (81, [1, 3, 9, 27, 81]),
        (34, [3, 9, 27, 81]),
        (15, [9, 27, 81]),
        (8, [27, 81]),
        (5, [81]),
    ]
    played = Study(scheduler.start("min", 27, 0), 49, 27, made_up(3), lanes=4).play()
    done = [played.done[trial] for trial in sorted(played.done)]
    assert sorted(done[:27]) == [1] * 18 + [3] * 6 + [9] * 2 + [27]
    assert sorted(done[27:39]) == [3] * 8 + [9] * 2 + [27] * 2
    assert sorted(done[39:45]) == [9] * 4 + [27] * 2
    assert done[45:] == [27] * 4


def test_hyperband_goes_on_when_the_last_running_trial_of_a_bracket_fails() -> None:
    """After a halving too, where Tune's controller would leave the others waiting."""
    judge = Hyperband(reduction_factor=3).start("min", 9, 0)
    names = [f"{i:04d}" for i in range(9)]
    for name in [*names, "next"]:
        judge.asked(name)
    for index, name in enumerate(names):
        assert judge.judge(name, 1, index, {}).kind == ("stop" if index == 8 else "pause")
    assert sorted(judge.dropped()) == ["0003", "0004", "0005", "0006", "0007"]
    assert [judge.promote() for _ in range(4)] == ["0000", "0001", "0002", None]
    assert judge.judge("0000", 3, 0.0, {}).kind == "pause"
    assert judge.judge("0001", 3, 1.0, {}).kind == "pause"
    judge.ended("0002", 2, None)
    assert judge.promote() == "0000"
    assert judge.dropped() == ["0001"]


def test_an_extended_hyperband_begins_another_bracket() -> None:
    judge = Hyperband(reduction_factor=3).start("min", 9, 0)
    study = Study(judge, 5, 9, made_up(0), lanes=2)
    assert sorted(study.play().done.values()) == [1, 1, 3, 3, 9]
    judge.asked("0006")
    assert judge.next_decision("0006", 0) == 3


# --- pbt ----------------------------------------------------------------------------------------

RANGES = [
    (Range("uniform", (0.1, 0.5)), 0.3),
    (Range("log", (1e-4, 1e-1)), 0.01),
    (Range("int", (2, 40)), 17),
    (Range("choice", (0.1, 0.2, 0.4)), 0.2),
    (Range("step", (0.0, 1.0, 0.25)), 1.0),
]


@pytest.mark.parametrize(("range_", "old"), RANGES, ids=[range_.kind for range_, _ in RANGES])
def test_pbt_changes_a_value_as_tune(range_: Range, old: Any) -> None:
    """With the same dice; Tune knows no ends, so ours are clamped where its value leaves the range."""
    from ray.tune.schedulers.pbt import _explore

    lists = {"choice": [0.1, 0.2, 0.4], "step": [0.0, 0.25, 0.5, 0.75, 1.0]}
    low, high = range_.values[0], range_.values[-1]
    draws = {
        "uniform": lambda: random.uniform(low, high),
        "log": lambda: math.exp(random.uniform(math.log(low), math.log(high))),
        "int": lambda: random.randint(low, high),
    }
    seen = set()
    for seed in range(200):
        random.seed(seed)
        theirs, _ = _explore({"a": old}, {"a": lists.get(range_.kind) or draws[range_.kind]}, 0.3, (0.8, 1.2), None)
        ours = explore(range_, old, 0.3, (0.8, 1.2), random.Random(seed))
        ends = (0.0, 1.0) if range_.kind == "step" else (low, high)
        assert ours == min(max(theirs["a"], ends[0]), ends[1])
        assert type(ours) is type(old)
        seen.add(ours)
    assert len(seen) > 2


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    trials=st.integers(2, 20),
    lanes=st.integers(1, 8),
    fraction=st.sampled_from([0.1, 0.25, 0.5]),
    fails=st.sampled_from([0.0, 0.05]),
)
def test_pbt_exploits_the_quantiles_of_tune(seed: int, trials: int, lanes: int, fraction: float, fails: float) -> None:
    """The asynchronous form: at each decision Tune's `_quantiles`, over the scores so far of all that live."""
    from ray.tune.schedulers import PopulationBasedTraining as Theirs

    tune = Theirs(
        time_attr=EPOCH, metric=METRIC, mode="min", perturbation_interval=2, quantile_fraction=fraction,
        hyperparam_mutations={"lr": [1]},
    )  # fmt: skip
    keys = PopulationBasedTraining(perturbation_interval=2, quantile_fraction=fraction)
    space = (("train.optimizer.lr", Range("log", (1e-4, 1e-1))),)
    played = Study(
        keys.start("min", 10, seed, space), trials, 10, made_up(seed), lanes=lanes, fails=fails,
        order=np.random.default_rng(seed), params=lambda trial: {"train.optimizer.lr": 0.01},
    ).play()  # fmt: skip
    cards: dict[str, Any] = {}
    copies = 0
    for method, arguments, answer in played.calls:
        if method == "asked":
            cards[arguments[0]] = Hashed(arguments[0])
            tune._trial_state[cards[arguments[0]]] = types.SimpleNamespace(last_score=None)
        elif method == "ended":
            cards[arguments[0]].over = True
        elif method == "judge":
            trial, _, value, _ = arguments
            tune._trial_state[cards[trial]].last_score = -value
            lower, upper = tune._quantiles()
            assert (answer.kind == "copy") == (cards[trial] in lower)
            if answer.kind == "copy":
                assert cards[answer.donor] in upper
                assert 1e-4 <= answer.params["train.optimizer.lr"] <= 1e-1
                copies += 1
    assert copies > 0 or trials < 4 or fails > 0
    if not fails:
        assert played.epochs == trials * 10


class Hashed(TrialCard):
    over = False

    def is_finished(self) -> bool:
        return self.over


def test_pbt_trials_take_turns() -> None:
    """Without a copy nobody goes on past one that waits with fewer epochs, and the least trained is promoted."""
    keys = PopulationBasedTraining(perturbation_interval=2)
    study = Study(keys.start("min", 12, 0), 12, 12, made_up(5), lanes=3, order=np.random.default_rng(1))
    waiting: dict[str, int] = {}
    checked = 0
    begun = 0
    for method, arguments, answer in study.play().calls:
        begun += method == "asked"
        if method == "judge":
            name, done = arguments[:2]
            if answer.kind == "pause":
                waiting[name] = done
            elif answer.kind == "go":
                assert not any(epochs < done for epochs in waiting.values())
                checked += 1
        elif method == "promote":
            assert begun == 12
            assert waiting.pop(answer) <= min(waiting.values(), default=12)
            checked += 1
    assert checked > 20


def test_pbt_hands_over_the_values_that_a_score_was_measured_with() -> None:
    """With a factor of 1 nothing changes on the way: what is copied is what the donor had at that decision."""
    space = (("train.optimizer.lr", Range("log", (1e-4, 1.0))),)
    keys = PopulationBasedTraining(
        perturbation_interval=1, quantile_fraction=0.5, factors=(1.0,), resample_probability=0
    )
    study = Study(
        keys.start("min", 9, 0, space), 6, 9, made_up(4), lanes=2, order=np.random.default_rng(3),
        params=lambda trial: {"train.optimizer.lr": int(trial) / 10},
    )  # fmt: skip
    had: dict[tuple[str, int], Any] = {}
    again = 0
    for method, arguments, answer in study.play().calls:
        if method == "judge":
            trial, done, _, params = arguments
            had[trial, done] = params["train.optimizer.lr"]
            if answer.kind == "copy":
                assert answer.params["train.optimizer.lr"] == had[answer.donor, answer.donor_epochs]
                again += 1
    assert again > 5


def test_pbt_changes_only_what_alters_no_shape() -> None:
    sgd = {"type": "sgd", "lr": Range("log", (1e-3, 1.0)), "momentum": Range("uniform", (0.5, 0.99))}
    adam = {"type": "adam", "lr": Range("log", (1e-5, 1e-2))}
    optimizer = Range("choice", (adam, sgd))
    space = (
        ("seed", Range("int", (0, 9))),
        ("model.width", Range("choice", (8, 16))),
        ("train.batch_size", Range("choice", (16, 32))),
        ("train.optimizer", optimizer),
        ("train.optimizer.lr", adam["lr"]),
        ("train.optimizer.lr", sgd["lr"]),
        ("train.optimizer.momentum", sgd["momentum"]),
        ("train.l1", Range("uniform", (0.0, 0.1))),
    )
    assert [path for path, range_ in space if changeable(path, range_)] == [
        "train.optimizer.lr", "train.optimizer.lr", "train.optimizer.momentum", "train.l1",
    ]  # fmt: skip
    assert changeable("data.augment.0.degrees", Range("uniform", (0.0, 30.0)))
    assert not changeable("data.augment.0", Range("choice", ({"type": "flip"}, {"type": "noise"})))
    assert not changeable("data.steps.0.fill_value", Range("uniform", (0.0, 1.0)))
    assert not changeable("model.dropout", Range("choice", (0.0, 0.5)))
    assert not changeable("train.optimizer.nesterov", Range("choice", (True, False)))
    assert [range_ for path, range_ in opened(space, {"train.optimizer": "sgd"}) if path.endswith("lr")] == [sgd["lr"]]

    draw = np.random.default_rng(0)

    def point(trial: str) -> dict[str, Any]:
        kind = str(draw.choice(["adam", "sgd"]))
        lr = {"adam": 1e-3, "sgd": 0.1}[kind]
        momentum = {"train.optimizer.momentum": 0.9} if kind == "sgd" else {}
        return {"seed": int(trial), "model.width": int(draw.choice([8, 16])), "train.batch_size": 16,
                "train.optimizer": kind, "train.optimizer.lr": lr, **momentum, "train.l1": 0.05}  # fmt: skip

    keys = PopulationBasedTraining(perturbation_interval=1)
    study = Study(keys.start("min", 12, 0, space), 40, 12, made_up(2), lanes=5, params=point)
    played = study.play()
    copies = [(trial, verdict) for trial, _, verdict in played.verdicts if verdict.kind == "copy"]
    assert len(copies) > 20
    assert played.calls
    first = {trial: arguments[3] for method, arguments, _ in reversed(played.calls) if method == "judge"
             for trial in [arguments[0]]}  # fmt: skip
    for trial, verdict in copies:
        for path in ("seed", "model.width", "train.batch_size", "train.optimizer"):
            assert verdict.params[path] == first[trial][path]
        assert set(verdict.params) == set(first[trial])
        ends = {"adam": (1e-5, 1e-2), "sgd": (1e-3, 1.0)}[str(verdict.params["train.optimizer"])]
        assert ends[0] <= verdict.params["train.optimizer.lr"] <= ends[1]
    assert len({verdict.params["train.optimizer.lr"] for _, verdict in copies}) > 5


def test_keys_that_do_not_fit_the_page_are_told() -> None:
    lr = (("train.optimizer.lr", Range("log", (1e-4, 1e-1))),)
    width = (("model.width", Range("choice", (8, 16))),)
    assert not list(PopulationBasedTraining().unfit(10, lr))
    assert [key for key, _ in PopulationBasedTraining(perturbation_interval=10).unfit(10, lr)] == [
        "perturbation_interval"
    ]
    assert [key for key, _ in PopulationBasedTraining().unfit(10, width)] == ["type"]
    assert [key for key, _ in Hyperband(reduction_factor=10).unfit(2, ())] == ["reduction_factor"]
    assert not list(Hyperband().unfit(9, ()))
