"""FLUX.2: a tiny klein of diffusers' own classes, loaded from its folder, against diffusers' pipeline."""

import itertools
import json
import logging
import shutil
from pathlib import Path

import dit360_core as dit360
import numpy as np
import pytest
import torch
from dit360_core.errors import InputError, ModelError
from dit360_core.models.architecture import Guidance
from dit360_core.models.families import architecture_of
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.plugins.builtin.attention import dit360_attention_backends
from dit360_core.sphere.grid import Grid
from family_checks import (
    MODES,
    check_quantized_with_a_lora_wherever_it_waits,
    check_step_is_predicted,
    check_weights_are_predicted,
    pixels,
    write_lora,
)
from random_families import random_klein

WIDTH, HEIGHT, STEPS = 128, 64, 3
PROMPT = "a calm sea under 雪 at night"
LAYERS = ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.attn.to_qkv_mlp_proj")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("klein")
    random_klein().save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def theirs(folder):
    """The same model, as diffusers has it."""
    return random_klein()


@pytest.fixture(scope="module")
def klein(folder):
    return dit360.load(str(folder), device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def wide():
    """In fp64, where rounding hides nothing."""
    pipe = random_klein()
    pipe.to(torch.float64)
    return pipe


def sampled_by_diffusers(pipe, guidance, **given):
    with torch.no_grad():
        return pipe(
            height=HEIGHT, width=WIDTH, num_inference_steps=STEPS, guidance_scale=guidance, output_type="latent",
            **given,
        ).images  # fmt: skip


def test_a_prompt_is_read_as_diffusers_reads_it(klein, theirs, caplog):
    for length in (512, 40):
        with torch.no_grad():
            wanted, _ = theirs.encode_prompt(PROMPT, max_sequence_length=length)
        found = klein.encode(PROMPT, max_sequence_length=length).positive.tokens
        assert found.shape == wanted.shape
        assert float((found - wanted).abs().max()) <= 1e-5
    # 40 bytes with their frame: the end of the prompt is not read.
    with caplog.at_level(logging.WARNING, "dit360"):
        klein.encode(PROMPT + " and more", max_sequence_length=40)
    assert "tokens and only" in caplog.text


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_without_padding_latents_are_those_of_diffusers(klein, theirs, guidance):
    wanted = sampled_by_diffusers(theirs, guidance, prompt=PROMPT, generator=torch.Generator().manual_seed(5))
    read = klein.encode(PROMPT, negative_prompt="")
    ours = klein.sample(read, width=WIDTH, steps=STEPS, guidance=guidance, seed=5, circular_padding=0)
    assert ours.settings["used"]["evaluations"] == STEPS * (1 if guidance == 1.0 else 2)
    error = (klein.engine.to_stored(ours.tensor) - wanted).abs().max() / wanted.std()
    assert float(error) <= 1e-5


def test_in_fp64_they_are_the_same_to_1e_10(wide):
    ours = Pipeline.from_diffusers(random_klein().to(torch.float64))
    assert ours.engine.facts.guidance is Guidance.TRUE
    read = ours.encode(PROMPT, negative_prompt="")
    noise = torch.randn(1, 64, HEIGHT // 16, WIDTH // 16, generator=torch.Generator().manual_seed(1)).double()
    grid = Grid.of_picture(WIDTH, HEIGHT)
    tokens = noise.flatten(2).transpose(1, 2)
    # The levels of diffusers' scheduler are rounded to fp32, so they are given to both.
    levels = [1.0, 0.75, 0.5, 0.0]
    velocity = ours.engine.velocity(grid, None, None)
    x = tokens.clone()
    for sigma, after in itertools.pairwise(levels):
        v = velocity(x, sigma, read.positive)
        x = x + (after - sigma) * ours.engine.guided(v, velocity(x, sigma, read.negative), 4.0)
    y = tokens.clone()
    ids, (positive, text_ids), (negative, none_ids) = (
        wide._prepare_latent_ids(noise), wide.encode_prompt(PROMPT), wide.encode_prompt(""),
    )  # fmt: skip
    with torch.no_grad():
        for sigma, after in itertools.pairwise(levels):
            cond, uncond = (
                wide.transformer(
                    hidden_states=y, timestep=torch.full((1,), sigma).double(), encoder_hidden_states=embedding,
                    txt_ids=where, img_ids=ids, return_dict=False,
                )[0]
                for embedding, where in ((positive, text_ids), (negative, none_ids))
            )  # fmt: skip
            y = y + (after - sigma) * (uncond + 4.0 * (cond - uncond))
    assert x.dtype is torch.float64
    assert float((x - y).abs().max() / y.std()) <= 1e-10


def by_hand(pipe, x, sigma, embedding, source, shown=None):
    """One evaluation of diffusers' transformer on tokens that are copied by hand, with the positions they have."""
    rows, columns = HEIGHT // 16, WIDTH // 16
    places = torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns), torch.arange(1)).float()
    text = torch.zeros(embedding.shape[1], 4)
    text[:, 3] = torch.arange(len(text))
    tokens, ids = x[:, source], places[source]
    if shown is not None:
        later = places.clone()
        later[:, 0] = 10
        tokens, ids = torch.cat([tokens, shown], dim=1), torch.cat([ids, later])
    with torch.no_grad():
        return pipe.transformer(
            hidden_states=tokens, timestep=torch.full((1,), sigma), encoder_hidden_states=embedding, txt_ids=text,
            img_ids=ids, return_dict=False,
        )[0][:, : len(source)]  # fmt: skip


