"""Windows over a panorama: they cover it, wrap, lie elsewhere each time, and together are what the whole would be."""

import itertools

import dit360_core as dit360
import numpy as np
import pytest
import torch
from dit360_core.errors import InputError
from dit360_core.options import SampleOptions
from dit360_core.pipeline.windowed import WindowedVelocity
from dit360_core.planning.forecast import subject_of
from dit360_core.plugins.registry import default_registry
from dit360_core.sphere.grid import Grid, Window
from dit360_core.sphere.windows import Windows

SIZES = [(16, 32, 8, 16), (16, 32, 16, 16), (16, 32, 8, 32), (13, 26, 5, 7), (64, 128, 16, 32), (8, 16, 4, 4)]


def windows(rows, columns, height, width):
    return Windows(rows=rows, columns=columns, height=height, width=width)


@pytest.mark.parametrize("sizes", SIZES)
def test_every_token_is_seen_each_time(sizes):
    found = windows(*sizes)
    for number in range(40):
        places = list(found.places(number))
        assert len(places) == found.count
        seen = torch.zeros(found.rows * found.columns)
        for top, left in places:
            assert 0 <= top <= found.rows - found.height
            index, weights = found.index(top, left), found.weights(top)
            assert len(set(index.tolist())) == len(index) == len(weights)
            assert (weights > 0).all()
            assert 0.7 < weights.max() <= 1
            seen.index_add_(0, index, weights)
        assert (seen > 0).all()


@pytest.mark.parametrize("sizes", SIZES[:5])
def test_no_line_is_a_border_in_most_looks(sizes):
    found = windows(*sizes)
    if found.one:
        return
    lefts = [{left for _, left in found.places(number)} for number in range(30)]
    tops = [{top for top, _ in found.places(number)} - {0, found.rows - found.height} for number in range(30)]
    for borders, enough in ((lefts, not found.around), (tops, any(tops) and found.height > 8)):
        if enough:
            most = max(sum(line in each for each in borders) for line in set().union(*borders))
            assert most < 0.7 * len(borders)


def test_weights_fall_towards_borders_and_not_towards_poles_or_around():
    found = windows(64, 128, 16, 32)
    first, middle = (found.weights(top).view(16, 32) for top in (0, 20))
    assert torch.equal(middle, middle.flip(0))
    assert torch.equal(middle, middle.flip(1))
    assert middle[0, 16] < middle[1, 16] < middle[3, 16] < middle[8, 16] == 1
    assert first[0, 16] == 1 > first[-1, 16]
    around = windows(64, 128, 16, 128).weights(20).view(16, 128)
    assert (around == around[:, :1]).all()


def test_sizes_of_pixels_become_tokens_and_none_is_larger_than_the_picture():
    assert Windows.of_pixels((2048, 1024), (512, 256)) == windows(64, 128, 16, 32)
    assert Windows.of_pixels((512, 256), (1024, 1024)).one
    assert windows(64, 128, 16, 128).tokens(2) == 16 * 132
    assert windows(64, 128, 16, 32).tokens(2) == 16 * 32


