"""Seconds and peak memory of preparing images, beside numpy doing the same in memory.

Each in a process of its own: scaled by channel over the training part, in three parts, written as float32.
Fashion-MNIST (60,000 + 10,000 images of 28x28 in IDX files), where it lies in /usr/share/datasets or a folder given,
and 10,000 RGB images of 96x96 in a .npy file, made from a seed.

python tests/benchmarks/bench_images.py [FOLDER]          # all images
python tests/benchmarks/bench_images.py --quick [FOLDER]  # 2,000 RGB images
"""

from __future__ import annotations

import gzip
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

QUICK = "--quick" in sys.argv
RGB = 2_000 if QUICK else 10_000
FASHION = Path("/usr/share/datasets/fashion-mnist")


def generate(folder: Path) -> None:
    random = np.random.default_rng(0)
    images = np.lib.format.open_memmap(folder / "x.npy", "w+", np.uint8, (RGB, 3, 96, 96))
    for start in range(0, RGB, 500):
        images[start : start + 500] = random.integers(0, 256, images[start : start + 500].shape, np.uint8)
    images.flush()
    np.save(folder / "y.npy", random.integers(0, 10, RGB).astype(str))


def ours(data: Path, folder: Path) -> None:
    from nnopt_ray import reading
    from nnopt_ray.data.prepare import prepare

    rgb = (data / "x.npy").is_file()
    source = {"type": "numpy", "x": str(data / "x.npy"), "y": str(data / "y.npy")}
    source = source if rgb else {"type": "idx", "path": str(data)}
    page = {"data": {"source": source, "target": "label", "steps": ["scale"]}, "model": "mlp"}
    prepare(reading.from_tree(page), folder)


def theirs(data: Path, folder: Path) -> None:
    if (data / "x.npy").is_file():
        images, labels = np.load(data / "x.npy"), np.load(data / "y.npy")
        order = np.random.default_rng(0).permutation(len(labels))
        test, rest = order[: len(order) // 5], order[len(order) // 5 :]
    else:
        read = [_idx(data, name) for name in ("train", "t10k")]
        images = np.concatenate([part[0] for part in read])[:, None]
        labels = np.concatenate([part[1] for part in read])
        count = len(read[0][0])
        rest, test = np.random.default_rng(0).permutation(count), np.arange(count, len(labels))
    train, validation = np.sort(rest[len(rest) // 6 :]), np.sort(rest[: len(rest) // 6])
    mean = images[train].mean(axis=(0, 2, 3), keepdims=True)
    deviation = images[train].std(axis=(0, 2, 3), keepdims=True)
    scaled = ((images - mean) / deviation).astype(np.float32)
    for name, rows in (("train", train), ("validation", validation), ("test", np.sort(test))):
        np.save(folder / f"{name}.x.npy", scaled[rows])
        np.save(folder / f"{name}.y.npy", labels[rows])


def _idx(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    with gzip.open(folder / f"{name}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{name}-labels-idx1-ubyte.gz") as file:
        return images, np.frombuffer(file.read(), np.uint8, offset=8)


def main() -> None:
    if "--way" in sys.argv:
        way, data, folder = sys.argv[-3:]
        began = time.perf_counter()
        {"nnopt": ours, "numpy": theirs, "imports": _imports}[way](Path(data), Path(folder))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"    {way:<8} {time.perf_counter() - began:6.1f} s   peak {peak:.2f} GiB", flush=True)
        return
    given = [word for word in sys.argv[1:] if not word.startswith("--")]
    fashion = Path(given[0]) if given else FASHION
    with tempfile.TemporaryDirectory() as name:
        rgb = Path(name) / "rgb"
        rgb.mkdir()
        generate(rgb)
        sets = {f"{RGB:,} RGB images of 96x96 (.npy)": rgb}
        if fashion.is_dir():
            sets = {"Fashion-MNIST (IDX)": fashion, **sets}
        else:
            print(f"{fashion} is not there: without Fashion-MNIST", flush=True)
        for told, data in sets.items():
            print(told, flush=True)
            for way in ("imports", "nnopt", "numpy"):
                with tempfile.TemporaryDirectory() as folder:
                    command = [sys.executable, __file__, "--way", way, str(data), folder]
                    subprocess.run(command, check=True)


def _imports(data: Path, folder: Path) -> None:
    """What nnopt takes before it reads anything: a page of 150 rows."""
    from nnopt_ray import reading
    from nnopt_ray.data.prepare import prepare

    page = {"data": {"source": {"type": "sklearn", "name": "iris"}, "target": "species", "steps": ["scale"]}}
    prepare(reading.from_tree({**page, "model": "mlp"}), folder)


if __name__ == "__main__":
    main()
