"""Memory and time of what a picture goes through: measured while it happens, kept as plain numbers."""

from __future__ import annotations

import itertools
import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import attrs
import psutil

from dit360_core.errors import InputError
from dit360_core.system.phases import PhaseKind

#: More samples than these are never kept: some 3 MB.
MOST_SAMPLES = 20_000

#: The sampler works for one of so many seconds: waking up takes some systems longer than reading.
_SPARING = 500

#: Seconds. However long waking up takes, rarer than this a step's peak would be missed.
_SPARSEST = 0.02

#: Seconds. Samples become rarer the longer it takes, but not without end: a recorder may serve a process for days.
_RAREST = 1.0


@attrs.frozen(kw_only=True)
class Phase:
    """Something that took time and memory; seconds count from when the recorder was made, memory is in bytes.

    seconds: how long it took.
    before, after: memory at its beginning and its end.
    peak: the most in between, at least those two.
    reserved: the most that torch's allocator had reserved, on CUDA; None elsewhere.
    marks: (name, when).
    depth: 0 for an outermost phase, 1 for one inside of it.
    failed: an exception ended it.
    kind: what it is, where it is one of those that are predicted.
    """

    name: str
    started: float
    seconds: float
    before: int
    after: int
    peak: int
    reserved: int | None = None
    marks: tuple[tuple[str, float], ...] = ()
    depth: int = 0
    failed: bool = False
    kind: PhaseKind | None = None

    @property
    def ended(self) -> float:
        return self.started + self.seconds


@attrs.frozen
class Sample:
    """Bytes in use at a time (seconds since the recorder was made); reserved is None but on CUDA."""

    time: float
    used: int
    reserved: int | None = None


@attrs.frozen(kw_only=True)
class Recording:
    """What a recorder measured.

    device: as the recorder was given it.
    base: bytes in use when it was made.
    phases: in the order of their beginnings.
    samples: in order of time.
    interval: seconds between two of the latest, about; the system may let the sampler wait.
    """

    device: str
    base: int
    phases: tuple[Phase, ...] = ()
    samples: tuple[Sample, ...] = ()
    interval: float = 0.005

    @property
    def peak(self) -> int:
        """The most bytes in use in any phase; ``base`` if there was none."""
        return max((phase.peak for phase in self.phases), default=self.base)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON, small enough for a picture's metadata: all but the samples; bytes, and seconds to the ms."""
        return {
            "device": self.device,
            "base": self.base,
            "peak": self.peak,
            "phases": [
                {
                    **attrs.asdict(phase),
                    "started": round(phase.started, 3),
                    "seconds": round(phase.seconds, 3),
                    "marks": [[name, round(when, 3)] for name, when in phase.marks],
                }
                for phase in self.phases
            ],
        }


