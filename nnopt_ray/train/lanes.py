"""Lanes: several trainings of one shape as one step. Each lane is a Trainer whose weights are a row of a block.

The networks of a pack have equal layers and batches; everything else is a lane's own: seed, order of rows, the rows
themselves (a fold of as many), their augmentation and mixing, optimizer with its rates, schedule, warm-up, L1,
clipping, dropout rate, label smoothing, early stopping, number of epochs. Gradients of all lanes are computed together,
by `torch.func.vmap` over the rows of a block, recorded once and replayed (`block.py`); then each lane's optimizer takes
its own step, with the very kernels that it uses alone (on a GPU all together, `vector_optimizers.py`).

Lanes start and end at the end of an epoch, where all of a pack stand together. A Trainer that has left a pack,
or was never in one, is the same training: `Trainer.run_epoch` and an epoch in a pack may take turns.

A network that would not be itself in a lane is refused (`fusible.py`), never trained wrongly: it is watched while
it computes; the recorded step is held against autograd before it is used; and as the pack goes on, the first step
of an epoch is held against the training alone, for one lane in the pack's epochs 0, 1, 2, 4, 8 …, and for every
new lane of a network or loss of the user's own.

How far a lane's numbers are those of the same trial alone, on a CPU (measured on AVX2 with MKL; tests hold it):

- Linear layers of 16 neurons and more, activations, dropout, shortcuts, smoothed cross entropy: weights, optimizer
  state, metrics of the validation part and decisions bitwise; the recorded train_loss to 1e-6, as its mean over
  the rows is summed differently. Width of the pack and row do not matter, bitwise.
- Narrower layers, embeddings, layer norm, class weights, regression losses, recurrent layers, attention, small
  convolutions: rounding, 1e-6 in the metrics after some epochs. A weight without a gradient but rounding (the
  bias of attention's keys, one before batch norm) wanders apart under Adam or RMSprop; what comes out does not.
- Batch norm behind biases, and residual networks: training itself enlarges the rounding, to 1e-3 in the
  validation loss after some epochs, more at rates at which a network is about to diverge.
- A lane that becomes NaN changes no bit of another.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from nnopt_ray.errors import NotANumber
from nnopt_ray.results import Epoch
from nnopt_ray.train import fusible, masks
from nnopt_ray.train.batches import Batch, evaluation_sizes
from nnopt_ray.train.block import TRIALS, Block
from nnopt_ray.train.fusible import CannotFuse
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.shape import Shape
from nnopt_ray.train.tally import Tally
from nnopt_ray.train.vector_optimizers import VectorOptimizer

__all__ = ["CannotFuse", "Pack", "Shape"]

Live = Sequence[tuple[int, Trainer]]


class Pack:
    """`width` rows of one block; lanes sit in some of them. One epoch at a time for all of them.

    vector: let the optimizers take their steps together; None: on a GPU, where launching costs more than the work.
    """

    def __init__(self, shape: Shape, width: int, example: Trainer, vector: bool | None = None) -> None:
        self.shape, self.width = shape, width
        weights = example.weights
        self.block = Block(shape, width, weights.flat, weights.rest, shape.loss.lane_values())
        self.lanes: list[Trainer | None] = [None] * width
        together = weights.flat.is_cuda if vector is None else vector
        self._vector = VectorOptimizer(self.block.flat, self.block.gradient) if together else None
        self._rates: list[list[float]] = [[] for _ in range(width)]
        self._unproved: list[Trainer] = []  # lanes that were not held against their training alone yet
        self._epochs = 0

    # ── lanes come and go ────────────────────────────────────────────────────────────────────────────

    @property
    def filled(self) -> int:
        return sum(lane is not None for lane in self.lanes)

    def put(self, trainer: Trainer, row: int | None = None) -> int:
        """A training takes this row, or the first free one → its number. Raises CannotFuse when it is of another
        shape."""
        slot = self.lanes.index(None) if row is None else row
        if self.lanes[slot] is not None:
            raise IndexError(f"row {slot} has a lane")
        self.shape.refuse_other(trainer)
        self._rates[slot] = self.shape.rates(trainer)
        block = self.block
        trainer.weights.move(block.flat[slot], block.gradient[slot], {n: each[slot] for n, each in block.rest.items()})
        if self._vector is not None:
            self._vector.put(slot, trainer)
        for name, value in trainer.loss.lane_values().items():
            block.loss_values[name][slot] = value
        self.lanes[slot] = trainer
        if self.shape.own or not self._epochs or self._elsewhere(trainer):
            self._unproved.append(trainer)
        return slot

    def take(self, trainer: Trainer) -> None:
        """A training leaves, with its weights; its row is free."""
        self.lanes[self.lanes.index(trainer)] = None
        if trainer in self._unproved:
            self._unproved.remove(trainer)
        trainer.weights.leave()
        if self._vector is not None:
            self._vector.take(trainer)

    def _elsewhere(self, trainer: Trainer) -> bool:
        """Whether a lane reads other rows than those that the shape was tried on."""
        return trainer.dataset.key != self.shape.data

    # ── one epoch ────────────────────────────────────────────────────────────────────────────────────

    def prepare(self, rows: int) -> None:
        """Record the step of this many rows, if it is not recorded yet. Raises CannotFuse when it cannot be."""
        self.block.record(rows)

    def run_epoch(self, only: Collection[Trainer] | None = None) -> list[tuple[Trainer, Epoch | NotANumber]]:
        """Train every lane, or those of `only`, for an epoch, as `Trainer.run_epoch` would → what came of each.

        Lanes that are not in `only` stay exactly as they are. The seconds of an epoch are the pack's, shared out
        evenly: those of all lanes add up to the time it took.
        Raises CannotFuse when the lanes would not be what they are alone, RuntimeError when the training of one has
        ended; no lane has moved then.
        """
        seated = [(slot, lane) for slot, lane in enumerate(self.lanes) if lane is not None]
        live = [(slot, lane) for slot, lane in seated if only is None or lane in only]
        started = time.perf_counter()
        if not live:
            return []
        if any(lane.done or not lane.at_boundary for _, lane in live):
            raise RuntimeError("the training of a lane has ended, or its last epoch broke off")
        for rows in dict.fromkeys(self.shape.sizes):
            self.prepare(rows)
        own = any(self._elsewhere(lane) for _, lane in live)
        for part in [lane.placed.validation for _, lane in live] if own else [self.shape.placed.validation]:
            for rows in dict.fromkeys(evaluation_sizes(part.rows, self.shape.validation.rows_a_batch)):
                self.block.record_evaluation(tuple(x[:rows] for x in part.inputs), own)
        for _, lane in live:
            lane.open_epoch()
        moving = {slot for slot, _ in live}
        resting = [slot for slot, _ in seated if slot not in moving]
        kept = {name: block[resting] for name, block in self.block.rest.items()} if resting else {}
        try:
            tallies = self._steps(live)
        finally:
            for name, rows_of in kept.items():  # the step of all rows has moved their running statistics too
                self.block.rest[name][resting] = rows_of
        # A lane that broke is not measured, as it would not be alone: a metric may raise at what it gives.
        whole = [(slot, lane) for slot, lane in live if tallies[slot][1] is None]
        with ExitStack() as worn:
            for _, lane in whole:
                worn.enter_context(lane.counting_weights())
            measured = self._measure(whole)
            self._epochs += 1
            seconds = (time.perf_counter() - started) / len(live)
            return [(lane, self._close(lane, *tallies[slot], measured.get(slot, {}), seconds)) for slot, lane in live]

    @staticmethod
    def _close(
        lane: Trainer, tally: Tally, broken: Any, lr: float, measured: Mapping[str, float], seconds: float
    ) -> Epoch | NotANumber:
        lane.model.eval()
        if broken is not None:
            return lane.not_a_number(broken)
        return lane.close_epoch(tally.loss, measured, lr, tally.norm, seconds)

    def _steps(self, live: Live) -> dict[int, tuple[Tally, Any, float]]:
        shape, train, width = self.shape, self.shape.placed.train, self.width
        order = torch.zeros(width, train.rows, dtype=torch.int64)
        generators = {}
        mixing = {slot: lane.feed.mixing(lane.epoch) for slot, lane in live}
        for slot, lane in live:
            order[slot] = lane.feed.order(lane.epoch)
            generators[slot] = torch.Generator(device=self.block.flat.device).manual_seed(lane.noise_seed())
        order = order.to(self.block.flat.device)
        losses, norms = [], []
        vector = self._vector
        if vector is not None and all(vector.takes(lane.optimizer) and lane.descent.even for _, lane in live):
            vector.begin(live, live[0][1].steps_per_epoch)
        else:
            vector = None
        weights: dict[int, list[float | Tensor]] = {slot: [] for slot, _ in live}
        assert train.target is not None
        own = any(self._elsewhere(lane) for _, lane in live)
        for number, (end, rows) in enumerate(zip(accumulate(shape.sizes), shape.sizes, strict=True)):
            static = self.block.static[rows]
            chosen = order[:, end - rows : end].reshape(-1)
            for source, place in zip((*train.inputs, train.target), (*static.inputs, static.target), strict=True):
                if not own:
                    torch.index_select(source, 0, chosen, out=place.view(width * rows, *source.shape[1:]))
            for slot, lane in live if own else ():
                _gather(lane, order[slot, end - rows : end], static.places(slot))
            for slot, lane in live:
                if lane.feed.augmenter.parts:
                    static.change(slot, lane.feed.augmenter, lane.feed.augmenting_seed(lane.epoch, number))
                if lane.feed.mixer is not None:
                    static.mix(slot, lane.feed.mixer, mixing[slot])
                for mask, site, rate in zip(static.drops, static.sites, self._rates[slot], strict=True):
                    masks.draw(mask[slot], site, rate, generators[slot])
            if number == 0:
                losses.append(self._first(live))
            else:
                losses.append(static.run())
            weight = shape.loss.lane_weight(rows)
            due = True
            for slot, lane in live:
                counts = lane.loss.weight(static.target[slot]) if weight is None else weight
                weights[slot].append(counts)
                due = lane.gather(number, counts)
            if due:
                step = number // shape.accumulate
                each = (
                    vector.descend(step)
                    if vector is not None
                    else torch.stack([lane.descend(step) for _, lane in live])
                )
                norms.append(each)
        by_step = torch.stack(losses).t().tolist()
        if vector is not None:
            vector.end()
        normed = torch.stack(norms).t().tolist()
        found = {}
        for index, (slot, lane) in enumerate(live):
            tally = Tally(shape.accumulate)
            broken = tally.take(by_step[slot], weights[slot], normed[index])
            found[slot] = (tally, broken, lane.last_lr())
        return found

    def _first(self, live: Live) -> Tensor:
        """The gradients of an epoch's first step, some of which are held against the training alone.

        One lane's at the first, second, fourth, eighth … epoch of the pack, and of a part of one's own every new
        lane's. Raises CannotFuse, with all lanes as they were, when they differ.
        """
        block = self.block
        static = block.static[self.shape.sizes[0]]
        chosen = [(slot, lane) for slot, lane in live if lane in self._unproved]
        if not self.shape.own:
            chosen = chosen[:1]
        if not chosen and not self._epochs & (self._epochs - 1):
            chosen = [live[self._epochs.bit_length() % len(live)]]
        before = {name: each.clone() for name, each in block.rest.items()} if chosen else {}
        losses = static.run()
        try:
            for slot, lane in chosen:
                self._hold_against(slot, lane, losses, before)
        except CannotFuse:
            for name, each in before.items():
                block.rest[name].copy_(each)
            for _, lane in live:
                lane.at_boundary = True
            raise
        proved = {id(lane) for _, lane in chosen}
        self._unproved = [lane for lane in self._unproved if self.shape.own and id(lane) not in proved]
        return losses

    def _hold_against(self, slot: int, lane: Trainer, losses: Tensor, rest: Mapping[str, Tensor]) -> None:
        """Raises CannotFuse when the step that is in the block is not the one of the training alone.

        rest: buffers and frozen weights as they were before it.
        """
        block, static = self.block, self.block.static[self.shape.sizes[0]]
        inputs, drops, mixed = (
            tuple(each[slot] for each in some) for some in (static.inputs, static.drops, static.mixed)
        )
        rests = {name: each[slot] for name, each in rest.items()}

        def found(losses: Tensor) -> dict[str, Tensor]:
            buffers = {f"buffer '{name}'": each[slot].clone() for name, each in block.rest.items()}
            return {"loss": losses[slot], "gradient": block.gradient[slot].clone(), **buffers}

        with fusible.alone(lane, inputs, static.target[slot], mixed, drops, rests) as step:
            ours = found(losses)
            distance = fusible.farthest(ours, step(0.0))
            distance.judge(lambda: step(1e-6))
            if distance.share <= fusible.SAME:
                return
            after = [(each, each.clone()) for each in block.rest.values()]
            gradient = block.gradient.clone()
            gradient[slot] = ours["gradient"]
            try:
                for _ in range(TRIALS):  # a number beside a kink is beside it no more with other weights
                    expected = step(1e-3)
                    for name, each in block.rest.items():
                        each.copy_(rest[name])
                    if fusible.farthest(found(static.run()), expected).share <= fusible.SAME:
                        return
            finally:
                for each, before in after:
                    each.copy_(before)
                block.gradient.copy_(gradient)
            distance.judge(lambda: step(1e-6), fusible.SAME)

    def _measure(self, live: Live) -> dict[int, dict[str, float]]:
        """Validation of all lanes: outputs together, then each lane's loss and metrics as it would alone."""
        part = self.shape.placed.validation
        sizes = evaluation_sizes(part.rows, self.shape.validation.rows_a_batch)
        collected: dict[int, Any] = {slot: lane.validation.begin() for slot, lane in live}
        if any(self._elsewhere(lane) for _, lane in live):
            self._measure_own(live, collected)
            return {slot: lane.validation.end(collected[slot]) for slot, lane in live}
        for inputs, target in part.batches(sizes):
            outputs = self.block.outputs(inputs)
            for slot, lane in live:
                lane.validation.add(collected[slot], outputs[slot], target)
        return {slot: lane.validation.end(collected[slot]) for slot, lane in live}

    def _measure_own(self, live: Live, collected: Mapping[int, Any]) -> None:
        """The same where each lane has a validation part of its own; those whose batches have one size together."""
        most = self.shape.validation.rows_a_batch
        coming = {
            slot: iter(lane.placed.validation.batches(evaluation_sizes(lane.placed.validation.rows, most)))
            for slot, lane in live
        }
        lanes = dict(live)
        while coming:
            by_size: dict[int, dict[int, Batch]] = {}
            for slot in list(coming):
                batch = next(coming[slot], None)
                if batch is None:
                    del coming[slot]
                else:
                    by_size.setdefault(len(batch[1]), {})[slot] = batch
            for batches in by_size.values():
                outputs = self.block.own_outputs({slot: inputs for slot, (inputs, _) in batches.items()})
                for slot, (_, target) in batches.items():
                    lanes[slot].validation.add(collected[slot], outputs[slot], target)

    def try_gradients(self) -> None:
        """The gradients of one step, for timing them; `prepare` comes first."""
        next(iter(self.block.static.values())).run()

    def bytes(self) -> int:
        """Memory of the block and of what the steps read, without what lies between the layers."""
        return self.block.bytes()


def _gather(lane: Trainer, chosen: Tensor, places: Sequence[Tensor]) -> None:
    """Put these training rows of a lane into its places."""
    train = lane.placed.train
    assert train.target is not None
    for source, place in zip((*train.inputs, train.target), places, strict=True):
        torch.index_select(source, 0, chosen, out=place)
