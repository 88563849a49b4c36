"""What may be asked: the three option classes that Python, the command line and ComfyUI make their inputs from.

A control exists here and nowhere else, with one default, one range and one sentence of help. The classes check each
value by itself and against the others in the same class; whether a named backend exists is the registry's to say.
"""

from __future__ import annotations

import difflib
import functools
import math
import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import attrs

from dit360_core.errors import InputError
from dit360_core.options import aliases

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
OFFLOADS = ("none", "text", "model", "group", "sequential", "disk")
EVICTIONS = ("none", "text", "all")
PRESETS = ("none", "auto", "low-vram", "balanced", "speed", "quality")
LORA_MODES = ("fuse", "adapter")
QUANTIZED = ("both", "transformer", "t5")
TIMESTEP_SCHEDULES = ("linear", "quadratic", "cosine")
CIRCULAR_MODES = ("pad", "bias")
TILING_MODES = ("auto", "always", "never")
TILING_LEVELS = ("auto", "stored", "mixed", "recomputed", "offloaded")

SIZE_STEP = 16
"""Pixels: the autoencoder's 8 times the transformer's 2×2 patches."""
LARGEST_STRENGTH = 2.0
"""Of a LoRA."""
MAX_SEED = 2**64 - 1
ENCODED = ("prompt", "negative_prompt", "prompt_prefix", "max_sequence_length")
"""Options of a picture that are used when its prompt is read."""


def option(
    default: Any = attrs.NOTHING,
    *,
    help: str,
    choices: tuple[str, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    step: int = 1,
    offers: str | None = None,
    unset: str | None = None,
    converter: Any = None,
    named: str | None = None,
    longest: int | None = None,
) -> Any:
    """An attrs field with its help and its limits, which are checked when the class is made.

    step: a positive number must be a multiple of it. offers: the kind of offer whose names the value is chosen from.
    unset: what ``None`` means, for the help. named: the kind under which :mod:`dit360_core.options.aliases` knows what
    others call the choices; that of ``offers``, if there is one. longest: characters of a text.
    """
    named = named or (offers if offers != "model" else None)
    if named is not None:
        converter = functools.partial(_our_name, named, choices or ())
    shown: dict[str, Any] = {
        "help": help,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "step": step,
        "offers": offers,
        "unset": unset,
        "named": named,
        "longest": longest,
    }
    return attrs.field(default=default, validator=_check, converter=converter, metadata=shown)


def _as_text(value: Any) -> Any:
    # vram=8 is as good as "8".
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}" if _is_finite(value) or isinstance(value, float) else "inf"
    return value


def _our_name(kind: str, choices: tuple[str, ...], value: Any) -> Any:
    return aliases.ours(kind, value, choices) if isinstance(value, str) else value


def _as_loras(value: Any) -> Any:
    """One LoRA or several: texts, paths, or pairs of a name and a strength, as texts ``FILE[:STRENGTH]``."""
    if value is None:
        return ()
    every = [value] if isinstance(value, str | os.PathLike) else value
    if not isinstance(every, list | tuple):
        return every
    return tuple(map(_as_lora, every))


def _as_lora(one: Any) -> Any:
    pair = isinstance(one, list | tuple) and len(one) == 2 and isinstance(one[0], str | os.PathLike)
    if pair and not (isinstance(one[1], int) and abs(one[1]) > 10**9):  # longer ones Python may refuse to write
        return f"{os.fspath(one[0])}:{one[1]}"
    return os.fspath(one) if isinstance(one, os.PathLike) else one


def flag(name: str) -> str:
    """The name of an option on the command line."""
    return "--" + name.replace("_", "-")


