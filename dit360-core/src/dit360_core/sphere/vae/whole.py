"""Autoencoding in one piece, circular: by an autoencoder's steps if it is run by these, else by a twin that wraps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from dit360_core.sphere.vae.bands import ConvolutionStream, Moments, normalizer
from dit360_core.sphere.vae.causal import is_causal
from dit360_core.sphere.vae.circular import circular_twin
from dit360_core.sphere.vae.exact import weights_at_hand
from dit360_core.sphere.vae.sizes import mean_of
from dit360_core.sphere.vae.steps import Attention, CannotTakeApart, Convolution, Norm, Step, TellsSteps
from dit360_core.sphere.vae.structure import decoder_steps, encoder_steps
from dit360_core.system.memory import give_back_freed_memory

LARGE = 2**21
"""Bytes of what a step makes from which on freed memory is given back after it."""


def decode_whole(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Circular decode in one piece. latents ``(B, C, h, w)`` → pixels ``(B, 3, 8h, 8w)``, about −1 … 1."""
    return whole_decoder(vae)(latents)


def whole_decoder(vae: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """:func:`decode_whole` of an autoencoder, for many calls."""
    steps = _run_by(vae, decoder_steps)
    twin: Any = circular_twin(vae) if steps is None else None

    def decode(latents: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            if steps is None:
                return twin.decode(latents, return_dict=False)[0]  # type: ignore[no-any-return]
            return run_whole(vae, steps, latents)

    return decode


def encode_whole(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Circular encode in one piece: the mean of the posterior. pixels ``(B, 3, 8h, 8w)`` → ``(B, C, h, w)``."""
    steps = _run_by(vae, encoder_steps)
    with torch.no_grad():
        if steps is not None:
            return mean_of(vae, run_whole(vae, steps, pixels))
        posterior = circular_twin(vae).encode(pixels, return_dict=False)[0]  # type: ignore[operator]
        return posterior.mode()  # type: ignore[no-any-return]


def is_run_by_steps(vae: Any) -> bool:
    """Whether one piece of an autoencoder is run by its steps, and not by its own code."""
    return _run_by(vae, decoder_steps) is not None


def run_whole(vae: Any, steps: Sequence[Step], samples: torch.Tensor) -> torch.Tensor:
    """Steps of an autoencoder over whole samples ``(B, C, h, w)``, one sample after the other."""
    made = []
    with weights_at_hand(vae):
        for i in range(samples.shape[0]):
            x = samples[i : i + 1].contiguous(memory_format=torch.channels_last)
            for step in steps:
                x = _step(step, x)
                # What the C library keeps of one step would be there beside the next, which needs larger blocks.
                if x.device.type == "cpu" and x.nbytes >= LARGE:
                    give_back_freed_memory("cpu")
            made.append(x)
    return made[0] if len(made) == 1 else torch.cat(made)


def _run_by(vae: Any, take_apart: Callable[[Any], tuple[Step, ...]]) -> tuple[Step, ...] | None:
    """The steps that an autoencoder is run by, or None."""
    if isinstance(vae, TellsSteps):
        return take_apart(vae)
    if not is_causal(vae):
        return None
    try:
        return take_apart(vae)
    except CannotTakeApart:
        return None


def _step(step: Step, x: torch.Tensor) -> torch.Tensor:
    if isinstance(step, Convolution):
        return _convolve(step, x)
    if isinstance(step, Attention):
        return _attend(step, x)
    out = _convolve(step.second, _convolve(step.first, x))
    out += x if step.shortcut is None else _convolve(step.shortcut, x)
    return out if step.scale == 1.0 else out.div_(step.scale)


def _convolve(layer: Convolution, x: torch.Tensor) -> torch.Tensor:
    height, width = x.shape[2:]
    normalize = None if layer.norm is None else normalizer(layer.norm, _moments(layer.norm, x), x)
    made = ConvolutionStream(layer, height, 2 * width, normalize).push(x)
    assert made is not None
    return made


def _attend(step: Attention, x: torch.Tensor) -> torch.Tensor:
    normalized = normalizer(step.norm, _moments(step.norm, x), x)(x)
    tokens = normalized.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    del normalized
    query, key, value = (
        part(tokens).view(1, tokens.shape[0], step.heads, -1).transpose(1, 2)
        for part in (step.query, step.key, step.value)
    )
    del tokens
    seen = F.scaled_dot_product_attention(query, key, value)[0].transpose(0, 1).flatten(1)
    del query, key, value
    out = step.out(seen).view(1, *x.shape[2:], -1).permute(0, 3, 1, 2)
    out += x
    return out if step.scale == 1.0 else out.div_(step.scale)


def _moments(norm: Norm, x: torch.Tensor) -> Moments | None:
    if isinstance(norm, torch.nn.GroupNorm):
        moments = Moments()
        moments.add(x)
        return moments
    return None
