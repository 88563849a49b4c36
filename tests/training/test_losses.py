"""DiT360's losses do what they are named for, and what they do not do is known."""

from __future__ import annotations

import torch

from training.losses import cube, cube_faces, equivariance, joints, published_yaw, turn


def error(height: int = 16) -> torch.Tensor:
    return torch.randn(2, 3, height, 2 * height, generator=torch.Generator().manual_seed(0))


def test_the_published_yaw_loss_is_the_plain_loss_for_whole_columns() -> None:
    plain = (error() ** 2).mean((1, 2, 3))
    assert torch.allclose(published_yaw(error(), 180.0), plain)
    assert not torch.allclose(published_yaw(error(), 60.0), plain)


def test_turning_all_the_way_round_changes_nothing() -> None:
    assert torch.equal(turn(error(), 360.0), error())
    assert torch.allclose(turn(turn(error(), 90.0), 270.0), error())


def test_equivariance_is_zero_for_equal_predictions_only() -> None:
    assert torch.all(equivariance(error(), error()) == 0)
    assert torch.all(equivariance(error(), error().roll(1, -1)) > 0)


def test_each_face_of_the_cube_looks_where_it_should() -> None:
    """The picture's own directions, seen on the faces: front, right, back, left, up, down."""
    height, width = 64, 128
    azimuth = ((torch.arange(width) + 0.5) / width - 0.5) * 2 * torch.pi
    elevation = (0.5 - (torch.arange(height) + 0.5) / height) * torch.pi
    flat = elevation.cos().view(-1, 1)
    rays = torch.stack((flat * azimuth.sin(), elevation.sin().view(-1, 1).expand(height, width), flat * azimuth.cos()))[
        None
    ]
    faces = cube_faces(rays)[0]
    n = height // 2
    middle = faces[:, :, n // 2 - 1 : n // 2 + 1, n // 2 - 1 : n // 2 + 1].mean((2, 3)).T
    wanted = torch.tensor([[0, 0, 1], [1, 0, 0], [0, 0, -1], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]).float()
    assert torch.allclose(middle, wanted, atol=0.02)
    # Up is up and right is right on the front face.
    assert faces[1, 0, 0].mean() > 0.4 > faces[1, 0, -1].mean()
    assert faces[0, 0, :, -1].mean() > 0.4 > faces[0, 0, :, 0].mean()


def test_the_cube_has_no_seam_at_the_meridian() -> None:
    """Rolling by a quarter turn moves the sides of the cube round and leaves every value."""
    faces, rolled = cube_faces(error(32)), cube_faces(error(32).roll(-16, -1))
    assert torch.allclose(rolled[:, :, 0], faces[:, :, 1], atol=1e-4)
    assert torch.allclose(rolled[:, :, 1], faces[:, :, 2], atol=1e-4)


def test_the_cube_loss_of_a_constant_error_is_its_square() -> None:
    assert torch.allclose(cube(torch.full((1, 4, 16, 32), 3.0)), torch.tensor([9.0]))


def test_only_steps_where_tokens_meet_count_at_the_joints() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 3, 4, 8, generator=generator).repeat_interleave(2, -1).repeat_interleave(2, -2)
    error = tokens + 7
    found = joints(error)
    across = (tokens[..., 1::2] - tokens[..., 0::2].roll(-1, -1)).square().mean((1, 2, 3))
    down = (tokens[..., 1:-1:2, :] - tokens[..., 2::2, :]).square().mean((1, 2, 3))
    assert torch.allclose(found, across + down)
    assert torch.allclose(joints(error.roll(2, -1)), found)  # the meridian is a joint like any other
    assert torch.allclose(joints(torch.full((1, 3, 8, 16), 5.0)), torch.zeros(1))


def test_the_edges_of_a_window_meet_nothing() -> None:
    ramp = torch.arange(8.0).expand(1, 1, 4, 8)
    assert float(joints(ramp, around=False)) == 1
    assert float(joints(ramp)) == (1 + 1 + 1 + 49) / 4
