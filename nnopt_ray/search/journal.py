"""The journal: one JSON line an event, only ever appended to. It is the state of a study.

Events, each with `event` and `t` (seconds since the epoch):

    study      page (digest of the resolved page), versions
    asked      trial, params; confirms: the trial that it trains again with another seed, or of which it is a fold
    worker     worker (its number in this process), state: ready (with its node, and `here` where it is the driver
               itself) or gone
    started    trial, worker, epoch (where it starts: 0, or the epochs that are known)
    laid_down  trial, worker, why: it is under way, and waits for another place
    result     trial, epoch (from 0), value (the objective); of a search over folds also of a trial the mean over its
               first folds, `epoch` counting these
    stop, pause, copy   trial, epoch: what the scheduler decided
    paused     trial: its state is written and its place is free
    promoted   trial: paused until now, it goes on
    copied     trial, donor, params: it has taken over the donor's weights and goes on with these values
    gave_up    trials: paused ones that the scheduler ends as nothing else is left
    ended      trial, status, reason, cause, value, best_epoch, epochs, seconds, parameters, metrics
    idle       slot, round: of a reproducible search, there was nothing for this place
    extended   page, resolved (the new page), space_changed, was_finished
    resumed    how many trials were found finished and how many go on

Events of a reproducible search carry the place (slot) and the round of their turn. Who trains what, and when (`worker`,
`started`, `laid_down`, `t`), is for the report alone: a replay takes no account of it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnopt_ray.errors import RunFailed, UserError
from nnopt_ray.machine import environment
from nnopt_ray.rundir import RunDir, finite, read_lines

Event = dict[str, Any]


class Journal:
    """Appends events. Lines reach the operating system at once, so a killed process loses none;
    they are forced to the disk at most once a second, so a power cut loses about one second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._drop_torn_line()
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (held for the study's life)
        self._synced = time.monotonic()

    def _drop_torn_line(self) -> None:
        """A last line without its newline was cut off while it was written: it never happened."""
        if not self.path.is_file():
            return
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            with open(self.path, "r+b") as file:
                file.truncate(whole)

    def append(self, event: Event) -> None:
        """Raises RunFailed when the disk takes no more."""
        line = json.dumps(finite({"t": round(time.time(), 3), **event}), ensure_ascii=False, allow_nan=False)
        try:
            self._file.write(line.encode() + b"\n")
            if time.monotonic() - self._synced > 1.0:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise RunFailed(
                f"cannot write the journal {self.path}: {error.strerror or error}. Nothing that was recorded is "
                f"lost: make room, then `nnopt resume {self.path.parent}`."
            ) from error

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> Iterator[Event]:
    """All whole events of a journal; a torn last line is dropped."""
    return read_lines(path)


def worked_s(events: list[Event]) -> float:
    """Seconds that processes have worked on a study, without the time between them."""
    total, began, last = 0.0, 0.0, 0.0
    for event in events:
        if event["event"] in ("study", "resumed"):
            total, began = total + last - began, event["t"]
        last = event["t"]
    return total + last - began


def first(digest: str) -> Event:
    """The first event of a study."""
    known: dict[str, str] = environment()["packages"]
    versions = {name: known[name] for name in ("nnopt-ray", "ray", "optuna", "torch") if name in known}
    return {"event": "study", "page": digest, "versions": versions}


def widened(events: list[Event], digest: str, run: RunDir) -> bool:
    """Whether the space has changed since the study began. Raises UserError for the journal of another page."""
    if events[0].get("event") != "study":
        raise UserError(f"{run.journal} is no journal of a study: it does not begin like one.")
    pages = [event for event in events if event["event"] in ("study", "extended")]
    if pages[-1].get("page") != digest:
        raise UserError(
            f"{run.journal} belongs to another page than {run.resolved}. "
            "Put the page back as it was, or start a new run."
        )
    return any(event.get("space_changed") for event in pages)


def measured_again(run: RunDir) -> str:
    """What is to be said of the test part of a search that was extended when its result was known; empty for others."""
    looks = sum(bool(event.get("was_finished")) for event in read_lines(run.journal))
    if not looks:
        return ""
    which = f"{looks + 1}th".replace("2th", "2nd").replace("3th", "3rd")
    return (
        f"the test part is measured for the {which} time, as the search was extended when its result was known: what "
        "is said of it is a little too kind"
    )
