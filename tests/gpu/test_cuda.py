"""What only a CUDA device can show."""

from importlib.metadata import entry_points
from importlib.util import find_spec

import attrs
import dit360_core as dit360
import pytest
import torch
from dit360_core.batching import Batch
from dit360_core.models.flux.small import small_autoencoder
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.plugins.builtin.attention_kernels import eager
from dit360_core.plugins.registry import Registry, default_registry
from dit360_core.sphere.vae import LEVELS, decode_exact, decode_whole, decoder_steps, make_schedule
from invented_plugins import attention, installed, offering
from random_models import random_conditioning, random_flux

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

PICTURE = {"prompt": "a calm sea under a starry night sky", "seed": 3, "width": 256, "steps": 8}


def psnr(a, b):
    import numpy as np

    error = ((np.asarray(a.image, dtype=float) - np.asarray(b.image, dtype=float)) ** 2).mean()
    return 10 * np.log10(255**2 / max(error, 1e-9))


def test_a_seed_gives_the_same_picture_on_cpu_and_gpu():
    cpu, gpu = (dit360.load("tiny", device=device).generate(**PICTURE) for device in ("cpu", "cuda"))
    assert psnr(cpu, gpu) >= 40


def test_moving_weights_to_the_gpu_is_told():
    heard = []
    dit360.load("tiny", device="cuda", offload="none", progress=lambda *told: heard.append(told))
    moved = [told for told in heard if told[0] == "Moving weights to cuda"]
    assert moved[0][1] == 0
    assert moved[-1][1] == moved[-1][2] > 0


@pytest.mark.parametrize("solver", ["flow_match", "heun", "unipc", "dpmpp_2m", "ddim"])
def test_every_solver_paints_the_same_picture_on_cpu_and_gpu(solver):
    """Fresh noise too: it is drawn on the CPU."""
    options = {**PICTURE, "scheduler_type": solver, "scheduler_eta": 0.5 if solver == "ddim" else 0.0}
    options |= {"yaw_consistency": 0.5, "cube_consistency": 0.5}
    cpu, gpu = (dit360.load("tiny", device=device).generate(**options) for device in ("cpu", "cuda"))
    assert psnr(cpu, gpu) >= 40


def test_a_model_that_fills_paints_the_same_on_cpu_and_gpu():
    asked = {"width": 128, "height": 64, "steps": 3, "seed": 1, "latent_rotation": True, "yaw_consistency": 0.5}
    hole = torch.zeros(1, 1, 64, 128)
    hole[..., 9:51, 37:90] = 1
    pixels = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(2))
    made = []
    for device in ("cpu", "cuda"):
        pipe = Pipeline.from_diffusers(random_flux(fills=True).to(device))
        words = random_conditioning()
        words = attrs.evolve(
            words,
            positive=attrs.evolve(
                words.positive, tokens=words.positive.tokens.to(device), pooled=words.positive.pooled.to(device)
            ),
        )
        made.append(pipe.sample(words, shown=pipe.encode_hole(pixels, hole), **asked).tensor)
    assert (made[0] - made[1]).abs().max() <= 0.01 * made[0].abs().max()


def test_twice_on_the_gpu_is_bit_for_bit():
    pipe = dit360.load("tiny", device="cuda")
    assert pipe.generate(**PICTURE).image.tobytes() == pipe.generate(**PICTURE).image.tobytes()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_paints_the_same_scene(precision):
    full, half = (dit360.load("tiny", device="cuda", precision=p).generate(**PICTURE) for p in ("fp32", precision))
    assert psnr(full, half) >= 25


@pytest.mark.parametrize(
    "options", [{"offload": "text"}, {"offload": "group"}, {"offload": "disk"}, {"evict": "text"}, {"evict": "all"}]
)
def test_where_weights_wait_changes_nothing(options):
    plain = dit360.load("tiny", device="cuda").generate(**PICTURE)
    pipe = dit360.load("tiny", device="cuda", **options)
    for _ in range(2):  # streams learn the order of the blocks in the first run
        assert pipe.generate(**PICTURE).image.tobytes() == plain.image.tobytes()


