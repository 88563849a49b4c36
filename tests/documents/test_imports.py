"""Whatever the repository imports of our own packages is there: benches and tests that few run, too."""

import ast
import functools
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {folder.name: folder for folder in ROOT.glob("dit360-*/src/*") if (folder / "__init__.py").exists()}


def sources():
    listed = subprocess.run(["git", "ls-files", "-z", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    return sorted(ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file())


def file_of(module):
    first, *rest = module.split(".")
    place = PACKAGES[first].joinpath(*rest)
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


@functools.cache
def names_in(file):
    """What a module defines or imports, at any depth but inside functions and classes; ``*``: it makes names itself."""
    waiting, found = list(ast.parse(file.read_text("utf-8")).body), set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add("*" if node.name == "__getattr__" else node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        else:
            found |= {
                each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
            }
            waiting += [each for each in ast.iter_child_nodes(node) if isinstance(each, ast.stmt)]
    return found


def missing(source):
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        if not isinstance(node, ast.ImportFrom) or node.level or (node.module or "").partition(".")[0] not in PACKAGES:
            continue
        file = file_of(node.module)
        names = set() if file is None else names_in(file)
        for alias in node.names:
            if "*" not in names and alias.name not in names and file_of(f"{node.module}.{alias.name}") is None:
                yield f"{source.name}:{node.lineno} {node.module}.{alias.name}"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the files of the repository are listed by git")
def test_every_name_that_is_imported_of_our_packages_is_there():
    files = sources()
    assert len(files) > 300
    assert [told for file in files for told in missing(file)] == []


def test_one_that_is_not_there_is_found(tmp_path):
    source = tmp_path / "some.py"
    source.write_text("from dit360_core.plugins import Attend, Nothing\nfrom dit360_core.gone import x\nimport os\n")
    assert list(missing(source)) == ["some.py:1 dit360_core.plugins.Nothing", "some.py:2 dit360_core.gone.x"]
    source.write_text("from dit360_core import Pipeline\nfrom dit360_core.sphere import grid\n")
    assert list(missing(source)) == []
