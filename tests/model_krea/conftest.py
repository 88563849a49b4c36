"""A Krea 2 in miniature: as diffusers has it, its folder, and the same in dit360."""

import dit360_core as dit360
import pytest
from random_families import random_krea


@pytest.fixture(scope="session")
def base():
    """The pipeline of diffusers, which nobody changes."""
    return random_krea()


@pytest.fixture(scope="session")
def folder(base, tmp_path_factory):
    where = tmp_path_factory.mktemp("krea") / "base"
    base.save_pretrained(where)
    return where


@pytest.fixture(scope="session")
def pipeline(folder):
    return dit360.load(str(folder), precision="fp32", device="cpu")
