"""What an object holds in tensors, whatever it calls them."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType, ModuleType
from typing import Any

import torch


def tensor_bytes(holder: Any) -> int:
    """Bytes of all tensors that an object holds, as attributes, in containers or other objects, each storage once."""
    storages: dict[int, int] = {}
    seen: set[int] = set()
    waiting: list[Any] = [holder]
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, type | ModuleType):
            continue
        seen.add(id(found))
        if isinstance(found, torch.Tensor):
            # One in a kernel's own layout has no storage to look at.
            plain = found.layout is torch.strided
            size = found.untyped_storage().nbytes() if plain else found.numel() * found.element_size()
            storages[found.untyped_storage().data_ptr() if plain else id(found)] = size
        if isinstance(found, FunctionType):
            waiting += [cell.cell_contents for cell in found.__closure__ or () if not _empty(cell)]
            continue
        if isinstance(found, Mapping):
            waiting += found.values()
        elif isinstance(found, list | tuple | set | frozenset):
            waiting += found
        waiting += getattr(found, "__dict__", {}).values()
        slots = getattr(type(found), "__slots__", ())
        waiting += [getattr(found, name, None) for name in slots if name != "__weakref__"]
    return sum(storages.values())


def _empty(cell: Any) -> bool:
    try:
        return cell.cell_contents is None
    except ValueError:
        return True
