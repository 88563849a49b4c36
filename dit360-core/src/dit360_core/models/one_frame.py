"""An autoencoder that is made for films and used for one frame: the part of a model, and its folder.

Such a one keeps temporal kernels in its files, of which a picture meets the last slice alone
(:mod:`dit360_core.sphere.vae.one_frame`), and its latents are standardized by a mean and a deviation for each channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit360_core.models.architecture import AUTOENCODER, Part, Role
from dit360_core.models.folder import PartKind
from dit360_core.models.schemas import SHARE, WIDEST, WIDTH, WRITTEN
from dit360_core.models.weights.schema import FLAG, Schema, list_of, number, whole

ORIGINAL = "decoder.middle.0.residual.2.weight"
"""A tensor of its makers' files, which have other names than diffusers'."""

ONE_FRAME = Part(
    name=AUTOENCODER,
    role=Role.AUTOENCODER,
    words="autoencoder",
    short="autoencoder",
    wide_in_fp16=True,
    # What mixes frames.
    harmless=(r"(.*\.)?time_conv\..*",),
    signs=("decoder.mid_block.resnets.0.conv1.weight", ORIGINAL),
)
"""The autoencoder as a part of a model."""

_SCHEMA = Schema(
    {
        "base_dim": WIDTH,
        "z_dim": whole(1, 1024),
        "dim_mult": list_of(whole(1, 64), 1, 16),
        "num_res_blocks": whole(1, 100),
        "attn_scales": list_of(number(0, 1024), 0, 16),
        "temperal_downsample": list_of(FLAG, 1, 16),
        "dropout": SHARE,
        "input_channels": whole(3, 3),
        "latents_mean": list_of(number(-1e4, 1e4), 1, 1024),
        "latents_std": list_of(number(1e-6, 1e4), 1, 1024),
    },
    WRITTEN,
)
_CHANNELS, _STATISTICS = 16, 16
"""What diffusers takes where a configuration says nothing: of latents, and how many means and deviations it has."""
_HALVINGS = 3
"""That make latents an eighth of the picture."""


def one_frame_kind(*classes: str) -> PartKind:
    """What the folder of such an autoencoder must hold.

    classes: of diffusers, as ``model_index.json`` may name them.
    """
    return PartKind(classes=classes, schema=_SCHEMA, odd=_odd)


def one_frame_channels(config: Mapping[str, Any]) -> int:
    """C of the latents of an autoencoder's configuration."""
    return int(config.get("z_dim", _CHANNELS))


def _odd(config: Mapping[str, Any]) -> str | None:
    widths, times = config.get("dim_mult", [1, 2, 4, 4]), config.get("temperal_downsample", [False, True, True])
    if len(times) != _HALVINGS:
        return f"temperal_downsample has {len(times)} entries (three make latents an eighth of the picture)"
    if len(widths) != len(times) + 1:
        return f"dim_mult has {len(widths)} entries and temperal_downsample {len(times)} (it has one more)"
    if (widest := config.get("base_dim", 96) * max(widths)) > WIDEST:
        return f"base_dim times dim_mult is {widest} ({WIDTH.says})"
    channels = one_frame_channels(config)
    for key in ("latents_mean", "latents_std"):
        if (count := len(config[key]) if key in config else _STATISTICS) != channels:
            return f"{key} has {count} entries and z_dim is {channels} (they are as many)"
    return None
