"""LoRAs in ComfyUI's own FLUX, whatever names their layers go by, and never none of them.

ComfyUI knows a FLUX LoRA in diffusers' names by ``transformer.…`` alone. PEFT, with which DiT360's was trained, writes
``base_model.model.…``, which its own loaders pass over with no more than lines in the log; and so they do with each
tensor of any file whose name they do not know. So files are read by the core, and given ComfyUI's names here.
"""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dit360_core.errors import InputError

log = logging.getLogger("dit360")

_HEAD = "transformer."
"""Before diffusers' names of layers, in ComfyUI's table of names."""


def with_lora(model: Any, name: str, strength: float) -> Any:
    """A clone of a MODEL with a LoRA.

    name: a safetensors file, a folder, or a Hub id, which is downloaded.

    LoKr, LoHa and the like, which the core does not read, ComfyUI reads itself. Raises InputError or ModelError if it
    is no LoRA, or none of it fits the model.
    """
    import comfy.lora
    import comfy.lora_convert
    from dit360_core.models.lora.finding import is_of_plain_factors, locate
    from safetensors.torch import load_file

    file = locate(name)
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    if is_of_plain_factors(file):
        patches = _patches(model, file, keys)
    else:
        patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(load_file(file)), keys)
    clone = model.clone()
    applied = set(clone.add_patches(patches, strength)) if patches else set()
    if not applied:
        raise InputError(
            f"{file.name} does not fit this model ({type(model.model).__name__}): none of its tensors is for one of "
            "its layers; give a LoRA made for FLUX, and a FLUX model."
        )
    if left := len(patches) - len(applied):
        log.warning("%s: %d of %d layers are not in this model.", file.name, left, len(patches))
    log.info("lora: %s, strength %g, %d layers", file.name, strength, len(applied))
    return clone


def _patches(model: Any, file: Path, keys: dict[str, Any]) -> dict[Any, Any]:
    """What ComfyUI is to add to which of its weights.

    keys: its table of names.
    """
    import comfy.lora
    from dit360_core.models.flux.architecture import FLUX
    from dit360_core.models.lora.file import read
    from dit360_core.models.lora.fitting import fitted_to

    found = read(file, FLUX)
    named = {name.removeprefix(_HEAD): _place(key) for name, key in keys.items() if name.startswith(_HEAD)}
    # Older tables have names of a ControlNet's layers too.
    at = {name: place for name, place in named.items() if _is_there(model.model, place[0])}
    lora = fitted_to(found, {"transformer": {name: _Layer(model.model, *place) for name, place in at.items()}})
    for remark in lora.remarks:
        log.warning("%s", remark)
    state: dict[str, Any] = {}
    direct: dict[Any, Any] = {}
    for name, factors in lora.of("transformer").items():
        if factors.up is not None and factors.down is not None:
            state |= {f"{_HEAD}{name}.lora_up.weight": factors.up, f"{_HEAD}{name}.lora_down.weight": factors.down}
        if factors.weight is not None:
            state[f"{_HEAD}{name}.diff"] = factors.weight
        if factors.new_weight is not None:
            state[f"{_HEAD}{name}.set_weight"] = factors.new_weight
        for kind, bias in (("diff", factors.bias), ("set", factors.new_bias)):
            if bias is not None:
                direct[_bias_key(keys[_HEAD + name])] = (kind, (bias,))
    return {**comfy.lora.load_lora(state, keys), **direct}


def _place(key: Any) -> tuple[str, Any]:
    """(The name of ComfyUI's tensor, which part of it: along which side, from where, how long), None for the whole."""
    return (key, None) if isinstance(key, str) else (key[0], key[1])


def _is_there(model: Any, key: str) -> bool:
    import comfy.utils

    try:
        comfy.utils.get_attr(model, key)
    except AttributeError:
        return False
    return True


def _bias_key(key: Any) -> Any:
    name, *more = (key,) if isinstance(key, str) else key
    name = name.removesuffix(".weight") + ".bias"
    return name if not more else (name, *more)


class _Layer(SimpleNamespace):
    """As much of one of diffusers' layers as fitting a LoRA asks for: its weight's shape, and whether it has a bias."""

    def __init__(self, model: Any, key: str, part: tuple[int, int, int] | None) -> None:
        import comfy.utils
        import torch

        shape = list(comfy.utils.get_attr(model, key).shape)
        if part is not None:
            shape[part[0]] = part[2]
        owner = comfy.utils.get_attr(model, key.rpartition(".")[0])
        super().__init__(
            weight=torch.empty(shape, device="meta"), bias=getattr(owner, "bias", None)
        )  # fmt: skip
