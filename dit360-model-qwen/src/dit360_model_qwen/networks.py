"""The parts of Qwen-Image as diffusers and transformers have them: built, run, and given our attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from dit360_core.models.family import AUTOENCODER, DENOISER
from dit360_core.models.running import (
    OneFrameNetworks,
    Policy,
    Residency,
    check_numbers,
    check_numbers_of_tokens,
    check_parts,
    explain_libraries,
    kernel_for,
    load_tokenizer,
    one_frame,
    quiet,
)
from dit360_core.plugins import Attend, InputError

from dit360_model_qwen.folder import TOKENIZER, not_for_prompts
from dit360_model_qwen.layers import policy_of
from dit360_model_qwen.parts import LONGEST_PROMPT, TEXT
from dit360_model_qwen.pipelines import NEIGHBOURS, PIPELINES, TITLE

with quiet():  # diffusers is loud when it is imported
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel

    from dit360_model_qwen.engine import QwenImageEngine, last_state
    from dit360_model_qwen.positions import Placed, panorama_rope
    from dit360_model_qwen.processor import QwenProcessor

_FRAME = 34
"""Tokens before the prompt in the frame that diffusers' pipeline has for it, which are read and not handed on."""


class QwenImageNetworks(OneFrameNetworks):
    """Qwen-Image's parts."""

    denoiser_class = QwenImageTransformer2DModel
    autoencoder_class = AutoencoderKLQwenImage

    # ------------------------------------------------------------------------------------------------------ building

    def made(self, part: str, config: Mapping[str, Any]) -> Any:
        if part == DENOISER:
            denoiser: Any = QwenImageTransformer2DModel
            return denoiser.from_config(config)
        if part == AUTOENCODER:
            return self.made_autoencoder(config)
        described = {key: value for key, value in config.items() if key != "model_type"}
        reader: Any = Qwen2_5_VLTextModel
        return reader(Qwen2_5_VLTextConfig(**described))

    def assemble(self, folder: Path, parts: Mapping[str, Any]) -> Any:
        """Nothing in the folder says which classes they are of, or reaches them unseen."""
        with explain_libraries(folder):
            # Here, since a plan needs none of them, and pipelines take seconds to import.
            from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline

            tokenizer = load_tokenizer(TOKENIZER, folder / "tokenizer")
            read = self.architecture.read_config(TEXT, folder / TEXT)
            check_numbers_of_tokens(folder / "tokenizer", tokenizer, int(read["vocab_size"]))
            schedulers: Any = FlowMatchEulerDiscreteScheduler
            scheduler = schedulers.from_config(self.architecture.read_config("scheduler", folder / "scheduler"))
            pipeline: Any = QwenImagePipeline
            return pipeline(scheduler=scheduler, tokenizer=tokenizer, **parts)

    def check_given(self, pipe: Any) -> None:
        check_parts(pipe, (DENOISER, AUTOENCODER, "scheduler"), PIPELINES[0])
        kind, denoiser = type(pipe).__name__, pipe.transformer
        if kind in NEIGHBOURS:
            raise InputError(f"The {kind} {NEIGHBOURS[kind]}, which dit360 does not do; give a {PIPELINES[0]}.")
        if not isinstance(denoiser, QwenImageTransformer2DModel):
            raise InputError(
                f"The {kind} has a {type(denoiser).__name__}, which is not a {TITLE} transformer; give a "
                f"{PIPELINES[0]}."
            )
        configured: Any = denoiser
        if why := not_for_prompts(configured.config):
            raise InputError(f"The transformer's configuration says that {why}; give another {PIPELINES[0]}.")
        check_numbers(pipe, self.architecture.names)

    def open(
        self, pipe: Any, *, device: torch.device, dtype: torch.dtype, residency: Residency, config: Any
    ) -> QwenImageEngine:
        one_frame(pipe.vae)
        return QwenImageEngine(networks=self, pipe=pipe, device=device, dtype=dtype, residency=residency, config=config)

    # ------------------------------------------------------------------------------------------------------ adapting

    def policy(self, part: str) -> Policy:
        return policy_of(part)

    def attach(self, denoiser: Any, attend: Attend, slice_size: int) -> None:
        denoiser.set_attn_processor(QwenProcessor(kernel_for(denoiser, attend, slice_size)))
        panorama_rope(denoiser)

    # ------------------------------------------------------------------------------- running on shapes, for the planner

    def read_text(self, part: str, module: Any, tokens: int) -> Callable[[], Any]:
        ids = torch.zeros(1, _FRAME + tokens, dtype=torch.long, device="meta")
        return lambda: last_state(module, ids)[:, _FRAME:]

    def denoise(self, module: Any, dtype: torch.dtype, image_tokens: int, text_tokens: int) -> Callable[[], Any]:
        config = module.config

        def made(*shape: int, of: torch.dtype = dtype) -> torch.Tensor:
            return torch.empty(shape, dtype=of, device="meta")

        return lambda: module(
            hidden_states=made(1, image_tokens, config.in_channels),
            timestep=made(1),
            encoder_hidden_states=made(1, text_tokens, config.joint_attention_dim),
            img_shapes=Placed(turns=made(image_tokens, config.attention_head_dim // 2, 2, of=torch.float32), words=0),
            return_dict=False,
        )

    def prompt_tokens_of(self, pipe: Any) -> int:
        return LONGEST_PROMPT
