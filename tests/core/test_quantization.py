"""Quantization: what is stored, what is left, what a LoRA becomes, and that nothing of it is silent."""

import functools
import json
import logging
import shutil

import attrs
import dit360_core
import everywhere
import numpy as np
import pytest
import torch
from command_line import python
from dit360_core.errors import BackendUnavailable, Dit360Error, InputError, ModelError, UnknownName
from dit360_core.models import settings
from dit360_core.models.flux.architecture import FLUX
from dit360_core.models.flux.layers import policy_of
from dit360_core.models.flux.small import small_transformer
from dit360_core.models.weights.conversion import convert, quantize_module, trial_tokens
from dit360_core.models.weights.selection import Policy, select_layers
from dit360_core.models.weights.stream import Quantizing, load_part, survey
from dit360_core.models.weights.tensors import Tensors
from dit360_core.options import LoadOptions
from dit360_core.pipeline.loading import prepare
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.plugins.builtin import int8
from dit360_core.plugins.builtin import quantization as builtin
from dit360_core.plugins.offers import QuantizationNeed
from dit360_core.plugins.registry import Registry, default_registry
from dit360_core.system.machine import Machine
from dit360_core.testing import QuantizerConformance
from dit360_core.testing.storage import PeakStorage
from invented_plugins import Halves, installed, offering, quantizer
from random_models import random_flux
from safetensors.torch import load_file, save_file

MODES = ("int8", "int8-bnb", "int4")  # int4-double differs from int4 in nothing that is tried here
LEFT = ("x_embedder", "context_embedder", "time_text_embed", "norm_out", "proj_out")
PICTURE = {"prompt": "a calm sea at noon", "seed": 3, "steps": 2, "width": 128}


class TestInt8(QuantizerConformance):
    module = "dit360_core.plugins.builtin.quantization"

    def offer(self):
        return next(offer for offer in builtin.dit360_quantizers() if offer.name == "int8")


class TestInt8WithoutTheDynamicKernel(TestInt8):
    """What other CPUs and a PyTorch without that kernel get: nearer, at a third of the error allowed."""

    def offer(self):
        return attrs.evolve(super().offer(), error=0.01)

    @pytest.fixture(autouse=True)
    def _no_kernel(self, monkeypatch):
        monkeypatch.setattr(int8, "dynamic_works", lambda: False)


def pixels(panorama):
    return np.asarray(panorama.image, dtype=float)


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.square(pixels(a) - pixels(b)).mean(), 1e-6))


# The layers of DiT360's LoRA, in the embedded model.
ATTENTION = [
    *(f"transformer_blocks.{i}.attn.{name}" for i in range(2) for name in ("to_q", "to_k", "to_v", "to_out.0")),
    *(f"single_transformer_blocks.{i}.attn.{name}" for i in range(6) for name in ("to_q", "to_k", "to_v")),
]


