"""A prompt in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    import torch


@attrs.frozen(kw_only=True, eq=False)
class Embedding:
    """One prompt: T5's tokens ``(1, T, dim)`` and CLIP's pooled vector ``(1, dim)``."""

    tokens: torch.Tensor
    pooled: torch.Tensor
