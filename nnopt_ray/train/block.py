"""The weights of several networks as rows of a block, and their steps: recorded once, replayed for all rows.

A recorded step is held against plain autograd of the network, on rows, weights and dropout that it was not
recorded with, before it is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.random import Generator
from torch import Tensor

from nnopt_ray.train import fusible, masks
from nnopt_ray.train.augmenting import Augmenter
from nnopt_ray.train.functional import gradients_of, tensors_of, value_of
from nnopt_ray.train.fusible import CannotFuse
from nnopt_ray.train.mixing import Mixer, loss_of
from nnopt_ray.train.recording import Program, record
from nnopt_ray.train.shape import Shape

PROVED_ON = 2  # batches of a recorded step that must agree with autograd
TRIALS = 6  # batches at most: of rounding alone, few differ


@dataclass
class Static:
    """Memory of the steps of one number of rows: the program reads it there."""

    inputs: tuple[Tensor, ...]  # [lanes, rows, ...]
    target: Tensor  # [lanes, rows] or [lanes, rows, outputs]
    drops: tuple[Tensor, ...]  # [lanes, ...] a dropout site
    sites: tuple[masks.Site, ...]
    mixed: tuple[Tensor, ...]  # where rows are mixed, the others' target, like `target`, and the share [lanes]
    program: Program

    def places(self, lane: int) -> tuple[Tensor, ...]:
        """Where the inputs and the target of a lane lie."""
        return (*(x[lane] for x in self.inputs), self.target[lane])

    def change(self, lane: int, augmenter: Augmenter, seed: int) -> None:
        """Augment the rows of a lane where they lie, as when it trains alone."""
        before = tuple(x[lane] for x in self.inputs)
        for here, after in zip(before, augmenter.batch(before, seed), strict=True):
            if after is not here:
                here.copy_(after)

    def mix(self, lane: int, mixer: Mixer, draws: Generator) -> None:
        """Mix the rows of a lane where they lie, as when it trains alone."""
        before = tuple(x[lane] for x in self.inputs)
        after, mixed = mixer.mix(before, self.target[lane], draws)
        for place, value in zip((*self.inputs, *self.mixed), (*after, *mixed), strict=True):
            place[lane].copy_(value)

    def run(self) -> Tensor:
        """Losses [lanes] of the batch that lies here; gradients and running statistics are in the block then."""
        return self.program()[0]


class Block:
    """Rows of weights.

    flat, gradient: float32 [width, P]; first: [P], the weights that they begin with.
    rest: buffers and frozen weights by name, [width, ...].
    loss_values: what the loss has for each lane, [width].
    """

    def __init__(
        self, shape: Shape, width: int, flat: Tensor, rest: Mapping[str, Tensor], loss_values: Mapping[str, float]
    ) -> None:
        self.shape, self.width = shape, width
        # Rows without a lane hold weights too, so that nothing in them slows the arithmetic down.
        self.first = flat.detach().clone()
        self.flat = self.first.repeat(width, 1)
        self.gradient = torch.zeros_like(self.flat)
        self.rest = {name: torch.stack([tensor] * width) for name, tensor in rest.items()}
        self.loss_values = {
            name: torch.full((width,), value, device=self.flat.device) for name, value in loss_values.items()
        }
        self.leaves = _leaves(self.flat, shape.layout)
        self._buffers = [name for name, _ in shape.model.named_buffers()]
        self.static: dict[int, Static] = {}
        self._evaluation: dict[tuple[int, bool], tuple[tuple[Tensor, ...], Program]] = {}  # by rows, and whose they are

    # ── in training ──────────────────────────────────────────────────────────────────────────────────

    def record(self, rows: int) -> None:
        """Record the step of this many rows, if it is not recorded yet. Raises CannotFuse when it cannot be."""
        if rows in self.static:
            return
        train, sites = self.shape.placed.train, self.shape.sites[rows]
        assert train.target is not None
        inputs = tuple(x[:rows].expand(self.width, *x[:rows].shape).clone() for x in train.inputs)
        target = train.target[:rows].expand(self.width, *train.target[:rows].shape).clone()
        drops = tuple(torch.ones(self.width, *site.shape, device=self.flat.device) for site in sites)
        halves = torch.full((self.width,), 0.5, device=self.flat.device)
        mixed = (target.clone(), halves) if self.shape.mixes else ()
        static = Static(inputs, target, drops, sites, mixed, Program(0, tuple))
        self.shape.model.train()
        kept = self.values()
        try:
            with _batchable():
                static.program = record(lambda: self._step(static), self._places((*inputs, target, *drops, *mixed)))
            agreed = 0
            for trial in range(TRIALS):
                self.put_back(kept)
                agreed += self._prove(static, trial)
                if agreed == PROVED_ON:
                    break
            else:
                raise CannotFuse("its step, recorded once and repeated, is not what the model itself gives")
        except fusible.FAULTS as error:
            told = fusible.reason(error)
            raise CannotFuse(f"its step cannot be taken for several lanes at once: {told}") from error
        finally:
            self.put_back(kept)
        self.static[rows] = static

    def values(self) -> list[tuple[Tensor, Tensor]]:
        live = [self.flat, self.gradient, *self.rest.values(), *self.loss_values.values()]
        return [(tensor, tensor.clone()) for tensor in live]

    def put_back(self, values: list[tuple[Tensor, Tensor]]) -> None:
        for tensor, before in values:
            tensor.copy_(before)

    def _places(self, more: Sequence[Tensor]) -> list[Tensor]:
        fixed = [self.flat, self.gradient, *self.rest.values(), *self.leaves.values(), *self.loss_values.values()]
        return [*fixed, *more]

    def _step(self, static: Static) -> tuple[Tensor, ...]:
        """Losses [lanes]; the gradients go into `self.gradient`, new running statistics into `self.rest`."""
        changing = {name: self.rest[name] for name in self._buffers}
        frozen = {name: block for name, block in self.rest.items() if name not in changing}

        def one(
            leaves: Any, buffers: Any, frozen: Any, inputs: Any, target: Any, drops: Any, mixed: Any, values: Any
        ) -> Any:
            def loss(leaves: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
                own = {name: buffer.clone() for name, buffer in buffers.items()}
                with tensors_of(self.shape.model, {**leaves, **own, **frozen}) as after, masks.fed(drops):
                    outputs = self.shape.model(*inputs)
                return loss_of(lambda target: self.shape.loss.lane(outputs, target, values), target, mixed), after

            gradients, value, after = gradients_of(loss, leaves)
            return gradients, value, after

        gradients, losses, changed = torch.func.vmap(one)(
            self.leaves, changing, frozen, static.inputs, static.target, static.drops, static.mixed, self.loss_values
        )
        for name, block in changing.items():
            if changed[name].shape != block.shape or changed[name].dtype != block.dtype:
                raise CannotFuse(f"its buffer '{name}' changes its shape or type")
            block.copy_(changed[name])
        torch.cat([gradients[name].reshape(self.width, -1) for name in self.leaves], dim=1, out=self.gradient)
        return (losses,)

    def _prove(self, static: Static, trial: int) -> bool:
        """Whether the recorded step agrees with autograd, for the first and the last row, on one batch.

        Raises CannotFuse when it differs by more than a number on the other side of a kink (a ReLU's zero) explains.
        """
        self.draw(static, torch.Generator().manual_seed(trial))
        before = {name: block.clone() for name, block in self.rest.items()}
        losses = static.run()
        agreed = True
        for row in sorted({0, self.width - 1}):
            found = {"loss": losses[row], "gradient": self.gradient[row]}
            found |= {f"buffer '{name}'": self.rest[name][row] for name in self._buffers}
            distance = fusible.farthest(found, self._plain(static, row, before))
            if distance.share > fusible.SAME:
                distance.judge(lambda row=row: self._plain(static, row, before, 1e-6))  # type: ignore[misc]
                agreed = False
        return agreed

    def _plain(self, static: Static, row: int, rest: Mapping[str, Tensor], off: float = 0.0) -> dict[str, Tensor]:
        """What the step of a row gives by autograd, with weights that are off by this share."""
        target, mixed = static.target[row], tuple(each[row] for each in static.mixed)
        return fusible.plain_step(
            self.shape.model,
            lambda outputs: loss_of(lambda target: self.shape.loss(outputs, target), target, mixed),
            {name: leaf[row] * (1 + off * torch.randn_like(leaf[row])) for name, leaf in self.leaves.items()},
            {name: block[row] for name, block in rest.items()},
            tuple(x[row] for x in static.inputs),
            [drop[row] for drop in static.drops],
        )

    def draw(self, static: Static, generator: torch.Generator) -> None:
        """Fill a step's memory for a trial: any rows, weights a little off, dropout."""
        train, rows = self.shape.placed.train, static.target.shape[1]
        assert train.target is not None
        chosen = torch.randint(train.rows, (self.width * rows,), generator=generator).to(self.flat.device)
        for source, place in zip((*train.inputs, train.target), (*static.inputs, static.target), strict=True):
            place.copy_(source[chosen].view(place.shape))
        if static.mixed:
            static.mixed[0].copy_(static.target.flip(1))
            static.mixed[1].copy_(torch.rand(self.width, generator=generator))
        noise = torch.randn(self.flat.shape, generator=generator).to(self.flat.device)
        self.flat.add_(noise, alpha=0.1 * float(self.flat.std(correction=0)) + 1e-3)
        for name, value in self.shape.loss.lane_values().items():
            self.loss_values[name].fill_(value)
        for mask, site in zip(static.drops, static.sites, strict=True):
            kept = torch.rand(mask.shape, generator=generator).to(mask.device) >= site.rate
            mask.copy_(kept / (1 - site.rate) if site.rate < 1 else kept)

    # ── in evaluation ────────────────────────────────────────────────────────────────────────────────

    def record_evaluation(self, inputs: tuple[Tensor, ...], own: bool = False) -> None:
        """Record the outputs for batches like this one, if they are not yet. Raises CannotFuse when they cannot be.

        own: each lane has a batch of its own, of this size.
        """
        rows = len(inputs[0]), own
        if rows in self._evaluation:
            return
        places = tuple((x.expand(self.width, *x.shape) if own else x).clone() for x in inputs)
        self.shape.model.eval()

        def one(leaves: Any, rest: Any, inputs: Any) -> Any:
            def forward(leaves: Mapping[str, Tensor]) -> Tensor:
                with tensors_of(self.shape.model, {**leaves, **rest}), masks.fed(()):
                    outputs: Tensor = self.shape.model(*inputs)
                return outputs

            return value_of(forward, leaves)

        def forward() -> tuple[Tensor, ...]:
            return (torch.func.vmap(one, in_dims=(0, 0, 0 if own else None))(self.leaves, self.rest, places),)

        kept = self.values()
        try:
            with torch.no_grad():
                with _batchable():
                    self._evaluation[rows] = (places, record(forward, self._places(places)))
                self._prove_evaluation(rows)
        except (*fusible.FAULTS, CannotFuse) as error:
            self._evaluation.pop(rows, None)
            told = fusible.reason(error)
            raise CannotFuse(f"its evaluation cannot be done for several lanes at once: {told}") from error
        finally:
            self.put_back(kept)
            self.shape.model.train()

    def _prove_evaluation(self, rows: tuple[int, bool]) -> None:
        places, program = self._evaluation[rows]
        generator = torch.Generator().manual_seed(rows[0])
        noise = torch.randn(self.flat.shape, generator=generator).to(self.flat.device)
        self.flat.add_(noise, alpha=0.1 * float(self.flat.std(correction=0)) + 1e-3)
        kept = [place.clone() for place in places]
        row = self.width - 1
        for place in places:
            turned = place[row] if rows[1] else place
            turned.copy_(turned.flip(0))
        outputs = program()[0]
        own = {name: each[row] for name, each in (*self.leaves.items(), *self.rest.items())}
        with tensors_of(self.shape.model, own):
            expected = self.shape.model(*(place[row] if rows[1] else place for place in places))
        for place, before in zip(places, kept, strict=True):
            place.copy_(before)
        if fusible.apart(outputs[row], expected) > fusible.SAME:
            raise CannotFuse("what is recorded once and repeated is not what the model itself gives")

    def outputs(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """float32 [lanes, rows, outputs] in evaluation."""
        self.record_evaluation(inputs)
        places, program = self._evaluation[len(inputs[0]), False]
        for place, x in zip(places, inputs, strict=True):
            place.copy_(x)
        return program()[0]

    def own_outputs(self, batches: Mapping[int, tuple[Tensor, ...]]) -> Tensor:
        """The same where each lane has a batch of its own, all of one size; what other lanes give is of no meaning."""
        inputs = next(iter(batches.values()))
        self.record_evaluation(inputs, own=True)
        places, program = self._evaluation[len(inputs[0]), True]
        for slot, batch in batches.items():
            for place, x in zip(places, batch, strict=True):
                place[slot].copy_(x)
        return program()[0]

    def bytes(self) -> int:
        """Memory of the block and of what the steps read, without what lies between the layers."""
        static = [t for s in self.static.values() for t in (*s.inputs, s.target, *s.drops)]
        return sum(t.numel() * t.element_size() for t in (self.flat, self.gradient, *self.rest.values(), *static))


@contextmanager
def _batchable() -> Iterator[None]:
    """Within, torch takes no shortcuts that are one kernel for a Transformer layer or an LSTM: vmap would call
    them lane by lane. What it does call so is no concern of the user's."""
    transformer, onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(transformer)
        torch._C._set_mkldnn_enabled(onednn)


def _leaves(flat: Tensor, layout: Sequence[tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    """name → its part of every row, [lanes, *shape]: views of the block."""
    found, start = {}, 0
    for name, shape in layout:
        size = torch.Size(shape).numel()
        found[name] = flat[:, start : start + size].view(len(flat), *shape)
        start += size
    return found
