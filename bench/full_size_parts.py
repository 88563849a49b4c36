"""FLUX.1-dev's architecture with random weights, made where they compute, and one step of it in each way."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from dit360_core.models.embedding import Embedding
from dit360_core.models.flux.small import enliven, small_autoencoder
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.pipeline.stages import Conditioning
from dit360_core.plugins.offers import Model
from dit360_core.sphere.grid import Grid
from dit360_core.system.dtypes import torch_dtype
from peak import memory, reset_peak

GUIDANCE = 2.8
PADDING = 1
"""Token columns on either side, as the authors have it."""

SMALL_TRANSFORMER = {
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 64,
    "num_attention_heads": 4,
    "joint_attention_dim": 128,
    "pooled_projection_dim": 64,
    "axes_dims_rope": (8, 28, 28),
}
TINY_TRANSFORMER = {
    **SMALL_TRANSFORMER,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "axes_dims_rope": (4, 6, 6),
}
"""Where only the autoencoder is looked at."""

Asked = dict[str, Any]
"""device, precision, small (bool), width (pixels), rounds, patience (seconds)."""


@contextmanager
def made_in(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Modules made inside have their weights on the device and in the dtype from the beginning."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def transformer(asked: Asked, dtype: torch.dtype, config: dict[str, Any] | None = None) -> Any:
    """diffusers' defaults are FLUX.1-dev's, but for the guidance."""
    import diffusers

    described: Any = diffusers.FluxTransformer2DModel
    if config is None:
        config = SMALL_TRANSFORMER if asked["small"] else {}
    torch.manual_seed(0)
    with made_in(asked["device"], dtype):
        made = described(guidance_embeds=True, **config).eval().requires_grad_(False)
    enliven(made, gate=0.5)
    return made


def autoencoder(asked: Asked, dtype: torch.dtype) -> Any:
    """FLUX.1's, or a narrow one."""
    full = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32}
    with torch.device(asked["device"]):
        return small_autoencoder(
            dtype, scaling_factor=0.3611, shift_factor=0.1159, sample_size=1024, **({} if asked["small"] else full)
        )


