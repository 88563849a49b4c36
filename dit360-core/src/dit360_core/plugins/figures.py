"""Numbers that a plugin claims for the plan; an answer that is none is an error that names the plugin."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from dit360_core.errors import Dit360Error, one_line
from dit360_core.plugins.entries import Entry

if TYPE_CHECKING:
    import torch

    from dit360_core.plugins.offers import LayerNeed

Answer = TypeVar("Answer")

MOST_EVALUATIONS = 10**6
"""Of a run; the options allow a thousand steps."""
MOST_BYTES = 2**60
MOST_OPERATIONS = 2**80


def claimed_evaluations(entry: Entry, steps: int) -> int:
    """How often the scheduler asks in a run of so many steps. Raises Dit360Error if its answer is none."""
    return _told(
        f"The scheduler {entry.origin} cannot say how often it asks the model in {steps} steps",
        lambda: _whole(entry.offer.evaluations(steps), MOST_EVALUATIONS),
    )


def claimed_scratch(entry: Entry, need: LayerNeed) -> int:
    """Bytes that a layer so quantized takes beside its tensors. Raises Dit360Error if its answer is none."""
    return _told(
        f"The quantization {entry.origin} cannot say what memory a layer of {need.inputs}×{need.outputs} takes",
        lambda: _whole(entry.offer.scratch(need), MOST_BYTES),
    )


def claimed_autoencoding(
    origin: str,
    ask_it: Callable[..., Any],
    vae: torch.nn.Module,
    shape: tuple[int, ...],
    device: str,
    room: int | None,
) -> tuple[int, str, int]:
    """Bytes, level and operations of decoding or encoding with a tiling. Raises Dit360Error if it says none.

    ask_it: ``predicts`` or ``predicts_encoding`` of the tiling.
    """

    def ask() -> tuple[int, str, int]:
        found = ask_it(vae, shape, device, room)
        operations = _whole(found.get("operations", 0), MOST_OPERATIONS)
        return _whole(found["bytes"], MOST_BYTES), str(found["level"]), operations

    return _told(f"The tiling {origin} cannot say what memory it takes", ask)


def _whole(answer: Any, most: int) -> int:
    told = int(answer)
    if told != answer or isinstance(answer, bool) or not 0 <= told <= most:
        raise ValueError(f"it says {answer!r:.60}")
    return told


def _told(what: str, ask: Callable[[], Answer]) -> Answer:
    try:
        return ask()
    except (KeyboardInterrupt, Dit360Error):
        raise
    except BaseException as error:  # a plugin's, whatever it is
        raise Dit360Error(f"{what} ({one_line(error)}); choose another, or tell its author.") from error
