"""The viewer's page of a panorama, or of the file of one."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from dit360_core.panorama import viewer
from dit360_core.panorama.picture import Panorama, about, open_file


def write_viewer(
    panorama: Panorama | str | PathLike[str],
    out: str | PathLike[str],
    title: str = "360° panorama",
    *,
    force: bool = False,
) -> Path:
    """Writes a page with the picture and a viewer in it, as :func:`dit360_core.panorama.viewer.write_page` does.

    Returns ``out``.

    panorama: a Panorama, embedded as JPEG, or the path of one, whose very bytes are embedded where every browser shows
    the same of them, if it is at most 4096 wide.
    title: of the page, and over the caption.
    force: replace an existing file.

    Raises InputError where Panorama.open or write_atomic do, Dit360Error where writing fails.
    """
    out, picture = Path(out), None
    if not isinstance(panorama, Panorama):
        path = Path(panorama)
        panorama, as_it_is = open_file(path)
        if as_it_is and panorama.width <= viewer.WHOLE:
            picture = path.read_bytes()
    viewer.write_page(out, picture or panorama.image, panorama.size, panorama.pose, about(panorama, title), force=force)
    return out
