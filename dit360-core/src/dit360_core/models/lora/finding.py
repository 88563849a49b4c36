"""Finds the file of a LoRA, and looks at the names in it, without torch."""

from __future__ import annotations

import contextlib
from pathlib import Path

from dit360_core.errors import ModelError
from dit360_core.models.lora import keys
from dit360_core.models.weights.files import find_lora_file
from dit360_core.models.weights.headers import check_safetensors
from dit360_core.models.weights.hub import LORA_FILES, SUBFOLDERS, explain_the_cache, fetch
from dit360_core.system.naming import existing, looks_like_hub_id


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
    with explain_the_cache(repo_id) if fetched else contextlib.nullcontext():
        names = check_safetensors(file)
    kinds = {parsed.kind for name in names if (parsed := keys.parse(name)) is not None}
    if not kinds - {keys.NEW_WEIGHT, keys.NEW_BIAS} and not keys.other_kind(names):
        raise ModelError(f"{file} holds no LoRA: none of its {len(names)} tensors is named so; give a LoRA file.")
    return file


def is_of_plain_factors(file: Path) -> bool:
    """Whether :func:`dit360_core.models.lora.file.read` reads it: LoKr, LoHa and other kinds of adapters it refuses."""
    return not keys.other_kind(check_safetensors(file))
