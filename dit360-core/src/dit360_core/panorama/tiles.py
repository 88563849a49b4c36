"""A large panorama cut into tiles at several sizes, so that a page decodes and shows only what is looked at.

Each tile repeats a rim of what lies around it on the sphere, over the meridian and the poles too: it is interpolated
without its neighbours, and shows no edge.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import attrs
from PIL import Image

#: Pixels a side of a tile, with its rim. Graphics memory is taken in squares of such squares.
SIDE = 512
#: Pixels of the rim: a cubic between pixels needs two.
RIM = 2
#: Pixels a side that a tile adds to the panorama.
INNER = SIDE - 2 * RIM
#: Columns of the widest panorama that is the first view of tiles. It is held as one piece, and shown at once.
PREVIEW = 2048


@attrs.frozen(kw_only=True)
class Tile:
    """One tile of a panorama.

    level: columns of the whole panorama, at this size.
    row, column: its place, from the upper left.
    picture: RGB, at most SIDE pixels a side: the last ones of a row and a column are smaller.
    """

    level: int
    row: int
    column: int
    picture: Image.Image


def halves(image: Image.Image) -> list[Image.Image]:
    """The panorama at half the size again and again, the smallest first: at most PREVIEW wide, and the last is itself.

    image: RGB, twice as wide as high. A pixel is the mean of those that it stands for.
    """
    found = [image]
    while found[0].width > PREVIEW:
        height = max(1, found[0].height // 2)
        found.insert(0, found[0].resize((2 * height, height), Image.Resampling.BOX))
    return found


def cut(image: Image.Image) -> Iterator[Tile]:
    """The tiles of a panorama, row by row.

    image: RGB, twice as wide as high, at least RIM pixels high.
    """
    width, height = image.size
    for row, top in enumerate(range(0, height, INNER)):
        strip = _strip(image, top - RIM, min(top + INNER, height) + RIM)
        for column, left in enumerate(range(0, width, INNER)):
            right = min(left + INNER, width) + 2 * RIM
            picture = strip.crop((left, 0, right, strip.height))
            yield Tile(level=width, row=row, column=column, picture=picture)


def as_jpeg(image: Image.Image) -> bytes:
    """A JPEG file (quality 92, 4:4:4)."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def _strip(image: Image.Image, top: int, bottom: int) -> Image.Image:
    """Rows of a panorama, with a rim on the left and on the right. Rows beyond a pole go on at the other side of it."""
    width, height = image.size
    strip = Image.new("RGB", (width + 2 * RIM, bottom - top))
    first, last = max(top, 0), min(bottom, height)
    strip.paste(image.crop((0, first, width, last)), (RIM, first - top))
    for beyond in (*range(top, 0), *range(height, bottom)):
        row = -1 - beyond if beyond < 0 else 2 * height - 1 - beyond
        opposite = image.crop((0, row, width, row + 1))
        for shift in (width // 2, width // 2 - width):
            # The second paste fills what the first one left; what reaches over the edges is cut by Pillow.
            strip.paste(opposite, (RIM + shift, beyond - top))
    strip.paste(strip.crop((width, 0, width + RIM, strip.height)), (0, 0))
    strip.paste(strip.crop((RIM, 0, 2 * RIM, strip.height)), (width + RIM, 0))
    return strip
