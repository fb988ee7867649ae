"""check, describe, schema: what a page says, and what it could say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from nnopt_ray import reading
from nnopt_ray.cli import answer
from nnopt_ray.experiment import Experiment, count, plain
from nnopt_ray.reading.addresses import masked
from nnopt_ray.tracking.following import check as check_trackers

Set = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Close, open or change a value.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def register(app: typer.Typer) -> None:
    app.command("check")(check)
    app.command("describe")(describe)
    app.command("schema")(schema)


def check(
    page: Annotated[Path, typer.Argument(help="The page.")],
    set_: Set = None,
    json_: Json = False,
) -> None:
    """All faults of a page; or the page with every default filled in."""
    experiment = reading.load(page, set=set_)
    check_trackers(experiment)
    if json_:
        # The space is a list: two options of a choice may open the same path.
        space = [{"path": path, "range": range_.page()} for path, range_ in experiment.space]
        resolved = json.loads(masked(json.dumps(plain(experiment.tree))))
        answer({"ok": True, "name": experiment.name, "search": experiment.is_search, "space": space,
                "notes": list(reading.notes(experiment)), "resolved": resolved})  # fmt: skip
        return
    # Comments, so that all that is printed is itself a page.
    print(f"# {page}: ok ({verdict(experiment)})")
    for note in reading.notes(experiment):
        print(f"# {note}")
    print(masked(reading.dump(experiment)), end="")


def verdict(experiment: Experiment) -> str:
    """What kind of job a page is, in words."""
    listed = experiment.search.trials
    if isinstance(listed, tuple):
        return f"a search of {len(listed)} trials listed by hand"
    paths = list(dict.fromkeys(path for path, _ in experiment.space))
    if not paths:
        return "a single training"
    names = ", ".join(paths[:6]) + (", ..." if len(paths) > 6 else "")
    trials = f"{listed} trials" if listed else f"every one of {count(experiment.tree)} combinations"
    return f"a search over {len(paths)} value{'s' if len(paths) > 1 else ''}, {trials}: {names}"


def describe(
    room: Annotated[
        str | None, typer.Argument(metavar="[ROOM", help="A section or room, e.g. train, optimizer.")
    ] = None,
    part: Annotated[
        str | None, typer.Argument(metavar="[PART]]", help="A part of it, e.g. adam, pkg.module:Class.")
    ] = None,
) -> None:
    """What can be said on a page: sections and rooms, their parts, the keys of one part."""
    from nnopt_ray.reading import describing

    print(describing.describe(room, part, width=max(30, min(shutil.get_terminal_size().columns, 100))))


def schema() -> None:
    """JSON Schema of the page, for editors."""
    from nnopt_ray.reading.schema import schema as made

    print(json.dumps(made(), ensure_ascii=False, indent=2))