@pytest.fixture(scope="module")
def state(klein):
    generator = torch.Generator().manual_seed(2)
    x, shown = (torch.randn(1, 32, 64, generator=generator) for _ in range(2))
    return x, shown, klein.encode(PROMPT).positive


@pytest.mark.parametrize("padding", [1, 3])
@pytest.mark.parametrize("referring", [False, True])
def test_pads_are_columns_copied_by_hand_and_a_bias_is_as_good(klein, theirs, state, padding, referring):
    x, shown, embedding = state
    grid = Grid.of_picture(WIDTH, HEIGHT, padding)
    seen = torch.cat([x, shown], dim=-1) if referring else x
    wanted = by_hand(theirs, x, 0.7, embedding.tokens, grid.pad_index(), shown if referring else None)
    wanted = wanted[:, grid.crop_index()]
    with torch.no_grad():
        padded = klein.engine.velocity(grid, None, None)(seen, 0.7, embedding)
        biased = klein.engine.velocity(grid, None, None, biased=True)(seen, 0.7, embedding)
        alone = klein.engine.velocity(grid.real, None, None)(seen, 0.7, embedding)
    assert float((padded - wanted).abs().max()) <= 1e-5
    assert float((biased - padded).abs().max()) <= 1e-5
    assert float((alone - padded).abs().max()) > 1e-4


def test_a_picture_that_is_shown_turns_with_the_panorama(klein, state):
    """What is shown is read where it lies: the other way round it is another picture."""
    x, shown, embedding = state
    grid = Grid.of_picture(WIDTH, HEIGHT)
    with torch.no_grad():
        velocity = klein.engine.velocity(grid, None, None)
        at, turned = (velocity(torch.cat([x, each], -1), 0.7, embedding) for each in (shown, shown.flip(1)))
    assert float((at - turned).abs().max()) > 1e-4


def test_statistics_of_the_batch_norm_are_undone_and_done(klein, theirs):
    latents = torch.randn(1, 16, 8, 16, generator=torch.Generator().manual_seed(4))
    stored = klein.engine.to_stored(latents)
    mean, variance = theirs.vae.bn.running_mean, theirs.vae.bn.running_var
    patches = theirs._patchify_latents(latents)
    wanted = patches * torch.sqrt(variance + theirs.vae.config.batch_norm_eps).view(1, -1, 1, 1)
    wanted = theirs._unpatchify_latents(wanted + mean.view(1, -1, 1, 1))
    assert float((stored - wanted).abs().max()) <= 1e-5
    assert float((klein.engine.from_stored(stored) - latents).abs().max()) <= 1e-5


def test_decoding_turns_with_the_latents_in_tiles_too(klein):
    latents = torch.randn(1, 16, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(4))
    whole = klein.decode_pixels(latents, tiling_backend="whole").tensor
    turned = klein.decode_pixels(latents.roll(6, -1), tiling_backend="whole").tensor
    tiles = klein.decode_pixels(latents, tiling_backend="exact", tiling_mode="always").tensor
    assert float((turned - whole.roll(48, -1)).abs().max()) <= 1e-5
    assert float((tiles - whole).abs().max()) <= 5e-5 * max(1.0, float(whole.std()))


