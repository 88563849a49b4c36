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
    pooled: one vector for the whole prompt, ``(1, dim)``; None in a family that reads none.
    """

    tokens: torch.Tensor
    pooled: torch.Tensor | None = None

    @property
    def is_finite(self) -> bool:
        """Whether all its numbers are finite."""
        there = [self.tokens] if self.pooled is None else [self.tokens, self.pooled]
        return all(bool(tensor.isfinite().all()) for tensor in there)
