"""Lanes: several trainings of one shape as one step. Each lane is a Trainer whose weights are a row of a block.

The networks of a pack have equal layers and batches; everything else is a lane's own: seed, order of rows,
optimizer with its rates, schedule, warm-up, L1, clipping, dropout rate, label smoothing, early stopping, number
of epochs. Gradients of all lanes are computed together, by `torch.func.vmap` over the rows of the block, recorded
once and replayed (`recording.py`); then each lane's optimizer takes its own step, with the very kernels that it
uses alone.

Lanes start and end at the end of an epoch, where all of a pack stand together. A Trainer that has left a pack,
or was never in one, is the same training: `Trainer.run_epoch` and an epoch in a pack may take turns.

How far a lane's numbers are those of the same trial alone, on a CPU (measured; tests hold it):

- Linear layers, layer norm, embeddings, attention, activations, dropout: weights, metrics of the validation
  part and decisions bitwise; the recorded train_loss to 1e-6, as its mean over the rows is summed differently.
- Convolutions and batch norm: sums are split differently, which an epoch of training amplifies; validation
  losses agree to about 1e-3 after some epochs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from nnopt_ray import tables
from nnopt_ray.errors import NotANumber
from nnopt_ray.machine import derived_seed
from nnopt_ray.results import Epoch
from nnopt_ray.train import masks
from nnopt_ray.train.batches import evaluation_sizes
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.recording import Program, record
from nnopt_ray.train.tally import Tally


class CannotFuse(Exception):
    """Why the trainings of a shape cannot be lanes of one step, as half a sentence."""


@dataclass
class _Static:
    """Memory of the steps of one number of rows: the program reads it there."""

    inputs: tuple[Tensor, ...]  # [lanes, rows, ...]
    target: Tensor  # [lanes, rows] or [lanes, rows, outputs]
    drops: tuple[Tensor, ...]  # [lanes, ...] a dropout site
    sites: tuple[masks.Site, ...]
    program: Program | None = None


class Shape:
    """What the lanes of all packs of one shape have in common: the network's structure, and where it was tried.

    Raises CannotFuse when a training of this shape cannot be a lane.
    """

    def __init__(self, example: Trainer) -> None:
        if getattr(example.model, "fit_directly", None) is not None:
            raise CannotFuse("the model finds its weights in a way of its own, not step by step")
        if example.placed.train.mapped is not None or example.placed.validation.mapped is not None:
            raise CannotFuse("the data is larger than memory and is read batch by batch")
        if example.machine.precision != "float32":
            raise CannotFuse(f"lanes compute in float32, and train.precision makes this {example.machine.precision}")
        if example.weights.flat.numel() == 0:
            raise CannotFuse("the model has no weights to train")
        torch.manual_seed(0)
        model: nn.Module = tables.build("model", example.experiment.model, example.dataset.shapes)
        self.model = model.to(device=example.machine.device, dtype=torch.float32)
        self.placed, self.loss, self.device = example.placed, example.loss, example.machine.device
        self.sizes = tuple(example.sizes)
        self.layout = example.weights.layout
        self.validation = example.validation
        self.sites = {rows: self._sites(rows) for rows in set(self.sizes)}

    def _sites(self, rows: int) -> tuple[masks.Site, ...]:
        batch = self._rows(rows)
        self.model.train()
        return tuple(masks.sites(lambda: self.model(*batch)))

    def _rows(self, rows: int) -> tuple[Tensor, ...]:
        return tuple(each[:rows] for each in self.placed.train.inputs)

    def rates(self, trainer: Trainer) -> list[float]:
        """A lane's dropout rate at each site."""
        before = {name: tensor.clone() for name, tensor in trainer.weights.rest.items()}
        trainer.model.train()
        batch = self._rows(self.sizes[0])
        found = [site.rate for site in masks.sites(lambda: trainer.model(*batch))]
        for name, tensor in trainer.weights.rest.items():  # batch norm has taken note of the rows
            tensor.copy_(before[name])
        if len(found) != len(self.sites[self.sizes[0]]):
            raise CannotFuse("its dropout is not at the same places as in the other lanes")
        return found


