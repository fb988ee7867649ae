"""What a search that has begun may still change: its ranges, how many trials it runs, what it runs on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Experiment, Range, plain

# None of these is part of what a trial is, or of how the next one is found.
FREE = ("about", "resources", "search.confirm", "search.concurrency", "search.timeout_s", "search.trials")
_MISSING = object()


def check_extends(before: Experiment, after: Experiment) -> None:
    """Raise UserError, a line for each path, where `after` is no longer the search that `before` began.

    Opened values may get other ranges: what was found so far stays evidence where it lies in them. All
    other values must stay, for else trials of before and after could not be compared.
    """
    faults = [sentence for sentence in _differences(before.tree, after.tree, "") if sentence]
    if before.search.reproducible and before.search.concurrency != after.search.concurrency:
        faults.append(
            f"search.concurrency: it was {before.search.concurrency or 'left out'}, and the order of a reproducible "
            f"search is built on it: with {after.search.concurrency or 'none'} it would be another one."
        )
    if faults:
        raise UserError("\n".join(faults))


def _differences(before: Any, after: Any, path: str) -> Iterator[str]:
    if path in FREE:
        return
    if isinstance(before, Range) or isinstance(after, Range):
        if not isinstance(after, Range):
            yield f"{path}: it is searched, and can be given another range, but not {_brief(after)} alone."
        elif not isinstance(before, Range):
            yield (
                f"{path}: it was {_brief(before)} in every trial so far and cannot be opened now. Start a new search "
                "with `nnopt run`."
            )
        elif before.kind == after.kind == "choice":  # options may come and go; those that stay must be what they were
            labels = after.labels()
            for label, option in zip(before.labels(), before.values, strict=True):
                if label in labels and isinstance(option, (Mapping, list, tuple)):
                    index = labels.index(label)
                    yield from _differences(option, after.values[index], f"{path}.choice.{index}")
    elif isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys([*before, *after]):
            inside = f"{path}.{key}" if path else str(key)
            yield from _differences(before.get(key, _MISSING), after.get(key, _MISSING), inside)
    elif isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _differences(old, new, f"{path}.{index}" if path else str(index))
    elif plain(before) != plain(after):
        yield (
            f"{path}: it was {_brief(before)} in every trial so far, and results could not be compared with others of "
            f"{_brief(after)}. Start a new search with `nnopt run`."
        )


def _brief(value: Any) -> str:
    if value is _MISSING:
        return "not there"
    text = str(plain(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
