"""LoRAs in ComfyUI's own models, whatever names their layers go by, and never none of them.

ComfyUI knows a FLUX LoRA in diffusers' names by ``transformer.…`` alone. PEFT, with which DiT360's was trained, writes
``base_model.model.…``, which its own loaders pass over with no more than lines in the log; and so they do with each
tensor of any file whose name they do not know. So files are read by the core, and given ComfyUI's names here: of FLUX.1
by the core's own table, of FLUX.2, Qwen-Image and Krea 2 by ComfyUI's, which needs no package of ours for that family.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from dit360_core.errors import InputError
from dit360_core.models.architecture import DENOISER, Part, Role, Target

if TYPE_CHECKING:
    from dit360_core.models.architecture import Architecture
    from dit360_core.models.lora.file import LoraFile

log = logging.getLogger("dit360")

_HEAD = "transformer."
"""Before diffusers' names of layers, in ComfyUI's table of names."""
TITLES = {"Flux2": "FLUX.2", "QwenImage": "Qwen-Image", "Krea2": "Krea 2"}
"""ComfyUI's classes of models whose LoRAs are read by its own table of names → what sentences call them."""
_HEADS = re.compile(
    r"(base_model\.model\.)?(transformer\.|diffusion_model\.|lora_unet_|lora_transformer_|lycoris_|unet\.)?"
)


class Layers:
    """As much of an Architecture as reading a LoRA's file asks for, from ComfyUI's table of a model's layers.

    title: of the family.
    keys: how files may name a layer → what ComfyUI calls its tensor.
    """

    def __init__(self, *, title: str, keys: Mapping[str, Any]) -> None:
        self.title, self.lora_layers, self.names = title, title, (DENOISER,)
        self.by_name: dict[str, Any] = {}
        """One name for each layer → ComfyUI's."""
        self._flat: dict[str, str] = {}
        names: dict[Any, str] = {}
        for given, key in keys.items():
            name = names.setdefault(key, _HEADS.sub("", given, count=1))
            self.by_name.setdefault(name, key)
            self._flat.setdefault(_flat(given), name)

    def part(self, name: str) -> Part:
        """The only one that there is."""
        return Part(name=name, role=Role.DENOISER, words="transformer", short="transformer")

    def target(self, stem: str) -> Target | None:
        """The layer that a file means by a name; None: none."""
        name = self._flat.get(_flat(stem))
        return None if name is None else Target(part=DENOISER, modules=(name,))

    def first_inputs(self, part: str, layer: str, inputs: int) -> int | None:
        """No layer has fewer inputs in other models of these families."""
        return None


def _flat(name: str) -> str:
    """Without what stands before a layer's name, and alike for trainers that write ``_`` instead of a dot."""
    return _HEADS.sub("", name, count=1).replace(".", "_")


def with_lora(model: Any, name: str, strength: float) -> Any:
    """A clone of a MODEL with a LoRA.

    name: a safetensors file, a folder, or a Hub id, which is downloaded.

    LoKr, LoHa and the like, which the core does not read, ComfyUI reads itself. Raises InputError or ModelError if it
    is no LoRA, or none of it fits the model.
    """
    import comfy.lora
    import comfy.lora_convert
    import comfy.model_base
    from dit360_core.models.flux.architecture import FLUX
    from dit360_core.models.lora.file import read
    from dit360_core.models.lora.finding import is_of_plain_factors, locate
    from safetensors.torch import load_file

    file = locate(name)
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    kind = type(model.model).__name__
    if not is_of_plain_factors(file) or not (kind in TITLES or isinstance(model.model, comfy.model_base.Flux)):
        patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(load_file(file)), keys)
    elif kind in TITLES:
        layers = Layers(title=TITLES[kind], keys=keys)
        patches = _patches(model, read(file, cast("Architecture", layers)), layers.by_name)
    else:
        named = {name.removeprefix(_HEAD): key for name, key in keys.items() if name.startswith(_HEAD)}
        patches = _patches(model, read(file, FLUX), named)
    clone = model.clone()
    applied = set(clone.add_patches(patches, strength)) if patches else set()
    if not applied:
        raise InputError(
            f"{file.name} does not fit this model ({kind}): none of its tensors is for one of its layers; give a LoRA "
            "made for this family of models."
        )
    if left := len(patches) - len(applied):
        log.warning("%s: %d of %d layers are not in this model.", file.name, left, len(patches))
    log.info("lora: %s, strength %g, %d layers", file.name, strength, len(applied))
    return clone


def _patches(model: Any, found: LoraFile, named: Mapping[str, Any]) -> dict[Any, Any]:
    """What ComfyUI is to add to which of its weights.

    found: the file, read for layers of some names.
    named: these names → what ComfyUI calls the tensors.
    """
    import comfy.lora
    from dit360_core.models.lora.fitting import fitted_to

    # Older tables have names of a ControlNet's layers too.
    there = {name: _place(key) for name, key in named.items() if _is_there(model.model, _place(key)[0])}
    lora = fitted_to(found, {DENOISER: {name: _Layer(model.model, *place) for name, place in there.items()}})
    for remark in lora.remarks:
        log.warning("%s", remark)
    state: dict[str, Any] = {}
    direct: dict[Any, Any] = {}
    for name, factors in lora.of(DENOISER).items():
        if factors.up is not None and factors.down is not None:
            state |= {f"{name}.lora_up.weight": factors.up, f"{name}.lora_down.weight": factors.down}
        if factors.weight is not None:
            state[f"{name}.diff"] = factors.weight
        if factors.new_weight is not None:
            state[f"{name}.set_weight"] = factors.new_weight
        for kind, bias in (("diff", factors.bias), ("set", factors.new_bias)):
            if bias is not None:
                direct[_bias_key(named[name])] = (kind, (bias,))
    return {**comfy.lora.load_lora(state, dict(named)), **direct}


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
