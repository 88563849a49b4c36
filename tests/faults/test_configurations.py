"""What a model's folder says is looked at before anything is built of it: types, ranges, code, tokenizers, weights."""

import base64
import json
import logging
import shutil
from pathlib import Path

import numpy
import pytest
from dit360_core.errors import ModelError
from dit360_core.models import tokenizers
from dit360_core.models.flux import folder as files
from dit360_core.models.flux.architecture import FLUX
from dit360_core.models.flux.folder import FLUX_FOLDER, T5_TOKENIZER, TOKENIZERS
from dit360_core.models.flux.schemas import why_no_painter
from dit360_core.models.settings import with_settings
from dit360_core.models.weights import headers as weights
from dit360_core.plugins.offers import Model
from safetensors.numpy import save_file

FP8 = "F8_E4M3"


@pytest.fixture
def linked(tiny_folder, tmp_path):
    """The embedded model's files by another path; ``changed`` replaces one of them."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model", copy_function=lambda a, b: Path(b).symlink_to(a)))


def changed(folder, file, /, **values):
    told = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    write(folder / file, json.dumps({**told, **values}))


def write(file, text):
    file.unlink(missing_ok=True)
    file.write_text(text)


def refused(model, sentence):
    with pytest.raises(ModelError, match=sentence) as caught:
        FLUX_FOLDER.check(model)
    told = str(caught.value)
    assert "\n" not in told
    assert len(told) < 700
    assert told.endswith(".")
    assert str(model) in told


TRANSFORMER, VAE, CLIP, T5 = "transformer/config.json", "vae/config.json", "text_encoder/config.json", "text_encoder_2/"
T5 += "config.json"
SCHEDULER, TOKENIZER = "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"
TOO_MUCH = 10**400
VALUES = [
    (TRANSFORMER, "axes_dims_rope", [], None, 16, [16, 56, "56"], [3, 14, 15], [4, 14, 12], [[4], [14], [14]]),
    (TRANSFORMER, "num_attention_heads", 0, -1, 100_000, 6.0, "6", True, None, 1000),
    (TRANSFORMER, "attention_head_dim", 10**6, 0, None),
    (TRANSFORMER, "num_layers", 10**9, -1, TOO_MUCH, float("nan")),
    (TRANSFORMER, "in_channels", 0, 10**9, None, 132),
    (TRANSFORMER, "out_channels", 512, "128"),
    (TRANSFORMER, "joint_attention_dim", 10**9, 64),
    (TRANSFORMER, "pooled_projection_dim", 64, []),
    (TRANSFORMER, "guidance_embeds", "yes", 1, None),
    (TRANSFORMER, "patch_size", 2, 0),
    (VAE, "scaling_factor", "much", None, 0, -1, float("nan"), float("inf"), TOO_MUCH),
    (VAE, "shift_factor", "0", float("-inf")),
    (VAE, "block_out_channels", [], None, 64, [16, 32, 64, 10**9], [16, 32, 64, 90], [16, 32, 64], [0] * 4),
    (VAE, "down_block_types", ["evil.Block"] * 4, "DownEncoderBlock2D", []),
    (VAE, "latent_channels", 0, 4, "32"),
    (VAE, "norm_num_groups", 0, 5),
    (VAE, "layers_per_block", 10**6, -1),
    (VAE, "act_fn", "evil", None),
    (VAE, "latents_mean", [0.0] * 32),
    (CLIP, "num_attention_heads", 0, 3, 10**9),
    (CLIP, "eos_token_id", None, -1, "1"),
    (CLIP, "hidden_size", 0, 130, 10**9),
    (CLIP, "num_hidden_layers", float("inf"), 0),
    (CLIP, "max_position_embeddings", 10**9, 0),
    (CLIP, "vocab_size", 10**12, 0),
    (CLIP, "layer_norm_eps", 0, "small", float("nan")),
    (CLIP, "hidden_act", "evil", 1),
    (CLIP, "model_type", "bert"),
    (T5, "num_heads", 0, 10**9),
    (T5, "d_ff", 10**9, None),
    (T5, "d_model", 64, -128),
    (T5, "relative_attention_num_buckets", 0, 10**9, 30),
    (T5, "relative_attention_max_distance", 0, 2),
    (T5, "feed_forward_proj", "gated-evil", "", None),
    (T5, "layer_norm_epsilon", -1, TOO_MUCH),
    (T5, "model_type", "umt5"),
    (SCHEDULER, "base_shift", "much", None, float("nan"), 10**9, TOO_MUCH),
    (SCHEDULER, "max_shift", [], "1.15", float("inf")),
    (SCHEDULER, "num_train_timesteps", 0, 10**9, "1000"),
    (SCHEDULER, "base_image_seq_len", 4096, 0, None),
    (SCHEDULER, "shift", 0, -3, "3"),
    (SCHEDULER, "use_dynamic_shifting", "no", None),
    (SCHEDULER, "time_shift_type", "evil"),
    (TOKENIZER, "model_max_length", float("nan"), -1, 0, "77", float("inf")),
    (TOKENIZER, "tokenizer_class", "EvilTokenizer", ["evil", "Evil"], None),
    (TOKENIZER, "eos_token", 7, {"content": 7}, "\ud800", "x" * 10_000),
    (TOKENIZER, "added_tokens_decoder", [], {"x": "y"}, {"7": 7}),
]


@pytest.mark.parametrize(("file", "key", "values"), [(f, k, v) for f, k, *v in VALUES], ids=lambda v: str(v)[:40])
def test_a_value_that_cannot_be_is_one_sentence_that_names_file_and_key(linked, file, key, values):
    for value in values:
        changed(linked, file, **{key: value})
        refused(linked, rf"{key}|describes|bert|umt5|channels")


BESIDE = {
    "a list": "[1, 2]",
    "a text": '"FLUX"',
    "nested without end": "[" * 100_000,
    "no UTF-8": "\udcff",
    "a number of 5000 digits": '{"shift": 1' + "0" * 5000 + "}",
    "nothing": "",
}


@pytest.mark.parametrize("name", BESIDE)
def test_a_configuration_that_is_no_object_is_one_sentence(linked, name):
    for file in (
        TRANSFORMER,
        SCHEDULER,
        TOKENIZER,
        "tokenizer_2/tokenizer.json",
        "tokenizer_2/special_tokens_map.json",
    ):
        before = (linked / file).read_bytes() if (linked / file).exists() else b"{}"
        (linked / file).unlink(missing_ok=True)
        (linked / file).write_bytes(BESIDE[name].encode(errors="surrogateescape"))
        refused(linked, r"no JSON object|not readable JSON|\(it must be|cannot be|version")
        (linked / file).unlink()
        (linked / file).write_bytes(before)


REAL = {
    "transformer": {"_class_name": "FluxTransformer2DModel", "_diffusers_version": "0.30.0.dev0",
                    "_name_or_path": "../checkpoints/flux-dev/transformer", "attention_head_dim": 128,
                    "guidance_embeds": True, "in_channels": 64, "joint_attention_dim": 4096,
                    "num_attention_heads": 24, "num_layers": 19, "num_single_layers": 38, "patch_size": 1,
                    "pooled_projection_dim": 768},
    "vae": {"_class_name": "AutoencoderKL", "_diffusers_version": "0.30.0.dev0", "_name_or_path": "../flux-dev/vae",
            "act_fn": "silu", "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D"] * 4, "force_upcast": True, "in_channels": 3,
            "latent_channels": 16, "latents_mean": None, "latents_std": None, "layers_per_block": 2,
            "mid_block_add_attention": True, "norm_num_groups": 32, "out_channels": 3, "sample_size": 1024,
            "scaling_factor": 0.3611, "shift_factor": 0.1159, "up_block_types": ["UpDecoderBlock2D"] * 4,
            "use_post_quant_conv": False, "use_quant_conv": False},
    "text_encoder": {"_name_or_path": "openai/clip-vit-large-patch14", "architectures": ["CLIPTextModel"],
                     "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2,
                     "hidden_act": "quick_gelu", "hidden_size": 768, "initializer_factor": 1.0,
                     "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-05,
                     "max_position_embeddings": 77, "model_type": "clip_text_model", "num_attention_heads": 12,
                     "num_hidden_layers": 12, "pad_token_id": 1, "projection_dim": 768, "torch_dtype": "bfloat16",
                     "transformers_version": "4.43.3", "vocab_size": 49408},
    "text_encoder_2": {"_name_or_path": "google/t5-v1_1-xxl", "architectures": ["T5EncoderModel"],
                       "classifier_dropout": 0.0, "d_ff": 10240, "d_kv": 64, "d_model": 4096,
                       "decoder_start_token_id": 0, "dense_act_fn": "gelu_new", "dropout_rate": 0.1,
                       "eos_token_id": 1, "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0,
                       "is_encoder_decoder": True, "is_gated_act": True, "layer_norm_epsilon": 1e-06,
                       "model_type": "t5", "num_decoder_layers": 24, "num_heads": 64, "num_layers": 24,
                       "output_past": True, "pad_token_id": 0, "relative_attention_max_distance": 128,
                       "relative_attention_num_buckets": 32, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
                       "transformers_version": "4.43.3", "use_cache": True, "vocab_size": 32128},
    "scheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": "0.30.0.dev0",
                  "base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 4096, "max_shift": 1.15,
                  "num_train_timesteps": 1000, "shift": 3.0, "use_dynamic_shifting": True},
}  # fmt: skip
"""What the folder of FLUX.1-dev says of its parts."""


def test_the_configurations_of_flux_1_dev_are_taken_whole_without_a_word(tmp_path, caplog):
    for part, told in REAL.items():
        (tmp_path / part).mkdir()
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (tmp_path / part / name).write_text(json.dumps(told))
        with caplog.at_level(logging.INFO, "dit360"):
            read = files.read_config(part, tmp_path / part)
        assert read == {key: value for key, value in told.items() if key in read}
        assert len(read) >= len(told) - 14
    assert caplog.messages == []
    specials = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "</s>")
    told = {**specials, "additional_special_tokens": [f"<extra_id_{n}>" for n in range(100)], "extra_ids": 100,
            "added_tokens_decoder": {"0": {"content": "<pad>", "special": True}}, "clean_up_tokenization_spaces": True,
            "legacy": True, "model_max_length": 512, "sp_model_kwargs": {}, "tokenizer_class": "T5Tokenizer",
    }  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
    with caplog.at_level(logging.INFO, "dit360"):
        tokenizers.settings(T5_TOKENIZER, tmp_path)
    assert caplog.messages == []
    assert tokenizers.longest_prompt(T5_TOKENIZER, tmp_path, 512) == 512


CODE = {
    "_attn_implementation": "evil-org/evil-kernel",
    "attn_implementation": "evil-org/evil-kernel",
    "_attn_implementation_internal": "evil-org/evil-kernel",
    "_experts_implementation": "evil-org/experts",
    "auto_map": {"AutoModel": "evil.Evil"},
    "custom_pipeline": "evil-org/evil",
    "custom_generate": "evil-org/evil",
    "trust_remote_code": True,
    "use_kernels": True,
    "kernel_config": {"Linear": "evil-org/evil"},
    "_module_": "evil",
    "adapter_name_or_path": "evil-org/adapter",
    "a key of next year": "evil-org/evil",
}


def test_no_key_that_chooses_code_reaches_a_library_and_they_are_told(linked, caplog):
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2", "scheduler"):
        file = f"{part}/{'scheduler_config' if part == 'scheduler' else 'config'}.json"
        before = files.read_config(part, linked / part)
        changed(linked, file, **CODE)
        with caplog.at_level(logging.WARNING, "dit360"):
            assert files.read_config(part, linked / part) == before
            files.read_config(part, linked / part)
        [told] = caplog.messages
        assert f"{linked / file} holds '_attn_implementation', " in told
        assert "which choose code" in told
        caplog.clear()
    for part in ("tokenizer", "tokenizer_2"):
        changed(linked, f"{part}/tokenizer_config.json", **CODE)
        changed(linked, f"{part}/special_tokens_map.json", **CODE)
        told = tokenizers.settings(TOKENIZERS[part], linked / part)
        assert not {key for file in told.values() for key in file} & set(CODE)


@pytest.mark.parametrize("made_by", ["DPMSolverMultistepScheduler", "EvilScheduler", None, 7])
def test_the_scheduler_of_another_class_is_told(linked, caplog, made_by):
    changed(linked, SCHEDULER, _class_name=made_by)
    with caplog.at_level(logging.WARNING, "dit360"):
        FLUX_FOLDER.check(linked)
    [told] = caplog.messages
    assert f"{linked / SCHEDULER} describes {made_by}, of which only the settings" in told
    assert "scheduler_type" in told


PANORAMAS = {"FluxControlPipeline": "follows a control picture",
             "EvilPipeline": "but dit360 runs FluxPipeline models"}  # fmt: skip


@pytest.mark.parametrize("name", PANORAMAS)
def test_another_pipeline_is_called_by_what_it_is(linked, name):
    changed(linked, "model_index.json", _class_name=name)
    refused(linked, rf"holds a {name}.*{PANORAMAS[name]}.*give a FLUX folder")


@pytest.mark.parametrize(("part", "made"), [("transformer", ["diffusers", "Flux2Transformer2DModel"]),
                                            ("text_encoder", ["transformers", "AutoModel"]),
                                            ("vae", ["diffusers"]), ("tokenizer_2", "evil")])  # fmt: skip
def test_another_class_of_a_part_is_refused(linked, part, made):
    changed(linked, "model_index.json", **{part: made})
    refused(linked, rf"model_index\.json (says that its|wants code for its) {part}")


CHANNELS = {512: "as FLUX.1-Fill does, and makes 129 instead of 128", 256: "as FLUX.1-Depth and FLUX.1-Canny do",
            132: "and a picture's latents have 128"}  # fmt: skip


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_transformer_of_other_channels_is_called_by_what_it_is(linked, channels):
    changed(linked, TRANSFORMER, in_channels=channels, out_channels=129 if channels == 512 else 128)
    refused(linked, rf"takes {channels} channels, {CHANNELS[channels]}.*give ")
    assert why_no_painter({"in_channels": 64}, 16) is None
    assert why_no_painter({"in_channels": 384, "out_channels": 64}, 16) is None


# ------------------------------------------------------------------------------------------------------- tokenizers


def vocabulary(change):
    return lambda told: change(told["model"])


SPLIT = {"type": "Split", "behavior": "Removed", "invert": True}


def charsmap(data):
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


SAID = {
    "an unknown version": ({"version": "2.0"}, r"version is '2\.0'"),
    "an unknown model": ({"model": {"type": "Quantum"}}, "model is 'Quantum'"),
    "no model": ({"model": None}, "model is None"),
    "an unknown decoder": ({"decoder": {"type": "Nope"}}, "decoder is 'Nope'"),
    "an unknown normalizer": ({"normalizer": ["NFC"]}, r"normalizer is \['NFC'\]"),
    "a sequence of nothing": ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": None}}, "pretokenizers is None"),
}
TRIED = {
    "a regex that is none": (
        "tokenizer", lambda told: told.update(pre_tokenizer={**SPLIT, "pattern": {"Regex": "(((["}}), "Oniguruma"),
    "merges of unknown tokens": (
        "tokenizer", lambda told: told["model"]["merges"].append(["zzzz", "qqqq"]), "out of vocabulary"),
    "a table of characters that is cut": (
        "tokenizer_2", lambda told: told.update(normalizer=charsmap(b"x")), "PanicException"),
    "a table of characters that fails at some": (
        "tokenizer_2", lambda told: told.update(normalizer=charsmap(b"\x04\0\0\0abcd")), "index out of bounds"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_a_tokenizer_of_another_kind_is_one_sentence(linked, name):
    values, sentence = SAID[name]
    changed(linked, "tokenizer_2/tokenizer.json", **values)
    refused(linked, rf"tokenizer\.json says that {sentence}")


@pytest.mark.parametrize("name", TRIED)
def test_a_tokenizer_at_which_its_library_fails_is_one_sentence(linked, name):
    part, change, sentence = TRIED[name]
    file = linked / part / "tokenizer.json"
    told = json.loads(file.read_text())
    change(told)
    write(file, json.dumps(told))
    refused(linked, rf"tokenizer\.json cannot be read as a tokenizer \(.*{sentence}.*\); download it again")


def test_a_tokenizer_that_is_another_and_works_is_taken_and_tried_once(linked, monkeypatch):
    changed(linked, "tokenizer_2/tokenizer.json", normalizer={"type": "NFKC"})
    FLUX_FOLDER.check(linked)
    monkeypatch.setattr(tokenizers.subprocess, "run", None)
    FLUX_FOLDER.check(linked)


def test_a_process_that_crashes_over_a_tokenizer_is_told(linked, monkeypatch):
    monkeypatch.setattr(tokenizers, "_TRY", "import os; os.abort()")
    changed(linked, "tokenizer_2/tokenizer.json", normalizer={"type": "NFKD"})
    refused(linked, r"tokenizer\.json cannot be read as a tokenizer \(its library crashes\)")


def test_a_vocabulary_that_is_none_or_has_no_merges_is_told(linked):
    (linked / "tokenizer" / "tokenizer.json").unlink()
    (linked / "tokenizer" / "vocab.json").write_text('{"a": "b"}')
    refused(linked, "is no vocabulary from tokens to numbers")
    (linked / "tokenizer" / "vocab.json").write_text('{"a": 1}')
    refused(linked, r"has no merges\.txt beside its vocab\.json")


# ---------------------------------------------------------------------------------------------------------- weights

TENSOR = "encoder.block.0.layer.0.SelfAttention.q"
QUANTIZED = {
    "scaled fp8": {f"{TENSOR}.scale_weight": "float32"},
    "scaled fp8, with scales of its inputs": {f"{TENSOR}.scale_input": "float32"},
    "marked as scaled fp8": {"scaled_fp8": "float16"},
    "fp8 of vLLM": {f"{TENSOR}.weight_scale": "float32"},
    "of DeepSeek": {f"{TENSOR}.weight_scale_inv": "float32"},
    "int8 of ComfyUI": {f"{TENSOR}.comfy_quant": "uint8"},
    "bitsandbytes": {f"{TENSOR}.weight.absmax": "float32"},
    "LLM.int8": {f"{TENSOR}.SCB": "float32"},
    "GPTQ": {f"{TENSOR}.qweight": "int32"},
    "Nunchaku": {f"{TENSOR}.wscales": "float16"},
    "whole numbers": {f"{TENSOR}.weight": "int8"},
}
LARGE = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}


@pytest.mark.parametrize("part", files.WEIGHTS)
@pytest.mark.parametrize("name", QUANTIZED)
def test_weights_that_mean_nothing_without_scales_are_refused_in_every_part(linked, part, name):
    file = linked / part / f"{LARGE.get(part, 'model')}.safetensors"
    file.unlink()
    plain = {} if name == "whole numbers" else {f"{TENSOR}.weight": numpy.ones((4, 4), "float16")}
    save_file({**plain, **{key: numpy.ones(4, dtype) for key, dtype in QUANTIZED[name].items()}}, file)
    refused(linked, "which (mean nothing without their scales and which )?dit360 does not read.*quantization_mode")


def test_a_part_of_one_variant_alone_is_read_and_of_several_refused(linked, caplog):
    plain = linked / "text_encoder_2" / "model.safetensors"
    plain.rename(plain.with_name("model.fp16.safetensors"))
    with caplog.at_level(logging.INFO, "dit360"):
        FLUX_FOLDER.check(linked)
    assert any("the variant fp16 alone" in told for told in caplog.messages)
    found = weights.tensor_files(linked / "text_encoder_2")
    assert {file.name for file in found.values()} == {"model.fp16.safetensors"}
    shutil.copy(plain.with_name("model.fp16.safetensors"), plain.with_name("model.bf16.safetensors"))
    refused(linked, "holds its weights as bf16 and fp16, and none without a name of a variant; leave one")
    shutil.copy(plain.with_name("model.fp16.safetensors"), plain)
    assert {file.name for file in weights.tensor_files(linked / "text_encoder_2").values()} == {"model.safetensors"}


@pytest.mark.parametrize("name", ["model.safetensors.index.fp16.json", "model.fp16.safetensors.index.json"])
def test_a_variant_in_shards_is_read(linked, name):
    plain = linked / "text_encoder_2" / "model.safetensors"
    tensors = weights.check_safetensors(plain)
    shard = "model.fp16-00001-of-00001.safetensors"
    plain.rename(plain.with_name(shard))
    told = {"metadata": {}, "weight_map": dict.fromkeys(tensors, shard)}
    (linked / "text_encoder_2" / name).write_text(json.dumps(told))
    FLUX_FOLDER.check(linked)
    assert set(weights.tensor_files(linked / "text_encoder_2")) == set(tensors)


def test_tensors_without_a_place_are_refused_and_those_of_another_part_are_not(tmp_path):
    wanted = {"encoder.a": (2, 2)}
    t5 = FLUX.part("text_encoder_2").harmless
    for beside in ("decoder.b", "lm_head.weight", "shared.weight", "encoder.embed_tokens.weight"):
        weights.check_names(t5, tmp_path, wanted, {"encoder.a": (2, 2), beside: (9,)}, {})
    for strange in ("encoder.c", "encoder.a.scale", "evil"):
        with pytest.raises(ModelError, match=rf"holds 1 tensors that its configuration has no place for.*'{strange}'"):
            weights.check_names(t5, tmp_path, wanted, {"encoder.a": (2, 2), strange: (9,)}, {})


# ---------------------------------------------------------------------------------------------- dit360.json and schnell

SETTINGS = {
    "width": [-64, 2**20, 0, 100, "256", True, 10**400],
    "height": [-64, 2**20],
    "steps": [10**9, 0, -1, 2.5],
    "guidance": [float("nan"), -1, 10**9, "3"],
    "circular_padding": [-3, 10**9],
    "prompt_prefix": ["x" * 10_000_000, "\ud800", 7],
    "precision": ["fp12"],
    "latent_rotation": ["yes"],
}
GIVEN = Model(name="given", api=1, base="given", width=2048, height=1024)


@pytest.mark.parametrize("key", SETTINGS)
def test_what_a_folder_says_of_its_model_keeps_to_the_options_ranges(tmp_path, key):
    for value in SETTINGS[key]:
        (tmp_path / "dit360.json").write_text(json.dumps({"model": {key: value}}))
        said = rf"dit360\.json is damaged \(.*({key.split('_')[-1]}|size).*\); delete it"
        with pytest.raises(ModelError, match=said) as caught:
            with_settings(GIVEN, tmp_path, FLUX)
        assert len(str(caught.value)) < 600


def test_what_is_of_another_kind_is_told_without_pythons_names(tmp_path):
    (tmp_path / "dit360.json").write_text('{"model": {"steps": 2.5}}')
    with pytest.raises(ModelError, match=r"dit360\.json is damaged \(its steps is 2\.5\); delete it"):
        with_settings(GIVEN, tmp_path, FLUX)


def test_what_a_folder_says_besides_is_told(tmp_path, caplog):
    told = {"format": 1, "made_from": "dit360", "loras": [], "colour": "red", "model": {"steps": 6, "mood": "calm"}}
    (tmp_path / "dit360.json").write_text(json.dumps(told))
    with caplog.at_level(logging.INFO):
        assert with_settings(GIVEN, tmp_path, FLUX).steps == 6
    (said,) = caplog.messages
    assert said.endswith("dit360.json holds 'colour', 'model.mood', which dit360 does not know and leaves out.")


def test_a_transformer_without_guidance_is_taken_for_schnell(linked, tmp_path):
    assert with_settings(GIVEN, linked, FLUX).steps == 28
    changed(linked, TRANSFORMER, guidance_embeds=False)
    assert with_settings(GIVEN, linked, FLUX).steps == 4
    (linked / "dit360.json").write_text('{"model": {"steps": 6}}')
    assert with_settings(GIVEN, linked, FLUX).steps == 6
