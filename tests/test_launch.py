"""What travels with a page, and following a job whose server comes and goes."""

from __future__ import annotations

import importlib.metadata
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nnopt_ray import reading, runs
from nnopt_ray.errors import UserError
from nnopt_ray.launch.cargo import Cargo, on_this_machine, packed
from nnopt_ray.launch.follow import follow
from nnopt_ray.launch.job import Job, new_id, run_folder
from nnopt_ray.launch.once import begun
from nnopt_ray.launch.ray_jobs import IMPORTS, STARTER, JobServer, Seen, own_needs, too_small, unfit

BUILT_IN = "name: x\ndata: {source: {type: sklearn, name: iris}}\nmodel: mlp\n"
OWN = "name: x\ndata: {source: {type: csv, path: rows.csv}, target: y}\nmodel: {type: 'net_of_mine:Net'}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("pages", "package", ".hidden", "env/lib", "runs", "old"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "env" / "pyvenv.cfg").touch()
    (tmp_path / "old" / "resolved.yaml").touch()
    for name in (".hidden", "env/lib", "runs", "old", "package"):
        (tmp_path / name / "some.py").touch()
    (tmp_path / "net_of_mine.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def __init__(self, shapes): super().__init__()\n"
    )
    (tmp_path / "rows.csv").write_text("a,y\n1,no\n2,yes\n")
    return tmp_path


def cargo_of(page: Path, text: str, include: list[str] | None = None, settings: list[str] | None = None) -> Cargo:
    page.write_text(text)
    return packed(reading.load(page, set=settings), page, [Path(one) for one in include or ()], settings or ())


def test_a_page_of_built_in_parts_travels_alone(here: Path) -> None:
    assert set(cargo_of(here / "pages" / "x.yaml", BUILT_IN).files) == {"pages/x.yaml"}


def test_own_code_travels_with_its_page_and_data_only_when_named(here: Path) -> None:
    with pytest.raises(UserError, match=r"rows\.csv.*--include rows\.csv"):
        cargo_of(here / "x.yaml", OWN)
    sent = cargo_of(here / "x.yaml", OWN, ["rows.csv"])
    assert set(sent.files) == {"x.yaml", "net_of_mine.py", "package/some.py", "rows.csv"}
    sent.stage(here / "there")
    assert (here / "there" / "package" / "some.py").is_file()


def test_a_path_that_the_page_says_in_full_is_the_clusters(here: Path) -> None:
    absolute = str(here / "rows.csv")
    for text, settings in (
        (OWN.replace("rows.csv", absolute), []),
        (OWN, [f"data.source.path={absolute}"]),
    ):
        assert cargo_of(here / "x.yaml", text, settings=settings).elsewhere == (absolute,)


def test_a_pattern_and_a_folder_are_sent_whole_or_refused(here: Path) -> None:
    (here / "many").mkdir()
    for number in range(3):
        (here / "many" / f"{number}.csv").write_text("a,y\n1,no\n")
    text = OWN.replace("rows.csv", "many/*.csv")
    with pytest.raises(UserError, match="several files"):
        cargo_of(here / "x.yaml", text, ["many/1.csv"])
    assert sum(place.startswith("many/") for place in cargo_of(here / "x.yaml", text, ["many"]).files) == 3


def test_the_key_tells_pages_settings_and_code_apart(here: Path) -> None:
    first = cargo_of(here / "x.yaml", OWN, ["rows.csv"]).key
    assert cargo_of(here / "x.yaml", OWN, ["rows.csv"]).key == first
    assert cargo_of(here / "x.yaml", OWN, ["rows.csv"], ["seed=3"]).key != first
    (here / "package" / "some.py").write_text("WIDTH = 3\n")
    assert cargo_of(here / "x.yaml", OWN, ["rows.csv"]).key != first


def test_more_than_ray_takes_is_refused_with_the_largest(here: Path) -> None:
    with open(here / "big.bin", "wb") as file:
        file.truncate(501 * 2**20)
    with pytest.raises(UserError, match=r"big\.bin \(501"):
        cargo_of(here / "x.yaml", BUILT_IN, ["big.bin"])


