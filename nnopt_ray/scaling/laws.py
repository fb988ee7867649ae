"""Amdahl's and Gustafson's law, fitted to measured sizes.

Amdahl 1967 ("Validity of the single processor approach to achieving large scale computing capabilities"): of a work of
fixed size the share s is done by one worker at a time, so n workers take t(n) = t(1) * (s + (1 - s) / n).
Gustafson 1988 ("Reevaluating Amdahl's law"): of a work that grows with the workers each has its part in the same time,
so n workers do r(n) = r(1) * (s + (1 - s) * n) in a second.

Both are straight lines, in 1 / n and in n. They are fitted by least squares of relative errors, so that a size counts
the same whether it takes long or not; t(1) and r(1) are fitted too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

LEAST = 3  # sizes: a line through two has no residual to be judged by

LawName = Literal["amdahl", "gustafson"]


@dataclass(frozen=True)
class Law:
    """A law fitted to sizes.

    serial: the share s that does not grow with the workers; below 0 where more workers gain more than their number.
    one: seconds of an epoch (amdahl) or rows a second (gustafson) of one worker, by the fit.
    residuals: workers → measured / fitted - 1; empty where the law goes through all by itself.
    """

    name: LawName
    serial: float
    one: float
    residuals: Mapping[int, float]
    exact: bool  # two sizes: they determine the law, and nothing is left to judge it by
    sentence: str

    def speed_up(self, workers: float) -> float:
        """Times as fast as one worker, at so many."""
        share = self.serial
        return 1 / (share + (1 - share) / workers) if self.name == "amdahl" else share + (1 - share) * workers

    @property
    def most(self) -> float | None:
        """The speed-up that no number of workers exceeds, by Amdahl's law; None where there is no such limit."""
        return 1 / self.serial if self.name == "amdahl" and 0 < self.serial <= 1 else None


def amdahl(seconds: Mapping[int, float]) -> tuple[Law | None, str]:
    """The law through the seconds of an epoch by workers → it, and what to say of it; None with fewer than two."""
    return _fitted("amdahl", seconds)


def gustafson(rows_per_s: Mapping[int, float]) -> tuple[Law | None, str]:
    """The law through the rows a second by workers, of work that grows with them; as `amdahl`."""
    return _fitted("gustafson", rows_per_s)


def _fitted(name: LawName, measured: Mapping[int, float]) -> tuple[Law | None, str]:
    if len(measured) < 2:
        what = "no size" if not measured else "one size"
        return None, f"{name.capitalize()}'s law needs two sizes or more, and {what} can be used: nothing is fitted."
    workers = np.array(sorted(measured), dtype=float)
    values = np.array([measured[int(each)] for each in workers])
    variable = 1 / workers if name == "amdahl" else workers
    # (a + b x) / value should be 1 at every size.
    columns = np.stack([1 / values, variable / values], axis=1)
    (constant, slope), *_ = np.linalg.lstsq(columns, np.ones(len(values)), rcond=None)
    one = float(constant + slope)
    serial = float(constant / one)
    fitted = constant + slope * variable
    residuals = {int(n): float(value / fit - 1) for n, value, fit in zip(workers, values, fitted, strict=True)}
    exact = len(measured) < LEAST
    law = Law(name, serial, one, {} if exact else residuals, exact, "")
    sentence = _sentence(law)
    return Law(name, serial, one, law.residuals, exact, sentence), sentence


def _sentence(law: Law) -> str:
    name = "Amdahl's law" if law.name == "amdahl" else "Gustafson's law"
    share = f"{100 * law.serial:.1f} %"
    if law.serial < 0:
        said = f"{name} does not describe these sizes: more workers gain more than their number (serial share {share})"
    elif law.serial > 1:
        said = f"{name} does not describe these sizes: more workers are slower (serial share {share})"
    elif law.most is not None:
        said = (
            f"{name}: {share} of the work is serial, so no number of workers is more than {law.most:.1f} times as fast"
        )
    else:
        more = f"each further one adds {100 * (1 - law.serial):.1f} % of the rows a second of the first"
        said = f"{name}: {share} of a worker's time is serial, so {more}"
    if law.exact:
        return f"{said}. Two sizes determine it exactly, so nothing says whether it holds: measure a third."
    worst = max(law.residuals, key=lambda n: abs(law.residuals[n]))
    return f"{said}. It misses the measured sizes by at most {100 * abs(law.residuals[worst]):.1f} % (at {worst})."
