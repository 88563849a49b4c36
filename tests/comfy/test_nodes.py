"""The pipeline's nodes, called as ComfyUI calls them, without ComfyUI."""

import logging
import queue

import attrs
import dit360_core
import numpy as np
import pytest
import torch
from dit360_comfy import model as sources
from dit360_comfy.choices import choices
from dit360_comfy.conditioning import UNKNOWN, conditioning_from, conditioning_of
from dit360_comfy.edges import BLEND_MODES, blended, fitted
from dit360_comfy.inputs import Control
from dit360_comfy.model import source_of, unload_all
from dit360_comfy.nodes import NODE_CLASS_MAPPINGS
from dit360_comfy.nodes.loader import load_options
from dit360_comfy.nodes.parts import load_changes
from dit360_comfy.nodes.sampler import OWN, sample_options
from dit360_comfy.pipe import Pipe
from dit360_comfy.settings import recall, remember, riding
from dit360_comfy.words import WordsOfNodes
from dit360_core.errors import Dit360Error, InputError
from dit360_core.errors.sentences import named, remedy, setting, worded
from dit360_core.models.embedding import Embedding
from dit360_core.options import LoadOptions, SampleOptions, options_of
from dit360_core.panorama.metrics import seam
from dit360_core.panorama.picture import Panorama
from dit360_core.pipeline.stages import Conditioning
from dit360_core.plugins.registry import Registry, default_registry
from invented_plugins import attention, installed, model, offering
from PIL import Image

SMALL = {"width": 128, "height": 64, "steps": 1, "cfg_scale": -1.0, "seed": 5, "circular_padding": -1}
TINY = {"model_path": "tiny", "precision": "auto", "vae_path": "", "t5_path": "", "offload_to_cpu": True}


def node(name: str):
    return NODE_CLASS_MAPPINGS[name]()


def run(name: str, **inputs):
    """As ComfyUI runs a node: checked first, in inference mode."""
    cls = NODE_CLASS_MAPPINGS[name]
    if hasattr(cls, "VALIDATE_INPUTS"):
        linked = {key: value if isinstance(value, bool | int | float | str) else None for key, value in inputs.items()}
        assert cls.VALIDATE_INPUTS(**linked) is True
    with torch.inference_mode():
        made = getattr(cls(), cls.FUNCTION)(**inputs)
    # What else it tells has tests of its own.
    return made["result"] if name == "DiT360Sampler" else made


@pytest.fixture(scope="module")
def latents(pipe, words):
    return run("DiT360Sampler", dit360_pipe=pipe, conditioning=words, **SMALL)[0]


def refused(name: str, **inputs) -> str:
    with pytest.raises(Dit360Error) as told:
        NODE_CLASS_MAPPINGS[name].VALIDATE_INPUTS(**inputs)
    return str(told.value)


# ------------------------------------------------------------------------------------------------------- pictures


def test_a_graph_makes_the_picture_that_the_library_makes(pipe, latents, tiny):
    (image,) = run("DiT360Decode", samples=latents, dit360_pipe=pipe, auto_blend_edges=False)
    panorama = tiny.generate("a meadow", width=128, height=64, steps=1, seed=5)
    assert image.shape == (1, 64, 128, 3)
    assert np.abs((image[0].numpy() * 255).round() - np.asarray(panorama.image, dtype=np.float32)).max() <= 1
    (settings,) = recall(image)
    assert settings["prompt"] == "a meadow"
    assert settings["used"]["seed"] == 5
    assert settings["used"]["tiling"]


def test_latents_are_those_of_the_autoencoder_itself(pipe, latents, tiny):
    config = tiny.engine.pipe.vae.config
    model = tiny.sample(tiny.encode("a meadow"), width=128, height=64, steps=1, seed=5).tensor
    assert torch.allclose(latents["samples"], model / config.scaling_factor + (config.shift_factor or 0.0), atol=1e-5)


def test_what_is_left_to_the_model_is_the_models_own(pipe, words):
    asked = {**SMALL, "width": 0, "height": 0, "steps": 1}
    used = run("DiT360Sampler", dit360_pipe=pipe, conditioning=words, **asked)[0]["samples"].dit360_told[0]["used"]
    assert (used["width"], used["height"], used["guidance"], used["circular_padding"]) == (512, 256, 3.0, 1)
    assert used["latent_rotation"] is True


