"""How many workers a cluster that grows by itself is asked for, beyond those that are there."""

from __future__ import annotations

import math

# A machine of a cloud takes one to some minutes to come, and one that has come stays for its idle time.
WORTH_S = 120.0
AT_ONCE = 4  # or as many as there are, so that the cluster at most doubles before the rest is judged again


def to_ask(workers: int, waiting: int, left_s: float | None) -> int:
    """Workers to ask for.

    workers: that are there. waiting: trials that have no place. left_s: seconds that these workers will still take;
    None while not known.
    """
    if not workers:
        return max(0, min(1, waiting))
    if left_s is None or left_s <= WORTH_S:
        return 0
    wanted = math.ceil(workers * left_s / WORTH_S) - workers
    return max(0, min(wanted, waiting, max(AT_ONCE, workers)))


def enough(waiting: int, left_s: float | None) -> bool:
    """Whether what was asked for and has not come is of no use any more."""
    return waiting <= 0 or (left_s is not None and left_s < WORTH_S / 2)
