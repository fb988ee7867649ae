"""What balancing is worth: a small MLP on two sets with few rows of one class, without it, with each balancer, and with
class weights instead. Told are means over divisions of the rows, and the paired difference from doing nothing with its
standard error; the test part keeps its shares.

    python tests/benchmarks/bench_balance.py            # 12 divisions
    python tests/benchmarks/bench_balance.py --quick    # 3
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss

from nnopt_ray import reading
from nnopt_ray.data.prepare import prepare
from nnopt_ray.evaluate.evaluate import predict
from nnopt_ray.machine import Machine
from nnopt_ray.train.loop import Trainer

DIVISIONS = 3 if "--quick" in sys.argv else 12
MACHINE = Machine(device="cpu", precision="float32", threads=1, decided={})
WEIGHTED = {"type": "cross_entropy", "class_weights": "balanced"}
WAYS: dict[str, dict[str, Any]] = {
    "nothing": {},
    **{name: {"data.balance": name} for name in ("smote", "adasyn", "over", "under", "tomek")},
    "class weights": {"train.loss": WEIGHTED},
}
TOLD = ("balanced accuracy", "recall of the rare", "F1 (macro)", "log loss")


def sets() -> dict[str, pd.DataFrame]:
    """40 malignant of 397 tumours; 60 eights of 1,683 digits."""
    cancer = load_breast_cancer(as_frame=True).frame
    digits = load_digits(as_frame=True).frame
    digits["target"] = np.where(digits["target"] == 8, 0, 1)
    return {"breast cancer": _thinned(cancer, 40), "eight among digits": _thinned(digits, 60)}


def _thinned(table: pd.DataFrame, rare: int) -> pd.DataFrame:
    kept = pd.concat([table[table["target"] == 1], table[table["target"] == 0].sample(rare, random_state=0)])
    return kept.sample(frac=1, random_state=1)


def measured(file: Path, way: dict[str, Any], seed: int) -> tuple[float, ...]:
    data = {
        "source": {"type": "csv", "path": str(file)},
        "split": {"type": "random", "validation": 0.2, "test": 0.4},
        "steps": ["scale"],
        "balance": way.get("data.balance"),
    }
    train = {"epochs": 20, "batch_size": 32, "optimizer": {"type": "adam", "lr": 3e-3}}
    train |= {"loss": way["train.loss"]} if "train.loss" in way else {}
    page = reading.from_tree({"seed": seed, "data": data, "model": {"type": "mlp", "widths": [32]}, "train": train})
    dataset = prepare(page, file.parent / "cache")
    trainer = Trainer(page, dataset, MACHINE, {})
    while not trainer.done:
        trainer.run_epoch()
    logits = torch.from_numpy(predict(trainer.model, dataset.test, dataset, MACHINE))
    shares, true = torch.softmax(logits, 1).double().numpy(), np.array(dataset.test.target)
    said = shares.argmax(axis=1)
    recall = float((said[true == 0] == 0).mean())
    scores = balanced_accuracy_score(true, said), recall, f1_score(true, said, average="macro")
    return (*scores, log_loss(true, shares / shares.sum(axis=1, keepdims=True)))


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        for title, table in sets().items():
            file = Path(name) / f"{title.replace(' ', '_')}.csv"
            table.to_csv(file, index=False)
            print(f"{title}, {DIVISIONS} divisions: {', '.join(TOLD)}")
            plain: np.ndarray | None = None
            for way, keys in WAYS.items():
                found = np.array([measured(file, keys, seed) for seed in range(DIVISIONS)])
                plain = found if plain is None else plain
                gain = found - plain
                error = gain.std(axis=0, ddof=1) / np.sqrt(DIVISIONS)
                cells = [
                    f"{m:.3f} ({g:+.3f} ± {e:.3f})"
                    for m, g, e in zip(found.mean(axis=0), gain.mean(axis=0), error, strict=True)
                ]
                print(f"  {way:14s} {'   '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
