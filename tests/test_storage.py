"""Runs that are kept at a URL: what is there at each moment can be gone on from, on any machine."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from store_example import Flat

from nnopt_ray import holding, reading, rundir, runs
from nnopt_ray.cli.main import code
from nnopt_ray.errors import Interrupted, RunFailed, RunFolderError, Superseded, UserError
from nnopt_ray.pipeline import Watch
from nnopt_ray.rundir import RunDir, read_lines
from nnopt_ray.search import ferry as ferries
from nnopt_ray.search.ferry import Ferry, here
from nnopt_ray.storage import keeping, mirror
from nnopt_ray.storage import owner as owners
from nnopt_ray.storage.owner import Owner
from nnopt_ray.storage.store import Store
from nnopt_ray.storage.urls import path_of, url_of, working
from nnopt_ray.train import checkpoints

PARENT = "flat://bucket/runs"
PAGE = {
    "name": "small",
    "objective": "minimize val_loss",
    "data": {"source": {"type": "sklearn", "name": "iris"}, "steps": ["scale"]},
    "model": {"type": "mlp", "widths": [8]},
    "train": {"epochs": 4, "checkpoint": {"every": 1}, "optimizer": {"type": "adam", "lr": 0.01}},
}
SEARCH = {
    **PAGE,
    "model": {"type": "mlp", "widths": [8], "dropout": {"uniform": [0.0, 0.3]}},
    "search": {"trials": 3, "method": "random", "reproducible": True},
}


class Told(Watch):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.epochs = 0

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def epoch(self, epoch: Any) -> None:
        self.epochs += 1


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Flat.reset()
    for module, name, value in (
        (mirror, "EVERY_S", 0.02),
        (owners, "BEAT_S", 0.1),
        (owners, "SETTLE_S", 0.01),
        (owners, "WATCH_S", 0.6),
        (owners, "LOOK_EVERY_S", 0.05),
        (keeping, "AGAIN_S", 0.05),
        (keeping, "AGAIN_MOST_S", 0.1),
        (keeping, "GIVE_UP_S", 0.3),
    ):
        monkeypatch.setattr(module, name, value)
    yield
    Flat.reset()


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Called with a name, this process is on that machine: it has a cache of its own."""

    def on(name: str) -> Path:
        monkeypatch.setenv("NNOPT_CACHE", str(tmp_path / name))
        return tmp_path / name

    on("first")
    return on


def below(url: str) -> dict[str, bytes]:
    root = url.partition("://")[2] + "/"
    return {name.removeprefix(root): content for name, content in Flat.held.items() if name.startswith(root)}


def in_folder(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def histories(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    return {
        trial.name: [
            (line["epoch"], line["train_loss"], line["val_loss"]) for line in read_lines(trial / "history.jsonl")
        ]
        for trial in sorted((folder / "trials").iterdir())
    }


# ── what is a URL ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("s3://bucket/runs", "s3://bucket/runs"),
        ("s3://bucket/runs/", "s3://bucket/runs"),
        (Path("s3://bucket/runs"), "s3://bucket/runs"),
        ("gs://bucket/a//b", "gs://bucket/a/b"),
        ("runs", ""),
        ("/a/b:c", ""),
        ("file:///shared/runs", ""),
    ],
)
def test_a_url_is_known_from_a_path_also_after_it_was_made_one(given: str | Path, url: str) -> None:
    assert url_of(given) == url
    if url:
        assert RunDir(working(url)).place == url
    else:
        assert RunDir(path_of(given).absolute()).place == str(path_of(given).absolute())


def test_file_urls_are_the_folder_itself() -> None:
    assert path_of("file:///shared/runs") == Path("/shared/runs")


@pytest.mark.parametrize(
    "given", ["s3://key:secret@bucket/runs", "https://host/runs?sig=secret", "s3://", "s3://a/../b"]
)
def test_urls_that_hold_secrets_or_name_nothing_are_refused_without_showing_them(given: str) -> None:
    with pytest.raises(UserError) as told:
        url_of(given)
    assert "secret" not in str(told.value)


