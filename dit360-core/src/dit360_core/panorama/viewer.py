"""One HTML file to look around in a panorama and to paint a mask: nothing to install, nothing fetched, no network.

The page is made of the files in ``page``. Those in ``page/painting`` are the ComfyUI node's too, which has copies.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from importlib import resources
from pathlib import Path

import attrs
from PIL import Image

from dit360_core.panorama.gpano import Pose
from dit360_core.system.atomic import write_atomic

# First bytes of the formats of pictures; a file's name may say something else.
_MIME = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}

#: Columns of the largest picture that graphics devices hold, but for a few; a browser would only make it smaller.
WIDEST = 16_384

_SCRIPTS = (
    "painting/sphere.mjs",
    "painting/mask.mjs",
    "painting/png.mjs",
    "painting/painter.mjs",
    "painting/toolbar.mjs",
    "command.mjs",
    "drawing.mjs",
    "viewer.js",
)
"""Modules, each after those that it imports."""
_STYLES = ("painting/painting.css", "viewer.css")

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


@attrs.frozen(kw_only=True)
class About:
    """What a page says of its picture.

    title: of the page, and over the caption.
    caption: the words that the picture was made of; the command for a mask begins with them.
    file: name of the picture's file, for the mask's name and the command that the page shows; "": not known.
    model: for that command; "": the one that is taken unasked.
    part: only a part of the sphere is shown; no mask is painted then.
    """

    title: str = "360° panorama"
    caption: str = ""
    file: str = ""
    model: str = ""
    part: bool = False


def write_page(
    out: Path,
    picture: bytes,
    size: tuple[int, int],
    pose: Pose,
    about: About,
    *,
    force: bool = False,
) -> None:
    """Writes a page with the picture, a viewer in it, and a brush that paints a mask on the sphere.

    picture: the bytes of a file that every browser shows alike: a whole panorama in sRGB, upright, without
    transparency, at most WIDEST wide.
    size: (width, height) of the panorama in pixels, whatever the picture was made to.
    about: what is said of it.
    force: replace an existing file.

    The page needs WebGL (1 is enough); without it, it says so and shows the flat picture. A
    Content-Security-Policy forbids it every request and every script but its own. Its address takes a
    direction: ``page.html#yaw=90&pitch=0&fov=75`` (degrees; yaw to the right, pitch upwards, field of view
    over the longer side of the window); scripts call ``window.dit360.view({yaw, pitch, fov})``, which draws
    at once and returns the direction, after the promise ``window.dit360.ready``. The pose levels the horizon and gives
    the first view; yaw 0 is the heading of the picture's middle.

    Raises InputError where write_atomic does, Dit360Error where writing fails.
    """
    page = _page(picture, size, pose, about)
    with write_atomic(out, force=force) as file:
        file.write(page)


def as_jpeg(image: Image.Image) -> bytes:
    """A panorama for the page (quality 92, 4:4:4). One that is wider than WIDEST is made smaller."""
    if image.width > WIDEST:
        image = image.resize((WIDEST, WIDEST // 2), reducing_gap=3.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def _page(picture: bytes, size: tuple[int, int], pose: Pose, about: About) -> bytes:
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
        "where": html.escape(_where(about.file)),
        "width": str(min(size[0], WIDEST)),
        "height": str(min(size[1], WIDEST // 2)),
        "pose": html.escape(json.dumps(_pose(pose))),
        "picture": f"data:{mime};base64,{base64.b64encode(picture).decode('ascii')}",
    }
    # One pass, so that a title such as "{{caption}}" stays what it is.
    page = _PLACEHOLDER.sub(lambda match: values[match[1]], _read("viewer.html"))
    # A lone surrogate, which a command line can hold, is no character.
    return page.encode("utf-8", "replace")


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