def test_the_sampler_tells_what_its_zeros_came_to(pipe, words):
    asked = {**SMALL, "width": 0, "height": 0, "steps": 1, "latent_image": {"samples": torch.zeros(2, 4, 8, 16)}}
    with torch.inference_mode():
        told = node("DiT360Sampler").execute(dit360_pipe=pipe, conditioning=words, **asked)["ui"]["text"][0]
    assert told.splitlines() == [
        "width 128, height 64, steps 1, cfg_scale 3, circular_padding 1, seed 5 … 6",
        "scheduler_type flow_match, attention_backend sdpa, latent_rotation on, position_interpolation on",
    ]


def test_a_batch_counts_the_seed_up_and_decodes_one_by_one(pipe, words, latents):
    empty = {"samples": torch.zeros(2, 4, 8, 16)}
    (two,) = run("DiT360Sampler", dit360_pipe=pipe, conditioning=words, latent_image=empty, **{**SMALL, "seed": 4})
    assert two["samples"].shape[0] == 2
    assert torch.equal(two["samples"][1:], latents["samples"])
    (image,) = run("DiT360Decode", samples=two, dit360_pipe=pipe, auto_blend_edges=False)
    assert [told["used"]["seed"] for told in recall(image)] == [4, 5]


def test_a_picture_to_begin_with_goes_by_encode_or_by_any_latents(pipe, words, latents):
    (image,) = run("DiT360Decode", samples=latents, dit360_pipe=pipe, auto_blend_edges=False)
    (encoded,) = run("DiT360Encode", image=image, dit360_pipe=pipe)
    begun = {**SMALL, "width": 0, "height": 0, "denoise": 0.5}
    (changed,) = run("DiT360Sampler", dit360_pipe=pipe, conditioning=words, latent_image=encoded, **begun)
    assert changed["samples"].dit360_told[0]["used"]["denoise"] == 0.5
    assert changed["samples"].shape == encoded["samples"].shape
    (kept,) = run(
        "DiT360Sampler", dit360_pipe=pipe, conditioning=words, latent_image=encoded, **{**begun, "denoise": 0.0}
    )
    assert torch.allclose(kept["samples"], encoded["samples"], atol=1e-5)


def test_tiles_are_by_node_then_by_pipe_then_by_loader(pipe, latents):
    combined = run("DiT360PipeCombine", base_pipe=pipe, vae_tile_size_override=512)[0]
    (image,) = run("DiT360Decode", samples=latents, dit360_pipe=combined, auto_blend_edges=False, tiling_mode="always")
    assert recall(image)[0]["requested"]["tile_size_override"] == 512
    (own,) = run(
        "DiT360Decode", samples=latents, dit360_pipe=combined, auto_blend_edges=False, tiling_mode="always",
        tile_size_override=576,
    )  # fmt: skip
    assert recall(own)[0]["requested"]["tile_size_override"] == 576
    assert torch.allclose(image, own, atol=1e-5)


# -------------------------------------------------------------------------------------------------- conditioning


def test_conditioning_is_in_the_form_of_comfyuis_own(words):
    ((tokens, settings),) = words
    assert tokens.ndim == 3
    assert tokens.shape[0] == 1
    assert settings["pooled_output"].ndim == 2
    assert not tokens.is_inference()


def test_combined_conditioning_is_followed_in_the_mean(pipe, words):
    (other,) = run("DiT360TextEncode", dit360_pipe=pipe, prompt="a cave", negative_prompt="", max_length=0)
    alone = [run("DiT360Sampler", dit360_pipe=pipe, conditioning=one, **SMALL)[0]["samples"] for one in (words, other)]
    mixed = run("DiT360Sampler", dit360_pipe=pipe, conditioning=words + other, **SMALL)[0]
    # One Euler step is linear in the velocity.
    assert torch.allclose(mixed["samples"], (alone[0] + alone[1]) / 2, atol=1e-3)
    assert mixed["samples"].dit360_told[0]["prompt"] == "a meadow + a cave"


