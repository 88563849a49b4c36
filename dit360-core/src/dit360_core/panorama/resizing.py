"""Panoramas of another size, whose left and right edge are one place."""

from __future__ import annotations

from PIL import Image


def resized(image: Image.Image, size: tuple[int, int], how: Image.Resampling) -> Image.Image:
    """A panorama at another size.

    image: of any mode that Pillow resizes, twice as wide as high.
    size: (width, height) in pixels.
    how: the filter.
    """
    if image.size == size:
        return image
    # With some columns of the other side on either side, or a filter would see an edge there.
    margin = max(1, image.width // 16)
    wide = Image.new(image.mode, (image.width + 2 * margin, image.height))
    for left in (margin, margin - image.width, margin + image.width):
        wide.paste(image, (left, 0))
    return wide.resize(size, how, box=(margin, 0, margin + image.width, image.height))
