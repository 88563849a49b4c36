"""Requests in the shape of OpenAI's images endpoints, so that clients that exist for those work here."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping
from typing import Any

import attrs
from PIL import Image, ImageOps

from dit360_core.errors import InputError, named
from dit360_core.options import MAX_SEED, OF_A_PICTURE, options_of
from dit360_core.panorama.formats import Saving
from dit360_core.panorama.opening import check_pixels
from dit360_core.serving.wanted import Upload, Wanted

MOST_AT_ONCE = 10
"""Pictures of one request."""
_OF_THEIRS = ("model", "prompt", "n", "size", "output_format", "output_compression", "response_format")
UNUSED = (
    "background", "input_fidelity", "moderation", "partial_images", "quality", "stream", "style", "user",
)  # fmt: skip
"""Parameters of OpenAI's that mean nothing here. The answer tells which of them were given."""
THEIR_MODELS = ("gpt-image-1", "gpt-image-1-mini", "gpt-image-1.5", "dall-e-2", "dall-e-3")
"""Names that programs have built in, for which the model that is loaded stands in."""
_THEIR_SIZES = frozenset({"256x256", "512x512", "1024x1024", "1536x1024", "1024x1536", "1792x1024", "1024x1792"})
"""Sizes that programs have built in. A panorama is as wide as their longer side, and half as high."""
_FORMATS = {"png": ".png", "jpeg": ".jpg", "jpg": ".jpg", "webp": ".webp"}


@attrs.frozen(kw_only=True)
class Asked:
    """What a client asked for.

    wanted: one for each picture.
    ignored: parameters that were given and mean nothing here.
    """

    wanted: tuple[Wanted, ...]
    ignored: tuple[str, ...] = ()


class UnknownModel(InputError):
    """Another model is asked for than there is."""


def asked_of(told: Any, models: tuple[str, ...], files: Mapping[str, Upload] | None = None) -> Asked:
    """The pictures that a request asks for.

    told: its parameters; beside OpenAI's they may be options of a picture, such as seed and steps.
    models: names by which the model that is loaded may be asked for.
    files: of an edit.

    Raises InputError.
    """
    if not isinstance(told, Mapping):
        raise InputError("the request is no JSON object.")
    told = {name: value for name, value in told.items() if value is not None}
    known = {name for cls in OF_A_PICTURE for name in options_of(cls)}
    unknown = sorted(set(told) - known - {*_OF_THEIRS, *UNUSED})
    if unknown:
        raise InputError(f"there is no parameter {unknown[0]!r:.80}.")
    if told.get("stream"):
        raise InputError("stream is not supported; ask without it.")
    model = told.get("model", models[0])
    if not isinstance(model, str) or model not in (*models, *THEIR_MODELS):
        raise UnknownModel(f"the model {model!r:.80} is not loaded; this server has {models[0]}.")
    count = _number(told.get("n", 1), "n", 1, MOST_AT_ONCE)
    if told.get("response_format", "b64_json") != "b64_json":
        raise InputError(f"response_format is {told['response_format']!r:.40}, but must be b64_json.")
    form = told.get("output_format", "png")
    if not isinstance(form, str) or form not in _FORMATS:
        raise InputError(f"output_format is {form!r:.40}, but must be one of: png, jpeg, webp.")
    quality = _number(told.get("output_compression", 95), "output_compression", 1, 100)
    options = {name: told[name] for name in known & set(told)} | _size(told.get("size", "auto"))
    given = dict(files or {})
    if "image" in given and "mask" not in given:
        options.setdefault("denoise", 0.6)
    seed = options.pop("seed", None)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED):
        raise InputError(f"{named('seed')} is {seed!r:.40}, but must be a whole number, 0 … {MAX_SEED}.")
    wanted = tuple(
        Wanted(
            options={**options, **({} if seed is None else {"seed": (seed + number) % (MAX_SEED + 1)})},
            files=given,
            format=_FORMATS[form],
            saving=Saving(quality=quality),
        )
        for number in range(count)
    )
    return Asked(wanted=wanted, ignored=tuple(name for name in UNUSED if name in told))


def plain_values(form: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of a form, in which everything is text, as JSON would have them."""
    kinds = {name: option.kind for cls in OF_A_PICTURE for name, option in options_of(cls).items()}
    kinds |= {"n": int, "output_compression": int, "stream": bool}
    found: dict[str, Any] = {}
    for name, text in form.items():
        kind = kinds.get(name, str)
        try:
            if kind is bool:
                found[name] = {"true": True, "false": False}[text.lower()]
            else:
                found[name] = kind(text) if kind in (int, float) else text
        except (KeyError, ValueError):
            raise InputError(f"{named(name)} is {text!r:.40}, which is no {kind.__name__}.") from None
    return found


def edit_files(pictures: list[Upload], mask: Upload | None) -> dict[str, Upload]:
    """What an edit is made from. Raises InputError for more than one picture, and for what is none."""
    if len(pictures) != 1:
        raise InputError(f"an edit takes one image, not {len(pictures)}; give photos to dit360's own API.")
    files = {"image": pictures[0]}
    if mask is not None:
        files["mask"] = attrs.evolve(mask, data=_as_ours(mask.data), ending=".png")
    return files


def answered(
    pictures: list[bytes], seeds: list[int], asked: Asked, *, model: str, size: tuple[int, int]
) -> dict[str, Any]:
    """The answer, with what was used, and what was not used of the request.

    seeds: of the pictures.
    model: that made them; size: theirs in pixels.
    """
    told: dict[str, Any] = {"seeds": seeds, "model": model}
    if asked.ignored:
        told["ignored"] = list(asked.ignored)
    return {
        "created": int(time.time()),
        "data": [{"b64_json": base64.b64encode(picture).decode()} for picture in pictures],
        "output_format": {".jpg": "jpeg"}.get(asked.wanted[0].format, asked.wanted[0].format[1:]),
        "size": f"{size[0]}x{size[1]}",
        "dit360": told,
    }


def error(message: str, *, kind: str = "invalid_request_error", code: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _as_ours(data: bytes) -> bytes:
    """OpenAI's mask is transparent where the picture is made anew, ours is white. One without transparency is ours."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            check_pixels(picture.size, "the mask has")
            picture.load()
            if not picture.has_transparency_data:
                return data
            made = ImageOps.invert(picture.convert("RGBA").getchannel("A"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise InputError("the mask is no picture that can be read.") from None
    buffer = io.BytesIO()
    made.save(buffer, "PNG")
    return buffer.getvalue()


def _size(text: Any) -> dict[str, int]:
    if text == "auto":
        return {}
    sides = str(text).lower().split("x")
    if str(text) in _THEIR_SIZES:
        width = max(map(int, sides))
        return {"width": width, "height": width // 2}
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() and len(side) < 6 for side in sides):
        raise InputError(f"size is {text!r:.40}, but must be auto, or such as 2048x1024.")
    return {"width": int(sides[0]), "height": int(sides[1])}


def _number(value: Any, name: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{name} is {value!r:.40}, but must be a whole number, {least} … {most}.")
    return value
