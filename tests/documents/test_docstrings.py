"""A docstring has a line for each argument, not all of them in one run."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(folder for folder in ROOT.glob("dit360-*/src/*") if (folder / "__init__.py").exists())


def arguments(node):
    """Names of a function's arguments, or of a class's fields and those of its constructor."""
    if isinstance(node, ast.ClassDef):
        fields = [
            each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and hasattr(each.target, "id")
        ]
        inits = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
        return {*fields, *(name for init in inits for name in arguments(init))}
    of = node.args
    return {each.arg for each in [*of.posonlyargs, *of.args, *of.kwonlyargs, of.vararg, of.kwarg] if each} - {"self"}


def run_on(text):
    """``(where, name)`` of arguments that are described behind another sentence on the same line."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and (names := arguments(node)):
            told = re.compile(rf"[.!?] ({'|'.join(map(re.escape, sorted(names)))}): ")
            for line in (ast.get_docstring(node) or "").splitlines():
                if found := told.search(line):
                    yield node.lineno, found[1]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda folder: folder.name)
def test_each_argument_has_a_line_of_its_own(package):
    files = [file for file in sorted(package.rglob("*.py")) if "templates" not in file.parts]
    assert files
    found = {
        f"{file.relative_to(ROOT)}:{line} {name}" for file in files for line, name in run_on(file.read_text("utf-8"))
    }
    assert found == set()


def test_one_that_runs_on_is_found():
    text = 'def f(width, height):\n    """Makes it. width: in pixels.\n\n    height: too. width: again.\n    """\n'
    assert list(run_on(text)) == [(1, "width"), (1, "width")]
    assert not list(run_on('def f(width):\n    """Makes it.\n\n    width: in pixels. As wide as high: 1.\n    """\n'))
