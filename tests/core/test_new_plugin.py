"""``dit360 new-plugin`` writes projects that pass their own tests as they are and make pictures; or writes nothing."""

import errno
import json
import keyword
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command_line import dit360, install, python
from dit360_core.cli.scaffolding import plugin_project, write_project
from dit360_core.errors import Dit360Error
from dit360_core.plugins.hookspecs import KINDS
from dit360_core.plugins.registry import Registry
from dit360_core.system.installed import installed_version
from packaging.requirements import Requirement

HEAVY = ("torch", "diffusers", "transformers")
NAME = "mine"
FOLDERS = {
    "attention": "attn-mine-for-dit360",
    "quantization": "quant-mine-for-dit360",
    "scheduler": "sched-mine-for-dit360",
    "tiling": "tiling-mine-for-dit360",
    "architecture": "arch-mine-for-dit360",
    "format": "format-mine-for-dit360",
    "model": "elsewhere",
}
OPTIONS = {
    "attention": ["--attention-backend", NAME],
    "quantization": ["--quantization-mode", NAME],
    "scheduler": ["--scheduler-type", NAME],
    "tiling": ["--tiling-backend", NAME, "--tiling-mode", "always"],
    # Untrained, so that it paints colourful noise.
    "architecture": ["--model", "tiny-model"],
    "format": ["--transformer", "transformer.npz"],
    "model": ["--model", NAME],
}
ALONE = Registry(builtin=[], entry_points=[])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a project of each kind, and what the command said of each."""
    folder = tmp_path_factory.mktemp("made")
    commands = [["new-plugin", kind, NAME] for kind in FOLDERS]
    told = dit360(*commands[:-1], [*commands[-1], "--output", FOLDERS["model"]], cwd=folder, without=HEAVY)
    return folder, dict(zip(FOLDERS, told, strict=True))


# One process for all of them, since imports cost seconds; each project's tests are started in its own folder.
RUN = """
import contextlib, io, json, os, runpy, sys
import pytest
from dit360_core.cli import main

def captured(run):
    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = int(run() or 0)
        except SystemExit as end:
            code = end.code or 0
    return code, out.getvalue()

asked, told = json.load(sys.stdin), {}
for kind, (folder, arguments) in asked.items():
    with contextlib.chdir(folder):
        tests = captured(lambda: pytest.main(["-q", "-rs"]))
    if kind == "architecture":
        sys.modules["tiny"].pipeline().save_pretrained("tiny-model")
    if kind == "format":
        from dit360_core.plugins import EMBEDDED_MODEL
        weights = EMBEDDED_MODEL + "/transformer/diffusion_pytorch_model.safetensors"
        sys.argv = ["python", weights, "transformer.npz"]
        runpy.run_module("format_mine_for_dit360", run_name="__main__")
    sys.argv = ["dit360", "generate", "a castle", "--width", "128", "--steps", "2", *arguments, "-o", kind + ".png"]
    picture = captured(main)
    sys.argv = ["dit360", "inspect", kind + ".png", "--json"]
    told[kind] = {"tests": tests, "picture": picture, "inspect": captured(main)}
json.dump(told, sys.stdout)
"""


@pytest.fixture(scope="module")
def ran(made, tmp_path_factory):
    """The projects' own tests after all were installed, and a picture by each. The projects are not changed by it."""
    folder, _ = made
    before = texts(folder)
    site = install(tmp_path_factory.mktemp("site"), *FOLDERS.values(), source=folder)
    asked = {kind: (str(folder / FOLDERS[kind]), OPTIONS[kind]) for kind in FOLDERS}
    pictures = tmp_path_factory.mktemp("pictures")
    done = python(RUN, cwd=pictures, given=json.dumps(asked), PYTHONPATH=site)
    assert done.returncode == 0, done.stderr
    assert {path: text for path, text in texts(folder).items() if path in before} == before
    return json.loads(done.stdout)


