"""The parts of FLUX.1 as diffusers and transformers have them: built, run, and given our attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from dit360_core.errors import InputError, ModelError, first_line
from dit360_core.models.architecture import Networks
from dit360_core.models.flux.folder import read_config
from dit360_core.models.flux.given import check_given
from dit360_core.models.flux.layers import policy_of
from dit360_core.models.flux.lengths import LONGEST_PROMPT, TOKENS_OF_CLIP
from dit360_core.models.flux.parts import TOKENIZERS
from dit360_core.models.flux.schemas import value_of
from dit360_core.models.flux.tokenizers import check_numbers_of_tokens, load_tokenizer
from dit360_core.models.residency.residency import Residency
from dit360_core.models.weights.parts import explain_libraries
from dit360_core.models.weights.quiet import quiet
from dit360_core.models.weights.selection import Policy
from dit360_core.plugins.offers import Attend
from dit360_core.plugins.slicing import sliced

with quiet():  # diffusers is loud when it is imported
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel
    from transformers.initialization import no_init_weights

    from dit360_core.models.flux.engine import FluxEngine
    from dit360_core.models.flux.processor import AttentionProcessor

_WRONG = (
    OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, ArithmeticError, IndexError,
    StrictDataclassError,
)  # fmt: skip
"""What the libraries raise for configurations that they cannot build."""


class FluxNetworks(Networks):
    """FLUX.1's parts."""

    # ------------------------------------------------------------------------------------------------------ building

    def empty(self, part: str, folder: Path) -> torch.nn.Module:
        """The libraries are given the keys that dit360 knows and nothing else of the folder."""
        config = read_config(part, folder)
        with quiet():
            try:
                # Drawing numbers that nothing holds would take as long as all the rest.
                with init_empty_weights(), no_init_weights():
                    made = _made(part, config)
            except _WRONG as error:
                raise ModelError(
                    f"{folder / 'config.json'} describes no {part} that can be made ({first_line(error)}); get it "
                    "again."
                ) from error
        return made.eval()  # type: ignore[no-any-return]

    def bare_denoiser(self, config: Mapping[str, Any]) -> torch.nn.Module:
        with quiet(), init_empty_weights():
            described = {key: value for key, value in dict(config).items() if key != "quantization_config"}
            transformer: Any = FluxTransformer2DModel
            return transformer.from_config(described)  # type: ignore[no-any-return]

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
                tokenizers[name] = load_tokenizer(name, folder / name, positions)
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
        # Set on the processors that are replaced here, where ours would not see it.
        for processor in denoiser.attn_processors.values():
            if getattr(processor, "_parallel_config", None) is not None:
                raise InputError(
                    "Context parallelism is switched on for this transformer, which dit360's attention does not "
                    "support; load it without."
                )
        denoiser.set_attn_processor(AttentionProcessor(sliced(attend, slice_size) if slice_size else attend))

    def compile(self, denoiser: Any) -> None:
        """Blocks are alike, so that one is compiled for all of a kind."""
        denoiser.compile_repeated_blocks(fullgraph=True)

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


def _made(part: str, config: Mapping[str, Any]) -> Any:
    made: Any
    if part == "transformer":
        made = FluxTransformer2DModel
        return made.from_config(config)
    if part == "vae":
        made = AutoencoderKL
        return made.from_config(config)
    if part == "text_encoder":
        return CLIPTextModel(CLIPTextConfig(**config))
    return T5EncoderModel(T5Config(**config))


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
