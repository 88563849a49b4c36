"""Exact tiles: which level, by size and free memory, and what happens when memory runs out nevertheless."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import attrs
import torch

from dit360_core.errors import first_line
from dit360_core.plugins import Reason, TilingSettings
from dit360_core.sphere.vae import (
    LEVELS,
    CannotTakeApart,
    Schedule,
    decode_exact,
    decode_whole,
    decoder_steps,
    encode_exact,
    encode_whole,
    encoder_steps,
    is_run_by_steps,
    largest_tensor,
    make_schedule,
    predict_whole,
    size_after,
    weights_at_hand,
)
from dit360_core.system.memory import free_memory, give_back_freed_memory, is_out_of_memory, room
from dit360_core.system.memory import gib as _size

log = logging.getLogger("dit360")

WHOLE_PIXELS_ON_CPU = 2**18
"""On a CPU, tiles are faster than one piece from here on: their bands fit its caches (docs/tiling.md)."""
SHARE_OF_FREE = 0.8
"""What a prediction may take of the memory that is free."""


_FOUND: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()
"""What was found about autoencoders without weights, which a planner asks about for each combination of options."""

Made = TypeVar("Made")


@attrs.frozen(kw_only=True)
class _Try:
    """One way to run. schedule None: in one piece."""

    level: str
    schedule: Schedule | None
    predicted: int


class Exact:
    """The picture of one piece, at the memory of as little as there is. See :mod:`dit360_core.sphere.vae.exact`."""

    def __init__(self, settings: TilingSettings) -> None:
        self._settings = settings
        self.report: dict[str, Any] = {}

    def refuses(self, vae: Any) -> Iterable[Reason]:
        """Why an autoencoder cannot be taken apart."""
        return _once(vae, "refuses", lambda: _taken_apart(vae))

    def decode(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        return self._run(vae, latents, decoding=True)

    def encode(self, vae: Any, pixels: torch.Tensor) -> torch.Tensor:
        return self._run(vae, pixels, decoding=False)

    def _run(self, vae: Any, sample: torch.Tensor, *, decoding: bool) -> torch.Tensor:
        doing = "decoding" if decoding else "encoding"
        with weights_at_hand(vae):
            # Only now, since offloading makes room for the autoencoder by moving other parts away.
            free = room(sample.device, self._settings.budget)
            tries = self._tries(vae, tuple(sample.shape), sample.element_size(), sample.device.type, decoding, free)
        failed: list[str] = []
        for i, way in enumerate(tries):
            log.info(
                "%s: level %s, predicted to take %s of %s free", doing, way.level, _size(way.predicted), _size(free)
            )
            done, error = _attempt(vae, sample, way.schedule, decoding, last=i + 1 == len(tries))
            if done is not None:
                result, tiles = done
                self.report = {
                    "level": way.level,
                    "tiles": tiles,
                    "predicted_bytes": way.predicted,
                    "tile_overlap": "none needed",
                    **({"out_of_memory": failed} if failed else {}),
                }
                return result
            # Nothing of the failed attempt is alive here, its exception and what that held included.
            failed.append(way.level)
            log.warning(
                "%s at level %s ran out of memory (%s); level %s is tried.",
                doing.capitalize(),
                way.level,
                error,
                tries[i + 1].level,
            )
            give_back_freed_memory(sample.device.type)
        raise AssertionError("the last attempt returns or raises")

    def predicts(self, vae: Any, shape: tuple[int, ...], device: str, room_for_it: int | None) -> dict[str, Any]:
        return self._predicts(vae, shape, device, room_for_it, decoding=True)

    def predicts_encoding(
        self, vae: Any, shape: tuple[int, ...], device: str, room_for_it: int | None
    ) -> dict[str, Any]:
        return self._predicts(vae, shape, device, room_for_it, decoding=False)

    def _predicts(
        self, vae: Any, shape: tuple[int, ...], device: str, room_for_it: int | None, *, decoding: bool
    ) -> dict[str, Any]:
        free = free_memory(device) if room_for_it is None else max(0, room_for_it)
        way = self._tries(vae, shape, vae.dtype.itemsize, device, decoding, free)[0]
        tile_size, (height, width) = self._settings.tile_size, shape[2:]

        def in_one_piece() -> int:
            steps = decoder_steps(vae) if decoding else encoder_steps(vae)
            return make_schedule(steps, height, width, 4, "stored", tile_size=tile_size).multiplications

        work = way.schedule.multiplications if way.schedule else _once(vae, (shape, tile_size, decoding), in_one_piece)
        return {"bytes": way.predicted, "level": way.level, "operations": 2 * work}

    def _tries(
        self, vae: Any, shape: tuple[int, ...], itemsize: int, device: str, decoding: bool, free: int
    ) -> list[_Try]:
        """What to try, in this order: the fastest that should fit, then whatever takes less."""
        settings = self._settings
        limits = (settings.mode, settings.level, settings.tile_size, settings.auto_tile_pixels)
        key = (limits, shape, itemsize, device, decoding)
        tries = _once(vae, key, lambda: self._ways(vae, shape, itemsize, device, decoding))
        if settings.level == "auto":
            # System memory as a help for system memory is none; and it must be there.
            spare = _to_spare(device)
            tries = [
                way
                for way in tries
                if way.schedule is None or way.level != "offloaded" or way.schedule.kept_bytes <= spare
            ]
        fitting = [i for i, way in enumerate(tries) if way.predicted <= SHARE_OF_FREE * free]
        return tries[fitting[0] :] if fitting else tries[-1:]

    def _ways(self, vae: Any, shape: tuple[int, ...], itemsize: int, device: str, decoding: bool) -> list[_Try]:
        """Every way to run that the settings allow, the fastest first."""
        settings, (height, width) = self._settings, shape[2:]
        steps = decoder_steps(vae) if decoding else encoder_steps(vae)
        # Elsewhere, and on AMD's GPUs, attention with so many channels a head keeps its scores.
        scores = device not in ("cpu", "cuda") or torch.version.hip is not None

        by_steps = is_run_by_steps(vae)
        predicted = predict_whole(steps, height, width, itemsize, by_steps=by_steps, scores=scores) * shape[0]
        whole = _Try(level="whole", schedule=None, predicted=predicted)
        if settings.mode == "never":
            return [whole]
        rows, columns = size_after(steps, height, width)
        pixels = max(rows * columns, height * width)
        too_many = 0 < settings.auto_tile_pixels < pixels
        named = settings.level != "auto"
        tries = []
        for level in [settings.level] if named else LEVELS:
            schedule = make_schedule(
                steps,
                height,
                width,
                itemsize,
                level,  # type: ignore[arg-type]
                tile_size=settings.tile_size,
                at_least_two=settings.mode == "always" or named or too_many,
                scores=scores,
            )
            tries.append(_Try(level=level, schedule=schedule, predicted=schedule.peak_bytes))
        # Kernels of GPUs may count elements in 32 bits.
        small = pixels <= WHOLE_PIXELS_ON_CPU if device == "cpu" else largest_tensor(steps, height, width) < 2**31
        if settings.mode == "auto" and not named and not too_many and small:
            tries.insert(0, whole)
        return tries


def _once(vae: Any, key: Any, find: Callable[[], Made]) -> Made:
    """What ``find`` finds, asked once of an autoencoder without weights, which nobody changes any more."""
    if not next(vae.parameters()).is_meta:
        return find()
    found: dict[Any, Made] = _FOUND.setdefault(vae, {})
    if key not in found:
        found[key] = find()
    return found[key]


def _taken_apart(vae: Any) -> tuple[Reason, ...]:
    try:
        decoder_steps(vae)
        encoder_steps(vae)
    except CannotTakeApart as error:
        return (Reason("structure", error.sentence),)
    return ()


def _to_spare(device: str) -> float:
    """Bytes of system memory that may take what does not fit on the device."""
    return SHARE_OF_FREE * free_memory("cpu") if device == "cuda" else 0


def _attempt(
    vae: Any, sample: torch.Tensor, schedule: Schedule | None, decoding: bool, *, last: bool
) -> tuple[tuple[torch.Tensor, int] | None, str]:
    """The result and its number of tiles, or None and why memory did not suffice; the last attempt raises that."""
    try:
        if schedule is None:
            return ((decode_whole if decoding else encode_whole)(vae, sample), 1), ""
        return (decode_exact if decoding else encode_exact)(vae, sample, schedule), ""
    except Exception as error:
        if last or not is_out_of_memory(error):
            raise
        return None, first_line(error)
