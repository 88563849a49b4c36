"""A form of weights is tried on a few rows before a model computes from it, as every other plugin is."""

from __future__ import annotations

from pathlib import Path

import torch

from dit360_core.errors import ModelError, one_line
from dit360_core.models.weights.forms.packed import Packed
from dit360_core.system.memory import is_out_of_memory

_ROWS = 3
_CLOSE = 1e-5
"""By which a row alone may differ from the same among others, as a share of the largest: it may be summed otherwise."""


def check_packed(packed: Packed, name: str, file: Path, reader: str) -> None:
    """Raises ModelError unless the first rows of a matrix are turned back to the same numbers every time.

    name: of the matrix.
    file: where it is.
    reader: address of the form that reads it.
    """
    try:
        wrong = _wrong(packed.rows(0, min(_ROWS, packed.shape[0])).kept())
    except (KeyboardInterrupt, ModelError):
        raise
    except BaseException as error:  # a plugin's, whatever it is
        if is_out_of_memory(error):
            raise
        wrong = f"turning it back fails ({one_line(error)})"
    if wrong:
        raise ModelError(
            f"{reader} cannot be used to read {file}: of {name} in {packed.form}, {wrong}; tell its author, or give "
            "another file."
        )


def _wrong(packed: Packed) -> str:
    before = [tensor.clone() for tensor in packed.tensors]
    numbers = packed.decode(packed.tensors, packed.shape)
    if tuple(numbers.shape) != packed.shape or not numbers.is_floating_point():
        return f"it makes {tuple(numbers.shape)} {numbers.dtype} of {packed.shape}"
    numbers = numbers.float().clone()
    if not bool(numbers.isfinite().all()):
        return "numbers come out that are not finite, as of a damaged file"
    room = _CLOSE * float(numbers.abs().max())
    again = packed.decode(packed.tensors, packed.shape).float()
    if not bool(((again - numbers).abs() <= room).all()):
        return "it makes other numbers when it is asked again"
    last = packed.rows(packed.shape[0] - 1, packed.shape[0])
    alone = last.decode(last.tensors, last.shape).float()
    if alone.shape != numbers[-1:].shape or not bool(((alone - numbers[-1:]).abs() <= room).all()):
        return "a row alone is turned back to other numbers than among others"
    bits = (
        torch.equal(new.view(torch.uint8), old.view(torch.uint8))
        for new, old in zip(packed.tensors, before, strict=True)
    )
    return "" if all(bits) else "turning it back changes what is stored"