@pytest.mark.parametrize("place", ["/etc/hosts", "nowhere"])
def test_what_cannot_go_along_is_said(here: Path, place: str) -> None:
    with pytest.raises(UserError, match=f"--include {place}"):
        cargo_of(here / "x.yaml", BUILT_IN, [place])


def test_addresses_of_this_machine() -> None:
    there = {"http://127.0.0.1:8265": True, "http://localhost:8265/": True, "http://[::1]:8265": True}
    away = {"http://10.0.0.7:8265": False, "https://ray.example.org": False}
    assert {address: on_this_machine(address) for address in {**there, **away}} == {**there, **away}


def test_ids_are_short_and_their_own() -> None:
    made = {new_id("digits search/2") for _ in range(200)}
    assert len(made) > 195
    assert all(one.startswith("digits-search-2-") and len(one) == len("digits-search-2-") + 4 for one in made)


def test_the_last_line_names_the_run_folder() -> None:
    assert run_folder("a\n/runs/x-1\n\n") == "/runs/x-1"
    assert run_folder("a\nInterrupted.\n") is None
    assert run_folder("") is None


@pytest.mark.parametrize(
    ("state", "exit_code", "code"),
    [("succeeded", 0, 0), ("failed", 2, 2), ("failed", None, 1), ("stopped", None, 130), ("stopped", 0, 130)],
)
def test_the_exit_code_of_one_that_waited(state: str, exit_code: int | None, code: int) -> None:
    assert Job("x", state, exit_code=exit_code).code == code  # type: ignore[arg-type]


def test_what_a_cluster_lacks_is_said_before_anything_is_queued(here: Path) -> None:
    (here / "x.yaml").write_text(BUILT_IN)
    page = reading.load(here / "x.yaml", set=["resources.gpus_per_worker=2"])
    node = {"CPU": 8.0, "GPU": 2.0}
    assert unfit(Seen("2.60.0", "3.11.7", (node,)), page) is None
    assert "2.1.0" in (unfit(Seen("2.1.0", "3.11.7", (node,)), page) or "")
    assert "3.9.1" in (unfit(Seen("2.60.0", "3.9.1", (node,)), page) or "")
    assert unfit(Seen("", "", ()), page) is None, "a server that does not tell is not refused"


SIZES = {
    "fits": (["gpus_per_worker=2"], [(8, 2)], None),
    "no node has two": (["gpus_per_worker=2"], [(8, 1), (8, 1)], "resources.gpus_per_worker"),
    "three thirds": (["gpus_per_worker=0.333", "workers=3"], [(8, 1)], None),
    "two of three": (["gpus_per_worker=1", "workers=3"], [(8, 1), (8, 1)], "resources.workers"),
    "cores are what lacks": (["cpus_per_worker=3", "workers=3"], [(8, 0)], "resources.workers"),
    "as many as there are": (["workers=[2, 8]"], [(1, 0), (1, 0)], None),
    "too few for the least": (["workers=[2, 8]"], [(1, 0)], "resources.workers"),
    "not told": (["gpus_per_worker=2"], [], None),
}


@pytest.mark.parametrize("name", SIZES)
def test_what_a_cluster_does_not_hold_is_said_before_anything_is_queued(here: Path, name: str) -> None:
    asked, nodes, lower = SIZES[name]
    (here / "x.yaml").write_text(BUILT_IN)
    page = reading.load(here / "x.yaml", set=[f"resources.{one}" for one in asked])
    small = too_small(Seen("2.60.0", "3.11.7", tuple({"CPU": c, "GPU": g} for c, g in nodes)), page)
    if lower is None:
        assert small is None
    else:
        assert small is not None
        assert lower in small[1]
        assert f"{len(nodes)} node" in small[0]


def test_what_nnopt_needs_is_all_but_ray() -> None:
    names = " ".join(own_needs())
    assert "pydantic" in names
    assert "torch" in names
    assert not any(need.startswith("ray") for need in own_needs())


