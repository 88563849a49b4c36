"""DIT360_PIPE and its parts: what passes between the nodes. None of them holds weights, so that caches of graphs cost
nothing."""

from __future__ import annotations

from typing import Any

import attrs
from dit360_core.errors import InputError

from dit360_comfy.kept import Kept
from dit360_comfy.model import Source

Lora = tuple[str, float]
"""A safetensors file, folder or Hub id, and a strength."""


PARTS = {"model": "transformer", "vae": "vae", "text_encoder": "text encoder"}


@attrs.frozen(kw_only=True)
class Part(Kept):
    """One part of a model: DIT360_MODEL, DIT360_VAE or DIT360_TEXT_ENCODER.

    kind: a key of ``PARTS``.

    loras: put beside the weights of a transformer.
    alone: a source of this part only, where nothing else of its model is used.
    """

    kind: str
    source: Source
    loras: tuple[Lora, ...] = ()
    alone: Source | None = None

    @property
    def at_hand(self) -> Source:
        """Where to use it: the whole model if that is in memory anyhow."""
        return self.source if self.alone is None or self.source.in_memory else self.alone


@attrs.frozen(kw_only=True)
class Pipe(Kept):
    """A model whose parts may come from several, with what is to be used instead of what each was loaded with.

    described: the model whose size, steps, guidance and padding are taken where a node leaves them to the model. The
    others are as in the options of the same names; their defaults leave it to the loader.
    """

    model: Part
    vae: Part
    text_encoder: Part
    described: Source
    attention_backend: str = "pipeline"
    attention_slice_size: int = -1
    vae_tile_size: int = 0
    vae_tile_overlap: int = -1
    vae_auto_tile_pixels: int = -1

    @classmethod
    def of(cls, source: Source) -> Pipe:
        """All parts of one model."""
        parts: dict[str, Any] = {kind: Part(kind=kind, source=source) for kind in PARTS}
        return cls(**parts, described=source)

    def with_loras(self, loras: tuple[Lora, ...]) -> Pipe:
        return attrs.evolve(self, model=attrs.evolve(self.model, loras=loras))


def pipe_of(value: Any) -> Pipe:
    """Raises InputError for what another pack's node of the same type hands on."""
    if not isinstance(value, Pipe):
        raise InputError(
            f"dit360_pipe is a {type(value).__name__} of another node pack; connect a DiT360 Loader of dit360-comfy."
        )
    return value


def part_of(value: Any, kind: str) -> Part:
    """Raises InputError for what is not that part."""
    if not isinstance(value, Part) or value.kind != kind:
        found = PARTS[value.kind] if isinstance(value, Part) else type(value).__name__
        raise InputError(f"{kind} is a {found}, but must be a {PARTS[kind]} of a DiT360 Pipe Breakout.")
    return value
