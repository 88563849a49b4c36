"""What others call our choices: names that mean the same are taken, and for those that mean something near, it is said.

Only what is certain is taken: a name of another library for the very same thing.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Mapping

from dit360_core.errors import named, setting

log = logging.getLogger("dit360")

SAME: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "scheduler": {
        "flow_match": (
            "euler", "flow_euler", "euler_flow", "flow_match_euler", "flow_match_euler_discrete",
            "FlowMatchEulerDiscreteScheduler", "flow_matching", "rectified_flow",
        ),
        "dpmpp_2m": ("dpm++ 2m", "dpm_2m", "dpm-solver++(2m)", "dpm++", "DPMSolverMultistepScheduler"),
        "unipc": ("uni_pc", "uni_pc_bh2", "UniPCMultistepScheduler", "unipc_multistep"),
        "heun": ("heun2", "HeunDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "flow_match_heun"),
        "ddim": ("DDIMScheduler",),
    },
    "quantization": {
        "int4": ("nf4", "bnb_nf4", "bnb_4bit", "4bit", "int4_bnb", "bitsandbytes_4bit", "load_in_4bit"),
        "int4-double": ("nf4_double", "nf4_double_quant", "double_quant"),
        "int8-bnb": ("llm_int8", "bnb_8bit", "bnb_int8", "bitsandbytes_8bit", "load_in_8bit"),
        "int8": ("8bit", "w8", "int8_weight_only", "int8wo"),
        "fp8": ("fp8_e4m3fn", "float8_e4m3fn", "fp8_e4m3", "float8", "e4m3fn", "float8_weight_only", "float8wo"),
        "none": ("off", "no", "false", "full"),
    },
    "attention": {
        "sdpa": (
            "torch", "pytorch", "torch_sdpa", "native", "scaled_dot_product_attention", "scaled_dot_product",
            "pytorch_attention", "sdp", "attn_torch",
        ),
        "eager": ("vanilla", "naive", "manual", "attention_basic"),
        "sdpa-math": ("math", "_native_math"),
        "sdpa-flash": ("_native_flash",),
        "sdpa-efficient": ("_native_efficient", "mem_efficient", "efficient"),
        "sdpa-cudnn": ("_native_cudnn", "cudnn"),
        "flash": ("flash_attn", "flash_attention", "flashattention", "flashattn"),
        "flash-2": ("flash_attention_2", "flash_attn_2", "flashattention2", "fa2"),
        "flash-3": ("flash_attention_3", "flash_attn_3", "flashattention3", "fa3", "_flash_3"),
        "flash-4": ("flash_attention_4", "flash_attn_4", "flashattention4", "fa4"),
        "flash-hub": ("flash_hub",),
        "xformers": ("xformer", "memory_efficient_attention", "xformers_attention"),
    },
    "tiling": {"whole": ("off", "no"), "blended": ("diffusers", "tiled")},
    "precision": {
        "fp32": ("float32", "float", "full", "single", "f32", "torch.float32", "32"),
        "bf16": ("bfloat16", "bfloat", "torch.bfloat16"),
        "fp16": ("float16", "half", "f16", "torch.float16", "16"),
    },
    "device": {"cuda": ("cuda:0", "nvidia"), "mps": ("metal", "apple", "apple_silicon", "mps:0"), "cpu": ("cpu:0",)},
    "offload": {"none": ("off", "no", "false")},
    "evict": {"none": ("off", "no", "false"), "text": ("t5", "text_encoder", "text_encoders")},
    "preset": {"low-vram": ("lowvram",), "none": ("off", "no")},
}  # fmt: skip
"""Kind → our name → what others call the same, whatever case and punctuation they use."""

_SPACING = "that is a spacing of noise levels and no solver"
_MULTISTEP = "of this kind, with the memory of steps before, are unipc and dpmpp_2m"
_EIGHT_BITS = f"weights of eight bits are {setting('quantization_mode', 'fp8')}"
_AMD = "PyTorch calls an AMD card cuda"
_CPU_ONLY = "it cannot be used; take cpu"
_FOUR = "four bits are int4, which is NF4"
_LAYERS = f"layers are {setting('offload', 'sequential')}"
_BLOCKS = f"blocks are {setting('offload', 'group')}"
_SAGE = "it computes in eight bits, which changes the picture; flash and sdpa do not"
_NOISE = f"fresh noise in each step is ddim with {setting('scheduler_eta', '1')}"
_SDE = f"of this kind is dpmpp_2m; with fresh noise in each step, ddim with {setting('scheduler_eta', '1')}"
_PARTS = (
    f"whole parts that wait in system memory are {setting('offload', 'model')}, blocks {setting('offload', 'group')}"
)

_GGUF = (
    f"that is of files: name such a file with {named('transformer')}, or write one with 'dit360 quantize' (-o x.gguf)"
)
_GGUF_TYPES = (
    "q8_0", "q6_k", "q5_k", "q5_k_s", "q5_k_m", "q5_1", "q5_0", "q4_k", "q4_k_s", "q4_k_m", "q4_1", "q4_0", "q3_k",
    "q3_k_s", "q3_k_m", "q2_k", "iq4_nl", "iq4_xs",
)  # fmt: skip
NEAR: Mapping[str, Mapping[str, str]] = {
    "scheduler": {
        "euler_a": _NOISE,
        "euler_ancestral": _NOISE,
        "ancestral": _NOISE,
        "ddpm": f"that is ddim with {setting('scheduler_eta', '1')}",
        "dpm++ sde": _SDE,
        "dpm++ 2m sde": _SDE,
        "dpm++ 2m karras": f"take dpmpp_2m, whose noise levels {named('timestep_schedule')} spaces",
        "dpm++ 2s a": "of this kind is dpmpp_2m",
        "dpm++ 3m sde": "of this kind is dpmpp_2m",
        "karras": f"{_SPACING}; {named('timestep_schedule')} has linear, quadratic and cosine",
        "exponential": f"{_SPACING}; {named('timestep_schedule')} spaces them",
        "beta": f"{_SPACING}; {named('timestep_schedule')} has linear, quadratic and cosine",
        "simple": f"{_SPACING}; {setting('timestep_schedule', 'linear')} is FLUX's own",
        "normal": f"{_SPACING}; {setting('timestep_schedule', 'linear')} is FLUX's own",
        "linear": f"{_SPACING}; say {setting('timestep_schedule', 'linear')}",
        "cosine": f"{_SPACING}; say {setting('timestep_schedule', 'cosine')}",
        "quadratic": f"{_SPACING}; say {setting('timestep_schedule', 'quadratic')}",
        "lcm": "it is for models that were distilled for it; take flow_match with fewer steps, or unipc",
        "pndm": _MULTISTEP,
        "plms": _MULTISTEP,
        "lms": _MULTISTEP,
        "ipndm": _MULTISTEP,
        "deis": _MULTISTEP,
        "res_multistep": _MULTISTEP,
    },
    "quantization": {
        "bnb": "of bitsandbytes there are int4 (NF4), int4-double and int8-bnb",
        "bitsandbytes": "there are int4 (NF4), int4-double and int8-bnb of it",
        "torchao": "there are int8 and fp8, which need no library",
        "quanto": "there are int8 and fp8, which need no library",
        "fp4": _FOUR,
        "nvfp4": _FOUR,
        "svdquant": _FOUR,
        "nunchaku": _FOUR,
        "fp8_e5m2": "fp8 is e4m3 with a scale for each channel, which keeps more",
        "float8_e5m2": "fp8 is e4m3 with a scale for each channel, which keeps more",
        "gguf": _GGUF, **dict.fromkeys(_GGUF_TYPES, _GGUF),
        "awq": "four bits are int4", "gptq": "four bits are int4",
        "bf16": f"that is no quantization; say {setting('precision', 'bf16')}",
        "fp16": f"that is no quantization; say {setting('precision', 'fp16')}",
        "bfloat16": f"that is no quantization; say {setting('precision', 'bf16')}",
        "fp32": f"that is no quantization; say {setting('precision', 'fp32')}",
    },
    "attention": {
        "sage": _SAGE,
        "sageattention": _SAGE,
        "sageattn": _SAGE,
        "flex": "sdpa does what this is for here",
        "flex_attention": "sdpa does what this is for here",
        "sliced": f"slices are {named('attention_slice_size')}, with eager",
        "slicing": f"slices are {named('attention_slice_size')}, with eager",
        "split": f"slices are {named('attention_slice_size')}, with eager",
    },
    "precision": {
        "fp8": _EIGHT_BITS, "float8": _EIGHT_BITS,
        "fp8_e4m3fn": _EIGHT_BITS,
        "int8": f"weights of eight bits are {setting('quantization_mode', 'int8')}",
        "int4": f"weights of four bits are {setting('quantization_mode', 'int4')}",
        "nf4": f"weights of four bits are {setting('quantization_mode', 'int4')}",
        "tf32": "float32 is fp32", "fp64": "fp32 is the most there is", "mixed": "bf16 is what FLUX was trained in",
    },
    "device": {
        "gpu": "an NVIDIA card is cuda, an Apple one is mps, and auto takes what is there",
        "rocm": _AMD, "hip": _AMD, "amd": _AMD,
        "xpu": "Intel's cards cannot be used; take cpu", "directml": _CPU_ONLY,
        "dml": _CPU_ONLY, "npu": _CPU_ONLY,
        "meta": "'dit360 plan' computes without weights",
    },
    "offload": {
        "cpu": _PARTS,
        "auto": f"{setting('vram', 'auto')} decides it by what is free",
        "true": f"say which: {setting('vram', 'auto')} decides it by what is free",
        "ram": _PARTS,
        "nvme": f"in files it is {setting('offload', 'disk')}",
        "ssd": f"in files it is {setting('offload', 'disk')}",
        "block": _BLOCKS, "blocks": _BLOCKS, "layer": _LAYERS,
        "layers": _LAYERS, "leaf": _LAYERS,
    },
    "preset": {
        "fast": f"the fastest that fits is {setting('preset', 'speed')}",
        "best": f"the best picture is {setting('preset', 'quality')}",
        "medvram": f"name the card's memory with {named('vram')}",
        "high-vram": f"name the card's memory with {named('vram')}",
        "fp8": f"that is {setting('quantization_mode', 'fp8')}",
    },
}  # fmt: skip
"""Kind → what others call something that is another thing here → what to say."""


def plain(name: str) -> str:
    """A name without case and punctuation."""
    return re.sub(r"[\s_\-.()]+", "", name.lower().replace("++", "pp"))


_OURS = {
    kind: {plain(other): ours for ours, others in names.items() for other in (*others, ours)}
    for kind, names in SAME.items()
}
_SAID = {kind: {plain(name): said for name, said in names.items()} for kind, names in NEAR.items()}


def ours(kind: str, name: str, choices: Iterable[str] = ()) -> str:
    """Our name for a choice of a kind; the name itself if it is none of another's.

    choices: all that there are; case and punctuation do not matter to them. Empty: plugins may offer more, and a name
    is theirs as they write it.
    """
    choices = tuple(choices)
    if name in choices:
        return name
    found = next((one for one in choices if plain(one) == plain(name)), None) or _OURS.get(kind, {}).get(plain(name))
    if found is None or (choices and found not in choices):
        return name
    if found != name.lower():
        log.info("%s %s is called %s here.", kind, name, found)
    return found


def taken(kind: str, name: str) -> str | None:
    """Which of our names another one stands for, so that no plugin's offer can be asked for by it; or None."""
    found = _OURS.get(kind, {}).get(plain(name))
    return None if found is None or plain(found) == plain(name) else found


def near(kind: str, name: str, choices: Iterable[str] = ()) -> str:
    """The end of a sentence about a name that is none: what it may mean, or empty."""
    said = _SAID.get(kind, {}).get(plain(name))
    if said is not None:
        return said
    by_lower = {choice.lower(): choice for choice in choices}
    close = [by_lower[each] for each in difflib.get_close_matches(name.lower(), list(by_lower), n=2)]
    return f"did you mean {' or '.join(close)}?" if close else ""
