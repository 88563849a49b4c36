"""The denoiser sees a panorama window by window, and what it says of each becomes one velocity."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dit360_core.models.embedding import Embedding
from dit360_core.models.engine import Velocity
from dit360_core.plugins.offers import Attend
from dit360_core.sphere.grid import Grid, Window
from dit360_core.sphere.windows import Windows

Look = Callable[[Grid, Attend | None], Velocity]
"""(what is seen, kernel; None: the attached one) → the denoiser as a function."""


class WindowedVelocity:
    """As :class:`~dit360_core.models.engine.Velocity`: the mean of what is said of all windows.

    In memory are one window's activations, and three tensors as large as x.
    """

    def __init__(self, look: Look, grid: Grid, windows: Windows, positions: str, attend: Attend | None) -> None:
        """look: gives the denoiser for a window.
        grid: of the panorama.
        windows: over it.
        positions: ``own``: a window's tokens are numbered as those of a panorama of its size; ``whole``: as they lie in
        the panorama.
        attend: the kernel of this picture.
        """
        self._look, self._grid, self._windows, self._positions = look, grid, windows, positions
        self._attend = attend
        self._number = -1

    def next(self) -> None:
        """The panorama is looked at anew: the windows lie elsewhere."""
        self._number += 1

    def use(self, attend: Attend) -> None:
        """Another kernel from now on, for this picture."""
        self._attend = attend

    def __call__(self, x: torch.Tensor, sigma: float, embedding: Embedding, branch: str = "cond") -> torch.Tensor:
        total: torch.Tensor | None = None
        counted = torch.zeros(x.shape[1], device=x.device)
        for number, (top, left) in enumerate(self._windows.places(max(0, self._number))):
            index = self._windows.index(top, left).to(x.device)
            weights = self._windows.weights(top).to(x.device)
            velocity = self._look(self._window(top, left), self._attend)
            # A cache of diffusers' compares a call with the one before, of the same window.
            said = velocity(x.index_select(1, index), sigma, embedding, f"{branch} {number}")
            if total is None:
                total = said.new_zeros(x.shape[0], x.shape[1], said.shape[-1])
            total.index_add_(1, index, said * weights[None, :, None].to(said.dtype))
            counted.index_add_(0, index, weights)
        assert total is not None
        return total.div_(counted[None, :, None].to(total.dtype))

    def _window(self, top: int, left: int) -> Window:
        windows, grid = self._windows, self._grid
        padding = grid.padding if windows.around else 0
        if self._positions == "own":
            return Window(rows=windows.height, columns=windows.width, padding=padding)
        # Beyond the meridian columns are counted on, on the side where most of the window lies.
        first = left if windows.around or left + windows.width / 2 < grid.columns else left - grid.columns
        return Window(
            rows=windows.height, columns=windows.width, padding=padding, spread=grid.spread,
            top=top, left=first, whole=(grid.rows, grid.columns),
        )  # fmt: skip