def test_memory_that_runs_out_on_the_gpu_goes_down_the_ladder_and_comes_back():
    pipe = dit360.load("tiny", device="cuda", attention_backend="eager")
    plain = pipe.generate(**PICTURE)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    # Eager scores of 4096×2048 pixels are some 30 GiB; in slices they are one.
    torch.cuda.set_per_process_memory_fraction(min(1.0, 12 * 2**30 / total))
    try:
        pipe.sample(pipe.encode("a castle"), width=4096, steps=1, seed=1)
        assert any("query rows" in told for told in pipe.given_up)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert psnr(pipe.generate(**PICTURE), plain) >= 50


@pytest.mark.parametrize("offload", ["none", "model", "group"])
def test_after_a_plugin_failed_the_gpus_memory_is_what_it_was_and_the_picture_too(offload):
    calls = []

    def attend(q, k, v, *, scale):
        calls.append(q.shape)
        if len(calls) == 9:  # the first are trials of it
            raise RuntimeError("an illegal instruction")
        return eager(q, k, v, scale=scale)

    offer = attention("breaks", load=lambda: attend, priority=-50)
    registry = Registry(entry_points=[*entry_points(group="dit360"), *installed("faulty", offering(offer))])
    pipe = dit360.load("tiny", device="cuda", offload=offload, registry=registry)
    plain = [pipe.generate(**PICTURE) for _ in range(2)][1]
    before = torch.cuda.memory_allocated()
    with pytest.raises(dit360.Dit360Error, match="A plugin failed while sampling") as kept:
        pipe.generate(**PICTURE, attention_backend="breaks")
    assert torch.cuda.memory_allocated() <= before + 2**20
    assert pipe.generate(**PICTURE).image.tobytes() == plain.image.tobytes()
    assert kept.value.__cause__ is not None


def test_a_batch_on_the_gpu_makes_the_pictures_of_generate(tmp_path):
    (tmp_path / "list.jsonl").write_text('{"prompt": "a castle", "seed": 1}\n{"prompt": "a sea", "seed": 2}\n')
    for engine in ("local", *(["ray"] if find_spec("ray") else [])):
        batch = Batch(tmp_path / "list.jsonl", tmp_path / engine, format="png", engine=engine, width=256, steps=4)
        assert [outcome.status for outcome in batch.run()] == ["done", "done"]
        pipe = dit360.load("tiny")
        for item in batch.items:
            alone = pipe.generate(item.sampling.prompt, seed=item.sampling.seed, width=256, steps=4)
            made = dit360.Panorama.open(batch.folder.path / item.name)
            assert made.image.tobytes() == alone.image.tobytes()


def test_memory_is_measured_and_near_the_prediction():
    pipe = dit360.load("tiny", device="cuda")
    picture = pipe.generate(**PICTURE, log_memory_stats=True)
    for phase in picture.settings["used"]["memory"]["phases"]:
        assert phase["before"] <= phase["peak"] <= phase["reserved"]
        assert phase["peak"] <= 1.5 * phase["predicted"] + 64 * 2**20


def test_compiled_blocks_paint_the_same_picture():
    plain, compiled = (dit360.load("tiny", device="cuda", compile_blocks=c).generate(**PICTURE) for c in (False, True))
    assert psnr(plain, compiled) >= 40


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloading_changes_nothing_and_leaves_the_gpu_empty(offload):
    plain = dit360.load("tiny", device="cuda").generate(**PICTURE)
    torch.cuda.empty_cache()
    pipe = dit360.load("tiny", device="cuda", offload=offload)
    assert pipe.generate(**PICTURE).image.tobytes() == plain.image.tobytes()
    assert {p.device.type for p in pipe.engine.denoiser.parameters()} <= {"cpu", "meta"}


ATTENTION = [entry.address for entry in default_registry().entries("attention")]


@pytest.mark.parametrize("backend", ATTENTION)
@pytest.mark.parametrize(("precision", "alike"), [("fp32", 50), ("bf16", 30)])
def test_whole_pictures_are_the_same_whatever_computes_attention(backend, precision, alike):
    """Every backend that runs here, plugins' too: in bf16 as alike as its rounding lets two kernels be."""
    pipe = dit360.load("tiny", device="cuda", precision=precision, strict=True)
    try:
        picture = pipe.generate(**PICTURE, attention_backend=backend)
    except dit360.BackendUnavailable as error:
        pytest.skip(str(error))
    assert psnr(picture, pipe.generate(**PICTURE, attention_backend="eager")) >= alike


