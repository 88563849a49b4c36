"""Bytes of a file as a tensor."""

from __future__ import annotations

import math
from pathlib import Path

import numpy
import torch

from dit360_core.errors import ModelError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""What safetensors calls the types of numbers → PyTorch's."""


def mapped(file: Path, begin: int, count: int) -> torch.Tensor:
    """``(count,)`` uint8 from a byte of a file on, read as it is used; writing to it changes no file.

    begin, count: bytes.

    Raises ModelError if the file is not there any more, or shorter.
    """
    if not count:
        return torch.empty(0, dtype=torch.uint8)
    try:
        return torch.from_numpy(numpy.memmap(file, numpy.uint8, "c", begin, (count,)))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read ({error}); see that it is still there.") from error


def numbers(file: Path, begin: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor that lies in a file from a byte on, as :func:`mapped` has it; copied where it is not aligned."""
    flat = mapped(file, begin, math.prod(shape) * dtype.itemsize)
    return (flat if begin % dtype.itemsize == 0 else flat.clone()).view(dtype).view(shape)
