"""From files to a pipeline: what is not whole is refused, what does not fit is told."""

import logging

import attrs
import dit360_core as dit360
import pytest
import torch
from dit360_core.pipeline.loading import prepare
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.pipeline.state import State
from dit360_core.planning.checks import check_loading
from dit360_core.planning.plan import make_plan
from dit360_core.planning.quantization import choose_quantization
from dit360_core.plugins.choosing import select
from dit360_core.plugins.offers import AttentionBackend, AttentionNeed, Model, Scheduler
from dit360_core.plugins.registry import Registry, default_registry
from dit360_core.system.machine import Machine
from dit360_core.system.memory import OutOfMemory, explain_full_memory
from invented_plugins import installed, offering
from random_models import random_conditioning, random_flux
from safetensors.torch import load_file, save_file

SIZE = {"width": 128, "height": 64, "steps": 2, "seed": 1}
DIT360_LORA = "Insta360-Research/DiT360-Panorama-Image-Generation"


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "text_encoder_2"])
def test_a_part_that_lacks_a_weight_is_refused_not_filled_with_random_numbers(tiny_copy, part):
    (file,) = (tiny_copy / part).glob("*.safetensors")
    weights = load_file(file)
    del weights[next(name for name in sorted(weights) if weights[name].ndim in (2, 4) and "embed" not in name)]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(dit360.ModelError, match=rf"{part} lacks 1 of its weights"):
        dit360.load(str(tiny_copy))


def test_fp16_keeps_the_autoencoder_in_float32():
    pipe = dit360.load("tiny", precision="fp16")
    assert pipe.engine.pipe.vae.dtype == torch.float32
    assert pipe.engine.denoiser.dtype == torch.float16
    assert pipe.decode(torch.zeros(1, 32, 4, 8)).size == (64, 32)


@pytest.mark.parametrize(
    "error", [RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), MemoryError()]
)
def test_memory_that_runs_out_is_one_sentence(error):
    sentence = r"too little memory on the cuda for decoding.*offload"
    with pytest.raises(OutOfMemory, match=sentence), explain_full_memory("decoding 8192×4096", "cuda"):
        raise error


def test_other_errors_are_not_taken_for_memory():
    with pytest.raises(RuntimeError, match="shape"), explain_full_memory("decoding", "cpu"):
        raise RuntimeError("shape mismatch")


@pytest.mark.parametrize("given", [{"offload": "model"}, {"lora_strength": 0.5}])
def test_load_options_without_effect_are_refused_before_anything_is_read(given):
    with pytest.raises(dit360.InputError):
        dit360.load("tiny", device="cpu", **given)


def test_everything_cheap_is_checked_before_a_download():
    """A model on the Hub that is not there: every other mistake is told first."""
    model = Model(name="far", api=1, base="nobody/far-away", width=64, height=32)
    registry = Registry(entry_points=installed("far", offering(model)))
    picture = (dit360.SampleOptions(prompt="x"), dit360.DecodeOptions(tiling_mode="always", tiling_backend="whole"))
    with pytest.raises(dit360.BackendUnavailable, match="tiling_mode=always"):
        prepare(dit360.LoadOptions(model="far"), registry=registry, machine=Machine(), picture=picture)
    with pytest.raises(dit360.InputError, match="offload"):
        prepare(dit360.LoadOptions(model="far", offload="model"), registry=registry, machine=Machine())
    with pytest.raises(dit360.ModelError, match="no LoRA"):
        prepare(dit360.LoadOptions(model="far", lora="./typo"), registry=registry, machine=Machine())
    with pytest.raises(dit360.ModelError, match="nobody/far-away is not complete in the local cache"):
        prepare(dit360.LoadOptions(model="far"), registry=registry, machine=Machine())


@pytest.mark.parametrize("option", [{"lora": "x"}, {"precision": "bf16"}, {"device": "cpu"}, {"offload": "model"}])
def test_a_loaded_pipeline_refuses_options_that_it_decides(option):
    with pytest.raises(dit360.InputError, match=next(iter(option))):
        Pipeline.from_diffusers(random_flux(), **option)


@pytest.mark.parametrize("option", [{"prompt": "another"}, {"negative_prompt": "x"}, {"max_sequence_length": 9}])
def test_sampling_refuses_what_belongs_to_encoding(option):
    with pytest.raises(dit360.InputError, match="belongs to encode"):
        Pipeline.from_diffusers(random_flux()).sample(random_conditioning(), **option)


@pytest.mark.parametrize("value", [None, "4", True])
def test_true_guidance_of_another_type_is_one_sentence(value):
    with pytest.raises(dit360.InputError, match="true_guidance"):
        Pipeline.from_diffusers(random_flux()).sample(random_conditioning(), true_guidance=value)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"lora": "a:0.5", "lora_strength": 0.7}, "every LoRA is given a strength of its own"),
        ({"lora": ["a:0.5", "b:1"], "lora_strength": 0.7}, "every LoRA is given a strength of its own"),
        ({"lora_strength": 0.7}, "no LoRA is loaded; give one with lora"),
        ({"model_lora": False}, "tiny has no LoRA of its own"),
        ({"lora_mode": "adapter"}, "no LoRA is loaded"),
    ],
)
def test_options_of_loras_without_effect_are_refused(options, why):
    model = default_registry().find("model", "tiny")[0].offer
    with pytest.raises(dit360.InputError, match=f"has no effect, because .*{why}"):
        check_loading(dit360.LoadOptions(**options), Machine(), model)


