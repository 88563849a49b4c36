"""The nodes that make cube maps and little planets, called as ComfyUI calls them, without ComfyUI."""

import numpy as np
import pytest
import torch
from called_nodes import refused, run, sky
from dit360_core.panorama.cubemaps import FORMS, LAYOUTS
from dit360_core.panorama.picture import Panorama
from PIL import Image


def _pictures(image):
    return [Image.fromarray((one * 255).round().byte().numpy()) for one in image]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
def test_a_cube_map_and_back_is_the_panorama(form, layout):
    panorama = sky()
    (image,) = run("DiT360PanoramaToCube", panorama=panorama, form=form, layout=layout, size=0)
    assert image.shape == {"faces": (6, 44, 44, 3), "cross": (1, 132, 176, 3), "strip": (1, 44, 264, 3)}[form]
    (back,) = run("DiT360CubeToPanorama", image=image, layout=layout, width=128)
    assert back.shape == panorama.shape
    assert -10 * float(((back - panorama) ** 2).mean().log10()) > 45
    (other,) = run("DiT360CubeToPanorama", image=image, layout=layout, width=0)
    assert other.shape == (1, 70, 140, 3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_faces_are_those_of_the_core_in_the_layouts_order(layout):
    panorama = sky()
    (image,) = run("DiT360PanoramaToCube", panorama=panorama, form="faces", layout=layout, size=20)
    wanted = Panorama(_pictures(panorama)[0]).faces(20, layout)
    assert list(wanted) == list(LAYOUTS[layout].row)
    for one, other in zip(_pictures(image), wanted.values(), strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1


def test_several_panoramas_are_several_cube_maps():
    two = torch.cat([sky(), sky().flip(2)])
    (faces,) = run("DiT360PanoramaToCube", panorama=two, form="faces", layout="plain", size=0)
    assert len(faces) == 12
    (back,) = run("DiT360CubeToPanorama", image=faces, layout="plain", width=128)
    assert (back - two).abs().max() < 0.02
    (crosses,) = run("DiT360PanoramaToCube", panorama=two, form="cross", layout="unity", size=16)
    assert len(run("DiT360CubeToPanorama", image=crosses, layout="unity", width=32)[0]) == 2


def test_a_little_planet_is_that_of_the_core():
    (seen,) = run("DiT360LittlePlanet", panorama=sky(), fov=240.0, yaw=70.0, size=50)
    wanted = Panorama(_pictures(sky())[0]).little_planet(240, 70, 50)
    assert np.abs(np.asarray(_pictures(seen)[0]).astype(int) - np.asarray(wanted)).max() <= 1
    (large,) = run("DiT360LittlePlanet", panorama=sky(), fov=240.0, yaw=0.0, size=0)
    assert large.shape == (1, 142, 142, 3)  # 4·tan(60°) of a radian, which has 64 / π pixels


def test_what_is_no_cube_map_is_one_sentence():
    five = torch.rand(5, 8, 8, 3)
    given = {"layout": "plain", "width": 0}
    assert "image is a batch of 5 square pictures, but a cube map has six faces" in refused(
        "DiT360CubeToPanorama", image=five, **given
    )
    told = refused("DiT360CubeToPanorama", image=torch.rand(1, 30, 50, 3), **given)
    assert "A cross is 4×3 faces and a strip 6×1, but this picture has 50×30 pixels" in told
    assert "twice as wide as high" in refused("DiT360LittlePlanet", panorama=five, fov=200.0, yaw=0.0, size=9)
    six = torch.rand(6, 8, 8, 3)
    assert "width is 7, but must be an even number" in refused(
        "DiT360CubeToPanorama", image=six, layout="plain", width=7
    )
    assert "layout is 'roblox', but must be one of: plain, threejs" in refused(
        "DiT360CubeToPanorama", image=six, layout="roblox", width=0
    )
