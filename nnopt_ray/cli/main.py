"""The program: its verbs, and how errors become sentences and exit codes."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import typer

from nnopt_ray.cli import (
    answer,
    comparing,
    examining,
    explaining,
    exporting,
    json_only,
    launching,
    pages,
    planning,
    predicting,
    rates,
    running,
    scaling,
    showing,
    starting,
)
from nnopt_ray.errors import Interrupted, NnoptError, PageError

app = typer.Typer(
    name="nnopt",
    help="Make a neural network better: one page in, the best network and an honest report out.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# What a command line that cannot be read raises: click's ClickException, of which typer brings its own
# copy since 0.2x. This is the one that typer uses, whichever it is.
BadCommand: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

starting.register(app)
pages.register(app)
examining.register(app)
planning.register(app)
rates.register(app)
running.register(app)
scaling.register(app)
showing.register(app)
predicting.register(app)
explaining.register(app)
exporting.register(app)
comparing.register(app)
launching.register(app)


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and stop."),
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks."),
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"nnopt {installed('nnopt-ray')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)
    context.obj = {"debug": debug}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and exit: 0 done, 1 the run failed, 2 page, data or command at fault, 3 a fault
    of nnopt, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        done = code(words)
    except KeyboardInterrupt:
        done = 130
    # All is said; what is left is Ray's own end, which an interrupt tears (an exit by signal 11 was seen).
    for which in (signal.SIGINT, signal.SIGTERM):
        signal.signal(which, signal.SIG_IGN)
    sys.exit(done)


def code(words: list[str]) -> int:
    """The exit code of one command; errors are printed."""
    try:
        with json_only() if "--json" in words else nullcontext():
            return _done(words)
    except BrokenPipeError:  # the reader of our output is gone (`nnopt ls | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _done(words: list[str]) -> int:
    try:
        done = app(words, standalone_mode=False)
        sys.stdout.flush()
        return done if isinstance(done, int) else 0
    except typer.Exit as stop:
        return int(stop.exit_code)
    except BadCommand as error:
        _say(words, f"{error.format_message()} `nnopt --help` lists what there is.", 2)
        return 2
    except (typer.Abort, KeyboardInterrupt):
        _say(words, "Interrupted.", 130)
        return 130
    except BrokenPipeError:
        raise
    except NnoptError as error:
        if "--debug" in words:
            traceback.print_exc()
        _say(words, str(error), error.exit_code, error)
        return error.exit_code
    # The last door: whatever else arrives is a fault of nnopt and is said to be one.
    except Exception as error:
        if "--debug" in words:
            traceback.print_exc()
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(last.filename)}:{last.lineno}"
        _say(words, f"A fault of nnopt itself: {type(error).__name__}: {error} ({place}). "
                    "Run it again with `nnopt --debug ...` and send us what it prints.", 3)  # fmt: skip
        return 3


def _say(words: list[str], sentence: str, exit_code: int, error: NnoptError | None = None) -> None:
    prefix = "" if isinstance(error, (PageError, Interrupted)) else "nnopt: "
    print(f"{prefix}{sentence}", file=sys.stderr)
    if "--json" in words:
        said: dict[str, object] = {"ok": False, "exit_code": exit_code, "error": sentence}
        if isinstance(error, PageError):
            said["faults"] = [
                {"file": f.file, "line": f.line, "column": f.column, "path": f.path, "message": f.message}
                for f in error.faults
            ]
        answer(said)
