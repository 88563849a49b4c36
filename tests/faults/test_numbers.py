"""Numbers that are none, from weights that are none: told where they arise, and never a black picture."""

import logging
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from dit360_core.errors import Dit360Error, InputError
from dit360_core.pipeline.pipeline import Pipeline
from random_models import random_conditioning, random_flux

from bench.soak import live_bytes

SIZE = {"width": 128, "steps": 3, "seed": 1}
MIB = 2**20


@contextmanager
def nan_in(tensor):
    """Weights as they are after an overflow in fp16."""
    before = tensor.data.clone()
    tensor.data.fill_(float("nan"))
    try:
        yield
    finally:
        tensor.data.copy_(before)


@pytest.fixture(scope="module")
def pipe():
    return Pipeline.from_diffusers(random_flux())


@pytest.fixture(scope="module")
def latents(pipe):
    return pipe.sample(random_conditioning(), **SIZE)


@pytest.mark.parametrize("encoder", ["text_encoder", "text_encoder_2"])
def test_nan_from_a_text_encoder_is_told_as_its_and_is_not_remembered(tiny, encoder):
    last = {"text_encoder": "final_layer_norm", "text_encoder_2": "final_layer_norm"}[encoder]
    module = getattr(tiny.engine.pipe, encoder)
    norm = next(part for name, part in module.named_modules() if name.endswith(last))
    before = tiny.encode("a castle")
    with (
        nan_in(norm.weight),
        pytest.raises(Dit360Error, match=r"text encoders produced numbers that are not finite in"),
    ):
        tiny.generate("a castle", **SIZE)
    assert tiny.encode("a castle").positive.tokens.equal(before.positive.tokens)


@pytest.mark.parametrize("mode", ["never", "always"])
def test_nan_from_the_autoencoder_is_told_and_the_next_picture_is_right(pipe, latents, mode):
    right, vae = pipe.decode(latents, tiling_mode=mode), pipe.engine.pipe.vae
    held = live_bytes()
    with nan_in(vae.decoder.conv_out.bias), pytest.raises(Dit360Error, match="autoencoder produced numbers") as told:
        pipe.decode(latents, tiling_mode=mode)
    assert str(told.value).endswith("in torch.float32; use precision bf16 or fp32.")
    assert live_bytes() <= held + MIB / 16
    assert pipe.decode(latents, tiling_mode=mode).image.tobytes() == right.image.tobytes()


def test_nan_from_the_encoder_of_pictures_is_told_there_and_not_by_who_would_use_it(pipe, latents):
    picture, vae = pipe.decode(latents), pipe.engine.pipe.vae
    with nan_in(vae.encoder.conv_out.bias), pytest.raises(Dit360Error, match="autoencoder produced numbers"):
        pipe.encode_image(picture)


def test_nan_from_the_transformer_is_told_with_all_that_may_be_the_cause(pipe, latents):
    with (
        nan_in(pipe.engine.denoiser.proj_out.bias),
        pytest.raises(
            Dit360Error, match=r"Sampling produced numbers that are not finite \(flow_match, sdpa, fp32\); try"
        ),
    ):
        pipe.sample(random_conditioning(), **SIZE)
    assert pipe.sample(random_conditioning(), **SIZE).tensor.equal(latents.tensor)


def test_a_tap_is_never_shown_what_is_no_picture(pipe):
    seen = []
    with nan_in(pipe.engine.denoiser.proj_out.bias), pytest.raises(Dit360Error, match="Sampling produced numbers"):
        pipe.sample(random_conditioning(), tap=lambda done, steps, shown: seen.append(pipe.preview(shown)), **SIZE)
    assert seen == []


@pytest.mark.parametrize("use", ["decode", "preview", "decode_pixels"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_no_numbers_are_refused_by_whoever_would_show_them(pipe, latents, use, value):
    broken = latents.tensor.clone()
    broken[0, 3, 2, 1] = value
    with pytest.raises(InputError, match="latents holds numbers that are not finite"):
        getattr(pipe, use)(broken)


def test_pixels_that_are_no_numbers_are_refused_before_they_are_encoded(pipe):
    with pytest.raises(InputError, match="picture holds numbers that are not finite"):
        pipe.encode_image(torch.full((1, 3, 64, 128), float("nan")))


def test_one_latent_without_a_number_is_found_among_all(pipe, caplog):
    """A single one is enough for a black picture, since the norms of the autoencoder spread it."""
    noise = torch.randn(1, 16, 8, 16, generator=torch.Generator().manual_seed(0))
    noise[0, 0, 0, 0] = float("nan")
    with caplog.at_level(logging.WARNING), pytest.raises(Dit360Error, match="not finite"):
        pipe.sample(random_conditioning(), latents=noise, **SIZE)
    assert np.isfinite(pipe.sample(random_conditioning(), **SIZE).tensor.numpy()).all()
