"""From the sizes of a study what is to be said of it: speed-up, cost, law, plan, and whether it costs accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from nnopt_ray.experiment import Experiment
from nnopt_ray.log import number, plural
from nnopt_ray.report import words
from nnopt_ray.scaling import laws, planner, verdict
from nnopt_ray.scaling.asked import Asked
from nnopt_ray.scaling.found import Scaling, Size
from nnopt_ray.scaling.laws import Law
from nnopt_ray.scaling.planner import Plan

BUSY = 0.1  # of an epoch without a core, from which on that is said
FASTER = 1.05  # less than that is no speed-up to speak of


def summed_up(
    experiment: Experiment, asked: Asked, sizes: Sequence[Size], facts: Mapping[str, Any], path: Path, complete: bool
) -> Scaling:
    """All sizes together. facts: gradient_bytes, train_rows, validation_rows, evaluation_rows, cores, ..."""
    kind: Literal["strong", "weak", "lanes"] = "lanes" if asked.lanes else "weak" if asked.weak else "strong"
    confidence, mode = experiment.evaluate.confidence, experiment.mode
    told = _against_first([_paid(size, asked, experiment) for size in sizes], mode, confidence)
    usable = [size for size in told if size.measured and not size.oversubscribed]
    law, said = _law(kind, usable)
    plan = _plan(experiment, asked, usable, facts) if asked.plan else None
    made = Scaling(
        name=experiment.name,
        path=path,
        kind=kind,
        status="finished" if complete else "interrupted",
        metric=experiment.epoch_metric,
        mode=mode,
        confidence=confidence,
        sizes=tuple(told),
        law=law,
        law_said=said,
        plan=plan,
        sentences=(),
        facts=facts,
    )
    per_worker = kind == "strong" and experiment.resources.batch == "per_worker"
    return replace(made, sentences=tuple(_sentences(made, asked, per_worker)))


def _paid(size: Size, asked: Asked, experiment: Experiment) -> Size:
    """With what an epoch costs."""
    if not size.measured:
        return size
    worker_s = (1 if asked.lanes else size.workers) * size.epoch_s
    gpus = size.gpus
    price = None
    if asked.worker_hour is not None or asked.gpu_hour is not None:
        price = (asked.worker_hour or 0.0) + (asked.gpu_hour or 0.0) * gpus
    return replace(size, worker_s=worker_s, money=None if price is None else worker_s / 3600 * price)


def _against_first(sizes: Sequence[Size], mode: Literal["min", "max"], confidence: float) -> list[Size]:
    """With speed-up, efficiency and score against the first size that was measured."""
    first = next((size for size in sizes if size.measured), None)
    if first is None:
        return list(sizes)
    found = []
    for size in sizes:
        if size.measured:
            faster = size.rows_per_s / first.rows_per_s
            score = None if size is first else verdict.compared(first.values, size.values, mode, confidence)
            size = replace(size, speed_up=faster, efficiency=faster * first.workers / size.workers, score=score)
        found.append(size)
    return found


def _law(kind: str, usable: Sequence[Size]) -> tuple[Law | None, str]:
    if kind == "lanes":
        return None, "Lanes share the cores of one worker, so no law of workers is fitted to them."
    if len({size.gpus for size in usable}) > 1:
        return None, "The sizes differ in the share of a GPU that a worker has, so no law of workers is fitted to them."
    if kind == "weak":
        return laws.gustafson({size.workers: size.rows_per_s for size in usable})
    return laws.amdahl({size.workers: size.epoch_s for size in usable})


def work_of(size: Size, facts: Mapping[str, Any]) -> planner.Work:
    return planner.Work(
        size.rows, size.batch_size, facts["gradient_bytes"], facts["validation_rows"], facts["evaluation_rows"]
    )


def _plan(experiment: Experiment, asked: Asked, usable: Sequence[Size], facts: Mapping[str, Any]) -> Plan | None:
    gpus = max((size.gpus for size in usable), default=0.0)
    alike = [size for size in usable if size.gpus == gpus and size.spent]
    of = [planner.Measured(size.workers, work_of(size, facts), size.spent) for size in alike]
    whole = planner.Work(
        facts["train_rows"],
        experiment.train.batch_size,
        facts["gradient_bytes"],
        facts["validation_rows"],
        facts["evaluation_rows"],
    )
    priced = asked.worker_hour is not None or asked.gpu_hour is not None
    price = (asked.worker_hour or 0.0) + (asked.gpu_hour or 0.0) * gpus if priced else None
    return planner.plan(
        of,
        whole,
        asked.plan,
        {size.workers: size.all_reduce for size in alike if size.all_reduce},
        (asked.bandwidth, asked.latency_s),
        asked.overlap,
        price,
    )


# --- sentences ----------------------------------------------------------------------------------


def _sentences(found: Scaling, asked: Asked, per_worker: bool) -> list[str]:
    measured = [size for size in found.sizes if size.measured]
    said = [*verdicts(found)]
    shared = [size for size in measured if size.oversubscribed]
    busy = [size for size in measured if size.spent.get("preempted", 0.0) > BUSY * size.epoch_s and size not in shared]
    if busy:
        worst = max(busy, key=lambda size: size.spent["preempted"] / size.epoch_s)
        said.append(
            f"This machine was busy with other work: of {worst.name} "
            f"{100 * worst.spent['preempted'] / worst.epoch_s:.0f} % of an epoch went by without a core. Take the "
            "speed-ups as rough, or measure again when it is quiet."
        )
    if shared:
        names = words.listed([f"{size.workers}" for size in shared])
        said.append(
            f"Oversubscribed: {names} workers share {found.facts.get('cores')} cores and take turns; what they show is "
            "this machine's, and no law or plan is fitted to it."
        )
    if per_worker:
        said.append("The page has resources.batch: per_worker; here the batch is kept. --weak lets it grow.")
    if found.kind == "weak" and len(measured) > 1:
        said.append(
            "Weak scaling: rows and batch grow with the workers, so the scores are of networks that learned from other "
            "numbers of rows."
        )
    last = next((size for size in reversed(measured) if not size.oversubscribed and size.spent), None)
    if last is not None and last.workers > 1:
        said.append(_time(last))
    if found.kind != "lanes":
        said.append(found.law_said)
    if asked.plan and found.plan is None:
        why = (
            "no size was measured that does not share cores"
            if not any(not size.oversubscribed for size in measured)
            else "no size of two workers or more says what a sum over them takes: add one, or give --bandwidth 25GB/s"
        )
        said.append(f"No plan: {why}.")
    return said + ([*found.plan.sentences] if found.plan is not None else [])


def _time(size: Size) -> str:
    whole = sum(size.spent.values())
    order = sorted(size.spent, key=lambda kind: -size.spent[kind])[:3]
    shares = [f"{100 * size.spent[kind] / whole:.0f} % {kind}" for kind in order]
    return f"An epoch of {size.name} is {words.listed(shares)}."


def verdicts(found: Scaling) -> list[str]:
    """Whether more workers paid: the fastest size, and if it lost accuracy, the fastest that did not."""
    measured = [size for size in found.sizes if size.measured]
    if not measured:
        return ["No size could be measured."]
    first, others = measured[0], measured[1:]
    if not others:
        return [f"Only {first.name} could be measured, so nothing is said of a speed-up."]
    fastest = max(others, key=lambda size: size.speed_up or 0.0)
    if (fastest.speed_up or 0.0) < FASTER:
        return [
            f"More {'lanes' if found.kind == 'lanes' else 'workers'} did not pay: the fastest, {fastest.name}, does "
            f"{number(fastest.speed_up)} times the rows a second of {first.name}."
        ]
    said = [_verdict(found, first, fastest)]
    if fastest.score is not None and fastest.score.judged == "fell":
        held = [
            size
            for size in others
            if size.score is not None and size.score.judged in ("held", "same") and (size.speed_up or 0) >= FASTER
        ]
        if held:
            said.append(_verdict(found, first, max(held, key=lambda size: size.speed_up or 0.0)))
        else:
            said.append("No size is faster without that.")
    return said


def _verdict(found: Scaling, first: Size, size: Size) -> str:
    """A speed-up is praised only where the score held."""
    metric = words.metric_name(found.metric)
    score, faster = size.score, f"{size.speed_up:.2f} times the rows a second of {first.name}"
    own = f"{size.name}: {faster}"
    if found.kind != "lanes" and size.efficiency:
        own += f", at {1 / size.efficiency:.2f} times the cost"
    if score is None:
        return f"{own}; the {metric} cannot be compared, as a training has none."
    values = f"{words.score(found.metric, size.value)} against {words.score(found.metric, first.value)}"
    seeds = sum(math.isfinite(value) for value in size.values)
    between = ""
    if score.low is not None and score.high is not None:
        ends = f"{words.signed(found.metric, score.low)} to {words.signed(found.metric, score.high)}"
        between = f", gain {words.signed(found.metric, score.gain)} ({ends} over {plural(seeds, 'seed')})"
    if score.judged == "fell":
        return (
            f"No gain: {own}, but it costs accuracy. The {metric} is worse by "
            f"{words.difference(found.metric, score.gain)}, beyond chance: {values}{between}."
        )
    if score.judged == "unknown":
        return (
            f"{own}; the {metric} is worse by {words.difference(found.metric, score.gain)} ({values}), and one seed "
            "does not tell whether that is chance: --seeds 3."
        )
    if score.judged == "same":
        return f"{own}, and the {metric} is the same ({words.score(found.metric, size.value)})."
    held = "is not worse beyond chance" if between else "is no worse"
    if score.low is not None and score.low > 0:
        held = "is better, beyond chance"
    return f"{own}, and the {metric} {held}: {values}{between}."
