"""What is done when memory runs out, from what costs nothing to what costs time; the numbers stay the same.

First what was freed is given back. Then attention goes in slices, if its kernel stores scores; parts that are not
needed now are dropped, where they can be read again; weights are offloaded, further at each rung. A rung that was
climbed stays: what did not fit will not fit next time.
"""

from __future__ import annotations

import gc
import logging
import traceback
from collections.abc import Callable
from typing import TypeVar

import attrs

from dit360_core.errors import Dit360Error, InputError, first_line, marked, named, plain, setting
from dit360_core.models.architecture import Role
from dit360_core.models.residency.placement import place
from dit360_core.options import DecodeOptions, SampleOptions
from dit360_core.pipeline.state import Loaded
from dit360_core.planning.budget import fit
from dit360_core.planning.checks import contradicts
from dit360_core.planning.quantization import quantization_need
from dit360_core.planning.speed import ASSUMED
from dit360_core.plugins.choosing import judge
from dit360_core.system.memory import OutOfMemory, free_memory, gib, give_back_freed_memory, is_out_of_memory
from dit360_core.system.phases import PhaseKind

log = logging.getLogger("dit360")

Result = TypeVar("Result")

SLICES = (1024, 256)
OFFLOADS = {"cuda": ("model", "group", "sequential"), "cpu": ("disk",)}
"""What follows ``none``, on each device."""
ROLES = {
    PhaseKind.ENCODE: Role.AUTOENCODER, PhaseKind.TEXT: Role.TEXT, PhaseKind.STEP: Role.DENOISER,
    PhaseKind.DECODE: Role.AUTOENCODER,
}  # fmt: skip
"""Phase → the role of the parts that it uses."""


