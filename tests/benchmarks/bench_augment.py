"""What augmentation is worth, and what it costs.

Gains: small networks on few images, on more images, on few texts (docstrings of installed packages) and on few
sequences (cylinder, bell and funnel, Saito 1994, made by their formula), without augmentation and with each. Told are
mean test accuracies over divisions of the rows, and the paired difference from doing nothing with its standard error.

Costs: rows that a batch of 64 changes a second; and 8 trainings of an MLP on digits with a strength of noise each, as
lanes of one step against one by one, with and without augmentation, alternating and with medians.

    python tests/benchmarks/bench_augment.py            # 8 divisions
    python tests/benchmarks/bench_augment.py --quick    # 2
    python tests/benchmarks/bench_augment.py --costs    # no gains
"""

from __future__ import annotations

import csv
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnopt_ray import reading
from nnopt_ray.data.prepare import prepare
from nnopt_ray.data.types import Dataset
from nnopt_ray.evaluate.evaluate import predict
from nnopt_ray.machine import Machine
from nnopt_ray.train.lanes import Pack, Shape
from nnopt_ray.train.loop import Trainer

DIVISIONS = 2 if "--quick" in sys.argv else 8
MACHINE = Machine(device="cpu", precision="float32", threads=1, decided={})
ROOT = Path(__file__).parents[2]
THESAURUS = Path("/usr/share/mythes/th_en_US_v2.dat")  # Debian's mythes-en-us
TEXTS = 60  # of each of 10 packages

Tree = dict[str, Any]


def images(folder: Path, test: float) -> Tree:
    return {
        "data": {
            "source": {"type": "sklearn", "name": "digits"},
            "split": {"type": "random", "validation": 0.1, "test": test},
            "steps": [{"type": "scale", "method": "minmax"}],
        },
        "model": {"type": "resnet", "depth": 8, "width": 8},
        "train": {"epochs": 60 if test > 0.5 else 20, "batch_size": 32, "optimizer": {"type": "adamw", "lr": 5e-3},
                  "schedule": "one_cycle"},
    }  # fmt: skip


