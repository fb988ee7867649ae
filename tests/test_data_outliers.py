"""Values far from the rest: those that Iglewicz and Hoaglin's rule and scikit-learn's forest name, by the training rows
alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from checks_example import examined
from scipy.stats import median_abs_deviation
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import IsolationForest

from nnopt_ray.data.outliers import Outliers
from nnopt_ray.data.quality import Examined
from nnopt_ray.errors import DataError
from nnopt_ray.machine import derived_seed


def normal(rows: int = 1000, wild: int = 12, seed: int = 0) -> tuple[Examined, np.ndarray]:
    """Four normal columns, one of them of whole numbers, with values ten deviations off in some rows; bool, which."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 4)) * [1.0, 100.0, 1e-3, 20.0] + [0.0, 1e4, 5.0, 40.0]
    far = np.zeros(rows, dtype=bool)
    far[random.choice(rows, wild, replace=False)] = True
    place = random.integers(0, 4, rows)
    x[far, place[far]] += np.array([10.0, 1000.0, 1e-2, 200.0])[place[far]] * random.choice([-1, 1], rows)[far]
    columns = {"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "n": x[:, 3].round().astype(np.int64)}
    return examined({**columns, "y": random.integers(0, 2, rows)}, seed=seed), far


def odd(seed: int, rows: int = 1000) -> tuple[Examined, np.ndarray]:
    """Six normal columns; in some rows each is three deviations off, which is much of all and little of one."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 6))
    far = np.zeros(rows, dtype=bool)
    far[random.choice(rows, 12, replace=False)] = True
    x[far] = random.choice([-1, 1], (12, 6)) * random.uniform(2.8, 3.2, (12, 6))
    columns = {f"x{place}": x[:, place] for place in range(6)}
    return examined({**columns, "y": random.integers(0, 2, rows)}, seed=seed), far


@pytest.mark.parametrize(("method", "planted", "recall"), [("robust_z", normal, 1.0), ("isolation_forest", odd, 0.9)])
def test_planted_faults_are_found_and_few_others(method: Any, planted: Any, recall: float) -> None:
    hits, alarms = [], []
    for seed in range(5):
        data, far = planted(seed=seed)
        (finding,) = Outliers(method=method).examine(data)
        hits.append(far[finding.rows].sum() / far.sum())
        alarms.append((~far[finding.rows]).sum() / (~far).sum())
    # |z| > 3.5 has a chance of 0.05 % in a normal column, 0.2 % in four.
    print(f"{method}: recall {np.mean(hits):.3f}, false alarms {np.mean(alarms):.4f} of the rows")
    assert np.mean(hits) >= recall
    assert np.mean(alarms) < 0.006


@pytest.mark.parametrize("threshold", [3.5, 5.0])
def test_robust_z_is_that_of_the_training_rows(threshold: float) -> None:
    source = load_breast_cancer()
    data = examined({f"x{place}": source.data[:, place] for place in range(30)} | {"y": source.target})
    train = source.data[data.train]
    # scipy's scale="normal" is 0.67449 to five places where the rule has 0.6745.
    z = 0.6745 * (source.data - np.median(train, axis=0)) / median_abs_deviation(train, axis=0)
    few = (np.abs(z[data.train]) > threshold).mean(axis=0) <= 0.05
    assert 0 < few.sum() < 30
    z = np.where(few, z, 0.0)
    (finding,) = Outliers(threshold=threshold).examine(data)
    assert sorted(finding.rows) == np.flatnonzero((np.abs(z) > threshold).any(axis=1)).tolist()
    worst = np.abs(z).max(axis=1)[finding.rows]
    np.testing.assert_allclose(finding.sure, 1 - threshold / (2 * worst))
    assert (np.diff(worst) <= 1e-9).all()


def test_the_forest_is_scikit_learns() -> None:
    source = load_breast_cancer()
    data = examined({f"x{place}": source.data[:, place] for place in range(30)} | {"y": source.target})
    train = source.data[data.train]
    scaled = (source.data - np.median(train, axis=0)) / median_abs_deviation(train, axis=0)
    forest = IsolationForest(random_state=derived_seed(0, "outliers") % 2**32).fit(scaled[data.train])
    scores = -forest.score_samples(scaled)
    (finding,) = Outliers(method="isolation_forest", contamination=0.05).examine(data)
    limit = np.quantile(scores[data.train], 0.95)
    assert sorted(finding.rows) == np.flatnonzero(scores > limit).tolist()
    np.testing.assert_allclose(finding.sure, scores[finding.rows])


def test_fix_clips_the_training_rows_to_the_bound_and_keeps_whole_numbers_whole() -> None:
    data, far = normal()
    (finding,) = Outliers(action="fix").examine(data)
    assert {repair.row for repair in finding.repairs} == set(finding.rows) & set(data.train)
    assert far[[repair.row for repair in finding.repairs]].mean() > 0.5
    for repair in finding.repairs:
        values = np.array(data.table.columns.column(repair.column), dtype=np.float64)
        center, mad = np.median(values[data.train]), median_abs_deviation(values[data.train])
        reach = 3.5 * mad / 0.6745
        assert repair.what == "changed"
        assert float(repair.before) == values[repair.row]
        after = float(repair.after)
        assert abs(after - center) <= reach * (1 + 1e-12)
        assert abs(after - center) > reach - (1 if repair.column == "n" else reach * 1e-9)
        assert (after > center) == (values[repair.row] > center)
        pa.array([repair.after]).cast(data.table.columns.column(repair.column).type)


@pytest.mark.parametrize("keys", [{}, {"method": "isolation_forest"}, {"action": "fix"}])
def test_what_other_parts_hold_changes_nothing_for_the_training_rows(keys: Any) -> None:
    data, _ = normal()
    keys = {"action": "drop"} | keys
    outside = np.concatenate([data.parts["validation"], data.parts["test"]])
    columns = data.table.columns
    for name in ("a", "b", "c"):
        values = columns.column(name).to_numpy().copy()
        values[outside] = 1e9
        columns = columns.set_column(columns.column_names.index(name), name, pa.array(values))
    poisoned = replace(data, table=replace(data.table, columns=columns))
    (clean,), (dirty,) = (Outliers(**keys).examine(d) for d in (data, poisoned))
    assert clean.repairs
    assert clean.repairs == dirty.repairs
    assert set(outside) <= set(dirty.rows)


def test_columns_that_have_no_outliers_are_not_looked_at() -> None:
    random = np.random.default_rng(0)
    rows = 500
    columns = {
        "count": random.poisson(0.2, rows) * 10,  # more than half are zero: no MAD
        "grade": random.choice([1, 2, 3, 4, 100], rows, p=[0.3, 0.3, 0.2, 0.19, 0.01]),
        "flag": random.random(rows) < 0.01,
        "city": random.choice(["a", "b"], rows),
        "income": random.lognormal(10, 1.0, rows),
        "gaps": pa.array(random.normal(size=rows), mask=random.random(rows) < 0.5),
    }
    found = Outliers().examine(examined({**columns, "y": random.integers(0, 2, rows)}))
    assert not [name for finding in found for name in finding.columns if name != "gaps"]


def test_dates_and_pictures_that_are_far_off() -> None:
    random = np.random.default_rng(0)
    days = np.datetime64("2024-01-01") + random.integers(0, 300, 400)
    days[7] = np.datetime64("1900-01-01")
    data = examined({"since": [str(day) for day in days], "y": random.integers(0, 2, 400)})
    (finding,) = Outliers(action="fix").examine(data)
    assert finding.rows.tolist() == [7]
    assert finding.columns == ("since",)
    assert not finding.repairs  # a date is not clipped
    source = load_digits()
    images = source.images[:, None].copy()
    images[11] = 0.0
    (finding,) = Outliers(action="drop").examine(examined({"y": source.target}, images=images))
    assert finding.rows[0] == 11
    assert finding.columns == ("image",)


def test_keys_that_say_nothing_together_are_refused() -> None:
    with pytest.raises(DataError, match=r"Write action: drop, or method: robust_z\.$"):
        Outliers(action="fix", method="isolation_forest")
    with pytest.raises(DataError, match="contamination with method: isolation_forest only"):
        Outliers(contamination=0.1)
