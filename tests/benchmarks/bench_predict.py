"""Predicting new rows: the network part beside a bare torch loop, and a CSV file from end to end beside pandas,
scikit-learn and torch by hand. Ratios of medians, in turn, in one process.

python tests/benchmarks/bench_predict.py            # 400,000 rows, 7 rounds
python tests/benchmarks/bench_predict.py --quick    # 50,000, 3
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

QUICK = "--quick" in sys.argv
ROWS, ROUNDS, TRAINED = (50_000, 3, 5_000) if QUICK else (400_000, 7, 20_000)
BATCH = 1024  # of `evaluate.outputs.predict`


def table(rows: int, seed: int) -> Any:
    import pandas as pd

    random = np.random.default_rng(seed)
    frame = pd.DataFrame({f"x{i}": np.round(random.normal(size=rows), 5) for i in range(18)})
    frame.loc[random.random(rows) < 0.03, "x3"] = np.nan
    frame["city"] = random.choice([f"city{i}" for i in range(40)], rows)
    frame["plan"] = random.choice(["basic", "plus", "pro"], rows)
    frame["y"] = np.where(frame["x0"] + random.normal(size=rows) > 0, "yes", "no")
    return frame


def in_turn(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Way → median seconds, after one round that counts for nothing."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in seconds.items()}


def told(what: str, found: dict[str, float], rows: int) -> None:
    (ours, of_ours), (theirs, of_theirs) = found.items()
    print(f"{what}: {ours} {rows / of_ours:,.0f} rows/s, {theirs} {rows / of_theirs:,.0f}; ", end="")
    print(f"speed ratio {of_theirs / of_ours:.2f}", flush=True)


def network_part(predictor: Any, name: str, inputs: tuple[np.ndarray, ...]) -> None:
    from nnopt_ray.data.types import Rows
    from nnopt_ray.evaluate.outputs import predict

    trained = predictor.trained
    rows = Rows(inputs, np.zeros(len(inputs[0])), np.arange(len(inputs[0])))

    def ours() -> np.ndarray:
        return predict(trained.model, rows, trained.dataset, trained.machine)

    def bare() -> np.ndarray:
        with torch.inference_mode():
            tensors = [torch.from_numpy(x) for x in inputs]
            said = [trained.model(*(x[at : at + BATCH] for x in tensors)) for at in range(0, len(rows), BATCH)]
            return torch.cat(said).numpy()

    np.testing.assert_allclose(ours(), bare(), rtol=1e-5, atol=1e-6)
    told(f"network alone, {name}", in_turn({"nnopt": ours, "bare loop": bare}, ROUNDS), len(rows))


def by_hand(predictor: Any, fitted: Any, place: Path, out: Path) -> None:
    import pandas as pd

    frame = pd.read_csv(place)
    inputs = fitted.transform(frame).astype(np.float32)
    with torch.inference_mode():
        tensor = torch.from_numpy(inputs)
        said = [predictor.trained.model(tensor[at : at + BATCH]) for at in range(0, len(inputs), BATCH)]
        shares = torch.cat(said).softmax(dim=1).numpy()
    classes = np.array(predictor.trained.dataset.classes)
    answer = {"row": np.arange(len(frame)), "predicted": classes[shares.argmax(axis=1)]}
    pd.DataFrame(answer | {f"p_{name}": share for name, share in zip(classes, shares.T, strict=True)}).to_parquet(out)


def transformer(frame: Any) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = [f"x{i}" for i in range(18)]
    words = OneHotEncoder(sparse_output=False, dtype=np.float32, handle_unknown="ignore")
    steps = [("numbers", make_pipeline(SimpleImputer(), StandardScaler()), numbers), ("words", words, ["city", "plan"])]
    return ColumnTransformer(steps).fit(frame)


def run_of(folder: Path, name: str, page: str) -> Any:
    from nnopt_ray import reading, runs
    from nnopt_ray.rundir import RunDir
    from nnopt_ray.serving.predictor import Predictor

    (folder / f"{name}.yaml").write_text(
        f"name: {name}\nobjective: minimize val_loss\n{page}\ntrain: {{epochs: 1}}\nevaluate: {{bootstrap: 0}}\n"
    )
    return Predictor(RunDir(runs.run(reading.load(folder / f"{name}.yaml"), folder).path))


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frame = table(TRAINED, 0)
        frame.to_csv(folder / "train.csv", index=False)
        steps = "steps: [{type: impute, strategy: mean}, scale, encode]"
        data = f"data: {{source: {{type: csv, path: train.csv}}, target: y, {steps}}}"
        of_table = run_of(folder, "table", f"{data}\nmodel: {{type: mlp, widths: [64, 64]}}")
        digits = "data: {source: {type: sklearn, name: digits}, steps: [scale]}"
        of_images = run_of(folder, "images", f"{digits}\nmodel: {{type: resnet, depth: 8}}")
        torch.set_num_threads(1)
        random = np.random.default_rng(1)
        width = of_table.trained.dataset.shapes.features
        network_part(of_table, "MLP of a table", (random.normal(size=(ROWS, width)).astype(np.float32),))
        images = random.normal(size=(ROWS // 100, 1, 8, 8)).astype(np.float32)
        network_part(of_images, "ResNet-8 of 8x8 images", (images,))
        new = folder / "new.csv"
        table(ROWS, 2).drop(columns="y").to_csv(new, index=False)
        fitted = transformer(frame.drop(columns="y"))
        ways: dict[str, Callable[[], Any]] = {
            "nnopt": lambda: of_table.write(new, folder / "ours.parquet", force=True),
            "pandas, scikit-learn, torch": lambda: by_hand(of_table, fitted, new, folder / "theirs.parquet"),
        }
        told("a CSV file of 20 columns, end to end", in_turn(ways, 1 if QUICK else 3), ROWS)


if __name__ == "__main__":
    main()
