"""What the keys of a page must be to each other where several workers train one network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnopt_ray.reading.places import Places


def check_together(tree: Mapping[str, Any], searched: bool, places: Places) -> None:
    """Several workers for one network, and what goes with it."""
    resources = tree.get("resources")
    if not isinstance(resources, Mapping):
        return
    workers, batch = resources.get("workers"), resources.get("batch")

    def wrong(key: str, message: str) -> None:
        places.add(("resources", key), f"resources.{key}", message)

    if resources.get("lr_scaling") not in (None, "none") and batch != "per_worker":
        wrong("lr_scaling", "the batch does not grow with the workers, as resources.batch is global. Write none.")
    if isinstance(workers, (list, tuple)) and len(workers) == 2 and all(isinstance(number, int) for number in workers):
        least, most = workers
        if least > most:
            wrong("workers", f"the fewest come first: write [{most}, {least}].")
    elif isinstance(workers, int):
        least = most = workers
    else:
        return
    if most < 2:
        return
    if least < most and batch == "per_worker":
        wrong("batch", "where the workers may become fewer, so would the batch: write global, or one number.")
    if searched:
        wrong("workers", "a search gives each trial one worker. Write 1, or close what is searched.")
    if isinstance(evaluate := tree.get("evaluate"), Mapping) and evaluate.get("folds") is not None:
        message = "the folds of a cross-validation are trained by one worker each."
        wrong("workers", f"{message} Write 1, or leave evaluate.folds out.")
