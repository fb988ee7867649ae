"""The model card: what a network is, of which data, how good, for what, and who answers for it.

The headings are those of Mitchell et al. (2019), "Model Cards for Model Reporting", FAT* 2019. What only people know
stands in `about` on the page; where nobody wrote it, the card says so. One list of entries makes the section of the
report, which leaves out what its other sections show, and best/model_card.md, which stands alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnopt_ray.data.types import LANGUAGE
from nnopt_ray.errors import UserError
from nnopt_ray.experiment import About
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Block, Cell, Code, Head, Section, Table, Text
from nnopt_ray.report.facts import Facts
from nnopt_ray.report.summary import baseline_name, gain_words, headline, searched
from nnopt_ray.tables import Part

EMPTY = "Nobody has filled this in"
LIMITS = 8  # that are named


@dataclass(frozen=True)
class Entry:
    """One line of the card. `missing`: nobody has said it. `alone`: only where the card stands alone."""

    heading: str
    what: str
    told: str
    missing: bool = False
    alone: bool = False


def card(facts: Facts) -> Section | None:
    """The section of the report; None before there is a network to speak of."""
    if facts.result is None:
        return None
    told = entries(facts)
    rows = tuple(
        (Cell(entry.what), Cell(entry.told, tone="muted" if entry.missing else "")) for entry in told if not entry.alone
    )
    missing = [entry.what.lower() for entry in told if entry.missing and entry.heading in ("Model", "Use")]
    blocks: list[Block] = [Text("What belongs beside the weights when they are handed on; also as best/model_card.md.")]
    if missing:
        keys = ", ".join(f"{key}: ..." for key in About.model_fields if getattr(facts.experiment.about, key) is None)
        said = f"Not said by anybody: {words.listed(missing)}. The page takes it as about: {{{keys}}}"
        blocks.append(Text(f"{said}; that of a run which is done, in its resolved.yaml, before nnopt report.", "muted"))
    blocks += [Table("", "", (Head("what"), Head("told")), rows), Code(_commands(facts), "Make it again, and use it")]
    return Section("Model card", tuple(blocks))


def entries(facts: Facts) -> tuple[Entry, ...]:
    """All that the card says, in its order."""
    return (*_details(facts), *_use(facts), *_data(facts), *_training(facts), *_measured(facts), *_caveats(facts))


def _details(facts: Facts) -> list[Entry]:
    model, environment = _model(facts), facts.environment
    size = f", {facts.parameters:,} parameters" if facts.parameters is not None else ""
    made = [str(environment.get("began", ""))[:10], _version(environment)]
    found = [
        Entry("Model", "Network", f"{_part(model)}{size}"),
        Entry("Model", "Task", _task(facts)),
        Entry("Model", "Made", f"{', '.join(filter(None, made))}; seed {facts.experiment.seed}"),
        Entry("Model", "Hardware", _hardware(facts)),
    ]
    return [*found, _said(facts, "owner", "Model", "Who answers for it"), _said(facts, "licence", "Model", "Licence")]


def _use(facts: Facts) -> list[Entry]:
    return [_said(facts, "purpose", "Use", "What it is for"), _said(facts, "limits", "Use", "What it is not for")]


def _data(facts: Facts) -> list[Entry]:
    seen, page = facts.summary, facts.experiment.data
    if seen is None:
        return []
    parts = words.listed([f"{count:,} for {words.PARTS.get(part, part)}" for part, count in seen.parts.items()])
    found = [
        Entry("Data", "Source", f"{seen.rows:,} rows of {seen.source}", alone=True),
        Entry("Data", "Parts", f"{parts}, divided by {_part(page.split)}"),
        Entry("Data", "Prepared by", words.listed([_part(step) for step in page.steps]) or "nothing"),
    ]
    share = _rarest(seen.class_counts)
    if share:
        found.append(Entry("Data", "Classes", share))
    repaired = sum(sum(one.repaired.values()) for one in seen.quality)
    checked = words.listed(list(dict.fromkeys(seen.checked)))
    told = f"looked for: {checked}; {words.plural(len(seen.quality), 'finding')}, {repaired:,} repairs"
    found.append(Entry("Data", "Checked", told if checked else "by no check of the page (data.quality)"))
    return found


def _rarest(counts: Mapping[str, Mapping[str, int]]) -> str:
    total: dict[str, int] = {}
    for part, by_class in counts.items():
        if part != "train" or len(counts) == 1:  # training rows may have been balanced
            for name, rows in by_class.items():
                total[name] = total.get(name, 0) + rows
    if not total or not sum(total.values()):
        return ""
    shares = {name: 100 * rows / sum(total.values()) for name, rows in total.items()}
    least, most = min(shares, key=lambda n: shares[n]), max(shares, key=lambda n: shares[n])
    return (
        f"{len(shares)}; the rarest is “{least}” with {shares[least]:.3g}{words.NBSP}% of the validation and "
        f"test rows, the commonest “{most}” with {shares[most]:.3g}{words.NBSP}%"
    )


def _training(facts: Facts) -> list[Entry]:
    best, train = facts.best, facts.experiment.train
    values = ", ".join(f"{path} {words.chosen(value)}" for path, value in (best.params if best else {}).items())
    found = [Entry("Training", "Chosen by", searched(facts), alone=True)]
    if values:
        found.append(Entry("Training", "Values", values, alone=True))
    elif not facts.experiment.is_search:
        told = f"{_part(train.optimizer)}, batches of {train.batch_size}, loss {_part(train.loss)}"
        found.append(Entry("Training", "Method", told))
    if best is not None:
        kept = "" if best.best_epoch is None else f"; the weights are those after epoch {best.best_epoch}, from 0"
        ended = f"{words.plural(best.epochs, 'epoch')} ({best.reason.rstrip('.')}){kept}"
        found.append(Entry("Training", "Epochs", ended))
    return found


def _measured(facts: Facts) -> list[Entry]:
    test = facts.winner.get("test")
    if test is None:
        return [Entry("Metrics", "Scores", "not measured", missing=True)]
    metric = headline(facts)
    found = []
    for name in dict.fromkeys([metric, words.base(facts.experiment.metric), *test.metrics]):
        if name not in test.metrics:
            continue
        ends = test.intervals.get(name)
        between = f" ({words.interval(name, *ends)})" if ends else ""
        told = f"{words.score(name, test.metrics[name])}{between}"
        simple = facts.baseline.get("test")
        if simple is not None and name in simple.metrics:
            told += f"; baseline ({baseline_name(facts)}) {words.score(name, simple.metrics[name])}"
        found.append(Entry("Metrics", words.capital(words.metric_name(name)), told, alone=name != metric))
    gain = facts.gains.get(metric)
    if gain is not None:
        found.append(Entry("Metrics", "Against the baseline", gain_words(gain, baseline_name(facts))[0]))
    level = f"{100 * facts.experiment.evaluate.confidence:.3g}{words.NBSP}%"
    how = f"{test.rows:,} test rows, predicted once; {level} bootstrap intervals over the rows"
    found.append(Entry("Metrics", "Measured on", how, alone=True))
    hardest = min(test.per_class, key=lambda one: one["f1"], default=None)
    if hardest is not None:
        rows = words.plural(hardest["rows"], "test row")
        found.append(Entry("Metrics", "Hardest class", f"“{hardest['class']}”, F1 {hardest['f1']:.3f} on {rows}"))
    return found


def _caveats(facts: Facts) -> list[Entry]:
    """What the run itself shows to be a limit."""
    found = []
    told = facts.result.decided if facts.result else {}
    if "test" in told:
        found.append(Entry("Limits", "The test part", words.capital(told["test"])))
    found += [Entry("Limits", title, sentence) for title, sentence in findings(facts)[:LIMITS]]
    unseen = "How it does on rows that are not like the training rows was not measured"
    return [*found, Entry("Limits", "Other data", unseen)]


def findings(facts: Facts) -> list[tuple[str, str]]:
    """(title, sentence) of what the diagnosis found, the worst first."""
    told = facts.evaluated.get("diagnosis")
    listed = told.get("found", ()) if isinstance(told, Mapping) else told if isinstance(told, list) else ()
    return [
        (str(one.get("title", "")), str(one["sentence"]))
        for one in listed
        if isinstance(one, Mapping) and one.get("sentence") and one.get("severity") != "low"
    ]


# --- how things are said --------------------------------------------------------------------------


def _said(facts: Facts, key: str, heading: str, what: str) -> Entry:
    told: str | None = getattr(facts.experiment.about, key)
    return Entry(heading, what, f"{EMPTY} (about.{key})." if told is None else told, missing=told is None)


def _model(facts: Facts) -> Part:
    """The winner's; as far as the page says, where its values are those of a page that was another."""
    from nnopt_ray import reading

    try:
        return reading.close(facts.experiment, facts.best.params if facts.best else {}).model
    except UserError:
        return facts.experiment.model