class Recorder:
    """Memory and time of phases, one after the other or nested, of one or of many pictures.

    device: a name such as cpu, cuda:1 or mps.
    thread: the only one it serves (``threading.get_ident``); None: all.
    interval: seconds between two samples, above 0; it grows where a sample takes so long that the sampler would need
    more than 0.2 % of one core, up to 20 ms.

    A thread samples while a phase is open. What is measured:

    * CPU, and any device not named below: the resident memory of the whole process. A peak that falls between two
      samples is known where it is the highest of the process so far, on Linux, which keeps that figure; elsewhere,
      and below it, the samples alone count. The figure is read, and never reset.
    * CUDA: what torch's allocator holds on the device, without the CUDA context and other libraries' memory. Peaks are
      exact: the allocator counts them. Each beginning and end of a phase **resets the allocator's peak counters**
      (``torch.cuda.reset_peak_memory_stats``), so that whoever reads those as well sees the most since then, and a
      reset by others inside of a phase hides from it what came before. Phases and marks wait for the device, so that
      their times are those of the work and not of its queueing; making a recorder starts CUDA.
    * MPS: what torch holds; the samples alone count. Phases and marks wait for the device here too.

    Several threads may use one recorder: phases nest within those of their own thread. At most MOST_SAMPLES samples
    are kept: when there are more, of each two the higher stays and the interval doubles, up to 1 s; the phases' peaks
    lose nothing of what was seen.

    Raises InputError if the interval is not above 0.
    """

    def __init__(self, device: str, *, interval: float = 0.005, thread: int | None = None) -> None:
        if not 0 < interval < float("inf"):
            raise InputError(f"An interval of {interval} seconds is none; give a number above 0.")
        self.thread = thread
        self._device = str(device)
        self._meter = _meter(self._device)
        self._interval = self._pace = interval
        self._made = time.perf_counter()
        self._base, _ = self._meter.now()
        self._phases: list[_Open] = []
        self._open: list[_Open] = []
        self._samples: list[Sample] = []
        # Held for microseconds, and never while waiting for a device or a thread.
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._sampler: threading.Thread | None = None

    @contextmanager
    def phase(self, name: str, kind: PhaseKind | None = None) -> Iterator[None]:
        """Measures the block. An exception in it marks the phase as failed, and passes.

        kind: as in :class:`Phase`.
        """
        self._meter.wait()
        phase = self._begin(name, kind)
        try:
            yield
            self._meter.wait()
        except BaseException:
            phase.failed = True
            raise
        finally:
            self._end(phase)

    def mark(self, name: str) -> None:
        """A moment inside the innermost open phase, such as the end of step 3; outside of any it is forgotten."""
        self._meter.wait()
        with self._lock:
            if mine := self._open_in(threading.get_ident()):
                mine[-1].marks.append((name, self._now()))

    @property
    def recording(self) -> Recording:
        """What was measured so far; a phase that is still open is told as if it ended now."""
        return self._recording(None)

    def recording_of(self, thread: int) -> Recording:
        """The same with the phases of one thread alone (``threading.get_ident``)."""
        return self._recording(thread)

    def _recording(self, thread: int | None) -> Recording:
        with self._lock:
            latest = self._read() if self._open else None
            return Recording(
                device=self._device,
                base=self._base,
                phases=tuple(
                    phase.closed or phase.as_of(latest or phase.first)
                    for phase in self._phases
                    if thread in (None, phase.thread)
                ),
                samples=tuple(self._samples),
                interval=self._pace,
            )

    def _now(self) -> float:
        return time.perf_counter() - self._made

    def _begin(self, name: str, kind: PhaseKind | None) -> _Open:
        with self._lock:
            # Before it is open: what was the most until now belongs to the phases around it, or to none.
            sample = self._read()
            self._keep(sample)
            thread = threading.get_ident()
            phase = _Open(name, kind, sample, depth=len(self._open_in(thread)), thread=thread)
            self._open.append(phase)
            self._phases.append(phase)
            if self._sampler is None:
                self._stop = threading.Event()
                self._sampler = threading.Thread(
                    target=self._sample, args=(self._stop,), name="dit360-recorder", daemon=True
                )
                self._sampler.start()
        return phase

    def _open_in(self, thread: int) -> list[_Open]:
        return [phase for phase in self._open if phase.thread == thread]

    def _end(self, phase: _Open) -> None:
        if phase.closed is not None:
            return  # ended with the phase around it
        sampler = None
        with self._lock:
            sample = self._read()
            self._keep(sample)
            # Not only the last: an interrupt, or a generator that nobody ran to its end, may have left inner ones open.
            for ended in self._open_in(phase.thread)[phase.depth :]:
                ended.closed = ended.as_of(sample)
                self._open.remove(ended)
            if not self._open:
                self._stop.set()
                sampler, self._sampler = self._sampler, None
        if sampler is not None:
            sampler.join()

    def _sample(self, stop: threading.Event) -> None:
        for count in itertools.count(1):
            if stop.wait(self._pace):
                return
            with self._lock:
                if stop.is_set():
                    return
                self._keep(self._now_in_use())
                # Not by the first few alone: the thread's start is in them, and some systems count in 16 ms.
                sparing = _SPARING * time.thread_time() / max(count, 20)
                self._pace = max(self._interval, min(sparing, _SPARSEST))

    def _now_in_use(self) -> Sample:
        return Sample(self._now(), *self._meter.now())

    def _read(self) -> Sample:
        """What is in use now, after the open phases have learnt the most that there was until now."""
        self._raise_peaks(*self._meter.most())
        sample = self._now_in_use()
        self._raise_peaks(sample.used, sample.reserved)
        return sample

    def _keep(self, sample: Sample) -> None:
        self._raise_peaks(sample.used, sample.reserved)
        self._samples.append(sample)
        if len(self._samples) > MOST_SAMPLES:
            self._samples = _thinned(self._samples)
            self._interval = self._pace = max(self._pace, min(2 * self._pace, _RAREST))

    def _raise_peaks(self, used: int, reserved: int | None) -> None:
        for phase in self._open:
            phase.peak = max(phase.peak, used)
            phase.reserved = _larger(phase.reserved, reserved)


def recorder_of(recorders: Iterable[Recorder]) -> Recorder | None:
    """Of several the one that measures what this thread does: the latest of this thread's own, or of those for all."""
    mine = [recorder for recorder in recorders if recorder.thread in (None, threading.get_ident())]
    return max(reversed(mine), key=lambda recorder: recorder.thread is not None, default=None)


