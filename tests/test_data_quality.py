"""Checks of the data through the page: what is found, what is repaired, and the audit of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data_example import csv_page, page
from pyarrow import csv as arrow_csv

from nnopt_ray import reading
from nnopt_ray.data.prepare import prepare
from nnopt_ray.data.quality import Check, Examined, Finding, Repair
from nnopt_ray.data.store import read_summary
from nnopt_ray.data.types import Dataset
from nnopt_ray.errors import DataError, PageError, PartError

ROWS = 600


def messy(rows: int = ROWS, seed: int = 3) -> pa.Table:
    """A customer table of which much is wrong. Rows 100..149 are copies of 0..49, rows 150..159 of 50..59 but with the
    other class; the last 40 rows have no target."""
    random = np.random.default_rng(seed)
    age, income = random.normal(45, 12, rows).round(3), random.lognormal(10, 0.6, rows).round(2)
    label = np.where(age + random.normal(0, 5, rows) > 45, "yes", "no")
    for column in (age, income, label):
        column[100:160] = column[0:60]
    label[150:160] = np.where(label[50:60] == "yes", "no", "yes")
    return pa.table(
        {
            "customer_id": random.permutation(rows),
            "age": age,
            "income": income,
            "fax": pa.array(random.normal(size=rows), mask=random.random(rows) < 0.8),
            "country": ["DE"] * rows,
            "label": pa.array(label.tolist(), mask=np.arange(rows) >= rows - 40),
        }
    )


def prepared(rows: pa.Table, folder: Path, **data: Any) -> Dataset:
    arrow_csv.write_csv(rows, folder / "t.csv")
    data = {"target": "label", "steps": ["impute", "scale"], **data}
    return prepare(page({"type": "csv", "path": str(folder / "t.csv")}, **data), folder / "cache")


def audit(dataset: Dataset) -> list[dict[str, str]]:
    with (dataset.folder / "audit.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def parts(dataset: Dataset) -> dict[str, list[int]]:
    return {name: getattr(dataset, name).source_rows.tolist() for name in ("train", "validation", "test")}


REPAIRS = [{"type": "missing", "action": "drop"}, {"type": "conflicts", "action": "drop"}, "drop_duplicates"]


def test_the_audit_accounts_for_every_row_of_the_source(tmp_path: Path) -> None:
    plain, repaired = prepared(messy(), tmp_path), prepared(messy(), tmp_path, quality=REPAIRS)
    before, after = parts(plain), parts(repaired)
    assert (after["validation"], after["test"]) == (before["validation"], before["test"])
    lines = audit(repaired)
    assert list(lines[0]) == ["source_row", "part", "action", "reason", "column", "before", "after"]
    gone = [int(line["source_row"]) for line in lines if line["action"] in ("left out", "dropped")]
    stored = [row for rows in after.values() for row in rows]
    assert len(set(gone)) == len(gone)
    assert sorted(gone + stored) == list(range(ROWS))
    assert {int(line["source_row"]) for line in lines if line["action"] == "left out"} == set(range(ROWS - 40, ROWS))
    assert {line["part"] for line in lines if line["action"] == "dropped"} == {"train"}
    columns = [line for line in lines if line["action"] == "column dropped"]
    assert [(line["source_row"], line["part"], line["column"]) for line in columns] == [("", "", "fax")]
    left = {column.name: column.note for column in repaired.summary.columns if column.kind == "dropped"}
    assert left["fax"].endswith("of the training rows (data.quality: missing)")
    assert not any(note.startswith("Column 'fax'") for note in repaired.summary.notes)


def test_planted_copies_are_found_all_of_them_and_no_others(tmp_path: Path) -> None:
    """Copies and conflicts of the training part as they were planted: precision and recall are 1."""
    plain, repaired = prepared(messy(), tmp_path), prepared(messy(), tmp_path, quality=REPAIRS)
    train, elsewhere = set(parts(plain)["train"]), set(parts(plain)["validation"] + parts(plain)["test"])
    expected = set()
    for first in range(50):
        pair = {first, first + 100} & train
        expected |= pair if pair and {first, first + 100} & elsewhere else {max(pair)} if len(pair) == 2 else set()
    for first in range(50, 60):  # of conflicts both go, and those with a row of another part are copies of it
        expected |= {first, first + 100} & train if len({first, first + 100} & train) else set()
    assert {int(line["source_row"]) for line in audit(repaired) if line["action"] == "dropped"} == expected
    found = {(f.check, f.severity): f for f in repaired.summary.quality}
    assert found["drop_duplicates", "high"].rows > 0
    assert found["drop_duplicates", "middle"].rows > 0
    assert found["conflicts", "middle"].rows > 0
    assert sum(found.repaired.get("dropped", 0) for found in repaired.summary.quality) == len(expected)


def test_majority_decides_and_a_tie_stays(tmp_path: Path) -> None:
    rows = [f"{n}.25,{n % 2}\n" for n in range(200)]
    rows += [f"{n}.25,{wrong}\n" for n in range(20) for wrong in (n % 2, 1 - n % 2)] + ["50.25,1\n"]
    made = csv_page(
        tmp_path / "t.csv",
        "x,label\n" + "".join(rows),
        target="label",
        quality=[{"type": "conflicts", "action": "relabel"}],
    )
    lines = [line for line in audit(prepare(made, tmp_path / "cache")) if line["action"] == "relabelled"]
    assert lines
    for line in lines:
        number = int(line["source_row"])
        assert (number - 200) % 2 == 1  # the second of each pair, which is wrong
        assert (line["column"], line["before"], line["after"]) == (
            "label",
            str(1 - (number - 200) // 2 % 2),
            str((number - 200) // 2 % 2),
        )
        assert "2 of 3 rows" in line["reason"]


def test_a_report_leaves_every_array_as_it_was(tmp_path: Path) -> None:
    names = ["missing", "constant", "identifiers", "conflicts", "duplicates"]
    plain, reported = prepared(messy(), tmp_path), prepared(messy(), tmp_path, quality=names)
    assert plain.key != reported.key
    for file in sorted(plain.folder.glob("*.npy")):
        assert file.read_bytes() == (reported.folder / file.name).read_bytes()
    for name in ("preprocessing.json", "audit.csv"):
        assert (plain.folder / name).read_bytes() == (reported.folder / name).read_bytes()
    assert reported.summary.checked == tuple(names)
    said = {found.check for found in reported.summary.quality}
    assert said == set(names)
    assert read_summary(reported.folder / "summary.json") == reported.summary
    raw = json.loads((reported.folder / "summary.json").read_text(encoding="utf-8"))["quality"]
    assert {"check", "sentence", "rows", "first_rows", "columns", "measured", "repaired"} <= set(raw[0])
    for found in reported.summary.quality:
        assert all(0 <= number < ROWS and 0 <= sure <= 1 for number, sure in found.first_rows)


def test_checks_run_in_their_own_order_whatever_that_of_the_page(tmp_path: Path) -> None:
    ways = [prepared(messy(), tmp_path, quality=order) for order in (REPAIRS, REPAIRS[::-1])]
    assert ways[0].summary.checked == ways[1].summary.checked == ("missing", "conflicts", "drop_duplicates")
    assert audit(ways[0]) == audit(ways[1])


def test_the_validation_part_is_repaired_where_parts_says_so(tmp_path: Path) -> None:
    plain = parts(prepared(messy(), tmp_path))
    quality = [{"type": "drop_duplicates", "parts": ["train", "validation"]}]
    found = parts(prepared(messy(), tmp_path, quality=quality))
    assert found["test"] == plain["test"]
    gone = set(plain["validation"]) - set(found["validation"])
    assert gone
    for row in gone:  # its twin is in the test part, or before it in the validation part
        twin = row - 100 if row >= 100 else row + 100
        assert twin in plain["test"] or (twin in found["validation"] and twin < row)


def test_a_search_may_open_the_checks_but_not_what_trials_are_compared_on(tmp_path: Path) -> None:
    quality: dict[str, Any] = {"choice": [[], ["drop_duplicates"]]}
    assert page({"type": "sklearn", "name": "iris"}, quality=quality).is_search
    quality["choice"][1] = [{"type": "drop_duplicates", "parts": ["train", "validation"]}]
    with pytest.raises(PageError, match=r"data\.quality.*trials are compared on the validation part"):
        page({"type": "sklearn", "name": "iris"}, quality=quality)


@pytest.mark.parametrize(
    ("quality", "said"),
    [
        ([{"type": "duplicates", "action": "dorp"}], "Did you mean drop"),
        ([{"type": "duplicate"}], "Did you mean 'duplicates'"),
        ([{"type": "duplicates", "parts": ["test"]}], "must be"),
        ([{"type": "missing", "columns": 1.5}], "below 1"),
    ],
)
def test_a_wrong_page_is_refused(quality: list[Any], said: str) -> None:
    with pytest.raises(PageError, match=said):
        page({"type": "sklearn", "name": "iris"}, quality=quality)


def test_checks_that_make_no_sense_are_refused() -> None:
    window = {"length": 3, "order": "day"}
    with pytest.raises(PageError, match=r"data\.quality\.0: duplicates makes no sense of the time points"):
        page({"type": "sklearn", "name": "diabetes"}, window=window, quality=["duplicates"])
    with pytest.raises(PageError, match=r"data\.quality\.0: missing makes no sense of texts"):
        reading.from_tree(
            {
                "data": {
                    "source": {"type": "text_lines", "path": "."},
                    "task": "language_modelling",
                    "steps": ["tokenize"],
                    "quality": ["missing"],
                },
                "model": {"type": "gpt", "size": "tiny"},
            }
        )


def test_columns_of_a_forecast_are_dropped_and_its_time_points_are_not(tmp_path: Path) -> None:
    hours = [f"2020-01-{1 + n // 24:02d}T{n % 24:02d}:00:00" for n in range(500)]
    rows = "".join(f"{hour},{n % 7}.5,{'' if n % 5 else n % 3},{n}\n" for n, hour in enumerate(hours))
    data: dict[str, Any] = {
        "target": "y",
        "window": {"length": 4, "horizon": 2, "order": "day"},
        "steps": ["impute"],
        "quality": [{"type": "missing", "action": "drop"}],
    }
    dataset = prepare(csv_page(tmp_path / "t.csv", "day,x,gaps,y\n" + rows, **data), tmp_path / "cache")
    assert [(line["action"], line["column"]) for line in audit(dataset)] == [("column dropped", "gaps")]
    wide = "".join(f"{hour},{'' if n == 9 else n % 7},{n}\n" for n, hour in enumerate(hours))
    data |= {"window": {**data["window"], "past_target": False}, "ignore": ["day"]}
    with pytest.raises(DataError, match=r"missing would change 1 time point, .*Set its action: report"):
        prepare(csv_page(tmp_path / "t.csv", "day,x,y\n" + wide, **data), tmp_path / "cache")


def test_texts_of_a_language_task_that_are_there_twice_are_dropped(tmp_path: Path) -> None:
    words = np.random.default_rng(0).integers(0, 50, (60, 12))
    lines = [" ".join(f"word{number}" for number in row) for row in words]
    (tmp_path / "texts.txt").write_text("\n".join([*lines, *lines[:10]]) + "\n", encoding="utf-8")
    data = {
        "source": {"type": "text_lines", "path": str(tmp_path / "texts.txt")},
        "task": "language_modelling",
        "steps": [{"type": "tokenize", "method": "words", "length": 8}],
    }
    with_copies, without = (
        prepare(reading.from_tree({"data": {**data, "quality": quality}, "model": "gpt"}), tmp_path / "cache")
        for quality in ([], ["drop_duplicates"])
    )
    gone = [int(line["source_row"]) for line in audit(without)]
    assert 1 <= len(gone) <= 10
    assert all(number < 10 or number >= 60 for number in gone)
    assert len(without.train) < len(with_copies.train)


@pytest.mark.parametrize(
    ("quality", "said"),
    [
        ([{"type": "missing", "action": "drop"}], r"missing would leave no training row of the class 'yes'"),
        ([{"type": "constant", "action": "drop", "share": 0.001}], r"constant would leave no column to learn from"),
        ([{"type": "duplicates", "ignore": ["wage"]}], r"duplicates\.ignore: .* no column 'wage'"),
        ([{"type": "duplicates", "ignore": ["age", "income", "fax"]}], r"leaves no column to compare"),
    ],
)
def test_what_cannot_be_is_one_sentence(quality: list[Any], said: str, tmp_path: Path) -> None:
    rows = messy()
    if quality[0]["type"] == "missing":  # nothing is known of a third of the rows, which have one class
        known = np.arange(ROWS) % 3 > 0
        columns = {name: pa.array(rows.column(name).to_numpy(), mask=~known) for name in ("age", "income")}
        rows = pa.table({**columns, "label": np.where(known, "no", "yes")})
    with pytest.raises(DataError, match=said):
        prepared(rows, tmp_path, quality=quality)


def test_relabelling_amounts_is_refused(tmp_path: Path) -> None:
    source = {"type": "sklearn", "name": "diabetes"}
    with pytest.raises(DataError, match=r"relabel needs classes, and the target 'target' is read as amounts"):
        prepare(page(source, quality=[{"type": "conflicts", "action": "relabel"}]), tmp_path)


class Own(Check):
    """A check that does what it is told.

    Keys:
        how: what it does.
        action: fix does it.
    """

    def __init__(self, *, how: str, action: str = "fix") -> None:
        self.how = how
        self.action = action

    def examine(self, data: Examined) -> tuple[Finding, ...]:
        train, test = int(data.train[0]), int(data.parts["test"][0])
        before = str(data.table.columns.column("age")[train].as_py())
        repair = {
            "change": Repair(train, "changed", "too old", "age", before, "17.5"),
            "empty": Repair(train, "changed", "too old", "age", before, ""),
            "test": Repair(test, "dropped", "why not"),
            "column": Repair(-1, "column dropped", "why not", "wage"),
            "beyond": Repair(10**6, "dropped", "why not"),
            "type": Repair(train, "changed", "why not", "age", before, "young"),
            "class": Repair(train, "relabelled", "why not", "", "yes", "perhaps"),
        }[self.how]
        return (Finding("own", "It was told to.", repairs=(repair,)),)


def own(how: str, **keys: Any) -> list[dict[str, Any]]:
    return [{"type": f"{__name__}:Own", "how": how, **keys}]


@pytest.mark.parametrize(("how", "filled"), [("change", ""), ("empty", 33.0)])
def test_a_check_of_ones_own_changes_a_value(how: str, filled: Any, tmp_path: Path) -> None:
    """A value that is missing then is filled by the step."""
    steps = [{"type": "impute", "strategy": "constant", "fill_value": 33.0}]
    plain = prepared(messy(), tmp_path, steps=steps)
    changed = prepared(messy(), tmp_path, steps=steps, quality=own(how))
    (line,) = (line for line in audit(changed) if line["action"] == "changed")
    first = int(np.argmin(plain.train.source_rows))
    assert int(line["source_row"]) == plain.train.source_rows[first]
    assert (line["column"], line["after"]) == ("age", "" if filled else "17.5")
    place = changed.feature_names.index("age")
    assert float(line["before"]) == pytest.approx(plain.train.inputs[0][first, place], rel=1e-6)
    expected = np.array(plain.train.inputs[0])
    expected[first, place] = filled or 17.5
    np.testing.assert_array_equal(changed.train.inputs[0], expected)
    np.testing.assert_array_equal(changed.test.inputs[0], plain.test.inputs[0])


@pytest.mark.parametrize(
    ("how", "keys", "said"),
    [
        ("test", {}, "repairs rows outside the train part; the test part always stays"),
        ("column", {}, "drops the column 'wage', which there is not"),
        ("beyond", {}, "repairs rows that there are not"),
        ("type", {}, "'age' \\(double\\) cannot hold: .*young"),
        ("class", {}, "the class 'perhaps', which there is not"),
        ("change", {"action": "report"}, "has the action report and asks for repairs"),
    ],
)
def test_a_check_of_ones_own_that_is_at_fault(how: str, keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(PartError, match=said):
        prepared(messy(), tmp_path, quality=own(how, **keys))
