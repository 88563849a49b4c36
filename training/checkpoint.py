"""Training state in safetensors files, written atomically: weights, averages, optimizer moments, random state.

A file holds named tensors and, in its header, a few numbers as JSON (step, seconds trained). Nothing is pickled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def save(path: Path, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
    """Writes `tensors` and `notes` (JSON values) to `path`; a reader never sees half a file."""
    temporary = path.with_suffix(".tmp")
    whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(whole, temporary, metadata={"notes": json.dumps(notes)})
    temporary.rename(path)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save` wrote."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return tensors, json.loads((file.metadata() or {}).get("notes", "{}"))


def pack(**modules: nn.Module | dict[str, Tensor]) -> dict[str, Tensor]:
    """State dicts of several modules (or plain dicts) as one flat dict, `name/key`."""
    flat: dict[str, Tensor] = {}
    for name, module in modules.items():
        state = module if isinstance(module, dict) else module.state_dict()
        flat.update({f"{name}/{key}": value for key, value in state.items()})
    return flat


def unpack(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The part of a flat dict that `pack` called `name`."""
    return {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(name + "/")}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's moments and step counts, keyed by the number of the parameter."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{key}": value for number, entry in state.items() for key, value in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Gives `optimizer`, made for the same parameters, the state of `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
