"""init: looks at data and writes a page to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from nnopt_ray.cli import answer

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def register(app: typer.Typer) -> None:
    app.command("init")(init)


def init(
    data: Annotated[str, typer.Argument(help="A file, a folder of images, texts or IDX files, or sklearn:NAME.")],
    target: Annotated[str | None, typer.Option("--target", metavar="COL", help="The column to predict.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="PAGE", help="The page to write.")] = None,
    task: Annotated[
        Literal["auto", "classification", "regression", "language_modelling"], typer.Option(help="What is learned.")
    ] = "auto",
    no_search: Annotated[bool, typer.Option("--no-search", help="A single training.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a page that is there.")] = False,
    json_: Json = False,
) -> None:
    """Look at data and write a commented page to start from."""
    from nnopt_ray.starting.start import start

    done = start(data, target=target, out=out, task=task, search=not no_search, force=force)
    if json_:
        answer({"ok": True, "page": str(done.page), "kind": done.kind, "task": done.task, "target": done.target,
                "ignored": done.ignored, "seen": [f"{name} {said}".strip() for name, said in done.seen]})  # fmt: skip
        return
    for name, said in done.seen:
        print(f"{name:<10}{said}")
    print("Next: " + "; ".join(f"nnopt {verb} {done.page}" for verb in ("check", "data", "plan", "run")))
    print(done.page)
