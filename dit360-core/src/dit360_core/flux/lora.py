"""Reading a LoRA, fusing it into weights, and refusing one that would do nothing."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from safetensors import safe_open

from dit360_core.errors import InputError, ModelError, first_line
from dit360_core.flux.files import check_safetensors, existing, find_lora_file, read_json
from dit360_core.flux.hub import LORA_FILES, SUBFOLDERS, fetch, told_of_the_cache
from dit360_core.flux.quiet import quiet
from dit360_core.plan import looks_like_hub_id

if TYPE_CHECKING:
    import torch

    from dit360_core.conversion import Converted

log = logging.getLogger("dit360")


def locate(lora: str) -> Path:
    """The safetensors file meant by a path, a Hub id or ``owner/name/file.safetensors``, its header checked."""
    path = existing(lora)
    repo_id, _, name = lora.rpartition("/")
    fetched = path is None
    if path is None and looks_like_hub_id(lora):
        repo_id = lora
        path = fetch(lora, LORA_FILES, ignore=SUBFOLDERS)
    elif path is None and looks_like_hub_id(repo_id) and name.endswith(".safetensors"):
        path = fetch(repo_id, [name, "adapter_config.json"]) / name
    if path is None:
        raise ModelError(
            f"There is no LoRA {lora}; give a safetensors file, a folder, or a Hub id (owner/name or "
            "owner/name/file.safetensors)."
        )
    file = find_lora_file(path)
    with told_of_the_cache(repo_id) if fetched else contextlib.nullcontext():
        names = check_safetensors(file)
    if not any("lora" in name.lower() for name in names):
        raise ModelError(f"{file} holds no LoRA: none of its {len(names)} tensors is named so; give a LoRA file.")
    return file


@attrs.frozen(kw_only=True, eq=False)
class Factors:
    """One layer of a LoRA: ``up · down`` is added to the weights, ``(out, rank) · (rank, in)``, bias to the bias."""

    down: torch.Tensor
    up: torch.Tensor
    bias: torch.Tensor | None = None

    def add_to(self, layer: Any, strength: float) -> bool:
        """Adds ``strength`` times it to a layer, rounded once to their dtype. Returns whether any weight changed."""
        import torch

        changed = False
        with torch.no_grad():
            for old, new in ((layer.weight, self._product()), (layer.bias, self.bias)):
                if new is None or old is None:
                    continue
                wide = torch.promote_types(old.dtype, torch.float32)
                fused = (old.to(wide) + strength * new.to(old.device, wide)).to(old.dtype)
                changed = changed or not torch.equal(fused, old)
                old.copy_(fused)
        return changed

    def effect(self, strength: float) -> Callable[[torch.Tensor], torch.Tensor]:
        """What it adds to the output of a layer, its bias aside."""

        def added(x: torch.Tensor) -> torch.Tensor:
            wide = x.float()
            return strength * (wide @ self.down.to(x.device).float().T) @ self.up.to(x.device).float().T

        return added

    @property
    def zero(self) -> bool:
        return not (self.up.any() and self.down.any()) and (self.bias is None or not self.bias.any())

    def _product(self) -> torch.Tensor:
        import torch

        wide = torch.promote_types(self.up.dtype, torch.float32)
        return self.up.to(wide) @ self.down.to(wide)


@attrs.frozen(kw_only=True, eq=False)
class Lora:
    """A LoRA file, read. layers: name in the transformer → its factors. text_encoder: tensors for CLIP, if any."""

    file: Path
    layers: Mapping[str, Factors]
    text_encoder: Mapping[str, torch.Tensor]

    def fitted(self, transformer: torch.nn.Module) -> Lora:
        """What of it belongs to a transformer, which may be on the meta device.

        Raises ModelError if that is nothing, or if shapes differ; warns of layers that are not there.
        """
        there = dict(transformer.named_modules())
        matched = {name: factors for name, factors in sorted(self.layers.items()) if name in there}
        if not matched:
            example = next(iter(self.layers), "none")
            raise ModelError(
                f"{self.file} does not fit this model: none of its {len(self.layers)} layers is one of the "
                f"transformer's (the first is {example!r}); give a LoRA made for FLUX."
            )
        if missing := len(self.layers) - len(matched):
            log.warning("%s: %d of its %d layers are not in this model.", self.file, missing, len(self.layers))
        for name, factors in matched.items():
            shape = tuple(getattr(getattr(there[name], "weight", None), "shape", ()))
            if (factors.up.shape[0], factors.down.shape[1]) != shape:
                raise ModelError(f"{self.file} was made for another model: its layer {name} has another shape.")
        return attrs.evolve(self, layers=matched)

    def check_beside(self) -> None:
        """Raises ModelError if not all of it can be kept beside weights."""
        if self.text_encoder:
            raise ModelError(
                f"{self.file} also changes CLIP, which cannot be kept beside it; use lora_mode=fuse, or give another "
                "file."
            )

    def check_effect(self, changed: int, strength: float) -> None:
        """Raises ModelError if fusing it changed no weight although it holds something."""
        if not changed and strength and not all(factors.zero for factors in self.layers.values()):
            raise ModelError(
                f"{self.file} was fused with strength {strength:g} but changed no weight; give another precision."
            )


def read(file: Path) -> Lora:
    """A LoRA in a format that diffusers reads. Raises ModelError if it is none, or holds more than factors."""
    try:
        with quiet():
            state = _as_diffusers(file)
    except ModelError:
        raise
    except (ValueError, KeyError, IndexError, TypeError, ZeroDivisionError, NotImplementedError, RuntimeError,
            AttributeError) as error:  # fmt: skip
        raise ModelError(
            f"{file} cannot be read as a LoRA for FLUX ({first_line(error).rstrip(': ')}); give another file."
        ) from error
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        if not key.startswith("transformer."):
            continue
        name, lora, rest = key.removeprefix("transformer.").partition(".lora_")
        kind = {"A.weight": "down", "B.weight": "up", "B.bias": "bias"}.get(rest)
        if not lora or kind is None:
            raise ModelError(f"{file} holds {key!r}, which is more than a LoRA; give one of plain factors (A and B).")
        layers.setdefault(name, {})[kind] = value
    for name, found in layers.items():
        if not {"down", "up"} <= set(found):
            raise ModelError(f"{file} holds only one factor of its layer {name}; download it again.")
        down, up, bias = found["down"], found["up"], found.get("bias")
        if down.ndim != 2 or up.ndim != 2 or up.shape[1] != down.shape[0] or (
            bias is not None and bias.shape != up.shape[:1]
        ):  # fmt: skip
            raise ModelError(f"{file} holds factors of its layer {name} that do not fit together; download it again.")
        if not all(bool(factor.float().isfinite().all()) for factor in found.values()):
            raise ModelError(f"{file} holds numbers that are not finite, in its layer {name}; download it again.")
    return Lora(
        file=file,
        layers={name: Factors(**found) for name, found in layers.items()},
        text_encoder={key: value for key, value in state.items() if key.startswith("text_encoder.")},
    )


def fuse(transformer: torch.nn.Module, lora: Lora, strength: float) -> int:
    """Adds ``strength`` times a LoRA to the weights of a transformer. Returns how many layers it has there.

    Raises ModelError if it belongs to another model, or would change nothing.
    """
    lora = lora.fitted(transformer)
    changed = [factors.add_to(transformer.get_submodule(name), strength) for name, factors in lora.layers.items()]
    lora.check_effect(sum(changed), strength)
    return len(lora.layers)


def check_kept(lora: Lora, converted: Iterable[Converted]) -> float | None:
    """The share of a fused LoRA's effect that quantization left (median of its layers); None if it is in none.

    Raises ModelError if it is as good as gone.
    """
    kept = [layer.lora_kept for part in converted for layer in part.layers if layer.lora_kept is not None]
    if not kept:
        return None
    share = statistics.median(kept)
    if share < 0.1:
        raise ModelError(
            f"{lora.file} disappears when weights are rounded ({share:.0%} of its effect is left); use "
            "lora_mode=adapter, or a greater lora_strength."
        )
    return share


def check_evictable(lora: Lora, later: Collection[str]) -> None:
    """Raises InputError for a LoRA that diffusers would have to fuse while the transformer is not there."""
    if lora.text_encoder and "transformer" in later:
        raise InputError(f"{lora.file} also changes CLIP, which evict=all cannot do; use evict=text, or another file.")


def fuse_text_encoder(pipe: Any, lora: Lora, strength: float) -> None:
    """Adds what a LoRA holds for CLIP, which few do."""
    if lora.text_encoder:
        with quiet():
            pipe.load_lora_weights(dict(lora.text_encoder), adapter_name="dit360")
            pipe.fuse_lora(components=["text_encoder"], lora_scale=strength, adapter_names=["dit360"])
            pipe.unload_lora_weights()


def _as_diffusers(file: Path) -> dict[str, torch.Tensor]:
    """The tensors under diffusers' names (``transformer.….lora_A.weight``), scaled so that alpha equals the rank."""
    from diffusers import FluxPipeline
    from safetensors.torch import load_file

    raw = load_file(file)
    if weights := next((k for k in raw if "dora_scale" in k or "lora_magnitude" in k), None):
        raise ModelError(f"{file} is a DoRA (it holds {weights!r}), which changes weights otherwise; give a LoRA.")
    plain = of_plain_factors(file, raw)
    if plain is not None:
        return plain
    reader: Any = FluxPipeline
    state, alphas = reader.lora_state_dict(raw, return_alphas=True)
    return _scaled(state, alphas or {})


