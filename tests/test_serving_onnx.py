"""The preprocessing inside ONNX makes of raw columns what the run's makes of them, in onnxruntime alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from nnopt_ray import reading, rundir, runs
from nnopt_ray.cli.main import code
from nnopt_ray.data import prepare, quantiles
from nnopt_ray.data.preprocessing import FILE, Preprocessing
from nnopt_ray.data.table import Table
from nnopt_ray.errors import UserError
from nnopt_ray.rundir import RunDir
from nnopt_ray.serving import export as exporting
from nnopt_ray.serving import ranks
from nnopt_ray.serving.columns_in_graph import Prepared, prepared
from nnopt_ray.serving.graph import Graph

ROWS = 200


def customers() -> pd.DataFrame:
    random = np.random.default_rng(0)
    age = random.integers(18, 90, ROWS).astype(float)
    age[::11] = np.nan
    city = random.choice(["Bern", "Basel", "Zug", "São Paulo"], ROWS).astype(object)
    city[::13] = None
    return pd.DataFrame(
        {
            "age": age,
            "city": city,
            "zip": random.choice([3000, 4000, 8000], ROWS),
            "paid": random.choice(["yes", "No"], ROWS),
            "open": random.choice([True, False], ROWS),
            "income": np.round(random.lognormal(3, 1, ROWS), 2),
            "since": pd.to_datetime("1950-03-01") + pd.to_timedelta(random.integers(0, 60_000, ROWS) / 2, unit="D"),
            "left": random.choice(["no", "yes", "maybe"], ROWS),
        }
    )


def session_of(done: Prepared, kinds: list[tuple[Any, int]]) -> onnxruntime.InferenceSession:
    """The preprocessing alone, its results under the names made0, made1, ..., of these kinds and dimensions."""
    outputs = [
        helper.make_tensor_value_info(f"made{at}", kind, [None] * dimensions)
        for at, (kind, dimensions) in enumerate(kinds)
    ]
    nodes = [helper.make_node("Identity", [name], [f"made{at}"]) for at, name in enumerate(done.made)]
    graph = helper.make_graph(
        [*done.graph.nodes, *nodes], "prepare", list(done.inputs), outputs, initializer=done.graph.constants
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def fed(frame: pd.DataFrame, session: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    """As README.txt of an export says it."""
    feed = {}
    for one in session.get_inputs():
        column = frame[one.name]
        text = one.type == "tensor(string)"
        if one.name == "since":
            column = (pd.to_datetime(column, utc=True) - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)
        values = column.fillna("").astype(str) if text else column.astype("float64")
        feed[one.name] = values.to_numpy(dtype=object if text else None)[:, None]
    return feed


def of_page(frame: pd.DataFrame, steps: str, folder: Path, target: str = "left") -> Preprocessing:
    frame.to_parquet(folder / "customers.parquet")
    (folder / "page.yaml").write_text(
        f"data:\n  source: {{type: parquet, path: customers.parquet}}\n  target: {target}\n"
        f"  steps: {steps}\nmodel: mlp\n"
    )
    dataset = prepare.prepare(reading.load(folder / "page.yaml"), folder / "cache")
    return Preprocessing.from_json(rundir.read_json(dataset.folder / FILE))


NEW = {"age": [np.nan, 400.0], "city": ["Genf", None], "zip": [1, 3000], "paid": ["YES", None], "income": [-5.0, 1e9],
       "since": pd.to_datetime(["1900-02-28 18:30", "2200-02-28 00:00"])}  # fmt: skip


@pytest.mark.parametrize(
    "steps",
    [
        "[{type: impute, strategy: median, indicator: true}, scale, encode]",
        "[{type: impute, strategy: most_frequent}, {type: scale, method: minmax}, {type: encode, method: ordinal}]",
        "[{type: impute, strategy: constant, indicator: true}, {type: scale, method: robust}, encode]",
        "[impute, {type: scale, method: quantile, n_quantiles: 20}, {type: encode, method: embedding}]",
        "[impute, {type: scale, method: quantile, output: uniform}, {type: encode, method: target}]",
        "[{type: impute, columns: [paid]}, {type: encode, columns: [zip, age, city], min_count: 2}, "
        "encode, {type: scale, columns: [income, paid]}]",
        "[{type: impute, columns: [paid]}, {type: encode, columns: [zip], method: embedding}, "
        "{type: encode, columns: [age, city], method: target}]",
    ],
)
def test_every_step_says_the_same_of_rows_old_and_new(steps: str, tmp_path: Path) -> None:
    frame = customers()
    done = of_page(frame, steps, tmp_path)
    rows = pd.concat([frame, frame[:2].assign(**NEW)], ignore_index=True)
    rows["open"] = rows["open"].astype(bool)
    import pyarrow as pa

    wanted = done.inputs(Table("new", pa.Table.from_pandas(rows.drop(columns="left"), preserve_index=False)))
    made = prepared(done, np.uint8)
    kinds = [(TensorProto.INT64 if array.dtype == np.int64 else TensorProto.FLOAT, array.ndim) for array in wanted]
    session = session_of(made, kinds)
    found = session.run(None, fed(rows, session))
    assert len(found) == len(wanted)
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("output", ["normal", "uniform"])
@given(
    known=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    new=st.lists(st.floats(-1e7, 1e7) | st.just(float("nan")), min_size=1, max_size=20),
)
@settings(max_examples=20, deadline=None)
def test_ranks_are_those_of_the_step(known: list[float], new: list[float], output: Any) -> None:
    learned = quantiles.learned(np.array([*known, known[0]]), 10)  # one value is there twice at least
    values = np.array([*new, *known])[:, None]
    graph = Graph()
    made = ranks.transformed(graph, "x", learned, output)
    inputs = (helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["rows", 1]),)
    session = session_of(Prepared(graph, inputs, (made,), {}), [(TensorProto.DOUBLE, 2)])
    (found,) = session.run(None, {"x": values})
    wanted = quantiles.transformed(values[:, 0], learned, output)
    np.testing.assert_allclose(found[:, 0], wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ("[{type: tokenize, columns: [city]}, impute, {type: encode, columns: [paid]}]", "'city', which is text that"),
        ("[{type: clean_text, lowercase: true}, impute, encode]", "the step clean_text of data.steps"),
    ],
)
def test_what_has_no_operators_is_one_sentence(steps: str, told: str, tmp_path: Path) -> None:
    done = of_page(customers(), steps, tmp_path)
    with pytest.raises(UserError, match=told):
        prepared(done, np.uint8)


@pytest.mark.parametrize("foretell", ["level", "change"])
def test_forecasts_are_fed_the_points_of_a_window(foretell: str, tmp_path: Path, one_thread: None) -> None:
    days = pd.date_range("2024-01-31", periods=90, freq="D").strftime("%d.%m.%Y")
    sold = np.arange(90) + 10 * np.sin(np.arange(90) / 3)
    frame = pd.DataFrame({"day": days, "kind": np.where(np.arange(90) % 7 < 2, "end", "week"), "sold": sold})
    frame.to_csv(tmp_path / "sales.csv", index=False)
    (tmp_path / "page.yaml").write_text(
        "objective: minimize val_loss\ndata:\n  source: {type: csv, path: sales.csv}\n  target: sold\n"
        f"  window: {{length: 6, horizon: 3, order: day, foretell: {foretell}}}\n  steps: [scale, encode]\n"
        "model: {type: mlp, widths: [8]}\ntrain: {epochs: 1}\nevaluate: {bootstrap: 0}\n"
    )
    done = runs.run(reading.load(tmp_path / "page.yaml"), tmp_path)
    exporting.export(RunDir(done.path), "onnx", tmp_path / "out", preprocessing="yes")
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    last = frame[-6:]
    when = (pd.to_datetime(last["day"], format="%d.%m.%Y") - pd.Timestamp(0)) / pd.Timedelta(days=1)
    feed = {"day": when, "kind": last["kind"].astype(object), "sold": last["sold"]}
    (found,) = session.run(None, {name: values.to_numpy()[None] for name, values in feed.items()})
    np.testing.assert_allclose(found[0], done.predict(frame)["predicted"], rtol=1e-5)


def test_sequences_with_ends_and_gaps(tmp_path: Path) -> None:
    import pyarrow as pa

    random = np.random.default_rng(3)
    lengths = random.integers(3, 7, 40)
    ids = np.repeat(np.arange(40), lengths)
    frame = pd.DataFrame({"walk": ids, "x": random.normal(size=len(ids)), "y": random.normal(5, 2, len(ids))})
    frame["label"] = np.repeat(np.where(np.arange(40) % 2, "a", "b"), lengths)
    frame.loc[4, "y"] = np.nan
    frame.to_csv(tmp_path / "walks.csv", index=False)
    (tmp_path / "page.yaml").write_text(
        "data:\n  source: {type: sequences, path: walks.csv, id: walk, label: label}\n  target: label\n"
        "  steps: [impute, {type: scale, method: robust}]\nmodel: rnn\n"
    )
    experiment = reading.load(tmp_path / "page.yaml")
    dataset = prepare.prepare(experiment, tmp_path / "cache")
    done = Preprocessing.from_json(rundir.read_json(dataset.folder / FILE))
    from nnopt_ray import tables

    table = tables.build("source", experiment.data.source).read(tmp_path)
    wanted = done.inputs(Table("new", pa.table({}), sequences=table.sequences))
    made = prepared(done, np.uint8)
    session = session_of(made, [(TensorProto.FLOAT, 3), (TensorProto.INT64, 1)])
    found = session.run(None, {"sequence": table.sequences.values, "lengths": table.sequences.lengths})
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found[1], wanted[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("run")
    customers().to_csv(folder / "customers.csv", index=False)
    (folder / "page.yaml").write_text(
        "objective: minimize val_loss\ndata:\n  source: {type: csv, path: customers.csv}\n  target: left\n"
        "  steps: [{type: impute, indicator: true}, {type: scale, method: quantile}, {type: encode, columns: [paid]}, "
        "{type: encode, method: embedding}]\n"
        "model: {type: mlp, widths: [8]}\ntrain: {epochs: 2}\nevaluate: {bootstrap: 0}\n"
    )
    return RunDir(runs.run(reading.load(folder / "page.yaml"), folder).path)


def test_a_run_says_the_same_of_raw_columns_in_onnxruntime(run: RunDir, tmp_path: Path, capsys: Any) -> None:
    assert code(["export", str(run.root), "--format", "onnx", "-o", str(tmp_path / "out")]) == 0
    assert "the preprocessing is inside; inputs are the columns age, city" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    frame = customers()
    predicted, probabilities = session.run(None, fed(frame, session))
    expected = pd.read_parquet(run.predictions).set_index("source_row").sort_index()
    names = [name for name in expected if name.startswith("p_")]
    np.testing.assert_allclose(probabilities[expected.index], expected[names], atol=1e-5)
    assert predicted[expected.index].tolist() == expected["predicted"].tolist()
    told = session.get_modelmeta().custom_metadata_map
    assert told["classes"] == '["maybe", "no", "yes"]'


def test_a_source_that_is_gone_leaves_the_network_alone(run: RunDir, tmp_path: Path) -> None:
    place = run.root.parent / "customers.csv"
    place.rename(tmp_path / "elsewhere.csv")
    try:
        done = exporting.export(run, "onnx", tmp_path / "out")
        assert not done.columns
        assert "there is no file" in done.alone
        with pytest.raises(UserError, match="there is no file"):
            exporting.export(run, "onnx", tmp_path / "other", preprocessing="yes")
        assert not (tmp_path / "other").exists()
    finally:
        (tmp_path / "elsewhere.csv").rename(place)


def test_the_other_formats_have_no_place_for_it(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="torch_export holds the network alone"):
        exporting.export(run, "torch_export", tmp_path / "out", preprocessing="yes")
