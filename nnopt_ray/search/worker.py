"""A warm worker: one Ray actor that holds a crew. The process, torch and the prepared data are there once;
a trial costs what its training costs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnopt_ray.rundir import RunDir
from nnopt_ray.search.crew import Crew
from nnopt_ray.search.messages import Answer, Demand, End, Order

if TYPE_CHECKING:
    from nnopt_ray.experiment import Resources
    from nnopt_ray.search.node_store import Mapped

# A slice of work ends after this many seconds at the next epoch, so that the table on screen moves
# and Ctrl-C is answered; a round trip to the driver takes about a millisecond.
SLICE_S = 0.5


class Worker:
    """Trains the trials of one study. Made into an actor by `cluster`; plain Python otherwise."""

    def __init__(self, import_paths: list[str]) -> None:
        sys.path.extend(path for path in import_paths if path not in sys.path)
        # What takes seconds is imported while the driver still prepares the data.
        import nnopt_ray.data.prepare
        import nnopt_ray.pipeline
        import nnopt_ray.train.choice
        import nnopt_ray.train.fit  # noqa: F401

    @staticmethod
    def needs(resources: Resources) -> dict[str, Any]:
        """What Ray is to give it."""
        return {"num_cpus": resources.cpus_per_worker, "num_gpus": resources.gpus_per_worker}

    def setup(
        self, tree: Mapping[str, Any], file: str | None, root: str, keeps_decisions: bool, mounts: str | None = None
    ) -> Mapped:
        """Take the page and the data of a run; answers with where the data is mapped.

        root: the run folder, or a URL that trials are fetched from and sent to.

        mounts: text of a mountinfo, by default that of this process.
        """
        from nnopt_ray import machine, reading
        from nnopt_ray.search.ferry import Ferry, here
        from nnopt_ray.search.node_store import open_on_node

        experiment = reading.from_tree(tree, Path(file) if file else None)
        resources = experiment.resources
        where = machine.choose(resources.cpus_per_worker, resources.gpus_per_worker, experiment.train.precision)
        if "://" in root:
            run, ferry, dataset, mapped = here(root)
        else:
            run, ferry = RunDir(Path(root)), Ferry()
            dataset, mapped = open_on_node(run.data, mounts=mounts)
        self._crew = Crew(experiment, dataset, where, run, keeps_decisions)
        self._crew.ferry = ferry
        return mapped

    def measure(self, params: Mapping[str, Any], demand: Demand) -> tuple[int, str]:
        """How many trials of this shape are trained here at a time, and why."""
        return self._crew.measure(params, demand)

    def work(self, orders: tuple[Order, ...], ends: tuple[End, ...]) -> Answer:
        """Train for about SLICE_S, or until a trial needs a decision."""
        return self._crew.work(orders, ends, SLICE_S)

    def pause(self) -> None:
        """Write the state of the trials in work, so that a resumed study goes on from here."""
        self._crew.pause()
