"""One HTML file to look around in a panorama: nothing to install, nothing fetched, no network needed."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from importlib import resources
from pathlib import Path

from PIL import Image

from dit360_core.panorama.gpano import Pose
from dit360_core.system.atomic import write_atomic

# First bytes of the formats of pictures; a file's name may say something else.
_MIME = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}

#: Columns of the largest picture that graphics devices hold, but for a few; a browser would only make it smaller.
WIDEST = 16_384

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


def write_page(
    out: Path,
    picture: bytes,
    size: tuple[int, int],
    pose: Pose,
    *,
    title: str = "360° panorama",
    caption: str = "",
    force: bool = False,
) -> None:
    """Writes a page with the picture and a viewer in it.

    picture: the bytes of a file that every browser shows alike: a whole panorama in sRGB, upright, without
    transparency, at most WIDEST wide.
    size: (width, height) of the panorama in pixels, whatever the picture was made to.
    title: of the page, and over the caption.
    force: replace an existing file.

    The page needs WebGL (1 is enough); without it, it says so and shows the flat picture. A
    Content-Security-Policy forbids it every request and every script but its own. Its address takes a
    direction: ``page.html#yaw=90&pitch=0&fov=75`` (degrees; yaw to the right, pitch upwards, field of view
    over the longer side of the window); scripts call ``window.dit360.view({yaw, pitch, fov})``, which draws
    at once and returns the direction, after the promise ``window.dit360.ready``. The pose levels the horizon and gives
    the first view; yaw 0 is the heading of the picture's middle.

    Raises InputError where write_atomic does, Dit360Error where writing fails.
    """
    page = _page(picture, size, pose, title, caption)
    with write_atomic(out, force=force) as file:
        file.write(page)


def as_jpeg(image: Image.Image) -> bytes:
    """A panorama for the page (quality 92, 4:4:4). One that is wider than WIDEST is made smaller."""
    if image.width > WIDEST:
        image = image.resize((WIDEST, WIDEST // 2), reducing_gap=3.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def _page(picture: bytes, size: tuple[int, int], pose: Pose, title: str, caption: str) -> bytes:
    [mime] = {mime for start, mime in _MIME.items() if picture.startswith(start)}
    template = resources.files("dit360_core").joinpath("panorama", "viewer.html").read_text(encoding="utf-8")
    script, style = (_only(tag, template) for tag in ("script", "style"))
    values = {
        # The hashes admit exactly the page's own script and style, so that no text in it can ever run.
        "script_hash": _hash(script),
        "style_hash": _hash(style),
        "title": html.escape(title),
        "caption": html.escape(caption),
        "alt": html.escape(caption or title),
        "width": str(min(size[0], WIDEST)),
        "height": str(min(size[1], WIDEST // 2)),
        "pose": html.escape(json.dumps(_pose(pose))),
        "picture": f"data:{mime};base64,{base64.b64encode(picture).decode('ascii')}",
    }
    # One pass, so that a title such as "{{caption}}" stays what it is.
    page = _PLACEHOLDER.sub(lambda match: values[match[1]], template)
    # A lone surrogate, which a command line can hold, is no character.
    return page.encode("utf-8", "replace")


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


def _only(tag: str, template: str) -> str:
    [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", template, flags=re.DOTALL)
    return str(content)


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode("ascii")
