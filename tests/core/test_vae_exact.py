"""Exact tiles give the picture of one piece, whatever the level, the tiles, the size and the autoencoder."""

import itertools

import pytest
import torch
from dit360_core.models.flux.small import small_autoencoder
from dit360_core.sphere.vae import (
    LEVELS,
    CannotTakeApart,
    decode_exact,
    decode_whole,
    decoder_steps,
    encode_exact,
    encode_whole,
    encoder_steps,
    make_schedule,
)
from dit360_core.testing.storage import PeakStorage
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import random_flux

SIZES = [(5, 7), (1, 9), (4, 1), (2, 12)]
TILES = [12, 24, 4096]


@pytest.fixture(scope="module")
def vae():
    return small_autoencoder(torch.float64)


def noise(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)


def decoded(vae, latents, level="recomputed", tile=24, at_least_two=True):
    height, width = latents.shape[2:]
    schedule = make_schedule(
        decoder_steps(vae), height, width, latents.element_size(), level, tile_size=tile, at_least_two=at_least_two
    )
    return decode_exact(vae, latents, schedule)


def encoded(vae, pixels, level="recomputed", tile=24, at_least_two=True):
    height, width = pixels.shape[2:]
    schedule = make_schedule(
        encoder_steps(vae), height, width, pixels.element_size(), level, tile_size=tile, at_least_two=at_least_two
    )
    return encode_exact(vae, pixels, schedule)


def off(made, expected):
    return float((made.double() - expected.double()).abs().max() / expected.double().std())


@pytest.mark.parametrize(("size", "tile"), list(itertools.product(SIZES, TILES)))
def test_every_level_and_tile_decodes_as_one_piece(vae, size, tile):
    latents = noise(2, 16, *size)
    expected = decode_whole(vae, latents)
    for level in LEVELS:
        made, tiles = decoded(vae, latents, level, tile)
        assert off(made, expected) <= 1e-11
        assert tiles > 1


@pytest.mark.parametrize(("size", "tile"), list(itertools.product([(5, 7), (1, 4), (3, 1)], TILES)))
def test_every_level_and_tile_encodes_as_one_piece(vae, size, tile):
    pixels = noise(2, 3, 8 * size[0], 8 * size[1])
    expected = encode_whole(vae, pixels)
    for level in LEVELS:
        made, tiles = encoded(vae, pixels, level, tile)
        assert off(made, expected) <= 1e-11
        assert tiles > 1


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 6),
    width=st.integers(2, 9),
    tile=st.integers(4, 80),
    level=st.sampled_from(LEVELS),
    widths=st.tuples(*[st.sampled_from((4, 8, 12))] * 3),
    layers=st.integers(1, 2),
    convs=st.booleans(),
    attention=st.booleans(),
)
def test_any_shape_of_picture_tile_and_autoencoder(height, width, tile, level, widths, layers, convs, attention):
    vae = small_autoencoder(
        torch.float64,
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=layers,
        latent_channels=5,
        use_quant_conv=convs,
        use_post_quant_conv=convs,
        mid_block_add_attention=attention,
    )
    latents = noise(1, 5, height, width)
    assert off(decoded(vae, latents, level, tile, at_least_two=False)[0], decode_whole(vae, latents)) <= 1e-11
    pixels = noise(1, 3, 4 * height, 4 * width)
    expected = encode_whole(vae, pixels)
    made, _ = encoded(vae, pixels, level, tile, at_least_two=False)
    assert float((made - expected).abs().max()) <= 1e-11 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("level", LEVELS)
def test_rolling_latents_rolls_the_picture(vae, level):
    latents = noise(1, 16, 6, 10)
    expected = decoded(vae, latents, level)[0].roll(8 * 3, -1)
    assert off(decoded(vae, latents.roll(3, -1), level)[0], expected) <= 1e-11
    pixels = noise(1, 3, 48, 80)
    expected = encoded(vae, pixels, level)[0].roll(2, -1)
    assert off(encoded(vae, pixels.roll(16, -1), level)[0], expected) <= 1e-11


@pytest.mark.parametrize("level", LEVELS)
def test_float32_is_as_one_piece_within_rounding(level):
    vae, latents, pixels = small_autoencoder(), noise(1, 16, 9, 14).float(), noise(1, 3, 72, 112).float()
    assert off(decoded(vae, latents, level)[0], decode_whole(vae, latents)) <= 5e-5
    assert off(encoded(vae, pixels, level)[0], encode_whole(vae, pixels)) <= 5e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("level", ["stored", "recomputed"])
def test_half_precision_is_no_worse_than_in_one_piece(dtype, level):
    """Against float32: the error of one piece in the same precision is the yardstick, at its worst and on average."""
    exact, half = small_autoencoder(), small_autoencoder(dtype)
    latents, pixels = noise(1, 16, 8, 14).to(dtype), noise(1, 3, 64, 112).to(dtype)
    pairs = [
        (decoded(half, latents, level)[0], decode_whole(half, latents), decode_whole(exact, latents.float())),
        (encoded(half, pixels, level)[0], encode_whole(half, pixels), encode_whole(exact, pixels.float())),
    ]
    for ours, whole, truth in pairs:
        assert ours.dtype == dtype
        assert off(ours, truth) <= 1.5 * off(whole, truth)
        assert (ours.float() - truth).pow(2).mean() <= 1.5**2 * (whole.float() - truth).pow(2).mean()


def test_large_means_do_not_spoil_the_moments():
    """Means a thousand times the spread: sums of squares would lose all digits in float32."""
    vae = small_autoencoder()
    with torch.no_grad():
        vae.decoder.conv_in.bias += 1000.0
    latents = noise(1, 16, 8, 12).float()
    truth = decode_whole(small_autoencoder_like(vae), latents.double())
    assert off(decoded(vae, latents)[0], truth) <= 2 * off(decode_whole(vae, latents), truth) + 5e-5


