"""Other packs' nodes that have a counterpart here, told to ComfyUI, so that a workflow of theirs opens without them.

ComfyUI has known such replacements since 0.4 or so; it makes one only where the node's own pack is not installed.
Theirs that are left out do in one node what takes several here, or hand on types of their own.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import attrs

log = logging.getLogger("dit360")


@attrs.frozen
class Replacement:
    """A node of another pack, and ours that does the same.

    old, new: ids of nodes.
    widgets: what the old one has of its own, in the order in which workflows store it.

    inputs: of the new one → of the old one; only those that the old one requires, since ComfyUI reads them unasked.
    values: of the new one's other inputs.
    """

    old: str
    new: str
    widgets: tuple[str, ...]
    inputs: dict[str, str]
    values: dict[str, Any] = attrs.field(factory=dict)
    outputs: int = 1


REPLACEMENTS = (
    # cedarconnor's ComfyUI-DiT360 2 and DiT360Plus. It blends, whatever the shape.
    Replacement(
        "Equirect360EdgeBlender", "Equirect360Process", ("blend_width", "blend_mode"),
        {"image": "image", "blend_width": "blend_width", "blend_mode": "blend_mode"},
        {"enforce_2_1_ratio": False, "fix_mode": "none", "blend_edges": True},
    ),
    # Both again. Ours shows every size.
    Replacement("Equirect360Viewer", "Equirect360Preview", ("max_resolution",), {"images": "images"}, outputs=0),
    # cedarconnor's. Ours wraps exactly, so that there is no width to choose.
    Replacement(
        "Equirect360VAEDecode", "DiT360VAEDecode", ("circular_padding",), {"samples": "samples", "vae": "vae"},
    ),
    # DiT360Plus's.
    Replacement("DiT360PipelineUnloader", "DiT360Unload", (), {"value": "pipeline"}, outputs=0),
)  # fmt: skip


def register() -> None:
    """Tells ComfyUI, where it is new enough to be told."""
    try:
        from comfy_api.latest import ComfyAPI, io

        register_one, replace = ComfyAPI().node_replacement.register, io.NodeReplace
    except (ImportError, AttributeError):
        return  # an older ComfyUI

    async def all_of_them() -> None:
        for one in REPLACEMENTS:
            try:
                await register_one(_as_comfyui_has_it(one, replace))
            except Exception as error:  # noqa: BLE001 (a convenience, of an API that may change)
                log.warning("ComfyUI did not take %s as a replacement of %s: %s", one.new, one.old, error)

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(all_of_them())
    else:
        _tasks.append(loop.create_task(all_of_them()))


_tasks: list[asyncio.Task[None]] = []
"""The loop itself holds them by weak references only."""


def _as_comfyui_has_it(one: Replacement, replace: Any) -> Any:
    mapped: list[dict[str, Any]] = [{"new_id": new, "old_id": old} for new, old in one.inputs.items()]
    mapped += [{"new_id": name, "set_value": value} for name, value in one.values.items()]
    return replace(
        new_node_id=one.new,
        old_node_id=one.old,
        old_widget_ids=list(one.widgets),
        input_mapping=mapped,
        output_mapping=[{"new_idx": i, "old_idx": i} for i in range(one.outputs)],
    )
