"""explain: why the best network of a run says what it says."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from nnopt_ray import rundir
from nnopt_ray.cli import answer
from nnopt_ray.errors import UserError
from nnopt_ray.rundir import RunDir

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
MOST = 10  # columns or words of a row


def register(app: typer.Typer) -> None:
    app.command("explain")(explain)


def explain(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")],
    data: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DATA...]", help="New rows, as for predict; without them, rows of the test part."),
    ] = None,
    rows: Annotated[
        str,
        typer.Option("--rows", metavar="N,N,...", help="Rows of DATA from 0, or of the source that was learned from."),
    ] = "",
    method: Annotated[
        list[str] | None, typer.Option("--method", metavar="NAME", help="An explainer; may be repeated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="A page with all of it: .html; or .json.")
    ] = None,
    json_: Json = False,
) -> None:
    """Why the best network of a run says what it says of single rows; without training anew."""
    from nnopt_ray.serving.explained import explained
    from nnopt_ray.storage import copies

    if out is not None and out.suffix not in (".html", ".json"):
        raise UserError(f"explanations are written as .html or .json, and -o is {out}. Choose one of these.")
    numbers = _numbers(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries warn about their own future
        run = RunDir.open(copies.view(folder, whole=True))
        done = explained(run, tuple(data or ()), numbers, tuple(method or ()))
    if out is not None and out.suffix == ".json":
        rundir.write_json(out, done.found)
    elif out is not None:
        rundir.write_text(out, done.html())
    if json_:
        answer({"ok": True, "notes": list(done.notes), "file": None if out is None else str(out), **done.found})
        return
    for line in (*done.notes, *lines(done.found)):
        print(line)
    if out is not None:
        print(out)
    elif done.found["kind"] not in ("table", "tokens"):
        print("Pictures need a page: write one with -o explained.html.")


def _numbers(rows: str) -> tuple[int, ...]:
    """Raises UserError for what is no list of row numbers."""
    try:
        numbers = tuple(int(row) for row in rows.split(",") if row.strip())
    except ValueError:
        numbers = (-1,)
    if any(number < 0 for number in numbers):
        raise UserError(f"--rows takes numbers of rows with commas between them, such as 0,5,12; it is '{rows}'.")
    return tuple(dict.fromkeys(numbers))


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Each row with the columns or words that moved it most."""
    from nnopt_ray.report.explained_plots import heading
    from nnopt_ray.report.words import NBSP, sign

    for place, example in enumerate(found["examples"]):
        yield heading(example).replace(NBSP, " ")
        for m in found["methods"]:
            written = example.get("values") or {}
            if "attributions" in m:
                parts = list(zip(m["columns"], m["attributions"][place], strict=True))
                names = [f"{name} = {written[name]}" if name in written else str(name) for name, _ in parts]
            elif "words" in m:
                parts, names = m["words"][place], [word for word, _ in m["words"][place]]
            else:
                continue
            yield f"  {m['name']}: {m['of']}" + (
                f", from {m['base'][place]:.4g} to {m['output'][place]:.4g}" if "base" in m else ""
            )
            order = sorted(range(len(parts)), key=lambda at: -abs(parts[at][1]))
            for at in order[:MOST]:
                yield f"    {sign(f'{parts[at][1]:+.4f}'):>10}  {names[at]}"
            if len(order) > MOST:
                yield f"    {sign(f'{sum(parts[at][1] for at in order[MOST:]):+.4f}'):>10}  {len(order) - MOST} others"
    for m in found["methods"]:
        if m["error"]:
            yield f"No explanation by {m['name']}: {m['error']}"
