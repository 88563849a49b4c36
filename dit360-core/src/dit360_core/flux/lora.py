"""Fusing a LoRA into a transformer, and refusing one that would do nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit360_core.errors import ModelError, first_line
from dit360_core.flux.files import check_safetensors, existing, find_lora_file, read_json
from dit360_core.flux.hub import LORA_FILES, SUBFOLDERS, fetch
from dit360_core.plan import looks_like_hub_id

if TYPE_CHECKING:
    import torch

log = logging.getLogger("dit360")

_TRANSFORMER_BLOCKS = ("transformer_blocks.", "single_transformer_blocks.")


def locate(lora: str) -> Path:
    """The safetensors file meant by a path, a Hub id or ``owner/name/file.safetensors``, its header checked."""
    path = existing(lora)
    repo_id, _, name = lora.rpartition("/")
    if path is None and looks_like_hub_id(lora):
        path = fetch(lora, LORA_FILES, ignore=SUBFOLDERS)
    elif path is None and looks_like_hub_id(repo_id) and name.endswith(".safetensors"):
        path = fetch(repo_id, [name, "adapter_config.json"]) / name
    if path is None:
        raise ModelError(
            f"There is no LoRA {lora}; give a safetensors file, a folder, or a Hub id (owner/name or "
            "owner/name/file.safetensors)."
        )
    file = find_lora_file(path)
    names = check_safetensors(file)
    if not any("lora" in name.lower() for name in names):
        raise ModelError(f"{file} holds no LoRA: none of its {len(names)} tensors is named so; give a LoRA file.")
    return file


def fuse(pipe: Any, file: Path, strength: float) -> int:
    """Adds ``strength`` times the LoRA to the weights of ``pipe`` (a FluxPipeline). Returns how many layers it changed.

    Raises ModelError if its keys match nothing, or its shapes belong to another model.
    """
    import torch

    try:
        state = _as_diffusers(pipe, file)
    except (ValueError, KeyError, NotImplementedError, RuntimeError, AttributeError) as error:
        raise ModelError(
            f"{file} cannot be read as a LoRA for FLUX ({first_line(error)}); give another file."
        ) from error
    wanted = {key.split(".lora_")[0].removeprefix("transformer.") for key in state if key.startswith("transformer.")}
    layers = dict(pipe.transformer.named_modules())
    matched = sorted(name for name in wanted if name in layers)
    if not matched:
        example = next(iter(state), "none")
        raise ModelError(
            f"{file} does not fit this model: none of its {len(state)} keys names a layer of the transformer (the "
            f"first is {example!r}); give a LoRA made for FLUX."
        )
    if len(matched) < len(wanted):
        log.warning("%s: %d of its %d layers are not in this model.", file, len(wanted) - len(matched), len(wanted))
        known = {f"transformer.{name}" for name in matched}
        state = {k: v for k, v in state.items() if not k.startswith("transformer.") or k.split(".lora_")[0] in known}
    for name in matched:
        down, up = state.get(f"transformer.{name}.lora_A.weight"), state.get(f"transformer.{name}.lora_B.weight")
        shape = tuple(getattr(getattr(layers[name], "weight", None), "shape", ()))
        if down is None or up is None or (up.shape[0], down.shape[1]) != shape:
            raise ModelError(f"{file} was made for another model: its layer {name} has another shape.")

    before = _fingerprints(layers, matched)
    pipe.load_lora_weights(state, adapter_name="dit360")
    components = [c for c in ("transformer", "text_encoder") if any(k.startswith(f"{c}.") for k in state)]
    pipe.fuse_lora(components=components, lora_scale=strength, adapter_names=["dit360"])
    pipe.unload_lora_weights()
    after = _fingerprints(dict(pipe.transformer.named_modules()), matched)
    changed = sum(not torch.equal(b, a) for b, a in zip(before, after, strict=True))
    if changed == 0 and strength != 0 and any(bool(v.any()) for k, v in state.items() if ".lora_B." in k):
        raise ModelError(f"{file} was fused with strength {strength:g} but changed no weight; give another precision.")
    return len(matched)


def _as_diffusers(pipe: Any, file: Path) -> dict[str, torch.Tensor]:
    """The tensors under diffusers' names (``transformer.….lora_A.weight``), scaled so that alpha equals the rank."""
    from safetensors.torch import load_file

    raw = load_file(file)
    peft = {k.removeprefix("base_model.model.").removeprefix("transformer."): v for k, v in raw.items()}
    if not all(k.startswith(_TRANSFORMER_BLOCKS) and ".lora_" in k and k.endswith(".weight") for k in peft):
        state, alphas = pipe.lora_state_dict(raw, return_alphas=True)
        return _scaled(state, alphas or {})
    settings = file.parent / "adapter_config.json"
    config = read_json(settings) if settings.is_file() else {}
    state = {f"transformer.{k.replace('.default.weight', '.weight')}": v for k, v in peft.items()}
    if config.get("alpha_pattern"):
        raise ModelError(f"{settings} gives layers an alpha of their own, which dit360 does not read; merge the LoRA.")
    if "lora_alpha" not in config:
        return state
    for key in [k for k in state if ".lora_B." in k]:
        rank = state[key].shape[1]
        scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
        state[key] = state[key] * scale
    return state


def _scaled(state: dict[str, torch.Tensor], alphas: dict[str, Any]) -> dict[str, torch.Tensor]:
    for key, alpha in alphas.items():
        layer = key.removesuffix(".alpha")
        up = f"{layer}.lora_B.weight"
        if up in state:
            state[up] = state[up] * (float(alpha) / state[up].shape[1])
    return state


def _fingerprints(layers: dict[str, Any], names: list[str]) -> list[torch.Tensor]:
    """A few rows of each weight, enough to see whether a rank-r update changed it."""
    return [layers[name].weight.detach()[:8].clone() for name in names]