@attrs.define(kw_only=True, eq=False)
class Ladder:
    """For one phase of one picture.

    phase: what it is.
    doing: the same, for people.
    asked: the picture's options, for the last word.
    slice_attention: makes attention go in slices of so many rows from now on; None where that gains nothing.
    slices: query rows of a call now; 0: all at once.
    hint: what to do if nothing helped, where that is known.
    referring: the model is shown a picture, too.
    """

    loaded: Loaded
    phase: PhaseKind
    doing: str
    asked: Callable[[], tuple[SampleOptions, DecodeOptions]]
    slice_attention: Callable[[int], None] | None = None
    slices: int = 0
    hint: str | None = None
    referring: bool = False
    _freed: bool = False

    def run(self, attempt: Callable[[], Result]) -> Result:
        """The result of an attempt, which is made again after each rung. Raises OutOfMemory after the last."""
        while True:
            try:
                return attempt()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                why = first_line(error)
                # What the failed attempt had made lives in the frames that the exception holds.
                traceback.clear_frames(error.__traceback__)
            # Only here is the exception gone, and its tensors with it.
            rung = self._climb()
            if rung is None:
                raise OutOfMemory(self._told(why))
            log.warning("%s ran out of memory (%s); %s, and it goes on from there.", self.doing.capitalize(), why, rung)
            told = plain(f"{self.doing}: {rung}")
            if told not in self.loaded.state.given_up:
                # A process that paints for days on a device that is just too small is not to collect them.
                self.loaded.state.given_up.append(told)

    # -------------------------------------------------------------------------------------------------------- rungs

    def _climb(self) -> str | None:
        """Does the next thing there is, and says what it was; None after the last."""
        device = self.loaded.plan.device
        gc.collect()
        give_back_freed_memory(device)
        if not self._freed:
            self._freed = True
            if (host := self.loaded.engine.residency.host) is not None:
                host.make_room()
            return "memory that was freed is given back"
        told = self._slice() or self._evict() or self._offload()
        if told is not None:
            gc.collect()
            give_back_freed_memory(device)
        return told

    def _slice(self) -> str | None:
        if self.slice_attention is None:
            return None
        rows = next((rows for rows in SLICES if not self.slices or rows < self.slices), None)
        if rows is None:
            return None
        self.slice_attention(rows)
        self.slices = rows
        return f"attention takes {rows} query rows at a time"

    def _evict(self) -> str | None:
        """On a CPU, where weights have nowhere else to wait but their files."""
        engine, state = self.loaded.engine, self.loaded.state
        if self.loaded.plan.device == "cuda" or state.offload != "none" or not engine.residency.can_read:
            return None
        level = {"none": "text", "text": "all"}.get(engine.residency.evict)
        if level is None:
            return None
        engine.residency.evict = level
        engine.residency.drop(engine.pipe, keep=engine.architecture.used_by(ROLES[self.phase]))
        state.evict = level
        return "the text encoders are dropped" if level == "text" else "parts that are not needed now are dropped"

    def _offload(self) -> str | None:
        engine, state = self.loaded.engine, self.loaded.state
        family, device = engine.architecture, self.loaded.plan.device
        ladder, homeless = OFFLOADS.get(device, ()), False
        if state.offload == "disk" or engine.residency.foreign:
            return None
        for level in ladder[ladder.index(state.offload) + 1 if state.offload in ladder else 0 :]:
            options = attrs.evolve(state.options, offload=level)
            # What is evicted by now may be read again all the same, and then goes to files.
            checked = attrs.evolve(options, evict="none") if level == "disk" else options
            if contradicts(checked) or not self._quantizer_allows(level):
                continue
            engine.residency.displace(engine.pipe)
            try:
                place(engine.pipe, family, level, engine.device)
            except Exception as error:
                if not (isinstance(error, InputError | OSError) or is_out_of_memory(error)):
                    raise
                why = error.sentence if isinstance(error, InputError) else first_line(error)
                log.warning("%s is not possible: %s", setting("offload", level), why)
                if level == "disk" and not isinstance(error, InputError):
                    raise OutOfMemory(
                        f"Memory ran out while {self.doing}, and then its files could not be written ({error}); load "
                        "the model again."
                    ) from None
                engine.residency.displace(engine.pipe)
                homeless = True
                continue
            engine.residency.offload = level
            state.offload = level
            return setting("offload", level)
        if homeless and device != "cpu":
            place(engine.pipe, family, state.offload, engine.device)
        return None

    def _quantizer_allows(self, level: str) -> bool:
        plan = self.loaded.plan
        if plan.quantization.used == "none":
            return True
        entry = self.loaded.registry.find("quantization", plan.quantization.address)[0]
        options = attrs.evolve(self.loaded.state.options, offload=level)
        need = quantization_need(options, self.loaded.machine, plan.precision, False)
        return not judge(entry, self.loaded.machine, need)

    # -------------------------------------------------------------------------------------------------- the last word

    def _told(self, why: str) -> str:
        self.loaded.engine.settle()
        device = self.loaded.plan.device
        sentence = f"There is too little memory on the {device} for {self.doing} ({why})"
        try:
            sampling, decoding = self.asked()
            predicted = self.loaded.predict(sampling, decoding, referring=self.referring, given=self._given)
            phase = predicted.phase(self.phase)
            sentence += f": about {gib(phase.weights + phase.working)} are needed, {gib(free_memory(device))} are free"
            sentence += f"; {self.hint}" if self.hint else self._what_would_fit(sampling, decoding)
        except (Dit360Error, StopIteration, MemoryError, RuntimeError, SystemError) as error:
            # Advice is computed where memory is short, and may fail for just that; torch raises SystemError too.
            log.info("no advice: %s", error.sentence if isinstance(error, Dit360Error) else first_line(error))
            sentence += f"; use a smaller {named('width')}"
        return sentence + "."

    @property
    def _given(self) -> bool:
        """Whether a picture is given: it is what is encoded."""
        return self.phase == PhaseKind.ENCODE

    def _what_would_fit(self, sampling: SampleOptions, decoding: DecodeOptions) -> str:
        subject = self.loaded.subject(sampling, decoding, referring=self.referring, given=self._given)
        asked = attrs.evolve(self.loaded.plan.asked, vram="auto")
        try:
            best = fit(asked, subject, ASSUMED).best
        except Dit360Error as error:
            return f". {error.sentence.rstrip('.')}"
        if not self.loaded.engine.residency.can_read:
            return f"; what would fit is {marked(best.sentence(asked))}, or a smaller {named('width')}"
        return (
            f"; load the model with {setting('vram', 'auto')}, which would now mean {marked(best.sentence(asked))}, or "
            f"use a smaller {named('width')}"
        )
