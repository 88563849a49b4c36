"""What is kept and what is computed twice: from an autoencoder's steps and a picture's size to a schedule.

Between two steps a picture must exist once, since group normalization needs all of it before the next step begins.
What can be saved is inside a step: a residual block's middle, or an upsampled picture, can be kept (memory) or computed
again in every pass that needs it (time). Each group of steps has a few such ways; a schedule takes, under a bound for
the memory, the way that computes least for each group, which is the optimum, since the peak is the largest of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import attrs

from dit360_core.sphere.vae.steps import Attention, Convolution, Residual, Step

Level = Literal["stored", "mixed", "recomputed", "offloaded"]
LEVELS: tuple[Level, ...] = ("stored", "mixed", "recomputed", "offloaded")
"""From fast to small. stored: nothing is computed twice. recomputed: the least memory. mixed: half way between.
offloaded: as stored, but what is kept lies in system memory."""

SMALLEST_WORK = 32 * 2**20
"""Bytes: smaller working sets cost time and save nothing that shows."""
WORK_SHARE = 16
"""The working set may be this fraction of what is kept."""
HOLES = 1.75
"""What an allocator takes for a working set of 1, since blocks of all sizes come and go. Measured: bench/decode.py."""
SCORES = 2**26
"""Attention scores at once, for kernels that keep them."""
SLABS = 64
"""What is kept is held in about so many blocks …"""
SMALLEST_SLAB = 2**20
"""… of at least so many bytes."""


@attrs.frozen(kw_only=True, eq=False)
class Way:
    """How one or two steps are run.

    mode: ``plain`` (a convolution), ``attention``, ``stored`` or ``recomputed`` (a residual block whose middle is),
    ``half`` and ``whole`` (a convolution and a residual block: only the convolution is computed again, or both).
    kept: elements that exist at the worst moment.
    on_device: of which so many cannot be offloaded.
    work_per_row, work_fixed: elements of scratch for each input row taken at once, and beside that.
    """

    mode: Literal["plain", "attention", "stored", "recomputed", "half", "whole"]
    steps: tuple[Step, ...]
    size: tuple[int, int]
    kept: int
    multiplications: int
    work_per_row: int
    work_fixed: int
    on_device: int = 0

    @property
    def row_in(self) -> int:
        """Elements of a row of the input."""
        step = self.steps[0]
        if isinstance(step, Attention):
            return step.channels * self.size[1]
        first = step.first if isinstance(step, Residual) else step
        return first.channels_in * self.size[1]

    @property
    def widest_row(self) -> int:
        """Elements of the largest row that is kept."""
        rows, size = [], self.size
        for step in self.steps:
            if isinstance(step, Attention):
                rows.append(step.channels * size[1])
            elif isinstance(step, Residual):
                rows.append(max(step.first.channels_out, step.second.channels_out) * size[1])
            else:
                size = step.size_out(*size)
                rows.append(step.channels_out * size[1])
        return max(rows)


@attrs.frozen(kw_only=True)
class Schedule:
    """One way for each group of steps.

    rows: of the input, that each takes at once. Bytes for one sample.

    peak_bytes: the most memory that exists at once beside weights and input, predicted.
    """

    level: Level
    ways: tuple[Way, ...] = attrs.field(repr=False)
    rows: tuple[int, ...]
    tile_width: int
    picture: tuple[int, int]
    size_out: tuple[int, int]
    channels_out: int
    multiplications: int
    slab_bytes: int
    kept_bytes: int
    peak_bytes: int


def make_schedule(
    steps: Sequence[Step],
    height: int,
    width: int,
    itemsize: int,
    level: Level,
    *,
    tile_size: int,
    at_least_two: bool = False,
    scores: bool = False,
) -> Schedule:
    """A schedule for an input of ``height × width`` (latent or pixel columns, by the steps).

    itemsize: bytes of a number.
    tile_size: largest side of what is computed at once, in pixels of the picture.
    at_least_two: cut the picture into at least two tiles, however small it is.
    scores: whether the device's kernel for attention keeps scores.
    """
    sizes = _sizes(steps, height, width)
    picture, last = max(sizes[0], sizes[-1]), steps[-1]
    assert isinstance(last, Convolution)
    groups = list(_groups(steps, sizes, scores))
    ways = _choose(groups, level)
    kept = max(way.kept for way in ways) * itemsize
    work = max(SMALLEST_WORK, kept // WORK_SHARE)
    row = max(way.widest_row for way in ways) * itemsize
    slab = -(-max(kept // SLABS, row, SMALLEST_SLAB) // row) * row
    rows = tuple(
        # What is read from a slab ends where the slab does.
        min(_rows(way, work // itemsize, tile_size, picture, at_least_two), slab // itemsize // way.row_in)
        for way in ways
    )
    held = [way.on_device if level == "offloaded" else _in_slabs(way, slab // itemsize) for way in ways]
    scratch = [int(HOLES * (way.work_per_row * n + way.work_fixed)) for way, n in zip(ways, rows, strict=True)]
    peak = max(map(sum, zip(held, scratch, strict=True)))
    return Schedule(
        level=level,
        ways=ways,
        rows=rows,
        tile_width=tile_size,
        picture=picture,
        size_out=sizes[-1],
        channels_out=last.channels_out,
        multiplications=sum(way.multiplications for way in ways),
        slab_bytes=slab,
        kept_bytes=kept,
        peak_bytes=peak * itemsize,
    )


def size_after(steps: Sequence[Step], height: int, width: int) -> tuple[int, int]:
    """Height and width of what the steps make of ``height × width``."""
    return _sizes(steps, height, width)[-1]


def predict_whole(steps: Sequence[Step], height: int, width: int, itemsize: int, *, scores: bool = False) -> int:
    """Bytes that one sample in one piece takes at its worst, beside weights and input; rather too much than too little.

    At a convolution the input is there once for the residual, once normalized and activated, once padded, and on a CPU
    input and output once more in the order that the kernel wants.
    """
    worst = 0
    for step, size in zip(steps, _sizes(steps, height, width), strict=False):
        if isinstance(step, Attention):
            kept = 2 * (size[0] * size[1]) ** 2 if scores else 0
            worst = max(worst, 5 * _elements(step.channels, size) + kept)
            continue
        first = step.first if isinstance(step, Residual) else step
        inner = (2 * size[0], 2 * size[1]) if first.upsample else size
        out = _elements(first.channels_out, first.size_out(*size))
        worst = max(worst, _elements(first.channels_in, size) + 3 * _elements(first.channels_in, inner) + 2 * out)
    return worst * itemsize


def largest_tensor(steps: Sequence[Step], height: int, width: int) -> int:
    """Elements of the largest tensor that one sample in one piece needs."""
    sizes = _sizes(steps, height, width)
    largest = 0
    for step, size, after in zip(steps, sizes, sizes[1:], strict=False):
        if not isinstance(step, Attention):
            layer = step.first if isinstance(step, Residual) else step
            inner = (2 * size[0], 2 * size[1]) if layer.upsample else size
            largest = max(largest, _elements(layer.channels_in, inner), _elements(layer.channels_out, after))
    return largest


def _sizes(steps: Sequence[Step], height: int, width: int) -> list[tuple[int, int]]:
    sizes = [(height, width)]
    for step in steps:
        sizes.append(step.size_out(*sizes[-1]) if isinstance(step, Convolution) else sizes[-1])
    return sizes


def _in_slabs(way: Way, slab: int) -> int:
    """Elements of the slabs that hold what is kept: whole rows in each, and up to three that are not full."""
    used = slab // way.widest_row * way.widest_row
    return way.kept * slab // used + 3 * slab


def _rows(way: Way, work: int, tile_size: int, picture: tuple[int, int], at_least_two: bool) -> int:
    height = way.size[0]
    fitting = work // max(1, way.work_per_row)
    # The last band of a chain of convolutions is up to two rows of the input higher than the others.
    in_tile = tile_size * height // picture[0] - 2
    return max(1, min(fitting, in_tile, -(-height // 2) if at_least_two else height))


# ------------------------------------------------------------------------------------------------ choosing the ways


def _groups(steps: Sequence[Step], sizes: Sequence[tuple[int, int]], scores: bool) -> Iterator[list[tuple[Way, ...]]]:
    """For each group of one or two steps, all ways to run it."""
    i = 0
    while i < len(steps):
        step, size = steps[i], sizes[i]
        given = i == 0
        after = steps[i + 1] if i + 1 < len(steps) else None
        if isinstance(step, Attention):
            yield [(_attention(step, size, scores),)]
        elif isinstance(step, Residual):
            yield [(way,) for way in _residual(step, size)]
        elif isinstance(after, Residual) and step.kernel > 1:
            plain = _convolution(step, size, given)
            yield [
                *((plain, way) for way in _residual(after, sizes[i + 1])),
                *((way,) for way in _convolution_and_residual(step, after, size, given)),
            ]
            i += 1
        else:
            yield [(_convolution(step, size, given),)]
        i += 1


def _choose(groups: Sequence[list[tuple[Way, ...]]], level: Level) -> tuple[Way, ...]:
    def kept(ways: tuple[Way, ...]) -> int:
        return max(way.kept for way in ways)

    def cheapest(bound: float) -> tuple[Way, ...]:
        chosen = []
        for group in groups:
            fitting = [ways for ways in group if kept(ways) <= bound] or [min(group, key=kept)]
            chosen.append(min(fitting, key=lambda ways: (sum(w.multiplications for w in ways), kept(ways))))
        return tuple(way for ways in chosen for way in ways)

    fast = cheapest(float("inf"))
    if level in ("stored", "offloaded"):
        return fast
    smallest = max(min(kept(ways) for ways in group) for group in groups)
    bound = smallest if level == "recomputed" else (kept(fast) + smallest) // 2
    return cheapest(bound)


# ------------------------------------------------------------------------------------------------- what a way costs


def _elements(channels: int, size: tuple[int, int]) -> int:
    return channels * size[0] * size[1]


def _multiplications(layer: Convolution, size: tuple[int, int]) -> int:
    rows, columns = layer.size_out(*size)
    return layer.multiplications * rows * columns


def _convolution(step: Convolution, size: tuple[int, int], given: bool) -> Way:
    out = _elements(step.channels_out, step.size_out(*size))
    into = 0 if given else _elements(step.channels_in, size)
    per_row, fixed = _stream_work([step], size)
    return Way(
        mode="plain",
        steps=(step,),
        size=size,
        # The input goes as the output comes.
        kept=max(into, out),
        multiplications=_multiplications(step, size),
        work_per_row=per_row,
        work_fixed=fixed,
    )


def _attention(step: Attention, size: tuple[int, int], scores: bool) -> Way:
    pixels, whole = size[0] * size[1], _elements(step.channels, size)
    # Keys and values of all pixels; queries, their result and, in some kernels, their scores for a few.
    return Way(
        mode="attention",
        steps=(step,),
        size=size,
        kept=3 * whole,
        multiplications=4 * step.channels * whole + 2 * pixels * whole,
        work_per_row=4 * step.channels * size[1],
        # Scores and their exponentials.
        work_fixed=2 * min(SCORES, pixels * pixels) if scores else 0,
        on_device=2 * whole,
    )


def _residual(step: Residual, size: tuple[int, int]) -> Iterator[Way]:
    first, second = step.first, step.second
    into, middle = _elements(first.channels_in, size), _elements(first.channels_out, size)
    out = _elements(second.channels_out, size)
    once = _multiplications(first, size) + _multiplications(second, size)
    # With a shortcut of its own the input need not wait for the middle: both are made from it as it goes.
    waiting = into + middle
    if step.shortcut is not None:
        once += _multiplications(step.shortcut, size)
        waiting = max(into, middle + out)
    per_row, fixed = _stream_work([first], size)
    if step.shortcut is not None:
        per_row += second.channels_out * size[1]
    yield Way(
        mode="stored",
        steps=(step,),
        size=size,
        kept=max(waiting, out),
        multiplications=once,
        work_per_row=per_row,
        work_fixed=fixed,
    )
    per_row, fixed = _stream_work([first, second], size, aside=second.channels_out)
    yield Way(
        mode="recomputed",
        steps=(step,),
        size=size,
        kept=max(into, out),
        multiplications=once + _multiplications(first, size),
        work_per_row=per_row,
        work_fixed=fixed,
    )


def _convolution_and_residual(conv: Convolution, block: Residual, size: tuple[int, int], given: bool) -> Iterator[Way]:
    inner = conv.size_out(*size)
    into = 0 if given else _elements(conv.channels_in, size)
    stored, recomputed = _residual(block, inner)
    middle, out = _elements(block.first.channels_out, inner), _elements(block.second.channels_out, inner)
    # Once for each of: the moments, the middle, the shortcut.
    thrice = 3 * _multiplications(conv, size)
    # The last pass runs the second convolution beside the one before the block.
    per_row, fixed = _stream_work([conv, block.first, block.second], size, aside=block.second.channels_out)
    yield Way(
        mode="half",
        steps=(conv, block),
        size=size,
        kept=max(into + middle, out),
        multiplications=thrice + stored.multiplications,
        work_per_row=per_row,
        work_fixed=fixed,
    )
    yield Way(
        mode="whole",
        steps=(conv, block),
        size=size,
        kept=max(into, out),
        multiplications=thrice + recomputed.multiplications,
        work_per_row=per_row,
        work_fixed=fixed,
    )


def _stream_work(chain: Sequence[Convolution], size: tuple[int, int], *, aside: int = 0) -> tuple[int, int]:
    """Elements of scratch for a chain of convolutions: for each input row, and beside that.

    aside: channels of a band that waits meanwhile for the end of the chain.
    """
    one, two = (_stream_peak(chain, size, aside, rows) for rows in (1, 2))
    # Each is there twice: channels last in memory, and as the kernel wants it.
    weights = 2 * sum(
        layer.channels_in * layer.channels_out * (16 if layer.upsample else layer.kernel**2) for layer in chain
    )
    return two - one, max(0, 2 * one - two) + weights


def _stream_peak(chain: Sequence[Convolution], size: tuple[int, int], aside: int, rows: int) -> int:
    # The input band as such belongs to what is kept, but it is given up only after the output is there.
    width, held, peak = size[1], 0, 0
    band = chain[0].channels_in * rows * width
    for layer in chain:
        halo = layer.kernel - 1
        buffer = layer.channels_in * (rows + halo) * (width + halo) if halo else 0
        made = band if layer.norm is not None or layer.act is not None else 0
        rows, width = layer.size_out(rows, width) if not halo else (_rows_out(layer, rows), layer.size_out(1, width)[1])
        out = layer.channels_out * rows * width
        copies = 2 * out if layer.upsample else out
        held += layer.channels_in * halo * (width + halo)
        peak = max(peak, held + band + max(made + buffer, buffer + copies))
        band = out
    return peak + (aside * (rows + 2) * width)


def _rows_out(layer: Convolution, rows: int) -> int:
    return max(1, rows * (2 if layer.upsample else 1) // layer.stride)