def write_lora(file, width=192, *, zero=False, scale=0.05, layers=ATTENTION, rank=16):
    """A LoRA as DiT360's is: of PEFT, on the attention projections of all blocks."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name in layers:
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(rank, width, generator=generator) * scale
        up = torch.zeros(width, rank) if zero else torch.randn(width, rank, generator=generator) * scale
        tensors[f"base_model.model.{name}.lora_B.weight"] = up
    save_file(tensors, file)
    return str(file)


# ------------------------------------------------------------------------------------------------------------- int8


@pytest.mark.skipif(not int8.dynamic_works(), reason="this CPU, or this PyTorch, has no kernel for dynamic int8")
def test_int8_computes_in_integers_here_but_not_for_single_tokens():
    kinds = {one: type(int8.Int8().quantize(torch.nn.Linear(64, 64), one_token=one)) for one in (False, True)}
    assert kinds == {False: int8.DynamicInt8Linear, True: int8.WeightOnlyInt8Linear}


@pytest.mark.skipif(not int8.dynamic_works(), reason="this CPU, or this PyTorch, has no kernel for dynamic int8")
@pytest.mark.parametrize("digits", ["as many as the kernel takes here", "seven bits"])
def test_every_token_has_a_scale_of_its_own(monkeypatch, digits):
    """A token a thousand times larger than another must not cost that one its digits; with and without VNNI."""
    most = 63 if digits == "seven bits" else int8.most_of_an_activation()
    monkeypatch.setattr(int8, "most_of_an_activation", lambda: most)
    torch.manual_seed(0)
    linear = torch.nn.Linear(256, 512).requires_grad_(False)
    module = int8.Int8().quantize(linear, one_token=False)
    x = torch.randn(2, 1500, 256)
    x[:, ::2] *= 1000
    off = (module(x) - linear(x)).norm(dim=-1) / linear(x).norm(dim=-1)
    assert off.max() < (0.02 if most == 127 else 0.03)


@pytest.mark.skipif(not int8.dynamic_works(), reason="this CPU, or this PyTorch, has no kernel for dynamic int8")
@pytest.mark.parametrize("rows", [1, 3, 2100])
def test_the_largest_activations_and_weights_do_not_overflow(rows):
    """Eight bits do, in the 16 in which a kernel without VNNI adds: the kernel is asked, not the CPU."""
    linear = torch.nn.Linear(1024, 48, bias=False).requires_grad_(False)
    linear.weight.fill_(1.0)
    for sign in (1, -1):
        made = int8.Int8().quantize(linear, one_token=False)(torch.full((rows, 1024), float(sign)))
        assert (made / (sign * 1024) - 1).abs().max() < 0.01


@pytest.mark.parametrize("one_token", [False, True])
def test_int8_keeps_what_is_not_finite(one_token):
    module = int8.Int8().quantize(torch.nn.Linear(64, 32).requires_grad_(False), one_token=one_token)
    x = torch.ones(3, 64)
    x[1, 5] = float("nan")
    out = module(x)
    assert out[1].isnan().all()
    assert out[[0, 2]].isfinite().all()
    assert module(torch.zeros(2, 64)).isfinite().all()


def test_int8_keeps_large_sums_in_fp16():
    """Scaled after the product, as is cheaper, they would overflow."""
    linear = torch.nn.Linear(4096, 8, bias=False).requires_grad_(False)
    linear.weight.fill_(0.001)
    module = int8.WeightOnlyInt8Linear(*weights_of(linear)).half()
    module.scale = module.scale.float()
    assert torch.allclose(module(torch.full((1, 4096), 2.0, dtype=torch.half)).float(), torch.tensor(8.192), rtol=0.01)


def weights_of(linear):
    state = int8.Int8().quantize(linear, one_token=True).state_dict()
    return state["weight"], state["scale"], state.get("bias")


# --------------------------------------------------------------------------------------------------------- selection


def test_norms_embedders_and_the_final_projection_are_left_with_reasons():
    module = small_transformer()
    selection = select_layers(module, policy_of("transformer"))
    assert all(name.startswith(LEFT) and len(why) > 10 for name, why in selection.left.items())
    assert not [name for name in selection.layers if name.startswith(LEFT)]
    assert {*selection.layers, *selection.left} == {
        name for name, layer in module.named_modules() if isinstance(layer, torch.nn.Linear)
    }
    one_token = {name for name, one in selection.layers.items() if one}
    assert one_token == {name for name in selection.layers if "norm" in name}
    assert len(one_token) == 4


def test_patterns_of_the_user_leave_layers_out():
    pipe = dit360_core.load("tiny", quantization_mode="int8", quantization_skip="*.proj_mlp, *.wo")
    transformer, t5 = pipe.state.quantized
    assert [name for name, why in transformer.left.items() if why == "asked for"] == [
        f"single_transformer_blocks.{i}.proj_mlp" for i in range(6)
    ]
    assert len(t5.left) == 3
    assert type(pipe.engine.denoiser.single_transformer_blocks[0].proj_mlp) is torch.nn.Linear


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"quantization_mode": "int8", "quantization_skip": "*.nothing"}, r"no layer is called '\*\.nothing'"),
        ({"quantization_mode": "int8", "quantization_skip": "*"}, "all of them are left out"),
        ({"quantization_skip": "*.wo"}, "quantization_skip=.* has no effect, because quantization_mode is none"),
        ({"quantization_parts": "t5"}, "quantization_parts=t5 has no effect"),
        ({"quantization_parts": "vae"}, "must be one of: both, transformer, text, t5"),
        ({"lora_mode": "adapter"}, "lora_mode=adapter has no effect, because no LoRA is loaded"),
    ],
)
def test_options_without_effect_are_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        dit360_core.load("tiny", **options)


@pytest.mark.parametrize(("parts", "quantized"), [("transformer", ["transformer"]), ("t5", ["text_encoder_2"])])
def test_one_part_alone(parts, quantized):
    pipe = dit360_core.load("tiny", quantization_mode="int8", quantization_parts=parts)
    assert [part.part for part in pipe.state.quantized] == quantized
    assert pipe.generate(**PICTURE).seam.ratio < 10


# --------------------------------------------------------------------------------------------- never silently in full


def count(pipe):
    """Layers that are not Linear any more, and the bytes of all weights, by part."""
    found = {}
    for name in ("transformer", "text_encoder_2"):
        part = getattr(pipe.engine.pipe, name)
        plain = [type(layer) is torch.nn.Linear for _, layer in part.named_modules()].count(True)
        size = sum(t.nbytes for t in part.state_dict().values())
        found[name] = (plain, size)
    return found


@pytest.fixture(scope="module", params=MODES)
def mode(request):
    return request.param


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The embedded model as each mode stores it: its folder and its plan, made once."""
    folder = tmp_path_factory.mktemp("models")

    @functools.cache
    def stored(mode):
        return folder / mode, dit360_core.quantize("tiny", folder / mode, quantization_mode=mode)

    return stored


@pytest.fixture(scope="module")
def load():
    """Models that are loaded once with each set of options, for tests that change none of them."""
    return functools.cache(dit360_core.load)


@pytest.fixture(scope="module")
def paint():
    """The picture of each of those, made once."""
    made = {}

    def painted(pipe):
        if id(pipe) not in made:
            made[id(pipe)] = (pipe, pipe.generate(**PICTURE))  # kept, lest another take its identity
        return made[id(pipe)][1]

    return painted


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """A LoRA on all attention."""
    return write_lora(tmp_path_factory.mktemp("lora") / "lora.safetensors")


@pytest.fixture(scope="module")
def stored(mode, store):
    return store(mode)


@pytest.fixture(scope="module")
def logged(mode, load):
    """What is said while a model is loaded with a mode for the first time."""
    said = []
    handler, logger = logging.Handler(), logging.getLogger("dit360")
    handler.emit = lambda record: said.append(record.getMessage())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        pipe = load("tiny", quantization_mode=mode)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return pipe, said


@pytest.fixture(scope="module")
def quantized(logged):
    return logged[0]


@pytest.fixture(scope="module")
def restored(stored, load):
    return load(str(stored[0]))


