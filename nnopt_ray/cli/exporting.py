"""export: the best network of a run for use elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from nnopt_ray.cli import answer
from nnopt_ray.rundir import RunDir

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def register(app: typer.Typer) -> None:
    app.command("export")(export)


def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")],
    format_: Annotated[
        Literal["safetensors", "torch_export", "onnx"], typer.Option("--format", help="What the network is written as.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="The folder to write (default: RUN's name-FORMAT)."),
    ] = None,
    preprocessing: Annotated[
        Literal["auto", "yes", "no"],
        typer.Option("--preprocessing", help="Of onnx: whether it takes the columns of the source (auto: if it can)."),
    ] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Write over what is there.")] = False,
    json_: Json = False,
) -> None:
    """Write the best network of a run as safetensors, torch.export or ONNX, after a comparison with the original."""
    from nnopt_ray.serving import export as exporting
    from nnopt_ray.storage import copies

    run = RunDir.open(copies.view(folder, whole=True))
    done = exporting.export(run, format_, out or Path(f"{run.root.name}-{format_}"), force, preprocessing)
    if json_:
        answer({"ok": True, "folder": str(done.folder), "format": done.format, "rows_compared": done.rows,
                "difference": done.difference, "columns": dict(done.columns), "alone": done.alone})  # fmt: skip
        return
    if done.columns:
        print(f"the preprocessing is inside; inputs are the columns {', '.join(done.columns)}")
    elif done.alone:
        print(f"the network alone: {done.alone}")
    print(f"outputs of {done.rows} rows compared: the largest difference is {done.difference:.1g}")
    print(done.folder)
