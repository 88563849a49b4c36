"""``dit360-comfy install``, ``uninstall`` and ``doctor``: on invented folders, and in a ComfyUI where there is one."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import tomllib
import types
from importlib import metadata
from pathlib import Path

import attrs
import pytest
from comfy_server import Server, comfyui_dir
from command_line import environment, python
from dit360_comfy import diagnosis, installing
from dit360_comfy.installing import NAME, PACK, Comfy, install, locate, look, uninstall
from dit360_core.errors import InputError


def dit360_comfy(*arguments, cwd, **environ):
    """Runs one command line of ``dit360-comfy`` in a process of its own."""
    code = f"import sys; sys.argv = ['dit360-comfy', *{[str(a) for a in arguments]!r}]\n"
    return python(code + "from dit360_comfy.cli import main; main()", cwd=cwd, COMFYUI_DIR="", **environ)


@pytest.fixture
def base(tmp_path):
    """A base directory, as ComfyUI Desktop makes one."""
    for name in ("custom_nodes", "models", "user"):
        (tmp_path / "base" / name).mkdir(parents=True)
    return tmp_path / "base"


@pytest.fixture
def comfy(base):
    return Comfy(base, None)


def checkout(folder, version="0.3.64"):
    for name in ("comfy", "custom_nodes"):
        (folder / name).mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text(f'# Generated.\n__version__ = "{version}"\n')
    return folder


@pytest.fixture
def other_pack(tmp_path, monkeypatch):
    """Lets this package have a pack of its own that a test may change."""
    pack = tmp_path / "site-packages" / "dit360_comfy" / "node_pack"
    shutil.copytree(PACK, pack, ignore=shutil.ignore_patterns("__pycache__"))
    (pack / "web").mkdir(exist_ok=True)
    (pack / "web" / "old.mjs").write_text("// helper")
    monkeypatch.setattr(installing, "PACK", pack)
    monkeypatch.setattr(diagnosis, "PACK", pack)
    return pack


def upgrade(pack, version="9.9"):
    about = pack / "pyproject.toml"
    about.write_text(about.read_text().replace(f'version = "{installing.version_of(pack)}"', f'version = "{version}"'))
    (pack / "web" / "old.mjs").unlink()
    (pack / "web" / "new.mjs").write_text("// helper")


# --------------------------------------------------------------------------------------------------- finding ComfyUI


def test_a_checkout_and_a_base_directory_are_taken_as_they_are(tmp_path, base):
    there = checkout(tmp_path / "ComfyUI")
    assert locate(there, tmp_path) == Comfy(there, there)
    assert locate(base, tmp_path) == Comfy(base, None)


def test_the_portable_folder_means_the_one_inside(tmp_path):
    there = checkout(tmp_path / "portable" / "ComfyUI")
    assert locate(tmp_path / "portable", tmp_path) == Comfy(there, there)


def test_without_a_name_the_current_folder_is_taken_if_it_is_comfyui(base, tmp_path):
    assert locate(None, base).root == base
    with pytest.raises(InputError, match=r"add --comfyui DIR or set COMFYUI_DIR\.$"):
        locate(None, tmp_path)


@pytest.mark.parametrize("missing", ["custom_nodes", "models", "user"])
def test_a_folder_with_less_is_refused_and_what_was_looked_for_is_named(base, missing):
    (base / missing).rmdir()
    with pytest.raises(
        InputError, match=r"main\.py, comfy and custom_nodes.*ComfyUI.*models and one of user and output"
    ):
        locate(base, base)


def test_a_path_from_the_current_folder_is_told_whole(base, monkeypatch):
    monkeypatch.chdir(base.parent)
    assert locate(Path("base"), Path.cwd()).place == base / "custom_nodes" / NAME


# ------------------------------------------------------------------------------------------------------------- links


def test_installing_links_the_packages_own_folder_and_twice_is_once(comfy):
    assert "Linked" in install(comfy)
    assert comfy.place.resolve() == PACK.resolve()
    assert (comfy.place / "__init__.py").is_file()
    assert "already" in install(comfy)
    assert [path.name for path in comfy.custom_nodes.iterdir()] == [NAME]


def test_uninstalling_removes_the_link_and_leaves_what_it_led_to(comfy):
    install(comfy)
    assert "Removed" in uninstall(comfy)
    assert not os.path.lexists(comfy.place)
    assert (PACK / "__init__.py").is_file()
    assert "nothing to remove" in uninstall(comfy)


@pytest.mark.parametrize("alive", [False, True])
def test_a_link_to_the_pack_of_another_environment_is_replaced(comfy, tmp_path, alive):
    there = tmp_path / "old" / "dit360_comfy" / "node_pack"
    if alive:
        shutil.copytree(PACK, there)
    comfy.place.symlink_to(there)
    assert look(comfy.place).kind == ("elsewhere" if alive else "dead")
    assert f"It was a link to {there}." in install(comfy)
    assert look(comfy.place).kind == "link"
    assert there.exists() == alive


def foreign_link(place):
    place.symlink_to(place.parent.parent / "somebodys")


def foreign_file(place):
    place.write_text("notes")


def foreign_folder(place):
    place.mkdir()
    (place / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}")


def from_the_registry(place):
    shutil.copytree(PACK, place)


def claims_files_outside(place):
    shutil.copytree(PACK, place)
    (place / installing.RECORD).write_text('{"files": {"../../models/x": ""}}')


@pytest.mark.parametrize("put", [foreign_link, foreign_file, foreign_folder, from_the_registry, claims_files_outside])
def test_what_others_put_there_is_never_touched(comfy, put):
    put(comfy.place)
    before = snapshot(comfy.root)
    for change in (install, uninstall, lambda at: install(at, copy=True)):
        with pytest.raises(InputError, match=r"dit360-comfy is a .+\.$"):
            change(comfy)
    assert snapshot(comfy.root) == before


def snapshot(folder):
    paths = sorted(folder.rglob("*"))
    return [(p, p.lstat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in paths]


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EROFS, "Cannot write in .*custom_nodes: .*Read-only"), (errno.EPERM, "add --copy to copy the nodes")],
)
def test_a_file_system_that_refuses_is_one_sentence(comfy, monkeypatch, number, words):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(InputError, match=words):
        install(comfy)
    assert not list(comfy.custom_nodes.iterdir())


def test_windows_without_the_privilege_for_links_gets_a_junction(comfy, monkeypatch):
    made = []

    def refuse(*_, **__):
        error = OSError(errno.EINVAL, "A required privilege is not held by the client")
        error.winerror = 1314
        raise error

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setitem(
        sys.modules, "_winapi", types.SimpleNamespace(CreateJunction=lambda source, at: made.append((source, at)))
    )
    install(comfy)
    assert made == [(str(PACK), str(comfy.place))]


def test_a_junction_is_seen_as_a_link(comfy, monkeypatch):
    """On Windows a junction is no symbolic link to Python 3.11; its reparse tag tells."""
    plain = os.lstat
    install(comfy)

    def lstat(path, **options):
        status = plain(path, **options)
        if Path(path) != comfy.place:
            return status
        return types.SimpleNamespace(st_mode=stat.S_IFDIR | 0o755, st_reparse_tag=0xA0000003)

    monkeypatch.setattr(os, "lstat", lstat)
    assert look(comfy.place).kind == "link"
    uninstall(comfy)
    assert (PACK / "__init__.py").is_file()


# ------------------------------------------------------------------------------------------------------------ copies


def test_a_copy_has_the_packs_files_and_says_that_upgrades_need_another(comfy):
    assert "After an upgrade of dit360-comfy, install them again" in install(comfy, copy=True)
    assert look(comfy.place).kind == "copy"
    assert installing.recorded(comfy.place) == installing._digests(PACK)
    assert "already: a copy" in install(comfy)
    assert not list(comfy.custom_nodes.glob(".dit360*"))


def test_a_copy_is_removed_whole_with_what_python_compiled(comfy):
    install(comfy, copy=True)
    (comfy.place / "__pycache__").mkdir(exist_ok=True)
    (comfy.place / "__pycache__" / "__init__.cpython-311.pyc").write_bytes(b"")
    uninstall(comfy)
    assert not list(comfy.custom_nodes.iterdir())


def test_what_a_user_added_to_a_copy_or_changed_in_it_outlives_it(comfy):
    install(comfy, copy=True)
    (comfy.place / "notes.txt").write_text("mine")
    (comfy.place / "requirements.txt").write_text("mine")
    assert uninstall(comfy).endswith("notes.txt, requirements.txt.")
    assert sorted(path.name for path in comfy.place.iterdir()) == ["notes.txt", "requirements.txt"]


def test_a_stale_copy_is_noticed_and_brought_up_to_date_with_a_users_files_kept(comfy, other_pack):
    install(comfy, copy=True)
    (comfy.place / "notes.txt").write_text("mine")
    upgrade(other_pack)
    assert diagnosis._pack(comfy).state == "warn"
    assert f"from version {metadata.version(NAME)} to 9.9" in install(comfy)
    assert not installing.is_stale(comfy.place)
    assert (comfy.place / "notes.txt").exists()
    assert not (comfy.place / "web" / "old.mjs").exists()


@pytest.mark.parametrize("name", ["web/old.mjs", "web/new.mjs"])
def test_an_update_never_overwrites_what_a_user_changed_or_added(comfy, other_pack, name):
    install(comfy, copy=True)
    (comfy.place / name).write_text("// mine")
    upgrade(other_pack)
    before = snapshot(comfy.place)
    with pytest.raises(InputError, match=f"Somebody changed or added {name} in"):
        install(comfy)
    assert snapshot(comfy.place) == before


def test_an_update_that_was_cut_off_is_taken_up_again(comfy, other_pack):
    install(comfy, copy=True)
    upgrade(other_pack)
    shutil.copyfile(other_pack / "pyproject.toml", comfy.place / "pyproject.toml")
    install(comfy)
    assert installing.recorded(comfy.place) == installing._digests(other_pack)


def test_a_copy_that_is_cut_off_leaves_nothing(comfy, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(InputError, match="No space left"):
        install(comfy, copy=True)
    assert not list(comfy.custom_nodes.iterdir())


# ----------------------------------------------------------------------------------------------------- what is around


def test_a_comfyui_that_is_too_old_is_refused_and_nothing_is_put_there(tmp_path):
    from dit360_comfy.cli import app
    from typer.testing import CliRunner

    folder = checkout(tmp_path / "ComfyUI", version="0.3.63")
    done = CliRunner().invoke(app, ["install", "--comfyui", str(folder)])
    assert done.exit_code == 2
    assert "too old for these nodes; update it to 0.3.64 or newer" in " ".join(done.output.split())
    assert not list((folder / "custom_nodes").iterdir())


def test_a_second_pack_and_a_clone_of_the_project_are_told(comfy):
    shutil.copytree(PACK, comfy.custom_nodes / "my-copy")
    (comfy.custom_nodes / "shim").mkdir()
    (comfy.custom_nodes / "shim" / "__init__.py").write_text("from dit360_comfy.nodes import *")
    shutil.copytree(PACK, comfy.custom_nodes / "old.disabled")
    (comfy.custom_nodes / "dit360" / NAME).mkdir(parents=True)
    shutil.copy(PACK / "pyproject.toml", comfy.custom_nodes / "dit360" / NAME)
    (comfy.custom_nodes / "unrelated").mkdir()
    clone, copied, shim = installing.others(comfy)
    assert "loaded twice" in copied
    assert "my-copy" in copied
    assert "shim" in shim
    assert "clone of the whole project" in clone


def environment_in(prefix, inside="bin/python", *, pip=True):
    (prefix / inside).parent.mkdir(parents=True)
    (prefix / inside).touch()
    site = prefix / ("Lib" if inside.endswith(".exe") else "lib/python3.12") / "site-packages"
    (site / "pip").mkdir(parents=True) if pip else site.mkdir(parents=True)
    return prefix / inside, site


def test_where_comfyui_has_a_python_of_its_own_the_command_for_it_is_told(comfy):
    mine, _ = environment_in(comfy.root / ".venv")
    check = diagnosis.interpreter(comfy)
    assert check.state == "warn"
    assert check.todo.endswith(f"{mine} -m pip install dit360-comfy")


def test_an_environment_without_pip_gets_uvs_command(comfy):
    mine, _ = environment_in(comfy.root / ".venv", pip=False)
    assert f"uv pip install --python {mine} dit360-comfy" in diagnosis.interpreter(comfy).todo


def test_the_portable_python_is_found(tmp_path):
    there = checkout(tmp_path / "ComfyUI")
    mine, site = environment_in(tmp_path / "python_embeded", "python.exe")
    assert str(mine) in diagnosis.interpreter(Comfy(there, there)).todo
    (site / "dit360_comfy-0.1.0.dist-info").mkdir()
    todo = diagnosis.interpreter(Comfy(there, there)).todo
    assert str(tmp_path / "python_embeded" / "Scripts" / "dit360-comfy.exe") in todo


def test_comfyuis_own_python_is_recognised(comfy, monkeypatch):
    environment_in(comfy.root / "venv")
    monkeypatch.setattr(sys, "prefix", str(comfy.root / "venv"))
    assert diagnosis.interpreter(comfy).state == "ok"


@pytest.mark.parametrize(
    ("version", "state"), [("0.3.63", "fail"), ("0.3.64", "ok"), ("0.33.0", "ok"), ("what", "warn")]
)
def test_comfyuis_version_is_read_and_compared(tmp_path, version, state):
    there = checkout(tmp_path / "ComfyUI", version)
    assert diagnosis._comfyui(Comfy(there, there)).state == state


def test_a_torch_that_is_too_old_is_told_with_what_is_needed(monkeypatch):
    monkeypatch.setattr(diagnosis, "installed_version", lambda name: "2.5.1+cu121")
    check = diagnosis._requirement("torch")
    assert check.state == "fail"
    assert check.told == "2.5.1+cu121, but torch>=2.6 is needed"
    monkeypatch.setattr(diagnosis, "installed_version", lambda name: "2.9.0.dev20250901+cu130")
    assert diagnosis._requirement("torch").state == "ok"


def test_nodes_that_cannot_be_imported_are_told_in_one_line(monkeypatch):
    bad = subprocess.CompletedProcess([], 1, "", "Traceback …\n  File …\nImportError: no such thing\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: bad)
    check = diagnosis._nodes()
    assert (check.state, check.told) == ("fail", "dit360_comfy.nodes: ImportError: no such thing")


@pytest.mark.parametrize(
    ("put", "state"),
    [(foreign_folder, "fail"), (foreign_link, "fail"), (from_the_registry, "ok"), (lambda place: None, "fail")],
)
def test_the_doctor_says_what_has_the_packs_place(comfy, put, state):
    put(comfy.place)
    assert diagnosis._pack(comfy).state == state


# -------------------------------------------------------------------------------------------------- the command line


@pytest.mark.long
def test_the_command_line_installs_examines_and_uninstalls(base):
    done = dit360_comfy("install", "--comfyui", base, cwd=base)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 3
    assert "Restart ComfyUI" in done.stdout

    done = dit360_comfy("doctor", "--json", cwd=base)
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ok"] else 1)
    assert report["comfyui"] == str(base)
    states = {check["name"]: check["state"] for check in report["checks"]}
    assert states.items() >= dict.fromkeys(("ComfyUI", "nodes", "Python", "torch", "import", "backends"), "ok").items()
    assert set(report["checks"][0]) == {field.name for field in attrs.fields(diagnosis.Check)}

    assert dit360_comfy("uninstall", cwd=base).returncode == 0
    done = dit360_comfy("doctor", cwd=base)
    assert done.returncode == 1
    assert f"→ run 'dit360-comfy install --comfyui {base}'" in done.stdout


def test_a_folder_that_is_no_comfyui_is_one_sentence_and_exit_code_2(tmp_path):
    for command in ("install", "uninstall", "doctor"):
        done = dit360_comfy(command, "--comfyui", tmp_path, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"Error: {tmp_path} is no ComfyUI")
        assert done.stderr.count("\n") == 1


def test_the_environment_names_comfyui_where_the_command_line_does_not(base, tmp_path):
    code = "import sys; sys.argv = ['dit360-comfy', 'install']\nfrom dit360_comfy.cli import main; main()"
    done = python(code, cwd=tmp_path, fresh=True, COMFYUI_DIR=base)
    assert done.returncode == 0, done.stderr
    assert (base / "custom_nodes" / NAME).is_symlink()


def test_help_is_immediate_and_imports_nothing_heavy(tmp_path):
    code = """
