"""EarlyStopping and ReduceLROnPlateau against Keras' own callbacks, decision for decision."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from nnopt_ray.train.callbacks import EarlyStopping, ReduceLROnPlateau, direction

os.environ.setdefault("KERAS_BACKEND", "torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    keras = pytest.importorskip("keras")

# Keras' own torch backend with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def histories(seed: int, count: int) -> Iterator[tuple[random.Random, list[float]]]:
    """Falling, rising, flat and wild values; with ties, NaN, infinities and changes near float32's resolution."""
    for number in range(count):
        draw = random.Random(f"{seed}-{number}")
        value, trend = draw.uniform(-1, 1), draw.choice([-0.1, 0.0, 0.1])
        values = []
        for _ in range(draw.randint(1, 25)):
            value += trend + draw.gauss(0, draw.choice([0.0, 0.05, 0.3]))
            odd = draw.random()
            if odd < 0.03:
                values.append(math.nan)
            elif odd < 0.06:
                values.append(draw.choice([math.inf, -math.inf]))
            elif odd < 0.2 and values:
                values.append(values[-1])
            elif odd < 0.3 and values:
                values.append(values[-1] * (1 + draw.choice([-1, 1]) * draw.choice([1e-9, 3e-8, 1e-7])))
            else:
                values.append(round(value, 2) if draw.random() < 0.5 else value)
        yield draw, values


class Weights:
    """What Keras' early stopping asks of a model; its weights are the number of the epoch."""

    def __init__(self) -> None:
        self.weights: Any = None
        self.stop_training = False

    def get_weights(self) -> Any:
        return self.weights

    def set_weights(self, weights: Any) -> None:
        self.weights = weights


def early_stopping_keys(draw: random.Random) -> dict[str, Any]:
    return {
        "patience": draw.choice([0, 0, 1, 2, 3, 5, 30]),
        "min_delta": draw.choice([0, 0, 0.05, -0.05, 0.3, 1e-8]),
        "mode": draw.choice(["min", "max"]),
        "baseline": draw.choice([None, None, draw.uniform(-1, 1), 0.0]),
        "start_from_epoch": draw.choice([0, 0, 0, 1, 4, 30]),
        "restore_best_weights": draw.choice([True, False]),
    }


@pytest.mark.parametrize("seed", range(3))
def test_early_stopping_decides_as_keras(seed: int) -> None:
    stopped = restored = 0
    for draw, values in histories(seed, 150):
        keys = early_stopping_keys(draw)
        theirs = keras.callbacks.EarlyStopping("val_loss", **keys)
        model = Weights()
        theirs.set_model(model)
        theirs.on_train_begin()
        ours = EarlyStopping("val_loss", **keys)
        for epoch, value in enumerate(values):
            model.weights = epoch
            theirs.on_epoch_end(epoch, {"val_loss": value})
            decision = ours.update(epoch, value)
            context = (keys, values, epoch)
            assert decision.stop == model.stop_training, context
            assert (ours.wait, ours.best_epoch) == (theirs.wait, theirs.best_epoch), context
            assert decision.improved == (ours.best_epoch == epoch and ours.best is not None), context
            assert repr(ours.best) == repr(theirs.best), context
            # A state written and read after any epoch changes nothing that follows.
            ours, saved = EarlyStopping("val_loss", **keys), ours.state_dict()
            ours.load_state_dict(json.loads(json.dumps(saved)))
            if decision.stop:
                break
        last = epoch
        theirs.on_train_end()
        assert ours.stopped_epoch == theirs.stopped_epoch
        assert (last if ours.keep_epoch is None else ours.keep_epoch) == model.weights, (keys, values)
        stopped += model.stop_training
        restored += keys["restore_best_weights"] and not model.stop_training and model.weights != last
    assert stopped > 40
    assert restored > 3  # training that ended by itself and went back to its best


