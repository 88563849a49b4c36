"""One HTML file to look around in a panorama: nothing to install, nothing fetched, no network needed."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from importlib import resources
from os import PathLike
from pathlib import Path

from dit360_core.panorama.gpano import Pose
from dit360_core.panorama.picture import Panorama, open_file
from dit360_core.system.atomic import write_atomic

# First bytes of the formats that Panorama.open reads; a file's name may say something else.
_MIME = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}

#: Columns of the largest picture that graphics devices hold, but for a few; a browser would only make it smaller.
WIDEST = 16_384

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


def write_viewer(
    panorama: Panorama | str | PathLike[str],
    out: str | PathLike[str],
    title: str = "360° panorama",
    *,
    force: bool = False,
) -> Path:
    """Writes a page with the picture and a viewer in it; returns ``out``.

    panorama: a Panorama, embedded as JPEG (quality 92, 4:4:4), or the path of one, whose very bytes are
    embedded where every browser shows the same of them: a whole panorama in sRGB, upright, without transparency. One
    that is wider than 16 384 pixels is made smaller.
    title: of the page, and over the caption; the caption is ``settings["prompt"]`` where that is text.
    force: replace an existing file.

    The page needs WebGL (1 is enough); without it, it says so and shows the flat picture. A
    Content-Security-Policy forbids it every request and every script but its own. Its address takes a
    direction: ``page.html#yaw=90&pitch=0&fov=75`` (degrees; yaw to the right, pitch upwards, field of view
    over the longer side of the window); scripts call ``window.dit360.view({yaw, pitch, fov})``, which draws
    at once and returns the direction, after the promise ``window.dit360.ready``. The pose levels the horizon and gives
    the first view; yaw 0 is the heading of the picture's middle.

    Raises InputError where Panorama.open or write_atomic do, Dit360Error where writing fails.
    """
    out = Path(out)
    data = b""
    if not isinstance(panorama, Panorama):
        path = Path(panorama)
        panorama, as_it_is = open_file(path)
        if as_it_is and panorama.width <= WIDEST:
            data = path.read_bytes()
    if data:
        [mime] = {mime for start, mime in _MIME.items() if data.startswith(start)}
    else:
        data, mime = _as_jpeg(panorama), "image/jpeg"
    prompt = panorama.settings.get("prompt")
    page = _page(data, mime, title, prompt if isinstance(prompt, str) else "", panorama)
    with write_atomic(out, force=force) as file:
        file.write(page)
    return out


def _as_jpeg(panorama: Panorama) -> bytes:
    image = panorama.image
    if image.width > WIDEST:
        image = image.resize((WIDEST, WIDEST // 2), reducing_gap=3.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def _page(data: bytes, mime: str, title: str, caption: str, panorama: Panorama) -> bytes:
    template = resources.files("dit360_core").joinpath("panorama", "viewer.html").read_text(encoding="utf-8")
    script, style = (_only(tag, template) for tag in ("script", "style"))
    values = {
        # The hashes admit exactly the page's own script and style, so that no text in it can ever run.
        "script_hash": _hash(script),
        "style_hash": _hash(style),
        "title": html.escape(title),
        "caption": html.escape(caption),
        "alt": html.escape(caption or title),
        "width": str(min(panorama.width, WIDEST)),
        "height": str(min(panorama.height, WIDEST // 2)),
        "pose": html.escape(json.dumps(_pose(panorama.pose))),
        "picture": f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}",
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
