"""What comes next is made by a thread of its own while the network computes, in the same order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

AHEAD = 2  # of them are made before they are asked for


@dataclass
class Wait:
    """Seconds that were spent waiting for what was not made yet."""

    seconds: float = 0.0


def read_ahead(made: Iterator[T], ahead: int = AHEAD, wait: Wait | None = None) -> Iterator[T]:
    """What `made` gives, in its order; a thread makes up to `ahead` of them before they are asked for.

    wait: is told how long they were waited for.
    What `made` raises is raised here, at its place. The thread starts with the first that is asked for and has ended
    when this iterator is exhausted, raises, or is closed.
    """
    waiting: deque[Future[list[T]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="nnopt-read-ahead") as thread:
        try:
            while True:
                while len(waiting) < ahead:
                    waiting.append(thread.submit(_next, made))
                began = time.perf_counter()
                found = waiting.popleft().result()
                if wait is not None:
                    wait.seconds += time.perf_counter() - began
                if not found:
                    return
                waiting.append(thread.submit(_next, made))
                yield found.pop()
        finally:
            thread.shutdown(wait=True, cancel_futures=True)


def _next(made: Iterator[T]) -> list[T]:
    """The next one, or none when there is no more."""
    for one in made:
        return [one]
    return []


__all__ = ["Wait", "read_ahead"]
