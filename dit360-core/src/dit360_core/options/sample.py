"""What is decided for one picture."""

from __future__ import annotations

from typing import Any

import attrs

from dit360_core.errors import InputError, named, remedy
from dit360_core.options.choices import CIRCULAR_MODES, TIMESTEP_SCHEDULES, WINDOW_POSITIONS
from dit360_core.options.declaring import option
from dit360_core.options.sizes import SIZE_STEP, check_size

LEAST = 4
"""Tokens to a side of the smallest window."""
MAX_SEED = 2**64 - 1
ENCODED = ("prompt", "negative_prompt", "prompt_prefix", "max_sequence_length")
"""Options of a picture that are used when its prompt is read."""


def _windows(given: Any) -> Any:
    """``auto``, ``never``, or ``WIDTHxHEIGHT`` in the one way that it is written here."""
    if not isinstance(given, str):
        return given
    text = given.strip().lower().replace("×", "x")
    text = {"none": "never", "no": "never", "off": "never"}.get(text, text)
    if text not in ("auto", "never"):
        window_size(text)
    return text


def window_size(text: str) -> tuple[int, int]:
    """(width, height) in pixels of windows.

    text: ``WIDTHxHEIGHT``.

    Raises InputError if it is something else.
    """
    sides = text.split("x")
    numbers = [int(side) for side in sides if side.isascii() and side.isdigit() and len(side) < 6]
    if len(sides) != 2 or len(numbers) != 2:
        raise InputError(
            f"{named('windows')} is {text[:40]!r}, but must be auto, never, or WIDTHxHEIGHT in pixels, such as "
            "1024x1024."
        )
    if any(side % SIZE_STEP or side < LEAST * SIZE_STEP for side in numbers):
        raise InputError(
            f"{named('windows')} is {text}, but both sides must be multiples of {SIZE_STEP}, from "
            f"{LEAST * SIZE_STEP} on."
        )
    return numbers[0], numbers[1]


@attrs.frozen(kw_only=True)
class SampleOptions:
    """What is decided for one picture. ``None`` means the model's own default."""

    prompt: str = option(help="What the panorama shows.")
    negative_prompt: str | None = option(
        None,
        help=f"What it must not show; needs {named('true_guidance')} above 1, or a model whose guidance is that.",
        unset="the model's",
    )
    prompt_prefix: str | None = option(
        None, help="Text to put before the prompt, which may be empty: nothing then.", unset="the model's", longest=1000
    )
    width: int | None = option(
        None,
        help="Width in pixels: twice the height, a multiple of 16.",
        minimum=32,
        maximum=16384,
        unset="the model's",
    )
    height: int | None = option(
        None, help="Height in pixels: half the width, a multiple of 16.", minimum=16, maximum=8192, unset="the model's"
    )
    steps: int | None = option(None, help="Sampling steps.", minimum=1, maximum=1000, unset="the model's")
    guidance: float | None = option(
        None,
        help="How closely to follow the prompt, as the model has it (embedded, or against the negative prompt).",
        minimum=0.0,
        maximum=100.0,
        unset="the model's",
    )
    true_guidance: float = option(
        1.0,
        help="Classifier-free guidance against the negative prompt: twice the work. 1: off.",
        minimum=1.0,
        maximum=100.0,
    )
    seed: int | None = option(
        None, help="Same seed, same picture.", minimum=0, maximum=MAX_SEED, unset="drawn, and told"
    )
    circular_padding: int | None = option(
        None,
        help="Columns of tokens (16 pixels) copied over either edge, so that the other side is seen there. 0: none.",
        minimum=0,
        maximum=100,
        unset="the model's",
    )
    circular_mode: str = option(
        "pad",
        help="Wrap by pad (copies of columns) or bias (weights on them: the same picture for less work, where the "
        "attention kernel takes them).",
        choices=CIRCULAR_MODES,
        named="circular",
    )
    latent_rotation: bool | None = option(
        None,
        help="Turn the longitude at every step, so that no column is an edge twice; hides a meridian that shows.",
        unset="the model's",
    )
    position_interpolation: bool | None = option(
        None,
        help="At other sizes than the model's own, number positions as at that one, so that a direction keeps its "
        "number.",
        unset="the model's",
    )
    scheduler_type: str = option("flow_match", help=f"Solver; {remedy('see_backends')}.", offers="scheduler")
    timestep_schedule: str = option(
        "linear", help="Spacing of the noise levels.", choices=TIMESTEP_SCHEDULES, named="schedule"
    )
    scheduler_eta: float = option(
        0.0, help="Share of fresh noise per step, for solvers that take it (ddim).", minimum=0.0, maximum=1.0
    )
    yaw_consistency: float = option(
        0.0,
        help="How far the model's view of the panorama and of it turned round are reconciled: twice the work. 0: off.",
        minimum=0.0,
        maximum=1.0,
    )
    cube_consistency: float | None = option(
        None,
        help="How far rows near the poles are kept as smooth as their circles are small: no rays. 0: off.",
        minimum=0.0,
        maximum=1.0,
        unset="the model's",
    )
    denoise: float = option(
        1.0,
        help="How much of a given picture is made anew: 0 none of it, 1 all.",
        minimum=0.0,
        maximum=1.0,
    )
    windows: str = option(
        "never",
        help="See the picture in windows of WIDTHxHEIGHT pixels that are averaged at every step: memory is a window's, "
        "and time grows with the picture's area. auto: of the model's own size, where the picture is larger.",
        converter=_windows,
    )
    window_positions: str = option(
        "whole",
        help="What the model is told of where a window lies: its place in the whole, or nothing (own).",
        choices=WINDOW_POSITIONS,
    )
    attention_backend: str = option(
        "pipeline", help="Attention kernel for this picture only; pipeline: the loaded one.", offers="attention"
    )
    attention_slice_size: int = option(
        -1, help="Query rows per attention call for this picture only. -1: as loaded.", minimum=-1, maximum=65536
    )
    log_memory_stats: bool = option(
        False, help="Measure memory and time of each phase, and tell them beside the prediction."
    )
    max_sequence_length: int | None = option(
        None, help="Tokens that the prompt is padded or cut to.", minimum=1, maximum=1024, unset="the model's"
    )

    def __attrs_post_init__(self) -> None:
        for name, text in (("prompt", self.prompt), ("prompt", self.negative_prompt), ("prefix", self.prompt_prefix)):
            try:
                (text or "").encode()
            except UnicodeEncodeError as error:
                raise InputError(f"The {name} holds bytes that are no text in UTF-8; type it anew.") from error
        if not self.prompt.strip():
            raise InputError("The prompt is empty; say what the panorama shows, such as 'a castle at sunset'.")
        if 0.0 < self.denoise < 0.01:
            raise InputError(f"{named('denoise')} is {self.denoise:g}, but must be 0, or 0.01 … 1.")
        check_size(self.width, self.height)
