"""Qwen-Image at work: a language model reads a prompt, and the transformer sees a panorama under circular padding."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from dit360_core.models.running import Embedding, FlowShift, Grid, OneFrameEngine, TokenVelocity
from dit360_core.plugins import Attend, InputError, TimeShift, remedy

from dit360_model_qwen.parts import LONGEST_PROMPT
from dit360_model_qwen.positions import Placed


@attrs.frozen(kw_only=True, eq=False)
class QwenImageEngine(OneFrameEngine):
    """A QwenImagePipeline of diffusers."""

    def shift(self, steps: int) -> TimeShift:
        return FlowShift.from_config(self.pipe.scheduler.config, steps)

    @property
    def longest_prompt(self) -> int:
        return LONGEST_PROMPT

    # ------------------------------------------------------------------------------------------------------- prompts

    @property
    def _tokenizer(self) -> Any:
        return self.pipe.tokenizer

    def _encode(self, prompt: str, max_sequence_length: int) -> Embedding:
        """The prompt in the frame that the pipeline has for it, whose beginning is not handed on."""
        beginning = int(self.pipe.prompt_template_encode_start_idx)
        found = self.pipe.tokenizer(
            self.pipe.prompt_template_encode.format(prompt),
            max_length=beginning + max_sequence_length,
            truncation=True,
            return_tensors="pt",
        )
        last = last_state(self.pipe.text_encoder, found.input_ids.to(self.device))
        return Embedding(tokens=last[:, beginning:])

    def check_embedding(self, embedding: Embedding) -> None:
        found, wanted = int(embedding.tokens.shape[-1]), int(self.config.joint_attention_dim)
        if found != wanted:
            raise InputError(
                f"The conditioning has {found} channels a token, and this model reads {wanted}; "
                f"{remedy('encode_with_this_model')}."
            )

    # ------------------------------------------------------------------------------------------------------ denoising

    def guided(self, towards: torch.Tensor, away: torch.Tensor, scale: float) -> torch.Tensor:
        """Rescaled so that each token is as long as without guidance, as in diffusers' pipelines."""
        led = super().guided(towards, away, scale)
        wanted, found = towards.norm(dim=-1, keepdim=True), led.norm(dim=-1, keepdim=True)
        rescaled: torch.Tensor = led * (wanted / found.clamp_min(torch.finfo(found.dtype).tiny))
        return rescaled

    def velocity(
        self, grid: Grid, guidance: float | None, attend: Attend | None, *, biased: bool = False
    ) -> QwenImageVelocity:
        return QwenImageVelocity(self, grid, attend, biased=biased)


def last_state(encoder: Any, ids: torch.Tensor) -> torch.Tensor:
    """What a text encoder holds after its last layer and the norm behind it, ``(1, T, dim)``.

    encoder: the language model alone, or the whole one in somebody's own pipeline. That is called as a whole, since
    what brings its weights waits for that.
    ids: ``(1, T)``.
    """
    if hasattr(encoder, "layers"):
        return encoder(input_ids=ids, use_cache=False)[0]  # type: ignore[no-any-return]
    answered = encoder(input_ids=ids, use_cache=False, output_hidden_states=True, logits_to_keep=1)
    return answered.hidden_states[-1]  # type: ignore[no-any-return]


class QwenImageVelocity(TokenVelocity):
    """The transformer."""

    _placed: Placed | None = None

    def evaluate(
        self, tokens: torch.Tensor, sigma: float, embedding: Embedding, attention: dict[str, Any], branch: str
    ) -> torch.Tensor:
        engine = self.engine
        if self._placed is None:
            self._placed = engine.denoiser.pos_embed.place(self.grid, engine.device)
        # Rounded in the same steps as in diffusers' pipelines, so that the model sees the same time in every dtype.
        timestep = torch.full((1,), 1000.0 * sigma, device=engine.device).to(engine.dtype) / 1000
        with engine.denoiser.cache_context(branch):
            out: torch.Tensor = engine.denoiser(
                hidden_states=tokens,
                timestep=timestep,
                encoder_hidden_states=embedding.tokens,
                img_shapes=self._placed,
                attention_kwargs=attention or None,
                return_dict=False,
            )[0]
        return out
