"""The parts of FLUX.1 as diffusers and transformers have them: built, run, and given our attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from dit360_core.models.architecture import AUTOENCODER, DENOISER
from dit360_core.models.attention import kernel_for
from dit360_core.models.diffusers_networks import DiffusersNetworks
from dit360_core.models.flux.folder import TOKENIZERS, read_config
from dit360_core.models.flux.given import check_given
from dit360_core.models.flux.layers import policy_of
from dit360_core.models.flux.lengths import LONGEST_PROMPT, TOKENS_OF_CLIP
from dit360_core.models.flux.schemas import value_of
from dit360_core.models.residency.residency import Residency
from dit360_core.models.tokenizers import check_numbers_of_tokens, load_tokenizer
from dit360_core.models.weights.parts import explain_libraries
from dit360_core.models.weights.quiet import quiet
from dit360_core.models.weights.selection import Policy
from dit360_core.plugins.offers import Attend

with quiet():  # diffusers is loud when it is imported
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    from dit360_core.models.flux.engine import FluxEngine
    from dit360_core.models.flux.processor import AttentionProcessor


class FluxNetworks(DiffusersNetworks):
    """FLUX.1's parts."""

    denoiser_class = FluxTransformer2DModel

    # ------------------------------------------------------------------------------------------------------ building

    def made(self, part: str, config: Mapping[str, Any]) -> Any:
        made: Any
        if part == DENOISER:
            made = FluxTransformer2DModel
            return made.from_config(config)
        if part == AUTOENCODER:
            made = AutoencoderKL
            return made.from_config(config)
        if part == "text_encoder":
            return CLIPTextModel(CLIPTextConfig(**config))
        return T5EncoderModel(T5Config(**config))

    def assemble(self, folder: Path, parts: Mapping[str, Any]) -> Any:
        """Nothing in the folder says which classes they are of, or reaches them unseen."""
        with explain_libraries(folder):
            # Here, since a plan needs neither, and the pipeline takes seconds to import.
            from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

            encoders = ("text_encoder", "text_encoder_2")
            configs = {part: read_config(part, folder / part) for part in (*encoders, "scheduler")}
            tokenizers = {}
            for name, part in zip(TOKENIZERS, encoders, strict=True):
                positions = value_of(part, configs[part], "max_position_embeddings") if name == "tokenizer" else None
                tokenizers[name] = load_tokenizer(TOKENIZERS[name], folder / name, positions)
                check_numbers_of_tokens(folder / name, tokenizers[name], value_of(part, configs[part], "vocab_size"))
            scheduler: Any = FlowMatchEulerDiscreteScheduler
            pipeline: Any = FluxPipeline
            return pipeline(scheduler=scheduler.from_config(configs["scheduler"]), **tokenizers, **parts)

    def check_given(self, pipe: Any) -> None:
        check_given(pipe)

    def open(
        self, pipe: Any, *, device: torch.device, dtype: torch.dtype, residency: Residency, config: Any
    ) -> FluxEngine:
        return FluxEngine(networks=self, pipe=pipe, device=device, dtype=dtype, residency=residency, config=config)

    # ------------------------------------------------------------------------------------------------------ adapting

    def policy(self, part: str) -> Policy:
        return policy_of(part)

    def as_used(self, part: str, name: str, module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
        return Enclosed(module, dtype) if part == "text_encoder_2" and name.endswith(".wo") else module

    def attach(self, denoiser: Any, attend: Attend, slice_size: int) -> None:
        denoiser.set_attn_processor(AttentionProcessor(kernel_for(denoiser, attend, slice_size)))

    # ------------------------------------------------------------------------------- running on shapes, for the planner

    def read_text(self, part: str, module: Any, tokens: int) -> Callable[[], Any]:
        length = tokens if part == "text_encoder_2" else TOKENS_OF_CLIP
        ids = torch.zeros(1, length, dtype=torch.long, device="meta")
        return lambda: module(ids, output_hidden_states=False)

    def denoise(self, module: Any, dtype: torch.dtype, image_tokens: int, text_tokens: int) -> Callable[[], Any]:
        config = module.config

        def made(*shape: int, of: torch.dtype = dtype) -> torch.Tensor:
            return torch.empty(shape, dtype=of, device="meta")

        return lambda: module(
            hidden_states=made(1, image_tokens, config.in_channels),
            timestep=made(1),
            guidance=made(1, of=torch.float32) if config.guidance_embeds else None,
            pooled_projections=made(1, config.pooled_projection_dim),
            encoder_hidden_states=made(1, text_tokens, config.joint_attention_dim),
            txt_ids=made(text_tokens, 3, of=torch.float32),
            img_ids=made(image_tokens, 3, of=torch.float32),
            return_dict=False,
        )

    def prompt_tokens_of(self, pipe: Any) -> int:
        tokenizer = getattr(pipe, "tokenizer_2", None)
        return min(LONGEST_PROMPT, int(tokenizer.model_max_length)) if tokenizer else LONGEST_PROMPT


class Enclosed(torch.nn.Module):
    """A layer whose weights are nobody else's business, and that is given what it computes in."""

    # T5 casts what it gives to its layer wo to the dtype of that layer's weights, be it that of four-bit pairs; and in
    # fp16 this layer overflows, so it computes in fp32, as in transformers.
    weight = None

    def __init__(self, layer: torch.nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = layer
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x.to(self.dtype))
