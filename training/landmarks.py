"""What stands on the horizon: mountains, forest, city, castle, or low hills where there is nothing else."""

from __future__ import annotations

import random

from torch import Tensor

from training.castle import draw_castle
from training.city import draw_city
from training.forest import draw_forest
from training.hills import draw_hills
from training.mountains import draw_mountains
from training.scenes import Scene
from training.shading import Light


def draw_landmark(
    scene: Scene, light: Light, picture: Tensor, azimuth: Tensor, elevation: Tensor, sun: Tensor, sun_azimuth: float,
    offset: Tensor, dice: random.Random,
) -> Tensor:  # fmt: skip
    """Draws the scene's landmark over the upper half.

    picture (3, h, W) in [0, 1]; azimuth (W,) and elevation (h, 1) in radians, elevations from high to 0; sun: a unit
    vector (3,), sun_azimuth its angle in radians.
    """
    if scene.landmark == "mountains":
        return draw_mountains(scene, light, picture, azimuth, elevation, sun, offset, dice)
    if scene.landmark == "forest":
        return draw_forest(scene, light, picture, azimuth, elevation, sun_azimuth, offset, dice)
    if scene.landmark == "city":
        return draw_city(scene, light, picture, azimuth, elevation, sun_azimuth, dice)
    picture = draw_hills(scene, light, picture, azimuth, elevation, sun, offset)
    if scene.landmark == "castle":
        return draw_castle(scene, light, picture, azimuth, elevation, sun_azimuth, offset, dice)
    return picture
