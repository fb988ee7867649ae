"""Numbers and names in words: how the report writes a score, a duration, a chosen value."""

from __future__ import annotations

import math
from typing import Any

# Shares of rows read best in per cent; differences between them are percentage points.
PERCENT = frozenset({"accuracy", "balanced_accuracy", "precision", "recall"})
IN_TARGET_UNITS = frozenset({"mae", "rmse"})

NAMES = {
    "loss": "loss",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "roc_auc": "ROC-AUC",
    "log_loss": "log-loss",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R²",
}

HEADLINES = {"classification": "accuracy", "regression": "rmse"}
PARTS = {"val": "validation", "train": "training", "test": "test"}
NBSP = "\u00a0"


def base(metric: str) -> str:
    """val_loss → loss."""
    head, _, rest = metric.partition("_")
    return rest if head in PARTS and rest else metric


def metric_name(metric: str) -> str:
    """val_roc_auc → "validation ROC-AUC"."""
    head, _, rest = metric.partition("_")
    if head in PARTS and rest:
        return f"{PARTS[head]} {NAMES.get(rest, rest)}"
    return NAMES.get(metric, metric)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def number(value: float) -> str:
    """Four significant digits, no needless exponent: 0.08214 → 0.08214, 1234567 → 1,234,567."""
    if math.isnan(value):
        return "not defined"
    if math.isinf(value):
        return "infinite"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1000:
        return sign(f"{value:,.0f}") if size < 1e9 else sign(f"{value:.3e}")
    if size < 1e-4:
        return sign(f"{value:.3g}")
    return sign(f"{value:.{max(0, 3 - math.floor(math.log10(size)))}f}")


def sign(text: str) -> str:
    return text.replace("-", "−", 1) if text.startswith("-") else text


def score(metric: str, value: float) -> str:
    """A metric's value as people of the field write it: 97.2 %, 0.983, 54.3."""
    name = base(metric)
    if not math.isfinite(value):
        return number(value)
    if name in PERCENT:
        return f"{sign(f'{100 * value:.1f}')}{NBSP}%"
    if name in {"f1", "roc_auc", "r2"}:
        return sign(f"{value:.3f}")
    return number(value)


def interval(metric: str, low: float, high: float) -> str:
    return f"{score(metric, low)} to {score(metric, high)}"


def difference(metric: str, value: float) -> str:
    """The size of a difference without its sign: "2.1 points", "0.0312"."""
    value = abs(value)
    if base(metric) in PERCENT:
        return f"{100 * value:.1f}{NBSP}point{'' if round(100 * value, 1) == 1 else 's'}"
    return score(metric, value)


def signed(metric: str, value: float) -> str:
    """A signed difference without its unit, for intervals: "−0.6", "+1.5"."""
    shown = f"{100 * abs(value):.1f}" if base(metric) in PERCENT else score(metric, abs(value))
    if float(shown.replace(",", "")) == 0:
        return shown
    return f"{'−' if value < 0 else '+'}{shown}"


def count(value: int) -> str:
    return f"{value:,}"


def plural(value: int, one: str, many: str = "") -> str:
    """3 trials, 1 trial."""
    return f"{count(value)}{NBSP}{one if value == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 1:
        return f"{1000 * seconds:.0f}{NBSP}ms"
    if seconds < 99.95:
        return f"{seconds:.1f}{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min {rest:02d}{NBSP}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{NBSP}h {minutes:02d}{NBSP}min"


def chosen(value: Any) -> str:
    """A value of the page as a reader takes it in: 0.0123, 64, adam, [64, 32]."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(chosen(item) for item in value)}]"
    return str(value)


def listed(items: list[str]) -> str:
    """a, b and c."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
