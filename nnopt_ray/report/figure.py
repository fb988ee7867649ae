"""The frame of every plot: axes, scales, texts and colours, as plotly's JSON.

Plain dictionaries, not plotly.graph_objects: building them takes no import, and the tests let
plotly's own validators judge every one. A colour is the name of a CSS variable ("--winner"), which
the page's script looks up, so a plot follows light, dark and print. Every text of the user goes
through `label`: plotly reads some HTML in texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nnopt_ray.report import words

Figure = dict[str, Any]


def label(text: object, longest: int = 60) -> str:
    """A text that plotly shows as it is: shortened, and with no HTML left in it."""
    return cut(str(text), longest).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def cut(text: str, longest: int) -> str:
    """On one line, and shortened."""
    plain = " ".join(words.harmless(text).split())
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def axis(title: str, colour: str = "--muted", **more: Any) -> Figure:
    return {
        "title": {"text": title, "standoff": 10, "font": {"size": 13, "color": colour}},
        "gridcolor": "--grid",
        "linecolor": "--line",
        "zerolinecolor": "--grid",
        "tickcolor": "--line",
        "automargin": True,
        **more,
    }


def layout(x: Figure, y: Figure, **more: Any) -> Figure:
    return {
        "paper_bgcolor": "--clear",
        "plot_bgcolor": "--clear",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "--ink"},
        "margin": {"l": 56, "r": 16, "t": 34, "b": 48},
        "hoverlabel": {"bgcolor": "--raised", "bordercolor": "--line", "font": {"color": "--ink"}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": "--clear"},
        "modebar": {"bgcolor": "--clear", "color": "--faint", "activecolor": "--ink"},
        "xaxis": x,
        "yaxis": y,
        **more,
    }


def clean(values: Sequence[float | None]) -> list[float | None]:
    """JSON has no NaN; plotly leaves a gap at null."""
    return [None if value is None or not math.isfinite(value) else value for value in values]


def finite(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def spread(values: Sequence[float | None]) -> str:
    """ "log" where positive values span more than a factor of 30, else "linear"."""
    known = finite(values)
    return "log" if known and min(known) > 0 and max(known) / min(known) > 30 else "linear"


def scale(values: Sequence[float | None]) -> Figure:
    """The keys of an axis for these values. A log axis gets ticks at 1, 2 and 5 (or at powers of ten where
    that is too many): plotly's own write 0.2 as a lone "2"."""
    return log_scale(finite(values)) if spread(values) == "log" else {"type": "linear"}


def log_scale(known: Sequence[float]) -> Figure:
    """The keys of a logarithmic axis over these positive values."""
    first, last = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    factors = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    every = max(1, math.ceil(len(ticks) / 10)) if factors == (1,) else 1
    shown = ticks[::every]
    return {"type": "log", "tickmode": "array", "tickvals": shown, "ticktext": [f"{tick:.4g}" for tick in shown]}


def line(x: list[int], y: Sequence[float | None], name: str, colour: str, **more: Any) -> Figure:
    dash = more.pop("dash", "solid")
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(x) < 40 else "lines",
        "x": x,
        "y": clean(y),
        "name": name,
        "line": {"color": colour, "width": 2, "dash": dash},
        "marker": {"color": colour, "size": 5},
        **more,
    }


def best_epoch_mark(best_epoch: int | None) -> Figure:
    """The keys of a layout for a dotted line at the best epoch."""
    if best_epoch is None:
        return {}
    dotted = {"color": "--good", "width": 1.5, "dash": "dot"}
    ends = {"x0": best_epoch, "x1": best_epoch, "yref": "paper", "y0": 0, "y1": 1}
    return {"shapes": [{"type": "line", **ends, "line": dotted, "name": "best epoch", "showlegend": True}]}
