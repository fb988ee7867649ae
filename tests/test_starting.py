"""`nnopt init`: whatever the data is, the page passes the check, and what was seen stands on it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from nnopt_ray import reading, runs
from nnopt_ray.cli.main import main
from nnopt_ray.data.prepare import prepare
from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Experiment
from nnopt_ray.starting.found import find
from nnopt_ray.starting.start import Started, start
from nnopt_ray.starting.written import word

ROWS = 120
WORDS = ("a", "good", "bad", "film", "was", "very", "never", "again", "like", "this", "story", "of", "love", "war")


def customers(place: Path, rows: int = 600) -> str:
    """Journey: mixed columns, missing values, a date in words, an identifier, 8 % positives."""
    random = np.random.default_rng(0)
    lines = ["customer_id,age,income,plan,city,signup,note,churned"]
    for row in range(rows):
        age = "" if row % 9 == 0 else str(random.integers(18, 90))
        day = date(2019, 1, 1) + timedelta(days=int(random.integers(0, 1500)))
        note = " ".join(random.choice(WORDS, 8))
        lines.append(
            f"C{row:05},{age},{np.exp(random.normal(9, 1.2)):.2f},{random.choice(['basic', 'plus'])},"
            f"city{random.integers(0, 30)},{day:%d.%m.%Y},{note},{'yes' if row % 25 < 2 else 'no'}"
        )
    place.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(place)


def german(place: Path) -> str:
    random = np.random.default_rng(1)
    lines = ["größe;alter;Klasse"]
    for row in range(ROWS):
        size = f"{random.normal():.3f}".replace(".", ",")
        lines.append(f"{size};{'?' if row % 17 == 0 else random.integers(1, 90)};{'ja' if row % 2 else 'nein'}")
    place.write_text("\n".join(lines), encoding="latin-1")
    return str(place)


def patients(place: Path) -> str:
    random = np.random.default_rng(2)
    lines = [f"{row // 4}\t{random.normal():.3f}\t{random.normal():.4f}" for row in range(ROWS)]
    place.write_text("\n".join(["patient_id\tx\tweight", *lines]), encoding="utf-8")
    return str(place)


def arrow(place: Path) -> str:
    random = np.random.default_rng(3)
    table = pa.table({"x": random.normal(size=ROWS), "label": [f"c{row % 3}" for row in range(ROWS)]})
    if place.suffix == ".parquet":
        parquet.write_table(table, place)
    else:
        feather.write_feather(table, place)
    return str(place)


def arrays(place: Path, shape: tuple[int, ...], dtype: Any = float, **more: np.ndarray) -> str:
    random = np.random.default_rng(4)
    x = random.integers(0, 255, (ROWS, *shape)).astype(dtype)
    np.savez(place, x=x, y=random.integers(0, 3, ROWS), **more)
    return str(place)


def pictures(place: Path) -> str:
    from PIL import Image

    random = np.random.default_rng(5)
    for row in range(40):
        folder = place / ("cat" if row % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 255, (20 + row % 5, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")
    return str(place)


def reviews(place: Path) -> str:
    random = np.random.default_rng(6)
    for row in range(60):
        folder = place / ("pos" if row % 2 else "neg")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row}.txt").write_text(" ".join(random.choice(WORDS, 12)), encoding="utf-8")
    return str(place)


def book(place: Path) -> str:
    random = np.random.default_rng(7)
    place.write_text("\n".join(" ".join(random.choice(WORDS, 9)) for _ in range(300)), encoding="utf-8")
    return str(place)


def opinions(place: Path) -> str:
    random = np.random.default_rng(8)
    rows = [f"{' '.join(random.choice(WORDS, 9))},{'good' if row % 2 else 'bad'}" for row in range(ROWS)]
    place.write_text("\n".join(["review,stars", *rows]), encoding="utf-8")
    return str(place)


def idx(place: Path) -> str:
    random = np.random.default_rng(9)
    place.mkdir()
    for part, rows in (("train", 100), ("t10k", 30)):
        pixels = random.integers(0, 255, (rows, 12, 12)).astype(np.uint8)
        labels = random.integers(0, 2, rows).astype(np.uint8)
        (place / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, rows, 12, 12) + pixels.tobytes())
        (place / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, rows) + labels.tobytes())
    return str(place)


Make = Callable[[Path], str]
# Each kind of data → what makes it, the target to name (None: it is obvious), the model on the page.
KINDS: dict[str, tuple[Make, str | None, str]] = {
    "mine.csv": (customers, "churned", "mlp"),
    "german.csv": (german, "Klasse", "mlp"),
    "patients.tsv": (patients, "weight", "mlp"),
    "t.parquet": (arrow, None, "mlp"),
    "t.feather": (arrow, None, "mlp"),
    "table.npz": (lambda place: arrays(place, (5,)), None, "mlp"),
    "images.npz": (lambda place: arrays(place, (9, 9), np.uint8), None, "resnet"),
    "walks.npz": (lambda place: arrays(place, (20, 2), lengths=np.arange(ROWS) % 10 + 5), None, "rnn"),
    "pictures": (pictures, None, "resnet"),
    "reviews": (reviews, None, "bert"),
    "book.txt": (book, None, "gpt"),
    "opinions.csv": (opinions, "stars", "bert"),
    "idx": (idx, None, "resnet"),
}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NNOPT_CACHE", str(tmp_path / "cache"))


def begun(kind: str, **keys: Any) -> tuple[Started, Experiment]:
    make, target, _ = KINDS[kind]
    done = start(make(Path(kind)), target=target, **keys)
    return done, reading.load(done.page)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("search", [True, False])
def test_the_page_passes_the_check_and_its_data_can_be_prepared(kind: str, search: bool) -> None:
    done, page = begun(kind, search=search)
    assert page.model.type == KINDS[kind][2]
    assert page.is_search == search
    assert max(map(len, done.text.splitlines())) <= 120
    assert len(done.seen) <= 12
    if search:
        data = prepare(page)
        assert min(map(len, (data.train, data.validation, data.test))) > 0
        assert data.shapes.task == done.task


@pytest.mark.parametrize("kind", ["mine.csv", "pictures", "opinions.csv", "book.txt", "walks.npz"])
def test_the_page_runs_to_its_end(kind: str) -> None:
    done, _ = begun(kind, search=False)
    run = runs.run(reading.load(done.page, set={"train.epochs": 1, "evaluate.bootstrap": 20}))
    assert run.result["status"] == "finished"


def test_what_was_seen_in_a_csv_stands_on_its_page() -> None:
    done, page = begun("mine.csv")
    assert page.metric == "val_f1"
    assert "'yes' 8 %" in done.text
    assert set(page.data.ignore) == {"customer_id", "note"}
    by_type = {(step.type, step.keys.get("method")): step.keys for step in page.data.steps}
    assert by_type["impute", None]["indicator"] is True
    assert by_type["scale", "quantile"]["columns"] == ("income",)
    assert by_type["scale", "standard"]["columns"] == ("age", "signup")
    assert by_type["encode", "one_hot"]["columns"] == ("plan",)
    assert by_type["encode", "embedding"]["columns"] == ("city",)
    assert "# split: {type: time, column: signup}" in done.text
    assert "train.loss" in [path for path, _ in page.space]


def test_a_csv_of_another_country_is_read() -> None:
    _, page = begun("german.csv")
    source = page.data.source.keys
    assert (source["delimiter"], source["decimal"], source["missing"]) == (";", ",", ("?",))
    kinds = {column.name: column.kind for column in prepare(page).summary.columns}
    assert kinds == {"größe": "numeric", "alter": "numeric", "Klasse": "target"}


def test_a_key_that_repeats_is_offered_as_a_group() -> None:
    done, page = begun("patients.tsv")
    assert page.data.ignore == ("patient_id",)
    assert "# split: {type: grouped, group: patient_id}" in done.text


def test_what_is_there_is_kept() -> None:
    begun("t.parquet")
    Path("t.yaml").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"t\.yaml is there already and is kept.*--force"):
        start("t.parquet")
    assert Path("t.yaml").read_text(encoding="utf-8") == "mine"
    start("t.parquet", force=True)
    assert reading.load("t.yaml").name == "t"


def test_a_page_elsewhere_finds_its_data() -> None:
    Path("pages").mkdir()
    done = start(arrow(Path("t.parquet")), out=Path("pages/p.yaml"))
    page = reading.load(done.page)
    assert "path: ../t.parquet" in done.text
    assert prepare(page).summary.rows == ROWS


@pytest.mark.parametrize(
    ("data", "target", "said"),
    [
        ("mine.cvs", "churned", r"there is no file or folder mine\.cvs\. Did you mean 'mine\.csv'\?"),
        ("mine.csv", "chruned", r"has no column 'chruned'\. Did you mean 'churned'\?"),
        ("mine.csv", None, r"which column is to be predicted\? Say it: --target NAME.*'churned'"),
        ("mine.csv", "customer_id", r"'customer_id' holds 600 different texts in 600 rows: too many for classes"),
        ("hollow.csv", "y", r"the column 'y' has no value in any row"),
        ("single.csv", "y", r"1 row is too few"),
        ("same.csv", "y", r"'y' is '1' in every row: there is nothing to predict"),
        ("few.csv", "y", r"4 rows are too few"),
        ("only.csv", "y", r"has no column to learn from but the target"),
        ("empty.csv", "y", r"empty\.csv is empty"),
        ("some.pdf", None, r"some\.pdf is of no kind that init knows"),
        ("nothing", None, r"the folder nothing holds no file"),
        ("sklearn:digit", None, r"no data set 'digit'\. Did you mean 'digits'\?"),
    ],
)
def test_what_cannot_be_begun_is_said_in_one_sentence(data: str, target: str | None, said: str) -> None:
    customers(Path("mine.csv"))
    Path("hollow.csv").write_text("x,y\n1,\n2,\n", encoding="utf-8")
    Path("single.csv").write_text("x,y\n1,1\n", encoding="utf-8")
    Path("same.csv").write_text("x,y\n" + "1,1\n2,1\n" * 20, encoding="utf-8")
    Path("few.csv").write_text("x,y\n1,a\n2,b\n3,a\n4,b\n", encoding="utf-8")
    Path("only.csv").write_text("id,y\n" + "\n".join(f"k{row},{row % 2}" for row in range(60)), encoding="utf-8")
    Path("empty.csv").touch()
    Path("some.pdf").write_bytes(b"%PDF")
    Path("nothing").mkdir()
    with pytest.raises(UserError, match=said) as error:
        start(data, target=target)
    assert "\n" not in str(error.value)
    assert not list(Path().glob("*.yaml"))


def test_the_verb_says_what_it_saw_and_what_comes_next(capsys: pytest.CaptureFixture[str]) -> None:
    customers(Path("mine.csv"))
    with pytest.raises(SystemExit) as stop:
        main(["init", "mine.csv", "--target", "churned"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 15
    assert lines[-1] == "mine.yaml"
    assert "nnopt run mine.yaml" in lines[-2]
    with pytest.raises(SystemExit) as stop:
        main(["init", "mine.csv", "--target", "churned"])
    assert stop.value.code == 2


@pytest.mark.parametrize(
    "value", ["no", "1", "a: b", "a#b", "ü", "it's", 'a "b"', "a b", "010", "- x", "null", "~", "1e3"]
)
def test_every_word_is_read_back_as_it_was_written(value: str) -> None:
    said = f"data: {{source: {{type: csv, path: a.csv}}, target: {word(value)}, ignore: {word(['x', value])}}}"
    Path("w.yaml").write_text(f"{said}\nmodel: mlp\n", encoding="utf-8")
    page = reading.load("w.yaml")
    assert (page.data.target, page.data.ignore) == (value, ("x", value))


def test_a_bare_sign_among_words_is_a_missing_value_and_a_word_is_not(tmp_path: Path) -> None:
    signs = {0: "?", 1: "unknown"}
    lines = [f"{signs.get(row % 10, 'abc'[row % 3])},{row % 7},{'yn'[row % 2]}" for row in range(ROWS)]
    (tmp_path / "plans.csv").write_text("\n".join(["plan,x,y", *lines]) + "\n", encoding="utf-8")
    found = find(str(tmp_path / "plans.csv"), tmp_path, "y")
    assert found.keys["missing"] == ["?"]
