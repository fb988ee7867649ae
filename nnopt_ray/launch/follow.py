"""A job's log as it grows, to the job's end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from nnopt_ray.errors import UserError
from nnopt_ray.launch.job import Job
from nnopt_ray.launch.ray_jobs import JobServer

EVERY_S = 1.0
# What Ray writes at the head of each job's log.
RAYS_OWN = re.compile(r"^(?:[-\d]+ [:,\d]+\tINFO job_manager\.py.*|Running entrypoint for job .*)\n", re.MULTILINE)
AWAY_S = 600.0  # a server that does not answer for so long is given up


def follow(
    server: JobServer,
    id_: str,
    out: Callable[[str], None],
    note: Callable[[str], None],
    every_s: float = EVERY_S,
    away_s: float = AWAY_S,
) -> Job:
    """Hand on whole lines of a job's log as they come, until the job is over → the job.

    note: is told when the server is away for a while and when it is back: a broken connection does not end the job.
    Raises UserError when the server stays away longer than `away_s` seconds.
    """
    shown, away = 0, 0.0
    while True:
        try:
            job = server.find(id_)  # before the log: what a job prints last is there when it is over
            log = server.log(id_)
        except UserError as error:
            if not away:
                away = time.monotonic()
                note(f"{str(error).rstrip('.')}; trying again. The job goes on without us.")
            if time.monotonic() - away > away_s:
                raise
            time.sleep(every_s)
            continue
        if away:
            away = 0.0
            note("The job server answers again.")
        whole = len(log) if job.over else log.rfind("\n") + 1
        if whole > shown:
            out(RAYS_OWN.sub("", log[shown:whole]))
            shown = whole
        if job.over:
            return job
        time.sleep(every_s)
