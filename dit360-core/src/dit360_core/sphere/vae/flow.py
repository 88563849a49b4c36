"""A picture on its way through a run of steps, band by band."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs
import torch

from dit360_core.sphere.vae.bands import Stream
from dit360_core.sphere.vae.streaming import Stage


class Sink(Protocol):
    """What takes the bands that come out."""

    def add(self, band: torch.Tensor) -> None: ...


@attrs.define(eq=False)
class _Place:
    """A stage at work.

    waiting: bands that are not enough yet, of so many rows.
    seen: rows that came so far.
    """

    stage: Stage
    stream: Stream
    waiting: list[torch.Tensor] = attrs.field(factory=list)
    rows: int = 0
    seen: int = 0

    def gather(self, bands: list[torch.Tensor]) -> bool:
        """Whether there are enough rows with the last of ``bands``, which they then are, all in one."""
        rows = bands[-1].shape[2]
        self.seen += rows
        if not self.stage.gathers:
            return True
        self.rows += rows
        self.waiting.append(bands.pop())
        if self.rows < self.stage.rows and self.seen < self.stage.size[0]:
            return False
        bands.append(self.waiting[0] if len(self.waiting) == 1 else torch.cat(self.waiting, dim=2))
        self.waiting.clear()
        self.rows = 0
        return True


class Flow:
    """What comes in goes through all stages before the next band does; none is given more rows than it may be."""

    def __init__(self, stages: Sequence[Stage], streams: Sequence[Stream], sink: Sink) -> None:
        self._places = [_Place(stage, stream) for stage, stream in zip(stages, streams, strict=True)]
        self._sink = sink

    def push(self, band: torch.Tensor) -> None:
        """The next rows of the input."""
        # Bands on their way, the next one last; where each is to go, and whether it is one that was gathered and cut.
        bands, where = [band], [(0, False)]
        del band
        while where:
            at, ready = where.pop()
            if at == len(self._places):
                self._sink.add(bands.pop())
                continue
            place = self._places[at]
            if not ready:
                if place.gather(bands):
                    pieces = _cut(bands.pop(), place.stage.rows)
                    where += [(at, True)] * len(pieces)
                    bands += reversed(pieces)
                    del pieces
                continue
            # Not by a name, which would keep the band alive as long as the stage works.
            made = place.stream.push(bands.pop())
            if made is not None:
                where.append((at + 1, False))
                bands.append(made)
                del made


def _cut(band: torch.Tensor, most: int) -> list[torch.Tensor]:
    """A band in the fewest equal parts of at most so many rows."""
    rows = band.shape[2]
    parts = -(-rows // most)
    return [band] if parts == 1 else list(torch.split(band, -(-rows // parts), dim=2))
