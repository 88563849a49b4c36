"""FLUX.1 at work: CLIP and T5 read a prompt, and the transformer sees a panorama under circular padding."""

from __future__ import annotations

import sys
from typing import Any

import attrs
import torch
import torch.nn.functional as F

from dit360_core.errors import InputError, remedy
from dit360_core.models.embedding import Embedding
from dit360_core.models.engine import Engine
from dit360_core.models.flux import channels
from dit360_core.models.flux.latents import as_stored, latent_to_rgb
from dit360_core.models.flux.lengths import LONGEST_PROMPT
from dit360_core.models.shift import FlowShift
from dit360_core.models.velocity import TokenVelocity
from dit360_core.plugins.offers import Attend
from dit360_core.sphere.grid import Grid


@attrs.frozen(kw_only=True, eq=False)
class FluxEngine(Engine):
    """A FluxPipeline of diffusers. Its attention processor is set when it is made."""

    def __attrs_post_init__(self) -> None:
        _forget_failed_import()

    def shift(self, steps: int) -> FlowShift:
        return FlowShift.from_config(self.pipe.scheduler.config, steps)

    @property
    def longest_prompt(self) -> int:
        """Tokens that T5 was made for, at most FLUX's 512."""
        return min(LONGEST_PROMPT, int(self.pipe.tokenizer_2.model_max_length))

    # ------------------------------------------------------------------------------------------------------- prompts

    @property
    def _tokenizer(self) -> Any:
        return self.pipe.tokenizer_2

    def _encode(self, prompt: str, max_sequence_length: int) -> Embedding:
        tokens, pooled, _ = self.pipe.encode_prompt(prompt, device=self.device, max_sequence_length=max_sequence_length)
        return Embedding(tokens=tokens, pooled=pooled)

    def check_embedding(self, embedding: Embedding) -> None:
        wanted = (int(self.config.joint_attention_dim), int(self.config.pooled_projection_dim))
        pooled = 0 if embedding.pooled is None else int(embedding.pooled.shape[-1])
        found = (int(embedding.tokens.shape[-1]), pooled)
        if found != wanted:
            raise InputError(
                f"The conditioning has {found[0]} channels a token and {found[1]} in all, and this model reads "
                f"{wanted[0]} and {wanted[1]}; {remedy('encode_with_this_model')}."
            )

    # ------------------------------------------------------------------------------------------------------ denoising

    def beside(self, masked: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The pixels of a latent are as many channels of it, as in diffusers' FluxFillPipeline."""
        pixels = F.pixel_unshuffle(mask.to(masked), channels.PIXELS_OF_A_LATENT)
        return self.pack(torch.cat([masked, pixels], dim=1))

    def velocity(
        self,
        grid: Grid,
        guidance: float | None,
        attend: Attend | None,
        *,
        biased: bool = False,
    ) -> FluxVelocity:
        return FluxVelocity(self, grid, guidance, attend, biased)

    # -------------------------------------------------------------------------------------------------- autoencoding

    def to_stored(self, latents: torch.Tensor) -> torch.Tensor:
        return as_stored(self.autoencoder, latents)

    def from_stored(self, latents: torch.Tensor) -> torch.Tensor:
        config = self.autoencoder.config
        return (latents - (config.shift_factor or 0.0)) * config.scaling_factor  # type: ignore[no-any-return]

    def latent_to_rgb(self) -> torch.Tensor:
        return latent_to_rgb(self.pipe.vae, self.device)


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


class FluxVelocity(TokenVelocity):
    """The transformer; x with what is shown beside it, in a model that fills."""

    def __init__(
        self, engine: FluxEngine, grid: Grid, guidance: float | None, attend: Attend | None, biased: bool
    ) -> None:
        """The arguments are those of :meth:`Engine.velocity`."""
        super().__init__(engine, grid, attend, biased=biased)
        # Positions stay float32: in bfloat16 neighbours beyond column 256 would share one.
        self._image_ids = self.grid.position_ids().to(engine.device)
        self._guidance = None
        if engine.facts.takes_guidance:
            self._guidance = torch.full((1,), 1.0 if guidance is None else guidance, device=engine.device)

    def evaluate(
        self, tokens: torch.Tensor, sigma: float, embedding: Embedding, attention: dict[str, Any], branch: str
    ) -> torch.Tensor:
        engine = self.engine
        # Rounded in the same steps as in FluxPipeline, so that the model sees the same time in every dtype.
        timestep = torch.full((1,), 1000.0 * sigma, device=engine.device).to(engine.dtype) / 1000
        text_ids = torch.zeros(embedding.tokens.shape[1], 3, device=engine.device)
        with engine.denoiser.cache_context(branch):
            out: torch.Tensor = engine.denoiser(
                hidden_states=tokens,
                timestep=timestep,
                guidance=self._guidance,
                pooled_projections=embedding.pooled,
                encoder_hidden_states=embedding.tokens,
                txt_ids=text_ids,
                img_ids=self._image_ids,
                joint_attention_kwargs=attention or None,
                return_dict=False,
            )[0]
        return out
