"""What upscaling a panorama asks of the pipeline, and the state of a run that may be stopped."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from PIL.Image import Image, fromarray

from dit360_core.errors import InputError, named
from dit360_core.options import REPLACING, LargerOptions, SampleOptions, changed_options
from dit360_core.panorama.levels import Floats, eight_bits, floats_of
from dit360_core.panorama.picture import Panorama
from dit360_core.panorama.resizing import enlarged, faithful_bytes, faithful_to
from dit360_core.pipeline.editing.given import Given
from dit360_core.pipeline.journal import Journal, journal
from dit360_core.pipeline.state_file import SOURCE
from dit360_core.planning.larger import NO_NUMBERS, mask_told, source_told
from dit360_core.system.progress import underway

log = logging.getLogger("dit360")

_OF_THE_MODEL = (
    "model", "base", "device", "precision", "attention", "quantization", "loras", "added_loras", "weights",
    *REPLACING,
)  # fmt: skip
"""What of the model's state decides about numbers."""
MOST_FAITHFUL = 0.5
"""Share made anew up to which, by default, what the smaller picture shows is kept: with more, what is new lies
elsewhere than what was, and both would be seen."""
ENLARGED = "enlarged"
"""Under which name settings tell what a picture was made larger from."""


def colours_of(image: Panorama | Image) -> Floats:
    """``(H, 2H, 3)`` in 0 … 1: the colours of a panorama, with all the bits that are known."""
    panorama = image if isinstance(image, Panorama) else Panorama(image=image)
    return floats_of(np.asarray(panorama.image)) if panorama.floats is None else panorama.floats


@attrs.frozen(kw_only=True, eq=False)
class Keeping:
    """What a larger picture keeps of the smaller one that it is made of, once it is decoded.

    smaller: ``(H, 2H, 3)`` in 0 … 1.
    faithful: whether what it shows is kept.
    requested: options that were asked for.
    file: of the smaller picture; empty: nobody says.
    """

    smaller: Floats
    faithful: bool
    requested: Mapping[str, Any]
    file: str = ""

    @classmethod
    def of(cls, asked: LargerOptions, smaller: Floats, denoise: float, file: str = "") -> Keeping:
        """As it is asked.

        smaller: ``(H, 2H, 3)`` in 0 … 1, the smaller picture.
        file: its name; empty: nobody says.
        denoise: the share that is made anew.
        """
        keeps = asked.faithful == "always" or (asked.faithful == "auto" and denoise <= MOST_FAITHFUL)
        return cls(smaller=smaller, faithful=keeps, requested=changed_options(asked), file=file)

    def told_in(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """A picture's settings with what was asked for and what is done."""
        requested, used = settings.get("requested", {}), settings.get("used", {})
        used = {**used, "faithful": self.faithful}
        height, width = self.smaller.shape[:2]
        origin = {"file": self.file, "width": width, "height": height}
        return {**settings, "requested": {**requested, **self.requested}, "used": used, ENLARGED: {"from": origin}}

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """The larger picture ``(1, 3, H, W)`` in 0 … 1, with what is kept (:func:`faithful_to`), in place."""
        if self.faithful:
            log.info("What the smaller picture shows is brought back.")
            shown = pixels[0].permute(1, 2, 0).numpy()
            with underway("Bringing detail back", faithful_bytes(shown)) as progress:
                faithful_to(shown, self.smaller, out=shown, advance=progress.advance)
        return pixels

    def resampled(self, to: int) -> Floats:
        """The smaller picture at a larger width, as the larger one is begun with, by Lanczos' filter."""
        plain = enlarged(self.smaller, (to, to // 2))
        return faithful_to(plain, self.smaller, out=plain) if self.faithful else plain


def larger(image: Panorama | Image, to: int, keeping: Keeping) -> Panorama:
    """A panorama at a larger size.

    to: width in pixels.
    keeping: its colours, and whether they are kept.
    """
    panorama = image if isinstance(image, Panorama) else Panorama(image=image)
    if panorama.area is not None:
        raise InputError("Only a part of the sphere is shown in the picture; make the rest first.")
    if panorama.hole is not None:
        told = (
            f"Transparency is ignored when a picture is made larger; give {named('mask')} for the part with new detail."
        )
        log.warning("%s", told)
    floats = keeping.resampled(to)
    return attrs.evolve(
        panorama,
        image=fromarray(eight_bits(floats)),
        floats=floats,
        hole=None,  # of a larger picture, what is to be made anew is said by a mask alone
        coded=None,
        file="",
    )


@contextlib.contextmanager
def kept_in(
    state: str | Path | None,
    own: Given,
    asked: SampleOptions,
    keeping: Keeping,
    model: Mapping[str, Any],
    drawn: Mapping[str, Any],
    *,
    keep: bool = False,
) -> Iterator[Journal | None]:
    """The state of a run in a file; None: none is kept.

    own: what is given.
    asked: of the picture, the seed as it was given.
    keeping: what is kept of the smaller picture.
    model: what is told of it in metadata, and the fingerprints of its files on this machine as "weights".
    drawn: for this run, if it does not go on.
    keep: the file in any case.
    """
    if state is None:
        yield None
        return
    assert own.image is not None
    told = {
        "picture": hashlib.sha256(own.image.image.tobytes()).hexdigest(),
        SOURCE: source_told(eight_bits(keeping.smaller).tobytes()),
        "mask": mask_told(own.mask),
        **{name: model.get(name) for name in _OF_THE_MODEL},
        **changed_options(asked, *NO_NUMBERS),
        **changed_options(own.options),
        "faithful": keeping.faithful,
    }
    with journal(Path(state), told, drawn, keep=keep) as found:
        yield found
