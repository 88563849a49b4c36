"""LoRAs in ComfyUI's own FLUX, whatever names their layers go by, and never none of them.

ComfyUI knows a FLUX LoRA in diffusers' names by ``transformer.…`` alone. PEFT, with which DiT360's was trained, writes
``base_model.model.…``, which its own loaders pass over with no more than lines in the log.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit360_core.errors import InputError, ModelError

if TYPE_CHECKING:
    import torch

log = logging.getLogger("dit360")

_LAYER = re.compile(
    r"^(?:base_model\.model\.)?(?:transformer\.)?"
    r"((?:transformer_blocks|single_transformer_blocks|x_embedder|context_embedder|time_text_embed|norm_out|proj_out)"
    r"\b.*?)\.(lora_[AB])(?:\.default)?\.weight$"
)
"""A factor of a layer in diffusers' names, as PEFT or diffusers writes it."""


def renamed(lora: dict[str, torch.Tensor], alpha: float | None) -> dict[str, torch.Tensor]:
    """The tensors under the names by which ComfyUI knows them; those in other formats stay as they are.

    alpha: as PEFT keeps it beside the file, for all layers; None where it equals the rank.
    """
    import torch

    found: dict[str, torch.Tensor] = {}
    for name, tensor in lora.items():
        layer = _LAYER.match(name)
        if layer is None:
            found[name] = tensor
            continue
        found[f"transformer.{layer[1]}.{layer[2]}.weight"] = tensor
        if alpha is not None:
            found[f"transformer.{layer[1]}.alpha"] = torch.tensor(alpha)
    return found


def with_lora(model: Any, file: Path, strength: float) -> Any:
    """A clone of a MODEL with a LoRA. Raises InputError or ModelError if none of it fits the model."""
    import comfy.lora
    import comfy.lora_convert
    from safetensors.torch import load_file

    raw = load_file(file)
    state = comfy.lora_convert.convert_lora(renamed(raw, _alpha(file)))
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    patches = comfy.lora.load_lora(state, keys)
    clone = model.clone()
    applied = set(clone.add_patches(patches, strength)) if patches else set()
    if not applied:
        kind = type(model.model).__name__
        raise InputError(
            f"{file.name} does not fit this model ({kind}): none of its {len(raw)} tensors is for one of its layers; "
            "give a LoRA made for FLUX, and a FLUX model."
        )
    if left := len(patches) - len(applied):
        log.warning("%s: %d of %d layers are not in this model.", file.name, left, len(patches))
    log.info("lora: %s, strength %g, %d layers", file.name, strength, len(applied))
    return clone


def _alpha(file: Path) -> float | None:
    """What PEFT's configuration beside the file says of all layers. Raises ModelError if it says it of single ones."""
    settings = file.parent / "adapter_config.json"
    if not settings.is_file():
        return None
    try:
        config = json.loads(settings.read_text(encoding="utf-8"))
        rank, alpha = config["r"], config["lora_alpha"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{settings} is damaged ({error!r}); download it again, or move the LoRA away from it."
        ) from error
    if config.get("alpha_pattern") or config.get("rank_pattern") or config.get("use_rslora"):
        raise ModelError(f"{settings} scales layers one by one, which this node does not read; use DiT360 Loader.")
    return None if rank == alpha else float(alpha)
