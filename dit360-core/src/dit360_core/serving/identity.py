"""What tells the model of a server from another."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from dit360_core.options import REPLACING, LoadOptions, options_of
from dit360_core.planning.loras import split
from dit360_core.system.installed import installed_version
from dit360_core.system.naming import existing

_PATHS = ("model", "models_dir", "lora", *REPLACING)
"""Options of a model that may name files, which one program finds by another name than the next."""
_WEIGHTS = (".json", ".safetensors", ".gguf")
"""Endings of files in a folder that are a model's."""
VERSION = "version"
"""What another version of this program makes of a model may be another picture."""


def identity(loading: LoadOptions, *, files: bool = True) -> dict[str, Any]:
    """What tells one loaded model from another: its options that are not the default, files by their whole paths.

    files: tell files that were written anew from what they were, and versions of this program from each other.
    """
    found: dict[str, Any] = {VERSION: installed_version("dit360-core")} if files else {}
    for name, option in options_of(LoadOptions).items():
        value = getattr(loading, name)
        if value == option.default or (option.kind is tuple and not value):
            continue
        found[name] = _whole(value, files and name != "models_dir") if name in _PATHS else value
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def _whole(value: Any, files: bool) -> Any:
    """Names of files that are there as absolute paths; anything else as it is."""
    if isinstance(value, list | tuple):
        return [_whole(one, files) for one in value]
    if not isinstance(value, str) or not value:
        return value
    name, strength = split(value)
    path = existing(name)
    if path is None:
        return value
    return f"{path.resolve()}{_written(path) if files else ''}" + ("" if strength is None else f" {strength:g}")


def _written(path: Path) -> str:
    """What changes when a file or a model's folder is written anew: other weights by that name are another model."""
    if path.is_file():
        told = path.stat()
        return f" {told.st_size} {told.st_mtime_ns}"
    # A part of a model is a folder in its folder.
    own = sorted(one for one in (*path.glob("*"), *path.glob("*/*")) if one.suffix in _WEIGHTS)
    facts = [(str(one.relative_to(path)), one.stat().st_size, one.stat().st_mtime_ns) for one in own if one.is_file()]
    return f" {hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}" if facts else ""
