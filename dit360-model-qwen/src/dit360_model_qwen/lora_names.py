"""What the trainers of LoRAs call the layers of Qwen-Image: all of them as diffusers does, with prefixes of their own.

Source: diffusers' conversion of LoRAs (``_convert_non_diffusers_qwen_lora_to_diffusers``).
"""

from __future__ import annotations

from dit360_core.models.family import DENOISER_PREFIXES, Blocks, LayerNames, PartNames, flat, same

_BLOCK = (
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_out.0",
    "attn.to_add_out", "attn.norm_q", "attn.norm_k", "attn.norm_added_q", "attn.norm_added_k", "img_mlp.net.0.proj",
    "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2", "img_mod.1", "txt_mod.1",
)  # fmt: skip
# As diffusers has them where the layers of an attention are fused, and where the list of one layer is left out.
_OTHERS = {
    "attn_to_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "attn_to_added_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "attn_to_out": ("attn.to_out.0",),
}
_TOP = (
    "img_in", "txt_in", "txt_norm", "time_text_embed.timestep_embedder.linear_1",
    "time_text_embed.timestep_embedder.linear_2", "norm_out.linear", "proj_out",
)  # fmt: skip

_TRANSFORMER = PartNames(
    # DiffSynth-Studio writes what its pipeline calls the transformer.
    prefixes=(*DENOISER_PREFIXES, "pipe_dit_", "dit_"),
    whole=flat(_TOP),
    blocks=(
        Blocks(
            pattern=r"transformer_blocks_(\d+)_(.+)",
            here="transformer_blocks.{}.",
            layers={**same(_BLOCK), **_OTHERS},
        ),
    ),
)

find = LayerNames(_TRANSFORMER).find
"""The layer meant by a name as a trainer writes it, without what names a factor; None if it is none of Qwen-Image's."""
