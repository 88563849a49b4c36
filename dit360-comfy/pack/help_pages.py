"""The help pages of the nodes: what somebody wrote, then a list of their inputs and outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from described import FILES, REGISTRY, Input, inputs_of

WRITTEN = Path(__file__).resolve().parent.parent / "help"
"""A file for each node: what it does, and what to do when something goes wrong."""


def page(name: str, node: dict[str, Any]) -> str:
    """The page of one node. Raises FileNotFoundError if nobody wrote of it."""
    parts = [(WRITTEN / f"{name}.md").read_text(encoding="utf-8").strip()]
    inputs = inputs_of(node)
    sections = {
        "To connect": [_socket(given) for given in inputs if not given.is_widget],
        "Settings": [_control(given) for given in inputs if given.is_widget],
        "Outputs": [_entry(out["name"], [_kind(out["type"])], out["tooltip"]) for out in node["outputs"]],
    }
    parts += [f"## {title}\n\n" + "\n".join(entries) for title, entries in sections.items() if entries]
    return "\n\n".join(parts) + "\n"


def _entry(name: str, facts: list[str], meaning: str) -> str:
    """Not a row of a table: the front end's panel is 300 pixels wide, and would cut off what a table says."""
    told = [fact for fact in facts if fact and fact != name]
    return f"* **{name}**" + (f" ({'; '.join(told)})" if told else "") + f"<br>\n  {meaning}"


def _kind(kind: str) -> str:
    return "any" if kind == "*" else kind


def _socket(given: Input) -> str:
    return _entry(given.name, [_kind(given.spec["type"]), "" if given.required else "optional"], given.spec["tooltip"])


def _control(given: Input) -> str:
    facts = [_values(given.spec), f"default {_default(given.spec)}", "advanced" if given.spec.get("advanced") else ""]
    return _entry(given.name, facts, given.spec["tooltip"])


def _default(spec: dict[str, Any]) -> str:
    default = spec.get("default", "")
    if spec["type"] == "BOOLEAN":
        return "on" if default else "off"
    return "empty" if default == "" else f"{default:g}" if isinstance(default, float) else str(default)


def _values(spec: dict[str, Any]) -> str:
    kind = spec["type"]
    if kind == "COMBO":
        found = {str(FILES): "files in ComfyUI's folders", str(REGISTRY): "what is installed"}
        return ", ".join(found.get(str(choice), str(choice)) for choice in spec["choices"])
    if kind == "INT":
        step = spec.get("step", 1)
        return f"{spec['min']} … {spec['max']}" + (f" in steps of {step}" if step > 1 else "")
    if kind == "FLOAT":
        return f"{spec['min']:g} … {spec['max']:g}"
    return "on or off" if kind == "BOOLEAN" else "text"