class Pack:
    """`width` rows of one block; lanes sit in some of them. One epoch at a time for all of them."""

    def __init__(self, shape: Shape, width: int, example: Trainer) -> None:
        self.shape, self.width = shape, width
        weights = example.weights
        # Rows without a lane hold weights too, so that nothing in them slows the arithmetic down.
        self.flat = weights.flat.detach().repeat(width, 1)
        self.gradient = torch.zeros_like(self.flat)
        self.rest = {name: torch.stack([tensor] * width) for name, tensor in weights.rest.items()}
        self.lanes: list[Trainer | None] = [None] * width
        self._rates: list[list[float]] = [[] for _ in range(width)]
        self._leaves = _leaves(self.flat, shape.layout)
        self._buffers = [name for name, _ in shape.model.named_buffers()]
        self._loss_keys = {
            name: torch.zeros(width, device=self.flat.device) for name in shape.loss.lane_values()
        }
        self._static: dict[int, _Static] = {}
        self._evaluation: dict[int, tuple[tuple[Tensor, ...], Program]] = {}

    # ── lanes come and go ────────────────────────────────────────────────────────────────────────────

    @property
    def filled(self) -> int:
        return sum(lane is not None for lane in self.lanes)

    def put(self, trainer: Trainer) -> int:
        """A training takes a free row → its number. Raises CannotFuse when it is of another shape."""
        slot = self.lanes.index(None)
        if trainer.weights.layout != self.shape.layout:
            raise CannotFuse("its weights have other shapes than those of the other lanes")
        self._rates[slot] = self.shape.rates(trainer)
        rest = {name: block[slot] for name, block in self.rest.items()}
        trainer.weights.move(self.flat[slot], self.gradient[slot], rest)
        for name, value in trainer.loss.lane_values().items():
            self._loss_keys[name][slot] = value
        self.lanes[slot] = trainer
        return slot

    def take(self, trainer: Trainer) -> None:
        """A training leaves, with its weights; its row is free."""
        self.lanes[self.lanes.index(trainer)] = None
        trainer.weights.leave()

    # ── one epoch ────────────────────────────────────────────────────────────────────────────────────

    def run_epoch(self) -> list[tuple[Trainer, Epoch | NotANumber]]:
        """Train every lane for an epoch, as `Trainer.run_epoch` would → what came of each.

        The seconds of an epoch are the pack's, shared out evenly: those of all lanes add up to the time it took.
        Raises CannotFuse when the step of this network cannot be recorded; no lane has moved then.
        """
        live = [(slot, lane) for slot, lane in enumerate(self.lanes) if lane is not None]
        started = time.perf_counter()
        for rows in dict.fromkeys(self.shape.sizes):
            self.prepare(rows)
        for _, lane in live:
            lane.open_epoch()
        tallies = self._steps(live)
        measured = self._measure(live)
        seconds = (time.perf_counter() - started) / len(live)
        return [(lane, self._close(lane, *tallies[slot], measured[slot], seconds)) for slot, lane in live]

    @staticmethod
    def _close(
        lane: Trainer, tally: Tally, broken: Any, lr: float, measured: Mapping[str, float], seconds: float
    ) -> Epoch | NotANumber:
        if broken is not None:
            return lane.not_a_number(broken)
        return lane.close_epoch(tally.loss, measured, lr, tally.norm, seconds)

    def _steps(self, live: Sequence[tuple[int, Trainer]]) -> dict[int, tuple[Tally, Any, float]]:
        shape, train = self.shape, self.shape.placed.train
        order = torch.zeros(self.width, train.rows, dtype=torch.int64)
        generators = {}
        for slot, lane in live:
            order[slot] = lane.order()
            generators[slot] = torch.Generator(device=self.flat.device).manual_seed(lane.noise_seed())
        order = order.to(self.flat.device)
        losses, norms = [], []
        weights: dict[int, list[float | Tensor]] = {slot: [] for slot, _ in live}
        assert train.target is not None
        for number, (end, rows) in enumerate(zip(accumulate(shape.sizes), shape.sizes, strict=True)):
            static = self._static[rows]
            chosen = order[:, end - rows : end].reshape(-1)
            for source, place in zip((*train.inputs, train.target), (*static.inputs, static.target), strict=True):
                torch.index_select(source, 0, chosen, out=place.view(self.width * rows, *source.shape[1:]))
            for slot, _ in live:
                for mask, site, rate in zip(static.drops, static.sites, self._rates[slot], strict=True):
                    masks.draw(mask[slot], site, rate, generators[slot])
            assert static.program is not None
            losses.append(static.program()[0])
            norms.append([lane.descend(number) for _, lane in live])
            for slot, lane in live:
                weights[slot].append(lane.loss.weight(static.target[slot]))
        by_step = torch.stack(losses).t().tolist()
        normed = torch.stack([torch.stack(each) for each in norms]).t().tolist()
        found = {}
        for index, (slot, lane) in enumerate(live):
            tally = Tally()
            broken = tally.take(by_step[slot], weights[slot], normed[index])
            found[slot] = (tally, broken, lane.last_lr())
        return found

    def _measure(self, live: Sequence[tuple[int, Trainer]]) -> dict[int, dict[str, float]]:
        """Validation of all lanes: outputs together, then each lane's loss and metrics as it would alone."""
        part = self.shape.placed.validation
        sizes = evaluation_sizes(part.rows, self.shape.validation.rows_a_batch)
        collected: dict[int, Any] = {slot: lane.validation.begin() for slot, lane in live}
        for inputs, target in part.batches(sizes):
            outputs = self._outputs(inputs)
            for slot, lane in live:
                lane.validation.add(collected[slot], outputs[slot], target)
        return {slot: lane.validation.end(collected[slot]) for slot, lane in live}

    def _outputs(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """float32 [lanes, rows, outputs] in evaluation."""
        rows = len(inputs[0])
        if rows not in self._evaluation:
            places = tuple(torch.empty_like(x) for x in inputs)
            for place, x in zip(places, inputs, strict=True):
                place.copy_(x)
            self.shape.model.eval()

            def forward() -> tuple[Tensor, ...]:
                with torch.no_grad():
                    return (torch.func.vmap(self._call, in_dims=(0, 0, None))(self._leaves, self.rest, places),)

            self._evaluation[rows] = (places, record(forward, self._places(places)))
        places, program = self._evaluation[rows]
        for place, x in zip(places, inputs, strict=True):
            place.copy_(x)
        return program()[0]

    # ── recording ────────────────────────────────────────────────────────────────────────────────────

    def prepare(self, rows: int) -> None:
        """Record the step of this many rows, if it is not recorded yet. Raises CannotFuse when it cannot be."""
        if rows in self._static:
            return
        train, sites = self.shape.placed.train, self.shape.sites[rows]
        assert train.target is not None
        inputs = tuple(x[:rows].expand(self.width, *x[:rows].shape).clone() for x in train.inputs)
        target = train.target[:rows].expand(self.width, *train.target[:rows].shape).clone()
        drops = tuple(torch.ones(self.width, *site.shape, device=self.flat.device) for site in sites)
        static = _Static(inputs, target, drops, sites)
        self.shape.model.train()
        kept = {name: block.clone() for name, block in self.rest.items()}
        try:
            places = self._places((*inputs, target, *drops))
            static.program = record(lambda: self._step(static), places)
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            raise CannotFuse(f"its step cannot be taken for several lanes at once ({_first_line(error)})") from error
        finally:
            for name, block in self.rest.items():  # recording has run the step once
                block.copy_(kept[name])
        self._static[rows] = static

    def _places(self, more: Sequence[Tensor]) -> list[Tensor]:
        fixed = [self.flat, self.gradient, *self.rest.values(), *self._leaves.values(), *self._loss_keys.values()]
        return [*fixed, *more]

    def _step(self, static: _Static) -> tuple[Tensor, ...]:
        """Losses [lanes]; the gradients go into `self.gradient`, new running statistics into `self.rest`."""
        changing = {name: self.rest[name] for name in self._buffers}
        frozen = {name: block for name, block in self.rest.items() if name not in changing}

        def one(leaves: Any, buffers: Any, frozen: Any, inputs: Any, target: Any, drops: Any, values: Any) -> Any:
            own = {name: buffer.clone() for name, buffer in buffers.items()}

            def loss(leaves: Mapping[str, Tensor]) -> Tensor:
                with masks.fed(drops):
                    outputs = self._call(leaves, {**own, **frozen}, inputs)
                return self.shape.loss.lane(outputs, target, values)

            gradients, value = gradients_of(loss, leaves)
            return gradients, value, own

        gradients, losses, changed = torch.func.vmap(one)(
            self._leaves, changing, frozen, static.inputs, static.target, static.drops, self._loss_keys
        )
        for name, block in changing.items():
            block.copy_(changed[name])
        torch.cat([gradients[name].reshape(self.width, -1) for name in self._leaves], dim=1, out=self.gradient)
        return (losses,)

    def _call(self, leaves: Mapping[str, Tensor], rest: Mapping[str, Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
        with _tensors_of(self.shape.model, {**leaves, **rest}):
            outputs: Tensor = self.shape.model(*inputs)
        return outputs

    def bytes(self) -> int:
        """Memory of the block and of what the steps read, without what lies between the layers."""
        static = [t for s in self._static.values() for t in (*s.inputs, s.target, *s.drops)]
        return sum(t.numel() * t.element_size() for t in (self.flat, self.gradient, *self.rest.values(), *static))


def _leaves(flat: Tensor, layout: Sequence[tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    """name → its part of every row, [lanes, *shape]: views of the block."""
    found, start = {}, 0
    for name, shape in layout:
        size = torch.Size(shape).numel()
        found[name] = flat[:, start : start + size].view(len(flat), *shape)
        start += size
    return found


def gradients_of(loss: Callable[[Mapping[str, Tensor]], Tensor], leaves: Mapping[str, Tensor]) -> Any:
    """Gradients by name and the loss: `torch.func.grad_and_value` of a function of named tensors.

    In its steps, as torch's own function imports torch._dynamo (1.8 s).
    """
    from torch._functorch.eager_transforms import enable_inplace_requires_grad

    functorch = torch._C._functorch
    level = functorch._grad_increment_nesting()
    try:
        with torch.enable_grad():
            wrapped = {name: functorch._wrap_for_grad(leaf, level) for name, leaf in leaves.items()}
            with enable_inplace_requires_grad(True):
                for leaf in wrapped.values():
                    leaf.requires_grad_()
            value = loss(wrapped)
            found = torch.autograd.grad(value, list(wrapped.values()), allow_unused=True)
        plain = {
            name: torch.zeros_like(leaf) if each is None else functorch._unwrap_for_grad(each, level)
            for (name, leaf), each in zip(leaves.items(), found, strict=True)
        }
        return plain, functorch._unwrap_for_grad(value, level)
    finally:
        functorch._grad_decrement_nesting()


@contextmanager
def _tensors_of(model: nn.Module, named: Mapping[str, Tensor]) -> Iterator[None]:
    """Within, the model computes with these tensors (torch.func.functional_call imports sympy, 0.6 s)."""
    places: list[tuple[dict[str, Any], str, Any]] = []
    own: dict[int, Tensor] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        own[id(tensor)] = named[name]
    try:
        for module in model.modules():
            tables_: list[dict[str, Any]] = [module._parameters, module._buffers]
            for table in tables_:
                for name, held in table.items():
                    if held is not None:
                        places.append((table, name, held))
                        table[name] = own[id(held)]
        yield
    finally:
        for table, name, held in places:
            table[name] = held


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
