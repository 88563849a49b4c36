"""What passes between the stages of a pipeline: a prompt that was read, latents that were sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    import torch

    from dit360_core.flux.engine import Embedding

Progress = Callable[[int, int], None]
"""Called after each step with (steps done, steps in all)."""

Tap = Callable[[int, int, "Latents"], None]
"""Called after each step with (steps done, steps in all, the picture as the model expects it by then)."""


@attrs.frozen(kw_only=True, eq=False)
class Conditioning:
    """A prompt as the model reads it; ``negative`` is there if true guidance is to be used."""

    prompt: str
    negative_prompt: str | None
    positive: Embedding
    negative: Embedding | None
    max_sequence_length: int


@attrs.frozen(kw_only=True, eq=False)
class Latents:
    """A sampled panorama before decoding: ``tensor`` ``(1, C, H/8, W/8)`` fp32 on the CPU, in model space."""

    tensor: torch.Tensor
    settings: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def width(self) -> int:
        """Of the picture, in pixels."""
        return 8 * int(self.tensor.shape[-1])

    @property
    def height(self) -> int:
        return 8 * int(self.tensor.shape[-2])
