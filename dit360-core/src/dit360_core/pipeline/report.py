"""What a picture took, beside what was predicted: for its metadata, the log and the command line."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import attrs

from dit360_core.options import DecodeOptions, SampleOptions
from dit360_core.panorama.picture import Panorama
from dit360_core.pipeline.stages import Latents, Pixels
from dit360_core.pipeline.state import Loaded
from dit360_core.system.memory import gib
from dit360_core.system.recording import Phase, Recorder, recorder_of

Made = TypeVar("Made", Panorama, Latents, Pixels)

log = logging.getLogger("dit360")


@attrs.define(eq=False)
class Measurement:
    """The phases of one picture.

    recorder: None if nobody measures.
    """

    recorder: Recorder | None
    first: int
    wanted: bool
    predicted: Mapping[str, int]
    thread: int = attrs.field(factory=threading.get_ident)

    def written(self, made: Made) -> Made:
        """A panorama, pixels or latents with their memory in their settings, if it was measured."""
        if self.recorder is None:
            return made
        told: dict[str, Any] = self.as_dict()
        if self.wanted:
            for line in lines(told):
                log.info("%s", line)
        used: Any = made.settings["used"]
        # What was measured while these latents were made.
        earlier: list[Any] = used.get("memory", {}).get("phases", [])
        told["phases"] = [*earlier, *told["phases"]]
        return attrs.evolve(made, settings={**made.settings, "used": {**used, "memory": told}})

    def as_dict(self) -> dict[str, Any]:
        """Bytes and seconds of each phase, with what was predicted."""
        assert self.recorder is not None
        recording = self.recorder.recording_of(self.thread)
        return {
            "device": recording.device,
            "phases": [_told(phase, self.predicted) for phase in recording.phases[self.first :] if phase.depth == 0],
        }


def _told(phase: Phase, predicted: Mapping[str, int]) -> dict[str, Any]:
    return {
        "name": phase.name,
        "seconds": round(phase.seconds, 3),
        "before": phase.before,
        "peak": phase.peak,
        "after": phase.after,
        **({} if phase.reserved is None else {"reserved": phase.reserved}),
        "predicted": None if phase.kind is None else predicted.get(phase.kind),
    }


def lines(told: Mapping[str, Any]) -> list[str]:
    """One line a phase, for the log."""
    found = []
    for phase in told["phases"]:
        beside = f", predicted {gib(phase['predicted'])}" if phase["predicted"] else ""
        reserved = f", reserved {gib(phase['reserved'])}" if "reserved" in phase else ""
        found.append(
            f"memory: {phase['name']}: {gib(phase['before'])} before, at most {gib(phase['peak'])}{reserved}{beside}, "
            f"{gib(phase['after'])} after, {phase['seconds']:.1f} s"
        )
    return found


@contextmanager
def measuring(
    loaded: Loaded,
    wanted: bool,
    sampling: SampleOptions,
    decoding: DecodeOptions,
    *,
    referring: bool = False,
    given: bool = False,
) -> Iterator[Measurement]:
    """Measures what happens in this block: by whom measures already, or, if it is wanted, by a recorder of its own.

    referring: the model is shown a picture, too.
    given: a picture is given to begin with, or a part of one to keep.
    """
    recorders = loaded.engine.recorders
    # What other threads paint meanwhile is none of its own.
    own = Recorder(loaded.plan.device, thread=threading.get_ident()) if wanted and not recorder_of(recorders) else None
    if own is not None:
        recorders.append(own)
    recorder = recorder_of(recorders)
    first, predicted = 0, {}
    if recorder is not None:
        # Now, since on a CPU what the process holds at the end is not what the picture began with.
        prediction = loaded.predict(sampling, decoding, referring=referring, given=given)
        # What torch counts of a device is without what CUDA itself takes.
        beside = prediction.held if loaded.plan.device == "cuda" else 0
        predicted = {str(phase.name): phase.total - beside for phase in prediction.phases}
        first = len(recorder.recording_of(threading.get_ident()).phases)
    try:
        yield Measurement(recorder, first, wanted, predicted)
    finally:
        if own is not None:
            recorders.remove(own)
