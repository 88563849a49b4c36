"""DiT360Backends: what is installed, what can be used here, and why not."""

from __future__ import annotations

from typing import Any

from dit360_core.planning.catalogue import listing
from dit360_core.plugins.registry import default_registry
from dit360_core.system.machine import Machine

from dit360_comfy import native_attention
from dit360_comfy.inputs import Spec
from dit360_comfy.nodes.base import Node


class DiT360Backends(Node):
    DISPLAY_NAME = "DiT360 Backends"
    DESCRIPTION = (
        "Every attention kernel, quantization, scheduler, tiling and model that is installed, whether it can be used "
        "on this machine, and if not, why and what helps. Of a model it tells whose attention it has."
    )
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("report",)
    OUTPUT_TOOLTIPS = ("The report as text.",)
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        return {
            "required": {
                "try_kernels": ("BOOLEAN", {
                    "default": False, "tooltip": "Try and time every attention kernel too, which takes some seconds.",
                }),
            },
            "optional": {
                "model": ("MODEL", {
                    "tooltip": "A model as the sampler gets it, to be told whether DiT360 Attention computes its "
                    "attention, or a node after it set another.",
                }),
            },
        }  # fmt: skip

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> str:
        """Another answer than before once something was told that the report would repeat."""
        return "\n".join(native_attention.told_in_runs)

    def run(self, try_kernels: bool, model: Any = None) -> dict[str, Any]:
        text = as_text(listing(default_registry(), Machine.detect(), probe=try_kernels))
        if model is not None:
            text += f"\n\nAttention of the model\n  {native_attention.description_of(model)}"
        if native_attention.told_in_runs:
            text += "\n\nTold since ComfyUI started" + "".join(f"\n  {told}" for told in native_attention.told_in_runs)
        return {"ui": {"text": [text]}, "result": (text,)}


def as_text(report: dict[str, Any]) -> str:
    """A listing of the core, a line for each offer, by kinds."""
    lines = [f"On {report['device']}:"]
    kind = None
    for offer in report["offers"]:
        if offer["kind"] != kind:
            kind = offer["kind"]
            lines += ["", kind]
        probe = offer.get("probe") or {}
        measured = f" [{probe['seconds'] * 1000:.3g} ms, error {probe['error']:.1e}]" if probe.get("seconds") else ""
        if offer["available"]:
            lines.append(f"  + {offer['name']}{measured}: {offer['summary'] or offer['distribution']}")
        else:
            why = "; ".join(r["sentence"] + (f" → {r['hint']}" if r["hint"] else "") for r in offer["reasons"])
            lines.append(f"  - {offer['name']}: {why}")
    lines += ["", *(f"A plugin failed: {failure['sentence']}" for failure in report["failures"])]
    if report["disabled"]:
        lines.append(f"Switched off by DIT360_DISABLED_PLUGINS: {', '.join(report['disabled'])}")
    return "\n".join(lines).strip()


NODES: dict[str, type[Any]] = {"DiT360Backends": DiT360Backends}
