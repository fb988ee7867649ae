"""What `evaluate.explain` must be to the page's models and task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nnopt_ray import tables
from nnopt_ray.experiment import Range
from nnopt_ray.reading.places import Places


def check_explainers(tree: Mapping[str, Any], places: Places) -> None:
    """Every explainer must be for one of the page's models, and for the task, where the page says them."""
    listed = (tree.get("evaluate") or {}).get("explain") if isinstance(tree.get("evaluate"), Mapping) else None
    if not isinstance(listed, list) or not listed:
        return
    models = list(dict.fromkeys(_types(tree.get("model"))))
    data = tree.get("data")
    task = str(data.get("task")) if isinstance(data, Mapping) else ""
    for index, part in enumerate(listed):
        name = part.get("type") if isinstance(part, Mapping) else None
        said = ""
        if part in listed[:index]:
            said = f"'{name}' is listed twice. Remove one."
        elif task.endswith("language_modelling"):
            said = f"{task} (data.task) has an answer for each token, and one for each row is explained. Take it away."
        elif name in tables.table("explainer") and models:
            explainer = tables.find("explainer", name)
            if not any(explainer.is_for(model) for model in models):
                others = ", ".join(tables.load("nnopt_ray.evaluate.explainers:for_models")(models))
                said = f"{name} does not explain {' or '.join(models)}. There are for it: {others}."
        if said:
            places.add(("evaluate", "explain", index), f"evaluate.explain.{index}", said)


def _types(model: Any) -> Iterator[str]:
    """The models that a page may choose."""
    if isinstance(model, Range):
        for option in model.values:
            yield from _types(option)
    elif isinstance(model, Mapping) and isinstance(model.get("type"), str):
        yield model["type"]
