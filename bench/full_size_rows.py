"""A row of ``bench/full_size.py``: measured, or told why not."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from typing import Any

import torch
from dit360_core.errors import Dit360Error
from dit360_core.system.memory import is_out_of_memory


def row(work: Any, what: str, measure: Callable[[], dict[str, Any]]) -> None:
    """One row, unless it is there already. What it raises is told; what leaves the device unusable ends the process."""
    if not work.is_left(what):
        return
    try:
        found = measure()
    except Exception as error:
        work.tell(what, failure(error))
        if "CUDA error" in str(error):  # each call would fail from now on
            raise
    else:
        work.tell(what, found)
    finally:
        free()


def free() -> None:
    """A pipeline is a circle of references: without this a card would hold each until Python looks."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def failure(error: BaseException) -> dict[str, Any]:
    """Of what did not work: what cannot be had here is skipped, the rest has failed."""
    if isinstance(error, Dit360Error | ImportError):
        return {"skipped": str(error)}
    told = "".join(traceback.format_exception(error)[-6:])[-1500:]
    if is_out_of_memory(error):
        return {"failed": "out of memory", "traceback": told}
    said = str(error).strip().partition("\n")[0]
    return {"failed": f"{type(error).__name__}: {said}", "traceback": told}