def small_autoencoder_like(vae):
    wide = small_autoencoder(torch.float64)
    wide.load_state_dict(vae.double().state_dict())
    vae.float()
    return wide


# ------------------------------------------------------------------------------------------------------- structure


def test_another_kind_of_autoencoder_is_not_taken_apart():
    with pytest.raises(CannotTakeApart, match="a Sequential is none of AutoencoderKL, "):
        decoder_steps(torch.nn.Sequential())


def change_activation(vae):
    vae.decoder.up_blocks[0].resnets[0].nonlinearity = torch.nn.Softmax(dim=1)


def add_parameter(vae):
    vae.decoder.mid_block.gate = torch.nn.Parameter(torch.ones(1))


def strange_convolution(vae):
    vae.decoder.conv_out = torch.nn.Conv2d(8, 3, 5, padding=2)


def padded_otherwise(vae):
    vae.decoder.conv_in.padding_mode = "reflect"


def normalized_otherwise(vae):
    vae.decoder.conv_norm_out = torch.nn.BatchNorm2d(8)


def attends_otherwise(vae):
    vae.decoder.mid_block.attentions[0].norm_q = torch.nn.LayerNorm(16)


def hooked(vae):
    vae.decoder.conv_out.register_forward_hook(lambda *_: None)


def cast_layer_by_layer(vae):
    vae.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


def another_block(vae):
    vae.decoder.up_blocks[0] = torch.nn.Identity()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (change_activation, "activation is a Softmax"),
        (add_parameter, "parameter mid_block.gate has no known use"),
        (strange_convolution, "not a plain 3×3 or 1×1"),
        (padded_otherwise, "not a plain 3×3 or 1×1"),
        (normalized_otherwise, "normalizes by BatchNorm2d"),
        (attends_otherwise, "attention is not the plain one"),
        (hooked, "Conv2d has hooks"),
        (cast_layer_by_layer, "has hooks, which would not run"),
        (another_block, "Identity where a UpDecoderBlock2D"),
    ],
)
def test_what_is_not_understood_is_refused(change, why):
    vae = small_autoencoder()
    change(vae)
    with pytest.raises(CannotTakeApart, match=why):
        decoder_steps(vae)


def test_offloading_hooks_are_run_though_the_modules_are_not_called():
    """Of whole parts; accelerate offloads single layers only to an accelerator (tests/gpu)."""
    pipe, latents = random_flux(), noise(1, 16, 5, 9).float()
    expected = decode_whole(pipe.vae, latents)
    pipe.enable_model_cpu_offload(device="cpu")
    called, bring = [], pipe.vae._hf_hook.pre_forward
    pipe.vae._hf_hook.pre_forward = lambda module: called.append(module) or bring(module)
    for _ in range(2):
        assert off(decoded(pipe.vae, latents)[0], expected) <= 5e-5
        assert called == [pipe.vae]
        pipe.maybe_free_model_hooks()  # which makes new hooks


# -------------------------------------------------------------------------------------------------------- schedules


@pytest.fixture(scope="module")
def flux_shaped():
    with torch.device("meta"):
        return small_autoencoder(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, norm_num_groups=32, sample_size=1024
        )


@pytest.mark.parametrize(("level", "channels"), [("stored", 256), ("mixed", 192), ("recomputed", 128)])
@pytest.mark.parametrize("size", [(64, 128), (128, 256), (512, 1024)])
def test_flux_keeps_so_many_channels_of_the_full_picture_at_any_size(flux_shaped, level, channels, size):
    """diffusers keeps 768."""
    schedule = make_schedule(decoder_steps(flux_shaped), *size, 2, level, tile_size=1536)
    assert schedule.kept_bytes == channels * 64 * size[0] * size[1] * 2


def test_a_smaller_level_computes_more(flux_shaped):
    made = [make_schedule(decoder_steps(flux_shaped), 128, 256, 4, level, tile_size=1536) for level in LEVELS[:3]]
    work = [schedule.multiplications for schedule in made]
    assert work[0] < work[1] < work[2] < 1.4 * work[0]


@pytest.mark.parametrize("level", ["stored", "mixed", "recomputed"])
@pytest.mark.parametrize("encoding", [False, True])
def test_what_is_predicted_is_what_tensors_take(level, encoding, monkeypatch):
    """Storages counted one by one; the prediction adds what an allocator loses, so it is larger, but not by much."""
    monkeypatch.setattr("dit360_core.sphere.vae.schedule.SMALLEST_WORK", 2**19)
    vae = small_autoencoder(block_out_channels=(24, 32, 48, 48))
    sample = noise(1, 3, 192, 384).float() if encoding else noise(1, 16, 24, 48).float()
    steps = encoder_steps(vae) if encoding else decoder_steps(vae)
    schedule = make_schedule(steps, *sample.shape[2:], 4, level, tile_size=4096)
    run = encode_exact if encoding else decode_exact
    with torch.no_grad(), PeakStorage(sample, *vae.parameters()) as storage:
        run(vae, sample, schedule)
    assert 0.6 * schedule.peak_bytes <= storage.peak <= schedule.peak_bytes


def test_offloaded_keeps_nothing_on_the_device(flux_shaped):
    stored, offloaded = (
        make_schedule(decoder_steps(flux_shaped), 512, 1024, 2, level, tile_size=1536)
        for level in ("stored", "offloaded")
    )
    assert stored.kept_bytes == offloaded.kept_bytes
    assert offloaded.peak_bytes < 0.2 * stored.peak_bytes
