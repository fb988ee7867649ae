"""Processes that work together for a test. They are forked from one that has imported torch and waits, as importing it
in each is most of their time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as processes

IMPORTED = ["torch", "torch.distributed", "nnopt_ray.assembly", "nnopt_ray.train.loop", "sklearn.datasets"]


def run_processes(work: Callable[..., None], arguments: tuple[Any, ...], count: int) -> None:
    """Call `work(rank, *arguments)` in so many processes, and wait for them. Raises what one of them raises."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(IMPORTED)
    processes.start_processes(work, arguments, count, start_method="forkserver")  # type: ignore[no-untyped-call]
