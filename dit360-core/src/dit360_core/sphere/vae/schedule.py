"""What is kept and what is computed twice: from an autoencoder's steps and a picture's size to a schedule.

Between two steps a picture must exist once, since group normalization needs all of it before the next step begins.
What can be saved is inside a step: a residual block's middle, or an upsampled picture, can be kept (memory) or computed
again in every pass that needs it (time). Each group of steps has a few such ways; a schedule takes, under a bound for
the memory, the way that computes least for each group, which is the optimum, since the peak is the largest of theirs.
Where normalization looks at each pixel alone, nothing need exist between steps, and a picture streams through many of
them (``streaming.py``): that computes nothing twice and keeps least, so there levels are alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import attrs

from dit360_core.sphere.vae.steps import Attention, Convolution, Residual, Step
from dit360_core.sphere.vae.streaming import Limits
from dit360_core.sphere.vae.ways import Way, elements, given_rows, groups_of

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
HOLES_STREAMED = 2.0
"""The same where a picture streams through many layers: holes among small blocks are about as large as they are."""
SLABS = 64
"""What is kept is held in about so many blocks …"""
SMALLEST_SLAB = 2**20
"""… of at least so many bytes."""


@attrs.frozen(kw_only=True)
class Schedule:
    """One way for each group of steps.

    rows: of the input, that each takes at once. Bytes for one sample.

    alive_bytes: what tensors take at the worst moment, weights and input not counted.
    peak_bytes: the same with what an allocator loses: the memory that is predicted.
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
    alive_bytes: int
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
    limits = Limits(tile_size=tile_size, picture=picture, at_least_two=at_least_two)
    groups = list(groups_of(steps, sizes, scores, limits))
    ways = _choose(groups, level)
    kept = max(way.kept for way in ways) * itemsize
    work = max(SMALLEST_WORK, kept // WORK_SHARE)
    row = max(way.widest_row for way in ways) * itemsize
    slab = -(-max(kept // SLABS, row, SMALLEST_SLAB) // row) * row
    rows = tuple(
        # What is read from a slab ends where the slab does.
        min(_rows(way, work // itemsize, limits), slab // itemsize // way.row_in)
        for way in ways
    )
    ways = tuple(way if way.run is None else given_rows(way, n, limits) for way, n in zip(ways, rows, strict=True))
    held = [way.on_device if level == "offloaded" else _in_slabs(way, slab // itemsize) for way in ways]
    if level != "offloaded":
        # Blocks that earlier ways needed stay.
        held = list(itertools.accumulate(held, max))
    scratch = [way.work_per_row * n + way.work_fixed for way, n in zip(ways, rows, strict=True)]
    lost = [
        int((HOLES if way.run is None else HOLES_STREAMED) * count) for way, count in zip(ways, scratch, strict=True)
    ]
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
        alive_bytes=max(map(sum, zip(held, scratch, strict=True))) * itemsize,
        peak_bytes=max(map(sum, zip(held, lost, strict=True))) * itemsize,
    )


def size_after(steps: Sequence[Step], height: int, width: int) -> tuple[int, int]:
    """Height and width of what the steps make of ``height × width``."""
    return _sizes(steps, height, width)[-1]


def largest_tensor(steps: Sequence[Step], height: int, width: int) -> int:
    """Elements of the largest tensor that one sample in one piece needs."""
    sizes = _sizes(steps, height, width)
    largest = 0
    for step, size, after in zip(steps, sizes, sizes[1:], strict=False):
        if not isinstance(step, Attention):
            layer = step.first if isinstance(step, Residual) else step
            inner = (2 * size[0], 2 * size[1]) if layer.upsample else size
            largest = max(largest, elements(layer.channels_in, inner), elements(layer.channels_out, after))
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


def _rows(way: Way, work: int, limits: Limits) -> int:
    if way.run is not None:
        return way.run.stages[0].rows
    return max(1, min(work // max(1, way.work_per_row), limits.rows(way.size[0])))


# ------------------------------------------------------------------------------------------------ choosing the ways


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
