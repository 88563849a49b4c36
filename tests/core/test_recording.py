"""Memory and time of phases, measured on real allocations of this process."""

import contextlib
import json
import mmap
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from dit360_core.errors import InputError
from dit360_core.system import recording as module
from dit360_core.system.recording import Phase, Recorder, Recording, Sample

MIB = 2**20
NEAR = 8 * MIB  # what else the process may take or give back meanwhile

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells the most so far")


def filled(mebibytes: int) -> torch.Tensor:
    """Memory that is really there, and the system's again as soon as it is dropped: what malloc gives may stay."""
    return torch.frombuffer(mmap.mmap(-1, mebibytes * MIB), dtype=torch.uint8).fill_(1)


def below_the_most() -> int:
    """MiB by which the process is below the most that it ever held: less than this leaves no trace in the kernel."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return (int(fields["VmHWM"].split()[0]) - int(fields["VmRSS"].split()[0])) // 1024


def wait_for_samples(recorder: Recorder, count: int) -> None:
    seen, deadline = len(recorder.recording.samples), time.monotonic() + 30
    while len(recorder.recording.samples) < seen + count:
        assert time.monotonic() < deadline, "the sampler is dead"
        time.sleep(0.001)


def samplers() -> int:
    return sum(thread.name == "dit360-recorder" for thread in threading.enumerate())


def test_memory_is_seen_in_its_phase_and_in_no_other():
    filled(80)  # so that only the sampler can see the next
    recorder = Recorder("cpu", interval=0.001)
    with recorder.phase("before"):
        pass
    with recorder.phase("holds"):
        held = filled(64)
        wait_for_samples(recorder, 2)
        del held
    with recorder.phase("after"):
        pass
    before, holds, after = recorder.recording.phases
    assert [phase.name for phase in (before, holds, after)] == ["before", "holds", "after"]
    assert abs(holds.peak - holds.before - 64 * MIB) < NEAR
    assert abs(holds.after - holds.before) < NEAR
    for other in (before, after):
        assert other.peak - other.before < NEAR
    assert recorder.recording.peak == holds.peak
    assert abs(max(sample.used for sample in recorder.recording.samples) - holds.peak) < NEAR
    assert before.reserved is None
    assert not recorder.recording.samples[0].reserved


def test_what_stays_is_the_difference_of_before_and_after():
    recorder = Recorder("cpu", interval=10)
    with recorder.phase("loading"):
        held = filled(64)
    [phase] = recorder.recording.phases
    assert abs(phase.after - phase.before - 64 * MIB) < NEAR
    assert abs(phase.before - recorder.recording.base) < NEAR
    assert phase.peak >= phase.after
    del held


@linux
def test_a_peak_between_two_samples_is_not_lost_if_it_is_the_highest_so_far():
    recorder = Recorder("cpu", interval=10)  # the sampler never comes to it
    more = below_the_most() + 32
    with recorder.phase("outer"):
        with recorder.phase("quiet before"):
            pass
        with recorder.phase("inner"):
            filled(more)
        with recorder.phase("quiet"):
            pass
    outer, before, inner, quiet = recorder.recording.phases
    assert len(recorder.recording.samples) == 8
    assert max(sample.used for sample in recorder.recording.samples) < inner.before + NEAR
    for phase in (outer, inner):
        assert abs(phase.peak - phase.before - more * MIB) < NEAR
    for phase in (before, quiet):
        assert phase.peak - phase.before < NEAR


@linux
def test_a_peak_outside_of_inner_phases_is_the_outer_ones_alone():
    recorder = Recorder("cpu", interval=10)
    more = below_the_most() + 32
    with recorder.phase("outer"):
        filled(more)
        with recorder.phase("inner"):
            pass
    outer, inner = recorder.recording.phases
    assert abs(outer.peak - outer.before - more * MIB) < NEAR
    assert inner.peak - inner.before < NEAR
    assert (outer.depth, inner.depth) == (0, 1)
    assert outer.started <= inner.started <= inner.ended <= outer.ended


@linux
def test_a_peak_between_phases_is_no_phases():
    recorder = Recorder("cpu", interval=10)
    with recorder.phase("one"):
        pass
    filled(below_the_most() + 32)
    with recorder.phase("two"):
        pass
    for phase in recorder.recording.phases:
        assert phase.peak - phase.before < NEAR


def test_an_exception_passes_and_is_noted_and_the_recorder_goes_on():
    recorder = Recorder("cpu")
    error = ValueError("no such step")

    def picture() -> None:
        with recorder.phase("picture"):
            with recorder.phase("fine"):
                pass
            with recorder.phase("sampling"):
                raise error

    with pytest.raises(ValueError, match="no such step") as caught:
        picture()
    assert caught.value is error
    with recorder.phase("next picture"):
        pass
    phases = recorder.recording.phases
    assert [(phase.name, phase.depth, phase.failed) for phase in phases] == [
        ("picture", 0, True),
        ("fine", 1, False),
        ("sampling", 1, True),
        ("next picture", 0, False),
    ]
    assert samplers() == 0


def test_a_phase_that_nobody_ended_ends_with_the_one_around_it():
    recorder = Recorder("cpu")
    left = contextlib.ExitStack()
    with recorder.phase("outer"):
        left.enter_context(recorder.phase("left open"))
    left.close()
    with recorder.phase("next"):
        pass
    assert [phase.depth for phase in recorder.recording.phases] == [0, 1, 0]
    outer, inner, _ = recorder.recording.phases
    assert inner.ended == outer.ended
    assert samplers() == 0


def test_marks_belong_to_the_innermost_phase():
    recorder = Recorder("cpu")
    recorder.mark("nowhere")
    with recorder.phase("outer"):
        recorder.mark("begun")
        with recorder.phase("sampling"):
            recorder.mark("step 1")
            recorder.mark("step 2")
    outer, sampling = recorder.recording.phases
    assert [name for name, _ in outer.marks] == ["begun"]
    assert [name for name, _ in sampling.marks] == ["step 1", "step 2"]
    times = [sampling.started, *(when for _, when in sampling.marks), sampling.ended]
    assert times == sorted(times)


def test_an_open_phase_is_told_as_it_stands():
    recorder = Recorder("cpu", interval=10)
    with recorder.phase("loading"):
        held = filled(64)
        [phase] = recorder.recording.phases
        assert abs(phase.after - phase.before - 64 * MIB) < NEAR
        del held
    [ended] = recorder.recording.phases
    assert ended.seconds > phase.seconds
    assert ended.peak >= phase.peak


def test_many_phases_leave_no_thread_and_samples_are_in_order():
    recorder = Recorder("cpu", interval=0.0005)
    threads = threading.active_count()
    for number in range(200):
        with recorder.phase("outer"), recorder.phase(f"inner {number}"):
            assert samplers() == 1
    assert threading.active_count() == threads
    times = [sample.time for sample in recorder.recording.samples]
    assert times == sorted(times)
    assert len(recorder.recording.phases) == 400
    quiet = len(times)
    time.sleep(0.01)
    assert len(recorder.recording.samples) == quiet  # nothing is sampled outside of phases


def test_samples_are_bounded_and_their_highest_stays(monkeypatch):
    monkeypatch.setattr(module, "MOST_SAMPLES", 10)
    recorder = Recorder("cpu", interval=0.3)
    with recorder.phase("loading"):
        held = filled(64)
        with recorder.phase("peak"):
            pass
        del held
    for _ in range(50):
        with recorder.phase("short"):
            assert len(recorder.recording.samples) <= 10
    samples = recorder.recording.samples
    assert max(sample.used for sample in samples) - samples[-1].used > 64 * MIB - NEAR
    assert recorder.recording.interval == 1
    assert [sample.time for sample in samples] == sorted(sample.time for sample in samples)


def test_of_two_samples_the_higher_stays():
    samples = [Sample(0, 5, 9), Sample(1, 7, 8), Sample(2, 3, 3), Sample(3, 1, 4), Sample(4, 2, 2)]
    assert module._thinned(samples) == [Sample(1, 7, 9), Sample(2, 3, 4), Sample(4, 2, 2)]


def test_a_recording_is_plain_json_without_its_samples():
    recorder = Recorder("cpu")
    with recorder.phase("a"), recorder.phase("b"):
        recorder.mark("step 1")
    told = recorder.recording.as_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert set(told) == {"device", "base", "peak", "phases"}
    assert type(told["base"]) is type(told["phases"][0]["peak"]) is int
    assert told["phases"][1]["marks"][0][0] == "step 1"
    assert told["phases"][1]["depth"] == 1
    assert round(told["phases"][0]["seconds"], 3) == told["phases"][0]["seconds"]


def test_a_recording_does_not_change():
    recorder = Recorder("cpu")
    with recorder.phase("a"):
        first = recorder.recording
    count = len(first.samples)
    with recorder.phase("b"):
        pass
    assert (len(first.phases), len(first.samples)) == (1, count)
    with pytest.raises(AttributeError):
        first.base = 0


def test_nothing_recorded_is_a_recording_too():
    recording = Recorder("cpu").recording
    assert recording.phases == recording.samples == ()
    assert recording.peak == recording.base > 0
    assert Recording(device="cpu", base=7).as_dict() == {"device": "cpu", "base": 7, "peak": 7, "phases": []}


@pytest.mark.parametrize("interval", [0, -1, float("nan"), float("inf")])
def test_an_interval_is_above_zero(interval):
    with pytest.raises(InputError, match="above 0"):
        Recorder("cpu", interval=interval)


class Counters:
    """What torch.cuda counts, of an allocator that is played here: the calls and their results are torch's."""

    def __init__(self) -> None:
        self.current = self.peak = 0
        self.waits = 0

    def hold(self, bytes_: int) -> None:
        self.current = bytes_
        self.peak = max(self.peak, bytes_)

    def current_device(self) -> int:
        return 0

    def synchronize(self, index: int) -> None:
        self.waits += 1

    def memory_stats_as_nested_dict(self, index: int) -> dict:
        allocated = {"current": self.current, "peak": self.peak}
        return {
            "allocated_bytes": {"all": allocated},
            "reserved_bytes": {"all": {which: 2 * bytes_ for which, bytes_ in allocated.items()}},
        }

    def reset_peak_memory_stats(self, index: int) -> None:
        self.peak = self.current