def text_encoders(asked: Asked, dtype: torch.dtype) -> dict[str, tuple[Any, int]]:
    """T5 and CLIP, each with the number of tokens that it is given."""
    import transformers

    library: Any = transformers
    t5: dict[str, Any] = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
    clip: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    clip["intermediate_size"] = 3072
    if asked["small"]:
        t5 |= {"d_model": 128, "d_ff": 256, "num_layers": 2, "num_heads": 2}
        clip |= {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    described = library.T5Config(
        **t5,
        feed_forward_proj="gated-gelu",
        vocab_size=32128,
        relative_attention_num_buckets=32,
        tie_word_embeddings=False,
    )
    with made_in(asked["device"], dtype):
        return {
            "T5": (library.T5EncoderModel(described).eval(), 512),
            "CLIP": (library.CLIPTextModel(library.CLIPTextConfig(**clip, max_position_embeddings=77)).eval(), 77),
        }


def scheduler() -> Any:
    """FLUX.1-dev's."""
    import diffusers

    described: Any = diffusers.FlowMatchEulerDiscreteScheduler
    return described(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, shift=3.0)


def flux(asked: Asked, config: dict[str, Any] | None = None, precision: str = "") -> Any:
    """A FluxPipeline without text encoders. config: of another transformer than the full one. precision: if another
    than what is asked for."""
    import diffusers

    dtype = dtype_of(precision or asked["precision"])

    described: Any = diffusers.FluxPipeline
    pipe = described(
        transformer=transformer(asked, dtype, config),
        vae=autoencoder(asked, dtype),
        scheduler=scheduler(),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def wrapped(pipe: Any, asked: Asked, **options: Any) -> Pipeline:
    """Ours around a pipeline of diffusers, for pictures of the size. options: of Pipeline.from_diffusers."""
    model = Model(name="given", api=1, base="given", width=asked["width"], height=asked["width"] // 2)
    return Pipeline.from_diffusers(pipe, model, **options)


def add_lora(module: Any) -> None:
    """A LoRA of rank 64 beside the attention's projections, as diffusers keeps the authors'. Raises ImportError."""
    from peft import LoraConfig

    names = ["to_q", "to_k", "to_v", "to_out.0"]
    dtype = module.dtype
    module.add_adapter(LoraConfig(r=64, lora_alpha=64, target_modules=names, init_lora_weights="gaussian"))
    module.to(dtype).requires_grad_(False)


def embedding(asked: Asked, config: Any, dtype: torch.dtype) -> Embedding:
    """What the text encoders would make of a prompt."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(asked["device"], dtype)

    length = 16 if asked["small"] else 512
    return Embedding(
        tokens=random(1, length, config.joint_attention_dim), pooled=random(1, config.pooled_projection_dim)
    )


def conditioning(asked: Asked, config: Any, dtype: torch.dtype) -> Conditioning:
    """The same for Pipeline.sample."""
    positive = embedding(asked, config, dtype)
    length = int(positive.tokens.shape[1])
    return Conditioning(
        prompt="random", negative_prompt=None, positive=positive, negative=None, max_sequence_length=length
    )


# --------------------------------------------------------------------------------------------------------- one step


def our_velocity(pipeline: Pipeline, asked: Asked, attend: Any = None) -> Callable[[], torch.Tensor]:
    """One call of the transformer as Pipeline.sample makes it. attend: another kernel than the pipeline's."""
    engine = pipeline.engine
    grid = Grid.of_picture(asked["width"], asked["width"] // 2, PADDING)
    velocity = engine.velocity(grid, GUIDANCE, attend)
    given = embedding(asked, engine.denoiser.config, engine.dtype)
    x = engine.pack(engine.noise(grid, torch.Generator().manual_seed(1)).to(engine.device))

    def call() -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = velocity(x, 0.7, given)
            return found

    return call


def our_step(pipeline: Pipeline, asked: Asked, attend: Any = None) -> Callable[[], torch.Tensor]:
    """The same with what Euler's solver makes of it."""
    velocity = our_velocity(pipeline, asked, attend)

    def step() -> torch.Tensor:
        v = velocity()
        return v - 0.02 * v

    return step


def official_step(module: Any, asked: Asked) -> Callable[[], torch.Tensor]:
    """One step of diffusers' FluxPipeline with the authors' padding: columns copied before the call, cut off after."""
    device, dtype, config = asked["device"], module.dtype, module.config
    rows, columns = asked["width"] // 32, asked["width"] // 16
    given = embedding(asked, config, dtype)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, rows * columns, config.in_channels, generator=generator).to(device, dtype)
    ids = torch.zeros(rows, columns, 3, device=device, dtype=dtype)
    ids[..., 1] = torch.arange(rows, device=device)[:, None]
    ids[..., 2] = torch.arange(columns, device=device)
    text_ids = torch.zeros(given.tokens.shape[1], 3, device=device, dtype=dtype)
    guidance = torch.full((1,), GUIDANCE, device=device)
    euler = scheduler()
    euler.set_timesteps(sigmas=[1.0 - i / 50 for i in range(50)], mu=1.15, device=device)
    timestep = euler.timesteps[10]

    def padded(x: torch.Tensor) -> torch.Tensor:
        x = x.view(rows, columns, -1)
        return torch.cat([x[:, -PADDING:], x, x[:, :PADDING]], dim=1).flatten(0, 1)

    padded_ids = padded(ids)

    def step() -> torch.Tensor:
        with torch.no_grad():
            v = module(
                hidden_states=padded(latents)[None],
                timestep=timestep.expand(1).to(dtype) / 1000,
                guidance=guidance,
                pooled_projections=given.pooled,
                encoder_hidden_states=given.tokens,
                txt_ids=text_ids,
                img_ids=padded_ids,
                joint_attention_kwargs={},
                return_dict=False,
            )[0]
            v = v.view(1, rows, columns + 2 * PADDING, -1)[:, :, PADDING:-PADDING].flatten(1, 2)
            # It counts its steps, and would be at the end after fifty of ours.
            euler._step_index = None
            after: torch.Tensor = euler.step(v, timestep, latents, return_dict=False)[0]
            return after

    return step


# ------------------------------------------------------------------------------------------------------ measurements


def timed(function: Callable[[], Any], device: str) -> float:
    """Seconds until the device has done it."""
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def peaks(function: Callable[[], Any], device: str) -> dict[str, Any]:
    """The most memory that was held meanwhile, and the seconds of this first call."""
    reset_peak(torch.device(device))
    seconds = timed(function, device)
    reserved = torch.cuda.max_memory_reserved() if device == "cuda" else None
    return {"first_s": seconds, "peak": memory(torch.device(device))[1], "reserved": reserved}


def outside_torch(device: str) -> int:
    """Bytes of a card that are taken beside what torch allocates: CUDA's own, and other programs'."""
    if device != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def paired(mine: Callable[[], Any], reference: Callable[[], Any] | None, asked: Asked) -> dict[str, Any]:
    """Median seconds of both in turns, and median and quartiles of the ratios; of one alone if there is no other."""
    device = asked["device"]
    own: list[float] = []
    theirs: list[float] = []
    timed(mine, device)
    if reference is not None:
        timed(reference, device)
    until = time.perf_counter() + asked["patience"]
    for i in range(asked["rounds"]):
        order = [(mine, own)] if reference is None else [(mine, own), (reference, theirs)]
        for function, kept in order if i % 2 else reversed(order):
            kept.append(timed(function, device))
        # Of something slow two rounds are enough.
        if i and time.perf_counter() > until:
            break
    found: dict[str, Any] = {"seconds": statistics.median(own), "rounds": len(own)}
    if reference is None:
        return found
    ratios = [a / b for a, b in zip(own, theirs, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return {**found, "reference_s": statistics.median(theirs), "ratio": middle, "quartiles": [low, high]}


def resident(asked: Asked) -> Pipeline | None:
    """The resident pipeline with PyTorch's attention, or None where it does not fit any more."""
    # 24 GB of weights and what a step needs; on the CPU there are only small ones.
    if asked["device"] == "cuda" and not asked["small"]:
        torch.cuda.empty_cache()
        if torch.cuda.mem_get_info()[0] < 34 * 2**30:
            return None
    return wrapped(flux(asked), asked, attention_backend="sdpa")


def dtype_of(precision: str) -> torch.dtype:
    """By our names."""
    return torch_dtype(precision)