def test_every_path_quantizes_the_same_layers_to_the_same_bytes(mode, tiny, quantized, stored, restored, paint):
    _, plan = stored
    in_place = Pipeline.from_diffusers(dit360_core.load("tiny").engine.pipe, tiny.plan.model, quantization_mode=mode)
    full, expected = count(tiny), count(quantized)
    for name, left in (("transformer", 10), ("text_encoder_2", 0)):
        assert expected[name][0] == left
        assert expected[name][1] < 0.55 * full[name][1]  # a small model's embedders weigh more
    for pipe in (restored, in_place):
        assert count(pipe) == expected
        assert [[layer.name for layer in part.layers] for part in pipe.state.quantized] == [
            [layer.name for layer in part.layers] for part in quantized.state.quantized
        ]
    assert [part.bytes for part in plan.quantized] == [part.bytes for part in quantized.state.quantized]
    right = paint(quantized).image.tobytes()
    assert paint(restored).image.tobytes() == right
    assert in_place.generate(**PICTURE).image.tobytes() == right


def test_the_layers_are_as_small_as_promised(mode, quantized):
    limit = {"int8": 0.3, "int8-bnb": 0.3, "int4": 0.16}[mode]
    for part in quantized.state.quantized:
        assert part.bytes <= limit * part.bytes_before


def test_a_picture_of_quantized_weights_is_near(mode, tiny, quantized, paint):
    near = psnr(paint(tiny), paint(quantized))
    assert (20 if "int4" in mode else 30) <= near < 90


def test_what_was_done_is_in_the_picture_and_in_the_log(mode, logged, paint):
    pipe, said = logged
    told = json.loads(json.dumps(paint(pipe).settings["used"]))["quantization"]
    assert told["requested"] == told["used"] == mode
    assert told["parts"]["transformer"]["layers"] == 64
    assert sum(told["parts"]["transformer"]["kernels"].values()) == 64
    assert 0 < told["parts"]["transformer"]["error_median"] < 0.12
    assert sum(told["parts"]["transformer"]["left"].values()) == 10
    assert [line for line in said if "transformer: 64 layers quantized" in line]


class Lazy(Halves):
    """Claims to quantize and does not."""

    def quantize(self, linear, *, one_token):
        return linear


class Wrong(Halves):
    def quantize(self, linear, *, one_token):
        linear.weight.data.zero_()
        return super().quantize(linear, one_token=one_token)


class NotFinite(Halves):
    def quantize(self, linear, *, one_token):
        linear.weight.data.fill_(float("nan"))
        return super().quantize(linear, one_token=one_token)


class Raising(Halves):
    def quantize(self, linear, *, one_token):
        if linear.out_features != 256:  # a trial's
            raise ValueError("rows of 192 are not for me")
        return super().quantize(linear, one_token=one_token)


@pytest.mark.parametrize(
    ("implementation", "error", "sentence"),
    [
        (
            Lazy,
            BackendUnavailable,
            r"plugin:mine: in a trial the layer .* was not made smaller \(.* bytes, Linear\)",
        ),
        (
            Wrong,
            BackendUnavailable,
            r"plugin:mine: in a trial the quantized layer .* off by 100%, where \d+% is allowed \(HalfLinear\)",
        ),
        (
            NotFinite,
            BackendUnavailable,
            "plugin:mine: in a trial the quantized layer .* gives numbers that are not finite",
        ),
        (object, BackendUnavailable, "no attribute 'quantize'"),
        (Raising, Dit360Error, r"The layer .* cannot be quantized \(rows of 192 are not for me\); leave it out with"),
    ],
)
def test_a_quantizer_that_does_not_do_it_is_found_out(implementation, error, sentence):
    known = Registry(entry_points=installed("plugin", offering(quantizer("mine", load=implementation))))
    with pytest.raises(error, match=sentence) as raised:
        dit360_core.load("tiny", quantization_mode="mine", registry=known)
    assert ".." not in str(raised.value)


def test_convert_tells_how_far_it_is_off():
    linear = torch.nn.Linear(64, 96).requires_grad_(False)
    module, layer = convert(linear, Halves(), name="a", one_token=False)
    x = trial_tokens(64, torch.float32, "cpu")
    off = (module(x) - linear(x)).norm() / (linear(x) - linear.bias).norm()
    assert layer.error == pytest.approx(float(off), rel=1e-3)
    assert layer.bytes == 64 * 96 * 2 + 96 * 4
    assert layer.kernel == "HalfLinear"


def test_nothing_left_to_quantize_is_an_error():
    with pytest.raises(InputError, match="all of them are left out"):
        select_layers(small_transformer(), Policy(left={"*": "all"}))
    with pytest.raises(InputError, match="quantized already"):
        select_layers(torch.nn.Sequential(torch.nn.ReLU()), Policy())


# -------------------------------------------------------------------------------------------------------- choosing


def test_a_mode_that_is_not_installed_is_told_with_the_command():
    with pytest.raises(UnknownName, match=r'is not installed; it comes with: pip install "dit360-core\[int4\]"'):
        dit360_core.load("tiny", quantization_mode="int4", registry=Registry(entry_points=[]))


def test_a_missing_library_is_told_with_the_command():
    offer = quantizer("mine", requires=("surely-not-installed>=3",))
    known = Registry(entry_points=installed("plugin", offering(offer)))
    with pytest.raises(BackendUnavailable, match='pip install "surely-not-installed>=3"'):
        dit360_core.load("tiny", quantization_mode="mine", registry=known)