@pytest.mark.parametrize("seed", range(3))
def test_reduce_on_plateau_decides_as_keras(seed: int) -> None:
    reduced = 0
    for draw, values in histories(seed + 100, 150):
        keys = {
            "factor": draw.choice([0.1, 0.5, 0.9]),
            "patience": draw.choice([0, 1, 2, 4]),
            "min_delta": draw.choice([1e-4, 0, 0.05, -0.05]),
            "cooldown": draw.choice([0, 0, 1, 3]),
            "min_lr": draw.choice([0.0, 1e-3, 0.01, 0.2]),
            "mode": draw.choice(["min", "max"]),
        }
        lr = draw.choice([0.1, 0.01, 1e-3])
        theirs = keras.callbacks.ReduceLROnPlateau("val_loss", **keys)
        model = SimpleNamespace(optimizer=keras.optimizers.SGD(lr))
        theirs.set_model(model)
        theirs.on_train_begin()
        ours = ReduceLROnPlateau("val_loss", **keys)
        for epoch, value in enumerate(values):
            before = float(model.optimizer.learning_rate)
            theirs.on_epoch_end(epoch, {"val_loss": value})
            now = float(model.optimizer.learning_rate)
            context = (keys, values, epoch)
            assert ours.update(epoch, value, before) == pytest.approx(now, rel=1e-7, abs=0), context
            assert (ours.wait, ours.cooldown_counter) == (theirs.wait, theirs.cooldown_counter), context
            assert repr(ours.best) == repr(theirs.best), context
            reduced += now < before
            ours, saved = ReduceLROnPlateau("val_loss", **keys), ours.state_dict()
            ours.load_state_dict(json.loads(json.dumps(saved)))
    assert reduced > 100


@pytest.mark.parametrize("seed", range(2))
def test_a_rate_carried_in_float64_is_reduced_in_the_same_epochs(seed: int) -> None:
    for _, values in histories(seed + 200, 60):
        theirs = keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_lr=1e-3, mode="min")
        model = SimpleNamespace(optimizer=keras.optimizers.SGD(0.01))
        theirs.set_model(model)
        theirs.on_train_begin()
        ours, lr = ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_lr=1e-3, mode="min"), 0.01
        for epoch, value in enumerate(values):
            theirs.on_epoch_end(epoch, {"val_loss": value})
            lr = ours.update(epoch, value, lr)
            assert lr == pytest.approx(float(model.optimizer.learning_rate), rel=1e-6)


def test_what_was_not_measured_changes_nothing() -> None:
    stopper, plateau = EarlyStopping(patience=0), ReduceLROnPlateau(patience=0)
    stopper.update(0, 1.0)
    plateau.update(0, 1.0, 0.1)
    before = stopper.state_dict(), plateau.state_dict()
    assert not stopper.update(1, None).stop
    assert plateau.update(1, None, 0.1) == 0.1
    assert (stopper.state_dict(), plateau.state_dict()) == before


def test_directions_are_those_of_keras_metrics() -> None:
    up = ["accuracy", "precision", "recall", "auc", "f1_score", "r2_score"]
    down = ["mean_squared_error", "mean_absolute_error", "root_mean_squared_error"]
    ours = {"f1_score": "f1", "r2_score": "r2"}
    for name in up + down:
        kind = "".join(word.capitalize() for word in name.split("_")).replace("Auc", "AUC")
        metric = getattr(keras.metrics, kind)()
        asked = direction(f"val_{ours.get(name, name)}")
        known = getattr(metric, "_direction", None)
        assert asked == ("max" if name in up else "min")
        assert known is None or known == {"max": "up", "min": "down"}[asked]
    assert [direction(n) for n in ("loss", "val_log_loss", "train_loss", "val_rmse", "mae")] == ["min"] * 5
    assert [direction(n) for n in ("val_balanced_accuracy", "f1", "val_roc_auc", "val_r2")] == ["max"] * 4


@pytest.mark.parametrize("name", ["val_something", "closs", "my_metric", ""])
def test_a_direction_that_cannot_be_told_is_asked_for(name: str) -> None:
    with pytest.raises(ValueError, match="set mode to 'min' or 'max'"):
        EarlyStopping(name)
    EarlyStopping(name, mode="max")


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="factor must be below 1"):
        ReduceLROnPlateau(factor=1.0)
    with pytest.raises(ValueError, match="mode must be"):
        EarlyStopping(mode="lower")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="patience must be 0 or more"):
        EarlyStopping(patience=-1)


def test_verbose_says_each_decision() -> None:
    stopper = EarlyStopping(patience=1, verbose=True)
    assert stopper.update(0, 0.5).message == "val_loss none → 0.5"
    assert stopper.update(1, 0.25).message == "val_loss 0.5 → 0.25"
    assert stopper.update(2, 0.3).message == "early stop: best val_loss was in epoch 1"
    assert EarlyStopping().update(0, 0.5).message == ""


def test_callbacks_stand_alone() -> None:
    code = "import sys, nnopt_ray.train.callbacks; print([m for m in ('torch', 'ray', 'keras') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
