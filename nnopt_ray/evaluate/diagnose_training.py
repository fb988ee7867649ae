"""Diagnoses of how the winner was trained: learning rate, epochs, stopping, gradients, layers, the wait for data.

Thresholds called measured are between the worst of healthy and the best of ill runs in a sweep of 76 trainings of 20
epochs: an MLP of two layers on scikit-learn's digits, breast_cancer, diabetes and wine, with Adam from 1e-7 to 10 and
SGD from 1e-6 to 10.
"""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from nnopt_ray.evaluate.diagnosis import (
    Case,
    Diagnosis,
    Found,
    Severity,
    number,
    percent,
    plural,
    readable,
    tidy,
)
from nnopt_ray.evaluate.page_line import Line, proposed
from nnopt_ray.evaluate.probe import Activation
from nnopt_ray.experiment import Range

# Mean training loss of the first epoch over that of a network that has learned nothing. Measured: at most 1.02 in
# every training that ended well, 2.7 to 1e12 with rates ten times too high.
THROWN = 1.5
# Epochs whose training loss is a tenth above the one before, and by more than SMALL of a guess's loss. Measured: at
# most 0.05 of them where the loss has not become next to nothing (SETTLED), from 0.25 on with rates that are too high.
BOUNCES = 0.2
JUMP, SMALL = 1.1, 0.05
LEAST_BOUNCES, LEAST_EPOCHS = 3, 10
SETTLED = 0.1  # of the loss of a guess: below it the loss jumps by large factors and small amounts
# A rate that fits gains most at first. Measured: with rates a tenth of the best and less, the second half of the
# epochs brought 0.39 to 0.68 of the fall and more than half of a guess's loss was left; else 0.36 at most, or less.
STRAIGHT = 0.38
LEFT = 0.5
LEAST_LINE = 6  # epochs: of fewer most look straight
FALLING = 0.9  # of the epochs: a curve so smooth is that of steps that are small
STILL = 0.01  # way of the weights, as a share of their norm; measured: 0.06 and more wherever much was learned
USUAL_WAY = 0.3  # what the same sweep has at the best rates: 0.26 to 1.8
FEW_EPOCHS = 4  # fewer tell no curve
LONGER, LATE = 0.02, 0.2  # the last fifth of the epochs brought this share of all the improvement
# Prechelt 1998, "Early stopping - but when?": slow criteria pay; of patience 3 and less a bump in the curve is the end.
IMPATIENT = 3
BUMP = 0.05  # of all the improvement: a rise by less is no sign of overfitting
# Pascanu et al. 2013, section 3.2: where gradients explode, their norm grows by orders of magnitude from one step to
# the next. Of an epoch's mean norm one order is much: measured at most 2.2 from an epoch to the next without a cliff.
EXPLODED = 10.0
CLIFF = 1.5  # and the training loss rises with it
# Gradient over weight norm of a layer, beside the largest of all. Measured: not below 1e-3 in any network that
# learned; each sigmoid layer takes a factor of 4 at least (Glorot & Bengio 2010), so ten of them 1e-6.
VANISHED = 1e-4
LEARNED = 0.5  # skill on the training rows: gradients that are small in a network that has learned are no illness
# Units that are 0 for every row. Measured: at most 0.25 of a layer with rates that fit, 0.39 to 1 with those too high;
# the notes of Stanford's CS231n name 0.4 as what a rate too high can kill.
DEAD = 0.5
NEARLY_ALL = 0.9
FEWEST_UNITS = 8  # of so few units half are idle by chance
# Root mean square of what a layer gives. Measured: at most 22 with rates that fit.
LARGE = 1e3
WAITING = 0.2  # share of an epoch: to read faster gains at most a factor of 1.25 below it (Amdahl 1967)
WAITED_S = 1.0  # in all, below which nobody cares


