"""Tiling as users meet it: modes, sizes, levels by memory, what happens when it runs out, blended tiles, previews."""

import gc
import logging
import sys
import textwrap

import dit360_core as dit360
import numpy as np
import pytest
import torch
from command_line import python
from dit360_core.models.flux.small import small_autoencoder
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.plugins.builtin.tiling_exact import Exact
from dit360_core.plugins.builtin.tiling_others import Blended
from dit360_core.plugins.offers import TilingSettings
from dit360_core.plugins.registry import Registry
from dit360_core.sphere.vae import decode_whole
from dit360_core.system.memory import OutOfMemory, free_memory
from invented_plugins import installed, offering, tiling
from PIL import Image
from random_models import random_flux
from torch.overrides import TorchFunctionMode


@pytest.fixture(scope="module")
def pipe():
    return Pipeline.from_diffusers(random_flux())


class LastConvolution(TorchFunctionMode):
    """Sees what the autoencoder's last convolution is really given: the sizes of its results, in order."""

    def __init__(self, vae):
        super().__init__()
        self._weight, self.sizes = vae.decoder.conv_out.weight, []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.nn.functional.conv2d and args[1].shape[:2] == self._weight.shape[:2]:
            self.sizes.append(tuple(out.shape[2:]))
        return out


def latents_of(width, height):
    return torch.randn(1, 16, height // 8, width // 8, generator=torch.Generator().manual_seed(5))


def tiles_of(pipe, width, height, **options):
    """(height, width) of every rectangle that the last layer worked on, and the picture."""
    with LastConvolution(pipe.engine.pipe.vae) as watched:
        panorama = pipe.decode(latents_of(width, height), **options)
    return watched.sizes, panorama


@pytest.mark.parametrize("size", [(128, 64), (1024, 512)])
def test_never_is_one_piece_whatever_the_size(pipe, size):
    tiles, panorama = tiles_of(pipe, *size, tiling_mode="never", max_tile_pixels_override=1)
    assert tiles == [size[::-1]]
    assert panorama.settings["used"]["tiling"]["tiles"] == 1


@pytest.mark.parametrize("size", [(32, 16), (128, 64), (1024, 512)])
@pytest.mark.parametrize("tile", [64, 192, 8192])
def test_always_is_more_than_one_tile_none_larger_than_asked(pipe, size, tile):
    tiles, panorama = tiles_of(pipe, *size, tiling_mode="always", tile_size_override=tile)
    assert len(tiles) > 1
    assert max(side for sides in tiles for side in sides) <= tile
    assert sum(a * b for a, b in tiles) == size[0] * size[1]
    assert panorama.settings["used"]["tiling"]["tiles"] == len(tiles)
    if tile < size[0]:
        assert max(b for _, b in tiles) < size[0]  # columns too, not only rows


def test_auto_is_one_piece_for_small_pictures_and_tiles_above_the_limit(pipe):
    """256×128 has 32 768 pixels."""
    assert len(tiles_of(pipe, 256, 128)[0]) == 1
    assert len(tiles_of(pipe, 256, 128, max_tile_pixels_override=32768)[0]) == 1
    assert len(tiles_of(pipe, 256, 128, max_tile_pixels_override=32767)[0]) > 1
    assert len(tiles_of(pipe, 256, 128, max_tile_pixels_override=0)[0]) == 1


def test_the_limit_of_the_loader_holds_unless_the_picture_says_otherwise():
    pipe = Pipeline.from_diffusers(random_flux(), vae_auto_tile_pixels=32767)
    assert len(tiles_of(pipe, 256, 128)[0]) > 1
    assert len(tiles_of(pipe, 256, 128, max_tile_pixels_override=0)[0]) == 1


def test_a_large_picture_is_cut_on_a_cpu_since_that_is_faster(pipe):
    tiles, panorama = tiles_of(pipe, 1024, 512)
    assert len(tiles) > 1
    assert panorama.settings["used"]["tiling"]["level"] == "stored"


def test_every_way_makes_the_same_picture(pipe):
    pictures = [
        np.asarray(tiles_of(pipe, 256, 128, **options)[1].image, dtype=int)
        for options in (
            {"tiling_mode": "never"},
            {"tiling_mode": "always"},
            *({"tiling_level": level} for level in ("stored", "mixed", "recomputed")),
            {"tiling_backend": "whole"},
        )
    ]
    for picture in pictures[1:]:
        assert abs(picture - pictures[0]).max() <= 1  # a value on the edge between two


# ----------------------------------------------------------------------------------------------------------- memory


@pytest.fixture(scope="module")
def needed():
    """An autoencoder, and the bytes that each level is predicted to take for it."""
    vae, needed = small_autoencoder(block_out_channels=(16, 32, 32, 32)), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dit360_core.sphere.vae.schedule.SMALLEST_WORK", 2**20)
        for name in ("stored", "mixed", "recomputed"):
            named = Exact(TilingSettings(mode="always", level=name))
            named.decode(vae, latents_of(512, 256))
            needed[name] = named.report["predicted_bytes"]
    return vae, needed


@pytest.mark.parametrize("level", ["stored", "mixed", "recomputed", None])
def test_the_fastest_level_is_taken_that_fits(monkeypatch, caplog, level, needed):
    """None: nothing fits, and the smallest is tried."""
    monkeypatch.setattr("dit360_core.sphere.vae.schedule.SMALLEST_WORK", 2**20)
    vae, needed = needed
    assert needed["stored"] > needed["mixed"] > needed["recomputed"]
    free = int(needed[level] / 0.8) + 1 if level else needed["recomputed"]
    monkeypatch.setattr("dit360_core.plugins.builtin.tiling_exact.room", lambda device, budget: free)
    tiling = Exact(TilingSettings(mode="always"))
    with caplog.at_level(logging.INFO, "dit360"):
        tiling.decode(vae, latents_of(512, 256))
    assert tiling.report["level"] == (level or "recomputed")
    assert f"level {level or 'recomputed'}, predicted to take" in caplog.text


class RunsOut(TorchFunctionMode):
    """An allocator that fails at a certain convolution: as torch's does, from inside the operator."""

    def __init__(self, times):
        super().__init__()
        self.times, self._calls = times, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.conv2d:
            self._calls += 1
            if self.times and self._calls % 10 == 0:
                self.times -= 1
                raise RuntimeError(
                    "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory"
                )
        return func(*args, **(kwargs or {}))


def test_out_of_memory_means_the_next_level_and_the_same_picture(pipe, caplog):
    latents = latents_of(256, 128)
    expected = pipe.decode(latents, tiling_mode="always", tiling_level="mixed")
    before = latents.clone()
    with RunsOut(2), caplog.at_level(logging.WARNING, "dit360"):
        panorama = pipe.decode(latents)
    used = panorama.settings["used"]["tiling"]
    assert (used["level"], used["out_of_memory"]) == ("mixed", ["whole", "stored"])
    difference = np.asarray(panorama.image, dtype=int) - np.asarray(expected.image, dtype=int)
    assert abs(difference).max() <= 1
    assert torch.equal(latents, before)
    assert "at level whole ran out of memory" in caplog.text
    assert "level stored is tried" in caplog.text


def test_out_of_memory_at_the_last_level_is_one_error_and_nothing_stays_alive():
    pipe = Pipeline.from_diffusers(random_flux())
    latents = latents_of(256, 128)
    pipe.decode(latents)
    with RunsOut(99), pytest.raises(OutOfMemory):  # down to the last rung of the pipeline's ladder, too
        pipe.decode(latents)
    gc.collect()
    before = live_bytes()
    gc.disable()  # the exception must not need the collector to let go
    try:
        with RunsOut(99), pytest.raises(OutOfMemory, match="decoding 256×128"):
            pipe.decode(latents)
        assert live_bytes() == before
    finally:
        gc.enable()
    assert pipe.decode(latents).size == (256, 128)


def live_bytes():
    found = {}
    for thing in gc.get_objects():
        # isinstance would ask lazy modules for their class; other kinds of tensors, as torch.compile leaves some of,
        # hold nothing.
        if type(thing) in (torch.Tensor, torch.nn.Parameter):
            storage = thing.untyped_storage()
            # It also leaves plain ones that are none: to ask those for the address of their data is an error.
            if storage.device.type != "meta" and not torch._is_functional_tensor(thing):
                found[storage._cdata] = storage.nbytes()
    return sum(found.values())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits address space, as Linux does")
def test_where_memory_really_runs_out_the_picture_is_made_nevertheless(tmp_path):
    """A process that may not have what one piece takes, and believes that it may: the allocator's own error."""
    done = python(
        textwrap.dedent(
            """
                import resource, torch
                from pathlib import Path
                import dit360_core.plugins.builtin.tiling_exact as exact
                from dit360_core.plugins.offers import TilingSettings
                from dit360_core.models.flux.small import small_autoencoder
                torch.set_num_threads(1)
                exact.room = lambda device, budget: 2**40
                exact.WHOLE_PIXELS_ON_CPU = 2**30
                vae = small_autoencoder(block_out_channels=(16, 32, 32, 32))
                latents = torch.randn(1, 16, 64, 128)
                exact.Exact(TilingSettings(level="stored")).decode(vae, latents[:, :, :8, :16])
                held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (held + 190 * 2**20,) * 2)
                tiling = exact.Exact(TilingSettings())
                pixels = tiling.decode(vae, latents)
                print(tuple(pixels.shape), tiling.report["level"], tiling.report["out_of_memory"])
                """
        ),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(1, 3, 512, 1024) stored ['whole']"), done.stdout


def test_free_memory_is_no_more_than_there_is():
    import psutil

    assert 0 < free_memory("cpu") <= psutil.virtual_memory().total


def test_a_control_group_limits_what_is_free(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("2500\n")
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 700\n")
    monkeypatch.setattr("dit360_core.system.memory._CONTROL_GROUP", tmp_path)
    assert free_memory("cpu") == 1200
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory("cpu") > 1200


# ---------------------------------------------------------------------------------------------------------- blended


def test_blended_tiles_are_as_many_as_told_and_overlap_by_at_most_half():
    vae, latents = small_autoencoder(), latents_of(512, 256)
    calls = []
    vae.decoder.register_forward_hook(lambda *_: calls.append(1))
    for size, overlap in ((128, 32), (192, 64), (4096, 1024)):
        calls.clear()
        tiling = Blended(TilingSettings(mode="always", tile_size=size, tile_overlap=overlap))
        tiling.decode(vae, latents)
        assert len(calls) == tiling.report["tiles"] > 1
        assert tiling.report["tile_overlap"] <= tiling.report["tile_size"] / 2


def test_blended_tiles_close_the_meridian(tiny):
    """By its error against the exact picture, at the meridian and on average; a plain decode shows what there is."""
    vae = tiny.engine.pipe.vae
    latents = tiny.sample(tiny.encode("a castle above a meadow at sunset"), seed=7, steps=8).tensor / 0.9
    exact = decode_whole(vae, latents)
    blended = Blended(TilingSettings(mode="always", tile_size=256, tile_overlap=64)).decode(vae, latents)
    with torch.no_grad():
        plain = vae.decode(latents, return_dict=False)[0]
    errors = {name: (made - exact).abs().mean((0, 1, 2)) for name, made in (("blended", blended), ("plain", plain))}
    at_meridian = {name: float((e[0] + e[-1]) / 2 / e.mean()) for name, e in errors.items()}
    assert at_meridian["plain"] > 4
    assert at_meridian["blended"] < 2


def test_blended_is_told_and_exact_is_what_auto_takes(pipe, caplog):
    assert tiles_of(pipe, 256, 128, tiling_mode="always")[1].settings["used"]["tiling"]["exact"] is True
    panorama = pipe.decode(latents_of(256, 128), tiling_mode="always", tiling_backend="blended")
    used = panorama.settings["used"]["tiling"]
    assert (used["used"], used["exact"]) == ("blended", False)


def test_blended_cuts_where_the_number_of_pixels_asks_for_it():
    tiling = Blended(TilingSettings(tile_size=1536, auto_tile_pixels=1000))
    tiling.decode(small_autoencoder(), latents_of(256, 128))
    assert tiling.report["tiles"] > 1


def strange_flux():
    """An autoencoder that nobody has taken apart: one parameter more than is understood."""
    flux = random_flux()
    flux.vae.decoder.mid_block.gate = torch.nn.Parameter(torch.ones(1))
    return flux


def test_what_cannot_be_taken_apart_is_decoded_in_one_piece_or_blended_with_a_warning(caplog):
    pipe = Pipeline.from_diffusers(strange_flux())
    used = pipe.decode(latents_of(128, 64)).settings["used"]["tiling"]
    assert used["used"] == "whole"
    assert "parameter mid_block.gate has no known use" in str(used["refused"])
    with caplog.at_level(logging.WARNING, "dit360"):
        used = pipe.decode(latents_of(128, 64), tiling_mode="always").settings["used"]["tiling"]
    assert (used["used"], used["exact"]) == ("blended", False)
    assert "tiling: blended" in caplog.text
    assert "changes the picture a little" in caplog.text
    with pytest.raises(dit360.BackendUnavailable, match=r"'exact' cannot be used here: .*has no known use"):
        pipe.decode(latents_of(128, 64), tiling_backend="exact")


def test_a_level_that_would_do_nothing_is_refused(pipe):
    for backend in ("whole", "blended"):
        with pytest.raises(dit360.BackendUnavailable, match=r"it has no levels.*use tiling_level=auto"):
            pipe.decode(latents_of(128, 64), tiling_backend=backend, tiling_level="mixed")
    with pytest.raises(dit360.BackendUnavailable, match="it has no levels"):
        Pipeline.from_diffusers(strange_flux()).decode(latents_of(128, 64), tiling_level="recomputed")
    for use in (pipe.decode, lambda x, **options: pipe.encode_image(Image.new("RGB", (64, 32)), **options)):
        with pytest.raises(dit360.InputError, match="offloaded moves tiles from a CUDA device"):
            use(latents_of(128, 64), tiling_level="offloaded")


def test_what_would_help_is_told_when_one_piece_does_not_fit():
    pipe = Pipeline.from_diffusers(random_flux())
    with RunsOut(99), pytest.raises(OutOfMemory, match="use tiling_mode=auto"):
        pipe.decode(latents_of(256, 128), tiling_mode="never")
    with RunsOut(99), pytest.raises(OutOfMemory, match="use tiling_level=auto"):
        pipe.decode(latents_of(256, 128), tiling_level="stored")


# --------------------------------------------------------------------------------------------- pictures to latents


def test_a_picture_is_encoded_as_in_one_piece_whatever_the_tiles(tiny):
    picture = tiny.generate("a calm sea", seed=1, width=256, steps=2)
    whole = tiny.encode_image(picture, tiling_mode="never").tensor
    tiled = tiny.encode_image(picture, tiling_mode="always", tile_size_override=64)
    assert (tiled.tensor - whole).abs().max() <= 5e-5 * whole.std()
    assert tiled.settings["encoded"]["tiles"] > 1
    rolled = tiny.encode_image(picture.roll(90), tiling_mode="always").tensor
    assert (rolled - whole.roll(8, -1)).abs().max() <= 5e-5 * whole.std() or (
        rolled - whole.roll(-8, -1)
    ).abs().max() <= 5e-5 * whole.std()


def test_encoding_and_decoding_a_picture_gives_it_back(tiny):
    picture = tiny.generate("a castle above a meadow at sunset", seed=1, width=256, steps=8)
    back = tiny.decode(tiny.encode_image(picture.image))
    error = (np.asarray(back.image, dtype=float) - np.asarray(picture.image, dtype=float)) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 30


@pytest.mark.parametrize(
    ("size", "why"), [((100, 50), "take 96×48"), ((64, 64), "twice as wide as high"), ((24, 12), "multiples of 16")]
)
def test_pictures_of_other_sizes_are_refused(tiny, size, why):
    with pytest.raises(dit360.InputError, match=why):
        tiny.encode_image(Image.new("RGB", size))


# --------------------------------------------------------------------------------------------------------- previews


def test_taps_see_the_picture_form_and_previews_show_it(tiny):
    seen = []
    final = tiny.generate(
        "a castle above a meadow at sunset", seed=7, steps=8, tap=lambda done, steps, x: seen.append((done, steps, x))
    )
    assert [(done, steps) for done, steps, _ in seen] == [(i, 8) for i in range(1, 9)]
    # The last step takes all the noise away, so the last tap is the picture itself.
    assert tiny.decode(seen[-1][2]).image.tobytes() == final.image.tobytes()
    small = np.asarray(final.image, dtype=float).reshape(32, 8, 64, 8, 3).mean((1, 3))
    errors = []
    for _, _, latents in seen:
        shown = tiny.preview(latents, scale=1)
        assert shown.size == (64, 32)
        errors.append(((np.asarray(shown.image, dtype=float) - small) ** 2).mean())
    assert 10 * np.log10(255**2 / errors[-1]) > 30
    assert errors[-1] < errors[3] < errors[0]


def test_a_tap_may_decode_and_its_exceptions_are_its_own(tiny, monkeypatch):
    released = []
    monkeypatch.setattr(type(tiny.engine), "release", lambda engine: released.append(len(engine.stages)))

    def decode(done, steps, latents):
        tiny.decode(latents)
        tiny.preview(latents)
        assert not released[1:]  # after reading the prompt: not while sampling

    tiny.generate("a calm sea", width=64, steps=2, tap=decode)
    assert released == [0, 0, 0]

    def fail(done, steps, latents):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        tiny.generate("a calm sea", width=64, steps=2, tap=fail)


def test_a_preview_wraps(tiny):
    latents = torch.randn(1, 32, 8, 16, generator=torch.Generator().manual_seed(2))
    straight = np.asarray(tiny.preview(latents).image)
    assert straight.shape == (64, 128, 3)
    assert np.array_equal(np.asarray(tiny.preview(latents.roll(5, -1)).image), np.roll(straight, 40, axis=1))


def test_flux_has_its_own_known_preview_factors():
    from dit360_core.models.flux.latents import latent_to_rgb

    flux = small_autoencoder(scaling_factor=0.3611, shift_factor=0.1159)
    other = small_autoencoder(scaling_factor=0.3611, shift_factor=0.2)
    assert latent_to_rgb(flux).shape == latent_to_rgb(other).shape == (17, 3)
    assert latent_to_rgb(flux)[0].tolist() == pytest.approx([-0.0346, 0.0244, 0.0681])


@pytest.mark.parametrize("scale", [0, 9, 2.5, 8.0])
def test_a_preview_has_a_sensible_scale(tiny, scale):
    with pytest.raises(dit360.InputError, match="scale"):
        tiny.preview(torch.zeros(1, 32, 2, 4), scale=scale)


def test_latents_of_another_model_are_refused(tiny):
    for use in (tiny.preview, tiny.decode):
        with pytest.raises(dit360.InputError, match=r"latents has the shape \(1, 4, 2, 4\)"):
            use(torch.zeros(1, 4, 2, 4))


# --------------------------------------------------------------------------------------------------------- a plugin's


class Reporting:
    """One piece, and a report."""

    def __init__(self, report):
        self.report = report

    def decode(self, vae, latents):
        return decode_whole(vae, latents)


class Unreadable:
    def keys(self):
        raise BaseException("as pyo3 does")


@pytest.mark.parametrize(
    ("report", "told"),
    [
        ({"gain": float("nan")}, "not JSON compliant"),
        ({"worst": [1.0, float("-inf")]}, "not JSON compliant"),
        ({f"tile {i}": i for i in range(20_000)}, "and 4000 are allowed"),
        (42, "not iterable"),
        (Unreadable(), "as pyo3 does"),
    ],
    ids=["nan", "infinite", "huge", "number", "raises"],
)
def test_a_report_that_is_none_is_left_out_and_told_and_the_picture_is_kept(caplog, report, told):
    plugin = offering(tiling("talks", lambda settings: Reporting(report), exact=False, priority=-1))
    pipe = Pipeline.from_diffusers(random_flux(), registry=Registry(entry_points=installed("kit", plugin)))
    used = pipe.decode(latents_of(128, 64), tiling_backend="talks").settings["used"]["tiling"]
    assert (used["used"], used["exact"]) == ("talks", False)
    assert "tile 1" not in used
    assert "What the tiling talks (kit 1.0) reports is left out of the metadata" in caplog.text
    assert told in caplog.text


def test_a_report_of_plain_data_is_kept():
    plugin = offering(tiling("talks", lambda settings: Reporting({"tiles": 3, "sizes": [(1, 2)]}), priority=-1))
    pipe = Pipeline.from_diffusers(random_flux(), registry=Registry(entry_points=installed("kit", plugin)))
    used = pipe.decode(latents_of(128, 64), tiling_backend="talks").settings["used"]["tiling"]
    assert (used["tiles"], used["sizes"]) == (3, [[1, 2]])
