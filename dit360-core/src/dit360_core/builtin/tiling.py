"""Decoding in one piece, circular in longitude."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from dit360_core.hookspecs import hookimpl
from dit360_core.machine import Machine
from dit360_core.offers import Reason, Tiling, TilingNeed

if TYPE_CHECKING:
    import torch


class Whole:
    """One piece whatever the size; the meridian is no edge."""

    def decode(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        from dit360_core.vae import decode_whole

        return decode_whole(vae, latents)

    def encode(self, vae: Any, pixels: torch.Tensor) -> torch.Tensor:
        from dit360_core.vae import encode_whole

        return encode_whole(vae, pixels)


def _one_piece_only(machine: Machine, need: TilingNeed) -> Iterable[Reason]:
    if need.mode == "always":
        yield Reason("mode", "it decodes in one piece and tiling_mode=always asks for more", "use tiling_mode=auto")


@hookimpl
def dit360_tilings() -> Iterable[Tiling]:
    yield Tiling(
        name="whole",
        api=1,
        exact=True,
        summary="one piece, wrapped in longitude: no seam",
        unsupported=_one_piece_only,
        load=Whole,
    )
