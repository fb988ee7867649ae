"""The cache and the run folder's data: nothing prepared twice, nothing old taken for new, nothing half written used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_example import csv_page, page

from nnopt_ray.data.cache import ArrayFile
from nnopt_ray.data.prepare import default_cache, open_dataset, place, prepare
from nnopt_ray.data.types import Dataset
from nnopt_ray.errors import PartError, RunFailed, RunFolderError

TEXT = "a,label\n" + "".join(f"{n % 7}.5,{'xy'[n % 2]}\n" for n in range(60))
IRIS = {"type": "sklearn", "name": "iris"}


def arrays(dataset: Dataset) -> list[np.ndarray]:
    return [
        array
        for rows in (dataset.train, dataset.validation, dataset.test)
        for array in (*rows.inputs, rows.target, rows.source_rows)
    ]


def assert_same(one: Dataset, other: Dataset) -> None:
    assert (one.key, one.shapes, one.classes, one.feature_names, one.summary) == (
        other.key, other.shapes, other.classes, other.feature_names, other.summary,
    )  # fmt: skip
    for first, second in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_same_data_and_steps_are_prepared_once(tmp_path: Path) -> None:
    made = page(IRIS, steps=["scale"])
    first = prepare(made, tmp_path)
    stamp = first.folder.stat().st_mtime_ns
    second = prepare(made, tmp_path)
    assert (first.reused, second.reused) == (False, True)
    assert second.folder.stat().st_mtime_ns == stamp
    assert_same(first, second)


def test_the_same_file_in_another_place_is_the_same_data(tmp_path: Path) -> None:
    """As when a job is unpacked into a folder of its own."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = (csv_page(tmp_path / name / "t.csv", TEXT, target="label") for name in ("one", "two"))
    first, second = prepare(one, tmp_path / "cache"), prepare(two, tmp_path / "cache")
    assert second.reused
    assert_same(first, second)


def test_arrays_are_memory_mapped_and_read_only(tmp_path: Path) -> None:
    for array in arrays(prepare(page(IRIS), tmp_path)):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


def test_changed_data_of_the_same_size_and_time_is_new(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    made = csv_page(file, TEXT, target="label")
    stat = file.stat()
    first = prepare(made, tmp_path / "cache")
    changed = TEXT.replace("3.5", "9.5")
    file.write_text(changed)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    second = prepare(made, tmp_path / "cache")
    assert not second.reused
    assert second.key != first.key
    assert 9.5 in second.train.inputs[0]
    assert 9.5 not in first.train.inputs[0]


def test_everything_in_the_data_section_counts(tmp_path: Path) -> None:
    diabetes = {"type": "sklearn", "name": "diabetes"}
    variants: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (diabetes, {}),
        ({"type": "sklearn", "name": "wine"}, {}),
        (diabetes, {"target": "bmi"}),
        (diabetes, {"task": "regression"}),
        (diabetes, {"ignore": ["bmi"]}),
        (diabetes, {"ignore": ["age"]}),
        (diabetes, {"split": {"type": "random", "seed": 1}}),
        (diabetes, {"split": {"type": "random", "seed": 2}}),
        (diabetes, {"split": {"type": "random", "test": 0.25, "seed": 2}}),
        (diabetes, {"steps": ["scale"]}),
        (diabetes, {"steps": [{"type": "scale", "method": "minmax"}]}),
        (diabetes, {"scale_target": False}),
    ]
    keys = [prepare(page(source, **data), tmp_path).key for source, data in variants]
    assert len(set(keys)) == len(variants)


