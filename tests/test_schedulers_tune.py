"""The same histories in a real Tuner and in our study: every trial is trained equally long."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_example import Study, made_up

from nnopt_ray.search.halving import Asha
from nnopt_ray.search.hyperband import Hyperband
from nnopt_ray.search.median import Median
from nnopt_ray.search.schedulers import EPOCH, METRIC

EPOCHS = 9
LANES = 2


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    import ray

    patch = pytest.MonkeyPatch()
    patch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    patch.setenv("PYTHONPATH", str(Path(__file__).parent))
    ray.init(address="local", num_cpus=LANES, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield tmp_path_factory.mktemp("tune")
    ray.shutdown()
    patch.undo()


def tuned(storage: Path, scheduler: Any, trials: int, seed: int) -> tuple[dict[str, int], list[tuple[str, int, str]]]:
    """→ epochs that Tune trained each trial, and its scheduler's decisions (trial, epochs done, action) in order."""
    import logging

    from ray import tune
    from ray.tune.search import Searcher

    decided: list[tuple[str, int, str]] = []
    original = scheduler.on_trial_result

    def watched(controller: Any, trial: Any, result: dict[str, Any]) -> str:
        action: str = original(controller, trial, result)
        decided.append((trial.config["name"], result[EPOCH], action))
        return action

    scheduler.on_trial_result = watched

    class InOrder(Searcher):
        asked = 0

        def suggest(self, trial_id: str) -> Any:
            if self.asked == trials:
                return Searcher.FINISHED
            self.asked += 1
            return {"name": f"{self.asked:04d}", "seed": seed}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None: ...

        def on_pause(self, trial_id: str) -> None: ...

        def on_unpause(self, trial_id: str) -> None: ...

    class Replayed(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.reset_config(config)

        def reset_config(self, config: dict[str, Any]) -> bool:
            self.value = made_up(config["seed"])
            self.name = config["name"]
            return True

        def step(self) -> dict[str, float]:
            return {METRIC: self.value(self.name, self.training_iteration + 1)}

        def save_checkpoint(self, folder: str) -> None:
            Path(folder, "state.json").write_text(json.dumps({"name": self.name}))

        def load_checkpoint(self, folder: str) -> None:
            assert json.loads(Path(folder, "state.json").read_text()) == {"name": self.name}

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    results = tune.Tuner(
        Replayed,
        tune_config=tune.TuneConfig(
            scheduler=scheduler, search_alg=InOrder(), num_samples=trials, max_concurrent_trials=None, reuse_actors=True
        ),
        run_config=tune.RunConfig(storage_path=str(storage), verbose=0, stop={EPOCH: EPOCHS}),
    ).fit()
    assert not results.errors
    return {result.config["name"]: result.metrics[EPOCH] for result in results}, decided


@pytest.mark.ray
@pytest.mark.slow
def test_hyperband_cuts_what_a_real_tuner_cuts(cluster: Path) -> None:
    from ray.tune.schedulers.hb_bohb import HyperBandForBOHB

    scheduler = HyperBandForBOHB(time_attr=EPOCH, metric=METRIC, mode="min", max_t=EPOCHS, reduction_factor=3)
    theirs, _ = tuned(cluster, scheduler, 12, seed=7)
    ours = Study(Hyperband().start("min", EPOCHS, 0), 12, EPOCHS, made_up(7), lanes=3).play()
    assert ours.done == theirs
    assert sorted(theirs.values()) != [EPOCHS] * 12


@pytest.mark.ray
@pytest.mark.parametrize(
    "name", [pytest.param("asha", marks=pytest.mark.slow), pytest.param("median", marks=pytest.mark.slow)]
)
def test_decisions_are_those_of_a_real_tuner(cluster: Path, name: str) -> None:
    """Its results in the order they came in there; the order is what these two depend on."""
    from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule

    keys: dict[str, Any] = {"time_attr": EPOCH, "metric": METRIC, "mode": "min"}
    theirs = {
        "asha": lambda: ASHAScheduler(**keys, max_t=EPOCHS, grace_period=1, reduction_factor=3),
        "median": lambda: MedianStoppingRule(**keys, grace_period=2, min_samples_required=2, min_time_slice=math.inf),
    }[name]()
    ours = {"asha": Asha(), "median": Median(grace_period=2, min_samples_required=2)}[name].start("min", EPOCHS, 0)
    trained, decided = tuned(cluster, theirs, 12, seed=3)
    value = made_up(3)
    known = set()
    for trial, done, action in decided:
        if trial not in known:
            known.add(trial)
            ours.asked(trial)
        verdict = "go"
        if ours.next_decision(trial, done - 1) == done:
            verdict = ours.judge(trial, done, value(trial, done), {}).kind
        assert verdict == {"CONTINUE": "go", "STOP": "stop"}[action], (trial, done)
        if verdict == "stop" or done == EPOCHS - 1:
            ours.ended(trial, trained[trial], value(trial, trained[trial]))
    assert {action for _, _, action in decided} == {"CONTINUE", "STOP"}
