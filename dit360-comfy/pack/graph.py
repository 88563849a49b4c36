"""Workflows in the form in which ComfyUI's front end saves them (version 0.4), from a few lines each."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import attrs
from described import FILES, REGISTRY, Input, inputs_of

TITLE, SLOT, WIDGET, TEXT = 30, 20, 24, 120
"""Heights in the front end's pixels: of a node's title, a connection, a setting, a text of several lines."""
GAP, MARGIN = 30, 15
NOTE = "MarkdownNote"
SAYS = {"DiT360Sampler": 72, "DiT360Inpaint": 72, "DiT360Upscale": 72}
"""Kinds that say something below their settings, and how much room that takes (``REPORTS`` of the front end)."""


@attrs.frozen
class Of:
    """An output of another node of the workflow: the node's name there, and which output."""

    node: str
    output: int = 0


@attrs.frozen
class Placed:
    """A node of a workflow. name: what Of calls it. inputs: all that do not keep their default.

    height: for nodes that show a picture. files: what a loader needs, as the front end offers to download it.
    """

    name: str
    kind: str
    inputs: Mapping[str, Any] = attrs.field(factory=dict)
    height: int = 0
    files: tuple[Mapping[str, str], ...] = ()


@attrs.frozen
class Column:
    """Nodes below each other, in a frame with a title."""

    title: str
    width: int
    nodes: tuple[Placed, ...]


@attrs.frozen
class Workflow:
    """name: of the file, which is what the template browser shows. note: in Markdown, beside the nodes."""

    name: str
    note: str
    columns: tuple[Column, ...]

    def saved(self, nodes: Mapping[str, dict[str, Any]], ours: frozenset[str]) -> dict[str, Any]:
        """The content of the file. nodes: what is known of each kind, as ``described()`` gives it."""
        builder = _Builder(nodes, ours)
        builder.note(self.note)
        for column in self.columns:
            builder.column(column)
        builder.connect()
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"dit360-comfy/{self.name}")),
            "revision": 0,
            "last_node_id": len(builder.saved),
            "last_link_id": len(builder.links),
            "nodes": builder.saved,
            "links": builder.links,
            "groups": builder.groups,
            "config": {},
            "extra": {},
            "version": 0.4,
        }


class _Builder:
    def __init__(self, nodes: Mapping[str, dict[str, Any]], ours: frozenset[str]) -> None:
        self.nodes, self.ours = nodes, ours
        self.saved: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []
        self.groups: list[dict[str, Any]] = []
        self._by_name: dict[str, dict[str, Any]] = {}
        self._wires: list[tuple[Of, dict[str, Any], int]] = []
        self._x = 0

    def note(self, text: str) -> None:
        size = [380, 560]
        self._add(NOTE, [0, TITLE], size, widgets_values=[text], color="#432", bgcolor="#653")
        self._x = size[0] + 2 * GAP

    def column(self, column: Column) -> None:
        y = TITLE
        for placed in column.nodes:
            node = self._node(placed, self._x, y, column.width)
            y += node["size"][1] + TITLE + GAP
        self.groups.append({
            "id": len(self.groups) + 1,
            "title": column.title,
            "bounding": [self._x - MARGIN, -TITLE - MARGIN, column.width + 2 * MARGIN, y + MARGIN],
            "color": "#3f789e", "font_size": 22, "flags": {},
        })  # fmt: skip
        self._x += column.width + 2 * GAP + MARGIN

    def _node(self, placed: Placed, x: int, y: int, width: int) -> dict[str, Any]:
        known = self.nodes[placed.kind]
        inputs = inputs_of(known)
        unknown = set(placed.inputs) - {given.name for given in inputs}
        if unknown:
            raise ValueError(f"{placed.kind} has no input {', '.join(sorted(unknown))}.")
        sockets = [given for given in inputs if not given.is_widget]
        widgets = [given for given in inputs if given.is_widget]
        rows = max(len(sockets), len(known["outputs"]))
        texts = sum(bool(given.spec.get("multiline")) for given in widgets)
        values = [value for given in widgets for value in _values(given, placed)]
        height = (
            rows * SLOT + (len(values) - texts) * WIDGET + texts * TEXT + 16 + placed.height + SAYS.get(placed.kind, 0)
        )
        node = self._add(
            placed.kind, [x, y], [width, height],
            inputs=[{"name": given.name, "type": given.spec["type"], "link": None} for given in sockets],
            outputs=[{"name": out["name"], "type": out["type"], "links": []} for out in known["outputs"]],
            widgets_values=values,
        )  # fmt: skip
        node["properties"]["cnr_id"] = "dit360-comfy" if placed.kind in self.ours else "comfy-core"
        if placed.files:
            node["properties"]["models"] = [dict(file) for file in placed.files]
        self._by_name[placed.name] = node
        for slot, given in enumerate(sockets):
            if given.name in placed.inputs:
                self._wires.append((placed.inputs[given.name], node, slot))
            elif given.required:
                raise ValueError(f"{placed.kind}.{given.name} is not connected.")
        return node

    def _add(self, kind: str, pos: list[int], size: list[int], **more: Any) -> dict[str, Any]:
        node: dict[str, Any] = {
            "id": len(self.saved) + 1, "type": kind, "pos": pos, "size": size, "flags": {}, "order": len(self.saved),
            "mode": 0, "inputs": [], "outputs": [], "properties": {"Node name for S&R": kind}, **more,
        }  # fmt: skip
        self.saved.append(node)
        return node

    def connect(self) -> None:
        for of, target, slot in self._wires:
            source = self._by_name[of.node]
            kind, link = source["outputs"][of.output]["type"], len(self.links) + 1
            if kind != target["inputs"][slot]["type"] or source["id"] > target["id"]:
                raise ValueError(f"{of.node} does not fit {target['type']}.{target['inputs'][slot]['name']}.")
            self.links.append([link, source["id"], of.output, target["id"], slot, kind])
            source["outputs"][of.output]["links"].append(link)
            target["inputs"][slot]["link"] = link


def _values(given: Input, placed: Placed) -> list[Any]:
    """An input's value, and after a seed what becomes of it when the workflow is run again."""
    spec = given.spec
    value = placed.inputs.get(given.name, spec.get("default"))
    if spec["type"] == "COMBO":
        free = any(choice in spec["choices"] for choice in (FILES, REGISTRY))
        if value is None:
            value = spec["choices"][0]
        if value not in spec["choices"] and not free:
            raise ValueError(f"{placed.kind}.{given.name} cannot be {value!r}.")
    if value is None:
        raise ValueError(f"{placed.kind}.{given.name} needs a value.")
    again = spec.get("control_after_generate") or given.name in ("seed", "noise_seed")
    return [value, "fixed"] if again and spec["type"] == "INT" else [value]
