"""DiT360PanoramaToCube, DiT360CubeToPanorama and DiT360LittlePlanet: a panorama for engines and for looking at."""

from __future__ import annotations

from typing import Any

from dit360_core.errors import InputError
from dit360_core.panorama.cubemaps import FORMS, LARGEST, LAYOUTS, SHAPES, Layout, check_width, form_of, places

from dit360_comfy import host
from dit360_comfy.inputs import Spec
from dit360_comfy.nodes.base import Node
from dit360_comfy.nodes.spherical import degrees
from dit360_comfy.pictures import panoramas, pictures, to_comfy


def _layout() -> Spec:
    return list(LAYOUTS), {
        "default": "plain",
        "tooltip": "Whose order and turns the faces have. plain: front, right, back, left, up, down, each as a camera "
        "sees it.",
    }  # fmt: skip


def _size(of: str) -> Spec:
    return "INT", {
        "default": 0, "min": 0, "max": LARGEST, "step": 4,
        "tooltip": f"Pixels along the side of {of}. 0: what loses nothing of the panorama.",
    }  # fmt: skip


class DiT360PanoramaToCube(Node):
    CATEGORY = "dit360/edit"
    DISPLAY_NAME = "DiT360 Panorama to Cube"
    DESCRIPTION = (
        "The six faces of a cube map, as three.js, Unity, Unreal or Godot have them: six pictures, or one that is a "
        "cross or a strip. DiT360 Cube to Panorama is the way back."
    )
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("Six faces in the layout's order, or one picture, for each panorama.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        return {
            "required": {
                "panorama": ("IMAGE", {"tooltip": "Twice as wide as high."}),
                "form": (list(FORMS), {
                    "default": FORMS[0],
                    "tooltip": "faces: six pictures. cross: 4×3 faces, black where none is. strip: six side by side.",
                }),
                "layout": _layout(),
                "size": _size("a face"),
            },
        }  # fmt: skip

    def run(self, panorama: Any, form: str, layout: str, size: int) -> tuple[Any]:
        from dit360_core.sphere.cube import face_size, faces_of

        of = LAYOUTS[layout]
        with host.plain_mode():
            planes = panoramas(panorama, "panorama")
            side = size or min(LARGEST, face_size(int(planes.shape[-2])))
            made = []
            for one in planes:
                host.check_interrupt()
                faces = faces_of(one, side, of.axes).clamp(0, 1)
                named = dict(zip(of.faces, faces, strict=True))
                made += [named[name] for name in of.row] if form == "faces" else [_laid_out(named, form, of)]
            return (to_comfy(made),)


class DiT360CubeToPanorama(Node):
    CATEGORY = "dit360/edit"
    DISPLAY_NAME = "DiT360 Cube to Panorama"
    DESCRIPTION = "A panorama of the six faces of a cube map, of a cross or of a strip, edited or not, of any engine."
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("A panorama for each six faces, or each cross or strip.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        return {
            "required": {
                "image": ("IMAGE", {
                    "tooltip": "Six square faces in the layout's order (or twelve, …), or pictures that are a cross of "
                    "4×3 faces or a strip of 6×1.",
                }),
                "layout": _layout(),
                "width": ("INT", {
                    "default": 0, "min": 0, "max": 16384, "step": 2,
                    "tooltip": "Width of the panorama in pixels. 0: as fine as the faces are in their middle.",
                }),
            },
        }  # fmt: skip

    def run(self, image: Any, layout: str, width: int) -> tuple[Any]:
        import torch
        from dit360_core.sphere.cube import from_faces
        from dit360_core.sphere.size import panorama_height

        of = LAYOUTS[layout]
        if width:
            check_width(width)
        with host.plain_mode():
            made = []
            for named in _faces(pictures(image, "image"), of):
                host.check_interrupt()
                faces = torch.stack([named[name] for name in of.faces])
                height = width // 2 or panorama_height(int(faces.shape[-1]))
                made.append(from_faces(faces, height, of.axes).clamp(0, 1))
            return (to_comfy(made),)


class DiT360LittlePlanet(Node):
    CATEGORY = "dit360/edit"
    DISPLAY_NAME = "DiT360 Little Planet"
    DESCRIPTION = "A panorama as a planet seen from above: the ground in the middle, the sky around it."
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("The planet, square.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        return {
            "required": {
                "panorama": ("IMAGE", {"tooltip": "Twice as wide as high."}),
                "fov": degrees(
                    270.0, 1.0, 350.0, "Degrees over the picture's side. The more, the smaller is the planet.",
                ),
                "yaw": degrees(0.0, -360.0, 360.0, "Degrees to the right at which that lies which is at the top."),
                "size": ("INT", {
                    "default": 1024, "min": 0, "max": LARGEST, "step": 4,
                    "tooltip": "Pixels along the side. 0: what loses nothing of the panorama, which are many.",
                }),
            },
        }  # fmt: skip

    def run(self, panorama: Any, fov: float, yaw: float, size: int) -> tuple[Any]:
        from dit360_core.sphere.planet import little_planet, planet_size

        with host.plain_mode():
            planes = panoramas(panorama, "panorama")
            side = size or min(LARGEST, planet_size(int(planes.shape[-2]), fov))
            made = []
            for one in planes:
                host.check_interrupt()
                made.append(little_planet(one, side, fov, yaw).clamp(0, 1))
            return (to_comfy(made),)


def _laid_out(faces: dict[str, Any], form: str, layout: Layout) -> Any:
    """``(3, h, w)``: one picture of six faces ``(3, n, n)`` by their names."""
    side = int(faces[layout.row[0]].shape[-1])
    across, down = SHAPES[form]
    whole = faces[layout.row[0]].new_zeros(3, down * side, across * side)
    for name, (column, row) in places(form, layout).items():
        whole[:, row * side : (row + 1) * side, column * side : (column + 1) * side] = faces[name]
    return whole


def _faces(planes: Any, layout: Layout) -> list[dict[str, Any]]:
    """The faces ``(3, n, n)`` of each cube map, by their names.

    planes: ``(B, 3, H, W)``.

    Raises InputError unless they are six square ones for each, or crosses or strips.
    """
    count, _, high, wide = planes.shape
    if high == wide:
        if count % 6:
            raise InputError(
                f"image is a batch of {count} square pictures, but a cube map has six faces; give all six."
            )
        return [dict(zip(layout.row, planes[at : at + 6], strict=True)) for at in range(0, count, 6)]
    form = form_of((int(wide), int(high)))
    side = int(wide) // SHAPES[form][0]
    return [
        {
            name: one[:, row * side : (row + 1) * side, column * side : (column + 1) * side]
            for name, (column, row) in places(form, layout).items()
        }
        for one in planes
    ]


NODES: dict[str, type[Any]] = {
    "DiT360PanoramaToCube": DiT360PanoramaToCube,
    "DiT360CubeToPanorama": DiT360CubeToPanorama,
    "DiT360LittlePlanet": DiT360LittlePlanet,
}
