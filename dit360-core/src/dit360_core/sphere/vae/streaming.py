"""Runs of steps through which a picture streams without being kept: where they may be cut, what they take for it.

Where no normalization needs the moments of a whole picture, convolutions and residual blocks follow each other band by
band: each gets what the one before it has finished, and keeps two rows for its next band. What that takes is weights,
as the kernels want them, these rows, and the largest band on its way. A picture kept in between saves the weights of
what comes behind it, so a run is cut where that makes the peak smallest.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from torch import nn

from dit360_core.sphere.vae.steps import Attention, Convolution, Residual, Step, channels_in, channels_out, norms_of

BAND = 2**21
"""Elements of a band that a step is given at once, if its rows are not wider than a quarter of that."""
FEWEST = 4
"""Rows that it is given at once at least."""
NORMALIZING = 3 * 2**18
"""Elements that normalizing a few pixels takes for itself."""


@attrs.frozen(kw_only=True)
class Limits:
    """What is worked on at once, at most.

    tile_size: pixels of the picture.
    picture: its height and width.
    at_least_two: each step gets its input in two parts or more.
    """

    tile_size: int
    picture: tuple[int, int]
    at_least_two: bool = False

    def rows(self, height: int) -> int:
        """Rows at once of a picture of that height, which shows the same in fewer rows."""
        # The last band of two convolutions is up to two rows of the input higher than the others.
        in_tile = self.tile_size * height // self.picture[0] - 2
        return max(1, min(in_tile, -(-height // 2) if self.at_least_two else height))


@attrs.frozen(kw_only=True, eq=False)
class Stage:
    """One step of a run.

    size: height and width of its input.
    rows: of the input at once, at most.
    gathers: whether it waits for so many, since they come in smaller bands.
    """

    step: Step
    size: tuple[int, int]
    rows: int
    gathers: bool


@attrs.frozen(kw_only=True, eq=False)
class Run:
    """Steps that a picture streams through.

    scratch: elements, beside what is read and what is written.
    """

    stages: tuple[Stage, ...]
    scratch: int

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(stage.step for stage in self.stages)


def streams(step: Step) -> bool:
    """Whether bands can flow through a step: no pixel needs all the others, nor their moments."""
    return not isinstance(step, Attention) and not any(isinstance(norm, nn.GroupNorm) for norm in norms_of(step))


def best_runs(steps: Sequence[Step], sizes: Sequence[tuple[int, int]], limits: Limits, *, given: bool) -> list[Run]:
    """Steps through which bands can flow, cut where that makes the peak smallest; of equals, into the fewest.

    sizes: of the picture before each step, and after the last.
    given: what the first reads is the caller's, and not counted.
    """
    count = len(steps)
    # The best way to run all steps up to each: peak, number of runs, and the runs.
    best: list[tuple[int, int, list[Run]]] = [(0, 0, [])]
    for stop in range(1, count + 1):
        options = []
        for start in range(stop):
            run = _run(steps[start:stop], sizes[start:stop], limits)
            into = 0 if given and start == 0 else channels_in(steps[start]) * sizes[start][0] * sizes[start][1]
            out = channels_out(steps[stop - 1]) * sizes[stop][0] * sizes[stop][1]
            peak, runs, before = best[start]
            options.append((max(peak, max(into, out) + run.scratch), runs + 1, [*before, run]))
        best.append(min(options, key=lambda option: option[:2]))
    return best[count][2]


def with_rows(run: Run, rows: int, limits: Limits) -> Run:
    """A run that is given so many rows at once, or fewer than it could take."""
    return _run(run.steps, [stage.size for stage in run.stages], limits, rows)


def _run(steps: Sequence[Step], sizes: Sequence[tuple[int, int]], limits: Limits, first: int = 0) -> Run:
    """first: rows that come at once, if they are not as many as could be taken; later bands are no larger then."""
    stages: list[Stage] = []
    coming, flowing = 0, _Flowing()
    band = min(BAND, first * _widest_row(steps[0], sizes[0])) if first else BAND
    for step, size in zip(steps, sizes, strict=True):
        most = min(limits.rows(size[0]), max(FEWEST, band // _widest_row(step, size)), size[0])
        if first and not stages:
            most = min(most, first)
        # What comes in larger bands is cut into equal parts.
        parts = -(-coming // most)
        rows = -(-coming // parts) if coming else most
        gathers = bool(coming) and 2 * coming <= most
        if gathers:
            rows = most
            flowing.held += channels_in(step) * rows * size[1]
        elif parts > 1:
            flowing.held += channels_in(step) * coming * size[1]
        stages.append(Stage(step=step, size=size, rows=rows if coming else most, gathers=gathers))
        coming = flowing.through(step, size[1], rows, limits)
    return Run(stages=tuple(stages), scratch=flowing.total)


class _Flowing:
    """What a run takes, step by step. ``held``: elements that are there while all others work."""

    def __init__(self) -> None:
        self.held = self._largest = self._reordered = 0

    @property
    def total(self) -> int:
        return self.held + self._largest + self._reordered + NORMALIZING

    def through(self, step: Step, width: int, rows: int, limits: Limits) -> int:
        """A band of so many rows through a step; gives back how many come out."""
        if isinstance(step, Convolution):
            return self._convolution(step, width, rows, limits)
        assert isinstance(step, Residual)
        wide = step.second.channels_out * width
        # What is added at the end waits for it: the rows of this band, and those that the two convolutions keep.
        aside = wide * rows
        self.held += 2 * wide
        if step.shortcut is not None:
            self._convolution(step.shortcut, width, rows, limits, beside=aside)
        self._convolution(step.first, width, rows, limits, beside=aside)
        return self._convolution(step.second, width, rows, limits, beside=aside)

    def _convolution(self, layer: Convolution, width: int, rows: int, limits: Limits, beside: int = 0) -> int:
        halo, channels = layer.kernel - 1, layer.channels_in
        band = channels * rows * width
        made = band if layer.norm is not None or layer.act is not None else 0
        buffer = channels * (rows + halo) * (width + halo) if halo else 0
        out_rows = max(1, rows * (2 if layer.upsample else 1) // layer.stride) if halo else rows
        columns = layer.size_out(layer.kernel, width)[1]
        out = layer.channels_out * out_rows * columns
        if layer.upsample:
            tile = max(1, limits.tile_size * columns // limits.picture[1] // 2)
            out += 4 * layer.channels_out * (rows + 1) * (min(width, tile) + 1)
        read = buffer or made or band
        self._largest = max(self._largest, beside + max(band + made, (made or band) + buffer, read + out))
        self.held += channels * halo * (width + halo)
        weights = layer.channels_in * layer.channels_out * (16 if layer.upsample else layer.kernel**2)
        if halo:
            self.held += weights
        # A kernel reorders them once more, in each call.
        self._reordered = max(self._reordered, weights)
        return out_rows


def _widest_row(step: Step, size: tuple[int, int]) -> int:
    """Elements that a row of the input comes to at most."""
    if isinstance(step, Residual):
        return max(channels_in(step), step.first.channels_out, channels_out(step)) * size[1]
    grown = 4 if isinstance(step, Convolution) and step.upsample else 1
    return max(channels_in(step), grown * channels_out(step)) * size[1]
