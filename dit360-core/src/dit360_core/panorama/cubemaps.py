"""Cube maps as engines want them: what the six faces are called, how they are turned, how they lie in one picture."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from PIL import Image

from dit360_core.errors import InputError, UnknownName, named
from dit360_core.options.numerals import pythons

Axes = tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]
"""As :data:`dit360_core.sphere.cube.Axes`: (right, up, ahead) of a cube map's x, y and z."""

FORMS = ("faces", "cross", "strip")
"""Six files, the horizontal cross of 4×3 faces, or six faces side by side."""
SHAPES = {"cross": (4, 3), "strip": (6, 1)}
"""Form → how many faces across and down."""
LARGEST = 16_384
"""Pixels along the side of a face that graphics devices hold."""

WIDEST = 65_500
"""Columns of the widest panorama that JPEG holds."""

#: Column and row of +x, −x, +y, −y, +z, −z in a cross: the same edges meet as on the cube.
_CROSS = ((2, 1), (0, 1), (1, 0), (1, 2), (1, 1), (3, 1))


@attrs.frozen(kw_only=True)
class Layout:
    """How one engine has cube maps.

    name: of it.
    faces: what the pictures of +x, −x, +y, −y, +z and −z are called.
    axes: how the cube map lies on the sphere, so that the panorama's middle is where a new camera of the engine looks.
    row: the faces' names in the order in which a strip has them; by default that of ``faces``.
    """

    name: str
    faces: tuple[str, ...]
    axes: Axes
    row: tuple[str, ...] = attrs.field(default=attrs.Factory(lambda self: self.faces, takes_self=True))


_RIGHT, _UP, _AHEAD = (1, 0, 0), (0, 1, 0), (0, 0, 1)
_LEFT, _BEHIND = (-1, 0, 0), (0, 0, -1)

# Where each of these facts is written is told in docs/export.md.
LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            name="plain",
            faces=("right", "left", "up", "down", "front", "back"),
            axes=(_RIGHT, _UP, _AHEAD),
            row=("front", "right", "back", "left", "up", "down"),
        ),
        # Its shaders look up (−x, y, z) of the world, in which a new camera looks along −z.
        Layout(name="threejs", faces=("px", "nx", "py", "ny", "pz", "nz"), axes=(_LEFT, _UP, _BEHIND)),
        # Inputs of its skybox of six sides; what it calls left lies at +x, to the right of a new camera.
        Layout(
            name="unity",
            faces=("LeftTex", "RightTex", "UpTex", "DownTex", "FrontTex", "BackTex"),
            axes=(_RIGHT, _UP, _AHEAD),
        ),
        # x ahead, y to the right, z up: pictures of the horizon lie on their sides.
        Layout(name="unreal", faces=("PosX", "NegX", "PosY", "NegY", "PosZ", "NegZ"), axes=(_AHEAD, _RIGHT, _UP)),
        # The world's own direction, −z ahead, is looked up in a cube map of the other hand: its faces are mirrored.
        Layout(name="godot", faces=("X+", "X-", "Y+", "Y-", "Z+", "Z-"), axes=(_RIGHT, _UP, _BEHIND)),
    )
}

OTHER_NAMES = (
    ("px", "posx", "x+"),
    ("nx", "negx", "x-"),
    ("py", "posy", "y+"),
    ("ny", "negy", "y-"),
    ("pz", "posz", "z+"),
    ("nz", "negz", "z-"),
)
"""What +x, −x, +y, −y, +z and −z are called elsewhere, in small letters, whatever the engine."""


def layout_of(name: str) -> Layout:
    """The layout of that name. Raises UnknownName if there is none."""
    if name not in LAYOUTS:
        raise UnknownName(f"There is no {named('layout')} {name!r}; there are: {', '.join(LAYOUTS)}.")
    return LAYOUTS[name]


def check_size(size: int, what: str = "size") -> None:
    """Raises InputError unless it is a number of pixels along a side, 1 … LARGEST.

    size: in pixels.
    what: the option that it is.
    """
    size = pythons(size)
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= LARGEST:
        raise InputError(f"{named(what)} is {size}, but must be a whole number of pixels, 1 … {LARGEST}.")


def check_width(width: int) -> None:
    """Raises InputError unless a panorama can be so many pixels wide: an even number, 2 … WIDEST."""
    width = pythons(width)
    if isinstance(width, bool) or not isinstance(width, int) or not 2 <= width <= WIDEST or width % 2:
        raise InputError(f"{named('width')} is {width}, but must be an even number of pixels, 2 … {WIDEST}.")


def check_faces(faces: Mapping[str, Image.Image], layout: Layout) -> int:
    """The side of six faces in pixels.

    faces: by their names.

    Raises InputError if one is missing, is not square or is of another size than the others, or one is none of them.
    """
    missing = [name for name in layout.row if name not in faces]
    if missing or len(faces) != 6:
        others = [name for name in faces if name not in layout.row]
        wrong = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(others)} beside them"
        raise InputError(
            f"A cube map of layout {layout.name} has the six faces {', '.join(layout.row)}; this one {wrong}; give "
            "all of them."
        )
    for name, face in faces.items():
        if not isinstance(face, Image.Image):
            raise InputError(
                f"The face {name} is a {type(face).__name__}, but must be a picture of Pillow; of an array, "
                "Image.fromarray makes one."
            )
        if face.width != face.height:
            raise InputError(f"The face {name} has {face.width}×{face.height} pixels, but must be square; crop it.")
    sizes = {name: faces[name].width for name in layout.row}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise InputError(f"The faces are of several sizes ({told}), but must be of one; resize them.")
    return faces[layout.row[0]].width


def laid_out(faces: Mapping[str, Image.Image], form: str, layout: Layout) -> Image.Image:
    """One picture of six faces, black where none is.

    faces: by their names, of one size.
    form: ``cross`` or ``strip``.
    """
    size = check_faces(faces, layout)
    across, down = SHAPES[form]
    whole = Image.new("RGB", (across * size, down * size))
    for name, (column, row) in places(form, layout).items():
        whole.paste(faces[name], (column * size, row * size))
    return whole


def taken_apart(picture: Image.Image, layout: Layout) -> tuple[str, dict[str, Image.Image]]:
    """(the form, the faces by their names) of a cross or a strip, which its shape tells.

    picture: four faces wide and three high, or six wide and one high.

    Raises InputError for a picture of another shape.
    """
    form = form_of(picture.size)
    size = picture.width // SHAPES[form][0]
    return form, {
        name: picture.crop((column * size, row * size, (column + 1) * size, (row + 1) * size))
        for name, (column, row) in places(form, layout).items()
    }


def form_of(size: tuple[int, int]) -> str:
    """``cross`` or ``strip``, as the shape of a picture of six faces tells.

    size: (width, height) in pixels.

    Raises InputError for another shape.
    """
    width, height = size
    for form, (across, down) in SHAPES.items():
        if width * down == height * across and width % across == 0:
            return form
    raise InputError(
        f"A cross is 4×3 faces and a strip 6×1, but this picture has {width}×{height} pixels, which is neither; crop "
        "it, or give six faces."
    )


def places(form: str, layout: Layout) -> dict[str, tuple[int, int]]:
    """Column and row of each face in a picture of all six.

    form: ``cross`` or ``strip``.
    """
    if form == "strip":
        return {name: (column, 0) for column, name in enumerate(layout.row)}
    return dict(zip(layout.faces, _CROSS, strict=True))
