"""What a picture is made from beside its prompt, and what is wrong with it, told before any weights are read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

import attrs
from PIL import Image, ImageOps

from dit360_core.errors import InputError, named, remedy, setting
from dit360_core.options import EditOptions, SampleOptions
from dit360_core.panorama.levels import eight_bits
from dit360_core.panorama.masks import as_mask, check_shape, evenly
from dit360_core.panorama.opening import alpha_of
from dit360_core.panorama.photos import Photo
from dit360_core.panorama.picture import Panorama
from dit360_core.panorama.resizing import resampled, resized
from dit360_core.pipeline.editing.overlap import check_new
from dit360_core.planning.checks import begun_with

log = logging.getLogger("dit360")


@attrs.frozen(kw_only=True, eq=False)
class Given:
    """What a picture is made from.

    image: a panorama, of which a part is kept or all is made anew to a share; None: none.
    mask: in grey, white where that is made anew, if ``options`` do not say otherwise; None: none.
    photos: that it is made around.
    options: how a part is kept.

    Raises InputError for what contradicts, a mask that is not 2:1, and a photo that shows nothing new.
    """

    image: Panorama | None = None
    mask: Image.Image | None = None
    photos: tuple[Photo, ...] = ()
    options: EditOptions = attrs.field(factory=EditOptions)

    def __attrs_post_init__(self) -> None:
        if self.image is None:
            for name, given in (("mask", self.mask), ("region", self.options.region)):
                if given is not None:
                    raise InputError(
                        f"{named(name)} says which part of a picture is made anew, and none is given; give it with "
                        f"{named('image')}, or {remedy('leave_out')}."
                    )
        if not self.keeps:
            default = EditOptions()
            for name in ("mask_means", "mask_grow", "mask_soften", "paste_back", "match_colours", "reference"):
                value = getattr(self.options, name)
                if value != getattr(default, name):
                    raise InputError(
                        f"{setting(name, value)} has no effect, because nothing is kept; give {named('mask')}, "
                        f"{named('region')} or {named('photo')}, or {remedy('leave_out')}."
                    )
        elif self.mask is None and self.options.mask_means != "repaint":
            raise InputError(
                f"{setting('mask_means', self.options.mask_means)} has no effect, because there is no mask; give one "
                f"with {named('mask')}, or {remedy('leave_out')}."
            )
        if self.mask is not None and self.image is not None:
            check_shape(self.mask, self.image.size)
        check_new(self.photos)

    @property
    def keeps(self) -> bool:
        """Whether a part is kept and the rest made anew."""
        return bool(self.photos) or (self.image is not None and self._says_where)

    @property
    def _says_where(self) -> bool:
        assert self.image is not None
        return self.mask is not None or self.options.region is not None or self.image.hole is not None

    @property
    def outline(self) -> Outline:
        """What of it decides what may be asked."""
        alone = self.image is not None and bool(self.photos) and not self._says_where
        return Outline(size=None if self.image is None else self.image.size, keeps=self.keeps, all_but_photos=alone)

    @property
    def hole(self) -> Image.Image | None:
        """In grey, white where the image is made anew, as the mask says with ``mask_means``; None: there is no mask."""
        if self.mask is None or self.options.mask_means == "repaint":
            return self.mask
        return ImageOps.invert(self.mask)

    @property
    def leaves(self) -> Literal["all", "nothing"] | None:
        """How much of the picture stays as it is, where that is an extreme."""
        if self.image is None or not self.keeps or self.photos:
            return None
        holes = [evenly(mask) for mask in (self.hole, self.image.hole) if mask is not None]
        if any(level == 1 for level in holes):
            return "nothing"
        if holes and all(level == 0 for level in holes) and self.options.region is None:
            return "all"
        return None

    def at(self, size: tuple[int, int]) -> Given:
        """The same with the image at another size.

        size: (width, height) in pixels.
        """
        if self.image is None or self.image.size == size:
            return self
        hole = self.image.hole
        floats = None if self.image.floats is None else resampled(self.image.floats, size)
        image = attrs.evolve(
            self.image,
            image=resized(self.image.image, size, Image.Resampling.LANCZOS)
            if floats is None
            else Image.fromarray(eight_bits(floats)),
            hole=None if hole is None else resized(hole, size, Image.Resampling.BILINEAR),
            floats=floats,
        )
        return attrs.evolve(self, image=image)

    def tell(self, sampling: SampleOptions) -> None:
        """Warns of what is possible and hardly meant. Nothing is read for it but what is open.

        sampling: as :meth:`Outline.begin` gives it.
        """
        if self.leaves is not None:
            leaves = "keeps nothing, so all of the picture" if self.leaves == "nothing" else "keeps all, so nothing"
            if self.mask is None:
                log.warning("The transparency of the picture %s is made anew.", leaves)
            else:
                other = "keep" if self.options.mask_means == "repaint" else "repaint"
                meant = setting("mask_means", other)
                log.warning("The mask %s is made anew; if its other part was meant, set %s.", leaves, meant)
        for photo in self.photos:
            if photo.place is None and photo.image.width == 2 * photo.image.height:
                log.warning(
                    "%s is twice as wide as high, as panoramas are; if it is one, give it with %s.",
                    photo.name, named("image"),
                )  # fmt: skip
        if self.image is None:
            return
        size = (sampling.width or self.image.width, sampling.height or self.image.height)
        if self.image.size != size:
            (wide, high), (width, height) = self.image.size, size
            log.warning("The image is resized from %d×%d to %d×%d.", wide, high, width, height)
        if self.mask is not None and self.mask.size != size:
            log.info("The mask is resized from %d×%d to %d×%d.", *self.mask.size, *size)


@attrs.frozen(kw_only=True)
class Outline:
    """What of a :class:`Given` decides what may be asked of a picture.

    size: (width, height) of the image; None: there is none.
    keeps: whether a part is kept and the rest made anew.
    all_but_photos: whether there is an image of which photos alone are kept.
    """

    size: tuple[int, int] | None
    keeps: bool
    all_but_photos: bool = False

    def begin(self, sampling: SampleOptions) -> SampleOptions:
        """The options with the size of what is given, or the nearest that can be made, if none was asked for.

        sampling: as they were given.

        Raises InputError where they contradict what is given.
        """
        if self.all_but_photos and sampling.denoise == 1.0:
            raise InputError(
                f"{named('image')} has no effect beside {named('photo')}, because all that the photo leaves is made "
                f"anew; set {named('denoise')} below 1 (0.6 is usual), give a {named('mask')}, or leave "
                f"{named('image')} out."
            )
        return begun_with(sampling, self.size, keeps=self.keeps, resizes=True)


def given(
    image: Any = None,
    mask: Any = None,
    photos: Photo | Sequence[Photo] | None = None,
    options: EditOptions | None = None,
) -> Given:
    """What users give in Python, checked.

    image: a Panorama, or a picture of Pillow, whose transparency is a hole.
    mask: a picture of Pillow.
    photos: one or several.
    options: how a part is kept.

    Raises InputError for what is none of these, or contradicts.
    """
    if isinstance(image, Image.Image):
        image = as_panorama(image)
    if image is not None and not isinstance(image, Panorama):
        raise InputError(
            f"{named('image')} is a {type(image).__name__}, but must be a Panorama, a picture of Pillow, or latents; "
            "for a file: Panorama.open."
        )
    if mask is not None and not isinstance(mask, Image.Image):
        raise InputError(
            f"{named('mask')} is a {type(mask).__name__}, but must be a picture of Pillow; for a file: PIL.Image.open."
        )
    several = () if photos is None else tuple(photos) if isinstance(photos, list | tuple) else (photos,)
    for photo in several:
        if not isinstance(photo, Photo):
            raise InputError(
                f"{named('photo')} is a {type(photo).__name__}, but must be a Photo; Photo.open reads a file."
            )
    return Given(
        image=image,
        mask=None if mask is None else as_mask(mask),
        photos=several,
        options=options or EditOptions(),
    )


def as_panorama(image: Image.Image) -> Panorama:
    """A picture of Pillow as a panorama, its transparency as a hole."""
    if not image.has_transparency_data:
        return Panorama(image=image)
    alpha = alpha_of(image)
    return Panorama(image=image.convert("RGB"), hole=None if alpha is None else ImageOps.invert(alpha))
