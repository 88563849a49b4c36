"""A family of models with the core and nothing else of this project; and without it, how to get it is told."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import random_families
from wheels_of import build_wheels

FAMILIES = {
    "dit360-model-flux2": ("flux2", "Flux2KleinPipeline", "random_klein"),
    "dit360-model-qwen": ("qwen", "QwenImagePipeline", "random_qwen"),
    "dit360-model-krea": ("krea", "Krea2Pipeline", "random_krea"),
}
"""Distribution → its extra, the class of its pipelines, and what makes a tiny model of it."""

PAINT = """
import json, sys
import dit360_core
from importlib import metadata
from dit360_core.plugins.registry import default_registry
folder, out = sys.argv[1:]
pipe = dit360_core.load(folder, device="cpu", precision="fp32")
pipe.generate("a calm sea", width=64, steps=1, seed=1).save(out)
print(json.dumps([
    sorted(d.name for d in metadata.distributions() if d.name.startswith("dit360")),
    [entry.address for entry in default_registry().entries("architecture")],
    dit360_core.__file__,
]))
"""

REFUSE = """
import sys
from dit360_core.cli import main
sys.argv = ["dit360", "plan", "--model", sys.argv[1]]
main()
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Distribution → its wheel, unpacked: a folder of packages and their metadata."""
    out = tmp_path_factory.mktemp("wheels")
    names = ["dit360-core", *FAMILIES]
    build_wheels(out, names)
    for name in names:
        (built,) = out.glob(f"{name.replace('-', '_')}-*.whl")
        zipfile.ZipFile(built).extractall(out / name)
    return out


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """All that is installed here and not of this project, without the files by which editable packages are found."""
    place = tmp_path_factory.mktemp("libraries")
    for installed in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(installed).iterdir():
            mine = entry.name.startswith(("dit360", "_editable_impl_dit360", "__editable__"))
            if not mine and entry.suffix != ".pth" and not (place / entry.name).exists():
                (place / entry.name).symlink_to(entry)
    return place


def alone(wheels, libraries, names, code, *arguments):
    """Python with these distributions, from their wheels, and the libraries. Nothing of this environment is found."""
    path = os.pathsep.join(map(str, [*(wheels / name for name in names), libraries]))
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "DIT360_STRICT_PLUGINS": "1"}
    environment.pop("PYTHONSTARTUP", None)
    return subprocess.run(
        [sys.executable, "-S", "-P", "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=False, env=environment, cwd=wheels,
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", FAMILIES)
def test_the_core_and_one_family_paint(wheels, libraries, tmp_path, name):
    extra, _, make = FAMILIES[name]
    getattr(random_families, make)().save_pretrained(tmp_path / "model")
    done = alone(wheels, libraries, ["dit360-core", name], PAINT, tmp_path / "model", tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    there, offers, core = json.loads(done.stdout.splitlines()[-1])
    assert there == sorted(["dit360-core", name])
    assert offers == ["dit360-core:flux", f"{name}:{extra}"]
    assert Path(core).is_relative_to(wheels)
    assert (tmp_path / "out.png").is_file()


@pytest.mark.parametrize("name", FAMILIES)
def test_without_it_one_sentence_says_what_to_install(wheels, libraries, tmp_path, name):
    extra, pipeline, _ = FAMILIES[name]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    done = alone(wheels, libraries, ["dit360-core"], REFUSE, tmp_path / "model")
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert f"holds a {pipeline}, whose family is not installed" in said
    assert f'pip install "dit360-core[{extra}]"' in said
