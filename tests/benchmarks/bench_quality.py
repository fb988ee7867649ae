"""How well mislabelled rows are found, and what dropping or relabelling them is worth.

First: labels flipped at random, of scikit-learn's digits and of images of Fashion-MNIST; precision and recall of
`label_errors` with each model and with the filters of cleanlab, and of cleanlab's own CleanLearning on the same rows.
Then: the test accuracy of an MLP on digits whose training labels were flipped, with nothing done, with `action: drop`
and with `action: relabel`; means over divisions, and the paired gain with its 95 % interval. Test labels stay as they
are.

    python tests/benchmarks/bench_quality.py            # 5,000 images, 10 divisions: about 25 minutes on one core
    python tests/benchmarks/bench_quality.py --quick    # 1,000 images, 3 divisions
    python tests/benchmarks/bench_quality.py --gain     # the second alone
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from cleanlab.classification import CleanLearning
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from nnopt_ray import assembly, reading
from nnopt_ray.data.idx import Idx
from nnopt_ray.data.label_errors import LabelErrors
from nnopt_ray.data.out_of_fold import Model, out_of_fold
from nnopt_ray.data.prepare import prepare
from nnopt_ray.data.quality import Examined
from nnopt_ray.data.table import Table
from nnopt_ray.data.target import Target
from nnopt_ray.evaluate.evaluate import predict
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import Machine, derived_seed
from nnopt_ray.train.loop import Trainer

QUICK = "--quick" in sys.argv
DIVISIONS = 3 if QUICK else 10
IMAGES = 1_000 if QUICK else 5_000
FASHION = Path("/usr/share/datasets/fashion-mnist")
MACHINE = Machine(device="cpu", precision="float32", threads=1, decided={})
MODELS: tuple[Model, ...] = ("linear", "boosted", "page")
FILTERS = ("low_self_confidence", "prune_by_noise_rate", "both", "confident_learning", "low_normalized_margin")


def flipped(labels: np.ndarray, rows: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which this share of the rows is another class, each as likely; bool, which."""
    random = np.random.default_rng(seed)
    classes = int(labels.max()) + 1
    wrong = np.zeros(len(labels), dtype=bool)
    wrong[random.choice(rows, round(share * len(rows)), replace=False)] = True
    return np.where(wrong, (labels + random.integers(1, classes, len(labels))) % classes, labels), wrong


def page(data: dict[str, Any], widths: list[int], seed: int = 0) -> Experiment:
    train = {
        "epochs": 30,
        "batch_size": 32,
        "optimizer": {"type": "adam", "lr": 3e-3},
        "early_stopping": {"patience": 5},
    }
    return reading.from_tree({"seed": seed, "data": data, "model": {"type": "mlp", "widths": widths}, "train": train})


# ── are they found? ──────────────────────────────────────────────────────────────────────────────────


def sets() -> dict[str, tuple[np.ndarray, np.ndarray, list[int]]]:
    """Images [rows, 1, height, width], labels, and the widths of the page's network."""
    digits = load_digits()
    found = {"digits, 1,797 images of 8x8": (digits.images[:, None], digits.target, [64])}
    if FASHION.is_dir():
        table = Idx(path=str(FASHION)).read(Path())
        assert table.images is not None
        labels = table.columns.column(0).to_numpy().astype(np.int64)[:IMAGES]
        found[f"Fashion-MNIST, the first {IMAGES:,} images"] = (np.asarray(table.images[:IMAGES]), labels, [128])
    return found


def examined(images: np.ndarray, labels: np.ndarray, widths: list[int]) -> Examined:
    given = page({"source": {"type": "sklearn", "name": "digits"}, "steps": ["scale"]}, widths)
    rows = np.arange(len(labels))
    return Examined(
        Table("images", pa.table({"target": labels}), images=images),
        (),
        Target("target", "classification", labels.astype(np.int64), tuple(map(str, range(10)))),
        {"train": rows, "validation": rows[:0], "test": rows[:0]},
        rows,
        steps=given.data.steps,
        judge=assembly.judge_of(given),
    )


def told(name: str, found: np.ndarray, wrong: np.ndarray, relabelled: np.ndarray, true: np.ndarray) -> str:
    hits = wrong[found]
    right = (relabelled == true[found])[hits].mean() if hits.any() else 0.0
    return (
        f"    {name:42s} {len(found):5,} found   precision {hits.mean() if len(found) else 0:.3f}   "
        f"recall {hits.sum() / max(wrong.sum(), 1):.3f}   relabelled rightly {right:.3f}"
    )


