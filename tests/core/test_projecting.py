"""A cube, a little planet and a camera beside an analytic sphere: seams, edges and poles."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dit360_core.errors import InputError
from dit360_core.panorama.picture import Panorama
from dit360_core.sphere.camera import Camera
from dit360_core.sphere.cube import face_size, faces_of, from_faces
from dit360_core.sphere.planet import little_planet, planet_size
from dit360_core.sphere.size import panorama_height
from dit360_core.sphere.views import directions, rays
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

HEIGHT = 128
PLAIN = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
TURNED = ((0, 0, 1), (1, 0, 0), (0, 1, 0))
MIRRORED = ((1, 0, 0), (0, 1, 0), (0, 0, -1))


def colours(of, finer=1.0):
    """Smooth on the whole sphere: ``(3, …)`` in 0.1 … 0.9 of directions ``(…, 3)``."""
    x, y, z = (of * finer).unbind(-1)
    return torch.stack(
        [
            0.5 + 0.4 * torch.sin(9 * x + 4 * y) * torch.cos(7 * z),
            0.5 + 0.4 * torch.sin(11 * y + 5 * z),
            0.5 + 0.4 * torch.cos(8 * x * y / finer + 9 * z),
        ]
    )


def sphere(height=HEIGHT, finer=1.0):
    """What each pixel covers."""
    return F.avg_pool2d(colours(directions(height, 4), finer)[None], 4)[0]


def psnr(one, other):
    return -10 * math.log10(float(((one - other) ** 2).mean()))


def on_cube(face, s, t):
    """Where places of a face are in the cube's coordinates: OpenGL 4.6 core, table 8.19, read backwards.

    s, t: −1 … 1 to the right and downwards in the face's picture.
    """
    one = np.ones_like(s)
    return np.stack(
        [
            (one, -t, -s),
            (-one, -t, s),
            (s, one, t),
            (s, -one, -t),
            (s, -t, one),
            (-s, -t, -one),
        ][face],
        axis=-1,
    )


# ------------------------------------------------------------------------------------------------------------ the cube


@pytest.mark.parametrize("axes", [PLAIN, TURNED, MIRRORED])
def test_every_pixel_of_a_face_shows_its_direction(axes):
    faces = faces_of(sphere(), 40, axes)
    across = (np.arange(200) + 0.5) / 100 - 1
    for face in range(6):
        places = on_cube(face, *np.meshgrid(across, across)) @ np.array(axes)
        wanted = colours(F.normalize(torch.from_numpy(places).double(), dim=-1))
        assert float((faces[face] - F.avg_pool2d(wanted[None], 5)[0]).abs().max()) < 0.02


def test_neighbours_agree_at_each_of_the_twelve_edges():
    """Both faces, extrapolated by half a pixel to the edge that they share, show the same there."""
    size = face_size(256)
    faces = faces_of(sphere(256), size, PLAIN).numpy()
    along = (np.arange(size) + 0.5) * 2 / size - 1
    ends = np.full(size, 1.0)
    edges = {}
    for face, picture in enumerate(faces):
        lines = {
            "left": (on_cube(face, -ends, along), 1.5 * picture[:, :, 0] - 0.5 * picture[:, :, 1]),
            "right": (on_cube(face, ends, along), 1.5 * picture[:, :, -1] - 0.5 * picture[:, :, -2]),
            "top": (on_cube(face, along, -ends), 1.5 * picture[:, 0] - 0.5 * picture[:, 1]),
            "bottom": (on_cube(face, along, ends), 1.5 * picture[:, -1] - 0.5 * picture[:, -2]),
        }
        for name, (places, seen) in lines.items():
            order = np.lexsort(places.T.round(9))
            edges[face, name] = (places[order], seen[:, order])
    meeting = [
        (one, other) for one, other in itertools.combinations(edges, 2) if np.allclose(edges[one][0], edges[other][0])
    ]
    assert len(meeting) == 12
    for one, other in meeting:
        assert np.abs(edges[one][1] - edges[other][1]).max() < 2.5e-3, (one, other)


@pytest.mark.parametrize("axes", [PLAIN, TURNED, MIRRORED])
def test_there_and_back_at_the_default_size_loses_next_to_nothing(axes):
    panorama = sphere()
    size = face_size(HEIGHT)
    assert psnr(from_faces(faces_of(panorama, size, axes), HEIGHT, axes), panorama) > 75
    fine = sphere(HEIGHT, 3.0)
    assert psnr(from_faces(faces_of(fine, size, axes), HEIGHT, axes), fine) > 50  # 47 with the mean of four samples
    faces = torch.from_numpy(np.stack([_exact_face(face, size, axes) for face in range(6)]))
    back = faces_of(from_faces(faces, panorama_height(size), axes), size, axes)
    assert psnr(back, faces) > 50


def _exact_face(face, size, axes):
    across = (np.arange(4 * size) + 0.5) / (2 * size) - 1
    places = on_cube(face, *np.meshgrid(across, across)) @ np.array(axes)
    return F.avg_pool2d(colours(F.normalize(torch.from_numpy(places).double(), dim=-1))[None], 4)[0].numpy()


def test_no_line_shows_where_faces_meet():
    """A panorama of faces is as near to the truth along the cube's edges as it is elsewhere."""
    size = face_size(HEIGHT)
    faces = torch.from_numpy(np.stack([_exact_face(face, size, PLAIN) for face in range(6)]))
    wrong = (from_faces(faces, HEIGHT, PLAIN) - sphere()).abs().amax(0)
    nearest = directions(HEIGHT).abs().sort(dim=-1).values
    at_edge = nearest[..., 1] / nearest[..., 2] > 1 - 3 / size
    assert 100 < int(at_edge.sum()) < at_edge.numel() / 4
    assert float(wrong[at_edge].max()) <= float(wrong[~at_edge].max())


