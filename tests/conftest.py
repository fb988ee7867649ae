"""What all tests share: a cache of prepared data of their own, and none of the user's settings."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = dict(os.environ)
    os.environ["NNOPT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    # A test must not join the developer's cluster, nor leave its runs among theirs.
    for name in ("NNOPT_RUNS", "RAY_ADDRESS"):
        os.environ.pop(name, None)
    # As nnopt itself sets it: without it, older Rays warn of a default that will change.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    yield
    os.environ.clear()
    os.environ.update(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start Ray come first: they wait much and have few tests, and at the end one process would be alone."""
    waits = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in waits)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums are split over threads: bits are compared on one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