@pytest.mark.parametrize(
    ("options", "loras"),
    [
        ({"lora": "style.safetensors"}, [("own", 1.0), ("style.safetensors", 1.0)]),
        ({"lora": ["a:0.5", "b:-1"]}, [("own", 1.0), ("a", 0.5), ("b", -1.0)]),
        ({"lora": [("a", 0.5), "b"], "lora_strength": 0.25}, [("own", 1.0), ("a", 0.5), ("b", 0.25)]),
        ({"lora": "a", "model_lora": False}, [("a", 1.0)]),
        ({"lora_strength": 0.8}, [("own", 0.8)]),
        ({"lora": ["a", f"{DIT360_LORA}:0.7"]}, [("own", 0.7), ("a", 1.0)]),
        ({"model_lora": False}, []),
    ],
)
def test_loras_are_applied_beside_the_model_s_own(options, loras):
    options = dit360.LoadOptions(model="dit360", **options)
    registry, machine = default_registry(), Machine()
    need = AttentionNeed(device="cpu", dtype="fp32", heads=1, head_dim=8, length=8)
    attention, _ = select("attention", "auto", registry, machine, need)
    quantization, _ = choose_quantization(options, registry, machine, "fp32")
    model = registry.find("model", "dit360")[0].offer
    plan = make_plan(options, machine, model, "fp32", attention, quantization)
    assert [("own" if lora.own else lora.name, lora.strength) for lora in plan.loras] == loras
    assert [line for line in State(plan=plan).sentences() if line.startswith("lora: ")] == [
        f"lora: {lora.sentence()} fused" for lora in plan.loras
    ]


def test_a_plugin_that_fails_in_the_middle_is_named():
    class Fails:
        def __init__(self, settings):
            pass

        def sigmas(self, steps, tokens):
            return [1 - i / steps for i in range(steps + 1)]

        def step(self, velocity, sigma, sigma_next, x, generator):
            raise ZeroDivisionError("oops")

    registry = Registry(
        entry_points=installed("somebody", offering(Scheduler(name="fails", api=1, load=Fails)), version="3.2")
    )
    pipeline = Pipeline.from_diffusers(random_flux(), registry=registry)
    with pytest.raises(dit360.Dit360Error, match=r"fails \(somebody 3\.2\) raised ZeroDivisionError: oops"):
        pipeline.sample(random_conditioning(), scheduler_type="fails", **SIZE)


def test_a_kernel_that_was_asked_for_and_cannot_run_is_told_once(caplog):
    def broken():
        raise ImportError("undefined symbol: _ZN3c10")

    offer = AttentionBackend(name="broken", api=1, load=broken)
    registry = Registry(entry_points=installed("somebody", offering(offer)))
    with caplog.at_level(logging.WARNING, "dit360"):
        pipeline = Pipeline.from_diffusers(random_flux(), registry=registry, attention_backend="broken")
        pipeline.sample(random_conditioning(), **SIZE)
    assert [r.getMessage() for r in caplog.records if "undefined symbol" in r.getMessage()] == [
        "attention: sdpa instead of broken, because loading it raised ImportError: undefined symbol: _ZN3c10"
    ]
    assert attrs.asdict(pipeline.plan.attention)["requested"] == "broken"


def test_a_pipeline_whose_weights_are_bytes_is_refused_in_one_sentence():
    pipe = random_flux()
    pipe.transformer.to(torch.float8_e4m3fn)
    with pytest.raises(dit360.InputError, match=r"holds weights of float8_e4m3fn .*torch_dtype torch\.bfloat16.*fp8"):
        Pipeline.from_diffusers(pipe)


def test_bytes_that_diffusers_widens_before_they_are_used_are_fine():
    pipe = random_flux()
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    pipeline = Pipeline.from_diffusers(pipe)
    assert torch.isfinite(pipeline.sample(random_conditioning(), **SIZE).tensor).all()


def test_a_pipeline_without_guidance_has_the_steps_of_schnell():
    assert Pipeline.from_diffusers(random_flux(guidance_embeds=False)).plan.model.steps == 4
    assert Pipeline.from_diffusers(random_flux()).plan.model.steps == 28


def test_a_pipeline_that_fills_has_the_steps_and_guidance_of_fill():
    model = Pipeline.from_diffusers(random_flux(fills=True)).plan.model
    assert (model.steps, model.guidance) == (50, 30.0)


def test_a_pipeline_that_follows_a_control_picture_is_called_so():
    pipe = random_flux()
    pipe.transformer.register_to_config(in_channels=128, out_channels=64)
    with pytest.raises(dit360.ModelError, match=r"as FLUX\.1-Depth and FLUX\.1-Canny do"):
        Pipeline.from_diffusers(pipe)


def test_a_folder_of_one_variant_paints_the_same_and_its_strange_tensors_are_refused(tiny_copy, tiny):
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        [file] = (tiny_copy / part).glob("*.safetensors")
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    made = dit360.load(str(tiny_copy), precision=tiny.plan.precision)
    [mine, theirs] = (pipe.engine.denoiser.state_dict() for pipe in (made, tiny))
    assert all(tensor.equal(theirs[name]) for name, tensor in mine.items())
    file = tiny_copy / "text_encoder_2" / "model.fp16.safetensors"
    save_file({**load_file(file), "encoder.strange": torch.ones(1)}, file)
    with pytest.raises(dit360.ModelError, match=r"holds 1 tensors that its configuration has no place for"):
        dit360.load(str(tiny_copy))