def _part(part: Part) -> str:
    """resnet (depth 8, dropout 0.1): the type, and the keys that are not empty."""
    keys = [f"{key} {words.chosen(value)}" for key, value in part.keys.items() if value not in (None, "", ())]
    return f"{part.type} ({', '.join(keys)})" if keys else part.type


def _task(facts: Facts) -> str:
    seen = facts.summary
    if seen is None:
        return "not known"
    inputs = [column for column in seen.columns if column.kind not in ("dropped", "target", "ignored")]
    told = seen.task.replace("_", " ") + (f" of “{seen.target}”" if seen.task not in LANGUAGE else "")
    kinds = words.listed(sorted({column.kind for column in inputs}))
    return f"{told}, from {words.plural(len(inputs), 'column')} ({kinds})" if inputs else told


def _version(environment: Mapping[str, Any]) -> str:
    packages = environment.get("packages")
    known = packages if isinstance(packages, Mapping) else {}
    return ", ".join(f"{name} {known[name]}" for name in ("nnopt-ray", "torch") if name in known)


def _hardware(facts: Facts) -> str:
    told = facts.result.decided if facts.result else {}
    known = [str(facts.environment.get("processor", "")), f"{facts.environment.get('cpus', '?')} CPU cores"]
    return ", ".join(filter(None, [*known, f"device {told['device']}" if "device" in told else ""]))


