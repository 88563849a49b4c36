"""Seam, pole and sphere measures against pictures whose values are known."""

import math
import statistics

import numpy as np
import pytest
from dit360_core.errors import InputError
from dit360_core.panorama import metrics
from dit360_core.panorama.picture import Panorama
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image


def texture(height: int = 32, seed: int = 0) -> np.ndarray:
    """Noise that is smooth and continuous around the sphere, uint8 (H, 2H, 3)."""
    noise = np.random.default_rng(seed).standard_normal((height, 2 * height, 3))
    for _ in range(3):
        noise = noise + np.roll(noise, 1, axis=1) + np.roll(noise, -1, axis=1)
    low, high = noise.min(), noise.max()
    return ((noise - low) / (high - low) * 255).round().astype(np.uint8)


def cut(pixels: np.ndarray) -> np.ndarray:
    """The same with a step at the ±180° meridian: the right half is of another scene."""
    return np.concatenate((pixels[:, : pixels.shape[1] // 2], 255 - pixels[:, pixels.shape[1] // 2 :]), axis=1)


def test_a_continuous_texture_has_no_seam():
    seam = metrics.seam(texture())
    assert 0.8 <= seam.ratio <= 1.25
    assert abs(seam.z_score) < 3


def test_a_cut_is_a_seam():
    seam, whole = metrics.seam(cut(texture())), metrics.seam(texture())
    assert seam.ratio > 1.5
    assert seam.z_score > 2
    assert seam.discontinuity > whole.discontinuity


def test_a_blurred_seam_is_told_by_a_ratio_below_one():
    pixels = texture().copy()
    pixels[:, -1] = pixels[:, 0]
    assert metrics.seam_ratio(pixels) == 0
    assert metrics.seam_z_score(pixels) < -2


def test_ratio_and_z_score_follow_their_formulas():
    # Columns 0, 10, 30, 60, 70: interior steps 10, 20, 30, 10, wrap step 70.
    row = np.array([0, 10, 30, 60, 70], dtype=np.uint8)
    pixels = np.broadcast_to(row[None, :, None], (3, 5, 3))
    steps = [10, 20, 30, 10]
    assert metrics.seam_ratio(pixels) == pytest.approx(70 / 15)
    assert metrics.seam_z_score(pixels) == pytest.approx((70 - 17.5) / statistics.pstdev(steps))


def test_a_picture_of_one_colour_divides_by_nothing():
    for pixels in (np.full((4, 8, 3), 77, np.uint8), np.full((4, 8, 3), 0.1 + 0.2, np.float32)):
        seam = metrics.seam(pixels)
        assert (seam.ratio, seam.z_score, seam.discontinuity) == (1, 0, 0)
        assert metrics.pole_constancy(pixels) == metrics.Poles(top=0, bottom=0)
        assert metrics.ws_psnr(pixels, pixels) == math.inf


def test_two_halves_of_one_colour_each_have_an_infinite_ratio():
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, 4:] = 200
    assert metrics.seam_ratio(pixels) == math.inf
    assert math.isfinite(metrics.seam_z_score(pixels))


def test_equal_interior_steps_and_another_wrap_step_have_an_infinite_z_score():
    ramp = np.linspace(0, 1, 9)[None, :, None] * np.ones((2, 1, 3))
    assert metrics.seam_z_score(ramp) == math.inf


@given(st.integers(0, 10_000), st.integers(0, 127))
@settings(max_examples=25, deadline=None)
def test_bytes_and_floats_measure_the_same(seed, columns):
    pixels = np.roll(cut(texture(seed=seed)), columns, axis=1)
    as_float = (pixels / 255).astype(np.float64)
    assert metrics.seam_ratio(pixels) == pytest.approx(metrics.seam_ratio(as_float), rel=1e-9)
    assert metrics.seam_z_score(pixels) == pytest.approx(metrics.seam_z_score(as_float), rel=1e-9, abs=1e-9)
    assert metrics.discontinuity_score(pixels) == pytest.approx(metrics.discontinuity_score(as_float), rel=1e-9)
    a, b = metrics.pole_constancy(pixels), metrics.pole_constancy(as_float)
    assert (a.top, a.bottom) == pytest.approx((b.top, b.bottom))


def test_the_discontinuity_score_of_a_plain_step_is_known():
    # Grey 0 left of the seam and 1 right of it: a₁ = a₂ = 16, a₀ = a₃ = 0, so DS = 16 / 0.1.
    pixels = np.zeros((5, 8, 3))
    pixels[:, :4] = 1
    assert metrics.discontinuity_score(pixels) == pytest.approx(160)


def test_the_discontinuity_score_of_a_ramp_through_the_seam_is_known():
    # Equal steps s everywhere near the seam: all four derivatives are 32·s, so DS = 32·s / (32·s + 0.1).
    step = 0.01
    band = np.roll(np.arange(8) * step, -4)
    pixels = np.broadcast_to(band[None, :, None], (5, 8, 3))
    assert metrics.discontinuity_score(pixels) == pytest.approx(32 * step / (32 * step + 0.1))


def test_ws_psnr_of_a_constant_difference_is_the_plain_one():
    pixels = np.full((8, 16, 3), 0.5)
    assert metrics.ws_psnr(pixels, pixels + 0.1) == pytest.approx(20)


def test_ws_psnr_counts_the_equator_most():
    pixels = np.zeros((8, 16, 3))
    pole, equator = pixels.copy(), pixels.copy()
    pole[0], equator[4] = 1, 1
    weights = [math.cos((i + 0.5 - 4) * math.pi / 8) for i in range(8)]
    assert metrics.ws_psnr(pixels, pole) == pytest.approx(-10 * math.log10(weights[0] / sum(weights)))
    assert metrics.ws_psnr(pixels, equator) == pytest.approx(-10 * math.log10(weights[4] / sum(weights)))


def test_pole_constancy_is_in_grey_levels():
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[0, ::2] = 20
    assert metrics.pole_constancy(pixels) == metrics.Poles(top=pytest.approx(10), bottom=0)


@given(st.floats(-1e6, 1e6))
@settings(deadline=None)
def test_turning_back_restores_every_pixel(degrees):
    pixels = texture(16)
    assert np.array_equal(metrics.yaw(metrics.yaw(pixels, degrees), -degrees), pixels)


def test_a_turn_to_the_right_brings_the_right_to_the_centre():
    pixels = np.zeros((2, 8, 3), np.uint8)
    pixels[:, 6] = 255  # 90° right of the centre column
    assert metrics.yaw(pixels, 90)[0, 4, 0] == 255
    assert np.array_equal(metrics.yaw(pixels, -270), metrics.yaw(pixels, 90))


def test_the_seam_of_a_turned_picture_is_an_interior_step_of_the_first():
    pixels = cut(texture())
    assert metrics.seam_ratio(pixels) > metrics.seam_ratio(metrics.yaw(pixels, 45))


@pytest.mark.parametrize(
    "measure", [metrics.seam, metrics.seam_ratio, metrics.discontinuity_score, metrics.pole_constancy]
)
@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 8)), np.zeros((4, 8, 4)), np.zeros((4, 8, 3), np.int64), np.zeros((0, 8, 3)), np.zeros(3)]
)
def test_what_is_no_picture_is_refused_in_one_sentence(measure, pixels):
    with pytest.raises(InputError, match=r"^A picture .*\.$"):
        measure(pixels)


