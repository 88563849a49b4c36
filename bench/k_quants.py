"""Q2_K to Q6_K of GGUF, written: the gguf package reads them and does not write them.

Each number is rounded to the nearest that its block's scales allow, and scales are those of the largest and smallest
number. llama.cpp searches for scales with a smaller error, so that its files are a little better than these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

BLOCK = 256
Numbers = NDArray[Any]
Bytes = NDArray[np.uint8]

FALLBACK = {"Q6_K": "Q8_0", "Q5_K": "Q5_1", "Q4_K": "Q5_0", "Q3_K": "Q4_0", "Q2_K": "Q4_0"}
"""Type → that of rows that are no multiple of 256, as llama.cpp has it, which takes IQ4_NL for the last two."""


def encoded(matrix: Numbers, kind: str) -> Bytes:
    """``(rows, bytes)``.

    matrix: ``(rows, columns)``, of a multiple of 256.
    """
    blocks = matrix.astype(np.float32).reshape(-1, BLOCK)
    return _ENCODERS[kind](blocks).reshape(len(matrix), -1)


def check() -> None:
    """Raises AssertionError unless the gguf package reads what was written, as near as so many bits can be."""
    matrix = np.random.default_rng(0).standard_normal((64, 4 * BLOCK), dtype=np.float32)
    for kind, most in {"Q6_K": 0.02, "Q5_K": 0.04, "Q4_K": 0.08, "Q3_K": 0.16, "Q2_K": 0.34}.items():
        back = gguf.quants.dequantize(encoded(matrix, kind), gguf.GGMLQuantizationType[kind])
        off = float(np.linalg.norm(back - matrix) / np.linalg.norm(matrix))
        assert most / 2 < off < most, f"{kind}: {off:.1%}"


def _half(numbers: Numbers) -> tuple[Numbers, Bytes]:
    """Numbers ``(n,)`` as fp16 has them, and their bytes ``(n, 2)``."""
    found = numbers.astype(np.float16)[:, None]
    return found.astype(np.float32), found.view(np.uint8)


def _over(numbers: Numbers, scale: Numbers) -> Numbers:
    """Rounded to whole numbers of scales, of which some are 0."""
    found: Numbers = np.divide(numbers, scale, out=np.zeros_like(numbers + scale), where=scale != 0)
    return np.rint(found, out=found)


def _signed(blocks: Numbers, parts: int, levels: int, steps: int) -> tuple[Bytes, Numbers, Numbers]:
    """Of types without an offset: the bytes of the scale of the scales, the scales, and numbers from 0 on.

    parts: of a block.
    levels, steps: a number lies in ±levels, and a scale in ±steps.
    """
    cut = blocks.reshape(len(blocks), parts, -1)
    at = np.abs(cut).argmax(2)[..., None]
    scales = np.take_along_axis(cut, at, 2)[..., 0] / -levels  # there is one number more below 0 than above
    largest = np.take_along_axis(scales, np.abs(scales).argmax(1)[:, None], 1)[:, 0]
    whole, data = _half(largest / -steps)
    steps_of = np.clip(_over(scales, whole), -steps, steps - 1)
    numbers = np.clip(_over(cut, (whole * steps_of)[..., None].astype(np.float32)), -levels, levels - 1) + levels
    return data, steps_of.astype(np.int64), numbers.reshape(blocks.shape).astype(np.int64)


def _offset(blocks: Numbers, parts: int, levels: int, steps: int) -> tuple[Bytes, Bytes, Numbers, Numbers, Numbers]:
    """Of types with one: the bytes of the two scales of scales, scales and offsets, and numbers from 0 to levels."""
    cut = blocks.reshape(len(blocks), parts, -1)
    low, high = np.minimum(cut.min(2), 0), cut.max(2)
    scales, offsets = np.maximum(high - low, 0) / levels, -low
    (whole, data), (least, more) = (_half(each.max(1) / steps) for each in (scales, offsets))
    scale_of, offset_of = (np.clip(_over(each, of), 0, steps) for each, of in ((scales, whole), (offsets, least)))
    shifted = cut + (least * offset_of)[..., None].astype(np.float32)
    numbers = np.clip(_over(shifted, (whole * scale_of)[..., None].astype(np.float32)), 0, levels)
    return data, more, scale_of.astype(np.int64), offset_of.astype(np.int64), numbers.reshape(blocks.shape).astype(int)


def _together(numbers: Numbers, bits: int, axis: int) -> Bytes:
    """Along an axis so many bits of each beside each other in a byte, the first lowest."""
    places = np.arange(numbers.shape[axis]) * bits
    shape = [1] * numbers.ndim
    shape[axis] = -1
    found: Bytes = (numbers << places.reshape(shape)).sum(axis).astype(np.uint8)
    return found.reshape(len(numbers), -1)


def _six_bits(scales: Numbers, offsets: Numbers) -> Bytes:
    """Eight scales and eight offsets of six bits in twelve bytes."""
    first = scales[:, :4] | (scales[:, 4:] >> 4) << 6
    second = offsets[:, :4] | (offsets[:, 4:] >> 4) << 6
    third = scales[:, 4:] & 15 | (offsets[:, 4:] & 15) << 4
    return np.concatenate([first, second, third], 1).astype(np.uint8)


def _q6(blocks: Numbers) -> Bytes:
    data, scales, numbers = _signed(blocks, 16, 32, 128)
    low = _together((numbers & 15).reshape(len(blocks), 2, 2, 64), 4, 2)
    high = _together((numbers >> 4).reshape(len(blocks), 2, 4, 32), 2, 2)
    return np.concatenate([low, high, scales.astype(np.int8).view(np.uint8), data], 1)


def _q5(blocks: Numbers) -> Bytes:
    data, more, scales, offsets, numbers = _offset(blocks, 8, 31, 63)
    high = _together((numbers >> 4).reshape(len(blocks), 8, 32), 1, 1)
    low = _together((numbers & 15).reshape(len(blocks), 4, 2, 32), 4, 2)
    return np.concatenate([data, more, _six_bits(scales, offsets), high, low], 1)


def _q4(blocks: Numbers) -> Bytes:
    data, more, scales, offsets, numbers = _offset(blocks, 8, 15, 63)
    low = _together(numbers.reshape(len(blocks), 4, 2, 32), 4, 2)
    return np.concatenate([data, more, _six_bits(scales, offsets), low], 1)


def _q3(blocks: Numbers) -> Bytes:
    data, scales, numbers = _signed(blocks, 16, 4, 32)
    scales = scales + 32
    high = _together((numbers >> 2).reshape(len(blocks), 8, 32), 1, 1)
    low = _together((numbers & 3).reshape(len(blocks), 2, 4, 32), 2, 2)
    nibbles = _together((scales & 15).reshape(len(blocks), 2, 8), 4, 1)
    pairs = _together((scales >> 4).reshape(len(blocks), 4, 4), 2, 1)
    return np.concatenate([high, low, nibbles, pairs, data], 1)


def _q2(blocks: Numbers) -> Bytes:
    data, more, scales, offsets, numbers = _offset(blocks, 16, 3, 15)
    low = _together(numbers.reshape(len(blocks), 2, 4, 32), 2, 2)
    return np.concatenate([(scales | offsets << 4).astype(np.uint8), low, data, more], 1)


_ENCODERS: dict[str, Callable[[Numbers], Bytes]] = {"Q6_K": _q6, "Q5_K": _q5, "Q4_K": _q4, "Q3_K": _q3, "Q2_K": _q2}
