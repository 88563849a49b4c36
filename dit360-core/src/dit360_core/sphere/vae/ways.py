"""The ways in which one or several steps can be run, and what each takes: elements kept, scratch, multiplications."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import attrs

from dit360_core.sphere.vae.steps import (
    Attention,
    Convolution,
    Residual,
    Step,
    channels_in,
    channels_out,
    norms_of,
)
from dit360_core.sphere.vae.streaming import Limits, Run, best_runs, streams, with_rows

SCORES = 2**26
"""Attention scores at once, for kernels that keep them."""


@attrs.frozen(kw_only=True, eq=False)
class Way:
    """How one or several steps are run.

    mode: ``plain`` (a convolution), ``attention``, ``stored`` or ``recomputed`` (a residual block whose middle is),
    ``half`` and ``whole`` (a convolution and a residual block: only the convolution is computed again, or both),
    ``streamed`` (any number of steps, of which nothing is kept).
    run: how it streams.
    kept: elements that exist at the worst moment.
    on_device: of which so many cannot be offloaded.
    work_per_row, work_fixed: elements of scratch for each input row taken at once, and beside that.
    """

    mode: Literal["plain", "attention", "stored", "recomputed", "half", "whole", "streamed"]
    steps: tuple[Step, ...]
    size: tuple[int, int]
    kept: int
    multiplications: int
    work_per_row: int
    work_fixed: int
    on_device: int = 0
    run: Run | None = None

    @property
    def row_in(self) -> int:
        """Elements of a row of the input."""
        return channels_in(self.steps[0]) * self.size[1]

    @property
    def widest_row(self) -> int:
        """Elements of the largest row that is kept."""
        rows, size = [], self.size
        if self.run is not None:
            return channels_out(self.steps[-1]) * _size_out(self.steps, size)[1]
        for step in self.steps:
            if isinstance(step, Attention):
                rows.append(step.channels * size[1])
            elif isinstance(step, Residual):
                rows.append(max(step.first.channels_out, step.second.channels_out) * size[1])
            else:
                size = step.size_out(*size)
                rows.append(step.channels_out * size[1])
        return max(rows)


def groups_of(
    steps: Sequence[Step], sizes: Sequence[tuple[int, int]], scores: bool, limits: Limits
) -> Iterator[list[tuple[Way, ...]]]:
    """For each group of steps, all ways to run it."""
    i = 0
    while i < len(steps):
        step, size = steps[i], sizes[i]
        given = i == 0
        if stop := _end_of_run(steps, i):
            runs = best_runs(steps[i:stop], sizes[i : stop + 1], limits, given=given)
            yield [tuple(_streamed(runs, sizes[i], given))]
            i = stop
            continue
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


def _end_of_run(steps: Sequence[Step], start: int) -> int:
    """Where a run of steps ends through which bands can flow, if one of them normalizes pixels; 0 if there is none.

    Where none does, some step behind it needs moments, and what comes before is better run together with that.
    """
    stop = start
    while stop < len(steps) and streams(steps[stop]):
        stop += 1
    return stop if any(norms_of(step) for step in steps[start:stop]) else 0


# ------------------------------------------------------------------------------------------------- what a way costs


def elements(channels: int, size: tuple[int, int]) -> int:
    return channels * size[0] * size[1]


def _multiplications(layer: Convolution, size: tuple[int, int]) -> int:
    rows, columns = layer.size_out(*size)
    return layer.multiplications * rows * columns


def _convolution(step: Convolution, size: tuple[int, int], given: bool) -> Way:
    out = elements(step.channels_out, step.size_out(*size))
    into = 0 if given else elements(step.channels_in, size)
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


def _streamed(runs: Sequence[Run], size: tuple[int, int], given: bool) -> Iterator[Way]:
    """One way for each run."""
    for run in runs:
        after = _size_out(run.steps, size)
        into = 0 if given else elements(channels_in(run.steps[0]), size)
        yield Way(
            mode="streamed",
            steps=run.steps,
            size=size,
            # The input goes as the output comes.
            kept=max(into, elements(channels_out(run.steps[-1]), after)),
            multiplications=sum(_step_multiplications(stage.step, stage.size) for stage in run.stages),
            work_per_row=0,
            work_fixed=run.scratch,
            run=run,
        )
        size, given = after, False


def given_rows(way: Way, rows: int, limits: Limits) -> Way:
    """A streamed way that gets so many rows at once."""
    assert way.run is not None
    run = with_rows(way.run, rows, limits)
    return attrs.evolve(way, run=run, work_fixed=run.scratch)


def _size_out(steps: Sequence[Step], size: tuple[int, int]) -> tuple[int, int]:
    for step in steps:
        size = step.size_out(*size) if isinstance(step, Convolution) else size
    return size


def _step_multiplications(step: Step, size: tuple[int, int]) -> int:
    if isinstance(step, Convolution):
        return _multiplications(step, size)
    assert isinstance(step, Residual)
    layers = (step.first, step.second, *([step.shortcut] if step.shortcut is not None else []))
    return sum(_multiplications(layer, size) for layer in layers)


def _attention(step: Attention, size: tuple[int, int], scores: bool) -> Way:
    pixels, whole = size[0] * size[1], elements(step.channels, size)
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
    into, middle = elements(first.channels_in, size), elements(first.channels_out, size)
    out = elements(second.channels_out, size)
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
    into = 0 if given else elements(conv.channels_in, size)
    stored, recomputed = _residual(block, inner)
    middle, out = elements(block.first.channels_out, inner), elements(block.second.channels_out, inner)
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