def learning_rate_too_high(case: Case) -> Found:
    """Steps too long: the first epoch leaves the network worse than none, or the loss jumps up and down."""
    losses, measured = case.train_losses, case.measured
    if case.directly or measured is None or len(losses) < 1 or not math.isfinite(losses[0]):
        return None
    none = max(measured.guess_loss, measured.first_loss if math.isfinite(measured.first_loss) else 0.0)
    if not none > 0:
        return None
    thrown = losses[0] / none
    rough = SMALL * measured.guess_loss
    jumps = sum(after > max(JUMP * before, before + rough) for before, after in pairwise(losses))
    share = jumps / max(1, len(losses) - 1)
    bounces = len(losses) >= LEAST_EPOCHS and jumps >= LEAST_BOUNCES and share >= BOUNCES
    bounces = bounces and losses[-1] > SETTLED * measured.guess_loss
    if thrown < THROWN and not bounces:
        return ()
    rate = case.value("train.optimizer.lr")
    at = f" at a learning rate of {number(rate)}" if isinstance(rate, float) else ""
    if thrown >= THROWN:
        said = (
            f"In the first epoch the training loss was {number(losses[0])} on average{at}, and that of a network that "
            f"has learned nothing is {number(none)}: the steps are so long that they do harm."
        )
    else:
        said = (
            f"The training loss rose by more than a tenth in {jumps} of {plural(len(losses) - 1, 'epoch')}{at}, and "
            f"ended at {number(losses[-1])}: the steps jump over what they look for."
        )
    factor = min(1000.0, 10.0 ** (1 + math.floor(math.log10(max(thrown, 1.0)) / 2)))
    evidence = {"first_epoch_over_untrained": thrown, "threshold": THROWN, "jumps": share, "jumps_threshold": BOUNCES}
    return (Diagnosis("Lower the learning rate", said, "high", evidence, _rate(case, 1 / factor)),)