def texts(folder: Path) -> Tree:
    place = folder / "docstrings.csv"
    if not place.is_file():
        spec = importlib.util.spec_from_file_location("make_docstrings", ROOT / "jobs" / "make_docstrings.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.EACH = TEXTS
        module.main(place)
        with place.open(encoding="utf-8", newline="") as file:
            assert sum(1 for _ in csv.reader(file)) == 10 * TEXTS + 1
    return {
        "data": {
            "source": {"type": "csv", "path": str(place)},
            "target": "package",
            "split": {"type": "random", "validation": 0.1, "test": 0.3, "stratify": True},
            "steps": [{"type": "tokenize", "vocabulary_size": 3000, "length": 48}],
        },
        "model": {"type": "bert", "depth": 1, "width": 64, "heads": 2, "dropout": 0.2},
        "train": {"epochs": 25, "batch_size": 32, "optimizer": {"type": "adamw", "lr": 2e-3}, "schedule": "one_cycle"},
    }


def sequences(folder: Path) -> Tree:
    """Saito's: a step from a to b that is flat, rises or falls, of a height around 6, in noise of deviation 1."""
    if not (folder / "x.npy").is_file():
        draw = np.random.default_rng(0)
        kind = np.arange(900) % 3
        a, b = draw.integers(16, 33, 900), draw.integers(32, 97, 900)
        step = np.arange(128)[None, :]
        inside = (step >= a[:, None]) & (step <= (a + b)[:, None])
        share = (step - a[:, None]) / b[:, None]
        form = np.choose(kind[:, None], [np.ones_like(share), share, 1 - share])
        x = (6 + draw.normal(size=(900, 1))) * form * inside + draw.normal(size=(900, 128))
        np.save(folder / "x.npy", x[:, :, None].astype(np.float32))
        np.save(folder / "y.npy", kind)
    return {
        "data": {
            "source": {"type": "numpy", "x": str(folder / "x.npy"), "y": str(folder / "y.npy"), "kind": "sequence"},
            "split": {"type": "random", "validation": 0.05, "test": 0.9},
            "steps": ["scale"],
        },
        "model": {"type": "rnn", "cell": "gru", "width": 16, "pooling": "mean"},
        "train": {"epochs": 60, "batch_size": 16, "optimizer": {"type": "adam", "lr": 1e-2}, "schedule": "cosine"},
    }


SETS: dict[str, tuple[Callable[[Path], Tree], dict[str, Tree]]] = {
    "270 digits, small ResNet": (
        lambda folder: images(folder, 0.75),
        {
            "random_crop": {"padding": 1},
            "affine": {"translate": 0.1, "scale": 0.1, "shear": 5.0},
            "rand_augment": {"operations": 1, "magnitude": 3.0},
            "noise": {"std": 0.1},
        },
    ),
    "1,258 digits, small ResNet": (
        lambda folder: images(folder, 0.2),
        {"affine": {"translate": 0.1, "scale": 0.1, "shear": 5.0}},
    ),
    "360 docstrings, small BERT": (
        texts,
        {
            "word_swap": {"share": 0.1},
            "word_delete": {"share": 0.2},
            "mask_words": {"share": 0.2},
            "synonyms": {"share": 0.3, "thesaurus": str(THESAURUS)},
        },
    ),
    "45 sequences, small GRU": (
        sequences,
        {"noise": {"std": 0.3}, "scaling": {"std": 0.2}, "time_shift": {"share": 0.1}, "time_warp": {"std": 0.3}},
    ),
}


def ready(tree: Tree, folder: Path, augment: list[Tree], seed: int) -> tuple[Trainer, Dataset]:
    page = reading.from_tree({"seed": seed, **tree, "data": {**tree["data"], "augment": augment}})
    dataset = prepare(page, folder / "cache")
    return Trainer(page, dataset, MACHINE, {}), dataset


def accuracy(tree: Tree, folder: Path, augment: list[Tree], seed: int) -> float:
    trainer, dataset = ready(tree, folder, augment, seed)
    while not trainer.done:
        trainer.run_epoch()
    said = predict(trainer.model, dataset.test, dataset, MACHINE).argmax(axis=1)
    return float((said == np.array(dataset.test.target)).mean())


def gains(folder: Path) -> None:
    for title, (make, ways) in SETS.items():
        tree = make(folder)
        print(f"{title}, test accuracy over {DIVISIONS} divisions", flush=True)
        plain: np.ndarray | None = None
        for name, keys in {"nothing": {}, **ways}.items():
            if not Path(keys.get("thesaurus", "/")).exists():
                print(f"  {name:14s} no {keys['thesaurus']} here")
                continue
            augment = [{"type": name, **keys}] if name != "nothing" else []
            found = np.array([accuracy(tree, folder, augment, seed) for seed in range(DIVISIONS)])
            plain = found if plain is None else plain
            gain = found - plain
            error = gain.std(ddof=1) / np.sqrt(DIVISIONS)
            print(f"  {name:14s} {found.mean():.3f} ({gain.mean():+.3f} ± {error:.3f})", flush=True)


def rows_a_second(folder: Path) -> None:
    print("rows changed a second, in batches of 64")
    for title, (make, ways) in SETS.items():
        for name, keys in ways.items():
            if not Path(keys.get("thesaurus", "/")).exists():
                continue
            trainer, _ = ready(make(folder), folder, [{"type": name, **keys}], 0)
            rows = min(64, trainer.placed.train.rows)
            inputs, _ = next(iter(trainer.placed.train.batches([rows], torch.arange(rows))))
            took = []
            for seed in range(30):
                began = time.perf_counter()
                trainer.feed.augmenter.batch(inputs, seed)
                took.append(time.perf_counter() - began)
            print(f"  {title:28s} {name:14s} {len(inputs[0]) / statistics.median(took):10,.0f}", flush=True)


def lanes(folder: Path) -> None:
    tree: Tree = images(folder, 0.2)
    tree["data"]["split"]["seed"] = 0
    tree["model"] = {"type": "mlp", "widths": [64]}
    tree["train"] = {"epochs": 4, "batch_size": 32}
    for name in ("nothing", "noise", "random_crop"):
        took: dict[str, list[float]] = {"one by one": [], "as lanes": []}
        for _ in range(5):
            for way, seconds in took.items():
                parts = [{"noise": {"type": "noise", "std": 0.02 * n}, "random_crop": {"type": name, "padding": 1}}
                         for n in range(8)]  # fmt: skip
                several = [[each[name]] if name != "nothing" else [] for each in parts]
                trainers = [ready(tree, folder, augment, seed)[0] for seed, augment in enumerate(several)]
                pack = Pack(Shape(trainers[0]), 8, trainers[0])
                for rows in dict.fromkeys(pack.shape.sizes):
                    pack.prepare(rows)
                began = time.perf_counter()
                if way == "as lanes":
                    for trainer in trainers:
                        pack.put(trainer)
                    while not trainers[0].done:
                        pack.run_epoch()
                else:
                    for trainer in trainers:
                        while not trainer.done:
                            trainer.run_epoch()
                seconds.append(time.perf_counter() - began)
        one, together = (statistics.median(seconds) for seconds in took.values())
        print(
            f"8 MLPs on digits, {name}: {one:.2f} s one by one, {together:.2f} s as lanes, {one / together:.2f} times"
        )


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "--costs" not in sys.argv:
            gains(folder)
        rows_a_second(folder)
        lanes(folder)


if __name__ == "__main__":
    main()
