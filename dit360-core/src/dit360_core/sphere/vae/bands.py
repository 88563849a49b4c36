"""Pictures in bands of rows: how their moments are gathered, how convolutions stream over them.

A *band* is a tensor ``(1, C, r, W)``, channels last in memory, of ``r`` whole rows. Everything flows downward: a stream
takes the next band of its input and gives back the rows of its output that are complete by then, so that every row is
computed once a pass, whatever the height of the bands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from dit360_core.sphere.vae.slabs import Waiting
from dit360_core.sphere.vae.steps import HALF, Convolution, Norm, PixelNorm, Residual

_TOGETHER = 64
"""Bands whose moments share a block of memory."""
AT_ONCE = 2**18
"""Numbers that are normalized at once where each pixel is by itself."""


class Moments:
    """Mean and variance of every channel: gathered band by band as they are made, merged in float64 when asked for."""

    def __init__(self) -> None:
        self._counts: list[int] = []
        self._found: list[torch.Tensor] = []

    def add(self, band: torch.Tensor) -> None:
        wide = band.float() if band.dtype in HALF else band
        if wide.device.type in ("cpu", "cuda"):
            # The statistics half of batch normalization: the one kernel for this that is fast with channels last.
            mean, variance = torch.batch_norm_update_stats(wide, None, None, 0.0)
        else:
            variance, mean = torch.var_mean(wide, dim=(0, 2, 3), correction=0)
        # Left on the device: to fetch them now would make it wait for every band. And together: as small blocks of
        # their own they would keep the large ones around them from being joined when those are freed.
        place = len(self._counts) % _TOGETHER
        if not place:
            self._found.append(mean.new_zeros(_TOGETHER, 2, mean.shape[0]))
        self._found[-1][place, 0], self._found[-1][place, 1] = mean, variance
        self._counts.append(band.shape[2] * band.shape[3])

    def of_groups(self, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of each channel's group, ``(C,)`` float64 each, on the CPU."""
        counts = torch.tensor(self._counts, dtype=torch.float64)
        weights = (counts / counts.sum())[:, None, None]
        # Bands × groups × channels of a group; all channels of a band have as many pixels.
        found = torch.cat(self._found)[: len(counts)].cpu().double()
        mean, variance = (found[:, i].reshape(len(counts), groups, -1) for i in (0, 1))
        centre = (weights * mean).sum(0).mean(1, keepdim=True)
        spread = (weights * (variance + (mean - centre) ** 2)).sum(0).mean(1, keepdim=True)
        shape = mean.shape[1:]
        return centre.expand(shape).reshape(-1), spread.expand(shape).reshape(-1)


