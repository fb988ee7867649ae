"""`nnopt run --once`: the run that a page has already, which the same page submitted again goes on with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from nnopt_ray import reading, rundir
from nnopt_ray.experiment import Experiment
from nnopt_ray.rundir import RunDir
from nnopt_ray.storage import copies
from nnopt_ray.storage.urls import default_parent, path_of, seen, url_of


def begun(experiment: Experiment, out: str | Path | None = None) -> Path | None:
    """The folder of the newest run of exactly this page below `out` (default: `default_parent()`), finished
    or not; None without one.

    Pages are the same when all that they say is, with every default filled in. Of a path beside the page only the
    names from the page's folder on count: a job's folder lies elsewhere on each head, its name made from its content.
    """
    said = _unplaced(reading.dump(experiment), reading.import_paths(experiment.file))
    same = []
    parent = out if out is not None else default_parent()
    url = url_of(parent)
    if url:
        copies.glances(url)
    for folder in RunDir.named(seen(url) if url else path_of(parent), experiment.name):
        if folder.resolved.is_file() and folder.environment.is_file():
            paths = rundir.read_json(folder.environment).get("import_paths", [])
            if _unplaced(folder.resolved.read_text(encoding="utf-8"), paths) == said:
                same.append(folder)
    if (
        url
    ):  # what was fetched is as old as its fetching; the names of a page's runs end with the time of their beginning
        return max(same, key=lambda folder: folder.root.name).root if same else None
    return max(same, key=lambda folder: folder.resolved.stat().st_mtime).root if same else None


def _unplaced(page: str, folders: Sequence[str]) -> str:
    """A resolved page without what stands before the names of these folders."""
    for parent in sorted({os.path.dirname(folder) for folder in folders} - {"/", ""}, key=len, reverse=True):
        page = page.replace(f"{parent}/", "")
    return page
