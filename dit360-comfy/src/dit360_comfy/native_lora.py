"""LoRAs in ComfyUI's own FLUX, whatever names their layers go by, and never none of them.

ComfyUI knows a FLUX LoRA in diffusers' names by ``transformer.…`` alone. PEFT, with which DiT360's was trained, writes
``base_model.model.…``, which its own loaders pass over with no more than lines in the log.
"""

from __future__ import annotations

import logging
from typing import Any

from dit360_core.errors import InputError

log = logging.getLogger("dit360")


def with_lora(model: Any, name: str, strength: float) -> Any:
    """A clone of a MODEL with a LoRA. name: a safetensors file, a folder, or a Hub id, which is downloaded.

    What is named as PEFT or diffusers does is given ComfyUI's names; other formats it reads itself. Raises InputError
    or ModelError if it is no LoRA, or none of it fits the model.
    """
    import comfy.lora
    import comfy.lora_convert
    from dit360_core.flux.lora import locate, of_plain_factors
    from safetensors.torch import load_file

    file = locate(name)
    raw = load_file(file)
    state = comfy.lora_convert.convert_lora(of_plain_factors(file, raw) or raw)
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
