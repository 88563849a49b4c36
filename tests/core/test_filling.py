"""Models that fill a part of a picture: against diffusers' own FluxFillPipeline, and what they must be shown."""

import attrs
import dit360_core as dit360
import pytest
import torch
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.pipeline.stages import Latents, Shown
from dit360_core.sphere.grid import Grid, rotation
from random_models import random_conditioning, random_flux

WIDTH, HEIGHT, STEPS = 128, 64, 3
SIZE = {"width": WIDTH, "height": HEIGHT, "steps": STEPS}
PIXELS = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2))
MASK = torch.zeros(1, 1, HEIGHT, WIDTH)
MASK[..., 9:51, 37:90] = 1
"""Its borders lie inside of latents and tokens."""


def sure(pipe):
    """The pipeline, whose autoencoder has no doubt: FluxFillPipeline draws from what it says of a picture."""
    out = pipe.vae.encoder.conv_out
    with torch.no_grad():
        out.weight[16:], out.bias[16:] = 0, -60
    return pipe


@pytest.fixture(scope="module")
def filling():
    """In fp32."""
    return Pipeline.from_diffusers(sure(random_flux(fills=True)))


@pytest.fixture(scope="module")
def exactly():
    """In fp64."""
    return Pipeline.from_diffusers(random_flux(torch.float64, fills=True))


def shown(columns=0, dtype=torch.float64):
    """A picture and its mask, rolled to the left by latent columns."""
    latents = torch.randn(1, 16, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(3), dtype=dtype)
    return Shown(masked=Latents(tensor=latents.roll(-columns, -1)), mask=MASK.roll(-8 * columns, -1))


@torch.no_grad()
def test_without_padding_we_are_diffusers(filling):
    """The picture and the mask as they are given to either: mask polarity, order, scale and steps."""
    conditioning, theirs = random_conditioning(), sure(random_flux(fills=True))
    packed = theirs(
        image=PIXELS,
        mask_image=MASK,
        prompt_embeds=conditioning.positive.tokens,
        pooled_prompt_embeds=conditioning.positive.pooled,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=STEPS,
        guidance_scale=30.0,
        generator=torch.Generator().manual_seed(5),
        latents=filling.engine.pack(noise := filling.engine.noise(Grid.of_picture(WIDTH, HEIGHT), torch.Generator())),
        output_type="latent",
    ).images
    expected = theirs._unpack_latents(packed, HEIGHT, WIDTH, 8)
    # Their autoencoder does not wrap, so that what it makes of the picture is taken.
    masked = filling.engine.from_stored(theirs.vae.encode((PIXELS * 2 - 1) * (1 - MASK)).latent_dist.mode())
    ours = filling.sample(
        conditioning,
        shown=Shown(masked=Latents(tensor=masked), mask=MASK),
        latents=noise,
        guidance=30.0,
        circular_padding=0,
        steps=STEPS,
    )
    assert (ours.tensor - expected).abs().max() <= 1e-5
    other = filling.sample(
        conditioning,
        shown=Shown(masked=Latents(tensor=masked), mask=1 - MASK),
        latents=noise,
        guidance=30.0,
        circular_padding=0,
        steps=STEPS,
    )
    assert (other.tensor - expected).abs().max() > 1e-3


@torch.no_grad()
def test_a_hole_is_grey(filling):
    made = filling.encode_hole(PIXELS, 0.6 * MASK)
    assert torch.equal(made.mask, MASK)
    grey = filling.encode_image(torch.where(MASK > 0, 0.5, PIXELS))
    assert torch.equal(made.masked.tensor, grey.tensor)


def watched(pipeline, **options):
    """The transformer's input in each evaluation of a picture."""
    seen = []
    hook = pipeline.engine.denoiser.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["hidden_states"]), with_kwargs=True
    )
    try:
        pipeline.sample(random_conditioning(torch.float64), shown=shown(), seed=0, **options, **SIZE)
    finally:
        hook.remove()
    return seen


@pytest.mark.parametrize("padding", [1, 3])
def test_pads_wrap_all_channels(exactly, padding):
    grid, real = Grid.of_picture(WIDTH, HEIGHT, padding), Grid.of_picture(WIDTH, HEIGHT)
    beside = exactly.engine.beside(shown().masked.tensor, MASK)
    assert beside.shape == (1, real.tokens, 64 + 256)
    for tokens in watched(exactly, circular_padding=padding):
        assert torch.equal(tokens[:, grid.crop_index()][:, grid.pad_index()], tokens)
        assert torch.equal(tokens[:, grid.crop_index(), 64:], beside)


def test_what_is_shown_turns_with_the_noise_and_is_seen_from_behind(exactly):
    """The picture and the pixels of its mask, rolled themselves, in every step and in both views."""
    columns = WIDTH // 8
    seen = watched(exactly, circular_padding=0, latent_rotation=True, yaw_consistency=0.5)
    angles = [rotation(i, columns) for i in range(STEPS)]
    assert len(set(angles)) == STEPS
    for tokens, columns_turned in zip(
        seen, [turned for angle in angles for turned in (angle, (angle + columns // 2) % columns)], strict=True
    ):
        rolled = shown(columns_turned)
        assert torch.equal(tokens[..., 64:], exactly.engine.beside(rolled.masked.tensor, rolled.mask))


def test_a_bias_on_the_keys_is_padding(exactly):
    padded, biased = (
        exactly.sample(random_conditioning(torch.float64), shown=shown(), seed=0, circular_mode=mode, **SIZE)
        for mode in ("pad", "bias")
    )
    assert (biased.tensor - padded.tensor).abs().max() <= 1e-10


WRONG = {
    "nothing": (lambda: None, "This model fills a part of a picture, and none is given; give image and mask, or a"),
    "a small picture": (
        lambda: attrs.evolve(shown(), masked=Latents(tensor=torch.zeros(1, 16, 4, 8))),
        r"The picture that is shown has the shape \(1, 16, 4, 8\), but 128×64 pixels need \(1, 16, 8, 16\)",
    ),
    "a mask of latents": (
        lambda: attrs.evolve(shown(), mask=torch.zeros(1, 1, 8, 16)), r"need \(1, 1, 64, 128\)"
    ),
    "a soft mask": (lambda: attrs.evolve(shown(), mask=0.5 * MASK), "holds other numbers than 0 and 1"),
    "no numbers": (
        lambda: attrs.evolve(shown(), masked=Latents(tensor=torch.full((1, 16, 8, 16), float("nan")))),
        "picture that is shown holds numbers that are not finite",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_shown_is_one_sentence(filling, name):
    make, sentence = WRONG[name]
    with pytest.raises(dit360.InputError, match=sentence):
        filling.sample(random_conditioning(), shown=make(), **SIZE)


def test_a_model_that_does_not_fill_is_shown_nothing():
    with pytest.raises(dit360.InputError, match="shown is for models that fill"):
        Pipeline.from_diffusers(random_flux()).sample(random_conditioning(), shown=shown(), **SIZE)


def test_a_hole_has_the_size_of_its_picture(filling):
    with pytest.raises(dit360.InputError, match=r"The mask has the shape .* must be"):
        filling.encode_hole(PIXELS, MASK[..., 1:])
