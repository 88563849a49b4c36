"""Models of the families beside FLUX.1 in miniature: the real classes of diffusers and transformers, random weights."""

import torch
from dit360_core.models.weights.quiet import quiet
from dit360_core.models.weights.stream import dtype_of

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""The format of a chat with Qwen3, as far as a user's message needs it."""


def byte_tokenizer():
    """A Qwen2Tokenizer whose tokens are bytes, and the marks of a chat."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    letters = sorted(ByteLevel.alphabet())
    made = Qwen2Tokenizer(vocab={letter: number for number, letter in enumerate(letters)}, merges=[])
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "pad_token": "<|endoftext|>"})
    made.add_tokens(["<think>", "</think>"])
    made.chat_template = CHAT
    return made


def enliven(module, seed=0):
    """Random weights and buffers of such a size that every layer has something to say."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            if tensor.ndim > 1:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5 * tensor[0].numel() ** -0.5)
            elif not name.endswith("bias"):
                tensor.copy_(tensor + 0.1 * torch.randn(tensor.shape, generator=generator))
        for name, tensor in module.named_buffers():
            if name.endswith("running_mean"):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
            elif name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return module.eval().requires_grad_(False)


def cast(module, dtype):
    """A module of diffusers in the dtypes in which it is read when it is loaded in one."""
    for name, tensor in module.named_parameters():
        tensor.data = tensor.data.to(dtype_of(module, name, dtype))
    return module


def random_klein(*, distilled=False, small_decoder=False, layers=28, seed=0):
    """A Flux2KleinPipeline: whole, so that it can be saved."""
    with quiet():
        from diffusers import (
            AutoencoderKLFlux2,
            FlowMatchEulerDiscreteScheduler,
            Flux2KleinPipeline,
            Flux2Transformer2DModel,
        )
        from transformers import Qwen3Config, Qwen3ForCausalLM

        tokenizer = byte_tokenizer()
        torch.manual_seed(seed)
        transformer = Flux2Transformer2DModel(
            in_channels=64,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * 16,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )
        vae = AutoencoderKLFlux2(
            block_out_channels=(8, 16, 16, 16),
            decoder_block_out_channels=(8, 8, 16, 16) if small_decoder else None,
            layers_per_block=1,
            latent_channels=16,
            norm_num_groups=4,
            sample_size=64,
        )
        reader = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=layers,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=8,
                max_position_embeddings=1024,
            )
        )
        pipe = Flux2KleinPipeline(
            transformer=enliven(transformer, seed),
            vae=enliven(vae, seed + 1),
            text_encoder=enliven(reader, seed + 2),
            tokenizer=tokenizer,
            is_distilled=distilled,
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def random_qwen(*, seed=0):
    """A QwenImagePipeline: whole, so that it can be saved."""
    with quiet():
        from diffusers import (
            AutoencoderKLQwenImage,
            FlowMatchEulerDiscreteScheduler,
            QwenImagePipeline,
            QwenImageTransformer2DModel,
        )
        from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

        tokenizer = byte_tokenizer()
        torch.manual_seed(seed)
        transformer = QwenImageTransformer2DModel(
            in_channels=64,
            out_channels=16,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 6, 6),
        )
        vae = AutoencoderKLQwenImage(base_dim=8, num_res_blocks=1)
        enliven(transformer, seed)
        # Times are in thousandths, of which diffusers' scheduler rounds the tenth of a thousandth.
        transformer.time_text_embed.timestep_embedder.linear_1.weight.mul_(0.1)
        reader = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(
                text_config={
                    "vocab_size": len(tokenizer),
                    "hidden_size": 32,
                    "intermediate_size": 48,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "num_key_value_heads": 1,
                    "max_position_embeddings": 2048,
                    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
                },
                vision_config={
                    "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32,
                    "fullatt_block_indexes": [0],
                },
            )
        )  # fmt: skip
        pipe = QwenImagePipeline(
            transformer=transformer,
            vae=enliven(vae, seed + 1),
            text_encoder=enliven(reader, seed + 2),
            tokenizer=tokenizer,
            scheduler=FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
            ),
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


KREA_WORDS = (
    "system", "Describe", " the", " image", " by", " detailing", " color", " shape", " size", " texture", " quantity",
    " text", " spatial", " relationships", " of", " objects", " and", " background", "user", "assistant",
)  # fmt: skip
"""Tokens of what stands around a prompt of Krea 2, so that it has as many as with the tokenizer of the whole model."""


def random_krea(*, distilled=False, layers=5, select=(1, 3, 4), dtype=torch.float32, seed=0):
    """A Krea2Pipeline: whole, so that it can be saved."""
    with quiet():
        from diffusers import (
            AutoencoderKLQwenImage,
            FlowMatchEulerDiscreteScheduler,
            Krea2Pipeline,
            Krea2Transformer2DModel,
        )
        from transformers import Qwen3VLConfig, Qwen3VLModel

        tokenizer = byte_tokenizer()
        tokenizer.add_tokens(list(KREA_WORDS))
        torch.manual_seed(seed)
        transformer = Krea2Transformer2DModel(
            in_channels=16,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=88,
            timestep_embed_dim=16,
            text_hidden_dim=16,
            num_text_layers=len(select),
            text_num_attention_heads=2,
            text_num_key_value_heads=1,
            text_intermediate_size=24,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 2, 2),
        )
        vae = AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 2, 2],
            num_res_blocks=1,
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.8, 1.2, 2.0],
        )
        reader = Qwen3VLModel(
            Qwen3VLConfig(
                text_config={
                    "vocab_size": len(tokenizer),
                    "hidden_size": 16,
                    "intermediate_size": 32,
                    "num_hidden_layers": layers,
                    "num_attention_heads": 2,
                    "num_key_value_heads": 1,
                    "head_dim": 8,
                    "max_position_embeddings": 1024,
                    "rope_parameters": {
                        "rope_type": "default",
                        "rope_theta": 1e4,
                        "mrope_section": [2, 1, 1],
                        "mrope_interleaved": True,
                    },
                },
                vision_config={
                    "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
                    "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
                },
            )
        )  # fmt: skip
        pipe = Krea2Pipeline(
            transformer=cast(enliven(transformer, seed), dtype),
            vae=enliven(vae, seed + 1).to(dtype),
            text_encoder=enliven(reader, seed + 2).to(dtype),
            tokenizer=tokenizer,
            text_encoder_select_layers=select,
            is_distilled=distilled,
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_image_seq_len=6400),
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe
