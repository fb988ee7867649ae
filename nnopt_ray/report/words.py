"""Numbers and names in words: how the report writes a score, a duration, a chosen value."""

from __future__ import annotations

import math
from typing import Any

# Shares of rows read best in per cent; differences between them are percentage points.
PERCENT = frozenset({"accuracy", "balanced_accuracy", "precision", "recall", "sparsity", "token_accuracy"})
UNIT = frozenset({"f1", "weighted_f1", "mcc", "roc_auc", "pr_auc", "r2"})  # best is 1; three decimals
IN_TARGET_UNITS = frozenset({"mae", "rmse"})

NAMES = {
    "loss": "loss",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "weighted_f1": "weighted F1",
    "mcc": "Matthews correlation",
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC (average precision)",
    "brier": "Brier score",
    "ece": "calibration error (ECE)",
    "mape": "MAPE",
    "smape": "sMAPE",
    "mase": "MASE",
    "log_loss": "log-loss",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R²",
    "perplexity": "perplexity",
    "token_accuracy": "token accuracy",
}

HEADLINES = {
    "classification": "accuracy",
    "regression": "rmse",
    "language_modelling": "perplexity",
    "masked_language_modelling": "perplexity",
}
PARTS = {"val": "validation", "train": "training", "test": "test"}
NBSP = "\u00a0"


# Marks that turn the direction of all that follows, ours too, and bytes that no page may hold.
_TURNING = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])
_CONTROL = dict.fromkeys([*range(9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F], "\ufffd")


def harmless(text: str) -> str:
    """Text of a user without the characters that would change the text around it; letters of any script stay."""
    return text.translate(_TURNING | _CONTROL)


def base(metric: str) -> str:
    """val_loss → loss, cv_val_loss → loss."""
    metric = metric.removeprefix("cv_")
    head, _, rest = metric.partition("_")
    return rest if head in PARTS and rest else metric


def metric_name(metric: str) -> str:
    """val_roc_auc → "validation ROC-AUC", cv_val_roc_auc → "cross-validated ROC-AUC"."""
    if metric.startswith("cv_val_"):
        return f"cross-validated {metric_name(base(metric))}"
    head, _, rest = metric.partition("_")
    if head in PARTS and rest:
        return f"{PARTS[head]} {metric_name(rest)}"
    return NAMES.get(metric, metric.rpartition(":")[2])  # of one's own, its class


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
    """A true minus sign, and none in front of what was rounded to zero."""
    if not text.startswith("-"):
        return text
    return f"−{text[1:]}" if text.strip("-0.,") else text[1:]


def score(metric: str, value: float) -> str:
    """A metric's value as people of the field write it: 97.2 %, 0.983, 54.3."""
    name = base(metric)
    if not math.isfinite(value):
        return number(value)
    if name in PERCENT:
        return f"{sign(_below(100 * value, 1, 100))}{NBSP}%"
    if name in UNIT:
        return sign(_below(value, 3, 1))
    return number(value)


def _below(value: float, decimals: int, top: float) -> str:
    """Rounded, with more digits where rounding would make a value perfect that is not: 0.99986."""
    while decimals < 8 and value != top and round(value, decimals) == top:
        decimals += 1
    return f"{value:.{decimals}f}"


def interval(metric: str, low: float, high: float) -> str:
    return f"{score(metric, low)} to {score(metric, high)}"


def difference(metric: str, value: float) -> str:
    """The size of a difference without its sign: "2.1 points", "0.0312"."""
    shown = _size(metric, value)
    if base(metric) in PERCENT:
        return f"{shown}{NBSP}point{'' if shown == '1.0' else 's'}"
    return shown


def signed(metric: str, value: float) -> str:
    """A signed difference without its unit, for intervals: "−0.6", "+1.5"."""
    shown = _size(metric, value)
    return shown if value == 0 else f"{'−' if value < 0 else '+'}{shown}"


def _size(metric: str, value: float) -> str:
    """The size of a difference; one that rounding would hide keeps its two leading digits."""
    name = base(metric)
    if name not in PERCENT and name not in UNIT:
        return number(abs(value))
    size, decimals = (100 * abs(value), 1) if name in PERCENT else (abs(value), 3)
    if size < 1e-9:  # noise of float sums
        return f"{0:.{decimals}f}"
    return f"{size:.{decimals}f}" if round(size, decimals) > 0 else f"{size:.2g}"


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


def path_parts(path: str) -> tuple[str, str]:
    """What stands before a path's name, and the name: a place in a list says nothing by itself, so
    "model.widths.0" is ("model.", "widths.0")."""
    parts = path.split(".")
    first = len(parts) - 1
    while first and parts[first].isdigit():
        first -= 1
    return "".join(f"{part}." for part in parts[:first]), ".".join(parts[first:])


def listed(items: list[str]) -> str:
    """a, b and c."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
