"""Which Ray and which torch this nnopt works with, and the sentence about any other.

The ranges stand here too, as the code travels to clusters without its metadata; a test holds them against
pyproject.toml.
"""

from __future__ import annotations

import importlib.metadata
import re
from typing import Final, Literal

from nnopt_ray.errors import UserError

Package = Literal["ray", "torch"]
RANGES: Final[dict[Package, str]] = {"ray": ">=2.55,<2.61", "torch": ">=2.10,<2.14"}
INSTALLED_AS: Final[dict[Package, str]] = {"ray": "ray[tune,train,default]", "torch": "torch"}


def fits(package: Package, version: str) -> bool:
    """Whether a version lies in the range. Builds that call themselves early (`2.10.0a0+nv25.12`) count as the release
    they are of."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        return SpecifierSet(RANGES[package]).contains(Version(version).base_version)
    except InvalidVersion:
        return False


def check(package: Package) -> None:
    """Raises UserError where what is installed here is no version that this nnopt works with, or nothing is."""
    try:
        found = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{package} is not installed here: {cure(package)}") from None
    if not fits(package, found):
        raise UserError(
            f"{package} {found} is installed here, and this nnopt works with {RANGES[package]}: {cure(package)}"
        )


def cure(package: Package) -> str:
    return f"pip install '{INSTALLED_AS[package]}{RANGES[package]}'"


def mismatch(said: str) -> str | None:
    """Ray's "Version mismatch: ..." of a client and a cluster as a sentence; None for anything else that it says."""
    pairs = re.findall(r"(Ray|Python): (\S+)", said)
    if "Version mismatch" not in said or len(pairs) != 4:
        return None
    (_, ray_there), (_, python_there), (_, ray_here), (_, python_here) = pairs
    if ray_there != ray_here:
        can = (
            f"pip install '{INSTALLED_AS['ray']}=={ray_there}' here"
            if fits("ray", ray_there)
            else (f"start it with one that this nnopt works with ({RANGES['ray']})")
        )
        return f"it runs Ray {ray_there}, and here is Ray {ray_here}: {can}, or send the page with `nnopt submit`."
    return (
        f"it runs Python {python_there}, and here is Python {python_here}: start nnopt with that Python, or send the "
        "page with `nnopt submit`, which takes any."
    )


__all__ = ["RANGES", "check", "cure", "fits", "mismatch"]
