"""What a job is, by value."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

State = Literal["waiting", "running", "succeeded", "failed", "stopped"]
OVER: tuple[State, ...] = ("succeeded", "failed", "stopped")
LETTERS = "23456789abcdefghjkmnpqrstuvwxyz"  # none that is mistaken for another
STOPPED_CODE = 130  # as of a run that Ctrl-C ended: it can be resumed


@dataclass(frozen=True)
class Job:
    """One job of a cluster's job server.

    key: what the page, its settings and the user's code come to, the same for the same page submitted twice; empty for
    jobs that nnopt did not submit. exit_code: the entrypoint's own, None while it is not known. began, ended: in this
    machine's time zone.
    """

    id: str
    state: State
    name: str = ""
    key: str = ""
    entrypoint: str = ""
    began: datetime | None = None
    ended: datetime | None = None
    exit_code: int | None = None
    message: str = ""

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def seconds(self) -> float | None:
        """How long it runs, or ran."""
        if self.began is None:
            return None
        return ((self.ended or datetime.now()) - self.began).total_seconds()

    @property
    def code(self) -> int:
        """What a process that waited for it should exit with: the job's own exit code; 130 where it was stopped,
        1 where it failed without one (its environment could not be made)."""
        if self.state == "stopped":
            return STOPPED_CODE
        if self.state == "succeeded":
            return 0
        return self.exit_code or 1

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "state": self.state,
            "name": self.name,
            "began": self.began and self.began.isoformat(timespec="seconds"),
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "exit_code": self.exit_code,
            "message": self.message,
        }


def new_id(name: str) -> str:
    """A short id that says what the job is: digits-search-7k3f."""
    safe = re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-")[:40] or "job"
    return f"{safe}-{''.join(secrets.choice(LETTERS) for _ in range(4))}"


def run_folder(log: str) -> str | None:
    """The run folder that a job's log names: its last line, when the run is done; None before."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines and lines[-1].startswith("/") else None
