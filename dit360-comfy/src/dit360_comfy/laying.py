"""What photos are on a panorama, carried from the node that put them there to those that hold and paste them.

A photo is held up to its edges and a little beyond, and another panorama's size needs it anew: neither can be told from
pixels and a mask. So what was laid rides on the picture, and what is held and pasted on the mask (``settings.py``);
another node's picture or mask has neither, and is taken as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from dit360_comfy import host
from dit360_comfy.pictures import at_size, masks, of_batch, panoramas
from dit360_comfy.settings import ride, riding

if TYPE_CHECKING:
    import torch
    from dit360_core.pipeline.editing.given import Given

_LAID, _KEPT = "dit360_laid", "dit360_kept"


@attrs.frozen(kw_only=True, eq=False)
class Kept:
    """How much of a picture is kept.

    latents: ``(1, 1, H/8, W/8)`` in 0 … 1, how much of each latent is held.
    paste: ``(H, W)`` in 0 … 1, how much of each pixel is pasted back.
    unknown: ``(H, W)``, 1 where a model that fills is shown a hole.
    """

    latents: torch.Tensor
    paste: torch.Tensor
    unknown: torch.Tensor


def laid(image: Any, given: Sequence[Given]) -> Any:
    """Returns an IMAGE of which is told what photos lie on each of its pictures."""
    return ride(image, tuple(given), _LAID)


def laid_of(image: Any, at: int) -> Given | None:
    """What lies on a picture of an IMAGE; None: nobody says."""
    found: tuple[Given, ...] = riding(image, _LAID) or ()
    return found[at % len(found)] if found else None


def keeping(mask: Any, kept: Sequence[Kept]) -> Any:
    """Returns a MASK ``(B, H, W)``, of which is told what is held and pasted."""
    return ride(mask, tuple(kept), _KEPT)


def kept_of(mask: Any, at: int) -> Kept | None:
    """What a MASK was told of; None: nothing."""
    found: tuple[Kept, ...] = riding(mask, _KEPT) or ()
    return found[at % len(found)] if found else None


def latent_mask(image: Any, mask: Any, grow: float) -> torch.Tensor:
    """``(B, 1, H/8, W/8)``: a LATENT's noise_mask of panoramas, for any sampler.

    image: IMAGE, of the panoramas.
    mask: MASK; 1 is made anew.
    grow: degrees by which it grows on the sphere, and not at all where photos were laid; below 0: some pixels.

    Raises InputError for sizes that are no panorama's.
    """
    import torch
    from dit360_core.options import check_size
    from dit360_core.pipeline.editing.canvas import GROWN, around_hole, held_latents

    with host.plain_mode():
        planes, levels = panoramas(image, "pixels"), masks(mask, "mask")
        size = (int(planes.shape[-1]), int(planes.shape[-2]))
        check_size(*size)
        held = []
        for at in range(max(len(planes), len(levels))):
            kept = kept_of(mask, at)
            if kept is not None and kept.paste.shape == planes.shape[-2:]:
                held.append(kept.latents)
                continue
            wide = GROWN * 360 / size[0] if grow < 0 else grow
            keep, _ = around_hole(at_size(of_batch(levels, at), size, "mask"), wide, 0.0, 0.0)
            held.append(held_latents(keep))
        return 1 - torch.cat(held)
