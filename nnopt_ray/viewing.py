"""A run folder as tables of pandas and figures of plotly: what a Run in Python gives beside its result."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnopt_ray.errors import RunFolderError, UserError
from nnopt_ray.report import insight, words
from nnopt_ray.report.blocks import Plot, within
from nnopt_ray.report.facts import Facts
from nnopt_ray.report.sections import SECTIONS
from nnopt_ray.report.standing import sentence
from nnopt_ray.report.summary import headline, verdict_of
from nnopt_ray.results import Epoch, Scores
from nnopt_ray.rundir import RunDir
from nnopt_ray.tables import suggestion

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from nnopt_ray.serving.explained import Explained


class Views:
    """The tables and figures of a run folder. Each is read anew, so that those of a run that goes on stay fresh."""

    def __init__(self, run: RunDir) -> None:
        self._dir = run

    @property
    def history(self) -> pd.DataFrame:
        """The winner's epochs, of a run that goes on the best trial's so far.

        Columns: epoch (from 0), the metrics (train_loss, val_loss, ..., in the user's units), lr (at the end of the
        epoch), grad_norm (mean over its steps, before clipping), seconds, events (in words).
        """
        return _epochs_of({"": self._facts().history}, with_trial=False)

    @property
    def epochs(self) -> pd.DataFrame:
        """The epochs of all trials: the columns of `history` behind `trial`."""
        return _epochs_of({row.trial: row.history for row in self._facts().rows}, with_trial=True)

    @property
    def scores(self) -> pd.DataFrame:
        """What winner and baseline were measured at: a row a model, part and metric.

        Columns: model (winner, baseline), part (validation, test), metric, value, low and high (the interval's ends, of
        the test part), gain, gain_low and gain_high (of the winner over the baseline on the test part, positive is
        better), all in the metric's units. Raises RunFolderError before the winner was measured.
        """
        return _scores_of(self._measured())

    @property
    def classes(self) -> pd.DataFrame:
        """Each class of the test part by itself, of winner and baseline; no row where no class is predicted.

        Columns: model, class, its metrics, `<metric>_low` and `<metric>_high` where they have intervals, rows.
        Raises RunFolderError before the winner was measured.
        """
        return _classes_of(self._measured())

    @property
    def confusion(self) -> pd.DataFrame:
        """The winner's test rows by true class (index) and predicted class (columns); empty without classes.

        Raises RunFolderError before the winner was measured.
        """
        return _confusion_of(self._measured().winner["test"])

    @property
    def predictions(self) -> pd.DataFrame:
        """What the winner said about the validation and test rows: predictions.parquet.

        Columns: source_row (from 0), part, true, predicted and of classes `p_<class>` each, of several targets
        true_0, predicted_0, ..., in the user's units; of language tasks tokens, log_loss (nats a token) and right, a
        row a block.
        Raises RunFolderError before the winner was measured.
        """
        import pandas as pd

        if not self._dir.predictions.is_file():
            raise RunFolderError(f"{self._dir.place} has not been evaluated yet.")
        return pd.read_parquet(self._dir.predictions)

    @property
    def evaluated(self) -> Mapping[str, Any]:
        """What each part of the evaluation found, by its name, as it stands in evaluation/NAME.json."""
        return dict(self._facts().evaluated)

    @property
    def diagnosis(self) -> pd.DataFrame:
        """What the run shows to be wrong, the worst first, a row a finding.

        Columns: name, severity (high, middle, low), title, sentence, page (the line to change), `evidence.<what>`.
        Raises RunFolderError where the run was not diagnosed.
        """
        return _listed_of(_part_of(self._facts(), "diagnosis"), "found")

    @property
    def folds(self) -> pd.DataFrame:
        """A cross-validation, a row a fold.

        Columns: number, trial, `rows.<part>`, epochs, best_epoch, `metrics.<metric>` and `baseline.<metric>` on the
        rows held out, failed (why). Raises RunFolderError where the page asks for no folds.
        """
        return _listed_of(_part_of(self._facts(), "folds"), "each")

    @property
    def importance(self) -> pd.DataFrame:
        """Which searched values matter: a row an objective, group of trials and value.

        Columns: objective, among (`all`, or the option that the trials took), trials, value, branch, share (of the
        forest's variance), low and high (the middle of its trees), told (more than chance), explained (R²).
        """
        return insight.importance(self._facts())

    @property
    def marginals(self) -> pd.DataFrame:
        """How the objective follows each value, over all others: objective, among, branch, at, mean, low, high."""
        return insight.marginals(self._facts())

    @property
    def slices(self) -> pd.DataFrame:
        """What each trial chose, against the objective as it can be compared: trial, branch, value, chose, score."""
        return insight.slices(self._facts())

    @property
    def timeline(self) -> pd.DataFrame:
        """Who trained what, and when: trial, worker, begin_s, end_s (of the search), first and last epoch."""
        return insight.timeline(self._facts())

    @property
    def workers(self) -> pd.DataFrame:
        """The workers' time in seconds: there_s is busy_s and idle_s, NaN where an old journal does not tell."""
        return insight.workers(self._facts())

    @property
    def savings(self) -> pd.DataFrame:
        """What the scheduler left out, in a row: the fields of evaluate.savings.Savings."""
        return insight.savings(self._facts())

    @property
    def optimism(self) -> pd.DataFrame:
        """How far the validation score flatters, in a row or none: the fields of evaluate.optimism.Optimism."""
        return insight.optimism(self._facts())

    def explain(
        self, data: str | Path | Sequence[str | Path] = (), rows: Sequence[int] = (), methods: Sequence[str] = ()
    ) -> Explained:
        """Why the best network says what it says of single rows, as `nnopt explain`; a notebook shows it.

        data: files of new rows, as of `predict`; without them rows of the test part. rows: their numbers, in data from
        0, else as the source counts them. methods: names of explainers. → `.found` is evaluation/explanations.json,
        `.html()` a page. Raises UserError for what cannot be explained, DataError for data unlike the training data.
        """
        from nnopt_ray.serving.explained import explained

        files = [data] if isinstance(data, (str, Path)) else data
        return explained(self._dir, [str(file) for file in files], rows, methods)

    def figures(self) -> dict[str, str]:
        """The plots of the report: name → title, in its order."""
        return {name: plot.title for name, (_, plot) in _plots_of(self._facts()).items()}

    def figure(self, name: str, dark: bool = False) -> go.Figure:
        """A plot of the report as a plotly figure, by its name or that of its section (`learning`, then the first one).

        Raises UserError for a name that this run has no plot of.
        """
        return _figure_of(self._facts(), name, dark)

    def _facts(self) -> Facts:
        from nnopt_ray.report.facts import facts_from_folder

        return facts_from_folder(self._dir)

    def _measured(self) -> Facts:
        found = self._facts()
        if "test" not in found.winner:
            raise RunFolderError(f"{self._dir.place} has not been evaluated yet.")
        return found

    def _repr_html_(self) -> str:
        """For a notebook's cell."""
        return _shown_of(self._facts())


# --- tables ---------------------------------------------------------------------------------------


def _epochs_of(histories: Mapping[str, Sequence[Epoch]], with_trial: bool) -> pd.DataFrame:
    """A row an epoch of each trial."""
    import pandas as pd

    lines: list[dict[str, Any]] = []
    for trial, history in histories.items():
        for epoch in history:
            first = {"trial": trial} if with_trial else {}
            lines.append(first | epoch.line() | {"events": "; ".join(epoch.events)})
    order = dict.fromkeys(name for line in lines for name in line)
    last = ["lr", "grad_norm", "seconds", "events"]
    names = [name for name in order if name not in last]
    return pd.DataFrame(lines, columns=[*(names or [*(["trial"] * with_trial), "epoch"]), *last])


def _scores_of(facts: Facts) -> pd.DataFrame:
    """A row a model, part and metric."""
    import pandas as pd

    lines = []
    for model, parts in (("winner", facts.winner), ("baseline", facts.baseline)):
        for part, found in parts.items():
            for metric, value in found.metrics.items():
                low, high = found.intervals.get(metric, (None, None))
                line = {"model": model, "part": part, "metric": metric, "value": value, "low": low, "high": high}
                gain = facts.gains.get(metric) if (model, part) == ("winner", "test") else None
                lines.append(line | _gain(gain))
    columns = ["model", "part", "metric", "value", "low", "high", "gain", "gain_low", "gain_high"]
    numbers = columns[3:]
    return pd.DataFrame(lines, columns=columns).astype(dict.fromkeys(numbers, "float64"))


def _gain(gain: Any) -> dict[str, float | None]:
    if gain is None:
        return {"gain": None, "gain_low": None, "gain_high": None}
    return {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}


def _classes_of(facts: Facts) -> pd.DataFrame:
    """A row a model and class of the test part; an interval of `f1` stands in `f1_low` and `f1_high`."""
    import pandas as pd

    lines = []
    for model, parts in (("winner", facts.winner), ("baseline", facts.baseline)):
        for found in parts["test"].per_class if "test" in parts else ():
            line: dict[str, Any] = {"model": model}
            for name, value in found.items():
                if name == "intervals":
                    for metric, (low, high) in value.items():
                        line |= {f"{metric}_low": low, f"{metric}_high": high}
                else:
                    line[name] = value
            lines.append(line)
    return pd.DataFrame(
        lines, columns=list(dict.fromkeys(name for line in lines for name in line)) or ["model", "class"]
    )


def _confusion_of(test: Scores) -> pd.DataFrame:
    """Test rows by true class (index) and predicted class (columns)."""
    import pandas as pd

    names = list(test.classes)
    return pd.DataFrame(
        [list(row) for row in test.confusion],
        index=pd.Index(names, name="true"),
        columns=pd.Index(names, name="predicted"),
    )


def _listed_of(found: Any, key: str = "") -> pd.DataFrame:
    """A part of the evaluation that is a list of objects, each a row; objects inside become dotted columns."""
    import pandas as pd

    lines = found.get(key, []) if key and isinstance(found, Mapping) else found
    return pd.json_normalize([dict(line) for line in lines if isinstance(line, Mapping)]) if lines else pd.DataFrame()


def _part_of(facts: Facts, name: str) -> Any:
    """evaluation/NAME.json. Raises RunFolderError where it is not there."""
    found = facts.evaluated.get(name)
    if found is None:
        there = words.listed(sorted(facts.evaluated)) or "nothing"
        raise RunFolderError(f"{facts.standing.folder}/evaluation holds no {name}.json; there is {there}.")
    return found


# --- figures --------------------------------------------------------------------------------------


def _plots_of(facts: Facts) -> dict[str, tuple[str, Plot]]:
    """Name → (section, plot), in the order of the report."""
    return {plot.id: (section, plot) for section, plot in _plots(facts)}


def _plots(facts: Facts) -> Iterator[tuple[str, Plot]]:
    for name, build in SECTIONS.items():
        section = build(facts)
        for block in within(section.blocks) if section is not None else ():
            if isinstance(block, Plot):
                yield name, block


def _figure_of(facts: Facts, name: str, dark: bool = False) -> go.Figure:
    """The plot of this name, or the first one of the section of this name, in the report's colours."""
    import plotly.graph_objects as go

    there = _plots_of(facts)
    chosen = there.get(name) or next((pair for pair in there.values() if pair[0] == name), None)
    if chosen is None:
        hint = suggestion(name, list(there))
        raise UserError(f"there is no figure '{name}' of this run.{hint} There are: {', '.join(there) or 'none'}.")
    plot = chosen[1]
    colours = colours_of(dark)
    drawn: dict[str, Any] = painted(plot.figure, colours)
    title = {"text": html.escape(plot.title, quote=False), "x": 0, "xref": "paper"}
    drawn["layout"] |= {"title": title, "height": plot.height + 60, "margin": {**drawn["layout"]["margin"], "t": 80}}
    drawn["layout"] |= {"paper_bgcolor": colours["--surface"], "plot_bgcolor": colours["--surface"]}
    return go.Figure(drawn)


def colours_of(dark: bool = False) -> dict[str, str]:
    """Name → colour, as the report's style sheet has them."""
    style = resources.files("nnopt_ray.report").joinpath("page.css").read_text(encoding="utf-8")
    light, _, rest = style.partition("prefers-color-scheme: dark")
    found = dict(re.findall(r"(--[a-z0-9-]+): ([^;]+);", light.split("}", 1)[0]))
    if dark:
        found |= dict(re.findall(r"(--[a-z0-9-]+): ([^;]+);", rest.split("}", 1)[0]))
    return found


def painted(node: Any, colours: Mapping[str, str], inside: bool = False) -> Any:
    """The figure with the names of colours looked up; only under keys that hold colours."""
    if isinstance(node, str):
        return colours[node] if inside and node.startswith("--") else node
    if isinstance(node, (list, tuple)):
        return [painted(item, colours, inside) for item in node]
    if isinstance(node, Mapping):
        return {
            key: painted(value, colours, bool(re.search(r"color(scale)?$", str(key)))) for key, value in node.items()
        }
    return node


# --- in a notebook --------------------------------------------------------------------------------


def _shown_of(facts: Facts) -> str:
    """HTML for a notebook's cell: name, state, score with its interval, gain, folder. Texts are escaped."""
    rows = [("run", facts.standing.folder), ("status", facts.result.status if facts.result else facts.standing.status)]
    test = facts.winner.get("test")
    if facts.result is None:
        rows.append(("so far", sentence(facts.standing, facts.experiment, facts.rows, facts.course)))
    if facts.best is not None and facts.best.value is not None:
        metric = facts.experiment.metric
        said = f"{words.metric_name(metric)} {words.score(metric, facts.best.value)} at epoch {facts.best.best_epoch}"
        of_trials = f" (trial {facts.best.trial} of {len(facts.rows):,})" if facts.experiment.is_search else ""
        rows.append(("best", said + of_trials))
    if test is not None:
        metric = headline(facts)
        if metric in test.metrics:
            ends = test.intervals.get(metric)
            between = f" ({words.interval(metric, *ends)})" if ends else ""
            rows.append(
                (
                    "on the test part",
                    f"{words.metric_name(metric)} {words.score(metric, test.metrics[metric])}{between}",
                )
            )
        rows.append(("beside the baseline", verdict_of(facts, metric)[0]))
    left = 'style="text-align:left"'
    cells = "".join(
        f"<tr><th {left}>{html.escape(name)}</th><td {left}>{html.escape(told)}</td></tr>" for name, told in rows
    )
    return f"<table><caption><b>{html.escape(facts.experiment.name)}</b></caption><tbody>{cells}</tbody></table>"
