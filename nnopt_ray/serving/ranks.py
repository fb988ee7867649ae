"""The quantile transform in ONNX operators: the numbers of `data.quantiles`, whose rules are explained there."""

from __future__ import annotations

import numpy as np

from nnopt_ray.data.quantiles import BOUND, Output
from nnopt_ray.serving.graph import Graph

# The inverse of the normal distribution: Wichura, Algorithm AS 241: The Percentage Points of the Normal Distribution,
# Applied Statistics 37 (1988), the routine PPND16 (16 digits); its third region lies beyond the bounds of the ranks.
CENTRAL, FAR = 0.425, 1.6
INSIDE = (
    [2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
     13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608],
    [5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867,
     5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1.0],
)  # fmt: skip
OUTSIDE = (
    [7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
     3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734],
    [1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
     0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0],
)  # fmt: skip


def transformed(graph: Graph, x: str, quantiles: list[float], output: Output) -> str:
    """float64 [..., 1] → ranks of 0 to 1, or for `normal` the normal distribution's values there; NaN stays NaN."""
    known = np.array(quantiles)
    first, last = graph.constant(known[0]), graph.constant(known[-1])
    if output == "normal":
        bound = graph.constant(BOUND)
        low = graph.op("Less", graph.op("Sub", x, bound), first)
        high = graph.op("Greater", graph.op("Add", x, bound), last)
    else:
        low, high = graph.op("Equal", x, first), graph.op("Equal", x, last)
    both = graph.op("Add", _interpolated(graph, x, known, below=True), _interpolated(graph, x, known, below=False))
    ranks = graph.op("Mul", graph.constant(0.5), both)
    ranks = graph.op("Where", high, graph.constant(1.0), ranks)
    ranks = graph.op("Where", low, graph.constant(0.0), ranks)
    if output == "normal":
        ranks = _normal(graph, ranks)
    return graph.op("Where", graph.op("IsNaN", x), x, ranks)


def _interpolated(graph: Graph, x: str, known: np.ndarray, below: bool) -> str:
    """As np.interp of x in `known`, whose values are ranks; where several are equal to x, the last one counts, or for
    `below` false the first."""
    ranks, count = np.linspace(0, 1, len(known)), len(known)
    met = graph.op("LessOrEqual" if below else "Less", graph.constant(known), x)
    place = graph.op(
        "ReduceSum", graph.cast(met, np.int64), graph.constant([-1], np.int64), keepdims=1
    )  # int64 [..., 1]: how many are met
    right = graph.op("Min", graph.op("Max", place, graph.constant(1, np.int64)), graph.constant(count - 1, np.int64))
    left = graph.op("Sub", right, graph.constant(1, np.int64))
    values, heights = graph.constant(known), graph.constant(ranks)
    low, high = graph.op("Gather", values, left), graph.op("Gather", values, right)
    from_, to = graph.op("Gather", heights, left), graph.op("Gather", heights, right)
    width = graph.op("Sub", high, low)
    safe = graph.op("Where", graph.op("Equal", width, graph.constant(0.0)), graph.constant(1.0), width)
    share = graph.op("Div", graph.op("Sub", x, low), safe)
    inside = graph.op("Add", from_, graph.op("Mul", share, graph.op("Sub", to, from_)))
    beyond = graph.op("Equal", place, graph.constant(count, np.int64))
    before = graph.op("Equal", place, graph.constant(0, np.int64))
    found = graph.op("Where", beyond, graph.constant(1.0), inside)
    return graph.op("Where", before, graph.constant(0.0), found)


def _normal(graph: Graph, ranks: str) -> str:
    bound = BOUND - np.spacing(1)
    p = graph.op("Min", graph.op("Max", ranks, graph.constant(bound)), graph.constant(1 - bound))
    q = graph.op("Sub", p, graph.constant(0.5))
    square = graph.op("Sub", graph.constant(0.180625), graph.op("Mul", q, q))
    inside = graph.op("Div", graph.polynomial(square, INSIDE[0]), graph.polynomial(square, INSIDE[1]))
    inside = graph.op("Mul", q, inside)
    lower = graph.op("LessOrEqual", q, graph.constant(0.0))
    tail = graph.op("Where", lower, p, graph.op("Sub", graph.constant(1.0), p))
    root = graph.op("Sqrt", graph.op("Neg", graph.op("Log", tail)))
    root = graph.op("Sub", root, graph.constant(FAR))
    outside = graph.op("Div", graph.polynomial(root, OUTSIDE[0]), graph.polynomial(root, OUTSIDE[1]))
    outside = graph.op("Where", lower, graph.op("Neg", outside), outside)
    central = graph.op("LessOrEqual", graph.op("Abs", q), graph.constant(CENTRAL))
    return graph.op("Where", central, inside, outside)


__all__ = ["transformed"]
