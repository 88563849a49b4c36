"""The circular autoencoder: no seam by construction, both ways, and the original is left alone."""

import copy

import pytest
import torch
from dit360_core.errors import ModelError
from dit360_core.sphere.vae import circular_twin, decode_whole, encode_whole
from random_models import random_flux


@pytest.fixture(scope="module")
def vae():
    return random_flux().vae


@pytest.mark.parametrize("columns", [1, 3, 7])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_rolling_latents_rolls_the_decoded_picture(vae, columns, dtype, bound):
    vae = copy.deepcopy(vae).to(dtype)
    latents = torch.randn(2, 16, 6, 12, dtype=dtype, generator=torch.Generator().manual_seed(0))
    rolled = decode_whole(vae, latents.roll(columns, -1))
    assert (rolled - decode_whole(vae, latents).roll(8 * columns, -1)).abs().max() <= bound


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_rolling_pixels_rolls_the_encoded_latents(vae, dtype, bound):
    vae = copy.deepcopy(vae).to(dtype)
    pixels = torch.randn(1, 3, 48, 96, dtype=dtype, generator=torch.Generator().manual_seed(0))
    rolled = encode_whole(vae, pixels.roll(24, -1))
    assert (rolled - encode_whole(vae, pixels).roll(3, -1)).abs().max() <= bound


def test_the_plain_decode_does_not_have_that_property(vae):
    """Otherwise the two tests above would prove nothing."""
    latents = torch.randn(1, 16, 6, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = vae.decode(latents, return_dict=False)[0]
        rolled = vae.decode(latents.roll(3, -1), return_dict=False)[0]
    assert (rolled - plain.roll(24, -1)).abs().max() > 0.1


def test_away_from_the_seam_a_wide_wrapped_decode_agrees(vae):
    """Three copies side by side, decoded plainly: the middle copy sees wrapped neighbours on both sides.

    Only the mid-block's attention and the group norms see the whole width; over a periodic picture they see the same
    keys three times and the same moments but for the outer edges, so the middles agree closely though not exactly.
    """
    latents = torch.randn(1, 16, 6, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wide = vae.decode(latents.repeat(1, 1, 1, 3), return_dict=False)[0]
    middle = wide[..., 24 * 8 : 2 * 24 * 8]
    ours = decode_whole(vae, latents)
    assert (middle - ours).abs().mean() < 0.03 * ours.std()


def test_the_original_autoencoder_is_untouched_and_its_weights_are_shared(vae):
    latents = torch.randn(1, 16, 4, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = vae.decode(latents, return_dict=False)[0]
        twin = circular_twin(vae)
        after = vae.decode(latents, return_dict=False)[0]
    assert torch.equal(before, after)
    assert all(a is b for a, b in zip(vae.parameters(), twin.parameters(), strict=True))
    assert list(vae.state_dict()) == list(twin.state_dict())


def test_a_picture_narrower_than_a_margin_still_wraps(vae):
    latents = torch.randn(1, 16, 2, 1, generator=torch.Generator().manual_seed(0))
    assert decode_whole(vae, latents).shape == (1, 3, 16, 8)


def test_layers_that_cannot_be_wrapped_are_refused():
    with pytest.raises(ModelError, match="ConvTranspose2d"):
        circular_twin(torch.nn.Sequential(torch.nn.ConvTranspose2d(3, 3, 4, 2, 1)))
    with pytest.raises(ModelError, match="reflect"):
        circular_twin(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")))


def test_offloading_hooks_do_not_bring_the_seam_back():
    """The hooks sit on every module, and the twin is a copy of the modules."""
    pipe, latents = random_flux(), torch.randn(1, 16, 6, 12, generator=torch.Generator().manual_seed(0))
    expected = decode_whole(pipe.vae, latents)
    pipe.enable_model_cpu_offload(device="cpu")
    # The hooks of a pipeline's parts are chained: a copied one would copy the transformer with it.
    assert circular_twin(pipe.vae)._hf_hook is pipe.vae._hf_hook
    for _ in range(2):
        assert torch.allclose(decode_whole(pipe.vae, latents), expected, atol=1e-6)
        pipe.maybe_free_model_hooks()


def test_tiling_switched_on_in_diffusers_does_not_wrap_each_tile(vae):
    latents = torch.randn(1, 16, 6, 12, generator=torch.Generator().manual_seed(0))
    tiled = copy.deepcopy(vae)
    tiled.enable_tiling()
    tiled.tile_latent_min_size, tiled.tile_sample_min_size = 4, 32
    assert torch.equal(decode_whole(tiled, latents), decode_whole(vae, latents))
    assert tiled.use_tiling
