"""Reading a page: what is said is what is meant, and what is wrong is said with place, rule and cure."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bad_pages import DATA, FAULTS
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_ray import reading
from nnopt_ray.errors import PageError
from nnopt_ray.experiment import Experiment, Range, plain
from nnopt_ray.reading import yaml_text
from nnopt_ray.reading.places import Places
from nnopt_ray.search.space import random_point
from nnopt_ray.tables import Part

SEARCH = """\
name: digits-search
seed: 7
objective: maximize val_accuracy
data:
  source: {type: sklearn, name: digits}
  split: {validation: 0.15, test: 0.2, stratify: true}
  steps: [scale]
model: {type: mlp, widths: [64, {int: [8, 64]}], dropout: {uniform: [0, 0.5]}}
train:
  epochs: 5
  batch_size: {choice: [16, 32]}
  optimizer:
    choice:
      - {type: adam, lr: {log: [1e-4, 1e-1]}}
      - {type: sgd, lr: {log: [1e-3, 1]}, momentum: {step: [0, 0.9, 0.3]}}
      - adam
  early_stopping: {choice: [null, {patience: {log_int: [1, 4]}}]}
"""


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def read(text: str, **options: Any) -> Experiment:
        page = tmp_path / "page.yaml"
        page.write_bytes(text.encode("utf-8", "surrogatepass"))
        return reading.load(page, **options)

    return read


@pytest.fixture
def faults(read: Any) -> Any:
    def faults(text: str, **options: Any) -> list[str]:
        """Every fault as "line:column: path: message"."""
        with pytest.raises(PageError) as caught:
            read(text, **options)
        found = [f"{f.line}:{f.column}: {f.path}: {f.message}" for f in caught.value.faults]
        assert all(f.message.strip() and f.file.endswith("page.yaml") for f in caught.value.faults)
        assert not any("Input should" in fault or "type=" in fault for fault in found)
        return found

    return faults


# --- what is said is what is meant --------------------------------------------------------------


def test_a_page_becomes_sections(read: Any) -> None:
    page = read(DATA + "model: mlp\ntrain: {epochs: 3, optimizer: {type: sgd, lr: 1e-2}, from: {run: r}}\n")
    assert page.data.source == Part("sklearn", {"name": "digits"})
    assert page.model["widths"] == (64, 64)
    assert page.train.epochs == 3
    assert page.train.optimizer["lr"] == 0.01
    assert page.train.start is not None
    assert page.train.start.run == "r"
    assert page.train.checkpoint.keep == 2
    assert (page.metric, page.mode, page.is_search) == ("val_loss", "min", False)
    assert page.search.trials is None
    assert page.file is not None
    assert page.file.is_absolute()


def test_a_search_holds_its_ranges_in_place(read: Any) -> None:
    page = read(SEARCH)
    assert [(path, range_.kind) for path, range_ in page.space] == [
        ("model.widths.1", "int"),
        ("model.dropout", "uniform"),
        ("train.batch_size", "choice"),
        ("train.optimizer", "choice"),
        ("train.optimizer.lr", "log"),
        ("train.optimizer.lr", "log"),
        ("train.optimizer.momentum", "step"),
        ("train.early_stopping", "choice"),
        ("train.early_stopping.patience", "log_int"),
    ]
    assert page.tree["train"]["optimizer"].labels() == ("adam", "sgd", "adam#2")
    assert page.tree["model"]["dropout"] == Range("uniform", (0.0, 0.5))
    assert page.search.trials == 20, "a search that does not say how many"
    assert page.tree["search"]["trials"] == 20
    # The sections hold the first value of every range.
    assert page.model["widths"] == (64, 8)
    assert page.train.optimizer.type == "adam"
    assert page.train.optimizer["lr"] == 1e-4
    assert page.train.early_stopping is None


def test_the_split_does_not_follow_an_opened_seed(read: Any) -> None:
    page = read(DATA + "model: mlp\nseed: {choice: [3, 4]}\n")
    assert page.data.split["seed"] == page.tree["data"]["split"]["seed"] == 3
    other = reading.close(page, {"seed": 4})
    assert (other.seed, other.data.split["seed"]) == (4, 3)


def test_scalars_are_those_of_yaml_1_2() -> None:
    text = """\
    [1e-3, 1E3, -.5, 5., 0o17, 0x1F, +7, .inf, -.INF, .NaN, ~, null, Null, "", true, FALSE,
     no, off, yes, on, y, N, 1_000, 1:30, 2020-01-01, '010', 0b1, "1e-3", e5, 1e, ., -, +, 0x, 0o8]"""
    read = yaml_text.read(text, places := Places("x"))
    assert not places.faults
    expected = [1e-3, 1e3, -0.5, 5.0, 15, 31, 7, math.inf, -math.inf, math.nan, None, None, None, "", True, False]
    expected += ["no", "off", "yes", "on", "y", "N", "1_000", "1:30", "2020-01-01", "010", "0b1", "1e-3", "e5", "1e"]
    expected += [".", "-", "+", "0x", "0o8"]
    assert repr(read) == repr(expected)


words = st.text(st.characters(min_codepoint=32, max_codepoint=0xFFFD, exclude_categories=["Cs", "Cc"]), max_size=12)
numbers = st.integers(-(10**25), 10**25) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | words
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4), max_leaves=12
)


@settings(deadline=None, max_examples=150)
@given(trees)
def test_json_is_yaml(tree: Any) -> None:
    """Every JSON text is YAML 1.2 of the same meaning; Python's json module is the reference."""
    text = json.dumps(tree, ensure_ascii=False)
    read = yaml_text.read(text, places := Places("x"))
    if not places.faults:
        assert repr(read) == repr(json.loads(text))
    else:  # what JSON allows and a page does not
        assert all("cannot stand" in f.message or "<<" in f.message for f in places.faults)


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(words, trees, max_size=4))
def test_what_is_written_is_read_back_by_us_and_by_others(tree: dict[str, Any]) -> None:
    text = yaml_text.write(tree)
    assert repr(yaml_text.read(text, Places("x"))) == repr(tree)
    assert repr(yaml.safe_load(text)) == repr(tree), "a reader of YAML 1.1 takes it as we do"


