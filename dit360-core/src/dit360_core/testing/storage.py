"""How much tensor memory a computation needs at once, counted storage by storage, whatever the allocator does."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakStorage(TorchDispatchMode):
    """Counts the bytes of all tensor storages that operators return while it is active; ``peak`` is the most at once.

    What existed before, and workspaces inside of kernels, are not counted::

        with PeakStorage() as storage:
            compute()
        print(storage.peak)
    """

    def __init__(self, *known: torch.Tensor) -> None:
        """known: tensors that existed before, inputs and weights, whose storages are not to be counted."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._seen = {x.untyped_storage().data_ptr() for x in known}
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        self.peak = max(self.peak, self._now)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if not size or address in self._seen or address in self._alive:
            return
        self._alive.add(address)
        self._now += size
        # The Python object of a storage lives as long as the storage itself.
        weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self._alive.discard(address)
        self._now -= size
