"""How the search was run: its workers and lanes, what the scheduler left out, who trained what and when."""

from __future__ import annotations

from collections.abc import Sequence

from nnopt_ray.evaluate.savings import Savings, savings
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Block, Cell, Fold, Head, Section, Table, Text
from nnopt_ray.report.course import Course
from nnopt_ray.report.facts import Facts
from nnopt_ray.report.timeline import ENDS, when
from nnopt_ray.results import TrialRow
from nnopt_ray.trials import cause_in_words

TAKEOVERS = 200  # rows of their table


def conduct(facts: Facts) -> Section | None:
    if not facts.experiment.is_search or not facts.rows:
        return None
    blocks: list[Block] = [Text(sentence) for sentence in (*_decided(facts), saving(facts), risk(facts)) if sentence]
    if facts.course.resumed:
        blocks.append(Text(f"The search was taken up again {words.plural(facts.course.resumed, 'time')}.", "muted"))
    blocks.append(_ends(facts))
    blocks += when(facts)
    if facts.course.takeovers:
        blocks.append(_takeovers(facts.course))
    return Section("How the search was run", tuple(blocks))


def _decided(facts: Facts) -> list[str]:
    """Why so many workers, and why so many trials at a time."""
    told = facts.result.decided if facts.result else {}
    found = []
    if "workers" in told:
        found.append(f"Workers: {told['workers'].rstrip('.')}.")
    if "lanes" in told:
        found.append(f"{words.capital(told['lanes'].rstrip('.'))}.")
    return found


def savings_of(facts: Facts) -> Savings:
    return savings(facts.rows, facts.experiment.metric, facts.experiment.mode, lambda row: _limit(facts, row))


def saving(facts: Facts) -> str:
    """What the scheduler left out, in epochs and time; how that compares with what was trained."""
    experiment, course, found = facts.experiment, facts.course, savings_of(facts)
    scheduler = experiment.search.scheduler.type
    trained = f"{words.plural(len(facts.rows), 'trial')} trained {found.trained:,} of at most {found.whole:,} epochs"
    if scheduler == "none":
        return f"{words.capital(trained)}; no scheduler stopped any."
    told = [f"{words.capital(trained)}."]
    if found.stopped:
        stopping = experiment.train.early_stopping is not None
        most = "at most " if stopping else ""
        tail = ", fewer where early stopping would have ended them sooner" if stopping else ""
        share = f"{100 * found.left / found.whole:.0f}{words.NBSP}%"
        told.append(
            f"{scheduler} stopped {found.stopped:,} of them, which left out {most}{found.left:,} epochs ({share} of "
            f"all){tail}."
        )
        if found.left_s > 0:
            told.append(f"At each trial's own pace that is {most}{words.duration(found.left_s)} of training.")
    if course.pauses:
        told.append(
            f"Trials paused {words.plural(course.pauses, 'time')} and were taken up again "
            f"{words.plural(course.promotions, 'time')}."
        )
    if course.takeovers:
        told.append(f"{words.plural(len(course.takeovers), 'time')} a trial went on with the weights of a better one.")
    return " ".join(told)


def risk(facts: Facts) -> str:
    """Whether what the scheduler saw foretold the end; empty where it stopped none."""
    found = savings_of(facts)
    if found.rung is None:
        return ""
    after = words.plural(found.rung, "epoch")
    if found.agreed is None or found.low is None or found.high is None:
        told = (
            f"Whether stopping after {after} foretells the end cannot be told: only "
            f"{words.plural(found.both, 'trial')} went on to an end of its own." if found.both == 1 else
            f"Whether stopping after {after} foretells the end cannot be told: only "
            f"{words.plural(found.both, 'trial')} went on to an end of their own."
        )  # fmt: skip
    else:
        agreed = f"{found.agreed:.2f} ({found.low:.2f} to {found.high:.2f})".replace("-", "−")
        trust = (
            "the order at the stop was largely that of the end"
            if found.low > 0.5
            else "the order at the stop said something of the end"
            if found.low > 0
            else "these trials do not show that the order at the stop says anything of the end"
        )
        told = (
            f"Of the {found.both} trials that went on, the rank after {after} and the rank at the end agree by "
            f"{agreed} (Spearman): {trust}. They are the better ones, among which ranks agree less than among all."
        )
    if found.stopped_there and found.rung > 1:
        told += (
            f" {found.faster} of the {found.stopped_there} trials that were stopped after {after} were then improving "
            "faster than half of those that went on."
        )
    return told


def _limit(facts: Facts, row: TrialRow) -> int:
    return int(row.params.get("train.epochs", facts.experiment.train.epochs))


def _ends(facts: Facts) -> Table:
    groups: dict[tuple[str, str], list[TrialRow]] = {}
    for row in facts.rows:
        groups.setdefault((row.status, row.cause), []).append(row)
    order = list(ENDS)
    rows = [
        (
            Cell(_end(*key), tone="bad" if key[0] == "failed" else ""),
            Cell(words.count(len(found)), len(found)),
            Cell(words.count(sum(row.epochs for row in found))),
            Cell(words.duration(sum(row.seconds for row in found))),
            Cell(_named(found), tone="muted"),
        )
        for key, found in sorted(groups.items(), key=lambda item: (order.index(item[0][0]), -len(item[1])))
    ]
    count, epochs = facts.course.confirming
    if count:
        again = Cell("trained again"), Cell(words.count(count), count), Cell(words.count(epochs))
        rows.append((*again, Cell("–", tone="muted"), Cell("over seeds, or over folds", tone="muted")))
    return Table(
        title="How trials ended",
        caption="",
        heads=(
            Head("end"),
            Head("trials", number=True),
            Head("epochs", number=True),
            Head("training time", number=True, hint="a lane's is its share of the step"),
            Head("which"),
        ),
        rows=tuple(rows),
    )


def _end(status: str, cause: str) -> str:
    said = ENDS[status][0]
    return f"{said}: {cause_in_words(cause)}" if cause else said


def _named(rows: Sequence[TrialRow], most: int = 6) -> str:
    names = [row.trial for row in rows[:most]]
    return ", ".join(names) + (" …" if len(rows) > most else "")


def _takeovers(course: Course) -> Fold:
    paths = list(dict.fromkeys(path for each in course.takeovers for path in each.params))
    rows = tuple(
        (
            Cell(each.trial),
            Cell(str(each.epochs), each.epochs),
            Cell(each.donor),
            *(Cell(words.chosen(each.params[path]) if path in each.params else "–") for path in paths),
        )
        for each in course.takeovers[:TAKEOVERS]
    )
    heads = (
        Head("trial"),
        Head("after epochs", number=True),
        Head("took over from"),
        *(Head(tail, above=before) for before, tail in map(words.path_parts, paths)),
    )
    cut = f" The first {TAKEOVERS} of {len(course.takeovers):,}." if len(course.takeovers) > TAKEOVERS else ""
    table = Table(
        "",
        f"Weights and optimizer of the other trial, with which values training went on. A trial's row elsewhere shows "
        f"its last values; its best epoch may have had earlier ones.{cut}",
        heads,
        rows,
        sortable=True,
    )
    return Fold("Every takeover", (table,))
