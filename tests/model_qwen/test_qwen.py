"""Qwen-Image: a tiny one of diffusers' own classes, loaded from its folder, against diffusers' pipeline."""

import itertools
import logging

import dit360_core as dit360
import numpy as np
import pytest
import torch
from dit360_core.models.families import architecture_of
from dit360_core.options import DecodeOptions, SampleOptions
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
from random_families import random_qwen

WIDTH, HEIGHT, STEPS = 128, 64, 3
PROMPT = "a calm sea under 雪 at night"
LAYERS = ("transformer_blocks.0.attn.to_q", "transformer_blocks.1.txt_mlp.net.2", "transformer_blocks.1.img_mod.1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("qwen")
    random_qwen().save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def theirs():
    """The same model, as diffusers has it."""
    return random_qwen()


@pytest.fixture(scope="module")
def qwen(folder):
    return dit360.load(str(folder), device="cpu", precision="fp32")


def sampled_by_diffusers(pipe, guidance, prompt=PROMPT, **given):
    with torch.no_grad():
        return pipe(
            prompt, negative_prompt=" " if guidance > 1 else None, height=HEIGHT, width=WIDTH, output_type="latent",
            num_inference_steps=STEPS, true_cfg_scale=guidance, generator=torch.Generator().manual_seed(5), **given,
        ).images  # fmt: skip


# --------------------------------------------------------------------------------------------------------- prompts


def test_a_prompt_is_read_as_diffusers_reads_it(qwen, theirs, caplog):
    """With the language model alone, whose positions for words are those of the whole model, which has eyes."""
    assert not hasattr(qwen.engine.pipe.text_encoder, "visual")
    assert not hasattr(qwen.engine.pipe.text_encoder, "lm_head")
    for prompt, length in ((PROMPT, 512), (PROMPT, 20), ("a sea " * 200, 1024)):
        with torch.no_grad():
            wanted, mask = theirs.encode_prompt(prompt, max_sequence_length=length)
        with caplog.at_level(logging.WARNING, "dit360"):
            caplog.clear()
            found = qwen.encode(prompt, max_sequence_length=length).positive.tokens
        assert mask is None
        assert found.shape == wanted.shape
        assert float((found - wanted).abs().max()) <= 1e-5
        assert ("tokens and only" in caplog.text) == (len(prompt.encode()) > length)
    with torch.no_grad():
        nothing, _ = theirs.encode_prompt(" ")
    assert float((qwen.encode(PROMPT, negative_prompt=" ").negative.tokens - nothing).abs().max()) <= 1e-5


# ------------------------------------------------------------------------------------------------------- denoising


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_without_padding_latents_are_those_of_diffusers(qwen, theirs, guidance):
    wanted = sampled_by_diffusers(theirs, guidance)
    read = qwen.encode(PROMPT, negative_prompt=" ")
    ours = qwen.sample(read, width=WIDTH, steps=STEPS, guidance=guidance, seed=5, circular_padding=0)
    assert ours.settings["used"]["evaluations"] == STEPS * (1 if guidance == 1.0 else 2)
    assert float((qwen.engine.pack(ours.tensor) - wanted).abs().max() / wanted.std()) <= 1e-5


def test_in_fp64_they_are_the_same_to_1e_10():
    theirs, ours = random_qwen().to(torch.float64), Pipeline.from_diffusers(random_qwen().to(torch.float64))
    tokens = torch.randn(1, 32, 64, generator=torch.Generator().manual_seed(1)).double()
    velocity = ours.engine.velocity(Grid.of_picture(WIDTH, HEIGHT), None, None)
    read = ours.encode(PROMPT, negative_prompt=" ")
    (positive, _), (negative, _) = theirs.encode_prompt(PROMPT), theirs.encode_prompt(" ")
    x, y = tokens, tokens
    # The levels of diffusers' scheduler are rounded to fp32, so they are given to both.
    for sigma, after in itertools.pairwise([1.0, 0.75, 0.5, 0.0]):
        v = velocity(x, sigma, read.positive)
        x = x + (after - sigma) * ours.engine.guided(v, velocity(x, sigma, read.negative), 4.0)
        with torch.no_grad():
            cond, uncond = (
                theirs.transformer(
                    hidden_states=y, timestep=torch.full((1,), sigma).double(), encoder_hidden_states=embedding,
                    img_shapes=[[(1, HEIGHT // 16, WIDTH // 16)]], return_dict=False,
                )[0]
                for embedding in (positive, negative)
            )  # fmt: skip
        led = uncond + 4.0 * (cond - uncond)
        y = y + (after - sigma) * led * (cond.norm(dim=-1, keepdim=True) / led.norm(dim=-1, keepdim=True))
    assert x.dtype is torch.float64
    assert float((x - y).abs().max() / y.std()) <= 1e-10


def test_guidance_keeps_the_length_of_each_token_whatever_it_leads_away_from(qwen):
    towards, away = (torch.randn(1, 6, 64, generator=torch.Generator().manual_seed(i)) for i in range(2))
    led = qwen.engine.guided(towards, away, 4.0)
    assert torch.allclose(led.norm(dim=-1), towards.norm(dim=-1), rtol=1e-5)
    assert torch.nn.functional.cosine_similarity(led, away + 4.0 * (towards - away), dim=-1).min() > 0.9999
    # What has no direction has no length either.
    assert not qwen.engine.guided(torch.zeros(1, 2, 64), torch.zeros(1, 2, 64), 4.0).any()


@pytest.mark.parametrize("steps", [2, 7, 50])
def test_noise_levels_are_those_of_diffusers(qwen, theirs, steps):
    tokens = Grid.of_picture(2048, 1024, 1).tokens
    shift, scheduler = qwen.engine.shift(steps), theirs.scheduler
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift.mu(tokens))
    ours = [shift(1.0 - step / steps, tokens) for step in range(steps)]
    assert np.abs(scheduler.sigmas[:-1].numpy() - ours).max() <= 1e-6
    assert ours[-1] == pytest.approx(0.02)


def test_a_single_step_begins_at_noise(qwen):
    """diffusers divides nought by nought there."""
    assert qwen.engine.shift(1)(1.0, 32) == 1.0
    assert np.isfinite(pixels(qwen.generate("a sea", width=64, steps=1, seed=1))).all()


class AtSources(torch.nn.Module):
    """Positions of columns that are copied by hand."""

    def __init__(self, own, source):
        super().__init__()
        self.own, self.source = own, source

    def forward(self, *args, **kwargs):
        image, words = self.own(*args, **kwargs)
        return image[self.source], words


@pytest.mark.parametrize("padding", [1, 3])
def test_pads_are_columns_copied_by_hand_and_a_bias_is_as_good(qwen, padding):
    x = torch.randn(1, 32, 64, generator=torch.Generator().manual_seed(2))
    grid, embedding = Grid.of_picture(WIDTH, HEIGHT, padding), qwen.encode(PROMPT).positive
    transformer = random_qwen().transformer
    transformer.pos_embed = AtSources(transformer.pos_embed, grid.pad_index())
    with torch.no_grad():
        wanted = transformer(
            hidden_states=x[:, grid.pad_index()], timestep=torch.full((1,), 0.7), return_dict=False,
            encoder_hidden_states=embedding.tokens, img_shapes=[[(1, grid.rows, grid.columns)]],
        )[0][:, grid.crop_index()]  # fmt: skip
        padded = qwen.engine.velocity(grid, None, None)(x, 0.7, embedding)
        biased = qwen.engine.velocity(grid, None, None, biased=True)(x, 0.7, embedding)
        alone = qwen.engine.velocity(grid.real, None, None)(x, 0.7, embedding)
    assert float((padded - wanted).abs().max()) <= 1e-5
    assert float((biased - padded).abs().max()) <= 1e-5
    assert float((alone - padded).abs().max()) > 1e-3


@pytest.mark.parametrize(("rows", "columns"), [(4, 8), (5, 9), (3, 6)])
def test_positions_are_interpolated_about_the_middle(qwen, rows, columns):
    """Twice the size: between two tokens lies the direction of the native one, and so does its position."""
    rope, cpu = qwen.engine.denoiser.pos_embed, torch.device("cpu")
    native = rope.place(Grid(rows, columns), cpu)
    own, words = rope([[(1, rows, columns)]], cpu, 3)
    assert torch.equal(torch.view_as_complex(native.turns), own)
    assert torch.equal(torch.view_as_complex(rope(native, cpu, 3)[1]), words)
    large = rope.place(Grid(2 * rows, 2 * columns, spread=0.5), cpu)
    assert large.words == native.words
    # Angles are added where turns are multiplied.
    turns = torch.view_as_complex(large.turns).view(2 * rows, 2 * columns, -1)
    both = turns[0::2, 0::2] * turns[1::2, 1::2]
    assert float((both - own.view(rows, columns, -1) ** 2).abs().max()) <= 1e-5
    padded = torch.view_as_complex(rope.place(Grid(2 * rows, 2 * columns, 1, spread=0.5), cpu).turns)
    padded = padded.view(2 * rows, 2 * columns + 2, -1)
    assert torch.equal(padded[:, 0], turns[:, -1])
    assert torch.equal(padded[:, 1:-1], turns)
    assert torch.equal(padded[:, -1], turns[:, 0])


# ---------------------------------------------------------------------------------------------------- autoencoding


def test_latents_are_decoded_as_by_diffusers_and_turn_with_the_panorama(qwen, theirs):
    latents = torch.randn(1, 16, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(4))
    mean, deviation = (
        torch.tensor(numbers).view(1, -1, 1, 1, 1)
        for numbers in (theirs.vae.config.latents_mean, theirs.vae.config.latents_std)
    )
    stored = qwen.engine.to_stored(latents)
    assert torch.allclose(stored, (latents[:, :, None] * deviation + mean)[:, :, 0], atol=1e-5)
    assert float((qwen.engine.from_stored(stored) - latents).abs().max()) <= 1e-5
    with torch.no_grad():
        flat = qwen.engine.autoencoder.decode(stored, return_dict=False)[0]
        wanted = theirs.vae.decode(stored[:, :, None], return_dict=False)[0][:, :, 0]
    assert float((flat - wanted).abs().max()) <= 1e-5
    whole = qwen.decode_pixels(latents, tiling_backend="whole").tensor
    turned = qwen.decode_pixels(latents.roll(6, -1), tiling_backend="whole").tensor
    tiles = qwen.decode_pixels(latents, tiling_backend="exact").tensor
    assert float((turned - whole.roll(48, -1)).abs().max()) <= 1e-5
    assert float((tiles - whole).abs().max()) <= 5e-5 * max(1.0, float(whole.std()))


# ------------------------------------------------------------------------------------------------- above the seam


def test_what_the_core_does_above_the_seam_works(qwen):
    asked = {"prompt": PROMPT, "width": WIDTH, "steps": 2, "seed": 5, "guidance": 4.0}
    plain = qwen.generate(**asked)
    assert plain.settings["used"]["evaluations"] == 4
    for options in (
        {"latent_rotation": True}, {"position_interpolation": True}, {"scheduler_type": "heun"},
        {"yaw_consistency": 0.5, "cube_consistency": 0.5}, {"negative_prompt": "blur"},
    ):  # fmt: skip
        assert np.abs(pixels(qwen.generate(**asked, **options)) - pixels(plain)).max() > 0, options
    assert np.abs(pixels(qwen.generate(**asked, circular_mode="bias")) - pixels(plain)).max() <= 1
    # All is kept that is farther from the region than its edges are soft.
    kept = qwen.generate(**asked, image=plain, region="0,0,30")
    difference = np.abs(pixels(kept) - pixels(plain))
    assert difference[24:40, :20].max() == 0
    assert difference[24:40, 56:72].max() > 0
    for backend in dit360_attention_backends():
        if backend.name in ("eager", "sdpa"):
            assert np.abs(pixels(qwen.generate(**asked, attention_backend=backend.name)) - pixels(plain)).max() <= 1


def test_a_given_pipeline_gives_the_same_picture_and_stays_one_of_diffusers(qwen):
    """Its prompts of different lengths, which are padded, too."""
    theirs = random_qwen()
    prompts = {"prompt": [PROMPT, "a"], "negative_prompt": [" ", " "]}
    generators = [torch.Generator().manual_seed(i) for i in range(2)]

    def sampled():
        with torch.no_grad():
            return theirs(
                **prompts, height=32, width=64, num_inference_steps=2, output_type="np",
                generator=[torch.Generator().manual_seed(i) for i in range(len(generators))],
            ).images  # fmt: skip

    before = sampled()
    ours = Pipeline.from_diffusers(theirs)
    asked = {"prompt": PROMPT, "width": 64, "steps": 2, "seed": 5}
    assert np.abs(pixels(ours.generate(**asked)) - pixels(qwen.generate(**asked))).max() <= 1
    assert float(np.abs(sampled() - before).max()) <= 1e-4
    # Planned for as it is: with its eyes, and with kernels that are not flattened.
    check_weights_are_predicted(ours)
    shapes = ours._loaded.subject(SampleOptions(prompt="any"), DecodeOptions()).shapes
    assert shapes.text("text_encoder", torch.float32, 512, None, int).peak > 0


@pytest.mark.parametrize("lora_mode", ["fuse", "adapter"])
@pytest.mark.parametrize("mode", MODES)
def test_quantized_with_a_lora_wherever_it_waits(folder, theirs, tmp_path, mode, lora_mode):
    lora = write_lora(tmp_path / "lora.safetensors", theirs.transformer, LAYERS)
    check_quantized_with_a_lora_wherever_it_waits(folder, lora, mode, lora_mode, guidance=1.0)


def test_memory_is_predicted(qwen):
    check_weights_are_predicted(qwen)
    check_step_is_predicted(qwen, qwen.encode("a sea " * 200).positive)


def test_the_family_is_recognised_by_its_folder_alone(folder):
    assert architecture_of(folder).name == "qwen"
