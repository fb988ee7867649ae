"""The door of the room: facts → report.html, one file that opens anywhere, without a network.

The page carries a Content-Security-Policy that forbids every load and lets only this file's own
scripts run (by their hashes): text of the user that would slip through as markup can do nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nnopt_ray import rundir
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Parallel, Plot, Section
from nnopt_ray.report.card import markdown
from nnopt_ray.report.facts import Facts, facts_from_folder
from nnopt_ray.report.sections import SECTIONS, chapter
from nnopt_ray.report.standing import sentence
from nnopt_ray.rundir import RunDir

__all__ = ["facts_from_folder", "html", "page", "stamp", "write"]


def write(run: RunDir, facts: Facts) -> None:
    """Write report.html of a run folder, and of a finished run the card of its model, each whole or not at all.

    Raises RunFailed when one cannot be written.
    """
    rundir.write_text(run.report, html(facts, run.root.name))
    if facts.result is not None:
        rundir.write_text(run.model_card, markdown(facts))


def html(facts: Facts, folder: str = "") -> str:
    """The page as text. `folder` is the run folder's name, shown beside the title."""
    status = facts.result.status if facts.result else facts.standing.status
    made = {name: section for name, build in SECTIONS.items() if (section := build(facts)) is not None}
    return page(
        made,
        name=facts.experiment.name,
        title=f"{'' if status == 'finished' else f'({status}) '}{facts.experiment.name} – nnopt report",
        status=status,
        standing="" if facts.result else sentence(facts.standing, facts.experiment, facts.rows, facts.course),
        beside=f"{folder} · " * bool(folder) + f"written {stamp(facts.standing.written)}",
        files="result.json, trials.parquet and evaluation/scores.json beside this file",
        chapters={name: chapter(name, section) for name, section in made.items()},
    )


def stamp(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M:%S %Z")


def page(
    sections: Mapping[str, Section],
    *,
    name: str,
    title: str,
    status: str,
    standing: str,
    beside: str,
    files: str,
    chapters: Mapping[str, str] | None = None,
) -> str:
    """Any page of this look.

    status: a word beside the title. standing: a sentence under it, where it is not empty, in which what stands between
    backticks is code. files: where a script finds the same numbers. chapters: of each section, where several share one.
    """
    grouped: dict[str, list[str]] = {}
    for each, section in sections.items():
        grouped.setdefault((chapters or {}).get(each, section.title), []).append(each)
    plotly, own = _plotly(), _text("page.js")
    template = _environment().get_template("page.html.j2")
    return template.render(
        name=name,
        title=title,
        status=status,
        standing=standing,
        beside=beside,
        files=files,
        sections=sections,
        chapters=grouped,
        style=Markup(_text("page.css")),
        scripts=[Markup(plotly), Markup(own)],
        policy=f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; "
        f"script-src {_hash(plotly)} {_hash(own)}; base-uri 'none'; form-action 'none'",
    )


def embedded(value: Any) -> Markup:
    """JSON that may stand in a script element: no text in it can end the element or open a comment."""
    text = json.dumps(rundir.finite(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def drawn(block: Plot | Parallel) -> Markup:
    """What the page's script draws a block from."""
    if isinstance(block, Plot):
        return embedded(block.figure)
    return embedded(
        {
            "axes": [{"title": axis.title, "ticks": axis.ticks} for axis in block.axes],
            "lines": [
                {"key": line.key, "places": line.places, "rank": round(line.rank, 4), "text": line.text}
                for line in block.lines
            ],
        }
    )


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("nnopt_ray.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda shown: words.harmless(shown) if type(shown) is str else shown,
    )
    made.filters["drawn"] = drawn
    return made


@lru_cache(maxsize=1)
def _plotly() -> str:
    """plotly's script (4.8 MB), without the end tags that would cut it short inside a script element."""
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script.replace("</script", "<\\/script")


def _text(name: str) -> str:
    return resources.files("nnopt_ray.report").joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """A source of script-src: the script with exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