def test_the_number_of_windows_grows_with_the_area():
    counts = [Windows.of_pixels((width, width // 2), (512, 256)).count for width in (2048, 4096, 8192)]
    for small, large in itertools.pairwise(counts):
        assert 3.2 < large / small < 4.8


# ------------------------------------------------------------------------------------------------------------ positions


def test_a_window_has_the_positions_of_the_whole_or_its_own():
    whole = Grid(16, 32, spread=0.5)
    ids = whole.position_ids().view(16, 32, 3)
    looks, found = Looks(), windows(16, 32, 4, 8)
    velocity = WindowedVelocity(looks, whole, found, "whole", None, 0.5)
    velocity.next()
    velocity(torch.zeros(1, 512, 1), 0.5, None)
    for (grid, _), (top, left) in zip(looks.grids, found.places(0), strict=True):
        if left <= 24:
            assert torch.equal(grid.position_ids().view(4, 8, 3), ids[top : top + 4, left : left + 8])
        assert grid.extent == whole.extent == (8, 16)
    there = Window(rows=4, columns=8, spread=0.5, down=2.5, across=3.5, within=(8.0, 16.0))
    assert torch.equal(there.position_ids().view(4, 8, 3), ids[5:9, 7:15])
    assert torch.equal(there.real.position_ids(), there.position_ids())
    own = Window(rows=4, columns=8, padding=1)
    assert torch.equal(own.position_ids(), Grid(4, 8, 1).position_ids())
    assert own.extent == (4, 8)


@pytest.mark.parametrize(("spread", "closest"), [(0.25, 0.5), (1.0, 1.0)])
def test_a_window_of_a_very_large_picture_has_its_middle_where_it_belongs(spread, closest):
    """Where positions would lie closer than a model knows them, or beyond all that it knows."""
    looks, found = Looks(), windows(64, 128, 16, 32)
    velocity = WindowedVelocity(looks, Grid(64, 128, spread=spread), found, "whole", None, 0.25)
    velocity.next()
    velocity(torch.zeros(1, 64 * 128, 1), 0.5, None)
    ids = Grid(64, 128, spread=0.25).position_ids().view(64, 128, 3)
    for (grid, _), (top, left) in zip(looks.grids, found.places(0), strict=True):
        own = grid.position_ids().view(16, 32, 3)
        assert torch.allclose(own[1:, :, 1] - own[:-1, :, 1], torch.tensor(closest))
        assert grid.extent == (16, 32)
        if left <= 96:
            middle = ids[top : top + 16, left : left + 32].mean((0, 1))
            assert torch.allclose(own.mean((0, 1)), middle)


class Looks:
    """A denoiser that says what it is shown, and where: position ids beside the tokens."""

    def __init__(self):
        self.grids = []

    def __call__(self, grid, attend):
        self.grids.append((grid, attend))
        ids = grid.real.position_ids()[None]

        def velocity(x, sigma, embedding, branch):
            return sigma * x + (ids[..., 1:2] + 100 * ids[..., 2:3]) * 0

        return velocity


def test_what_all_windows_say_alike_is_what_is_said():
    looks, found = Looks(), windows(16, 32, 8, 16)
    velocity = WindowedVelocity(looks, Grid(16, 32, 1), found, "whole", None, 1.0)
    x = torch.randn(1, 512, 6, generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        velocity.next()
        assert torch.allclose(velocity(x, 0.5, None), 0.5 * x, atol=1e-6)
    assert all(grid.padding == 0 for grid, _ in looks.grids)
    velocity.use("another kernel")
    velocity(x, 0.5, None)
    assert looks.grids[-1][1] == "another kernel"


def test_beyond_the_meridian_columns_are_counted_on():
    looks, found = Looks(), windows(16, 32, 8, 16)
    velocity = WindowedVelocity(looks, Grid(16, 32), found, "whole", None, 1.0)
    for _ in range(6):
        velocity.next()
        velocity(torch.zeros(1, 512, 1), 0.5, None)
    for grid, _ in looks.grids:
        columns = grid.position_ids().view(8, 16, 3)[0, :, 2]
        assert torch.equal(columns.diff(), torch.ones(15))
        assert -8 <= columns[0] <= 24


# ------------------------------------------------------------------------------------------------------- with a model

ASKED = {"prompt": "a castle above a meadow", "width": 128, "steps": 3, "seed": 4, "latent_rotation": False}


def latents(pipe, **more):
    words = pipe.encode(ASKED["prompt"], max_sequence_length=32)
    asked = {name: value for name, value in {**ASKED, **more}.items() if name != "prompt"}
    return pipe.sample(words, **asked)


def test_one_window_that_covers_everything_is_the_whole(tiny):
    whole = latents(tiny).tensor
    for size in ("128x64", "4096x4096", "auto"):
        assert torch.allclose(latents(tiny, windows=size).tensor, whole, atol=1e-5)


@pytest.mark.parametrize("size", ["64x64", "128x64"])
@pytest.mark.parametrize("positions", ["own", "whole"])
def test_windows_paint_another_picture_of_the_same_kind(positions, size, tiny):
    found = latents(tiny, width=256, windows=size, window_positions=positions)
    told = found.settings["used"]["windows"]
    assert (told["width"], told["height"]) == tuple(map(int, size.split("x")))
    assert found.tensor.isfinite().all()
    assert found.settings["used"]["evaluations"] == 3
    whole = latents(tiny, width=256).tensor
    assert 0.01 < float((found.tensor - whole).norm() / whole.norm()) < 1.5


def test_turning_the_noise_turns_the_picture_if_the_windows_turn_with_it(tiny, monkeypatch):
    """Where positions are a window's own, nothing else knows of a longitude."""
    noise = torch.randn(1, 32, 16, 32, generator=torch.Generator().manual_seed(2))
    more = {"width": 256, "height": 128, "windows": "128x64", "window_positions": "own"}
    first = latents(tiny, latents=noise, **more).tensor
    places = Windows.places

    def turned(self, number):
        for top, left in places(self, number):
            yield top, (left + 5) % self.columns

    monkeypatch.setattr(Windows, "places", turned)
    second = latents(tiny, latents=noise.roll(10, -1), **more).tensor
    assert torch.allclose(second, first.roll(10, -1), atol=1e-5)


@pytest.mark.parametrize("scheduler", ["dpmpp_2m", "heun"])
def test_other_solvers_and_guidance_see_the_same_windows_in_one_question(scheduler, tiny):
    found = latents(tiny, width=256, windows="128x64", scheduler_type=scheduler, yaw_consistency=0.5)
    assert found.tensor.isfinite().all()


def test_auto_is_of_the_models_own_size_where_the_picture_is_larger(tiny):
    assert "windows" not in latents(tiny, windows="auto", width=512, steps=1).settings["used"]
    told = latents(tiny, windows="auto", width=768, steps=1).settings["used"]["windows"]
    assert (told["width"], told["height"]) == (512, 256)


# ------------------------------------------------------------------------------------------------------------ planning


def test_a_plan_is_made_for_a_window_and_not_for_the_picture():
    from dit360_core.options import DecodeOptions, LoadOptions
    from dit360_core.pipeline.pipeline import Pipeline  # noqa: F401 - what a plan needs is imported first
    from dit360_core.planning.forecast import chosen_setup
    from dit360_core.planning.prediction import predict

    registry, found = default_registry(), {}
    for width in (1024, 2048, 4096):
        for mode in ("never", "512x256"):
            asked = SampleOptions(prompt="any", width=width, windows=mode)
            subject = subject_of(LoadOptions(device="cpu"), asked, DecodeOptions(), registry)
            step = predict(subject.shapes, chosen_setup(subject, LoadOptions(device="cpu")), 0).phase("step")
            found[width, mode] = step.working, step.operations * subject.looks
    assert found[4096, "512x256"][0] < 0.2 * found[4096, "never"][0]
    for small, large in ((1024, 2048), (2048, 4096)):
        assert 3.2 < found[large, "512x256"][1] / found[small, "512x256"][1] < 4.8


@pytest.mark.parametrize(
    "given", ["512", "512x", "x256", "100x100", "32x32", "512x256x3", "wide", "-512x256", "1e3x64"]
)
def test_windows_that_are_none_are_one_sentence(given):
    with pytest.raises(InputError, match="windows is"):
        SampleOptions(prompt="a", windows=given)


def test_ways_to_write_windows():
    for given, meant in (("512X256", "512x256"), ("512×256", "512x256"), ("AUTO", "auto"), ("none", "never")):
        assert SampleOptions(prompt="a", windows=given).windows == meant


def test_a_picture_in_windows_is_decoded_as_any_other(tiny):
    picture = tiny.generate("a castle", width=256, steps=2, seed=1, windows="128x128")
    assert isinstance(picture, dit360.Panorama)
    assert np.asarray(picture.image).std() > 5


# ------------------------------------------------------------------------------------------------------ other families


@pytest.mark.parametrize("family", ["klein", "krea", "qwen"])
def test_other_families_are_seen_in_windows_too(family, tmp_path):
    from random_families import random_klein, random_krea, random_qwen

    make = {"klein": lambda: random_klein(layers=4), "krea": random_krea, "qwen": random_qwen}[family]
    make().save_pretrained(tmp_path)
    pipe = dit360.load(str(tmp_path), device="cpu", precision="fp32")
    words = pipe.encode("a calm sea")
    asked = {"width": 256, "steps": 2, "seed": 1}
    whole = pipe.sample(words, **asked).tensor
    for more in ({}, {"position_interpolation": True}, {"window_positions": "own"}):
        found = pipe.sample(words, **asked, windows="128x64", **more)
        assert found.tensor.isfinite().all()
        assert found.settings["used"]["windows"]["count"] == 9
    covering = pipe.sample(words, **asked, windows="256x128").tensor
    assert torch.allclose(covering, whole, atol=1e-5)
