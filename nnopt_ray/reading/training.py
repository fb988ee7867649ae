"""What the keys of `train` must be to each other, and to those that say how it is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnopt_ray.reading.places import Places


def check_training(tree: Mapping[str, Any], longest: int | None, places: Places) -> None:
    """Note a fault for each contradiction. longest: the most epochs that a trial trains, None where not known."""
    train = tree.get("train")
    if isinstance(train, Mapping):
        _averages(train, longest, places)
        _one_by_one(tree, train, places)
        _balanced(tree, train, places)
        if train.get("l1_form") == "proximal" and train.get("l1") == 0:
            message = "it is a form of the L1 penalty, and train.l1 is 0. Give train.l1, such as 1e-4, or remove it."
            places.add(("train", "l1_form"), "train.l1_form", message)


def _one_by_one(tree: Mapping[str, Any], train: Mapping[str, Any], places: Places) -> None:
    """Trials that the page wants as lanes of one step must be such as can be."""
    resources = tree.get("resources")
    lanes = resources.get("lanes") if isinstance(resources, Mapping) else None
    always = isinstance(resources, Mapping) and resources.get("fuse") == "always"
    if not always and not (isinstance(lanes, int) and lanes > 1):
        return
    said = "resources.fuse is always" if always else f"resources.lanes is {lanes}"
    if train.get("compile") is True:
        message = f"{said}, and trainings with compiled steps are no lanes of one step. Leave one of the two out."
        places.add(("train", "compile"), "train.compile", message)


def _balanced(tree: Mapping[str, Any], train: Mapping[str, Any], places: Places) -> None:
    """Batches in which every class is as frequent as any other: of classes, and evened out once only."""
    if train.get("sampling") != "balanced":
        return
    data, loss = tree.get("data"), train.get("loss")
    data = data if isinstance(data, Mapping) else {}
    rule = ""
    if data.get("window") is not None or data.get("task") not in (None, "auto", "classification"):
        other = "a window foretells amounts" if data.get("window") is not None else f"data.task is {data['task']}"
        rule = f"it draws every class as often as any other, and {other}. Take it away."
    elif isinstance(data.get("balance"), Mapping):
        rule = "data.balance evens out the rows of the classes already. Leave one of the two out."
    elif isinstance(loss, Mapping) and loss.get("class_weights") == "balanced":
        rule = "train.loss.class_weights: balanced would weigh rare classes a second time. Leave one of the two out."
    if rule:
        places.add(("train", "sampling"), "train.sampling", rule)


def _averages(train: Mapping[str, Any], longest: int | None, places: Places) -> None:
    swa = train.get("swa")
    if not isinstance(swa, Mapping):
        return
    if isinstance(train.get("ema"), Mapping):
        message = "train.ema averages the weights already, and only one average can be what counts. Remove one of them."
        places.add(("train", "swa"), "train.swa", message)
    first = swa.get("start_epoch")
    if isinstance(first, int) and longest is not None and first >= longest:
        message = f"it counts from 0 and train.epochs is {longest}, so nothing would ever be averaged. Lower it."
        places.add(("train", "swa", "start_epoch"), "train.swa.start_epoch", message)
    if swa.get("anneal_epochs") and swa.get("lr") is None:
        message = "the learning rate goes to train.swa.lr in these epochs, which the page does not say. Give it, or 0."
        places.add(("train", "swa", "anneal_epochs"), "train.swa.anneal_epochs", message)
