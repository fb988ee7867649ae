"""A sweep of small networks: nnopt against Ray Tune and against Optuna in one process.

64 configurations of a digits MLP, 10 epochs each, on all cores of this machine, one thread a trial. Ray Tune runs
with its defaults (a function trainable) and with a class trainable whose actors are reused; Optuna runs a plain
loop. `nnopt, reproducible` is the same page with search.reproducible: results are taken in an order that no timing
changes. Both the whole command is timed, start-up included, and the search alone, in the process, after imports.

    python tests/benchmarks/bench_search.py            # all, interleaved, medians of 5
    python tests/benchmarks/bench_search.py --quick    # once each, without Tune's defaults, which take minutes
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from contest import NNOPT, PLAIN, QUICK, TUNE, command_s, counterpart, digits, machine, nnopt_told, table

TRIALS, EPOCHS = 64, 10

PAGE = f"""
name: bench
seed: 1
data:
  source: {{type: sklearn, name: digits}}
  steps: [{{type: scale, method: minmax}}]
model: {{type: mlp, widths: [64], dropout: 0.0}}
train:
  epochs: {EPOCHS}
  batch_size: 64
  optimizer: {{type: adam, lr: {{log: [1e-4, 1e-1]}}}}
search: {{method: random, trials: {TRIALS}}}
"""

FINISHED = f"""
def finished(results, began):  # a counterpart whose trials fail is no counterpart
    assert results.num_errors == 0 and len(results) == {TRIALS}, results.errors[:1]
    assert all(one.metrics["training_iteration"] == {EPOCHS} for one in results)
    told(began, results.get_best_result().metrics["val_loss"], {TRIALS * EPOCHS})
"""

DEFAULTS = f"""{TUNE}{FINISHED}
def train(config):
    torch.set_num_threads(1)
    x, y, xv, yv = data()
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
    for _ in range({EPOCHS}):
        tune.report(epoch(model, optimizer, x, y, xv, yv))

began = time.perf_counter()
tuner = tune.Tuner(train, param_space=SPACE,
    tune_config=tune.TuneConfig(metric="val_loss", mode="min", num_samples={TRIALS}),
    run_config=tune.RunConfig(verbose=0))
finished(tuner.fit(), began)
"""

REUSED = f"""{TUNE}{FINISHED}
began = time.perf_counter()
tuner = tune.Tuner(Train, param_space=SPACE,
    tune_config=tune.TuneConfig(metric="val_loss", mode="min", num_samples={TRIALS}, reuse_actors=True),
    run_config=tune.RunConfig(verbose=0, stop={{"training_iteration": {EPOCHS}}}))
finished(tuner.fit(), began)
"""

OPTUNA = f"""{PLAIN}
import optuna

def objective(trial):
    model = network()
    lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range({EPOCHS}):
        measured = epoch(model, optimizer, x, y, xv, yv)
        trial.report(measured["val_loss"], step)
    return measured["val_loss"]

torch.set_num_threads(1)
optuna.logging.set_verbosity(optuna.logging.WARNING)
began = time.perf_counter()
x, y, xv, yv = data()
study = optuna.create_study(sampler=optuna.samplers.RandomSampler())
study.optimize(objective, n_trials={TRIALS})
assert all(trial.state.name == "COMPLETE" and len(trial.intermediate_values) == {EPOCHS} for trial in study.trials)
assert len(study.trials) == {TRIALS}
told(began, study.best_value, {TRIALS * EPOCHS})
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {"page.yaml": PAGE, "defaults.py": DEFAULTS, "reused.py": REUSED, "plain.py": OPTUNA}
        for file, text in files.items():
            (folder / file).write_text(text)
        ours = [*NNOPT, "run", "page.yaml"]
        contestants = {
            "nnopt": ours,
            "nnopt, reproducible": [*ours, "--set", "search.reproducible=true"],
            "optuna, one process": counterpart("plain.py"),
            "tune, reused actors": counterpart("reused.py"),
        }
        command_s(ours, folder)  # fills the data cache, as any second run finds it
        digits(folder)
        whole: dict[str, list[float]] = {}
        alone: dict[str, list[float]] = {}
        for round_ in range(1 if QUICK else 5):
            if round_ == 1:  # the defaults take minutes: once
                contestants["tune, defaults"] = counterpart("defaults.py")
            elif round_ == 2:
                del contestants["tune, defaults"]
            for contestant, command in contestants.items():
                took, output = command_s(command, folder)
                is_ours = contestant.startswith("nnopt")
                told = nnopt_told(folder, TRIALS) if is_ours else json.loads(output.splitlines()[-1])
                assert told["epochs"] == TRIALS * EPOCHS, told
                whole.setdefault(contestant, []).append(took)
                alone.setdefault(contestant, []).append(told["search_s"])
                if contestant == "nnopt":
                    decided = told["decided"]
    print(f"digits MLP, {TRIALS} trials of {EPOCHS} epochs; {machine()}")
    table(alone, "nnopt", "the search alone, in the process, after imports")
    table(whole, "nnopt", "the whole command (nnopt also scores the test part and writes a report)")
    print(f"  nnopt: {decided['lanes']}; {decided['workers']}")


if __name__ == "__main__":
    main()
