"""The table of the classes: how well each is recognised, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nnopt_ray.report import words
from nnopt_ray.report.blocks import Cell, Head, Table
from nnopt_ray.results import Scores

CLASS_METRICS = {
    "precision": ("precision", "of the rows predicted as this class, the share that is it"),
    "recall": ("recall", "of the rows of this class, the share that was found"),
    "f1": ("F1", "harmonic mean of precision and recall"),
    "roc_auc": ("ROC-AUC", "how often a row of this class ranks above one of another"),
    "pr_auc": (
        "PR-AUC",
        "average precision; guessing has the class's share of the rows",
    ),
}


ROWS = 300  # classes in the table: 700 bytes each


def class_table(test: Scores) -> Table:
    shown = [name for name in CLASS_METRICS if any(name in found for found in test.per_class)]
    noted = any(found.get("note") for found in test.per_class)
    each = test.per_class
    if len(each) > ROWS:
        each = tuple(sorted(each, key=lambda found: found["f1"])[:ROWS])
    rows = tuple(
        (
            Cell(str(found["class"])),
            *(_class_cell(found, name) for name in shown),
            Cell(words.count(found["rows"]), found["rows"]),
            *((Cell(str(found.get("note", "")), tone="muted"),) if noted else ()),
        )
        for found in each
    )
    heads = (
        Head("class"),
        *(Head(CLASS_METRICS[name][0], number=True, hint=CLASS_METRICS[name][1]) for name in shown),
        Head("test rows", number=True),
        *((Head("note"),) if noted else ()),
    )
    known = [found for found in test.per_class if found["rows"]]
    worst = min(known, key=lambda found: found["f1"], default=None)
    caption = f"The hardest class is {worst['class']}, with F1 {worst['f1']:.3f}." if worst else ""
    if len(each) < len(test.per_class):
        caption += f" Of {len(test.per_class):,} classes the {len(each)} with the lowest F1; all are in scores.json."
    if any(found.get("intervals") for found in test.per_class):
        caption += (
            " Intervals are of the same resamples as those of the scores; a share of 0 or 100 %, which drawing rows "
            "again cannot move, has the exact binomial one."
        )
    return Table("Each class", caption.strip(), heads, rows, sortable=True)


def _class_cell(found: Mapping[str, Any], name: str) -> Cell:
    value = found.get(name)
    if value is None or not math.isfinite(value) or not found["rows"]:
        return Cell("–", tone="muted")
    said = words.score(name, value)
    ends = found.get("intervals", {}).get(name)
    return Cell(f"{said}\n{words.interval(name, *ends)}" if ends else said, value)
