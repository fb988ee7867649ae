"""Every path of a run folder, named once; files are written whole or not at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from nnopt_ray.errors import RunFailed, RunFolderError

# Folders of the cache: where runs that are kept at a URL are worked on, and where their files lie to be looked at.
# `at-url/s3/bucket/runs/NAME` is s3://bucket/runs/NAME.
AT_URL, SEEN_AT_URL = "at-url", "seen-at-url"


@dataclass(frozen=True)
class TrialDir:
    """`trials/ID/`: the page that runs this trial alone, a line an epoch, checkpoints."""

    root: Path

    @property
    def id(self) -> str:
        return self.root.name

    @property
    def page(self) -> Path:
        return self.root / "page.yaml"

    @property
    def history(self) -> Path:
        return self.root / "history.jsonl"

    @property
    def resumed(self) -> Path:
        """Of a network that workers train together: a line for each time it was taken up, with the epoch it was at."""
        return self.root / "resumed.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def holder(self) -> Path:
        """Whose the training is: a name that the process drew which took it up last."""
        return self.root / "holder"

    @property
    def error(self) -> Path:
        return self.root / "error.txt"

    @property
    def outcome(self) -> Path:
        """What the workers say that trained one network together."""
        return self.root / "outcome.json"

    @property
    def all_reduce(self) -> Path:
        """Of a scaling study: what a sum over its workers takes, by its size."""
        return self.root / "all_reduce.json"

    @property
    def stop(self) -> Path:
        """There while these workers are asked to stop."""
        return self.root / "stop"


@dataclass(frozen=True)
class RunDir:
    """A run folder. Making the object touches nothing; `create` and `open` do."""

    root: Path

    @classmethod
    def create(cls, parent: Path, name: str, now: datetime | None = None) -> RunDir:
        """A new folder `parent/NAME-YYYYMMDD-HHMMSS`; never an existing one (a number is added)."""
        stamp, safe = (now or datetime.now()).strftime("%Y%m%d-%H%M%S"), _safe(name)
        for attempt in range(1000):
            root = parent / f"{safe}-{stamp}{f'-{attempt}' if attempt else ''}"
            try:
                root.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise RunFolderError(
                    f"cannot make the run folder {root}: {error.strerror or error}. Choose another parent with --out."
                ) from error
            return cls(root.resolve())
        raise RunFolderError(f"cannot find a free name for a run folder in {parent}.")

    @classmethod
    def named(cls, parent: Path, name: str) -> list[RunDir]:
        """The folders below `parent` that `create` made for this name."""
        stamped = re.compile(re.escape(_safe(name)) + r"-\d{8}-\d{6}(-\d+)?")
        there = sorted(parent.iterdir()) if parent.is_dir() else []
        return [cls(path.resolve()) for path in there if stamped.fullmatch(path.name)]

    @classmethod
    def open(cls, root: Path) -> RunDir:
        """An existing run folder. Raises RunFolderError when it is none."""
        run = cls(root.resolve())
        if not root.is_dir():
            raise RunFolderError(f"there is no run folder {root}. `nnopt ls` shows those there are.")
        if not run.resolved.is_file():
            raise RunFolderError(
                f"{root} is no run folder, or was cut short before it began: resolved.yaml is missing. "
                "Start again with `nnopt run PAGE`."
            )
        return run

    @property
    def place(self) -> str:
        """What users call it: the URL that it is kept at, else its folder."""
        parts = self.root.parts
        for number, part in enumerate(parts[:-2]):
            if part in (AT_URL, SEEN_AT_URL):
                return f"{parts[number + 1]}://{'/'.join(parts[number + 2 :])}"
        return str(self.root)

    @property
    def page(self) -> Path:
        return self.root / "page.yaml"

    @property
    def resolved(self) -> Path:
        return self.root / "resolved.yaml"

    @property
    def environment(self) -> Path:
        return self.root / "environment.json"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def trials(self) -> Path:
        return self.root / "trials"

    def fold(self, number: int) -> RunDir:
        """Of a nested cross-validation: the search inside a fold, a run folder of its own."""
        return RunDir(self.root / "folds" / str(number))

    @property
    def study(self) -> Path:
        """Of a scaling study: what was asked for."""
        return self.root / "study.json"

    @property
    def scaling(self) -> Path:
        """Of a scaling study: what came out, so far or in the end."""
        return self.root / "scaling.json"

    def size(self, name: str) -> RunDir:
        """Of a scaling study: the training at one size, a run folder of its own without a result."""
        return RunDir(self.root / "sizes" / name)

    @property
    def measured(self) -> Path:
        """Of one size of a scaling study: its throughput and score; there when it is done."""
        return self.root / "measured.json"

    @property
    def groups(self) -> Path:
        """What Ray Train writes for itself while trials are trained by several workers each."""
        return self.root / "trials" / ".ray_train"

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    @property
    def tracking(self) -> Path:
        return self.root / "tracking"

    def tracked(self, tracker: str) -> Path:
        """How far a tracker of the page has been told."""
        return self.tracking / f"{tracker}.json"

    @property
    def optuna_journal(self) -> Path:
        """What optuna-dashboard opens."""
        return self.root / "optuna.log"

    @property
    def trials_table(self) -> Path:
        return self.root / "trials.parquet"

    @property
    def best(self) -> Path:
        return self.root / "best"

    @property
    def best_model(self) -> Path:
        return self.best / "model.safetensors"

    @property
    def best_page(self) -> Path:
        return self.best / "page.yaml"

    @property
    def best_metrics(self) -> Path:
        return self.best / "metrics.json"

    @property
    def model_card(self) -> Path:
        return self.best / "model_card.md"

    @property
    def decision(self) -> Path:
        """Of a classifier, how logits become probabilities and a class."""
        return self.best / "decision.json"

    @property
    def best_data(self) -> Path:
        """The winner's own preparation; only where the search varied it, else `data` serves."""
        return self.best / "data"

    @property
    def data_of_best(self) -> Path:
        """The preparation that the winner was trained on."""
        return self.best_data if self.best_data.is_dir() else self.data

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation"

    @property
    def scores(self) -> Path:
        return self.evaluation / "scores.json"

    @property
    def predictions(self) -> Path:
        return self.evaluation / "predictions.parquet"

    def evaluated(self, part: str) -> Path:
        """What a part of the evaluation found, such as `explanations`: a JSON file that the report reads."""
        return self.evaluation / f"{part}.json"

    @property
    def attributions(self) -> Path:
        """A line for each test row and column that was explained."""
        return self.evaluation / "attributions.parquet"

    @property
    def confusion(self) -> Path:
        return self.evaluation / "confusion.csv"

    @property
    def result(self) -> Path:
        return self.root / "result.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def ended(self) -> Path:
        """How the last process on a run ended that did not finish it; absent where one is at work, or was killed."""
        return self.root / "ended.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def owner(self) -> Path:
        """Of a run at a URL: which process works on it, or did last."""
        return self.root / "owner.json"

    def trial(self, trial_id: str) -> TrialDir:
        return TrialDir(self.trials / trial_id)


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"


