"""The engine against what is known to be true of DiT360's recipe, and against diffusers' own FluxPipeline."""

import itertools
import math

import numpy as np
import pytest
import torch
from dit360_core.models.shift import FlowShift
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.plugins.builtin.scheduler import FlowMatch
from dit360_core.plugins.offers import SchedulerSettings
from dit360_core.sphere.grid import Grid
from random_models import random_conditioning, random_flux

WIDTH, HEIGHT, STEPS = 128, 64, 4
SIZE = {"width": WIDTH, "height": HEIGHT, "steps": STEPS}


def noise(dtype=torch.float64, seed=0):
    return torch.randn(1, 16, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def padded_once(pipe, conditioning, start, guidance, padding):
    """The published pipeline: pad noise and ids once, run every step padded. Yields the tokens after each step."""
    grid = Grid.of_picture(WIDTH, HEIGHT, padding)
    x = pipe._pack_latents(start, 1, 16, HEIGHT // 8, WIDTH // 8)[:, grid.pad_index()]
    ids = grid.position_ids().to(x.dtype)
    shift = FlowShift.from_config(pipe.scheduler.config)
    sigmas = FlowMatch(SchedulerSettings(shift=shift)).sigmas(STEPS, grid.tokens)
    for sigma, after in itertools.pairwise(sigmas):
        v = pipe.transformer(
            hidden_states=x,
            timestep=torch.full((1,), sigma, dtype=x.dtype),
            guidance=torch.full((1,), guidance),
            pooled_projections=conditioning.positive.pooled,
            encoder_hidden_states=conditioning.positive.tokens,
            txt_ids=torch.zeros(7, 3, dtype=x.dtype),
            img_ids=ids,
            return_dict=False,
        )[0]
        x = x + (after - sigma) * v
        yield x


@pytest.mark.parametrize("padding", [1, 2, 10])
@torch.no_grad()
def test_padding_inside_each_call_is_padding_once(padding):
    conditioning, start = random_conditioning(torch.float64), noise()
    reference = random_flux(torch.float64)
    *_, x = padded_once(reference, conditioning, start, 2.5, padding)
    grid = Grid.of_picture(WIDTH, HEIGHT, padding)
    expected = reference._unpack_latents(x[:, grid.crop_index()], HEIGHT, WIDTH, 8)
    ours = Pipeline.from_diffusers(random_flux(torch.float64)).sample(
        conditioning, latents=start, guidance=2.5, circular_padding=padding, **SIZE
    )
    assert (ours.tensor - expected).abs().max() <= 1e-10


@pytest.mark.parametrize("padding", [1, 3])
def test_pads_equal_their_sources_in_every_step_exactly(padding):
    """Watched at the transformer's own input, in content and in position ids."""
    pipeline, seen = Pipeline.from_diffusers(random_flux(torch.float64)), []
    grid, plain = Grid.of_picture(WIDTH, HEIGHT, padding), Grid.of_picture(WIDTH, HEIGHT)

    def watch(module, args, kwargs):
        seen.append((kwargs["hidden_states"], kwargs["img_ids"]))

    pipeline.engine.denoiser.register_forward_pre_hook(watch, with_kwargs=True)
    pipeline.sample(random_conditioning(torch.float64), latents=noise(), circular_padding=padding, **SIZE)
    assert len(seen) == STEPS
    for tokens, ids in seen:
        assert torch.equal(tokens[:, grid.crop_index()][:, grid.pad_index()], tokens)
        assert torch.equal(ids, plain.position_ids().double()[grid.pad_index()])
    assert not torch.equal(seen[0][0], seen[-1][0])


@torch.no_grad()
def test_padding_once_keeps_pads_equal_to_their_sources_too():
    """Up to rounding: a matrix product may sum the rows of two equal tokens in different order."""
    grid = Grid.of_picture(WIDTH, HEIGHT, 1)
    for x in padded_once(random_flux(torch.float64), random_conditioning(torch.float64), noise(), 2.5, 1):
        real = x[:, grid.crop_index()]
        assert (real[:, grid.pad_index()] - x).abs().max() <= 1e-13


@torch.no_grad()
def test_one_pad_column_is_log_2_on_the_keys_of_the_edge_columns():
    """softmax with a key twice is softmax with +log 2 on it: the pad is a weighting, not new information."""
    conditioning, start = random_conditioning(torch.float64), noise()
    padded = Pipeline.from_diffusers(random_flux(torch.float64)).sample(
        conditioning, latents=start, guidance=2.5, circular_padding=1, **SIZE
    )
    columns = torch.arange(WIDTH // 16).repeat(HEIGHT // 16)
    edge = (columns == 0) | (columns == WIDTH // 16 - 1)
    bias = torch.cat([torch.zeros(7), torch.where(edge, math.log(2.0), 0.0)]).double()

    def attend_with_bias(q, k, v, *, scale):
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return torch.softmax(q @ k.transpose(-1, -2) * scale + bias, -1).matmul(v).transpose(1, 2)

    pipeline = Pipeline.from_diffusers(random_flux(torch.float64))
    engine, grid = pipeline.engine, Grid.of_picture(WIDTH, HEIGHT)
    velocity = engine.velocity(grid, 2.5, attend_with_bias)
    sigmas = FlowMatch(SchedulerSettings(shift=engine.shift(STEPS))).sigmas(
        STEPS, Grid.of_picture(WIDTH, HEIGHT, 1).tokens
    )
    x = engine.pack(start)
    for sigma, after in itertools.pairwise(sigmas):
        x = x + (after - sigma) * velocity(x, sigma, conditioning.positive)
    assert (engine.unpack(x, grid) - padded.tensor).abs().max() <= 1e-10


@pytest.mark.parametrize(
    ("padding", "backend"),
    [(1, "sdpa"), (2, "sdpa"), (10, "sdpa"), (10, "eager"), (10, "sdpa-flash"), (10, "sdpa-math")],
)
def test_a_bias_on_the_keys_is_padding(padding, backend):
    """Ten columns of eight: some are there three times, and weigh log 3."""
    conditioning, start = random_conditioning(torch.float64), noise()
    pipeline = Pipeline.from_diffusers(random_flux(torch.float64), attention_backend=backend)
    padded, biased = (
        pipeline.sample(conditioning, latents=start, circular_padding=padding, circular_mode=mode, **SIZE)
        for mode in ("pad", "bias")
    )
    assert (biased.tensor - padded.tensor).abs().max() <= 1e-10
    without = pipeline.sample(conditioning, latents=start, circular_padding=0, **SIZE)
    assert (without.tensor - padded.tensor).abs().max() > 1e-4


def test_the_transformer_sees_no_pads_with_a_bias_and_the_time_shift_is_that_of_padding():
    pipeline, seen = Pipeline.from_diffusers(random_flux(torch.float64)), []
    watch = lambda module, args, kwargs: seen.append((kwargs["hidden_states"].shape[1], float(kwargs["timestep"])))  # noqa: E731
    pipeline.engine.denoiser.register_forward_pre_hook(watch, with_kwargs=True)
    for mode in ("pad", "bias"):
        pipeline.sample(random_conditioning(torch.float64), seed=0, circular_padding=2, circular_mode=mode, **SIZE)
    padded, biased = seen[:STEPS], seen[STEPS:]
    assert {tokens for tokens, _ in padded} == {Grid.of_picture(WIDTH, HEIGHT, 2).tokens}
    assert {tokens for tokens, _ in biased} == {Grid.of_picture(WIDTH, HEIGHT).tokens}
    assert [time for _, time in padded] == [time for _, time in biased]


@pytest.mark.parametrize(
    ("guidance_embeds", "true_guidance", "dynamic"), [(True, 1.0, True), (True, 3.0, True), (False, 3.0, False)]
)
def test_without_padding_we_are_diffusers(guidance_embeds, true_guidance, dynamic):
    """Same noise from the same seed, same sigmas, same steps: FluxPipeline's latents in fp32."""
    conditioning = random_conditioning(negative=true_guidance > 1)
    theirs = random_flux(guidance_embeds=guidance_embeds, dynamic=dynamic)
    against = {}
    if conditioning.negative is not None:
        against = {
            "negative_prompt_embeds": conditioning.negative.tokens,
            "negative_pooled_prompt_embeds": conditioning.negative.pooled,
        }
    packed = theirs(
        prompt_embeds=conditioning.positive.tokens,
        pooled_prompt_embeds=conditioning.positive.pooled,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=STEPS,
        guidance_scale=2.5,
        true_cfg_scale=true_guidance,
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
        **against,
    ).images
    expected = theirs._unpack_latents(packed, HEIGHT, WIDTH, 8)
    ours = Pipeline.from_diffusers(random_flux(guidance_embeds=guidance_embeds, dynamic=dynamic)).sample(
        conditioning,
        guidance=2.5 if guidance_embeds else None,
        true_guidance=true_guidance,
        seed=5,
        circular_padding=0,
        **SIZE,
    )
    # On some CPUs the same products are summed in another order where strides differ: 1.07e-6 on one with AMX.
    assert (ours.tensor - expected).abs().max() <= 1e-5


def test_the_noise_is_that_of_fluxpipeline_in_every_dtype():
    pipeline = Pipeline.from_diffusers(random_flux())
    ours = pipeline.engine.noise(Grid.of_picture(WIDTH, HEIGHT), torch.Generator().manual_seed(3))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        packed, _ = random_flux().prepare_latents(
            1, 16, HEIGHT, WIDTH, dtype, torch.device("cpu"), torch.Generator().manual_seed(3)
        )
        assert torch.equal(pipeline.engine.pack(ours).to(dtype), packed)


def test_mu_of_the_padded_dit360_picture():
    shift = FlowShift(dynamic=True)
    assert shift.mu(8320) == pytest.approx(1.865, abs=5e-4)
    assert shift.mu(8192) == pytest.approx(1.843, abs=5e-4)


@pytest.mark.parametrize("steps", [1, 4, 28, 50])
@pytest.mark.parametrize("dynamic", [True, False])
def test_linear_sigmas_are_those_of_diffusers(steps, dynamic):
    scheduler = random_flux(dynamic=dynamic).scheduler
    shift = FlowShift.from_config(scheduler.config)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift.mu(8320) if dynamic else None)
    ours = FlowMatch(SchedulerSettings(shift=shift)).sigmas(steps, 8320)
    # diffusers computes them in float32; two units in its last place.
    assert np.allclose(ours, scheduler.sigmas.numpy(), rtol=0, atol=2.4e-7)


@pytest.mark.parametrize("schedule", ["linear", "quadratic", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 7, 56])
def test_every_schedule_falls_from_1_to_exactly_0(schedule, steps):
    settings = SchedulerSettings(shift=FlowShift(), timestep_schedule=schedule)
    sigmas = FlowMatch(settings).sigmas(steps, 8320)
    assert sigmas[0] == 1.0
    assert sigmas[-1] == 0.0
    assert all(a > b for a, b in itertools.pairwise(sigmas))
    assert len(sigmas) == steps + 1


def test_a_constant_velocity_is_integrated_exactly():
    sigmas = FlowMatch(SchedulerSettings(shift=FlowShift(), timestep_schedule="cosine")).sigmas(9, 1000)
    x0, eps = torch.randn(1, 4, 64, dtype=torch.float64), torch.randn(1, 4, 64, dtype=torch.float64)
    x = eps
    solver, generator = FlowMatch(SchedulerSettings(shift=FlowShift())), torch.Generator()
    for sigma, after in itertools.pairwise(sigmas):
        x = solver.step(eps - x0, sigma, after, x, generator)
    assert torch.allclose(x, x0, atol=1e-12)


def test_unknown_time_shifts_are_refused():
    from dit360_core.errors import ModelError

    with pytest.raises(ModelError, match="use_karras_sigmas"):
        FlowShift.from_config({"use_karras_sigmas": True})


class EveryLongitudeAlike(torch.nn.Module):
    """Stands where the transformer is: a velocity that mixes neighbours and knows no longitude."""

    def __init__(self, transformer):
        super().__init__()
        self.config, self.cache_context = transformer.config, transformer.cache_context

    def forward(self, hidden_states, **_):
        rows = hidden_states.unflatten(1, (HEIGHT // 16, WIDTH // 16))
        pixels = rows.unflatten(-1, (16, 2, 2)).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
        mixed = (pixels + pixels.roll(1, -1) * 0.5 - pixels.roll(-1, -1)).tanh()
        tokens = mixed.unflatten(-1, (WIDTH // 16, 2)).unflatten(2, (HEIGHT // 16, 2)).permute(0, 2, 4, 1, 3, 5)
        return (tokens.flatten(3).flatten(1, 2),)


def test_latent_rotation_changes_nothing_for_a_model_that_treats_all_longitudes_alike():
    pipeline = Pipeline.from_diffusers(random_flux(torch.float64))
    pipeline.engine.pipe.transformer = EveryLongitudeAlike(pipeline.engine.denoiser)
    still, turning = (
        pipeline.sample(
            random_conditioning(torch.float64), latents=noise(), circular_padding=0, latent_rotation=on, **SIZE
        )
        for on in (False, True)
    )
    assert (still.tensor - turning.tensor).abs().max() <= 1e-12
    assert (still.tensor - noise()).abs().max() > 0.1


def test_latent_rotation_moves_the_edge_of_a_model_that_does_not():
    pipeline = Pipeline.from_diffusers(random_flux())
    still, turning = (
        pipeline.sample(random_conditioning(), seed=1, latent_rotation=on, **SIZE) for on in (False, True)
    )
    assert (still.tensor - turning.tensor).abs().max() > 1e-3
    assert turning.settings["used"]["latent_rotation"] is True
