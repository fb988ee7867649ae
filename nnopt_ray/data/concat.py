"""The source `concat`: the rows of several sources below each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from nnopt_ray import tables
from nnopt_ray.data.joined import joined
from nnopt_ray.data.sources import Source
from nnopt_ray.data.table import Table
from nnopt_ray.errors import DataError, MissingExtra, PartError
from nnopt_ray.experiment import InRoom
from nnopt_ray.tables import Part


class Concat(Source):
    """Several sources of any type, their rows below each other, their columns brought together by name.

    All must have the same columns, images of one shape and sequences of the same channels. Where each comes with parts
    of its own, these are kept.

    Keys:
        sources: the sources, each as it would stand alone.
        parts: of each source, which part its rows are: train, validation or test (`split: given`, the default then).
    """

    def __init__(
        self,
        *,
        sources: Annotated[tuple[Part, ...], InRoom("source"), Field(min_length=1)],
        parts: tuple[Literal["train", "validation", "test"], ...] | None = None,
    ) -> None:
        if parts is not None and len(parts) != len(sources):
            raise DataError(
                f"data.source.parts: {len(parts)} parts are named for {len(sources)} sources; name one for each."
            )
        self.sources = sources
        self.parts = parts
        self._asked: tuple[list[Source], str] | None = None

    @classmethod
    def divides(cls, keys: Mapping[str, Any], base: Path) -> bool:
        held = keys.get("sources")
        if keys.get("parts") or not isinstance(held, list) or not held:
            return bool(keys.get("parts"))
        said = [one if isinstance(one, dict) else {"type": one} for one in held]
        try:
            return all(tables.find("source", str(one.get("type"))).divides(one, base) for one in said)
        except (PartError, MissingExtra):  # said with its place where the page is checked
            return False

    def fingerprint(self, base: Path) -> str:
        """Of all sources. They are kept for `read`, as some read their rows for it."""
        built = self._built()
        self._asked = built, " | ".join(source.fingerprint(base) for source in built)
        return self._asked[1]

    def read(self, base: Path) -> Table:
        if self._asked is None:
            self.fingerprint(base)
        assert self._asked is not None
        (built, content), self._asked = self._asked, None
        found = [source.read(base) for source in built]
        return joined(found, _names(found), content, self.parts)

    def _built(self) -> list[Source]:
        if not self.sources:
            raise DataError("data.source.sources: the list is empty. Name at least one source.")
        return [tables.build("source", part) for part in self.sources]


def _names(found: list[Table]) -> list[str]:
    names = [table.origin for table in found]
    return [f"{name} (source {number})" if names.count(name) > 1 else name for number, name in enumerate(names, 1)]


__all__ = ["Concat"]
