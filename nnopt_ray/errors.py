"""Every error that nnopt raises on purpose.

    NnoptError
    ├── UserError            exit 2   the page, the data or the command is at fault
    │   ├── PageError                 one or many faults of a page, each with its place
    │   ├── DataError                 the data cannot be used as the page asks
    │   ├── PartError                 a part is unknown, not importable or not what its room takes
    │   │   └── MissingExtra          a part needs a package that is not installed
    │   └── RunFolderError            a run folder is missing, busy, or cut short
    ├── RunFailed            exit 1   the run itself failed: no trial finished, the loss is not a number
    │   ├── NotANumber                the training loss became NaN or infinite
    │   ├── Superseded                another process has taken this training up, as this one was thought dead
    │   └── ClusterLost               Ray's head does not answer any more
    └── Interrupted          exit 130 stopped by the user; the run can be resumed

Anything else that reaches the command line is a fault of nnopt itself: exit 3.
"""

from __future__ import annotations

from dataclasses import dataclass


class NnoptError(Exception):
    """Base of all errors raised on purpose; `exit_code` is the exit code of the program."""

    exit_code = 3


class UserError(NnoptError):
    """The page, the data or the command is at fault."""

    exit_code = 2


@dataclass(frozen=True, order=True)
class Fault:
    """One fault of a page: where it stands and one sentence that says rule, value and cure.

    `line` and `column` count from 1; 0 where the fault has no place in the file (a missing key
    carries the place of the section that lacks it).
    """

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        where = f"{self.path}: " if self.path else ""
        return f"{place}: {where}{self.message}"


class PageError(UserError):
    """All faults of one page; `faults` holds them in the order of the file."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = tuple(sorted(set(faults)))
        super().__init__("\n".join(str(fault) for fault in self.faults))

    def __reduce__(self) -> tuple[type[PageError], tuple[list[Fault]]]:  # it travels from workers to the driver
        return PageError, (list(self.faults),)


class DataError(UserError):
    """The data cannot be used as the page asks."""


class PartError(UserError):
    """A part (`type: ...`) is unknown, cannot be imported, or is not what its room takes."""


class MissingExtra(PartError):
    """A part needs a package that is not installed; the message holds the command."""


class RunFolderError(UserError):
    """A run folder is missing, used by a live run, or cut short."""


class RunFailed(NnoptError):
    """The run itself failed."""

    exit_code = 1


class NotANumber(RunFailed):
    """The training loss became NaN or infinite."""


class Superseded(RunFailed):
    """Another process has taken this training up, as this one was thought dead: it writes no more."""


class ClusterLost(RunFailed):
    """Ray's head does not answer any more: the cluster is gone, or cannot be reached."""


class Interrupted(NnoptError):
    """Stopped by the user; what was done is kept and the run can be resumed."""

    exit_code = 130