def test_a_model_that_was_distilled_takes_no_guidance(tmp_path):
    random_klein(distilled=True).save_pretrained(tmp_path)
    pipe = dit360.load(str(tmp_path), device="cpu", precision="fp32")
    assert (pipe.plan.model.steps, pipe.engine.facts.guidance) == (4, Guidance.NONE)
    assert pipe.generate("a sea", width=64, seed=1).settings["used"]["evaluations"] == 4
    with pytest.raises(InputError, match="guidance does nothing"):
        pipe.generate("a sea", width=64, seed=1, guidance=3.0)


def test_the_small_decoder_and_every_kernel_paint(tmp_path):
    random_klein(small_decoder=True).save_pretrained(tmp_path)
    pipe = dit360.load(str(tmp_path), device="cpu", precision="fp32", attention_backend="sdpa")
    asked = {"prompt": PROMPT, "width": 64, "steps": 1, "seed": 1}
    plain = pixels(pipe.generate(**asked))
    for backend in dit360_attention_backends():
        if backend.name in ("eager", "sdpa"):
            assert np.abs(pixels(pipe.generate(**asked, attention_backend=backend.name)) - plain).max() <= 1


def test_what_the_core_does_above_the_seam_works(klein, tmp_path):
    asked = {"prompt": PROMPT, "width": WIDTH, "steps": 2, "seed": 5}
    plain = klein.generate(**asked)
    for options in (
        {"latent_rotation": True}, {"position_interpolation": True}, {"scheduler_type": "heun"},
        {"yaw_consistency": 0.5, "cube_consistency": 0.5}, {"circular_mode": "bias"},
    ):  # fmt: skip
        assert pixels(klein.generate(**asked, **options)).shape == pixels(plain).shape
    # All is kept: the picture itself, to a level of the autoencoder.
    kept = klein.generate(**asked, image=plain, region="0,0,30", reference="never")
    near = np.abs(pixels(kept) - pixels(plain))[24:40, :12].max()
    assert near == 0
    shown = klein.generate(**asked, image=plain, region="0,0,30")
    assert np.abs(pixels(shown) - pixels(plain))[24:40, :12].max() == 0
    assert shown.settings["used"]["reference"]
    assert shown.settings["used"]["family"]["distribution"] == "dit360-model-flux2"
    assert np.abs(pixels(shown) - pixels(kept)).max() > 0


def test_a_given_pipeline_gives_the_same_picture_and_stays_one_of_diffusers(klein):
    theirs = random_klein()
    asked = {"prompt": PROMPT, "width": 64, "steps": 2, "seed": 5, "guidance": 4.0}
    ours = Pipeline.from_diffusers(theirs)
    assert np.abs(pixels(ours.generate(**asked)) - pixels(klein.generate(**asked))).max() <= 1
    again = sampled_by_diffusers(theirs, 1.0, prompt="a", generator=torch.Generator().manual_seed(5))
    assert bool(again.isfinite().all())


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The folder of one whose text encoder has four layers, and a LoRA for it."""
    place = tmp_path_factory.mktemp("short")
    pipe = random_klein(layers=4)
    pipe.save_pretrained(place)
    return place, write_lora(place / "lora.safetensors", pipe.transformer, LAYERS)


def test_a_tokenizer_that_cannot_fill_up_a_prompt_is_refused(short, tmp_path):
    made = Path(shutil.copytree(short[0], tmp_path / "model"))
    file = made / "tokenizer" / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pad_token": None}))
    with pytest.raises(ModelError, match="tokenizer names no pad_token, with which prompts are filled up; download"):
        dit360.load(str(made), device="cpu", precision="fp32")


@pytest.mark.parametrize("lora_mode", ["fuse", "adapter"])
@pytest.mark.parametrize("mode", MODES)
def test_quantized_with_a_lora_wherever_it_waits(short, mode, lora_mode):
    check_quantized_with_a_lora_wherever_it_waits(*short, mode, lora_mode, guidance=1.0)


def test_memory_is_predicted(klein):
    check_weights_are_predicted(klein)
    check_step_is_predicted(klein, klein.encode(PROMPT).positive)


def test_the_family_is_recognised_by_its_folder_alone(folder):
    assert architecture_of(folder).name == "flux2"
    (folder / "model_index.json").rename(folder / "elsewhere")
    try:
        assert architecture_of(folder).name == "flux2"
    finally:
        (folder / "elsewhere").rename(folder / "model_index.json")
