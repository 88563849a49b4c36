"""The pictures of docs/editing.md."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import dit360_core as dit360
from dit360_core.pipeline.planes import image_of
from dit360_core.sphere.camera import Camera
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from training.captions import caption
from training.data import HELD_OUT_SEED
from training.scenes import Scene, draw

if TYPE_CHECKING:
    from editing import Maker, Task

GAP = 8
VIEWS = ((21, 60.0, 0.0), (34, -100.0, 5.0))
"""Scenes, and the yaw and pitch of the photo of each."""
CASTLE, CASTLE_AT, CASTLE_BOX = 3, 341, (186, 50, 326, 190)
"""The edit whose scene has a castle by the water, the column at which it stands, and what is masked once it stands on
the meridian and the meridian in the middle."""


def photo_page(
    pipe: dit360.Pipeline,
    file: Path,
    rendered: Callable[[Scene], Image.Image],
    photo_of: Callable[[Image.Image, Camera], dit360.Photo],
) -> None:
    """A row for each photo: the photo, and the panorama that was made around it."""
    rows = []
    for number, yaw, pitch in VIEWS:
        scene = draw(HELD_OUT_SEED + number)
        photo = photo_of(rendered(scene), Camera(width=256, height=256, fov=90, yaw=yaw, pitch=pitch))
        made = pipe.generate(caption(scene, random.Random(number)), photo=photo, width=512, seed=number)
        rows.append([photo.image, made.image])
    sheet(rows).save(file, quality=90)


def edit_page(ours: Maker, file: Path, task: Callable[[int], Task], official: Path | None) -> None:
    """A castle on the meridian, which goes: the picture and its mask, ours, and the official script's.

    Each is turned so that the meridian is in the middle.
    """
    edit = task(CASTLE)
    panorama = ImageChops.offset(edit.panorama, -CASTLE_AT, 0)
    mask = Image.new("L", panorama.size)
    ImageDraw.Draw(mask).ellipse(CASTLE_BOX, fill=255)
    outline = mask.filter(ImageFilter.FIND_EDGES).filter(ImageFilter.MaxFilter(3))
    mask, outline = (ImageChops.offset(image, panorama.width // 2, 0) for image in (mask, outline))
    edit = attrs.evolve(edit, panorama=panorama, mask=mask)
    marked = panorama.copy()
    marked.paste("white", mask=outline)
    columns = [marked, image_of(ours(edit)[0])]
    if official is not None:
        from editing_official import Official

        columns.append(image_of(Official(official).edit(edit)[0]))
    turned = [ImageChops.offset(image, image.width // 2, 0) for image in columns]
    sheet([[image] for image in turned]).save(file, quality=90)


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """Pictures side by side and one above the other, on white."""
    width = max(sum(image.width + GAP for image in row) for row in rows) - GAP
    height = sum(max(image.height for image in row) + GAP for row in rows) - GAP
    page = Image.new("RGB", (width, height), "white")
    top = 0
    for row in rows:
        left = 0
        for image in row:
            page.paste(image.convert("RGB"), (left, top))
            left += image.width + GAP
        top += max(image.height for image in row) + GAP
    return page
