"""What FLUX does for a panorama: prompts to embeddings, noise, velocity under circular padding, latents to pixels."""

from __future__ import annotations

import logging
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import attrs
import torch

from dit360_core.errors import Dit360Error
from dit360_core.models.embedding import Embedding
from dit360_core.models.flux.shift import FluxTimeShift
from dit360_core.models.residency.placement import settle
from dit360_core.models.residency.residency import Residency
from dit360_core.models.residency.watch import Watch, between_convolutions
from dit360_core.models.weights.quiet import quiet
from dit360_core.plugins.offers import Attend, TilingImplementation
from dit360_core.sphere.grid import Grid
from dit360_core.system.recording import Recorder, recorder_of

log = logging.getLogger("dit360")

VAE_FACTOR = 8
"""Pixels to a latent column."""
_LAYERED = ("transformer", "text_encoder", "text_encoder_2")
REMEMBERED = 16
"""Prompts, of some 4 MB each."""


def as_stored(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents in model space as the autoencoder itself has them: neither scaled nor shifted."""
    return latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)  # type: ignore[no-any-return]


@attrs.frozen(kw_only=True, eq=False)
class Engine:
    """A FluxPipeline of diffusers, its parts used one by one. Its attention processor is set when it is made."""

    pipe: Any
    device: torch.device
    dtype: torch.dtype
    config: Any = attrs.field(repr=False)
    residency: Residency = attrs.field(repr=False)
    stages: list[str] = attrs.field(factory=list, repr=False)
    """What is being done, the innermost last."""
    recorders: list[Recorder] = attrs.field(factory=list, repr=False)
    """Who measures memory and time, the last of them."""
    watches: list[Watch] = attrs.field(factory=list, repr=False)
    _read: OrderedDict[tuple[str, int], Embedding] = attrs.field(factory=OrderedDict, repr=False, init=False)

    def __attrs_post_init__(self) -> None:
        _forget_failed_import()

    @config.default
    def _of_the_transformer(self) -> Any:
        return self.pipe.transformer.config

    @residency.default
    def _everything_stays(self) -> Residency:
        return Residency(device=self.device)

    # -------------------------------------------------------------------------------------------------------- facts

    @property
    def transformer(self) -> Any:
        return self.pipe.transformer

    @property
    def latent_channels(self) -> int:
        return int(self.config.in_channels) // 4

    @property
    def takes_guidance(self) -> bool:
        """Whether guidance is embedded (FLUX.1-dev) or must be run as a second evaluation (FLUX.1-schnell)."""
        return bool(self.config.guidance_embeds)

    @property
    def shift(self) -> FluxTimeShift:
        return FluxTimeShift.from_config(self.pipe.scheduler.config)

    @property
    def longest_prompt(self) -> int:
        """Tokens that the text encoder was made for, at most FLUX's 512."""
        return min(512, int(self.pipe.tokenizer_2.model_max_length))

    # ------------------------------------------------------------------------------------------------------ stages

    def embed(self, prompt: str, max_sequence_length: int) -> Embedding:
        """Both text encoders, as FluxPipeline runs them. A prompt that is too long is cut, with a warning.

        Where the text encoders are evicted, the last prompts are remembered: another seed of one reads nothing.
        """
        self._warn_if_cut(prompt, max_sequence_length)
        if (prompt, max_sequence_length) in self._read:
            return self._read[prompt, max_sequence_length]
        self.bring("text_encoder", "text_encoder_2")
        with quiet(), torch.no_grad():
            tokens, pooled, _ = self.pipe.encode_prompt(
                prompt, device=self.device, max_sequence_length=max_sequence_length
            )
        if not bool(torch.isfinite(tokens).all() & torch.isfinite(pooled).all()):
            # Told here, or the kernel and the solver would be blamed for it; and not remembered.
            raise Dit360Error(
                f"The text encoders produced numbers that are not finite in {tokens.dtype}; use precision bf16 or "
                "fp32, or download text_encoder and text_encoder_2 again."
            )
        embedding = Embedding(tokens=tokens, pooled=pooled)
        if self.residency.evict != "none":
            self._read[prompt, max_sequence_length] = embedding
            if len(self._read) > REMEMBERED:
                self._read.popitem(last=False)
        return embedding

    @property
    def recorder(self) -> Recorder | None:
        """Who measures what this thread does: one for this thread alone before one for all."""
        return recorder_of(self.recorders)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Something that is measured, if anybody measures."""
        with self.recorder.phase(name) if self.recorder is not None else nullcontext():
            yield

    def mark(self, name: str) -> None:
        """A moment inside a phase."""
        if self.recorder is not None:
            self.recorder.mark(name)

    def bring(self, *parts: str) -> None:
        """Reads parts that were evicted, before they are used, and has a host put them on the device."""
        self.residency.bring(self.pipe, *parts)
        for watch in self.watches:
            watch.over(*(getattr(self.pipe, name, None) for name in parts if name in _LAYERED))

    @contextmanager
    def watched(self, check: Callable[[], None]) -> Iterator[None]:
        """In this block ``check`` is called before each layer that runs, of any part; what it raises ends the stage.

        Compiled blocks run to the end of the step.
        """
        watch = Watch(check)
        watch.over(*(getattr(self.pipe, name, None) for name in _LAYERED))
        self.watches.append(watch)
        try:
            yield
        finally:
            self.watches.remove(watch)
            watch.end()

    def to_stored(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents in model space as the autoencoder has them: neither scaled nor shifted. The dtype stays."""
        return as_stored(self._described_vae(), latents)

    def from_stored(self, latents: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`to_stored`."""
        config = self._described_vae().config
        return (latents - (config.shift_factor or 0.0)) * config.scaling_factor  # type: ignore[no-any-return]

    def _described_vae(self) -> Any:
        # Its configuration is enough, wherever its weights are.
        if self.pipe.vae is None:
            self.bring("vae")
        return self.pipe.vae

    def _warn_if_cut(self, prompt: str, limit: int) -> None:
        with quiet():
            ids = self.pipe.tokenizer_2(prompt, add_special_tokens=True, truncation=False).input_ids
        if len(ids) > limit:
            kept = self.pipe.tokenizer_2.decode(ids[: limit - 1], skip_special_tokens=True)
            log.warning(
                "The prompt has %d tokens and only %d are read; everything after '…%s' is ignored.",
                len(ids),
                limit,
                kept[-40:],
            )

    def noise(self, grid: Grid, generator: torch.Generator) -> torch.Tensor:
        """Standard normal latents ``(1, C, 2·rows, 2·columns)`` fp32, drawn on the CPU for the real columns only.

        The draw is FluxPipeline's with a CPU generator; drawn in bf16 or fp16 it would be these values, rounded.
        """
        shape = (1, self.latent_channels, 2 * grid.rows, 2 * grid.columns)
        return torch.randn(shape, generator=generator, dtype=torch.float32)

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        """``(B, C, 2r, 2c)`` → tokens ``(B, r·c, 4C)``."""
        batch, channels, height, width = latents.shape
        return self.pipe._pack_latents(latents, batch, channels, height, width)  # type: ignore[no-any-return]

    def unpack(self, tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Tokens ``(B, r·c, 4C)`` → ``(B, C, 2r, 2c)``."""
        height, width = 16 * grid.rows, 16 * grid.columns
        return self.pipe._unpack_latents(tokens, height, width, VAE_FACTOR)  # type: ignore[no-any-return]

    def turn(self, tokens: torch.Tensor, grid: Grid, columns: int) -> torch.Tensor:
        """Tokens of the picture rolled to the left by latent columns, which are half as wide as tokens."""
        return self.pack(self.unpack(tokens, grid).roll(-columns, -1)) if columns else tokens

    def velocity(
        self, grid: Grid, guidance: float | None, attend: Attend | None, key_bias: torch.Tensor | None = None
    ) -> Velocity:
        """The model as a function of tokens and noise level, for one picture."""
        return Velocity(self, grid, guidance, attend, key_bias)

    def decode(self, latents: torch.Tensor, tiling: TilingImplementation, by: str = "") -> torch.Tensor:
        """Model-space latents ``(1, C, h, w)`` → pixels ``(1, 3, 8h, 8w)`` fp32 in 0 … 1, on the CPU.

        by: whose tiling it is, for an error, if it is a plugin's.
        """
        vae = self.pipe.vae
        stored = as_stored(vae, latents.to(self.device, vae.dtype))
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

    def settle(self) -> None:
        """After a stage that failed: sends blocks back that came for it, which only its end would have sent back."""
        settle(self.pipe)

    def release(self) -> None:
        """Moves offloaded parts back to system memory, and lets go of those that are evicted, after a stage."""
        # Dropped first: accelerate makes its hooks anew, for the parts that are there.
        self.residency.drop(self.pipe)
        self.pipe.maybe_free_model_hooks()


def _forget_failed_import() -> None:
    """Lets go of what xFormers keeps if it does not fit PyTorch, which it finds out when diffusers imports it.

    It keeps the exception, which keeps the functions that were running, up to whoever loads the first model of the
    process: all parts of that one would stay for ever, whether they are evicted, offloaded or nobody's any more.
    """
    library = sys.modules.get("xformers._cpp_lib")
    kept = getattr(library, "_cpp_library_load_exception", None)
    while isinstance(kept, BaseException):
        kept.__traceback__ = None
        kept = kept.__cause__ or kept.__context__


def _finite(made: torch.Tensor, vae: Any, by: str) -> torch.Tensor:
    """What an autoencoder made. Raises Dit360Error for what would become a black picture."""
    if bool(torch.isfinite(made).all()):
        return made
    told = f" with the tiling {by}" if by else ""
    hint = "choose another tiling, or " if by else ""
    raise Dit360Error(
        f"The autoencoder produced numbers that are not finite{told} in {vae.dtype}; {hint}use precision bf16 or fp32."
    )


class Velocity:
    """``velocity(x, sigma, embedding) -> v``: pads longitude, calls the transformer, crops.

    x and v ``(1, r·c, 4C)``, real columns only. What does not change between steps is made once, here. key_bias: see
    :meth:`Grid.key_bias`; the grid has no pad columns then.
    """

    def __init__(
        self, engine: Engine, grid: Grid, guidance: float | None, attend: Attend | None, key_bias: torch.Tensor | None
    ) -> None:
        self._engine, self._grid = engine, grid
        device = engine.device
        self._pad = grid.pad_index().to(device) if grid.padding else None
        self._crop = grid.crop_index().to(device) if grid.padding else None
        # Positions stay float32: in bfloat16 neighbours beyond column 256 would share one.
        self._image_ids = grid.position_ids().to(device)
        self._guidance = None
        if engine.takes_guidance:
            self._guidance = torch.full((1,), 1.0 if guidance is None else guidance, device=device)
        # A kernel for this picture only travels with the call; nothing is stored on the modules.
        self._attention: dict[str, Any] = {} if attend is None else {"attend": attend}
        if key_bias is not None:
            self._attention["key_bias"] = key_bias.to(device, torch.promote_types(engine.dtype, torch.float32))

    def use(self, attend: Attend) -> None:
        """Another kernel from now on, for this picture."""
        self._attention["attend"] = attend

    def __call__(
        self, x: torch.Tensor, sigma: float, embedding: Embedding, branch: str = "cond", turned: int = 0
    ) -> torch.Tensor:
        """branch: name for diffusers' caches. turned: latent columns by which the model sees the panorama turned."""
        engine = self._engine
        tokens = engine.turn(x, self._grid, turned).to(engine.dtype)
        if self._pad is not None:
            tokens = tokens.index_select(1, self._pad)
        # Rounded in the same steps as in FluxPipeline, so that the model sees the same time in every dtype.
        timestep = torch.full((1,), 1000.0 * sigma, device=engine.device).to(engine.dtype) / 1000
        text_ids = torch.zeros(embedding.tokens.shape[1], 3, device=engine.device)
        # diffusers' caches (first block, TaylorSeer, …) keep the two branches of true guidance apart by this name.
        with engine.transformer.cache_context(branch):
            out: torch.Tensor = engine.transformer(
                hidden_states=tokens,
                timestep=timestep,
                guidance=self._guidance,
                pooled_projections=embedding.pooled,
                encoder_hidden_states=embedding.tokens,
                txt_ids=text_ids,
                img_ids=self._image_ids,
                joint_attention_kwargs=self._attention or None,
                return_dict=False,
            )[0]
        if self._crop is not None:
            out = out.index_select(1, self._crop)
        return engine.turn(out.to(x.dtype), self._grid, -turned)
