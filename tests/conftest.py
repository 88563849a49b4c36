"""Small real models shared by the tests. No network: the Hub is switched off before anything imports it."""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# PyTorch's compiler would start processes for it that import PyTorch again; a few small kernels are not worth them.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
# It keeps its code for everybody, and takes no notice of this variable, with which vectorized code cannot be built.
if "ATEN_CPU_CAPABILITY" in os.environ:
    _user = os.getuid() if hasattr(os, "getuid") else ""
    _kept = f"{tempfile.gettempdir()}/dit360-tests-{_user}-{os.environ['ATEN_CPU_CAPABILITY']}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", _kept)

import gc
import random
import secrets
import shutil
from pathlib import Path

import forked
import pytest
from dit360_core.plugins import EMBEDDED_MODEL

gc.disable()  # until the tests are collected: it would look at everything again and again while modules are imported


def _keep() -> None:
    """Takes all that there is out of the garbage collector's sight, which looks at a million objects else, each time
    that memory is given back."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    gc.enable()
    _keep()  # the libraries' modules
    if "PYTEST_XDIST_WORKER" in os.environ:
        forked.begin()  # while the first tests run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    # Seeds that nobody gave are the same every time: a few of them paint black all over, at a test's size.
    secrets.randbits = random.Random(item.nodeid).getrandbits
    result = yield
    if nextitem is not None and nextitem.path != item.path:
        _keep()  # what this file imported; its fixtures are gone
    return result


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    """The embedded model's folder."""
    return Path(EMBEDDED_MODEL)


@pytest.fixture(scope="session")
def tiny():
    """The embedded model, loaded once."""
    import dit360_core

    pipe = dit360_core.load("tiny")
    _keep()  # what was imported only now
    return pipe


@pytest.fixture
def tiny_copy(tiny_folder, tmp_path) -> Path:
    """A copy of the embedded model's folder that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))
