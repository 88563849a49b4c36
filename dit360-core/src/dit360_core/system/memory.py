"""Memory that runs out, told in one sentence instead of an allocator's traceback."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from dit360_core.errors import Dit360Error, named, setting

if TYPE_CHECKING:
    import torch

_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",  # of a file that is mapped
    "not enough memory",
    "bad_alloc",
    "bad allocation",
    "alloc_failed",
    "invalid buffer size",
    # oneDNN's, which does not say why; where its kernels exist, it is memory.
    "could not create a primitive",
    "could not create a memory object",
)


class OutOfMemory(Dit360Error):
    """A device has too little memory for what was asked."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception is an allocator's, on any device; the CPU's is a plain RuntimeError."""
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError", "OutOfMemory"):
        return True
    if not isinstance(error, RuntimeError):
        return False
    # As a traceback has it, which survives a plugin's own class whose text cannot be had.
    said = "".join(traceback.format_exception_only(error)).lower()
    return any(sign in said for sign in _SIGNS)


def free_memory(device: str | torch.device) -> int:
    """Bytes that could be allocated on a device now: what is free, and what this process keeps for reuse.

    On the CPU, and on MPS, which shares its memory: what the system has, or what the control group still allows if it
    shows its limit in the usual place.
    """
    if str(device).startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return min([int(psutil.virtual_memory().available), *_left_in_control_group()])


def used_memory(device: str | torch.device) -> int:
    """Bytes that this process holds: of the system's memory, or of a device by way of torch."""
    name = str(device)
    if name.startswith("cuda"):
        import torch

        return int(torch.cuda.memory_allocated(device))
    if name == "mps":
        import torch

        return int(torch.mps.current_allocated_memory())
    return int(psutil.Process().memory_info().rss)


def room(device: str | torch.device, budget: int = 0) -> int:
    """Bytes that may be allocated now.

    budget: what the process may hold in all; 0: whatever there is.
    """
    free = free_memory(device)
    return min(free, max(0, budget - used_memory(device))) if budget else free


def _left_in_control_group() -> list[int]:
    # Containers limit memory by control groups, of which the system's own figures know nothing.
    try:
        limit = (_CONTROL_GROUP / "memory.max").read_text().strip()
        used = int((_CONTROL_GROUP / "memory.current").read_text())
        counted = dict(line.split() for line in (_CONTROL_GROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return []
    if not limit.isdigit():
        return []
    # Cached files are counted as used, and go when memory is asked for.
    return [max(0, int(limit) - used + int(counted.get("inactive_file", 0)))]


_CONTROL_GROUP = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def explain_full_memory(doing: str, device: str, help_: str | None = None) -> Iterator[None]:
    """Turns an allocator's error in this block into OutOfMemory, which says what was being done and what would help."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error) or isinstance(error, OutOfMemory):
            raise
        if help_ is None and device == "cpu":
            help_ = f"close other programs or use a smaller {named('width')}"
        elif help_ is None:
            help_ = (
                f"use {setting('offload', 'model')} or {setting('offload', 'sequential')}, a smaller {named('width')}, "
                f"or {named('attention_slice_size')} with eager attention"
            )
        raise OutOfMemory(f"There is too little memory on the {device} for {doing}; {help_}.") from error


def gib(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def give_back_freed_memory(device: str) -> None:
    """Returns what was freed to the system.

    cpu: what the C library keeps; Linux's keeps 64 MiB and every hole between blocks. cuda: what torch keeps, on the
    device and of pinned system memory. mps: what torch keeps.
    """
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
        empty_pinned = getattr(torch._C, "_host_emptyCache", None)
        if empty_pinned is not None:
            torch.cuda.synchronize()
            empty_pinned()
    elif device == "mps":
        import torch

        torch.mps.empty_cache()
    elif device == "cpu":
        trim = _malloc_trim()
        if trim is not None:
            trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    # musl, the other C library of Linux, has no such function and needs none.
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
