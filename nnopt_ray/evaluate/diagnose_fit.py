"""Diagnoses of how well the winner fits the rows it learned from, and how that holds for others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from nnopt_ray.data.types import LANGUAGE
from nnopt_ray.evaluate.diagnosis import Case, Diagnosis, Found, Severity, number, percent, plural, readable
from nnopt_ray.evaluate.measured import Fitted
from nnopt_ray.evaluate.page_line import Line

# Goodfellow, Bengio & Courville 2016, section 5.2: underfitting is a training error that is not low enough, overfitting
# too large a gap between training and test error. How much is low and large is ours to say; skill is 0 for a guess and
# 1 for everything right (measured.Fitted). Measured: a gap of at most 0.13 between training and validation rows in the
# trainings of diagnose_training.py that ended well.
NOTHING = 0.1  # skill; with it goes a loss that is hardly below a guess's
HARDLY = 0.05
BEHIND = 0.1  # skill below the baseline's, on rows that both learned from
BEHIND_LOSS = 0.2  # the same of the loss, as a share of a guess's
GAP = 0.15  # in skill
NEARLY_ALL = 0.95  # skill on other rows, above which a loss that rises costs next to nothing
CERTAIN = 2.0  # standard errors of the validation rows' accuracy that the gap must be
RISE = 0.1  # of the lowest validation loss, and of what was gained until then
PARTS_APART = 3.0  # standard errors: by chance in 1 of 370 runs
MUCH_WORSE = 0.1  # of the baseline's own score
FLEXIBLE = 0.3  # weight decay from which on, and dropout above which, a network is held back
# Expected calibration error, over 15 bins. Guo et al. 2017, table 1: 0.03 to 0.16 for networks of that time before any
# calibration, 0.01 to 0.03 after; chance adds about a third of the square root of bins over rows.
UNSURE = 0.1
BY_CHANCE = 0.33
BETTER = 0.7  # of the error, that a temperature must come below to be worth its name


def underfit(case: Case) -> Found:
    """The winner does not even fit the rows that it learned from."""
    winner, simple = case.fit("winner_train"), case.fit("baseline_train")
    if winner is None or case.measured is None:
        return None
    explained = 1 - winner.loss / case.measured.guess_loss if case.measured.guess_loss > 0 else winner.skill
    nothing = winner.skill < NOTHING and explained < HARDLY
    guess = case.measured.guess_loss
    further = simple is not None and guess > 0 and (winner.loss - simple.loss) / guess > BEHIND_LOSS
    behind = simple is not None and (winner.skill < simple.skill - BEHIND or further)
    if not nothing and not behind:
        return ()
    evidence = {
        "train": winner.score, "skill": winner.skill, "threshold": NOTHING,
        "baseline_train": simple.score if simple is not None else None, "behind_threshold": BEHIND,
    }  # fmt: skip
    told = f"On {plural(winner.rows, 'row')} that it learned from the network has {case.told(winner)}"
    told += f" and a loss of {number(winner.loss)}"
    if not behind or simple is None:
        said = f"{told}, hardly better than {_guess(case)}; nor is the baseline. The data may say little about it."
        return (Diagnosis("Look at data and features first", said, "middle", evidence),)
    said = (
        f"{told}; the baseline has {case.told(simple)} and {number(simple.loss)}: the network is too small, held back, "
        "or has not learned yet."
    )
    return (Diagnosis("Let the network fit more", said, "high", evidence, _freer(case)),)


def _guess(case: Case) -> str:
    if case.task == "classification":
        return "always saying the most frequent class"
    return "the frequencies of the tokens" if case.task in LANGUAGE else "always saying the mean"


def _freer(case: Case) -> Line | None:
    """The line that takes off what holds a network back most, else makes it larger."""
    for path, strong in (("model.dropout", FLEXIBLE), ("train.optimizer.weight_decay", FLEXIBLE), ("train.l1", 0.0)):
        value = case.value(path)
        if isinstance(value, (int, float)) and value > strong:
            return case.line(path, 0.0)
    widths, width = case.value("model.widths"), case.value("model.width")
    if isinstance(widths, list) and all(isinstance(each, int) for each in widths):
        return case.line("model.widths", [max(32, 2 * each) for each in widths] or [64, 64])
    return case.line("model.width", max(32, 2 * width)) if isinstance(width, int) else None


def overfit(case: Case) -> Found:
    """The winner knows the rows that it learned from much better than others; or trained on while it grew worse."""
    train, others = case.fit("winner_train"), _others(case)
    if train is not None and others is not None:
        gap = train.skill - others.skill
        error = _error(case, others, train.score - others.score)
        if gap >= GAP and train.score - others.score >= CERTAIN * error:
            return (
                Diagnosis(
                    "Regularise more",
                    f"The network has {case.told(train)} on rows that it learned from and {case.told(others)} on "
                    f"{plural(others.rows, 'validation and test row')}: it knows its rows by heart. More rows help "
                    "most; then dropout, weight decay, augmentation, or a smaller network.",
                    "high" if gap >= 2 * GAP else "middle",
                    {"train": train.score, "others": others.score, "gap": gap, "threshold": GAP, "rows": others.rows},
                    _firmer(case),
                ),
            )
    rise = risen(case.curve("train_loss"), case.curve("val_loss"))
    if train is None and rise is None:
        return None
    if rise is None or case.experiment.train.early_stopping is not None:
        return ()
    if others is not None and others.skill >= NEARLY_ALL:
        return ()
    return (
        Diagnosis(
            "Regularise more",
            f"After its lowest point the winner's validation loss rose by {percent(rise)} while the training loss fell "
            "on: it memorises. More dropout, weight decay or data help; more epochs do not. The weights of the best "
            "epoch were kept.",
            "middle",
            {"rise": rise, "threshold": RISE},
            _firmer(case) or case.line("train.early_stopping", {"patience": 5}),
        ),
    )


def _others(case: Case) -> Fitted | None:
    """Validation and test rows as one: the winner learned from neither."""
    found = [each for each in (case.fit("winner_validation"), case.fit("winner_test")) if each is not None]
    rows = sum(each.rows for each in found)
    if not rows:
        return None

    def mean(values: Sequence[float]) -> float:
        return sum(value * each.rows for value, each in zip(values, found, strict=True)) / rows

    return Fitted(rows, mean([e.loss for e in found]), mean([e.score for e in found]), mean([e.skill for e in found]))


def _error(case: Case, fitted: Fitted, gap: float) -> float:
    """Standard error of a score by its rows: of an accuracy the binomial one; of R², where it has none so simple, that
    of a gap of this size over so many rows."""
    if case.task == "classification":
        share = min(max(fitted.score, 1 / (fitted.rows + 2)), 1 - 1 / (fitted.rows + 2))
        return math.sqrt(share * (1 - share) / fitted.rows)
    return max(gap, 0.5) / math.sqrt(fitted.rows)


def _firmer(case: Case) -> Line | None:
    """The line that holds the network back more."""
    dropout, decay = case.value("model.dropout"), case.value("train.optimizer.weight_decay")
    if isinstance(dropout, float) and dropout < FLEXIBLE and (line := case.line("model.dropout", 0.3)):
        return line
    if isinstance(decay, float) and decay < FLEXIBLE:
        return case.line("train.optimizer.weight_decay", max(0.01, 10 * decay))
    return None


def risen(train: Sequence[float], validation: Sequence[float]) -> float | None:
    """By what share the validation loss rose after its lowest epoch while the training loss fell on; else None.

    Both ends are means of up to three epochs, as one epoch's value is noise. The rise must be large beside what was
    gained until then, too: of a loss that has become next to nothing, a tenth is nothing.
    """
    pairs = zip(train, validation, strict=True)
    known = [(fit, held) for fit, held in pairs if math.isfinite(held) and math.isfinite(fit)]
    if len(known) < 6:
        return None
    low = min(range(len(known)), key=lambda at: known[at][1])
    around, end = known[max(0, low - 1) : low + 2], known[-3:]
    if low >= len(known) - 3:
        return None
    before, after = (fmean(held for _, held in part) for part in (around, end))
    trained, further = (fmean(fit for fit, _ in part) for part in (around, end))
    if before <= 0 or after < (1 + RISE) * before or further >= trained:
        return None
    if after - before < RISE * (known[0][1] - known[low][1]):
        return None
    return after / before - 1


def no_better_than_baseline(case: Case) -> Found:
    """The winner is worse than the baseline, or of many trials not one is clearly better."""
    gain = case.gains.get(case.metric)
    if gain is None or gain[1] is None or gain[2] is None:
        return None
    value, low, high = gain[0], gain[1], gain[2]
    if low > 0 or (high >= 0 and not case.experiment.is_search):  # of a single training the first screen says it
        return ()
    name = readable(case.metric)
    evidence = {"gain": value, "low": low, "high": high}
    if high < 0:
        said = (
            f"On the test part the network's {name} is worse than the baseline's by {number(abs(value))} "
            f"({number(abs(high))} to {number(abs(low))}): the simple model is the better one as it stands."
        )
        base = case.baseline["test"].metrics.get(case.metric, math.nan) if "test" in case.baseline else math.nan
        severity: Severity = "middle" if abs(value) < MUCH_WORSE * abs(base) else "high"
        return (Diagnosis("Beat the baseline first", said, severity, evidence),)
    said = (
        f"On the test part the winner's {name} is not clearly better than the baseline's. When a simple model does as "
        "well, more trials of the same network seldom help."
    )
    return (Diagnosis("Look at data and features before tuning further", said, "middle", evidence),)


def test_far_from_validation(case: Case) -> Found:
    """The test part is scored much worse than the validation part."""
    validation, test = case.winner.get("validation"), case.winner.get("test")
    metric = "accuracy" if case.task == "classification" else case.metric
    ends = test.intervals.get(metric) if test is not None else None
    if validation is None or test is None or ends is None or metric not in validation.metrics or not test.rows:
        return None
    one, other = validation.metrics[metric], test.metrics.get(metric, math.nan)
    # The interval's half width is 1.96 standard errors at 95 %; of another size of part it goes with the square root.
    error = (ends[1] - ends[0]) / (2 * 1.96) * math.sqrt(1 + test.rows / max(1, validation.rows))
    higher = metric in HIGHER
    worse = one - other if higher else other - one
    if not math.isfinite(worse) or not error > 0 or worse < PARTS_APART * error:
        return ()
    simple = case.baseline.get("validation"), case.baseline.get("test")
    both = [part.metrics.get(metric, math.nan) if part is not None else math.nan for part in simple]
    fell = (both[0] - both[1] if higher else both[1] - both[0]) > 0.5 * worse
    why = (
        "The baseline falls as much, so the parts themselves differ: look for time, groups or sources in how the rows "
        "are divided."
        if fell
        else "The baseline does not fall like that: too few validation rows chose the winner, or it fits them alone."
    )
    shown = percent if metric == "accuracy" else number
    said = (
        f"{readable(metric).capitalize()} is {shown(one)} on the validation part and {shown(other)} on the test part, "
        f"{number(worse / error)} standard errors apart. {why}"
    )
    evidence = {"validation": one, "test": other, "standard_errors": worse / error, "threshold": PARTS_APART}
    split = case.value("data.split.stratify")
    line = case.line("data.split.stratify", True) if split is False else case.line("data.quality", ["drift"])
    return (Diagnosis("Find out how the parts differ", said, "high", evidence, line),)


HIGHER = frozenset(
    {"accuracy", "balanced_accuracy", "precision", "recall", "f1", "weighted_f1", "mcc", "roc_auc", "pr_auc", "r2",
     "token_accuracy"}
)  # fmt: skip


def bad_calibration(case: Case) -> Found:
    """Probabilities that promise more, or less, than comes true."""
    test = case.winner.get("test")
    value = test.metrics.get("ece", math.nan) if test is not None else math.nan
    if case.task != "classification" or test is None or not test.rows or not math.isfinite(value):
        return None
    limit = UNSURE + BY_CHANCE * math.sqrt(15 / test.rows)
    if value < limit:
        return ()
    surest = case.measured.surest if case.measured is not None else None
    said = f"The probabilities are off by {percent(value)} on the test rows (expected calibration error)"
    line = None
    if surest is not None and surest.probability > 1 - surest.of_all:
        said += (
            f": the network is {percent(surest.probability)} sure on average and right in {percent(1 - surest.of_all)}"
        )
        line = _smoother(case, 0.1)
    elif surest is not None:
        said += f": the network is right in {percent(1 - surest.of_all)} and only {percent(surest.probability)} sure"
        line = _smoother(case, 0.0)
    evidence = {"ece": value, "threshold": limit, "sure": surest.probability if surest is not None else None}
    cooled = _cooled(case.calibration)
    if cooled is not None and cooled[1] < BETTER * value:
        said += f". A temperature of {number(cooled[0])}, learned from the validation rows, brings that to "
        said += percent(cooled[1])
        evidence |= {"temperature": cooled[0], "ece_then": cooled[1]}
        line = case.line("evaluate.calibrate", "temperature") or line
    said += ". Take them as a rank, not as a chance."
    return (Diagnosis("Calibrate the probabilities", said, "low", evidence, line),)


def _cooled(calibration: Mapping[str, Any] | None) -> tuple[float, float] | None:
    """(temperature, calibration error with it) of evaluation/calibration.json, where it was not applied already."""
    if not isinstance(calibration, Mapping) or calibration.get("applied"):
        return None
    found: Any = calibration.get("metrics")
    for name in ("ece", "after"):
        found = found.get(name) if isinstance(found, Mapping) else None
    temperature = calibration.get("temperature")
    if not isinstance(temperature, float) or not isinstance(found, float):
        return None
    return temperature, found


def _smoother(case: Case, smoothing: float) -> Line | None:
    """The line with another label smoothing; the loss `auto` has no such key."""
    line = case.line("train.loss.label_smoothing", smoothing)
    if line is None and smoothing and case.value("train.loss.type") == "auto":
        line = case.line("train.loss", {"type": "cross_entropy", "label_smoothing": smoothing})
    return line
