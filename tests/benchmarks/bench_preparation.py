"""Seconds and peak memory of preparing a Parquet file of 30 columns, beside pandas and scikit-learn doing the same.

Each in a process of its own: 20 columns of floats, some missing, 4 of whole numbers, 4 of categories, dates, booleans;
impute, scale, one-hot, in three parts, written as float32.

python tests/benchmarks/bench_preparation.py            # 5 million rows
python tests/benchmarks/bench_preparation.py --quick    # 500,000
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

QUICK = "--quick" in sys.argv
ROWS = 500_000 if QUICK else 5_000_000
GROUP = 250_000


def generate(place: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    random, writer = np.random.default_rng(0), None
    for _ in range(ROWS // GROUP):
        columns = {
            f"x{i}": pa.array(random.normal(size=GROUP), mask=random.random(GROUP) < 0.03 if i % 4 == 0 else None)
            for i in range(20)
        }
        columns |= {f"n{i}": pa.array(random.integers(0, 100 * (i + 1), GROUP)) for i in range(4)}
        for i in range(4):
            words = np.array([f"word{j}" for j in range(5 + 5 * i)])
            columns[f"c{i}"] = pa.array(words[random.integers(0, len(words), GROUP)])
        columns["when"] = pa.array(np.datetime64("2019-01-01") + random.integers(0, 1500, GROUP))
        columns["flag"] = pa.array(random.random(GROUP) < 0.3)
        columns["label"] = pa.array((random.random(GROUP) < 0.4).astype(np.int64))
        table = pa.table(columns)
        writer = writer or parquet.ParquetWriter(place, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def ours(place: Path, folder: Path) -> None:
    from nnopt_ray import reading
    from nnopt_ray.data.prepare import prepare

    source = {"type": "parquet", "path": str(place)}
    data = {"source": source, "target": "label", "steps": ["impute", "scale", "encode"]}
    prepare(reading.from_tree({"data": data, "model": "mlp"}), folder)


def theirs(place: Path, folder: Path) -> None:
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    table = pd.read_parquet(place)
    when = pd.to_datetime(table.pop("when"))
    table = table.assign(year=when.dt.year, month=when.dt.month, day=when.dt.dayofweek, days=when.astype("int64"))
    y = table.pop("label")
    words = [name for name in table if name.startswith("c")]
    numbers = [name for name in table if name not in words]
    steps = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), numbers),
            ("words", OneHotEncoder(sparse_output=False, dtype=np.float32, handle_unknown="ignore"), words),
        ]
    )
    rest, test = train_test_split(np.arange(len(y)), test_size=0.2, stratify=y, random_state=0)
    train, validation = train_test_split(rest, test_size=0.15 / 0.8, stratify=y.iloc[rest], random_state=0)
    steps.fit(table.iloc[train])
    for name, rows in (("train", train), ("validation", validation), ("test", test)):
        np.save(folder / f"{name}.npy", steps.transform(table.iloc[rows]).astype(np.float32))


def main() -> None:
    if "--way" in sys.argv:
        way, place, folder = sys.argv[-3:]
        began = time.perf_counter()
        {"nnopt": ours, "scikit-learn": theirs}[way](Path(place), Path(folder))
        # Of this process alone: getrusage counts the peak of the one that started it, too.
        said = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) for line in said if line.startswith("VmHWM")) / 2**20
        print(f"    {way:<14} {time.perf_counter() - began:6.1f} s   peak {peak:.2f} GiB", flush=True)
        return
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "rows.parquet"
        generate(place)
        print(f"preparing {ROWS:,} rows of 30 columns ({place.stat().st_size / 2**30:.2f} GiB of Parquet)", flush=True)
        for way in ("nnopt", "scikit-learn"):
            folder = Path(name) / way
            folder.mkdir()
            subprocess.run([sys.executable, __file__, "--way", way, str(place), str(folder)], check=True)


if __name__ == "__main__":
    main()
