"""How fast a search goes, and how long the rest will take."""

from __future__ import annotations

import time
from collections import deque

WINDOW_S = 20.0  # the speed is that of the last so many seconds
SAMPLE_S = 0.25  # counts nearer to each other than this are one sample
SURE_S = 1.0  # a speed is told from this long a look on


class Pace:
    """Epochs a second of this process, lately, and the seconds that are left.

    What is left is judged by epochs: the trials to come are expected to be as long as those that are over
    were, and what running trials have trained counts as done.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()  # (monotonic seconds, epochs)

    def seen(
        self, total: int, over: int, epochs: int, epochs_over: int, now: float | None = None
    ) -> tuple[float, float | None]:
        """(epochs per second, seconds left or None while not known).

        total, over: trials in all and those that are over, of earlier processes too. epochs: trained in
        all, epochs_over: by the trials that are over. now: seconds of a clock that only goes forward.
        """
        now = time.monotonic() if now is None else now
        if not self._samples or now - self._samples[-1][0] >= SAMPLE_S:
            self._samples.append((now, epochs))
        while len(self._samples) > 2 and self._samples[1][0] < now - WINDOW_S:
            self._samples.popleft()
        began, before = self._samples[0]
        if now - began < SURE_S:
            return 0.0, None
        epochs_per_s = (epochs - before) / (now - began)
        if not over or epochs_per_s <= 0:
            return epochs_per_s, None
        expected = total * epochs_over / over
        return epochs_per_s, max(0.0, expected - epochs) / epochs_per_s