@given(st.integers(1, 20_000))
@settings(deadline=None)
def test_default_sizes_are_no_coarser_in_the_middle_of_a_face(height):
    size = face_size(height)
    assert 2 * math.atan(1 / size) <= math.pi / height
    assert size % 4 == 0
    assert size - 4 < 2 * height / math.pi
    assert math.pi / panorama_height(size) <= 2 / size


def test_coarse_faces_of_a_fine_pattern_are_its_mean_and_do_not_shimmer():
    stripes = torch.zeros(1, 256, 512)
    stripes[..., ::2] = 1
    level = faces_of(stripes, 16, PLAIN)[[0, 1, 4, 5]]
    assert float((level - 0.5).abs().max()) < 0.2
    flat = torch.zeros(6, 1, 128, 128)
    flat[..., ::2] = 1
    assert float((from_faces(flat, 16, PLAIN) - 0.5).abs().max()) < 0.25


# ------------------------------------------------------------------------------------------------------- little planets


def test_a_little_planet_is_the_stereographic_projection_from_above():
    size, fov, yaw = 60, 270, 35
    seen = little_planet(sphere(), size, fov, yaw)
    reach = 2 * math.tan(math.radians(fov / 4))
    across = ((np.arange(5 * size) + 0.5) / (5 * size) * 2 - 1) * reach
    x, y = np.meshgrid(across, -across)
    away = 2 * np.arctan(np.hypot(x, y) / 2)  # from straight below
    heading = np.arctan2(x, y) + math.radians(yaw)  # at the top lies the yaw, to the right what is to the right of it
    places = np.stack([np.sin(away) * np.sin(heading), -np.cos(away), np.sin(away) * np.cos(heading)], axis=-1)
    wanted = F.avg_pool2d(colours(torch.from_numpy(places))[None], 5)[0]
    assert float((seen - wanted).abs().max()) < 0.05
    assert psnr(seen, wanted) > 45


