"""What the family's own pipeline of diffusers makes of a prompt, with all that lies between."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch

from dit360_core.models.weights.quiet import quiet


class _Seen(Exception):
    """The autoencoder was asked for a picture, which nobody looks at."""


@attrs.frozen(kw_only=True, eq=False)
class Reference:
    """A run of a pipeline of diffusers.

    start: the noise, as tokens ``(1, r·c, channels)``.
    levels: of noise, one more than steps.
    first: what the transformer says of the noise at the first, for the prompt: ``(1, r·c, channels)``.
    end: the tokens after the last step.
    stored: the latents ``(1, C, h, w)`` that the autoencoder is given.
    embedding: what the transformer is given of the prompt, ``(1, T, dim)``.
    """

    start: torch.Tensor
    levels: tuple[float, ...]
    first: torch.Tensor
    end: torch.Tensor
    stored: torch.Tensor
    embedding: torch.Tensor


def as_called(pipe: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a picture, as a pipeline's ``__call__`` names it; what it does not know is left out.

    known: with ``guidance``, which is ``true_cfg_scale`` where guidance is true and there is such an argument beside
    another one, else ``guidance_scale``.
    """
    names = inspect.signature(type(pipe).__call__).parameters
    words = {name: value for name, value in known.items() if name in names}
    named = "true_cfg_scale" if known.get("true") and "true_cfg_scale" in names else "guidance_scale"
    if named in names:
        words[named] = known["guidance"]
    return words


def painted_by_diffusers(pipe: Any, words: Mapping[str, Any], levels: Sequence[float]) -> Reference:
    """Runs a pipeline of diffusers up to the autoencoder.

    words: for its ``__call__``.
    levels: of noise, to step between in the dtype of the latents: diffusers rounds its own, and the latents in every
    step, to float32. Its own are in what is returned.
    """
    calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    ends: list[torch.Tensor] = []
    stored: list[torch.Tensor] = []
    own: list[float] = []
    scheduler, decode = pipe.scheduler, pipe.vae.decode
    step, set_timesteps = scheduler.step, scheduler.set_timesteps

    def look(module: Any, given: Any, named: Mapping[str, Any], made: Any) -> None:
        x = named["hidden_states"] if "hidden_states" in named else given[0]
        out = made[0] if isinstance(made, (tuple, list)) else made.sample
        calls.append((x.detach(), named["encoder_hidden_states"].detach(), out[:, : x.shape[1]].detach()))

    # Pipelines look at what these two take.
    @functools.wraps(set_timesteps)
    def prepared(*given: Any, **named: Any) -> Any:
        made = set_timesteps(*given, **named)
        own[:] = [float(level) for level in scheduler.sigmas]
        if len(own) == len(levels):
            scheduler.sigmas = torch.tensor(levels, dtype=torch.float64)
            scheduler.timesteps = 1000.0 * scheduler.sigmas[:-1]
        return made

    @functools.wraps(step)
    def stepped(velocity: torch.Tensor, time: Any, x: torch.Tensor, **_: Any) -> Any:
        after, sigma = levels[len(ends) + 1], levels[len(ends)]
        ends.append((x + (after - sigma) * velocity).detach())
        return (ends[-1],)

    def decoded(latents: torch.Tensor, *given: Any, **named: Any) -> Any:
        stored.append(latents.detach())
        raise _Seen

    hook = pipe.transformer.register_forward_hook(look, with_kwargs=True)
    scheduler.step, scheduler.set_timesteps, pipe.vae.decode = stepped, prepared, decoded
    try:
        with quiet(), torch.no_grad():
            pipe(**words, output_type="pt")
    except _Seen:
        pass
    finally:
        hook.remove()
        scheduler.step, scheduler.set_timesteps, pipe.vae.decode = step, set_timesteps, decode
    (start, embedding, first), latents = calls[0], stored[0]
    return Reference(
        start=start[:1],
        levels=tuple(own),
        first=first[:1],
        end=ends[-1],
        # An autoencoder of videos is given one frame.
        stored=latents[:, :, 0] if latents.dim() == 5 else latents,
        embedding=embedding[:1],
    )
