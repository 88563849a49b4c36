"""One HTML file to look around in a panorama and to paint a mask: nothing to install, nothing fetched, no network.

The page is made of the files in ``page``. Those in ``page/painting`` are the ComfyUI node's too, which has copies.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import attrs
from PIL import Image

from dit360_core.errors import InputError, named
from dit360_core.panorama import tiles
from dit360_core.panorama.gpano import Pose
from dit360_core.system.atomic import write_atomic

# First bytes of the formats of pictures; a file's name may say something else.
_MIME = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}

#: Columns of the largest picture that a page shows.
WIDEST = 16_384
#: Columns of the largest picture that a page holds in one piece, which every graphics device holds as well.
WHOLE = 4096

_SCRIPTS = (
    "painting/sphere.mjs",
    "painting/mask.mjs",
    "painting/png.mjs",
    "painting/painter.mjs",
    "painting/toolbar.mjs",
    "command.mjs",
    "seeing.mjs",
    "tiles.mjs",
    "shaders.mjs",
    "drawing.mjs",
    "address.mjs",
    "saving.mjs",
    "sensor.mjs",
    "headset.mjs",
    "viewer.js",
)
"""Modules, each after those that it imports."""
_STYLES = ("painting/painting.css", "viewer.css")

#: Lowest and highest degrees of a first view.
RANGES = {"yaw": (-360, 360), "pitch": (-90, 90), "fov": (20, 120)}

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


@attrs.frozen(kw_only=True)
class About:
    """What a page says of its picture.

    title: of the page, and over the caption.
    caption: the words that the picture was made of; the command for a mask begins with them.
    file: name of the picture's file, for the mask's name and the command that the page shows; "": not known.
    model: for that command; "": the one that is taken unasked.
    part: only a part of the sphere is shown; no mask is painted then.
    rests: the page does not turn by itself before it is touched.
    """

    title: str = "360° panorama"
    caption: str = ""
    file: str = ""
    model: str = ""
    part: bool = False
    rests: bool = False


def write_page(
    out: Path,
    picture: bytes | Image.Image,
    size: tuple[int, int],
    pose: Pose,
    about: About,
    *,
    force: bool = False,
) -> None:
    """Writes a page with the picture, a viewer in it, and a brush that paints a mask on the sphere.

    picture: a whole panorama in sRGB, upright, without transparency: RGB, or the bytes of a file that every browser
    shows alike, at most WHOLE wide. What is wider than WHOLE is held in tiles, what is wider than WIDEST made smaller.
    size: (width, height) of the panorama in pixels, whatever the picture was made to.
    about: what is said of it.
    force: replace an existing file.

    The page needs WebGL (1 is enough); without it, it says so and shows the flat picture. A
    Content-Security-Policy forbids it every request and every script but its own. Its address takes a
    direction: ``page.html#yaw=90&pitch=0&fov=75`` (degrees; yaw to the right, pitch upwards, field of view
    over the longer side of the window), and tells the one that somebody has turned to; scripts call
    ``window.dit360.view({yaw, pitch, fov})``, which draws at once and returns the direction, after the promise
    ``window.dit360.ready``; ``window.dit360.settled()`` is a promise of all tiles that the view needs. The pose levels
    the horizon and gives the first view; yaw 0 is the heading of the picture's middle.

    Raises InputError where write_atomic does, Dit360Error where writing fails.
    """
    page = page_of(picture, size, pose, about)
    with write_atomic(out, force=force) as file:
        file.write(page)


def check_first(yaw: float | None, pitch: float | None, fov: float | None) -> None:
    """Raises InputError if a number of a first view is out of its range.

    yaw, pitch, fov: as for :func:`looking`.
    """
    for name, value in {"yaw": yaw, "pitch": pitch, "fov": fov}.items():
        least, most = RANGES[name]
        if value is not None and not least <= value <= most:  # nor is "not a number"
            raise InputError(f"{named(name)} is {value:g}, but must be {least} … {most} degrees.")


def looking(pose: Pose, yaw: float | None, pitch: float | None, fov: float | None) -> Pose:
    """The pose with another first view.

    pose: of the panorama.
    yaw: degrees to the right of the picture's middle, −360 … 360; None: as the pose says.
    pitch: degrees above the horizon, −90 … 90; None: the same.
    fov: field of view over the longer side of the window, in degrees, 20 … 120; None: the same.

    Raises InputError if one is out of its range.
    """
    check_first(yaw, pitch, fov)
    # A view's heading is one of the world.
    return attrs.evolve(
        pose,
        view_heading=pose.view_heading if yaw is None else (pose.heading or 0.0) + yaw,
        view_pitch=pose.view_pitch if pitch is None else pitch,
        view_fov=pose.view_fov if fov is None else fov,
    )


def page_of(picture: bytes | Image.Image, size: tuple[int, int], pose: Pose, about: About) -> bytes:
    """The page that :func:`write_page` writes, as bytes; the arguments are as there."""
    levels: list[Image.Image] = []
    if isinstance(picture, Image.Image):
        if picture.width > WIDEST:
            picture = picture.resize((WIDEST, WIDEST // 2), reducing_gap=3.0)
        if picture.width > WHOLE:
            picture, *levels = tiles.halves(picture)
        picture = tiles.as_jpeg(picture)
    [mime] = {mime for start, mime in _MIME.items() if picture.startswith(start)}
    script, style = _script(), "\n".join(map(_read, _STYLES))
    values = {
        # The hashes admit exactly the page's own script and style, so that no text in it can ever run.
        "script_hash": _hash(script),
        "style_hash": _hash(style),
        "script": script,
        "style": style,
        "title": html.escape(about.title),
        "caption": html.escape(about.caption),
        "alt": html.escape(about.caption or about.title),
        "file": html.escape(about.file),
        "model": html.escape(about.model),
        "part": str(about.part).lower(),
        "rests": str(about.rests).lower(),
        "where": html.escape(_where(about.file)),
        "width": str(min(size[0], WIDEST)),
        "height": str(min(size[1], WIDEST // 2)),
        "pose": html.escape(json.dumps(_pose(pose))),
        "picture": f"data:{mime};base64,{_base64(picture)}",
        "levels": json.dumps([level.size for level in levels]),
        "inner": str(tiles.INNER),
        "rim": str(tiles.RIM),
        "tiles": "\n".join(_tiles(levels)),
    }
    # One pass, so that a title such as "{{caption}}" stays what it is.
    page = _PLACEHOLDER.sub(lambda match: values[match[1]], _read("viewer.html"))
    # A lone surrogate, which a command line can hold, is no character.
    return page.encode("utf-8", "replace")


def _tiles(levels: list[Image.Image]) -> Iterator[str]:
    """The tiles as elements, those of the smallest level first: blocks of data, which browsers neither run nor show."""
    for level in levels:
        for tile in tiles.cut(level):
            name = f"tile-{tile.level}-{tile.row}-{tile.column}"
            yield f'<script type="image/jpeg" id="{name}">{_base64(tiles.as_jpeg(tile.picture))}</script>'


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _where(file: str) -> str:
    """Where the command that the page shows is to be run."""
    if file:
        return f"Save the mask beside {file}, then run this there."
    return "Save the picture as panorama.jpg and the mask beside it, then run this there."


def _script() -> str:
    """The modules as one script, which a page may hold that was opened from a disk: nothing is imported there."""
    code = "\n".join(map(_read, _SCRIPTS))
    code = re.sub(r"^import [^;]*;\n", "", code, flags=re.MULTILINE)
    code = re.sub(r"^export (?=(async |const |class |function))", "", code, flags=re.MULTILINE)
    return f'"use strict";\n(() => {{\n{code}}})();\n'


def _read(name: str) -> str:
    return resources.files("dit360_core").joinpath("panorama", "page", *name.split("/")).read_text(encoding="utf-8")


def _pose(pose: Pose) -> dict[str, float]:
    """What the page needs of it, in degrees."""
    yaw, pitch, fov = pose.start
    return {
        "heading": pose.heading or 0.0,
        "pitch": pose.pitch or 0.0,
        "roll": pose.roll or 0.0,
        "yaw": yaw,
        "tilt": pitch,
        "fov": fov,
    }


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode("ascii")
