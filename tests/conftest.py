"""Small real models shared by the tests. No network: the Hub is switched off before anything imports it."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import shutil
from importlib import resources
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    """The embedded model's folder."""
    return Path(str(resources.files("dit360_core") / "models" / "tiny"))


@pytest.fixture(scope="session")
def tiny():
    """The embedded model, loaded once."""
    import dit360_core

    return dit360_core.load("tiny")


@pytest.fixture
def tiny_copy(tiny_folder, tmp_path) -> Path:
    """A copy of the embedded model's folder that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))
