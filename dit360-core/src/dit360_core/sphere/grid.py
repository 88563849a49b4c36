"""Longitude on the token grid: the columns that are wrapped around a panorama, and the ids that go with them.

A picture of ``height × width`` pixels is a grid of ``height/16 × width/16`` tokens, row by row. For each transformer
call the last columns are repeated on the left and the first on the right, with the position ids of the columns they
copy. A pad token then equals its source in content and place, so it stays equal through every deterministic step:
padding inside each call, and cropping what comes out, is the same computation as padding once (DiT360, §3).
"""

from __future__ import annotations

import attrs
import torch

from dit360_core.sphere.size import PATCH, tokens_in

GOLDEN = (5**0.5 - 1) / 2


def rotation(step: int, columns: int) -> int:
    """How many latent columns to turn a panorama by in a step, so that its edge lies elsewhere each time.

    Multiples of the golden ratio, which spread evenly however many steps there are; step 0 is not turned. Turning and
    turning back changes nothing for a model that treats all longitudes alike. One that does not leaves its error at
    another longitude each step instead of always at the same, which is what makes a seam.

    Odd numbers, so that the meridian lies inside a token, which is two latents wide: where tokens meet, a model errs
    most.

    columns: of latents, an even number.
    """
    return (round(step * GOLDEN * columns) % columns) | 1 if step else 0


# Not frozen: PyTorch 2.14 cannot trace such a constructor, and grids are made in regions that others compile.
@attrs.define(unsafe_hash=True)
class Grid:
    """rows × columns of tokens, with ``padding`` more columns on either side during a transformer call.

    spread: the distance between the position ids of two neighbours. With native width / width, a direction has the
    id that it has at the native size ("position interpolation", Chen et al. 2023, arXiv 2306.15595).
    """

    rows: int
    columns: int
    padding: int = 0
    spread: float = 1.0

    @classmethod
    def of_picture(cls, width: int, height: int, padding: int = 0, spread: float = 1.0) -> Grid:
        """width, height in pixels, multiples of 16."""
        return cls(height // PATCH, width // PATCH, padding, spread)

    @property
    def tokens(self) -> int:
        """Tokens of a transformer call, pad columns included; ``mu`` is computed from this."""
        return tokens_in(self.rows, self.columns, self.padding)

    @property
    def real(self) -> Grid:
        """The same picture without pad columns."""
        # Not attrs.evolve, which PyTorch 2.6 cannot trace.
        return Grid(self.rows, self.columns, spread=self.spread)

    def key_bias(self, text: int, after: int = 0) -> torch.Tensor:
        """``(text + rows·columns + after,)`` fp64, to be added to the scores of each key instead of padding.

        A pad column is a second key of the same content, and two equal keys are one whose score is log 2 higher. What
        they would have computed as queries is cropped anyhow.

        text, after: tokens before the image's and after them, which have no copies.
        """
        shown = self.sources()
        # Not bincount, whose output has a length that PyTorch 2.6 cannot trace.
        copies = torch.zeros(self.columns, dtype=torch.float64)
        copies = copies.index_add(0, shown, torch.ones(len(shown), dtype=torch.float64))
        ends = (torch.zeros(count, dtype=torch.float64) for count in (text, after))
        return torch.cat([next(ends), copies.log().repeat(self.rows), next(ends)])

    def sources(self) -> torch.Tensor:
        """``(columns + 2·padding,)`` int64: the real column that each padded column shows."""
        return torch.arange(-self.padding, self.columns + self.padding) % self.columns

    def pad_index(self) -> torch.Tensor:
        """``(tokens,)`` int64: the real token that each padded token copies."""
        rows = torch.arange(self.rows)[:, None] * self.columns
        return (rows + self.sources()[None, :]).reshape(-1)

    def crop_index(self) -> torch.Tensor:
        """``(rows·columns,)`` int64: where the real tokens are among the padded ones."""
        rows = torch.arange(self.rows)[:, None] * (self.columns + 2 * self.padding)
        return (rows + self.padding + torch.arange(self.columns)[None, :]).reshape(-1)

    def position_ids(self) -> torch.Tensor:
        """``(tokens, 3)`` fp32: (0, row, column) of each padded token; a pad column has the ids of its source.

        With a spread, ids are those of the tokens' centres, so they need not be whole.
        """
        ids = torch.zeros(self.rows, self.columns + 2 * self.padding, 3)
        ids[..., 1] = self._spread(torch.arange(self.rows))[:, None]
        ids[..., 2] = self._spread(self.sources())[None, :]
        return ids.reshape(-1, 3)

    @property
    def extent(self) -> tuple[float, float]:
        """How far the positions of the picture reach, down and across, of which this is all or a part."""
        return self.rows * self.spread, self.columns * self.spread

    def _spread(self, numbers: torch.Tensor) -> torch.Tensor:
        return (numbers + 0.5) * self.spread - 0.5


@attrs.define(unsafe_hash=True)
class Window(Grid):
    """A part of a panorama, as the denoiser sees it.

    down, across: added to the positions of rows and columns.
    within: the extent of the whole; None: this is numbered as a panorama of its own.
    """

    down: float = 0.0
    across: float = 0.0
    within: tuple[float, float] | None = None

    @property
    def real(self) -> Grid:
        return Window(self.rows, self.columns, 0, self.spread, self.down, self.across, self.within)

    @property
    def extent(self) -> tuple[float, float]:
        return self.within or (self.rows * self.spread, self.columns * self.spread)

    def position_ids(self) -> torch.Tensor:
        ids = super().position_ids()
        ids[:, 1] += self.down
        ids[:, 2] += self.across
        return ids