class Normalize:
    """Group normalization with known moments; on one sample that is batch normalization, which has a kernel."""

    def __init__(self, norm: nn.GroupNorm, moments: Moments, like: torch.Tensor) -> None:
        wide = torch.float32 if like.dtype in HALF else like.dtype
        mean, variance = moments.of_groups(norm.num_groups)
        self._mean, self._variance = mean.to(like.device, wide), variance.to(like.device, wide)
        self._weight, self._bias = norm.weight.to(wide), norm.bias.to(wide)
        self._eps = norm.eps

    def __call__(self, band: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(band, self._mean, self._variance, self._weight, self._bias, False, 0.0, self._eps)


Normalizer = Callable[[torch.Tensor], torch.Tensor]
"""Makes of a band a normalized one, which is new."""


def normalizer(norm: Norm, moments: Moments | None, like: torch.Tensor) -> Normalizer:
    """How bands of a picture are normalized.

    moments: the picture's; a norm of each pixel needs none.
    """
    if isinstance(norm, PixelNorm):
        return PixelNormalize(norm)
    assert moments is not None
    return Normalize(norm, moments, like)


class PixelNormalize:
    """A :class:`PixelNorm` a few rows at a time, so that what it takes for itself is small."""

    def __init__(self, norm: PixelNorm) -> None:
        self._norm = norm

    def __call__(self, band: torch.Tensor) -> torch.Tensor:
        rows = max(1, AT_ONCE // (band.shape[1] * band.shape[3]))
        if rows >= band.shape[2]:
            return self._norm.apply(band)
        out = torch.empty_like(band)
        for start in range(0, band.shape[2], rows):
            out[:, :, start : start + rows] = self._norm.apply(band[:, :, start : start + rows])
        return out


class ConvolutionStream:
    """One :class:`Convolution` over a stream of bands.

    Each band is copied into a buffer with the wrapped columns on either side, zeros beyond the poles and the last rows
    of the band before; the convolution then pads nothing.

    height: rows of the whole input.
    tile_width: columns of the result that are computed at once. ``tiles`` counts the rectangles that were.
    """

    def __init__(
        self,
        layer: Convolution,
        height: int,
        tile_width: int,
        normalize: Normalizer | None = None,
    ) -> None:
        self.tiles = 0
        self.layer, self._height, self._tile_width = layer, height, tile_width
        self._normalize = normalize
        weight = _phase_weights(layer.weight) if layer.upsample else layer.weight
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        bias = layer.conv.bias
        self._bias = bias.repeat(4) if layer.upsample and bias is not None else bias
        self._seen = 0
        self._tail: torch.Tensor | None = None

    @property
    def convolutions(self) -> tuple[ConvolutionStream, ...]:
        """As :attr:`ResidualStream.convolutions`."""
        return (self,)

    def push(self, band: torch.Tensor) -> torch.Tensor | None:
        """The rows of the result that this band completes, or None."""
        layer = self.layer
        first, self._seen = self._seen == 0, self._seen + band.shape[2]
        last = self._seen == self._height
        if self._normalize is not None:
            band = self._normalize(band)
        if layer.act is not None:
            # On a copy where nothing made one yet.
            band = _activated(layer.act, band, own=self._normalize is not None)
        if layer.kernel == 1:
            self.tiles += 1
            return self._limited(F.conv2d(band, self._weight, self._bias))
        buffer = self._buffer(band, first, last)
        del band
        # An upsampling 3×3 sees one small row on either side, like a plain one.
        ready = (buffer.shape[2] - layer.kernel) // layer.stride + 1
        if ready <= 0:
            self._tail = buffer
            return None
        self._tail = None if last else buffer[:, :, ready * layer.stride :].clone()
        return self._limited(self._upsampled(buffer, ready) if layer.upsample else self._convolved(buffer, ready))

    def _limited(self, made: torch.Tensor) -> torch.Tensor:
        limits = self.layer.limits
        return made if limits is None else made.clamp_(*limits)

    def _buffer(self, band: torch.Tensor, first: bool, last: bool) -> torch.Tensor:
        left, right, top, bottom = self.layer.margins
        above = top if first else 0 if self._tail is None else self._tail.shape[2]
        _, channels, rows, width = band.shape
        below = bottom if last else 0
        shape = (1, channels, above + rows + below, left + width + right)
        buffer = torch.empty(shape, dtype=band.dtype, device=band.device, memory_format=torch.channels_last)
        if first:
            buffer[:, :, :above] = 0
        elif self._tail is not None:
            buffer[:, :, :above] = self._tail
        self._tail = None
        body = buffer[:, :, above : above + rows]
        body[..., left : left + width] = band
        # One column at a time: a picture may be narrower than the margin, which then repeats it.
        for i in range(left):
            body[..., i] = band[..., (i - left) % width]
        for i in range(right):
            body[..., left + width + i] = band[..., i % width]
        buffer[:, :, above + rows :] = 0
        return buffer

    def _convolved(self, buffer: torch.Tensor, rows: int) -> torch.Tensor:
        layer = self.layer
        columns = (buffer.shape[3] - layer.kernel) // layer.stride + 1
        if columns <= self._tile_width:
            self.tiles += 1
            return F.conv2d(buffer, self._weight, self._bias, layer.stride)
        out = _rows_of(buffer, layer.channels_out, rows, columns)
        for start in range(0, columns, self._tile_width):
            stop = min(start + self._tile_width, columns)
            tile = buffer[..., start * layer.stride : (stop - 1) * layer.stride + layer.kernel]
            self.tiles += 1
            out[..., start:stop] = F.conv2d(tile, self._weight, self._bias, layer.stride)
        return out

    def _upsampled(self, buffer: torch.Tensor, rows: int) -> torch.Tensor:
        channels, columns = self.layer.channels_out, buffer.shape[3] - 2
        out = _rows_of(buffer, channels, 2 * rows, 2 * columns)
        step = max(1, self._tile_width // 2)
        for start in range(0, columns, step):
            stop = min(start + step, columns)
            self.tiles += 1
            phases = F.conv2d(buffer[..., start : stop + 2], self._weight, self._bias)
            for i in range(4):
                down, right = divmod(i, 2)
                phase = phases[:, i * channels : (i + 1) * channels]
                out[:, :, down::2, 2 * start + right : 2 * stop : 2] = phase[
                    :, :, down : down + rows, right : right + stop - start
                ]
        return out


def _phase_weights(weight: torch.Tensor) -> torch.Tensor:
    """Nearest-neighbour upsampling and a 3×3 convolution as one 2×2 convolution of the small picture.

    ``(O, I, 3, 3)`` → ``(4·O, I, 2, 2)``: an output pixel sees only 2×2 different small pixels; which ones, and with
    which sums of weights, depends on whether its row and its column are even (first) or odd. Four ninths of the work.
    """
    channels, into = weight.shape[:2]
    shape = (4 * channels, into, 2, 2)
    folded = torch.empty(shape, dtype=weight.dtype, device=weight.device, memory_format=torch.channels_last)
    wide = weight.float() if weight.dtype in HALF else weight
    for i in range(4):
        down, right = divmod(i, 2)
        folded[i * channels : (i + 1) * channels] = _fold(_fold(wide, 2, down), 3, right)
    return folded


def _fold(taps: torch.Tensor, dim: int, odd: int) -> torch.Tensor:
    a, b, c = taps.unbind(dim)
    return torch.stack([a + b, c] if odd else [a, b + c], dim)


def _activated(act: nn.Module, band: torch.Tensor, *, own: bool) -> torch.Tensor:
    if own and isinstance(act, nn.SiLU):
        return F.silu(band, inplace=True)
    return act(band)  # type: ignore[no-any-return]


def _rows_of(like: torch.Tensor, channels: int, rows: int, columns: int) -> torch.Tensor:
    shape = (1, channels, rows, columns)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


class ResidualStream:
    """A whole :class:`Residual` over a stream of bands: nothing of its inside is kept but a few rows.

    first, second: its two convolutions; the rows of the shortcut wait until the second one is as far.
    borrowed: bands are gone when their rows are needed, and must be copied.
    """

    def __init__(
        self,
        layer: Residual,
        first: ConvolutionStream,
        second: ConvolutionStream,
        shortcut: ConvolutionStream | None,
        *,
        borrowed: bool = True,
    ) -> None:
        self._layer, self._first, self._second, self._shortcut = layer, first, second, shortcut
        self._waiting, self._borrowed = Waiting(), borrowed

    @property
    def convolutions(self) -> tuple[ConvolutionStream, ...]:
        """Those that it is made of."""
        return (self._first, self._second, *([self._shortcut] if self._shortcut is not None else []))

    def push(self, band: torch.Tensor) -> torch.Tensor | None:
        if self._shortcut is not None:
            aside = self._shortcut.push(band)
            assert aside is not None
            self._waiting.append(aside)
            del aside
        else:
            self._waiting.append(band.clone() if self._borrowed else band)
        inner = self._first.push(band)
        del band
        out = None if inner is None else self._second.push(inner)
        return None if out is None else add_rows(out, self._waiting, self._layer.scale)


class Takes(Protocol):
    def take(self, rows: int) -> Iterator[torch.Tensor]: ...


def add_rows(band: torch.Tensor, rows: Takes, scale: float) -> torch.Tensor:
    """``(band + next rows) / scale``, in place."""
    start = 0
    for piece in rows.take(band.shape[2]):
        stop = start + piece.shape[2]
        band[:, :, start:stop] += piece
        start = stop
    return band if scale == 1.0 else band.div_(scale)


Stream = ConvolutionStream | ResidualStream
