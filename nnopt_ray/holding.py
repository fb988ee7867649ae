"""A run folder is held by one process at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from nnopt_ray.errors import RunFolderError
from nnopt_ray.rundir import SEEN_AT_URL, RunDir, read_json

BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)  # SMB answers EACCES
FRESH_S = 120.0  # a sign of life at a URL that is no older; by the clocks of two machines


@contextmanager
def holding(run: RunDir) -> Iterator[None]:
    """Hold a run folder for one process; the system lets go of it however the process ends.

    Raises RunFolderError when it cannot be written, or, naming the holder, when another live process has it.
    """
    try:
        file = open(run.lock, "a+", encoding="utf-8")  # noqa: SIM115 (held for the run's life)
    except OSError as error:
        raise RunFolderError(f"{run.root} cannot be written: {error.strerror or error}.") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in BUSY:
                raise RunFolderError(
                    f"{run.root} cannot be locked: {error.strerror or error}. A network file system must be "
                    "mounted with locks (NFS without `nolock`), as two processes in one run folder would spoil it."
                ) from error
            file.seek(0)
            raise RunFolderError(
                f"{run.root} is in use by {file.read().strip() or 'another process'}. Wait for it, or stop it first."
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield
    finally:
        file.close()


def in_use(run: RunDir) -> bool:
    """Whether a live process of this machine holds the run folder; or of what was fetched from a URL, any process."""
    if SEEN_AT_URL in run.root.parts:
        try:
            said = read_json(run.owner)
            return bool(said["held"]) and time.time() - float(said["renewed"]) < FRESH_S
        except (RunFolderError, KeyError, TypeError, ValueError):
            return False
    try:
        with open(run.lock, encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno in BUSY  # what cannot be locked cannot be held
    return False
