"""predict: the best network of a run on new rows."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from nnopt_ray.cli import answer
from nnopt_ray.errors import UserError
from nnopt_ray.rundir import RunDir

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def register(app: typer.Typer) -> None:
    app.command("predict")(predict)


def predict(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")],
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            help="New rows: .csv, .parquet, .arrow; images or arrays (.npy); texts (.txt); files, folders, patterns, "
            "addresses.",
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Where predictions go: .csv, .parquet or .arrow; - for CSV on the screen.",
        ),
    ],
    keep: Annotated[
        list[str] | None, typer.Option("--keep", metavar="COL", help="A column of DATA to copy; may be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    json_: Json = False,
) -> None:
    """Predict new rows by the preprocessing and the best network of a run, some rows at a time."""
    from nnopt_ray.serving.predictor import Predictor
    from nnopt_ray.storage import copies

    if out == "-" and json_:
        raise UserError("-o - and --json both want standard output. Choose one, or write the predictions to a file.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries warn about their own future
        done = Predictor(RunDir.open(copies.view(folder, whole=True))).write(data, out, tuple(keep or ()), force)
    if json_:
        answer(
            {"ok": True, "file": done.file, "rows": done.rows, "columns": list(done.columns), "notes": list(done.notes)}
        )
        return
    screen = sys.stderr if out == "-" else sys.stdout
    for sentence in done.notes:
        print(sentence, file=screen)
    print(f"{done.rows:,} rows predicted: {', '.join(done.columns)}", file=screen)
    if out != "-":
        print(Path(out))