@pytest.mark.parametrize(("free", "used"), [(2**30, "none"), (30 * 2**20, "int8"), (22 * 2**20, "int4")])
def test_auto_takes_the_most_bits_that_fit(monkeypatch, free, used):
    everywhere.replace(monkeypatch, "free_memory", lambda device: free)
    plan = prepare(LoadOptions(quantization_mode="auto"), registry=default_registry()).plan
    assert plan.quantization.used == used
    if used == "int4":
        refused = plan.quantization.as_dict()["refused"]
        assert {"dit360-core:none", "dit360-core:int8", "dit360-quant-bnb:int8-bnb"} <= set(refused)
        assert "there is room for" in refused["dit360-core:none"][0]["sentence"]


def test_auto_says_what_nothing_fits_into(monkeypatch):
    everywhere.replace(monkeypatch, "free_memory", lambda device: 2**20)
    with pytest.raises(BackendUnavailable, match=r"No quantization can be used here: .*room for 0.0 GiB"):
        prepare(LoadOptions(quantization_mode="auto"), registry=default_registry())


def test_needs_of_quantizers_know_nothing_of_sizes_unless_auto_asks():
    offer = next(offer for offer in builtin.dit360_quantizers() if offer.name == "none")
    assert not list(offer.lacks(QuantizationNeed(device="cuda", dtype="bf16")))
    parts = ((12 * 10**9, 0), (0, 23 * 2**30))
    need = QuantizationNeed(device="cuda", dtype="bf16", sizes=parts, budget=8 * 2**30)
    (reason,) = offer.lacks(need)
    assert reason.sentence == "weights of 23.0 GiB, and there is room for 8.0 GiB"
    quarter = quantizer("quarter", bits=4, error=0.1)
    assert [reason.sentence for reason in quarter.lacks(need)] == [reason.sentence]  # the other part decides
    assert not list(quarter.lacks(QuantizationNeed(device="cuda", dtype="bf16", sizes=parts[:1], budget=8 * 2**30)))
    ranked = [quantizer("unsaid", priority=99), quantizer("eight", bits=8.1), quantizer("eight-b", bits=8, priority=1)]
    assert [o.name for o in sorted([*ranked, quarter, offer], key=lambda o: o.rank)] == [
        "none", "eight-b", "eight", "quarter", "unsaid",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- LoRA

ROUNDED = pytest.mark.parametrize("rounded", ["int8", "int4"])
"""A mode of ours and one of a plugin's: to a LoRA, the plugin's two are alike."""


def states(pipe):
    return dict(pipe.engine.denoiser.state_dict())


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def fused_folder(tmp_path_factory, tiny_folder, lora, load):
    """The embedded model with a LoRA in its weights, saved in full precision."""
    folder = tmp_path_factory.mktemp("fused")
    pipe = load("tiny", lora=lora).engine.pipe
    shutil.copytree(tiny_folder, folder / "model")
    pipe.transformer.save_pretrained(folder / "model" / "transformer")
    return folder / "model"


@ROUNDED
def test_fused_then_quantized_is_quantized_of_the_fused(rounded, fused_folder, lora, load):
    while_loading = load("tiny", lora=lora, quantization_mode=rounded, lora_mode="fuse")
    of_the_fused = dit360_core.load(
        str(fused_folder), quantization_mode=rounded, precision="fp32", quantization_parts="transformer"
    )
    assert same(states(while_loading), states(of_the_fused))
    assert while_loading.state.loras[0].modules == len(ATTENTION)
    assert 0.9 < while_loading.state.lora_kept < 1.1


@ROUNDED
def test_a_zero_lora_changes_nothing(rounded, tmp_path, load):
    file = write_lora(tmp_path / "zero.safetensors", zero=True)
    zero = dit360_core.load("tiny", lora=file, quantization_mode=rounded, quantization_parts="transformer")
    assert same(states(zero), states(load("tiny", quantization_mode=rounded)))


@pytest.mark.parametrize("lora_mode", ["fuse", "adapter"])
@ROUNDED
def test_a_lora_changes_the_picture_of_a_quantized_model(rounded, lora_mode, lora, load, paint):
    panorama = paint(load("tiny", lora=lora, quantization_mode=rounded, lora_mode=lora_mode))
    assert panorama.image.tobytes() != paint(load("tiny", quantization_mode=rounded)).image.tobytes()
    (told,) = panorama.settings["used"]["loras"]
    assert (told["modules"], told["mode"], told["strength"]) == (len(ATTENTION), lora_mode, 1.0)


@pytest.mark.parametrize("lora_mode", ["fuse", "adapter"])
@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
def test_a_lora_of_other_layers_is_refused(quantization, lora_mode, tmp_path):
    file = write_lora(tmp_path / "lora.safetensors", layers=["transformer_blocks.90.attn.to_q"])
    with pytest.raises(ModelError, match="does not fit this model"):
        dit360_core.load("tiny", lora=file, quantization_mode=quantization, lora_mode=lora_mode)


@ROUNDED
def test_the_strength_of_an_adapter_can_change_and_zero_is_without(rounded, lora, load, paint):
    pipe = load("tiny", lora=lora, quantization_mode=rounded, lora_mode="adapter")
    full = paint(pipe)
    pipe.set_lora_strength(0)
    without = pipe.generate(**PICTURE)
    assert without.image.tobytes() == paint(load("tiny", quantization_mode=rounded)).image.tobytes()
    assert without.settings["used"]["loras"][0]["strength"] == 0
    pipe.set_lora_strength(1.0)
    assert pipe.generate(**PICTURE).image.tobytes() == full.image.tobytes() != without.image.tobytes()
    with pytest.raises(InputError, match="lora_strength is 3"):
        pipe.set_lora_strength(3)


def test_an_adapter_equals_the_fused_lora_in_full_precision(lora):
    pipes = [dit360_core.load("tiny", lora=lora, lora_mode=mode, lora_strength=-0.7) for mode in ("fuse", "adapter")]
    assert psnr(*(pipe.generate(**PICTURE) for pipe in pipes)) > 55


def test_the_strength_of_a_fused_lora_cannot_change(lora, tiny, load):
    pipe = load("tiny", lora=lora, quantization_mode="int8", lora_mode="fuse")
    with pytest.raises(InputError, match="fused into the weights; load it with lora_mode='adapter'"):
        pipe.set_lora_strength(0.5)
    with pytest.raises(InputError, match="no LoRA is loaded"):
        tiny.set_lora_strength(0.5)


def test_a_lora_that_rounding_swallows_is_refused(tmp_path):
    file = write_lora(tmp_path / "lora.safetensors", scale=1e-4)
    with pytest.raises(ModelError, match=r"disappears when weights are rounded .* use lora_mode=adapter"):
        dit360_core.load("tiny", lora=file, quantization_mode="int4")


def test_a_lora_on_a_layer_that_is_left_in_full_is_fused_there(tmp_path, tiny):
    tensors = {
        "transformer.x_embedder.lora_A.weight": torch.randn(2, 128),
        "transformer.x_embedder.lora_B.weight": torch.randn(192, 2),
    }
    save_file(tensors, tmp_path / "lora.safetensors")
    pipe = dit360_core.load("tiny", lora=str(tmp_path / "lora.safetensors"), quantization_mode="int8")
    down, up = tensors.values()
    weight = tiny.engine.denoiser.x_embedder.weight
    assert torch.allclose(pipe.engine.denoiser.x_embedder.weight, weight + up @ down, atol=1e-5)


# --------------------------------------------------------------------------------------------- stored and restored


def test_a_stored_model_is_small_and_remembers_what_it_was(mode, stored, restored, tiny_folder, tiny):
    folder, _ = stored
    size = sum(file.stat().st_size for file in (folder / "transformer").glob("*.safetensors"))
    full = (tiny_folder / "transformer" / "diffusion_pytorch_model.safetensors").stat().st_size  # of fp16
    assert size < (0.72 if "int8" in mode else 0.45) * full
    described = json.loads((folder / "transformer" / "quantization.json").read_text())
    assert (described["mode"], len(described["layers"]), len(described["left"])) == (mode, 64, 10)
    assert all(0 < layer["error"] < 0.2 for layer in described["layers"].values())
    assert restored.plan.model.latent_rotation is tiny.plan.model.latent_rotation is True
    assert (restored.plan.model.width, restored.plan.precision) == (512, "fp32")
    assert restored.plan.quantization.used == mode


def test_a_stored_model_cannot_become_another(mode, stored):
    folder, _ = stored
    other = "int4" if mode == "int8" else "int8"
    with pytest.raises(InputError, match=f"is stored as {mode} and cannot become {other}"):
        dit360_core.load(str(folder), quantization_mode=other)
    with pytest.raises(InputError, match="quantization_parts=t5 has no effect"):
        dit360_core.load(str(folder), quantization_mode=mode, quantization_parts="t5")
    plan = prepare(LoadOptions(model=str(folder), quantization_mode="auto"), registry=default_registry()).plan
    assert plan.quantization.used == mode


@ROUNDED
def test_a_stored_model_takes_a_lora_only_beside(rounded, store, lora, load, paint):
    folder, _ = store(rounded)
    with pytest.raises(InputError, match="no LoRA can be fused into rounded weights; use lora_mode=adapter"):
        dit360_core.load(str(folder), lora=lora)
    beside = dit360_core.load(str(folder), lora=lora, lora_mode="adapter")
    assert beside.state.loras[0].modules == len(ATTENTION)
    assert paint(load(str(folder))).image.tobytes() != beside.generate(**PICTURE).image.tobytes()


@pytest.fixture(scope="module")
def stored_with_lora(tmp_path_factory, lora):
    folder = tmp_path_factory.mktemp("with") / "model"
    return folder, dit360_core.quantize("tiny", folder, quantization_mode="int8", lora=lora, lora_strength=0.5)


def test_a_lora_is_stored_with_the_model(stored_with_lora, lora, load):
    folder, plan = stored_with_lora
    assert [(given.modules, given.strength) for given in plan.loras] == [(len(ATTENTION), 0.5)]
    direct = dit360_core.load("tiny", quantization_mode="int8", lora=lora, lora_strength=0.5)
    assert same(states(load(str(folder))), states(direct))
    told = json.loads((folder / "dit360.json").read_text())
    assert told["loras"][0]["modules"] == len(ATTENTION)
    known = settings._WRITTEN | FLUX.replaceable.keys()
    assert told.keys() <= known, "a key that is written and told as unknown when it is read"


def test_shards_are_written_and_read(tmp_path, monkeypatch, load, paint):
    monkeypatch.setattr("dit360_core.models.weights.store.SHARD", 2**20)
    dit360_core.quantize("tiny", tmp_path / "model", quantization_mode="int8")
    shards = sorted((tmp_path / "model" / "transformer").glob("*-of-*.safetensors"))
    assert len(shards) > 3
    assert not list((tmp_path / "model" / "transformer").glob("*model-0000?.safetensors"))
    picture = dit360_core.load(str(tmp_path / "model")).generate(**PICTURE)
    direct = paint(load("tiny", quantization_mode="int8"))
    assert picture.image.tobytes() == direct.image.tobytes()


@pytest.fixture(scope="module")
def stored_int8(store):
    return store("int8")[0]


@pytest.fixture
def broken(stored_int8, tmp_path):
    return shutil.copytree(stored_int8, tmp_path / "model")


def rewrite(folder, change):
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def redescribe(folder, change, part="transformer"):
    file = folder / part / "quantization.json"
    told = json.loads(file.read_text())
    change(told)
    file.write_text(json.dumps(told))


A_LAYER = "transformer_blocks.0.attn.to_q"


def cut(tensors, name):
    tensors[name] = tensors[name][:96].clone()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: rewrite(f, lambda t: t.pop(f"{A_LAYER}.scale")), "The layer .*to_q of .* cannot be restored"),
        (lambda f: rewrite(f, lambda t: t.pop(f"{A_LAYER}.bias")), "The layer .*to_q of .* cannot be restored"),
        (lambda f: rewrite(f, lambda t: cut(t, f"{A_LAYER}.weight")), "The layer .*to_q of .* cannot be restored"),
        (lambda f: (f / "transformer" / "quantization.json").unlink(), "lacks its quantization.json, without which"),
        (lambda f: rewrite(f, lambda t: t.pop("x_embedder.weight")), "lacks 1 of its weights, 'x_embedder.weight'"),
        (lambda f: redescribe(f, lambda d: d["layers"].pop(A_LAYER)), "are described in quantization.json: "),
        (lambda f: redescribe(f, lambda d: d.update(format=99)), "is of format 99, and this dit360 reads 1"),
        (lambda f: redescribe(f, lambda d: d["layers"][A_LAYER].pop("error")), "quantization.json is damaged"),
        (lambda f: redescribe(f, lambda d: d.update(layers=[1])), "quantization.json is damaged"),
        (lambda f: (f / "transformer" / "quantization.json").write_text("{"), "is not readable JSON"),
        (lambda f: (f / "dit360.json").write_text('{"model": {"width": "wide"}}'), "dit360.json is damaged"),
    ],
)
def test_damage_to_a_stored_model_is_told(broken, damage, sentence):
    damage(broken)
    with pytest.raises(ModelError, match=sentence):
        dit360_core.load(str(broken))