def of_plain_factors(file: Path, raw: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """The tensors of a file as PEFT or diffusers writes it, named and scaled as above; None for another format."""
    named = {_plain_name(key): value for key, value in raw.items()}
    if not all(re.match(_FACTOR, key) for key in named):
        return None
    state = {key if key.startswith("text_encoder.") else f"transformer.{key}": value for key, value in named.items()}
    for key in [key for key in state if ".lora_B." in key]:
        part = key.partition(".")[0]
        state[key] = state[key] * _scale(file, part, rank=state[key.replace(".lora_B.bias", ".lora_B.weight")].shape[1])
    return state


# A layer of the transformer, or of CLIP, under the names of diffusers, with PEFT's for the factors.
_FACTOR = re.compile(
    r"(transformer_blocks|single_transformer_blocks|x_embedder|context_embedder|time_text_embed|norm_out|proj_out"
    r"|text_encoder)\b.*\.lora_[AB]\.(weight|bias)$"
)


def _plain_name(key: str) -> str:
    """Without what PEFT and diffusers put before a layer's name, and adapters' names into it."""
    return key.removeprefix("base_model.model.").removeprefix("transformer.").replace(".default.", ".")


def _scale(file: Path, part: str, rank: int) -> float:
    """alpha / rank, as PEFT writes it beside the file or diffusers into its header; 1 where neither did."""
    settings = file.parent / "adapter_config.json"
    if settings.is_file():
        config = read_json(settings)
    else:
        with safe_open(file, framework="pt") as opened:
            try:
                told = json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}"))
            except ValueError as error:
                raise ModelError(f"{file} has a header that is no JSON ({error}); download it again.") from error
        config = {key.removeprefix(f"{part}."): value for key, value in told.items() if key.startswith(f"{part}.")}
        settings = file
    if config.get("alpha_pattern"):
        raise ModelError(f"{settings} gives layers an alpha of their own, which dit360 does not read; merge the LoRA.")
    if "lora_alpha" not in config:
        return 1.0
    return float(config["lora_alpha"]) / (rank**0.5 if config.get("use_rslora") else rank)


def _scaled(state: dict[str, torch.Tensor], alphas: dict[str, Any]) -> dict[str, torch.Tensor]:
    for key, alpha in alphas.items():
        layer = key.removesuffix(".alpha")
        up = f"{layer}.lora_B.weight"
        if up in state:
            state[up] = state[up] * (float(alpha) / state[up].shape[1])
    return state
