"""Makes the pictures one after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

from dit360_core.batching.items import Item, state_of
from dit360_core.batching.painting import Painted, Painter, job_of, largest
from dit360_core.errors import InputError, Sentence
from dit360_core.options import LoadOptions
from dit360_core.panorama.formats import Saving
from dit360_core.pipeline.stages import Progress
from dit360_core.plugins.registry import Registry

Advance = Callable[[Item, int, int], None]
"""Called after each step with (the picture at work, steps done, steps in all)."""


class InProcess:
    """An engine. One model, one picture at a time."""

    def __init__(
        self,
        loading: LoadOptions,
        *,
        saving: Saving,
        registry: Registry | None = None,
        advance: Advance | None = None,
        folder: Path | None = None,
    ) -> None:
        """folder: where what is computed of a larger picture is kept until it is made; None: it is not."""
        self._loading = loading
        self._folder = folder
        self._saving = saving
        self._registry = registry
        self._advance = advance
        self._painter: Painter | None = None

    def check(self, items: Sequence[Item]) -> list[tuple[Item, str]]:
        """What is wrong with which pictures, before the weights are read. Raises what loading the model raises."""
        self._painter = Painter(self._loading, largest(items), self._registry)
        return [(item, why) for item in items if (why := self._painter.wrong(item))]

    def identities(self) -> dict[str, dict[str, object]]:
        """Worker → what of its plan decides what pictures show. Only this process's here."""
        return {"": self._at_hand.identity}

    def load(self) -> None:
        """Reads the weights."""
        self._at_hand.load()

    def paint(self, items: Sequence[Item]) -> Iterator[Painted]:
        """The pictures as they are made."""
        for item in items:
            try:
                job = job_of(item, self._saving)
            except InputError as error:
                yield Painted(item=item, error=Sentence(error.sentence))
                continue
            state = self._state_of(item)
            # What was warned of stands in the log already.
            yield attrs.evolve(self._at_hand.paint(job, self._steps_of(item), state), told=())

    def _steps_of(self, item: Item) -> Progress | None:
        advance = self._advance
        return None if advance is None else lambda done, steps: advance(item, done, steps)

    def _state_of(self, item: Item) -> Path | None:
        if self._folder is None or not item.larger:
            return None
        state = state_of(self._folder, item)
        state.parent.mkdir(parents=True, exist_ok=True)
        return state

    def close(self) -> None:
        """Nothing to give back but the model."""
        self._painter = None

    @property
    def _at_hand(self) -> Painter:
        if self._painter is None:
            raise RuntimeError("check the pictures first")
        return self._painter
