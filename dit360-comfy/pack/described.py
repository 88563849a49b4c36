"""What the nodes say of themselves, without what this machine and its plugins add to it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
from dit360_comfy import choices, host
from dit360_comfy.nodes import NODE_CLASS_MAPPINGS

REGISTRY = {"from": "registry"}
"""In a drop-down: whatever plugins offer, where ComfyUI runs."""
FILES = {"from": "files"}
"""In a drop-down: whatever files are in ComfyUI's folders."""

_OFFER, _FILE, _WHY = "\0offer", "\0file", "\0why"


def described() -> dict[str, dict[str, Any]]:
    """Node id → what it is, in plain JSON.

    Drop-downs have REGISTRY or FILES for what is found on a machine. A tooltip that goes on with what cannot be used
    on this one ends before that, and the input is marked ``"tooltip_goes_on": true``.
    """
    # Marks instead of a registry and of folders: wherever one comes out, a node asked for them.
    marks: tuple[tuple[Any, str, Any], ...] = (
        (choices, "_judged", choices.Choices(names=(_OFFER,), unavailable=_WHY)),
        (host, "in_comfyui", True),
        (host, "files", (_FILE,)),
        (host, "weights", (_FILE,)),
        (host, "model_folders", {_FILE: Path()}),
    )
    with ExitStack() as stack:
        for module, function, mark in marks:
            stack.enter_context(mock.patch.object(module, function, return_value=mark))
        return {name: _node(node) for name, node in NODE_CLASS_MAPPINGS.items()}


def _node(node: Any) -> dict[str, Any]:
    names = getattr(node, "RETURN_NAMES", node.RETURN_TYPES)
    outputs = [
        {"name": str(name), "type": str(kind), "tooltip": tooltip}
        for name, kind, tooltip in zip(names, node.RETURN_TYPES, _tooltips(node), strict=True)
    ]
    return {
        "display_name": node.DISPLAY_NAME,
        "category": node.CATEGORY,
        "description": node.DESCRIPTION,
        "function": node.FUNCTION,
        "output_node": getattr(node, "OUTPUT_NODE", False),
        "inputs": {
            section: {name: plain(spec) for name, spec in inputs.items()}
            for section, inputs in node.INPUT_TYPES().items()
        },
        "outputs": outputs,
    }


def _tooltips(node: Any) -> tuple[str, ...]:
    return tuple(getattr(node, "OUTPUT_TOOLTIPS", ("",) * len(node.RETURN_TYPES)))


def plain(spec: Any) -> dict[str, Any]:
    """An input as ComfyUI is told of it, as one dictionary: its type (COMBO for a drop-down) beside its settings."""
    kind, settings = (spec, {}) if isinstance(spec, str) else (spec[0], spec[1] if len(spec) > 1 else {})
    found: dict[str, Any] = {"type": "COMBO", "choices": []} if isinstance(kind, list) else {"type": str(kind)}
    for choice in kind if isinstance(kind, list) else ():
        mark = {_OFFER: REGISTRY, _FILE: FILES}.get(choice)
        found["choices"].append(mark or choice)
    found |= settings
    tooltip, *more = found.get("tooltip", "").split(_WHY)
    if more:
        # What announces it, if anything, belongs to it.
        found |= {"tooltip": tooltip[: tooltip.rfind(".") + 1], "tooltip_goes_on": True}
    return found


@attrs.frozen
class Input:
    """One input of a node, in the order in which front ends show them."""

    name: str
    spec: dict[str, Any]
    required: bool

    @property
    def is_widget(self) -> bool:
        """Whether it has a value of its own; the others are connected."""
        return self.spec["type"] in ("COMBO", "INT", "FLOAT", "STRING", "BOOLEAN")


def inputs_of(node: dict[str, Any]) -> list[Input]:
    """All but the hidden ones."""
    return [
        Input(name, spec, section == "required")
        for section in ("required", "optional")
        for name, spec in node["inputs"].get(section, {}).items()
    ]
