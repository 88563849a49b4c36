"""A loaded model at work, as far as all families have it in common: prompts, noise, evaluations, latents to pixels."""

from __future__ import annotations

import abc
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import torch

from dit360_core.errors import Dit360Error, InputError, named, setting
from dit360_core.models.architecture import AUTOENCODER, DENOISER, Facts, Networks
from dit360_core.models.embedding import Embedding
from dit360_core.models.residency.placement import settle
from dit360_core.models.residency.residency import Residency
from dit360_core.models.residency.watch import Watch, between_convolutions
from dit360_core.models.weights.quiet import quiet
from dit360_core.plugins.offers import Attend, TilingImplementation, TimeShift
from dit360_core.sphere.grid import Grid
from dit360_core.system.phases import PhaseKind
from dit360_core.system.recording import Recorder, recorder_of

if TYPE_CHECKING:
    from dit360_core.models.architecture import Architecture

log = logging.getLogger("dit360")

REMEMBERED = 16
"""Prompts, of some 4 MB each."""


class Velocity(Protocol):
    """The denoiser as a function, for one picture: tokens and noise level to velocity."""

    def __call__(self, x: torch.Tensor, sigma: float, embedding: Embedding, branch: str = "cond") -> torch.Tensor:
        """x and the velocity: ``(1, tokens, channels)``, real columns only.

        x: in a model that fills, with the channels of :meth:`Engine.beside` after its own; in one that refers, with
        those of each picture that it is shown, packed as its own are.
        branch: name for diffusers' caches.
        """
        ...

    def use(self, attend: Attend) -> None:
        """Another kernel from now on, for this picture."""
        ...


