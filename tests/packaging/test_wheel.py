"""What a user gets from the index: everything that is needed at run time, and nothing else."""

import re
import subprocess
import sys
import zipfile
from pathlib import PurePath

import pytest
from command_line import python
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from wheels_of import ROOT, build_wheels

DISTRIBUTIONS = sorted(path.parent.name for path in ROOT.glob("dit360-*/pyproject.toml"))


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A folder with the wheels of all distributions, built in one process, since each import costs a second."""
    out = tmp_path_factory.mktemp("dist")
    build_wheels(out, DISTRIBUTIONS)
    return out


def opened(dist, name):
    (built,) = dist.glob(f"{name.replace('-', '_')}-*.whl")
    return zipfile.ZipFile(built)


@pytest.fixture(scope="module")
def wheel(dist):
    return opened(dist, "dit360-core")


def metadata(dist, name):
    """The metadata of a distribution, checked as an index checks it."""
    wheel = opened(dist, name)
    (about,) = (path for path in wheel.namelist() if path.endswith(".dist-info/METADATA"))
    return Metadata.from_email(wheel.read(about), validate=True)


def needed(dist, name, extra=""):
    """What a distribution requires, alone or with an extra, as texts without markers."""
    found = metadata(dist, name).requires_dist or []
    said = f'extra == "{extra}"' if extra else ""
    asked = [each for each in found if said in str(each.marker) and (extra or "extra" not in str(each.marker))]
    for each in asked:
        each.marker = None
    return sorted(map(str, asked))


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


@pytest.mark.parametrize("name", ["dit360-attn-flash", "dit360-attn-xformers"])
def test_kernels_that_choose_a_gpu_or_a_torch_are_no_requirement(dist, name):
    """They would be compiled, or replace the torch that is there; who wants them asks for them."""
    assert needed(dist, name) == ["dit360-core<1,>=0.1"]
    kernels = {"dit360-attn-flash": ["fa2", "fa3", "fa4", "hub"], "dit360-attn-xformers": ["xformers"]}
    assert sorted(metadata(dist, name).provides_extra) == kernels[name]


EXTRAS = {
    "bnb": ["dit360-quant-bnb"],
    "comfy": ["dit360-comfy"],
    "ddim": ["dit360-sched-ddim"],
    "flash": ["dit360-attn-flash"],
    "flux2": ["dit360-model-flux2"],
    "gguf": ["dit360-format-gguf"],
    "int4": ["dit360-quant-bnb"],
    "klein": ["dit360-model-flux2"],
    "krea": ["dit360-model-krea"],
    "qwen": ["dit360-model-qwen"],
    "xformers": ["dit360-attn-xformers[xformers]"],
    "ray": ["ray>=2.48"],
    "exr": ["openexr>=3.5"],
    "tiff": ["tifffile>=2024.8.10"],
    "formats": ["openexr>=3.5", "tifffile>=2024.8.10"],
    "preview": ["textual-image>=0.12"],
    "serve": ["python-multipart>=0.0.20", "starlette>=0.47", "uvicorn>=0.34"],
    "all": sorted(name for name in DISTRIBUTIONS if name != "dit360-core"),
}


def test_extras_of_the_core_bring_what_they_are_called_by(dist):
    assert {
        extra: needed(dist, "dit360-core", extra) for extra in metadata(dist, "dit360-core").provides_extra
    } == EXTRAS


def test_every_distribution_is_an_extra():
    """So "all" is all extras, but those that are others' libraries, and kernels that choose a torch."""
    brought = {Requirement(text).name for extra in EXTRAS.keys() - {"all"} for text in EXTRAS[extra]}
    others = {"ray", "openexr", "tifffile", "textual-image", "python-multipart", "starlette", "uvicorn"}
    assert brought == {*EXTRAS["all"], *others}


