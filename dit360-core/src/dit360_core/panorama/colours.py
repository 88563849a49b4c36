"""From the colours of a picture's own profile to sRGB, in which everything here computes and is saved."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

#: The profile's word for its channels → those of Pillow's modes that hold them.
_CHANNELS = {"RGB": ("RGB",), "GRAY": ("L",), "CMYK": ("CMYK",)}


def to_srgb(image: Image.Image, profile: object) -> tuple[Image.Image, str, str]:
    """(the picture in sRGB, mode RGB; the name of its profile; why the profile was not used, or nothing).

    image: of any mode with 8 bits a channel; transparency is dropped.
    profile: an ICC profile's bytes. A profile that is damaged, or of other channels than the picture's, leaves the
    numbers as they are, which is to take them for sRGB.
    """
    plain = _opaque(image)
    if not isinstance(profile, bytes):
        return plain.convert("RGB"), "", "it is no profile"
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        channels = opened.profile.xcolor_space.strip()
        name = (opened.profile.profile_description or "").strip() or "a profile without a name"
        source = plain.convert("RGB") if channels == "RGB" and plain.mode in ("L", "1", "P", "RGB") else plain
        if source.mode not in _CHANNELS.get(channels, ()):
            return plain.convert("RGB"), "", f"it is of {channels or 'no'} channels, and the picture is {plain.mode}"
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), source.mode, "RGB")
        if source.mode == "RGB" and _changes_nothing(transform):
            return source, name, ""
        converted = ImageCms.applyTransform(source, transform)
    # Little CMS tells all that is wrong with a profile by these.
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        return plain.convert("RGB"), "", f"it is damaged ({str(error).splitlines()[0] if str(error) else 'no reason'})"
    if converted is None:
        return plain.convert("RGB"), "", "it cannot be converted"
    return converted, name, ""


def _opaque(image: Image.Image) -> Image.Image:
    """Without transparency, so that a profile fits the channels."""
    if image.mode in ("LA", "La"):
        return image.convert("LA").getchannel("L")
    return image if image.mode in ("L", "CMYK", "RGB") else image.convert("L" if image.mode == "1" else "RGB")


def _changes_nothing(transform: object) -> bool:
    """Whether sRGB comes out as it goes in, up to the rounding of one step: then not even that is done."""
    steps = np.linspace(0, 255, 18).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(18, -1, 3)
    made = ImageCms.applyTransform(Image.fromarray(colours), transform)  # type: ignore[arg-type]
    return made is not None and int(np.abs(np.asarray(made, dtype=np.int16) - colours).max()) <= 1