def texts(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def test_there_is_a_template_for_every_kind():
    assert set(FOLDERS) == set(KINDS)


@pytest.mark.parametrize("kind", FOLDERS)
def test_the_command_makes_a_project_without_torch_and_tells_what_to_do_next(made, kind):
    folder, told = made
    assert (told[kind].code, told[kind].err) == (0, "")
    name = FOLDERS[kind]
    lines = told[kind].out.splitlines()
    assert lines[0].startswith(f"Made {name}, ")
    assert lines[1:3] == [f'  python -m pip install -e "{name}[test]"', f'  python -m pytest "{name}"']
    assert {"pyproject.toml", "README.md", "src", "tests"} == {path.name for path in (folder / name).iterdir()}


def test_nothing_else_is_left(made):
    folder, _ = made
    assert {path.name for path in folder.iterdir()} == set(FOLDERS.values())


@pytest.mark.long
@pytest.mark.parametrize("kind", FOLDERS)
def test_the_project_passes_its_own_tests_as_it_was_written(ran, kind):
    code, said = ran[kind]["tests"]
    assert code == 0, said
    assert " passed" in said
    assert "skipped" not in said


@pytest.mark.long
@pytest.mark.parametrize("kind", FOLDERS)
def test_the_plugin_makes_a_picture(ran, kind):
    code, said = ran[kind]["picture"]
    assert code == 0, said
    assert "Warning" not in said
    settings = json.loads(ran[kind]["inspect"][1])["settings"]
    if kind == "format":
        assert settings["used"]["transformer"] == "transformer.npz"
        assert list(settings["used"]["quantization"]["parts"]["transformer"]["kernels"]) == ["int8 rows"]
        return
    used = settings["used"]["model" if kind == "architecture" else kind]
    if kind == "model":
        assert used == NAME
    elif kind == "architecture":
        assert settings["requested"]["model"] == "tiny-model"
    else:
        assert (used["used"], used["distribution"]) == (NAME, FOLDERS[kind]), used


@pytest.mark.parametrize("kind", FOLDERS)
def test_its_requirement_is_met_by_this_core_and_by_no_next_major_version(made, kind):
    folder, _ = made
    about = tomllib.loads((folder / FOLDERS[kind] / "pyproject.toml").read_text(encoding="utf-8"))
    (needed,) = map(Requirement, about["project"]["dependencies"])
    assert needed.name == "dit360-core"
    assert needed.specifier.contains(installed_version("dit360-core"), prereleases=True)
    assert not needed.specifier.contains("9")
    assert "license" not in about["project"], "its author's to choose"


def test_what_is_written_is_as_ruff_writes_it(made):
    folder, _ = made
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize("name", ["class", "json", "8bit", "a.b-_c", "a-", "x" * 60])
def test_any_name_of_an_offer_makes_a_package_that_can_be_imported(kind, name):
    project = plugin_project(kind, name, ALONE)
    assert project.package.isidentifier()
    assert not keyword.iskeyword(project.package)
    assert project.package not in sys.stdlib_module_names
    assert f"src/{project.package}/__init__.py" in project.files
    assert f'name="{name}"' in project.files[f"src/{project.package}/__init__.py"]
    assert not project.distribution.startswith("dit360")
    for path, text in project.files.items():
        assert "PACKAGE" not in path + text
        assert "${" not in text, path
        if path.endswith(".py"):
            compile(text, path, "exec")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("written", [0, 3])
def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, error, written):
    write_text, files = Path.write_text, []

    def interrupted(path, *arguments, **options):
        if len(files) == written:
            raise error
        files.append(path)
        return write_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", interrupted)
    expected = Dit360Error if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left" if expected is Dit360Error else None):
        write_project(plugin_project("attention", NAME, ALONE), tmp_path / "project")
    assert len(files) == written
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled_and_one_that_was_filled_meanwhile_is_left(tmp_path):
    project = plugin_project("model", NAME, ALONE)
    (tmp_path / "empty").mkdir()
    write_project(project, tmp_path / "empty")
    other = plugin_project("attention", NAME, ALONE)
    with pytest.raises(
        Dit360Error, match=r"another program has made it meanwhile; this one is not lost, it is .*empty-2"
    ):
        write_project(other, tmp_path / "empty")
    for folder, written in (("empty", project), ("empty-2", other)):
        assert {p.relative_to(tmp_path / folder).as_posix() for p in texts(tmp_path / folder)} == set(written.files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "empty-2"]