def test_every_extra_can_be_had_from_these_wheels(dist):
    """With the wheels at hand and no index: everything else is here already, and nothing more is wanted.

    What can be had together can be had alone.
    """
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-index", "--find-links", dist]
    each = [f"dit360-core[{extra}]" for extra in EXTRAS]
    done = subprocess.run([*command, *each], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "does not provide the extra" not in done.stderr


@pytest.mark.parametrize("name", [name for name in DISTRIBUTIONS if name != "dit360-core"])
def test_the_claimed_cores_have_both_ends_and_this_one_is_among_them(dist, name):
    """Plugins go with a major version, as docs/plugins.md promises; what uses more of the core, with a minor one."""
    (text,) = (each for each in needed(dist, name) if Requirement(each).name == "dit360-core")
    claimed = Requirement(text).specifier
    core = metadata(dist, "dit360-core").version
    assert {each.operator for each in claimed} == {">=", "<"}
    assert core in claimed
    following = f"{core.major}.{core.minor + 1}" if name == "dit360-comfy" else f"{core.major + 1}"
    assert f"<{following}" in str(claimed)


def test_floors_are_those_of_the_oldest_versions_that_are_tried(dist):
    """So that no floor is claimed that tests were never run with. Of xFormers: the file's header tells why."""
    lines = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    tried = {each.name: str(each.specifier)[2:] for each in map(Requirement, (x for x in lines if x[:1] not in "#"))}
    found = [Requirement(text) for name in DISTRIBUTIONS for text in needed(dist, name)]
    found += [Requirement(text) for text in EXTRAS["ray"]]
    floors = {(each.name, s.version) for each in found for s in each.specifier if s.operator == ">="}
    floors = {(name, version) for name, version in floors if name not in DISTRIBUTIONS}
    wrong = {
        name: (floor, tried[name]) for name, floor in floors if not SpecifierSet(f"~={floor}.0").contains(tried[name])
    }
    assert not wrong, "see the header of constraints-oldest.txt"


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_pythons_that_a_distribution_names_are_those_of_the_table_of_what_is_supported(dist, name):
    page = (ROOT / "docs" / "distributions.md").read_text(encoding="utf-8")
    supported = re.findall(r"^\| (3\.\d+) \| yes", page, re.M)
    about = metadata(dist, name)
    named = {each.rpartition(" ")[2] for each in about.classifiers if " :: Python :: 3." in each}
    assert named == {*supported}
    assert about.requires_python == SpecifierSet(f">={supported[0]}")


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_readme_can_be_shown_by_an_index(dist, name):
    """It has no way into the repository, so links and pictures in it have to be whole addresses."""
    about = metadata(dist, name)
    assert about.description_content_type == "text/markdown"
    links = re.findall(r"\]\(([^)\s]+)\)", about.description)
    assert not [link for link in links if not link.startswith("https://")]


def test_the_wheel_for_comfyui_holds_the_whole_node_folder(dist):
    inside = opened(dist, "dit360-comfy").namelist()
    pack = {name.removeprefix("dit360_comfy/node_pack/") for name in inside if "/node_pack/" in name}
    assert pack >= {"__init__.py", "pyproject.toml", "requirements.txt"}
    for kind in ("web/*.js", "web/docs/*.md", "locales/*/*.json", "example_workflows/*.json"):
        assert any(PurePath(name).match(kind) for name in pack), kind


def test_the_wheel_for_comfyui_leaves_the_choice_of_torch_to_comfyui(dist):
    """The core alone asks for one, of any build; what is there is kept."""
    names = {Requirement(each).name for each in needed(dist, "dit360-comfy")}
    assert "dit360-core" in names
    assert not names & {"torch", "diffusers"}


def test_the_installed_wheel_puts_its_nodes_into_comfyui(dist, tmp_path):
    for name in ("site", "custom_nodes", "models", "user"):
        (tmp_path / name).mkdir()
    with opened(dist, "dit360-comfy") as wheel:
        wheel.extractall(tmp_path / "site")
    code = "import sys; sys.argv = ['dit360-comfy', 'install', '--comfyui', '.']; "
    done = python(
        code + "from dit360_comfy.cli import main; main()", cwd=tmp_path, fresh=True, PYTHONPATH=tmp_path / "site"
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    linked = (tmp_path / "custom_nodes" / "dit360-comfy").resolve()
    assert linked == tmp_path / "site" / "dit360_comfy" / "node_pack"


@pytest.mark.parametrize("name", ["dit360-core", "dit360-comfy", *(n for n in DISTRIBUTIONS if "-model-" in n)])
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
    assert "dit360_core/models/shipped/tiny/transformer/diffusion_pytorch_model.safetensors" in inside


def test_the_embedded_model_is_small(wheel):
    embedded = sum(i.file_size for i in wheel.infolist() if i.filename.startswith("dit360_core/models/shipped/tiny/"))
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