def _commands(facts: Facts) -> str:
    folder = facts.standing.folder or "RUN"
    return "\n".join(
        [
            "# train this network again, alone",
            f"nnopt run {folder}/best/page.yaml",
            "# what it says about new rows; the weights for use elsewhere (or torch_export, onnx)",
            f"nnopt predict {folder} new.csv -o said.csv",
            f"nnopt export {folder} --format safetensors",
            "",
            "# in Python: a torch.nn.Module in evaluation mode",
            "import nnopt_ray as nn",
            f"model = nn.open_run({folder!r}).model()",
        ]
    )


# --- as a file ------------------------------------------------------------------------------------


def markdown(facts: Facts) -> str:
    """best/model_card.md: the whole card. Texts of the user are shown as they are, whatever marks are in them."""
    lines = [f"# {_plain(facts.experiment.name)}", "", "A model card, written by nnopt."]
    heading = ""
    for entry in entries(facts):
        if entry.heading != heading:
            heading = entry.heading
            lines += ["", f"## {heading}", ""]
        lines.append(f"- **{_plain(entry.what)}**: {_plain(entry.told)}")
    commands = (f"    {line}".rstrip() for line in _commands(facts).split("\n"))
    return "\n".join([*lines, "", "## Make it again, and use it", "", *commands]) + "\n"


def _plain(text: str) -> str:
    """Text that Markdown takes for nothing else within a line: its marks escaped, HTML too."""
    return re.sub(r"([\\`*_\[\]|<>~&#])", r"\\\1", " ".join(words.harmless(text).split()))


__all__ = ["Entry", "card", "entries", "findings", "markdown"]
