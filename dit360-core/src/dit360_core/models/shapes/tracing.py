"""How much memory and work a run takes, without running it: the real code, on tensors that have a shape and no data.

On torch's meta device every operator returns an empty tensor of the right shape, and Python frees it where it would
free the real one. What is alive at each moment is therefore what a real run holds, for any model and any size, and
nothing has to be fitted to measurements.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


@attrs.frozen(kw_only=True)
class Traced:
    """peak: the most bytes alive at once of what the run makes, its result included; weights and input are not counted.

    at: the module that was running then, by its class's path of names; "" outside of all.
    operations: floating-point operations, a multiplication and an addition being two.
    inside: those of each module that ran, by its path of names.
    """

    peak: int
    at: str
    operations: int
    inside: Mapping[str, int] = attrs.field(factory=dict)


def trace(
    run: Callable[[], Any],
    *,
    module: torch.nn.Module | None = None,
    size: Callable[[int], int] = int,
    packs: tuple[torch.dtype, ...] = (),
) -> Traced:
    """Runs something on the meta device and counts.

    module: whose submodules are told apart in ``at``.

    size: what the real device's allocator takes for a tensor of so many bytes.
    packs: dtypes in which the device's products of matrices make a copy of the second, in the order that they want.
    """
    counting = _Counting(_storages(module), size, packs)
    with ExitStack() as stack, torch.no_grad():
        if module is not None:
            stack.enter_context(_names(module, counting))
        stack.enter_context(counting)
        result = run()
        del result
    return Traced(peak=counting.peak, at=counting.at, operations=counting.operations, inside=counting.inside)


def reserve(count: int) -> torch.Tensor:
    """Bytes that something takes which is not run: alive as long as what is returned."""
    return torch.empty(count, dtype=torch.uint8, device="meta")


def count_operations(count: int) -> None:
    """Adds operations of something that is not run to the trace that is under way, if any."""
    for mode in _under_way:
        mode.operations += count


_under_way: list[_Counting] = []


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, known: set[int], size: Callable[[int], int], packs: tuple[torch.dtype, ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known, self._size, self._packs = known, size, packs
        self._alive: dict[int, int] = {}
        self._now = 0
        self.peak = 0
        self.at = ""
        self.operations = 0
        self.inside: dict[str, int] = {}
        self.running: list[str] = []

    def begin(self, name: str) -> None:
        self.running.append(name)
        self.inside[name] = self.inside.get(name, 0) - self.operations

    def end(self) -> None:
        self.inside[self.running.pop()] += self.operations

    def __enter__(self) -> Any:
        _under_way.append(self)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *exception: Any) -> Any:
        _under_way.remove(self)
        return super().__exit__(*exception)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor)
        packed = 0
        if self._packs and func._overloadpacket.__name__ in ("mm", "addmm", "bmm", "baddbmm"):
            second = [arg for arg in args if isinstance(arg, torch.Tensor)][-1]
            packed = self._size(second.numel() * second.itemsize) if second.dtype in self._packs else 0
        if self._now + packed > self.peak:
            self.peak = self._now + packed
            self.at = self.running[-1] if self.running else ""
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.operations += int(formula(*args, **kwargs, out_val=result))
        return result

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive or key in self._known:
            return
        self._alive[key] = self._size(storage.nbytes())
        self._now += self._alive[key]
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self._now -= self._alive.pop(key)


def _storages(module: torch.nn.Module | None) -> set[int]:
    tensors = [] if module is None else [*module.parameters(), *module.buffers()]
    return {tensor.untyped_storage()._cdata for tensor in tensors}


@contextmanager
def _names(module: torch.nn.Module, counting: _Counting) -> Iterator[None]:
    handles = []
    for name, child in module.named_modules():
        if name:
            handles.append(child.register_forward_pre_hook(lambda *_, name=name: counting.begin(name)))
            handles.append(child.register_forward_hook(lambda *_: counting.end()))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
