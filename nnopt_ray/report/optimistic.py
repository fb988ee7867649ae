"""How far the winner's validation score flatters it, and how much of that is having picked the best of many."""

from __future__ import annotations

import math
from statistics import NormalDist

from nnopt_ray.evaluate.optimism import Optimism, optimism
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Section, Text
from nnopt_ray.report.facts import Facts, usable


def judged(facts: Facts) -> Optimism | None:
    """None where nothing was picked, the test part was not measured by the objective, or nothing tells the chance."""
    test, validation, best = facts.winner.get("test"), facts.winner.get("validation"), facts.best
    metric = words.base(facts.experiment.metric)
    values = [row.value for row in facts.rows if usable(row) and row.value is not None]
    if test is None or best is None or best.value is None or len(values) < 2 or facts.result is None:
        return None
    score = test.metrics.get(metric, math.nan)
    if not math.isfinite(score) or not facts.experiment.metric.startswith("val_"):
        return None
    found = facts.result.confirm
    known = [each.sd for each in found.contestants if each.sd is not None] if found is not None else []
    mean = next((each.mean for each in found.contestants if each.trial == best.trial), None) if found else None
    mean = mean if mean is not None and math.isfinite(mean) else None
    mode = facts.experiment.mode
    if known:
        noise = math.sqrt(sum(sd**2 for sd in known) / len(known))
        return optimism(values, best.value, score, mode, noise, "seeds", mean)
    # The wider of the two: the F1 of a network that says one class of every row hardly moves with the rows.
    models = [test, *([facts.baseline["test"]] if "test" in facts.baseline else [])]
    widths = [ends[1] - ends[0] for model in models if (ends := model.intervals.get(metric)) is not None]
    if not widths or validation is None or not validation.rows:
        return None
    level = NormalDist().inv_cdf((1 + facts.experiment.evaluate.confidence) / 2)
    noise = max(widths) / (2 * level) * math.sqrt(test.rows / validation.rows)
    return optimism(values, best.value, score, mode, noise, "rows", mean) if math.isfinite(noise) else None


def optimistic(facts: Facts) -> Section | None:
    found = judged(facts) if facts.experiment.is_search else None
    if found is None:
        return None
    return Section("How far the validation score flatters", tuple(Text(each) for each in sentences(facts, found)))


def sentences(facts: Facts, found: Optimism) -> list[str]:
    metric, best = facts.experiment.metric, facts.best
    assert best is not None
    assert best.value is not None
    name = words.NAMES.get(words.base(metric), words.base(metric))
    test = facts.winner["test"].metrics[words.base(metric)]
    scores = f"{words.score(metric, best.value)} on the validation part, {words.score(metric, test)} on the test part"
    expected, near = words.difference(metric, found.expected), words.plural(found.contenders, "trial")
    chance = words.difference(metric, found.noise)
    source = (
        f"the luck of training (a deviation of {chance} between seeds)"
        if found.source == "seeds"
        else f"the choice of the validation rows (a deviation of about {chance}, from the intervals on the test part)"
    )
    about = "about" if found.source == "seeds" else "at most about"
    if found.contenders < 2:
        picked = f"No other trial is near enough for {source} to have put it in front, so picking the best adds little."
    else:
        more = found.trials > found.contenders
        most = f" ({words.difference(metric, found.most)}, were all {found.trials:,} equally good)" if more else ""
        picked = (
            f"By {source} any of {near} could have come out in front; picking the best of them flatters by {about} "
            f"{expected}{most}."
        )
    said = [f"The winner's {name} is {scores}.", picked]
    if found.gap <= 0:
        said.insert(1, "The test part does not show it to be flattered: it does no worse there.")
    else:
        gap, share = words.difference(metric, found.gap), found.expected / found.gap
        if share >= 1:
            told = f"The validation score is {gap} better than the test's: no more than picking explains."
        else:
            per_cent = f"{100 * share:.0f}{words.NBSP}%"
            told = (
                f"The validation score is {gap} better than the test's; picking the best explains {about} {per_cent} "
                "of that. The rest is that the test part holds other rows, and what was tuned to the validation part."
            )
        said.append(told)
    lines = [" ".join(said)]
    if found.lucky is not None:
        size = words.difference(metric, found.lucky)
        side = "better" if found.lucky > 0 else "worse"
        luck = ": luck of that one training" if found.lucky > 0 else ": it was no lucky draw"
        lines.append(f"In the search the winner was {size} {side} than it is on average over other seeds{luck}.")
    lines.append("The score to quote is that on the test part, which chose nothing.")
    return lines
