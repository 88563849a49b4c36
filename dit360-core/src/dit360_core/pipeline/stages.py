"""The stages of a pipeline: what passes between them, and what is told when one of them fails."""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import attrs

from dit360_core.errors import Dit360Error, is_callers, mark_as_callers, one_line
from dit360_core.panorama.gpano import MADE, Pose
from dit360_core.planning.plan import Plan
from dit360_core.plugins.choosing import Choice
from dit360_core.plugins.entries import CORE
from dit360_core.system.memory import explain_full_memory, is_out_of_memory
from dit360_core.system.phases import PhaseKind

if TYPE_CHECKING:
    import torch

    from dit360_core.models.embedding import Embedding
    from dit360_core.models.engine import Engine

Given = ParamSpec("Given")
Made = TypeVar("Made")

log = logging.getLogger("dit360")

Progress = Callable[[int, int], None]
"""Called after each step with (steps done, steps in all)."""

Tap = Callable[[int, int, "Latents"], None]
"""Called after each step with (steps done, steps in all, the picture as the model expects it by then)."""


@attrs.frozen(kw_only=True, eq=False)
class Conditioning:
    """A prompt as the model reads it.

    prompt, negative_prompt: their texts; None: there is none.
    positive: the prompt in numbers.
    negative: the negative prompt in numbers, which true guidance needs; None: it was not read.
    max_sequence_length: tokens that they were padded or cut to.
    others: more prompts that the picture is to follow as much: the model is asked about each, and the mean is taken.
    prefix: what was put before the prompt; None: nobody knows, since it was read elsewhere.
    """

    prompt: str
    negative_prompt: str | None
    positive: Embedding
    negative: Embedding | None
    max_sequence_length: int
    others: tuple[Embedding, ...] = ()
    prefix: str | None = None

    @property
    def embeddings(self) -> tuple[Embedding, ...]:
        """All that the model may be asked about."""
        return (self.positive, *self.others, *([] if self.negative is None else [self.negative]))

    @property
    def length(self) -> int:
        """Tokens of the longest of them."""
        return max(int(embedding.tokens.shape[1]) for embedding in self.embeddings)


@attrs.frozen(kw_only=True, eq=False)
class Latents:
    """A sampled panorama before decoding.

    tensor: ``(1, C, H/8, W/8)`` fp32 on the CPU, in model space.
    settings: what was asked and what was used, for metadata.
    pose: which way it looks in the world: that of the picture it began with.
    """

    tensor: torch.Tensor
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    pose: Pose = MADE

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

    def asked_too(self, options: Mapping[str, Any]) -> Latents:
        """With more options among those that were asked for, in the settings."""
        requested: Any = self.settings.get("requested", {})
        return attrs.evolve(self, settings={**self.settings, "requested": {**requested, **options}})


@attrs.frozen(kw_only=True, eq=False)
class Shown:
    """What a model that fills is shown beside the noise: a picture with a hole, and the hole.

    masked: the picture, mid-grey in the hole, as latents.
    mask: of its pixels, ``(1, 1, H, W)``: 1 in the hole, which is made anew, and 0 elsewhere.
    """

    masked: Latents
    mask: torch.Tensor

    @property
    def share(self) -> float:
        """Of its pixels, how many lie in the hole."""
        return round(float(self.mask.mean()), 4)


@attrs.frozen(kw_only=True, eq=False)
class Pixels:
    """A decoded panorama that is not rounded to 8 bits yet: ``tensor`` ``(1, 3, H, W)`` fp32 in 0 … 1, on the CPU."""

    tensor: torch.Tensor
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    pose: Pose = MADE


class Stage:
    """A stage at work. ``callers`` marks calls of what the user gave us, whose exceptions are the user's own."""

    def __init__(self, doing: str) -> None:
        self.doing = doing

    @contextlib.contextmanager
    def callers(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            mark_as_callers(error)
            raise


@contextlib.contextmanager
def stage(
    engine: Engine, plan: Plan, doing: str, *choices: Choice, kind: PhaseKind | None = None, quantized: bool = True
) -> Iterator[Stage]:
    """Offloaded parts go back to system memory afterwards; running out of memory and failing plugins are reported.

    A stage inside of another, as of a tap that decodes, leaves it to that one to move parts back.

    doing: what it does, for people.
    choices: what may fail in it.
    kind: what it is, where that is predicted and measured.
    quantized: whether quantized layers run in it, as they do in all but the autoencoder's; then they may fail too.
    """
    if quantized:
        choices = (*choices, plan.quantization)
    working = Stage(doing)
    engine.stages.append(doing)
    try:
        with (
            explain_full_memory(doing, plan.device),
            engine.phase(doing, kind),
            name_plugins(*choices, working=working),
        ):
            yield working
    except BaseException as error:
        let_go(error)
        try:
            engine.settle()
        except Exception as another:  # noqa: BLE001 - of a device that is lost, say; the first is what happened
            log.warning("Parts could not be sent back (%s); load the model again.", one_line(another))
        raise
    finally:
        engine.stages.pop()
        if not engine.stages:
            engine.release()


@contextlib.contextmanager
def name_plugins(*choices: Choice, working: Stage | None = None) -> Iterator[None]:
    """Errors in this block that may be those of plugins are told as theirs.

    working: the stage, if not a decoding.
    """
    try:
        yield
    except Dit360Error:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin's, whatever it is
        foreign = [choice.origin for choice in choices if choice.distribution != CORE]
        if not foreign or is_out_of_memory(error) or is_callers(error) or ends_the_program(error):
            raise
        doing = working.doing if working is not None else "running the autoencoder"
        raise Dit360Error(
            f"A plugin failed while {doing}: {' or '.join(foreign)} raised {one_line(error)}; choose another, or tell "
            "its author."
        ) from error


_LIBRARIES = frozenset({"torch", "diffusers", "transformers", "accelerate", "peft", "safetensors"})
"""What runs between our functions and a plugin's, and holds what ours made. Nobody looks into their variables."""


def ends_the_program(error: BaseException) -> bool:
    """Whether a signal's handler raised it, which is called in the middle of whatever runs, a plugin too."""
    if not isinstance(error, SystemExit):
        return False
    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()}
    return any(frame.f_code in handlers for frame, _ in traceback.walk_tb(error.__traceback__))


def let_go(error: BaseException) -> None:
    """Frees what the functions had made that an exception came out of, which it holds for as long as somebody keeps it.

    An interactive shell keeps the last one, and would keep a step's activations with it. Only functions that are over
    lose their variables. What the user gave us keeps its own, and so do plugins unless memory ran out: that may be
    what the user, or a plugin's author, is looking into.
    """
    full = is_out_of_memory(error)
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        theirs, inside = is_callers(link), False
        for frame, _ in traceback.walk_tb(link.__traceback__):
            package = str(frame.f_globals.get("__name__")).partition(".")[0]
            core = package == "dit360_core"
            # Who called us is looking into frames of their own, perhaps those of an error they are dealing with.
            inside = inside or core
            if inside and (core or (not theirs and (full or package in _LIBRARIES))):
                with contextlib.suppress(RuntimeError):  # it is not over
                    frame.clear()
        link = link.__cause__ or link.__context__


def letting_go(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """The function, whose exceptions hold nothing of what it had made, as :func:`let_go` has it."""

    @functools.wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            del args, kwargs  # which this frame would hold
            let_go(error)
            raise

    return call
