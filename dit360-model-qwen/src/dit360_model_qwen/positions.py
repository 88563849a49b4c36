"""Qwen-Image's positions for panoramas: pad columns at the places of those that they copy, and places between tokens.

The transformer makes its positions by itself, of a picture's rows and columns, which it counts from the middle: those
of n lie at −⌈n/2⌉ … ⌊n/2⌋ − 1. Words come after the last of them, on all axes.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch
from dit360_core.models.running import Grid, quiet

with quiet():  # diffusers is loud when it is imported
    from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope


@attrs.frozen(kw_only=True, eq=False)
class Placed:
    """What the transformer is given as ``img_shapes`` for a panorama.

    turns: ``(tokens, D/2, 2)`` float32, what rotates the channels of each image token, pad columns included: cosine
    and sine. Complex numbers cannot be compiled.
    words: the place of the first word.
    """

    turns: torch.Tensor
    words: int


class PanoramaRope(QwenEmbedRope):
    """diffusers' positions, which also take :class:`Placed` for a picture's shape."""

    def forward(
        self, video_fhw: Any, device: torch.device | None = None, max_txt_seq_len: int | torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As diffusers' own.

        video_fhw: shapes of pictures, or :class:`Placed`.
        """
        if not isinstance(video_fhw, Placed):
            return self._of_shapes(video_fhw, device, max_txt_seq_len)
        words: torch.Tensor = self._get_device_freqs(device)[0]
        read = words[video_fhw.words : video_fhw.words + int(max_txt_seq_len or 0)]
        return video_fhw.turns, torch.view_as_real(read)

    def place(self, grid: Grid, device: torch.device) -> Placed:
        """The positions of a panorama.

        At the spread 1 they are the transformer's own. At another, a direction has the position that it has in the
        picture whose positions these are, and so has the first word.
        """
        rows, columns = map(round, grid.extent)
        words = max(rows // 2, columns // 2)
        if grid.extent == (grid.rows, grid.columns):
            own, _ = self._of_shapes([[(1, grid.rows, grid.columns)]], device, 0)
            return Placed(turns=torch.view_as_real(own[grid.pad_index().to(device)]), words=words)
        ids = grid.position_ids().double()
        ids[:, 1] -= _first(grid.extent[0], rows)
        ids[:, 2] -= _first(grid.extent[1], columns)
        own_way: Any = self.rope_params
        turns = [own_way(ids[:, axis], dim, self.theta) for axis, dim in enumerate(self.axes_dim)]
        return Placed(turns=torch.view_as_real(torch.cat(turns, dim=1)).to(device, torch.float32), words=words)

    def _of_shapes(self, shapes: Any, device: Any, words: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return super().forward(shapes, device, words)


def _first(extent: float, like: int) -> float:
    """What is to be taken from a grid's positions, which count from the first token, so that they count as in a picture
    of ``like`` tokens from its middle."""
    return extent / 2 + (like % 2) / 2


def panorama_rope(denoiser: Any) -> None:
    """Has a QwenImageTransformer2DModel take :class:`Placed`; shapes of pictures it takes as before."""
    positions = denoiser.pos_embed
    if type(positions) is QwenEmbedRope:
        positions.__class__ = PanoramaRope
