"""What the core does above the seam, done with Krea 2: guidance, solvers, masks, kernels, LoRAs, bits, memory."""

import json
from concurrent.futures import ThreadPoolExecutor

import dit360_core as dit360
import numpy as np
import pytest
import torch
from dit360_core.errors import InputError
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
from random_families import random_krea

PROMPT = "a calm sea under 雪 at night"
LAYERS = (
    "transformer_blocks.0.attn.to_q", "transformer_blocks.1.attn.to_gate", "transformer_blocks.2.ff.down",
    "text_fusion.refiner_blocks.0.attn.to_v",
)  # fmt: skip


def kernels():
    return {backend.name: backend for backend in dit360_attention_backends() if backend.name in ("eager", "sdpa")}


def test_guidance_is_counted_as_krea_counts(pipeline):
    facts = pipeline.engine.facts
    assert (facts.guidance, facts.off, facts.negative_prompt) == (Guidance.TRUE, 0.0, "")
    assert (pipeline.plan.model.steps, pipeline.plan.model.guidance) == (52, 3.5)
    towards, away = torch.tensor([3.0]), torch.tensor([1.0])
    assert pipeline.engine.guided(towards, away, 2.0) == 7.0
    asked = {"prompt": PROMPT, "width": 64, "steps": 1, "seed": 1}
    without = pipeline.generate(**asked, guidance=0.0)
    assert without.settings["used"]["evaluations"] == 1
    little = pipeline.generate(**asked, guidance=0.5)
    assert little.settings["used"]["evaluations"] == 2
    led = pipeline.generate(**asked, guidance=0.5, negative_prompt="fog")
    assert np.abs(pixels(led) - pixels(little)).max() > 0
    with pytest.raises(InputError, match="has no effect while guidance is 0; set it above 0"):
        pipeline.generate(**asked, guidance=0.0, negative_prompt="fog")


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("size", [(2048, 1024), (512, 256)])
def test_noise_levels_are_those_of_diffusers(distilled, size):
    theirs = random_krea(distilled=distilled)
    ours = Pipeline.from_diffusers(theirs)
    tokens, steps = Grid.of_picture(*size).tokens, 5
    scheduler = theirs.scheduler
    mu = 1.15 if distilled else 0.5 + (1.15 - 0.5) * (tokens - 256) / (6400 - 256)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    shift = ours.engine.shift(steps)
    assert shift.mu(tokens) == pytest.approx(mu, abs=1e-12)
    found = [shift(1.0 - step / steps, tokens) for step in range(steps)]
    assert np.abs(scheduler.sigmas[:-1].numpy() - found).max() <= 1e-6


def test_a_model_that_was_distilled_takes_no_guidance(tmp_path):
    random_krea(distilled=True).save_pretrained(tmp_path)
    pipe = dit360.load(str(tmp_path), device="cpu", precision="fp32")
    assert (pipe.plan.model.steps, pipe.engine.facts.guidance) == (8, Guidance.NONE)
    assert pipe.generate("a sea", width=64, seed=1).settings["used"]["evaluations"] == 8
    with pytest.raises(InputError, match="guidance does nothing"):
        pipe.generate("a sea", width=64, seed=1, guidance=3.0)


def test_what_the_core_does_above_the_seam_works(pipeline):
    asked = {"prompt": PROMPT, "width": 128, "steps": 2, "seed": 5, "guidance": 2.0}
    plain = pipeline.generate(**asked)
    for options in (
        {"latent_rotation": True}, {"position_interpolation": True}, {"scheduler_type": "heun"},
        {"yaw_consistency": 0.5, "cube_consistency": 0.5}, {"negative_prompt": "blur"},
    ):  # fmt: skip
        assert np.abs(pixels(pipeline.generate(**asked, **options)) - pixels(plain)).max() > 0, options
    assert np.abs(pixels(pipeline.generate(**asked, circular_mode="bias")) - pixels(plain)).max() <= 1
    kept = pipeline.generate(**asked, image=plain, region="0,0,30")
    # What is made passes softly into what is kept, and to a pole all longitudes are near.
    assert np.abs(pixels(kept) - pixels(plain))[16:48, :12].max() == 0
    assert np.abs(pixels(kept) - pixels(plain))[16:48, 48:80].max() > 0
    for name in kernels():
        assert np.abs(pixels(pipeline.generate(**asked, attention_backend=name)) - pixels(plain)).max() <= 1


def test_decoding_turns_with_the_latents_in_tiles_too(pipeline):
    latents = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(4))
    stored = pipeline.engine.to_stored(latents)
    assert float((pipeline.engine.from_stored(stored) - latents).abs().max()) <= 1e-5
    whole = pipeline.decode_pixels(latents, tiling_backend="whole").tensor
    turned = pipeline.decode_pixels(latents.roll(6, -1), tiling_backend="whole").tensor
    tiles = pipeline.decode_pixels(latents, tiling_backend="exact").tensor
    assert float((turned - whole.roll(48, -1)).abs().max()) <= 1e-5
    assert float((tiles - whole).abs().max()) <= 5e-5 * max(1.0, float(whole.std()))