def test_two_processes_preparing_at_once_do_not_collide(tmp_path: Path) -> None:
    begin = tmp_path / "begin"
    (tmp_path / "t.csv").write_text(TEXT)
    program = textwrap.dedent(
        f"""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from data_example import page
        from nnopt_ray.data.prepare import prepare
        import pyarrow.compute, pyarrow.csv  # so that both begin at the same moment
        made = page({{"type": "csv", "path": {str(tmp_path / "t.csv")!r}}}, target="label", steps=["scale"])
        print("ready", flush=True)
        while not Path({str(begin)!r}).exists():
            time.sleep(0.002)
        dataset = prepare(made, Path({str(tmp_path / "cache")!r}))
        print(dataset.key, float(dataset.train.inputs[0].sum()))
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        made = page({"type": "csv", "path": str(tmp_path / "t.csv")}, target="label", steps=["scale"])
        begin.touch()
        here = prepare(made, tmp_path / "cache")
        told, _ = other.communicate(timeout=120)
    assert other.returncode == 0
    assert told.split() == [here.key, str(float(here.train.inputs[0].sum()))]
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [here.key]


def _cut(file: Path) -> None:
    content = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(content[: len(content) // 2])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.chmod(0o644)
    file.write_bytes(bytes(content))


DAMAGE: list[tuple[str, Callable[[Path], None]]] = [
    ("train.table.npy", _cut),
    ("train.table.npy", _flip),
    ("test.target.npy", Path.unlink),
    ("dataset.json", _flip),
    ("summary.json", _cut),
    ("preprocessing.json", _flip),
    ("audit.csv", Path.unlink),
    ("manifest.json", Path.unlink),
    ("manifest.json", _cut),
    ("manifest.json", lambda file: file.write_text("{}") and None),
    ("manifest.json", lambda file: file.write_text("[1]") and None),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE)
def test_a_damaged_cache_entry_is_named_and_built_anew(name: str, damage: Any, tmp_path: Path) -> None:
    made = page(IRIS)
    first = prepare(made, tmp_path)
    before = [array.copy() for array in arrays(first)]
    damage(first.folder / name)
    with pytest.raises(RunFolderError) as caught:
        open_dataset(first.folder)
    assert str(first.folder) in str(caught.value)
    second = prepare(made, tmp_path)
    assert not second.reused
    for one, other in zip(before, arrays(second), strict=True):
        np.testing.assert_array_equal(one, other)
    assert prepare(made, tmp_path).reused
    assert [entry.name for entry in tmp_path.iterdir()] == [first.key]


def test_what_a_killed_process_left_is_swept_after_a_day(tmp_path: Path) -> None:
    fresh, old = tmp_path / ".building-fresh", tmp_path / ".building-old"
    for left in (fresh, old):
        left.mkdir()
        (left / "train.table.npy").write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    prepare(page(IRIS), tmp_path)
    assert fresh.is_dir()
    assert not old.exists()


# The run folder


def test_a_run_folder_shares_the_arrays_and_owns_the_rest(tmp_path: Path) -> None:
    dataset = prepare(page(IRIS, steps=["scale"]), tmp_path / "cache")
    placed = place(dataset, tmp_path / "run" / "data")
    assert placed.folder == tmp_path / "run" / "data"
    assert_same(placed, dataset)
    for file in placed.folder.iterdir():
        shared = file.samefile(dataset.folder / file.name)
        assert shared == file.name.endswith(".npy")
    names = {file.name for file in placed.folder.iterdir()}
    assert {"preprocessing.json", "summary.json", "audit.csv", "manifest.json"} <= names
    assert [entry.name for entry in placed.folder.parent.iterdir()] == ["data"]
    assert_same(open_dataset(placed.folder), dataset)
    assert place(dataset, placed.folder).folder == placed.folder  # again, as a resumed run does


def test_another_disk_gets_copies(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    dataset = prepare(page(IRIS), tmp_path)
    target = other / f"nnopt-test-{os.getpid()}"
    try:
        placed = place(dataset, target / "data")
        assert_same(placed, dataset)
        assert not (placed.folder / "train.table.npy").samefile(dataset.folder / "train.table.npy")
    finally:
        subprocess.run(["rm", "-rf", str(target)], check=True)


def test_half_a_data_folder_is_replaced_and_other_data_is_not(tmp_path: Path) -> None:
    dataset = prepare(page(IRIS), tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.table.npy").write_bytes(b"half")
    assert_same(place(dataset, folder), dataset)
    (folder / "test.target.npy").unlink()
    assert_same(place(dataset, folder), dataset)
    other = prepare(page(IRIS, steps=["scale"]), tmp_path / "cache")
    with pytest.raises(RunFolderError, match="already holds other prepared data"):
        place(other, folder)
    assert_same(open_dataset(folder), dataset)


def test_no_folder_and_no_manifest_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="the folder is missing"):
        open_dataset(tmp_path / "none")
    with pytest.raises(RunFolderError, match=r"manifest\.json is missing"):
        open_dataset(tmp_path)


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    dataset = prepare(page(IRIS), tmp_path)
    manifest = dataset.folder / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": 99}))
    with pytest.raises(RunFolderError, match="another version of nnopt"):
        open_dataset(dataset.folder)


# The disk


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,label\n" + "1.5,x\n2.5,y\n" * 5000)
    cache = tmp_path / "cache"
    program = textwrap.dedent(
        f"""
        import resource, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from data_example import page
        from nnopt_ray.data.prepare import prepare
        from nnopt_ray.errors import RunFailed
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # writing more fails as on a full disk
        try:
            prepare(page({{"type": "csv", "path": {str(tmp_path / "t.csv")!r}}}, target="label"), Path({str(cache)!r}))
        except RunFailed as error:
            print(error)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert f"cannot write the prepared data to {cache}" in done.stdout
    assert "Make room" in done.stdout
    assert not list(cache.iterdir())


def test_a_cache_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(RunFailed, match="NNOPT_CACHE"):
        prepare(page(IRIS), tmp_path / "cache")


def test_the_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNOPT_CACHE", str(tmp_path / "here"))
    assert default_cache() == tmp_path / "here"
    assert prepare(page(IRIS)).folder.parent == tmp_path / "here"
    monkeypatch.delenv("NNOPT_CACHE")
    assert default_cache() == Path.home() / ".cache" / "nnopt" / "data"


# Parts that a user brings

OWN = """
from pathlib import Path
import numpy as np
import pyarrow as pa
from nnopt_ray.data.frame import Frame, Numeric
from nnopt_ray.data.sources import Source
from nnopt_ray.data.steps import Step
from nnopt_ray.data.table import Table

class Moons(Source):
    def __init__(self, *, rows: int = 60) -> None:
        self.rows = rows
    def read(self, base: Path) -> Table:
        angle = np.arange(self.rows) / 7
        return Table("moons", pa.table({"u": np.cos(angle), "v": np.sin(angle), "side": (angle % 2 > 1).astype(int)}))
    def fingerprint(self, base: Path) -> str:
        return str(self.rows)

class Square(Step):
    def fit(self, frame: Frame, rows: np.ndarray) -> dict:
        return LEARNED
    def transform(self, frame: Frame, state: dict) -> Frame:
        return frame.with_features({n: Numeric(f.values ** 2, f.origin) for n, f in frame.features.items()})
"""


def test_a_users_source_and_step_work_and_their_code_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = OWN.replace("LEARNED", "{}")
    (tmp_path / "own_parts.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = page({"type": "own_parts:Moons"}, target="side", steps=["own_parts:Square"])
    first = prepare(made, tmp_path / "cache")
    assert (first.train.inputs[0] >= 0).all()
    assert prepare(made, tmp_path / "cache").reused
    (tmp_path / "own_parts.py").write_text(code.replace("** 2", "** 4"))
    assert not prepare(made, tmp_path / "cache").reused


def test_what_a_step_learned_must_survive_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "forgetful_parts.py").write_text(OWN.replace("LEARNED", "{'mean': np.ones(2)}"))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PartError, match="fit of 'forgetful_parts:Square' gave what JSON cannot hold"):
        prepare(
            page({"type": "forgetful_parts:Moons"}, target="side", steps=["forgetful_parts:Square"]), tmp_path / "c"
        )


def test_an_array_filled_piece_by_piece_is_what_numpy_reads(tmp_path: Path) -> None:
    expected = np.random.default_rng(0).normal(size=(7, 2, 3)).astype(np.float32)
    with ArrayFile(tmp_path / "a.npy", np.float32, expected.shape) as array:
        for row in (4, 0, 6, 2):
            array.put(row, expected[row : row + 2][: 7 - row])
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)
    with ArrayFile(tmp_path / "b.npy", np.uint8, (3, 2)) as array:
        array.put(2, np.ones((1, 2), bool))
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), [[0, 0], [0, 0], [1, 1]])
    with ArrayFile(tmp_path / "c.npy", np.uint8, (0, 2)):
        pass
    assert np.load(tmp_path / "c.npy").shape == (0, 2)