def test_dump_is_read_back_equal(read: Any, tmp_path: Path) -> None:
    page = read(SEARCH)
    text = reading.dump(page)
    again = read(text)
    assert again == page
    assert reading.dump(again) == text
    assert repr(again.tree) == repr(page.tree)
    assert reading.from_tree(plain(page.tree), page.file) == page


def test_aliases_repeat_values(read: Any) -> None:
    page = read(DATA + "model: {type: mlp, dropout: &d 0.25}\ntrain: {l1: *d}\n")
    assert (page.model["dropout"], page.train.l1) == (0.25, 0.25)


def test_plain_data_of_python_is_a_page() -> None:
    tree = {"data": {"source": {"type": "csv", "path": Path("x.csv")}}, "model": {"type": "mlp", "widths": (8, 4)}}
    page = reading.from_tree({**tree, "seed": np.int64(5), "train": {"l1": np.float32(0.5)}})
    assert (page.data.source["path"], page.model["widths"], page.seed, page.train.l1) == ("x.csv", (8, 4), 5, 0.5)
    loop: list[Any] = []
    loop.append(loop)
    for wrong in (loop, {1, 2}, object(), b"x", "\ud800"):
        with pytest.raises(PageError, match=r"page: train.l1.*: (a page holds|values are nested)"):
            reading.from_tree({**tree, "train": {"l1": wrong}})


# --- every fault, with place, rule and cure -----------------------------------------------------


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in FAULTS], ids=[case[0] for case in FAULTS])
def test_fault(faults: Any, text: str, expected: str) -> None:
    found = faults(text)
    assert any(expected in fault for fault in found), "\n".join(found)
    assert len(found) == 1, "one fault, said once:\n" + "\n".join(found)


