"""What a picture is made from beside its prompt, and what is wrong with it, told before any weights are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from PIL import Image

from dit360_core.errors import InputError, named, remedy, setting
from dit360_core.options import EditOptions, SampleOptions
from dit360_core.panorama.masks import as_mask, levels_of
from dit360_core.panorama.photos import Photo
from dit360_core.panorama.picture import Panorama
from dit360_core.planning.checks import begun_with


@attrs.frozen(kw_only=True, eq=False)
class Given:
    """What a picture is made from.

    image: a panorama, of which a part is kept or all is made anew to a share; None: none.
    mask: in grey, white where that is made anew, if ``options`` do not say otherwise; None: none.
    photos: that it is made around.
    options: how a part is kept.

    Raises InputError for what contradicts.
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
            for name in ("mask_means", "mask_grow", "mask_soften", "paste_back", "match_colours"):
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
        if self.mask is not None:
            # Only its shape is looked at.
            levels_of(self.mask.resize((2, 1)) if self.mask.width == 2 * self.mask.height else self.mask, (2, 1))

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

    def as_arguments(self) -> dict[str, Any]:
        """For :meth:`dit360_core.Pipeline.generate`."""
        options = attrs.asdict(self.options)
        return {"image": self.image, "mask": self.mask, "photo": self.photos or None, **options}


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
        """The options with the size of what is given.

        sampling: as they were given.

        Raises InputError where they contradict what is given.
        """
        if self.all_but_photos and sampling.denoise == 1.0:
            raise InputError(
                f"{named('image')} has no effect beside {named('photo')}, because all that the photo leaves is made "
                f"anew; set {named('denoise')} below 1 (0.6 is usual), give a {named('mask')}, or leave "
                f"{named('image')} out."
            )
        return begun_with(sampling, self.size, keeps=self.keeps)


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
    several = () if photos is None else (photos,) if isinstance(photos, Photo) else tuple(photos)
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
    alpha = image.convert("RGBA").getchannel("A")
    hole = None if alpha.getextrema() == (255, 255) else alpha.point(lambda level: 255 - level)
    return Panorama(image=image.convert("RGB"), hole=hole)