def test_a_stored_model_without_its_plugin_names_the_command(broken):
    for part in ("transformer", "text_encoder_2"):
        redescribe(broken, lambda told: told.update(distribution="somebody-quant", mode="int3"), part)
    with pytest.raises(BackendUnavailable, match=r"by somebody-quant .*pip install somebody-quant"):
        dit360_core.load(str(broken))


def configure(folder, part, config):
    file = folder / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": config}))


@pytest.mark.parametrize(
    "config", [{"quant_method": "gguf"}, {"quant_method": "bitsandbytes", "load_in_4bit": True}, 1]
)
def test_models_quantized_in_other_ways_are_told(tiny_copy, config):
    configure(tiny_copy, "transformer", config)
    with pytest.raises(ModelError, match="quantized in a way that dit360 does not read"):
        dit360_core.load(str(tiny_copy))


@pytest.mark.parametrize(("mode", "bits"), [("int4", "load_in_4bit"), ("int8-bnb", "load_in_8bit")])
def test_models_that_diffusers_quantized_with_bitsandbytes_are_read(tmp_path, mode, bits, store, load, paint):
    """They hold the state of bitsandbytes' layers under their names, and a config; no more."""
    folder, _ = store(mode)
    expected = paint(load(str(folder)))
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "transformer" / "quantization.json").unlink()
    configure(tmp_path / "model", "transformer", {"quant_method": "bitsandbytes", bits: True})
    pipe = dit360_core.load(str(tmp_path / "model"))
    assert pipe.generate(**PICTURE).image.tobytes() == expected.image.tobytes()
    assert pipe.plan.quantization.used == mode
    assert "error of the layers not measured" in pipe.state.quantized[0].sentence()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"quantization_mode": "none"}, "nothing to store"),
        ({"quantization_mode": "int8", "lora_mode": "adapter", "lora": "x"}, "lora_mode=adapter cannot be stored"),
        ({"quantization_mode": "int7"}, "no quantization named 'int7'"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path, options, sentence):
    with pytest.raises(Dit360Error, match=sentence):
        dit360_core.quantize("tiny", tmp_path / "model", **options)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_and_nothing_left_behind(tmp_path, stored_int8, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    with pytest.raises(InputError, match="it exists already"):
        dit360_core.quantize("tiny", tmp_path / "there", quantization_mode="int8")
    with pytest.raises(InputError, match="its folder does not exist"):
        dit360_core.quantize("tiny", tmp_path / "no" / "model", quantization_mode="int8")
    with pytest.raises(InputError, match="is stored quantized already"):
        dit360_core.quantize(str(stored_int8), tmp_path / "again", quantization_mode="int8")

    def full(*arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dit360_core.models.weights.store.save_file", full)
    with pytest.raises(Dit360Error, match="No space left on device; see that there is space"):
        dit360_core.quantize("tiny", tmp_path / "model", quantization_mode="int8")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_quantizer_without_restore_cannot_be_stored(tmp_path):
    known = Registry(entry_points=installed("plugin", offering(quantizer("mine"))))
    with pytest.raises(InputError, match=r"mine .* cannot be stored: it does not say how it is read back"):
        dit360_core.quantize("tiny", tmp_path / "model", quantization_mode="mine", registry=known)
    assert dit360_core.load("tiny", quantization_mode="mine", registry=known).state.quantized[0].kernels == {
        "HalfLinear": 64
    }


# ------------------------------------------------------------------------------------------------- reading, in place


def test_tensors_are_read_from_shards_one_by_one(tmp_path):
    random_flux().transformer.save_pretrained(tmp_path, max_shard_size="50KB")
    tensors, whole = Tensors(tmp_path), random_flux().transformer.state_dict()
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert set(tensors.names()) == set(whole)
    assert all(torch.equal(tensors.read(name), whole[name]) for name in whole)
    assert tensors.shapes() == {name: tuple(value.shape) for name, value in whole.items()}
    with pytest.raises(ModelError, match="lacks the tensor 'x'"):
        tensors.read("x")


def test_a_pipeline_without_text_encoders_is_quantized_in_place():
    pipe = Pipeline.from_diffusers(random_flux(), quantization_mode="int8")
    assert [part.part for part in pipe.state.quantized] == ["transformer"]
    with pytest.raises(InputError, match="quantization_mode=auto decides by files"):
        Pipeline.from_diffusers(random_flux(), quantization_mode="auto")


def test_a_module_is_quantized_in_place_and_keeps_the_rest():
    module, plain = small_transformer(), small_transformer()
    done = quantize_module(module, int8.Int8(), select_layers(module, policy_of("transformer")), part="x")
    assert len(done.layers) == 26
    untouched = [name for name in plain.state_dict() if name.rpartition(".")[0] not in {x.name for x in done.layers}]
    assert all(torch.equal(plain.state_dict()[name], module.state_dict()[name]) for name in untouched)


def test_a_mode_is_tried_on_the_device_and_in_the_dtype_of_the_model():
    seen = []

    class Watching(Halves):
        def quantize(self, linear, *, one_token):
            seen.append((linear.weight.device.type, linear.weight.dtype))
            return super().quantize(linear, one_token=one_token)

    known = Registry(entry_points=installed("plugin", offering(quantizer("mine", load=Watching))))
    with pytest.raises(BackendUnavailable, match="was not made smaller"):  # halves of bf16 are as large
        prepare(LoadOptions(quantization_mode="mine", precision="bf16"), registry=known, machine=Machine.detect("cpu"))
    assert seen == [("cpu", torch.bfloat16)]


@pytest.mark.parametrize("mode", ["int4", "int8-bnb"])
def test_loading_never_holds_the_full_weights(tmp_path, mode):
    """At most 1.3 times the quantized weights and one shard, counted tensor by tensor."""
    shard = 2 * 2**20
    small_transformer().save_pretrained(tmp_path / "transformer", max_shard_size=shard)
    full = sum(tensor.nbytes for tensor in small_transformer().state_dict().values())
    (entry,) = default_registry().find("quantization", mode)
    cpu, quantizer_ = torch.device("cpu"), entry.offer.load()
    how = Quantizing(networks=FLUX.networks, implementation=quantizer_, parts=("transformer",), device=cpu, home=cpu)
    part = survey(tmp_path, how)["transformer"]
    with PeakStorage() as storage:
        loaded, done = load_part(part, how, torch.float32)
    size = sum(tensor.nbytes for tensor in loaded.state_dict().values())
    assert len(list(tmp_path.glob("transformer/*.safetensors"))) > 3
    assert size < 0.45 * full
    assert storage.peak <= 1.3 * size + shard
    assert len(done.layers) == 26


# ------------------------------------------------------------------------------------------------ parts of a model


def test_what_is_stored_in_full_beside_a_quantized_part(tmp_path):
    """It stays as it is unless a mode is named, which then means all of the model."""
    dit360_core.quantize("tiny", tmp_path / "model", quantization_mode="int4", quantization_parts="transformer")
    parts = {
        mode: [
            (part.part, len(part.layers)) for part in dit360_core.load(str(tmp_path / "model"), **mode_).state.quantized
        ]
        for mode, mode_ in (("none", {}), ("int4", {"quantization_mode": "int4"}))
    }
    assert parts == {"none": [("transformer", 64)], "int4": [("transformer", 64), ("text_encoder_2", 21)]}


def test_a_lora_is_fused_into_a_transformer_beside_a_stored_text_encoder(tmp_path, lora):
    dit360_core.quantize("tiny", tmp_path / "model", quantization_mode="int8", quantization_parts="t5")
    pipe = dit360_core.load(str(tmp_path / "model"), lora=lora)
    assert (pipe.state.loras[0].modules, [part.part for part in pipe.state.quantized]) == (
        len(ATTENTION),
        ["text_encoder_2"],
    )


def test_t5s_last_projection_computes_in_fp32_where_the_rest_is_fp16(stored_int8):
    for model in ("tiny", str(stored_int8)):
        pipe = dit360_core.load(model, quantization_mode="int8", precision="fp16")
        wo = pipe.engine.pipe.text_encoder_2.encoder.block[0].layer[1].DenseReluDense.wo
        out = wo(torch.full((1, 2, 256), 60000.0, dtype=torch.half))
        assert out.dtype is torch.float32
        assert out.isfinite().all()


def test_a_text_encoder_whose_files_hold_the_tied_name_alone(tiny_copy, load):
    file = tiny_copy / "text_encoder_2" / "model.safetensors"
    tensors = load_file(file)
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    loaded = [
        load("tiny", quantization_mode="int8"),
        dit360_core.load(str(tiny_copy), quantization_mode="int8", precision="fp32"),
    ]
    tables = [pipe.engine.pipe.text_encoder_2.shared.weight for pipe in loaded]
    assert torch.equal(*tables)


# --------------------------------------------------------------------------------------- what in place cannot be done


def test_in_place_a_lora_of_peft_is_not_quantized_along():
    pipe = random_flux()
    state = {
        f"transformer.transformer_blocks.0.attn.to_q.lora_{n}.weight": torch.randn(shape)
        for n, shape in (("A", (4, 32)), ("B", (32, 4)))
    }
    pipe.load_lora_weights(state, adapter_name="mine")
    with pytest.raises(InputError, match="A LoRA is attached to the transformer"):
        Pipeline.from_diffusers(pipe, quantization_mode="int8")


def test_in_place_offloaded_parts_are_refused():
    from accelerate.hooks import ModelHook, add_hook_to_module

    pipe = random_flux()
    add_hook_to_module(pipe.transformer, ModelHook())
    with pytest.raises(InputError, match="is offloaded already"):
        Pipeline.from_diffusers(pipe, quantization_mode="int8")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"quantization_mode": "int8", "quantization_parts": "t5"}, "There is no text_encoder_2 in this pipeline"),
        ({"quantization_skip": "*.wo"}, "has no effect, because quantization_mode is none"),
    ],
)
def test_in_place_options_without_effect_are_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        Pipeline.from_diffusers(random_flux(), **options)