def test_all_faults_of_a_page_at_once_in_the_order_of_the_file(faults: Any) -> None:
    found = faults(
        """\
        nam: x
        objective: maximize val_loss
        data:
          source: {type: sklearn, name: digit}
          tagret: y
        model: mpl
        train:
          epochs: 010
          batch_size: {choice: [8, 0, 1.5]}
          l1: {log: [-4, -1]}
          l1: 0
        search: {method: grid, trials: [{a: 1}], confirm: 3}
        """.replace("\n        ", "\n").lstrip(" ")
    )
    places = [fault.split(": ")[0] for fault in found]
    assert places == ["1:1", "2:12", "4:33", "5:3", "6:8", "8:11", "9:28", "9:31", "10:7", "11:3", "12:32", "12:51"]


def test_an_alias_bomb_is_small_work(faults: Any) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    started = time.perf_counter()
    found = faults("\n".join(lines))
    assert time.perf_counter() - started < 5
    assert len(found) == 1
    assert "with its aliases written out the page holds more than 50000 values" in found[0]


def test_what_is_no_file(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path / "none.yaml", "none.yaml: there is no such file."),
        (tmp_path, "this is a folder, and a page is a YAML file."),
        (tmp_path / "a\0b", "the file cannot be read: "),
        (Path("/dev/zero"), "the file is larger than 1 MB"),
    ]:
        with pytest.raises(PageError) as caught:
            reading.load(path)
        assert message in str(caught.value)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"name: x\nobjective: \xfcber\n")
    with pytest.raises(PageError, match=r"latin.yaml:2:12: this is not UTF-8 text \(byte 0xfc\)"):
        reading.load(latin)
    latin.write_bytes(b"\xef\xbb\xbf" + DATA.encode() + b"model: mlp\n")
    assert reading.load(latin).model.type == "mlp", "a byte order mark is no fault"


# --- --set --------------------------------------------------------------------------------------


def test_set_closes_opens_and_changes(read: Any) -> None:
    page = read(
        SEARCH,
        set=[
            "train.epochs=7",
            "model.dropout=0.5",
            "train.l1={log: [1e-6, 1e-3]}",
            "train.optimizer.lr=0.01",
            "data.steps.0.method=minmax",
            "train.checkpoint.keep=5",
            "train.early_stopping.choice.1.patience=3",
            "search.trials=3",
        ],
    )
    assert page.train.epochs == 7
    assert page.tree["model"]["dropout"] == 0.5
    assert page.tree["train"]["l1"] == Range("log", (1e-6, 1e-3))
    assert [option["lr"] for option in page.tree["train"]["optimizer"].values] == [0.01, 0.01, 0.001]
    assert page.data.steps[0].keys["method"] == "minmax"
    assert page.train.checkpoint.keep == 5
    assert page.search.trials == 3
    values = {"train.optimizer": {"type": "sgd", "lr": {"log": [1e-4, 1]}}, "seed": Range("choice", (1, 2))}
    page = read(DATA + "model: mlp\n", set=values)
    assert [path for path, _ in page.space] == ["seed", "train.optimizer.lr"]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (
            "train.epochs=0",
            "0:0: train.epochs: must be a whole number of at least 1; it is 0. (from --set train.epochs=0)",
        ),
        ("train.epoch=1", "0:0: train.epoch: unknown key. Did you mean 'epochs'? (from --set train.epoch=1)"),
        ("train.epochs", "a value is set by PATH=VALUE, such as train.epochs=5. (from --set train.epochs)"),
        ("=5", "a path is written as words with dots between them"),
        ("train..epochs=5", "a path is written as words with dots between them"),
        ("data.steps.7=scale", "'data.steps' has 1 items, counted from 0; there is no 7."),
        ("data.steps.x=scale", "its items are reached by number, data.steps.0 being the first, not by 'x'."),
        ("train.epochs.x=5", "'train.epochs' is 5 and has no key 'x'."),
        ("train.optimizer.beta3=5", "'train.optimizer' is opened (choice), and no option has 'beta3'."),
        ("model.dropout.low=0", "'model.dropout' is opened (uniform), and no option has 'low'."),
        ("train.l1=[1", "a list or mapping in brackets is not closed"),
        ("train.l1=\0", "the character U+0000 cannot stand in a page"),
        ("train.l1=010", "010 is octal to some readers"),
    ],
)
def test_a_bad_setting_names_itself(faults: Any, setting: str, expected: str) -> None:
    found = faults(SEARCH, set=[setting])
    assert len(found) == 1
    assert expected in found[0]
    assert f"(from --set {setting})" in found[0]