@pytest.mark.parametrize("backend", ["sdpa", "sdpa-efficient", "sdpa-cudnn", "sdpa-math", "eager"])
def test_a_bias_on_the_keys_is_padding(backend):
    pipe = dit360.load("tiny", device="cuda", precision="bf16" if backend == "sdpa-cudnn" else "fp32")
    padded, biased = (
        pipe.generate(**PICTURE, attention_backend=backend, circular_mode=mode) for mode in ("pad", "bias")
    )
    assert biased.settings["used"]["attention"]["used"] == backend
    assert psnr(padded, biased) >= (30 if backend == "sdpa-cudnn" else 50)


@pytest.mark.parametrize("backend", ATTENTION)
def test_kernels_compile(backend):
    """By inductor; a kernel that torch.compile cannot look into may break the graph, not the result."""
    pipe = dit360.load("tiny", device="cuda", precision="bf16", strict=True)
    try:
        plain = pipe.generate(**PICTURE, attention_backend=backend)
    except dit360.BackendUnavailable as error:
        pytest.skip(str(error))
    pipe.engine.denoiser.compile_repeated_blocks()
    assert psnr(pipe.generate(**PICTURE, attention_backend=backend), plain) >= 30


# ----------------------------------------------------------------------------------------------------------- tiling


@pytest.fixture
def full_float32():
    """Convolutions in TensorFloat-32, the default, have ten bits: no yardstick for exactness."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def exact_and_whole(level, dtype, height=24, width=48):
    vae = small_autoencoder(block_out_channels=(32, 64, 64, 64)).to("cuda", dtype)
    latents = torch.randn(1, 16, height, width, generator=torch.Generator().manual_seed(1)).to("cuda", dtype)
    schedule = make_schedule(decoder_steps(vae), height, width, dtype.itemsize, level, tile_size=128, at_least_two=True)
    return vae, latents, decode_exact(vae, latents, schedule)[0], decode_whole(vae, latents)


@pytest.mark.parametrize("level", LEVELS)
def test_exact_tiles_are_as_one_piece_on_the_gpu(level, full_float32):
    _, _, made, whole = exact_and_whole(level, torch.float32)
    assert (made - whole).abs().max() <= 5e-5 * whole.std()


@pytest.mark.parametrize("level", ["stored", "recomputed"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_exact_tiles_in_half_precision_are_no_worse_than_one_piece_on_the_gpu(level, dtype, full_float32):
    vae, latents, made, whole = exact_and_whole(level, dtype)
    truth = decode_whole(vae.float(), latents.float())
    assert (made.float() - truth).pow(2).mean() <= 1.5**2 * (whole.float() - truth).pow(2).mean()


@pytest.mark.parametrize("level", LEVELS)
def test_the_predicted_peak_is_what_the_allocator_counts(level):
    vae = small_autoencoder(block_out_channels=(64, 128, 128, 128)).to("cuda", torch.bfloat16)
    latents = torch.randn(1, 16, 128, 256).to("cuda", torch.bfloat16)
    schedule = make_schedule(decoder_steps(vae), 128, 256, 2, level, tile_size=8192)
    decode_exact(vae, latents, schedule)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    decode_exact(vae, latents, schedule)
    peak = torch.cuda.max_memory_allocated() - before
    assert 0.4 * schedule.peak_bytes <= peak <= 1.1 * schedule.peak_bytes


def test_where_gpu_memory_runs_out_the_next_level_is_taken():
    pipe = dit360.load("tiny", device="cuda")
    size = {**PICTURE, "width": 2048, "steps": 1}
    expected = pipe.generate(**size, tiling_level="recomputed")
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 700 * 2**20) / total)
        panorama = pipe.generate(**size)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert panorama.settings["used"]["tiling"]["level"] != "whole"
    assert psnr(panorama, expected) >= 50


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_tiles_of_an_offloaded_autoencoder(offload):
    plain = dit360.load("tiny", device="cuda").generate(**PICTURE, tiling_mode="always")
    offloaded = dit360.load("tiny", device="cuda", offload=offload).generate(**PICTURE, tiling_mode="always")
    assert psnr(plain, offloaded) >= 50


@pytest.mark.parametrize("offload", ["none", "model", "sequential"])
def test_a_preview_is_fitted_wherever_the_autoencoder_rests(offload):
    pipe = dit360.load("tiny", device="cuda", offload=offload)
    shown = []
    pipe.generate(**PICTURE, tap=lambda done, steps, latents: shown.append(pipe.preview(latents).size))
    assert shown == [(256, 128)] * PICTURE["steps"]


MODES = ("int8", "fp8", "int8-bnb", "int4", "int4-double")


@pytest.mark.parametrize("offload", ["none", "model"])
@pytest.mark.parametrize("mode", MODES)
def test_quantized_models_paint_the_same_picture_on_the_gpu(mode, offload):
    plain = dit360.load("tiny", device="cuda").generate(**PICTURE)
    pipe = dit360.load("tiny", device="cuda", quantization_mode=mode, offload=offload)
    assert [len(part.layers) for part in pipe.state.quantized] == [52, 21]
    pictures = [pipe.generate(**PICTURE) for _ in range(2)]
    assert pictures[0].image.tobytes() == pictures[1].image.tobytes()
    assert psnr(plain, pictures[0]) >= (20 if "int4" in mode else 30)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("mode", MODES)
def test_quantized_models_in_half_precision_on_the_gpu(mode, precision):
    plain = dit360.load("tiny", device="cuda").generate(**PICTURE)
    pipe = dit360.load("tiny", device="cuda", quantization_mode=mode, precision=precision)
    assert psnr(plain, pipe.generate(**PICTURE)) >= 18


@pytest.mark.parametrize("mode", MODES)
def test_a_model_quantized_on_one_device_is_restored_on_the_other(mode, tmp_path):
    pictures = {}
    for device in ("cpu", "cuda"):
        dit360.quantize("tiny", tmp_path / device, quantization_mode=mode, device=device)
        for other in ("cpu", "cuda"):
            pictures[device, other] = dit360.load(str(tmp_path / device), device=other).generate(**PICTURE)
    first = next(iter(pictures.values()))
    assert all(psnr(first, picture) >= 30 for picture in pictures.values())


def test_int8_with_sequential_offload():
    pipe = dit360.load("tiny", device="cuda", quantization_mode="int8", offload="sequential")
    resident = dit360.load("tiny", device="cuda", quantization_mode="int8")
    assert pipe.generate(**PICTURE).image.tobytes() == resident.generate(**PICTURE).image.tobytes()


@pytest.mark.parametrize("mode", MODES)
def test_weights_on_the_gpu_are_as_small_as_told(mode):
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    pipe = dit360.load("tiny", device="cuda", quantization_mode=mode, precision="bf16")
    told = sum(part.bytes for part in pipe.state.quantized)
    inside = {layer.name for part in pipe.state.quantized for layer in part.layers}
    pipe_parts = (pipe.engine.pipe.transformer, pipe.engine.pipe.text_encoder_2)
    others = sum(
        p.nbytes for part in pipe_parts for name, p in part.named_parameters() if name.rpartition(".")[0] not in inside
    )
    others += sum(p.nbytes for part in (pipe.engine.pipe.vae, pipe.engine.pipe.text_encoder) for p in part.parameters())
    assert torch.cuda.memory_allocated() - before <= 1.5 * (told + others)


def test_a_stored_int4_transformer_is_what_diffusers_reads(tmp_path):
    """The layers' state is bitsandbytes' own, so a config is all that is wanting."""
    import json

    from diffusers import FluxTransformer2DModel

    dit360.quantize("tiny", tmp_path / "model", quantization_mode="int4", device="cuda")
    folder = tmp_path / "model" / "transformer"
    left = list(json.loads((folder / "quantization.json").read_text())["left"])
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": "float32",
        "llm_int8_skip_modules": left,
    }
    (folder / "config.json").write_text(json.dumps(config))
    theirs = FluxTransformer2DModel.from_pretrained(folder, torch_dtype=torch.float32)
    ours = dit360.load(str(tmp_path / "model"), device="cuda").engine.denoiser
    x = torch.randn(3, 192, device="cuda")
    layers = [each.get_submodule("transformer_blocks.0.attn.to_q") for each in (theirs, ours)]
    assert torch.equal(*(layer(x) for layer in layers))
