"""Models of ComfyUI's own whose positions can be set, and what of them the circular padding has to know.

Each computes the position ids of its tokens from the size of the latents that it is given, and asks ComfyUI's
``post_input`` patches for others before it uses them.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import attrs
from dit360_core.errors import InputError

TITLES = "FLUX.1, FLUX.2, Qwen-Image or Krea 2"
REFERENCES = (None, "offset", "index", "negative_index", "uxo", "index_timestep_zero")
"""Ways of placing reference latents whose ids are known here; None is the model's own, which knows no size."""


@attrs.frozen(kw_only=True)
class Family:
    """What differs between the families.

    place: module and class of the network.
    patch: the network's attribute that says how many latent columns a token is wide.
    axes: of the latents that it takes; with five the third is of frames.
    behind: ways of placing reference latents behind the picture, so that their ids know its width.
    frames_are_tokens: all frames are one sequence, and no batch.
    centred: ids count from the middle of the picture, and the text's begin where the picture's end.
    masks_tokens: an attention mask is one of all tokens, and not of the text's.
    since: what can be told where no positions are asked for.
    """

    place: tuple[str, str]
    patch: str
    axes: tuple[int, ...]
    behind: frozenset[str] = frozenset()
    frames_are_tokens: bool = False
    centred: bool = False
    masks_tokens: bool = False
    since: str = ""


FLUX = Family(
    place=("comfy.ldm.flux.model", "Flux"),
    patch="patch_size",
    axes=(4,),
    behind=frozenset({"uxo"}),
    masks_tokens=True,
)
"""FLUX.1 and FLUX.2, which differ in the width of a token and in where the text lies."""
QWEN = Family(
    place=("comfy.ldm.qwen_image.model", "QwenImageTransformer2DModel"),
    patch="patch_size",
    axes=(5,),
    frames_are_tokens=True,
    centred=True,
    since=", or this ComfyUI is too old for it (0.33 is not; update it)",
)
KREA = Family(
    place=("comfy.ldm.krea2.model", "SingleStreamDiT"),
    patch="patch",
    axes=(4, 5),
)


def family_of(net: Any) -> Family:
    """The family of a network of ComfyUI. Raises InputError for one of another kind, saying why."""
    name = type(net).__name__
    if "ComfyFluxWrapper" in name:
        raise InputError(
            "nunchaku's FLUX computes positions in kernels of its own, where DiT360 Circular Padding cannot set them; "
            "connect a FLUX model of ComfyUI's own loaders (fp8 or GGUF save memory too)."
        )
    for family in (FLUX, QWEN, KREA):
        module, kind = family.place
        try:
            known = getattr(importlib.import_module(module), kind)
        except ModuleNotFoundError:  # an older ComfyUI, which has no such model
            continue
        if isinstance(net, known):
            return family
    raise InputError(
        f"A {name} is none of the models whose positions DiT360 Circular Padding can set; connect {TITLES}, as "
        "ComfyUI's own loaders give them."
    )


def names_of_inputs(net: Any) -> tuple[str, ...]:
    """What a call of the network is given by position, in order; it differs between models and versions of ComfyUI."""
    run = getattr(net, "_forward", net.forward)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(name for name, one in inspect.signature(run).parameters.items() if one.kind in kinds)
