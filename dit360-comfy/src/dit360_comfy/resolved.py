"""What a sampler's 0 and −1 came to: the values that were used, in the words of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def summary_of(used: Sequence[Mapping[str, Any]]) -> str:
    """Two lines for the pictures of a run, which differ by seed only.

    used: of each, as the core's settings have it.
    """
    first, seeds = used[0], [one["seed"] for one in used]
    named = {
        "width": first["width"],
        "height": first["height"],
        "steps": first["steps"],
        "cfg_scale": first["guidance"],
        "circular_padding": first["circular_padding"],
        "seed": seeds[0] if len(seeds) == 1 else f"{seeds[0]} … {seeds[-1]}",
        "scheduler_type": first["scheduler"]["used"],
        "attention_backend": first["attention"]["used"],
        "latent_rotation": first["latent_rotation"],
        "position_interpolation": first["position_interpolation"],
    }
    told = [f"{name} {_shown(value)}" for name, value in named.items()]
    return "\n".join(", ".join(line) for line in (told[:6], told[6:]))


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
