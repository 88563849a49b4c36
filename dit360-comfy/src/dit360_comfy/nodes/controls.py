"""Inputs that the sampler and the node that makes a part anew have in common, and the core's options for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dit360_core.options import EditOptions, SampleOptions, build
from dit360_core.options.subjects import USUAL
from dit360_core.planning.checks import check_honoured
from dit360_core.plugins.registry import default_registry

from dit360_comfy.inputs import Control, Spec, asked, specs

FREE = ("scheduler_type", "attention_backend")
"""Drop-downs that take other values than those they list, as :class:`~dit360_comfy.nodes.base.Node` has it."""
WORDS = {
    "guidance": "cfg_scale", "yaw_consistency": "yaw_loss_weight", "cube_consistency": "cube_loss_weight",
}  # fmt: skip
"""What the nodes call options of the core, for the same."""
SEED = Control(
    options=SampleOptions, option="seed",
    settings={"default": 0, "control_after_generate": True}, tooltip="Same seed, same picture. A batch counts up.",
)  # fmt: skip
PADDING = Control(options=SampleOptions, option="circular_padding", unset=-1)
SOLVING = (
    Control(options=SampleOptions, option="scheduler_type"),
    Control(options=SampleOptions, option="timestep_schedule"),
    Control(options=SampleOptions, option="scheduler_eta"),
    Control(options=SampleOptions, option="attention_backend"),
    Control(options=SampleOptions, option="attention_slice_size"),
    Control(options=SampleOptions, option="log_memory_stats"),
    Control(options=SampleOptions, option="true_guidance", settings={"step": 0.1}),
    Control(options=SampleOptions, option="circular_mode"),
    Control(options=SampleOptions, option="latent_rotation"),
    Control(options=SampleOptions, option="position_interpolation"),
    Control(options=SampleOptions, option="windows"),
    Control(options=SampleOptions, option="window_positions"),
)
REFERENCE = Control(
    options=EditOptions, option="reference",
    tooltip="Whether a model that can be shown pictures, such as FLUX.2, sees what is kept, on a green ground, and is "
    "told what to do with it. Takes more memory and time. Other models take no notice.",
)  # fmt: skip
ADVANCED = tuple(control.name for control in (*SOLVING, REFERENCE) if control.option not in USUAL)
"""Inputs that ComfyUI shows when all are asked for, as the command line's help does."""
_YAW = Control(
    options=SampleOptions, option="yaw_consistency", name="yaw_loss_weight", settings={"default": 0.1, "step": 0.01},
    tooltip="If enable_yaw_loss is on: how far the model's view of the panorama and of it turned round are "
    "reconciled. Twice the work.",
)  # fmt: skip
_CUBE = Control(
    options=SampleOptions, option="cube_consistency", name="cube_loss_weight", settings={"default": 0.1, "step": 0.01},
    tooltip="If enable_cube_loss is on: how far rows near the poles are kept as smooth as their circles are small.",
)  # fmt: skip
CONSISTENCY: dict[str, Spec] = {
    "enable_yaw_loss": ("BOOLEAN", {
        "default": False,
        "tooltip": "Try it where the way round does not look like one place: reconciles views of the "
        "model, by yaw_loss_weight. Twice the work.",
    }),
    **specs([_YAW]),
    "enable_cube_loss": ("BOOLEAN", {
        "default": False,
        "tooltip": "Try it where rays run to the top or the bottom: smooths rows near the poles, by "
        "cube_loss_weight. Costs no time.",
    }),
    **specs([_CUBE]),
}  # fmt: skip


def steps(most: int) -> Control:
    """most: of the node; workflows that exist know no more."""
    return Control(options=SampleOptions, option="steps", unset=0, settings={"max": most})


def guidance() -> Control:
    """By the name that workflows know."""
    return Control(
        options=SampleOptions, option="guidance", name="cfg_scale", unset=-1.0, settings={"step": 0.1},
        tooltip="How closely to follow the prompt (2.8 for DiT360). One that the conditioning brings, as of "
        "FluxGuidance, is used instead in models that embed it. -1: the model's.",
    )  # fmt: skip


_SHARED = (steps(0), guidance(), SEED, PADDING, *SOLVING)


def sample_options(given: Mapping[str, Any], controls: Sequence[Control]) -> dict[str, Any]:
    """The core's options for the inputs of a node; what is left to the model is left out.

    controls: of the node, beside those here.

    Raises InputError.
    """
    found = asked((*controls, *_SHARED), given)
    for switch, control in (("enable_yaw_loss", _YAW), ("enable_cube_loss", _CUBE)):
        if given.get(switch):
            found |= asked([control], {control.name: given.get(control.name, control.spec()[1]["default"])})
    return found


def check_sampling(options: Mapping[str, Any]) -> None:
    """What can be wrong with them before anything is loaded.

    options: of :func:`sample_options`.

    Raises InputError, and what an attention backend that is not there raises.
    """
    asked_for = build(SampleOptions, {"prompt": "any", **options})
    check_honoured(asked_for, default_registry())
    if asked_for.attention_backend not in ("pipeline", "auto"):
        default_registry().find("attention", asked_for.attention_backend)
