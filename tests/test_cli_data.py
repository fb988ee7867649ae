"""nnopt data: what is wrong with the data of a page, on one screen, as JSON and as a list of rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

import nnopt_ray as nn
from nnopt_ray.cli import main
from nnopt_ray.data import CHECKS
from nnopt_ray.data.prepare import prepare


def written(folder: Path, **data: object) -> Path:
    """A page on 300 rows: 30 copies, a constant column, a column that is mostly empty, 5 rows without a target."""
    random = np.random.default_rng(0)
    rows = [f"{a:.3f},{b:.3f},{'' if n % 9 else n},DE" for n, (a, b) in enumerate(random.normal(size=(270, 2)))]
    rows += [f"{row.rsplit(',', 2)[0]},,DE" for row in rows[1:31]]
    labels = ["" if n in range(100, 105) else "yes" if row.startswith("-") else "no" for n, row in enumerate(rows)]
    lines = [f"{row},{label}" for row, label in zip(rows, labels, strict=True)]
    (folder / "rows.csv").write_text("a,b,gaps,country,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    data = {"source": {"type": "csv", "path": "rows.csv"}, "target": "label", "steps": ["impute", "scale"], **data}
    place = folder / "page.yaml"
    place.write_text(yaml.safe_dump({"data": data, "model": "mlp"}), encoding="utf-8")
    return place


QUALITY = [{"type": "missing", "action": "drop"}, "drop_duplicates"]


def test_every_check_is_run_and_what_the_page_would_do_is_what_it_does(tmp_path: Path) -> None:
    page = nn.load(written(tmp_path, quality=QUALITY))
    found = nn.examine(page)
    told = {one.check for one in found.findings} | set(found.nothing) | set(found.skipped)
    assert told == set(CHECKS) - {"duplicates"}  # for which drop_duplicates is short
    assert found.named == ("missing", "drop_duplicates")
    severities = [("high", "middle", "low").index(one.severity) for one in found.findings]
    assert severities == sorted(severities)
    dataset = prepare(page, tmp_path / "cache")
    with (dataset.folder / "audit.csv").open(encoding="utf-8") as file:
        lines = [tuple(line.values()) for line in csv.DictReader(file) if line["action"] != "left out"]
    assert lines == [tuple("" if value is None else str(value) for value in line) for line in found.audit]
    assert sum(found.would.values()) == len(lines) > 1


def test_a_page_without_quality_is_looked_at_and_nothing_is_repaired(tmp_path: Path) -> None:
    found = nn.examine(nn.load(written(tmp_path)))
    assert found.would == {}
    assert all(not one.repaired for one in found.findings)
    copies = [one for one in found.findings if one.check == "duplicates"]
    assert sum(one.rows for one in copies) > 0
    assert not [one for one in found.findings if one.check == "near_duplicates"]  # exact ones are told once
    assert found.rows == 295
    assert sum(found.parts.values()) == 295


def test_one_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    page = written(tmp_path, quality=QUALITY)
    before = sorted(tmp_path.rglob("*"))
    assert main.code(["data", str(page)]) == 0
    out, _ = capsys.readouterr()
    assert sorted(tmp_path.rglob("*")) == before  # nothing is written
    lines = out.splitlines()
    assert len(lines) < 50
    assert max(map(len, lines)) <= 100
    assert "295 rows with a target" in lines[0]
    assert "by the page  1 column dropped" in out
    assert "was found by" in out
    assert lines[-2].split()[:2] == ["the", "page"] or lines[-1].split()[:2] == ["the", "page"]


def test_json_and_the_list_of_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, listed = written(tmp_path, quality=QUALITY), tmp_path / "found.csv"
    assert main.code(["data", str(page), "--json", "--out", str(listed)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is True
    assert said["parts"] == {"train": 192, "validation": 44, "test": 59}
    with listed.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name in {one["check"] for one in said["findings"]}:
        expected = sum(one["rows"] for one in said["findings"] if one["check"] == name)
        assert sum(row["check"] == name and row["source_row"] != "" for row in rows) == expected
    dropped = [row for row in rows if row["action"] == "dropped"]
    assert len(dropped) == said["would"]["dropped"]
    assert {row["part"] for row in dropped} == {"train"}
    assert [row["column"] for row in rows if row["action"] == "column dropped"] == ["gaps"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "found.txt"], "the rows are written as a .csv file"),
        (["--out", "nowhere/found.csv"], "into a folder that is there"),
        (["--set", "data.target=lable"], "Did you mean 'label'"),
        (["--set", "data.quality=[{type: duplicates, ignore: [c]}]"], "has no column 'c'"),
        (["--set", "data.quality=[{type: duplicates, action: dorp}]"], "Did you mean drop"),
    ],
)
def test_faults_are_one_sentence(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.code(["data", str(written(tmp_path)), *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def test_a_check_that_cannot_look_is_left_out_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(f"a line of text number {n}" for n in range(60)), encoding="utf-8")
    data = {
        "source": {"type": "text_lines", "path": "texts.txt"},
        "task": "language_modelling",
        "steps": [{"type": "tokenize", "method": "words"}],
    }
    place = tmp_path / "page.yaml"
    place.write_text(yaml.safe_dump({"data": data, "model": "gpt"}), encoding="utf-8")
    found = nn.examine(nn.load(place))
    assert {"missing", "label_errors", "leaks"} <= set(found.skipped)
    assert "makes no sense of the texts of a language task" in found.skipped["missing"]
    assert found.task == "language_modelling"
