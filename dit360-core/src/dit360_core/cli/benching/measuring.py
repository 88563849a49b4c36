"""One configuration is loaded, makes pictures, and tells what each stage took, in seconds and bytes."""

from __future__ import annotations

import logging
import sys
import threading
import time
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import psutil
import torch

from dit360_core.errors import Dit360Error
from dit360_core.options import ENCODED, DecodeOptions, LoadOptions, SampleOptions
from dit360_core.pipeline.loading import prepare
from dit360_core.planning.checks import picture_size
from dit360_core.planning.guidance import negative_prompt_of
from dit360_core.plugins.registry import default_registry
from dit360_core.system.machine import Machine

log = logging.getLogger("dit360")


class Bench:
    """One configuration. Each method is a request and returns what JSON can hold."""

    def __init__(self) -> None:
        self._pipe: Any = None
        self._sampling: Any = None
        self._decoding: dict[str, Any] = {}
        self._shown: Any = None
        self._before = 0

    def describe(self, device: str) -> dict[str, Any]:
        """The machine as this process sees it."""
        machine = attrs.asdict(Machine.detect(device))
        return {"machine": machine, "threads": torch.get_num_threads()}

    def load(self, loading: dict[str, Any], sampling: dict[str, Any], decoding: dict[str, Any]) -> dict[str, Any]:
        """Loads the model, after every check that ``dit360 generate`` makes.

        torch is imported already, so that neither its seconds nor its memory are the model's.
        """
        self._sampling, self._decoding = SampleOptions(**sampling), decoding
        self._before = _resident()[0]
        began = time.perf_counter()
        picture = (self._sampling, DecodeOptions(**decoding))
        ready = prepare(LoadOptions(**loading), registry=default_registry(), picture=picture, shown=True)
        self._pipe = ready.load()
        self._shown = self._nothing() if self._pipe.engine.facts.fills else None
        self._wait()
        return {"loading_s": time.perf_counter() - began, "used": self._pipe.state.as_dict()}

    def run(self, picture: str | None = None) -> dict[str, Any]:
        """Makes the picture once.

        picture: where to put its pixels, as a file of NumPy's.
        """
        asked = self._sampling
        given = attrs.asdict(asked, filter=lambda f, value: value != f.default and f.name not in ENCODED)
        with _Utilisation(self._device) as utilisation:
            worked, began = time.process_time(), time.perf_counter()
            conditioning = self._pipe.encode(
                asked.prompt,
                negative_prompt=negative_prompt_of(asked, self._pipe.plan.model, self._pipe.engine.facts),
                max_sequence_length=asked.max_sequence_length,
                prompt_prefix=asked.prompt_prefix,
            )
            self._wait()
            marks = _Marks(self._device)
            began_sampling = time.perf_counter()
            marks.set()
            latents = self._pipe.sample(
                conditioning, **given, shown=self._shown, progress=lambda done, steps: marks.set()
            )
            self._wait()
            began_decoding = time.perf_counter()
            panorama = self._pipe.decode(latents, **self._decoding)
            self._wait()
            ended = time.perf_counter()
            worked = time.process_time() - worked
        if self._pipe.given_up:
            raise Dit360Error(f"memory ran out, and it went on in another way ({'; '.join(self._pipe.given_up)})")
        if picture is not None:
            np.save(picture, np.asarray(panorama.image))
        return {
            "encode": began_sampling - began,
            "steps": marks.intervals(),
            "sampling": began_decoding - began_sampling,
            "decode": ended - began_decoding,
            "whole": ended - began,
            "cpu": worked / ((ended - began) * self._threads()),
            "gpu": utilisation.mean(),
        }

    def memory(self) -> dict[str, Any]:
        """Bytes: what the process held before loading, at most, and now; the same of CUDA's allocator."""
        now, peak = _resident()
        resident = {"before": self._before, "peak": peak, "end": now}
        if self._device != "cuda":
            return {"resident": resident, "cuda": None}
        return {
            "resident": resident,
            "cuda": {
                "peak": torch.cuda.max_memory_allocated(),
                "reserved": torch.cuda.max_memory_reserved(),
                "end": torch.cuda.memory_allocated(),
            },
        }

    # --------------------------------------------------------------------------------------------------- inner parts

    def _nothing(self) -> Any:
        """For a model that fills: a picture that is all hole, which is as much work as any other."""
        width, height = picture_size(self._sampling, self._pipe.plan.model)
        return self._pipe.encode_hole(torch.zeros(1, 3, height, width), torch.ones(1, 1, height, width))

    @property
    def _device(self) -> str:
        return str(self._pipe.plan.device)

    def _wait(self) -> None:
        """Until the device has done what it was asked."""
        if self._device == "cuda":
            torch.cuda.synchronize()
        elif self._device == "mps":
            torch.mps.synchronize()

    @staticmethod
    def _threads() -> int:
        return torch.get_num_threads()


class _Marks:
    """Moments between steps. On CUDA they are events of the device, so that nothing waits for them meanwhile."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._marks: list[Any] = []

    def set(self) -> None:
        if self._device == "cuda":
            made: Any = torch.cuda.Event
            event = made(enable_timing=True)
            event.record()
            self._marks.append(event)
            return
        if self._device == "mps":
            torch.mps.synchronize()
        self._marks.append(time.perf_counter())

    def intervals(self) -> list[float]:
        """Seconds of each step. The first holds what comes before it too: noise, noise levels, choice of a kernel."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        if self._device == "cuda":
            return [before.elapsed_time(after) / 1000 for before, after in pairs]
        return [after - before for before, after in pairs]


class _Utilisation:
    """The GPU's, in percent, as its driver tells it five times a second; None without the library that asks it."""

    def __init__(self, device: str) -> None:
        self._found: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True) if device == "cuda" else None

    def __enter__(self) -> _Utilisation:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            try:
                self._found.append(torch.cuda.utilization())
            except Exception as error:  # noqa: BLE001 - each version of the driver's library raises its own
                log.info("no utilisation: %s", error)
                return

    def mean(self) -> float | None:
        return sum(self._found) / len(self._found) if self._found else None


def _resident() -> tuple[int, int]:
    """Bytes of system memory that this process holds now, and the most that it held.

    On Linux from /proc: getrusage's peak would begin with that of the process that started this one.
    """
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        if "VmHWM" in fields:
            return _kilobytes(fields["VmRSS"]), _kilobytes(fields["VmHWM"])
    held = psutil.Process().memory_info()
    return int(held.rss), int(getattr(held, "peak_wset", 0)) or _most_by_system(int(held.rss))


def _kilobytes(text: str) -> int:
    return 1024 * int(text.split()[0])


def _most_by_system(now: int) -> int:
    if sys.platform == "darwin":
        import resource  # there is none on Windows

        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return now
