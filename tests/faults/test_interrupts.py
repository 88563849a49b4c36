"""Signals that come at a bad moment, and numbers that no float can hold."""

import logging
import threading
from pathlib import Path

import pytest
from command_line import python
from dit360_core.errors import InputError
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions, options_of
from dit360_core.system.atomic import new_folder, write_atomic
from dit360_core.system.recording import Recorder


def test_a_second_interrupt_while_a_file_is_removed_leaves_none(tmp_path, monkeypatch):
    real, times = Path.unlink, []

    def interrupted(path, **options):
        times.append(path)
        if len(times) == 1:
            raise KeyboardInterrupt
        real(path, **options)

    monkeypatch.setattr(Path, "unlink", interrupted)
    with pytest.raises(KeyboardInterrupt), write_atomic(tmp_path / "a.png"):
        raise KeyboardInterrupt
    assert len(times) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_second_interrupt_while_a_folder_is_removed_leaves_none(tmp_path, monkeypatch):
    import shutil

    real, times = shutil.rmtree, []

    def interrupted(path, **options):
        times.append(path)
        if len(times) == 1:
            raise KeyboardInterrupt
        real(path, **options)

    monkeypatch.setattr("dit360_core.system.atomic.shutil.rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "model"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


SIGNALLED = """
import os, signal, sys
import typer.core
import dit360_core.cli as cli

signal.signal(signal.SIGINT, signal.default_int_handler)
def parse(self, context, arguments):
    for name in sys.argv.pop().split("+"):
        os.kill(os.getpid(), getattr(signal, name))
    raise AssertionError("no signal came")
typer.core.TyperGroup.parse_args = parse
cli.main()
"""


@pytest.mark.parametrize(("signals", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_before_the_commands_body_ends_with_its_own_code(tmp_path, signals, code):
    done = python(f"import sys; sys.argv = ['dit360', {signals!r}]\n{SIGNALLED}", cwd=tmp_path, fresh=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_signal_does_not_disturb_what_the_first_began():
    from dit360_core.cli import _Signals
    from dit360_core.cli.output import Terminated

    signals = _Signals()
    with pytest.raises(KeyboardInterrupt):
        signals(2, None)
    signals(2, None)
    signals(15, None)
    assert signals.terminated
    signals._last = float("-inf")  # long ago
    with pytest.raises(Terminated):
        signals(15, None)


@pytest.mark.parametrize("at", range(1, 11))
def test_an_interrupt_while_it_gets_quiet_leaves_every_level_as_it_was(at, monkeypatch):
    """At each of the ten times that a level is set on the way in, and some of those on the way out."""
    from dit360_core.models.weights.quiet import quiet

    loggers = [logging.getLogger(name) for name in ("transformers", "diffusers", "xformers", "bitsandbytes", "kernels")]
    before = [logger.level for logger in loggers]
    real, times = logging.Logger.setLevel, []

    def interrupted(self, level):
        real(self, level)
        times.append(level)
        if len(times) == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(logging.Logger, "setLevel", interrupted)
    with pytest.raises(KeyboardInterrupt), quiet():
        raise KeyboardInterrupt
    assert [logger.level for logger in loggers] == before


HUGE = 10**400
BROKEN = [
    (cls, option.name)
    for cls in (LoadOptions, SampleOptions, DecodeOptions)
    for option in options_of(cls).values()
    if option.kind is not str or option.optional
]


@pytest.mark.parametrize("value", [HUGE, -HUGE, 10**5000], ids=["400 digits", "negative", "5000 digits"])
@pytest.mark.parametrize(("cls", "name"), BROKEN)
def test_a_whole_number_beyond_every_float_is_one_short_sentence(cls, name, value):
    with pytest.raises(InputError) as told:
        cls(**{"prompt": "a castle"} if cls is SampleOptions else {}, **{name: value})
    assert name in str(told.value)
    assert len(str(told.value)) < 200


@pytest.mark.parametrize(
    "pair", [["a.safetensors", 10**5000], [10**5000, 1.0], [None, 1.0]], ids=["strength", "file", "none"]
)
def test_a_pair_that_is_no_file_and_strength_is_one_short_sentence(pair):
    with pytest.raises(InputError, match="pairs of a file and a strength") as told:
        LoadOptions(lora=[pair])
    assert len(str(told.value)) < 200


def test_phases_of_several_threads_are_each_threads_own():
    recorder = Recorder("cpu")
    found, together = {}, threading.Barrier(4)

    def work(number):
        together.wait()
        for part in range(3):
            with recorder.phase(f"{number}.{part}"):
                together.wait()
                with recorder.phase("inner"):
                    together.wait()
        found[number] = [(p.name, p.depth) for p in recorder.recording_of(threading.get_ident()).phases]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert found[number] == [(n, d) for part in range(3) for n, d in ((f"{number}.{part}", 0), ("inner", 1))]
    assert not any(phase.failed for phase in recorder.recording.phases)


def test_pictures_of_several_threads_each_have_all_their_phases(tiny):
    made, together = {}, threading.Barrier(3)

    def paint(number):
        together.wait()
        used = tiny.generate("a castle", width=64, steps=2, seed=number, log_memory_stats=number != 2).settings["used"]
        made[number] = [phase["name"] for phase in used["memory"]["phases"]] if "memory" in used else None

    threads = [threading.Thread(target=paint, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = tiny.generate("a castle", width=64, steps=2, seed=1, log_memory_stats=True).settings["used"]["memory"]
    assert [made[0], made[1]] == [[phase["name"] for phase in alone["phases"]]] * 2
    assert made[2] is None
