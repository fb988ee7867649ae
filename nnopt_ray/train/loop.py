"""The core: one network, one process, pure torch. A single run, a worker of several and a trial of a search use it.

Everything random in an epoch comes from (seed, purpose, epoch), never from a generator that has been running; so a
training that was stopped at the end of an epoch and goes on from its `state()` is bitwise, on one device, the training
that was never stopped. What a model of your own keeps outside its weights and buffers is not part of the state.

A step: gradient of the mean loss of the batch (with `accumulate`, of several), plus l1 * sign(weight); its norm is
recorded; then it is scaled to `clip_norm`, then cut at `clip_value`; then the optimizer changes the weights. It is
`descent.py` that does this.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from nnopt_ray import tables
from nnopt_ray.data.types import Dataset
from nnopt_ray.errors import NotANumber, PartError, UserError
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import Machine, derived_seed, seed_all, seed_torch
from nnopt_ray.models import public_weights
from nnopt_ray.results import Epoch
from nnopt_ray.train import averaging, batches, freezing, resuming, start
from nnopt_ray.train.compiling import Compiled
from nnopt_ray.train.descent import Accumulation, Descent
from nnopt_ray.train.direct import fit_directly
from nnopt_ray.train.feed import Feed
from nnopt_ray.train.forward import Forward
from nnopt_ray.train.losses import Loss
from nnopt_ray.train.mixing import Mixed, loss_of
from nnopt_ray.train.optimizers import Optimizer
from nnopt_ray.train.precision import LossScale
from nnopt_ray.train.rates import Rates
from nnopt_ray.train.schedules import Schedule
from nnopt_ray.train.sharding import Shard
from nnopt_ray.train.state import State
from nnopt_ray.train.tally import Broken, Tally, no_number
from nnopt_ray.train.validate import Metric, Validation
from nnopt_ray.train.watch import Watch
from nnopt_ray.train.weights import FlatWeights, Snapshot, put

# Steps between two looks at the losses, each a wait for the device: often enough to end a run of one long
# epoch soon after its loss is no number, seldom enough to cost nothing.
LOOK_EVERY_STEPS = 512

ALL_DONE = "all epochs done"


class Trainer:
    """Trains the network of a page, an epoch at a time.

    Args:
        experiment: a page without open ranges.
        dataset: the prepared data.
        machine: device, precision and threads.
        metrics: name → metric of the validation part, recorded as val_NAME beside val_loss.
        placed: the data where training reads it (`batches.place`), to share it among trainers.
        shard: this process's part in a training by several; each has a Trainer of the same page.

    Attributes:
        epoch: epochs completed.
        history: one Epoch each.
        done, reason: whether training has ended, and why in words.
        best_epoch, best_value: epoch and value of the objective at its best; -1 and NaN before the first epoch.
            Of equal values the first counts; NaN is worse than any number.
        model: the network; its parameters are views into `weights.flat`.
        decided: what was chosen here, in words.

    Raises UserError for an objective or monitor that is not recorded, and what building the parts raises.
    """

    def __init__(
        self,
        experiment: Experiment,
        dataset: Dataset,
        machine: Machine,
        metrics: Mapping[str, Metric],
        placed: batches.Placed | None = None,
        shard: Shard | None = None,
    ) -> None:
        self.experiment, self.dataset, self.machine, self._shard = experiment, dataset, machine, shard
        self.placed = placed or batches.place(dataset, machine)
        train, shapes = experiment.train, dataset.shapes
        counts = (
            np.bincount(dataset.train.target, minlength=shapes.outputs) if shapes.task == "classification" else None
        )
        self.loss: Loss = tables.build("loss", train.loss, shapes, counts)
        self.optimizer: Optimizer = tables.build("optimizer", train.optimizer)
        self.schedule: Schedule = tables.build("schedule", train.schedule)
        self.model = self._made()
        self._frozen = freezing.freeze(self.model, train.freeze)
        self._forward = Forward(self.model, shapes, machine, experiment.model.type)
        self._take_weights()

        self.feed = Feed(experiment, dataset, self.placed, shard)
        self.sizes = self.feed.sizes
        if shard is not None:
            shard.plan(self.sizes, self.loss, math.prod(dataset.train.target.shape[1:]))
        self.validation = Validation(
            dataset,
            self.placed.validation,
            self.loss,
            metrics,
            batches.evaluation_size(shapes, train.batch_size),
            shard,
        )
        self.watch = Watch(experiment, self.schedule, {name: metric.mode for name, metric in metrics.items()})
        self._every = train.accumulate
        if self._every > max(len(self.sizes), 1):
            raise UserError(
                f"train.accumulate is {self._every}, and an epoch has {len(self.sizes)} batches of {train.batch_size} "
                "rows: lower it, or train.batch_size."
            )
        self.rates = Rates(train, self.schedule, self.steps_per_epoch)

        self.compiled = Compiled(self._loss_of) if train.compile else None
        self.average = averaging.average_of(train)
        self._averaged = ""  # what happened to it in this epoch
        self.scale = LossScale() if machine.precision == "float16" else None

        self.epoch = 0
        self.history: list[Epoch] = []
        self.done = False
        self.reason = ""
        self.at_boundary = True  # False in the middle of an epoch: the state is no epoch's then
        self.snapshots: dict[int, Snapshot] = {}  # epoch → weights at its end: the best, and what to end with
        self.decided = self._decided()

    def _made(self) -> nn.Module:
        """The network with its first weights."""
        seed_torch(derived_seed(self.experiment.seed, "weights"))
        model: nn.Module = tables.build("model", self.experiment.model, self.dataset.shapes)
        device = self.machine.device
        return model.to(device=device if self._shard is None else self._shard.home(device), dtype=torch.float32)

    def _take_weights(self) -> None:
        if self._shard is None:
            self.weights = FlatWeights(self.model)
        else:
            self.weights = self._shard.weights_of(self.model, self.machine.precision, self.experiment.train.accumulate)
        self.slots = self.optimizer.slots(self.weights.flat)
        self.step = 0  # optimizer steps taken, also by the run that this one continues
        self.base_lr = self.optimizer.lr  # what a plateau lowers
        train = self.experiment.train
        self.descent = Descent(train, self.optimizer, self.weights)
        gathers = train.accumulate > 1 and self._shard is None  # a shard adds up by itself
        self._sum = Accumulation(train.accumulate, self.weights.gradient) if gathers else None

    @property
    def steps_per_epoch(self) -> int:
        """Steps that the optimizer takes in an epoch."""
        return -(-len(self.sizes) // self._every)

    def _decided(self) -> dict[str, str]:
        last = self.sizes[-1] if self.sizes else 0
        rows = f"{self.steps_per_epoch} steps an epoch"
        if self._every > 1:
            rows += f" of {self._every} batches each, {len(self.sizes)} batches in all"
        if last != self.experiment.train.batch_size:
            rows += f", the last of {last} rows"
        decided = {"data": self.placed.decided, "batches": rows, **self._frozen, **self.feed.decided}
        if self._forward.channels_last:
            decided["images"] = "channels last in memory, as convolutions on a CPU are faster so"
        return decided

    # ── one epoch ────────────────────────────────────────────────────────────────────────────────────

    def run_epoch(self) -> Epoch:
        """Train one epoch, measure it, take the decisions at its end.

        Raises NotANumber when the training loss or the gradient is no number any more; RuntimeError when
        training has ended. After a raise the trainer is in the middle of an epoch: load a state to go on.
        """
        started, waited_s = time.perf_counter(), self.placed.waited_s
        self.open_epoch()
        directly = self._fit_directly()
        train_loss, grad_norm, lr = (self._train_loss(), 0.0, 0.0) if directly else self._train()
        with self.counting_weights():
            self.model.eval()
            measured = self.validation.measure(self._forward)
            seconds, waited_s = time.perf_counter() - started, self.placed.waited_s - waited_s
            ended = "fitted directly" * directly
            return self.close_epoch(train_loss, measured, lr, grad_norm, seconds, ended, waited_s)

    def open_epoch(self) -> None:
        """What comes before the steps of an epoch. Raises RuntimeError when training has ended."""
        if self.done or not self.at_boundary:
            raise RuntimeError("training has ended" if self.done else "the last epoch broke off: load a state first")
        if self.epoch == 0 and self.experiment.train.start is not None:
            self._start(self.experiment.train.start.optimizer)
        elif self.epoch == 0 and (place := getattr(self.model, "public_weights", None)):
            with self._filling() as model:
                self.decided["weights"] = public_weights.put(model, place)
        self.at_boundary = False

    @contextmanager
    def counting_weights(self) -> Iterator[None]:
        """Within, after the steps of an epoch and until it is closed, the model has the weights that count.

        These are the averaged ones where the page averages; the optimizer goes on from its own.
        """
        self._averaged = ""
        if self.average is None:
            yield
            return
        self._averaged = self.average.after_epoch(self.weights, self.epoch, self._renew_batch_norm)
        with self.average.worn(self.weights):
            yield

    def _renew_batch_norm(self) -> None:
        seed_torch(derived_seed(self.experiment.seed, "swa", self.epoch))
        averaging.renew_batch_norm(self.model, self.feed.without_steps(self.epoch), self._forward)
        self._average_buffers()

    def _average_buffers(self) -> None:
        if self._shard is not None:
            self._shard.average(buffer for _, buffer in self.model.named_buffers())

    def close_epoch(
        self,
        train_loss: float,
        measured: Mapping[str, float],
        lr: float,
        grad_norm: float,
        seconds: float,
        ended: str = "",
        waited_s: float = 0.0,
    ) -> Epoch:
        """What comes after the steps of an epoch and its validation: the decisions, and the record.

        measured: val_NAME → value. ended: why training ends here for a reason of its own. waited_s: of `seconds`.
        """
        metrics = {"train_loss": train_loss, **measured}
        if self.experiment.train.l1:
            metrics["sparsity"] = self.weights.sparsity()
        happened = [self._averaged, self.scale.told() if self.scale is not None else ""]
        if self.compiled is not None and self.compiled.failed and self.epoch == 0:
            happened.append(f"not compiled: {self.compiled.failed}")
        events = [*filter(None, happened), *self._end_of_epoch(metrics)]
        if ended:
            self.done, self.reason = True, ended
        record = Epoch(self.epoch, metrics, lr, grad_norm, seconds, tuple(events), waited_s)
        self.history.append(record)
        self.epoch += 1
        self.at_boundary = True
        return record

    def _train(self) -> tuple[float, float, float]:
        """The steps of an epoch → mean loss, mean gradient norm before clipping, last learning rate."""
        self.model.train()
        if self.compiled is not None:
            self.compiled.prepare(self.weights, self.feed.examples(self.epoch))
        seed_all(self.noise_seed())
        tally = Tally(self._every)
        for number, (inputs, target, mixed) in enumerate(self.feed.mixed(self.epoch)):
            if self._shard is None:
                self.weights.gradient.zero_()
                told = [(self._backward(inputs, target, mixed, number).detach(), self.loss.weight(target))]
            else:
                self._shard.open(number)
                told = self._shard.reduce(number, self._backward(inputs, target, mixed, number), target)
            step = number // self._every
            due = bool(told) and self.gather(number, told[-1][1])
            norm = self.descend(step) if due and (self.scale is None or self._finite(self.scale, step)) else None
            for loss, weight in told:
                if self.scale is None or loss.isfinite():
                    tally.add(loss, weight, norm)
                    norm = None
            if number % LOOK_EVERY_STEPS == LOOK_EVERY_STEPS - 1:
                self._look(tally.settle())
        self._look(tally.settle())
        self._average_buffers()
        return tally.loss, tally.norm, self.last_lr()

    def _backward(self, inputs: tuple[Tensor, ...], target: Tensor, mixed: Mixed, number: int) -> Tensor:
        """Add the gradient of batch `number` to `weights.gradient`, of a piece its share of the step → the loss."""
        if not len(target):  # this process's piece of a small batch
            return torch.zeros((), device=target.device)
        if self.compiled is not None:
            loss = self.compiled(inputs, target, mixed)
        else:
            loss = self._loss_of(inputs, target, mixed, check=number == 0)
        seed = None if self._shard is None else self._shard.seed(number, target)
        (loss if self.scale is None else loss * self.scale.value).backward(seed)  # type: ignore[no-untyped-call]
        if number == 0:
            self.weights.check()
        return loss

    def _loss_of(self, inputs: tuple[Tensor, ...], target: Tensor, mixed: Mixed = (), check: bool = False) -> Tensor:
        """The loss of a batch in training. check: look at the outputs before anything is made of them."""
        outputs = self._forward(inputs)
        if check:
            self._forward.check(outputs, len(target))
        return loss_of(lambda target: self.loss(outputs, target), target, mixed)

    def _finite(self, scale: LossScale, step: int) -> bool:
        """Take the scale off the gradient → whether it is finite. Raises NotANumber where no scale helps."""
        finite = scale.unscale(self.weights.gradient)
        if scale.exhausted:
            raise self.not_a_number((step, "gradient", math.nan))
        return finite

    def try_step(self, inputs: tuple[Tensor, ...], target: Tensor, mixed: Mixed = ()) -> None:
        """A step on this batch, for timing it; what it does to the weights is no training."""
        self.gradient_of(inputs, target, mixed)
        self.descend(0)

    def gradient_of(self, inputs: tuple[Tensor, ...], target: Tensor, mixed: Mixed = ()) -> Tensor:
        """Loss of this batch in training; its gradient lies in `weights.gradient` then."""
        self.model.train()
        self.weights.gradient.zero_()
        loss = self._loss_of(inputs, target, mixed)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def gather(self, number: int, weight: float | Tensor) -> bool:
        """Whether a step is due, when the gradient of batch `number` of this epoch, which counts `weight`, is there."""
        if self._sum is None:
            return True
        return self._sum.add(number, len(self.sizes), self.weights.gradient, weight)

    def descend(self, number: int) -> Tensor:
        """Let the optimizer take step `number` of this epoch by the gradient that is there → its norm, unclipped."""
        weights, gradient = self.weights.flat, self.weights.gradient
        norm = self.descent.limit(weights, gradient)
        self.step += 1
        self.descent.update(weights, gradient, self.slots, self.step, self.lr_of(number))
        if self.average is not None:
            self.average.after_step(self.weights)
        return norm

    def noise_seed(self) -> int:
        """What dropout in this epoch is drawn from."""
        rank = () if self._shard is None or not self._shard.rank else (self._shard.rank,)
        return derived_seed(self.experiment.seed, "noise", self.epoch, *rank)

    def lr_of(self, number: int) -> float:
        """The learning rate of step `number` of this epoch."""
        each = self.steps_per_epoch
        return self.rates.at(self.epoch * each + number, each, self.base_lr)

    def last_lr(self) -> float:
        """The learning rate of the last step of this epoch."""
        return self.lr_of(self.steps_per_epoch - 1)

    def _look(self, broken: Broken | None) -> None:
        if broken is not None:
            raise self.not_a_number(broken)

    def not_a_number(self, broken: Broken) -> NotANumber:
        """The error that tells which value of this epoch is no number, and what to do about it."""
        first, lr = broken[0] == self.epoch == 0, self.lr_of(broken[0])
        return no_number(broken, self.epoch, lr, first, clipped=self.experiment.train.clip_norm is not None)

    def _fit_directly(self) -> bool:
        """Let a model that knows its own way to its weights go it: True when it did."""
        if not self.weights.layout and not hasattr(self.model, "fit_directly"):
            raise PartError(f"the model '{self.experiment.model.type}' has no weights to train.")
        fitted = fit_directly(self.model, self.dataset, self.experiment.seed)
        if fitted:
            self.model.to(device=self.machine.device, dtype=torch.float32)
            self._take_weights()
        return fitted

    def _train_loss(self) -> float:
        """Mean loss over the training part, in evaluation."""
        self.model.eval()
        size = self.validation.rows_a_batch
        return batches.mean_loss(self.placed.train, self.loss, self._forward, size)

    def _end_of_epoch(self, metrics: Mapping[str, float]) -> list[str]:
        """Best weights, plateau, early stopping, the last epoch: decides, and says what happened."""
        last = self.epoch + 1 >= self.experiment.train.epochs
        self.base_lr, reason, events = self.watch.end_of_epoch(self.epoch, metrics, self.base_lr)
        if reason or last:
            self.done, self.reason = True, reason or ALL_DONE
        kept = {self.best_epoch, self.watch.keep_epoch}
        if self.epoch in kept:
            self.snapshots[self.epoch] = self.weights.snapshot()
        self.snapshots = {epoch: taken for epoch, taken in self.snapshots.items() if epoch in kept}
        return events

    @property
    def best_epoch(self) -> int:
        return self.watch.best_epoch

    @property
    def best_value(self) -> float:
        return self.watch.best_value

    # ── state ────────────────────────────────────────────────────────────────────────────────────────

    def state(self) -> State:
        """All that a resumed training needs; copies. Only between epochs (AssertionError in the middle of one)."""
        state = resuming.state_of(self)
        return state.copied() if self._shard is None else self._shard.whole(state, self.weights)

    def load_state(self, state: State) -> None:
        """Go on from a state of the same page. Raises UserError when it is of another one."""
        resuming.load(self, state if self._shard is None else self._shard.pieces_of(state, self.weights))
        if self.reason == ALL_DONE and self.epoch < self.experiment.train.epochs:
            self.done, self.reason = False, ""  # the page now asks for more epochs
        self.at_boundary = True

    def adopt(self, state: State) -> None:
        """Take over the weights and the optimizer of another training of this shape; all else stays as it is.

        The learning rate starts again from the page's. Raises UserError when it is of another shape.
        """
        resuming.adopt(self, state if self._shard is None else self._shard.pieces_of(state, self.weights))
        self.base_lr = self.optimizer.lr

    def _start(self, with_optimizer: bool) -> None:
        """Take weights, and the optimizer's state if asked, from the run that train.from names."""
        found = start.find(self.experiment)
        with self._filling() as model:
            put(model, found.weights, found.origin)
        if with_optimizer:
            self.step = start.put_optimizer(found, self.experiment.train.optimizer.type, self.slots, self.weights)

    def _filling(self) -> AbstractContextManager[nn.Module]:
        """Within, the network to put weights into."""
        if self._shard is None:
            return nullcontext(self.model)
        return self._shard.filling(self.model, self.weights, self._made)

    def best(self) -> dict[str, Tensor]:
        """Weights and buffers at the end of `best_epoch`, as state_dict() names them; copies."""
        return self.weights.named(self.snapshots[self.best_epoch])

    def finalize(self) -> None:
        """Give the model the weights that training ends with, and put it in evaluation.

        With early_stopping.restore_best_weights those of the epoch that early stopping calls best, whether
        it stopped training or not (as in Keras); else the last epoch's, averaged where the page averages.
        `best()` is not changed by it.
        """
        end = self.watch.keep_epoch
        if end is not None:
            self.weights.restore(self.snapshots[end])
        elif self.average is not None and self.average.snapshot is not None:
            self.weights.restore(self.average.snapshot)
        self.model.eval()
