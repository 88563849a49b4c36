"""The denoiser as a function, with what is the same in every family: columns that wrap, and the picture's kernel."""

from __future__ import annotations

import abc
from typing import Any

import torch

from dit360_core.models.embedding import Embedding
from dit360_core.models.engine import Engine
from dit360_core.plugins.offers import Attend
from dit360_core.sphere.grid import Grid


class TokenVelocity(abc.ABC):
    """``velocity(x, sigma, embedding) -> v``: pads longitude, asks the denoiser, crops. What does not change between
    steps is made once, here.

    x and v ``(1, r·c, channels)``, real columns only.

    engine, grid, attend, biased: the arguments of :meth:`Engine.velocity`.
    """

    def __init__(self, engine: Engine, grid: Grid, attend: Attend | None, *, biased: bool) -> None:
        self.engine = engine
        self.grid = grid.real if biased else grid
        """What the denoiser sees."""
        self._pad = self.grid.pad_index().to(engine.device) if self.grid.padding else None
        self._crop = self.grid.crop_index().to(engine.device) if self.grid.padding else None
        # A kernel for this picture only travels with the call; nothing is stored on the modules.
        self._kernel: dict[str, Any] = {} if attend is None else {"attend": attend}
        self._wrapped = grid if biased else None
        self._biases: dict[tuple[int, int], torch.Tensor] = {}

    def use(self, attend: Attend) -> None:
        """Another kernel from now on, for this picture."""
        self._kernel["attend"] = attend

    @abc.abstractmethod
    def evaluate(
        self, tokens: torch.Tensor, sigma: float, embedding: Embedding, attention: dict[str, Any], branch: str
    ) -> torch.Tensor:
        """What the denoiser says.

        tokens: ``(1, tokens of the grid, channels)`` in the denoiser's dtype, pad columns included, on its device.
        sigma: the noise level, 0 … 1.
        attention: words for the processor of this call (``attend``, ``key_bias``), as far as there are any.
        branch: name for diffusers' caches, which keep what they compare by it.

        The velocity of the same tokens.
        """

    def after(self, tokens: torch.Tensor) -> int:
        """How many tokens the denoiser sees after the picture's, which have no copies; none in most families."""
        return 0

    def __call__(self, x: torch.Tensor, sigma: float, embedding: Embedding, branch: str = "cond") -> torch.Tensor:
        tokens = x.to(self.engine.dtype)
        if self._pad is not None:
            tokens = tokens.index_select(1, self._pad)
        attention = self._attention(int(embedding.tokens.shape[1]), self.after(tokens))
        out = self.evaluate(tokens, sigma, embedding, attention, branch)
        if self._crop is not None:
            out = out.index_select(1, self._crop)
        return out.to(x.dtype)

    def _attention(self, text: int, after: int) -> dict[str, Any]:
        if self._wrapped is None:
            return dict(self._kernel)
        if (text, after) not in self._biases:
            wide = torch.promote_types(self.engine.dtype, torch.float32)
            self._biases[text, after] = self._wrapped.key_bias(text, after).to(self.engine.device, wide)
        return {**self._kernel, "key_bias": self._biases[text, after]}
