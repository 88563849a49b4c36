"""What nodes ask where something lies on the sphere, and how large the sphere is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit360_core.errors import InputError
from dit360_core.options import check_size

from dit360_comfy.inputs import Spec
from dit360_comfy.pipe import pipe_of

USUAL = (2048, 1024)
"""Width and height where nothing says another."""


def degrees(default: float, least: float, most: float, tooltip: str, step: float = 1.0) -> Spec:
    """An input of an angle. It takes hundredths; step: of its arrows."""
    return "FLOAT", {
        "default": default, "min": least, "max": most, "step": step, "round": 0.01, "tooltip": tooltip,
    }  # fmt: skip


def placing(fov: float, what: str, fov_tooltip: str, *, roll: bool = True) -> dict[str, Spec]:
    """fov, yaw, pitch and roll.

    fov: its default.
    what: they are of, for tooltips.
    """
    found = {
        "fov": degrees(fov, 1.0, 179.0, fov_tooltip),
        "yaw": degrees(
            0.0, -360.0, 360.0,
            f"Degrees to the right at which the middle of the {what} lies; 0: the middle of the panorama.",
        ),
        "pitch": degrees(0.0, -180.0, 180.0, f"Degrees upwards at which the middle of the {what} lies."),
        "roll": degrees(0.0, -360.0, 360.0, "Degrees by which the camera is turned clockwise."),
    }  # fmt: skip
    if not roll:
        del found["roll"]
    return found


def size_inputs(of: str) -> dict[str, Spec]:
    """width and height of a panorama.

    of: what is asked where they are 0, for tooltips.
    """
    return {
        "width": ("INT", {
            "default": 0, "min": 0, "max": 16384, "step": 64,
            "tooltip": f"Width of the panorama in pixels. 0: twice the height, or that of {of}, or {USUAL[0]}.",
        }),
        "height": ("INT", {
            "default": 0, "min": 0, "max": 8192, "step": 32,
            "tooltip": "Height in pixels, half the width. 0: that.",
        }),
    }  # fmt: skip


def sized_by() -> Spec:
    """A model as what knows how large its panoramas are."""
    return "DIT360_PIPE", {"tooltip": "A model, whose own size is taken where width and height are 0."}


def check_asked(given: Mapping[str, Any]) -> None:
    """Raises InputError for a width and height that are no panorama's."""
    width, height = given.get("width") or None, given.get("height") or None
    try:
        check_size(width, height)
    except InputError as error:
        raise InputError(f"{error.sentence.rstrip('.')}, or leave height at 0.") from None


def size_of(width: int, height: int, dit360_pipe: Any = None, beside: tuple[int, int] | None = None) -> tuple[int, int]:
    """(width, height) in pixels.

    width, height: as they were given; 0: not.
    dit360_pipe: a model that may have a size of its own.
    beside: the size of a picture that is connected, which comes before the model's.
    """
    if not (width or height):
        if beside is not None:
            return beside
        if dit360_pipe is None:
            return USUAL
        model = pipe_of(dit360_pipe).described.prepared.plan.model
        return int(model.width), int(model.height)
    return width or 2 * height, height or width // 2
