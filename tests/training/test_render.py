"""The rendered pictures are true panoramas."""

from __future__ import annotations

import pytest
import torch

from training.render import render_one, to_uint8
from training.scenes import Scene, draw

SCENES = (
    Scene(1, time="sunset", landmark="castle", sky="cloudy"),
    Scene(2, time="night", ground="sea", landmark="city", moon="yes"),
    Scene(3, ground="snow", landmark="mountains", peaks="snowy"),
    Scene(4, ground="plaza", landmark="forest", weather="fog"),
    Scene(5, kind="room", furniture="bookshelf"),
)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: f"{scene.kind}-{scene.landmark}")
def test_the_step_across_the_meridian_is_like_any_other(scene: Scene) -> None:
    picture = render_one(scene, 64, 128)
    steps = (picture - picture.roll(1, -1)).abs().mean((0, 1))
    assert steps[0] <= steps[1:].max() * 1.05


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: f"{scene.kind}-{scene.landmark}")
def test_the_last_row_shows_one_point(scene: Scene) -> None:
    picture = render_one(scene, 64, 128)
    assert picture[:, -1].std(-1).max() < 0.08


def test_the_same_scene_gives_the_same_picture() -> None:
    assert torch.equal(render_one(draw(17), 32, 64), render_one(draw(17), 32, 64))


def test_pictures_become_bytes_with_channels_last() -> None:
    picture = render_one(draw(3), 32, 64)
    assert float(picture.min()) >= 0
    assert float(picture.max()) <= 1
    data = to_uint8(picture)
    assert data.shape == (32, 64, 3)
    assert data.dtype == torch.uint8