class Hiding(Halves):
    """Keeps the full weights where its state does not tell."""

    def quantize(self, linear, *, one_token):
        module = super().quantize(linear, one_token=one_token)
        object.__setattr__(module, "hidden", [linear.weight.data])
        return module


def test_bytes_that_a_layer_does_not_tell_are_counted():
    known = Registry(entry_points=installed("plugin", offering(quantizer("mine", load=Hiding))))
    with pytest.raises(BackendUnavailable, match="was not made smaller"):
        dit360_core.load("tiny", quantization_mode="mine", registry=known)


@pytest.mark.skipif(not int8.dynamic_works(), reason="this CPU, or this PyTorch, has no kernel for dynamic int8")
def test_weights_packed_for_a_cpu_do_not_pretend_to_move():
    module = int8.Int8().quantize(torch.nn.Linear(64, 64), one_token=False)
    module.to("cpu")
    with pytest.raises(RuntimeError, match="packed for a CPU cannot move"):
        module.to("meta")


# ----------------------------------------------------------------------------------------------- more kinds of LoRAs


def test_an_adapter_cannot_be_nothing(tmp_path):
    nothing = write_lora(tmp_path / "nothing.safetensors", scale=1e-9)
    with pytest.raises(ModelError, match=r"holds values that cannot be represented in torch\.float16"):
        dit360_core.load("tiny", lora=nothing, lora_mode="adapter", precision="fp16")


