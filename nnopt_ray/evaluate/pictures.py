"""Images as people know them, and maps laid over them, as small PNG files."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnopt_ray import rundir
from nnopt_ray.data.preprocessing import FILE

SIDE = 128  # pixels of the longer side
COLOURS = 64  # of a picture: half the size of a full one, and no eye tells
# The ends and the middle of two scales that are told apart in grey as well: inferno's, and blue to red.
HEAT = ((0.0, (0, 0, 4)), (0.25, (87, 16, 110)), (0.5, (188, 55, 84)), (0.75, (249, 142, 9)), (1.0, (252, 255, 164)))
SIGNED = ((0.0, (60, 150, 255)), (0.5, (128, 128, 128)), (1.0, (255, 60, 50)))


def unscaled(images: np.ndarray, folder: Path) -> np.ndarray:
    """Images of the prepared data [rows, channels, height, width] without what the step `scale` did to them."""
    steps: list[Mapping[str, Any]] = rundir.read_json(folder / FILE)["steps"]
    found = images.astype(np.float64)
    for step in reversed(steps):
        learned = step["learned"].get("image") if step["type"] == "scale" else None
        if learned:
            center, scale = (np.array(learned[key])[:, None, None] for key in ("center", "scale"))
            found = found * scale + center
    return found


def white(images: np.ndarray) -> float:
    """The value that is white: 1 or 255 where the images look so, else the largest there is."""
    high = float(images.max(initial=0.0))
    nearly = 1 + 1e-4  # what scaling there and back leaves of float32
    return 1.0 if 0.5 < high <= nearly else 255.0 if 64.0 < high <= 255.0 * nearly else max(high, 1e-12)


def picture(image: np.ndarray, top: float) -> str:
    """An image [channels, height, width] with black at 0 and white at `top`, as base64 of a PNG."""
    return _png(_pixels(image, top))


def overlaid(image: np.ndarray, top: float, values: np.ndarray, signed: bool) -> str:
    """The image in grey under a map [height, width]: black to yellow from 0 to the largest value; signed: blue for
    what speaks against, red for what speaks for."""
    from PIL import Image

    grey = np.asarray(Image.fromarray(_pixels(image, top)).convert("L"), dtype=np.float64)
    largest = float(np.abs(values).max(initial=0.0))
    shares = values / largest if largest > 0 else np.zeros_like(values)
    scale, places = (SIGNED, (shares + 1) / 2) if signed else (HEAT, np.clip(shares, 0, 1))
    how = Image.Resampling.BILINEAR if not signed else Image.Resampling.NEAREST
    drawn = np.asarray(
        Image.fromarray(places.astype(np.float32), "F").resize((grey.shape[1], grey.shape[0]), how), dtype=np.float64
    )
    at = [place for place, _ in scale]
    colours = np.stack([np.interp(drawn, at, [colour[part] for _, colour in scale]) for part in range(3)], axis=2)
    share = (0.85 * np.abs(2 * drawn - 1) ** 0.7 if signed else np.full_like(drawn, 0.6))[:, :, None]
    if signed:  # darker, so that no white of the image looks like one of the scale
        grey = 0.6 * grey
    return _png(np.clip(share * colours + (1 - share) * grey[:, :, None], 0, 255).astype(np.uint8))


def _pixels(image: np.ndarray, top: float) -> np.ndarray:
    """uint8 [height, width, 3], the longer side SIDE or a little less."""
    from PIL import Image

    light = (np.clip(image / top, 0, 1) * 255).round().astype(np.uint8)
    coloured = Image.fromarray(light.transpose(1, 2, 0) if len(light) == 3 else light[0]).convert("RGB")
    longer = max(coloured.size)
    by = SIDE // longer if longer <= SIDE else SIDE / longer
    size = max(1, round(coloured.width * by)), max(1, round(coloured.height * by))
    how = Image.Resampling.NEAREST if longer <= SIDE else Image.Resampling.BOX
    return np.asarray(coloured.resize(size, how))


def _png(pixels: np.ndarray) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).quantize(COLOURS).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


__all__ = ["overlaid", "picture", "unscaled", "white"]