def test_a_negative_prompt_rides_along_or_comes_by_itself(pipe, tiny, caplog):
    (with_it,) = run("DiT360TextEncode", dit360_pipe=pipe, prompt="a meadow", negative_prompt="fog", max_length=0)
    (fog,) = run("DiT360TextEncode", dit360_pipe=pipe, prompt="fog", negative_prompt="", max_length=0)
    (meadow,) = run("DiT360TextEncode", dit360_pipe=pipe, prompt="a meadow", negative_prompt="", max_length=0)
    within = run("DiT360Sampler", dit360_pipe=pipe, conditioning=with_it, true_guidance=3.0, **SMALL)[0]["samples"]
    beside = run("DiT360Sampler", dit360_pipe=pipe, conditioning=meadow, negative=fog, true_guidance=3.0, **SMALL)[0]
    assert torch.equal(within, beside["samples"])
    assert beside["samples"].dit360_told[0]["negative_prompt"] == "fog"
    ((tokens, _),) = meadow
    assert riding(tokens)["negative"] is None  # not read until a sampler wants it
    without = run("DiT360Sampler", dit360_pipe=pipe, conditioning=meadow, true_guidance=3.0, **SMALL)[0]
    expected = tiny.generate("a meadow", negative_prompt=None, true_guidance=3.0, width=128, height=64, steps=1, seed=5)
    assert without["samples"].dit360_told[0]["used"]["evaluations"] == expected.settings["used"]["evaluations"] == 2
    with caplog.at_level(logging.WARNING, "dit360"):
        run("DiT360Sampler", dit360_pipe=pipe, conditioning=with_it, **SMALL)
    assert "negative prompt is not used" in caplog.text


def test_a_conditioning_of_another_node_is_read_and_its_guidance_obeyed(pipe, words):
    ((tokens, settings),) = words
    plain = [[tokens.clone(), {"pooled_output": settings["pooled_output"], "guidance": 5.0}]]
    told = run("DiT360Sampler", dit360_pipe=pipe, conditioning=plain, **SMALL)[0]["samples"].dit360_told[0]
    assert (told["prompt"], told["used"]["guidance"]) == (UNKNOWN, 5.0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"area": (8, 8, 0, 0)}, "an area"),
        ({"mask": torch.ones(1, 8, 8)}, "a mask"),
        ({"start_percent": 0.2}, "a time range"),
    ],
)
def test_what_the_sampler_cannot_do_is_said_by_name(words, change, told):
    ((tokens, settings),) = words
    with pytest.raises(InputError, match=told):
        conditioning_from([[tokens, {**settings, **change}]], device="cpu", dtype=torch.float32)
    with pytest.raises(InputError, match="is empty"):
        conditioning_from([], device="cpu", dtype=torch.float32)


def test_a_conditioning_without_a_vector_for_the_whole_prompt_is_no_flux_s_and_passes_elsewhere(pipe, words):
    ((tokens, _),) = words
    with pytest.raises(InputError, match="0 in all"):
        run("DiT360Sampler", dit360_pipe=pipe, conditioning=[[tokens.clone(), {}]], **SMALL)
    # Twelve layers of a text encoder, as Krea 2 reads them.
    read = Embedding(tokens=torch.randn(1, 5, 12, 8, generator=torch.Generator().manual_seed(1)))
    against = Embedding(tokens=torch.zeros(1, 3, 12, 8))
    made = conditioning_of(
        Conditioning(prompt="a", negative_prompt="b", positive=read, negative=against, max_sequence_length=5)
    )
    back, guidance = conditioning_from(made, device="cpu", dtype=torch.float32)
    assert made[0][1] == {}
    assert torch.equal(back.positive.tokens, read.tokens)
    assert torch.equal(back.negative.tokens, against.tokens)
    assert (back.positive.pooled, back.negative.pooled, back.negative_prompt, guidance) == (None, None, "b", None)


