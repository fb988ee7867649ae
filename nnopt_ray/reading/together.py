"""What the keys of a page must be to each other where several workers train one network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnopt_ray import tables
from nnopt_ray.errors import NnoptError
from nnopt_ray.experiment import Range
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
    if resources.get("fsdp") is True:
        _cut(tree, resources, most, searched, places)
    if most < 2:
        return
    train = tree.get("train")
    if resources.get("sync_batch_norm") is True and isinstance(train, Mapping) and train.get("compile") is True:
        message = "what workers tell each other inside the network is not compiled. Leave one of the two out."
        wrong("sync_batch_norm", message)
    if least < most and batch == "per_worker":
        wrong("batch", "where the workers may become fewer, so would the batch: write global, or one number.")
    evaluate = tree.get("evaluate")
    evaluate = evaluate if isinstance(evaluate, Mapping) else {}
    asked = next((key for key in ("folds", "sizes") if evaluate.get(key) is not None), None)
    if batch == "per_worker" and asked is not None:
        message = f"evaluate.{asked} trains by the batch on the page, which then is not that of all workers."
        wrong("batch", f"{message} Write global, or leave evaluate.{asked} out.")
    if searched:
        _trials(resources, least, most, evaluate, places)


def _trials(resources: Mapping[str, Any], least: int, most: int, evaluate: Mapping[str, Any], places: Places) -> None:
    """Several workers for each trial of a search."""

    def wrong(section: str, key: str, message: str) -> None:
        places.add((section, key), f"{section}.{key}", message)

    if least < most:
        message = "the trials of a search have as many workers each, so that they can be compared."
        wrong("resources", "workers", f"{message} Write one number, {max(least, 2)} say.")
    lanes = resources.get("lanes")
    one_by_one = "several workers train one trial at a time."
    if isinstance(lanes, int) and lanes > 1:
        wrong("resources", "lanes", f"{one_by_one} Write 1, or workers: 1.")
    if resources.get("fuse") == "always":
        wrong("resources", "fuse", f"{one_by_one} Write auto, or workers: 1.")
    if evaluate.get("nested") is True:
        message = "a search inside each fold would start its workers anew. Write false, or workers: 1."
        wrong("evaluate", "nested", message)


def _cut(tree: Mapping[str, Any], resources: Mapping[str, Any], most: int, searched: bool, places: Places) -> None:
    """What a network that is cut over its workers must be."""
    folds = isinstance(tree.get("evaluate"), Mapping) and tree["evaluate"].get("folds") is not None
    if most > 1 and (searched or folds):
        what = "a search trains its trials" if searched else "a cross-validation trains its folds"
        message = f"{what} with whole weights. Write fsdp: false, or let the page be a single training."
        places.add(("resources", "fsdp"), "resources.fsdp", message)
    if most < 2:
        message = "it cuts a network over the workers of a training, and there is 1. Write workers: 2, or fsdp: false."
        places.add(("resources", "fsdp"), "resources.fsdp", message)
    gpus = resources.get("gpus_per_worker")
    if isinstance(gpus, float) and 0 < gpus < 1:
        message = (
            "the pieces of a network that resources.fsdp cuts would lie on one GPU again. Write 1, or fsdp: false."
        )
        places.add(("resources", "gpus_per_worker"), "resources.gpus_per_worker", message)
    train, model, evaluate = (tree.get(name) for name in ("train", "model", "evaluate"))
    if isinstance(model, Mapping) and model.get("type") == "baseline":
        message = "baseline is fitted as a whole, and resources.fsdp cuts what it trains. Write fsdp: false."
        places.add(("model",), "model", message)
    if isinstance(evaluate, Mapping) and evaluate.get("sizes") is not None:
        message = (
            "it trains the network by one process, and resources.fsdp is for one that this does not hold. Remove it."
        )
        places.add(("evaluate", "sizes"), "evaluate.sizes", message)
    if not isinstance(train, Mapping):
        return
    if train.get("compile") is True:
        message = "what resources.fsdp does between the layers is not compiled. Leave one of the two out."
        places.add(("train", "compile"), "train.compile", message)
    if train.get("precision") == "float16":
        message = "a network that resources.fsdp cuts has no loss scale. Write bfloat16 or float32."
        places.add(("train", "precision"), "train.precision", message)
    optimizer = train.get("optimizer")
    for option in optimizer.values if isinstance(optimizer, Range) else (optimizer,):
        if isinstance(option, Mapping) and not _is_elementwise(option.get("type")):
            message = f"{option['type']} looks at whole weights, and resources.fsdp keeps pieces. Choose adamw, say."
            places.add(("train", "optimizer"), "train.optimizer", message)


def _is_elementwise(optimizer: Any) -> bool:
    try:
        return bool(getattr(tables.find("optimizer", optimizer), "elementwise", False))
    except NnoptError:  # a fault of its own
        return True
