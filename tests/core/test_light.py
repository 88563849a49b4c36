"""Linear light and highlights: known values of the standard, and a curve that its documented inverse undoes."""

import numpy as np
import pytest
from dit360_core.panorama.levels import eight_bits, floats_of, sixteen_bits, strips
from dit360_core.panorama.light import KNEE, PEAK, compress_highlights, expand_highlights, to_light, to_srgb_code

GREYS = np.linspace(0, 1, 4097, dtype=np.float32)


@pytest.mark.parametrize(
    ("coded", "light"),
    [
        (0.0, 0.0),
        (1.0, 1.0),
        (0.04045, 0.04045 / 12.92),  # the end of the straight part
        (188 / 255, 0.502886),
        (0.5, 0.214041),
        (119 / 255, 0.184475),  # about a grey card's 18 %
        (10 / 255, 0.003035),
        (-0.5, 0.0),
        (2.0, 1.0),
    ],
)
def test_light_has_the_values_of_iec_61966_2_1(coded, light):
    assert float(to_light(np.float32(coded))) == pytest.approx(light, abs=2e-6)


def test_coding_light_again_gives_the_levels_back():
    assert np.abs(to_srgb_code(to_light(GREYS)) - GREYS).max() < 2e-6
    levels = np.arange(256, dtype=np.uint8)[None, :, None]
    assert np.array_equal(eight_bits(to_srgb_code(to_light(floats_of(levels)))), levels)


def colours(count=20_000):
    light = np.random.default_rng(0).random((count, 3), dtype=np.float32)
    return np.concatenate([light, light * [1, 0.1, 0.01], np.eye(3), np.ones((1, 3)), np.zeros((1, 3))])


def test_nothing_changes_up_to_the_knee():
    dark = colours() * KNEE
    assert np.array_equal(expand_highlights(dark), dark.astype(np.float32))
    assert np.array_equal(compress_highlights(dark), dark.astype(np.float32))


def test_expanded_highlights_only_grow_up_to_the_peak_and_keep_their_hue():
    grey = expand_highlights(np.repeat(GREYS[:, None], 3, axis=1))[:, 0]
    assert (np.diff(grey) > 0).all()
    assert grey[-1] == pytest.approx(PEAK, rel=1e-5)
    light = colours()[:20_000]
    wide = expand_highlights(light)
    assert (wide >= light * (1 - 1e-6)).all()
    assert np.allclose(wide / wide.max(-1, keepdims=True), light / light.max(-1, keepdims=True), atol=1e-5)


def test_the_curve_has_no_corner_at_the_knee():
    step = 1e-3
    around = expand_highlights(np.full((3, 3), [[KNEE - step], [KNEE], [KNEE + step]], np.float32))[:, 0]
    assert np.diff(around) == pytest.approx([step, step], rel=0.02)


def test_the_documented_forward_curve_undoes_it():
    light = colours()
    assert np.abs(compress_highlights(expand_highlights(light)) - light).max() < 5e-6
    # The operator as its authors print it: L (1 + L / white²) / (1 + L).
    bright = expand_highlights(np.float32([[0.9, 0.9, 0.9]]))[0, 0]
    t, white = (bright - KNEE) / (1 - KNEE), (PEAK - KNEE) / (1 - KNEE)
    assert KNEE + (1 - KNEE) * t * (1 + t / white**2) / (1 + t) == pytest.approx(0.9, abs=1e-6)


def test_levels_are_rounded_as_torch_rounds_them():
    torch = pytest.importorskip("torch")
    floats = np.random.default_rng(1).uniform(-0.1, 1.1, (64, 128, 3)).astype(np.float32)
    floats[0, :, 0] = (np.arange(128) + 0.5) / 255  # halves
    expected = (torch.from_numpy(floats).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    assert np.array_equal(eight_bits(floats), expected)
    assert np.abs(floats_of(sixteen_bits(floats)) - floats.clip(0, 1)).max() <= 0.5001 / 65_535


def test_strips_cover_every_row_once():
    for height, width in ((1, 2), (4096, 8192), (3000, 1), (5, 10**7)):
        rows = [row for strip in strips(height, width) for row in range(height)[strip]]
        assert rows == list(range(height))


def test_what_is_saturated_does_not_begin_to_shine():
    assert np.array_equal(expand_highlights(np.eye(3, dtype=np.float32)[[0, 2]]), np.eye(3, dtype=np.float32)[[0, 2]])
    assert expand_highlights(np.float32([[1, 1, 1]])).max() == pytest.approx(PEAK, rel=1e-5)