def _check(instance: Any, field: attrs.Attribute[Any], value: Any) -> None:
    limits = field.metadata
    if value is None:
        if field.default is None:
            return
        known = "" if field.default is attrs.NOTHING else f"; leave it out for its default, {field.default!r}"
        raise InputError(f"{field.name} must not be None{known}.")
    kind = _kind(field)
    if kind is tuple:
        if not isinstance(value, tuple) or not all(isinstance(text, str) and text.strip() for text in value):
            pairs = ", or of pairs of a file and a strength" if field.name == "lora" else ""
            raise InputError(
                f"{field.name} must be text, or a list of texts that are not empty{pairs}, not {_in_short(value):.80}."
            )
        return
    # bool is an int in Python, but nobody who writes steps=True means one step.
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind is float:
        right = isinstance(value, int | float) and not isinstance(value, bool)
    if not right:
        hint = decimal_hint(value) if kind is float else ""
        raise InputError(f"{field.name} must be {_KIND_NAMES[kind]}, not {_in_short(value)}{hint}.")
    if limits["longest"] is not None and len(value) > limits["longest"]:
        raise InputError(f"{field.name} has {len(value)} characters, but may have {limits['longest']}; shorten it.")
    if kind is float and not _is_finite(value):
        raise InputError(f"{field.name} must be a finite number, not {_in_short(value)}.")
    if limits["choices"] and value not in limits["choices"]:
        near = aliases.near(limits["named"] or "", value, limits["choices"])
        more = f"; {near.rstrip('?.')}" if near else ""
        raise InputError(
            f"{field.name} is {value!r}, but must be one of: {', '.join(limits['choices'])}{more}"
            f"{'?' if near.endswith('?') else '.'}"
        )
    low, high = limits["minimum"], limits["maximum"]
    if (low is not None and value < low) or (high is not None and value > high):
        reach = f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} … {high}"
        shown = _in_short(value) if isinstance(value, int) else value
        raise InputError(f"{field.name} is {shown}, but must be {reach}.")
    if limits["step"] > 1 and value > 0 and value % limits["step"]:
        near = max(limits["step"], round(value / limits["step"]) * limits["step"])
        raise InputError(f"{field.name} is {value}, but must be a multiple of {limits['step']}; take {near}.")


def decimal_hint(value: object) -> str:
    """The tail of a sentence about what is no number: for one that has a decimal comma, how it is written here."""
    number = r"\s*[+-]?(\d{0,15}|\d{1,3}([. \u00a0\u202f']\d{3}){1,4}),\d{1,15}\s*"
    if not isinstance(value, str) or not re.fullmatch(number, value):
        return ""
    return f"; write it with a decimal point: {re.sub('[^0-9,+-]', '', value).replace(',', '.')}"


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of over 308 digits
        return False


