"""Krea 2 at work: a language model reads a prompt, and the transformer sees a panorama under circular padding."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from dit360_core.models.running import (
    Embedding,
    FlowShift,
    Grid,
    OneFrameEngine,
    TokenVelocity,
    hidden_states,
    language_model,
)
from dit360_core.plugins import Attend, InputError, TimeShift, remedy

from dit360_model_krea.parts import LONGEST_PROMPT
from dit360_model_krea.prompts import framed, room

TURBO_EXPONENT = 1.15
"""mu of the distilled model, whatever the size. Source: diffusers 0.42, pipelines/krea2."""
MAX_TOKENS = 6400
"""Where mu of the others is the scheduler's max_shift, if its configuration does not say."""


@attrs.frozen(kw_only=True, eq=False)
class Krea2Engine(OneFrameEngine):
    """A Krea2Pipeline of diffusers."""

    def shift(self, steps: int) -> TimeShift:
        config = self.pipe.scheduler.config
        line = FlowShift.from_config({"max_image_seq_len": MAX_TOKENS, **config}, steps)
        return attrs.evolve(line, exponent=lambda _: TURBO_EXPONENT) if self.pipe.config.is_distilled else line

    @property
    def longest_prompt(self) -> int:
        return LONGEST_PROMPT

    # ------------------------------------------------------------------------------------------------------- prompts

    @property
    def _tokenizer(self) -> Any:
        # That of somebody's own pipeline may be a processor, which has one.
        return getattr(self.pipe.tokenizer, "tokenizer", self.pipe.tokenizer)

    @property
    def _framing(self) -> int:
        before = self._tokenizer(self.pipe.prompt_template_encode_prefix).input_ids
        return len(before) - room(self.pipe, 0)

    def _encode(self, prompt: str, max_sequence_length: int) -> Embedding:
        model = language_model(self.pipe.text_encoder)
        found = framed(self.pipe, self._tokenizer, prompt, max_sequence_length)
        # From behind, layers are counted with the embedding before the first.
        after = [one % (len(model.layers) + 1) for one in self.pipe.text_encoder_select_layers]
        states = hidden_states(self.pipe.text_encoder, after, normed=True, input_ids=found.ids.to(self.device))
        kept = found.kept.to(states[0].device)
        return Embedding(tokens=torch.stack([state.index_select(1, kept) for state in states], dim=2))

    def check_embedding(self, embedding: Embedding) -> None:
        wanted = (int(self.config.num_text_layers), int(self.config.text_hidden_dim))
        found = tuple(embedding.tokens.shape[2:])
        if found != wanted:
            raise InputError(
                f"The conditioning has {' × '.join(map(str, found))} numbers a token, and this model reads "
                f"{wanted[0]} layers of {wanted[1]}; {remedy('encode_with_this_model')}."
            )

    # ------------------------------------------------------------------------------------------------------ denoising

    def velocity(
        self, grid: Grid, guidance: float | None, attend: Attend | None, *, biased: bool = False
    ) -> Krea2Velocity:
        return Krea2Velocity(self, grid, attend, biased=biased)

    def guided(self, towards: torch.Tensor, away: torch.Tensor, scale: float) -> torch.Tensor:
        """As Krea counts: 0 is none."""
        return towards + scale * (towards - away)


class Krea2Velocity(TokenVelocity):
    """The transformer, in which the tokens of the prompt are all at the origin."""

    def __init__(self, engine: Krea2Engine, grid: Grid, attend: Attend | None, *, biased: bool) -> None:
        """The arguments are those of :meth:`Engine.velocity`."""
        super().__init__(engine, grid, attend, biased=biased)
        # Positions stay float32: in bfloat16 neighbours beyond column 256 would share one.
        self._image_ids = self.grid.position_ids().to(engine.device)

    def evaluate(
        self, tokens: torch.Tensor, sigma: float, embedding: Embedding, attention: dict[str, Any], branch: str
    ) -> torch.Tensor:
        engine = self.engine
        text_ids = self._image_ids.new_zeros(embedding.tokens.shape[1], self._image_ids.shape[1])
        # Rounded in the steps of diffusers' pipeline: to the model, the last bit of a time is another time.
        timestep = torch.full((1,), sigma, dtype=torch.float32, device=engine.device) * 1000 / 1000
        out: torch.Tensor = engine.denoiser(
            hidden_states=tokens,
            encoder_hidden_states=embedding.tokens.to(tokens.dtype),
            timestep=timestep.to(tokens.dtype),
            position_ids=torch.cat([text_ids, self._image_ids]),
            attention_kwargs=attention or None,
            return_dict=False,
        )[0]
        return out
