"""Follows a run by what it writes, and tells its trackers. The run does not wait for it and does not know of it.

A tracker has a thread of its own that reads journal and histories now and then, and writes down how far it has told
(`tracking/N-TYPE.json`), so that a run that is resumed goes on there and tells no epoch twice.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from nnopt_ray import rundir, tables
from nnopt_ray.errors import Interrupted
from nnopt_ray.experiment import Experiment, plain
from nnopt_ray.pipeline import SINGLE
from nnopt_ray.reading.addresses import masked
from nnopt_ray.rundir import RunDir
from nnopt_ray.tracking.tracker import Course, Told, Tracker

EVERY_S = 2.0  # between two looks at the run
SHARE = 0.02  # of the processor's time that looking may take while the run goes on
PATIENCE_S = 10.0  # at the end, without any call of the tracker coming back
AT_MOST_S = 120.0  # at the end, in all
LEFT_OUT = ("name", "about", "tracking", "resources")  # of the page


def check(experiment: Experiment) -> None:
    """Raises MissingExtra where the page names a tracker whose package is not there."""
    for part in experiment.tracking:
        tables.find("tracker", part.type).missing(part.type)


@contextmanager
def following(experiment: Experiment, run: RunDir, note: Callable[[str], None]) -> Iterator[None]:
    """Within, the trackers of the page are told what happens in the run."""
    with ExitStack() as stack:
        for number, part in enumerate(experiment.tracking):
            stack.enter_context(Follower(experiment, run, tables.build("tracker", part), (number, part.type), note))
        yield


@dataclass
class _Known:
    """How far a tracker has been told. ids: trial, or empty for the run itself → what the tracker calls it."""

    ids: dict[str, str] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    over: list[str] = field(default_factory=list)


class Follower:
    """The thread of one tracker."""

    def __init__(
        self, experiment: Experiment, run: RunDir, tracker: Tracker, which: tuple[int, str], note: Callable[[str], None]
    ) -> None:
        """which: place on the page, and type."""
        self._experiment, self._run, self._tracker, self._note = experiment, run, tracker, note
        self._name = which[1]
        self._file = run.tracked(f"{which[0]}-{which[1].replace(':', '.')}")
        self._known = _Known()
        self._open: dict[str, Mapping[str, Any]] = {}  # trials under way → their values
        self._ended: dict[str, Mapping[str, Any]] = {}  # whose end is not told yet
        self._begun: set[str] = set()  # in this process
        self._read = 0  # bytes of the journal
        self._stop, self._done = threading.Event(), threading.Event()
        self._how = "interrupted"
        self._trouble = ""
        self._moved = time.monotonic()
        self._thread = threading.Thread(target=self._live, name=f"tracking {self._name}", daemon=True)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        stopped = isinstance(error, (KeyboardInterrupt, Interrupted))
        self._how = "finished" if error is None else "interrupted" if stopped else "failed"
        ends = time.monotonic() + AT_MOST_S
        self._moved = time.monotonic()
        self._stop.set()
        while not self._done.wait(0.05):
            if time.monotonic() > ends or time.monotonic() - self._moved > PATIENCE_S:
                left = len(self._open)
                trials = f", and {left} trial{'s' * (left != 1)} not or not wholly told" if left else ""
                self._note(
                    f"tracking: '{self._name}' is too slow and is left behind{trials}. The run is not touched by it."
                )
                return
        self._tell_trouble()

    def _tell_trouble(self) -> None:
        if self._trouble:
            self._note(self._trouble)
            self._trouble = ""

    # ── in the thread ────────────────────────────────────────────────────────────────────────────────

    def _live(self) -> None:
        try:
            self._follow()
        except Exception as error:  # a tracker may raise anything
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")
            self._trouble = (
                f"tracking: '{self._name}' is switched off for this run: {said}. The run is not touched by it."
            )
        finally:
            self._done.set()

    def _follow(self) -> None:
        self._load()
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self._known.ids[""] = self._tracker.open(self._course(), self._known.ids.get("", ""))
        self._save()
        while True:
            last = self._stop.is_set()
            began = time.thread_time()
            self._look()
            if last:
                break
            self._stop.wait(max(EVERY_S, (time.thread_time() - began) / SHARE))
        self._tracker.close(self._told())

    def _load(self) -> None:
        if self._file.is_file():
            self._known = _Known(**rundir.read_json(self._file))

    def _save(self) -> None:
        rundir.write_json(self._file, asdict(self._known))
        self._moved = time.monotonic()

    def _course(self) -> Course:
        experiment, run = self._experiment, self._run
        about = {key: str(value) for key, value in plain(experiment.tree["about"]).items() if value}
        page = dict(flat({key: value for key, value in plain(experiment.tree).items() if key not in LEFT_OUT}))
        return Course(run.root.name, run.root, run.place, about, page, experiment.is_search)

    def _look(self) -> None:
        self._hear()
        moved = False
        for trial, params in list(self._open.items()):
            moved |= self._send(trial, params)
        if moved:
            self._tracker.settle()
            self._save()

    def _hear(self) -> None:
        """What has begun and ended since the last look."""
        if not self._experiment.is_search:
            if self._run.trial(SINGLE).history.is_file() and SINGLE not in self._known.over:
                self._open.setdefault(SINGLE, {})
            if self._stop.is_set() and self._how == "finished":
                self._ended.setdefault(SINGLE, {"status": "finished", "reason": "", "metrics": {}})
            return
        events, self._read = rundir.lines_from(self._run.journal, self._read)
        over = set(self._known.over)
        for event in events:
            kind, trial = event["event"], event.get("trial", "")
            if trial in over:
                continue
            if kind in ("asked", "copied"):
                self._open[trial] = event["params"]
            elif kind == "ended":
                self._ended[trial] = event

    def _send(self, trial: str, params: Mapping[str, Any]) -> bool:
        sent = self._known.sent.get(trial, 0)
        lines = list(rundir.read_lines(self._run.trial(trial).history))
        ended = self._ended.get(trial)
        if len(lines) <= sent and ended is None:
            return False
        if trial not in self._begun:
            self._known.ids[trial] = self._tracker.begin(trial, params, self._known.ids.get(trial, ""))
            self._begun.add(trial)
        if lines[sent:]:
            self._tracker.epochs(trial, [numbers(line) for line in lines[sent:]])
            self._known.sent[trial] = len(lines)
        self._moved = time.monotonic()
        if ended is not None:
            self._tracker.end(trial, ended["status"], ended["reason"], numbers(ended["metrics"]))
            self._known.over.append(trial)
            self._open.pop(trial)
            self._ended.pop(trial)
        return True

    def _told(self) -> Told:
        report = self._run.report if self._run.report.is_file() else None
        if self._how != "finished" or not self._run.result.is_file():
            return Told(self._how, "", {}, None)
        result = rundir.read_json(self._run.result)
        scores: dict[str, float] = {}
        for name, value in result["test"].items():
            scores[f"test_{name}"] = value
        for name, (low, high) in result["test_interval"].items():
            scores[f"test_{name}_low"], scores[f"test_{name}_high"] = low, high
        for name, value in result["baseline"]["metrics"].items():
            scores[f"baseline_{name}"] = value
        for name, value in result["best"]["metrics"].items():
            scores[f"best_{name}"] = value
        return Told("finished", str(result["best"]["trial"]), numbers(scores), report)


def flat(node: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything that stands in a tree."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{key}.")
        elif value is not None and value != () and value != []:
            yield f"{before}{key}", masked(value) if isinstance(value, str) else value


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those values that are finite numbers."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }
