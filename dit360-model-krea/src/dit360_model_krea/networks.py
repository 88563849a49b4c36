"""The parts of Krea 2 as diffusers and transformers have them: built, run, and given our attention."""

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
    language_model,
    load_tokenizer,
    one_frame,
    quiet,
)
from dit360_core.plugins import Attend, InputError

from dit360_model_krea.architecture import READ
from dit360_model_krea.folder import PATCH, TOKENIZER, USUAL_LAYERS, is_distilled
from dit360_model_krea.layers import policy_of
from dit360_model_krea.parts import LONGEST_PROMPT, PIPELINE, PREFIX_TOKENS, TEXT, TITLE

with quiet():  # diffusers is loud when it is imported
    from diffusers import AutoencoderKLQwenImage, Krea2Transformer2DModel
    from transformers import Qwen3VLTextConfig, Qwen3VLTextModel

    from dit360_model_krea.engine import Krea2Engine
    from dit360_model_krea.processor import Krea2Processor
    from dit360_model_krea.transformer import address, addressed_class


class Krea2Networks(OneFrameNetworks):
    """Krea 2's parts."""

    denoiser_class = addressed_class(Krea2Transformer2DModel)
    autoencoder_class = AutoencoderKLQwenImage

    # ------------------------------------------------------------------------------------------------------ building

    def made(self, part: str, config: Mapping[str, Any]) -> Any:
        if part == DENOISER:
            return self.denoiser_class.from_config(config)
        if part == AUTOENCODER:
            return self.made_autoencoder(config)
        return _reader(dict(config))

    def assemble(self, folder: Path, parts: Mapping[str, Any]) -> Any:
        """Nothing in the folder says which classes they are of, or reaches them unseen."""
        with explain_libraries(folder):
            # Here, since a plan needs neither, and pipelines take seconds to import.
            from diffusers import FlowMatchEulerDiscreteScheduler, Krea2Pipeline

            tokenizer = load_tokenizer(TOKENIZER, folder / "tokenizer")
            read = self.architecture.read_config(TEXT, folder / TEXT)
            check_numbers_of_tokens(folder / "tokenizer", tokenizer, int(read["vocab_size"]))
            schedulers: Any = FlowMatchEulerDiscreteScheduler
            pipeline: Any = Krea2Pipeline
            return pipeline(
                scheduler=schedulers.from_config(self.architecture.read_config("scheduler", folder / "scheduler")),
                tokenizer=tokenizer,
                text_encoder_select_layers=read[READ],
                is_distilled=is_distilled(folder),
                patch_size=PATCH,
                **parts,
            )

    def check_given(self, pipe: Any) -> None:
        check_parts(pipe, (DENOISER, AUTOENCODER, "scheduler"), PIPELINE)
        kind = type(pipe).__name__
        if not isinstance(pipe.transformer, Krea2Transformer2DModel):
            raise InputError(
                f"The {kind} has a {type(pipe.transformer).__name__}, which is not a {TITLE} transformer; give a "
                f"{PIPELINE}."
            )
        if pipe.patch_size != PATCH:
            raise InputError(
                f"The {kind} has the patch_size {pipe.patch_size}, and dit360 runs {TITLE} models whose tokens are "
                f"{PATCH} by {PATCH} latents; give such a pipeline."
            )
        check_numbers(pipe, self.architecture.names)

    def open(
        self, pipe: Any, *, device: torch.device, dtype: torch.dtype, residency: Residency, config: Any
    ) -> Krea2Engine:
        """The parts of somebody's own pipeline stay, with other methods."""
        address(pipe.transformer)
        one_frame(pipe.vae)
        return Krea2Engine(networks=self, pipe=pipe, device=device, dtype=dtype, residency=residency, config=config)

    # ------------------------------------------------------------------------------------------------------ adapting

    def policy(self, part: str) -> Policy:
        return policy_of(part)

    def attach(self, denoiser: Any, attend: Attend, slice_size: int) -> None:
        """What fuses the layers of the text encoder keeps diffusers' own: its sequences are short, or one token's."""
        processor = Krea2Processor(kernel_for(denoiser, attend, slice_size))
        for block in denoiser.transformer_blocks:
            block.attn.set_processor(processor)

    # ------------------------------------------------------------------------------- running on shapes, for the planner

    def read_text(self, part: str, module: Any, tokens: int) -> Callable[[], Any]:
        model = language_model(module)
        count = int(getattr(model, READ, len(USUAL_LAYERS)))
        ids = torch.zeros(1, tokens + PREFIX_TOKENS, dtype=torch.long, device="meta")
        # All three axes of a word's position are alike; given, nothing is looked for in numbers that are not there.
        places = torch.arange(ids.shape[1], device="meta").expand(3, 1, -1)
        seen = torch.arange(PREFIX_TOKENS, tokens + PREFIX_TOKENS, device="meta")

        def run() -> Any:
            # The layers that are read are kept until the last of them is there; here there are two layers in all.
            shape = (1, ids.shape[1], model.config.hidden_size)
            kept = [torch.empty(shape, dtype=model.dtype, device="meta") for _ in range(count - 1)]
            last = model(input_ids=ids, position_ids=places, use_cache=False)[0]
            return torch.stack([state.index_select(1, seen) for state in (*kept, last)], dim=2)

        return run

    def denoise(self, module: Any, dtype: torch.dtype, image_tokens: int, text_tokens: int) -> Callable[[], Any]:
        config = module.config
        # Where there are no numbers, PyTorch's own attention holds all scores, which it does on no device.
        for block in (*module.text_fusion.layerwise_blocks, *module.text_fusion.refiner_blocks):
            block.attn.set_processor(module.transformer_blocks[0].attn.processor)

        def made(*shape: int, of: torch.dtype = dtype) -> torch.Tensor:
            return torch.empty(shape, dtype=of, device="meta")

        return lambda: module(
            hidden_states=made(1, image_tokens, config.in_channels),
            encoder_hidden_states=made(1, text_tokens, config.num_text_layers, config.text_hidden_dim),
            timestep=made(1),
            position_ids=made(text_tokens + image_tokens, 3, of=torch.float32),
            return_dict=False,
        )

    def prompt_tokens_of(self, pipe: Any) -> int:
        return LONGEST_PROMPT


def _reader(config: dict[str, Any]) -> Any:
    """The language model up to the last layer that is read: no eyes, no head, and a norm only if it is read.

    What its eyes would add to its first layers (``deepstack``) is of pictures alone.
    """
    config.pop("model_type", None)
    read = config.pop(READ)
    described = Qwen3VLTextConfig(**config)
    whole, count = described.num_hidden_layers, max(1, *read)
    described.num_hidden_layers = count
    made: Any = Qwen3VLTextModel
    model = made(described)
    if count < whole:
        model.norm = torch.nn.Identity()
    setattr(model, READ, len(read))
    return model