def _in_short(value: object) -> str:
    """A number as a sentence may quote it. Python writes no number of over 4300 digits."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"a whole number of {'about ' if value.bit_length() > 10**4 else ''}{_digits(abs(value))} digits"
    try:
        return repr(value)
    except ValueError:
        return f"a {type(value).__name__} of such numbers"


def _digits(value: int) -> int:
    if value.bit_length() > 10**4:
        return int(value.bit_length() * math.log10(2)) + 1
    return len(str(value))


def _kind(field: attrs.Attribute[Any]) -> type:
    written = str(field.type).replace("| None", "").strip()
    return {"str": str, "int": int, "float": float, "bool": bool, "tuple[str, ...]": tuple}[written]


_KIND_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "True or False"}


@attrs.frozen(kw_only=True)
class LoadOptions:
    """What is decided once, when a model is loaded."""

    model: str = option("tiny", help="Model: a known name, a diffusers folder, or a Hub id.", offers="model")
    lora: tuple[str, ...] = option(
        (),
        help="LoRA to apply beside the model's own: FILE[:STRENGTH], where FILE is a safetensors file, a folder, or a "
        "Hub id; may be given several times.",
        unset="none",
        converter=_as_loras,
    )
    lora_strength: float = option(
        1.0,
        help="Strength of LoRAs that are given without one, and of the model's own if no other is given.",
        minimum=-LARGEST_STRENGTH,
        maximum=LARGEST_STRENGTH,
    )
    model_lora: bool = option(True, help="Apply the LoRA that belongs to the model, if it has one.")
    lora_mode: str = option(
        "fuse",
        help="Add LoRAs to the weights (fuse: costs nothing) or keep them beside (adapter: strengths can change).",
        choices=LORA_MODES,
        named="lora_mode",
    )
    vae: str | None = option(
        None,
        help="Autoencoder instead of the model's own: a diffusers folder, a safetensors file, or a Hub id.",
        unset="the model's",
    )
    t5: str | None = option(
        None,
        help="T5 text encoder instead of the model's own: a diffusers folder, a safetensors file, or a Hub id.",
        unset="the model's",
    )
    precision: str = option(
        "auto", help="Numbers to compute with; auto takes what is fast here.", choices=PRECISIONS, named="precision"
    )
    device: str = option("auto", help="Where to compute.", choices=DEVICES, named="device")
    offload: str = option(
        "none",
        help="Where weights wait: on the device (none), or in system memory: the text encoder only (text), whole parts "
        "(model), blocks that come while others compute (group), layers (sequential; slow); disk: blocks, in files.",
        choices=OFFLOADS,
        named="offload",
    )
    evict: str = option(
        "none",
        help="What to drop after use and read again when needed: text (the text encoder), or all (one part at a time).",
        choices=EVICTIONS,
        named="evict",
    )
    compile_blocks: bool = option(
        False, help="Compile the transformer's blocks (torch.compile): slower start, faster steps."
    )
    vram: str | None = option(
        None,
        help="Memory to keep to, in GiB (8, 12, 16, 24, 48), or auto for what is free: decides offload, quantization, "
        "eviction and slices where those are not set to anything.",
        unset="no limit",
        converter=_as_text,
    )
    ram: str | None = option(
        None,
        help="System memory to keep to, in GiB (16, 32, 64), or auto for what is free: decides as vram does. With a "
        "device of its own memory, that is for weights that wait; else, for everything.",
        unset="no limit",
        converter=_as_text,
    )
    preset: str = option(
        "none",
        help="What to decide by: quality (never changes the picture), balanced, speed or low-vram; auto is balanced.",
        choices=PRESETS,
        named="preset",
    )
    attention_backend: str = option("auto", help="Attention kernel; see 'dit360 backends'.", offers="attention")
    attention_slice_size: int = option(
        0,
        help="Query rows per attention call; less memory with eager attention. 0: all at once.",
        minimum=0,
        maximum=65536,
    )
    quantization_mode: str = option(
        "none",
        help="Store weights in fewer bits; see 'dit360 backends'. auto: as few as needed to fit into memory.",
        offers="quantization",
    )
    quantization_parts: str = option(
        "both",
        help="What is quantized: both, or only the transformer or the text encoder t5.",
        choices=QUANTIZED,
        named="parts",
    )
    quantization_skip: str = option(
        "", help="Layers to leave in full precision besides embedders and the final projection: patterns, by commas."
    )
    vae_tile_size: int = option(
        1536, help="Largest side of a tile of the autoencoder, in pixels.", minimum=512, maximum=8192, step=64
    )
    vae_tile_overlap: int = option(
        128,
        help="Pixels by which tiles overlap; only for blended tiles, of which it is at most half.",
        minimum=0,
        maximum=1024,
        step=16,
    )
    vae_auto_tile_pixels: int = option(
        16777216,
        help="Pixels above which tiling_mode=auto cuts even if memory suffices. 0: no such limit.",
        minimum=0,
        maximum=268435456,
    )
    strict: bool = option(False, help="Fail instead of falling back to another attention kernel.")

    def __attrs_post_init__(self) -> None:
        for name in ("vram", "ram"):
            if (given := getattr(self, name)) is not None:
                budget_of(given, name)

    @property
    def bounded(self) -> bool:
        """Whether something is to be decided by memory: by ``vram``, ``ram`` or ``preset``."""
        return self.vram is not None or self.ram is not None or self.preset != "none"


@attrs.frozen(kw_only=True)
class SampleOptions:
    """What is decided for one picture. ``None`` means the model's own default."""

    prompt: str = option(help="What the panorama shows.")
    negative_prompt: str | None = option(None, help="What it must not show; needs true_guidance above 1.", unset="none")
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
        help="How closely to follow the prompt (embedded guidance).",
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
    scheduler_type: str = option("flow_match", help="Solver; see 'dit360 backends'.", offers="scheduler")
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
    cube_consistency: float = option(
        0.0,
        help="How far rows near the poles are kept as smooth as their circles are small: no rays. 0: off.",
        minimum=0.0,
        maximum=1.0,
    )
    denoise: float = option(
        1.0,
        help="How much of a given picture is made anew, in the steps asked for: 0 none of it, 1 all.",
        minimum=0.0,
        maximum=1.0,
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
        if self.negative_prompt and self.true_guidance <= 1:
            raise InputError(
                "negative_prompt has no effect while true_guidance is 1; set true_guidance above 1 (4 is usual) "
                "or leave the negative prompt out."
            )
        if 0.0 < self.denoise < 0.01:
            raise InputError(f"denoise is {self.denoise:g}, but must be 0, or 0.01 … 1.")
        check_size(self.width, self.height)


@attrs.frozen(kw_only=True)
class DecodeOptions:
    """What is decided when latents become a picture, or a picture latents."""

    tiling_mode: str = option(
        "auto",
        help="Run the autoencoder in tiles: always, never (one piece whatever the size), or auto (as size and memory "
        "ask).",
        choices=TILING_MODES,
        named="tiling_mode",
    )
    tiling_backend: str = option("auto", help="How tiles are made; see 'dit360 backends'.", offers="tiling")
    tiling_level: str = option(
        "auto",
        help="Exact tiles from fast to small: stored, mixed, recomputed; offloaded keeps them in system memory.",
        choices=TILING_LEVELS,
        named="level",
    )
    tile_size_override: int = option(
        0, help="Largest side of a tile, for this picture only. 0: as loaded.", minimum=0, maximum=8192, step=64
    )
    tile_overlap_override: int = option(
        -1,
        help="Pixels by which tiles overlap, for this picture only. -1: as loaded.",
        minimum=-1,
        maximum=1024,
        step=16,
    )
    max_tile_pixels_override: int = option(
        -1,
        help="Pixels above which auto cuts anyhow, for this picture only. -1: as loaded; 0: no such limit.",
        minimum=-1,
        maximum=268435456,
    )

    def __attrs_post_init__(self) -> None:
        if self.tiling_mode == "never" and self.tiling_level != "auto":
            raise InputError(
                f"tiling_level={self.tiling_level} has no effect with tiling_mode=never, which makes one piece; use "
                "tiling_mode=auto or leave the level out."
            )


def budget_of(given: str, name: str = "vram") -> int | None:
    """Bytes of a value of ``vram`` or ``ram``, None for ``auto``. Raises InputError for what is neither."""
    if given.strip().lower() == "auto":
        return None
    try:
        size = float(given.strip().lower().removesuffix("gib").removesuffix("gb").removesuffix("g"))
    except ValueError:
        size = math.nan
    if not 0.5 <= size <= 4096:
        raise InputError(
            f"{name} is {given!r}, but must be auto, or GiB from 0.5 to 4096, such as 8, 12, 16, 24 or 48."
        )
    return int(size * 2**30)


def check_size(width: int | None, height: int | None) -> None:
    """Raises InputError unless the size is 2:1 in multiples of 16, naming a size near it that is."""
    if width is None and height is None:
        return
    wide = width if width is not None else 2 * (height or 0)
    high = height if height is not None else wide // 2
    if wide != 2 * high or high % SIZE_STEP:
        near = max(SIZE_STEP, round(wide / 2 / SIZE_STEP) * SIZE_STEP)
        asked = f"{wide}×{high}" if height is not None else f"width {wide}"
        raise InputError(
            f"The size {asked} cannot be made: a panorama is twice as wide as high and both are multiples of "
            f"{SIZE_STEP}; take {2 * near}×{near}."
        )


OptionClass = TypeVar("OptionClass", LoadOptions, SampleOptions, DecodeOptions)


def build(cls: type[OptionClass], given: Mapping[str, Any], *, beside: type[Any] | None = None) -> OptionClass:
    """Makes an option object from names and values; an unknown name is an InputError with the nearest names.

    beside: another option class whose names the caller takes too, and that may have been meant.
    """
    known = [field.name for field in attrs.fields(cls)]
    for name in given:
        if name not in known:
            others = [field.name for field in attrs.fields(beside)] if beside else []
            near = difflib.get_close_matches(name, known + others, n=3)
            raise InputError(f"There is no option {name!r}; {nearest(near)}")
    return cls(**given)


def chosen(options: Any, *leave_out: str) -> dict[str, Any]:
    """The options that differ from their defaults: what somebody really asked for."""
    return attrs.asdict(options, filter=lambda field, value: value != field.default and field.name not in leave_out)


def nearest(names: list[str]) -> str:
    """The tail of an 'unknown name' sentence."""
    return f"did you mean {' or '.join(names)}?" if names else "see the documentation for the names"
