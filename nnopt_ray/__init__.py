"""nnopt: describe an experiment on one page, run it, get the best network and a result you can show.

import nnopt_ray as nn
page = nn.load("jobs/digits_search.yaml", set={"train.epochs": 5})   # Experiment, frozen
run = nn.run(page)                                                   # Run: .result, .trials, .scores, .figures(), ...
run = nn.open_run("runs/digits-search-20261122-153012")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnopt_ray.comparing import Comparison
    from nnopt_ray.data.examine import Examination
    from nnopt_ray.errors import (
        DataError,
        Fault,
        Interrupted,
        MissingExtra,
        NnoptError,
        NotANumber,
        PageError,
        PartError,
        RunFailed,
        RunFolderError,
        UserError,
    )
    from nnopt_ray.experiment import Experiment, Range
    from nnopt_ray.pipeline import Watch
    from nnopt_ray.reading import load
    from nnopt_ray.runs import Run, compare, examine, lr_range_test, open_run, resume, run
    from nnopt_ray.scaling.found import Scaling
    from nnopt_ray.scaling.study import scale
    from nnopt_ray.train.lr_range import LrRange

__all__ = [
    "Comparison",
    "DataError",
    "Examination",
    "Experiment",
    "Fault",
    "Interrupted",
    "LrRange",
    "MissingExtra",
    "NnoptError",
    "NotANumber",
    "PageError",
    "PartError",
    "Range",
    "Run",
    "RunFailed",
    "RunFolderError",
    "Scaling",
    "UserError",
    "Watch",
    "compare",
    "examine",
    "load",
    "lr_range_test",
    "open_run",
    "resume",
    "run",
    "scale",
]

_HOMES = {"load": "reading", "run": "runs", "resume": "runs", "open_run": "runs", "lr_range_test": "runs",
          "examine": "runs", "compare": "runs", "Comparison": "comparing", "Examination": "data.examine",
          "Run": "runs", "Watch": "pipeline", "Experiment": "experiment", "Range": "experiment",
          "LrRange": "train.lr_range", "scale": "scaling.study", "Scaling": "scaling.found"}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Public names are imported when first used: `nnopt check` stays quick."""
    if name not in __all__:
        raise AttributeError(f"module 'nnopt_ray' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"nnopt_ray.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    """What a notebook offers to complete."""
    return [*__all__]
