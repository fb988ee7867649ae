"""Pages and tables for the tests of the data room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nnopt_ray import reading
from nnopt_ray.data.table import Table
from nnopt_ray.data.target import Target
from nnopt_ray.experiment import Experiment

BUNDLED = ("digits", "iris", "wine", "breast_cancer", "diabetes")


def page(source: dict[str, Any], file: Path | None = None, **data: Any) -> Experiment:
    """A page whose data section is this."""
    return reading.from_tree({"data": {"source": source, **data}, "model": "mlp"}, file)


def csv_page(place: Path, text: str, **data: Any) -> Experiment:
    place.write_text(text, encoding="utf-8")
    return page({"type": "csv", "path": str(place)}, **data)


def table(columns: dict[str, Any], images: np.ndarray | None = None) -> Table:
    return Table("a table", pa.table(columns), images)


def classes(codes: Any) -> Target:
    """A classification target with these class codes."""
    codes = np.asarray(codes, dtype=np.int64)
    return Target("label", "classification", codes, tuple(f"c{code}" for code in range(int(codes.max()) + 1)))


def amounts(values: Any) -> Target:
    return Target("amount", "regression", np.asarray(values, dtype=np.float64), ())


def mixed(rows: int = 5000, seed: int = 11) -> pa.Table:
    """Every kind of column at once, and 8 % positives that depend on some of them."""
    random = np.random.default_rng(seed)
    age = random.normal(45, 12, rows).round(1)
    income = random.lognormal(10, 0.6, rows)
    city = np.array(["Aachen", "Bonn", "Celle", "Dresden"])[random.integers(0, 4, rows)]
    risk = 0.04 * (age - 45) + 0.8 * (city == "Bonn") + random.normal(0, 1, rows)
    day = np.datetime64("2019-01-01") + random.integers(0, 1500, rows)
    return pa.table(
        {
            "customer_id": random.permutation(rows) + 100_000,
            "age": pa.array(age, mask=random.random(rows) < 0.1),
            "income": income,
            "city": pa.array(city.tolist(), mask=random.random(rows) < 0.03),
            "member": pa.array(np.where(random.random(rows) < 0.3, "yes", "no").tolist()),
            "since": [str(moment) for moment in day],
            "country": ["DE"] * rows,
            "empty": pa.nulls(rows),
            "churn": pa.array((risk >= np.quantile(risk, 0.92)).astype(np.int64)),
        }
    )
