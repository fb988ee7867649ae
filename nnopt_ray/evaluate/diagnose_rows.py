"""Diagnoses of the rows: classes, labels, copies, leaks, the size of numbers, and what the checks of the data left."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nnopt_ray.evaluate.diagnosis import Case, Diagnosis, Found, Severity, number, percent, plural
from nnopt_ray.evaluate.measured import TOLD_BY_ONE
from nnopt_ray.evaluate.page_line import Line

RARE = 5.0  # rows of the largest class for one of a rare one, as the check `imbalance` has it
MISSED = 0.5  # recall below which a rare class is lost: more of its rows are given away than found
FEWEST_ROWS = 5  # of a class among validation and test rows; of fewer nothing can be said
# Northcutt et al. 2021 (confident learning): errors that a model is sure of point at labels. Where classes overlap, the
# rows that it is surest about are the ones it gets right; where labels are wrong at random, it errs as often there as
# elsewhere. Measured on moons, two normal clouds and a logistic model of 1,400 rows each: among the surest quarter 0 to
# 0.46 of the rate among all, and 0.66 to 1.2 with 5 to 20 % of the labels flipped; in clouds so near each other that
# the skill is 0.4, up to 0.68 without a wrong label.
SURE_ERRORS = 0.03
AS_ELSEWHERE = 0.6
FEWEST_ERRORS = 5
LEARNED = 0.45  # skill without which a network's sureness says nothing
COPY_CHECKS = ("duplicates", "drop_duplicates")
COPIED = 0.01  # of the validation or test rows
FEWEST_COPIES = 5
MORE = 10.0  # times what is expected by chance, where columns have few values
# LeCun et al. 1998, "Efficient BackProp", section 4.3: inputs of mean 0 and like size are learned from fastest.
# Standard scaling gives 1; pixels as bytes have some 100.
UNSCALED = 30.0
LAST = ("encode", "tokenize")  # steps that stand behind the scaling of numbers
UNLIKE = 1000.0  # the largest column over the smallest


def class_imbalance(case: Case) -> Found:
    """Rare classes that the network gives away, where the page does nothing about it."""
    counts = _counts(case)
    if counts is None:
        return None
    rows, largest = sum(counts.values()), max(counts.values())
    rare = [name for name, count in counts.items() if count > 0 and largest / count >= RARE]
    found = _found(case)
    lost = [name for name in rare if name in found and found[name][1] >= FEWEST_ROWS and found[name][0] < MISSED]
    if not lost or _evened_out(case):
        return ()
    lost.sort(key=lambda name: counts[name])
    name = lost[0]
    recall, asked = found[name]
    overall = case.winner["test"].metrics.get("accuracy", math.nan)
    told = f" Its accuracy of {percent(overall)} hides that." if overall > 0.8 else ""
    more = f" {plural(len(lost) - 1, 'more rare class is', 'more rare classes are')} lost alike." if lost[1:] else ""
    said = (
        f"'{name}' is {percent(counts[name] / rows)} of the training rows ({counts[name]:,}), and of its {asked} "
        f"validation and test rows the network finds {percent(recall)}.{told}{more} Nothing on the page gives rare "
        "classes weight."
    )
    evidence = {
        "classes": lost, "share": counts[name] / rows, "recall": recall, "rows": asked, "threshold": MISSED,
        "ratio": largest / counts[name], "ratio_threshold": RARE,
    }  # fmt: skip
    line = case.line("train.loss", {"type": "cross_entropy", "class_weights": "balanced"})
    severity: Severity = "high" if recall < 0.25 else "middle"
    return (Diagnosis("Give rare classes weight", said, severity, evidence, line or case.line("data.balance", "over")),)


def _counts(case: Case) -> Mapping[str, int] | None:
    """Training rows of each class; None where there are no classes."""
    if case.task != "classification" or case.summary is None or "test" not in case.winner:
        return None
    counts = case.summary.class_counts.get("train", {})
    return counts if len(counts) > 1 and any(counts.values()) else None


def _found(case: Case) -> dict[str, tuple[float, int]]:
    """Class → share of its validation and test rows that were found, and how many there are."""
    found: dict[str, tuple[float, int]] = {}
    for part in case.winner.values():
        for each in part.per_class:
            name, rows, recall = str(each["class"]), int(each["rows"]), each.get("recall")
            if not rows or recall is None or not math.isfinite(recall):
                continue
            share, before = found.get(name, (0.0, 0))
            found[name] = (share * before + recall * rows) / (before + rows), before + rows
    return found


def _evened_out(case: Case) -> bool:
    loss: Any = case.value("train.loss.class_weights")
    return bool(
        (loss not in (None, "none"))
        or case.value("data.balance")
        or case.value("train.sampling") == "balanced"
        or (case.summary is not None and case.summary.balanced)
    )


def class_never_predicted(case: Case) -> Found:
    """A class that is there and that the network never says."""
    counts, test = _counts(case), case.winner.get("test")
    if counts is None or test is None or not test.confusion:
        return None
    tables = [part.confusion for part in case.winner.values() if part.confusion]
    said = {name: sum(row[at] for table in tables for row in table) for at, name in enumerate(test.classes)}
    there = {name: sum(sum(table[at]) for table in tables) for at, name in enumerate(test.classes)}
    never = [name for name in test.classes if said[name] == 0 and there[name] >= FEWEST_ROWS]
    if not never:
        return ()
    name = never[0]
    at = test.classes.index(name)
    instead = [sum(table[at][other] for table in tables) for other in range(len(test.classes))]
    most = test.classes[instead.index(max(instead))]
    more = f" Nor does it say {plural(len(never) - 1, 'other class', 'other classes')}." if never[1:] else ""
    sentence = (
        f"The network never says '{name}', which {there[name]} validation and test rows have; for most of them it says "
        f"'{most}'.{more} If the two can be told apart at all, the columns that do are missing or the class has too "
        f"little weight."
    )
    line = (
        None if _evened_out(case) else case.line("train.loss", {"type": "cross_entropy", "class_weights": "balanced"})
    )
    evidence = {"classes": never, "rows": there[name], "instead": most}
    return (Diagnosis(f"Find out why '{name}' is never said", sentence, "high", evidence, line),)


def label_noise(case: Case) -> Found:
    """The network errs as often where it is surest as elsewhere: some classes in the data may be wrong."""
    measured, others = case.measured, case.fit("winner_validation")
    if case.task != "classification" or measured is None or measured.surest is None or others is None:
        return None
    surest = measured.surest
    rate = surest.errors / surest.rows
    if others.skill < LEARNED or surest.errors < FEWEST_ERRORS or rate < SURE_ERRORS:
        return ()
    if rate < AS_ELSEWHERE * surest.of_all:
        return ()
    told = [f"row {row} is '{given}' and looks like '{said}'" for row, given, said in surest.first[:2]]
    sentence = (
        f"Of the {surest.rows} validation and test rows that the network is surest about it gets {surest.errors} wrong "
        f"({percent(rate)}), and {percent(surest.of_all)} of all: it is as often wrong where it is sure as where it is "
        f"not, which points at wrong classes in the data. For example, {' and '.join(told)}."
    )
    evidence = {
        "surest_rows": surest.rows, "errors": surest.errors, "rate": rate, "of_all": surest.of_all,
        "threshold": SURE_ERRORS, "ratio_threshold": AS_ELSEWHERE, "rows": [list(each) for each in surest.first],
    }  # fmt: skip
    return (Diagnosis("Look for wrong classes", sentence, "middle", evidence, _check(case, "label_errors")),)


def copies_across_parts(case: Case) -> Found:
    """Rows that were learned from are among those that are scored."""
    copies = case.measured.copies if case.measured is not None else None
    if copies is None:
        return None
    looked_at = {part: copies.looked_at[part] * copies.learned for part in copies.rows}
    shares = {part: min(1.0, copies.rows[part] / count) for part, count in looked_at.items() if count}
    worst = max(shares, key=lambda part: shares[part], default=None)
    if worst is None or shares[worst] < max(COPIED, MORE * copies.chance) or copies.rows[worst] < FEWEST_COPIES:
        return ()
    first = next((each for each in copies.first if each[2] == worst), None)
    told = f" (row {first[0]} is row {first[1]} again, for one)" if first is not None else ""
    said = f"{copies.rows[worst]:,} of {copies.looked_at[worst]:,}"
    if copies.learned < 1:
        said = f"About {percent(shares[worst])} of the"
    sentence = f"{said} {worst} rows are training rows too{told}: the network has seen them, and its score is too kind."
    evidence = {
        "rows": dict(copies.rows), "looked_at": dict(copies.looked_at), "share": shares[worst], "threshold": COPIED,
        "by_chance": copies.chance,
        "first": [list(each) for each in copies.first],
    }  # fmt: skip
    return (Diagnosis("Take copies apart", sentence, "high", evidence, _check(case, "duplicates", "drop")),)


def target_leak(case: Case) -> Found:
    """A score too good to be true, and one column that tells the target by itself."""
    measured, test = case.measured, case.fit("winner_test")
    if measured is None or test is None:
        return None
    if measured.telling is None or measured.telling[1] < TOLD_BY_ONE or test.skill < TOLD_BY_ONE:
        return ()
    name, skill = measured.telling
    sentence = (
        f"The network has {case.told(test)} on the test part, and the column '{name}' alone tells the target as well. "
        "It may be written down when the outcome is known already, or be the target under another name. If it is not "
        "known when a prediction is needed, leave it out."
    )
    ignored = case.value("data.ignore") or []
    line = case.line("data.ignore", [*ignored, name])
    evidence = {"column": name, "alone": skill, "test": test.score, "threshold": TOLD_BY_ONE}
    return (Diagnosis(f"Ask whether '{name}' may be used", sentence, "high", evidence, line),)


def unscaled_inputs(case: Case) -> Found:
    """Columns of large or of very unlike size, and no step that scales them."""
    spread = case.measured.spread if case.measured is not None else None
    if spread is None or case.directly:
        return None
    (small, least), (large, most) = spread
    steps = case.value("data.steps") or []
    scaled = any(
        step.get("type") == "scale" or ":" in str(step.get("type")) for step in steps if isinstance(step, dict)
    )
    # Behind a scale step a column of rare ones, one-hot, is small by its nature.
    if most < UNSCALED and (scaled or most / least < UNLIKE):
        return ()
    if small == large:
        said = f"The {large} is given to the network in numbers of size {number(most)} (root mean square)"
    else:
        said = f"'{large}' comes in numbers of size {number(most)} (root mean square), '{small}' of {number(least)}"
    first = next((at for at, step in enumerate(steps) if step["type"] in LAST), len(steps))
    line = case.line("data.steps", [*steps[:first], {"type": "scale"}, *steps[first:]]) if not scaled else None
    sentence = f"{said}: networks learn fastest, and at the usual learning rates, from numbers of size 1."
    evidence = {"largest": large, "size": most, "smallest": small, "smallest_size": least, "threshold": UNSCALED}
    return (Diagnosis("Scale the inputs", sentence, "middle", evidence, line),)


def unrepaired_data(case: Case) -> Found:
    """What a check of the data found makes scores or classes doubtful, and nothing was done about it."""
    if case.summary is None or not case.summary.checked:
        return None
    told = COPY_CHECKS if copies_across_parts(case) else ()  # told with its numbers already
    for found in case.summary.quality:
        if found.severity == "high" and not found.repaired and found.check not in told:
            sentence = " ".join(found.sentence.split())
            short = sentence if len(sentence) <= 160 else f"{sentence[:159]}…"
            evidence = {"check": found.check, "rows": found.rows, "columns": list(found.columns)}
            said = f"{found.check}: {short}"
            return (
                Diagnosis("Look at what was found in the data", said, "high", evidence, _repair(case, found.check)),
            )
    return ()


def _repair(case: Case, check: str) -> Line | None:
    """The page's own check with the action that repairs, where it has one."""
    checks = case.value("data.quality") or []
    for action in ("drop", "fix"):
        changed = [{**each, "action": action} if each.get("type") == check else each for each in checks]
        if changed != checks and (line := case.line("data.quality", changed)) is not None:
            return line
    return None


def _check(case: Case, name: str, action: str = "report") -> Line | None:
    """The line with a check of the data more, or with the action of the one that is there."""
    checks = [dict(each) for each in case.value("data.quality") or []]
    there = next((each for each in checks if each.get("type") in (name, f"drop_{name}")), None)
    if there is None:
        checks.append({"type": name, "action": action})
    else:
        there["action"] = "drop"
    return case.line("data.quality", checks)
