"""Lanes of a reproducible search: chosen by what no clock decides, each at a row of its own.

Whether such a search fuses follows from the page and its data alone, as alone and in a pack a training may differ
in its last bits. In a pack they may hang on its width and on the row: the last elements of an array are not summed,
or exponentiated, by the vector instructions that do the others. So the width follows from the page, and the row
from the trial's place in the logical order (`search/logical.py`), on any number of workers. What lies in the other
rows must not matter; that is tried, with the same lane among several others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nnopt_ray.train.batches import evaluation_sizes
from nnopt_ray.train.block import Block
from nnopt_ray.train.choice import Choice, Fuse, Lanes
from nnopt_ray.train.lanes import CannotFuse, Pack, Shape
from nnopt_ray.train.loop import Trainer

# A step of more floating-point operations, forward, keeps a core busy by itself (measured on AVX2, one thread).
SMALL_FLOP = 10_000_000
# Fewer steps of a shape are over before its pack is recorded and tried: 0.1 to 0.2 s for an MLP.
WORTH_STEPS = 2_000
DRAWS = 3  # lanes that are tried

ALONE = "one trial at a time"


def choose_exactly(example: Callable[[], Trainer], fuse: Fuse, lanes: Lanes, width: int, trainings: float) -> Choice:
    """Choose for one shape; the same answer whenever and wherever it is asked, but for torch's kernels.

    example: makes a training of the shape. width: rows of its packs. trainings: how many trials of this shape the
    page may ask for, each to its last epoch.
    """
    if fuse == "never":
        return Choice(1, f"{ALONE}, as resources.fuse is never")
    if width < 2:
        return Choice(1, f"{ALONE}, as {'search.concurrency' if lanes == 'auto' else 'resources.lanes'} is 1")
    trainer = example()
    try:
        shape = Shape(trainer)
        if trainer.weights.flat.is_cuda:
            raise CannotFuse("that the other lanes change no bit of it is known for CPUs only")
        if fuse == "auto" and lanes == "auto":
            _refuse_dear(trainer, trainings)
        pack = Pack(shape, width, trainer)
        refuse_inexact(pack.block)
    except CannotFuse as error:
        return Choice(1, f"{ALONE}: {error}")
    sentence = f"{width} trials at a time as lanes of one step, each at a row that follows from the page"
    return Choice(width, sentence, {width: 1.0}, shape, {width: pack}, rows_by_place=True)


def _refuse_dear(trainer: Trainer, trainings: float) -> None:
    steps = trainings * trainer.experiment.train.epochs * len(trainer.sizes)
    if steps < WORTH_STEPS:
        raise CannotFuse(f"with {steps:,.0f} steps of one shape, recording them would take longer than they do")
    inputs = tuple(x[: trainer.sizes[0]] for x in trainer.placed.train.inputs)
    trainer.model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        trainer.model(*inputs)
    if counter.get_total_flops() > SMALL_FLOP:
        raise CannotFuse(
            f"a step of {counter.get_total_flops() / 1e6:,.0f} million operations keeps a core busy by itself"
        )


def refuse_inexact(block: Block) -> None:
    """Raises CannotFuse when the bits of a lane hang on what lies in the other rows."""
    shape, part = block.shape, block.shape.placed.validation
    generator = torch.Generator().manual_seed(0)
    measured = {len(x[0]): x for x, _ in part.batches(evaluation_sizes(part.rows, shape.validation.rows_a_batch))}
    for inputs in measured.values():
        block.record_evaluation(inputs)
    for rows in dict.fromkeys(shape.sizes):
        block.record(rows)
        for row in sorted({0, block.width // 2, block.width - 1}):
            for _ in range(DRAWS):
                lane, others, more = torch.randint(2**40, (3,), generator=generator).tolist()
                found = _among(block, rows, row, measured, lane, others)
                for name, bits in _among(block, rows, row, measured, lane, more).items():
                    if not torch.equal(bits, found[name]):
                        raise CannotFuse(f"the {name} of a lane has other last bits beside other lanes")


def _among(
    block: Block, rows: int, row: int, measured: Mapping[int, tuple[Tensor, ...]], lane: int, others: int
) -> dict[str, Tensor]:
    """What the lane of this seed gives at a row of a block, among those of another."""
    static, kept = block.static[rows], block.values()
    try:
        block.draw(static, torch.Generator().manual_seed(others))
        _lay(block, rows, row, torch.Generator().manual_seed(lane))
        losses = static.run()
        found = {"loss": losses[row].clone(), "gradient": block.gradient[row].clone()}
        found |= {f"buffer '{name}'": each[row].clone() for name, each in block.rest.items()}
        for inputs in measured.values():
            found[f"output on {len(inputs[0])} rows"] = block.outputs(inputs)[row].clone()
    finally:
        block.put_back(kept)
    return found


def _lay(block: Block, rows: int, row: int, generator: torch.Generator) -> None:
    """Put a lane of this generator into a row: weights, buffers as they start, a batch, dropout."""
    train, static = block.shape.placed.train, block.static[rows]
    assert train.target is not None
    flat = block.flat[row]
    flat.copy_(block.first + 0.1 * float(block.first.std(correction=0)) * torch.randn(flat.shape, generator=generator))
    chosen = torch.randint(train.rows, (rows,), generator=generator)
    for source, place in zip((*train.inputs, train.target), (*static.inputs, static.target), strict=True):
        place[row].copy_(source[chosen])
    if static.mixed:
        static.mixed[0][row].copy_(static.target[row].flip(0))
        static.mixed[1][row].copy_(torch.rand((), generator=generator))
    for mask, site in zip(static.drops, static.sites, strict=True):
        keeps = torch.rand(mask[row].shape, generator=generator) >= site.rate
        mask[row].copy_(keeps / (1 - site.rate) if site.rate < 1 else keeps)
