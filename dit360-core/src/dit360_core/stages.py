"""The stages of a pipeline: what passes between them, and what is told when one of them fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dit360_core.errors import Dit360Error, is_callers, mark_as_callers
from dit360_core.memory import is_out_of_memory, told_when_full
from dit360_core.plan import Choice, Plan
from dit360_core.registry import CORE

if TYPE_CHECKING:
    import torch

    from dit360_core.embedding import Embedding
    from dit360_core.flux.engine import Engine

Progress = Callable[[int, int], None]
"""Called after each step with (steps done, steps in all)."""

Tap = Callable[[int, int, "Latents"], None]
"""Called after each step with (steps done, steps in all, the picture as the model expects it by then)."""


@attrs.frozen(kw_only=True, eq=False)
class Conditioning:
    """A prompt as the model reads it; ``negative`` is there if true guidance is to be used.

    others: more prompts that the picture is to follow as much: the model is asked about each, and the mean is taken.
    """

    prompt: str
    negative_prompt: str | None
    positive: Embedding
    negative: Embedding | None
    max_sequence_length: int
    others: tuple[Embedding, ...] = ()

    @property
    def embeddings(self) -> tuple[Embedding, ...]:
        """All that the model may be asked about."""
        return (self.positive, *self.others, *([] if self.negative is None else [self.negative]))


@attrs.frozen(kw_only=True, eq=False)
class Latents:
    """A sampled panorama before decoding: ``tensor`` ``(1, C, H/8, W/8)`` fp32 on the CPU, in model space."""

    tensor: torch.Tensor
    settings: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def width(self) -> int:
        """Of the picture, in pixels."""
        return 8 * int(self.tensor.shape[-1])

    @property
    def height(self) -> int:
        return 8 * int(self.tensor.shape[-2])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), as pictures have it."""
        return self.width, self.height


@attrs.frozen(kw_only=True, eq=False)
class Pixels:
    """A decoded panorama that is not rounded to 8 bits yet: ``tensor`` ``(1, 3, H, W)`` fp32 in 0 … 1, on the CPU."""

    tensor: torch.Tensor
    settings: Mapping[str, Any] = attrs.field(factory=dict)


class Stage:
    """A stage at work. ``callers`` marks calls of what the user gave us, whose exceptions are the user's own."""

    def __init__(self, doing: str) -> None:
        self.doing = doing

    @contextlib.contextmanager
    def callers(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            mark_as_callers(error)
            raise


@contextlib.contextmanager
def stage(engine: Engine, plan: Plan, doing: str, *choices: Choice) -> Iterator[Stage]:
    """Offloaded parts go back to system memory afterwards; memory that ran out and plugins that fail are told.

    A stage inside of another, as of a tap that decodes, leaves it to that one to move parts back.
    """
    working = Stage(doing)
    engine.stages.append(doing)
    try:
        with told_when_full(doing, plan.device), engine.phase(doing), told_of(*choices, working=working):
            yield working
    finally:
        engine.stages.pop()
        if not engine.stages:
            engine.release()


@contextlib.contextmanager
def told_of(*choices: Choice, working: Stage | None = None) -> Iterator[None]:
    """Errors in this block that may be those of plugins are told as theirs. working: the stage, if not a decoding."""
    try:
        yield
    except Dit360Error:
        raise
    except Exception as error:
        foreign = [choice.origin for choice in choices if choice.distribution != CORE]
        if not foreign or is_out_of_memory(error) or is_callers(error):
            raise
        doing = working.doing if working is not None else "running the autoencoder"
        raise Dit360Error(
            f"A plugin failed while {doing}: {' or '.join(foreign)} raised {type(error).__name__}: {error}; choose "
            "another, or tell its author."
        ) from error