def test_resetting_the_allocators_counters_costs_no_outer_phase_its_peak(monkeypatch):
    counters = Counters()
    monkeypatch.setattr(torch, "cuda", counters)
    recorder = Recorder("cuda", interval=10)
    with recorder.phase("outer"):
        counters.hold(100)
        counters.hold(10)
        with recorder.phase("inner"):
            counters.hold(50)
            counters.hold(20)
        with recorder.phase("quiet"):
            recorder.mark("step 1")
    counters.hold(500)
    counters.hold(20)
    with recorder.phase("next"):
        counters.hold(30)
    told = {p.name: (p.before, p.after, p.peak, p.reserved) for p in recorder.recording.phases}
    assert told == {
        "outer": (0, 20, 100, 200),
        "inner": (10, 20, 50, 100),
        "quiet": (20, 20, 20, 40),
        "next": (20, 30, 30, 60),
    }
    assert counters.waits == 9


def test_a_reading_that_takes_long_is_made_rarely():
    recorder = Recorder("cpu", interval=0.001)
    read = recorder._meter.now

    def slowly() -> tuple[int, None]:
        end = time.thread_time() + 0.001
        while time.thread_time() < end:
            pass
        return read()

    recorder._meter.now = slowly
    with recorder.phase("sampling"):
        wait_for_samples(recorder, 1)
    assert recorder.recording.interval == 0.02  # and not rarer: a peak must not be missed


def test_a_device_that_fails_at_the_end_of_a_phase_fails_the_phase(monkeypatch):
    counters = Counters()
    monkeypatch.setattr(torch, "cuda", counters)
    recorder = Recorder("cuda")

    def fail(index: int) -> None:
        raise RuntimeError("an illegal memory access")

    with pytest.raises(RuntimeError, match="illegal"), recorder.phase("sampling"):
        counters.synchronize = fail
    [phase] = recorder.recording.phases
    assert phase.failed
    assert samplers() == 0


def test_a_phase_knows_its_end():
    assert Phase(name="a", started=1, seconds=2, before=0, after=0, peak=0).ended == 3


@linux
def test_both_ways_to_read_resident_memory_agree():
    (one, _), (other, _) = module._Linux().now(), module._Resident().now()
    assert abs(one - other) < NEAR
