"""A prompt in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    import torch


@attrs.frozen(kw_only=True, eq=False)
class Embedding:
    """One prompt.

    tokens: a vector for each token, ``(1, T, dim)``.
    pooled: one vector for the whole prompt, ``(1, dim)``.
    """

    tokens: torch.Tensor
    pooled: torch.Tensor

    @property
    def is_finite(self) -> bool:
        """Whether all its numbers are finite."""
        return bool(self.tokens.isfinite().all() & self.pooled.isfinite().all())
