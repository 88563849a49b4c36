"""Windows that are laid over a panorama so that a large one is seen piece by piece: where they lie, and what counts.

They wrap around in longitude, overlap on all sides, and lie elsewhere each time that the panorama is looked at, so that
no line is a border twice. What two of them say of a token is averaged with weights that fall towards their borders
("MultiDiffusion", Bar-Tal et al. 2023, arXiv 2302.08113), which makes one panorama of them at every step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from dit360_core.sphere.size import PATCH, tokens_in

if TYPE_CHECKING:
    import torch

_GOLDEN = (5**0.5 - 1) / 2
_SHARE = 4
"""An overlap is the side of a window over this."""


@attrs.frozen(kw_only=True)
class Windows:
    """Windows of ``height × width`` tokens over a panorama of ``rows × columns`` tokens. None is larger than that."""

    rows: int
    columns: int
    height: int
    width: int

    @classmethod
    def of_pixels(cls, picture: tuple[int, int], window: tuple[int, int]) -> Windows:
        """picture, window: width and height in pixels, multiples of 16."""
        columns, rows = picture[0] // PATCH, picture[1] // PATCH
        return cls(
            rows=rows,
            columns=columns,
            height=min(rows, window[1] // PATCH),
            width=min(columns, window[0] // PATCH),
        )

    @property
    def one(self) -> bool:
        """Whether one window is the whole panorama."""
        return self.height == self.rows and self.around

    @property
    def around(self) -> bool:
        """Whether each goes all around, and wraps as the panorama itself does."""
        return self.width == self.columns

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._tops(0)) * self._across

    def tokens(self, padding: int = 0) -> int:
        """Tokens of one.

        padding: columns that are wrapped around on either side, where it goes all around.
        """
        return tokens_in(self.height, self.width, padding if self.around else 0)

    def places(self, number: int) -> Iterator[tuple[int, int]]:
        """(top row, left column) of each, when the panorama is looked at for the ``number``-th time, from 0 on."""
        turned = round(number * _GOLDEN * self.columns)
        for band, top in enumerate(self._tops(number)):
            # Those of two neighbouring bands do not lie below each other.
            offset = turned + (band % 2) * self.columns // (2 * self._across)
            for across in range(self._across):
                yield top, (across * self.columns // self._across + offset) % self.columns

    def weights(self, top: int) -> torch.Tensor:
        """``(height · width,)`` float32: how much each token of a window counts; nowhere 0.

        top: its first row. The panorama's own edges at the poles are no borders.
        """
        down = _falling(self.height, before=top > 0, behind=top + self.height < self.rows)
        across = _falling(self.width, before=not self.around, behind=not self.around)
        return (down[:, None] * across[None]).reshape(-1)

    def index(self, top: int, left: int) -> torch.Tensor:
        """``(height · width,)`` int64: the tokens of a window among the panorama's, row by row."""
        import torch

        columns = (torch.arange(self.width) + left) % self.columns
        return ((torch.arange(self.height) + top)[:, None] * self.columns + columns[None]).reshape(-1)

    @property
    def _across(self) -> int:
        """How many lie beside each other."""
        return 1 if self.around else math.ceil(self.columns / (self.width - _overlap(self.width)))

    def _tops(self, number: int) -> list[int]:
        """First rows of the bands: the first and the last lie at the poles, those between them higher or lower."""
        last = self.rows - self.height
        if not last:
            return [0]
        overlap = _overlap(self.height)
        between = math.ceil(last / (self.height - overlap))
        moved = round(((number * _GOLDEN + 0.5) % 1 - 0.5) * overlap)
        return [0, *(round(band * last / between) + moved for band in range(1, between)), last]


def _overlap(side: int) -> int:
    return max(2, side // _SHARE)


def _falling(side: int, *, before: bool, behind: bool) -> torch.Tensor:
    """``(side,)`` float32: 1 in the middle, and falling as a cosine towards the ends that are borders."""
    import torch

    overlap = _overlap(side)
    ramp = (1 - torch.cos((torch.arange(overlap) + 0.5) * math.pi / overlap)) / 2
    found = torch.ones(side)
    if before:
        found[:overlap] *= ramp
    if behind:
        found[-overlap:] *= ramp.flip(0)
    return found
