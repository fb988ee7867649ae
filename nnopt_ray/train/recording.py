"""A function of tensors, recorded once as the kernels it calls and replayed without Python's and autograd's way there.

What `record` sees is what lies under autograd and vmap: a list of kernels on plain tensors. As training a pack
of lanes keeps its weights, buffers and batches at fixed places, views of them are made once and not per replay.
A replay calls the same kernels in the same order, so its numbers are bitwise those of the function itself.

Replaying is what `torch.fx.experimental.proxy_tensor.make_fx` of such a function would do too. This one takes
1.5 to 2 s less to import (no torch._dynamo, no sympy), which is the time of a whole small search, and leaves
out the views.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


@dataclass
class _Call:
    """One kernel. Tensors in `arguments` and `results` are numbers of `_Recorder.tensors`."""

    kernel: Any
    arguments: tuple[Any, ...]
    keys: dict[str, Any]
    results: Any


@dataclass(frozen=True)
class _Number:
    """Stands for a tensor in the arguments of a call."""

    number: int


class Unrecordable(RuntimeError):
    """The function does what a replay cannot: it asks for a number of a tensor, say."""


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[_Call] = []
        self.tensors: list[Tensor] = []  # kept alive, so that no two have one id
        self.numbers: dict[int, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise entering the mode imports torch._dynamo, 1.2 s

    def number(self, tensor: Tensor) -> _Number:
        if id(tensor) not in self.numbers:
            self.numbers[id(tensor)] = len(self.tensors)
            self.tensors.append(tensor)
        return _Number(self.numbers[id(tensor)])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (aten._local_scalar_dense.default, aten.item.default):
            raise Unrecordable("it asks for the number in a tensor (item(), float(), or an if on a tensor)")
        keys = kwargs or {}
        arguments = tuple(_swap(each, self.number) for each in args)
        named = {name: _swap(each, self.number) for name, each in keys.items()}
        results = func(*args, **keys)
        self.calls.append(_Call(func, arguments, named, _swap(results, self.number)))
        return results


def _swap(value: Any, number: Callable[[Tensor], _Number]) -> Any:
    if isinstance(value, Tensor):
        return number(value)
    if isinstance(value, (list, tuple)):
        return [_swap(each, number) for each in value]
    return value


def _numbers(value: Any) -> list[int]:
    if isinstance(value, _Number):
        return [value.number]
    if isinstance(value, (list, dict, tuple)):
        return [n for each in (value.values() if isinstance(value, dict) else value) for n in _numbers(each)]
    return []


@dataclass
class Program:
    """A recorded function. Calling it does its work again on the same memory and returns its outputs."""

    kernels: int  # called in a replay
    _run: Callable[[], tuple[Tensor, ...]] = field(repr=False)

    def __call__(self) -> tuple[Tensor, ...]:
        return self._run()


def record(function: Callable[[], Sequence[Tensor]], places: Sequence[Tensor]) -> Program:
    """Run `function` once, and make a program of it.

    `places`: the tensors whose memory stays and whose content may change between replays; `function` may read
    and change them. Any other tensor that it takes from outside is a constant. Raises what the function raises,
    and Unrecordable when it cannot be replayed.
    """
    recorder = _Recorder()
    for place in places:
        recorder.number(place)
    given = len(recorder.tensors)
    with recorder:
        outputs = [_swap(each, recorder.number) for each in function()]
    return _compiled(recorder, outputs, given)


def _compiled(recorder: _Recorder, outputs: list[Any], given: int) -> Program:
    tensors = recorder.tensors
    outside, made = set(range(given)), set[int]()
    for call in recorder.calls:
        outside.update(n for n in _numbers([list(call.arguments), call.keys]) if n not in made)
        made.update(n for n in _numbers(call.results) if n not in outside)
    changed = _changed_storages(recorder.calls, tensors)
    fixed = set(outside)  # tensors at hand before a replay begins
    same: dict[int, int] = {}  # a tensor that is another one by another name
    reshaped = any(torch.Tag.inplace_view in call.kernel.tags for call in recorder.calls)
    kept: list[_Call] = []
    for call in recorder.calls:
        touched = _numbers([list(call.arguments), call.results])
        detached = _is_detach(call, tensors) and not changed & {_storage(tensors[n]) for n in touched}
        # A view that is all of what it views is a third of all calls, 5 to 15 % of a small step's time.
        if detached or (not reshaped and _is_the_same(call, tensors)):
            _rename(call, same, fixed, tensors)
        elif _before_all(call, fixed, changed, tensors):
            _again(call, tensors)
            fixed.update(_numbers(call.results))
        else:
            kept.append(call)
    needed = {same.get(n, n) for n in _numbers(outputs)}
    lines: list[_Call] = []
    for call in reversed(kept):  # what nobody needs is not done
        uses = {same.get(n, n) for n in _numbers([list(call.arguments), call.keys])}
        if _changes(call) or needed & set(_numbers(call.results)):
            lines.append(call)
            needed |= uses
    lines.reverse()
    return _program(lines, outputs, fixed, same, tensors)


def _is_detach(call: _Call, tensors: list[Tensor]) -> bool:
    if call.kernel in (aten.detach.default, aten.alias.default):
        return True
    # The batching rule of addmm multiplies the bias by 1; x * 1 is x, bit for bit, where the type stays.
    if call.kernel is not aten.mul.Scalar or call.arguments[1] != 1:
        return False
    return bool(tensors[call.arguments[0].number].dtype == tensors[call.results.number].dtype)


def _is_the_same(call: _Call, tensors: list[Tensor]) -> bool:
    if _changes(call) or not isinstance(call.results, _Number) or not call.arguments:
        return False
    if not isinstance(call.arguments[0], _Number):
        return False
    one, two = tensors[call.arguments[0].number], tensors[call.results.number]
    told = [(t.data_ptr(), _storage(t), t.shape, t.stride(), t.dtype, t.is_conj(), t.is_neg()) for t in (one, two)]
    return told[0] == told[1] and one.numel() > 0


def _again(call: _Call, tensors: list[Tensor]) -> None:
    """Make the result of a call anew, as its argument may stand for another tensor than when it was recorded."""

    def real(value: Any) -> Any:
        if isinstance(value, _Number):
            return tensors[value.number].detach()
        return [real(each) for each in value] if isinstance(value, list) else value

    results = call.kernel(*(real(each) for each in call.arguments), **{k: real(v) for k, v in call.keys.items()})
    for number, result in zip(_numbers(call.results), results if isinstance(results, list) else [results], strict=True):
        tensors[number] = result


def _rename(call: _Call, same: dict[int, int], fixed: set[int], tensors: list[Tensor]) -> None:
    (new,), old = _numbers(call.results), _numbers(call.arguments[0])[0]
    same[new] = same.get(old, old)
    tensors[new] = tensors[old]
    if old in fixed:
        fixed.add(new)


def _changes(call: _Call) -> bool:
    return bool(call.kernel._schema.is_mutable)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _changed_storages(calls: list[_Call], tensors: list[Tensor]) -> set[int]:
    found: set[int] = set()
    for call in calls:
        if _changes(call):
            positional = zip((a.name for a in call.kernel._schema.arguments), call.arguments, strict=False)
            given = {**dict(positional), **call.keys}
            for argument in call.kernel._schema.arguments:
                if argument.alias_info is not None and argument.alias_info.is_write:
                    found.update(_storage(tensors[n]) for n in _numbers(given.get(argument.name)))
    return found


def _before_all(call: _Call, fixed: set[int], changed: set[int], tensors: list[Tensor]) -> bool:
    """Whether a call can be made once, before any replay: a view of what stays, or a constant."""
    uses, results = _numbers([list(call.arguments), call.keys]), _numbers(call.results)
    if not results or any(n not in fixed for n in uses) or _changes(call):
        return False
    if call.kernel.is_view or all(_storage(tensors[r]) in {_storage(tensors[n]) for n in uses} for r in results):
        return True
    creates = call.kernel in (aten.scalar_tensor.default, aten.zeros.default, aten.ones.default, aten.full.default,
                              aten.arange.default, aten.arange.start, aten.arange.start_step,
                              aten.new_zeros.default, aten.new_ones.default, aten.zeros_like.default,
                              aten.ones_like.default, aten.full_like.default, aten.new_full.default)  # fmt: skip
    return creates and all(_storage(tensors[n]) not in changed for n in results)


class _Registers:
    """Where a replay keeps what it works with: what is there before it, then what its kernels give."""

    def __init__(self, fixed: set[int], same: dict[int, int], tensors: list[Tensor]) -> None:
        self._fixed, self._same, self._tensors = fixed, same, tensors
        self._of: dict[int, int] = {}  # tensor → its register
        self.values: list[Any] = []
        self.free: set[int] = set()  # registers that are filled in a replay

    def of(self, number: int) -> int:
        number = self._same.get(number, number)
        if number not in self._of:
            self._of[number] = len(self.values)
            if number in self._fixed:
                self.values.append(self._tensors[number].detach())
            else:
                self.free.add(len(self.values))
                self.values.append(None)
        return self._of[number]

    def constant(self, value: Any) -> int:
        self.values.append(value)
        return len(self.values) - 1

    def reader(self, value: Any) -> Callable[[list[Any]], Any]:
        """A function of the registers that gives an argument."""
        if isinstance(value, _Number):
            return itemgetter(self.of(value.number))
        if _numbers(value):
            readers = [self.reader(each) for each in value]
            return lambda values: [read(values) for read in readers]
        return itemgetter(self.constant(value))

    def readers(self, arguments: Sequence[Any]) -> Callable[[list[Any]], Sequence[Any]]:
        """A function of the registers that gives all arguments of a call."""
        if any(_numbers(each) and not isinstance(each, _Number) for each in arguments):
            readers = [self.reader(each) for each in arguments]
            return lambda values: [read(values) for read in readers]
        places = [self.of(a.number) if isinstance(a, _Number) else self.constant(a) for a in arguments]
        if len(places) > 1:
            return itemgetter(*places)
        return itemgetter(slice(places[0], places[0] + 1) if places else slice(0, 0))


def _program(
    lines: list[_Call], outputs: list[Any], fixed: set[int], same: dict[int, int], tensors: list[Tensor]
) -> Program:
    """A loop over the kernels; a tensor is let go after the last of them that uses it."""
    registers = _Registers(fixed, same, tensors)
    seen = {registers.of(n) for n in _numbers(outputs)}
    steps: list[tuple[Any, ...]] = []
    for call in reversed(lines):
        # What stays is found once: registers of `fixed` and constants are filled already.
        keyed = {key: registers.reader(each) for key, each in call.keys.items()}
        if all(registers.of(n) not in registers.free for n in _numbers(call.keys)):
            keys, keyed = {key: read(registers.values) for key, read in keyed.items()}, {}
        else:
            keys = {}
        uses = {registers.of(n) for n in _numbers([list(call.arguments), call.keys])}
        results = [registers.of(each.number) if isinstance(each, _Number) else None for each in _listed(call.results)]
        done_with = tuple((uses & registers.free) - seen)
        seen |= uses
        result = None if isinstance(call.results, list) or not results else results[0]
        steps.append((call.kernel, registers.readers(call.arguments), keys, keyed, result, results, done_with))
    steps.reverse()
    # What stands at a fixed place is copied: the next replay may write there.
    given = [(registers.of(o.number), registers.of(o.number) not in registers.free) for o in outputs]
    start = registers.values

    def run() -> tuple[Tensor, ...]:
        values = start.copy()
        for kernel, arguments, keys, keyed, result, results, done_with in steps:
            if keyed:
                keys = {key: read(values) for key, read in keyed.items()}
            found = kernel(*arguments(values), **keys)
            if result is not None:
                values[result] = found
            elif results:
                for register, each in zip(results, found, strict=True):
                    if register is not None:
                        values[register] = each
            for register in done_with:
                values[register] = None
        return tuple(values[register].clone() if copied else values[register] for register, copied in given)

    return Program(len(lines), run)


def _listed(results: Any) -> list[Any]:
    return results if isinstance(results, list) else [] if results is None else [results]
