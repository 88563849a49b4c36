"""Between latents and pictures: decoding, encoding, and a quick look."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import attrs
import torch

from dit360_core.errors import Dit360Error, InputError, named, one_line, setting
from dit360_core.models.architecture import AUTOENCODER
from dit360_core.models.preview import preview
from dit360_core.options import DecodeOptions, SampleOptions, changed_options, check_size
from dit360_core.panorama.picture import Panorama, in_words
from dit360_core.pipeline.blank import check_painted
from dit360_core.pipeline.ladder import Ladder
from dit360_core.pipeline.planes import image_of, numbers_of
from dit360_core.pipeline.stages import Latents, Pixels, Shown, letting_go, name_plugins, stage
from dit360_core.pipeline.state import Loaded
from dit360_core.pipeline.tiling_trial import sketch
from dit360_core.planning.plan import Plan
from dit360_core.planning.tiling import choose_tiling, tiling_settings
from dit360_core.plugins.choosing import Choice
from dit360_core.plugins.entries import CORE
from dit360_core.system.memory import give_back_freed_memory
from dit360_core.system.phases import PhaseKind

if TYPE_CHECKING:
    from dit360_core.models.engine import Engine
    from dit360_core.plugins.offers import TilingImplementation

log = logging.getLogger("dit360")


class Autoencoding:
    """A pipeline's autoencoder, with the tiling that each picture asks for."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._latent_to_rgb: torch.Tensor | None = None
        self._sketched: set[Any] = set()

    @letting_go
    def decode(
        self,
        given: Latents | torch.Tensor,
        asked: DecodeOptions,
        finish: Sequence[Callable[[torch.Tensor], torch.Tensor]] = (),
    ) -> Panorama:
        """Latents in model space become a picture.

        finish: what is done with its pixels ``(1, 3, H, W)``, one after the other, before they are rounded.
        """
        pixels = self.pixels(given, asked)
        shown = pixels.tensor
        for change in finish:
            shown = change(shown)
        # No copy: the decoder's own memory lives on in the picture, so that it can be saved with more than 8 bits.
        floats = shown[0].permute(1, 2, 0).numpy()
        return Panorama(image=image_of(shown[0]), settings=pixels.settings, pose=pixels.pose, floats=floats)

    @letting_go
    def pixels(self, given: Latents | torch.Tensor, asked: DecodeOptions) -> Pixels:
        """Latents in model space become pixels."""
        latents = self._checked(given)
        tensor = latents.tensor
        doing = f"decoding {latents.width}×{latents.height}"
        with self._stage(doing, asked, latents.size, PhaseKind.DECODE) as ladder:
            choice, tiling, report = self._tiling(asked, latents.width, latents.height)
            with name_plugins(choice):
                self._sketch(choice, asked, "decode")
                # Not a lambda: what it closes over stays with an exception whatever is cleared.
                pixels = ladder.run(partial(self._engine.decode, tensor, tiling, _whose(choice)))
                told = report()
        if self._plan.device == "cpu":
            # The last of a picture's stages, and the one that leaves most holes.
            give_back_freed_memory("cpu")
        if tuple(pixels.shape) != (1, 3, latents.height, latents.width):
            raise Dit360Error(f"The tiling {choice.used!r} returned {tuple(pixels.shape)}; choose another.")
        check_painted(pixels, latents.settings, self._plan.model)
        sampled = dict(latents.settings)
        used = {**self._loaded.state.as_dict(), **sampled.pop("used", {}), "tiling": told}
        requested = {
            **changed_options(self._plan.asked),
            **sampled.pop("requested", {}),
            **changed_options(asked),
        }
        settings = {**sampled, "requested": requested, "used": used, "versions": dict(self._loaded.machine.versions)}
        return Pixels(tensor=pixels, settings=settings, pose=latents.pose)

    @letting_go
    def encode(self, panorama: Panorama, asked: DecodeOptions) -> Latents:
        """A picture becomes latents in model space."""
        if panorama.area is not None:
            raise InputError(
                f"The image cannot be encoded: {in_words(panorama)}, and the rest is black; fill it up first."
            )
        pixels = numbers_of(panorama)[None]
        pose = attrs.evolve(panorama.pose, others={})  # who took it, and when, is not true of what is made of it
        return attrs.evolve(self.encode_pixels(pixels, asked), pose=pose)

    @letting_go
    def encode_pixels(self, pixels: torch.Tensor, asked: DecodeOptions) -> Latents:
        """Pixels ``(1, 3, H, W)`` in 0 … 1 become latents in model space."""
        width, height = int(pixels.shape[-1]), int(pixels.shape[-2])
        check_size(width, height)
        if not bool(pixels.isfinite().all()):
            raise InputError("The picture holds numbers that are not finite; give numbers from 0 to 1.")
        with self._stage(f"encoding {width}×{height}", asked, (width, height), PhaseKind.ENCODE) as ladder:
            choice, tiling, report = self._tiling(asked, width, height)
            with name_plugins(choice):
                self._sketch(choice, asked, "encode")
                tensor = ladder.run(partial(self._engine.encode, pixels, tiling, _whose(choice)))
                told = report()
        if tuple(tensor.shape) != (1, self._engine.latent_channels, height // 8, width // 8):
            raise Dit360Error(f"The tiling {choice.used!r} returned {tuple(tensor.shape)}; choose another.")
        return Latents(tensor=tensor, settings={"encoded": told})

    @letting_go
    def encode_hole(self, pixels: torch.Tensor, mask: torch.Tensor, asked: DecodeOptions) -> Shown:
        """A picture whose hole is mid-grey, 0 to a model, and the hole: as diffusers' FluxFillPipeline has them."""
        height, width = pixels.shape[-2:]
        for what, given, channels in (("picture", pixels, 3), ("mask", mask, 1)):
            if tuple(given.shape) != (1, channels, height, width):
                raise InputError(
                    f"The {what} has the shape {tuple(given.shape)}, but must be {(1, channels, height, width)}."
                )
        hole = mask >= 0.5
        masked = self.encode_pixels(torch.where(hole, 0.5, pixels), asked)
        return Shown(masked=masked, mask=hole.float())

    @letting_go
    def preview(self, latents: Latents | torch.Tensor, scale: int, *, within: int | None = None) -> Panorama:
        """A linear look at latents, ``scale`` pixels to a column, or fewer if it is to be ``within`` so many pixels."""
        if not isinstance(scale, int) or scale not in range(1, 9):
            raise InputError(f"scale is {scale!r}, but must be a whole number, 1 … 8.")
        tensor = self._checked(latents).tensor
        if within is not None and (not isinstance(within, int) or within < 1):
            raise InputError(f"A preview of {within!r:.40} pixels is none; give a whole number, at least 1.")
        if within is not None:
            scale = max(1, min(scale, within // tensor.shape[-1]))
        if self._latent_to_rgb is None:
            with stage(self._engine, self._plan, "fitting a preview", quantized=False):
                self._engine.bring(AUTOENCODER)
                self._latent_to_rgb = self._engine.latent_to_rgb()
        looked = preview(tensor, self._latent_to_rgb, scale)
        return Panorama(image=image_of(looked), settings={"preview": scale})

    @property
    def _engine(self) -> Engine:
        return self._loaded.engine

    @property
    def _plan(self) -> Plan:
        return self._loaded.plan

    @contextmanager
    def _stage(self, doing: str, asked: DecodeOptions, size: tuple[int, int], kind: PhaseKind) -> Iterator[Ladder]:
        """One run of the autoencoder, which is at hand in it."""
        ladder = Ladder(
            loaded=self._loaded,
            phase=kind,
            doing=doing,
            asked=lambda: (SampleOptions(prompt="any", width=size[0], height=size[1]), asked),
            hint=_help(asked),
        )
        with stage(self._engine, self._plan, doing, kind=kind, quantized=False):
            ladder.run(lambda: self._engine.bring(AUTOENCODER))
            yield ladder

    def _checked(self, latents: Latents | torch.Tensor) -> Latents:
        """Raises InputError unless it is one picture of this model."""
        given = latents if isinstance(latents, Latents) else Latents(tensor=latents)
        shape, channels = tuple(given.tensor.shape), self._engine.latent_channels
        if len(shape) != 4 or shape[:2] != (1, channels):
            raise InputError(f"latents has the shape {shape}, but one picture is (1, {channels}, height/8, width/8).")
        if not bool(given.tensor.isfinite().all()):
            # Told here, or the autoencoder would be blamed; and a preview asks no autoencoder.
            raise InputError("latents holds numbers that are not finite; they would become a black picture.")
        return given

    def _tiling(
        self, asked: DecodeOptions, width: int, height: int
    ) -> tuple[Choice, TilingImplementation, Callable[[], dict[str, Any]]]:
        """How to decode or encode a picture; the last tells, afterwards, what was chosen and what it did."""
        settings = tiling_settings(self._plan.options, asked)
        choice, tiling = choose_tiling(
            asked.tiling_backend,
            settings,
            width,
            height,
            registry=self._loaded.registry,
            machine=self._loaded.machine,
            precision=self._plan.precision,
            vae=self._engine.pipe.vae,
        )
        offer = self._loaded.registry.find("tiling", choice.address)[0].offer
        if not offer.exact and asked.tiling_backend == "auto":
            log.warning("%s; it changes the picture a little.", choice.sentence())

        def report() -> dict[str, Any]:
            return {**_reported(tiling, choice), **choice.as_dict(), "exact": offer.exact}

        return choice, tiling, report

    def _sketch(self, choice: Choice, asked: DecodeOptions, what: Literal["decode", "encode"]) -> None:
        """Raises Dit360Error for a plugin's tiling that is wrong in a small picture; once for each settings."""
        settings = tiling_settings(self._plan.options, asked)
        tried = (choice.address, settings, what)
        if choice.distribution == CORE or tried in self._sketched:
            return
        offer = self._loaded.registry.find("tiling", choice.address)[0].offer
        wrong = sketch(
            offer.load, settings, self._engine.pipe.vae, self._engine.latent_channels, exact=offer.exact, what=what
        )
        if wrong:
            raise Dit360Error(
                f"The tiling {choice.origin} is wrong: {wrong}; choose another {named('tiling_backend')}, or tell "
                "its author."
            )
        self._sketched.add(tried)


_LONGEST_REPORT = 4000
"""Characters of what a plugin may write into a picture's metadata, of which there are 65 000 in all."""


def _reported(tiling: Any, choice: Choice) -> dict[str, Any]:
    """What a tiling tells of what it did, if it is plain data and short: no picture is lost for that."""
    try:
        given = dict(getattr(tiling, "report", {}))
        text = json.dumps(given, default=str, allow_nan=False, ensure_ascii=False)
        text.encode()  # half of a character cannot be written
        if len(text) > _LONGEST_REPORT:
            raise ValueError(f"{len(text)} characters, and {_LONGEST_REPORT} are allowed")
        done: dict[str, Any] = json.loads(text)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a plugin's, whatever it is
        log.warning(
            "What the tiling %s reports is left out of the metadata (%s); tell its author.",
            choice.origin,
            one_line(error),
        )
        return {}
    return done


def _whose(tiling: Choice) -> str:
    """Who is to be told as the author of numbers that are none; nobody, if it is the core."""
    return "" if tiling.distribution == CORE else tiling.origin


def _help(asked: DecodeOptions) -> str | None:
    """What to do when memory ran out, where something takes less than what was asked for."""
    if asked.tiling_mode == "never" or asked.tiling_backend == "whole":
        return f"use {setting('tiling_mode', 'auto')} and {setting('tiling_backend', 'auto')}, which cut as memory asks"
    if asked.tiling_level in ("stored", "mixed"):
        return f"use {setting('tiling_level', 'auto')}, or recomputed, which takes least"
    return None
