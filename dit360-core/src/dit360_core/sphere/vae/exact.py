"""Decoding and encoding in tiles that changes nothing but the memory.

Layer by layer, never tile by tile: every step runs over the whole picture in bands of rows before the next begins, so
group normalization has the moments of the whole picture and attention sees all of it. What a step needs of its
neighbourhood it gets: the rows above and below, and, in longitude, the columns on the other side.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import nn

from dit360_core.sphere.vae.bands import ConvolutionStream, Moments, ResidualStream, Stream, Takes, add_rows, normalizer
from dit360_core.sphere.vae.flow import Flow, Sink
from dit360_core.sphere.vae.schedule import SMALLEST_WORK, Schedule
from dit360_core.sphere.vae.sizes import mean_of
from dit360_core.sphere.vae.slabs import Given, Rows, Slabs, Waiting
from dit360_core.sphere.vae.steps import Attention, Convolution, Residual, Step, modules_of, norms_of
from dit360_core.sphere.vae.streaming import Run
from dit360_core.sphere.vae.ways import SCORES, Way
from dit360_core.system.memory import give_back_freed_memory


def decode_exact(vae: Any, latents: torch.Tensor, schedule: Schedule) -> tuple[torch.Tensor, int]:
    """Circular decode. latents ``(B, C, h, w)`` → pixels ``(B, 3, 8h, 8w)`` about −1 … 1, and the number of tiles.

    schedule: made for ``decoder_steps`` of this very autoencoder, and for this height and width.
    """
    return _each(vae, latents, schedule, schedule.ways[-1].steps[-1])


def encode_exact(vae: Any, pixels: torch.Tensor, schedule: Schedule) -> tuple[torch.Tensor, int]:
    """Circular encode: the mean of the posterior. pixels ``(B, 3, 8h, 8w)`` → ``(B, C, h, w)``, number of tiles."""
    moments, tiles = _each(vae, pixels, schedule, schedule.ways[0].steps[0])
    return mean_of(vae, moments), tiles


def _each(vae: Any, samples: torch.Tensor, schedule: Schedule, counted: Step) -> tuple[torch.Tensor, int]:
    """Runs a schedule on one sample after the other.

    counted: the step whose tiles are counted.
    """
    height, width = schedule.size_out
    out, tiles = None, 0
    with torch.no_grad(), weights_at_hand(vae):
        for i in range(samples.shape[0]):
            run = _Run(schedule, modules_of(counted)[0])
            if out is None:
                shape = (samples.shape[0], schedule.channels_out, height, width)
                out = torch.empty(shape, dtype=samples.dtype, device=samples.device)
            run(samples[i : i + 1], out[i : i + 1])
            tiles = run.tiles
            del run
    if schedule.level == "offloaded":
        # Pinned memory stays with torch, and out of everybody's reach, unless it is told to let go.
        give_back_freed_memory(samples.device.type)
    assert out is not None
    return out, tiles


@contextlib.contextmanager
def weights_at_hand(vae: nn.Module) -> Iterator[None]:
    """Offloaded weights are brought to the device, as they would be if the modules themselves were called."""
    with contextlib.ExitStack() as offloaded:
        for module in vae.modules():
            hook: Any = module.__dict__.get("_hf_hook")
            if hook is not None:
                hook.pre_forward(module)
                offloaded.callback(hook.post_forward, module, None)
        yield


class _Kept(Rows):
    """Rows and, if they are needed, their moments."""

    def __init__(self, slabs: Slabs, gathering: bool = True) -> None:
        super().__init__(slabs)
        self.moments, self._gathering = Moments(), gathering

    def add(self, band: torch.Tensor) -> None:
        if self._gathering:
            self.moments.add(band)
        self.append(band)


class _Result:
    """A tensor that is filled from the top."""

    def __init__(self, out: torch.Tensor) -> None:
        self._out, self._done = out, 0

    def add(self, band: torch.Tensor) -> None:
        self._out[:, :, self._done : self._done + band.shape[2]] = band
        self._done += band.shape[2]


def _needs_moments(way: Way) -> bool:
    return any(isinstance(norm, nn.GroupNorm) for norm in norms_of(way.steps[0]))


@attrs.frozen(kw_only=True, eq=False)
class _Task:
    """One way of a schedule, with what it reads and writes.

    moments: of the source, if its first step needs them.
    """

    way: Way
    rows: int
    source: Rows | Given
    moments: Moments
    sink: Sink

    def scan(self) -> Iterator[torch.Tensor]:
        return self.source.scan(self.rows)

    def drain(self) -> Iterator[torch.Tensor]:
        return self.source.drain(self.rows)


class _Run:
    """A schedule carried out on one sample. ``tiles``: how often the convolution ``counted`` was given a rectangle."""

    def __init__(self, schedule: Schedule, counted: nn.Module) -> None:
        self.tiles = 0
        self._schedule, self._counted = schedule, counted

    def __call__(self, sample: torch.Tensor, out: torch.Tensor) -> None:
        """sample ``(1, C, h, w)`` is left as it is; out ``(1, C', h', w')`` is filled."""
        self._slabs = Slabs(self._schedule.slab_bytes, sample.device, host=self._schedule.level == "offloaded")
        source: Rows | Given = Given(sample)
        moments = Moments()
        last = len(self._schedule.ways) - 1
        for i, (way, rows) in enumerate(zip(self._schedule.ways, self._schedule.rows, strict=True)):
            sink = _Result(out) if i == last else _Kept(self._slabs, _needs_moments(self._schedule.ways[i + 1]))
            self._run(_Task(way=way, rows=rows, source=source, moments=moments, sink=sink))
            if isinstance(sink, _Kept):
                source, moments = sink, sink.moments

    def _run(self, task: _Task) -> None:
        way, step = task.way, task.way.steps[-1]
        if way.run is not None:
            self._streamed(way.run, task)
        elif isinstance(step, Attention):
            self._attention(step, task)
        elif isinstance(step, Convolution):
            self._flow(task.drain(), [self._stream(step, way.size, task.moments)], task.sink)
        elif way.mode == "stored":
            self._stored(step, task)
        elif not isinstance(way.steps[0], Convolution):
            self._recomputed(None, step, task)
        else:
            conv, moments = way.steps[0], Moments()
            self._flow(task.scan(), [self._stream(conv, way.size)], moments)
            task = attrs.evolve(task, moments=moments)
            if way.mode == "half":
                self._half(conv, step, task)
            else:
                self._recomputed(conv, step, task)

    # ------------------------------------------------------------------------------------------- residual blocks

    def _stored(self, block: Residual, task: _Task) -> None:
        """The middle is kept. A shortcut with a convolution is run at once, so that the input can go."""
        middle, size, source = _Kept(self._slabs), task.way.size, task.source
        first = self._stream(block.first, size, task.moments)
        aside: Rows
        if block.shortcut is None:
            assert isinstance(source, Rows)
            self._flow(task.scan(), [first], middle)
            aside = source
        else:
            aside = Rows(self._slabs)
            shortcut = self._stream(block.shortcut, size)
            for band in task.drain():
                beside = shortcut.push(band)
                assert beside is not None
                aside.append(beside)
                del beside
                inner = first.push(band)
                if inner is not None:
                    middle.add(inner)
                del band, inner
            self._done([first, shortcut])
        second = self._stream(block.second, size, middle.moments)
        self._flow(middle.drain(task.rows), [second, _Sum(aside, block.scale)], task.sink)

    def _recomputed(self, conv: Convolution | None, block: Residual, task: _Task) -> None:
        """Nothing inside is kept: one pass for the moments of the middle, one for the result."""
        size, middle = task.way.size, Moments()
        inner = size if conv is None else conv.size_out(*size)

        def start() -> list[Stream]:
            return [] if conv is None else [self._stream(conv, size)]

        self._flow(task.scan(), [*start(), self._stream(block.first, inner, task.moments)], middle)
        whole = ResidualStream(
            block,
            self._stream(block.first, inner, task.moments),
            self._stream(block.second, inner, middle),
            None if block.shortcut is None else self._stream(block.shortcut, inner),
        )
        self._flow(task.drain(), [*start(), whole], task.sink)

    def _half(self, conv: Convolution, block: Residual, task: _Task) -> None:
        """The middle is kept; what the convolution before the block makes is computed for it and for the shortcut."""
        size, middle = task.way.size, _Kept(self._slabs)
        inner = conv.size_out(*size)
        self._flow(task.scan(), [self._stream(conv, size), self._stream(block.first, inner, task.moments)], middle)
        again, second, aside = self._stream(conv, size), self._stream(block.second, inner, middle.moments), Waiting()
        shortcut = None if block.shortcut is None else self._stream(block.shortcut, inner)
        total = _Sum(aside, block.scale)
        for band in task.drain():
            made = again.push(band)
            del band
            if made is None:
                continue
            count = made.shape[2]
            beside = made if shortcut is None else shortcut.push(made)
            assert beside is not None
            aside.append(beside)
            del made, beside
            _push(middle.take(count), [second, total], task.sink)
        self._done([again])

    # -------------------------------------------------------------------------------------------------- streaming

    def _streamed(self, run: Run, task: _Task) -> None:
        """Nothing is kept; only what comes from a slab must not be held on to."""
        made: list[Stream] = []
        for stage in run.stages:
            step, size = stage.step, stage.size
            if isinstance(step, Convolution):
                made.append(self._stream(step, size))
                continue
            assert isinstance(step, Residual)
            shortcut = None if step.shortcut is None else self._stream(step.shortcut, size)
            first, second = self._stream(step.first, size), self._stream(step.second, size)
            made.append(ResidualStream(step, first, second, shortcut, borrowed=not made))
        flow = Flow(run.stages, made, task.sink)
        for band in task.drain():
            flow.push(band)
            del band
        del flow
        self._done(made, heavy=True)

    # ------------------------------------------------------------------------------------------------- attention

    def _attention(self, step: Attention, task: _Task) -> None:
        """Keys and values of all pixels, then queries a few at a time: exact, since softmax rows are independent."""
        height, width = task.way.size
        pixels, done = height * width, 0
        heads, keys, values, normalize = step.heads, None, None, None
        for band in task.scan():
            if normalize is None or keys is None or values is None:
                normalize = normalizer(step.norm, task.moments, band)
                keys = band.new_empty(1, heads, pixels, step.key.channels_out // heads)
                values = band.new_empty(1, heads, pixels, step.value.channels_out // heads)
            tokens = _tokens(normalize(band))
            stop = done + tokens.shape[0]
            keys[0, :, done:stop] = _heads(step.key(tokens), heads)
            values[0, :, done:stop] = _heads(step.value(tokens), heads)
            done = stop
            del band, tokens
        assert normalize is not None
        assert keys is not None
        assert values is not None
        at_once = max(1, SCORES // (heads * pixels))
        for band in task.drain():
            tokens = _tokens(normalize(band))
            for part in torch.split(tokens, at_once):
                query = _heads(step.query(part), heads).unsqueeze(0)
                seen = F.scaled_dot_product_attention(query, keys, values)[0]
                # The normalized pixels have served once their queries are made.
                part.copy_(step.out(seen.transpose(0, 1).flatten(1)))
            out = tokens.view(1, band.shape[2], width, -1).permute(0, 3, 1, 2)
            task.sink.add((out + band) if step.scale == 1.0 else (out + band) / step.scale)
            del band, tokens, out

    # --------------------------------------------------------------------------------------------------- streams

    def _stream(self, layer: Convolution, size: tuple[int, int], moments: Moments | None = None) -> ConvolutionStream:
        schedule = self._schedule
        columns = layer.size_out(*size)[1]
        # A tile of that many pixels of the picture is as many columns here as the layers are coarser.
        tile = max(1, -(-schedule.tile_width * columns // schedule.picture[1]))
        normalize = None
        if layer.norm is not None:
            normalize = normalizer(layer.norm, moments, layer.conv.weight)
        return ConvolutionStream(layer, size[0], tile, normalize)

    def _flow(self, bands: Iterable[torch.Tensor], streams: Sequence[Stream | _Sum], sink: Sink) -> None:
        """One pass over a whole picture."""
        _push(bands, streams, sink)
        self._done(streams)

    def _done(self, streams: Sequence[Stream | _Sum], *, heavy: bool = False) -> None:
        """After a pass: counts the tiles, and lets go of memory, or its holes would be there in the next pass too.

        heavy: its layers' weights were held, which is much however small the picture is.
        """
        # Of a small picture there is nothing to speak of, and a fifth of its time would go into this.
        if self._slabs.device.type == "cpu" and (heavy or self._schedule.kept_bytes >= SMALLEST_WORK):
            give_back_freed_memory("cpu")
        for stream in streams:
            for one in stream.convolutions:
                if one.layer.conv is self._counted:
                    self.tiles = max(self.tiles, one.tiles)


def _push(bands: Iterable[torch.Tensor], streams: Sequence[Stream | _Sum], sink: Sink) -> None:
    """Bands through one stream after the other; a name that is not needed any more would keep its band alive."""
    for source in bands:
        band: torch.Tensor | None = source
        del source
        for stream in streams:
            band = stream.push(band)  # type: ignore[arg-type]
            if band is None:
                break
        else:
            assert band is not None
            sink.add(band)
        del band


class _Sum:
    """Adds waiting rows to those that stream by."""

    convolutions: tuple[ConvolutionStream, ...] = ()

    def __init__(self, rows: Takes, scale: float) -> None:
        self._rows, self._scale = rows, scale

    def push(self, band: torch.Tensor) -> torch.Tensor:
        return add_rows(band, self._rows, self._scale)


def _tokens(band: torch.Tensor) -> torch.Tensor:
    """``(1, C, r, W)`` → ``(r·W, C)``; no copy, since channels are last in memory."""
    return band.permute(0, 2, 3, 1).reshape(-1, band.shape[1])


def _heads(tokens: torch.Tensor, heads: int) -> torch.Tensor:
    """``(N, heads·d)`` → ``(heads, N, d)``."""
    return tokens.view(tokens.shape[0], heads, -1).transpose(0, 1)
