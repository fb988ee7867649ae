"""The job server of a Ray cluster (Ray's Jobs API over HTTP), its errors as sentences.

The only Ray that nnopt needs here is the client; nothing of this process travels but files, so Python may differ.
"""

from __future__ import annotations

import importlib.metadata
import logging
import shlex
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from nnopt_ray import versions
from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Experiment
from nnopt_ray.launch.cargo import Cargo
from nnopt_ray.launch.job import Job, State, new_id
from nnopt_ray.search.cluster import GROWS_BY

ANSWER_S = 10.0  # to wait for a server that may not be there
AGENT_S = 60.0  # a head that has just started has no agent for jobs for some seconds
STATES: Final[dict[str, State]] = {
    "PENDING": "waiting", "RUNNING": "running", "SUCCEEDED": "succeeded", "FAILED": "failed", "STOPPED": "stopped",
}  # fmt: skip
LEAST_PYTHON = (3, 11)
PACKAGE = Path(__file__).parent.parent

# Runs on the cluster before anything else: what is missing there is said in a sentence, not in a traceback.
STARTER = '''\
"""Starts nnopt in a Ray job."""
import sys

if sys.version_info < (3, 11):
    print(f"nnopt: the Python of this cluster is {sys.version.split()[0]}, and nnopt needs 3.11 or newer.")
    sys.exit(2)
from importlib.util import find_spec

for name in ("nnopt_ray", *IMPORTS):
    if find_spec(name) is None:
        print(f"nnopt: the Python of this cluster has no package {name!r}. Install nnopt there, or submit with --pip "
              "nnopt, which installs what nnopt needs for this job.")
        sys.exit(2)
from nnopt_ray.cli.main import main

main()
'''
STARTS = "nnopt_job.py"
# What the packages that nnopt needs are imported as: a page's own sentence on a missing one would name no cure.
IMPORTS = (
    *("torch", "numpy", "pandas", "pyarrow", "sklearn", "yaml", "pydantic", "typer", "rich", "jinja2", "safetensors"),
    *("tokenizers", "sentencepiece", "imblearn", "cleanlab", "datasketch", "imagehash", "PIL", "optuna", "cmaes"),
    *("greenlet", "fsspec", "captum", "plotly"),
)


@dataclass(frozen=True)
class Seen:
    """What a job server says of its cluster.

    nodes: the resources of each (`CPU`, `GPU`, ...) in all. grows: an autoscaler may bring more.
    """

    ray: str
    python: str
    nodes: tuple[Mapping[str, float], ...]
    grows: bool = False

    def sentence(self) -> str:
        cpus = sum(node.get("CPU", 0.0) for node in self.nodes)
        gpus = sum(node.get("GPU", 0.0) for node in self.nodes)
        number = len(self.nodes)
        return f"{number} node{'s' * (number != 1)} with {cpus:g} CPUs and {gpus:g} GPUs"


class JobServer:
    """The job server at an address such as http://127.0.0.1:8265. Raises UserError where none answers."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        versions.check("ray")
        _reachable(self.address)
        with self._told():
            from ray.job_submission import JobSubmissionClient

            # What it uploads is told by `nnopt submit`.
            for name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
                logging.getLogger(name).setLevel(logging.WARNING)

            try:
                with _without_address_of_surroundings():
                    self._client = JobSubmissionClient(self.address)
            except RuntimeError as error:
                raise UserError(f"what answers at {self.address} is no job server of Ray: {_first(error)}") from error

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Ray's and the network's errors as sentences."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise UserError(
                f"the job server at {self.address} wants a token and did not take ours: set RAY_AUTH_MODE=token here "
                "and put the cluster's token into ~/.ray/auth_token (or name its file in RAY_AUTH_TOKEN_PATH)."
            ) from error
        except (ConnectionError, requests.exceptions.RequestException) as error:
            raise UserError(
                f"the job server at {self.address} does not answer ({type(error).__name__}). Is the head up, and is "
                "this the address of its dashboard, such as http://HOST:8265?"
            ) from error

    def _get(self, path: str) -> Any:
        with self._told():
            answer = self._client._do_request("GET", path, timeout=ANSWER_S)
            return answer.json() if answer.status_code == 200 else None

    def seen(self) -> Seen:
        """Versions and nodes. What an older server does not tell is empty."""
        version = self._get("/api/version") or {}
        about = (self._get("/api/v0/cluster_metadata") or {}).get("data") or {}
        nodes = ((self._get("/api/v0/nodes?detail=true") or {}).get("data") or {}).get("result") or {}
        alive = [node for node in nodes.get("result", []) if node.get("state") == "ALIVE"]
        return Seen(
            ray=about.get("rayVersion") or version.get("ray_version", ""),
            python=about.get("pythonVersion", ""),
            nodes=tuple(node.get("resources_total") or {} for node in alive),
            grows=any((node.get("labels") or {}).get(GROWS_BY) for node in alive),
        )

    def submit(
        self,
        cargo: Cargo,
        words: Sequence[str],
        name: str,
        env: Mapping[str, str],
        pip: Sequence[str] = (),
        ship: bool = True,
    ) -> Job:
        """Send the files and queue `nnopt WORDS` over there.

        pip: requirements to install for this job alone; `nnopt` stands for all that nnopt itself needs. ship: nnopt's
        own code goes along, so that both sides run the same. Raises UserError when the server refuses.
        """
        id_ = new_id(name)
        with tempfile.TemporaryDirectory(prefix="nnopt-job-") as folder, self._told():
            cargo.stage(Path(folder))
            (Path(folder) / STARTS).write_text(
                STARTER.replace("*IMPORTS", ", ".join(map(repr, IMPORTS))), encoding="utf-8"
            )
            environment: dict[str, Any] = {"working_dir": folder, "env_vars": dict(env)}
            if ship:
                environment["py_modules"] = [str(PACKAGE)]
            if pip:
                environment["pip"] = [one for word in pip for one in (own_needs() if word == "nnopt" else [word])]
            entrypoint = shlex.join(["python", STARTS, *words])
            about = {"nnopt_name": name, "nnopt_key": cargo.key, "nnopt_version": nnopt_ray_version()}
            self._queued(lambda: self._client.submit_job(
                entrypoint=entrypoint, submission_id=id_, runtime_env=environment, metadata=about))  # fmt: skip
        return self.find(id_)

    def _queued(self, submit: Callable[[], str]) -> None:
        deadline = time.monotonic() + AGENT_S
        while True:
            try:
                submit()
                return
            except RuntimeError as error:
                if "No available agent" not in str(error):
                    raise UserError(f"the job server at {self.address} refused the job: {_first(error)}") from error
                if time.monotonic() > deadline:
                    raise UserError(
                        f"the cluster at {self.address} has had no agent for jobs for {AGENT_S:.0f} s. A head that has "
                        "just started needs some seconds; look at it with `ray status`."
                    ) from error
            time.sleep(1)

    def jobs(self) -> list[Job]:
        """Every job that was submitted, the newest first."""
        with self._told():
            found = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda job: job.began or datetime.min, reverse=True)

    def find(self, id_: str) -> Job:
        """A job by its id, or by a beginning of it that no other has. Raises UserError."""
        with self._told():
            try:
                return _job(self._client.get_job_info(id_))
            except RuntimeError as error:
                if "404" not in str(error) and "does not exist" not in str(error):
                    raise UserError(f"the job server at {self.address}: {_first(error)}") from error
        alike = [job for job in self.jobs() if job.id.startswith(id_)]
        if len(alike) == 1:
            return alike[0]
        ids = ", ".join(job.id for job in (alike or self.jobs())[:5])
        if alike:
            raise UserError(f"several jobs begin with '{id_}': {ids}.")
        raise UserError(
            f"there is no job '{id_}' at {self.address}. " + (f"There are: {ids}." if ids else "It has none.")
        )

    def log(self, id_: str) -> str:
        """All that a job has printed so far; what colours or moves a terminal's cursor is left to the reader."""
        with self._told():
            try:
                found: str = self._client.get_job_logs(id_)
            except RuntimeError:  # nothing is written yet
                return ""
            return found

    def stop(self, id_: str) -> None:
        """Ask a job to stop: nnopt ends after the epoch under way, and Ray ends what is left seconds later."""
        with self._told():
            self._client.stop_job(id_)


