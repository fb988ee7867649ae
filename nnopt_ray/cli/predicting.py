"""predict: the best network of a run on new rows."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from nnopt_ray.cli import answer
from nnopt_ray.rundir import RunDir

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def register(app: typer.Typer) -> None:
    app.command("predict")(predict)


def predict(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="New rows: .csv, .parquet, .arrow or .feather.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where predictions go, same formats.")],
    keep: Annotated[
        list[str] | None, typer.Option("--keep", metavar="COL", help="A column of DATA to copy; may be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    json_: Json = False,
) -> None:
    """Predict new rows by the preprocessing and the best network of a run, chunk by chunk."""
    from nnopt_ray.serving.predictor import Predictor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries warn about their own future
        done = Predictor(RunDir.open(folder)).write(data, out, tuple(keep or ()), force)
    if json_:
        answer({"ok": True, "file": str(done.file), "rows": done.rows, "columns": list(done.columns)})
        return
    print(f"{done.rows:,} rows predicted: {', '.join(done.columns)}")
    print(done.file)