import sys
sys.argv = ["dit360-comfy", "--help"]
from dit360_comfy.cli import main
try:
    main()
finally:
    heavy = {"torch", "numpy", "PIL", "diffusers", "transformers", "dit360_comfy.nodes"} & set(sys.modules)
    print(len(sys.modules), *heavy, file=sys.stderr)
"""
    done = python(code, cwd=tmp_path, fresh=True)
    assert done.returncode == 0, done.stderr
    modules, *heavy = done.stderr.split()
    assert heavy == []
    assert int(modules) < 1000  # some 400; torch alone brings more than a thousand


# ---------------------------------------------------------------------------------------------- the registry's metadata


def test_the_packs_metadata_agrees_with_the_package():
    with (PACK / "pyproject.toml").open("rb") as file:
        about = tomllib.load(file)
    package = metadata.metadata(NAME)
    project, comfy = about["project"], about["tool"]["comfy"]
    assert project["name"] == NAME
    assert project["version"] == package["Version"]
    assert project["requires-python"] == package["Requires-Python"]
    assert project["license"]["text"] == package["License-Expression"]
    assert project["dependencies"] == (PACK / "requirements.txt").read_text().split() == [NAME]
    assert comfy["requires-comfyui"] == f">={diagnosis.OLDEST_COMFYUI}"
    assert "web" not in comfy  # WEB_DIRECTORY says it; scripts would be loaded twice
    assert "WEB_DIRECTORY" in (PACK / "__init__.py").read_text()


# -------------------------------------------------------------------------------------------------------- in ComfyUI


@pytest.mark.comfyui
@pytest.mark.parametrize("options", [[], ["--copy"]], ids=["link", "copy"])
def test_comfyui_has_the_nodes_and_each_script_once_and_none_after_uninstalling(base, options):
    comfyui_dir()
    assert dit360_comfy("install", *options, cwd=base).returncode == 0
    with Server(base) as server:
        ours = nodes_of(server)
        scripts = [path for path in server.get("/extensions").body if f"/{NAME}/" in path]
        statuses = [server.get(path).status for path in scripts]
        log = server.log()
    assert ours == ids()
    assert "(IMPORT FAILED)" not in log  # so it is told of a folder in custom_nodes
    assert "Unable to parse pyproject.toml" not in log
    on_disk = (path.relative_to(PACK / "web").as_posix() for path in (PACK / "web").rglob("*.js"))
    assert sorted(scripts) == sorted(f"/extensions/{NAME}/{path}" for path in on_disk)
    assert set(statuses) <= {200}

    assert dit360_comfy("uninstall", cwd=base).returncode == 0
    assert not list((base / "custom_nodes").iterdir())
    with Server(base) as server:
        assert nodes_of(server) == set()


def nodes_of(server):
    """The nodes that came from our folder."""
    every = server.get("/object_info").body
    return {name for name, about in every.items() if about["python_module"] == f"custom_nodes.{NAME}"}


def ids():
    code = "import json, dit360_comfy.nodes as n; print(json.dumps(sorted(n.NODE_CLASS_MAPPINGS)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    return set(json.loads(done.stdout))
