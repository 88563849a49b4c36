"""How often a solver asks the model, by its own word, which is a plugin's."""

from __future__ import annotations

from dit360_core.errors import Dit360Error
from dit360_core.registry import CORE, Entry, one_line

MOST = 10**6
"""Of a run; the options allow a thousand steps."""


def evaluations_told(entry: Entry, steps: int) -> int:
    """How often the scheduler asks in a run of so many steps. Raises Dit360Error if its answer is none."""
    origin = entry.name if entry.distribution == CORE else f"{entry.name} ({entry.distribution} {entry.version})"
    try:
        answer = entry.offer.evaluations(steps)
        told = int(answer)
        if told != answer or isinstance(answer, bool) or not 0 <= told <= MOST:
            raise ValueError(f"it says {answer!r:.60}")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin's, whatever it is
        raise Dit360Error(
            f"The scheduler {origin} cannot say how often it asks the model in {steps} steps ({one_line(error)}); "
            "choose another, or tell its author."
        ) from error
    return told