@attrs.frozen(kw_only=True, eq=False)
class Engine(abc.ABC):
    """A pipeline of diffusers, its parts used one by one.

    networks: of its family.
    pipe: the pipeline.
    device: where it computes.
    dtype: that the denoiser computes in.
    config: the denoiser's configuration, wherever its weights are.
    residency: which parts come and go.
    stages: what is being done, the innermost last.
    recorders: who measures memory and time, the last of them.
    watches: who looks in before each layer.
    """

    networks: Networks = attrs.field(repr=False)
    pipe: Any
    device: torch.device
    dtype: torch.dtype
    config: Any = attrs.field(repr=False)
    residency: Residency = attrs.field(repr=False)
    stages: list[str] = attrs.field(factory=list, repr=False)
    recorders: list[Recorder] = attrs.field(factory=list, repr=False)
    watches: list[Watch] = attrs.field(factory=list, repr=False)
    _read: OrderedDict[tuple[str, int], Embedding] = attrs.field(factory=OrderedDict, repr=False, init=False)

    # -------------------------------------------------------------------------------------------------------- facts

    @property
    def architecture(self) -> Architecture:
        """The family."""
        return self.networks.architecture

    @property
    def denoiser(self) -> Any:
        """The part that paints; None while it is evicted."""
        return getattr(self.pipe, DENOISER)

    @property
    def facts(self) -> Facts:
        """What the model's configurations say."""
        return self.architecture.facts_of(self.config, self.pipe.config)

    @property
    def latent_channels(self) -> int:
        """C of latents ``(1, C, H/8, W/8)``."""
        return self.facts.latent_channels

    @abc.abstractmethod
    def shift(self, steps: int) -> TimeShift:
        """The model's own time shift, for a run of so many steps."""

    @property
    @abc.abstractmethod
    def longest_prompt(self) -> int:
        """Tokens that the text encoder was made for."""

    # ------------------------------------------------------------------------------------------------- presence, phases

    @property
    def recorder(self) -> Recorder | None:
        """Who measures what this thread does: one for this thread alone before one for all."""
        return recorder_of(self.recorders)

    @contextmanager
    def phase(self, name: str, kind: PhaseKind | None = None) -> Iterator[None]:
        """Something that is measured, if anybody measures.

        kind: what it is, where it is one of those predicted.
        """
        with self.recorder.phase(name, kind) if self.recorder is not None else nullcontext():
            yield

    def mark(self, name: str) -> None:
        """A moment inside a phase."""
        if self.recorder is not None:
            self.recorder.mark(name)

    def bring(self, *parts: str) -> None:
        """Reads parts that were evicted, before they are used, and has a host put them on the device."""
        self.residency.bring(self.pipe, *parts)
        for watch in self.watches:
            watch.over(*(getattr(self.pipe, name, None) for name in parts if name in self._layered))

    @property
    def _layered(self) -> tuple[str, ...]:
        """Parts that are looked into layer by layer; the autoencoder's layers are run one by one anyhow."""
        return (DENOISER, *self.architecture.encoders)

    @contextmanager
    def watched(self, check: Callable[[], None]) -> Iterator[None]:
        """In this block ``check`` is called before each layer that runs, of any part; what it raises ends the stage.

        Compiled blocks run to the end of the step.
        """
        watch = Watch(check)
        watch.over(*(getattr(self.pipe, name, None) for name in self._layered))
        self.watches.append(watch)
        try:
            yield
        finally:
            self.watches.remove(watch)
            watch.end()

    def settle(self) -> None:
        """After a stage that failed: sends blocks back that came for it, which only its end would have sent back."""
        settle(self.pipe, self.architecture)

    def release(self) -> None:
        """Moves offloaded parts back to system memory, and lets go of those that are evicted, after a stage."""
        # Dropped first: accelerate makes its hooks anew, for the parts that are there.
        self.residency.drop(self.pipe)
        self.pipe.maybe_free_model_hooks()

    # ------------------------------------------------------------------------------------------------------- prompts

    def embed(self, prompt: str, max_sequence_length: int) -> Embedding:
        """All text encoders. A prompt that is too long is cut, with a warning.

        Where the text encoders are evicted, the last prompts are remembered: another seed of one reads nothing.
        """
        if max_sequence_length <= (framing := self._framing):
            raise InputError(
                f"{setting('max_sequence_length', max_sequence_length)} leaves no room for a prompt: {framing} tokens "
                f"stand around every one of this model's; use more than that."
            )
        self._warn_if_cut(prompt, max_sequence_length - framing)
        if (prompt, max_sequence_length) in self._read:
            return self._read[prompt, max_sequence_length]
        self.bring(*self.architecture.encoders)
        if missing := [name for name in self.architecture.encoders if getattr(self.pipe, name, None) is None]:
            raise InputError(
                f"The pipeline has no {' and no '.join(missing)}, so it cannot read a prompt; load it with its own."
            )
        with quiet(), torch.no_grad():
            embedding = self._encode(prompt, max_sequence_length)
        if not embedding.is_finite:
            # Told here, or the kernel and the solver would be blamed for it; and not remembered.
            raise Dit360Error(
                f"The text encoders produced numbers that are not finite in {embedding.tokens.dtype}; use "
                f"{named('precision')} bf16 or fp32, or download {' and '.join(self.architecture.encoders)} again."
            )
        if self.residency.evict != "none":
            self._read[prompt, max_sequence_length] = embedding
            if len(self._read) > REMEMBERED:
                self._read.popitem(last=False)
        return embedding

    def _warn_if_cut(self, prompt: str, limit: int) -> None:
        with quiet():
            ids = self._tokenizer(prompt, add_special_tokens=True, truncation=False).input_ids
        if len(ids) > limit:
            kept = self._tokenizer.decode(ids[: limit - 1], skip_special_tokens=True)
            log.warning(
                "The prompt has %d tokens and only %d are read; everything after '…%s' is ignored.",
                len(ids),
                limit,
                kept[-40:],
            )

    @property
    def _framing(self) -> int:
        """How many of the tokens that are read stand around every prompt, where the end of one is not counted."""
        return 0

    @property
    @abc.abstractmethod
    def _tokenizer(self) -> Any:
        """The tokenizer whose tokens are counted."""

    @abc.abstractmethod
    def _encode(self, prompt: str, max_sequence_length: int) -> Embedding:
        """What the text encoders, which are there, make of a prompt."""

    @abc.abstractmethod
    def check_embedding(self, embedding: Embedding) -> None:
        """Raises InputError for an embedding that is another model's, which a conditioning made elsewhere can hold."""

    # ------------------------------------------------------------------------------------------------------ denoising

    def noise(self, grid: Grid, generator: torch.Generator) -> torch.Tensor:
        """Standard normal latents ``(1, C, 2·rows, 2·columns)`` fp32, drawn on the CPU for the real columns only.

        The draw is diffusers' with a CPU generator; drawn in bf16 or fp16 it would be these values, rounded.
        """
        shape = (1, self.latent_channels, 2 * grid.rows, 2 * grid.columns)
        return torch.randn(shape, generator=generator, dtype=torch.float32)

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        """``(B, C, 2r, 2c)`` → tokens ``(B, r·c, 4C)``: channel by channel the four latents of a token, row by row."""
        batch, channels, height, width = latents.shape
        patches = latents.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        return patches.reshape(batch, (height // 2) * (width // 2), 4 * channels)

    def unpack(self, tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Tokens ``(B, r·c, 4C)`` → ``(B, C, 2r, 2c)``: the inverse of :meth:`pack`."""
        batch, _, channels = tokens.shape
        patches = tokens.reshape(batch, grid.rows, grid.columns, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return patches.reshape(batch, channels // 4, 2 * grid.rows, 2 * grid.columns)

    def turn(self, tokens: torch.Tensor, grid: Grid, columns: int) -> torch.Tensor:
        """Tokens of the picture rolled to the left by latent columns, which are half as wide as tokens."""
        return self.pack(self.unpack(tokens, grid).roll(-columns, -1)) if columns else tokens

    def beside(self, masked: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What a model that fills is shown beside the noise: tokens ``(1, r·c, channels)``, which turn as others do.

        masked: model-space latents ``(1, C, 2r, 2c)`` of the picture, whose hole is mid-grey.
        mask: ``(1, 1, H, W)``, 1 in the hole, 0 elsewhere.
        """
        raise NotImplementedError(f"no model of {self.architecture.title} fills")

    @abc.abstractmethod
    def velocity(
        self,
        grid: Grid,
        guidance: float | None,
        attend: Attend | None,
        *,
        biased: bool = False,
    ) -> Velocity:
        """The denoiser as a function, for one picture.

        guidance: where it is embedded; None: none.
        attend: the kernel for this picture; None: the one that is attached.
        biased: the picture wraps by :meth:`Grid.key_bias` instead of the grid's copies of columns.
        """

    def like_factors(self, denoiser: torch.nn.Module | None) -> torch.Tensor:
        """An empty tensor of the dtype of a LoRA's factors, on the device of the weights beside them.

        denoiser: None if it is not in memory now.
        """
        weights: Any = iter(()) if denoiser is None else denoiser.parameters()
        resting = next((tensor.device for tensor in weights), self.device)
        return torch.empty(0, dtype=self.dtype, device=resting)

    def guided(self, towards: torch.Tensor, away: torch.Tensor, scale: float) -> torch.Tensor:
        """Classifier-free guidance (Ho & Salimans 2022, eq. 6), which a family may do in another way.

        towards: the velocity for the prompt.
        away: that for the negative prompt.
        scale: above :attr:`Facts.off`, at which it would be ``towards``.
        """
        return away + scale * (towards - away)

    def attach(self, attend: Attend, slice_size: int) -> None:
        """Gives the denoiser a kernel from now on, ``slice_size`` queries at a time (0: all)."""
        self.networks.attach(self.denoiser, attend, slice_size)

    # -------------------------------------------------------------------------------------------------- autoencoding

    @abc.abstractmethod
    def to_stored(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents in model space as the autoencoder has them: neither scaled nor shifted. The dtype stays."""

    @abc.abstractmethod
    def from_stored(self, latents: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`to_stored`."""

    @property
    def exchanged_side(self) -> int:
        """Pixels on each side of what is one latent in :meth:`to_exchanged`."""
        return 8

    def to_exchanged(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents in model space ``(1, C, h, w)`` as ComfyUI's autoencoder of this family gives them and takes them.

        Those of most families are the autoencoder's own.
        """
        return self.to_stored(latents)

    def from_exchanged(self, samples: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`to_exchanged`. Raises InputError for what is no picture's of this model."""
        return self.from_stored(pictures_of(samples, self.latent_channels))

    @abc.abstractmethod
    def latent_to_rgb(self) -> torch.Tensor:
        """Factors ``(C + 1, 3)``: model-space latents, and a 1, to RGB in −1 … 1."""

    @property
    def autoencoder(self) -> Any:
        """The part between latents and pixels, read if it was evicted."""
        if self.pipe.vae is None:
            self.bring(AUTOENCODER)
        return self.pipe.vae

    def decode(self, latents: torch.Tensor, tiling: TilingImplementation, by: str = "") -> torch.Tensor:
        """Model-space latents ``(1, C, h, w)`` → pixels ``(1, 3, 8h, 8w)`` fp32 in 0 … 1, on the CPU.

        by: whose tiling it is, for an error, if it is a plugin's.
        """
        vae = self.pipe.vae
        stored = self.to_stored(latents.to(self.device, vae.dtype))
        with between_convolutions(self.watches):
            pixels = tiling.decode(vae, stored).float().cpu()
        return (_finite(pixels, vae, by) / 2 + 0.5).clamp(0, 1)

    def encode(self, pixels: torch.Tensor, tiling: TilingImplementation, by: str = "") -> torch.Tensor:
        """Pixels ``(1, 3, H, W)`` in 0 … 1 → model-space latents ``(1, C, H/8, W/8)`` fp32, on the CPU.

        by: as for :meth:`decode`.
        """
        vae = self.pipe.vae
        with between_convolutions(self.watches):
            stored = tiling.encode(vae, (pixels * 2 - 1).to(self.device, vae.dtype)).float().cpu()
        return self.from_stored(_finite(stored, vae, by))


def pictures_of(samples: torch.Tensor, channels: int) -> torch.Tensor:
    """Samples of other software as latents ``(B, channels, h, w)``: an axis of frames with one of them is left out.

    Raises InputError for those of a film, and of another model.
    """
    one = samples.squeeze(2) if samples.ndim == 5 and samples.shape[2] == 1 else samples
    if one.ndim != 4:
        raise InputError(
            f"The latents have the shape {tuple(samples.shape)}, which is no picture's of this model; use those of one."
        )
    if one.shape[1] != channels:
        raise InputError(
            f"The latents have {one.shape[1]} channels, and this model's have {channels}; encode the picture with "
            "DiT360 Encode, or with the autoencoder of this model's family."
        )
    return one


def _finite(made: torch.Tensor, vae: Any, by: str) -> torch.Tensor:
    """What an autoencoder made. Raises Dit360Error for what would become a black picture."""
    if bool(torch.isfinite(made).all()):
        return made
    told = f" with the tiling {by}" if by else ""
    hint = "choose another tiling, or " if by else ""
    raise Dit360Error(
        f"The autoencoder produced numbers that are not finite{told} in {vae.dtype}; {hint}use {named('precision')} "
        "bf16 or fp32."
    )
