"""What the sections of a page are made of: a closed, frozen model, marks of its fields, types of their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True)
class InRoom:
    """Marks a field whose value is a part of this room, or a list of such parts."""

    room: str


@dataclass(frozen=True)
class Fixed:
    """Marks a field (and all below it) in which no range may stand, with the reason in words."""

    why: str


@dataclass(frozen=True)
class Beside:
    """Marks a key that names a file or folder, relative to the page; the resolved page names it in full.

    A resolved page is kept in a run folder and read from there, where a relative path would lead nowhere.
    """


def by_default(name: str) -> Any:
    """The part that stands where the page names none, as a page would write it; reading makes it a Part."""
    return {"type": name}


class Section(BaseModel):
    """Base of all sections: closed, immutable, no guessing of types."""

    bare: ClassVar[str | None] = None  # the key that a word alone, instead of the mapping, stands for

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True, populate_by_name=True
    )


Fraction = Annotated[float, Field(gt=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Mode = Literal["auto", "min", "max"]