def learning_rate_too_low(case: Case) -> Found:
    """Steps too short: the loss falls in a straight line and is far from its end, or the weights hardly move."""
    losses, measured = case.train_losses, case.measured
    if case.directly or measured is None or len(losses) < FEW_EPOCHS or not all(map(math.isfinite, losses)):
        return None
    if not measured.guess_loss > 0:
        return None
    left = losses[-1] / measured.guess_loss
    falling = sum(after < before for before, after in pairwise(losses)) / (len(losses) - 1)
    fall = losses[0] - losses[-1]
    second = (losses[(len(losses) - 1) // 2] - losses[-1]) / fall if fall > 0 else 0.0
    straight = len(losses) >= LEAST_LINE and falling >= FALLING and second >= STRAIGHT and left >= LEFT
    still = measured.moved < STILL and FALLING <= left < THROWN
    if not straight and not still:
        return ()
    rate = case.value("train.optimizer.lr")
    at = f" at a learning rate of {number(rate)}" if isinstance(rate, float) else ""
    moved = f"moved the weights by {percent(measured.moved)} of their size" if math.isfinite(measured.moved) else ""
    said = (
        f"After {plural(len(losses), 'epoch')}{at} the training loss is {number(losses[-1])}; that of always giving "
        f"the same answer is {number(measured.guess_loss)}. "
    )
    if still:
        said += f"Training {moved}, where {percent(USUAL_WAY)} and more are usual."
    else:
        said += f"It falls in a straight line: the second half of the epochs brought {percent(second)} of its fall."
    factor = min(1e4, max(10.0, USUAL_WAY / measured.moved)) if measured.moved > 0 else 10.0
    evidence = {
        "left": left, "left_threshold": LEFT, "second_half": second, "second_half_threshold": STRAIGHT,
        "moved": measured.moved, "moved_threshold": STILL,
    }  # fmt: skip
    severity: Severity = "high" if left >= FALLING else "middle"
    return (Diagnosis("Raise the learning rate", said, severity, evidence, _rate(case, factor)),)


def _rate(case: Case, factor: float) -> Line | None:
    """The line with another learning rate; where it is searched, the range made so wide as to hold it."""
    path = "train.optimizer.lr"
    searched = case.opened(path)
    if searched is None:
        now = case.value(path)
        return case.line(path, _one_digit(now * factor)) if isinstance(now, float) and now > 0 else None
    branch, opened, now = searched
    if opened.kind not in ("log", "uniform") or not isinstance(now, float):
        return None
    low, high = opened.values[:2]
    beyond = _one_digit(now * factor)
    new = Range(opened.kind, (min(low, beyond), max(high, beyond)))
    return proposed(case.experiment, case.params, branch_path(branch), new)


def branch_path(branch: str) -> str:
    """train.optimizer=adam.lr → train.optimizer.lr."""
    return ".".join(part.partition("=")[0] for part in branch.split("."))


def _one_digit(value: float) -> float:
    return float(f"{value:.0e}")


def loss_not_a_number(case: Case) -> Found:
    """Trials whose loss became no number, and what values they share."""
    if not case.experiment.is_search or not case.rows:
        return None
    broken = [row for row in case.rows if row.cause == "not-a-number"]
    if not broken:
        return ()
    said = f"The loss of {len(broken)} of {plural(len(case.rows), 'trial')} became no number"
    evidence: dict[str, Any] = {"failed": len(broken), "trials": len(case.rows)}
    whole = [row for row in case.rows if row.cause != "not-a-number" and row.value is not None]
    shared = _shared(case, broken, whole)
    severity: Severity = "middle" if len(broken) >= 0.1 * len(case.rows) else "low"
    severity = "high" if len(broken) >= 0.5 * len(case.rows) else severity
    if shared is None or len(broken) < 3:
        return (Diagnosis("Keep the loss a number", f"{said}.", severity, evidence, case.line("train.clip_norm", 1.0)),)
    path, branch, opened, border, above = shared
    evidence |= {"path": path, "border": border, "above": above}
    side = "above" if above else "below"
    inside = sum((row.params[path] >= border) == above for row in whole if path in row.params)
    said += (
        f", all of them with {path} {side} {number(border)}; so were {inside} of the {len(whole)} others. "
        "These trials are lost."
    )
    low, high = opened.values[:2]
    ends = (low, tidy(border)) if above else (tidy(border), high)
    line = Line(path, branch, Range(opened.kind, (*ends, *opened.values[2:])))
    return (Diagnosis(f"Narrow {path}", said, severity, evidence, line if ends[0] < ends[1] else None),)


def _shared(case: Case, broken: Any, whole: Any) -> tuple[str, str, Range, float, bool] | None:
    """The range at an end of which all broken trials lie and few others: (path, branch, range, border, above)."""
    best: tuple[float, tuple[str, str, Range, float, bool]] | None = None
    for path, branch, opened, _ in case.taken:
        if opened.kind == "choice":
            continue
        values = [row.params.get(path) for row in broken]
        others = [row.params[path] for row in whole if path in row.params]
        if None in values or len(others) < 3:
            continue
        for above in (True, False):
            border = min(values) if above else max(values)
            inside = sum((value >= border) if above else (value <= border) for value in others) / len(others)
            # Where most of the others are there too, the value says nothing.
            if inside <= 0.25 and (best is None or inside < best[0]):
                best = inside, (path, branch, opened, float(border), above)
    return best[1] if best is not None else None


def still_improving(case: Case) -> Found:
    """The winner's best epoch is its last allowed one, and the last fifth still gained."""
    best, history = case.best, case.history
    if best is None or best.best_epoch is None or case.directly or "train.epochs" in case.params:
        return None
    limit = case.experiment.train.epochs
    longer = case.line("train.epochs", 2 * limit if limit >= FEW_EPOCHS else 20)
    if len(history) < FEW_EPOCHS:
        return _few_epochs(case, longer) if len(history) == limit else ()
    if best.best_epoch < limit - max(1, round(0.05 * limit)):
        return ()
    values = [value for value in case.curve(case.experiment.metric) if math.isfinite(value)]
    if len(values) < FEW_EPOCHS:
        return None
    sign = 1 if case.experiment.mode == "min" else -1
    whole = sign * values[0] - min(sign * value for value in values)
    before = min(sign * value for value in values[: max(1, round((1 - LATE) * len(values)))])
    late = before - min(sign * value for value in values)
    if whole <= 0 or late < LONGER * whole or not _material(case, late):
        return ()
    return (
        Diagnosis(
            "Train longer",
            f"The winner was best at epoch {best.best_epoch}, and {limit} epochs end with {limit - 1}. The last fifth "
            f"of them still brought {percent(late / whole)} of all the improvement.",
            "middle",
            {"best_epoch": best.best_epoch, "epochs": limit, "late_share": late / whole, "threshold": LONGER},
            longer,
        ),
    )


def _material(case: Case, late: float) -> bool:
    """Whether so much more of the objective is worth having: above a fiftieth of what is left to its best value."""
    end = next((value for value in reversed(case.curve(case.experiment.metric)) if math.isfinite(value)), 0.0)
    if case.experiment.mode == "min":
        return late > 0.02 * abs(end)
    return late > 0.02 * max(1e-9, 1 - end) if end <= 1 else late > 0.02 * abs(end)


def _few_epochs(case: Case, line: Line | None) -> Found:
    """Of a training of three epochs and less: whether the simple baseline knows the training rows better."""
    winner, simple = case.fit("winner_train"), case.fit("baseline_train")
    if winner is None or simple is None or winner.skill >= simple.skill:
        return ()
    return (
        Diagnosis(
            "Train longer",
            f"{plural(len(case.history), 'epoch')} of training left the network behind the baseline on the rows that "
            f"both learned from: {case.told(winner)}, where the baseline has {case.told(simple)}.",
            "high",
            {"epochs": len(case.history), "winner_train": winner.score, "baseline_train": simple.score},
            line,
        ),
    )


def stopped_too_early(case: Case) -> Found:
    """Early stopping ended training at a bump of a curve that was on its way down."""
    early = case.experiment.train.early_stopping
    if early is None or not case.history or not case.stopped_early:
        return None
    monitor = case.experiment.metric if early.monitor == "objective" else early.monitor
    patience = case.value("train.early_stopping.patience")
    if not isinstance(patience, int) or patience > IMPATIENT:
        return ()
    losses, values = case.train_losses, case.curve("val_loss")
    if len(losses) >= 0.5 * case.epochs or len(losses) < 2 or not all(map(math.isfinite, (*losses, *values))):
        return ()
    low = min(values)
    whole = max(values) - low
    rise = (values[-1] - low) / whole if whole > 0 else 0.0
    falls = losses[-1] < 0.97 * losses[max(0, len(losses) - 2 - patience)]
    if rise > max(BUMP, 1.5 * _restless(values)) or not falls:
        return ()
    much = f" by more than {number(early.min_delta)}" if early.min_delta > 0 else ""
    where = f"{percent(rise)} of its way back up: that may be a bump" if rise > 0 else "at its lowest"
    line = case.line("train.early_stopping.min_delta", 0.0) if rise <= 0 and early.min_delta > 0 else None
    return (
        Diagnosis(
            "Wait longer before stopping",
            f"Early stopping ended training after {plural(len(losses), 'epoch')} of {case.epochs}, when "
            f"{readable(monitor)} had not improved{much} for {plural(patience + (patience == 0), 'epoch')}. The "
            f"training loss was still falling (to {number(losses[-1])}), and the validation loss was {where}.",
            "middle",
            {"epochs": len(losses), "of": case.epochs, "patience": patience, "rise": rise, "threshold": BUMP},
            line or case.line("train.early_stopping.patience", max(5, 3 * patience)),
        ),
    )


def _restless(values: tuple[float, ...]) -> float:
    """By how much of its whole way down a curve goes up in a usual step upwards."""
    ups = [after - before for before, after in pairwise(values[:-1]) if after > before]
    whole = max(values) - min(values)
    return fmean(ups) / whole if ups and whole > 0 else 0.0


def gradient_explosion(case: Case) -> Found:
    """An epoch with gradients ten times those before, in which the training loss rose."""
    norms, losses = [epoch.grad_norm for epoch in case.history], case.train_losses
    if case.directly or len(norms) < 2 or case.measured is None:
        return None
    if case.value("train.clip_norm") is not None or case.value("train.clip_value") is not None:
        return ()
    floor = SETTLED * case.measured.guess_loss
    for at in range(1, len(norms)):
        usual = median(norms[:at])
        if norms[at] < EXPLODED * usual or not usual > 0 or losses[at] < floor:
            continue
        if losses[at] < CLIFF * losses[at - 1]:
            continue
        return (
            Diagnosis(
                "Clip the gradients",
                f"In epoch {at} the gradients were {number(norms[at] / usual)} times as large as before (a norm of "
                f"{number(norms[at])}, usually {number(usual)}), and the training loss rose from "
                f"{number(losses[at - 1])} to {number(losses[at])}.",
                "middle",
                {"epoch": at, "norm": norms[at], "usual": usual, "threshold": EXPLODED},
                case.line("train.clip_norm", max(1e-3, tidy(usual))),  # its average, as Pascanu et al. advise
            ),
        )
    return ()


def gradient_vanishing(case: Case) -> Found:
    """Layers that next to no gradient reaches, in a network that has not learned its training rows."""
    inside, fitted = case.measured.inside if case.measured else None, case.fit("winner_train")
    if inside is None or case.directly:
        return None
    layers = [layer for layer in inside.layers if math.isfinite(layer.gradient) and layer.weight > 0]
    if len(layers) < 3 or fitted is None:
        return None
    shares = [layer.gradient / layer.weight for layer in layers]
    most = max(shares)
    if not most > 0 or fitted.skill >= LEARNED:
        return ()
    starved = [layer for layer, share in zip(layers, shares, strict=True) if share < VANISHED * most]
    if not starved or layers[0] not in starved:
        return ()
    strongest = layers[shares.index(most)]
    return (
        Diagnosis(
            "Let gradients through",
            f"Next to no gradient reaches {len(starved)} of {len(layers)} layers: that of {starved[0].name}, beside "
            f"the size of its weights, is {number(most / max(shares[0], 1e-300))} times smaller than that of "
            f"{strongest.name}. Such layers do not learn, and the network has {case.told(fitted)} on its training "
            "rows. Normalisation, shortcuts, relu for tanh or sigmoid, or fewer layers help.",
            "high",
            {
                "layers": [layer.name for layer in starved], "share": shares[0] / most, "threshold": VANISHED,
            },
            case.line("model.norm", "batch", "layer") or case.line("model.batch_norm", True)
            or case.line("model.residual", True),
        ),
    )  # fmt: skip


def dead_units(case: Case) -> Found:
    """Units behind an activation function that give the same for every row."""
    inside = case.measured.inside if case.measured else None
    if inside is None or case.directly or not inside.activations:
        return None
    worst = max(inside.activations, key=lambda each: _idle(each) / each.units)
    share = _idle(worst) / worst.units
    if share < DEAD or worst.units < FEWEST_UNITS:
        return ()
    kind = "are 0" if worst.dead >= worst.saturated else f"are at an end of {worst.function}"
    others = sum(_idle(each) >= DEAD * each.units for each in inside.activations) - 1
    more = f", and in {plural(others, 'more layer')} half and more" if others else ""
    end = "nothing comes through this layer." if share == 1 else "they learn nothing and tell nothing."
    return (
        Diagnosis(
            "Revive dead units",
            f"{worst.dead or worst.saturated} of {worst.units} units behind {worst.after or 'the inputs'} {kind} for "
            f"each of {plural(inside.rows, 'training row')}{more}: {end} A lower learning rate, or gelu for relu, "
            "keeps them alive.",
            "high" if share == 1 else "middle" if share >= NEARLY_ALL else "low",
            {
                "layer": worst.after, "function": worst.function, "idle": _idle(worst), "units": worst.units,
                "share": share, "threshold": DEAD, "layers": others + 1,
            },
            _rate(case, 0.1) or case.line("model.activation", "gelu"),
        ),
    )  # fmt: skip


def _idle(each: Activation) -> int:
    return max(each.dead, each.saturated)


def exploding_activations(case: Case) -> Found:
    """Layers that give very large numbers."""
    inside = case.measured.inside if case.measured else None
    if inside is None or case.directly or not inside.layers:
        return None
    worst = max(inside.layers, key=lambda layer: layer.rms if math.isfinite(layer.rms) else math.inf)
    if worst.rms < LARGE:
        return ()
    return (
        Diagnosis(
            "Keep activations small",
            f"What comes out of {worst.name} is {number(worst.rms)} in size (root mean square), and 1 to 20 is usual. "
            "Such numbers make the steps of training erratic. Normalisation, scaled inputs, a lower learning rate or "
            "weight decay keep them small.",
            "middle",
            {"layer": worst.name, "rms": worst.rms, "threshold": LARGE},
            case.line("model.norm", "batch", "layer") or case.line("model.batch_norm", True) or _rate(case, 0.1),
        ),
    )


def slow_data(case: Case) -> Found:
    """Training waits for its rows to be read."""
    waited, seconds = sum(epoch.waited_s for epoch in case.history), sum(epoch.seconds for epoch in case.history)
    if not waited or not seconds > 0:  # what lies in memory is not waited for
        return None
    share = waited / seconds
    if share < WAITING or waited < WAITED_S:
        return ()
    return (
        Diagnosis(
            "Feed the network faster",
            f"Training waited for its rows {percent(share)} of the time, {number(waited)} of {number(seconds)} s: they "
            "do not fit in memory and are read from the disk. A faster disk for the cache (NNOPT_CACHE), smaller rows "
            "(fewer columns, smaller images) or a machine with more memory help.",
            "middle",
            {"waited_s": waited, "seconds": seconds, "share": share, "threshold": WAITING},
        ),
    )
