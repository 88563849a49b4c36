"""The denoiser sees a panorama window by window, and what it says of each becomes one velocity."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dit360_core.models.embedding import Embedding
from dit360_core.models.engine import Velocity
from dit360_core.plugins.offers import Attend
from dit360_core.sphere.grid import Grid, Window
from dit360_core.sphere.windows import Windows

CLOSEST = {True: 0.5, False: 1.0}
"""Whether a model was trained with positions at several distances → the least distance of neighbours that it is shown.

The middle of a window lies where it belongs, and its ends somewhat beyond. Closer ones are taken for the same place: of
the embedded model's pictures the contrast goes. At 1 it sees a second horizon in the sky.
"""
Look = Callable[[Grid, Attend | None], Velocity]
"""(what is seen, kernel; None: the attached one) → the denoiser as a function."""


class WindowedVelocity:
    """As :class:`~dit360_core.models.engine.Velocity`: the mean of what is said of all windows.

    In memory are one window's activations, and three tensors as large as x.
    """

    def __init__(
        self, look: Look, grid: Grid, windows: Windows, positions: str, attend: Attend | None, ratio: float
    ) -> None:
        """look: gives the denoiser for a window.
        grid: of the panorama.
        windows: over it.
        positions: ``own``: a window's tokens are numbered as those of a panorama of its size; ``whole``: by the place
        of its middle in the panorama.
        attend: the kernel of this picture.
        ratio: of the model's own width to the picture's.
        """
        self._look, self._grid, self._windows, self._positions = look, grid, windows, positions
        self._attend, self._ratio = attend, ratio
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
            seen = window_at(self._windows, self._grid, (top, left), self._positions, self._ratio)
            velocity = self._look(seen, self._attend)
            # A cache of diffusers' compares a call with the one before, of the same window.
            said = velocity(x.index_select(1, index), sigma, embedding, f"{branch} {number}")
            if total is None:
                total = said.new_zeros(x.shape[0], x.shape[1], said.shape[-1])
            total.index_add_(1, index, said * weights[None, :, None].to(said.dtype))
            counted.index_add_(0, index, weights)
        assert total is not None
        return total.div_(counted[None, :, None].to(total.dtype))


def window_at(windows: Windows, grid: Grid, place: tuple[int, int], positions: str, ratio: float) -> Window:
    """A window as the denoiser sees it.

    grid: of the panorama, over which ``windows`` lie.
    place: (top row, left column) in tokens.
    positions, ratio: as for :class:`WindowedVelocity`.
    """
    top, left = place
    padding = grid.padding if windows.around else 0
    if positions == "own":
        return Window(rows=windows.height, columns=windows.width, padding=padding)
    # Beyond the meridian columns are counted on, on the side where most of the window lies.
    first = left if windows.around or left + windows.width / 2 < grid.columns else left - grid.columns
    if windows.around:
        across, spread, within = 0.0, grid.spread, grid.extent
        down = top * spread
    else:
        spread = max(ratio, CLOSEST[grid.spread != 1.0])
        within = (grid.rows * ratio, grid.columns * ratio)
        down, across = (
            (begin + side / 2) * ratio - side / 2 * spread
            for begin, side in ((top, windows.height), (first, windows.width))
        )
    return Window(
        rows=windows.height, columns=windows.width, padding=padding, spread=spread, down=down, across=across,
        within=within,
    )  # fmt: skip
