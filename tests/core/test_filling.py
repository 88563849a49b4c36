"""Models that fill a part of a picture: against diffusers' own FluxFillPipeline, and what they must be shown."""

import json
import logging
import shutil
from pathlib import Path

import attrs
import dit360_core as dit360
import numpy as np
import pytest
import torch
from dit360_core.batching.items import Item
from dit360_core.batching.painting import Painter
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions
from dit360_core.pipeline.loading import prepare
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.pipeline.stages import Latents, Shown
from dit360_core.planning.forecast import subject_of
from dit360_core.plugins.registry import default_registry
from dit360_core.sphere.grid import Grid, rotation
from PIL import Image
from random_models import random_conditioning, random_flux
from safetensors.torch import load_file, save_file
from torch.nn.functional import pad

WIDTH, HEIGHT, STEPS = 128, 64, 3
ASKED = SampleOptions(prompt="a castle", width=128, steps=2)
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
    with pytest.raises(
        dit360.InputError, match=r"The mask has the shape \(1, 1, 64, 127\), but must be \(1, 1, 64, 128\)"
    ):
        filling.encode_hole(PIXELS, MASK[..., 1:])


# ------------------------------------------------------------------------------------------------- a folder that fills


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    """The embedded model, whose transformer is given a picture and its mask too, and takes no notice of them."""
    made = Path(shutil.copytree(tiny_folder, tmp_path_factory.mktemp("fill") / "model"))
    changed(made / "model_index.json", _class_name="FluxFillPipeline")
    changed(made / "transformer" / "config.json", in_channels=512, out_channels=128)
    file = made / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["x_embedder.weight"] = pad(tensors["x_embedder.weight"], (0, 384))
    save_file(tensors, file)
    return made


def changed(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """Of the kind that people train for FLUX.1-dev, with a layer that is wider in FLUX.1-Fill."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    file = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    save_file(
        {
            "transformer.x_embedder.lora_A.weight": random(2, 128),
            "transformer.x_embedder.lora_B.weight": 0.1 * random(192, 2),
            "transformer.transformer_blocks.0.attn.to_q.lora_A.weight": random(2, 192),
            "transformer.transformer_blocks.0.attn.to_q.lora_B.weight": 0.1 * random(192, 2),
        },
        file,
    )
    return str(file)


@pytest.mark.parametrize("mode", ["fuse", "adapter"])
def test_a_lora_for_the_noise_alone_does_to_it_what_it_does_elsewhere(folder, lora, mode, tiny, caplog):
    """And leaves what is shown as it is: the picture is that of the model which has no more than the noise."""
    options = {"lora": lora, "lora_mode": mode, "precision": "fp32", "device": "cpu"}
    plain = dit360.load("tiny", **options)
    with caplog.at_level(logging.WARNING, "dit360"):
        fill = dit360.load(str(folder), **options)
    assert "x_embedder was trained with 128 inputs, the noise, of 512 that this model has" in caplog.text
    told = plain.encode("a castle")
    asked = {"seed": 1, "steps": 2, "guidance": 3.0, "latent_rotation": True, "position_interpolation": False}
    asked["cube_consistency"] = 0.0
    expected = plain.sample(told, width=WIDTH, height=HEIGHT, **asked)
    hole = fill.encode_hole(PIXELS, MASK)
    made = fill.sample(told, shown=hole, **asked)
    assert made.size == (WIDTH, HEIGHT)
    assert made.settings["used"]["filled"] == round(42 * 53 / (WIDTH * HEIGHT), 4)
    assert (made.tensor - expected.tensor).abs().max() <= 1e-5
    assert (expected.tensor - tiny.sample(told, width=WIDTH, height=HEIGHT, **asked).tensor).abs().max() > 1e-3


@pytest.mark.parametrize("denoise", [1.0, 0.5])
def test_an_edit_by_a_model_that_fills_keeps_the_rest_and_is_shown_it(folder, tiny, denoise):
    """This one takes no notice of what it is shown, so the picture is the plain model's."""
    fill = dit360.load(str(folder), device="cpu", precision="fp32")
    picture = Image.effect_noise((WIDTH, HEIGHT), 50).convert("RGB")
    hole = Image.fromarray((MASK[0, 0] * 255).byte().numpy())
    asked = {
        "image": picture, "mask": hole, "seed": 1, "steps": 2, "guidance": 3.0, "denoise": denoise, "mask_soften": 5.0,
        "mask_grow": 0.0, "latent_rotation": True, "position_interpolation": False, "cube_consistency": 0.0,
    }  # fmt: skip
    made, plain = fill.generate("a castle", **asked), tiny.generate("a castle", **asked)
    apart = np.abs(np.asarray(made.image, int) - np.asarray(plain.image, int))
    assert apart.max() <= 1
    assert (np.asarray(made.image) == np.asarray(picture))[24:40, 110:].all()
    used = made.settings["used"]
    assert used["hold"]["mask"] == [WIDTH, HEIGHT]
    assert 42 * 53 / (WIDTH * HEIGHT) <= used["filled"] < 0.5


def test_a_lora_for_other_inputs_of_a_model_that_fills_is_another_models(folder, tmp_path):
    for name, down in (("narrow", torch.ones(1, 32)), ("wide", torch.ones(1, 576))):
        file = tmp_path / f"{name}.safetensors"
        save_file({"x_embedder.lora_A.weight": down, "x_embedder.lora_B.weight": torch.ones(192, 1)}, file)
        with pytest.raises(dit360.ModelError, match=rf"shape 192×{down.shape[1]}, and this model's of 192×512"):
            dit360.load(str(folder), lora=str(file))


def test_without_a_picture_a_folder_that_fills_says_what_it_needs_before_its_weights_are_read(folder, tmp_path):
    """In one picture and in each of a list."""
    with pytest.raises(dit360.InputError, match=rf"{folder} fills a part of a picture, and none is given"):
        prepare(LoadOptions(model=str(folder)), registry=default_registry(), picture=(ASKED, DecodeOptions()))
    assert prepare(LoadOptions(model=str(folder)), registry=default_registry()).plan.model.guidance == 30.0
    item = Item(line=1, name="a.jpg", key="", sampling=ASKED, decoding=DecodeOptions())
    assert "fills a part of a picture" in str(Painter(LoadOptions(model=str(folder)), item).wrong(item))


def test_the_name_of_a_model_that_fills_says_so_before_anything_is_fetched():
    with pytest.raises(dit360.InputError, match="dit360-fill fills a part of a picture, and none is given"):
        prepare(LoadOptions(model="dit360-fill"), registry=default_registry(), picture=(ASKED, DecodeOptions()))


def test_the_plan_of_a_model_that_fills_needs_no_picture_and_counts_what_is_shown():
    fill, plain = (
        subject_of(LoadOptions(model=name, vram=24), SampleOptions(prompt="any"), DecodeOptions(), default_registry())
        for name in ("dit360-fill", "dit360")
    )
    assert (fill.evaluations, plain.evaluations) == (50, 28)
    more, less = (subject.shapes.weights("transformer", torch.bfloat16).total for subject in (fill, plain))
    assert more - less == 3072 * (384 - 64) * 2
