"""Memory for what is kept: blocks of one size that pictures of all layers take turns in.

An allocator that serves short-lived buffers and long-lived bands side by side ends up with holes: a third of the memory
on Linux. Blocks of one size, obtained apart from it, have no holes between them, on any device.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterator

import torch


class Slabs:
    """A pool of equal blocks on one device. What is given back serves again; everything goes with the pool.

    size: bytes of a block.
    host: keep them in system memory that the accelerator can copy from and to directly.
    """

    def __init__(self, size: int, device: torch.device, *, host: bool = False) -> None:
        # Pinned memory is handed out in powers of two anyway.
        self.size = 1 << (size - 1).bit_length() if host else size
        self.device, self.host = device, host
        self._free: list[torch.Tensor] = []

    def get(self) -> torch.Tensor:
        """A block of bytes, with anything in it."""
        return self._free.pop() if self._free else self._new()

    def put(self, slab: torch.Tensor) -> None:
        """Gives a block back; nothing may look at it any more."""
        self._free.append(slab)

    def _new(self) -> torch.Tensor:
        if self.device.type == "cpu":
            try:
                # The tensor keeps the mapping alive.
                return torch.frombuffer(mmap.mmap(-1, self.size), dtype=torch.uint8)
            except (OSError, ValueError) as error:
                raise MemoryError(f"{self.size} bytes more could not be had") from error
        if self.host:
            return torch.empty(self.size, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        return torch.empty(self.size, dtype=torch.uint8, device=self.device)


class Rows:
    """A picture kept in slabs, row after row. What is taken is gone, and its slab serves again.

    A band that comes out of here is to be used up before the next one is asked for.
    """

    def __init__(self, slabs: Slabs) -> None:
        self._slabs = slabs
        self._filled: deque[tuple[torch.Tensor, torch.Tensor]] = deque()
        self._room = self._taken = 0

    def append(self, band: torch.Tensor) -> None:
        """Copies a band ``(1, C, r, W)`` to the end."""
        done, rows = 0, band.shape[2]
        while done < rows:
            if not self._room:
                self._open(band)
            slab, held = self._filled[-1]
            start, count = held.shape[2], min(rows - done, self._room)
            held = _rows_in(slab, band, start + count)
            held[:, :, start:].copy_(band[:, :, done : done + count], non_blocking=True)
            self._filled[-1] = slab, held
            self._room -= count
            done += count

    def _open(self, band: torch.Tensor) -> None:
        slab = self._slabs.get()
        self._room = self._slabs.size // (band.shape[1] * band.shape[3] * band.element_size())
        self._filled.append((slab, _rows_in(slab, band, 0)))

    def scan(self, rows: int) -> Iterator[torch.Tensor]:
        """All rows from the top, at most ``rows`` at once; everything is kept."""
        for _, held in self._filled:
            for start in range(0, held.shape[2], rows):
                yield self._here(held[:, :, start : start + rows])

    def drain(self, rows: int) -> Iterator[torch.Tensor]:
        """All rows from the top, at most ``rows`` at once; nothing is kept."""
        while self._filled:
            yield from self._next(rows)

    def take(self, rows: int) -> Iterator[torch.Tensor]:
        """The next ``rows`` rows, in one or more pieces; they are not kept."""
        while rows:
            for piece in self._next(rows):
                rows -= piece.shape[2]
                yield piece

    def _next(self, rows: int) -> Iterator[torch.Tensor]:
        slab, held = self._filled[0]
        start, stop = self._taken, min(self._taken + rows, held.shape[2])
        self._taken = stop
        yield self._here(held[:, :, start:stop])
        if stop == held.shape[2]:
            self._filled.popleft()
            self._taken = 0
            self._slabs.put(slab)

    def _here(self, piece: torch.Tensor) -> torch.Tensor:
        return piece.to(self._slabs.device, non_blocking=True)


def _rows_in(slab: torch.Tensor, like: torch.Tensor, rows: int) -> torch.Tensor:
    """The first rows of a slab as a band, channels last in memory."""
    _, channels, _, width = like.shape
    flat = slab.view(like.dtype)[: rows * width * channels]
    return flat.view(1, rows, width, channels).permute(0, 3, 1, 2)


class Given:
    """A tensor from outside, read like Rows; it stays whole."""

    def __init__(self, sample: torch.Tensor) -> None:
        self._sample = sample

    def scan(self, rows: int) -> Iterator[torch.Tensor]:
        for start in range(0, self._sample.shape[2], rows):
            yield self._sample[:, :, start : start + rows].contiguous(memory_format=torch.channels_last)

    drain = scan


class Waiting:
    """A few rows that wait for others: held as they come, gone as they are taken."""

    def __init__(self) -> None:
        self._bands: deque[torch.Tensor] = deque()

    def append(self, band: torch.Tensor) -> None:
        self._bands.append(band)

    def take(self, rows: int) -> Iterator[torch.Tensor]:
        while rows:
            band = self._bands.popleft()
            piece, rest = band[:, :, :rows], band[:, :, rows:]
            if rest.shape[2]:
                # A few rows would keep all of the band that they lie in.
                self._bands.appendleft(rest.clone() if 2 * rest.shape[2] <= band.shape[2] else rest)
            rows -= piece.shape[2]
            yield piece
