"""A camera's picture and the sphere: where each lies on the other."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dit360_core.errors import InputError
from dit360_core.sphere import views
from dit360_core.sphere.camera import Camera
from dit360_core.sphere.views import directions, onto_sphere, project, rays, view
from hypothesis import given, settings
from hypothesis import strategies as st

HEIGHT = 256


def colours(of):
    """Smooth on the whole sphere: three harmonics of directions ``(…, 3)``, as ``(3, …)`` in about −1 … 1."""
    x, y, z = of.unbind(-1)
    return torch.stack([x * y + 0.3 * z, y * z - 0.5 * x, (3 * z * z - 1) / 2 + 0.2 * y]).double()


SPHERE = colours(directions(HEIGHT))
MEANS = F.avg_pool2d(colours(directions(HEIGHT, 5))[None], 5)[0]
"""Of what each pixel covers."""
CAMERAS = st.builds(
    Camera,
    width=st.integers(40, 60),
    height=st.integers(40, 60),
    fov=st.floats(30, 120),
    yaw=st.floats(-400, 400),
    pitch=st.floats(-90, 90),
    roll=st.floats(-180, 180),
)


def test_where_a_photo_lies_is_found_in_bands_that_nobody_sees(monkeypatch):
    camera = Camera(width=50, height=41, fov=100, yaw=170, pitch=60, roll=5)
    picture = torch.rand(3, 41, 50)
    whole = onto_sphere(picture, camera, 64)
    monkeypatch.setattr(views, "_BAND", 700)
    assert all(torch.equal(*pair) for pair in zip(onto_sphere(picture, camera, 64), whole, strict=True))


def test_a_view_is_drawn_in_bands_that_nobody_sees(monkeypatch):
    camera = Camera(width=50, height=41, fov=100, yaw=30, pitch=-20, roll=5)
    whole = view(SPHERE, camera)
    asked = []
    monkeypatch.setattr(views, "_BAND", 500)
    monkeypatch.setattr(views, "rays", lambda *given: asked.append(given[2]) or rays(*given))
    assert torch.allclose(view(SPHERE, camera), whole, atol=1e-6)
    assert len(asked) > 1
    assert (asked[0][0], asked[-1][1]) == (0, 41)


@given(camera=CAMERAS)
@settings(max_examples=100, deadline=None)
def test_a_view_of_an_analytic_sphere_is_what_its_rays_see(camera):
    seen = view(SPHERE, camera)
    # A pixel shows the mean of what it covers.
    wanted = F.avg_pool2d(colours(rays(camera, 5))[None], 5)[0]
    assert float((seen - wanted).abs().max()) < 1e-3


@given(camera=CAMERAS)
@settings(max_examples=25, deadline=None)
def test_a_picture_lies_on_the_sphere_where_its_rays_went(camera):
    shown, covered = onto_sphere(colours(rays(camera)), camera, HEIGHT)
    whole = covered == 1
    assert whole.any()
    assert float((shown - MEANS)[:, whole].abs().max()) < 1e-3


@given(camera=CAMERAS)
@settings(max_examples=25, deadline=None)
def test_directions_are_projected_to_the_pixels_that_look_there(camera):
    places, inside = project(camera, rays(camera))
    assert bool(inside.all())
    centres = torch.stack(
        torch.meshgrid(torch.arange(camera.width) + 0.5, torch.arange(camera.height) + 0.5, indexing="xy"), dim=-1
    )
    assert float((places - centres).abs().max()) < 1e-6
    assert not project(camera, -rays(camera))[1].any()


@pytest.mark.parametrize(
    ("yaw", "pitch", "roll"), [(0, 0, 0), (40, 0, 0), (-170, 25, 0), (90, -60, 30), (10, 89, -45), (180, 0, 90)]
)
def test_angles_are_py360converts(yaw, pitch, roll):
    from py360convert import e2p

    camera = Camera(width=64, height=48, fov=80, yaw=yaw, pitch=pitch, roll=roll)
    # Its field of view ends at the centres of the outermost pixels.
    fov = [2 * math.degrees(math.atan(camera.pixel / 2 * (side - 1))) for side in (64, 48)]
    wanted = e2p(SPHERE.permute(1, 2, 0).numpy(), fov, yaw, pitch, (48, 64), in_rot_deg=roll)
    assert np.abs(view(SPHERE, camera).permute(1, 2, 0).numpy() - wanted).max() < 3e-3


def test_a_roll_is_clockwise_seen_from_behind():
    """The horizon then falls to the left in the picture: what is low on the right of the camera comes to its middle."""
    looking = rays(Camera(width=3, height=3, fov=60, roll=20))
    assert looking[1, 2, 1] < 0 < looking[1, 0, 1]


def test_what_is_turned_is_turned_on_the_sphere_too():
    picture = colours(rays(Camera(width=60, height=40, fov=70)))
    ahead, covered = onto_sphere(picture, Camera(width=60, height=40, fov=70), HEIGHT)
    right, also = onto_sphere(picture, Camera(width=60, height=40, fov=70, yaw=90), HEIGHT)
    assert torch.allclose(ahead.roll(HEIGHT // 2, -1), right, atol=1e-9)
    assert torch.equal(covered.roll(HEIGHT // 2, -1), also)


def test_a_photo_over_the_meridian_and_one_over_a_pole_cover_both_sides():
    over = onto_sphere(torch.ones(1, 40, 60), Camera(width=60, height=40, fov=60, yaw=180), HEIGHT)[1]
    assert over[HEIGHT // 2, 0] == over[HEIGHT // 2, -1] == 1
    assert over[HEIGHT // 2, HEIGHT] == 0
    pole = onto_sphere(torch.ones(1, 40, 40), Camera(width=40, height=40, fov=60, pitch=90), HEIGHT)[1]
    assert bool((pole[0] == 1).all())
    assert not pole[HEIGHT // 2].any()


@pytest.mark.parametrize(("width", "height"), [(1001, 701), (640, 960)])
def test_a_photo_of_many_pixels_lies_where_a_small_one_does(width, height):
    """It is made smaller first, by a factor that leaves no whole pixels."""
    camera = Camera(width=width, height=height, fov=75, yaw=170, pitch=-30, roll=25)
    shown, covered = onto_sphere(colours(rays(camera)), camera, 64)
    means = F.avg_pool2d(colours(directions(64, 5))[None], 5)[0]
    whole = covered == 1
    assert float((shown - means)[:, whole].abs().max()) < 2e-3
    fewer = Camera(width=width // 10, height=height // 10, fov=75, yaw=170, pitch=-30, roll=25)
    assert float((onto_sphere(colours(rays(fewer)), fewer, 64)[1] - covered).abs().max()) <= 0.5


def test_a_fine_pattern_becomes_its_mean_and_does_not_shimmer():
    stripes = torch.zeros(1, 512, 1024)
    stripes[..., ::2] = 1
    seen = view(stripes, Camera(width=40, height=40, fov=90))
    assert float((seen - 0.5).abs().max()) < 0.15


@pytest.mark.parametrize("fov", [0, 180, -10, math.nan, 270])
def test_a_field_of_view_that_is_none_is_refused(fov):
    with pytest.raises(InputError, match=r"fov is .*, but must be above 0 and below 180 degrees"):
        Camera(width=10, height=10, fov=fov)


def test_a_picture_of_another_size_than_its_cameras_is_refused():
    with pytest.raises(InputError, match="The picture has 20×10 pixels, and its camera 10×20"):
        onto_sphere(torch.zeros(3, 10, 20), Camera(width=10, height=20, fov=50), 64)
