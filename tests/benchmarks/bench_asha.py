"""ASHA over 256 configurations of a digits MLP, eta 3, at most 27 epochs: nnopt against Ray Tune with reused actors.

Ray Tune runs ASHAScheduler on a class trainable whose actors are reused, as its documentation has it. Both see the
same rows and the same space. Told are seconds, epochs trained, and the best loss over seeds.

    python tests/benchmarks/bench_asha.py            # 5 seeds, interleaved
    python tests/benchmarks/bench_asha.py --quick    # 1 seed
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from contest import NNOPT, QUICK, TUNE, command_s, counterpart, digits, machine, median, nnopt_told, table

TRIALS, EPOCHS, ETA = 256, 27, 3

PAGE = f"""
name: asha
data:
  source: {{type: sklearn, name: digits}}
  split: {{seed: 0}}
  steps: [{{type: scale, method: minmax}}]
model: {{type: mlp, widths: [64], dropout: 0.0}}
train:
  epochs: {EPOCHS}
  batch_size: 64
  optimizer: {{type: adam, lr: {{log: [1e-4, 1e-1]}}}}
search: {{method: random, trials: {TRIALS}, scheduler: {{type: asha, grace_period: 1, reduction_factor: {ETA}}}}}
"""

REUSED = f"""{TUNE}
import sys
from ray.tune.schedulers import ASHAScheduler
import random

seed = int(sys.argv[1])
random.seed(seed), np.random.seed(seed)
began = time.perf_counter()
tuner = tune.Tuner(Train, param_space=SPACE,
    tune_config=tune.TuneConfig(metric="val_loss", mode="min", num_samples={TRIALS}, reuse_actors=True,
        scheduler=ASHAScheduler(max_t={EPOCHS}, grace_period=1, reduction_factor={ETA})),
    run_config=tune.RunConfig(verbose=0, stop={{"training_iteration": {EPOCHS}}}))
results = tuner.fit()
assert results.num_errors == 0 and len(results) == {TRIALS}, results.errors[:1]
epochs = [one.metrics["training_iteration"] for one in results]
assert max(epochs) == {EPOCHS} and min(epochs) >= 1
# scope="all": the best epoch of a trial counts, as it does for nnopt.
best = results.get_best_result(scope="all").metrics_dataframe["val_loss"].min()
told(began, float(best), sum(epochs))
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "page.yaml").write_text(PAGE)
        (folder / "reused.py").write_text(REUSED)
        command_s([*NNOPT, "run", "page.yaml", "--set", "search.trials=2"], folder)
        digits(folder)
        whole: dict[str, list[float]] = {}
        alone: dict[str, list[float]] = {}
        best: dict[str, list[float]] = {}
        epochs: dict[str, list[float]] = {}
        for seed in range(1 if QUICK else 5):
            contestants = {
                "nnopt": [*NNOPT, "run", "page.yaml", "--set", f"seed={seed}"],
                "tune, reused actors": counterpart("reused.py", str(seed)),
            }
            for contestant, command in contestants.items():
                took, output = command_s(command, folder)
                is_ours = contestant == "nnopt"
                told = nnopt_told(folder, TRIALS) if is_ours else json.loads(output.splitlines()[-1])
                for kept, one in ((whole, took), (alone, told["search_s"])):
                    kept.setdefault(contestant, []).append(one)
                best.setdefault(contestant, []).append(told["loss"])
                epochs.setdefault(contestant, []).append(told["epochs"])
                if is_ours:
                    decided = told["decided"]
    print(f"ASHA, digits MLP, {TRIALS} trials, eta {ETA}, at most {EPOCHS} epochs; {machine()}")
    table(alone, "nnopt", "the search alone, in the process, after imports")
    table(whole, "nnopt", "the whole command")
    for contestant, losses in best.items():
        each = ", ".join(f"{loss:.4f}" for loss in losses)
        trained = median(epochs[contestant])
        print(f"    {contestant:<28} best val_loss {median(losses):.4f} ({each}), {trained:,.0f} epochs trained")
    print(f"  nnopt: {decided['lanes']}; {decided['workers']}")


if __name__ == "__main__":
    main()
