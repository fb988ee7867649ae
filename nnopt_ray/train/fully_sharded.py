"""A network that is cut over the processes that train it: each keeps its piece of the weights, their gradient and the
optimizer's state (FSDP2, `torch.distributed.fsdp.fully_shard`; stage 3 of ZeRO, Rajbhandari et al. 2020).

A block's weights are brought together for its forward pass and again for its backward pass, and let go after each; of
its gradient each process gets the piece that is its own. So a device holds the N-th part of it all and a block or two.
The pieces lie in flat tensors as a whole network's weights do (`weights.FlatWeights`), so steps, averages and snapshots
are what they are elsewhere. Checkpoints hold whole tensors, brought together some at a time on the CPU of the first
process: they are the files of any other training.

The rules of `sharding.py` hold here too. Each forward pass is one of all processes, so one that has no rows left goes
along with rows that count nothing.
"""

from __future__ import annotations

import ctypes
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from nnopt_ray.errors import NnoptError, PartError
from nnopt_ray.train.averaging import has_batch_norm
from nnopt_ray.train.buckets import Buckets
from nnopt_ray.train.precision import LOWER
from nnopt_ray.train.sharding import Shard, Training, wire_device
from nnopt_ray.train.state import State
from nnopt_ray.train.weights import ZERO, FlatWeights, Layout, Snapshot, trainable

LARGE = 1 << 20  # weights of a single layer from which on it is a block by itself
PARCEL = 1 << 22  # numbers that a process sends at a time, 16 MiB; more where one weight's piece is more
# Tensors of a state that are cut: flat weights, and the frozen ones among the rest.
FLAT = re.compile(r"(?:epoch-\d+\.|average\.)?(?:weights|rest\.(?P<rest>.+))")
MMAP_THRESHOLD, GIVEN_BACK = -3, 1 << 20  # glibc's M_MMAP_THRESHOLD (malloc.h), and bytes from which on
GO_ON, STATE, BEST = range(3)  # what the first process asks of those that wait for it


