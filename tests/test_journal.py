"""The journal survives being cut off anywhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnopt_ray.errors import RunFailed, RunFolderError
from nnopt_ray.search.journal import Journal, read

EVENTS = [{"event": "asked", "trial": f"{i:04d}", "params": {"lr": 0.1 * i, "name": "ä\n"}} for i in range(5)]


def written(path: Path) -> bytes:
    journal = Journal(path)
    for event in EVENTS:
        journal.append(event)
    journal.close()
    return path.read_bytes()


def test_every_cut_keeps_the_whole_lines_and_can_be_written_on(tmp_path: Path) -> None:
    content = written(tmp_path / "whole.jsonl")
    for cut in range(len(content) + 1):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(content[:cut])
        whole = content[:cut].count(b"\n")
        assert [event["trial"] for event in read(path)] == [event["trial"] for event in EVENTS[:whole]]
        journal = Journal(path)
        journal.append({"event": "more"})
        journal.close()
        assert [event["event"] for event in read(path)] == ["asked"] * whole + ["more"]


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    lines = written(path).split(b"\n")
    lines[1] = lines[1][:10]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(RunFolderError, match=r"journal\.jsonl:2 is damaged"):
        list(read(path))


def test_not_a_number_is_written_as_json(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    journal.append({"event": "result", "value": float("nan")})
    journal.close()
    assert next(iter(read(tmp_path / "j.jsonl")))["value"] is None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device that is always full")
def test_a_full_disk_is_one_sentence() -> None:
    journal = Journal.__new__(Journal)
    journal.path, journal._synced = Path("/dev/full"), 0.0
    journal._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    with pytest.raises(RunFailed, match="No space left on device"):
        journal.append({"event": "x"})
    journal.close()