def write(path: Path, fill: Callable[[Path], None]) -> None:
    """Write-then-rename: `fill(temporary)` makes the file, then it takes its name in one step.

    A reader never sees half a file. Raises RunFailed when the disk is full or the place unwritable;
    what stood there before is untouched then.
    """
    # Drawn from the system: a training seeds Python's own random numbers.
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fill(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RunFailed(
            f"cannot write {path}: {error.strerror or error}. What was there before is untouched; "
            "make room or choose another place with --out, then `nnopt resume`."
        ) from error


def make_folder(path: Path) -> None:
    """Raises RunFailed when it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFailed(f"cannot make the folder {path}: {error.strerror or error}.") from error


def append(path: Path, text: str) -> None:
    """Add whole lines to a file, which is made where it is missing. Raises OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        rest = memoryview(text.encode())
        while rest:
            rest = rest[os.write(handle, rest) :]
    finally:
        os.close(handle)


def there(path: Path) -> bool:
    """Whether a file that another node may have made is there now.

    A client of NFS remembers for up to a minute that a file was not (nfs(5), acdirmax); opening its folder asks anew.
    """
    try:
        return path.name in os.listdir(path.parent)
    except FileNotFoundError:
        return False


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    def fill(temporary: Path) -> None:
        temporary.write_bytes(content)

    write(path, fill)


def write_json(path: Path, value: Any) -> None:
    """Strict JSON, indented, UTF-8; NaN and infinities become null."""
    write_text(path, json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """The same value with every float that JSON cannot say (NaN, infinities) as None."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def read_json(path: Path) -> Any:
    """Raises RunFolderError when the file is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunFolderError(f"{path} is missing: the run was cut short before it was written.") from error
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error


def lines_from(path: Path, start: int) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of a JSON-lines file from this byte on, and the byte behind them."""
    if not path.is_file():
        return [], start
    with open(path, "rb") as file:
        file.seek(start)
        content = file.read()
    whole = content.rfind(b"\n") + 1
    return [json.loads(line) for line in content[:whole].splitlines()], start + whole


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file. A last line without its newline was cut off while it was
    written and is dropped; damage elsewhere raises RunFolderError."""
    if not path.is_file():
        return
    content = path.read_bytes()
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise RunFolderError(
                f"{path}:{number} is damaged: {error}. What stands before that line is whole: delete it and all "
                "below it to go on from there."
            ) from error