def _job(details: Any) -> Job:
    about = details.metadata or {}
    return Job(
        id=details.submission_id,
        state=STATES[str(getattr(details.status, "value", details.status))],
        name=about.get("nnopt_name", ""),
        key=about.get("nnopt_key", ""),
        entrypoint=details.entrypoint,
        began=_time(details.start_time),
        ended=_time(details.end_time),
        exit_code=details.driver_exit_code,
        message=(details.message or "").strip(),
    )


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000) if milliseconds else None


def _first(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:400]


def _reachable(address: str) -> None:
    """Raises UserError where nothing listens; a host that swallows packets would hold Ray's client for minutes."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            f"--address {address}: a job server's address is that of the head's dashboard, such as http://127.0.0.1:8265."
        )
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), timeout=ANSWER_S).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"nothing answers at {address} ({getattr(error, 'strerror', None) or error}). Is the head up (`ray start "
            "--head`), and is its dashboard reachable from here?"
        ) from error


@contextmanager
def _without_address_of_surroundings() -> Iterator[None]:
    """Ray's client takes RAY_ADDRESS before the address that it is given."""
    import os

    kept = {name: os.environ.pop(name) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def nnopt_ray_version() -> str:
    return importlib.metadata.version("nnopt-ray")


def _needs() -> list[Requirement]:
    """What nnopt needs without its extras."""
    found = [Requirement(text) for text in importlib.metadata.requires("nnopt-ray") or []]
    return [need for need in found if need.marker is None]


def own_needs() -> list[str]:
    """What nnopt needs, without Ray, which a cluster has in the version that it runs."""
    return [str(need) for need in _needs() if need.name != "ray"]


def unfit(seen: Seen, experiment: Experiment) -> str | None:
    """Why a page cannot run with what this cluster runs, in a sentence; None where nothing speaks against it."""
    if seen.ray and not versions.fits("ray", seen.ray):
        return (
            f"the cluster runs Ray {seen.ray}, and this nnopt works with {versions.RANGES['ray']}: start it with such "
            "a Ray."
        )
    if seen.python and tuple(int(piece) for piece in seen.python.split(".")[:2]) < LEAST_PYTHON:
        return f"the cluster runs Python {seen.python}, and nnopt needs 3.11 or newer."
    return None


def too_small(seen: Seen, experiment: Experiment) -> tuple[str, str] | None:
    """What of a page this cluster does not hold, and the key to lower; None where it holds it, or does not tell."""
    resources = experiment.resources
    held = sum(resources.held(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in seen.nodes)
    workers = resources.worker_range[0]
    if not seen.nodes or held >= workers:
        return None
    cpus, gpus = resources.cpus_per_worker, resources.gpus_per_worker
    if not held:
        return (
            f"a worker of the page needs {cpus} CPUs and {gpus:g} GPUs on one node, and the cluster is "
            f"{seen.sentence()}",
            "resources.cpus_per_worker or resources.gpus_per_worker",
        )
    return (
        f"the page asks for {workers} workers of {cpus} CPUs and {gpus:g} GPUs, and the cluster of {seen.sentence()} "
        f"holds {held}",
        "resources.workers",
    )