def test_other_impossible_requests_are_refused_in_one_sentence():
    pixels = texture(16)
    with pytest.raises(InputError, match="32×16 and 64×32"):
        metrics.ws_psnr(pixels, texture(32))
    with pytest.raises(InputError, match="finite"):
        metrics.yaw(pixels, math.nan)
    with pytest.raises(InputError, match="6 columns"):
        metrics.discontinuity_score(pixels[:2, :4])


# ------------------------------------------------------------------------------------- pictures from lossy files


def ripples(height=192):
    """A smooth texture that closes, (H, 2H, 3) in 0 … 255: blocks of a lossy file are what differs most in it."""
    rng = np.random.default_rng(5)
    rows, columns = np.arange(height)[:, None], np.arange(2 * height)[None]
    sky = np.zeros((height, 2 * height, 3))
    for _ in range(60):
        across, down = rng.integers(1, 12), rng.integers(1, 12)
        wave = np.sin(2 * np.pi * (across * columns / (2 * height) + down * rows / height) + rng.uniform(0, 6))
        sky += wave[..., None] * rng.normal(size=3) / np.hypot(across, down)
    return (127.5 + 90 * sky / np.abs(sky).max()).round().astype(np.uint8)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("jpg", {"quality": 95, "subsampling": 0}), ("jpg", {"quality": 75, "subsampling": 2}),
        ("jpg", {"quality": 40, "subsampling": 2, "progressive": True}), ("webp", {"quality": 90}),
        ("webp", {"quality": 60}), ("webp", {"lossless": True}), ("png", {}),
    ],
)  # fmt: skip
def test_the_meridian_of_a_lossy_file_is_compared_with_edges_of_its_blocks(tmp_path, suffix, options):
    path = tmp_path / f"a.{suffix}"
    whole = ripples()
    Image.fromarray(whole).save(path, **options)
    read = Panorama.open(path)
    blocks = suffix == "jpg" or "quality" in options
    assert (read.coded is not None) == blocks
    assert 0.6 < read.seam.ratio < 1.6
    if blocks:
        assert metrics.seam_ratio(np.asarray(read.image)) > 1.1 * read.seam.ratio, "blocks differ at their edges"
        assert read.seam.compared < 2 * 192 // 8
    # Turned, the meridian lies within blocks or at the edge of others, and is compared with its like.
    for columns in (8, 100, 192):
        assert 0.5 < read.roll(columns / 384 * 360).seam.ratio < 1.9
    # What does not close is found out all the same.
    Image.fromarray(whole[:144, :288]).save(path, **options)
    cut = Panorama.open(path).seam
    assert cut.ratio > 1.4
    assert cut.z_score > 3


def test_blocks_stay_where_they_are_when_a_camera_says_that_the_picture_is_to_be_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 2  # mirrored
    Image.fromarray(ripples(98)[:, ::-1]).save(tmp_path / "a.jpg", exif=exif)
    read = Panorama.open(tmp_path / "a.jpg")
    assert read.coded.first == 196 % 8
    assert list(np.flatnonzero(read.coded.edges(196))[:4]) == [0, 4, 12, 20]


def test_edges_of_blocks_are_where_a_file_has_them():
    blocks = metrics.Blocks(name="JPEG", columns=8)
    assert list(np.flatnonzero(blocks.edges(20))) == [0, 8, 16]
    assert list(np.flatnonzero(metrics.Blocks(name="JPEG", columns=8, turned=3).edges(20))) == [5, 13, 17]


def test_a_picture_of_a_few_columns_is_measured_as_far_as_it_can_be():
    measured = metrics.seam(texture(height=1)[:, :4])
    assert math.isfinite(measured.ratio)
    assert math.isnan(measured.discontinuity)