@pytest.mark.parametrize(
    ("change", "asks"),
    [
        ({"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "mask": None}, False),
        ({"strength": 0.0}, True),
        ({"end_percent": 0.0}, True),
        ({"start_percent": 1.0}, True),
    ],
)
def test_what_asks_for_nothing_passes_and_nothing_else(words, change, asks):
    ((tokens, settings),) = words
    entry = [[tokens, {**settings, **change}]]
    if asks:
        with pytest.raises(InputError, match="does not do"):
            conditioning_from(entry, device="cpu", dtype=torch.float32)
    else:
        conditioning_from(entry, device="cpu", dtype=torch.float32)


def test_what_is_told_of_latents_and_prompts_is_told_of_those_numbers_alone(pipe, words, latents):
    # As ComfyUI's nodes do: a copy of the dictionary, with other numbers in it.
    flipped = {**latents, "samples": latents["samples"].flip(3)}
    (image,) = run("DiT360Decode", samples=flipped, dit360_pipe=pipe, auto_blend_edges=False)
    assert "prompt" not in recall(image)[0]
    ((tokens, settings),) = words
    (made,) = run("DiT360Sampler", dit360_pipe=pipe, conditioning=[[tokens * 0.5, settings]], **SMALL)
    assert recall(made["samples"])[0]["prompt"] == UNKNOWN


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        ({"samples": torch.zeros(1, 32, 3, 8, 16)}, "no picture's"),
        ({"samples": torch.zeros(1, 4, 8, 16)}, "4 channels"),
        ({"samples": torch.zeros(1, 32, 8, 8)}, "twice as wide as high"),
    ],
)
def test_latents_of_something_else_are_refused(pipe, samples, told):
    with pytest.raises(InputError, match=told):
        run("DiT360Decode", samples=samples, dit360_pipe=pipe, auto_blend_edges=False)


