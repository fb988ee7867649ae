"""What is a URL, and where on this machine a run that is kept at one is worked on."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from nnopt_ray.data.cache import default_cache
from nnopt_ray.errors import UserError
from nnopt_ray.reading.addresses import masked
from nnopt_ray.rundir import AT_URL, SEEN_AT_URL

# A Path that was made of a URL has lost a slash of it: `s3:/bucket/runs`.
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
LOCAL = ("file", "local")


def url_of(place: str | Path) -> str:
    """A place as a URL without a slash at its end; empty where it is a path of this machine, `file://` included.

    Raises UserError for URLs that name no folder of a store, or hold a password or a query.
    """
    found = URL.fullmatch(str(place))
    if found is None or found[1].lower() in LOCAL:
        return ""
    kind, inside = found[1].lower(), str(PurePosixPath(found[2])).strip("/")
    url = f"{kind}://{inside}"
    if "::" in str(place) or "?" in inside or "@" in inside:
        raise UserError(
            f"{masked(str(place))}: a run folder's URL is written into its results, so it holds no password, query or "
            "chain. Give access as the package of such URLs takes it: environment variables or a profile."
        )
    if not inside or inside == "." or ".." in PurePosixPath(inside).parts:
        raise UserError(f"{url} names no folder. Give one such as {kind}://BUCKET/runs.")
    return url


def path_of(place: str | Path) -> Path:
    """A place of this machine as a path: `file:///x` is /x. Raises UserError for another URL."""
    if url := url_of(place):
        raise UserError(f"{url}: this is written to a folder and not to a URL. Choose a folder with --out.")
    found = URL.fullmatch(str(place))
    if found is not None and found[1].lower() in LOCAL:
        return Path("/" + found[2].lstrip("/"))
    return Path(place)


def working(url: str) -> Path:
    """Where on this machine a run at this URL is worked on, or the runs below it."""
    return _below(AT_URL, url)


def seen(url: str) -> Path:
    """Where the files of a run lie that were fetched to be looked at."""
    return _below(SEEN_AT_URL, url)


def _below(name: str, url: str) -> Path:
    kind, _, inside = url.partition("://")
    return (default_cache() / name / kind / inside).absolute()


def default_parent() -> str | Path:
    """Where run folders go: NNOPT_RUNS, a folder or a URL, else ./runs; inside a Ray job, whose working directory is a
    copy that is thrown away, ~/nnopt-runs."""
    given = os.environ.get("NNOPT_RUNS")
    if given and "://" in given:
        return given
    if given:
        return Path(given).expanduser().absolute()
    if os.environ.get("RAY_JOB_ID") or os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        return Path.home() / "nnopt-runs"
    return Path("runs")
