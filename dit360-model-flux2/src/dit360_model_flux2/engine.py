"""FLUX.2 at work: a language model reads a prompt, and the transformer sees a panorama under circular padding."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from dit360_core.models.running import (
    Embedding,
    Engine,
    FlowShift,
    Grid,
    TokenVelocity,
    fitted,
    hidden_states,
    language_model,
    padded,
    pictures_of,
)
from dit360_core.plugins import Attend, InputError, TimeShift, remedy

from dit360_model_flux2.parts import DEV, LONGEST_PROMPT
from dit360_model_flux2.prompts import dev_text, klein_text, layers_read
from dit360_model_flux2.shift import exponent

REFERENCE_TIME = 10
"""What stands for time in the positions of the first picture that the model is shown, and how far the next is."""


@attrs.frozen(kw_only=True, eq=False)
class Flux2Engine(Engine):
    """A Flux2KleinPipeline or Flux2Pipeline of diffusers."""

    def shift(self, steps: int) -> TimeShift:
        return FlowShift.from_config(self.pipe.scheduler.config, steps, lambda tokens: exponent(tokens, steps))

    @property
    def longest_prompt(self) -> int:
        return LONGEST_PROMPT

    @property
    def is_dev(self) -> bool:
        """Whether it is a FLUX.2 [dev], which reads prompts with Mistral."""
        return DEV in (each.__name__ for each in type(self.pipe).__mro__)

    # ------------------------------------------------------------------------------------------------------- prompts

    @property
    def _tokenizer(self) -> Any:
        # That of somebody's own pipeline may be a processor, which has one.
        return getattr(self.pipe.tokenizer, "tokenizer", self.pipe.tokenizer)

    @property
    def _framing(self) -> int:
        return len(self._tokenizer(self._framed(""), add_special_tokens=False).input_ids)

    def _framed(self, prompt: str) -> str:
        return dev_text(prompt) if self.is_dev else klein_text(prompt)

    def _encode(self, prompt: str, max_sequence_length: int) -> Embedding:
        ids, mask = padded(self._tokenizer, self._framed(prompt), max_sequence_length)
        model = language_model(self.pipe.text_encoder)
        after = getattr(model, "layers_read", None) or layers_read(model.config, dev=self.is_dev)
        given: dict[str, Any] = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
        states = hidden_states(self.pipe.text_encoder, after, **given)
        return Embedding(tokens=torch.cat(states, dim=-1))

    def check_embedding(self, embedding: Embedding) -> None:
        found, wanted = int(embedding.tokens.shape[-1]), int(self.config.joint_attention_dim)
        if found != wanted:
            raise InputError(
                f"The conditioning has {found} channels a token, and this model reads {wanted}; "
                f"{remedy('encode_with_this_model')}."
            )

    # ------------------------------------------------------------------------------------------------------ denoising

    def noise(self, grid: Grid, generator: torch.Generator) -> torch.Tensor:
        """Drawn token by token, as diffusers' pipelines do, which have the four latents of a token as channels."""
        shape = (1, 4 * self.latent_channels, grid.rows, grid.columns)
        drawn = torch.randn(shape, generator=generator, dtype=torch.float32)
        return self.unpack(drawn.flatten(2).transpose(1, 2), grid)

    def velocity(
        self, grid: Grid, guidance: float | None, attend: Attend | None, *, biased: bool = False
    ) -> Flux2Velocity:
        return Flux2Velocity(self, grid, guidance, attend, biased)

    # -------------------------------------------------------------------------------------------------- autoencoding

    def to_stored(self, latents: torch.Tensor) -> torch.Tensor:
        """The statistics of the autoencoder's batch norm, of the four latents of a token each, are put back."""
        mean, spread = self._statistics(latents)
        return latents * spread + mean

    def from_stored(self, latents: torch.Tensor) -> torch.Tensor:
        mean, spread = self._statistics(latents)
        return (latents - mean) / spread

    @property
    def exchanged_side(self) -> int:
        return 16

    def to_exchanged(self, latents: torch.Tensor) -> torch.Tensor:
        """In model space: in ComfyUI the statistics, and the four latents of a token, are the autoencoder's matter."""
        return torch.nn.functional.pixel_unshuffle(latents, 2)

    def from_exchanged(self, samples: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pixel_shuffle(pictures_of(samples, 4 * self.latent_channels), 2)

    def _statistics(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each latent, in the shape of ``(1, C, h, w)``."""
        norm = self.autoencoder.bn
        rows, columns = latents.shape[-2] // 2, latents.shape[-1] // 2

        def spread_out(of_a_token: torch.Tensor) -> torch.Tensor:
            four = of_a_token.to(latents.device, latents.dtype).view(1, -1, 2, 2)
            return four.repeat(1, 1, rows, columns)

        deviation = torch.sqrt(norm.running_var + self.autoencoder.config.batch_norm_eps)
        return spread_out(norm.running_mean), spread_out(deviation)

    def latent_to_rgb(self) -> torch.Tensor:
        return fitted(self.autoencoder, self.to_stored, self.device)


class Flux2Velocity(TokenVelocity):
    """The transformer; x with the pictures that it is shown after it, as more channels."""

    def __init__(
        self, engine: Flux2Engine, grid: Grid, guidance: float | None, attend: Attend | None, biased: bool
    ) -> None:
        """The arguments are those of :meth:`Engine.velocity`."""
        super().__init__(engine, grid, attend, biased=biased)
        self._channels = 4 * engine.latent_channels
        # Positions stay float32: in bfloat16 neighbours beyond column 256 would share one.
        self._image_ids = _four(self.grid.position_ids()).to(engine.device)
        self._real_ids = _four(grid.real.position_ids()).to(engine.device)
        self._real = self.grid.crop_index().to(engine.device)
        self._guidance = None
        if engine.facts.takes_guidance:
            self._guidance = torch.full((1,), 1.0 if guidance is None else guidance, device=engine.device)

    def _shown(self, tokens: torch.Tensor) -> int:
        return tokens.shape[-1] // self._channels - 1

    def after(self, tokens: torch.Tensor) -> int:
        return self._shown(tokens) * len(self._real)

    def evaluate(
        self, tokens: torch.Tensor, sigma: float, embedding: Embedding, attention: dict[str, Any], branch: str
    ) -> torch.Tensor:
        engine = self.engine
        seen, ids = [tokens[..., : self._channels]], [self._image_ids]
        for i in range(1, self._shown(tokens) + 1):
            # What is shown is no panorama in the making, so that no column of it is seen twice.
            picture = tokens[..., i * self._channels : (i + 1) * self._channels]
            seen.append(picture.index_select(1, self._real))
            ids.append(self._real_ids + REFERENCE_TIME * i * _TIME.to(self._real_ids))
        # Rounded in the same steps as in diffusers' pipelines, so that the model sees the same time in every dtype.
        timestep = torch.full((1,), 1000.0 * sigma, device=engine.device).to(engine.dtype) / 1000
        text_ids = torch.zeros(embedding.tokens.shape[1], 4, device=engine.device)
        text_ids[:, 3] = torch.arange(len(text_ids), device=engine.device)
        with engine.denoiser.cache_context(branch):
            out: torch.Tensor = engine.denoiser(
                hidden_states=torch.cat(seen, dim=1),
                timestep=timestep,
                guidance=self._guidance,
                encoder_hidden_states=embedding.tokens,
                txt_ids=text_ids,
                img_ids=torch.cat(ids),
                joint_attention_kwargs=attention or None,
                return_dict=False,
            )[0]
        return out[:, : len(self._image_ids)]


_TIME = torch.tensor([1.0, 0.0, 0.0, 0.0])


def _four(ids: torch.Tensor) -> torch.Tensor:
    """``(S, 3)`` of (0, row, column) → ``(S, 4)`` of (time, row, column, number in the prompt)."""
    return torch.cat([ids, torch.zeros(len(ids), 1)], dim=1)
