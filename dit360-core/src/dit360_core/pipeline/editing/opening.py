"""The files that a picture is made from, named by a command or a line of a list, opened and checked."""

from __future__ import annotations

from pathlib import Path

import attrs

from dit360_core.errors import InputError, named, setting
from dit360_core.options import EditOptions, PhotoOptions
from dit360_core.panorama.masks import open_mask
from dit360_core.panorama.photos import Photo, parsed
from dit360_core.panorama.picture import Panorama
from dit360_core.pipeline.editing.given import Given


@attrs.frozen(kw_only=True)
class Files:
    """What a picture is made from, by name.

    image, mask: None: none.
    photos: each as ``FILE;fov=60;yaw=90``, which says where it lies.
    placing: for photos that do not say so.
    options: how a part is kept.
    folder: beside which files are looked for; None: as they are named.
    for_all: options that are given for many pictures at once, and are left out where nothing is kept.
    """

    image: Path | None = None
    mask: Path | None = None
    photos: tuple[str, ...] = ()
    placing: PhotoOptions = attrs.field(factory=PhotoOptions)
    options: EditOptions = attrs.field(factory=EditOptions)
    folder: Path | None = None
    for_all: frozenset[str] = frozenset()

    def __attrs_post_init__(self) -> None:
        default = PhotoOptions()
        for name in ("fov", "yaw", "pitch", "roll"):
            value = getattr(self.placing, name)
            if value != getattr(default, name) and not self.photos:
                raise InputError(
                    f"{setting(name, f'{value:g}')} has no effect, because there is no photo; give one with "
                    f"{named('photo')}, or leave {named(name)} out."
                )

    @property
    def keeps(self) -> bool:
        """Whether a part of a picture is kept, as far as names tell: transparency is seen when files are opened."""
        return bool(self.photos) or self.mask is not None or self.options.region is not None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files that are named."""
        photos = tuple(self._beside(parsed(photo, self.placing)["path"]) for photo in self.photos)
        return tuple(path for path in (self.image, self.mask, *photos) if path is not None)

    def open(self) -> Given:
        """Reads them. Raises InputError for what is missing, damaged, or contradicts."""
        image = None if self.image is None else Panorama.open_whole(self.image)
        options = self.options
        if not self.keeps and (image is None or image.hole is None):
            default = EditOptions()
            options = attrs.evolve(options, **{name: getattr(default, name) for name in self.for_all})
        return Given(
            image=image,
            mask=None if self.mask is None else open_mask(self.mask),
            photos=tuple(self._photo(text) for text in self.photos),
            options=options,
        )

    def _photo(self, text: str) -> Photo:
        where = parsed(text, self.placing)
        return Photo.open(self._beside(where.pop("path")), **where)

    def _beside(self, path: str) -> Path:
        return Path(path) if self.folder is None else self.folder / path