def test_a_size_that_contradicts_the_latents_is_refused(pipe, words, latents):
    with pytest.raises(InputError, match="latent_image has 128×64 pixels, and 256×128"):
        run(
            "DiT360Sampler", dit360_pipe=pipe, conditioning=words, latent_image=latents,
            **{**SMALL, "width": 256, "height": 128},
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------- models and parts


def test_two_loaders_that_ask_for_the_same_share_one_model(pipe):
    again = run("DiT360Loader", **TINY)[0]
    assert again.model.source is pipe.model.source
    assert run("DiT360Loader", **{**TINY, "vae_tile_size": 1024})[0].model.source is not pipe.model.source


def test_weights_come_when_they_are_used_and_go_when_they_are_unwanted(words, latents):
    source = source_of(LoadOptions(model="tiny", strict=True))
    assert not source.in_memory
    (image,) = run("DiT360Decode", samples=latents, dit360_pipe=Pipe.of(source), auto_blend_edges=False)
    assert source.in_memory
    told = run("DiT360Unload", value=image, dit360_pipe=Pipe.of(source))
    assert told["result"][0] is image
    assert "Dropped 1 model" in told["ui"]["text"][0]
    assert not source.in_memory
    assert "nothing" in run("DiT360Unload", value=image, dit360_pipe=Pipe.of(source))["result"][1]
    (same,) = run("DiT360Decode", samples=latents, dit360_pipe=Pipe.of(source), auto_blend_edges=False)
    assert torch.equal(same, image)
    assert unload_all() >= 1


def test_memory_that_cannot_be_given_back_is_told_and_the_next_is(monkeypatch, caplog):
    tried: queue.SimpleQueue = queue.SimpleQueue()

    def give_back():
        tried.put(None)
        raise RuntimeError("the cache is locked")

    monkeypatch.setattr(sources, "GRACE", 0)
    monkeypatch.setattr(sources, "give_back_memory", give_back)
    sources._start_giving_back()
    for _ in range(2):
        sources._gone.put(None)
        tried.get(timeout=600)
    assert "could not be given back: the cache is locked" in caplog.text


def test_parts_that_were_taken_apart_and_put_together_are_the_same_model(pipe, words, latents):
    model, vae, text_encoder, whole = run("DiT360PipeBreakout", dit360_pipe=pipe)
    assert whole is pipe
    (combined,) = run("DiT360PipeCombine", base_pipe=pipe, model=model, vae=vae, text_encoder=text_encoder)
    assert combined == pipe
    with pytest.raises(InputError, match="model is a vae, but must be a transformer"):
        run("DiT360PipeCombine", base_pipe=pipe, model=vae)


def test_another_kernel_is_another_choice_for_the_same_weights(pipe, words):
    (eager,) = run("DiT360PipeCombine", base_pipe=pipe, attention_backend_override="eager", attention_slice_override=16)
    assert eager.model.source is pipe.model.source
    used = run("DiT360Sampler", dit360_pipe=eager, conditioning=words, **SMALL)[0]["samples"].dit360_told[0]["used"]
    assert (used["attention"]["used"], used["attention_slice_size"]) == ("eager", 16)


def test_another_quantization_is_other_weights(pipe, words, latents):
    (int8,) = run("DiT360PipeCombine", base_pipe=pipe, quantization_override="int8")
    assert int8.model.source.options.quantization_mode == "int8"
    (made,) = run("DiT360Sampler", dit360_pipe=int8, conditioning=words, **SMALL)
    assert not torch.equal(made["samples"], latents["samples"])


def test_an_autoencoder_of_another_model_is_read_alone(pipe, tiny_copy, latents):
    other = run("DiT360Loader", **{**TINY, "custom_model": str(tiny_copy)})[0]
    (combined,) = run("DiT360PipeCombine", base_pipe=pipe, vae=other.vae)
    run("DiT360Decode", samples=latents, dit360_pipe=combined, auto_blend_edges=False)
    source = combined.vae.at_hand
    with source.pipeline() as pipeline:
        kept = pipeline.engine.pipe
        assert kept.transformer is None
        assert kept.vae is not None  # another seed does not read it again
    assert not other.model.source.in_memory
    with other.model.source.pipeline():
        assert combined.vae.at_hand is other.model.source


def test_what_is_left_to_the_model_may_be_the_base_pipes(pipe, words, tiny_copy):
    other = run("DiT360Loader", **{**TINY, "custom_model": str(tiny_copy)})[0]
    (combined,) = run("DiT360PipeCombine", base_pipe=pipe, model=other.model, refresh_metadata_from_components=False)
    used = run("DiT360Sampler", dit360_pipe=combined, conditioning=words, **SMALL)[0]["samples"].dit360_told[0]["used"]
    assert used["latent_rotation"] is True  # a folder alone would say nothing of it
    (refreshed,) = run("DiT360PipeCombine", base_pipe=pipe, model=other.model)
    used = run("DiT360Sampler", dit360_pipe=refreshed, conditioning=words, **SMALL)[0]["samples"].dit360_told[0]["used"]
    assert used["latent_rotation"] is False


def test_a_lora_changes_this_pipe_and_no_other(pipe, words, latents, tmp_path):
    from lora_files import write

    dim = dit360_core.load("tiny").engine.config
    file = str(write(tmp_path, "peft", dim=dim.num_attention_heads * dim.attention_head_dim))
    merged = run("DiT360LoRALoader", dit360_pipe=pipe, lora_path=file, strength=1.0, merge_mode="merge")[0]
    (changed,) = run("DiT360Sampler", dit360_pipe=merged, conditioning=words, **SMALL)
    assert not torch.equal(changed["samples"], latents["samples"])
    assert changed["samples"].dit360_told[0]["used"]["added_loras"][0]["tensors_used"] == 4
    (before,) = run("DiT360Sampler", dit360_pipe=pipe, conditioning=words, **SMALL)
    assert torch.equal(before["samples"], latents["samples"])
    unmerged = run("DiT360LoRALoader", dit360_pipe=merged, lora_path=file, strength=1.0, merge_mode="unmerge")[0]
    assert unmerged == pipe
    with pytest.raises(InputError, match="cannot be taken away"):
        run("DiT360LoRALoader", dit360_pipe=pipe, lora_path=file, strength=1.0, merge_mode="unmerge")
    with pytest.raises(Dit360Error, match="no LoRA"):
        run("DiT360LoRALoader", dit360_pipe=pipe, lora_path=str(tmp_path / "none"), strength=1.0, merge_mode="merge")


# ------------------------------------------------------------------------------------------- inputs, and bad ones


def test_offloading_by_itself_never_changes_the_picture():
    room = 24 * 2**30
    there = load_options({**TINY, "model_path": "dit360"}, device="cuda", room=room)
    assert (there.device, there.vram, there.preset, there.offload) == ("cuda", "24.0", "quality", "none")
    resident = load_options({**TINY, "offload_to_cpu": False}, device="cuda", room=room)
    assert (resident.vram, resident.preset) == (None, "none")
    asked = load_options({**TINY, "offload": "group"}, device="cuda", room=room)
    assert (asked.vram, asked.offload) == (None, "group")
    named = load_options({**TINY, "preset": "low-vram"}, device="cuda", room=room)
    assert (named.vram, named.preset) == (None, "low-vram")
    assert load_options(TINY, device="cpu", room=0) == LoadOptions(model="tiny", device="cpu")


def test_fp8_is_eight_bits_of_storage():
    options = load_options({**TINY, "precision": "fp8"}, device="cpu", room=0)
    assert (options.precision, options.quantization_mode) == ("auto", "fp8")
    assert "say two things" in refused("DiT360Loader", **{**TINY, "precision": "fp8", "quantization_mode": "int8"})


@pytest.mark.parametrize(
    ("name", "inputs", "told"),
    [
        ("DiT360Loader", {**TINY, "model_path": "tinny"}, "did you mean tiny"),
        ("DiT360Loader", {**TINY, "attention_backend": "eagle"}, "did you mean eager"),
        ("DiT360Loader", {**TINY, "precision": "fp4"}, "precision is 'fp4', but must be one of"),
        ("DiT360Loader", {**TINY, "vae_tile_size": 100}, "vae_tile_size is 100, but must be 512 … 8192"),
        ("DiT360Loader", {**TINY, "vram": "lots"}, "vram is 'lots'"),
        ("DiT360Sampler", {**SMALL, "width": 1000, "height": 500}, "take 992×496"),
        ("DiT360Sampler", {**SMALL, "steps": 151}, "steps is 151, but must be 0 … 150"),
        ("DiT360Sampler", {**SMALL, "cfg_scale": float("nan")}, "cfg_scale is nan"),
        ("DiT360Sampler", {**SMALL, "scheduler_type": "eular"}, "no scheduler named 'eular'"),
        ("DiT360Sampler", {**SMALL, "scheduler_eta": 0.5}, "has no effect with the scheduler 'flow_match'"),
        ("DiT360Decode", {"auto_blend_edges": True, "tiling_mode": "never", "tiling_level": "stored"}, "has no effect"),
        ("DiT360Decode", {"auto_blend_edges": True, "tiling_backend": "tils"}, "no tiling named"),
        ("DiT360PipeCombine", {"dtype_override": "fp4"}, "dtype_override is 'fp4'"),
        ("DiT360PipeCombine", {"offload_device_override": "disk"}, "must be cpu, none or pipeline"),
        ("DiT360Sampler", {**SMALL, "cfg_scale": -0.5}, "cfg_scale is -0.5"),
        ("DiT360Sampler", {**SMALL, "width": 1600, "height": 832}, "or leave height at 0"),
        ("DiT360Sampler", {**SMALL, "denoise": 0.5}, "connect a DiT360 Encode to it, or set denoise to 1"),
        ("DiT360Loader", {**TINY, "quantization_mode": "int7"}, "The node DiT360 Backends lists them"),
        ("Equirect360Process", {"blend_width": 101}, "blend_width is 101, but must be 0 … 100"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_before_anything_runs(name, inputs, told):
    sentence = refused(name, **inputs)
    assert told in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(("name", "value"), [("steps", "abc"), ("seed", 10**400), ("steps", True)])
def test_values_that_are_no_numbers_are_told_with_the_name_of_their_input(name, value):
    assert refused("DiT360Sampler", **{**SMALL, name: value}).startswith(f"{name} is ")


def test_what_another_node_gives_is_checked_when_it_is_there():
    image = torch.rand(1, 20, 40, 3)
    given = {
        "image": image, "enforce_2_1_ratio": True, "fix_mode": "pad", "blend_edges": True, "blend_width": 10,
        "blend_mode": "bar",
    }  # fmt: skip
    with pytest.raises(InputError, match="blend_mode is 'bar'"):
        node("Equirect360Process").execute(**given)
    with pytest.raises(InputError, match="steps is 500"):
        node("DiT360Sampler").execute(dit360_pipe=None, conditioning=None, **{**SMALL, "steps": 500})


def test_overrides_of_a_device_let_go_of_what_was_decided_for_another():
    base = LoadOptions(model="tiny", device="cuda", vram="23.0", preset="quality")
    there = load_changes({"device_override": "cpu"}, base)
    assert (there.device, there.vram, there.preset, there.offload) == ("cpu", None, "none", "none")
    stays = load_changes({"offload_device_override": "none"}, base)
    assert (stays.device, stays.vram, stays.preset, stays.offload) == ("cuda", None, "none", "none")
    assert load_changes({"quantization_override": "int8"}, base).vram == "23.0"


def test_a_device_that_the_core_does_not_know_is_told_with_what_to_do():
    with pytest.raises(InputError, match="ComfyUI computes on xpu"):
        load_options(TINY, device="xpu", room=0)


def test_an_option_is_told_by_its_inputs_name_and_paths_stay_paths():
    names = WordsOfNodes({"device": "device_override", "guidance": "cfg_scale"})
    said = f"{named('guidance')} is -1, see /data/device/guidance.safetensors; {setting('device', 'cpu')}"
    assert worded(said, names) == "cfg_scale is -1, see /data/device/guidance.safetensors; device_override=cpu"


def test_advice_is_told_in_words_of_nodes_and_a_name_stays_a_name():
    told = worded(
        f"model 'leave it out': {remedy('leave_out')}, or {remedy('encode_with_this_model')}.", WordsOfNodes()
    )
    assert told == "model 'leave it out': set it back to its default, or use DiT360 Text Encode with this model."


def test_numbers_of_numpy_are_numbers_and_linked_switches_wait():
    given = {**SMALL, "width": np.int64(256), "height": np.int64(128), "latent_rotation": None}
    assert NODE_CLASS_MAPPINGS["DiT360Sampler"].VALIDATE_INPUTS(**given) is True
    assert type(sample_options(given, OWN)["width"]) is int


def test_a_model_that_waits_for_another_is_not_dropped_for_it(monkeypatch, pipe, words):
    from dit360_comfy import model

    other = source_of(LoadOptions(model="tiny", strict=True))
    other.unload()
    monkeypatch.setattr(model, "free_memory", lambda device: 0)
    with pipe.model.source.pipeline() as waiting:
        with other.pipeline():
            pass
        waiting.sample(waiting.encode("a meadow"), width=64, height=32, steps=1)
    assert pipe.model.source.in_memory
    with source_of(LoadOptions(model="tiny", vae_tile_size=1088)).pipeline():
        assert not pipe.model.source.in_memory  # now nobody waits


def test_pipes_of_other_packs_are_refused():
    with pytest.raises(InputError, match="is a dict of another node pack"):
        run("DiT360PipeBreakout", dit360_pipe={"pipe": object()})


def test_drop_downs_hold_what_is_registered():
    assert choices("attention", first=["auto"]).names[0] == "auto"
    assert {"eager", "sdpa"} <= set(choices("attention").names)
    assert {"none", "int8", "fp8"} <= set(choices("quantization").names)
    assert {"flow_match", "unipc"} <= set(choices("scheduler").names)
    assert "tiny" in choices("model").names


def test_two_plugins_of_one_name_are_offered_by_address(monkeypatch):
    from dit360_comfy import choices as module

    twins = [
        *installed("twin-a", offering(attention("same", priority=3))),
        *installed("twin-b", offering(attention("same"))),
    ]
    monkeypatch.setattr(module, "default_registry", lambda: Registry(entry_points=twins))
    found = module._judged.__wrapped__("attention")
    assert {"twin-a:same", "twin-b:same", "eager"} <= set(found.names)
    assert "same" not in found.names


def test_the_loader_lists_a_distribution_s_models_while_it_is_installed(monkeypatch):
    from dit360_comfy import choices as module

    listed = NODE_CLASS_MAPPINGS["DiT360Loader"].INPUT_TYPES
    # Those of the families' distributions too, where they are installed.
    known = {entry.name for entry in default_registry().entries("model")}
    assert known <= set(listed()["required"]["model_path"][0])
    for points in (installed("dit360-model-other", offering(model("other-360"))), []):
        registry = Registry(entry_points=points)
        monkeypatch.setattr(module, "default_registry", lambda registry=registry: registry)
        monkeypatch.setattr(module, "_judged", module._judged.__wrapped__)
        names = listed()["required"]["model_path"][0]
        assert ("other-360" in names) == bool(points)
        assert {"dit360", "tiny"} <= set(names)
        monkeypatch.undo()


@pytest.mark.parametrize("cls", [LoadOptions, SampleOptions])
def test_a_control_is_the_option_itself(cls):
    for option in options_of(cls).values():
        unset = {int: 0, float: -1.0}.get(option.kind, "")
        control = Control(options=cls, option=option.name, unset=unset if option.optional else None)
        kind, settings = control.spec()
        assert settings["tooltip"]
        if kind not in ("STRING",) and option.default is not attrs.NOTHING:
            assert control.value(settings["default"]) == option.default, option.name


def test_the_report_names_every_offer_and_says_why_not():
    text = run("DiT360Backends", try_kernels=False)["result"][0]
    assert "+ sdpa" in text
    assert "+ flow_match" in text


# --------------------------------------------------------------------------------------------- shape and edges


def stripes(height: int = 64, step: float = 0.3) -> torch.Tensor:
    """A picture with some texture and a step over its edge."""
    generator = torch.Generator().manual_seed(1)
    ramp = torch.linspace(0.3, 0.3 + step, 2 * height)[None, :, None].expand(height, -1, 3)
    return (ramp + 0.01 * torch.randn(height, 2 * height, 3, generator=generator)).clamp(0, 1)[None]


@pytest.mark.parametrize("mode", BLEND_MODES)
def test_a_step_over_the_edge_goes_and_comes_up_nowhere_else(mode):
    image = stripes()
    out, report = blended(image, 10, mode)
    assert seam((image[0] * 255).byte().numpy()).ratio > 5
    assert 0.5 < report[0]["seam_ratio_after"] < 1.25
    columns = (out[0].roll(1, 1) - out[0]).abs().mean((0, 2))
    assert columns.max() < 4 * columns.median()
    assert torch.equal(out[:, :, 10:-10], image[:, :, 10:-10])


def test_a_picture_without_a_seam_stays_as_it_is():
    image = torch.cat([stripes(32), stripes(32).flip(2)], dim=2)
    out, report = blended(image, 10, "cosine")
    assert out is image
    assert report == [{"blended": False, "seam_ratio": report[0]["seam_ratio"]}]


def test_a_good_picture_is_left_as_it_is_beside_a_bad_one():
    good = torch.cat([stripes(32), stripes(32).flip(2)], dim=2)
    bad = stripes(64)[:, :32]
    out, (first, second) = blended(torch.cat([good, bad]), 10, "cosine")
    assert torch.equal(out[:1], good)
    assert (first["blended"], second["blended"]) == (False, True)


def test_a_square_picture_becomes_a_panorama_whose_settings_a_file_can_hold(tmp_path):
    (out,) = run(
        "Equirect360Process", image=torch.rand(1, 40, 40, 3), enforce_2_1_ratio=True, fix_mode="pad", blend_edges=True,
        blend_width=10, blend_mode="cosine",
    )  # fmt: skip
    pixels = Image.fromarray((out[0].numpy() * 255).astype(np.uint8))
    Panorama(pixels, recall(out)[0]).save(tmp_path / "a.png")


def test_decoding_blends_only_if_it_is_asked_to(pipe, latents):
    plain = run("DiT360Decode", samples=latents, dit360_pipe=pipe, auto_blend_edges=False)[0]
    asked = run("DiT360Decode", samples=latents, dit360_pipe=pipe, auto_blend_edges=True)[0]
    assert "edges" not in recall(plain)[0]
    edges = recall(asked)[0]["edges"]
    assert edges["blended"] or torch.equal(plain, asked)


@pytest.mark.parametrize(("width", "height"), [(100, 40), (80, 60), (101, 50), (61, 99)])
@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
def test_every_picture_becomes_twice_as_wide_as_high(mode, width, height):
    out = fitted(torch.rand(2, height, width, 3), mode)
    assert out.shape[2] == 2 * out.shape[1]
    assert out.shape[0] == 2


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_pictures_are_evened_out_too(channels):
    image = torch.linspace(0, 1, 64)[None, None, :, None].expand(1, 32, 64, channels).clone()
    given = {
        "enforce_2_1_ratio": True,
        "fix_mode": "none",
        "blend_edges": True,
        "blend_width": 10,
        "blend_mode": "cosine",
    }
    (out,) = run("Equirect360Process", image=image, **given)
    assert out.shape == image.shape
    assert (out[:, :, 0] - out[:, :, -1]).abs().max() < 0.2
    image[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        run("Equirect360Process", image=image, **given)


def test_a_picture_of_that_shape_is_the_same_one_and_its_settings_stay():
    image = remember(torch.rand(1, 20, 40, 3), [{"prompt": "x"}])
    (out,) = run(
        "Equirect360Process", image=image, enforce_2_1_ratio=True, fix_mode="none", blend_edges=False, blend_width=10,
        blend_mode="cosine",
    )  # fmt: skip
    assert torch.equal(out, image)
    assert recall(out) == ({"prompt": "x"},)
    with pytest.raises(InputError, match="50×20"):
        fitted(torch.rand(1, 20, 50, 3), "none")
