"""MLflow: a run, with a child run for each trial of a search."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnopt_ray.tracking.tracker import Course, Told, Tracker

AT_A_TIME = 1000  # metrics that a server takes in one call, 100 of parameters (MLflow's REST limits)
PARAMS_AT_A_TIME = 100
LONGEST = 500  # characters of a value: what servers of before 2.9 take


class MLflow(Tracker):
    """Runs in MLflow, on a server or in a folder of files; a trial of a search is a child of its run.

    Keys:
        uri: of the tracking server, or a folder; MLFLOW_TRACKING_URI if left out, else `mlruns` beside the run folder.
        experiment: of MLflow, made when there is none.
        report: whether report.html is stored with the run, 5 MB.
    """

    needs = ("mlflow", "mlflow-skinny")

    def __init__(self, *, uri: str | None = None, experiment: str = "nnopt", report: bool = True) -> None:
        self._uri, self._experiment, self._report = uri, experiment, report
        self._ids: dict[str, str] = {}

    def open(self, course: Course, known: str) -> str:
        uri = self._uri or os.environ.get("MLFLOW_TRACKING_URI") or str(course.root.parent / "mlruns")
        if "://" not in uri and not uri.startswith(("file:", "databricks")):
            uri = Path(uri).expanduser().resolve().as_uri()
        if uri.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # without it MLflow 3.17 asks for a database
        # Of a server that does not answer MLflow would be silent for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        # It prints an address for each run that ends, to standard output, which may be promised to JSON.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        from mlflow.tracking import MlflowClient

        self._client: Any = MlflowClient(tracking_uri=uri)
        self._course = course
        if known:
            self._client.update_run(known, status="RUNNING")
            self._run = known
        else:
            found = self._client.get_experiment_by_name(self._experiment)
            self._place = found.experiment_id if found else self._client.create_experiment(self._experiment)
            tags = {"mlflow.runName": course.name, "mlflow.source.name": "nnopt", "nnopt.run": course.place}
            made = self._client.create_run(self._place, tags={**tags, **course.about})
            self._run = made.info.run_id
            self._say(self._run, course.page)
        self._place = self._client.get_run(self._run).info.experiment_id
        return str(self._run)

    def _say(self, run: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        said = [Param(path, str(value)[:LONGEST]) for path, value in params.items()]
        for start in range(0, len(said), PARAMS_AT_A_TIME):
            self._client.log_batch(run, params=said[start : start + PARAMS_AT_A_TIME])

    def begin(self, trial: str, params: Mapping[str, Any], known: str) -> str:
        if not self._course.search:
            self._ids[trial] = self._run
        elif known:
            self._ids[trial] = known
        else:
            tags = {"mlflow.parentRunId": self._run, "mlflow.runName": trial, "nnopt.trial": trial}
            self._ids[trial] = self._client.create_run(self._place, tags=tags).info.run_id
            self._say(self._ids[trial], params)
        return self._ids[trial]

    def epochs(self, trial: str, epochs: Sequence[Mapping[str, float]]) -> None:
        now = int(time.time() * 1000)
        told = [(name, value, int(epoch["epoch"])) for epoch in epochs for name, value in epoch.items()]
        self._measure(self._ids[trial], [(name, value, now, at) for name, value, at in told if name != "epoch"])

    def _measure(self, run: str, values: Sequence[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(*value) for value in values]
        for start in range(0, len(metrics), AT_A_TIME):
            self._client.log_batch(run, metrics=metrics[start : start + AT_A_TIME])

    def end(self, trial: str, status: str, reason: str, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        run = self._ids.pop(trial)
        self._measure(run, [(f"best_{name}", value, now, 0) for name, value in metrics.items()])
        self._client.set_tag(run, "nnopt.status", f"{status}: {reason}"[:LONGEST])
        if run != self._run:
            self._client.set_terminated(run, "FAILED" if status == "failed" else "FINISHED")

    def settle(self) -> None:
        """Each call has been answered."""

    def close(self, told: Told) -> None:
        now = int(time.time() * 1000)
        self._measure(self._run, [(name, value, now, 0) for name, value in told.scores.items()])
        if told.best_trial:
            self._client.set_tag(self._run, "nnopt.best_trial", told.best_trial)
        ended = {"finished": "FINISHED", "failed": "FAILED"}.get(told.status, "KILLED")
        for run in self._ids.values():
            if run != self._run:
                self._client.set_terminated(run, "KILLED")
        self._client.set_terminated(self._run, ended)
        if self._report and told.report is not None:
            self._client.log_artifact(self._run, str(told.report))
