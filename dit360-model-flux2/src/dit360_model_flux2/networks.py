"""The parts of FLUX.2 as diffusers and transformers have them: built, run, and given our attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from dit360_core.models.family import AUTOENCODER, DENOISER, index_of
from dit360_core.models.running import (
    DiffusersNetworks,
    Policy,
    Residency,
    check_numbers,
    check_numbers_of_tokens,
    check_parts,
    explain_libraries,
    kernel_for,
    language_model,
    load_tokenizer,
    quiet,
    run_on_shapes,
)
from dit360_core.plugins import Attend, InputError

from dit360_model_flux2.architecture import folder_kind, pipeline_of
from dit360_model_flux2.layers import policy_of
from dit360_model_flux2.parts import DEV, KLEIN, LONGEST_PROMPT, TEXT

with quiet():  # diffusers is loud when it is imported
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
    from transformers import MistralConfig, MistralModel, Qwen3Config, Qwen3Model

    from dit360_model_flux2.engine import Flux2Engine
    from dit360_model_flux2.processor import Flux2ParallelProcessor, Flux2Processor
    from dit360_model_flux2.prompts import layers_read


class Flux2Networks(DiffusersNetworks):
    """FLUX.2's parts."""

    denoiser_class = Flux2Transformer2DModel

    # ------------------------------------------------------------------------------------------------------ building

    def made(self, part: str, config: Mapping[str, Any]) -> Any:
        if part == DENOISER:
            denoiser: Any = Flux2Transformer2DModel
            return denoiser.from_config(config)
        if part == AUTOENCODER:
            autoencoder: Any = AutoencoderKLFlux2
            return autoencoder.from_config(config)
        return _reader(dict(config))

    def assemble(self, folder: Path, parts: Mapping[str, Any]) -> Any:
        """Nothing in the folder says which classes they are of, or reaches them unseen."""
        with explain_libraries(folder):
            # Here, since a plan needs none of them, and pipelines take seconds to import.
            from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Pipeline

            kind = folder_kind(folder)
            tokenizer = load_tokenizer(kind.tokenizers["tokenizer"], folder / "tokenizer")
            read = self.architecture.read_config(TEXT, folder / TEXT)
            check_numbers_of_tokens(folder / "tokenizer", tokenizer, int(read["vocab_size"]))
            schedulers: Any = FlowMatchEulerDiscreteScheduler
            scheduler = schedulers.from_config(self.architecture.read_config("scheduler", folder / "scheduler"))
            shared = {"scheduler": scheduler, "tokenizer": tokenizer, **parts}
            if pipeline_of(folder) == DEV:
                dev: Any = Flux2Pipeline
                return dev(**shared)
            klein: Any = Flux2KleinPipeline
            return klein(**shared, is_distilled=bool(index_of(folder).get("is_distilled", False)))

    def check_given(self, pipe: Any) -> None:
        check_parts(pipe, (DENOISER, AUTOENCODER, "scheduler"), KLEIN)
        if not isinstance(pipe.transformer, Flux2Transformer2DModel):
            raise InputError(
                f"The {type(pipe).__name__} has a {type(pipe.transformer).__name__}, which is not a FLUX.2 "
                f"transformer; give a {KLEIN}."
            )
        if not isinstance(pipe.vae, AutoencoderKLFlux2):
            raise InputError(
                f"The {type(pipe).__name__} has a {type(pipe.vae).__name__}, and FLUX.2's autoencoder is an "
                "AutoencoderKLFlux2; load the pipeline with its own."
            )
        transformer: Any = pipe.transformer
        autoencoder: Any = pipe.vae
        taken, latents = transformer.config["in_channels"], autoencoder.config["latent_channels"]
        if taken != 4 * latents:
            raise InputError(
                f"The transformer takes {taken} channels, and four latents of the autoencoder, which are a token, have "
                f"{4 * latents}; give the parts of one model."
            )
        check_numbers(pipe, self.architecture.names)

    def open(
        self, pipe: Any, *, device: torch.device, dtype: torch.dtype, residency: Residency, config: Any
    ) -> Flux2Engine:
        return Flux2Engine(networks=self, pipe=pipe, device=device, dtype=dtype, residency=residency, config=config)

    # ------------------------------------------------------------------------------------------------------ adapting

    def policy(self, part: str) -> Policy:
        return policy_of(part)

    def attach(self, denoiser: Any, attend: Attend, slice_size: int) -> None:
        kernel = kernel_for(denoiser, attend, slice_size)
        double, single = Flux2Processor(kernel), Flux2ParallelProcessor(kernel)
        for block in denoiser.transformer_blocks:
            block.attn.set_processor(double)
        for block in denoiser.single_transformer_blocks:
            block.attn.set_processor(single)

    # ------------------------------------------------------------------------------- running on shapes, for the planner

    def read_text(self, part: str, module: Any, tokens: int) -> Callable[[], Any]:
        return lambda: run_on_shapes(language_model(module), tokens, kept=3)

    def denoise(self, module: Any, dtype: torch.dtype, image_tokens: int, text_tokens: int) -> Callable[[], Any]:
        config = module.config

        def made(*shape: int, of: torch.dtype = dtype) -> torch.Tensor:
            return torch.empty(shape, dtype=of, device="meta")

        return lambda: module(
            hidden_states=made(1, image_tokens, config.in_channels),
            timestep=made(1),
            guidance=made(1, of=torch.float32) if config.guidance_embeds else None,
            encoder_hidden_states=made(1, text_tokens, config.joint_attention_dim),
            txt_ids=made(text_tokens, 4, of=torch.float32),
            img_ids=made(image_tokens, 4, of=torch.float32),
            return_dict=False,
        )

    def prompt_tokens_of(self, pipe: Any) -> int:
        return LONGEST_PROMPT


def _reader(config: dict[str, Any]) -> Any:
    """The language model up to the last layer that is read, whose final norm and head nobody reads."""
    kind = str(config.pop("model_type", "qwen3"))
    dev = kind.startswith("mistral")
    described: Any = (MistralConfig if dev else Qwen3Config)(**config)
    read = layers_read(described, dev=dev)
    count = read[-1]
    described.num_hidden_layers = count
    if getattr(described, "layer_types", None) is not None:
        described.layer_types = list(described.layer_types)[:count]
    made: Any = MistralModel if dev else Qwen3Model
    model = made(described)
    model.norm = torch.nn.Identity()
    # Of all layers that the configuration tells, of which fewer are here.
    model.layers_read = read
    return model
