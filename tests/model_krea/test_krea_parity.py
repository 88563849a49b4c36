"""Krea 2 in dit360 beside diffusers' own pipeline: prompts, the transformer, whole pictures, and columns that wrap."""

import attrs
import dit360_core as dit360
import pytest
import torch
from dit360_core.models.embedding import Embedding
from dit360_core.models.weights.stream import dtype_of
from dit360_core.sphere.grid import Grid
from random_families import random_krea

SEA = "a calm sea, 雪 and 🌍"
WIDTH, HEIGHT = 128, 64


def as_theirs(pipe, prompt, length=512):
    """diffusers' embedding without its padding."""
    tokens, mask = pipe.encode_prompt(prompt, max_sequence_length=length)
    return tokens[mask][None]


@pytest.fixture(scope="module")
def conditioning(pipeline):
    return pipeline.encode(SEA, negative_prompt="")


def test_prompts_are_read_as_diffusers_reads_them(base, pipeline, conditioning):
    for ours, prompt in ((conditioning.positive, SEA), (conditioning.negative, "")):
        theirs = as_theirs(base, prompt)
        assert ours.tokens.shape == theirs.shape
        assert (ours.tokens - theirs).abs().max() <= 1e-5


@pytest.mark.parametrize("prompt", ["\n\n stars", "x" * 700, "é" * 40])
def test_long_prompts_are_cut_where_diffusers_cuts_them(base, pipeline, caplog, prompt):
    length = 64
    ours = pipeline.encode(prompt, max_sequence_length=length).positive.tokens
    theirs = as_theirs(base, prompt, length)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-5
    cut = len(prompt.encode()) > length - 5
    assert ours.shape[1] == length if cut else ours.shape[1] < length
    assert ("are read; everything after" in caplog.text) == cut


@pytest.mark.parametrize("select", [(0, 2, 5), (-1, -6, 2)])
def test_any_layers_are_read(tmp_path, select):
    """The embedding before the first, and behind the last, where the final norm is."""
    theirs = random_krea(select=select)
    theirs.save_pretrained(tmp_path / "krea")
    ours = dit360.load(str(tmp_path / "krea"), precision="fp32", device="cpu")
    assert (ours.encode(SEA).positive.tokens - as_theirs(theirs, SEA)).abs().max() <= 1e-5
    given = dit360.Pipeline.from_diffusers(random_krea(select=select))
    assert (given.encode(SEA).positive.tokens - as_theirs(theirs, SEA)).abs().max() <= 1e-5


def test_only_what_is_read_of_the_text_encoder_is_there(pipeline):
    reader = pipeline.engine.pipe.text_encoder
    assert type(reader).__name__ == "Qwen3VLTextModel"
    assert len(reader.layers) == 4
    assert not list(reader.norm.parameters())


@pytest.mark.parametrize("distilled", [False, True])
def test_a_picture_is_diffusers_own(base, pipeline, conditioning, distilled, tmp_path):
    theirs, ours, options = base, pipeline, {"guidance": 1.0}
    if distilled:
        theirs = random_krea(distilled=True)
        theirs.save_pretrained(tmp_path / "turbo")
        ours, options = dit360.load(str(tmp_path / "turbo"), precision="fp32", device="cpu"), {}
    wanted = theirs(
        SEA,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=3,
        guidance_scale=0.0 if distilled else 1.0,
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
    ).images
    found = ours.sample(conditioning, width=WIDTH, height=HEIGHT, steps=3, seed=5, circular_padding=0, **options)
    assert (ours.engine.pack(found.tensor) - wanted).abs().max() <= 1e-5
    pixels = theirs.vae.decode(
        theirs._unpack_latents(wanted, HEIGHT, WIDTH) * torch.tensor(theirs.vae.config.latents_std).view(1, -1, 1, 1, 1)
        + torch.tensor(theirs.vae.config.latents_mean).view(1, -1, 1, 1, 1)
    ).sample[:, :, 0]
    stored = ours.engine.to_stored(found.tensor)
    assert (ours.engine.autoencoder.decode(stored).sample - pixels).abs().max() <= 1e-4


def test_a_transformer_that_sees_no_padding_says_what_diffusers_says_with_its_mask():
    """In fp64, in which diffusers' pipeline rounds its latents to fp32 after each step, but its transformer runs."""
    base, given = (random_krea(dtype=torch.float64) for _ in range(2))
    pipeline = dit360.Pipeline.from_diffusers(given)
    tokens, mask = base.encode_prompt(SEA)
    assert not mask.all()
    x = torch.randn(1, 32, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    theirs = base.transformer(
        x, tokens, torch.tensor([0.7], dtype=torch.float64), base.prepare_position_ids(512, 4, 8, "cpu"), mask
    ).sample
    embedding = pipeline.encode(SEA).positive
    for attend in (None, pipeline.engine.denoiser.transformer_blocks[0].attn.processor.attend):
        ours = pipeline.engine.velocity(Grid(4, 8), None, attend)(x, 0.7, embedding)
        assert (ours - theirs.detach()).abs().max() <= 1e-10
    # diffusers' own use of what was given to us
    again = given.transformer(
        x, tokens, torch.tensor([0.7], dtype=torch.float64), given.prepare_position_ids(512, 4, 8, "cpu"), mask
    ).sample
    assert (again - theirs).abs().max() <= 1e-10


def test_columns_wrap_as_permuted_by_hand(base, pipeline, conditioning):
    embedding: Embedding = conditioning.positive
    grid = Grid(4, 8, 2)
    x = torch.randn(1, 32, 16, generator=torch.Generator().manual_seed(3))
    ours = pipeline.engine.velocity(grid, None, None)(x, 0.6, embedding)
    seen = [row * 8 + column % 8 for row in range(4) for column in range(-2, 10)]
    ids = torch.zeros(embedding.tokens.shape[1] + len(seen), 3)
    ids[-len(seen) :, 1] = torch.tensor([float(place // 8) for place in seen])
    ids[-len(seen) :, 2] = torch.tensor([float(place % 8) for place in seen])
    theirs = base.transformer(x[:, seen], embedding.tokens, torch.tensor([0.6]), ids).sample
    middle = [row * 12 + column for row in range(4) for column in range(2, 10)]
    assert (ours - theirs[:, middle].detach()).abs().max() <= 1e-5
    biased = pipeline.engine.velocity(grid, None, None, biased=True)(x, 0.6, embedding)
    assert (biased - ours).abs().max() <= 1e-5
    bare = pipeline.engine.velocity(attrs.evolve(grid, padding=0), None, None)(x, 0.6, embedding)
    assert (bare - ours).abs().max() > 1e-3


def test_norms_stay_wide_as_diffusers_reads_them(folder):
    from diffusers import Krea2Transformer2DModel

    for dtype in (torch.bfloat16, torch.float16):
        theirs = Krea2Transformer2DModel.from_pretrained(folder / "transformer", torch_dtype=dtype)
        for name, tensor in theirs.named_parameters():
            assert dtype_of(theirs, name, dtype) is tensor.dtype, name
    loaded = dit360.load(str(folder), precision="bf16", device="cpu")
    assert {name: tensor.dtype for name, tensor in loaded.engine.denoiser.named_parameters()} == {
        name: dtype_of(theirs, name, torch.bfloat16) for name, tensor in theirs.named_parameters()
    }
    assert loaded.engine.denoiser.dtype is torch.bfloat16