# ── whole runs ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_lies_at_its_url_whole_and_is_read_on_another_machine(
    machines: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.yaml").write_text(json.dumps(PAGE))
    assert code(["run", str(tmp_path / "small.yaml"), "--out", PARENT]) == 0
    url = capsys.readouterr().out.splitlines()[-1]
    assert url.startswith(f"{PARENT}/small-")
    there, here = below(url), in_folder(working(url))
    sent = {
        name: content
        for name, content in here.items()
        if not name.startswith(".") and name not in ("lock", "owner.json")
    }
    assert {name: content for name, content in there.items() if name != "owner.json"} == sent
    assert set(Flat.held) == {f"{url.partition('://')[2]}/{name}" for name in there}  # nothing of the probe stays
    assert url in json.loads(json.dumps(there["report.html"].decode()))

    machines("second")
    assert code(["ls", PARENT, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["runs"]
    assert [(one["run"], one["status"]) for one in listed] == [(url, "finished")]
    assert code(["show", url, "1"]) == 0
    assert "val_loss" in capsys.readouterr().out
    run = runs.open_run(url)
    assert run.place == url

    assert not list(run.path.rglob("epoch-*.safetensors"))  # a reader fetches no checkpoints of trials
    assert run.model() is not None
    assert code(["resume", url]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == url
    assert below(url) == there  # nothing was to be done


def test_an_interrupted_training_goes_on_on_another_machine_bit_for_bit(
    machines: Callable[[str], Path], tmp_path: Path, one_thread: None
) -> None:
    whole = runs.run(reading.from_tree(PAGE), tmp_path / "whole")
    told = Told()
    with pytest.raises(Interrupted) as ended:
        runs.run(reading.from_tree(PAGE), PARENT, watch=told, should_stop=lambda: told.epochs >= 2)
    url = str(ended.value).rpartition(" ")[2]
    assert url.startswith(PARENT)
    machines("second")
    again = Told()
    done = runs.resume(url, watch=again)
    assert (told.epochs, again.epochs) == (2, 2)
    assert histories(done.path) == histories(whole.path)
    assert (done.path / "best/model.safetensors").read_bytes() == (whole.path / "best/model.safetensors").read_bytes()
    assert below(url)["best/model.safetensors"] == (whole.path / "best/model.safetensors").read_bytes()


def test_whatever_was_sent_when_its_machine_died_can_be_gone_on_from(
    machines: Callable[[str], Path], tmp_path: Path, one_thread: None
) -> None:
    whole = runs.run(reading.from_tree(SEARCH), tmp_path / "whole")
    Flat.watched = True
    url = runs.run(reading.from_tree(SEARCH), PARENT).place
    Flat.watched, states = False, list(Flat.states)
    root = url.partition("://")[2]
    begun = [state for state in states if f"{root}/resolved.yaml" in state and f"{root}/result.json" not in state]
    assert len(begun) > 10
    for number, place in enumerate((0, len(begun) // 2, -1)):
        Flat.held = dict(begun[place])
        owner = json.loads(Flat.held[f"{root}/owner.json"])
        assert owner["held"]
        machines(f"after-{number}")
        done = runs.resume(url)
        assert histories(done.path) == histories(whole.path)
        assert done.result["test"] == whole.result["test"]
        assert below(url)["result.json"] == (done.path / "result.json").read_bytes()
        assert not json.loads(below(url)["owner.json"])["held"]


# ── a store that fails ──────────────────────────────────────────────────────────────────────────────────


def failing(while_: Callable[[], bool]) -> Callable[[str, str], None]:
    def refuses(call: str, path: str) -> None:
        if while_():
            raise ConnectionError("no route to the store")

    return refuses


def test_a_store_that_fails_for_a_while_is_told_of_and_tried_again(machines: Callable[[str], Path]) -> None:
    class Slow(Told):
        def epoch(self, epoch: Any) -> None:
            super().epoch(epoch)
            threading.Event().wait(0.25)

    told = Slow()
    Flat.refuses = failing(lambda: told.epochs in (1, 2))
    run = runs.run(reading.from_tree(PAGE), PARENT, watch=told)
    assert sum("no route to the store. The run goes on" in note for note in told.notes) == 1
    assert sum("takes files again" in note for note in told.notes) == 1
    assert below(run.place)["result.json"] == (run.path / "result.json").read_bytes()
    assert "takes files again" in below(run.place)["log.txt"].decode()


def test_a_run_that_cannot_be_sent_in_the_end_says_so_and_is_sent_by_resume(machines: Callable[[str], Path]) -> None:
    told = Told()
    down = threading.Event()

    def refuses(call: str, path: str) -> None:
        if told.epochs >= 3 or down.is_set():
            down.set()
            raise ConnectionError("no route to the store")

    Flat.refuses = refuses
    with pytest.raises(RunFailed) as failed:
        runs.run(reading.from_tree(PAGE), PARENT, watch=told)
    said = str(failed.value)
    url = next(word for word in said.split("`")[1].split() if "://" in word)
    assert str(working(url)) in said
    assert "no route to the store" in said
    assert (working(url) / "result.json").is_file()
    Flat.refuses = lambda call, path: None
    assert "result.json" not in below(url)
    done = runs.resume(url)
    assert below(url)["result.json"] == (done.path / "result.json").read_bytes()


@pytest.mark.parametrize("call", ["write", "read", "remove"])
def test_a_store_that_does_not_do_all_is_refused_before_anything_begins(
    call: str, machines: Callable[[str], Path]
) -> None:
    def refuses(asked: str, path: str) -> None:
        if asked == call:
            raise PermissionError("AccessDenied")

    Flat.refuses = refuses
    with pytest.raises(UserError, match=r"^flat://bucket/runs cannot be \w+: AccessDenied\. Runs are kept where"):
        runs.run(reading.from_tree(PAGE), PARENT)
    assert not working(PARENT).exists()


@pytest.mark.parametrize(("url", "package"), [("gs://bucket/runs", "gcsfs"), ("abfs://box/runs", "adlfs")])
def test_a_missing_package_is_named_with_its_command(url: str, package: str) -> None:
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(UserError, match=f"pip install {package}"):
        runs.run(reading.from_tree(PAGE), url)


# ── one process at a time ───────────────────────────────────────────────────────────────────────────────


def of_another_machine(store: Store) -> Owner:
    owner = Owner("abc", 1, "elsewhere", "another boot", True, 0, 0.0)
    store.write(owners.FILE, owner.bytes())
    return owner


def test_a_run_whose_owner_lives_is_refused_and_one_whose_owner_is_gone_is_taken(
    machines: Callable[[str], Path],
) -> None:
    url = runs.run(reading.from_tree(PAGE), PARENT).place
    store = Store(url)
    ended = threading.Event()

    def beats(owner: Owner) -> None:
        while not ended.wait(0.1):
            owner = owner.next()
            store.write(owners.FILE, owner.bytes())

    thread = threading.Thread(target=beats, args=(of_another_machine(store),))
    thread.start()
    try:
        with pytest.raises(RunFolderError, match="in use by process 1 on elsewhere"):
            owners.take(store, lambda note: None)
    finally:
        ended.set()
        thread.join()
    notes: list[str] = []
    assert owners.take(store, notes.append).held
    assert len(notes) == 1
    assert "last worked on by process 1 on elsewhere" in notes[0]


def test_the_one_that_was_taken_over_from_stops_and_sends_no_more(machines: Callable[[str], Path]) -> None:
    class Waiting(Told):
        def epoch(self, epoch: Any) -> None:
            super().epoch(epoch)
            if self.epochs == 2:
                of_another_machine(
                    Store(next(f"flat://{n.rpartition('/')[0]}" for n in Flat.held if n.endswith("owner.json")))
                )
            threading.Event().wait(0.4)

    told = Waiting()
    with pytest.raises(RunFailed, match=r"process 1 on elsewhere has taken .* over"):
        runs.run(reading.from_tree({**PAGE, "train": {**PAGE["train"], "epochs": 30}}), PARENT, watch=told)
    assert told.epochs < 10
    name = next(name for name in Flat.held if name.endswith("owner.json"))
    assert json.loads(Flat.held[name])["node"] == "elsewhere"


def test_of_two_that_begin_a_run_one_does(machines: Callable[[str], Path]) -> None:
    store = Store(f"{PARENT}/same")
    owners.begin(store)
    with pytest.raises(RunFolderError, match="another process began"):
        owners.begin(store)


# ── workers on other nodes ──────────────────────────────────────────────────────────────────────────────


def node(machines: Callable[[str], Path], name: str, url: str) -> tuple[RunDir, Ferry]:
    machines(name)
    run, ferry, dataset, mapped = here(url)
    assert mapped.folder.startswith(str(machines(name)))
    assert len(dataset.train) > 0
    return run, ferry


def test_a_trial_goes_from_node_to_node_by_the_store(machines: Callable[[str], Path]) -> None:
    url = runs.run(reading.from_tree(PAGE), PARENT).place
    first, out = node(machines, "one", url)
    second, back = node(machines, "two", url)
    trial, other = first.trial("0007"), second.trial("0007")
    out.bring("0007")
    rundir.write_text(checkpoints.file(trial, 3), "three")
    rundir.write_text(checkpoints.best_file(trial), "best of three")
    rundir.append(trial.history, "{}\n")
    out.show("0007")
    back.lend("0007")  # another trial copies from it while it goes on
    assert checkpoints.best_file(other).read_text() == "best of three"
    rundir.write_text(checkpoints.file(trial, 4), "four")
    checkpoints.file(trial, 3).unlink()
    out.give("0007")
    assert not trial.root.exists()
    back.bring("0007")
    assert in_folder(other.root) == {
        name.removeprefix("trials/0007/"): content
        for name, content in below(url).items()
        if name.startswith("trials/0007") and not name.endswith("/.held")
    }
    assert sorted(checkpoints.kept(other)) == [4]  # and what was cleared away on the first node is so everywhere
    assert "trials/0001/history.jsonl" in below(url)  # trials of others are left alone


def test_a_worker_that_was_thought_dead_writes_nothing_over_its_successor(machines: Callable[[str], Path]) -> None:
    url = runs.run(reading.from_tree(PAGE), PARENT).place
    first, thought_dead = node(machines, "one", url)
    second, successor = node(machines, "two", url)
    thought_dead.bring("0007")
    successor.bring("0007")
    rundir.write_text(checkpoints.file(second.trial("0007"), 4), "four")
    successor.show("0007")
    rundir.write_text(checkpoints.file(first.trial("0007"), 9), "of nobody")
    with pytest.raises(Superseded):
        thought_dead.show("0007")
    successor.give("0007")
    checkpointed = [name.rpartition("/")[2] for name in below(url) if name.startswith("trials/0007/checkpoints/")]
    assert checkpointed == ["epoch-4.safetensors"]


def test_a_store_that_does_not_take_a_trial_ends_its_study_with_the_cause(
    machines: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ferries, "TRY_S", 0.1)
    monkeypatch.setattr(ferries, "AGAIN_S", 0.02)
    url = runs.run(reading.from_tree(PAGE), PARENT).place
    run, ferry = node(machines, "one", url)
    ferry.bring("0007")
    rundir.write_text(checkpoints.file(run.trial("0007"), 3), "three")
    Flat.refuses = failing(lambda: True)
    with pytest.raises(RunFailed, match="no route to the store"):
        ferry.give("0007")
    assert checkpoints.file(run.trial("0007"), 3).is_file()


# ── locks of network file systems ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_folder_that_cannot_be_locked_is_not_said_to_be_in_use(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the client of an NFS mount without a lock manager answers: flock(2), ENOLCK."""

    def without_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("nnopt_ray.holding.fcntl.flock", without_locks)
    run = RunDir.create(tmp_path, "small")
    with pytest.raises(RunFolderError, match=r"cannot be locked: .*mounted with locks"), holding.holding(run):
        raise AssertionError
    assert not holding.in_use(run)