# --- closing ------------------------------------------------------------------------------------


def test_close_makes_the_page_of_one_trial(read: Any) -> None:
    page = read(SEARCH)
    params = {
        "model.widths.1": 9,
        "model.dropout": 0.25,
        "train.batch_size": 32,
        "train.optimizer": "sgd",
        "train.optimizer.lr": 0.5,
        "train.optimizer.momentum": 0.3,
        "train.early_stopping": "choice 2",
        "train.early_stopping.patience": 2,
    }
    trial = reading.close(page, params)
    assert not trial.space
    assert not trial.is_search
    assert trial.model["widths"] == (64, 9)
    assert trial.train.optimizer.type == "sgd"
    assert trial.train.optimizer["lr"] == 0.5
    assert trial.train.early_stopping is not None
    assert trial.train.early_stopping.patience == 2
    assert trial.file == page.file
    assert read(reading.dump(trial)) == trial
    fewer = {path: params[path] for path in ("model.widths.1", "model.dropout", "train.batch_size")}
    other = {"train.optimizer": "adam#2", "train.early_stopping": None, "train.epochs": 1}
    second = reading.close(page, fewer | other)
    assert (second.train.optimizer["lr"], second.train.early_stopping, second.train.epochs) == (0.001, None, 1)


def test_a_word_alone_is_the_run_to_start_from(read: Any) -> None:
    head = DATA + "model: mlp\n"
    assert read(head + "train: {from: r}\n").train == read(head + "train: {from: {run: r}}\n").train
    with pytest.raises(PageError, match=r"train\.from: must be a mapping"):
        read(head + "train: {from: 3}\n")


def test_a_trial_s_page_finds_the_files_beside_the_first_page(read: Any, tmp_path: Path) -> None:
    """The page of a trial is kept in a run folder, away from the data that the first page names."""
    (tmp_path / "rows.csv").write_text("x,y\n1,2\n")
    (tmp_path / "first-run").mkdir()
    text = (
        "data: {source: {type: csv, path: ./rows.csv, encoding: utf-8}}\nmodel: mlp\ntrain: {from: {run: first-run}}\n"
    )
    page = read(text)
    assert page.data.source["path"] == str(tmp_path / "rows.csv")
    assert page.train.start is not None
    assert page.train.start.run == str(tmp_path / "first-run")
    elsewhere = tmp_path / "first-run" / "page.yaml"
    elsewhere.write_text(reading.dump(page))
    assert reading.load(elsewhere).tree == page.tree
    missing = read(text.replace("rows.csv", "none.csv"))
    assert missing.data.source["path"] == "./none.csv", "what is not there is left for the data room to say"


def test_close_says_what_is_left_open(read: Any) -> None:
    page = read(SEARCH)
    with pytest.raises(PageError, match=r"train.optimizer.lr: is opened \(log\) and is given no value"):
        reading.close(
            page, {"model.widths.1": 9, "model.dropout": 0, "train.batch_size": 16, "train.optimizer": "adam"}
        )


