"""A part of the latents is held where it is while the rest is made: the link of the chain, and what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch

from dit360_core.errors import InputError
from dit360_core.pipeline.stages import Latents
from dit360_core.plugins.offers import FlowModel


@attrs.frozen(kw_only=True, eq=False)
class Hold:
    """What is kept of a picture while the rest is made.

    latents: of the picture.
    keep: ``(1, 1, H/8, W/8)`` in 0 … 1: how much of each latent is kept. 1: all of it, to the end; 0: nothing; between
    them it is held for that share of the way and then let go ("differential").
    told: for metadata.

    Raises InputError for strengths of another size or range.
    """

    latents: Latents
    keep: torch.Tensor
    told: Mapping[str, Any] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        wanted = (1, 1, *self.latents.tensor.shape[-2:])
        if tuple(self.keep.shape) != wanted:
            raise InputError(
                f"What is kept has the shape {tuple(self.keep.shape)}, but these latents need {wanted}: one number for "
                "each of them."
            )
        if not bool(((self.keep >= 0) & (self.keep <= 1)).all()):
            raise InputError("What is kept of a latent must be a number from 0 to 1.")

    def settled(self, made: torch.Tensor) -> torch.Tensor:
        """What was made, without the last bits by which a solver's arithmetic misses what was kept to the end.

        made: ``(1, C, H/8, W/8)`` in model space, free of noise.
        """
        return torch.where(self.keep.to(made.device) == 1, self.latents.tensor.to(made), made)


@attrs.frozen(eq=False)
class Held:
    """Where latents are held, the velocity is the one that leads to them; elsewhere it is the model's.

    Along that velocity x is a straight mixture of picture and noise, so any solver ends at the picture exactly.

    picture, keep: ``(1, tokens, channels)``.
    start: the noise level at which the run begins.
    """

    model: FlowModel
    picture: torch.Tensor
    keep: torch.Tensor
    start: float

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        v = self.model(x, sigma)
        if sigma <= 0:
            return v
        held = self.keep > 1 - sigma / self.start
        return torch.where(held, (x - self.picture) / sigma, v)
