"""Numbers to blocks of Q2_K to Q6_K, which the gguf package reads and does not write.

A block has 256 numbers in 8 or 16 pieces. Each piece has a scale in a few bits, and in Q2_K, Q4_K and Q5_K an offset;
the block has one scale for the scales and one for the offsets. How they lie in its bytes is what ggml's
``dequantize_row_q*_K`` reads. For each piece, scales around that of its largest number are tried, and the one with the
least squared error is kept, as llama.cpp does; here every number counts alike.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 256
_AT_ONCE = 2**19
"""Numbers that are worked on together: as many as stay in a processor's cache, with what is made of them."""


def encoded(matrix: Tensor, kind: str) -> Tensor:
    """``(rows, bytes)`` uint8.

    matrix: ``(rows, columns)`` float32, of a multiple of 256 columns.
    kind: Q2_K to Q6_K.
    """
    blocks = matrix.reshape(-1, BLOCK)
    pieces = [_ENCODERS[kind](some) for some in torch.split(blocks, _AT_ONCE // BLOCK)]
    return torch.cat(pieces).reshape(len(matrix), -1)


# --------------------------------------------------------------------------------------------------------------- search


def _best_scales(pieces: Tensor, levels: int) -> Tensor:
    """``(n, parts)``: of pieces ``(n, parts, numbers)`` that lie in −levels … levels − 1 times their scale."""
    largest = pieces.gather(-1, pieces.abs().argmax(-1, keepdim=True))
    scale, best = torch.zeros_like(largest), torch.zeros_like(largest)
    for more in range(-9, 10):
        # There is one number more below 0 than above, and the largest gets it.
        q = (
            (pieces * _over(torch.full_like(largest, -levels - more / 10), largest))
            .round_()
            .clamp_(-levels, levels - 1)
        )
        product, square = (pieces * q).sum(-1, keepdim=True), q.square().sum(-1, keepdim=True)
        found = _over(product, square)
        gain = found * product  # by which the squared error is less than that of zeros
        scale, best = torch.where(gain > best, found, scale), torch.maximum(gain, best)
    return scale.squeeze(-1)


def _best_pairs(pieces: Tensor, levels: int, least: int, tries: int) -> tuple[Tensor, Tensor]:
    """Scales and offsets ``(n, parts)`` of pieces that are 0 … levels times the scale, less the offset.

    least, tries: of inverse scales tried: so many tenths of a level below that of the whole range, and how many.
    """
    count = pieces.shape[-1]
    low, high = pieces.amin(-1, keepdim=True).clamp_max_(0), pieces.amax(-1, keepdim=True)
    total = pieces.sum(-1, keepdim=True)
    scale, offset = torch.zeros_like(low), -low
    best = torch.full_like(low, torch.inf)
    for number in range(tries):
        inverse = _over(torch.full_like(low, levels + (number - least) / 10), high - low)
        q = ((pieces - low) * inverse).round_().clamp_(0, levels)
        sums, squares = q.sum(-1, keepdim=True), q.square().sum(-1, keepdim=True)
        products = (pieces * q).sum(-1, keepdim=True)
        # The line of least squares through (q, number).
        determinant = count * squares - sums.square()
        slope = _over(count * products - total * sums, determinant)
        start = _over(squares * total - sums * products, determinant)
        above = (start > 0) | (determinant == 0)  # offsets cannot be negative
        slope, start = torch.where(above, _over(products, squares), slope), torch.where(above, 0, start)
        off = slope * (slope * squares + 2 * start * sums - 2 * products) + start * (count * start - 2 * total)
        better = (off < best) & (slope > 0)
        best = torch.where(better, off, best)
        scale, offset = torch.where(better, slope, scale), torch.where(better, -start, offset)
    return scale.squeeze(-1), offset.squeeze(-1)


def _over(numbers: Tensor, by: Tensor) -> Tensor:
    """The quotient, and 0 where ``by`` is."""
    return torch.where(by == 0, 0, numbers / torch.where(by == 0, 1, by))


def _half(numbers: Tensor) -> Tensor:
    """As fp16 has them, in float32."""
    return numbers.clamp(-65504, 65504).half().float()


# --------------------------------------------------------------------------------------------------------------- blocks


def _signed(blocks: Tensor, parts: int, levels: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """For types without an offset: the scale of the scales, the scales, and the numbers, which begin at 0.

    parts: of a block.
    levels, steps: a number lies in ±levels, and a scale in ±steps.
    """
    cut = blocks.view(len(blocks), parts, -1)
    scales = _best_scales(cut, levels)
    largest = scales.gather(1, scales.abs().argmax(1, keepdim=True))
    whole = _half(largest / -steps)
    steps_of = _over(scales, whole).round_().clamp_(-steps, steps - 1)

    def numbers(whole: Tensor) -> Tensor:
        return _over(cut, (whole * steps_of)[..., None]).round_().clamp_(-levels, levels - 1)

    times = numbers(whole) * steps_of[..., None]
    whole = _half(_over((cut * times).sum((1, 2)), times.square().sum((1, 2))))[:, None]
    return whole, steps_of, (numbers(whole) + levels).view_as(blocks)


def _offset(
    blocks: Tensor, parts: int, levels: int, steps: int, least: int, tries: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """For types with an offset: scales of scales and of offsets, scales, offsets, and numbers from 0 to levels."""
    cut = blocks.view(len(blocks), parts, -1)
    scales, offsets = _best_pairs(cut, levels, least, tries)
    of_scales, of_offsets = (_half(each.amax(1, keepdim=True) / steps) for each in (scales, offsets))
    scale_of, offset_of = (
        _over(each, of).round_().clamp_(0, steps) for each, of in ((scales, of_scales), (offsets, of_offsets))
    )

    def numbers() -> Tensor:
        shifted = cut + (of_offsets * offset_of)[..., None]
        return _over(shifted, (of_scales * scale_of)[..., None]).round_().clamp_(0, levels)

    # The two scales of the block, once more by least squares, now that all below them is rounded.
    up, down = numbers() * scale_of[..., None], -offset_of[..., None].expand_as(cut)
    uu, ud, dd = ((one * other).sum((1, 2)) for one, other in ((up, up), (up, down), (down, down)))
    ux, dx = ((one * cut).sum((1, 2)) for one in (up, down))
    determinant = uu * dd - ud.square()
    whole = determinant > 1e-3 * uu * dd
    new_scales = torch.where(whole, _over(dd * ux - ud * dx, determinant), of_scales[:, 0])
    new_offsets = torch.where(whole, _over(uu * dx - ud * ux, determinant), of_offsets[:, 0])
    of_scales, of_offsets = _half(new_scales.clamp_min(0))[:, None], _half(new_offsets.clamp_min(0))[:, None]
    return of_scales, of_offsets, scale_of, offset_of, numbers().view_as(blocks)


# ---------------------------------------------------------------------------------------------------------------- bytes


def _bytes(numbers: Tensor) -> Tensor:
    """Of fp16 numbers ``(n, 1)``: ``(n, 2)``."""
    return numbers.half().view(torch.uint8)


def _together(numbers: Tensor, bits: int, axis: int) -> Tensor:
    """Along an axis so many bits of each beside each other in a byte, the first lowest: ``(n, bytes)``."""
    pieces = numbers.unbind(axis)
    found = pieces[0].clone()
    for place, piece in enumerate(pieces[1:], 1):
        found |= piece << (place * bits)
    return found.reshape(len(numbers), -1)


def _six_bits(scales: Tensor, offsets: Tensor) -> Tensor:
    """Eight scales and eight offsets of six bits in twelve bytes."""
    scales, offsets = scales.to(torch.uint8), offsets.to(torch.uint8)
    first = scales[:, :4] | (scales[:, 4:] >> 4) << 6
    second = offsets[:, :4] | (offsets[:, 4:] >> 4) << 6
    third = scales[:, 4:] & 15 | (offsets[:, 4:] & 15) << 4
    return torch.cat([first, second, third], 1)


def _q6(blocks: Tensor) -> Tensor:
    whole, scales, numbers = _signed(blocks, 16, 32, 128)
    numbers = numbers.to(torch.uint8)
    low = _together((numbers & 15).view(-1, 2, 2, 64), 4, 2)
    high = _together((numbers >> 4).view(-1, 2, 4, 32), 2, 2)
    return torch.cat([low, high, scales.to(torch.int8).view(torch.uint8), _bytes(whole)], 1)


def _q5(blocks: Tensor) -> Tensor:
    of_scales, of_offsets, scales, offsets, numbers = _offset(blocks, 8, 31, 63, 5, 16)
    numbers = numbers.to(torch.uint8)
    high = _together((numbers >> 4).view(-1, 8, 32), 1, 1)
    low = _together((numbers & 15).view(-1, 4, 2, 32), 4, 2)
    return torch.cat([_bytes(of_scales), _bytes(of_offsets), _six_bits(scales, offsets), high, low], 1)


def _q4(blocks: Tensor) -> Tensor:
    of_scales, of_offsets, scales, offsets, numbers = _offset(blocks, 8, 15, 63, 10, 21)
    low = _together(numbers.to(torch.uint8).view(-1, 4, 2, 32), 4, 2)
    return torch.cat([_bytes(of_scales), _bytes(of_offsets), _six_bits(scales, offsets), low], 1)


def _q3(blocks: Tensor) -> Tensor:
    whole, scales, numbers = _signed(blocks, 16, 4, 32)
    numbers, scales = numbers.to(torch.uint8), (scales + 32).to(torch.uint8)
    high = _together((numbers >> 2).view(-1, 8, 32), 1, 1)
    low = _together((numbers & 3).view(-1, 2, 4, 32), 2, 2)
    nibbles = _together((scales & 15).view(-1, 2, 8), 4, 1)
    pairs = _together((scales >> 4).view(-1, 4, 4), 2, 1)
    return torch.cat([high, low, nibbles, pairs, _bytes(whole)], 1)


def _q2(blocks: Tensor) -> Tensor:
    of_scales, of_offsets, scales, offsets, numbers = _offset(blocks, 16, 3, 15, 5, 16)
    low = _together(numbers.to(torch.uint8).view(-1, 2, 4, 32), 2, 2)
    both = scales.to(torch.uint8) | offsets.to(torch.uint8) << 4
    return torch.cat([both, low, _bytes(of_scales), _bytes(of_offsets)], 1)


_ENCODERS: dict[str, Callable[[Tensor], Tensor]] = {"Q6_K": _q6, "Q5_K": _q5, "Q4_K": _q4, "Q3_K": _q3, "Q2_K": _q2}