def test_manual_trials_are_checked_as_pages(read: Any, faults: Any) -> None:
    text = DATA + textwrap.dedent(
        """\
        model: {type: mlp, dropout: {uniform: [0, 0.5]}}
        train: {optimizer: {choice: [adam, sgd]}}
        search:
          method: manual
          trials:
            - {model.dropout: 0.1, train.optimizer: sgd, train.optimizer.momentum: 0.9}
            - {model.dropout: 0.2, train.optimizer: {type: rmsprop, alpha: 0.5}, model.widths: [4]}
            - {model.dropout: 2, train.optimizer: adam}
            - {train.optimizer: adam}
            - {model.dropout: 0.1, train.optimizer: adam, train.optimizer.momentum: 0.3}
            - {model.dropout: 0.1, train.optimizer: nadam}
        """
    )
    assert [fault.partition(": ")[2] for fault in faults(text)] == [
        "search.trials.2: model.dropout: must be a number of at least 0 and below 1; it is 2.",
        "search.trials.3: model.dropout: is opened (uniform) and is given no value.",
        "search.trials.4: train.optimizer.momentum: unknown key of optimizer 'adam'. "
        "Known: lr, beta1, beta2, eps, weight_decay.",
        "search.trials.5: train.optimizer: unknown optimizer 'nadam'. Did you mean 'adam'? "
        "A part of your own is written package.module:Class.",
    ]
    good = "\n".join(text.splitlines()[:-4])
    page = read(good)
    assert page.is_search
    assert isinstance(page.search.trials, tuple)
    first, second = (reading.close(page, trial) for trial in page.search.trials)
    assert first.train.optimizer["momentum"] == 0.9
    assert (second.train.optimizer["alpha"], second.model["widths"]) == (0.5, (4,))
    assert second.search.trials is None


ends = st.floats(-0.5, 1.5).map(lambda x: round(x, 3))
counts = st.integers(-2, 40)


@settings(deadline=None, max_examples=60)
@given(
    dropout=st.tuples(st.sampled_from(["uniform", "log"]), ends, ends),
    widths=st.tuples(st.sampled_from(["int", "log_int"]), counts, counts),
    keep=st.lists(st.integers(-1, 5) | st.just("x") | st.none(), max_size=3),
    smooth=st.tuples(ends, ends, ends),
)
def test_a_trial_never_dies_of_a_page_that_was_accepted(dropout: Any, widths: Any, keep: Any, smooth: Any) -> None:
    tree = {
        "data": {"source": {"type": "sklearn", "name": "digits"}},
        "model": {"type": "mlp", "dropout": {dropout[0]: dropout[1:]}, "widths": [{widths[0]: widths[1:]}, 3]},
        "train": {
            "loss": {"choice": ["auto", {"type": "cross_entropy", "label_smoothing": {"step": smooth}}]},
            "checkpoint": {"keep": {"choice": keep}},
        },
    }
    try:
        page = reading.from_tree(tree)
    except PageError:
        return
    for number in range(5):
        reading.close(page, random_point(page.tree, 0, number))


# --- parts of one's own -------------------------------------------------------------------------


