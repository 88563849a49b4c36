"""What tells the model of a server from another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dit360_core.options import REPLACING, LoadOptions, options_of
from dit360_core.planning.loras import split

_PATHS = ("model", "models_dir", "lora", *REPLACING)
"""Options of a model that may name files, which one program finds by another name than the next."""


def identity(loading: LoadOptions) -> dict[str, Any]:
    """What tells one loaded model from another: its options that are not the default, files by their whole paths."""
    found: dict[str, Any] = {}
    for name, option in options_of(LoadOptions).items():
        value = getattr(loading, name)
        if value == option.default or (option.kind is tuple and not value):
            continue
        found[name] = _whole(value) if name in _PATHS else value
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def _whole(value: Any) -> Any:
    """Names of files that are there as absolute paths; anything else as it is."""
    if isinstance(value, list | tuple):
        return [_whole(one) for one in value]
    if not isinstance(value, str) or not value:
        return value
    name, strength = split(value)
    path = Path(name).expanduser()
    if not path.exists():
        return value
    told = path.stat()
    # Other weights by that name are another model.
    own = f" {told.st_size} {told.st_mtime_ns}" if path.is_file() else ""
    return f"{path.resolve()}{own}" + ("" if strength is None else f" {strength:g}")
