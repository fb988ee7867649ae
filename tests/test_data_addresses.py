"""Addresses instead of paths: fetched once, again when they change; explained when they cannot be; secrets masked."""

from __future__ import annotations

import json
import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data_example import page
from PIL import Image
from pyarrow import parquet

from nnopt_ray import reading, tables
from nnopt_ray.data import fetch
from nnopt_ray.data.prepare import prepare
from nnopt_ray.data.table import Table, tidy
from nnopt_ray.errors import DataError
from nnopt_ray.reading.addresses import masked


class Server:
    """Files by path, with an ETag; `asked` counts what was transferred."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.refusals: dict[str, int] = {}
        self.asked: list[str] = []
        self.authorization = ""
        self.marked = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer(with_content=False)

            def do_GET(self) -> None:
                self.answer(with_content=True)

            def answer(self, with_content: bool) -> None:
                path = self.path.partition("?")[0]
                outer.authorization = self.headers.get("Authorization", "")
                content = outer.files.get(path)
                if path in outer.refusals or content is None:
                    self.send_error(outer.refusals.get(path, 404))
                    return
                if with_content:
                    outer.asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                if outer.marked:
                    self.send_header("ETag", f'"{hash(content)}"')
                self.end_headers()
                if with_content:
                    self.wfile.write(content)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("NNOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "ASKED_S", 1e-9)  # ask whether it is the same every time
    made = Server()
    yield made
    made.stop()


def read(kind: str, base: Path, **keys: Any) -> Table:
    return tidy(tables.find("source", kind)(**keys).read(base))


def refused(kind: str, base: Path, **keys: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(kind, base, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_fetched_once_and_again_when_it_changes(server: Server, tmp_path: Path) -> None:
    server.files["/a.csv"] = b"x,y\n1,a\n2,b\n"
    address = f"{server.url}/a.csv"
    assert read("csv", tmp_path, path=address).columns.to_pydict() == {"x": [1, 2], "y": ["a", "b"]}
    assert read("csv", tmp_path, path=address).rows == 2
    assert server.asked == ["/a.csv"]
    before = tables.find("source", "csv")(path=address).fingerprint(tmp_path)
    server.files["/a.csv"] = b"x,y\n1,a\n3,b\n"
    assert tables.find("source", "csv")(path=address).fingerprint(tmp_path) != before
    assert read("csv", tmp_path, path=address).columns.to_pydict()["x"] == [1, 3]
    assert server.asked == ["/a.csv"] * 2


def test_what_has_no_mark_of_its_state_is_fetched_again(server: Server, tmp_path: Path) -> None:
    server.marked = False
    for value in (1, 2):  # of one length
        server.files["/a.csv"] = f"x\n{value}\n".encode()
        assert read("csv", tmp_path, path=f"{server.url}/a.csv").columns.to_pydict() == {"x": [value]}


def test_an_archive_that_changes_is_unpacked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "ASKED_S", 1e-9)
    for value in (1, 2):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("a.csv", f"x\n{value}\n")
        os.utime(tmp_path / "a.zip", ns=(1, 1))
        assert read("csv", tmp_path, path="zip://a.csv::a.zip").columns.to_pydict() == {"x": [value]}


def test_each_source_of_files_takes_addresses(server: Server, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"x": [1]}), tmp_path / "t.parquet")
    np.savez(tmp_path / "t.npz", x=np.ones((2, 1)), y=np.arange(2))
    np.save(tmp_path / "x.npy", np.ones((2, 1)))
    for name in ("t.parquet", "t.npz", "x.npy"):
        server.files[f"/{name}"] = (tmp_path / name).read_bytes()
    server.files |= {"/t.txt": b"one\ntwo\n", "/s.csv": b"id,v,k\n1,2,a\n1,3,a\n"}
    assert read("parquet", tmp_path, path=f"{server.url}/t.parquet?version=3").rows == 1
    assert read("numpy", tmp_path, path=f"{server.url}/t.npz").rows == 2
    assert read("text_lines", tmp_path, path=(f"{server.url}/t.txt",)).rows == 2
    assert read("sequences", tmp_path, path=f"{server.url}/s.csv", id="id", label="k").rows == 1
    assert read("numpy", tmp_path, x=f"{server.url}/x.npy", y=f"{server.url}/x.npy").rows == 2


def test_archives_are_read_wherever_they_lie(server: Server, tmp_path: Path) -> None:
    shades = np.arange(48, dtype=np.uint8).reshape(6, 8)
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        (tmp_path / "birds" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(shades).save(tmp_path / "birds" / name)
    with zipfile.ZipFile(tmp_path / "birds.zip", "w") as archive:
        archive.writestr("rows.csv", "x\n1\n2\n")
        for file in sorted((tmp_path / "birds").rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path))
    server.files["/birds.zip"] = (tmp_path / "birds.zip").read_bytes()
    for rest in (f"{server.url}/birds.zip", "birds.zip", f"file://{tmp_path}/birds.zip"):
        assert read("csv", tmp_path, path=f"zip://rows.csv::{rest}").columns.to_pydict() == {"x": [1, 2]}
        found = read("image_folder", tmp_path, path=f"zip://birds::{rest}")
        assert found.columns.to_pydict() == {"label": ["a", "a", "b"]}
    assert server.asked == ["/birds.zip"]
    with tarfile.open(tmp_path / "birds.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "birds", "birds")
    assert read("image_folder", tmp_path, path="tar://birds::birds.tar.gz").rows == 3
    assert "away.csv::birds.zip is not there" in refused("csv", tmp_path, path="zip://away.csv::birds.zip")
    assert "there is no file" in refused("csv", tmp_path, path="zip://a.csv::away.zip")
    (tmp_path / "no.zip").write_bytes(b"no archive")
    assert "cannot be read as zip" in refused("csv", tmp_path, path="zip://a.csv::no.zip")
    experiment = page({"type": "csv", "path": "zip://rows.csv::birds.zip"}, tmp_path / "page.yaml")
    assert experiment.data.source["path"] == f"zip://rows.csv::{tmp_path}/birds.zip"
    (tmp_path / "t.csv").write_text("x\n1\n")
    assert read("csv", tmp_path, path=f"file://{tmp_path}/t.csv").rows == 1


def test_nothing_of_an_archive_lands_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNOPT_CACHE", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../../../escaped.txt", "x\n")
        archive.writestr("in/good.txt", "x\n")
    assert read("text_lines", tmp_path, path="zip://::evil.zip").rows == 1
    assert not list(tmp_path.rglob("escaped.txt"))


def test_what_cannot_be_fetched_is_explained(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refused("csv", tmp_path, path=f"{server.url}/away.csv")
    assert said == f"data.source.path: {server.url}/away.csv is not there. Check the address."
    for status, words in ((403, "may not be read (status 403)"), (401, "~/.netrc"), (500, "with status 500")):
        server.refusals["/a.csv"] = status
        assert words in refused("csv", tmp_path, path=f"{server.url}/a.csv")
    assert "cannot be reached" in refused("csv", tmp_path, path="http://127.0.0.1:9/a.csv")
    assert "need a package that is not installed: pip install ossfs" in refused(
        "csv", tmp_path, path="oss://bucket/a.csv"
    )
    assert "Protocol not known: klingon" in refused("csv", tmp_path, path="klingon://a.csv")
    assert "variable NO_SUCH, which is not set" in refused("csv", tmp_path, path="https://${NO_SUCH}@host/a.csv")
    monkeypatch.setenv("PLACE", f"127.0.0.1:{server.port}")
    server.files["/b.csv"] = b"x\n1\n"
    assert read("csv", tmp_path, path="http://$PLACE/b.csv").rows == 1


def test_without_network_the_copy_is_used(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server.files["/a.csv"] = b"x\n1\n"
    address = f"{server.url}/a.csv"
    assert read("csv", tmp_path, path=address).rows == 1
    server.stop()
    assert read("csv", tmp_path, path=address).rows == 1
    assert "The copy that was fetched before is used." in caplog.text
    assert "cannot be reached" in refused("csv", tmp_path, path=f"{address}?another")


def test_a_large_fetch_is_announced(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fetch, "LARGE", 4)
    server.files["/a.csv"] = b"x\n1\n"
    read("csv", tmp_path, path=f"{server.url}/a.csv")
    assert f"{server.url}/a.csv: fetching 0 MB, once." in caplog.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:secret@host/a.csv?sig=secret:1&x=2 is", "https://***@host/a.csv?*** is"),
        ("path: zip://a.csv::https://host/b.zip?sig=secret", "path: zip://a.csv::https://host/b.zip?***"),
        ("{path: https://host/a?secret=1, x: [s3://b/c?secret]}", "{path: https://host/a?***, x: [s3://b/c?***]}"),
        ("'https://host/a?x=1,2&secret' https://host/a", "'https://host/a?***' https://host/a"),
        ("s3://key:secret@bucket/a@b", "s3://***@bucket/a@b"),
        ("what? nothing", "what? nothing"),
    ],
)
def test_secrets_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert "secret" not in shown


def test_secrets_are_told_nowhere(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nnopt_ray.cli.pages import check

    monkeypatch.setenv("SECRET", "hidden")
    address = f"http://me:${{SECRET}}@127.0.0.1:{server.port}/a.csv?token=hidden"
    random = np.random.default_rng(0)
    content = "\n".join(["x,target", *(f"{value},{int(value > 0)}" for value in random.normal(size=40))])
    server.files["/a.csv"] = content.encode()
    file = tmp_path / "page.yaml"
    file.write_text(json.dumps({"data": {"source": {"type": "csv", "path": address}}, "model": "baseline"}))
    for json_ in (False, True):
        check(file, None, json_)
    dataset = prepare(reading.load(file))
    assert server.authorization.startswith("Basic ")
    assert dataset.summary.source == "csv a.csv"
    server.refusals["/a.csv"] = 403
    with pytest.raises(DataError) as caught:
        prepare(reading.load(file))
    assert "***@127.0.0.1" in str(caught.value)
    assert "hidden" not in f"{capsys.readouterr().out} {caught.value}"
    assert "hidden" not in (dataset.folder / "summary.json").read_text()