def test_a_part_beside_the_page(read: Any, faults: Any, tmp_path: Path) -> None:
    (tmp_path / "beside_the_page.py").write_text(
        textwrap.dedent(
            '''
            from dataclasses import dataclass
            from typing import Annotated, Literal
            from pydantic import AfterValidator, Field
            from torch import nn
            from nnopt_ray.experiment import Fixed, InRoom
            from nnopt_ray.tables import Part

            def even(value: int) -> int:
                if value % 2:
                    raise ValueError("must be even")
                return value

            class Net(nn.Module):
                """A network.

                Keys:
                    heads: how many.
                """
                def __init__(self, shapes, *, heads: Annotated[int, Field(ge=1), AfterValidator(even)] = 2,
                             inner: Annotated[Part, InRoom("model")] = Part("baseline"),
                             json: str = "", copy: int = 1,
                             pair: tuple[int, str] = (1, "a"), table: dict[str, float] = {}, anything=None,
                             rate: float = None, several: tuple[Annotated[Part, InRoom("step")], ...] = (),
                             fixed: Annotated[int, Fixed("it is a constant")] = 1, needed: list[int] | None):
                    super().__init__()

            class Bare(nn.Module):
                pass
            '''
        )
    )
    page = read(
        DATA + "model: {type: 'beside_the_page:Net', needed: [1], inner: {type: mlp, dropout: {uniform: [0, 0.5]}}}\n"
    )
    assert page.model.type == "beside_the_page:Net"
    assert page.model["inner"].type == "mlp"
    assert page.model["needed"] == [1]
    assert [path for path, _ in page.space] == ["model.inner.dropout"]
    assert read(reading.dump(page)) == page, "also a default that its own annotation refuses"
    assert read(DATA + "model: 'beside_the_page:Bare'\n").model.keys == {}
    found = faults(
        DATA
        + textwrap.dedent(
            """\
            model:
              type: beside_the_page:Net
              heads: 3
              inner: {type: mlp, droput: 1}
              pair: [1, 2]
              table: {a: x}
              several: [scale, {type: encoda}]
              fixed: {choice: [1, 2]}
              more: 1
            """
        )
    )
    assert [fault.partition(": ")[2] for fault in found] == [
        "model.needed: is missing. Give a list, each item a whole number, or null.",
        "model.heads: must be even; it is 3.",
        "model.inner.droput: unknown key of model 'mlp'. Did you mean 'dropout'?",
        "model.pair.1: must be a word; it is 2. Put it in quotes: '2'.",
        "model.table.a: must be a number; it is 'x'.",
        "model.several.1: unknown step 'encoda'. Did you mean 'encode'? "
        "A part of your own is written package.module:Class.",
        "model.fixed: no range may stand here: it is a constant. Give one value.",
        "model.more: unknown key of model 'beside_the_page:Net'. Known: "
        "heads, inner, json, copy, pair, table, anything, rate, several, fixed, needed.",
    ]


def test_an_import_that_fails_is_a_fault_of_the_page(faults: Any, tmp_path: Path) -> None:
    (tmp_path / "raises_on_import.py").write_text("raise RuntimeError('no licence')\n")
    (tmp_path / "leaves_on_import.py").write_text("import sys\nsys.exit(3)\n")
    assert (
        "importing 'raises_on_import' failed: RuntimeError: no licence"
        in faults(DATA + "model: raises_on_import:X\n")[0]
    )
    assert "importing 'leaves_on_import' failed: SystemExit: 3" in faults(DATA + "model: leaves_on_import:X\n")[0]


# --- speed and imports --------------------------------------------------------------------------


def test_check_never_imports_ray(tmp_path: Path) -> None:
    page = tmp_path / "page.yaml"
    page.write_text(SEARCH)
    code = (
        "import sys\nfrom nnopt_ray.cli.main import code\ndone = code(['check', sys.argv[1]])\n"
        "heavy = {'ray', 'torch', 'pandas', 'sklearn', 'pyarrow', 'plotly', 'optuna', 'scipy'} & set(sys.modules)\n"
        "print(done, sorted(heavy), file=sys.stderr)"
    )

    def imported(text: str) -> str:
        page.write_text(text)
        done = subprocess.run([sys.executable, "-c", code, str(page)], capture_output=True, text=True, check=True)
        return done.stderr.splitlines()[-1]

    assert imported(SEARCH) == "0 ['torch']", "torch for the signature of the model, nothing else"
    assert imported("name: 'x\n") == "2 []", "a page that is no YAML needs no part"


def test_reading_is_fast_once_parts_are_known(read: Any) -> None:
    """Workers close a page per trial. Measured: 1 ms; the limit leaves room for a busy machine."""
    tree = plain(read(SEARCH).tree)
    best = math.inf
    for _ in range(30):
        started = time.perf_counter()
        reading.from_tree(tree)
        best = min(best, time.perf_counter() - started)
    assert best < 0.02
