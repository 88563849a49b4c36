"""What the trainers of LoRAs call the layers of FLUX.2, and what those are called here.

Sources: diffusers' conversion of Black Forest Labs' files (``convert_flux2_transformer_checkpoint_to_diffusers``) and
of LoRAs (``_convert_non_diffusers_flux2_lora_to_diffusers``, ``_convert_kohya_flux2_lora_to_diffusers``). For a LoRA it
leaves the halves of the final modulation as they are, which it swaps in the weights that the LoRA was trained on; here
they are swapped in both.
"""

from __future__ import annotations

from collections.abc import Mapping

from dit360_core.models.family import Blocks, LayerNames, PartNames, flat, looked_up, same

from dit360_model_flux2.original_names import (
    ADDED_QKV,
    DOUBLE,
    DOUBLE_NORMS,
    FINAL_MODULATION,
    QKV,
    SINGLE,
    SINGLE_NORMS,
    TOP,
)

# The names of Black Forest Labs (kohya, ComfyUI, AI-toolkit), and fused ones of diffusers.
_DOUBLE: Mapping[str, tuple[str, ...]] = {
    **looked_up(DOUBLE), **looked_up(DOUBLE_NORMS),
    "attn_to_qkv": QKV, "attn_to_added_qkv": ADDED_QKV, "attn_to_out": ("attn.to_out.0",),
}  # fmt: skip
_SINGLE: Mapping[str, tuple[str, ...]] = {**looked_up(SINGLE), **looked_up(SINGLE_NORMS)}
_TOP = {name: here for name, (here,) in looked_up(TOP).items()}

# diffusers' own names.
_DOUBLE_OWN = (
    *QKV, *ADDED_QKV, "attn.to_out.0", "attn.to_add_out", "ff.linear_in", "ff.linear_out", "ff_context.linear_in",
    "ff_context.linear_out", "attn.norm_q", "attn.norm_k", "attn.norm_added_q", "attn.norm_added_k",
)  # fmt: skip
_SINGLE_OWN = ("attn.to_qkv_mlp_proj", "attn.to_out", "attn.norm_q", "attn.norm_k")
_TOP_OWN = (*_TOP.values(), "norm_out.linear")

_TRANSFORMER = PartNames(
    whole={**_TOP, **flat(_TOP_OWN)},
    swapped={name: here for name, (here,) in looked_up(FINAL_MODULATION).items()},
    blocks=(
        Blocks(pattern=r"double_blocks_(\d+)_(.+)", here="transformer_blocks.{}.", layers=_DOUBLE),
        Blocks(pattern=r"single_blocks_(\d+)_(.+)", here="single_transformer_blocks.{}.", layers=_SINGLE),
        Blocks(
            # Some files have lost the beginning of the name, which diffusers reads as well.
            pattern=r"(?:tran)?sformer_blocks_(\d+)_(.+)",
            here="transformer_blocks.{}.",
            layers={**_DOUBLE, **same(_DOUBLE_OWN)},
        ),
        Blocks(
            pattern=r"single_transformer_blocks_(\d+)_(.+)",
            here="single_transformer_blocks.{}.",
            layers={**_SINGLE, **same(_SINGLE_OWN)},
        ),
    ),
)

find = LayerNames(_TRANSFORMER).find
"""The layer meant by a name as a trainer writes it, without what names a factor; None if it is none of FLUX.2's."""