def test_the_horizon_of_a_little_planet_is_a_circle_in_the_middle():
    half = torch.zeros(1, 256, 512)
    half[:, :128] = 1
    seen = little_planet(half, 101, 270)[0]
    radius = 50.5 * math.tan(math.radians(45)) / math.tan(math.radians(270 / 4))
    y, x = np.mgrid[:101, :101] - 50
    assert bool((seen[np.hypot(x, y) > radius + 2] > 0.5).all())
    assert bool((seen[np.hypot(x, y) < radius - 2] < 0.5).all())


@given(st.integers(1, 8192), st.floats(1, 350))
@settings(deadline=None)
def test_a_little_planets_default_size_is_no_coarser_in_its_middle(height, fov):
    assert 4 * math.tan(math.radians(fov / 4)) / planet_size(height, fov) <= math.pi / height * (1 + 1e-9)


@pytest.mark.parametrize("fov", [0, 360, -5, math.nan])
def test_a_little_planet_of_no_field_of_view_is_refused(fov):
    with pytest.raises(InputError, match=r"fov=.* is none of a little planet, which shows above 0 and below 360"):
        little_planet(sphere(8), 10, fov)


# ---------------------------------------------------------------------------------------------------------- the camera


def _panorama(height=256, finer=1.0):
    return Panorama(Image.fromarray((sphere(height, finer) * 255).round().byte().permute(1, 2, 0).numpy()))


@pytest.mark.parametrize(
    ("yaw", "pitch", "roll"), [(0, 0, 0), (180, 0, 0), (180, 20, 30), (0, 90, 0), (30, -90, 45), (-75, 60, -120)]
)
def test_a_view_is_what_a_pinhole_sees(yaw, pitch, roll):
    view = np.asarray(_panorama().perspective(yaw, pitch, 80, 90, 60, roll=roll)) / 255
    # From scratch: on a plane ahead, rolled, tilted up, turned right.
    x, y = np.meshgrid((np.arange(270) + 0.5) / 3 - 45, 30 - (np.arange(180) + 0.5) / 3)
    x, y, z = x / 45 * math.tan(math.radians(40)), y / 45 * math.tan(math.radians(40)), np.ones_like(x)
    r, p, w = (math.radians(angle) for angle in (roll, pitch, yaw))
    x, y = x * math.cos(r) + y * math.sin(r), y * math.cos(r) - x * math.sin(r)
    y, z = y * math.cos(p) + z * math.sin(p), z * math.cos(p) - y * math.sin(p)
    x, z = x * math.cos(w) + z * math.sin(w), z * math.cos(w) - x * math.sin(w)
    wanted = colours(F.normalize(torch.from_numpy(np.stack([x, y, z], axis=-1)), dim=-1))
    wanted = F.avg_pool2d(wanted[None], 3)[0].permute(1, 2, 0).numpy()
    assert np.abs(view - wanted).max() < 2.5 / 255


@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (180, 0), (0, 90), (30, -90)])
def test_the_own_sampler_is_nearer_to_the_truth_than_py360converts(yaw, pitch):
    """Over the meridian and the poles, too: what Panorama.perspective uses, and why."""
    from py360convert import e2p

    panorama, camera = _panorama(256, 3.0), Camera(width=164, height=164, fov=90, yaw=yaw, pitch=pitch)
    wanted = F.avg_pool2d(colours(rays(camera, 5), 3.0)[None], 5)[0].permute(1, 2, 0).numpy()
    ours = np.asarray(panorama.perspective(yaw, pitch, 90, 164, 164)) / 255
    # Its field of view ends at the centres of the outermost pixels.
    fov = 2 * math.degrees(math.atan(camera.pixel / 2 * 163))
    theirs = e2p(np.asarray(panorama.image), (fov, fov), yaw, pitch, (164, 164)) / 255
    own, other = (float(((seen - wanted) ** 2).mean()) for seen in (ours, theirs))
    assert own < other / 2
