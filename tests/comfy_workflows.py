"""Workflows as the front end saves them, made prompts as the server runs them: what the front end does on "Run"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
"""Types of inputs that have a value of their own."""
ONLY_SHOWN = ("MarkdownNote", "Note")
"""Nodes of the front end, which the server does not know."""


def as_prompt(workflow: Mapping[str, Any], nodes: Mapping[str, Any]) -> dict[str, Any]:
    """A workflow in the API's format. nodes: what ``/object_info`` answers."""
    origins = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in ONLY_SHOWN:
            continue
        inputs = dict(zip(widget_names(nodes[node["type"]]), node["widgets_values"], strict=True))
        inputs |= {given["name"]: origins[given["link"]] for given in node["inputs"] if given.get("link") is not None}
        prompt[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": {name: value for name, value in inputs.items() if name},
        }
    return prompt


def widget_names(node: Mapping[str, Any]) -> Iterator[str]:
    """The input of each of a node's widgets_values; empty for what becomes of a seed when it is run again."""
    for section in ("required", "optional"):
        for name, spec in node["input"].get(section, {}).items():
            kind, settings = spec[0], spec[1] if len(spec) > 1 else {}
            if (isinstance(kind, str) and kind not in WIDGETS) or settings.get("forceInput"):
                continue
            yield name
            if settings.get("control_after_generate") or (kind == "INT" and name in ("seed", "noise_seed")):
                yield ""


def kinds(workflow: Mapping[str, Any]) -> set[str]:
    """The types of its nodes that the server has to know."""
    return {node["type"] for node in workflow["nodes"]} - set(ONLY_SHOWN)


def change(workflow: Mapping[str, Any], nodes: Mapping[str, Any], kind: str, **values: Any) -> None:
    """Sets inputs of every node of that kind in a workflow, as somebody would by hand."""
    for node in workflow["nodes"]:
        if node["type"] == kind:
            names = list(widget_names(nodes[kind]))
            for name, value in values.items():
                node["widgets_values"][names.index(name)] = value