def test_a_stored_lora_is_remembered_and_a_second_one_told(stored_with_lora, lora, load, paint, caplog):
    folder, _ = stored_with_lora
    picture = paint(load(str(folder)))
    assert picture.settings["used"]["loras"] == []
    assert picture.settings["used"]["loras_in_stored_weights"][0]["from"] == lora
    with caplog.at_level(logging.WARNING, "dit360"):
        dit360_core.load(str(folder), lora=lora, lora_mode="adapter")
    assert "already holds the LoRA" in caplog.text


# ------------------------------------------------------------------------------------------------- writing a model


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    code = (
        "import resource, dit360_core as d; resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n"
        "try: d.quantize('tiny', 'model', quantization_mode='int8')\n"
        "except d.Dit360Error as error: print('told:', error)"
    )
    said = python(code, cwd=tmp_path)
    assert "told: Cannot write model: " in said.stdout, said.stderr
    assert "see that there is space" in said.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", [lambda t: t.pop("x_embedder.weight"), lambda t: cut(t, "x_embedder.weight")])
def test_a_damaged_model_is_found_before_it_is_quantized(tiny_copy, tmp_path, change):
    rewrite(tiny_copy, change)
    with pytest.raises(ModelError, match=r"lacks .*weights,? 'x_embedder.weight'.*, or holds another model's"):
        dit360_core.quantize(str(tiny_copy), tmp_path / "new", quantization_mode="int8")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("part", "key"), [("transformer", "num_layers"), ("text_encoder_2", "d_model")])