# ---------------------------------------------------------------------------------------- a kernel of each call's own


def _velocity(pipe, embedding, attend):
    x = torch.randn(1, 32, 16, generator=torch.Generator().manual_seed(2))
    return pipe.engine.velocity(Grid(4, 8, 1), None, attend)(x, 0.7, embedding)


def _marked(seen, name):
    def attend(q, k, v, *, scale):
        seen.append(name)
        return torch.nn.functional.scaled_dot_product_attention(
            *(t.transpose(1, 2) for t in (q, k, v)), scale=scale
        ).transpose(1, 2)

    return attend


@pytest.mark.parametrize("hooked", ["no", "accelerate", "group"])
def test_a_kernel_travels_with_its_call_in_each_thread(pipeline, hooked):
    """Under hooks that were there before, too: they hold the method that they run."""
    theirs = random_krea()
    if hooked == "accelerate":
        from accelerate.hooks import AlignDevicesHook, add_hook_to_module

        add_hook_to_module(theirs.transformer, AlignDevicesHook(io_same_device=True))
    elif hooked == "group":
        theirs.transformer.enable_group_offload(
            torch.device("cpu"), torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1
        )
    ours = Pipeline.from_diffusers(theirs)
    embedding = pipeline.encode(PROMPT).positive
    plain = _velocity(ours, embedding, None)
    seen = {name: [] for name in "abc"}
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda name: _velocity(ours, embedding, _marked(seen[name], name)), seen))
    assert all(float((one - plain).abs().max()) <= 1e-5 for one in found)
    assert seen == {name: [name] * 3 for name in "abc"}


def test_a_given_pipeline_gives_the_same_picture_and_stays_one_of_diffusers(pipeline, tmp_path):
    """Two prompts at once, of different lengths, are padded; what it saves is what it was."""
    theirs = random_krea()

    def sampled():
        return theirs(
            [PROMPT, "a"], height=32, width=64, num_inference_steps=2, output_type="np", guidance_scale=1.0,
            generator=[torch.Generator().manual_seed(i) for i in range(2)],
        ).images  # fmt: skip

    before = sampled()
    ours = Pipeline.from_diffusers(theirs)
    asked = {"prompt": PROMPT, "width": 64, "steps": 2, "seed": 5}
    assert np.abs(pixels(ours.generate(**asked)) - pixels(pipeline.generate(**asked))).max() <= 1
    assert float(np.abs(sampled() - before).max()) <= 1e-4
    for pipe, name in ((theirs, "given"), (pipeline.engine.pipe, "ours")):
        pipe.transformer.save_pretrained(tmp_path / name)
        told = json.loads((tmp_path / name / "config.json").read_text(encoding="utf-8"))
        assert told["_class_name"] == "Krea2Transformer2DModel"
        assert type(pipe).__name__ == "Krea2Pipeline"
        assert pipe._get_signature_keys(pipe)


def test_blocks_can_be_traced_whole(pipeline):
    """By a backend that computes as without a compiler, with and without words for a call."""
    ours = Pipeline.from_diffusers(random_krea())
    embedding = pipeline.encode(PROMPT).positive
    plain = [_velocity(ours, embedding, attend) for attend in (None, kernels()["eager"].load())]
    ours.engine.denoiser.compile_repeated_blocks(fullgraph=True, backend="eager")
    traced = [_velocity(ours, embedding, attend) for attend in (None, kernels()["eager"].load())]
    assert all(float((one - other).abs().max()) <= 1e-5 for one, other in zip(traced, plain, strict=True))


# ------------------------------------------------------------------------------------------------- bits and memory


@pytest.mark.parametrize("lora_mode", ["fuse", "adapter"])
@pytest.mark.parametrize("mode", MODES)
def test_quantized_with_a_lora_wherever_it_waits(folder, base, tmp_path, mode, lora_mode):
    lora = write_lora(tmp_path / "lora.safetensors", base.transformer, LAYERS)
    check_quantized_with_a_lora_wherever_it_waits(folder, lora, mode, lora_mode, guidance=0.0)


def test_layers_that_everything_passes_through_are_left(folder):
    pipe = dit360.load(str(folder), device="cpu", precision="fp32", quantization_mode="int8")
    (told,) = (part for part in pipe.state.quantized if part.part == "transformer")
    assert set(told.left) == {
        "img_in", "txt_in.linear_1", "txt_in.linear_2", "time_embed.linear_1", "time_embed.linear_2", "time_mod_proj",
        "text_fusion.projector", "final_layer.linear",
    }  # fmt: skip
    assert {layer.name for layer in told.layers} >= {f"transformer_blocks.0.attn.to_{n}" for n in "qkv"}


def test_memory_is_predicted(pipeline):
    check_weights_are_predicted(pipeline)
    check_step_is_predicted(pipeline, pipeline.encode("a sea " * 200).positive, width=1024)


def test_the_family_is_recognised_by_its_folder_alone(folder):
    assert architecture_of(folder).name == "krea"
