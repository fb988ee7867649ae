"""submit, jobs, logs, stop: pages as jobs of a Ray cluster."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnopt_ray import reading
from nnopt_ray.cli import answer
from nnopt_ray.errors import UserError

if TYPE_CHECKING:
    from nnopt_ray.launch.job import Job
    from nnopt_ray.launch.ray_jobs import JobServer

DEFAULT = "http://127.0.0.1:8265"

Server = Annotated[
    str | None,
    typer.Option("--address", help="The cluster's job server, such as http://HOST:8265; without it $NNOPT_ADDRESS."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, all else on standard error.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The job's id, or how it begins.")]


def register(app: typer.Typer) -> None:
    app.command("submit")(submit)
    app.command("jobs")(jobs)
    app.command("logs")(logs)
    app.command("stop")(stop)


def server_at(address: str | None) -> JobServer:
    from nnopt_ray.launch.ray_jobs import JobServer

    return JobServer(address or os.environ.get("NNOPT_ADDRESS") or DEFAULT)


def submit(
    page: Annotated[Path, typer.Argument(help="The page.")],
    address: Server = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Close, open or change a value.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print the log until the job ends; exit as it does.")
    ] = False,
    include: Annotated[
        list[Path] | None, typer.Option(metavar="PATH", help="A file or folder beside the page that goes along.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Parent of the run folder over there, absolute (default: its $NNOPT_RUNS, or ~/nnopt-runs)."),
    ] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable of the job.")] = None,
    pip: Annotated[
        list[str] | None,
        typer.Option(metavar="REQUIREMENT", help="A package to install for this job; nnopt: all that nnopt needs."),
    ] = None,
    ship: Annotated[bool, typer.Option(help="Send nnopt's own code along, so that both sides run the same.")] = True,
    again: Annotated[bool, typer.Option("--again", help="A new run, even where one of this page can go on.")] = False,
    nodes_will_come: Annotated[
        bool, typer.Option("--nodes-will-come", help="Queue it even where no node holds a worker now.")
    ] = False,
    json_: Json = False,
) -> None:
    """Send a page to a Ray cluster as a job; the same page again goes on where it stopped."""
    experiment = reading.load(page, set=set_)
    from nnopt_ray.launch import cargo as packing
    from nnopt_ray.launch.ray_jobs import too_small, unfit

    if out is not None and not (out.startswith(("/", "~")) or "://" in out):
        raise UserError(f"--out {out}: a job's own folder is thrown away at its end, so the place must be absolute.")
    variables = _variables(env or [])
    cargo = packing.packed(experiment, page, include or (), set_ or ())
    server = server_at(address)
    seen = server.seen()
    if (reason := unfit(seen, experiment)) is not None:
        raise UserError(f"{server.address}: {reason}")
    if (small := too_small(seen, experiment)) is not None:
        lacks, key = small
        if not (nodes_will_come or seen.grows):
            raise UserError(
                f"{server.address}: {lacks}. Lower {key}; where nodes come when they are asked for, submit with "
                "--nodes-will-come."
            )
        _note(f"{lacks[:1].upper()}{lacks[1:]}; the job waits until nodes have come.")
    if not packing.on_this_machine(server.address):
        for path in cargo.elsewhere:
            _note(f"{path} must be there on the cluster: the page names it, and it is not sent.")
    for place, size in cargo.large:
        _note(f"sending {place}, {size / 2**20:,.1f} MiB")
    job = None if again else next((job for job in server.jobs() if job.key == cargo.key and not job.over), None)
    if job is not None:
        _note(f"This page is {job.state} already as {job.id}; nothing new is queued. --again makes a second run.")
    else:
        words = ["run", cargo.page, *(word for value in set_ or () for word in ("--set", value))]
        words += [] if again else ["--once"]
        words += ["--out", out] if out is not None else []
        job = server.submit(cargo, words, experiment.name, variables, pip or (), ship)
        _note(f"{job.id}: {len(cargo.files)} file{'s' * (len(cargo.files) != 1)} sent to {server.address}")
    _end(server, job, follow, json_)


def _end(server: JobServer, job: Job, follow: bool, json_: bool) -> None:
    """Follow a job to its end, or say how to; the job's id is the last line otherwise."""
    if follow:
        raise typer.Exit(_followed(server, job, json_))
    if json_:
        answer({"ok": True, **job.to_json()})
        return
    to = _to(server)
    _note(f"nnopt logs {job.id} --follow{to}   nnopt stop {job.id}{to}")
    print(job.id)


