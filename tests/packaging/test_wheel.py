"""What a user gets from the index: everything that is needed at run time, and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path, PurePath

import pytest
from command_line import python

ROOT = Path(__file__).parents[2]


DISTRIBUTIONS = sorted(path.parent.name for path in ROOT.glob("dit360-*/pyproject.toml"))


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A folder with the wheels of all distributions."""
    out = tmp_path_factory.mktemp("dist")
    for name in DISTRIBUTIONS:
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT / name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return out


def opened(dist, name):
    (built,) = dist.glob(f"{name.replace('-', '_')}-*.whl")
    return zipfile.ZipFile(built)


@pytest.fixture(scope="module")
def wheel(dist):
    return opened(dist, "dit360-core")


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_wheel_holds_its_package_licence_readme_and_types(dist, name):
    inside = opened(dist, name).namelist()
    package = name.replace("-", "_")
    assert f"{package}/py.typed" in inside
    assert any(path.endswith("licenses/LICENSE") for path in inside)
    assert all(path.startswith(package) for path in inside)


@pytest.mark.parametrize("name", [name for name in DISTRIBUTIONS if name not in ("dit360-core", "dit360-comfy")])
def test_a_plugins_wheel_says_where_its_plugin_is(dist, name):
    wheel = opened(dist, name)
    (points,) = (path for path in wheel.namelist() if path.endswith("entry_points.txt"))
    assert f"= {name.replace('-', '_')}" in wheel.read(points).decode()


def test_flash_needs_nothing_that_is_big_or_must_be_compiled(dist):
    wheel = opened(dist, "dit360-attn-flash")
    (about,) = (path for path in wheel.namelist() if path.endswith("METADATA"))
    needed = [line for line in wheel.read(about).decode().splitlines() if line.startswith("Requires-Dist")]
    assert [line for line in needed if "extra ==" not in line] == ["Requires-Dist: dit360-core>=0.1"]
    assert {line.partition("extra == ")[2].strip("'\"") for line in needed} - {""} == {"fa2", "fa3", "fa4", "hub"}


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        ("flash", "attn-flash"),
        ("xformers", "attn-xformers"),
        ("bnb", "quant-bnb"),
        ("ddim", "sched-ddim"),
        ("comfy", "comfy"),
    ],
)
def test_an_extra_of_the_core_means_its_distribution_and_nothing_that_is_not_here(dist, extra, name):
    """With the wheels at hand and no index: everything else is here already, and nothing more is wanted."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-index", "--find-links", dist]
    done = subprocess.run([*command, f"dit360-core[{extra}]"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    wheel = opened(dist, "dit360-core")
    (about,) = (path for path in wheel.namelist() if path.endswith("METADATA"))
    wanted = f"Requires-Dist: dit360-{name}; extra == '{extra}'"
    assert wanted in wheel.read(about).decode().replace('"', "'").splitlines()


def test_the_wheel_for_comfyui_holds_the_whole_node_folder(dist):
    inside = opened(dist, "dit360-comfy").namelist()
    pack = {name.removeprefix("dit360_comfy/node_pack/") for name in inside if "/node_pack/" in name}
    assert pack >= {"__init__.py", "pyproject.toml", "requirements.txt"}
    for kind in ("web/*.js", "web/docs/*.md", "locales/*/*.json", "example_workflows/*.json"):
        assert any(PurePath(name).match(kind) for name in pack), kind


def test_the_wheel_for_comfyui_leaves_the_choice_of_torch_to_comfyui(dist):
    """The core alone asks for one, of any build; what is there is kept."""
    wheel = opened(dist, "dit360-comfy")
    (about,) = (path for path in wheel.namelist() if path.endswith("METADATA"))
    needed = [line for line in wheel.read(about).decode().splitlines() if line.startswith("Requires-Dist")]
    assert "Requires-Dist: dit360-core>=0.1" in needed
    assert not [line for line in needed if "torch" in line or "diffusers" in line]


def test_the_installed_wheel_puts_its_nodes_into_comfyui(dist, tmp_path):
    for name in ("site", "custom_nodes", "models", "user"):
        (tmp_path / name).mkdir()
    with opened(dist, "dit360-comfy") as wheel:
        wheel.extractall(tmp_path / "site")
    code = "import sys; sys.argv = ['dit360-comfy', 'install', '--comfyui', '.']; "
    done = python(code + "from dit360_comfy.cli import main; main()", cwd=tmp_path, PYTHONPATH=tmp_path / "site")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    linked = (tmp_path / "custom_nodes" / "dit360-comfy").resolve()
    assert linked == tmp_path / "site" / "dit360_comfy" / "node_pack"


@pytest.mark.parametrize("name", ["dit360-core", "dit360-comfy"])
def test_every_file_of_a_package_with_data_is_in_its_wheel(dist, name):
    source = ROOT / name / "src"
    files = {
        p.relative_to(source).as_posix()
        for p in (source / name.replace("-", "_")).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert {path for path in opened(dist, name).namelist() if ".dist-info/" not in path} == files


def test_the_cores_wheel_holds_the_embedded_model(wheel):
    inside = wheel.namelist()
    assert "dit360_core/models/tiny/transformer/diffusion_pytorch_model.safetensors" in inside


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
