"""Finds the file of a LoRA, and looks at the names in it, without torch."""

from __future__ import annotations

import contextlib
import glob
from pathlib import Path

from dit360_core.errors import ModelError
from dit360_core.models.lora import keys
from dit360_core.models.weights.files import find_lora_file
from dit360_core.models.weights.headers import check_safetensors
from dit360_core.models.weights.hub import LORA_FILES, SUBFOLDERS, explain_the_cache, fetch
from dit360_core.models.weights.hub_names import ENDING, Named, named_on_hub
from dit360_core.system.naming import existing


def locate(lora: str) -> Path:
    """The safetensors file meant by a path, or by a name on the Hub, its header checked.

    lora: a file, a folder, ``owner/name``, ``owner/name/path/file.safetensors``, or its address in a browser.
    """
    path = existing(lora)
    hub = named_on_hub(lora) if path is None and not _in_a_folder(lora) else None
    if hub is not None:
        path = _fetched(hub)
    if path is None:
        raise ModelError(
            f"There is no LoRA {lora}; give a safetensors file, a folder, or a Hub id (owner/name or "
            "owner/name/file.safetensors)."
        )
    file = find_lora_file(path)
    with explain_the_cache(hub.repository) if hub is not None else contextlib.nullcontext():
        names = check_safetensors(file)
    kinds = {parsed.kind for name in names if (parsed := keys.parse(name)) is not None}
    if not kinds - {keys.NEW_WEIGHT, keys.NEW_BIAS} and not keys.other_kind(names):
        raise ModelError(f"{file} holds no LoRA: none of its {len(names)} tensors is named so; give a LoRA file.")
    return file


def _in_a_folder(lora: str) -> bool:
    """Whether a file that is not there is named in a folder that is: somebody means this disk, and mistyped."""
    return lora.count("/") > 1 and existing(lora.partition("/")[0]) is not None


def _fetched(hub: Named) -> Path:
    """The file or folder that a name on the Hub means, downloaded if it is not in the cache."""
    if not hub.file:
        return fetch(hub.repository, LORA_FILES, ignore=SUBFOLDERS, revision=hub.revision)
    if not hub.file.lower().endswith(ENDING):
        patterns = [f"{glob.escape(hub.file)}/{pattern}" for pattern in LORA_FILES]
    else:
        folder = hub.file.rpartition("/")[0]
        patterns = [glob.escape(hub.file), glob.escape(f"{folder}/adapter_config.json".lstrip("/"))]
    path = fetch(hub.repository, patterns, revision=hub.revision) / hub.file
    if not path.exists():
        raise ModelError(f"{hub.repository} has no {hub.file}, here or on the Hub; name one of its files: {hub.page}.")
    return path


def is_of_plain_factors(file: Path) -> bool:
    """Whether :func:`dit360_core.models.lora.file.read` reads it: LoKr, LoHa and other kinds of adapters it refuses."""
    return not keys.other_kind(check_safetensors(file))