@pytest.mark.parametrize("mode_", ["none", "int8"])
def test_a_configuration_that_is_nonsense_is_told(tiny_copy, part, key, mode_):
    file = tiny_copy / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: "two"}))
    with pytest.raises(ModelError):
        dit360_core.load(str(tiny_copy), quantization_mode=mode_)
    assert torch.get_default_dtype() is torch.float32


def test_the_working_folder_and_links_are_no_new_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for target in (".", "link"):
        with pytest.raises(InputError, match="it is the working folder or a link"):
            dit360_core.quantize("tiny", target, quantization_mode="int8")


def test_storing_takes_only_options_that_matter_and_a_mode_that_does_something(tmp_path):
    with pytest.raises(InputError, match="attention_slice_size, strict has no effect on a model that is stored"):
        dit360_core.quantize("tiny", tmp_path / "m", quantization_mode="int8", strict=True, attention_slice_size=128)
    with pytest.raises(InputError, match="auto would store nothing; name a mode"):
        dit360_core.quantize("tiny", tmp_path / "m", quantization_mode="auto")


def test_stored_files_can_be_read_by_whoever_can_read_the_folder(stored_int8):
    modes = {file.stat().st_mode & 0o777 for file in stored_int8.rglob("*") if file.is_file()}
    assert len(modes) == 1


def test_a_model_that_is_stored_in_eight_bit_floats_can_be_quantized(tiny_copy, tmp_path):
    """What is left in full is looked at for numbers that are none, which PyTorch cannot ask of these."""
    for file in (tiny_copy / "transformer").glob("*.safetensors"):
        save_file({name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(file).items()}, file)
    plan = dit360_core.quantize(str(tiny_copy), tmp_path / "small", quantization_mode="int8")
    assert plan.quantized
