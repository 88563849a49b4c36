"""The English of the nodes, in the form in which ComfyUI's front end reads translations.

Labels stay the names of the inputs, because help, tooltips and error messages speak of them by these. What a machine
adds to a tooltip must not be hidden by a fixed one, so such inputs have none here.
"""

from __future__ import annotations

import re
from typing import Any

from described import inputs_of


def node_definitions(nodes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The content of ``nodeDefs.json``."""
    return {name.replace(".", "_"): _definition(node) for name, node in nodes.items()}


def _definition(node: dict[str, Any]) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for given in inputs_of(node):
        told = {"name": given.name}
        if given.spec.get("tooltip") and not given.spec.get("tooltip_goes_on"):
            told["tooltip"] = message(given.spec["tooltip"])
        inputs[given.name.replace(".", "_")] = told
        if given.spec.get("control_after_generate"):
            inputs["control_after_generate"] = {"name": "control after generate"}
    return {
        "display_name": message(node["display_name"]),
        "description": message(node["description"]),
        "inputs": inputs,
        "outputs": {
            str(index): {"name": output["name"], "tooltip": message(output["tooltip"])}
            for index, output in enumerate(node["outputs"])
        },
    }


def message(text: str) -> str:
    """Text in which nothing means something else to the front end's translator (vue-i18n)."""
    return re.sub(r"[{}@|]|%(?={)", lambda sign: f"{{'{sign.group()}'}}", text)
