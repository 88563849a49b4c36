"""The node's bar while weights are read, and ComfyUI's button that stops that. ComfyUI is a stand-in."""

import sys
from types import SimpleNamespace
from typing import ClassVar

import dit360_core as dit360
import pytest
from dit360_comfy import host
from dit360_comfy.model import source_of
from dit360_core.options import LoadOptions
from dit360_core.system.progress import listener


class Interrupted(Exception):
    pass


class Bar:
    """As comfy.utils.ProgressBar: what it was told."""

    made: ClassVar = []

    def __init__(self, total):
        self.total, self.told = total, []
        self.made.append(self)

    def update_absolute(self, value, total=None, preview=None):
        self.told.append((value, total))


@pytest.fixture
def comfyui(monkeypatch):
    pressed = SimpleNamespace(button=False)

    def throw():
        if pressed.button:
            raise Interrupted

    monkeypatch.setattr(Bar, "made", [])
    for name, module in {
        "folder_paths": SimpleNamespace(),
        "comfy": SimpleNamespace(),
        "comfy.utils": SimpleNamespace(ProgressBar=Bar),
        "comfy.model_management": SimpleNamespace(throw_exception_if_processing_interrupted=throw),
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("utils", "model_management"):
        setattr(sys.modules["comfy"], name, sys.modules[f"comfy.{name}"])
    return pressed


def test_the_bar_follows_what_is_read_and_the_log_names_it(comfyui, tiny_folder, caplog):
    caplog.set_level("INFO", "dit360")
    size = sum(file.stat().st_size for file in tiny_folder.rglob("*.safetensors"))
    with host.slow_things_shown():
        dit360.load(str(tiny_folder))
    (bar,) = Bar.made
    assert bar.total == size
    assert bar.told[0] == (0, size)
    assert bar.told[-1] == (size, size)
    assert sum(record.message.startswith("Reading weights, ") for record in caplog.records) == 1
    assert listener() is None


def test_the_button_stops_it(comfyui, tiny_folder):
    comfyui.button = True
    with pytest.raises(Interrupted), host.slow_things_shown():
        dit360.load(str(tiny_folder))
    assert not Bar.made


def test_a_model_at_work_is_listened_to(tiny_folder):
    with source_of(LoadOptions(model=str(tiny_folder))).pipeline():
        assert listener() is not None
    assert listener() is None
