"""The computed encoder is a linear code of 8x8 patches that wraps; the decoder starts from right colours."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL

from training import linear_decoder
from training.autoencoder import build, psnr
from training.linear_encoder import as_convolution, gains, initialize
from training.render import render
from training.scenes import draw


@pytest.fixture(scope="module")
def made() -> tuple[AutoencoderKL, torch.Tensor]:
    pictures = render([draw(seed) for seed in range(6)], 64, 128, supersample=1) * 2 - 1
    return initialize(build(), [pictures]).eval(), pictures


def test_the_network_equals_one_convolution(made: tuple[AutoencoderKL, torch.Tensor]) -> None:
    vae, pictures = made
    with torch.no_grad():
        deep = vae.encode(pictures).latent_dist.mode()
    kernel, bias = as_convolution(vae)
    flat = torch.nn.functional.conv2d(pictures, kernel, bias, stride=8)
    assert (deep - flat).abs().max() < 0.03 * flat.abs().max()


def test_a_gain_is_what_a_latent_changes_in_a_picture(made: tuple[AutoencoderKL, torch.Tensor]) -> None:
    """By the best linear decoder, which the pseudo-inverse of the encoder's one convolution is."""
    vae, _ = made
    kernel, _ = as_convolution(vae)
    back = torch.linalg.pinv(kernel.flatten(1).double())  # (3·8·8, latents)
    found, known = back.square().sum(0), gains(vae).double()
    assert torch.allclose(found / found[0], known / known[0], rtol=0.05)
    assert known[0] > 10 * known[-1]


def test_turning_the_picture_turns_the_latents(made: tuple[AutoencoderKL, torch.Tensor]) -> None:
    vae, pictures = made
    with torch.no_grad():
        a = vae.encode(pictures[:2].roll(16, -1)).latent_dist.mode()
        b = vae.encode(pictures[:2]).latent_dist.mode().roll(2, -1)
        c = vae.decode(b).sample
        d = vae.decode(b.roll(-2, -1)).sample.roll(16, -1)
    assert torch.allclose(a, b, atol=1e-4)
    assert torch.allclose(c, d, atol=1e-4)


def test_the_decoder_has_the_right_colours_before_any_training(made: tuple[AutoencoderKL, torch.Tensor]) -> None:
    vae, pictures = made
    blank = psnr(vae, pictures).mean()
    linear_decoder.initialize(vae, [pictures])
    assert psnr(vae, pictures).mean() > max(25, blank + 10)
    with torch.no_grad():
        decoded = vae.decode(vae.encode(pictures).latent_dist.mode()).sample
    assert (decoded.mean((2, 3)) - pictures.mean((2, 3))).abs().max() < 0.05
