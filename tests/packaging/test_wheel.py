"""What a user gets from the index: everything that is needed at run time, and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT / "dit360-core"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return zipfile.ZipFile(built)


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    source = ROOT / "dit360-core" / "src"
    files = {
        p.relative_to(source).as_posix()
        for p in (source / "dit360_core").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == files
    assert "dit360_core/models/tiny/transformer/diffusion_pytorch_model.safetensors" in inside
    assert "dit360_core/py.typed" in inside


def test_the_embedded_model_is_small(wheel):
    embedded = sum(i.file_size for i in wheel.infolist() if i.filename.startswith("dit360_core/models/tiny/"))
    assert embedded <= 25 * 2**20


def test_metadata_has_licence_readme_and_command(wheel):
    names = {name.split(".dist-info/")[1]: name for name in wheel.namelist() if ".dist-info/" in name}
    assert "licenses/LICENSE" in names
    assert "dit360 = dit360_core.cli:main" in wheel.read(names["entry_points.txt"]).decode()
    metadata = wheel.read(names["METADATA"]).decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "# dit360-core" in metadata


def test_no_weights_are_pickled(wheel):
    assert not [n for n in wheel.namelist() if n.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]
