"""ComfyUI's CONDITIONING and the core's, which differ in form and not in content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit360_core.errors import InputError
from dit360_core.models.embedding import Embedding
from dit360_core.pipeline.stages import Conditioning

from dit360_comfy import host
from dit360_comfy.kept import kept_conditioning
from dit360_comfy.settings import ride, riding

_NEUTRAL = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
"""What some nodes write where nothing was asked."""
_FILL = ("concat_latent_image", "concat_mask")
"""What ComfyUI's Inpaint Model Conditioning adds, for models that fill; others take no notice of it."""
_READ = ("pooled_output", "guidance", *_FILL)
_CALLED = {
    "area": "an area", "mask": "a mask", "strength": "a strength", "start_percent": "a time range",
    "end_percent": "a time range", "control": "a control net", "hooks": "hooks",
}  # fmt: skip
UNKNOWN = "(of another node)"
"""Stands for the prompt of a conditioning that carries none."""


def conditioning_of(read: Conditioning) -> list[list[Any]]:
    """``[[tokens (1, T, …), {"pooled_output": (1, dim), …}]]``, fp32 on the CPU; no pooled_output in a family that has
    none.

    The words themselves, and the negative prompt, ride on the tensor of tokens.
    """
    told = {
        "prompt": read.prompt,
        "negative_prompt": read.negative_prompt,
        "negative": None if read.negative is None else _plain(read.negative),
    }
    tokens, pooled = _plain(read.positive)
    return kept_conditioning(ride(tokens, told), {} if pooled is None else {"pooled_output": pooled})


def conditioning_from(
    given: Any, *, device: Any, dtype: Any, negative: Any = None
) -> tuple[Conditioning, float | None]:
    """The core's conditioning of one or more of ComfyUI's, and the guidance that a node such as FluxGuidance set.

    device, dtype: of the model.
    negative: another CONDITIONING, instead of the negative prompt that rides along.

    Raises InputError for what the panorama sampler does not do: areas, masks, time ranges, control nets.
    """
    entries = _entries(given, "conditioning")
    told = [riding(tokens) or {} for tokens, _ in entries]
    embeddings = [_embedding(tokens, settings, device, dtype) for tokens, settings in entries]
    if negative is not None:
        opposed = _entries(negative, "negative")
        if len(opposed) > 1:
            raise InputError("negative combines several prompts; connect one, or concatenate them.")
        ((tokens, settings),) = opposed
        against = [_embedding(tokens, settings, device, dtype)]
        words = (riding(tokens) or {}).get("prompt") or UNKNOWN
    else:
        own = told[0].get("negative")
        against = [] if own is None else [_embedded(own[0], own[1], device, dtype)]
        words = told[0].get("negative_prompt")
    guidances = {float(settings["guidance"]) for _, settings in entries if settings.get("guidance") is not None}
    if len(guidances) > 1:
        raise InputError(f"The combined prompts ask for the guidances {sorted(guidances)}; set one of them.")
    prompts = list(dict.fromkeys(one.get("prompt") or UNKNOWN for one in told))
    return Conditioning(
        prompt=" + ".join(prompts),
        negative_prompt=words if against else None,
        positive=embeddings[0],
        negative=against[0] if against else None,
        max_sequence_length=max(int(embedding.tokens.shape[1]) for embedding in embeddings),
        others=tuple(embeddings[1:]),
    ), next(iter(guidances), None)


def prompts_of(given: Any) -> tuple[str | None, ...]:
    """The words of each prompt of a CONDITIONING; None for one that another node read."""
    return tuple((riding(tokens) or {}).get("prompt") for tokens, _ in given)


def to_fill(given: Any) -> tuple[Any, Any] | None:
    """The latents of a picture with a hole, as the autoencoder has them, and the mask, of Inpaint Model Conditioning.

    given: a CONDITIONING. None: it has none.
    """
    for _, settings in given:
        found = tuple(settings.get(name) for name in _FILL)
        if found[0] is not None and found[1] is not None:
            return found[0], found[1]
    return None


def _entries(given: Any, name: str) -> list[tuple[Any, Mapping[str, Any]]]:
    if not given:
        raise InputError(f"{name} is empty; connect a DiT360 Text Encode, or another text encoder for this model.")
    for tokens, settings in given:
        asked = sorted(key for key, value in settings.items() if key not in _READ and not _nothing(key, value))
        if asked:
            told = " and ".join(dict.fromkeys(_CALLED.get(key, key) for key in asked))
            raise InputError(
                f"{name} has {told}, which DiT360 Sampler does not do; leave that node out, or use ComfyUI's KSampler "
                "with DiT360 Circular Padding."
            )
        if tokens.shape[0] != 1:
            raise InputError(f"{name} is a batch of {tokens.shape[0]} prompts; DiT360 Sampler takes one at a time.")
    return [(tokens, settings) for tokens, settings in given]


def _nothing(key: str, value: Any) -> bool:
    """Whether it asks for nothing."""
    if isinstance(value, bool) or value is None:
        return not value
    return key in _NEUTRAL and isinstance(value, int | float) and value == _NEUTRAL[key]


def _embedding(tokens: Any, settings: Mapping[str, Any], device: Any, dtype: Any) -> Embedding:
    # A family that reads such a vector says itself where it is missing, and others have none.
    return _embedded(tokens, settings.get("pooled_output"), device, dtype)


def moved(embedding: Embedding | None, device: Any, dtype: Any) -> Embedding | None:
    """An embedding of one model where another wants it."""
    return None if embedding is None else embedding_at(embedding, device, dtype)


def embedding_at(embedding: Embedding, device: Any, dtype: Any) -> Embedding:
    """As :func:`moved`."""
    return _embedded(embedding.tokens, embedding.pooled, device, dtype)


def _embedded(tokens: Any, pooled: Any, device: Any, dtype: Any) -> Embedding:
    pooled = None if pooled is None else host.plain(pooled).to(device, dtype)
    return Embedding(tokens=host.plain(tokens).to(device, dtype), pooled=pooled)


def _plain(embedding: Embedding) -> tuple[Any, Any]:
    return host.plain(embedding.tokens), None if embedding.pooled is None else host.plain(embedding.pooled)