class Cut:
    """How weights that lie one behind the other are cut: each along its first axis, into as many pieces of one size as
    there are processes, zeros behind those that are shorter (as `fully_shard` cuts them).

    pieces, starts: numbers of each weight in one process, and where they begin. size: of all of them. numbers: of the
    whole weights.
    """

    def __init__(self, layout: Layout, rank: int, workers: int) -> None:
        self.rank, self.workers = rank, workers
        shapes = [torch.Size(shape) for _, shape in layout]
        self._whole = [shape.numel() for shape in shapes]
        self.pieces = [-(-shape[0] // workers) * shape[1:].numel() for shape in shapes]
        self.starts = [sum(self.pieces[:number]) for number in range(len(shapes))]
        self.size, self.numbers = sum(self.pieces), sum(self._whole)

    def split(self, whole: Tensor) -> tuple[Tensor, ...]:
        """[numbers] → each weight, flat."""
        return torch.split(whole, self._whole)

    def mine(self, weights: Iterable[Tensor]) -> Tensor:
        """Each weight → [size], the pieces of this process."""
        found = torch.zeros(self.size)
        for weight, piece, start in zip(weights, self.pieces, self.starts, strict=True):
            own = weight.reshape(-1)[self.rank * piece : (self.rank + 1) * piece]
            found[start : start + len(own)] = own
        return found

    def together(self, mine: Tensor) -> Tensor:
        """[size] of each process → [numbers] on the CPU of the first one, [0] elsewhere. All processes call it."""
        whole = torch.empty(0 if self.rank else self.numbers)
        end = 0
        for first, behind in self._parcels():
            start = self.starts[first]
            sent = mine[start : self.starts[behind - 1] + self.pieces[behind - 1]].contiguous()
            taken = None if self.rank else [torch.empty_like(sent) for _ in range(self.workers)]
            dist.gather(sent, taken, dst=0)
            if taken is None:
                continue
            every = torch.stack([each.cpu() for each in taken])
            for number in range(first, behind):
                at, length = self.starts[number] - start, self._whole[number]
                whole[end : end + length] = every[:, at : at + self.pieces[number]].reshape(-1)[:length]
                end += length
        return whole

    def _parcels(self) -> Iterator[tuple[int, int]]:
        """The first weight of each parcel, and the one behind its last."""
        begin = held = 0
        for number, piece in enumerate(self.pieces):
            if held and held + piece > PARCEL:
                yield begin, number
                begin = number
                held = 0
            held += piece
        if held:
            yield begin, len(self.pieces)


class ShardedWeights(FlatWeights):
    """This process's pieces of the weights of a network that `fully_shard` has cut.

    flat, gradient: float32 [size], the pieces of all trainable weights as `cut` has them. `layout` tells of the whole
    weights, `lying` of the pieces. `rest` and snapshots are of pieces too; `named` is whole.
    """

    def __init__(self, model: nn.Module, shard: FullShard) -> None:
        self.model, self._shard = model, shard
        self.trainable, decaying = trainable(model)
        self.layout = [(name, tuple(p.shape)) for name, p in self.trainable]
        self.frozen = {name: cast(DTensor, p) for name, p in model.named_parameters() if not p.requires_grad}
        self.cut = self._cut_of(self.layout)
        self.lying = [(name, (piece,)) for (name, _), piece in zip(self.layout, self.cut.pieces, strict=True)]
        ends = torch.tensor([p.numel() for _, p in self.trainable]).cumsum(0)
        self.decaying = sum(self.cut.pieces[: int((ends <= decaying).sum())])
        self._groups = [module for module in model.modules() if isinstance(module, FSDPModule)]
        self.flat = torch.zeros(self.cut.size, device=shard.device)
        self.gradient = torch.zeros(self.cut.size, device=shard.device)
        self._take_over()

    def _cut_of(self, layout: Layout) -> Cut:
        return Cut(layout, self._shard.rank, self._shard.workers)

    def _take_over(self) -> None:
        """Let the pieces that `fully_shard` keeps lie in `flat`, and gradients be added up in `gradient`."""
        kept = {id(each.sharded_param): each for each in _kept(self._groups)}
        self._views = []
        for (_, parameter), piece, start in zip(self.trainable, self.cut.pieces, self.cut.starts, strict=True):
            own, tensor = kept[id(parameter)], cast(Any, parameter)
            shape = tensor._local_tensor.shape
            assert own._sharded_param_data.numel() == piece, "fully_shard cuts in a way of its own"
            place = slice(start, start + piece)
            self.flat[place] = own._sharded_param_data
            own._sharded_param_data = self.flat[place]
            tensor._local_tensor = self.flat[place][: shape.numel()].view(shape)
            tensor.grad = DTensor.from_local(
                self.gradient[place][: shape.numel()].view(shape),
                tensor.device_mesh,
                tensor.placements,
                run_check=False,
                shape=tensor.shape,
                stride=tensor.stride(),
            )
            self._views.append(tensor.grad._local_tensor)

    def check(self) -> None:
        for (name, parameter), view in zip(self.trainable, self._views, strict=True):
            grad = cast(Any, parameter.grad)
            if grad is None or grad._local_tensor.data_ptr() != view.data_ptr():
                raise PartError(
                    f"the model gave the gradient of its weight '{name}' other memory (as assigning to .grad does): "
                    "leave that to the training."
                )

    def norm(self, gradient: Tensor) -> Tensor:
        square = torch.linalg.vector_norm(gradient).square()
        dist.all_reduce(square)
        root: Tensor = square.sqrt()
        return root

    def sparsity(self) -> float:
        added = self.cut.size - sum(view.numel() for view in self._views)  # the zeros behind short pieces
        small = (self.flat.abs() < ZERO).sum().double() - added
        dist.all_reduce(small)
        return float(small) / max(1, self.cut.numbers)

    @property
    def rest(self) -> dict[str, Tensor]:
        frozen: dict[str, Tensor] = {name: p.to_local() for name, p in self.frozen.items()}
        return {**frozen, **dict(self.model.named_buffers())}

    def restore(self, snapshot: Snapshot) -> None:
        self._let_go()
        super().restore(snapshot)

    def _let_go(self) -> None:
        """Free weights that are still together: they would be used again, though the pieces have changed."""
        for group in self._groups:
            group.reshard()

    def named(self, snapshot: Snapshot | None = None) -> dict[str, Tensor]:
        """Of the whole weights, on the CPU of the first process, {} elsewhere. All processes call it."""
        self._shard.ask(BEST)
        taken = snapshot or self.snapshot()
        whole = {name: self._whole_rest(name, tensor) for name, tensor in taken.rest.items()}
        flat = self.cut.together(taken.flat)
        return {} if self._shard.rank else super().named(Snapshot(flat, whole))

    def whole(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of a state → the one that a whole network's state has by this name, on the CPU of the first
        process. All processes call it."""
        found = FLAT.fullmatch(name)
        if found and found["rest"]:
            return self._whole_rest(found["rest"], tensor)
        return self.cut.together(tensor) if tensor.shape == self.flat.shape else tensor.clone()

    def piece(self, whole: Tensor) -> Tensor:
        return self.cut.mine(self.cut.split(whole)) if whole.shape == (self.cut.numbers,) else whole

    def piece_of(self, name: str, whole: Tensor) -> Tensor:
        """The way back from `whole`."""
        found = FLAT.fullmatch(name)
        return self._rest_of(found["rest"], whole) if found and found["rest"] else self.piece(whole)

    def _whole_rest(self, name: str, tensor: Tensor) -> Tensor:
        if name not in self.frozen:
            return tensor.clone()
        shape = tuple(self.frozen[name].shape)
        cut = self._cut_of([(name, shape)])
        mine = tensor.new_zeros(cut.size)
        mine[: tensor.numel()] = tensor.reshape(-1)
        together = cut.together(mine)
        return together if self._shard.rank else together.view(shape)

    def _rest_of(self, name: str, whole: Tensor) -> Tensor:
        if name not in self.frozen or whole.shape != self.frozen[name].shape:
            return whole
        shape = self.frozen[name].to_local().shape
        return self._cut_of([(name, tuple(whole.shape))]).mine([whole])[: shape.numel()].view(shape)

    def fill(self, model: nn.Module) -> None:
        """Take weights and buffers from a whole network of the same form."""
        there = dict([*model.named_parameters(), *model.named_buffers()])
        self._let_go()
        with torch.no_grad():
            self.flat.copy_(self.cut.mine(there[name] for name, _ in self.layout))
            for name, tensor in self.rest.items():
                tensor.copy_(self._rest_of(name, there[name]))


class FullShard(Shard):
    """One process of several that keep and train a network in pieces, in torch.distributed's default group.

    Attributes:
        device: where its pieces lie.
        decided: how the network is cut, in words; empty before it is.
    """

    goes_along = True

    def __init__(self, sync_batch_norm: bool = False) -> None:
        super().__init__(sync_batch_norm)
        self.device = wire_device()
        self._mesh = init_device_mesh(self.device.type, (self.workers,))
        if self.device.type == "cpu":
            _give_back()
        # Networks are made one after the other on a machine, so that only one is there as a whole.
        most = torch.tensor(int(os.environ.get("LOCAL_WORLD_SIZE", self.workers)), device=self.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        self._turns, self._turn = int(most), int(os.environ.get("LOCAL_RANK", self.rank))

    def is_short(self, count: int) -> bool:
        """Whether this process has one batch less than another of so many that are shared out."""
        return len(range(count)[self.share_out(count)]) < -(-count // self.workers)

    # ── the network ──────────────────────────────────────────────────────────────────────────────────

    def home(self, device: str) -> str:
        return "cpu"

    def weights_of(self, model: nn.Module, precision: str, every: int) -> FlatWeights:
        """Cut a network, block by block. Raises PartError for one that cannot be cut."""
        for name, parameter in model.named_parameters():
            if parameter.dim() == 0:
                raise PartError(f"resources.fsdp cuts weights along their first axis, and '{name}' has none: [1], say.")
        if hasattr(model, "fit_directly"):
            raise PartError(
                "resources.fsdp cuts networks that are trained by gradients, and this model is fitted directly."
            )
        self._sync_batch_norm(model)
        # Nothing here changes the outputs of a network in place, which is what torch warns of.
        message = rf"FSDP2-wrapped module \(FSDP{type(model).__name__}\) returned a view"
        warnings.filterwarnings("ignore", message, UserWarning)
        found = blocks(model)
        for module in (*found, model):
            # Norms of a batch compute in float32, so their weights come as they are.
            lower = None if module is model or has_batch_norm(module) else LOWER.get(precision)
            policy = MixedPrecisionPolicy(lower, torch.float32 if lower else None)
            part = fully_shard(module, mesh=self._mesh, mp_policy=policy)
            # The sum, as the seeds of the gradients are the shares of the pieces; gloo has no other.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
        weights = ShardedWeights(model, self)
        behind = torch.zeros(2 * every, device=self.device)
        self._carry(weights, Buckets(behind), behind)
        many = "1 block" if len(found) == 1 else f"{len(found)} blocks"
        what = f"{many} and the rest" if found else "one block, as no layers of it are alike"
        self.decided = f"{weights.cut.size:,} of {weights.cut.numbers:,} trained weights each, cut in {what}"
        return weights

    @contextmanager
    def filling(self, model: nn.Module, weights: FlatWeights, make: Callable[[], nn.Module]) -> Iterator[nn.Module]:
        """Within, a whole network on the CPU, whose weights are then taken; one after the other on a machine."""
        failed: NnoptError | None = None
        for _ in self.in_turn():
            whole = make()
            try:
                yield whole
            except NnoptError as error:  # which all of them meet
                failed = error
            else:
                cast(ShardedWeights, weights).fill(whole)
            del whole
        if failed is not None:
            raise failed

    def in_turn(self) -> Iterator[None]:
        """Once, when those before this process on its machine are done; ends when all are."""
        for turn in range(self._turns):
            if turn == self._turn:
                yield
            dist.barrier()

    # ── states ───────────────────────────────────────────────────────────────────────────────────────

    def whole(self, state: State, weights: FlatWeights) -> State:
        self.ask(STATE)
        own = cast(ShardedWeights, weights)
        return State({name: own.whole(name, tensor) for name, tensor in state.tensors.items()}, state.scalars)

    def pieces_of(self, state: State, weights: FlatWeights) -> State:
        own = cast(ShardedWeights, weights)
        return State({name: own.piece_of(name, tensor) for name, tensor in state.tensors.items()}, state.scalars)

    @contextmanager
    def led(self, trainer: Training) -> Iterator[None]:
        """Within, the first process may ask for states, to which the others add their pieces as it does."""
        if self.rank:
            while (asked := self._heard()) != GO_ON:
                trainer.state() if asked == STATE else trainer.best()
        try:
            yield
        finally:
            self.ask(GO_ON)

    def ask(self, what: int) -> None:
        """The first process tells the others, which wait in `led`, what to do."""
        if self.rank == 0:
            dist.broadcast(torch.tensor(what, device=self.device), 0)

    def _heard(self) -> int:
        word = torch.tensor(GO_ON, device=self.device)
        dist.broadcast(word, 0)
        return int(word)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The modules that are cut by themselves: layers of one class that a Sequential, ModuleList or ModuleDict repeats
    and that consist of layers (of a Transformer its layers, of a ResNet its blocks), the outermost; and single layers
    of a Sequential with many weights. One that shares a weight with the rest of the network is left to the rest."""
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))

    def by_itself(module: nn.Module) -> bool:
        own = Counter(id(p) for _, p in module.named_parameters(remove_duplicate=False))
        return bool(own) and all(uses[each] == times for each, times in own.items())

    def is_large(module: nn.Module) -> bool:
        return sum(p.numel() for p in module.parameters()) >= LARGE

    members = [(each, holder) for each, holder in _members(model) if by_itself(each)]
    classes = Counter(type(each) for each, _ in members if _is_composite(each))
    return [
        each
        for each, holder in members
        if classes[type(each)] > 1 or (isinstance(holder, nn.Sequential) and not _is_composite(each) and is_large(each))
    ]


def _members(module: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The outermost modules that stand in a container, and that container."""
    for child in module.children():
        lists = type(child) is nn.Sequential or isinstance(child, (nn.ModuleList, nn.ModuleDict))
        if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) and not lists:
            yield child, module
        else:
            yield from _members(child)


def _is_composite(module: nn.Module) -> bool:
    return any(True for child in module.children() for _ in child.parameters())


def _give_back() -> None:
    """Let memory that blocks let go of return to the system, where glibc is what hands it out: kept for later, it was
    as much as cutting spares (a GPT of 202 MB by two processes: 1107 MB at most, 679 MB so)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, GIVEN_BACK)


def _kept(modules: Iterable[FSDPModule]) -> Iterator[Any]:
    """What `fully_shard` keeps of each weight. Before torch 2.13 a module had one group of weights at most."""
    for module in modules:
        state: Any = module._get_fsdp_state()
        for group in getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]:
            yield from group.fsdp_params if group is not None else ()
