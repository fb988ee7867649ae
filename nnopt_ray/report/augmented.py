"""A few training rows beside what augmentation makes of them, so that it is seen whether their target stays true."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nnopt_ray import reading
from nnopt_ray.data.types import Dataset
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import derived_seed
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Block, Cell, Head, Picture, Plot, Row, Section, Table, Text
from nnopt_ray.report.figure import axis, layout, line

if TYPE_CHECKING:
    import numpy as np

SHOWN = 4  # rows; of different classes, where there are
VARIANTS = {"image": 6, "sequence": 3, "tokens": 3}
BATCH = 64  # rows that they are changed among: some changes take values of others
TILE = 96  # CSS pixels of an image's longer side; a larger image is made smaller, which keeps the file small
GAP = 6
STEPS, CHANNELS, LETTERS = 200, 2, 400  # that are shown of a sequence and of a text


@dataclass(frozen=True, eq=False)
class Augmented:
    """Rows of one input as they are and as training saw them.

    kind: "image", "sequence" or "tokens". rows: float32 [rows, *shape] or texts; variants: the same, several times.
    labels: what each row is, where it is of a class. told: the augmentations with their keys, in words.
    """

    kind: str
    rows: Sequence[Any]
    variants: tuple[Sequence[Any], ...]
    labels: tuple[str, ...]
    told: str


def samples(experiment: Experiment, dataset: Dataset, params: Mapping[str, Any]) -> Augmented | None:
    """What the page's augmentation does to some training rows, with the values of its best trial; None where it has
    none, or nothing that can be shown. Raises UserError for what a part cannot do."""
    closed = reading.close(experiment, params) if experiment.is_search else experiment
    if not closed.data.augment:
        return None
    import numpy as np
    import torch

    from nnopt_ray.train.augmenting import Augmenter

    augmenter = Augmenter(closed.data, dataset)
    changed = {i for _, _, chosen in augmenter.parts for i in chosen}
    place = next((i for i, given in enumerate(dataset.shapes.inputs) if i in changed and given.kind in VARIANTS), None)
    if place is None:
        return None
    given = dataset.shapes.inputs[place]
    shown = _chosen(dataset)
    others = [row for row in range(min(len(dataset.train), BATCH)) if row not in shown][: BATCH - len(shown)]
    batch = tuple(torch.from_numpy(np.array(x[[*shown, *others]])) for x in dataset.train.inputs)
    seeds = (derived_seed(closed.seed, "report", number) for number in range(VARIANTS[given.kind]))
    made = [augmenter.batch(batch, seed)[place][: len(shown)].numpy() for seed in seeds]
    before = batch[place][: len(shown)].numpy()
    kinds = [each.kind for each in dataset.shapes.inputs]
    ends = batch[kinds.index("lengths")].tolist() if "lengths" in kinds else [given.shape[0]] * len(shown)

    def readable(rows: np.ndarray) -> Sequence[Any]:
        if given.kind == "tokens":
            return _texts(rows, dataset)
        if given.kind == "sequence":
            return [row[:end] for row, end in zip(rows, ends, strict=False)]
        return list(rows)

    classes: Sequence[int] = dataset.train.target[shown].tolist() if dataset.classes else ()
    labels = tuple(dataset.classes[y] for y in classes)
    return Augmented(given.kind, readable(before), tuple(readable(each) for each in made), labels, _told(closed))


def _chosen(dataset: Dataset) -> list[int]:
    """The first training rows, of different classes where there are."""
    import numpy as np

    most = min(SHOWN, len(dataset.train))
    if not dataset.classes:
        return list(range(most))
    _, first = np.unique(np.asarray(dataset.train.target), return_index=True)
    rows = [*first[:most].tolist(), *range(len(dataset.train))]
    return list(dict.fromkeys(rows))[:most]


def _texts(rows: np.ndarray, dataset: Dataset) -> list[str]:
    from nnopt_ray.data.words import words_of

    read = words_of(dataset.folder)
    return [read.shown(row) for row in rows]


def _told(closed: Experiment) -> str:
    said = []
    for part in closed.data.augment:
        keys = ", ".join(f"{key} {words.chosen(value)}" for key, value in part.keys.items() if value is not None)
        said.append(f"{part.type} ({keys})" if keys else part.type)
    return words.listed(said)


def augmented(found: Augmented | None) -> Section | None:
    """The section of the report."""
    if found is None:
        return None
    told = (
        f"Rows of training batches are changed by {found.told}, each in its own way and anew in every epoch. Would you "
        "still say the same of the changed rows? Where not, a strength is too high."
    )
    blocks: list[Block] = [Text(told)]
    if found.kind == "image":
        blocks.append(_picture(found))
    elif found.kind == "sequence":
        blocks.append(Row(tuple(_lines(found, row) for row in range(len(found.rows)))))
    else:
        blocks.append(_table(found))
    return Section("Augmentation", tuple(blocks))


def _picture(found: Augmented) -> Picture:
    """A grid: a line a row of the data, first as it is. All in the range of the rows as they are."""
    import numpy as np
    from PIL import Image

    rows = np.asarray(found.rows)
    channels, height, width = rows.shape[1:]
    coloured = channels == 3
    low, high = float(rows.min()), float(rows.max())
    longer = max(height, width)
    by = TILE // longer if longer <= TILE else TILE / longer
    size = max(1, round(width * by)), max(1, round(height * by))
    # The rows as they are stand by themselves, twice as far from the others.
    lefts = [column * (size[0] + GAP) + GAP * (column > 0) for column in range(1 + len(found.variants))]
    grid = Image.new("RGBA", (lefts[-1] + size[0], len(rows) * (size[1] + GAP) - GAP), (0, 0, 0, 0))
    for left, each in zip(lefts, (rows, *found.variants), strict=True):
        for number, row in enumerate(np.asarray(each)):
            light = np.clip((row - low) / max(high - low, 1e-12), 0, 1) * 255
            pixels = light.round().astype(np.uint8)
            tile = Image.fromarray(pixels.transpose(1, 2, 0) if coloured else pixels[0]).convert("RGB")
            how = Image.Resampling.NEAREST if longer <= TILE else Image.Resampling.BOX
            grid.paste(tile.resize(size, how), (left, number * (size[1] + GAP)))
    file = io.BytesIO()
    grid.save(file, "PNG", optimize=True)
    only = "" if coloured or channels == 1 else f" Of {channels} channels the first is shown."
    caption = (
        f"Left: as they are{_of(found.labels)}. Black and white are the smallest and largest value of these, behind "
        f"the steps of the data.{only}"
    )
    return Picture("Images before and after", caption, file.getvalue(), *grid.size)


def _of(labels: tuple[str, ...]) -> str:
    return f", from top to bottom {words.listed(list(labels))}" if labels else ""


def _lines(found: Augmented, row: int) -> Plot:
    before = found.rows[row]
    every = max(1, -(-len(before) // STEPS))
    steps = list(range(0, len(before), every))
    colours = ("--winner", "--train")
    drawn = []
    for channel in range(min(CHANNELS, before.shape[1])):
        for number, variant in enumerate(found.variants):
            values = [float(f"{value:.4g}") for value in variant[row][::every, channel]]
            shown = number == 0
            more = {"mode": "lines", "opacity": 0.45, "showlegend": shown, "legendgroup": f"after {channel}"}
            drawn.append(line(steps, values, f"channel {channel + 1}, changed", colours[channel], dash="dot", **more))
        values = [float(f"{value:.4g}") for value in before[::every, channel]]
        drawn.append(line(steps, values, f"channel {channel + 1}", colours[channel], mode="lines"))
    left = before.shape[1] - CHANNELS
    caption = f"As it is (solid) and changed {len(found.variants)} times (dotted)"
    caption += f"; {words.plural(left, 'more channel', 'more channels')} not shown." if left > 0 else "."
    title = f"Row of class {found.labels[row]}" if found.labels else f"Row {row + 1}"
    figure = {"data": drawn, "layout": layout(axis("step"), axis("value, behind the steps of the data"))}
    return Plot(f"augmented-{row}", title, caption, figure, height=260)


def _table(found: Augmented) -> Table:
    rows = tuple(
        (
            *((Cell(found.labels[at], tone="muted"),) if found.labels else ()),
            *(Cell(_cut(each[at])) for each in (found.rows, *found.variants)),
        )
        for at in range(len(found.rows))
    )
    heads = (
        *((Head("class"),) if found.labels else ()),
        Head("as it is"),
        *(Head(f"changed, {number}") for number in range(1, len(found.variants) + 1)),
    )
    caption = "As the tokenizer gives them back; what it does not know is [UNK]."
    return Table("Texts before and after", caption, heads, rows)


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LETTERS else text[: LETTERS - 1] + "…"


__all__ = ["Augmented", "augmented", "samples"]
