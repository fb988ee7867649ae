"""compare: two runs or more side by side."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnopt_ray.cli import answer
from nnopt_ray.rundir import finite

if TYPE_CHECKING:
    from nnopt_ray.comparing import Comparison
    from nnopt_ray.evaluate.intervals import Gain

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def register(app: typer.Typer) -> None:
    app.command("compare")(compare)


def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders; the first is compared with.")
    ],
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also as one HTML file, with the learning curves.")
    ] = None,
    json_: Json = False,
) -> None:
    """What differs on the pages of runs, by how much their scores do on the same test rows, and whether by luck."""
    from nnopt_ray import comparing
    from nnopt_ray.storage import copies

    found = comparing.compare([copies.view(folder) for folder in folders])
    if html is not None:
        from nnopt_ray import compared

        compared.save(found, html)
    if json_:
        answer(finite(_told(found)))
        return
    from nnopt_ray.cli.columns import table

    letters = comparing.letters(found)
    for letter, side in zip(letters, found.sides, strict=True):
        print(f"{letter}  {side.run.place}")
    print()
    if found.page:
        table(["on the page", *letters], [[path, *values] for path, values in found.page.items()])
    else:
        print("The pages say the same.")
    print()
    heads = [f"{letter} beside {letters[0]} ({found.confidence:.0%} interval)" for letter in letters[1:]]
    rows = [[name, *values, *(_said(each.get(name)) for each in found.gains)] for name, values in found.scores.items()]
    table(["on the test part", *letters, *heads], rows)
    for letter, reason in zip(letters[1:], found.why_not, strict=True):
        if reason:
            print(f"{letter} and {letters[0]} are not compared row by row: {reason}.")
    if any(found.gains):
        print(
            "Better is positive. The interval is of the difference on the same rows; it knows nothing of how another "
            "seed would have trained (search.confirm does)."
        )
    if html is not None:
        print(html)


def _said(gain: Gain | None) -> str:
    """The difference in words, and whether it is more than luck in which rows were tested."""
    if gain is None or gain.value != gain.value:
        return ""
    clear = "better" if gain.low > 0 else "worse" if gain.high < 0 else "not clearly different"
    return f"{gain.value:+.4g} ({gain.low:+.4g} to {gain.high:+.4g}) {clear}"


def _told(found: Comparison) -> dict[str, object]:
    return {
        "ok": True,
        "runs": [side.run.place for side in found.sides],
        "page": {path: list(values) for path, values in found.page.items()},
        "scores": {name: list(values) for name, values in found.scores.items()},
        "gains": [{name: asdict(gain) for name, gain in each.items()} for each in found.gains],
        "not_compared": list(found.why_not),
        "test_rows": found.rows,
        "confidence": found.confidence,
    }
