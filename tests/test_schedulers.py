"""Our judges decide as Ray Tune's own schedulers do, though they are asked only at rungs."""

from __future__ import annotations

import numpy as np
import pytest

from nnopt_ray.search.schedulers import EPOCH, METRIC, Asha, TrialCard


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("grace", "factor", "epochs"), [(1, 3, 27), (4, 3, 30), (2, 2, 16), (3, 2.5, 20), (5, 4, 5)])
def test_asha_decides_as_tune_when_it_sees_every_epoch(seed: int, grace: int, factor: float, epochs: int) -> None:
    from ray.tune.schedulers import ASHAScheduler, TrialScheduler

    draw = np.random.default_rng(seed)
    mode = "min" if seed % 2 else "max"
    judge = Asha(grace_period=grace, reduction_factor=factor).start(mode, epochs, 0)
    tune = ASHAScheduler(
        time_attr=EPOCH, metric=METRIC, mode=mode, max_t=epochs, grace_period=grace, reduction_factor=factor
    )
    alive: dict[str, tuple[TrialCard, int]] = {}
    waiting = [f"t{i}" for i in range(40)]
    stopped = 0
    while waiting or alive:
        while waiting and len(alive) < 6:
            name = waiting.pop(0)
            alive[name] = (TrialCard(name), 0)
            tune.on_trial_add(None, alive[name][0])
        name = str(draw.choice(sorted(alive)))
        card, done = alive[name]
        done += 1
        value = float(np.round(draw.normal(), 1))  # rounded, so that ties come up
        ended = done == epochs or draw.random() < 0.02
        theirs = tune.on_trial_result(None, card, {EPOCH: done, METRIC: value}) == TrialScheduler.STOP
        asked = judge.next_decision(name, done - 1) == done
        ours = asked and judge.judge(name, done, value, {}).kind == "stop"
        if done < epochs:
            assert ours == theirs
        stopped += ours
        alive[name] = (card, done)
        if ended or ours or theirs:
            tune.on_trial_complete(None, card, {EPOCH: done, METRIC: value})
            judge.ended(name, done, value)
            del alive[name]
    assert stopped > 0 or grace == epochs