def find() -> None:
    for title, (images, true, widths) in sets().items():
        for share in (0.0, 0.05, 0.1):
            labels, wrong = flipped(true, np.arange(len(true)), share, 0)
            print(f"{title}, {share:.0%} of the labels flipped ({wrong.sum():,})")
            for model in MODELS:
                data = examined(images, labels, widths)
                began = time.perf_counter()
                said = out_of_fold(data, data.train, 5, model, derived_seed(0, "label_errors"))
                seconds = time.perf_counter() - began
                likeliest = said.probabilities.argmax(axis=1)
                print(f"  {model}: {seconds:.1f} s; right about {(likeliest == true).mean():.3f} of the true labels")
                for filter_by in FILTERS:
                    check = LabelErrors(model=model, filter_by=filter_by)  # type: ignore[arg-type]
                    found, sure = check.picked(labels, said)
                    print(told(filter_by, found, wrong, likeliest[found], true))
                    if filter_by == FILTERS[0]:
                        surest = found[sure >= 0.9]
                        print(told("  of these, those at least 0.9 sure", surest, wrong, likeliest[surest], true))
                own = CleanLearning().find_label_issues(labels=labels, pred_probs=said.probabilities)
                found = np.flatnonzero(own["is_label_issue"])
                print(told("cleanlab's CleanLearning, same probabilities", found, wrong, likeliest[found], true))
            x = StandardScaler().fit_transform(images.reshape(len(images), -1).astype(np.float64))
            own = CleanLearning(LogisticRegression(), seed=0).find_label_issues(x, labels)
            found = np.flatnonzero(own["is_label_issue"])
            likeliest = own["predicted_label"].to_numpy()[found]
            print(told("cleanlab alone, LogisticRegression()", found, wrong, likeliest, true), flush=True)


# ── is it worth it? ──────────────────────────────────────────────────────────────────────────────────


def scored(folder: Path, share: float, check: dict[str, Any] | None, seed: int) -> float:
    """Test accuracy of the page's network."""
    digits = load_digits()
    part = np.array(["train", "validation", "test"])[
        np.searchsorted([0.65, 0.8], np.random.default_rng(seed).random(1797))
    ]
    labels, _ = flipped(digits.target, np.flatnonzero(part == "train"), share, seed)
    file = folder / f"{share}-{seed}.csv"
    if not file.is_file():
        header = ",".join([f"p{place}" for place in range(64)] + ["part", "digit"])
        lines = [
            ",".join(map(str, [*row.astype(int), where, label]))
            for row, where, label in zip(digits.data, part, labels, strict=True)
        ]
        file.write_text("\n".join([header, *lines]), encoding="utf-8")
    data = {
        "source": {"type": "csv", "path": str(file)},
        "target": "digit",
        "task": "classification",
        "split": {"type": "given", "column": "part"},
        "steps": ["scale"],
        "quality": [check] if check is not None else [],
    }
    given = page(data, [64], seed)
    dataset = prepare(given, folder / "cache", assembly.judge_of(given))
    trainer = Trainer(given, dataset, MACHINE, {})
    while not trainer.done:
        trainer.run_epoch()
    trainer.finalize()
    said = predict(trainer.model, dataset.test, dataset, MACHINE).argmax(axis=1)
    return float((said == dataset.test.target).mean())


def gain() -> None:
    ways: dict[str, dict[str, Any] | None] = {"nothing": None}
    for model in MODELS:
        ways |= {
            f"{action}, {model}": {"type": "label_errors", "action": action, "model": model}
            for action in ("drop", "relabel")
        }
    with tempfile.TemporaryDirectory() as name:
        for share in (0.0, 0.05, 0.1):
            print(f"digits, {share:.0%} of the training labels flipped: test accuracy over {DIVISIONS} divisions")
            plain = np.zeros(DIVISIONS)
            for way, check in ways.items():
                found = np.array([scored(Path(name), share, check, seed) for seed in range(DIVISIONS)])
                plain = found if check is None else plain
                said = found - plain
                reach = stats.t.ppf(0.975, DIVISIONS - 1) * said.std(ddof=1) / np.sqrt(DIVISIONS)
                told_gain = f"   gain {said.mean():+.4f} ± {reach:.4f}" if check is not None else ""
                print(f"  {way:18s} {found.mean():.4f}{told_gain}", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    if "--gain" not in sys.argv:
        find()
    gain()


if __name__ == "__main__":
    main()
