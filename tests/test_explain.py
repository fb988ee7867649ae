"""Explanations from the page to the report: what is refused and when, what is written, what is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from explain_example import FOLDER, MODELS, PAGES, dataset, page, subject
from test_report import Tree

import nnopt_ray as nn
from nnopt_ray import reading
from nnopt_ray.cli import main
from nnopt_ray.data.preprocessing import Preprocessing
from nnopt_ray.data.table import Table
from nnopt_ray.errors import PageError, UserError
from nnopt_ray.evaluate import examples
from nnopt_ray.evaluate.decision import Decision, decided
from nnopt_ray.evaluate.explain import explainers
from nnopt_ray.evaluate.explain_features import Shap
from nnopt_ray.evaluate.explainers import Subject
from nnopt_ray.report.blocks import Gallery, Plot, Words, within
from nnopt_ray.report.explained import explained
from nnopt_ray.report.facts import Facts, facts_from_folder
from nnopt_ray.report.write import html
from nnopt_ray.rundir import RunDir, read_json

EXPLAIN: dict[str, list[Any]] = {
    "mixed": ["shap", "lime", "permutation", {"type": "explain_example:Fails"}],
    "image": ["grad_cam", {"type": "shap", "method": "gradient"}, "shap"],
    "tokens": ["integrated_gradients", "lime"],
    "lengths": ["shap"],
}


class Notes(nn.Watch):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, sentence: str) -> None:
        self.said.append(sentence)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[RunDir, list[str]]]:
    """A run of an epoch for each kind of data."""
    folder, found = tmp_path_factory.mktemp("explained"), {}
    for kind, explain in EXPLAIN.items():
        page(kind)  # writes the data
        given = {
            "data": PAGES[kind],
            "model": MODELS[kind],
            "train": {"epochs": 1},
            "evaluate": {"explain": explain, "bootstrap": 0},
        }
        file = folder / f"{kind}.yaml"
        file.write_text(json.dumps(given))
        watch = Notes()
        run = nn.run(nn.load(file), out=folder / "runs", watch=watch)
        found[kind] = RunDir(run.path), watch.said
    return found


def told(run: RunDir) -> dict[str, Any]:
    found: dict[str, Any] = read_json(run.evaluated("explanations"))
    return found


def test_an_explainer_that_fails_is_a_sentence_and_the_run_is_whole(
    runs: dict[str, tuple[RunDir, list[str]]],
) -> None:
    run, notes = runs["mixed"]
    methods = {m["name"]: m for m in told(run)["methods"]}
    assert methods["explain_example:Fails"]["error"] == "RuntimeError: <b>no</b> luck."
    assert [m["error"] for name, m in methods.items() if name != "explain_example:Fails"] == ["", "", ""]
    assert "No explanation by explain_example:Fails: RuntimeError: <b>no</b> luck." in notes
    assert run.result.is_file()
    page_ = run.report.read_text(encoding="utf-8")
    assert "RuntimeError: &lt;b&gt;no&lt;/b&gt; luck" in page_
    assert "<b>no</b>" not in page_


def test_attributions_of_columns_are_a_table_in_the_users_values(
    runs: dict[str, tuple[RunDir, list[str]]],
) -> None:
    run, _ = runs["mixed"]
    table = pq.read_table(run.attributions).to_pandas()
    assert list(table.columns) == ["method", "source_row", "column", "value", "attribution"]
    source = [line.split(",") for line in (FOLDER / "mixed.csv").read_text().splitlines()]
    heads, rows = source[0], source[1:]
    for line in table[table.column.isin(["age", "plan", "signup", "vip"])].itertuples():
        written = rows[line.source_row][heads.index(str(line.column))] or "missing"
        assert line.value == written, line
    shap = table[table.method == "shap"].groupby("source_row").attribution.sum()
    method = next(m for m in told(run)["methods"] if m["name"] == "shap")
    looked_for = method["of"].removeprefix("the probability of ")
    assert looked_for in ("yes", "no")
    predicted = pq.read_table(run.predictions).to_pandas().set_index("source_row")[f"p_{looked_for}"]
    np.testing.assert_allclose(shap + method["base"][0], predicted[shap.index], atol=1e-5)


def test_what_is_shown_of_each_kind(runs: dict[str, tuple[RunDir, list[str]]]) -> None:
    wanted = {"mixed": Plot, "image": Gallery, "tokens": Words, "lengths": Plot}
    for kind, (run, _) in runs.items():
        found = told(run)
        assert run.evaluated("explanations").stat().st_size < 2_000_000
        assert {e["about"] for e in found["examples"]} <= {"most confidently wrong", "wrong", "right"}
        facts = facts_from_folder(run)
        section = explained(facts)
        assert section is not None
        shown = [block for block in within(section.blocks) if isinstance(block, wanted[kind])]
        assert shown
        ids = [block.id for block in within(section.blocks) if isinstance(block, Plot)]
        assert len(ids) == len(set(ids))
        parsed = Tree(html(facts))
        assert "explained" in [attributes.get("id") for tag, attributes in parsed.elements if tag == "section"]
        assert "Explanations" in parsed.text
    gallery = next(b for b in within(explained(facts_from_folder(runs["image"][0])).blocks) if isinstance(b, Gallery))  # type: ignore[union-attr]
    assert [name for name, _ in gallery.cards[0].pictures] == [
        "image",
        "grad cam",
        "shap (method gradient)",
        "shap (method kernel)",
    ]


def test_a_waterfall_goes_from_the_average_to_the_answer(runs: dict[str, tuple[RunDir, list[str]]]) -> None:
    run, _ = runs["mixed"]
    section = explained(facts_from_folder(run))
    assert section is not None
    plot = next(b for b in within(section.blocks) if isinstance(b, Plot) and b.id == "waterfall-0-0")
    bar = plot.figure["data"][0]
    assert all(
        np.isclose(begun + value, after)
        for begun, value, after in zip(bar["base"], bar["x"], bar["base"][1:], strict=False)
    )
    method = told(run)["methods"][0]
    assert bar["base"][0] == method["base"][0]
    assert bar["base"][-1] + bar["x"][-1] == pytest.approx(method["output"][0])
    assert any(" = " in name for name in bar["customdata"])


@pytest.mark.parametrize(
    ("model", "explain", "said"),
    [
        ("mlp", ["grad_cam"], "grad_cam does not explain mlp. There are for it: saliency, "),
        ("vit", ["guided_grad_cam"], "guided_grad_cam does not explain vit"),
        ("efficientnet", ["guided_grad_cam"], "There are for it: grad_cam, saliency"),
        ("bert", ["permutation"], "There are for it: integrated_gradients, shap, lime."),
        ("mlp", ["shap", "shap"], "'shap' is listed twice. Remove one."),
        ("mlp", ["shape"], "unknown explainer 'shape'. Did you mean 'shap'?"),
        ("mlp", [{"type": "lime", "sample": 9}], "Did you mean 'samples'?"),
        ("mlp", [{"type": "shap", "method": "tree"}], "'kernel', 'gradient'"),
    ],
)
def test_what_no_model_of_the_page_has_is_refused_at_once(model: str, explain: list[Any], said: str) -> None:
    given = {
        "data": {"source": {"type": "sklearn", "name": "digits"}},
        "model": model,
        "evaluate": {"explain": explain},
    }
    with pytest.raises(PageError) as refused:
        reading.from_tree(given, None)
    assert said in str(refused.value)


def test_language_tasks_are_refused_and_a_search_may_have_a_fitting_branch() -> None:
    given: dict[str, Any] = {
        "data": {
            "source": {"type": "text_lines", "path": "a.txt"},
            "task": "language_modelling",
            "steps": ["tokenize"],
        },
        "model": "gpt",
        "evaluate": {"explain": ["shap"]},
    }
    with pytest.raises(PageError, match="has an answer for each token"):
        reading.from_tree(given, None)
    both = {
        "data": {"source": {"type": "sklearn", "name": "digits"}},
        "model": {"choice": ["mlp", {"type": "resnet", "depth": 8}]},
        "evaluate": {"explain": ["grad_cam"]},
    }
    assert reading.from_tree(both, None).evaluate.explain[0].type == "grad_cam"


@pytest.mark.parametrize(
    ("kind", "explain", "said"),
    [
        ("table", "saliency", "saliency explains images, and this data is table. For this data and model there are: "),
        ("mixed", "integrated_gradients", "this data has categories that are embedded. For this data and model there"),
        ("image", {"type": "grad_cam", "layer": "stages.7"}, "grad_cam finds no layer 'stages.7' in the network."),
    ],
)
def test_what_does_not_fit_the_data_is_refused_before_training(kind: str, explain: Any, said: str) -> None:
    given = {"data": PAGES[kind], "model": MODELS[kind], "evaluate": {"explain": [explain]}}
    experiment = reading.from_tree(given, page(kind).file)
    asked = subject(kind)
    with pytest.raises(UserError) as refused:
        explainers(experiment, asked.shapes, asked.model)
    assert said in str(refused.value)
    assert str(refused.value).startswith("evaluate.explain: ")


def test_the_examples_are_what_they_say() -> None:
    draws = np.random.default_rng(0)
    outputs, target = draws.normal(size=(200, 3)), draws.integers(0, 3, 200)
    found = examples.chosen(outputs, target, np.arange(200) + 1000, ("a", "b", "c"), 0, 4)
    wrong = outputs.argmax(1) != target
    sure = (np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)).max(1)
    assert [e.about for e in found] == ["most confidently wrong"] * 4 + ["wrong"] * 4 + ["right"] * 4
    surest = np.flatnonzero(wrong)[np.argsort(-sure[wrong])][:4]
    assert [e.row for e in found[:4]] == surest.tolist()
    assert all(wrong[e.row] for e in found[:8])
    assert not any(wrong[e.row] for e in found[8:])
    assert len({e.row for e in found}) == 12
    assert {e.true for e in found[8:11]} == {"a", "b", "c"}
    assert all(e.source_row == e.row + 1000 and e.probability == pytest.approx(sure[e.row]) for e in found)
    numbers = draws.normal(size=(50, 1))
    off = examples.chosen(numbers, numbers * 2, np.arange(50), (), 0, 2)
    assert [e.about for e in off] == ["largest error"] * 2 + ["drawn by lot"] * 2
    assert off[0].row == np.abs(numbers[:, 0]).argmax()


def test_a_network_that_is_always_right_or_wrong_and_one_test_row() -> None:
    outputs = np.eye(2)[[0, 1, 0]] * 4
    right = examples.chosen(outputs, np.array([0, 1, 0]), np.arange(3), ("a", "b"), 0)
    assert {e.about for e in right} == {"right"}
    wrong = examples.chosen(outputs[:1], np.array([1]), np.arange(1), ("a", "b"), 0)
    assert [e.about for e in wrong] == ["most confidently wrong"]


def test_new_rows_without_any_date_can_be_read() -> None:
    """As explanations go through the steps with a row that lacks every value, which failed on dates."""
    data = dataset("mixed")
    done = Preprocessing.from_json(read_json(data.folder / "preprocessing.json"))
    rows = {reading.name: pa.nulls(2) for reading in done.readings}
    assert [len(each) for each in done.inputs(Table("new", pa.table(rows)))] == [2, 2]


def answered(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main.code(list(arguments))
    said = capfd.readouterr()
    return code, said.out, said.err


def test_new_rows_are_explained_without_training(
    runs: dict[str, tuple[RunDir, list[str]]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, _ = runs["mixed"]
    rows = (FOLDER / "mixed.csv").read_text().splitlines()
    new = tmp_path / "new.csv"
    new.write_text("\n".join(line.rpartition(",")[0] for line in [rows[0], *rows[11:31]]))
    out = tmp_path / "why.html"
    code, said, _ = answered(
        capfd, "explain", str(run.root), str(new), "--rows", "4,2", "--method", "shap", "-o", str(out)
    )
    assert code == 0
    assert said.splitlines()[-1] == str(out)
    age, _, plan, city, signup, vip, _ = rows[15].split(",")
    for written in (
        f"age = {age or 'missing'}",
        f"plan = {plan}",
        f"city = {city}",
        f"signup = {signup}",
        f"vip = {vip}",
    ):
        assert written in said
    parsed = Tree(out.read_text(encoding="utf-8"))
    assert "nobody has said what is true of them" in parsed.text
    code, said, _ = answered(capfd, "explain", str(run.root), str(new), "--rows", "4", "--method", "shap", "--json")
    found = json.loads(said)
    method = found["methods"][0]
    predicted = nn.open_run(run.root).predict(pd.read_csv(new))[f"p_{method['of'].split()[-1]}"][4]
    assert sum(method["attributions"][0]) + method["base"][0] == pytest.approx(predicted, abs=1e-6)
    python = nn.open_run(run.root).explain(new, rows=[4], methods=["shap"])
    assert python.found["methods"][0]["attributions"] == method["attributions"]
    assert "<iframe srcdoc=" in python._repr_html_()


def test_what_explain_says_of_test_rows_is_what_the_run_said(
    runs: dict[str, tuple[RunDir, list[str]]], capfd: pytest.CaptureFixture[str]
) -> None:
    for kind, (run, _) in runs.items():
        before = told(run)
        example = before["examples"][0]
        name = "integrated_gradients" if kind == "tokens" else "shap"
        code, said, _ = answered(
            capfd, "explain", str(run.root), "--rows", str(example["source_row"]), "--method", name, "--json"
        )
        assert code == 0
        found = json.loads(said)
        assert found["examples"][0]["predicted"] == example["predicted"]
        then = next(m for m in before["methods"] if m["name"] == name)
        key = {"table": "attributions", "image": "maps", "tokens": "words", "sequence": "steps"}[found["kind"]]
        if key == "attributions":
            np.testing.assert_allclose(found["methods"][0][key][0], then[key][0], atol=1e-9)
        elif key != "maps":
            assert len(found["methods"][0][key][0]) == len(then[key][0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rows", "a"], "--rows takes numbers of rows"),
        (["--rows", "99999"], "row 99999 of the source is not of the test part"),
        (["--method", "grad_cam"], "--method: grad_cam explains images"),
        (["--method", "shape"], "Did you mean 'shap'?"),
        (["-o", "why.pdf"], "explanations are written as .html or .json"),
        (["nowhere.csv"], "nowhere.csv"),
    ],
)
def test_what_cannot_be_explained_is_a_sentence(
    runs: dict[str, tuple[RunDir, list[str]]], capfd: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    code, _, err = answered(capfd, "explain", str(runs["mixed"][0].root), *arguments)
    assert code == 2
    assert said in err


def test_temperature_and_threshold_are_in_what_is_explained() -> None:
    plain = subject("mixed")
    cold = replace(plain, decision=Decision(temperature=3.0, threshold=0.9, positive=0))
    assert cold.of == "the probability of no"
    done = Shap(rows=4).explain(cold)
    assert done.output is not None
    shares, _ = decided(plain.outputs[done.rows], cold.decision)
    np.testing.assert_allclose(done.output, shares[:, 0], atol=1e-6)
    found = examples.chosen(
        plain.outputs, said_true(plain), np.arange(len(plain.outputs)), ("no", "yes"), 0, decision=cold.decision
    )
    assert all((e.predicted == "no") == (decided(plain.outputs, cold.decision)[0][e.row, 0] >= 0.9) for e in found)


def said_true(of: Subject) -> np.ndarray:
    return np.asarray(of.dataset.test.target)


def test_a_damaged_file_of_explanations_costs_nothing_else(runs: dict[str, tuple[RunDir, list[str]]]) -> None:
    facts = facts_from_folder(runs["mixed"][0])
    for broken in (None, [], {"methods": []}, {"kind": "table"}):
        assert explained(replace(facts, evaluated={"explanations": broken})) is None
    assert explained(Facts(facts.experiment)) is None


def test_a_page_is_checked_without_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from nnopt_ray import tables; from nnopt_ray.evaluate import EXPLAINERS\n"
        "for name in EXPLAINERS: tables.keys('explainer', name)\n"
        "assert not {'torch', 'captum', 'sklearn', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=60)