def jobs(address: Server = None, json_: Json = False) -> None:
    """The jobs of a cluster, the newest first."""
    from nnopt_ray.cli.columns import table
    from nnopt_ray.report.words import duration

    server = server_at(address)
    found = server.jobs()
    if json_:
        answer({"jobs": [job.to_json() for job in found]})
        return
    if not found:
        print(f"No jobs at {server.address}.")
        return
    rows = [
        [job.id, job.state, job.began.strftime("%Y-%m-%d %H:%M") if job.began else "", duration(job.seconds or 0.0),
         "" if job.exit_code is None else job.exit_code, job.name or job.entrypoint[:60]]
        for job in found
    ]  # fmt: skip
    table(["job", "state", "began", "time", "exit", "page"], rows)


def logs(
    id_: Id,
    address: Server = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends; exit as it does.")] = False,
) -> None:
    """What a job has printed."""
    server = server_at(address)
    job = server.find(id_)
    if follow:
        raise typer.Exit(_followed(server, job, False))
    sys.stdout.write(server.log(job.id))
    if job.over and job.state != "succeeded":
        _note(_ended(job))


def stop(
    id_: Id,
    address: Server = None,
    wait_s: Annotated[float, typer.Option("--wait", metavar="SECONDS", help="How long to wait for its end.")] = 60.0,
) -> None:
    """End a job after the epoch under way; `nnopt submit` of the same page goes on with it."""
    import time

    server = server_at(address)
    job = server.find(id_)
    if job.over:
        _note(f"{job.id} is over already: {_ended(job)}")
        return
    server.stop(job.id)
    deadline = time.monotonic() + wait_s
    while not (job := server.find(job.id)).over and time.monotonic() < deadline:
        time.sleep(0.3)
    if not job.over:
        raise UserError(f"{job.id} was told to stop and is still {job.state} after {wait_s:g} s.")
    _note(f"{job.id} is {job.state}. What it finished is kept; submit the page again to go on.")


def resume_there(what: str, address: str, words: list[str]) -> None:
    """Queue `nnopt resume RUN` on a cluster. what: the run folder over there, or the job whose run it was."""
    from nnopt_ray.launch.cargo import Cargo
    from nnopt_ray.launch.job import run_folder

    server = server_at(address)
    if not what.startswith("/"):
        job = server.find(what)
        folder = run_folder(server.log(job.id)) or _told_in(server.log(job.id))
        if folder is None:
            raise UserError(
                f"the log of {job.id} names no run folder: submit its page again, which goes on with its run."
            )
        what = folder
    name = re.sub(r"-\d{8}-\d{6}(-\d+)?$", "", Path(what).name)
    job = server.submit(Cargo("", {}, f"resume {what}"), ["resume", what, *words], name, {})
    _end(server, job, True, False)


def _told_in(log: str) -> str | None:
    """The run folder that an interrupted run names: `nnopt resume /runs/x` goes on."""
    found = re.findall(r"nnopt resume (/\S+?)[`'\".]*(?:\s|$)", log)
    return found[-1] if found else None


def _followed(server: JobServer, job: Job, json_: bool) -> int:
    from nnopt_ray.launch import follow
    from nnopt_ray.launch.job import run_folder

    def out(text: str) -> None:
        (sys.stderr if json_ else sys.stdout).write(text)
        (sys.stderr if json_ else sys.stdout).flush()

    try:
        job = follow.follow(server, job.id, out, _note)
    except KeyboardInterrupt:
        to = _to(server)
        _note(f"\nThe job goes on. nnopt logs {job.id} --follow{to} shows it again, nnopt stop {job.id}{to} ends it.")
        return 130
    if json_:
        answer({"ok": job.code == 0, **job.to_json(), "path": run_folder(server.log(job.id))})
    elif job.state != "succeeded":
        _note(_ended(job))
    return job.code


def _ended(job: Job) -> str:
    if job.state == "stopped":
        return f"{job.id} was stopped; submit the page again to go on."
    if job.state == "succeeded":
        return f"{job.id} succeeded."
    code = "" if job.exit_code is None else f" with exit code {job.exit_code}"
    # Ray repeats the log's end in its message, which was printed already.
    why = "" if job.exit_code is not None else f": {' '.join(job.message.split())[:500]}"
    return f"{job.id} failed{code}{why}."


def _to(server: JobServer) -> str:
    """How the next command reaches the same server."""
    return "" if server.address == (os.environ.get("NNOPT_ADDRESS") or DEFAULT) else f" --address {server.address}"


def _variables(said: list[str]) -> dict[str, Any]:
    found = {}
    for one in said:
        name, equals, value = one.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--env takes NAME=VALUE, such as OMP_NUM_THREADS=4; it is '{one}'.")
        found[name] = value
    return found


def _note(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