def test_an_address_where_nothing_answers_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening
        with pytest.raises(UserError, match="nothing answers at"):
            JobServer(f"http://127.0.0.1:{taken.getsockname()[1]}")
    with pytest.raises(UserError, match="such as http"):
        JobServer("10.0.0.1:6379")


class Server:
    """Answers as a job server whose connection breaks: an error, or the log up to a number of characters."""

    def __init__(self, log: str, answers: list[int | None]) -> None:
        self._log, self._answers = log, iter(answers)
        self._now = 0

    def find(self, id_: str) -> Job:
        answer = next(self._answers)
        if answer is None:
            raise UserError("it does not answer.")
        self._now = answer
        return Job(id_, "succeeded" if answer == len(self._log) else "running", exit_code=0)

    def log(self, id_: str) -> str:
        return self._log[: self._now]


def test_a_log_is_followed_by_whole_lines_over_a_broken_connection() -> None:
    log = "2026-11-25 19:18:59,686\tINFO job_manager.py:581 -- Runtime env is setting up.\n"
    log += "Running entrypoint for job x: y\nepoch 1\nepoch 2\nno end"
    said: list[str] = []
    notes: list[str] = []
    server = Server(log, [10, 130, len(log) - 8, None, None, len(log) - 2, len(log)])
    job = follow(server, "x", said.append, notes.append, every_s=0.0)  # type: ignore[arg-type]
    assert job.state == "succeeded"
    assert "".join(said) == "epoch 1\nepoch 2\nno end"
    assert all(piece.endswith("\n") for piece in said[:-1] if piece)
    assert len(notes) == 2, "once away, once back"


def test_a_server_that_stays_away_is_given_up() -> None:
    def answers() -> Iterator[int | None]:
        while True:
            yield None

    server = Server("", [])
    server._answers = answers()  # type: ignore[assignment]
    with pytest.raises(UserError, match="does not answer"):
        follow(server, "x", print, lambda _: None, every_s=0.01, away_s=0.05)  # type: ignore[arg-type]


def test_once_finds_the_run_of_the_same_page_wherever_its_folder_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a job's working directory does: another place on every head, of the same name for the same content."""
    text = (
        "name: x\ndata: {source: {type: csv, path: rows.csv}, target: y}\nmodel: {type: baseline, kind: majority}\n"
        "train: {epochs: 1}\nevaluate: {bootstrap: 0}\n"
    )
    rows = "\n".join(["a,y", *(f"{i % 9},{'yes' if i % 3 else 'no'}" for i in range(60))]) + "\n"
    made = None
    for head, content, same in (("one", "pkg_1", False), ("two", "pkg_1", True), ("two", "pkg_2", False)):
        folder = tmp_path / head / content
        folder.mkdir(parents=True)
        (folder / "rows.csv").write_text(rows)
        (folder / "x.yaml").write_text(text)
        monkeypatch.chdir(folder)
        page = reading.load(folder / "x.yaml")
        found = begun(page, tmp_path / "runs")
        assert (found is not None and made is not None and found == made.path) is same, (head, content)
        if made is None:
            made = runs.run(page, tmp_path / "runs")
    assert begun(reading.load(tmp_path / "two" / "pkg_1" / "x.yaml", set=["seed=9"]), tmp_path / "runs") is None


def test_a_cluster_that_lacks_a_package_is_told_the_cure_before_the_page_is_read(tmp_path: Path) -> None:
    distributions = importlib.metadata.packages_distributions()
    found = {canonicalize_name(each) for name in IMPORTS for each in distributions[name]}
    assert found == {canonicalize_name(Requirement(need).name) for need in own_needs()}
    job = tmp_path / "job.py"
    job.write_text(STARTER.replace("*IMPORTS", "'json', 'torch_of_nobody'"))
    said = subprocess.run([sys.executable, job, "run"], capture_output=True, text=True, check=False)
    assert said.returncode == 2, said
    assert "no package 'torch_of_nobody'" in said.stdout
    assert "--pip nnopt" in said.stdout