class _Open:
    """A phase that has begun, and what it was when it had ended."""

    def __init__(self, name: str, kind: PhaseKind | None, first: Sample, depth: int, thread: int) -> None:
        self.name = name
        self.kind = kind
        self.thread = thread
        self.first = first
        self.depth = depth
        self.peak = first.used
        self.reserved = first.reserved
        self.marks: list[tuple[str, float]] = []
        self.failed = False
        self.closed: Phase | None = None

    def as_of(self, last: Sample) -> Phase:
        return Phase(
            name=self.name,
            started=self.first.time,
            seconds=last.time - self.first.time,
            before=self.first.used,
            after=last.used,
            peak=max(self.peak, last.used),
            reserved=self.reserved,
            marks=tuple(self.marks),
            depth=self.depth,
            failed=self.failed,
            kind=self.kind,
        )


def _thinned(samples: list[Sample]) -> list[Sample]:
    """Of each two neighbours the one with more in use, with the more that was reserved at either."""
    kept = []
    for first, second in zip(samples[::2], samples[1::2], strict=False):
        higher = first if first.used >= second.used else second
        kept.append(attrs.evolve(higher, reserved=_larger(first.reserved, second.reserved)))
    return kept + samples[2 * len(kept) :]


def _larger(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else max(one, other)


# Each returns (in use, reserved) in bytes.
class _Meter(Protocol):
    def wait(self) -> None:
        """Until the device has done what it was given."""

    def now(self) -> tuple[int, int | None]: ...

    def most(self) -> tuple[int, int | None]:
        """The most since the last call, as far as it is known; 0 otherwise."""


def _meter(device: str) -> _Meter:
    if device.startswith("cuda"):
        return _Cuda(device)
    if device.startswith("mps"):
        return _Mps()
    return _Linux() if sys.platform.startswith("linux") else _Resident()


class _Resident:
    """The process, through psutil."""

    def __init__(self) -> None:
        self._process = psutil.Process()

    def wait(self) -> None:
        pass

    def now(self) -> tuple[int, int | None]:
        return int(self._process.memory_info().rss), None

    def most(self) -> tuple[int, int | None]:
        return 0, None


class _Linux:
    """The process, from the kernel's own files: a fraction of what psutil takes, and the highest so far is told."""

    def __init__(self) -> None:
        import resource  # there is none on Windows

        self._page = resource.getpagesize()
        self._highest = 0
        self.most()

    def wait(self) -> None:
        pass

    def now(self) -> tuple[int, int | None]:
        return int(_content("/proc/self/statm").split()[1]) * self._page, None

    def most(self) -> tuple[int, int | None]:
        # Absent from some containers' kernels. Others may reset it, so that it can fall.
        found = re.search(rb"^VmHWM:\s*(\d+) kB", _content("/proc/self/status"), re.MULTILINE)
        before, self._highest = self._highest, int(found[1]) * 1024 if found else 0
        return (self._highest if self._highest > before else 0), None


def _content(file: str) -> bytes:
    # Half of what Python's own files take.
    descriptor = os.open(file, os.O_RDONLY)
    try:
        return os.read(descriptor, 65_536)
    finally:
        os.close(descriptor)


class _Cuda:
    """Torch's allocator on one CUDA device."""

    def __init__(self, device: str) -> None:
        import torch

        self._cuda = torch.cuda
        # The current device is each thread's own, so that the sampler's may be another: its number is asked for here.
        # That starts CUDA, without which the counters cannot be reset.
        current = torch.cuda.current_device()
        index = torch.device(device).index
        self._index = current if index is None else index

    def wait(self) -> None:
        self._cuda.synchronize(self._index)

    def now(self) -> tuple[int, int | None]:
        return self._read("current")

    def most(self) -> tuple[int, int | None]:
        peaks = self._read("peak")
        self._cuda.reset_peak_memory_stats(self._index)
        return peaks

    def _read(self, which: str) -> tuple[int, int | None]:
        # One call for both figures; memory_allocated and memory_reserved would each sort all that the allocator counts.
        counted = self._cuda.memory_stats_as_nested_dict(self._index)
        return int(counted["allocated_bytes"]["all"][which]), int(counted["reserved_bytes"]["all"][which])


class _Mps:
    """Torch's allocator on a Mac's GPU, which counts no peaks."""

    def __init__(self) -> None:
        import torch

        self._mps = torch.mps

    def wait(self) -> None:
        self._mps.synchronize()

    def now(self) -> tuple[int, int | None]:
        return int(self._mps.current_allocated_memory()), None

    def most(self) -> tuple[int, int | None]:
        return 0, None
